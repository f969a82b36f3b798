//! Records of OCI containers: one directory each, with `state.json`.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::base;
use super::process::ProcessName;
use crate::kernel::cgroup;
use crate::plan::cgroup::CgroupPlan;
use crate::policy::spec::{Hook, Listener, Process};
use crate::problem::Problem;

/// All containers below one `--root`.
pub struct Store {
    root: PathBuf,
}

/// The record of one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    /// Absolute.
    pub bundle: PathBuf,
    /// The root file system, as it is outside.
    #[serde(default)]
    pub rootfs: PathBuf,
    /// Seconds since 1970.
    pub created: u64,
    /// Who called create or run.
    pub uid: u32,
    /// The denovo process that makes it, or waits for it in the foreground.
    pub keeper: Option<ProcessName>,
    /// The container's first process, once there is one.
    pub init: Option<ProcessName>,
    /// Groups to remove.
    pub cgroup: CgroupPlan,
    pub annotations: Vec<(String, String)>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
    /// What `exec` takes over: user, capabilities, environment, …
    pub process: Option<Process>,
    /// The container removes itself when it ends (`run` in the foreground).
    pub transient: bool,
    /// `SECCOMP_FILTER_FLAG_*` of its filter, which is kept beside this record.
    #[serde(default)]
    pub seccomp: Option<u32>,
    /// Who answers calls for that filter.
    #[serde(default)]
    pub listener: Option<Listener>,
}

fn text_of(record: &Record) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(record)
        .map_err(|e| Problem::ours(format!("the record of {} cannot be written: {e}", record.id)))
}

fn unwritable(path: &Path, why: &std::io::Error) -> Problem {
    base::unwritable(path, why, Some("name another directory with --root DIR"))
}

/// OCI runtime-spec, "State": `status`, and runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The document that `state` prints and hooks read (runtime-spec, "State").
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State<'a> {
    pub oci_version: &'static str,
    pub id: &'a str,
    pub status: Status,
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: i32,
    pub bundle: &'a Path,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<&'a str, &'a str>,
}

fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

/// The version of the runtime-spec that documents are written in.
pub const OCI_VERSION: &str = "1.2.0";

impl Store {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn directory(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Keeps the compiled filter for processes that `exec` adds.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn save_filter(&self, id: &str, program: &[u8]) -> Result<(), Problem> {
        let path = self.directory(id).join("seccomp.bpf");
        fs::write(&path, program).map_err(|e| unwritable(&path, &e))
    }

    /// The filter that [`Self::save_filter`] kept, with its flags; `None` for
    /// a container that has none.
    ///
    /// # Errors
    /// It cannot be read: then nothing may be executed, for it would run
    /// unfiltered.
    pub fn load_filter(&self, record: &Record) -> Result<Option<(Vec<u8>, u32)>, Problem> {
        let Some(flags) = record.seccomp else { return Ok(None) };
        let path = self.directory(&record.id).join("seccomp.bpf");
        let program = fs::read(&path).map_err(|e| {
            Problem::site(format!("{}: the container's filter cannot be read: {e}", path.display()))
                .hint("without its filter nothing is executed in it; delete the container and make it anew")
        })?;
        Ok(Some((program, flags)))
    }

    /// Where the process of a created container waits for `start`.
    pub fn start_socket(&self, id: &str) -> PathBuf {
        self.directory(id).join("start.sock")
    }

    /// Claims an id by making its directory, which only one can.
    ///
    /// # Errors
    /// The id is taken, or the store cannot be written.
    pub fn claim(&self, id: &str, uid: u32) -> Result<(), Problem> {
        let dir = self.directory(id);
        // Who owns the directory above can put other records into place.
        super::base::own_directory(&self.root, 0o711, uid)?;
        let made = DirBuilder::new().mode(0o711).create(&dir);
        made.map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => Problem::user(format!(
                "container with id {id:?} already exists in {}",
                self.root.display()
            ))
            .hint(format!("choose another id, or end it with: denovo delete --force {id}")),
            _ => Problem::site(format!("{}: cannot be made: {e}", dir.display()))
                .hint("name a directory that you can write with --root DIR"),
        })
    }

    /// Writes the first record of a container just claimed. Until it is
    /// whole, a reader takes it for damaged, which it would also be if we
    /// died here; so no rename, which would cost a start a tenth of a
    /// millisecond.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn save_first(&self, record: &Record) -> Result<(), Problem> {
        let path = self.directory(&record.id).join("state.json");
        let text = text_of(record)?;
        fs::write(&path, text).map_err(|e| unwritable(&path, &e))
    }

    /// Notes the container's first process, as the target of a link: made in
    /// one call, whole or not at all.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn save_init(&self, id: &str, init: ProcessName) -> Result<(), Problem> {
        let path = self.directory(id).join("init");
        let target = format!("{}:{}", init.pid, init.started);
        std::os::unix::fs::symlink(target, &path).map_err(|e| unwritable(&path, &e))
    }

    fn load_init(&self, id: &str) -> Option<ProcessName> {
        let target = fs::read_link(self.directory(id).join("init")).ok()?;
        let (pid, started) = target.to_str()?.split_once(':')?;
        Some(ProcessName { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    /// Whether an id is taken without a record: denovo was killed before it
    /// wrote one, and so before it made anything else.
    pub fn is_claimed_only(&self, id: &str) -> bool {
        let dir = self.directory(id);
        let own = nix::unistd::geteuid().as_raw();
        dir.symlink_metadata().is_ok_and(|m| m.is_dir() && m.uid() == own)
            && !dir.join("state.json").exists()
    }

    /// Writes a record so that a reader sees the old or the new one, whole.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn save(&self, record: &Record) -> Result<(), Problem> {
        let dir = self.directory(&record.id);
        let text = text_of(record)?;
        let (new, path) = (dir.join("state.json.new"), dir.join("state.json"));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|e| unwritable(&path, &e))
    }

    /// # Errors
    /// There is no such container, it is not the caller's, or its record is
    /// damaged.
    pub fn load(&self, id: &str) -> Result<Record, Problem> {
        let dir = self.directory(id);
        let absent = || {
            Problem::user(format!("container {id:?} does not exist in {}", self.root.display()))
                .hint("denovo list shows the containers; --root must be the one of its create")
        };
        let meta = dir.symlink_metadata().map_err(|_| absent())?;
        let own = nix::unistd::geteuid().as_raw();
        if !meta.is_dir() || meta.uid() != own {
            // What another user can write must not steer us, root least of all.
            return Err(Problem::user(format!(
                "{}: belongs to uid {}, not to the caller (uid {own}); its record is not trusted",
                dir.display(),
                meta.uid()
            ))
            .hint("call denovo as that user"));
        }
        let path = dir.join("state.json");
        let text = match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(absent()),
            read => read.map_err(|e| Problem::site(format!("{}: {e}", path.display())))?,
        };
        let mut record: Record = serde_json::from_slice(&text).map_err(|e| {
            Problem::ours(format!("{}: damaged: {e}", path.display()))
                .hint(format!("denovo delete --force {id} removes what is left of it"))
        })?;
        record.init = record.init.or_else(|| self.load_init(id));
        Ok(record)
    }

    /// Ids of all containers here, sorted.
    pub fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut ids: Vec<String> = entries
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|e| e.file_name().into_string().ok())
            // Below a directory given with --root, jobs are beside.
            .filter(|name| name != "jobs")
            .collect();
        ids.sort();
        ids
    }

    /// Forgets a container; nothing of it may run any more.
    ///
    /// # Errors
    /// Something of the directory cannot be removed.
    pub fn forget(&self, id: &str) -> Result<(), Problem> {
        let dir = self.directory(id);
        for name in ["state.json", "init"] {
            let _ = fs::remove_file(dir.join(name));
        }
        match fs::remove_dir(&dir) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(_) => fs::remove_dir_all(&dir)
                .map_err(|e| Problem::site(format!("{}: cannot be removed: {e}", dir.display()))),
        }
    }

    /// Where the container stands now.
    pub fn status(&self, record: &Record) -> Status {
        let kept = || record.keeper.is_some_and(|k| k.alive());
        match &record.init {
            None if kept() => Status::Creating,
            None => Status::Stopped,
            Some(init) if !init.alive() => Status::Stopped,
            // `create` lets go of the record only when all is made.
            Some(_) if self.start_socket(&record.id).exists() && kept() => Status::Creating,
            // One that cannot be read is taken for the usual.
            Some(_) if cgroup::frozen(&record.cgroup).unwrap_or(false) => Status::Paused,
            Some(_) if self.start_socket(&record.id).exists() => Status::Created,
            Some(_) => Status::Running,
        }
    }
}

impl Record {
    /// The document for `state` and for hooks.
    pub fn state(&self, status: Status) -> State<'_> {
        let running = status != Status::Stopped;
        State {
            oci_version: OCI_VERSION,
            id: &self.id,
            status,
            pid: self.init.filter(|_| running).map_or(0, |p| p.pid),
            bundle: &self.bundle,
            annotations: self.annotations.iter().map(|(k, v)| (&k[..], &v[..])).collect(),
        }
    }
}
