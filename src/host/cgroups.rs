//! Which control group hierarchies there are, and where the caller is in them.

use std::path::{Path, PathBuf};

use super::{Cgroups, HierarchyV1, HierarchyV2};

/// Group in a user's delegated group into which denovo moves the processes
/// that are in the latter, before it can have controllers for others below it
/// (cgroups(7), "no internal processes").
pub const CALLERS: &str = "denovo-callers";

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
struct MountLine<'a> {
    id: u32,
    parent: u32,
    /// What of its file system is mounted here.
    root: &'a str,
    point: &'a str,
    fstype: &'a str,
    /// Options of the file system, not of this mount.
    options: &'a str,
}

impl<'a> MountLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let id = mount.next()?.parse().ok()?;
        let parent = mount.next()?.parse().ok()?;
        let _device = mount.next()?;
        let (root, point) = (mount.next()?, mount.next()?);
        let mut filesystem = filesystem.split(' ');
        let fstype = filesystem.next()?;
        let _source = filesystem.next()?;
        Some(Self { id, parent, root, point, fstype, options: filesystem.next().unwrap_or("") })
    }
}

/// The hierarchies that can be reached, from the text of /proc/self/mountinfo
/// and /proc/self/cgroup (cgroups(7)). What only a look into the cgroup2 mount
/// tells (its controllers) is left empty.
///
/// A hierarchy that several mounts show is taken from the one that shows the
/// most of it; mounts that another one hides do not count.
pub fn layout(mountinfo: &str, own: &str) -> Cgroups {
    let mounts: Vec<MountLine> = mountinfo.lines().filter_map(MountLine::parse).collect();
    let mut found = Cgroups::default();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // A group that was removed while processes are in it.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        if number == "0" && controllers.is_empty() {
            let mount = best(&mounts, path, |m| m.fstype == "cgroup2");
            found.v2 = mount.map(|(mount, own)| HierarchyV2 { mount, own, ..Default::default() });
            continue;
        }
        let names: Vec<&str> = controllers.split(',').collect();
        let shows = |m: &MountLine| {
            m.fstype == "cgroup" && names.iter().all(|n| m.options.split(',').any(|o| o == *n))
        };
        if let Some((mount, own)) = best(&mounts, path, shows) {
            let controllers = names.into_iter().map(str::to_owned).collect();
            found.v1.push(HierarchyV1 { controllers, mount, own, writable: false });
        }
    }
    // By number the order differs from boot to boot.
    found.v1.sort_by(|a, b| a.mount.cmp(&b.mount));
    found
}

/// The mount that shows the most of a hierarchy, and where the group `own` is
/// below it.
fn best(
    mounts: &[MountLine],
    own: &str,
    matches: impl Fn(&MountLine) -> bool,
) -> Option<(PathBuf, String)> {
    let mut choice: Option<(bool, &MountLine)> = None;
    for mount in mounts.iter().filter(|m| matches(m) && !hidden(m, mounts)) {
        let shown = below(own, mount.root).is_some();
        let better = choice.is_none_or(|(had, old)| {
            (shown, std::cmp::Reverse(mount.root.len())) > (had, std::cmp::Reverse(old.root.len()))
        });
        if better {
            choice = Some((shown, mount));
        }
    }
    choice.map(|(_, mount)| {
        let own = below(own, mount.root).unwrap_or(own);
        (
            PathBuf::from(String::from_utf8_lossy(&unescape(mount.point.as_bytes())).into_owned()),
            if own.is_empty() { "/" } else { own }.to_owned(),
        )
    })
}

/// `path` as seen below `root`, both absolute: `/a/b` below `/a` is `/b`.
fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Whether a later mount on the way to this one, or on top of it, hides it.
fn hidden(mount: &MountLine, mounts: &[MountLine]) -> bool {
    let mut at = mount;
    // A chain of parents is at most as long as the table.
    for _ in 0..mounts.len() {
        let covers = |other: &MountLine| {
            other.parent == at.id
                && below(mount.point, other.point).is_some()
                && other.id != mount.id
                && !leads_to(other, mount, mounts)
        };
        if mounts.iter().any(covers) {
            return true;
        }
        match mounts.iter().find(|m| m.id == at.parent && m.id != at.id) {
            Some(parent) => at = parent,
            None => return false,
        }
    }
    false
}

/// Whether `mount` is mounted on `other`, directly or through others.
fn leads_to(other: &MountLine, mount: &MountLine, mounts: &[MountLine]) -> bool {
    let mut parent = mount.parent;
    for _ in 0..mounts.len() {
        if parent == other.id {
            return true;
        }
        match mounts.iter().find(|m| m.id == parent && m.parent != parent) {
            Some(next) => parent = next.parent,
            None => return false,
        }
    }
    false
}

/// Octal escapes of mountinfo undone (`\040` is a space).
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|octal| std::str::from_utf8(octal).ok())
            .and_then(|octal| u8::from_str_radix(octal, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

/// Fills in what only the file systems themselves tell.
pub(super) fn look_into(found: &mut Cgroups) {
    for hierarchy in &mut found.v1 {
        hierarchy.writable = writable(&hierarchy.mount, &hierarchy.own);
    }
    let Some(v2) = &mut found.v2 else { return };
    let words = |path: &Path| -> Vec<String> {
        let text = super::text_of(path).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    if let Some(delegated) = v2.own.strip_suffix(CALLERS).and_then(|p| p.strip_suffix('/')) {
        v2.own = if delegated.is_empty() { "/" } else { delegated }.to_owned();
    }
    v2.controllers = words(&v2.mount.join("cgroup.controllers"));
    v2.own_controllers = if v2.own == "/" {
        v2.controllers.clone()
    } else {
        words(&group(&v2.mount, &v2.own).join("cgroup.controllers"))
    };
    v2.writable = writable(&v2.mount, &v2.own);
}

impl Cgroups {
    /// The same for a caller who is in the v2 group `own`.
    pub fn seen_from(mut self, own: &str) -> Self {
        if let Some(v2) = &mut self.v2 {
            v2.own = format!("/{own}");
        }
        look_into(&mut self);
        self
    }
}

fn group(mount: &Path, own: &str) -> PathBuf {
    mount.join(own.trim_start_matches('/'))
}

/// Whether the caller may make groups in this one, as far as permission bits
/// and a read-only mount tell.
fn writable(mount: &Path, own: &str) -> bool {
    use nix::fcntl::{AT_FDCWD, AtFlags};
    use nix::unistd::{AccessFlags, faccessat};
    let path = group(mount, own);
    faccessat(AT_FDCWD, &path, AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(controllers: &[&str], mount: &str, own: &str) -> HierarchyV1 {
        let controllers = controllers.iter().map(|c| (*c).to_owned()).collect();
        HierarchyV1 { controllers, mount: mount.into(), own: own.into(), writable: false }
    }

    fn v2(mount: &str, own: &str) -> Option<HierarchyV2> {
        Some(HierarchyV2 { mount: mount.into(), own: own.into(), ..Default::default() })
    }

    const TOP: &str = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                       24 22 0:22 / /sys rw,nosuid shared:2 - sysfs sysfs rw\n";

    #[test]
    fn debian_12_has_v2_only() {
        let mountinfo = format!(
            "{TOP}31 24 0:27 / /sys/fs/cgroup rw,nosuid,nodev shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
        );
        let own = "0::/user.slice/user-1000.slice/session-3.scope\n";
        let found = layout(&mountinfo, own);
        assert_eq!(found.v1, []);
        assert_eq!(found.v2, v2("/sys/fs/cgroup", "/user.slice/user-1000.slice/session-3.scope"));
    }

    #[test]
    fn red_hat_8_is_hybrid_with_co_mounts() {
        let mountinfo = format!(
            "{TOP}\
            30 24 0:25 / /sys/fs/cgroup ro,nosuid shared:4 - tmpfs tmpfs ro,mode=755\n\
            31 30 0:26 / /sys/fs/cgroup/systemd rw shared:5 - cgroup cgroup rw,xattr,release_agent=/usr/lib/systemd/systemd-cgroups-agent,name=systemd\n\
            34 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:6 - cgroup cgroup rw,cpu,cpuacct\n\
            35 30 0:30 / /sys/fs/cgroup/memory rw shared:7 - cgroup cgroup rw,memory\n\
            36 30 0:31 / /sys/fs/cgroup/unified rw shared:8 - cgroup2 cgroup2 rw\n"
        );
        let own = "9:memory:/user.slice\n4:cpuacct,cpu:/\n1:name=systemd:/user.slice/u\n0::/user.slice/u\n";
        let found = layout(&mountinfo, own);
        assert_eq!(
            found.v1,
            [
                v1(&["cpuacct", "cpu"], "/sys/fs/cgroup/cpu,cpuacct", "/"),
                v1(&["memory"], "/sys/fs/cgroup/memory", "/user.slice"),
                v1(&["name=systemd"], "/sys/fs/cgroup/systemd", "/user.slice/u"),
            ]
        );
        assert_eq!(found.v2, v2("/sys/fs/cgroup/unified", "/user.slice/u"));
    }

    #[test]
    fn nothing_mounted_is_nothing() {
        let found = layout(TOP, "5:memory:/\n0::/\n");
        assert!(found.v1.is_empty() && found.v2.is_none());
        assert!(layout("", "").v2.is_none());
        assert!(layout("garbage\n\n1 2 3", "garbage\n1:x\n").v1.is_empty());
    }

    #[test]
    fn a_schedulers_group_and_a_deleted_one() {
        let mountinfo = format!("{TOP}31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let slurm = "/system.slice/slurmstepd.scope/job_17/step_0/user/task_0";
        assert_eq!(layout(&mountinfo, &format!("0::{slurm}\n")).v2, v2("/sys/fs/cgroup", slurm));
        assert_eq!(layout(&mountinfo, "0::/gone (deleted)\n").v2, v2("/sys/fs/cgroup", "/gone"));
    }

    #[test]
    fn a_mount_of_a_part_shows_the_group_relative_to_it() {
        // What a container without a cgroup namespace sees.
        let mountinfo = format!(
            "{TOP}\
            40 24 0:30 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
            41 24 0:31 /docker/ab /sys/fs/cgroup/cp\\040u ro - cgroup cgroup rw,cpu\n"
        );
        let found = layout(&mountinfo, "3:memory:/docker/ab\n2:cpu:/docker/ab/c\n");
        assert_eq!(
            found.v1,
            [
                v1(&["cpu"], "/sys/fs/cgroup/cp u", "/c"),
                v1(&["memory"], "/sys/fs/cgroup/memory", "/"),
            ]
        );
    }

    #[test]
    fn of_two_mounts_the_one_that_shows_more_counts() {
        let mountinfo = format!(
            "{TOP}\
            40 22 0:30 /part /srv/part rw - cgroup2 cgroup2 rw\n\
            41 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
            42 22 0:30 /other /srv/other rw - cgroup2 cgroup2 rw\n"
        );
        assert_eq!(layout(&mountinfo, "0::/part/x\n").v2, v2("/sys/fs/cgroup", "/part/x"));
    }

    #[test]
    fn hidden_mounts_do_not_count() {
        // A tmpfs over the whole directory, and a mount on the same point.
        let mountinfo = format!(
            "{TOP}\
            40 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
            41 40 0:31 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        );
        assert!(layout(&mountinfo, "0::/\n").v2.is_none());
        let mountinfo = format!(
            "{TOP}\
            30 24 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            40 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            50 30 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        );
        let found = layout(&mountinfo, "3:memory:/\n0::/\n");
        assert!(found.v1.is_empty());
        assert_eq!(found.v2, v2("/sys/fs/cgroup", "/"));
    }
}
