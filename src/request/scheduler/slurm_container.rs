//! What Slurm asks of a runtime for `--container` (oci.conf(5)): the bundle
//! that it writes for a task, a copy of the user's with the task in it.

use std::path::{Path, PathBuf};

use crate::problem::Problem;
use crate::request::bind::Bind;
use crate::request::oci::Bundle;
use crate::request::root::RootState;

/// One task, as its bundle has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub args: Vec<String>,
    /// `NAME=value` each; Slurm's own among them, and the image's.
    pub env: Vec<String>,
    pub cwd: Option<String>,
    /// The bundle that the user named: all tasks of a job have it in common,
    /// where Slurm's copies differ.
    pub bundle: PathBuf,
    pub binds: Vec<Bind>,
}

/// Destinations that every environment has from denovo.
const OURS: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Reads the bundle that Slurm wrote in `dir`.
///
/// # Errors
/// It is no bundle, or has no command.
pub fn task(dir: &Path) -> Result<Task, Problem> {
    let bundle = Bundle::load(dir)?;
    let process = bundle.config.process().as_ref();
    let args = process.and_then(|p| p.args().clone()).unwrap_or_default();
    if args.is_empty() {
        return Err(Problem::user(format!("{}: the task has no command", dir.display()))
            .hint("Slurm writes it into process.args: srun --container=DIR COMMAND"));
    }
    let own = match &bundle.root {
        RootState::Directory(root) => root.parent().filter(|d| d.join("config.json").is_file()),
        _ => None,
    };
    let mounts = bundle.config.mounts().iter().flatten();
    let binds = mounts.filter_map(|mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        let is = |wanted: &str| options.iter().any(|o| o == wanted);
        let bound = is("bind") || is("rbind") || mount.typ().as_deref() == Some("bind");
        let source = mount.source().as_ref()?.to_str()?;
        let destination = mount.destination().to_str()?;
        let ours = OURS.iter().any(|top| Path::new(destination).starts_with(top));
        (bound && !ours && source.starts_with('/') && destination.starts_with('/')).then(|| Bind {
            source: source.to_owned(),
            destination: destination.trim_end_matches('/').to_owned(),
            readonly: is("ro"),
        })
    });
    Ok(Task {
        args,
        env: process.and_then(|p| p.env().clone()).unwrap_or_default(),
        cwd: process.and_then(|p| p.cwd().to_str()).map(str::to_owned),
        bundle: own.unwrap_or(&bundle.dir).to_owned(),
        binds: binds.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_in_its_users_bundle() {
        let top = tempfile::tempdir().unwrap();
        let (own, copy) = (top.path().join("b"), top.path().join("oci-job5-0"));
        std::fs::create_dir_all(own.join("rootfs")).unwrap();
        std::fs::create_dir(&copy).unwrap();
        std::fs::write(own.join("config.json"), "{}").unwrap();
        let write = |process: &str| {
            let root = own.join("rootfs");
            let text = format!(
                r#"{{"ociVersion":"1.0.2","root":{{"path":"{}"}},"process":{process},"mounts":[
                {{"destination":"/proc","type":"proc","source":"proc"}},
                {{"destination":"/dev/x","type":"none","source":"/x","options":["bind"]}},
                {{"destination":"/tmp/slurm/startup","type":"none","source":"/s","options":["bind","ro"]}}]}}"#,
                root.display()
            );
            std::fs::write(copy.join("config.json"), text).unwrap();
        };
        write(r#"{"args":["/bin/true","-x"],"cwd":"/w","env":["A=1"],"user":{"uid":0,"gid":0}}"#);
        let task = task(&copy).unwrap();
        assert_eq!(
            (task.args, task.env),
            (vec!["/bin/true".into(), "-x".into()], vec!["A=1".into()])
        );
        assert_eq!((task.cwd.as_deref(), task.bundle), (Some("/w"), own.canonicalize().unwrap()));
        let binds = [Bind {
            source: "/s".to_owned(),
            destination: "/tmp/slurm/startup".to_owned(),
            readonly: true,
        }];
        assert_eq!(task.binds, binds);
        write(r#"{"cwd":"/","user":{"uid":0,"gid":0}}"#);
        assert!(super::task(&copy).is_err());
    }
}
