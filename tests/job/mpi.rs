//! MPI ranks in one environment: Open MPI and MPICH, started from outside
//! and from inside, with single-copy transfers between the ranks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Ran, is_root, skip};
use crate::help::Place;

/// Sends 4 MiB around and reads the other's memory with process_vm_readv(2).
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int rank, size, length = 4 << 20;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    unsigned char *mine = malloc(length), *theirs = calloc(1, length);
    memset(mine, rank + 1, length);
    int other = 1 - rank;
    for (int i = 0; i < 20; i++)
        MPI_Sendrecv(mine, length, MPI_BYTE, other, 0, theirs, length, MPI_BYTE, other, 0,
                     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    int right = theirs[0] == other + 1 && theirs[length - 1] == other + 1;
    long where[2] = { getpid(), (long)mine }, there[2];
    MPI_Sendrecv(where, 2, MPI_LONG, other, 1, there, 2, MPI_LONG, other, 1, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    memset(theirs, 0, length);
    struct iovec to = { theirs, length }, from = { (void *)there[1], length };
    long copied = process_vm_readv(there[0], &to, 1, &from, 1, 0);
    right = right && copied == length && theirs[length / 2] == other + 1;
    char space[64] = "", name[64] = "";
    readlink("/proc/self/ns/pid", space, sizeof space - 1);
    gethostname(name, sizeof name - 1);
    MPI_Barrier(MPI_COMM_WORLD);
    printf("rank %d of %d %s %s %s\n", rank, size, right ? "right" : "wrong", space, name);
    MPI_Finalize();
    return 0;
}
"#;

struct Flavour {
    compiler: &'static str,
    launcher: &'static str,
    options: &'static [&'static str],
}

const OPEN_MPI: Flavour = Flavour {
    compiler: "mpicc.openmpi",
    launcher: "mpirun.openmpi",
    // Fails where CMA cannot be had, instead of going on without.
    options: &[
        "--oversubscribe",
        "--mca",
        "btl",
        "self,vader",
        "--mca",
        "btl_vader_single_copy_mechanism",
        "cma",
        "--mca",
        "btl_base_warn_component_unused",
        "1",
    ],
};
const MPICH: Flavour = Flavour { compiler: "mpicc.mpich", launcher: "mpirun.mpich", options: &[] };

impl Flavour {
    /// The program, built in the user's home; nothing where it cannot be.
    fn build(&self, test: &str, place: &Place) -> bool {
        let there = |p: &str| Path::new("/usr/bin").join(p).exists();
        if !there(self.compiler) || !there(self.launcher) {
            skip(test, &format!("{} is not installed", self.launcher));
            return false;
        }
        place.file("home/program.c", PROGRAM);
        let out = Command::new(self.compiler)
            .args(["-O1", "-o", "program", "program.c"])
            .current_dir(place.home())
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        place.give(&place.home().join("program"));
        true
    }

    fn launch(&self, ranks: &str, words: &[String]) -> Vec<String> {
        let mut all = vec![self.launcher.to_owned()];
        all.extend(self.options.iter().map(|o| (*o).to_owned()));
        all.extend(["-np".to_owned(), ranks.to_owned()]);
        all.extend(words.iter().cloned());
        all
    }
}

fn command(place: &Place, words: &[String]) -> Ran {
    let mut command = place.program(&words[0]);
    command.args(&words[1..]);
    for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        command.env(name, "1");
    }
    place.finish(command)
}

/// Both ranks are right, in one environment that is not the node.
fn check(ran: &Ran) {
    assert_eq!(ran.code(), 0, "{ran:?}");
    let mut ranks: Vec<Vec<&str>> = ran
        .out
        .lines()
        .filter(|l| l.starts_with("rank "))
        .map(|l| l.split(' ').collect())
        .collect();
    ranks.sort();
    assert_eq!(ranks.len(), 2, "{ran:?}");
    for (number, words) in ranks.iter().enumerate() {
        assert_eq!(words[1..5], [&number.to_string()[..], "of", "2", "right"], "{ran:?}");
    }
    let spaces: BTreeSet<&str> = ranks.iter().map(|w| w[5]).collect();
    let node = fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    assert!(spaces.len() == 1 && !spaces.contains(&node[..]), "{ran:?}");
    for word in ["CMA", "different user namespaces", "WARNING", "denovo:"] {
        assert!(!ran.err.contains(word), "{word}: {ran:?}");
    }
}

fn ranks_meet(test: &'static str, flavour: &Flavour) {
    for place in Place::each(test) {
        if !flavour.build(test, &place) {
            return;
        }
        let own =
            |words: &[&str]| -> Vec<String> { words.iter().map(|w| (*w).to_owned()).collect() };
        let (denovo, base) = (place.denovo_path(), place.base().display().to_string());
        let run = own(&[&denovo, "--root", &base, "job", "run", "--"]);
        // Each rank joins what the first one made.
        let outside = flavour.launch("2", &[run.clone(), own(&["./program"])].concat());
        check(&command(&place, &outside));
        assert_eq!(place.remains(), Vec::<String>::new());
        // The launcher itself is inside.
        let inside = [run, flavour.launch("2", &own(&["./program"]))].concat();
        check(&command(&place, &inside));
        assert_eq!(place.remains(), Vec::<String>::new());
    }
}

#[test]
fn open_mpi_ranks_meet_and_copy_once() {
    ranks_meet("open_mpi_ranks_meet_and_copy_once", &OPEN_MPI);
}

#[test]
fn mpich_ranks_meet_and_copy_once() {
    ranks_meet("mpich_ranks_meet_and_copy_once", &MPICH);
}

#[test]
fn ranks_behind_a_script_meet() {
    let test = "ranks_behind_a_script_meet";
    let there = |f: &&Flavour| Path::new("/usr/bin").join(f.launcher).exists();
    for place in Place::each(test) {
        for flavour in [&OPEN_MPI, &MPICH].iter().filter(|f| there(f)) {
            // A shell of each rank's stays between it and the launcher.
            let script = "until [ $(ls /dev/shm | grep -c ^rank) = 2 ]; do \
                          : >/dev/shm/rank$PMI_RANK$OMPI_COMM_WORLD_RANK; sleep 0.05; i=$((i + 1)); \
                          [ $i -lt 200 ] || exit 9; done; sleep 0.3";
            let run = place.line(&["job", "run", "--", "sh", "-c", script]);
            let words = ["sh", "-c", &format!("{run}; code=$?; exit $code")].map(String::from);
            let ran = command(&place, &flavour.launch("2", &words));
            ran.expect(0, flavour.launcher);
        }
    }
}

#[test]
fn two_launchers_of_one_user_do_not_meet() {
    let test = "two_launchers_of_one_user_do_not_meet";
    let Some(place) = Place::user(test) else { return };
    if !is_root() || !MPICH.build(test, &place) {
        return;
    }
    let words = [
        &place.denovo_path(),
        "--root",
        &place.base().display().to_string(),
        "job",
        "run",
        "--",
        "sh",
        "-c",
        "readlink /proc/self/ns/pid; touch /tmp/$PMI_RANK; i=0; \
         until test -e /tmp/0 -a -e /tmp/1 || test $i = 100; do sleep 0.1; i=$((i + 1)); done; \
         sleep 0.3; ls /tmp | grep -c '^[01]$'",
    ]
    .map(String::from);
    let start = || {
        let launch = MPICH.launch("2", &words);
        let mut command = place.program(&launch[0]);
        command.args(&launch[1..]);
        place.start(command)
    };
    let (a, b) = (start(), start());
    let spaces = |ran: Ran| -> BTreeSet<String> {
        let (spaces, counts): (Vec<&str>, Vec<&str>) =
            ran.lines().iter().partition(|l| l.starts_with("pid:"));
        assert_eq!(counts, ["2", "2"], "{ran:?}");
        spaces.into_iter().map(String::from).collect()
    };
    let (a, b) = (spaces(a.wait().expect(0, "one")), spaces(b.wait().expect(0, "two")));
    assert!(a.len() == 1 && b.len() == 1 && a != b, "{a:?} {b:?}");
}
