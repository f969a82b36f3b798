//! From argv to the exit code.
//!
//! Without the standard library's own start: it reads /proc/self/maps and
//! installs handlers for a stack overflow, which costs a tenth of a
//! millisecond that a container's start is measured by.
#![no_main]

#[global_allocator]
static HEAP: denovo::kernel::sys::Heap = denovo::kernel::sys::Heap::new();

/// What the C library calls. `std::env::args_os` works without our help: glibc
/// hands the arguments to every initialiser.
// The one symbol of this name in the program: there is no other main.
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: i32, _argv: *const *const u8) -> i32 {
    denovo::cli::main(std::env::args_os())
}
