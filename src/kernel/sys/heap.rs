//! The small blocks of a start, faster than malloc(3).
//!
//! A start makes and frees some 1,400 of them, which takes malloc a quarter of all
//! instructions before the program inside runs, and no crate does it for less: what
//! is general has locks, pages of its own, or never frees.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;

/// The program's allocator: blocks up to [`LARGEST`] bytes from a fixed arena with a
/// list of free ones for each size, as long as the process has one thread; all
/// others, and those that no longer fit, from malloc(3).
pub struct Heap {
    arena: UnsafeCell<Arena>,
}

/// Sizes are rounded up to this, in bytes; malloc(3)'s alignment on 64 bits.
const STEP: usize = 16;
const LARGEST: usize = 1024;
/// A start needs 30 KiB of it, `job run` 40. It lies in what `denovo_start` has the
/// kernel provide, so that more would cost every start.
const SIZE: usize = 48 << 10;

#[repr(C, align(4096))]
struct Arena {
    blocks: [u8; SIZE],
    /// First free block of each size; each has the address of the next in it.
    free: [*mut u8; LARGEST / STEP + 1],
    /// Bytes of `blocks` that were ever given out.
    used: usize,
}

// SAFETY: `arena` is touched only by `mine`'s callers: by the only thread there is.
unsafe impl Sync for Heap {}

/// Whether this process has only one thread (`__libc_single_threaded(3)`, glibc
/// 2.32): it is set before a second one begins.
fn alone() -> bool {
    unsafe extern "C" {
        static __libc_single_threaded: libc::c_char;
    }
    // SAFETY: a byte that only the C library writes, when it makes a thread: while
    // there is one thread, that is this one, and not during this read.
    unsafe { (&raw const __libc_single_threaded).read_volatile() != 0 }
}

fn class(layout: Layout) -> Option<usize> {
    let fits = layout.size() <= LARGEST && layout.align() <= STEP;
    fits.then(|| layout.size().div_ceil(STEP))
}

impl Heap {
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        let free = [null_mut(); LARGEST / STEP + 1];
        Self { arena: UnsafeCell::new(Arena { blocks: [0; SIZE], free, used: 0 }) }
    }

    fn holds(&self, block: *mut u8) -> bool {
        (block as usize).wrapping_sub(self.arena.get() as usize) < SIZE
    }

    /// A block of this class, or null when the arena has no more.
    ///
    /// # Safety
    /// The process has one thread.
    // SAFETY: whoever calls it has seen that (`alone`).
    unsafe fn take(&self, class: usize) -> *mut u8 {
        let arena = self.arena.get();
        // SAFETY: one thread, so that nobody else changes the lists meanwhile. No
        // reference to the blocks is made: what was given out of them is others'.
        unsafe {
            let first = (*arena).free[class];
            if !first.is_null() {
                // `put` has written the next one's address into it.
                (*arena).free[class] = first.cast::<*mut u8>().read();
                return first;
            }
            let at = (*arena).used;
            if at + class * STEP > SIZE {
                return null_mut();
            }
            (*arena).used += class * STEP;
            (&raw mut (*arena).blocks).cast::<u8>().add(at)
        }
    }

    /// # Safety
    /// The process has one thread; the block is one that `take` gave for this class.
    // SAFETY: whoever calls it has seen the one (`alone`), and has the other from `holds`.
    unsafe fn put(&self, class: usize, block: *mut u8) {
        // SAFETY: as in `take`; the block is at least STEP bytes, aligned, and the
        // caller has given it up.
        unsafe {
            let free = &mut (*self.arena.get()).free[class];
            block.cast::<*mut u8>().write(*free);
            *free = block;
        }
    }
}

// SAFETY: a block is the caller's alone from `take` or malloc(3) until it is freed,
// and as large and aligned as its class, which the layout gives and which is the same
// when it is freed. A block of the arena that is freed while there are several threads
// is not used again.
unsafe impl GlobalAlloc for Heap {
    // SAFETY: as the trait has it, here and below: the layout is not of size 0.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(class) = class(layout)
            && alone()
        {
            // SAFETY: alone.
            let block = unsafe { self.take(class) };
            if !block.is_null() {
                return block;
            }
        }
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: the block is one of this allocator's, made with this layout.
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !self.holds(block) {
            // SAFETY: it came from there.
            return unsafe { System.dealloc(block, layout) };
        }
        if let Some(class) = class(layout)
            && alone()
        {
            // SAFETY: alone; `take` gave it for the same layout.
            unsafe { self.put(class, block) };
        }
    }

    // SAFETY: as for `dealloc`.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.holds(block) {
            // SAFETY: it came from there.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller promises that the size is not too large for the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if class(wanted) == class(layout) {
            return block;
        }
        // SAFETY: both blocks are at least as long as what is copied, and apart.
        unsafe {
            let new = self.alloc(wanted);
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    #[test]
    fn a_freed_block_is_given_again_to_its_own_size_only() {
        static HEAP: Heap = Heap::new();
        // SAFETY: this heap is this test's alone, whatever threads there are.
        unsafe {
            let first = HEAP.take(2);
            let second = HEAP.take(2);
            assert_eq!(second as usize - first as usize, 2 * STEP);
            HEAP.put(2, first);
            let other = HEAP.take(3);
            assert_eq!(other as usize - second as usize, 2 * STEP);
            assert_eq!(HEAP.take(2), first);
            assert_eq!(HEAP.take(2) as usize - other as usize, 3 * STEP);
        }
    }

    #[test]
    fn an_arena_that_is_full_gives_nothing() {
        static HEAP: Heap = Heap::new();
        let most = LARGEST / STEP;
        // SAFETY: as above.
        unsafe {
            for _ in 0..SIZE / LARGEST {
                assert!(HEAP.holds(HEAP.take(most)));
            }
            assert!(HEAP.take(most).is_null());
            assert!(HEAP.take(1).is_null());
        }
    }

    #[test]
    fn with_several_threads_it_is_malloc() {
        static HEAP: Heap = Heap::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: freed with the layout that it was made with.
                unsafe {
                    let block = HEAP.alloc(layout(40));
                    assert!(!HEAP.holds(block));
                    block.write_bytes(7, 40);
                    let block = HEAP.realloc(block, layout(40), 4000);
                    assert_eq!(block.add(39).read(), 7);
                    HEAP.dealloc(block, layout(4000));
                }
            });
        });
    }

    #[test]
    fn a_block_of_the_arena_grows_out_of_it_with_what_is_in_it() {
        static HEAP: Heap = Heap::new();
        // SAFETY: as above.
        unsafe {
            let block = HEAP.take(3);
            block.write_bytes(9, 40);
            assert_eq!(HEAP.realloc(block, layout(40), 47), block);
            let grown = HEAP.realloc(block, layout(47), 5000);
            assert!(!HEAP.holds(grown));
            assert_eq!(grown.add(39).read(), 9);
            HEAP.dealloc(grown, layout(5000));
        }
    }
}
