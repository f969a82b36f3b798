//! Which setting refused a user namespace.

use nix::errno::Errno;

use crate::problem::Problem;

/// The settings that a kernel or distribution has against user namespaces;
/// `None` where this node does not have the setting.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// Whether the kernel was built with them (/proc/self/ns/user).
    pub built: bool,
    /// `user.max_user_namespaces` (user_namespaces(7)).
    pub most: Option<u64>,
    /// `kernel.unprivileged_userns_clone` (Debian's and Arch's patch).
    pub unprivileged: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu 23.10 and later).
    pub apparmor: Option<u64>,
    /// Whether a seccomp filter is in force (`Seccomp:` of proc_pid_status(5)).
    pub filtered: bool,
    /// Whether the root directory is not the root of the mount namespace.
    pub chroot: bool,
}

impl Settings {
    /// Reads them from /proc.
    pub fn read() -> Self {
        let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            built: std::path::Path::new("/proc/self/ns/user").exists(),
            most: number("/proc/sys/user/max_user_namespaces"),
            unprivileged: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            filtered: super::hardware::field(&status, "Seccomp").is_some_and(|mode| mode != "0"),
            // A root that is no mount point has no line of its own
            // (proc_pid_mountinfo(5) shows mounts below the root only).
            chroot: !mountinfo.is_empty()
                && !mountinfo.lines().any(|l| l.split(' ').nth(4) == Some("/")),
        }
    }
}

/// Says why clone(2) or unshare(2) with `CLONE_NEWUSER` failed with `errno`,
/// with the setting of this node that refused as the hint.
pub fn why_no_user_namespace(errno: Errno) -> Problem {
    explain(errno, &Settings::read())
}

fn explain(errno: Errno, node: &Settings) -> Problem {
    let message = |why: &str| format!("no user namespace could be made ({errno}): {why}");
    if !node.built {
        return Problem::kernel(message("this kernel was built without them"))
            .hint("run a kernel with CONFIG_USER_NS=y, or run denovo as root");
    }
    if node.most == Some(0) {
        return Problem::site(message("user.max_user_namespaces is 0"))
            .hint("as root: sysctl -w user.max_user_namespaces=65536");
    }
    match errno {
        Errno::ENOSPC | Errno::EUSERS => Problem::site(message(
            "the limit user.max_user_namespaces is reached, or 32 are nested already",
        ))
        .hint(format!(
            "as root: sysctl -w user.max_user_namespaces={}",
            node.most.unwrap_or(32768).saturating_mul(2)
        )),
        Errno::EPERM | Errno::EACCES => refused(message, node),
        _ => Problem::kernel(message("the kernel gave no reason that denovo knows")),
    }
}

fn refused(message: impl Fn(&str) -> String, node: &Settings) -> Problem {
    if node.unprivileged == Some(0) {
        return Problem::site(message("kernel.unprivileged_userns_clone is 0"))
            .hint("as root: sysctl -w kernel.unprivileged_userns_clone=1");
    }
    if node.apparmor.is_some_and(|n| n != 0) {
        return Problem::site(message("kernel.apparmor_restrict_unprivileged_userns is 1")).hint(
            "give denovo an AppArmor profile with the rule `userns,`, or as root: \
             sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
    }
    if node.chroot {
        return Problem::user(message("the caller is in a chroot"))
            .hint("run denovo from outside the chroot (user_namespaces(7), EPERM)");
    }
    if node.filtered {
        return Problem::site(message("a seccomp filter around the caller refuses it"))
            .hint("start the surrounding container with a filter that allows clone and unshare");
    }
    Problem::site(message("a security module refuses it, or the caller's ids are not mapped"))
        .hint("look into the kernel's log (dmesg) for a line of SELinux or AppArmor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_very_setting_is_named() {
        let fine = Settings { built: true, most: Some(1000), ..Settings::default() };
        let table = [
            (Errno::ENOSPC, fine.clone(), "user.max_user_namespaces=2000"),
            (
                Errno::ENOSPC,
                Settings { most: Some(0), ..fine.clone() },
                "max_user_namespaces=65536",
            ),
            (
                Errno::EPERM,
                Settings { unprivileged: Some(0), ..fine.clone() },
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                Errno::EACCES,
                Settings { apparmor: Some(1), ..fine.clone() },
                "apparmor_restrict_unprivileged_userns=0",
            ),
            (Errno::EPERM, Settings { chroot: true, ..fine.clone() }, "outside the chroot"),
            (Errno::EPERM, Settings { filtered: true, ..fine.clone() }, "surrounding container"),
            (Errno::EPERM, fine, "dmesg"),
            (Errno::EINVAL, Settings::default(), "CONFIG_USER_NS=y"),
        ];
        for (errno, node, expected) in table {
            let problem = explain(errno, &node);
            let hint = problem.hint.unwrap_or_default();
            assert!(hint.contains(expected), "{errno}: {hint}");
        }
    }

    #[test]
    fn this_node_has_settings() {
        assert!(!Settings::read().chroot);
    }
}
