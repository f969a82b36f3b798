//! sysinfo(2) of a job's processes, answered with the job's own share: their
//! filter leaves the call to whoever has its listener (seccomp_unotify(2)).

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libseccomp::{ScmpArch, ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags, notify_id_valid};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::unistd::Pid;

use super::tree::Tree;
use crate::kernel::channel::receive_with;
use crate::kernel::sys;

/// What sysinfo(2) says, in bytes but for the loads and the number of tasks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemInfo {
    pub uptime: u64,
    /// Averages over 1, 5 and 15 minutes.
    pub loads: [f64; 3],
    pub total: u64,
    pub free: u64,
    pub shared: u64,
    pub swap: u64,
    pub swap_free: u64,
    pub tasks: u64,
}

impl SystemInfo {
    fn load(&self, index: usize) -> u64 {
        (self.loads[index] * 65536.0) as u64
    }

    /// `struct sysinfo` of linux/sysinfo.h on 64-bit machines.
    fn bytes(&self) -> [u8; 112] {
        let words = [
            self.uptime,
            self.load(0),
            self.load(1),
            self.load(2),
            self.total,
            self.free,
            self.shared,
            // Buffers of block devices: nothing counts them for a job.
            0,
            self.swap,
            self.swap_free,
        ];
        let mut bytes = [0; 112];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        let tasks = u16::try_from(self.tasks).unwrap_or(u16::MAX);
        bytes[80..82].copy_from_slice(&tasks.to_ne_bytes());
        // High memory is none; the unit is one byte.
        bytes[104..108].copy_from_slice(&1u32.to_ne_bytes());
        bytes
    }

    /// The same for a program of 32 bits, which is told of memory in pages
    /// where bytes would be too many (kernel/sys.c, `compat_sysinfo`).
    fn compat_bytes(&self) -> [u8; 64] {
        let fits = u32::try_from(self.total.max(self.swap)).is_ok();
        let unit = if fits { 1 } else { sys::page_size() };
        let words = [
            self.uptime,
            self.load(0),
            self.load(1),
            self.load(2),
            self.total / unit,
            self.free / unit,
            self.shared / unit,
            0,
            self.swap / unit,
            self.swap_free / unit,
        ];
        let mut bytes = [0; 64];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&u32::try_from(word).unwrap_or(u32::MAX).to_ne_bytes());
        }
        let tasks = u16::try_from(self.tasks).unwrap_or(u16::MAX);
        bytes[40..42].copy_from_slice(&tasks.to_ne_bytes());
        bytes[52..56].copy_from_slice(&(unit as u32).to_ne_bytes());
        bytes
    }
}

/// Answers every listener that comes through `from`, until its other end is
/// closed.
pub fn answer(tree: &'static Tree, from: &OwnedFd) {
    let mut listeners: Vec<OwnedFd> = Vec::new();
    // What an answer brought into memory goes again when it has been quiet.
    let quiet = PollTimeout::from(1000u16);
    let mut grown = true;
    loop {
        let mut fds = vec![PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        fds.extend(listeners.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, if grown { quiet } else { PollTimeout::NONE }) {
            Ok(0) => {
                grown = false;
                sys::shrink();
                continue;
            }
            Ok(_) => grown = true,
            Err(_) => continue,
        }
        let ready: Vec<PollFlags> =
            fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        drop(fds);
        for (index, events) in ready.iter().enumerate().skip(1).rev() {
            if events.contains(PollFlags::POLLIN) {
                one(tree, &listeners[index - 1]);
            } else if !events.is_empty() {
                // Nobody is left who has this filter.
                listeners.swap_remove(index - 1);
            }
        }
        if !ready[0].is_empty() {
            let mut word = [0; 8];
            match receive_with(from, &mut word) {
                Ok((length, fds)) if length > 0 => listeners.extend(fds),
                _ => return,
            }
        }
    }
}

/// One call. Who made it may be gone meanwhile; then nobody needs an answer.
fn one(tree: &'static Tree, listener: &OwnedFd) {
    let fd = listener.as_raw_fd();
    let Ok(request) = ScmpNotifReq::receive(fd) else { return };
    let info = tree.system_info();
    let (native, compat) = (info.bytes(), info.compat_bytes());
    let of_32_bits = matches!(request.data.arch, ScmpArch::X86 | ScmpArch::Arm);
    let bytes: &[u8] = if of_32_bits { &compat } else { &native };
    let base = request.data.args[0] as usize;
    let remote = [RemoteIoVec { base, len: bytes.len() }];
    // The pid may be another process's by now, unless the call still waits.
    if notify_id_valid(fd, request.id).is_err() {
        return;
    }
    let pid = Pid::from_raw(request.pid.cast_signed());
    let written = process_vm_writev(pid, &[IoSlice::new(bytes)], &remote);
    let none = ScmpNotifRespFlags::empty();
    let answer = match written {
        Ok(count) if count == bytes.len() => ScmpNotifResp::new_val(request.id, 0, none),
        _ => ScmpNotifResp::new_error(request.id, -libc::EFAULT, none),
    };
    let _ = answer.respond(fd);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<libc::sysinfo>(), 112);
        let info = SystemInfo { uptime: 7, loads: [1.5, 0.0, 0.0], tasks: 3, ..Default::default() };
        let bytes = info.bytes();
        assert_eq!(bytes[..8], 7u64.to_ne_bytes());
        assert_eq!(bytes[8..16], 98304u64.to_ne_bytes());
        assert_eq!(std::mem::offset_of!(libc::sysinfo, procs), 80);
        assert_eq!(std::mem::offset_of!(libc::sysinfo, mem_unit), 104);
        assert_eq!(bytes[80], 3);
        let large = SystemInfo { total: 24 << 30, free: 8 << 30, ..info };
        for (info, total, unit) in
            [(SystemInfo { total: 512 << 20, ..info }, 512 << 20, 1), (large, 24 << 18, 4096)]
        {
            let bytes = info.compat_bytes();
            let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!((word(0), word(4), word(16), word(52)), (7, 98304, total, unit));
            assert_eq!(bytes[40], 3);
        }
    }
}
