//! One process of a job: who it is, what it sees of its caller.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::spec::{Attributes, Capabilities, Process, Rlimit, User};
use super::text::CText;
use crate::host::process;
use crate::problem::Problem;

/// A process that enters a job's environment.
#[derive(Debug, Clone)]
pub struct Rank<'a> {
    pub uid: u32,
    pub gid: u32,
    /// `None`: the caller's groups stay.
    pub groups: Option<Vec<u32>>,
    pub args: &'a [CText],
    pub env: Vec<CText>,
    /// Asked for; must exist inside.
    pub cwd: Option<&'a str>,
    /// Where the caller is; used if it exists inside.
    pub here: Option<PathBuf>,
    pub terminal: bool,
    pub cpus: Option<&'a [u32]>,
    /// `RLIMIT_MSGQUEUE`, soft and hard, where it has to be lowered (`host::shares`).
    pub queue_bytes: Option<(u64, u64)>,
}

/// What root has in an environment of its own: enough to install software,
/// nothing that concerns the kernel (the set that OCI engines give).
const ROOT_CAPABILITIES: u64 = 1 << 0  // CHOWN
    | 1 << 1  // DAC_OVERRIDE
    | 1 << 3  // FOWNER
    | 1 << 4  // FSETID
    | 1 << 5  // KILL
    | 1 << 6  // SETGID
    | 1 << 7  // SETUID
    | 1 << 8  // SETPCAP
    | 1 << 10 // NET_BIND_SERVICE
    | 1 << 18 // SYS_CHROOT
    | 1 << 31; // SETFCAP

impl Rank<'_> {
    /// # Errors
    /// No command is given.
    pub fn process(&self) -> Result<Process, Problem> {
        if self.args.is_empty() {
            return Err(Problem::user("no command is given")
                .hint("denovo job run [OPTIONS] -- COMMAND [ARGUMENT…]"));
        }
        let held = bounding(self.uid);
        let capabilities = Capabilities {
            bounding: held,
            effective: held,
            permitted: held,
            ..Capabilities::default()
        };
        let rlimits = self.queue_bytes.into_iter().map(|(soft, hard)| Rlimit {
            resource: libc::RLIMIT_MSGQUEUE,
            soft,
            hard,
        });
        Ok(Process {
            args: self.args.to_vec(),
            env: self.env.clone(),
            cwd: CText::lossy(self.cwd.unwrap_or("/")),
            user: User { uid: self.uid, gid: self.gid, groups: self.groups.clone() },
            umask: None,
            terminal: self.terminal,
            console_size: None,
            capabilities: Some(capabilities),
            rlimits: rlimits.collect(),
            no_new_privileges: true,
            oom_score_adj: None,
            attributes: Attributes::default(),
        })
    }

    /// Directories to try: the one asked for, or the caller's, home, the root.
    pub fn directories(&self) -> Vec<CText> {
        if let Some(cwd) = self.cwd {
            return vec![CText::lossy(cwd)];
        }
        let mut all = Vec::new();
        all.extend(self.here.as_ref().map(|p| CText::lossy(p.as_os_str().as_bytes())));
        let home = self.env.iter().find_map(|e| e.as_bytes().strip_prefix(b"HOME="));
        all.extend(home.map(CText::lossy));
        all.push(CText::lossy("/"));
        all
    }
}

/// Variables that point at the caller's session on the node, of which the
/// environment has none.
const NOT_INSIDE: &[&str] = &[
    "DBUS_SESSION_BUS_ADDRESS",
    "HOSTNAME",
    "SSH_AUTH_SOCK",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_TTY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
    "XDG_SESSION_ID",
];

/// Variables that name files of the node's distribution, which an image's
/// programs must not load.
const OF_THE_NODE: &[&str] = &[
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LIBRARY_PATH",
    "LOADEDMODULES",
    "MANPATH",
    "MODULEPATH",
    "PATH",
    "PERL5LIB",
    "PKG_CONFIG_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "TCLLIBPATH",
    "_LMFILES_",
];

/// Where programs are looked up in an image that does not say.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories for temporary files, which are not there inside.
pub const MOVED: [(&str, &str); 4] =
    [("TMPDIR", "/tmp"), ("TMP", "/tmp"), ("TEMP", "/tmp"), ("TEMPDIR", "/tmp")];

/// Variables of the caller that no process inside gets.
pub fn left_outside(host: bool) -> impl Iterator<Item = &'static str> {
    NOT_INSIDE.iter().chain(OF_THE_NODE.iter().filter(move |_| !host)).copied()
}

/// Capabilities that a process of this user may ever get inside.
pub fn bounding(uid: u32) -> u64 {
    if uid == 0 { ROOT_CAPABILITIES } else { 0 }
}

/// The variables of a process inside: the caller's own (its exports are part
/// of what it asks for), over them the image's, over those the options'.
pub fn environment(
    own: impl IntoIterator<Item = (OsString, OsString)>,
    image: &[String],
    asked: &[String],
    clean: bool,
    host: bool,
) -> Vec<CText> {
    let mut all = Variables::default();
    for (name, value) in own {
        let text = name.to_string_lossy();
        let launcher = is_launchers(&text);
        let keep = if clean {
            launcher
        } else {
            !NOT_INSIDE.contains(&&*text) && (host || !OF_THE_NODE.contains(&&*text))
        };
        if !keep {
            continue;
        }
        match MOVED.iter().find(|(moved, _)| *moved == text) {
            Some((_, inside)) => all.set(name.as_bytes(), inside.as_bytes()),
            None => all.set(name.as_bytes(), value.as_bytes()),
        }
    }
    if all.position(b"PATH").is_none() {
        all.set(b"PATH", DEFAULT_PATH.as_bytes());
    }
    for entry in image.iter().chain(asked) {
        if let Some((name, value)) = entry.split_once('=') {
            all.set(name.as_bytes(), value.as_bytes());
        }
    }
    let joined = |(name, value): (Vec<u8>, Vec<u8>)| [name, b"=".to_vec(), value].concat();
    all.0.into_iter().map(|pair| CText::lossy(joined(pair))).collect()
}

/// Variables in their order, each name once.
#[derive(Default)]
struct Variables(Vec<(Vec<u8>, Vec<u8>)>);

impl Variables {
    fn position(&self, name: &[u8]) -> Option<usize> {
        self.0.iter().position(|(n, _)| n == name)
    }

    fn set(&mut self, name: &[u8], value: &[u8]) {
        match self.position(name) {
            Some(at) => self.0[at].1 = value.to_vec(),
            None => self.0.push((name.to_vec(), value.to_vec())),
        }
    }
}

/// Variables by which a rank finds its launcher (PMI, PMIx, Open MPI's and
/// MPICH's own), without which it would be alone.
fn is_launchers(name: &str) -> bool {
    [
        "PMI_", "PMIX_", "OMPI_", "PRTE_", "MPI_", "MPIR_", "HYDRA_", "HYDI_", "I_MPI_", "PALS_",
        "FLUX_",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

/// Directories that the launcher made for its ranks, which must find them
/// under the same path: absolute, existing, the caller's own, and below a
/// directory that is private inside.
pub fn launcher_directories(uid: u32) -> Vec<String> {
    let own = |path: &Path| {
        path.symlink_metadata()
            .is_ok_and(|m| m.is_dir() && std::os::unix::fs::MetadataExt::uid(&m) == uid)
    };
    let mut found: Vec<String> = std::env::vars_os()
        // A variable of other bytes than UTF-8 is no launcher's.
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| is_launchers(name))
        .map(|(_, value)| value)
        .chain(slurms_pmix_directory(uid))
        .map(|value| value.trim_end_matches('/').to_owned())
        .filter(|v| {
            // In the spool slurmd makes a step's directory for PMIx.
            let private = ["/tmp/", "/var/tmp/", "/var/spool/", "/run/", "/dev/shm/"];
            private.iter().any(|p| v.starts_with(p))
        })
        .filter(|v| own(Path::new(v)))
        .collect();
    found.sort();
    found.dedup();
    // A directory brings those below it along.
    let all = found.clone();
    found.retain(|path| !all.iter().any(|other| path.starts_with(&format!("{other}/"))));
    found
}

/// Where Slurm's mpi/pmix keeps what PMIx's shared memory needs, a directory of
/// the step's, which it names to nobody (src/plugins/mpi/pmix, pmixp_info.c).
fn slurms_pmix_directory(uid: u32) -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok();
    let (top, job) = (variable("PMIX_SYSTEM_TMPDIR")?, variable("SLURM_JOB_ID")?);
    let step = variable("SLURM_STEP_ID")?;
    Some(format!("{}/spmix_appdir_{uid}_{job}.{step}", top.trim_end_matches('/')))
}

/// The id that every rank of one job finds by itself: the scheduler's, else
/// the launcher's, else one for this command alone.
pub fn default_id() -> String {
    if let Some(id) = schedulers_id(|name| std::env::var(name).ok()) {
        return id;
    }
    // The launcher's pid alone could come again.
    let start = |pid| process::started(pid).unwrap_or_default();
    let own = rank_name(std::env::vars_os().map(|(n, v)| [n.as_bytes(), v.as_bytes()].join(&b'=')));
    if !own.is_empty() {
        let launcher = launcher(nix::unistd::getppid().as_raw(), &own);
        return format!("mpi-{launcher}-{}", start(launcher));
    }
    format!("run-{}-{}", std::process::id(), start(std::process::id() as i32))
}

/// Of a batch scheduler's job, by its variables. Elements of an array are jobs of
/// their own: PBS and Slurm number them so, LSF and Grid Engine beside the job.
fn schedulers_id(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let named = [
        ("SLURM_JOB_ID", "slurm", None),
        ("PBS_JOBID", "pbs", None),
        ("LSB_JOBID", "lsf", Some("LSB_JOBINDEX")),
        ("FLUX_JOB_ID", "flux", None),
        ("COBALT_JOBID", "cobalt", None),
        // Grid Engine's name for it is too common a word to stand alone.
        ("JOB_ID", "sge", Some("SGE_TASK_ID")),
    ];
    named.into_iter().find_map(|(name, prefix, element)| {
        let id = variable(name).filter(|id| !id.is_empty() && id.len() <= 128)?;
        if prefix == "sge" {
            variable("SGE_ROOT")?;
        }
        // What is no array has 0 or `undefined` there.
        let element = element.and_then(&variable).filter(|n| n.parse().is_ok_and(|n: u64| n > 0));
        let whole = element.map_or_else(|| id.clone(), |element| format!("{id}.{element}"));
        // An array of PBS's is `17[3].server`; Flux's ids begin with a letter that is
        // not of ASCII.
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        Some(format!("{prefix}-{}", whole.chars().map(plain).collect::<String>()))
    })
}

/// The variables by which one rank is told from others.
fn rank_name<T: AsRef<[u8]>>(variables: impl IntoIterator<Item = T>) -> Vec<Vec<u8>> {
    let is_own = |entry: &[u8]| entry.starts_with(b"PMI") || entry.starts_with(b"OMPI_COMM_WORLD");
    let all = variables.into_iter().map(|entry| entry.as_ref().to_vec());
    let mut own: Vec<Vec<u8>> = all.filter(|entry| is_own(entry)).collect();
    own.sort();
    own
}

/// Ranks of one launcher on one node have one parent: Open MPI's orted or
/// mpirun, MPICH's hydra proxy. A script between it and us has the rank's
/// variables too.
fn launcher(parent: i32, own: &[Vec<u8>]) -> i32 {
    let mut pid = parent;
    while let Ok(text) = std::fs::read(format!("/proc/{pid}/environ")) {
        let theirs = rank_name(text.split(|byte| *byte == 0));
        match process::parent(pid).filter(|above| *above > 0) {
            Some(above) if theirs == own => pid = above,
            _ => break,
        }
    }
    pid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(
        own: &[(&str, &str)],
        image: &[&str],
        asked: &[&str],
        clean: bool,
        host: bool,
    ) -> Vec<String> {
        let own = own.iter().map(|(n, v)| (OsString::from(n), OsString::from(v)));
        let texts = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let mut all: Vec<String> = environment(own, &texts(image), &texts(asked), clean, host)
            .iter()
            .map(CText::to_string_lossy)
            .collect();
        all.retain(|e| e != "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        all
    }

    #[test]
    fn the_callers_exports_go_in_its_session_stays_out() {
        let own = [
            ("OMP_NUM_THREADS", "4"),
            ("SSH_AUTH_SOCK", "/tmp/a"),
            ("TMPDIR", "/local/7"),
            ("PATH", "/x"),
        ];
        assert_eq!(
            env(&own, &[], &[], false, true),
            ["OMP_NUM_THREADS=4", "TMPDIR=/tmp", "PATH=/x"]
        );
    }

    #[test]
    fn an_image_does_not_get_the_nodes_paths() {
        let own = [("LD_LIBRARY_PATH", "/x"), ("PATH", "/x"), ("A", "1")];
        assert_eq!(env(&own, &["PATH=/image"], &["A=2"], false, false), ["A=2", "PATH=/image"]);
    }

    #[test]
    fn each_jobs_id_is_its_own_and_can_stand_as_one() {
        for (variables, expected) in [
            (&[("SLURM_JOB_ID", "7")][..], Some("slurm-7")),
            (&[("PBS_JOBID", "17[3].server")], Some("pbs-17-3-.server")),
            (&[("LSB_JOBID", "7"), ("LSB_JOBINDEX", "0")], Some("lsf-7")),
            (&[("LSB_JOBID", "7"), ("LSB_JOBINDEX", "3")], Some("lsf-7.3")),
            (&[("FLUX_JOB_ID", "\u{192}2oL")], Some("flux--2oL")),
            (&[("JOB_ID", "7")], None),
            (&[("JOB_ID", "7"), ("SGE_ROOT", "/x"), ("SGE_TASK_ID", "undefined")], Some("sge-7")),
            (&[("JOB_ID", "7"), ("SGE_ROOT", "/x"), ("SGE_TASK_ID", "2")], Some("sge-7.2")),
            (&[("SLURM_JOB_ID", "")], None),
        ] {
            let of = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned())
            };
            assert_eq!(schedulers_id(of).as_deref(), expected, "{variables:?}");
        }
    }

    #[test]
    fn a_clean_environment_still_finds_its_launcher() {
        let own = [("A", "1"), ("PMI_RANK", "0"), ("OMPI_COMM_WORLD_RANK", "0")];
        assert_eq!(
            env(&own, &[], &["B=2"], true, true),
            ["PMI_RANK=0", "OMPI_COMM_WORLD_RANK=0", "B=2"]
        );
    }
}
