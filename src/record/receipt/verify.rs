//! Checks the chain of a node's receipts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::chain::{BEFORE, HEAD, Head, Signature, digest, is_receipt, unsigned};
use super::{Public, Receipt, Receipts, text};
use crate::problem::Problem;

/// What is wrong: of several, the newest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "flaw")]
pub enum Flaw {
    /// What is in this file is not what was written.
    Changed { file: String, why: String },
    /// Number of the receipt in the chain.
    Removed { sequence: u64 },
    /// A file that denovo did not write there.
    Added { file: String, why: String },
    /// The chain's own file is gone or wrong.
    Head { why: String },
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Changed { file, why } => write!(f, "{file} was changed: {why}"),
            Self::Removed { sequence } => write!(f, "receipt {sequence} was removed"),
            Self::Added { file, why } => write!(f, "{file} was added: {why}"),
            Self::Head { why } => write!(f, "the chain's head {why}"),
        }
    }
}

/// What was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Receipts of the chain, and those from before there was one.
    pub chained: usize,
    pub unchained: usize,
    pub first: u64,
    pub last: u64,
    /// Of the last one. Who keeps it elsewhere sees later that no newer
    /// receipts were taken away together with the chain's end.
    pub digest: String,
    /// Whether signatures were checked.
    pub signed: bool,
    pub flaw: Option<Flaw>,
    /// Names of the receipts that are as they were written.
    #[serde(skip)]
    pub files: Vec<String>,
}

/// One receipt, without its text: all of them may be large.
struct Found {
    file: String,
    digest: String,
    receipt: Receipt,
}

impl Found {
    fn of(file: &str, text: Result<Vec<u8>, String>) -> Result<Self, String> {
        let text = text?;
        let receipt = serde_json::from_slice(&text).map_err(|_| "it is no receipt".to_owned())?;
        Ok(Self { file: file.to_owned(), digest: digest(&text), receipt })
    }

    /// Whether the file is called as its receipt was. Two receipts of one user's
    /// could have changed places.
    fn has_its_name(&self) -> bool {
        let (id, started) = (&self.receipt.id, self.receipt.time.started);
        let second = self.file.strip_prefix(id.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let second = second.and_then(|rest| rest.strip_suffix(".json")?.parse::<u64>().ok());
        // Later where that name was taken.
        second.is_some_and(|second| second >= started)
    }
}

/// Checks all receipts in `dir`, and their signatures if there is a key.
///
/// # Errors
/// The directory, or a receipt in it, cannot be read.
pub fn verify(dir: &Path, key: Option<&Public>) -> Result<Verified, Problem> {
    let receipts = Receipts::new(dir);
    let _still = receipts.still();
    let entries = fs::read_dir(dir).map_err(|e| {
        Problem::user(format!("{}: {e}", dir.display()))
            .hint("name the directory of the receipts ([scheduler] receipts)")
    })?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| is_receipt(p)).collect();
    files.sort();
    let unreadable = |path: &Path, e: &std::io::Error| {
        Problem::user(format!("{}: {e}", path.display()))
            .hint("each receipt is for root and its own user; the whole chain is for root")
    };
    let mut all = Vec::new();
    for path in &files {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = match text(path) {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(unreadable(path, &e));
            }
            other => other.map(|(text, _)| text).map_err(|e| e.to_string()),
        };
        all.push(Found::of(&file, text).map_err(|why| Flaw::Changed { file, why }));
    }
    let head = dir.join(HEAD);
    if let Err(e) = fs::File::open(&head)
        && e.kind() == std::io::ErrorKind::PermissionDenied
    {
        return Err(unreadable(&head, &e));
    }
    let mut seen = Verified { signed: key.is_some(), ..Verified::default() };
    seen.flaw = check(&receipts, all, key, &mut seen).err();
    Ok(seen)
}

fn check(
    receipts: &Receipts,
    all: Vec<Result<Found, Flaw>>,
    key: Option<&Public>,
    seen: &mut Verified,
) -> Result<(), Flaw> {
    let (mut chained, mut loose) = (BTreeMap::<u64, Vec<Found>>::new(), Vec::new());
    for found in all {
        let found = found?;
        match found.receipt.chain.as_ref().map(|link| link.sequence) {
            None => loose.push(found),
            Some(n) => chained.entry(n).or_default().push(found),
        }
    }
    seen.unchained = loose.len();
    let head = match receipts.head() {
        Ok(None) if chained.is_empty() => return Ok(()),
        Ok(None) => return Err(Flaw::Head { why: "is gone".to_owned() }),
        Err(why) => return Err(Flaw::Head { why: format!("cannot be read: {why}") }),
        Ok(Some(head)) => head,
    };
    if let Some(key) = key
        && !is_signed(key, head.signature.as_ref(), &unsigned(&head).unwrap_or_default())
    {
        return Err(Flaw::Head { why: "is not signed by this key".to_owned() });
    }
    from_before(receipts, &head, &loose)?;
    seen.files = loose.into_iter().map(|found| found.file).collect();
    let signed = head.last;
    let head = receipts.adopted(head);
    (seen.first, seen.last, seen.digest) = (head.first, head.last, head.digest.clone());
    // Pruning was cut off after the head said so.
    let kept = in_chain(&head, chained.split_off(&head.first), key.map(|key| (key, signed)))?;
    seen.chained = kept.len();
    seen.files.extend(kept);
    Ok(())
}

/// From the newest back: the head has its digest, and each that is found right
/// has that of the one before, so that nobody is blamed for what another's
/// receipt says of it. Gives the names of the files.
///
/// A receipt from before the site had a key is covered by the digest in a head
/// that is signed, up to the number given with the key.
fn in_chain(
    head: &Head,
    mut kept: BTreeMap<u64, Vec<Found>>,
    key: Option<(&Public, u64)>,
) -> Result<Vec<String>, Flaw> {
    if let Some(found) = kept.range(head.last + 1..).flat_map(|(_, all)| all).next() {
        let why = format!("the chain ends at {}", head.last);
        return Err(Flaw::Added { file: found.file.clone(), why });
    }
    let mut expected = head.digest.clone();
    let mut files = Vec::new();
    for sequence in (head.first..=head.last).rev() {
        let found = one_of(sequence, kept.remove(&sequence).unwrap_or_default(), &expected)?;
        let changed = |why: String| Flaw::Changed { file: found.file.clone(), why };
        if !found.has_its_name() {
            return Err(changed(format!("it is one of {}", found.receipt.id)));
        }
        let signature = found.receipt.signature.as_ref();
        if let Some((key, covered)) = key
            && (signature.is_some() || sequence > covered)
            && !is_signed(key, signature, &unsigned(&found.receipt).unwrap_or_default())
        {
            return Err(changed("it is not signed by this key".to_owned()));
        }
        expected = found.receipt.chain.map(|link| link.previous).unwrap_or_default();
        files.push(found.file);
    }
    Ok(files)
}

/// The receipt of this digest among those that say they have this number.
fn one_of(sequence: u64, all: Vec<Found>, expected: &str) -> Result<Found, Flaw> {
    let (mut right, wrong): (Vec<_>, Vec<_>) = all.into_iter().partition(|f| f.digest == expected);
    // A copy has another's name.
    right.sort_by_key(|found| !found.has_its_name());
    let mut right = right.into_iter();
    match (right.next(), right.next().or_else(|| wrong.into_iter().next())) {
        (Some(found), None) => Ok(found),
        (Some(found), Some(Found { file, .. })) => {
            let why = format!("{} is number {sequence} already", found.file);
            Err(Flaw::Added { file, why })
        }
        (None, Some(Found { file, .. })) => {
            let why = "its digest is not the one that was noted".to_owned();
            Err(Flaw::Changed { file, why })
        }
        (None, None) => Err(Flaw::Removed { sequence }),
    }
}

fn is_signed(key: &Public, signature: Option<&Signature>, message: &[u8]) -> bool {
    let bytes = signature.and_then(|s| STANDARD.decode(&s.ed25519).ok());
    bytes.is_some_and(|bytes| key.made(&bytes, message))
}

/// Receipts without a place in the chain must be those that it began with.
fn from_before(receipts: &Receipts, head: &Head, loose: &[Found]) -> Result<(), Flaw> {
    let text = fs::read(receipts.dir.join(BEFORE)).unwrap_or_default();
    let list: BTreeMap<String, String> = match &head.before {
        None => BTreeMap::new(),
        Some(expected) if digest(&text) == *expected => {
            serde_json::from_slice(&text).unwrap_or_default()
        }
        Some(_) => {
            let why = "is not what it was".to_owned();
            return Err(Flaw::Changed { file: BEFORE.to_owned(), why });
        }
    };
    for found in loose {
        let file = found.file.clone();
        match list.get(&file) {
            None => return Err(Flaw::Added { file, why: "it is not in the chain".to_owned() }),
            Some(expected) if *expected != found.digest => {
                let why = "its digest is not the one that was noted".to_owned();
                return Err(Flaw::Changed { file, why });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Key;
    use super::super::tests::receipt;
    use super::*;

    fn chain(dir: &Path, key: Option<&Key>, ids: &[&str]) {
        for (number, id) in ids.iter().enumerate() {
            Receipts::new(dir).save(receipt(id, number as u64), key).unwrap();
        }
    }

    fn flaw(dir: &Path, key: Option<&Key>) -> Option<Flaw> {
        verify(dir, key.map(Key::public).as_ref()).unwrap().flaw
    }

    fn rewrite(path: &Path, change: impl Fn(&mut Receipt)) {
        let mut receipt: Receipt = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        change(&mut receipt);
        let text = crate::record::freshness::canonical(&receipt).unwrap();
        fs::remove_file(path).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_first_that_is_wrong_is_named() {
        let temporary = tempfile::tempdir().unwrap();
        let key = Key::make(&temporary.path().join("key")).unwrap();
        for (number, key) in [None, Some(&key)].into_iter().enumerate() {
            let dir = temporary.path().join(format!("r{number}"));
            chain(&dir, key, &["a", "b", "c", "d"]);
            let seen = verify(&dir, key.map(Key::public).as_ref()).unwrap();
            assert_eq!((seen.chained, seen.last, seen.flaw), (4, 4, None));
            let (b, text) = (dir.join("b.1.json"), fs::read(dir.join("b.1.json")).unwrap());
            let back = || {
                let _ = fs::remove_file(&b);
                fs::write(&b, &text).unwrap();
            };
            rewrite(&b, |r| r.uid += 1);
            let why = "its digest is not the one that was noted".to_owned();
            assert_eq!(flaw(&dir, key), Some(Flaw::Changed { file: "b.1.json".into(), why }));
            fs::remove_file(&b).unwrap();
            assert_eq!(flaw(&dir, key), Some(Flaw::Removed { sequence: 2 }));
            back();
            // A copy of one, one of no chain, one after the end.
            for change in [
                |_: &mut Receipt| {},
                |r: &mut Receipt| r.chain = None,
                |r: &mut Receipt| {
                    r.chain.as_mut().unwrap().sequence = 5;
                },
            ] {
                let extra = dir.join("x.9.json");
                fs::write(&extra, &text).unwrap();
                rewrite(&extra, change);
                let found = flaw(&dir, key);
                assert!(
                    matches!(&found, Some(Flaw::Added { file, .. }) if file == "x.9.json"),
                    "{found:?}"
                );
                fs::remove_file(&extra).unwrap();
            }
            fs::remove_file(dir.join("d.3.json")).unwrap();
            assert_eq!(flaw(&dir, key), Some(Flaw::Removed { sequence: 4 }));
            fs::remove_file(dir.join("=chain.json")).unwrap();
            assert!(matches!(flaw(&dir, key), Some(Flaw::Head { .. })));
        }
    }

    #[test]
    fn nobody_is_blamed_for_what_anothers_receipt_says() {
        let temporary = tempfile::tempdir().unwrap();
        let fresh = |name: &str| {
            let dir = temporary.path().join(name);
            chain(&dir, None, &["a", "b", "c", "d"]);
            dir
        };
        let named = |dir: &Path| match flaw(dir, None) {
            Some(Flaw::Changed { file, .. } | Flaw::Added { file, .. }) => file,
            other => panic!("{other:?}"),
        };
        let dir = fresh("previous");
        rewrite(&dir.join("c.2.json"), |r| r.chain.as_mut().unwrap().previous.push('0'));
        assert_eq!(named(&dir), "c.2.json");
        let dir = fresh("number");
        rewrite(&dir.join("c.2.json"), |r| r.chain.as_mut().unwrap().sequence = 4);
        assert_eq!(named(&dir), "c.2.json");
        // Sorted before the one that it is a copy of.
        let dir = fresh("copy");
        fs::copy(dir.join("c.2.json"), dir.join("aa.0.json")).unwrap();
        assert_eq!(named(&dir), "aa.0.json");
        let dir = fresh("places");
        let of = |name: &str| fs::read(dir.join(name)).unwrap();
        let (b, c) = (of("b.1.json"), of("c.2.json"));
        for (name, text) in [("b.1.json", c), ("c.2.json", b)] {
            fs::remove_file(dir.join(name)).unwrap();
            fs::write(dir.join(name), text).unwrap();
        }
        assert_eq!(named(&dir), "b.1.json");
    }

    #[test]
    fn whoever_has_no_key_cannot_write_the_chain_anew() {
        let temporary = tempfile::tempdir().unwrap();
        let key = Key::make(&temporary.path().join("key")).unwrap();
        let other = Key::make(&temporary.path().join("other")).unwrap();
        let dir = temporary.path().join("r");
        chain(&dir, Some(&other), &["a", "b"]);
        assert_eq!(flaw(&dir, Some(&other)), None);
        assert!(matches!(flaw(&dir, Some(&key)), Some(Flaw::Head { .. })));
    }

    #[test]
    fn a_key_that_comes_later_covers_what_is_there_already() {
        let temporary = tempfile::tempdir().unwrap();
        let (dir, key) = (temporary.path().join("r"), temporary.path().join("key"));
        let key = Key::make(&key).unwrap();
        chain(&dir, None, &["a", "b"]);
        assert!(matches!(flaw(&dir, Some(&key)), Some(Flaw::Head { .. })));
        let receipts = Receipts::new(&dir);
        receipts.save(receipt("c", 2), Some(&key)).unwrap();
        assert_eq!(flaw(&dir, Some(&key)), None);
        // One that is made to look as if its writer had been cut off.
        let head = fs::read(dir.join("=chain.json")).unwrap();
        receipts.save(receipt("d", 3), None).unwrap();
        fs::write(dir.join("=chain.json"), head).unwrap();
        fs::write(dir.join("=pending"), "d.3.json").unwrap();
        assert!(
            matches!(flaw(&dir, Some(&key)), Some(Flaw::Changed { file, .. }) if file == "d.3.json")
        );
    }

    #[test]
    fn old_receipts_are_kept_in_mind_and_pruned_ones_are_not_missed() {
        let temporary = tempfile::tempdir().unwrap();
        let (dir, old) = (temporary.path().join("r"), temporary.path().join("r/old.1.json"));
        fs::create_dir(&dir).unwrap();
        fs::write(&old, serde_json::to_vec(&receipt("old", 1)).unwrap()).unwrap();
        chain(&dir, None, &["a", "b", "c"]);
        let seen = verify(&dir, None).unwrap();
        assert_eq!((seen.chained, seen.unchained, seen.flaw), (3, 1, None));
        rewrite(&old, |r| r.uid += 1);
        assert!(matches!(flaw(&dir, None), Some(Flaw::Changed { .. })));
        fs::remove_file(&old).unwrap();
        Receipts::new(&dir).forget(&[dir.join("a.0.json")], None);
        let seen = verify(&dir, None).unwrap();
        assert_eq!((seen.chained, seen.first, seen.flaw), (2, 2, None));
        // One whose user makes it the last of all does not take the rest along.
        rewrite(&dir.join("b.1.json"), |r| r.chain.as_mut().unwrap().sequence = 1 << 60);
        Receipts::new(&dir).forget(&[dir.join("b.1.json")], None);
        let seen = verify(&dir, None).unwrap();
        assert_eq!((seen.chained, seen.first, seen.flaw), (1, 3, None));
    }

    #[test]
    fn a_second_receipt_of_one_job_and_second_leaves_the_first() {
        let temporary = tempfile::tempdir().unwrap();
        let receipts = Receipts::new(temporary.path());
        for uid in [1, 2] {
            let receipt = Receipt { uid, ..receipt("a", 7) };
            receipts.save(receipt, None).unwrap();
        }
        let seen = verify(temporary.path(), None).unwrap();
        assert_eq!((seen.chained, seen.flaw), (2, None));
        assert_eq!(receipts.load("a").unwrap().uid, 2);
    }

    #[test]
    fn a_head_that_cannot_be_read_begins_no_other_chain() {
        let temporary = tempfile::tempdir().unwrap();
        chain(temporary.path(), None, &["a"]);
        fs::write(temporary.path().join("=chain.json"), "{").unwrap();
        assert!(Receipts::new(temporary.path()).save(receipt("b", 1), None).is_err());
        assert!(matches!(flaw(temporary.path(), None), Some(Flaw::Head { .. })));
    }

    #[test]
    fn one_that_was_cut_off_is_taken_up_and_many_at_once_make_one_chain() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("r");
        chain(&dir, None, &["a", "b"]);
        // As if its writer had been killed before the head was written.
        let head = fs::read(dir.join("=chain.json")).unwrap();
        Receipts::new(&dir).save(receipt("c", 2), None).unwrap();
        fs::write(dir.join("=chain.json"), head).unwrap();
        fs::write(dir.join("=pending"), "c.2.json").unwrap();
        assert_eq!(flaw(&dir, None), None);
        std::thread::scope(|scope| {
            for number in 10..20 {
                let dir = &dir;
                scope.spawn(move || {
                    Receipts::new(dir).save(receipt("t", number), None).unwrap();
                });
            }
        });
        let seen = verify(&dir, None).unwrap();
        assert_eq!((seen.chained, seen.last, seen.flaw), (13, 13, None));
    }
}
