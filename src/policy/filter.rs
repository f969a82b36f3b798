//! System calls that would tell a job of others, refused or answered for it.
//!
//! Written out as instructions: the list is short and the same for every job,
//! and a compiler's start would cost more than the filter. All else is allowed
//! by number alone, which the kernel (Linux 5.11) keeps in a bitmap, so that a
//! call pays next to nothing.

use super::spec::Seccomp;

/// `struct sock_filter` (kernel document networking/filter).
#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    /// Instructions to skip when the comparison holds, and when not.
    yes: u8,
    no: u8,
    value: u32,
}

/// Offsets in `struct seccomp_data`; the lower half of an argument comes
/// first on the machines that denovo runs on.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// The calls of this list in one table of the kernel's, by number. A program of
/// 64 bits reaches the table of 32-bit ones as well (`int 0x80`).
struct Table {
    /// `AUDIT_ARCH_*` of linux/audit.h.
    architecture: u32,
    sysinfo: u32,
    statx: u32,
    name_to_handle_at: u32,
    socket: u32,
    getsockopt: u32,
    adjtimex: u32,
    clock_adjtime: u32,
}

const NATIVE: Table = Table {
    #[cfg(target_arch = "x86_64")]
    architecture: 0xc000_003e,
    #[cfg(target_arch = "aarch64")]
    architecture: 0xc000_00b7,
    sysinfo: libc::SYS_sysinfo as u32,
    statx: libc::SYS_statx as u32,
    name_to_handle_at: libc::SYS_name_to_handle_at as u32,
    socket: libc::SYS_socket as u32,
    getsockopt: libc::SYS_getsockopt as u32,
    adjtimex: libc::SYS_adjtimex as u32,
    clock_adjtime: libc::SYS_clock_adjtime as u32,
};

/// arch/x86/entry/syscalls/syscall_32.tbl. There socketcall(2) leads to sockets
/// too; its arguments lie in memory, where a filter cannot look.
#[cfg(target_arch = "x86_64")]
const COMPAT: Table = Table {
    architecture: 0x4000_0003,
    sysinfo: 116,
    statx: 383,
    name_to_handle_at: 341,
    socket: 359,
    getsockopt: 365,
    adjtimex: 124,
    clock_adjtime: 343,
};
/// arch/arm/tools/syscall.tbl.
#[cfg(target_arch = "aarch64")]
const COMPAT: Table = Table {
    architecture: 0x4000_0028,
    sysinfo: 116,
    statx: 397,
    name_to_handle_at: 370,
    socket: 281,
    getsockopt: 295,
    adjtimex: 124,
    clock_adjtime: 372,
};

const ALLOW: u32 = 0x7fff_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const fn refuse(errno: i32) -> u32 {
    0x0005_0000 | errno as u32
}

/// `SECCOMP_FILTER_FLAG_*`: no slower speculation for it; a listener; one who
/// waits for the answer is only interrupted to be killed (Linux 5.19).
const SPEC_ALLOW: u32 = 1 << 2;
const NEW_LISTENER: u32 = 1 << 3;
const WAIT_KILLABLE: u32 = 1 << 5;

/// A call that is not simply refused: only if an argument is so.
enum When {
    Is(u32, u32),
    Has(u32, u32),
}

/// linux/socket.h, asm-generic/socket.h, linux/stat.h, linux/fcntl.h.
const AF_VSOCK: u32 = 40;
const SO_NETNS_COOKIE: u32 = 71;
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
const AT_HANDLE_MNT_ID_UNIQUE: u32 = 1;
/// The same in every table.
const SYS_CACHESTAT: u32 = 451;
const SYS_STATMOUNT: u32 = 457;
const SYS_LISTMOUNT: u32 = 458;
/// Of 32-bit programs only; a 64-bit table has nothing there.
const SYS_CLOCK_ADJTIME64: u32 = 405;

/// What is refused: as a kernel does that does not have it.
fn refused(table: &Table) -> [(u32, Option<When>, i32); 10] {
    [
        // What others have read of a file.
        (SYS_CACHESTAT, None, libc::ENOSYS),
        // Mounts since the boot.
        (SYS_STATMOUNT, None, libc::ENOSYS),
        (SYS_LISTMOUNT, None, libc::ENOSYS),
        (table.statx, Some(When::Has(3, STATX_MNT_ID_UNIQUE)), libc::ENOSYS),
        (table.name_to_handle_at, Some(When::Has(4, AT_HANDLE_MNT_ID_UNIQUE)), libc::EINVAL),
        // The one way between virtual machines that no namespace separates.
        (table.socket, Some(When::Is(0, AF_VSOCK)), libc::EAFNOSUPPORT),
        // Network namespaces since the boot.
        (table.getsockopt, Some(When::Is(2, SO_NETNS_COOKIE)), libc::ENOPROTOOPT),
        // How the node's clock is steered.
        (table.adjtimex, None, libc::ENOSYS),
        (table.clock_adjtime, None, libc::ENOSYS),
        (SYS_CLOCK_ADJTIME64, None, libc::ENOSYS),
    ]
}

/// The filter of a job's processes. `answered`: somebody answers sysinfo(2)
/// with the job's own share; `kernel`: major and minor version.
pub fn of_a_job(answered: bool, kernel: (u32, u32)) -> Seccomp {
    let (native, compat) = (rules(&NATIVE, answered), rules(&COMPAT, answered));
    let mut all = vec![load(ARCHITECTURE), equal(NATIVE.architecture, 0, native.len() as u8)];
    all.extend(native);
    all.extend([equal(COMPAT.architecture, 1, 0), give(ALLOW)]);
    all.extend(compat);
    let mut flags = SPEC_ALLOW;
    if answered {
        flags |= NEW_LISTENER;
    }
    if answered && kernel >= (5, 19) {
        flags |= WAIT_KILLABLE;
    }
    let summary = if answered { "of a job, sysinfo(2) answered" } else { "of a job" };
    Seccomp { program: bytes(&all), flags, summary: summary.to_owned(), listener: None }
}

/// What becomes of a call of this table.
fn rules(table: &Table, answered: bool) -> Vec<Instruction> {
    let mut all = vec![load(NUMBER)];
    if answered {
        all.extend([equal(table.sysinfo, 0, 1), give(NOTIFY)]);
    }
    for (call, when, errno) in refused(table) {
        let body = match when {
            None => vec![give(refuse(errno))],
            Some(When::Is(index, value)) => {
                vec![load(argument(index)), equal(value, 0, 1), give(refuse(errno)), give(ALLOW)]
            }
            Some(When::Has(index, bits)) => {
                vec![load(argument(index)), any(bits, 0, 1), give(refuse(errno)), give(ALLOW)]
            }
        };
        all.push(equal(call, 0, body.len() as u8));
        all.extend(body);
    }
    all.push(give(ALLOW));
    all
}

const fn load(offset: u32) -> Instruction {
    Instruction { code: 0x20, yes: 0, no: 0, value: offset }
}

const fn equal(value: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code: 0x15, yes, no, value }
}

/// Whether any of the bits is set.
const fn any(value: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code: 0x45, yes, no, value }
}

const fn give(value: u32) -> Instruction {
    Instruction { code: 0x06, yes: 0, no: 0, value }
}

fn bytes(program: &[Instruction]) -> Vec<u8> {
    let mut all = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        all.extend(instruction.code.to_ne_bytes());
        all.extend([instruction.yes, instruction.no]);
        all.extend(instruction.value.to_ne_bytes());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program gives for a call, as the kernel runs it.
    fn run(program: &[u8], architecture: u32, number: i64, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend((number as u32).to_ne_bytes());
        data.extend(architecture.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        arguments.iter().for_each(|a| data.extend(a.to_ne_bytes()));
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
        let (mut at, mut held) = (0, 0u32);
        loop {
            let one = &program[at * 8..at * 8 + 8];
            let (code, value) = (one[0], word(&one[4..]));
            at += 1;
            let holds = match code {
                0x06 => return value,
                0x20 => {
                    held = word(&data[value as usize..value as usize + 4]);
                    continue;
                }
                0x15 => held == value,
                0x45 => held & value != 0,
                other => panic!("code {other:#x}"),
            };
            at += usize::from(if holds { one[2] } else { one[3] });
        }
    }

    #[test]
    fn only_what_tells_of_others_is_refused_in_either_table() {
        let program = of_a_job(true, (6, 1)).program;
        for table in [NATIVE, COMPAT] {
            let of = |number: u32, arguments| {
                run(&program, table.architecture, i64::from(number), arguments)
            };
            assert_eq!(of(20, [0; 6]), ALLOW);
            assert_eq!(of(table.sysinfo, [0; 6]), NOTIFY);
            assert_eq!(of(SYS_CACHESTAT, [0; 6]), refuse(libc::ENOSYS));
            assert_eq!(of(SYS_LISTMOUNT, [0; 6]), refuse(libc::ENOSYS));
            assert_eq!(of(table.adjtimex, [0; 6]), refuse(libc::ENOSYS));
            assert_eq!(of(table.clock_adjtime, [0; 6]), refuse(libc::ENOSYS));
            assert_eq!(of(table.socket, [40, 1, 0, 0, 0, 0]), refuse(libc::EAFNOSUPPORT));
            assert_eq!(of(table.socket, [2, 1, 0, 0, 0, 0]), ALLOW);
            assert_eq!(of(table.getsockopt, [3, 1, 71, 0, 0, 0]), refuse(libc::ENOPROTOOPT));
            assert_eq!(of(table.getsockopt, [3, 1, 4, 0, 0, 0]), ALLOW);
            assert_eq!(of(table.statx, [0, 0, 0, 0x47ff, 0, 0]), refuse(libc::ENOSYS));
            assert_eq!(of(table.statx, [0, 0, 0, 0x17ff, 0, 0]), ALLOW);
            assert_eq!(of(table.name_to_handle_at, [0, 0, 0, 0, 1, 0]), refuse(libc::EINVAL));
        }
    }

    #[test]
    fn a_third_table_of_calls_is_let_through() {
        let program = of_a_job(true, (6, 1)).program;
        assert_eq!(run(&program, 0x1234, i64::from(SYS_CACHESTAT), [0; 6]), ALLOW);
    }

    #[test]
    fn sysinfo_is_the_kernels_where_nobody_answers() {
        let filter = of_a_job(false, (6, 1));
        for table in [NATIVE, COMPAT] {
            let number = i64::from(table.sysinfo);
            assert_eq!(run(&filter.program, table.architecture, number, [0; 6]), ALLOW);
        }
        assert_eq!(filter.flags & NEW_LISTENER, 0);
    }
}
