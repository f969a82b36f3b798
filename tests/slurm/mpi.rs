//! MPI ranks over nodes: Open MPI by PMIx, MPICH by PMI2, and mpirun in an
//! allocation.

use std::process::Command;

use crate::common::skip;
use crate::help::{Cluster, cluster, finish, nodes};

/// Sends 4 MiB around, and reads its neighbour on the node by
/// process_vm_readv(2).
const PROGRAM: &str = include_str!("ranks.c");

fn build(c: &Cluster, test: &str, compiler: &str) -> bool {
    if !std::path::Path::new("/usr/bin").join(compiler).exists() {
        skip(test, &format!("{compiler} is not installed"));
        return false;
    }
    let source = c.file("alice", "ranks.c", PROGRAM);
    let program = c.file("alice", compiler, "");
    let built =
        Command::new(compiler).args(["-O1", "-o"]).arg(&program).arg(&source).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    true
}

/// Every rank is right, those of a node share its environment and copy once.
fn check(c: &Cluster, text: &str, ranks: usize, environments: usize) {
    let lines: Vec<Vec<&str>> =
        text.lines().filter(|l| l.starts_with("rank ")).map(|l| l.split(' ').collect()).collect();
    assert_eq!(lines.len(), ranks, "{text}");
    let mut seen = std::collections::BTreeSet::new();
    for words in &lines {
        assert_eq!(words[3], ranks.to_string(), "{text}");
        assert_eq!(words[8], "right", "{text}");
        let alone = words[7] == "1";
        assert_eq!(words[9], if alone { "alone" } else { "cma" }, "{text}");
        seen.insert((words[10], words[11]));
    }
    assert_eq!(seen.len(), environments, "one environment on each node: {text}");
    let bare: Vec<String> =
        nodes().iter().map(|node| c.ask(node, "readlink /proc/self/ns/pid")).collect();
    assert!(seen.iter().all(|(space, _)| !bare.iter().any(|b| b == space)), "{bare:?} {text}");
    for word in ["CMA", "different user namespaces", "WARNING"] {
        assert!(!text.contains(word), "{text}");
    }
}

const SHAPES: [(&str, &str, usize, usize); 3] =
    [("-N1", "-n2", 2, 1), ("-N2", "-n4", 4, 2), ("-N3", "-n3", 3, 3)];

/// The same `srun` on one node, on several, with one rank a node and with more.
fn in_every_shape(c: &Cluster, words: &[&str]) {
    for (nodes, tasks, ranks, environments) in SHAPES {
        let done = c.try_srun(&[&[nodes, tasks], words].concat());
        assert_eq!(done.code, 0, "{done:?}");
        check(c, &(done.out + &done.err), ranks, environments);
    }
}

#[test]
fn open_mpi_by_pmix() {
    let test = "open_mpi_by_pmix";
    let Some(c) = cluster(test) else { return };
    if !build(&c, test, "mpicc.openmpi") {
        return;
    }
    in_every_shape(&c, &["--mpi=pmix", "./mpicc.openmpi"]);
    c.clean();
}

#[test]
fn mpich_by_pmi2() {
    let test = "mpich_by_pmi2";
    let Some(c) = cluster(test) else { return };
    if !build(&c, test, "mpicc.mpich") {
        return;
    }
    in_every_shape(&c, &["--mpi=pmi2", "./mpicc.mpich"]);
    c.clean();
}

#[test]
fn an_images_own_mpi() {
    let test = "an_images_own_mpi";
    let Some(c) = cluster(test) else { return };
    let there = |p: &str| std::path::Path::new("/usr/bin").join(p).exists();
    if !["mksquashfs", "mpirun.mpich", "mpirun.openmpi"].into_iter().all(there) {
        skip(test, "needs mksquashfs, Open MPI and MPICH");
        return;
    }
    if !build(&c, test, "mpicc.openmpi") || !build(&c, test, "mpicc.mpich") {
        return;
    }
    c.site("[images]\nstores = [\"/opt/denovo/images\"]\n");
    c.file("alice", "mpi-root", include_str!("../common/mpi-root"));
    let import = "bash /home/alice/mpi-root /tmp/mpi &&
                  /opt/denovo/denovo image import --store /opt/denovo/images /tmp/mpi mpi >/dev/null &&
                  rm -r /tmp/mpi";
    c.ask("n1", import);
    for (kind, program) in [("--mpi=pmix", "mpicc.openmpi"), ("--mpi=pmi2", "mpicc.mpich")] {
        let script = format!("[ -e /etc/in-the-image ] && exec ./{program}");
        in_every_shape(&c, &[kind, "--image=mpi", "sh", "-c", &script]);
    }
    // The launcher is the image's too.
    let launch = "[ -e /etc/in-the-image ] && exec mpirun.mpich -launcher fork -np 2 ./mpicc.mpich";
    let text = c.batch(&["-N1", "-n2", "--image=mpi"], &format!("({launch}) 2>&1"));
    check(&c, &text, 2, 1);
    c.site("");
    c.clean();
}

#[test]
fn without_the_plugin_ranks_join_by_the_jobs_id() {
    let test = "without_the_plugin_ranks_join_by_the_jobs_id";
    let Some(c) = cluster(test) else { return };
    if !build(&c, test, "mpicc.openmpi") || !build(&c, test, "mpicc.mpich") {
        return;
    }
    for (kind, program) in [("--mpi=pmix", "./mpicc.openmpi"), ("--mpi=pmi2", "./mpicc.mpich")] {
        let run = ["--no-denovo", kind, "/opt/denovo/denovo", "job", "run", "--", program];
        in_every_shape(&c, &run);
    }
    c.clean();
}

#[test]
fn mpirun_in_an_allocation() {
    let test = "mpirun_in_an_allocation";
    let Some(c) = cluster(test) else { return };
    if !build(&c, test, "mpicc.openmpi") || !build(&c, test, "mpicc.mpich") {
        return;
    }
    // Fails where CMA cannot be had, instead of going on without.
    let cma = "--mca btl_vader_single_copy_mechanism cma";
    let text =
        c.batch(&["-N2", "-n4"], &format!("mpirun.openmpi {cma} -np 4 ./mpicc.openmpi 2>&1"));
    check(&c, &text, 4, 2);
    let text = c.batch(&["-N1", "-n2"], "mpirun.mpich -np 2 ./mpicc.mpich 2>&1");
    check(&c, &text, 2, 1);
    c.clean();
}

#[test]
fn what_is_the_schedulers_stays_outside() {
    let Some(c) = cluster("what_is_the_schedulers_stays_outside") else { return };
    let look = "ls -A /var/spool/slurmd; ls -A /run; ls -A /run/denovo 2>&1 || true";
    let seen = c.srun(&["-w", "n1", "--mpi=pmix", "sh", "-c", look]);
    let mut lines: Vec<&str> = seen.lines().collect();
    let pmix = lines.remove(0);
    assert!(pmix.starts_with("pmix."), "{seen}");
    assert!(lines.iter().all(|l| ["lock", "munge"].contains(l) || l.contains("No such")), "{seen}");
    c.clean();
}

#[test]
fn what_would_not_work_is_told_before_a_launch() {
    let Some(c) = cluster("what_would_not_work_is_told_before_a_launch") else { return };
    let check = |words: &[&str]| {
        let all = [&["+alice", "/opt/denovo/denovo", "check", "mpi", "--json"][..], words].concat();
        let done = finish(&mut c.on("n1", &all));
        let all: serde_json::Value =
            serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{e}: {done:?}"));
        let of = move |name: &str| {
            all.as_array().unwrap().iter().find(|check| check["name"] == name).unwrap().clone()
        };
        (done.code, of)
    };
    // What it says of this node is what the tests beside this one see.
    let (code, of) = check(&[]);
    let installed = std::path::Path::new("/usr/bin/mpicc.openmpi").exists();
    assert_eq!(code == 0, installed, "{}", of("MPI library"));
    assert_eq!(of("Slurm plugin")["state"], "ok");
    if installed {
        let way = of("PMI, PMIx");
        assert!(way["found"].as_str().unwrap().contains("Open MPI by srun --mpi=pmix"), "{way}");
    }
    // A root without MPI, and a cluster without the plugin.
    c.ask(
        "n1",
        "mkdir -p /home/alice/empty/rootfs && echo '{}' >/home/alice/empty/config.json && \
                 chown -R alice: /home/alice/empty",
    );
    let config = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"}}"#;
    std::fs::write(c.home("alice").join("empty/config.json"), config).unwrap();
    let plugins = c.dir().join("etc/slurm/plugstack.conf");
    let before = std::fs::read_to_string(&plugins).unwrap();
    std::fs::write(&plugins, before.replace("required", "#required")).unwrap();
    let (code, of) = check(&["--bundle=./empty"]);
    std::fs::write(&plugins, before).unwrap();
    assert_eq!(code, 1);
    for (name, state, fix) in [
        ("MPI library", "missing", "openmpi-bin"),
        ("Slurm plugin", "note", "required denovo_spank.so"),
    ] {
        let check = of(name);
        assert_eq!(check["state"], state, "{check}");
        assert!(check["fix"].as_str().unwrap().contains(fix), "{check}");
    }
    c.clean();
}
