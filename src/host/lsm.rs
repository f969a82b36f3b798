//! Which security modules this node has. Asked only when a request names a
//! label: most do not.

use std::path::Path;

/// Whether AppArmor is on.
pub fn apparmor() -> bool {
    // As its own tools ask; a module parameter needs no securityfs.
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with('Y'))
}

/// Whether SELinux is on, enforcing or not.
pub fn selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}
