//! What there is on the node beyond its installation: everything that a job,
//! or whoever else, can leave behind. Read only; what of it is residue is
//! decided in `policy::freshness`.

mod amounts;
mod devices;
mod files;
mod gpu;
mod groups;
mod ipc;
mod processes;
mod settings;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use amounts::{Amounts, Clock};
pub use ipc::{keys, system_v};
pub use processes::{boot_time, owner as process_owner};
pub use settings::file as setting_file;

/// Kinds of what can be on a node; their names are those of the site's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A process that is not the kernel's.
    Process,
    /// A mount in the node's own mount namespace.
    Mount,
    /// A mount or connection of fuse(4).
    Fuse,
    /// A control group (cgroups(7)).
    Cgroup,
    /// System V objects (sysvipc(7)).
    SysvShm,
    SysvSem,
    SysvMsg,
    /// A POSIX message queue (mq_overview(7)).
    Mqueue,
    /// A file, of whatever type, in /tmp or /var/tmp, or in a directory that
    /// the site names.
    Tmp,
    /// A file in /dev/shm, /dev/hugepages (shm_overview(7)).
    Shm,
    /// A file in /run/user or /run/lock.
    Run,
    /// A crontab, an at job, a user that systemd keeps alive.
    Spool,
    /// A core dump.
    Core,
    /// A pinned object in /sys/fs/bpf.
    Bpf,
    /// What denovo itself keeps for a user between jobs.
    Cache,
    /// Keys that count for a user (keyrings(7)).
    Keyring,
    /// A loop device with a file behind it (loop(4)).
    Loop,
    /// A device of the device mapper.
    DeviceMapper,
    Swap,
    /// A socket that waits for others: listening, or bound without a peer.
    Socket,
    /// A network interface.
    Interface,
    /// A module of the kernel.
    Module,
    /// A process on a GPU, or memory in use there.
    Gpu,
    /// A value of the kernel's: sysctl(8), huge pages, frequencies.
    Setting,
    Memory,
    PageCache,
    Fragmentation,
    Clock,
    /// Errors that the hardware has counted.
    Hardware,
    /// Another kernel than the baseline's.
    Kernel,
    /// There is no baseline to compare with.
    Baseline,
    /// A directory with more in it than was looked at.
    Unseen,
}

impl Kind {
    /// As the site's file has it.
    pub fn name(self) -> String {
        let text = serde_json::to_string(&self).unwrap_or_default();
        text.trim_matches('"').to_owned()
    }
}

/// How something is reached again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handle {
    None,
    /// By pid and start time, field 22 of /proc/PID/stat.
    Process {
        pid: i32,
        started: u64,
    },
    /// By the id of its kind of object.
    SystemV {
        id: i32,
    },
    Queue {
        name: std::ffi::OsString,
    },
    File {
        path: PathBuf,
        device: u64,
        inode: u64,
    },
    Keys {
        uid: u32,
    },
    Mount {
        point: PathBuf,
    },
    /// Number below /sys/fs/fuse/connections.
    Connection {
        number: u32,
    },
    /// Number of the loop device.
    Loop {
        number: u32,
    },
    /// Its directory in each hierarchy.
    Groups {
        directories: Vec<PathBuf>,
    },
    /// What a file of the kernel's has to hold again.
    Setting {
        file: PathBuf,
        value: String,
    },
}

/// One thing that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    pub kind: Kind,
    /// What stays the same from one boot to the next.
    pub key: String,
    /// For people.
    pub what: String,
    /// The uid that it belongs to, if to any.
    pub owner: Option<u32>,
    /// Seconds since 1970 when it was made, as far as the kernel tells.
    pub made: Option<u64>,
    /// The job that its control group is of.
    pub job: Option<String>,
    pub handle: Handle,
}

/// What to read, and how far.
pub struct Scope<'a> {
    /// Whether something is expected: directories are looked into then.
    pub known: &'a dyn Fn(Kind, &str) -> bool,
    /// Whether files that are expected are wanted too: there can be many, and
    /// only a baseline has a use for them.
    pub all: bool,
    /// Whether a uid is one of those that jobs run as.
    pub is_user: &'a dyn Fn(u32) -> bool,
    /// Further directories that everybody can write.
    pub directories: &'a [PathBuf],
    /// Where a file system of type mqueue can be read.
    pub queues: Option<PathBuf>,
    /// Where one of type fusectl can be read.
    pub connections: Option<PathBuf>,
    /// The kernel's clock, which takes a system call to read.
    pub clock: Option<Clock>,
}

/// Everything that was found.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    /// Seconds since 1970.
    pub at: u64,
    pub kernel: String,
    pub boot_id: String,
    pub things: Vec<Thing>,
    /// Values by name: `vm.swappiness`, or a path below /sys.
    pub settings: BTreeMap<String, String>,
    pub amounts: Amounts,
}

impl NodeState {
    /// Reads it, in some 50 ms on a node with 1,000 processes. What cannot be
    /// read (by a user, or on a kernel without it) is not there.
    pub fn read(scope: &Scope<'_>) -> Self {
        let mut things = processes::read();
        let mounts = crate::host::text_of("/proc/self/mountinfo".as_ref()).unwrap_or_default();
        things.extend(devices::mounts(&mounts));
        things.extend(devices::fuse(scope.connections.as_deref(), &mounts));
        things.extend(groups::read(scope));
        things.extend(ipc::system_v());
        things.extend(scope.queues.as_deref().map_or(Vec::new(), ipc::queues));
        things.extend(ipc::keys());
        things.extend(files::read(scope));
        things.extend(devices::block());
        things.extend(devices::swaps());
        things.extend(devices::interfaces());
        things.extend(devices::modules());
        things.extend(sockets::read(scope));
        let (on_gpus, gpu_memory, gpu_errors) = gpu::read();
        things.extend(on_gpus);
        let mut amounts = amounts::read(scope.clock);
        amounts.gpu_memory = gpu_memory;
        amounts.errors.extend(gpu_errors);
        let name = nix::sys::utsname::uname();
        Self {
            at: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
            kernel: name.map_or(String::new(), |n| n.release().to_string_lossy().into_owned()),
            boot_id: line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            things,
            settings: settings::read(),
            amounts,
        }
    }

    /// Reads who has keys, and nothing else, another time.
    pub fn read_keys_again(&mut self) {
        self.things.retain(|thing| thing.kind != Kind::Keyring);
        self.things.extend(ipc::keys());
    }
}

/// The one line of a file of the kernel's, without its end.
fn line(path: impl AsRef<Path>) -> Option<String> {
    let text = crate::host::text_of(path.as_ref()).ok()?;
    Some(text.trim_end().to_owned())
}

/// A number in a file of the kernel's.
fn number(path: impl AsRef<Path>) -> Option<u64> {
    line(path)?.parse().ok()
}

/// Names in a directory, sorted; none where it cannot be read.
fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

/// A path as people read it: what is no printable ASCII is escaped.
fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    // Nearly all are plain, and to escape takes ten times as long.
    let plain = |b: &u8| matches!(b, b' '..=b'~') && !matches!(b, b'\\' | b'\'' | b'"');
    match path.to_str().filter(|_| bytes.iter().all(plain)) {
        Some(text) => text.to_owned(),
        None => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_node_is_read() {
        let state = NodeState::read(&Scope {
            known: &|_, _| true,
            all: true,
            is_user: &|uid| uid >= 1000,
            directories: &[],
            queues: None,
            connections: None,
            clock: None,
        });
        let has = |kind| state.things.iter().any(|t| t.kind == kind);
        assert!(has(Kind::Process) && has(Kind::Mount), "{:?}", state.things);
        assert!(state.settings.contains_key("vm.swappiness"));
        assert!(state.amounts.memory_total > 0);
    }

    #[test]
    fn paths_are_shown_so_that_they_are_one_line_of_ascii() {
        for (path, expected) in [
            ("/tmp/two words", "/tmp/two words"),
            ("/tmp/a\nb\u{e9}", "/tmp/a\\nb\\xc3\\xa9"),
            ("/tmp/\\'\"", "/tmp/\\\\\\'\\\""),
            ("", ""),
        ] {
            assert_eq!(shown(Path::new(path)), expected, "{path:?}");
        }
    }

    #[test]
    fn kinds_have_the_names_of_the_site_s_file() {
        assert_eq!(Kind::SysvShm.name(), "sysv-shm");
        assert_eq!(serde_json::from_str::<Kind>("\"page-cache\"").unwrap(), Kind::PageCache);
    }
}
