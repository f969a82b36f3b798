//! Which CPUs an environment gets for its own.

use crate::host::hardware::NumaNode;
use crate::problem::Problem;

pub use crate::host::cpulist::{BadList, format_list, parse_list};

/// CPUs that another environment has for its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Who has them, such as `job-16`.
    pub holder: String,
    pub cpus: Vec<u32>,
}

/// Chooses `count` CPUs out of `allowed` that nobody has reserved, ascending.
///
/// All from one NUMA node when one has as many free (the node with the fewest
/// free ones, so that large holes stay whole), else from as few nodes as
/// possible; within a node neighbours rather than scattered ones. CPUs of
/// `allowed` that are in none of `nodes` count as one more node.
///
/// # Errors
/// A [`Problem`] when `count` is 0, more than `allowed`, or more than are
/// free; the last says who holds the others.
pub fn choose(
    count: usize,
    allowed: &[u32],
    reserved: &[Reservation],
    nodes: &[NumaNode],
) -> Result<Vec<u32>, Problem> {
    let held = |cpu: &u32| reserved.iter().any(|r| r.cpus.contains(cpu));
    let mut free: Vec<u32> = allowed.iter().copied().filter(|cpu| !held(cpu)).collect();
    free.sort_unstable();
    free.dedup();
    if count == 0 {
        return Err(Problem::user("0 CPUs are asked for").hint("ask for at least one"));
    }
    if count > free.len() {
        return Err(too_few(count, &free, allowed, reserved));
    }
    let mut parts = by_node(&free, nodes);
    // The fullest node that is enough, else the emptiest first.
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let missing = count - chosen.len();
        let enough =
            (0..parts.len()).filter(|i| parts[*i].len() >= missing).min_by_key(|i| parts[*i].len());
        let largest = || (0..parts.len()).rev().max_by_key(|i| parts[*i].len());
        let Some(part) = enough.or_else(largest) else { break };
        let part = parts.remove(part);
        chosen.extend(neighbours(&part, missing.min(part.len())));
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// Free CPUs in groups of one NUMA node each.
fn by_node(free: &[u32], nodes: &[NumaNode]) -> Vec<Vec<u32>> {
    let of = |cpu: &u32| nodes.iter().position(|n| n.cpus.contains(cpu)).unwrap_or(nodes.len());
    (0..=nodes.len())
        .map(|node| free.iter().copied().filter(|cpu| of(cpu) == node).collect::<Vec<u32>>())
        .filter(|part| !part.is_empty())
        .collect()
}

/// `count` of the ascending `free`: from the smallest run of neighbours that
/// is enough, else from the longest runs first.
fn neighbours(free: &[u32], count: usize) -> Vec<u32> {
    let mut runs: Vec<&[u32]> = free.chunk_by(|a, b| a + 1 == *b).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let missing = count - chosen.len();
        let enough =
            (0..runs.len()).filter(|i| runs[*i].len() >= missing).min_by_key(|i| runs[*i].len());
        let longest = || (0..runs.len()).rev().max_by_key(|i| runs[*i].len());
        let Some(run) = enough.or_else(longest) else { break };
        let run = runs.remove(run);
        chosen.extend_from_slice(&run[..missing.min(run.len())]);
    }
    chosen
}

fn too_few(count: usize, free: &[u32], allowed: &[u32], reserved: &[Reservation]) -> Problem {
    if count > allowed.len() {
        return Problem::user(format!(
            "{count} CPUs are asked for, but the caller may use only {}: {}",
            allowed.len(),
            format_list(allowed)
        ))
        .hint(format!("ask for at most {}", allowed.len()));
    }
    let mut holders = Vec::new();
    for reservation in reserved {
        let theirs: Vec<u32> =
            reservation.cpus.iter().copied().filter(|cpu| allowed.contains(cpu)).collect();
        if !theirs.is_empty() {
            holders.push(format!("{} holds {}", reservation.holder, format_list(&theirs)));
        }
    }
    let free_list = if free.is_empty() { "none".to_owned() } else { format_list(free) };
    let less = match free.len() {
        0 => String::new(),
        most => format!("ask for at most {most}, or "),
    };
    Problem::user(format!(
        "{count} CPUs are asked for, but of {} only {} are free ({free_list}): {}",
        format_list(allowed),
        free.len(),
        holders.join(", ")
    ))
    .hint(format!("{less}wait until one of them ends, or share CPUs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<u32> {
        parse_list(text).unwrap()
    }

    fn two_nodes() -> Vec<NumaNode> {
        let node = |number, cpus| NumaNode { number, cpus: list(cpus) };
        vec![node(0, "0-3,8-11"), node(1, "4-7,12-15")]
    }

    fn held(lists: &[&str]) -> Vec<Reservation> {
        let one = |(n, cpus): (usize, &&str)| Reservation {
            holder: format!("job-{n}"),
            cpus: list(cpus),
        };
        lists.iter().enumerate().map(one).collect()
    }

    #[test]
    fn one_node_and_neighbours_are_preferred() {
        let table: &[(usize, &str, &[&str], &str)] = &[
            (2, "0-15", &[], "0-1"),
            (4, "0-15", &["0-1"], "8-11"),
            // Node 0 has the fewer free ones: holes there are used first.
            (2, "0-15", &["4"], "5-6"),
            (8, "0-15", &["0"], "4-7,12-15"),
            // No node is enough.
            (10, "0-15", &[], "0-3,8-11,4-5"),
            (3, "0,2,5-6", &[], "0,2,5"),
            (1, "3", &[], "3"),
            (2, "20-23", &[], "20-21"),
            (16, "0-15", &["30"], "0-15"),
        ];
        for (count, allowed, reserved, expected) in table {
            let found = choose(*count, &list(allowed), &held(reserved), &two_nodes());
            assert_eq!(found.unwrap(), list(expected), "{count} of {allowed}");
        }
    }

    #[test]
    fn too_few_names_the_holders() {
        let reserved = held(&["0-1", "2,40", "50"]);
        let problem = choose(2, &list("0-3"), &reserved, &[]).unwrap_err();
        assert_eq!(
            problem.message,
            "2 CPUs are asked for, but of 0-3 only 1 are free (3): job-0 holds 0-1, job-1 holds 2"
        );
        assert!(problem.hint.unwrap().contains("at most 1"));
        let problem = choose(5, &list("0-3"), &[], &[]).unwrap_err();
        assert!(problem.message.contains("may use only 4: 0-3"), "{problem}");
        assert!(choose(0, &list("0-3"), &[], &[]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn chosen_cpus_are_allowed_free_and_as_many(
            count in 1usize..12,
            allowed in proptest::collection::vec(0u32..16, 1..16),
            taken in proptest::collection::vec(0u32..16, 0..8),
        ) {
            let reserved = [Reservation { holder: "x".into(), cpus: taken.clone() }];
            if let Ok(chosen) = choose(count, &allowed, &reserved, &two_nodes()) {
                assert_eq!(chosen.len(), count);
                assert!(chosen.is_sorted_by(|a, b| a < b));
                assert!(chosen.iter().all(|c| allowed.contains(c) && !taken.contains(c)));
            }
        }
    }
}
