//! Time namespaces (time_namespaces(7)).

use std::io::Write;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use super::inside::{Fault, Named};
use super::procfs;
use crate::policy::spec::Clocks;

/// A new time namespace for this process's children, with its offsets.
///
/// The offsets can only be written before the first process enters.
///
/// # Errors
/// The call that failed; `EINVAL` from unshare where the kernel has no time
/// namespaces.
pub fn unshare(clocks: &Clocks) -> Result<(), Fault> {
    let flags = nix::sched::CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
    nix::sched::unshare(flags).named("unshare of the time namespace")?;
    let (monotonic, boottime) = match clocks {
        Clocks::Offsets { monotonic, boottime } => (*monotonic, *boottime),
        Clocks::JustBooted => {
            (Some(negated(ClockId::CLOCK_MONOTONIC)?), Some(negated(ClockId::CLOCK_BOOTTIME)?))
        }
    };
    let mut text = [0u8; 128];
    let mut rest = &mut text[..];
    let room = rest.len();
    for (name, offset) in [("monotonic", monotonic), ("boottime", boottime)] {
        if let Some((seconds, nanoseconds)) = offset {
            let line = writeln!(rest, "{name} {seconds} {nanoseconds}");
            line.map_err(|_| Fault {
                call: "format of the time offsets",
                errno: Errno::EOVERFLOW,
            })?;
        }
    }
    let used = room - rest.len();
    if used == 0 {
        return Ok(());
    }
    let proc = procfs::root()?;
    let path = c"self/timens_offsets";
    let file = procfs::open(proc.as_fd(), path, libc::O_WRONLY, "open of timens_offsets")?;
    nix::unistd::write(&file, &text[..used]).named("write of timens_offsets").map(drop)
}

/// Seconds that a new machine seems to be up when its first process starts.
/// No real machine starts one at zero, and some programs take a clock of
/// under a second for one that was never read (Open MPI's `MPI_Wtime` stays
/// at 0 until then).
const BOOTED_FOR: i64 = 5;

/// The offset that makes a clock read [`BOOTED_FOR`] now.
fn negated(clock: ClockId) -> Result<(i64, u32), Fault> {
    let now = clock_gettime(clock).named("clock_gettime")?;
    Ok((BOOTED_FOR - now.tv_sec(), 0))
}
