//! Files in the directories that everybody, or every user for himself, can
//! write.

use std::collections::{BTreeSet, VecDeque};
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{Handle, Kind, Scope, Thing, shown};

const PLACES: &[(Kind, &str)] = &[
    (Kind::Tmp, "/tmp"),
    (Kind::Tmp, "/var/tmp"),
    (Kind::Shm, "/dev/shm"),
    (Kind::Shm, "/dev/hugepages"),
    (Kind::Run, "/run/user"),
    (Kind::Run, "/run/lock"),
    (Kind::Spool, "/var/spool/cron"),
    (Kind::Spool, "/var/spool/at"),
    (Kind::Spool, "/var/lib/systemd/linger"),
    (Kind::Core, "/var/lib/systemd/coredump"),
    (Kind::Core, "/var/crash"),
    (Kind::Bpf, "/sys/fs/bpf"),
];

/// Entries that are looked at below one place, and how deep: a directory of
/// millions of files must not hold a prolog up.
const MOST: usize = 10_000;
const DEEPEST: usize = 6;

/// What is in these places. A user's directory that is not expected is one
/// thing with all below it; any other is looked into.
pub fn read(scope: &Scope<'_>) -> Vec<Thing> {
    let own = scope.directories.iter().map(|dir| (Kind::Tmp, dir.clone()));
    let places = PLACES.iter().map(|(kind, dir)| (*kind, PathBuf::from(dir))).chain(own);
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    for (kind, place) in places {
        // A site may have made /tmp a link to a disk.
        let Ok(place) = place.canonicalize() else { continue };
        let Ok(meta) = place.symlink_metadata() else { continue };
        if !seen.insert(place.clone()) {
            continue;
        }
        if !meta.is_dir() {
            continue;
        }
        let whole = look(scope, kind, &place, meta.dev(), &mut all);
        all.extend((!whole).then(|| not_looked_at(&place)));
    }
    all
}

/// Directory by directory, so that what lies at the top is always seen,
/// however much there is below. Tells whether it saw all.
fn look(scope: &Scope<'_>, kind: Kind, place: &Path, device: u64, all: &mut Vec<Thing>) -> bool {
    let (mut left, mut whole) = (MOST, true);
    let mut waiting = VecDeque::from([(place.to_owned(), device, DEEPEST)]);
    while let Some((dir, device, depth)) = waiting.pop_front() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if left == 0 {
                return false;
            }
            left -= 1;
            let Ok(meta) = entry.metadata() else { continue };
            let path = entry.path();
            let kind = if is_cache(&path, &meta) { Kind::Cache } else { kind };
            let shown = shown(&path);
            let key = format!("{shown} {}", meta.uid());
            let expected = (scope.known)(kind, &key);
            let theirs = (scope.is_user)(meta.uid()) && !expected;
            if scope.all || !expected {
                all.push(thing(kind, key, shown + type_of(&meta), &path, &meta));
            }
            // What is mounted there is a thing of its own, except for a
            // user's own /run/user/UID.
            let same = meta.dev() == device || kind == Kind::Run;
            if meta.is_dir() && same && !theirs {
                whole &= depth > 0;
                if depth > 0 {
                    waiting.push_back((path, meta.dev(), depth - 1));
                }
            }
        }
    }
    whole
}

/// Where denovo keeps a user's unpacked images, and records.
fn is_cache(path: &Path, meta: &Metadata) -> bool {
    meta.is_dir()
        && ["/tmp", "/var/tmp"].iter().any(|dir| path.parent() == Some(Path::new(dir)))
        && path.file_name().is_some_and(|name| *name == *format!("denovo-{}", meta.uid()))
}

fn thing(kind: Kind, key: String, what: String, path: &Path, meta: &Metadata) -> Thing {
    Thing {
        kind,
        key,
        what,
        owner: Some(meta.uid()),
        made: made(meta),
        job: None,
        handle: Handle::File { path: path.to_owned(), device: meta.dev(), inode: meta.ino() },
    }
}

/// When it was made, or where the file system does not keep that, when its
/// inode was changed last; both are the kernel's, not the owner's to set.
fn made(meta: &Metadata) -> Option<u64> {
    let born = meta.created().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    born.map(|d| d.as_secs()).or_else(|| u64::try_from(meta.ctime()).ok())
}

fn type_of(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_dir() {
        "/"
    } else if kind.is_symlink() {
        " (link)"
    } else if kind.is_socket() {
        " (socket)"
    } else if kind.is_fifo() {
        " (pipe)"
    } else if kind.is_block_device() || kind.is_char_device() {
        " (device)"
    } else if meta.mode() & 0o4000 != 0 {
        " (set-user-ID)"
    } else {
        ""
    }
}

fn not_looked_at(place: &Path) -> Thing {
    let shown = shown(place);
    Thing {
        kind: Kind::Unseen,
        what: format!("{shown}: more in it, or deeper, than is looked at"),
        key: shown,
        owner: None,
        made: None,
        job: None,
        handle: Handle::None,
    }
}
