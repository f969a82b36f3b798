//! What a job's root is made of.

use super::etc::{self, Identity};
use super::{Case, Person, Source};
use crate::host::distribution::{Distribution, TopEntry};
use crate::policy::spec::{Device, Fixture, Mount, MountAttributes, MountSource};
use crate::policy::text::CText;
use crate::problem::{Problem, Problems};

/// What tells of the node or of other jobs and no program needs.
pub(super) const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/buddyinfo",
    "/proc/bus",
    "/proc/cgroups",
    "/proc/cmdline",
    "/proc/consoles",
    "/proc/dynamic_debug",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/irq",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/locks",
    "/proc/mdstat",
    "/proc/modules",
    "/proc/mtrr",
    "/proc/pagetypeinfo",
    "/proc/partitions",
    "/proc/sched_debug",
    "/proc/schedstat",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/softirqs",
    "/proc/sys/fs/aio-nr",
    "/proc/sys/fs/dentry-state",
    "/proc/sys/fs/file-nr",
    "/proc/sys/fs/inode-nr",
    "/proc/sys/fs/inode-state",
    "/proc/sys/kernel/pty/nr",
    "/proc/sys/kernel/random/entropy_avail",
    "/proc/sys/kernel/tainted",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/tty",
    "/proc/vmallocinfo",
    "/proc/zoneinfo",
];

pub(super) const READONLY: &[&str] = &["/proc/sys", "/proc/sysrq-trigger"];

/// Directories that are the environment's own; what the node has there is
/// not seen, so nothing of the caller's is looked for in them.
const PRIVATE: &[&str] = &["/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/run", "/dev/shm"];

/// Directories that the root has anyway.
const SYSTEM: &[&str] = &[
    "/", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/var", "/home", "/root",
    "/mnt", "/media", "/srv", "/boot",
];

pub(super) fn fixtures(case: &Case<'_>, problems: &mut Problems) -> Vec<Fixture> {
    let mut all = Vec::with_capacity(48);
    match case.source {
        Source::Host(distribution) => {
            host_system(case, distribution, &mut all);
            all.extend(own_directories());
        }
        // What is the environment's own lies over the image (`over_image`).
        Source::Bundle { .. } => {}
    }
    kernel_views(case, &mut all);
    own_views(case, &mut all);
    brought_in(case, &mut all);
    for bind in &case.request.binds {
        match bind_of(&bind.source, &bind.destination, bind.readonly) {
            Ok(fixture) => all.push(fixture),
            Err(problem) => problems.push(problem),
        }
    }
    let boot = Identity::of(&case.seed).boot;
    all.push(cover("/proc/sys/kernel/random/boot_id", boot.into_bytes()));
    all
}

fn directory(path: &str, mode: u32) -> Fixture {
    Fixture::Directory { path: CText::lossy(path), mode }
}

fn cover(path: &str, contents: Vec<u8>) -> Fixture {
    Fixture::Cover { path: CText::lossy(path), contents }
}

/// A bind with everything below; never a gain of privilege by what is there.
fn bind(source: &str, destination: &str, readonly: bool, optional: bool) -> Fixture {
    let mut set = libc::MOUNT_ATTR_NOSUID;
    if readonly {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    if !source.starts_with("/dev/") {
        set |= libc::MOUNT_ATTR_NODEV;
    }
    Fixture::Mount(Mount {
        destination: CText::lossy(destination),
        source: MountSource::Bind { path: CText::lossy(source), recursive: true },
        attributes: MountAttributes { set_recursive: set, ..MountAttributes::default() },
        propagation: Vec::new(),
        optional,
        id_map: None,
        label: None,
    })
}

fn new(fstype: &str, destination: &str, flags: u64, data: &str) -> Fixture {
    Fixture::Mount(Mount {
        destination: CText::lossy(destination),
        source: MountSource::New {
            fstype: CText::lossy(fstype),
            source: CText::lossy(fstype),
            flags,
            data: CText::lossy(data),
            copy_up: false,
        },
        attributes: MountAttributes::default(),
        propagation: Vec::new(),
        optional: false,
        id_map: None,
        label: None,
    })
}

/// The node's distribution: its programs read-only, its configuration as far
/// as it says nothing of the node, and directories as after an installation.
fn host_system(case: &Case<'_>, distribution: &Distribution, all: &mut Vec<Fixture>) {
    for entry in &distribution.top {
        all.push(match entry {
            TopEntry::Link { name, target } => Fixture::Symlink {
                path: CText::lossy(format!("/{name}")),
                target: CText::lossy(target.as_str()),
            },
            TopEntry::Directory { name } => {
                let path = format!("/{name}");
                bind(&path, &path, true, false)
            }
        });
    }
    if distribution.has_opt {
        all.push(bind("/opt", "/opt", true, true));
    }
    for path in [
        "/boot",
        "/home",
        "/media",
        "/mnt",
        "/srv",
        "/var",
        "/var/cache",
        "/var/lib",
        "/var/log",
        "/var/spool",
    ] {
        all.push(directory(path, 0o755));
    }
    all.push(directory("/root", 0o700));
    let links =
        [("/var/run", "/run"), ("/var/lock", "/run/lock"), ("/etc/mtab", "../proc/self/mounts")];
    all.push(Fixture::Layered {
        path: CText::lossy("/etc"),
        lower: CText::lossy("/etc"),
        hide: hidden_of_etc(case, distribution),
        files: etc::files(case),
    });
    all.extend(links.map(|(path, target)| Fixture::Symlink {
        path: CText::lossy(path),
        target: CText::lossy(target),
    }));
}

/// What the job binds at its own place there (a prolog: Slurm's directory) is no secret
/// from it, and is the directory to bind on: before Linux 6.6 none can be made where a
/// whiteout in memory is (kernel-features.md, "user attributes on tmpfs").
fn hidden_of_etc(case: &Case<'_>, distribution: &Distribution) -> Vec<CText> {
    let mut names = etc::hidden(&distribution.etc, &distribution.etc_private);
    let bound = |name: &CText| {
        let path = format!("/etc/{name}");
        case.request.binds.iter().any(|b| b.source == path && b.destination == path)
    };
    names.retain(|name| !bound(name));
    names
}

/// An image has all that; only who and where one is comes on top, and empty
/// directories where the image may have files.
pub(super) fn over_image(case: &Case<'_>) -> Vec<Fixture> {
    let files = etc::files(case).into_iter().map(|file| Fixture::File {
        path: CText::lossy(format!("/etc/{}", file.name)),
        contents: file.contents,
        mode: file.mode,
    });
    files.chain(own_directories()).collect()
}

/// /proc, /sys and /dev.
fn kernel_views(case: &Case<'_>, all: &mut Vec<Fixture>) {
    let plain = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    all.push(new("proc", "/proc", plain, ""));
    // An allow-list in place of sysfs: the topology that hwloc and OpenMP
    // read, and the network's where the network is the node's.
    all.push(new("tmpfs", "/sys", plain, "mode=755,size=64k"));
    // Beside these, transparent_hugepage counts what the whole node does.
    let mut shown = vec![
        "/sys/kernel/mm/hugepages",
        "/sys/kernel/mm/transparent_hugepage/defrag",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
    ];
    if !case.views {
        shown.push("/sys/devices/system");
    }
    if !case.request.network_none {
        shown.extend([
            "/sys/class/net",
            "/sys/devices/virtual/net",
            "/sys/class/infiniband",
            "/sys/class/infiniband_verbs",
        ]);
    }
    all.extend(shown.into_iter().map(|path| bind(path, path, true, true)));
    all.push(if case.makes_devices() {
        let owner = (case.person.uid, case.person.gid);
        Fixture::Devices { path: CText::lossy("/dev"), devices: devices(), owner }
    } else {
        new("tmpfs", "/dev", libc::MS_NOSUID | libc::MS_NOEXEC, "mode=755,size=64k")
    });
    all.push(new(
        "devpts",
        "/dev/pts",
        libc::MS_NOSUID | libc::MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620",
    ));
    // MPI ranks talk through it: as much as the job may use at all.
    let shm = case.request.shm_size.unwrap_or(case.memory());
    let data = format!("mode=1777,size={shm}");
    all.push(new("tmpfs", "/dev/shm", libc::MS_NOSUID | libc::MS_NODEV, &data));
    all.push(new("mqueue", "/dev/mqueue", plain, ""));
}

/// What the kernel says of the whole machine, said of the job instead.
///
/// Without FUSE, what tells most of neighbours says nothing; the sizes are
/// the node's.
fn own_views(case: &Case<'_>, all: &mut Vec<Fixture>) {
    let Person { uid, gid, .. } = *case.person;
    if !case.views {
        let stalls = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n\
                      full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        for what in ["cpu", "io", "memory"] {
            all.push(cover(&format!("/proc/pressure/{what}"), stalls.into()));
        }
        all.push(cover("/proc/loadavg", "0.00 0.00 0.00 1/1 1\n".into()));
        for path in ["/proc/diskstats", "/proc/swaps", "/proc/vmstat"] {
            all.push(cover(path, Vec::new()));
        }
        return;
    }
    all.push(Fixture::Views { uid, gid });
    let view = |path: &str, name: &str| Fixture::View {
        path: CText::lossy(path),
        name: CText::lossy(name),
    };
    for name in [
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "pressure",
        "stat",
        "swaps",
        "uptime",
        "vmstat",
    ] {
        all.push(view(&format!("/proc/{name}"), name));
    }
    all.push(directory("/sys/devices/system", 0o755));
    all.push(view("/sys/devices/system", "system"));
}

/// Directories of the job's own.
fn own_directories() -> [Fixture; 4] {
    [
        directory("/tmp", 0o1777),
        directory("/var/tmp", 0o1777),
        directory("/run", 0o755),
        directory("/run/lock", 0o1777),
    ]
}

/// What of the caller's is brought in: home, working directory, an MPI
/// launcher's files.
fn brought_in(case: &Case<'_>, all: &mut Vec<Fixture>) {
    let mut brought: Vec<String> = Vec::new();
    if let Some(home) = case.person.home.as_ref().filter(|_| !case.request.no_home) {
        let home = home.display().to_string();
        // Of accounts such as daemon: it would be writable over what is read-only.
        let systems = ["/usr", "/etc", "/proc", "/sys", "/dev"].iter().any(|d| below(&home, d));
        if home == "/root" || !(systems || SYSTEM.contains(&home.as_str()) || private(&home)) {
            all.push(bind(&home, &home, false, true));
            brought.push(home);
        }
    }
    for path in case.launcher {
        all.push(bind(path, path, false, true));
        brought.push(path.clone());
    }
    let left_out = |dir: &str| {
        case.request.no_home && case.person.home.as_ref().is_some_and(|h| h.as_os_str() == dir)
    };
    if let Some(cwd) = case.cwd
        && !seen(cwd, &brought)
        && !left_out(cwd)
    {
        all.push(bind(cwd, cwd, false, true));
    }
}

fn private(path: &str) -> bool {
    PRIVATE.contains(&path)
}

fn below(path: &str, parent: &str) -> bool {
    path == parent
        || path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/') || parent == "/")
}

/// Whether the working directory is inside anyway, or means the
/// environment's own.
fn seen(cwd: &str, brought: &[String]) -> bool {
    let system =
        ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/proc", "/sys", "/dev"];
    SYSTEM.contains(&cwd)
        || private(cwd)
        || system.iter().any(|dir| below(cwd, dir))
        || brought.iter().any(|dir| below(cwd, dir))
}

fn bind_of(source: &str, destination: &str, readonly: bool) -> Result<Fixture, Problem> {
    let wrong = |what: &str| {
        Problem::user(format!("--bind {source}:{destination}: {what}"))
            .hint("write SRC[:DST[:ro]] with absolute paths")
    };
    if !source.starts_with('/') || !destination.starts_with('/') {
        return Err(wrong("a path is not absolute"));
    }
    if destination.split('/').any(|part| part == "..") {
        return Err(wrong("the destination climbs out with .."));
    }
    if destination.trim_matches('/').is_empty() {
        return Err(wrong("the destination is the root itself"));
    }
    // Its first process goes by what is there.
    let mut parts = destination.split('/').filter(|part| !matches!(*part, "" | "."));
    if parts.next() == Some("proc") {
        match parts.next() {
            None => return Err(wrong("/proc is the environment's own")),
            Some(name) if is_a_process(name) => {
                return Err(wrong("processes of /proc are the environment's own"));
            }
            Some(_) => {}
        }
    }
    Ok(bind(source, destination, readonly, false))
}

fn is_a_process(name: &str) -> bool {
    matches!(name, "self" | "thread-self") || name.bytes().all(|b| b.is_ascii_digit())
}

/// The devices that every environment has (runtime-spec, "Default Devices").
pub(super) fn devices() -> Vec<Device> {
    [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ]
    .into_iter()
    .map(|(name, major, minor)| Device {
        path: CText::lossy(format!("/dev/{name}")),
        kind: libc::S_IFCHR,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    })
    .collect()
}
