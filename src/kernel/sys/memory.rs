//! What this process shows and holds: its name, its memory.

use std::ffi::CStr;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;

use crate::host::process::Stat;

/// The name in /proc/PID/comm (prctl(2) `PR_SET_NAME`).
///
/// # Errors
/// As prctl(2).
pub fn set_process_name(name: &CStr) -> Result<(), Errno> {
    // SAFETY: name is NUL-terminated and outlives the call.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }).map(drop)
}

/// The command line that ps shows, overwritten in place: at most as long as
/// the one that this process was started with (proc_pid_cmdline(5)).
pub fn set_command_line(text: &[u8]) {
    let line = std::fs::read("/proc/self/stat").unwrap_or_default();
    let field = |number| Stat::parse(&line)?.number(number).and_then(|n| usize::try_from(n).ok());
    // arg_start and arg_end of proc_pid_stat(5).
    let (Some(start), Some(end)) = (field(48), field(49)) else { return };
    if start == 0 || end <= start + text.len() {
        return;
    }
    // SAFETY: the kernel says that start..end is where the arguments of this
    // process lie, on its own stack and writable. Nothing reads them as Rust
    // values any more: the command line was parsed into owned strings.
    let area = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, end - start) };
    area.fill(0);
    area[..text.len()].copy_from_slice(text);
}

/// The program's entry (build.rs names it to the linker): has the kernel provide
/// the writable data in one call, then goes on to the C library's `_start`.
///
/// That applies the relocations of a static-pie executable, which lie in every
/// page of .data.rel.ro: fifty faults become one call, a sixth of a start.
/// (The same for the code costs more than the faults that it saves: most of it
/// is never run.) Before Linux 5.14 the call is refused, and nothing is lost.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
// The one symbol of this name in the program; only the linker refers to it.
#[unsafe(no_mangle)]
extern "C" fn denovo_start() -> ! {
    // The data begins on the page after the code's last (`etext` is the linker's,
    // end(3)). rdx holds what _start hands to atexit(3), the stack the arguments
    // (System V ABI, AMD64, "Process Initialization"): both stay as they are.
    std::arch::naked_asm!(
        "mov r12, rdx",
        "lea rdi, [rip + etext + {page} - 1]",
        "and rdi, -{page}",
        "lea rsi, [rip + _end]",
        "sub rsi, rdi",
        "mov edx, {write}",
        "mov eax, {madvise}",
        "syscall",
        "mov rdx, r12",
        "jmp _start",
        page = const 4096,
        madvise = const libc::SYS_madvise,
        write = const libc::MADV_POPULATE_WRITE,
    )
}

/// Has the kernel provide in one call the pages of the stack that every start
/// touches one by one: each would be a fault of its own. (Those of the heap are
/// `Heap`'s, which [`denovo_start`] provides.) Before Linux 5.14, and where memory
/// is short, it does nothing.
pub fn prefault() {
    const STACK: usize = 32 << 10;
    const PAGE: usize = 4096;
    let here = 0u8;
    let top = (&raw const here as usize) / PAGE * PAGE;
    // SAFETY: MADV_POPULATE_WRITE changes no contents; a range that is not all
    // mapped is refused with an error.
    unsafe {
        libc::madvise((top - STACK) as *mut libc::c_void, STACK, libc::MADV_POPULATE_WRITE);
    }
}

/// Memory of zeroes that this process and all that it forks have in common, for
/// as long as one of them lives.
///
/// # Errors
/// As mmap(2).
pub fn shared_words() -> Result<&'static [AtomicU64], Errno> {
    const WORDS: usize = 4096;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing
    // that is there.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            WORDS * size_of::<AtomicU64>(),
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: the mapping is of that length, aligned to a page, never taken
    // away, and zeroes are valid atomics; others change it as atomics only.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<AtomicU64>(), WORDS) })
}

/// Bytes of a page of memory (sysconf(3)).
pub fn page_size() -> u64 {
    // SAFETY: a number in, a number out.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// Gives memory back before a long wait: what malloc holds free, and the
/// pages of our own code and constants, which come back when touched.
pub fn shrink() {
    unsafe extern "C" {
        fn malloc_trim(pad: libc::size_t) -> libc::c_int;
        static __executable_start: u8;
        static etext: u8;
    }
    // SAFETY: malloc_trim only returns free memory to the kernel.
    unsafe { malloc_trim(0) };
    let page = page_size() as usize;
    let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize);
    let (start, end) = (start.next_multiple_of(page), end / page * page);
    if start < end {
        // SAFETY: between the two symbols lies read-only code and constants
        // of the program's own file, never written by relocation (those are
        // in segments after etext): the pages are clean, and dropping them
        // changes nothing but where they are read from next.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}
