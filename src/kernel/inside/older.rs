//! What kernels before Linux 5.11 need done another way.

/// Marks every inherited descriptor from `first` on to be closed at the next
/// exec(2), where close_range(2) cannot (before Linux 5.11). In the node's own
/// /proc, so before any root is entered.
pub fn mark_inherited(first: i32) {
    // Of the last number of all, which nothing has: only whether it can.
    if crate::kernel::sys::cloexec_from(u32::MAX).is_ok() {
        return;
    }
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(number) = number.filter(|number| *number >= first) else { continue };
        let _ = crate::kernel::sys::set_cloexec(number);
    }
}
