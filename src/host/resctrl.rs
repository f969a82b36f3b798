//! Where the kernel's resource control is mounted. Asked only when a request
//! names a class of service.

use std::path::{Path, PathBuf};

/// The mount point of resctrl; `None` where it is not mounted.
pub fn mount_point() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    find(&text)
}

fn find(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        (filesystem.starts_with("resctrl ") && root == "/").then(|| PathBuf::from(point))
    })
}

/// Whether there is such a group below the mount point.
pub fn has(mount: &Path, group: &str) -> bool {
    mount.join(group).join("schemata").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_by_its_type() {
        let text = "24 1 0:22 / /sys rw - sysfs sysfs rw\n\
            40 24 0:30 / /sys/fs/resctrl rw - resctrl resctrl rw\n";
        assert_eq!(find(text), Some(PathBuf::from("/sys/fs/resctrl")));
        assert_eq!(find("24 1 0:22 / /sys/fs/resctrl rw - sysfs sysfs rw\n"), None);
        assert_eq!(find("24 1 0:22 /part /x rw - resctrl resctrl rw\n"), None);
    }
}
