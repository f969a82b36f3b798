//! Limits in cgroup v1's terms, which the OCI spec speaks, in those of v2.

/// `cpu.weight` for `cpu.shares`: 2, 1024 and 262144 (least, default, most)
/// become 1, 100 and 10000, with a quadratic curve through the logarithms in
/// between, as runc since 1.3.2 and crun since 1.23 have it. 0 and 1 count as 2.
pub fn weight_of_shares(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The rounding error of the three fixed points must not lift them.
    ((10f64.powf(exponent) - 1e-9).ceil() as u64).clamp(1, 10_000)
}

/// `io.weight` (1 to 10000) for a block I/O weight (10 to 1000), in a straight
/// line as runc and crun have it.
pub fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.clamp(10, 1000) - 10) * 9999 / 990
}

/// Why a swap limit cannot be said in v2's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSwap {
    #[error("a swap limit of {swap} bytes needs a memory limit beside it on cgroup v2")]
    Alone { swap: i64 },
    #[error(
        "the limit on memory and swap together ({swap} bytes) is below that on memory ({memory})"
    )]
    Below { swap: i64, memory: i64 },
}

/// `memory.swap.max` for a v1 limit on memory and swap together; -1 for no
/// limit. Both in bytes.
///
/// # Errors
/// [`BadSwap`] when there is no memory limit to take off, or it is larger.
pub fn swap_alone(swap: i64, memory: Option<i64>) -> Result<i64, BadSwap> {
    match (swap, memory) {
        (..0, _) => Ok(-1),
        (_, None | Some(..0)) => Err(BadSwap::Alone { swap }),
        (_, Some(memory)) if swap < memory => Err(BadSwap::Below { swap, memory }),
        (_, Some(memory)) => Ok(swap - memory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_their_fixed_points() {
        let table = [(0, 1), (1, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)];
        for (shares, weight) in table {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        let all: Vec<u64> = (2..=4096).map(weight_of_shares).collect();
        assert!(all.is_sorted());
    }

    #[test]
    fn weights_of_devices_keep_their_ends() {
        for (weight, expected) in [(0, 1), (10, 1), (100, 910), (500, 4950), (1000, 10_000)] {
            assert_eq!(io_weight(weight), expected, "{weight}");
        }
    }

    #[test]
    fn swap_is_what_is_left_above_memory() {
        assert_eq!(swap_alone(-1, Some(10)), Ok(-1));
        assert_eq!(swap_alone(-1, None), Ok(-1));
        assert_eq!(swap_alone(30, Some(10)), Ok(20));
        assert_eq!(swap_alone(10, Some(10)), Ok(0));
        assert_eq!(swap_alone(5, Some(10)), Err(BadSwap::Below { swap: 5, memory: 10 }));
        assert_eq!(swap_alone(5, None), Err(BadSwap::Alone { swap: 5 }));
        assert_eq!(swap_alone(5, Some(-1)), Err(BadSwap::Alone { swap: 5 }));
    }
}
