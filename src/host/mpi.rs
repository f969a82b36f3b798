//! What of the node an MPI job needs, as far as files and limits tell.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;

use super::user_namespace;

/// Names in /dev of what fabrics and single-copy modules of the kernel give
/// to programs: InfiniBand and RoCE verbs, Slingshot, Omni-Path, XPMEM, KNEM.
const FABRICS: [&str; 5] = ["infiniband", "cxi", "hfi1_", "xpmem", "knem"];

/// A node as MPI sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    pub namespaces: user_namespace::Settings,
    /// `kernel.yama.ptrace_scope` (kernel document LSM/Yama), if there is Yama.
    pub ptrace_scope: Option<u64>,
    /// Why process_vm_readv(2) of one's own memory fails, if it does.
    pub no_cma: Option<String>,
    /// Bytes of /dev/shm in all and free; `None`: no tmpfs is there.
    pub shm: Option<(u64, u64)>,
    /// Ports below /sys/class/infiniband and the like.
    pub adapters: Vec<String>,
    /// Devices that programs open, with whether the caller may.
    pub devices: Vec<(String, bool)>,
    /// Bytes that a process may pin (RLIMIT_MEMLOCK); `None`: any.
    pub memlock: Option<u64>,
    pub slurm: Option<Slurm>,
}

/// Slurm, as it is installed on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Slurm {
    pub plugins: PathBuf,
    /// Names of its MPI plugins, such as `pmix`.
    pub mpi: Vec<String>,
    /// Whether plugstack.conf names denovo's plugin; `None`: it is not here.
    pub spank: Option<bool>,
}

/// MPI libraries below a root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Libraries {
    /// File names, such as `libmpi.so.40.30.4`, sorted.
    pub names: Vec<String>,
}

impl Node {
    /// Reads what this node has.
    pub fn read() -> Self {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        let memlock = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
        Self {
            namespaces: user_namespace::Settings::read(),
            ptrace_scope: number("/proc/sys/kernel/yama/ptrace_scope"),
            no_cma: own_memory().err().map(|e| e.desc().to_owned()),
            shm: shm(Path::new("/dev/shm")),
            adapters: names("/sys/class/infiniband")
                .into_iter()
                .chain(names("/sys/class/cxi"))
                .collect(),
            devices: fabric_devices().into_iter().map(|path| opens(&path)).collect(),
            memlock: (memlock != nix::libc::RLIM_INFINITY).then_some(memlock),
            slurm: slurm(),
        }
    }
}

/// Paths in /dev of fabrics, directories as such.
pub fn fabric_paths() -> Vec<String> {
    let fits = |name: &String| FABRICS.iter().any(|start| name.starts_with(start));
    names("/dev").into_iter().filter(fits).map(|name| format!("/dev/{name}")).collect()
}

/// The devices themselves.
fn fabric_devices() -> Vec<String> {
    let within = |path: String| match fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => {
            // Only those that programs of users open (rdma-core, udev.md).
            let all = names(&path).into_iter();
            let used = all.filter(|n| n.starts_with("uverbs") || n == "rdma_cm");
            used.map(|name| format!("{path}/{name}")).collect()
        }
        _ => vec![path],
    };
    fabric_paths().into_iter().flat_map(within).collect()
}

fn opens(path: &str) -> (String, bool) {
    let open = fs::OpenOptions::new().read(true).write(true).open(path);
    (path.to_owned(), open.is_ok())
}

/// Names in a directory, sorted; none if it is not there.
fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    all.sort();
    all
}

fn own_memory() -> nix::Result<()> {
    use nix::sys::uio::{RemoteIoVec, process_vm_readv};
    let (from, mut to) = ([7u8; 8], [0u8; 8]);
    let remote = [RemoteIoVec { base: from.as_ptr() as usize, len: from.len() }];
    let mut local = [std::io::IoSliceMut::new(&mut to)];
    process_vm_readv(nix::unistd::getpid(), &mut local, &remote).map(drop)
}

fn shm(path: &Path) -> Option<(u64, u64)> {
    let kind = nix::sys::statfs::statfs(path).ok()?.filesystem_type();
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks * stat.fragment_size();
    (kind == nix::sys::statfs::TMPFS_MAGIC)
        .then(|| (bytes(stat.blocks()), bytes(stat.blocks_available())))
}

fn slurm() -> Option<Slurm> {
    // The second is where slurmd keeps what slurmctld gave it ("configless Slurm").
    let usual = ["/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf"].map(PathBuf::from);
    let there = || usual.iter().find(|path| path.exists()).unwrap_or(&usual[0]).clone();
    let conf = std::env::var_os("SLURM_CONF").map_or_else(there, PathBuf::from);
    let text = fs::read_to_string(&conf).unwrap_or_default();
    let named =
        setting(&text, "PluginDir").map(|dirs| dirs.split(':').map(PathBuf::from).collect());
    let usual = || {
        let lib = names("/usr/lib").into_iter();
        let debian = lib.map(|dir| format!("/usr/lib/{dir}/slurm-wlm"));
        let all = ["/usr/lib64/slurm", "/usr/lib/slurm", "/usr/local/lib/slurm"];
        debian.chain(all.map(str::to_owned)).map(PathBuf::from).collect::<Vec<_>>()
    };
    let places: Vec<PathBuf> = named.unwrap_or_else(usual);
    // Later releases have no mpi_none.so.
    let has_mpi = |dir: &PathBuf| names(dir).iter().any(|name| name.starts_with("mpi_"));
    let plugins = places.into_iter().find(has_mpi)?;
    let mpi = names(&plugins).into_iter().filter_map(|name| {
        Some(name.strip_prefix("mpi_")?.strip_suffix(".so")?.to_owned()).filter(|n| n != "none")
    });
    let stack = setting(&text, "PlugStackConfig")
        .map_or_else(|| conf.with_file_name("plugstack.conf"), PathBuf::from);
    let spank = names_plugin(&stack, INCLUDED);
    let spank = spank.or_else(|| conf.exists().then_some(false));
    Some(Slurm { mpi: mpi.collect(), plugins, spank })
}

/// How deep files of plugstack.conf(8) may include others before we give up.
const INCLUDED: usize = 4;

/// Whether a file of plugstack.conf(8), or one that it includes, names denovo's
/// plugin; none if it cannot be read.
fn names_plugin(stack: &Path, depth: usize) -> Option<bool> {
    let text = fs::read_to_string(stack).ok()?;
    let mut lines = text.lines().map(str::trim).filter(|l| !l.starts_with('#'));
    Some(lines.any(|line| {
        match line.split_once(char::is_whitespace) {
            Some(("include", pattern)) if depth > 0 => matching(stack, pattern.trim())
                .iter()
                .any(|file| names_plugin(file, depth - 1) == Some(true)),
            _ => line.contains("denovo_spank"),
        }
    }))
}

/// The files that `include PATTERN` means in `stack`: a name, or one with a `*`.
fn matching(stack: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = stack.with_file_name(pattern);
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let Some((start, end)) = name.split_once('*') else { return vec![path] };
    let fits = |name: &String| {
        name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
    };
    let dir = path.parent().unwrap_or(&path);
    names(dir).iter().filter(|name| fits(name)).map(|name| dir.join(name)).collect()
}

/// `NAME=value` of slurm.conf(5), whose names know no case.
fn setting<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split('#').next()?.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

impl Libraries {
    /// Whether this is the name of a library that tells which MPI there is.
    pub fn tells(name: &str) -> bool {
        ["libmpi.so.", "libmpich.so.", "libpmix.so.", "libpmi2.so.", "libprrte.so."]
            .iter()
            .any(|start| name.starts_with(start))
    }

    pub fn of(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<String> = names.into_iter().filter(|n| Self::tells(n)).collect();
        names.sort();
        names.dedup();
        Self { names }
    }

    /// Those in the usual directories of a root, two below at most.
    pub fn below(root: &Path) -> Self {
        let mut found = Vec::new();
        for top in ["lib", "lib64", "usr/lib", "usr/lib64", "usr/local/lib", "opt"] {
            let mut level = vec![root.join(top)];
            for _ in 0..3 {
                let mut next = Vec::new();
                for dir in level {
                    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                        let kind = entry.file_type();
                        let name = entry.file_name().to_string_lossy().into_owned();
                        // Links lead out of an image's root, or to what is seen anyway.
                        if kind.is_ok_and(|k| k.is_dir()) {
                            next.push(entry.path());
                        } else {
                            found.push(name);
                        }
                    }
                }
                level = next;
            }
        }
        Self::of(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_where_they_are_installed() {
        let root = tempfile::tempdir().unwrap();
        for path in ["usr/lib/x86_64-linux-gnu", "opt/openmpi/lib", "usr/share"] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        for file in [
            "usr/lib/x86_64-linux-gnu/libmpich.so.12.1.14",
            "opt/openmpi/lib/libmpi.so.40.1",
            "usr/share/libmpi.so.1",
        ] {
            fs::write(root.path().join(file), "").unwrap();
        }
        let found = Libraries::below(root.path());
        assert_eq!(found.names, ["libmpi.so.40.1", "libmpich.so.12.1.14"]);
    }

    #[test]
    fn names_in_slurm_conf_know_no_case() {
        let text = "ClusterName=x\n#PluginDir=/no\nplugindir = /a:/b # here\n";
        assert_eq!(setting(text, "PluginDir"), Some("/a:/b"));
        assert_eq!(setting(text, "PlugStackConfig"), None);
    }

    #[test]
    fn the_plugin_may_be_named_in_a_file_that_is_included() {
        let dir = tempfile::tempdir().unwrap();
        let stack = dir.path().join("plugstack.conf");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(names_plugin(&stack, INCLUDED), None);
        fs::create_dir(dir.path().join("d")).unwrap();
        write("d/a.conf", "required denovo_spank.so\n");
        for (text, expected) in [
            ("", false),
            ("required /x/denovo_spank.so\n", true),
            ("#include d/a.conf\n", false),
            ("include d/a.conf\n", true),
            ("optional x.so\ninclude d/*.conf\n", true),
            ("include d/*.d\ninclude d/b*.conf\n", false),
            // One that includes itself.
            ("include *\n", false),
        ] {
            write("plugstack.conf", text);
            assert_eq!(names_plugin(&stack, INCLUDED), Some(expected), "{text:?}");
        }
        let absolute = format!("include {}/d/*\n", dir.path().display());
        write("plugstack.conf", &absolute);
        assert_eq!(names_plugin(&stack, INCLUDED), Some(true));
    }

    #[test]
    fn this_node_is_read() {
        let node = Node::read();
        assert_eq!(node.namespaces, user_namespace::Settings::read());
        assert!(node.shm.is_none_or(|(all, free)| all >= free), "{node:?}");
    }
}
