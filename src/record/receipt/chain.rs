//! Receipts of one node in a chain: each holds the digest of the one before,
//! and the chain's two ends are kept beside them, so that one that is
//! changed, removed or put in between is found.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Key, Receipt, Receipts};
use crate::problem::Problem;
use crate::record::base;
use crate::record::freshness::canonical;

/// A receipt's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// From 1.
    pub sequence: u64,
    /// SHA-256 of the receipt before, as it was written; of nothing for the
    /// first.
    pub previous: String,
}

/// By whose key a text is signed, in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    pub ed25519: String,
}

/// Both ends of the chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The oldest that is kept.
    pub first: u64,
    /// The newest, with its digest.
    pub last: u64,
    pub digest: String,
    /// Digest of the list of receipts that were there before the chain.
    pub before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

pub(super) const HEAD: &str = "=chain.json";
const LOCK: &str = "=lock";
/// Names the receipt that is being added, until the head knows it.
const PENDING: &str = "=pending";
/// Names and digests of the receipts from before the chain.
pub(super) const BEFORE: &str = "=before.json";

/// SHA-256 in lowercase hexadecimal.
pub(super) fn digest(text: &[u8]) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn signed(key: &Key, text: &[u8]) -> Signature {
    Signature { ed25519: STANDARD.encode(key.sign(text)) }
}

/// What a signature is over: everything else, in its canonical form.
pub(super) fn unsigned(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    let mut value = serde_json::to_value(value).map_err(|e| Problem::ours(e.to_string()))?;
    if let Some(map) = value.as_object_mut() {
        map.remove("signature");
    }
    canonical(&value)
}

/// Whether a file is a receipt by its name.
pub(super) fn is_receipt(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    !name.starts_with('=') && name.ends_with(".json")
}

/// A receipt's place in the chain, as its file says.
pub(super) fn sequence(path: &Path) -> Option<u64> {
    let (text, _) = super::text(path).ok()?;
    serde_json::from_slice::<Receipt>(&text).ok()?.chain.map(|link| link.sequence)
}

impl Receipts {
    /// Keeps one, as the last of the chain: root's, readable by the job's
    /// group-less owner.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn save(&self, mut receipt: Receipt, key: Option<&Key>) -> Result<(), Problem> {
        base::own_directory(&self.dir, 0o755, nix::unistd::geteuid().as_raw())?;
        let _lock = self.lock()?;
        let wrong = |why| Problem::site(format!("{}: {why}", self.dir.join(HEAD).display()));
        let mut head = match self.head().map_err(wrong)? {
            Some(head) => self.adopted(head),
            None => self.begun()?,
        };
        receipt.chain = Some(Link { sequence: head.last + 1, previous: head.digest.clone() });
        receipt.signature = None;
        if let Some(key) = key {
            receipt.signature = Some(signed(key, &unsigned(&receipt)?));
        }
        let text = canonical(&receipt)?;
        let name = self.free_name(&receipt);
        self.write(PENDING, name.as_bytes(), 0o600, None)?;
        self.write(&name, &text, 0o400, Some(receipt.uid))?;
        head.last += 1;
        head.digest = digest(&text);
        self.set_head(head, key)?;
        let _ = fs::remove_file(self.dir.join(PENDING));
        Ok(())
    }

    /// A second receipt of one job and second must not take the first out of the
    /// chain.
    fn free_name(&self, receipt: &Receipt) -> String {
        let mut names = (receipt.time.started..).map(|second| Self::name(&receipt.id, second));
        let free = |name: &String| self.dir.join(name).symlink_metadata().is_err();
        names.find(free).unwrap_or_default()
    }

    /// Held by who reads the whole chain: a writer changes it in several steps.
    /// There is none where receipts were copied to.
    pub(super) fn still(&self) -> Option<Flock<File>> {
        Flock::lock(File::open(self.dir.join(LOCK)).ok()?, FlockArg::LockShared).ok()
    }

    /// One writer at a time: a link is made from the one before.
    fn lock(&self) -> Result<Flock<File>, Problem> {
        let path = self.dir.join(LOCK);
        let cannot = |why: String| Problem::site(format!("{}: {why}", path.display()));
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|e| cannot(e.to_string()))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| cannot(e.desc().into()))
    }

    /// `None` where no chain has begun.
    pub(super) fn head(&self) -> Result<Option<Head>, String> {
        match fs::read(self.dir.join(HEAD)) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| e.to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    }

    /// With the receipt that was written when its writer was cut off before
    /// the head knew it.
    pub(super) fn adopted(&self, mut head: Head) -> Head {
        let name = fs::read_to_string(self.dir.join(PENDING)).unwrap_or_default();
        let text = super::text(&self.dir.join(&name)).ok().filter(|_| !name.is_empty());
        let link = |text: &[u8]| serde_json::from_slice::<Receipt>(text).ok()?.chain;
        if let Some((text, _)) = text
            && link(&text).is_some_and(|l| l.sequence == head.last + 1 && l.previous == head.digest)
        {
            head.last += 1;
            head.digest = digest(&text);
        }
        head
    }

    /// A new chain; the receipts that are there already are listed.
    fn begun(&self) -> Result<Head, Problem> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let old = entries.map(|e| e.path()).filter(|path| is_receipt(path));
        let list: BTreeMap<String, String> = old
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?.to_owned();
                Some((name, digest(&super::text(&path).ok()?.0)))
            })
            .collect();
        let mut head = Head { first: 1, digest: digest(b""), ..Head::default() };
        if !list.is_empty() {
            let text = canonical(&list)?;
            head.before = Some(digest(&text));
            self.write(BEFORE, &text, 0o600, None)?;
        }
        Ok(head)
    }

    fn set_head(&self, mut head: Head, key: Option<&Key>) -> Result<(), Problem> {
        head.signature = None;
        if let Some(key) = key {
            head.signature = Some(signed(key, &unsigned(&head)?));
        }
        self.write(HEAD, &canonical(&head)?, 0o600, None)
    }

    /// Removes receipts; the head says first that they are no longer kept.
    pub(super) fn forget(&self, over: &[PathBuf], key: Option<&Key>) {
        let Ok(_lock) = self.lock() else { return };
        let Ok(head) = self.head() else { return };
        if let Some(mut head) = head.map(|head| self.adopted(head))
            && let Some(newest) = over.iter().filter_map(|path| sequence(path)).max()
        {
            // A receipt is its user's to change, who could have all that are
            // left pass for pruned.
            let most = (head.last + 1).saturating_sub(self.chained_but(over));
            head.first = head.first.max(newest.saturating_add(1).min(most));
            if self.set_head(head, key).is_err() {
                return;
            }
        }
        for path in over {
            let _ = fs::remove_file(path);
        }
    }

    /// How many receipts of the chain there are beside these.
    fn chained_but(&self, over: &[PathBuf]) -> u64 {
        let before = fs::read(self.dir.join(BEFORE)).unwrap_or_default();
        let before: BTreeMap<String, String> = serde_json::from_slice(&before).unwrap_or_default();
        let listed = |path: &Path| {
            path.file_name().and_then(|n| n.to_str()).is_some_and(|n| before.contains_key(n))
        };
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let rest = entries.map(|e| e.path()).filter(|p| is_receipt(p) && !over.contains(p));
        rest.filter(|path| !listed(path)).count() as u64
    }

    /// Writes a file so that a reader sees the old or the new one, whole, and
    /// so that it outlives a power cut.
    fn write(&self, name: &str, text: &[u8], mode: u32, owner: Option<u32>) -> Result<(), Problem> {
        let (new, path) = (self.dir.join("=new"), self.dir.join(name));
        // Written under the lock: what is there a killed writer left.
        let _ = fs::remove_file(&new);
        let write = || -> std::io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(mode).open(&new)?;
            std::io::Write::write_all(&mut file, text)?;
            if let Some(uid) = owner.filter(|_| nix::unistd::geteuid().is_root()) {
                std::os::unix::fs::fchown(&file, Some(uid), None)?;
            }
            file.sync_data()?;
            fs::rename(&new, &path)
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&new);
            base::unwritable(&path, &e, None)
        })
    }
}
