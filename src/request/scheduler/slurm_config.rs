//! The lines that let Slurm use denovo, for one of its versions.

use std::path::Path;

/// `file` is slurm.conf, plugstack.conf, oci.conf or denovo.toml; `version`
/// Slurm's, such as (22, 5); `binary` where denovo is.
pub fn config(file: &str, version: (u32, u32), binary: &Path) -> String {
    let denovo = binary.display();
    match file {
        "plugstack.conf" => "# /etc/slurm/plugstack.conf, on nodes and submit hosts\n\
             required denovo_spank.so\n"
            .to_owned(),
        // RunTimeRun alone: Slurm reads a create's standard output to its end,
        // which a container that inherits it keeps open. The names are made of
        // patterns that every release since 22.05 has.
        "oci.conf" => format!(
            "# /etc/slurm/oci.conf, for srun --container=DIR on Slurm {0}.{1:02}; the plugin's\n\
             # --bundle and --image do more, and need none of this.\n\
             # Query and Delete are run by root: what they name is looked up in root's\n\
             # own records only, where no user can have written.\n\
             RunTimeQuery=\"{denovo} state %n.%u.%j.%s.%t\"\n\
             RunTimeKill=\"{denovo} kill --all %n.%u.%j.%s.%t KILL\"\n\
             RunTimeDelete=\"{denovo} delete --force %n.%u.%j.%s.%t\"\n\
             RunTimeRun=\"{denovo} scheduler slurm task --job %j %b\"\n{2}",
            version.0,
            version.1,
            // Later ones bind the spool, for which a root that is read-only
            // must have a directory.
            if version >= (26, 5) { "MountSpoolDir=/var/run/slurm/\n" } else { "" }
        ),
        "denovo.toml" => "# /etc/denovo/denovo.toml, on nodes\n\
             [scheduler]\n\
             #image = \"host\"            # what a job gets that asks for nothing\n\
             #pull = false              # whether a prolog may fetch an image\n\
             #cpus = \"choose\"           # or \"scheduler\" with task/affinity, task/cgroup\n\
             #memory = \"scheduler\"      # or \"share\" (without the plugin), \"none\"\n\
             #bind = [\"/scratch\"]       # what every job sees of the node\n\
             #scratch = \"/local\"        # a disk for what jobs write into their root\n\
             #budget = 60               # seconds after which a prolog gives up\n"
            .to_owned(),
        _ => format!(
            "# /etc/slurm/slurm.conf, for Slurm {}.{:02}\n\
             # slurmd passes no arguments, so that each is a script, which root may execute:\n\
             #   printf '#!/bin/sh\\nexec {denovo} prolog\\n' >/etc/slurm/prolog.d/denovo\n\
             #   printf '#!/bin/sh\\nexec {denovo} epilog\\n' >/etc/slurm/epilog.d/denovo\n\
             #   chmod 755 /etc/slurm/prolog.d/denovo /etc/slurm/epilog.d/denovo\n\
             Prolog=/etc/slurm/prolog.d/*\n\
             Epilog=/etc/slurm/epilog.d/*\n\
             PrologFlags=Alloc,Contain\n\
             ProctrackType=proctrack/cgroup\n\
             PrologEpilogTimeout=120\n",
            version.0, version.1
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// slurmd executes them itself: without a first line that names a shell it cannot,
    /// and drains the node.
    #[test]
    fn the_scripts_that_are_named_can_be_executed() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().display().to_string();
        for verb in ["prolog", "epilog"] {
            std::fs::create_dir(dir.path().join(format!("{verb}.d"))).unwrap();
        }
        let text = config("slurm.conf", (22, 5), Path::new("/bin/echo"));
        let commands: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("#   "))
            .map(|line| line.replace("/etc/slurm", &place))
            .collect();
        assert_eq!(commands.len(), 3, "{text}");
        let done = Command::new("sh").args(["-ec", &commands.join("\n")]).status().unwrap();
        assert!(done.success(), "{text}");
        for verb in ["prolog", "epilog"] {
            let script = dir.path().join(format!("{verb}.d/denovo"));
            assert_eq!(std::fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o755);
            // Not by way of a shell, which would take one without that line.
            let said = std::fs::read_to_string(&script).unwrap();
            assert_eq!(said, format!("#!/bin/sh\nexec /bin/echo {verb}\n"));
            let output = Command::new(&script).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{verb}\n"));
        }
    }
}
