//! MPI in an image, with the image's own MPI: the launcher outside, each rank
//! joining what the first one made, and the launcher inside.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::skip;
use crate::help::Shop;

/// Reads its neighbour's memory by process_vm_readv(2), beside messages.
const PROGRAM: &str = include_str!("../slurm/ranks.c");

/// An image with this machine's MPIs and little else, `$W/home/a.out`, and the
/// ranks of it both ways.
const BOTH_WAYS: &str = r#"
bash mpi-root tree
d image import tree mpi >/dev/null
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mkdir -p home; cd home; run="$DENOVO --root $W/base job run --image mpi --"
for mpi in openmpi mpich; do
    "mpicc.$mpi" -O1 -o a.out ../ranks.c; more=''
    # Without ssh Open MPI starts only where it is told so; without CMA it fails then.
    [ $mpi = mpich ] || more='--oversubscribe --mca plm isolated --mca btl self,vader --mca btl_vader_single_copy_mechanism cma'
    echo "== $mpi joined"
    timeout 60 mpirun.$mpi $more -np 2 $run sh -c '[ -e /etc/in-the-image ] && exec ./a.out'
    echo "== $mpi inside"
    timeout 60 $run mpirun.$mpi $more -np 2 sh -c '[ -e /etc/in-the-image ] && exec ./a.out'
done
"#;

/// Both ranks are right and copy once, in one environment that is not the node.
fn check(way: &str, text: &str) {
    let ranks: Vec<Vec<&str>> =
        text.lines().filter(|l| l.starts_with("rank ")).map(|l| l.split(' ').collect()).collect();
    assert_eq!(ranks.len(), 2, "{way}: {text}");
    assert!(ranks.iter().all(|w| w[3] == "2" && w[8] == "right" && w[9] == "cma"), "{way}: {text}");
    let spaces: BTreeSet<&str> = ranks.iter().map(|w| w[10]).collect();
    let node = std::fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    assert!(spaces.len() == 1 && !spaces.contains(&node[..]), "{way}: {text}");
}

fn both_ways(test: &str, shop: &Shop) {
    for program in ["mpicc.openmpi", "mpicc.mpich", "orted", "hydra_pmi_proxy"] {
        if !Path::new("/usr/bin").join(program).exists() {
            skip(test, &format!("{program} is not installed"));
            return;
        }
    }
    shop.file("ranks.c", PROGRAM);
    shop.file("mpi-root", include_str!("../common/mpi-root"));
    let denovo = crate::common::binary(shop.is_rootless()).display().to_string();
    let fuse = if shop.is_rootless() { "yes" } else { "no" };
    let shell = shop.shell(&[("DENOVO", &denovo), ("FUSE", fuse)], BOTH_WAYS);
    let ran = shop.finish(shell).expect(0, BOTH_WAYS);
    let said = ran.out();
    let ways: Vec<(&str, &str)> =
        said.split("== ").skip(1).filter_map(|part| part.split_once('\n')).collect();
    let names: Vec<&str> = ways.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["openmpi joined", "openmpi inside", "mpich joined", "mpich inside"]);
    for (way, text) in ways {
        check(way, text);
    }
    for word in ["CMA", "different user namespaces", "WARNING", "denovo:"] {
        assert!(!ran.err.contains(word), "{word}: {ran:?}");
    }
}

#[test]
fn an_images_mpi_runs_both_ways_for_root() {
    let test = "an_images_mpi_runs_both_ways_for_root";
    if let Some(shop) = Shop::root(test) {
        both_ways(test, &shop);
    }
}

#[test]
fn an_images_mpi_runs_both_ways_for_a_user() {
    let test = "an_images_mpi_runs_both_ways_for_a_user";
    if let Some(shop) = Shop::user(test) {
        both_ways(test, &shop);
    }
}
