//! Locks, keys, terminals, queues and other objects with names.

use nix::mqueue::{MQ_OFlag, mq_close, mq_open};
use nix::sys::stat::Mode;

use super::{Channel, Look, Reading, lines_after, names, number, text, word_number};
use crate::kernel::sys::probe;

pub const CHANNELS: &[Channel] = &[
    Channel::new("locks", "/proc/locks", "OFD locks cross pid ns", |_| {
        lines_after("/proc/locks", 0).map(Reading::List)
    })
    .marked(),
    Channel::new("keys", "/proc/keys", "key names of uid", |_| {
        lines_after("/proc/keys", 0).map(Reading::List)
    })
    .marked(),
    Channel::new("key_users", "/proc/key-users", "keys of uid", |_| {
        let all = lines_after("/proc/key-users", 0)?;
        // `UID: USAGE NKEYS/NIKEYS …`
        let keys =
            |l: &String| l.split_ascii_whitespace().nth(2)?.split('/').next()?.parse::<f64>().ok();
        number(all.iter().filter_map(keys).sum::<f64>())
    })
    .within(2.0)
    .level(10.0),
    Channel::new("keyring_u", "keyctl @u", "keys kept after job", |_| {
        let all = probe::user_keys().ok()?;
        Some(Reading::List(all.into_iter().map(|(_, text)| text).collect()))
    })
    .marked(),
    Channel::new("pts", "/dev/pts", "terminals", |_| {
        let all = names("/dev/pts")?;
        number(all.iter().filter(|n| n.parse::<u32>().is_ok()).count() as f64)
    })
    .level(8.0),
    Channel::new("pty_nr", "/proc/sys/kernel/pty/nr", "terminals", |_| {
        number(word_number(&text("/proc/sys/kernel/pty/nr")?, 0)?)
    })
    .within(0.0)
    .level(8.0),
    Channel::new("sysv_shm", "/proc/sysvipc/shm", "shm", |_| objects("shm")).same().marked(),
    Channel::new("sysv_sem", "/proc/sysvipc/sem", "sem", |_| objects("sem")).same().marked(),
    Channel::new("sysv_msg", "/proc/sysvipc/msg", "msg", |_| objects("msg")).same().marked(),
    Channel::new("mqueue", "/dev/mqueue, mq_open", "queues", queues).marked(),
];

fn objects(kind: &str) -> Option<Reading> {
    lines_after(&format!("/proc/sysvipc/{kind}"), 1).map(Reading::List)
}

/// The neighbour's queue is found by its name where the file system of queues
/// is not mounted, too.
fn queues(look: &Look) -> Option<Reading> {
    let mut all = names("/dev/mqueue").unwrap_or_default();
    let name = format!("/{}", look.tag);
    if let Ok(queue) = mq_open(name.as_str(), MQ_OFlag::O_RDONLY, Mode::empty(), None) {
        let _ = mq_close(queue);
        all.push(look.tag.clone());
    }
    Some(Reading::List(all))
}
