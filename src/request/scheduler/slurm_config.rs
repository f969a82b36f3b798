//! The lines that let Slurm use denovo, for one of its versions.

use std::path::Path;

/// `file` is slurm.conf, plugstack.conf or denovo.toml; `version`
/// Slurm's, such as (22, 5); `binary` where denovo is.
pub fn config(file: &str, version: (u32, u32), binary: &Path) -> String {
    let denovo = binary.display();
    match file {
        "plugstack.conf" => "# /etc/slurm/plugstack.conf, on nodes and submit hosts\n\
             required denovo_spank.so\n"
            .to_owned(),
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
             # slurmd takes no arguments here; two files of one line each do the same\n\
             # where `denovo` is not called by name:\n\
             #   /etc/slurm/prolog.d/denovo:  exec {denovo} prolog\n\
             #   /etc/slurm/epilog.d/denovo:  exec {denovo} epilog\n\
             Prolog=/etc/slurm/prolog.d/*\n\
             Epilog=/etc/slurm/epilog.d/*\n\
             PrologFlags=Alloc,Contain\n\
             ProctrackType=proctrack/cgroup\n\
             PrologEpilogTimeout=120\n",
            version.0, version.1
        ),
    }
}
