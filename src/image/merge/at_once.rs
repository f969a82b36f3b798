//! Most of a tree in one pass: unpacking is what most of the time goes to, and
//! most of an image is in one layer. The names in the others are read first;
//! they tell which files of the largest surely stay, so that these are handed
//! out while it is read. Afterwards the tree is made of all names, as ever, and
//! what was handed out is held against it.

use std::collections::{HashMap, HashSet};

use super::tree::{Whiteout, is_mark, whiteout};
use super::{Bounds, Layer, Progress, Reading, Sink, Tree, emit_but, in_layer, link_to, lists};
use crate::image::Store;
use crate::image::tar::{Entry, Kind, Path};
use crate::problem::Problem;

/// Layers of which all but the largest were read.
pub struct AtOnce<'a> {
    store: &'a Store,
    layers: &'a [Layer],
    progress: Progress<'a>,
    /// The largest.
    which: usize,
    reading: Reading<'a>,
    /// Its entries up to the first file, which were read already.
    first: Vec<Entry>,
    /// Entries of the others, in their order.
    others: Vec<(usize, Vec<Entry>)>,
    above: Above,
    /// What the root seems to be.
    root: Entry,
}

impl<'a> AtOnce<'a> {
    /// # Errors
    /// There is no layer, or as for [`super::read`].
    pub fn begin(
        store: &'a Store,
        layers: &'a [Layer],
        bounds: Bounds,
        progress: Progress<'a>,
    ) -> Result<Self, Problem> {
        let sizes: Vec<u64> =
            layers.iter().map(|l| store.size(&l.blob)).collect::<Result<_, _>>()?;
        let which = (0..sizes.len())
            .max_by_key(|n| sizes[*n])
            .ok_or_else(|| Problem::user("the image has no layers"))?;
        let (numbers, rest): (Vec<usize>, Vec<&Layer>) =
            layers.iter().enumerate().filter(|(n, _)| *n != which).unzip();
        let mut left = bounds;
        let listed = lists(store, &rest, bounds, &mut left, progress)?;
        let others: Vec<_> =
            numbers.into_iter().zip(listed.into_iter().map(|l| l.entries)).collect();
        let mut above = Above::default();
        for (number, entries) in others.iter().filter(|(n, _)| *n > which) {
            above.add(entries).map_err(|e| in_layer(&layers[*number].blob, &e))?;
        }
        let mut reading = Reading::begin(store, &layers[which], left, progress)?;
        // A root's own entry comes first, or after what is no file.
        let mut first = Vec::new();
        while first.last().is_none_or(|e: &Entry| e.kind != Kind::File)
            && let Some(entry) = reading.next()?
        {
            first.push(entry);
        }
        // The last of them counts.
        let of = |entries: &[Entry]| entries.iter().rev().find(|e| e.path.is_root()).cloned();
        let root = others
            .iter()
            .rev()
            .filter(|(n, _)| *n > which)
            .find_map(|(_, entries)| of(entries))
            .or_else(|| of(&first))
            .or_else(|| others.iter().rev().find_map(|(_, entries)| of(entries)))
            .unwrap_or_else(|| Entry::implied(Path::default()));
        Ok(Self { store, layers, progress, which, reading, first, others, above, root })
    }

    /// The root directory, as it seems; if it turns out to be otherwise,
    /// [`emit`](Self::emit) fails.
    pub fn root(&self) -> &Entry {
        &self.root
    }

    /// Hands out the tree, in no particular order but that links follow what
    /// they link to.
    ///
    /// # Errors
    /// What the sink or a layer says; something was handed out that does not
    /// stay, so that it takes two passes after all.
    pub fn emit(mut self, sink: &mut dyn Sink) -> Result<Tree, Problem> {
        let (sent, entries) = self.largest(sink)?;
        self.reading.finish()?;
        self.others.push((self.which, entries));
        self.others.sort_by_key(|(number, _)| *number);
        let mut tree = Tree::default();
        for (number, entries) in self.others {
            tree.add(number, entries).map_err(|e| in_layer(&self.layers[number].blob, &e))?;
        }
        let files = tree.files_of(self.which);
        if tree.directories().next() != Some(&self.root) || !all_stay(&sent, &files) {
            return Err(Problem::ours("the layers replace what they bring themselves"));
        }
        further_names(&sent, &files, sink)?;
        let which = self.which;
        let went = |layer, file: usize| layer == which && sent.contains_key(&file);
        emit_but(self.store, self.layers, &tree, &went, sink, self.progress)?;
        drop(files);
        Ok(tree)
    }

    /// Reads the largest layer to its end; gives the files that went out and
    /// all its entries.
    fn largest(&mut self, sink: &mut dyn Sink) -> Result<(Sent, Vec<Entry>), Problem> {
        let (mut sent, mut entries) = (HashMap::new(), Vec::new());
        let mut first = std::mem::take(&mut self.first).into_iter();
        loop {
            let next = match first.next() {
                Some(entry) => Some(entry),
                None => self.reading.next()?,
            };
            let Some(entry) = next else { return Ok((sent, entries)) };
            if entry.kind == Kind::File && !is_mark(&entry.path) && self.above.leaves(&entry.path) {
                sink.file(&entry, &mut self.reading.reader.data())?;
                sent.insert(entries.len(), entry.clone());
            }
            entries.push(entry);
        }
    }
}

/// Files that were handed out, by their numbers in their layer.
type Sent = HashMap<usize, Entry>;

/// Whether each file that went out is one of the tree, by that name.
///
/// # Arguments
/// * `files` - those of the layer in the tree, sorted
fn all_stay(sent: &Sent, files: &[(usize, Vec<&Path>)]) -> bool {
    sent.iter().all(|(number, entry)| {
        let found = files.binary_search_by_key(number, |(n, _)| *n);
        found.is_ok_and(|at| files[at].1.contains(&&entry.path))
    })
}

/// The names that files have beside the one that they went out by.
fn further_names(
    sent: &Sent,
    files: &[(usize, Vec<&Path>)],
    sink: &mut dyn Sink,
) -> Result<(), Problem> {
    for (number, names) in files {
        let Some(file) = sent.get(number) else { continue };
        for name in names.iter().filter(|name| ***name != file.path) {
            sink.node(&link_to(file, name))?;
        }
    }
    Ok(())
}

/// What layers above another say of its files.
#[derive(Default)]
struct Above {
    names: HashSet<Path>,
    /// Of which nothing below stays either.
    ends: HashSet<Path>,
}

impl Above {
    fn add(&mut self, entries: &[Entry]) -> Result<(), crate::image::tar::Error> {
        for entry in entries {
            let _ = match whiteout(entry)? {
                Some(Whiteout::Name(path) | Whiteout::Opaque(path)) => self.ends.insert(path),
                None if entry.kind == Kind::Directory => self.names.insert(entry.path.clone()),
                None => self.ends.insert(entry.path.clone()),
            };
        }
        Ok(())
    }

    /// Whether a file surely stays. One below a link that leads elsewhere may
    /// be judged wrongly: the tree tells in the end.
    fn leaves(&self, path: &Path) -> bool {
        if self.names.contains(path) || self.ends.contains(path) {
            return false;
        }
        let mut at = path.clone();
        while let Some((directory, _)) = at.split() {
            if self.ends.contains(&directory) {
                return false;
            }
            at = directory;
        }
        true
    }
}
