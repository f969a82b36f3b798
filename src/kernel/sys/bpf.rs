//! bpf(2), for the one kind of program that denovo loads: the device filter
//! of a cgroup v2 group.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// One instruction, as `struct bpf_insn` of `linux/bpf.h` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u8,
    /// Destination register in the low four bits, source in the high four.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// The part of `union bpf_attr` for `BPF_PROG_LOAD` that is used here.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The part of `union bpf_attr` for `BPF_PROG_ATTACH` that is used here.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of groups above stay in force; all have to agree.
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;

/// Loads a device program.
///
/// No limit is raised before: kernels since 5.11 charge programs to the memory
/// group, and `RLIMIT_MEMLOCK` needs a capability that a container may lack.
///
/// # Errors
/// What bpf(2) gives: `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN` (or
/// `CAP_SYS_ADMIN`), `EINVAL` for a kernel before 4.15, `EACCES` from the verifier.
pub fn load_device_program(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let mut name = [0; 16];
    name[..14].copy_from_slice(b"denovo_devices");
    let attributes = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        instructions: program.as_ptr() as u64,
        // Only asked for by helpers that are for GPL programs; none is called.
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name,
    };
    // SAFETY: `attributes` is laid out as bpf(2) asks and lives through the
    // call; `program` and the licence, which it points to, do so too, and the
    // kernel only reads all three.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            std::ptr::from_ref(&attributes),
            size_of::<Load>(),
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor (close-on-exec)
    // that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a loaded program to a v2 group, besides those attached already.
///
/// # Errors
/// What bpf(2) gives: `EPERM` without the power to, or when a group above
/// allows no further program; `EBADF` when `group` is no cgroup2 directory.
pub fn attach_device_program(group: BorrowedFd, program: BorrowedFd) -> Result<(), Errno> {
    let attributes = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attributes` is laid out as bpf(2) asks and lives through the
    // call, which only reads it; both descriptors are borrowed and so open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            std::ptr::from_ref(&attributes),
            size_of::<Attach>(),
        )
    };
    Errno::result(done).map(drop)
}
