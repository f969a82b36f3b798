//! Users and groups by name and number, without the C library's name service.
//!
//! A static glibc binary that calls getpwnam(3) loads the shared modules that
//! nsswitch.conf names, and crashes when they were built for another glibc.
//! So the files are read here, and `getent` is run for what they do not know
//! (LDAP, sssd).

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// One user, as in passwd(5).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
    pub shell: PathBuf,
}

/// One group, as in group(5).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Group {
    pub name: String,
    pub gid: u32,
    pub members: Vec<String>,
}

/// A range of subordinate ids (subuid(5), subgid(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdRange {
    pub start: u32,
    pub count: u32,
}

/// The user with this name; `None` when neither /etc/passwd nor `getent` knows it.
pub fn user_by_name(name: &str) -> Option<User> {
    let known = |text: &str| users(text).find(|u| u.name == name);
    known(&file("/etc/passwd")).or_else(|| known(&getent("passwd", name)?))
}

/// The user with this number.
pub fn user_by_uid(uid: u32) -> Option<User> {
    let known = |text: &str| users(text).find(|u| u.uid == uid);
    known(&file("/etc/passwd")).or_else(|| known(&getent("passwd", &uid.to_string())?))
}

/// The group with this name.
pub fn group_by_name(name: &str) -> Option<Group> {
    let known = |text: &str| groups(text).find(|g| g.name == name);
    known(&file("/etc/group")).or_else(|| known(&getent("group", name)?))
}

/// The group with this number.
pub fn group_by_gid(gid: u32) -> Option<Group> {
    let known = |text: &str| groups(text).find(|g| g.gid == gid);
    known(&file("/etc/group")).or_else(|| known(&getent("group", &gid.to_string())?))
}

/// Names of those of these groups that have one.
///
/// # Arguments
/// * `everywhere` - whether `getent` is run, once, for what /etc/group does not know
pub fn group_names(gids: &[u32], everywhere: bool) -> Vec<(u32, String)> {
    let named = |text: &str| -> Vec<(u32, String)> {
        let known = groups(text).filter(|g| gids.contains(&g.gid));
        known.map(|g| (g.gid, g.name)).collect()
    };
    let mut found = named(&file("/etc/group"));
    let missing = gids.iter().filter(|gid| found.iter().all(|(known, _)| known != *gid));
    let missing: Vec<String> = missing.map(u32::to_string).collect();
    if everywhere && !missing.is_empty() {
        found.extend(getent_output("group", &missing).iter().flat_map(|o| named(&text_of(o))));
    }
    found
}

/// All groups of `user`, its primary one first, as initgroups(3) would set them.
///
/// A user that /etc/passwd holds is asked for in /etc/group only; for any
/// other user `getent initgroups` is run.
pub fn groups_of(user: &User) -> Vec<u32> {
    let local = users(&file("/etc/passwd")).any(|u| u.name == user.name);
    let mut found = vec![user.gid];
    let more = match (local, getent_unless(local, "initgroups", &user.name)) {
        (false, Some(line)) => {
            line.split_whitespace().skip(1).filter_map(|gid| gid.parse().ok()).collect()
        }
        _ => memberships(&file("/etc/group"), &user.name),
    };
    for gid in more {
        if !found.contains(&gid) {
            found.push(gid);
        }
    }
    found
}

/// Subordinate user ids of `user` in /etc/subuid; none when it has no line there.
pub fn subuids(user: &User) -> Vec<IdRange> {
    id_ranges(&file("/etc/subuid"), user)
}

/// Subordinate group ids of `user` in /etc/subgid.
pub fn subgids(user: &User) -> Vec<IdRange> {
    id_ranges(&file("/etc/subgid"), user)
}

/// Every range of /etc/subuid with the uid of its user; what is named there
/// and is not in /etc/passwd is left out.
pub fn subordinate_owners() -> Vec<(IdRange, u32)> {
    let (passwd, ranges) = (file("/etc/passwd"), file("/etc/subuid"));
    let by_name = |name: &str| users(&passwd).find(|u| u.name == name).map(|u| u.uid);
    ranges
        .lines()
        .filter_map(|line| {
            let mut fields = line.trim().splitn(3, ':');
            let owner = fields.next()?;
            let uid = owner.parse().ok().or_else(|| by_name(owner))?;
            let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            Some((IdRange { start, count }, uid))
        })
        .collect()
}

fn users(text: &str) -> impl Iterator<Item = User> + '_ {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
        Some(User {
            name: named(name)?,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: home.into(),
            shell: if shell.is_empty() { "/bin/sh" } else { shell }.into(),
        })
    })
}

fn groups(text: &str) -> impl Iterator<Item = Group> + '_ {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members] = fields[..] else { return None };
        let members = members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect();
        Some(Group { name: named(name)?, gid: gid.parse().ok()?, members })
    })
}

/// A name that is one: comments and NIS's `+` lines are not.
fn named(name: &str) -> Option<String> {
    (!name.is_empty() && !name.starts_with(['#', '+', '-'])).then(|| name.to_owned())
}

fn memberships(text: &str, user: &str) -> Vec<u32> {
    groups(text).filter(|g| g.members.iter().any(|m| m == user)).map(|g| g.gid).collect()
}

fn id_ranges(text: &str, user: &User) -> Vec<IdRange> {
    let uid = user.uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().splitn(3, ':');
            let owner = fields.next()?;
            let range = IdRange {
                start: fields.next()?.parse().ok()?,
                count: fields.next()?.parse().ok()?,
            };
            ((owner == user.name || owner == uid) && range.count > 0).then_some(range)
        })
        .collect()
}

fn file(path: &str) -> String {
    std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

fn getent_unless(skip: bool, database: &str, key: &str) -> Option<String> {
    if skip { None } else { getent(database, key) }
}

/// What `getent DATABASE KEY` (getent(1)) prints; `None` when it knows nothing
/// or is not there. Run by its full path: the caller's PATH is not to be
/// trusted when root asks.
fn getent(database: &str, key: &str) -> Option<String> {
    if key.is_empty() || key.starts_with('-') || key.contains(['\0', '\n', ':']) {
        return None;
    }
    let output = getent_output(database, &[key.to_owned()])?;
    output.status.success().then(|| text_of(&output))
}

/// Also where it does not know all of the keys.
fn getent_output(database: &str, keys: &[String]) -> Option<Output> {
    let program = ["/usr/bin/getent", "/bin/getent"].into_iter().find(|p| Path::new(p).exists())?;
    Command::new(program)
        .arg(database)
        .args(keys)
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n# comment:x:1:1::/:\n+::::::\n\
                          ada:x:1000:1000:Ada,,,:/home/ada:\nbroken:x:one:2::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nvideo:x:44:ada,bob\nada:x:1000:\nhpc:x:2000:ada\n";

    fn ada() -> User {
        users(PASSWD).find(|u| u.name == "ada").unwrap()
    }

    #[test]
    fn passwd_lines_are_read() {
        let names: Vec<String> = users(PASSWD).map(|u| u.name).collect();
        assert_eq!(names, ["root", "ada"]);
        assert_eq!((ada().uid, ada().home), (1000, "/home/ada".into()));
        assert_eq!(ada().shell, Path::new("/bin/sh"), "passwd(5): empty means /bin/sh");
    }

    #[test]
    fn memberships_are_found() {
        assert_eq!(memberships(GROUP, "ada"), [44, 2000]);
        assert!(memberships(GROUP, "ad").is_empty());
    }

    #[test]
    fn ranges_belong_to_a_name_or_a_number() {
        let text = "ada:100000:65536\n1000:300000:10\nbob:1:1\nada:5:0\nada:x:1\n";
        let expected =
            [IdRange { start: 100_000, count: 65536 }, IdRange { start: 300_000, count: 10 }];
        assert_eq!(id_ranges(text, &ada()), expected);
    }

    #[test]
    fn root_is_known_here_and_nobody_else_is_made_up() {
        let root = user_by_uid(0).unwrap();
        assert_eq!(user_by_name(&root.name), Some(root.clone()));
        assert_eq!(groups_of(&root)[0], root.gid);
        assert_eq!(user_by_name("no-such-user-here"), None);
        assert_eq!(group_by_gid(4_000_000_001), None);
        let root = vec![(0, "root".to_owned())];
        for everywhere in [false, true] {
            assert_eq!(group_names(&[0, 4_000_000_001], everywhere), root);
        }
        assert_eq!(user_by_name("-x"), None);
    }
}
