//! What processes share by name or number: System V objects (sysvipc(7)),
//! POSIX message queues (mq_overview(7)), keys (keyrings(7)).

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Handle, Kind, Thing};

/// All objects of this IPC namespace (proc_sysvipc(5)).
pub fn system_v() -> Vec<Thing> {
    let kinds = [(Kind::SysvShm, "shm"), (Kind::SysvSem, "sem"), (Kind::SysvMsg, "msg")];
    kinds
        .into_iter()
        .flat_map(|(kind, name)| {
            let path = format!("/proc/sysvipc/{name}");
            let text = crate::host::text_of(path.as_ref()).unwrap_or_default();
            objects(kind, &text)
        })
        .collect()
}

/// The columns have a heading each, which differ between kinds and kernels.
fn objects(kind: Kind, text: &str) -> Vec<Thing> {
    let mut lines = text.lines();
    let heads: Vec<&str> = lines.next().unwrap_or_default().split_ascii_whitespace().collect();
    let at = |name: &str| heads.iter().position(|head| *head == name);
    let (id, size) = match kind {
        Kind::SysvShm => ("shmid", "size"),
        Kind::SysvSem => ("semid", "nsems"),
        _ => ("msqid", "cbytes"),
    };
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let field = |name: &str| at(name).and_then(|n| fields.get(n)).copied();
            // Who made it: its owner is what that one says (IPC_SET of shmctl(2)).
            let (id, uid) = (field(id)?.parse().ok()?, field("cuid")?.parse().ok()?);
            // Printed as a signed number.
            let key = field("key")?.parse::<i64>().ok()? as u32;
            let what = match kind {
                Kind::SysvShm => format!(
                    "shared memory {id} of {} bytes, {} attached",
                    field(size)?,
                    field("nattch")?
                ),
                Kind::SysvSem => format!("set {id} of {} semaphores", field(size)?),
                _ => format!("message queue {id} with {} bytes", field(size)?),
            };
            Some(Thing {
                kind,
                key: format!("{key:#x} {uid}"),
                what,
                owner: Some(uid),
                // Of the last change of owner or mode, in practice the start.
                made: field("ctime").and_then(|t| t.parse().ok()),
                job: None,
                handle: Handle::SystemV { id },
            })
        })
        .collect()
}

/// All queues of a file system of type mqueue.
pub fn queues(dir: &Path) -> Vec<Thing> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            let name = super::shown(entry.file_name().as_ref());
            Some(Thing {
                kind: Kind::Mqueue,
                key: format!("/{name} {}", meta.uid()),
                what: format!("message queue /{name}"),
                owner: Some(meta.uid()),
                made: None,
                job: None,
                handle: Handle::Queue { name: entry.file_name() },
            })
        })
        .collect()
}

/// Users with keys that count for them (/proc/key-users, proc(5)); the
/// keyrings themselves are shown to their owner only.
pub fn keys() -> Vec<Thing> {
    let text = crate::host::text_of("/proc/key-users".as_ref()).unwrap_or_default();
    text.lines().filter_map(key_user).collect()
}

/// `  103:     2 2/2 2/200 26/20000`: uid, usage, keys, quotas in keys and bytes.
fn key_user(line: &str) -> Option<Thing> {
    let (uid, rest) = line.split_once(':')?;
    let uid = uid.trim().parse().ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let count: u64 = fields.next()?.split('/').next()?.parse().ok()?;
    let bytes = fields.nth(1)?.split('/').next()?;
    (count > 0).then(|| Thing {
        kind: Kind::Keyring,
        key: uid_key(uid),
        what: format!("{count} keys and keyrings of {bytes} bytes"),
        owner: Some(uid),
        made: None,
        job: None,
        handle: Handle::Keys { uid },
    })
}

fn uid_key(uid: u32) -> String {
    uid.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_by_their_headings() {
        let text = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime\n\
                    -559038737          3   600                  4096   101   102      2 61001   100 61001   100 1700000001          0 1700000000\n";
        let all = objects(Kind::SysvShm, text);
        assert_eq!(all[0].key, "0xdeadbeef 61001");
        assert_eq!(all[0].what, "shared memory 3 of 4096 bytes, 2 attached");
        assert_eq!((all[0].owner, all[0].made), (Some(61001), Some(1_700_000_000)));
        let text = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n\
                             0         10   600          4     0     0 61002     0          0 1700000000\n";
        let all = objects(Kind::SysvSem, text);
        assert_eq!((&*all[0].key, &*all[0].what), ("0x0 61002", "set 10 of 4 semaphores"));
    }

    #[test]
    fn users_with_keys_are_read() {
        let thing = key_user("  103:     2 2/2 2/200 26/20000").unwrap();
        assert_eq!((thing.owner, &*thing.what), (Some(103), "2 keys and keyrings of 26 bytes"));
        assert!(key_user("  103:     0 0/0 0/200 0/20000").is_none());
        assert!(key_user("").is_none());
    }
}
