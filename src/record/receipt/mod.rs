//! Receipts: what ended environments were given and what they used, for as
//! long as the site keeps them.

mod chain;
mod key;
mod verify;

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use chain::{Link, Signature};
pub use key::{Key, Public};
pub use verify::{Flaw, Verified, verify};

use crate::kernel::cgroup::Usage;
use crate::policy::freshness::{Difference, Ended, Verdict};
use crate::request::scheduler::Granted;

/// One job on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Of this form: 1.
    pub version: u32,
    pub id: String,
    pub node: String,
    pub uid: u32,
    pub gid: u32,
    /// The scheduler's job, where there is one.
    pub job: Option<Granted>,
    pub bundle: String,
    /// Digest of the image that it ran in, if it was one.
    #[serde(default)]
    pub image: Option<String>,
    pub given: Given,
    pub used: Usage,
    pub time: Times,
    pub cleaned: Cleaned,
    /// The job's exit status as wait(2) has it, where the scheduler tells.
    pub status: Option<i32>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// What could not be done as asked, or not be cleaned up.
    pub problems: Vec<String>,
    /// How the node stood at its beginning and after its end, where the site
    /// asks for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,
    /// Its place among all receipts of the node; those that an older denovo
    /// wrote have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Link>,
    /// By the node's key, over all the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// What an audit of the node said. It is for the job's user too, so that it
/// has nothing of other users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freshness {
    /// When the job began, if the site has the prolog look.
    pub before: Option<Verdict>,
    pub after: Verdict,
    /// What this user left, and what of the node itself was not as in its
    /// baseline and had been before the job.
    pub differences: Vec<Difference>,
    /// Microseconds that looking and cleaning took.
    pub took: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Given {
    /// By number; empty: none of its own.
    pub cpus: Vec<u32>,
    /// Bytes.
    pub memory: Option<u64>,
    pub pids: Option<u64>,
    pub node_network: bool,
    /// Kinds of namespaces(7) that it had for itself.
    pub namespaces: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// Seconds since 1970.
    pub started: u64,
    pub ended: u64,
    /// Microseconds that making it took, and ending it.
    pub to_start: Option<u64>,
    pub to_end: u64,
}

/// What was there at the end and is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cleaned {
    /// Processes that the scheduler had left and that were killed.
    pub processes: u64,
    /// Bytes in its /dev/shm.
    pub shm: Option<u64>,
    /// Bytes that it had written into its root, /tmp among it, where that is
    /// memory.
    #[serde(default)]
    pub tmp: Option<u64>,
    /// Segments of shared memory, message queues and sets of semaphores
    /// (sysvipc(7)).
    #[serde(default)]
    pub system_v: Option<u64>,
    /// POSIX message queues (mq_overview(7)).
    pub message_queues: Option<u64>,
    pub scratch: bool,
}

/// All receipts of a node.
pub struct Receipts {
    dir: PathBuf,
}

impl Receipts {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn name(id: &str, started: u64) -> String {
        format!("{id}.{started}.json")
    }

    /// The last receipt of an id that the caller may read.
    pub fn load(&self, id: &str) -> Option<Receipt> {
        let mut found: Vec<(u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir).ok()?.flatten() {
            let name = entry.file_name();
            let started = name.to_str().and_then(|n| {
                n.strip_prefix(id)?.strip_prefix('.')?.strip_suffix(".json")?.parse().ok()
            });
            found.extend(started.map(|s| (s, entry.path())));
        }
        found.sort();
        found.iter().rev().find_map(|(_, path)| serde_json::from_slice(&text(path).ok()?.0).ok())
    }

    /// The jobs of the last receipts, the oldest first. A receipt is its user's
    /// to change, so that it tells of that user only.
    pub fn ended(&self, most: usize) -> Vec<Ended> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let started = |path: &Path| -> Option<u64> {
            path.file_name()?.to_str()?.strip_suffix(".json")?.rsplit_once('.')?.1.parse().ok()
        };
        let named = entries.filter_map(|e| Some((started(&e.path())?, e.path())));
        let mut all: Vec<(u64, PathBuf)> = named.collect();
        all.sort();
        let last = all.split_off(all.len().saturating_sub(most));
        let mut sizes: HashMap<u32, u64> = HashMap::new();
        let mut read = |path: &Path| {
            let meta = path.metadata().ok().filter(|m| m.len() <= LARGEST)?;
            let size = sizes.entry(meta.uid()).or_default();
            *size += meta.len();
            if *size > MOST_OF_ONE {
                return None;
            }
            let (text, owner) = text(path).ok()?;
            serde_json::from_slice::<Receipt>(&text).ok().filter(|r| r.uid == owner)
        };
        let mut ended: Vec<Ended> = last
            .iter()
            .rev()
            .filter_map(|(_, path)| read(path))
            .map(|r| Ended { id: r.id, uid: r.uid, from: r.time.started, to: r.time.ended })
            .collect();
        ended.reverse();
        ended
    }

    /// Removes those older than `days`, then the oldest until the rest has
    /// at most `bytes`. Their age is that of the inode, and one counts for
    /// no more than `USUAL`: what else the file says is its user's to change,
    /// and others' receipts would go for it. Of those that are as old as the clock of the
    /// file system can tell, the chain's first go first: it must have no hole.
    pub fn prune(&self, now: u64, days: u64, bytes: u64, key: Option<&Key>) {
        let mut all: Vec<((u64, i64), u64, PathBuf)> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with('='))
            .filter_map(|entry| {
                let meta = entry.metadata().ok().filter(|m| m.is_file())?;
                let size = meta.len().min(USUAL);
                let at = (u64::try_from(meta.ctime()).unwrap_or(0), meta.ctime_nsec());
                Some((at, size, entry.path()))
            })
            .collect();
        all.sort_by(|(a, _, one), (b, _, other)| {
            a.cmp(b).then_with(|| chain::sequence(one).cmp(&chain::sequence(other)))
        });
        let mut total: u64 = all.iter().map(|(_, size, _)| size).sum();
        let mut over = Vec::new();
        for ((at, _), size, path) in all {
            let old = at.saturating_add(days.saturating_mul(86_400)) < now;
            if old || total > bytes {
                total -= size;
                over.push(path);
            }
        }
        if !over.is_empty() {
            self.forget(&over, key);
        }
    }
}

/// Bytes that a receipt has at most, and hardly ever has: it tells of each thing
/// that a job has left.
const LARGEST: u64 = 16 << 20;
const USUAL: u64 = 1 << 20;

/// Bytes of one user's that are read to tell which job left something, from the
/// newest back: who makes theirs large holds up no epilog.
const MOST_OF_ONE: u64 = 32 << 20;

/// A receipt as it stands there, and whose the file is. Its user can write to
/// it what no memory would hold.
///
/// # Errors
/// As open(2) and read(2); it is larger than any receipt.
fn text(path: &Path) -> std::io::Result<(Vec<u8>, u32)> {
    let file = fs::File::open(path)?;
    let owner = file.metadata()?.uid();
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(std::io::Error::other("is larger than any receipt"));
    }
    Ok((text, owner))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn receipt(id: &str, started: u64) -> Receipt {
        Receipt {
            version: 1,
            id: id.to_owned(),
            node: "n1".to_owned(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: 0,
            job: None,
            bundle: "host".to_owned(),
            image: None,
            given: Given::default(),
            used: Usage::default(),
            time: Times { started, ..Times::default() },
            cleaned: Cleaned::default(),
            status: Some(256),
            exit_code: Some(1),
            signal: None,
            problems: Vec::new(),
            freshness: None,
            chain: None,
            signature: None,
        }
    }

    #[test]
    fn the_last_of_an_id_is_found_and_old_ones_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let receipts = Receipts::new(&dir.path().join("r"));
        for (id, started) in [("slurm-1", 5), ("slurm-1", 70), ("slurm-12", 90)] {
            receipts.save(receipt(id, started), None).unwrap();
        }
        assert_eq!(receipts.load("slurm-1").unwrap().time.started, 70);
        assert!(receipts.load("slurm").is_none());
        let named = |e: &fs::DirEntry| !e.file_name().to_string_lossy().starts_with('=');
        let all = || fs::read_dir(dir.path().join("r")).unwrap().flatten();
        let files = || all().filter(named).count();
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        receipts.prune(now, 1, u64::MAX, None);
        assert_eq!(files(), 3);
        receipts.prune(now, 1, 2000, None);
        assert!((1..3).contains(&files()), "{}", files());
        receipts.prune(now + 2 * 86_400, 1, u64::MAX, None);
        assert_eq!(files(), 0);
    }

    #[test]
    fn who_makes_receipts_large_holds_nobody_up() {
        use std::io::Write;
        let temporary = tempfile::tempdir().unwrap();
        let receipts = Receipts::new(temporary.path());
        for (id, started) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
            receipts.save(receipt(id, started), None).unwrap();
        }
        for name in ["b.2.json", "c.3.json", "d.4.json"] {
            use std::os::unix::fs::PermissionsExt;
            let path = temporary.path().join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let mut file = fs::File::options().append(true).open(path).unwrap();
            file.write_all(&vec![b' '; 15 << 20]).unwrap();
        }
        let ended = receipts.ended(10);
        assert_eq!(ended.iter().map(|e| &*e.id).collect::<Vec<_>>(), ["c", "d"]);
    }

    #[test]
    fn pruning_leaves_no_hole_whatever_the_sizes() {
        let temporary = tempfile::tempdir().unwrap();
        let (dir, receipts) = (temporary.path(), Receipts::new(temporary.path()));
        // All within a second, the first the longest, their names in no order.
        for number in (0..12usize).rev() {
            let problems = vec!["x".repeat(number * 40)];
            let id = format!("slurm-{}", 7 + (number * 5) % 12);
            receipts.save(Receipt { problems, ..receipt(&id, 1) }, None).unwrap();
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        for bytes in [7000, 5000, 3000, 2000] {
            receipts.prune(now.as_secs(), 1, bytes, None);
            let seen = verify(dir, None).unwrap();
            assert_eq!(seen.flaw, None, "{bytes}");
            assert!(seen.chained > 0 && seen.chained < 12, "{seen:?}");
        }
    }

    #[test]
    fn what_its_user_does_to_a_receipt_has_no_effect_on_others() {
        let temporary = tempfile::tempdir().unwrap();
        let (dir, receipts) = (temporary.path(), Receipts::new(temporary.path()));
        for (id, started) in [("a", 1), ("b", 2), ("c", 3)] {
            receipts.save(receipt(id, started), None).unwrap();
        }
        let open = |name: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::File::options().read(true).write(true).open(path).unwrap()
        };
        // Made old, made huge, made another user's.
        open("b.2.json").set_modified(std::time::UNIX_EPOCH).unwrap();
        open("c.3.json").set_len(1 << 40).unwrap();
        let other = Receipt { uid: 1 + nix::unistd::geteuid().as_raw(), ..receipt("a", 1) };
        serde_json::to_writer(open("a.1.json"), &other).unwrap();
        let ended = receipts.ended(10);
        assert_eq!(ended.iter().map(|e| &*e.id).collect::<Vec<_>>(), ["b"]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        receipts.prune(now.as_secs(), 1, 2 << 20, None);
        let left = ["a.1.json", "b.2.json", "c.3.json"].map(|name| dir.join(name).exists());
        assert_eq!(left, [true; 3]);
        let found = verify(dir, None).unwrap().flaw;
        assert!(
            matches!(&found, Some(Flaw::Changed { file, .. }) if file == "a.1.json" || file == "c.3.json"),
            "{found:?}"
        );
    }
}
