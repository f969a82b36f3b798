//! Names in a store.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Store;
use crate::image::{Digest, Reference};
use crate::problem::{Problem, Problems};

/// A name and what it leads to; the contents of a file in `refs/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// As [`Reference::stored_name`] gives it.
    pub name: String,
    pub manifest: Digest,
    /// Seconds since 1970.
    pub added: u64,
}

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The stored name, if it was found by one.
    pub name: Option<String>,
    pub manifest: Digest,
    /// The store's directory in which it was found.
    pub place: PathBuf,
}

/// Bytes of a file in `refs/` that are read at most.
const LONGEST: u64 = 4096;

impl Store {
    /// Gives a name to a manifest that is stored; a name that was there is
    /// moved.
    ///
    /// # Errors
    /// The manifest is not here, or the store cannot be written.
    pub fn set_ref(&self, reference: &Reference, manifest: &Digest) -> Result<(), Problem> {
        if !self.has(manifest) {
            return Err(self.lacks(manifest));
        }
        let name = reference.stored_name();
        let added = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let path = file_of(self.directory(), &name);
        let named = Named { name, manifest: manifest.clone(), added };
        let text = serde_json::to_vec(&named).map_err(|e| Problem::ours(e.to_string()))?;
        self.write_small(&path, &text)
    }

    /// Finds an image by name, by digest, or by both, which must agree.
    ///
    /// # Errors
    /// There is none, or the name leads to another digest.
    pub fn resolve(&self, reference: &Reference) -> Result<Stored, Problem> {
        let name = reference.stored_name();
        let by_name = self.directories().find_map(|dir| {
            let named = read(&file_of(dir, &name)).filter(|named| named.name == name)?;
            Some(Stored { name: Some(name.clone()), manifest: named.manifest, place: dir.into() })
        });
        let Some(digest) = &reference.digest else {
            return by_name.ok_or_else(|| self.absent(reference));
        };
        match by_name {
            Some(found) if found.manifest == *digest => Ok(found),
            Some(found) if reference.tag.is_some() => {
                Err(Problem::user(format!("image {reference}: here {name} is {}", found.manifest))
                    .hint("leave the tag or the digest out, or pull the image again"))
            }
            _ => self
                .directories()
                .find(|dir| super::blob_in(dir, digest).is_file())
                .map(|dir| Stored { name: None, manifest: digest.clone(), place: dir.into() })
                .ok_or_else(|| self.absent(reference)),
        }
    }

    /// Every name with where it is, sorted; what is here hides what is below.
    pub fn refs(&self) -> Vec<(Named, PathBuf)> {
        let mut all = BTreeMap::new();
        for dir in self.directories() {
            for named in in_directory(dir) {
                all.entry(named.name.clone()).or_insert((named, dir.to_owned()));
            }
        }
        all.into_values().collect()
    }

    /// The names in the store that is written.
    pub fn own_refs(&self) -> Vec<Named> {
        in_directory(self.directory())
    }

    /// The same, for who removes what no name leads to: a name that cannot be read
    /// may lead to anything.
    ///
    /// # Errors
    /// The names cannot be listed, or a file among them is none; all of these.
    pub fn every_own_ref(&self) -> Result<Vec<Named>, Problems> {
        let refs = self.directory().join("refs");
        let unreadable = |e: std::io::Error| {
            vec![
                Problem::site(format!("{}: cannot be read: {e}", refs.display()))
                    .hint("the store must be readable for the caller"),
            ]
        };
        let entries = match fs::read_dir(&refs) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(unreadable)?,
        };
        let (mut all, mut problems) = (Vec::new(), Problems::new());
        for entry in entries {
            let path = entry.map_err(unreadable)?.path();
            // As NFS calls a file that is removed while it is open.
            if path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".nfs")) {
                continue;
            }
            match read(&path).filter(|named| file_of(self.directory(), &named.name) == path) {
                Some(named) => all.push(named),
                // Taken away meanwhile.
                None if path.symlink_metadata().is_err() => {}
                None => problems.push(
                    Problem::site(format!("{}: is damaged: no image's name", path.display()))
                        .hint("remove it, then pull or import the image of that name again"),
                ),
            }
        }
        if problems.is_empty() { Ok(all) } else { Err(problems) }
    }

    /// Takes a name away; the content stays until `gc`.
    ///
    /// # Errors
    /// There is none of this name in the store that is written, or it leads to
    /// another digest than the one that is given with it.
    pub fn remove_ref(&self, reference: &Reference) -> Result<(), Problem> {
        let name = reference.stored_name();
        let path = file_of(self.directory(), &name);
        if let Some(digest) = &reference.digest
            && let Some(named) = read(&path)
            && named.manifest != *digest
        {
            let why = format!("image {reference}: here {name} is {}", named.manifest);
            return Err(Problem::user(why).hint("leave the digest out to take that name away"));
        }
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => match self.resolve(reference) {
                Ok(found) if found.place != self.directory() => Err(Problem::site(format!(
                    "image {reference}: is in {}, which is only read",
                    found.place.display()
                ))
                .hint("whoever keeps that store can remove it")),
                _ => Err(self.absent(reference)),
            },
            Err(e) => Err(self.failed(&path, "remove", &e)),
        }
    }

    fn absent(&self, reference: &Reference) -> Problem {
        let places: Vec<_> = self.directories().map(|d| d.display().to_string()).collect();
        Problem::user(format!(
            "image {reference}: there is none of this name in {}",
            places.join(", ")
        ))
        .hint("denovo image list shows what is here; denovo image pull or import brings one in")
    }
}

fn in_directory(dir: &Path) -> Vec<Named> {
    let entries = fs::read_dir(dir.join("refs")).into_iter().flatten().flatten();
    let mut all: Vec<Named> = entries
        .filter_map(|e| read(&e.path()).filter(|named| file_of(dir, &named.name) == e.path()))
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn read(path: &Path) -> Option<Named> {
    use std::io::Read;
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
    let named: Named = serde_json::from_slice(&text).ok()?;
    named.name.parse::<Reference>().is_ok().then_some(named)
}

/// The file of a name: readable, and where that is too long for a file's
/// name its hash. No name holds a `+`.
fn file_of(dir: &Path, name: &str) -> PathBuf {
    let flat = name.replace('/', "+");
    let flat =
        if flat.len() > 200 { format!("+{}", Digest::of(name.as_bytes()).hex()) } else { flat };
    dir.join("refs").join(flat)
}
