//! The machine as a job sees it: /proc/meminfo, /proc/stat and their like, and
//! /sys/devices/system, with what the job has in place of what the node has.
//!
//! A process of its own for each environment, outside of it, answers over
//! FUSE. It ends with the mount and with the monitor; when it dies before,
//! reading these files fails (ENOTCONN) and the job goes on.

mod counters;
mod kept;
mod memory;
mod processor;
mod share;
mod sysinfo;
mod topology;
mod tree;

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

use crate::kernel::channel::receive_with;
use crate::kernel::sys::{self, Forked};
use crate::plan::cgroup::CgroupPlan;
use share::Share;
use tree::Tree;

/// Files made anew for each reader.
const LIVE: &[&str] = &[
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "pressure/cpu",
    "pressure/io",
    "pressure/memory",
    "stat",
    "swaps",
    "uptime",
    "vmstat",
];

/// The directory that is /sys/devices/system inside.
const SYSTEM: &str = "system";

/// Starts the process that answers. The environment's first process mounts
/// the views and sends the connection through `from`.
///
/// # Errors
/// As clone3(2).
pub fn serve(from: &OwnedFd, groups: &CgroupPlan) -> Result<i32, Errno> {
    match sys::clone3(0, None)? {
        Forked::Child => sys::exit_now(main(from, groups)),
        Forked::Parent(pid) => Ok(pid),
    }
}

fn main(from: &OwnedFd, groups: &CgroupPlan) -> i32 {
    // With its monitor, who ends the environment.
    let _ = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0);
    let _ = sys::set_process_name(c"denovo-views");
    sys::set_command_line(b"denovo views");
    // Where the node gives huge pages unasked (kernel document
    // admin-guide/mm/transhuge, `always`), one would be twice all that it needs.
    let _ = sys::prctl(libc::PR_SET_THP_DISABLE, 1, 0);
    let fd = from.as_raw_fd() as u32;
    if fd > 3 {
        let _ = sys::close_range(3, fd - 1);
    }
    let _ = sys::close_range(fd + 1, u32::MAX);
    let mut buffer = [0u8; 8];
    let Ok((_, fds)) = receive_with(from, &mut buffer) else { return 1 };
    let mut fds = fds.into_iter();
    let (Some(connection), Some(proc)) = (fds.next(), fds.next()) else { return 1 };
    // What it reads everybody may read; it writes into the memory of those
    // who call sysinfo(2).
    let _ = sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0);
    let held = if nix::unistd::geteuid().is_root() { 1 << CAP_SYS_PTRACE } else { 0 };
    let _ = sys::capset(held, held, 0);
    // It lives as long as this process does.
    let tree = Box::leak(Box::new(Tree::new(Share::new(proc, groups))));
    answer(tree, connection, from)
}

/// capability.h.
const CAP_SYS_PTRACE: u32 = 19;

fn answer(tree: &'static Tree, connection: OwnedFd, from: &OwnedFd) -> i32 {
    let Ok(from) = from.try_clone() else { return 1 };
    let calls = std::thread::Builder::new().spawn(move || sysinfo::answer(tree, &from));
    if calls.is_err() {
        return 1;
    }
    let all = fuser::SessionACL::All;
    match fuser::Session::from_fd(tree, connection, all, fuser::Config::default())
        .and_then(fuser::Session::run)
    {
        Ok(()) => 0,
        Err(_) => 1,
    }
}
