//! Layers become one tree (OCI image-spec, layer.md, "Applying Changesets").
//!
//! Two passes over the layers: the first reads every name and decides in
//! memory what each layer leaves of those below; the second hands out what
//! is left, with files' data straight from their layers. Nothing is written
//! that a later layer takes away, and no layer is ever unpacked over another:
//! whoever receives the tree gets directories first, then files, symlinks
//! last, and so never has a link on the way to what it writes. Who writes
//! nothing may have most of it in one pass: [`AtOnce`].

mod at_once;
mod tree;

pub use at_once::AtOnce;
pub use tree::{Node, Tree};

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::decompress::{self, Bounded};
use super::digest::{Algorithm, Hasher};
use super::flatten::SQUASHFS_MAGIC;
use super::tar::{self, Entry, Kind, Path, Reader};
use super::{Digest, Store};
use crate::problem::Problem;

/// What the site allows one image.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes that all layers unpack to.
    pub bytes: u64,
    /// Entries in all layers.
    pub entries: u64,
}

impl Bounds {
    pub fn of(site: &super::site::Site) -> Self {
        Self { bytes: site.unpacked_limit(), entries: site.entries_limit() }
    }
}

/// One layer, from the lowest up.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The compressed form, as it is stored.
    pub blob: Digest,
    /// Of the tar, as the configuration has it; it is checked.
    pub diff_id: Option<Digest>,
}

/// Told how many compressed bytes were read since it was last called.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Who receives a tree.
pub trait Sink {
    /// Anything but a regular file's first name. Directories come before
    /// what is in them, symlinks after everything else.
    ///
    /// # Errors
    /// It cannot be written.
    fn node(&mut self, entry: &Entry) -> Result<(), Problem>;

    /// A regular file with its stored data.
    ///
    /// # Errors
    /// It cannot be written, or `data` says why there is no more of it.
    fn file(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), Problem>;
}

/// Reads the names in all layers and decides what is left; gives the layers'
/// digests too.
///
/// # Errors
/// A layer is missing, damaged, larger than the site allows, or says
/// something that no image may.
pub fn read(
    store: &Store,
    layers: &[Layer],
    bounds: Bounds,
    progress: Progress<'_>,
) -> Result<(Tree, Vec<Digest>), Problem> {
    let mut left = bounds;
    let mut diff_ids = Vec::new();
    let mut tree = Tree::default();
    let all: Vec<&Layer> = layers.iter().collect();
    for (number, listed) in lists(store, &all, bounds, &mut left, progress)?.into_iter().enumerate()
    {
        diff_ids.push(listed.diff_id);
        tree.add(number, listed.entries).map_err(|e| in_layer(&layers[number].blob, &e))?;
    }
    Ok((tree, diff_ids))
}

/// Reads the names in some layers, as many at once as there are cores.
///
/// # Arguments
/// * `left` - what of `bounds` is left, before and afterwards
fn lists(
    store: &Store,
    layers: &[&Layer],
    bounds: Bounds,
    left: &mut Bounds,
    progress: Progress<'_>,
) -> Result<Vec<Listed>, Problem> {
    let mut all = Vec::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for batch in layers.chunks(threads) {
        let stop = AtomicBool::new(false);
        let most = *left;
        let listed: Vec<_> = std::thread::scope(|scope| {
            let handles: Vec<_> = batch
                .iter()
                .map(|layer| {
                    scope.spawn(|| {
                        let listed = list(store, layer, most, progress, &stop);
                        stop.fetch_or(listed.is_err(), Ordering::Relaxed);
                        listed
                    })
                })
                .collect();
            handles.into_iter().map(|h| h.join().unwrap_or_else(|_| Err(panicked()))).collect()
        });
        // An error of its own says more than that another had one.
        let (good, bad): (Vec<_>, Vec<_>) = listed.into_iter().partition(Result::is_ok);
        if let Some(Err(problem)) =
            bad.into_iter().max_by_key(|r| r.as_ref().is_err_and(|p| p.message != INTERRUPTED))
        {
            return Err(problem);
        }
        for listed in good.into_iter().flatten() {
            left.bytes = left.bytes.checked_sub(listed.bytes).ok_or_else(|| too_large(bounds))?;
            let count = listed.entries.len() as u64;
            left.entries = left.entries.checked_sub(count).ok_or_else(|| too_many(bounds))?;
            all.push(listed);
        }
    }
    Ok(all)
}

const INTERRUPTED: &str = "another layer failed";

struct Listed {
    entries: Vec<Entry>,
    /// Bytes of the files, at full size.
    bytes: u64,
    diff_id: Digest,
}

/// One layer's entries, with its digest checked.
fn list(
    store: &Store,
    layer: &Layer,
    bounds: Bounds,
    progress: Progress<'_>,
    stop: &AtomicBool,
) -> Result<Listed, Problem> {
    let mut reading = Reading::begin(store, layer, bounds, progress)?;
    let mut entries = Vec::new();
    while let Some(entry) = reading.next()? {
        entries.push(entry);
        if stop.load(Ordering::Relaxed) {
            return Err(Problem::ours(INTERRUPTED));
        }
    }
    let bytes = reading.bytes;
    Ok(Listed { entries, bytes, diff_id: reading.finish()? })
}

/// A layer's tar, of which no more is unpacked than may be.
type Plain<'a> = Bounded<Box<dyn Read + Send + 'a>>;

/// A layer that is read within bounds, and hashed meanwhile.
struct Reading<'a> {
    layer: &'a Layer,
    bounds: Bounds,
    reader: Reader<io::BufReader<Hashed<Plain<'a>>>>,
    entries: u64,
    /// Of the files so far, at full size.
    bytes: u64,
}

impl<'a> Reading<'a> {
    fn begin(
        store: &Store,
        layer: &'a Layer,
        bounds: Bounds,
        progress: Progress<'a>,
    ) -> Result<Self, Problem> {
        let plain = open(store, layer, progress)?;
        let algorithm = layer.diff_id.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let hashed = Hashed::new(Bounded::new(plain, bounds.bytes), algorithm);
        // Header by header would be half a million small reads.
        let reader = Reader::new(io::BufReader::with_capacity(1 << 17, hashed));
        Ok(Self { layer, bounds, reader, entries: 0, bytes: 0 })
    }

    fn next(&mut self) -> Result<Option<Entry>, Problem> {
        let next = self.reader.next_entry().map_err(|e| in_layer(&self.layer.blob, &e))?;
        let Some(entry) = next else { return Ok(None) };
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.bounds.bytes {
            return Err(too_large(self.bounds));
        }
        if self.entries >= self.bounds.entries {
            return Err(too_many(self.bounds));
        }
        self.entries += 1;
        Ok(Some(entry))
    }

    /// The tar's digest, which is the one that the configuration has.
    fn finish(mut self) -> Result<Digest, Problem> {
        self.reader.drain().map_err(|e| in_layer(&self.layer.blob, &e))?;
        let found = self.reader.into_inner().into_inner().finish()?;
        match &self.layer.diff_id {
            Some(expected) if *expected != found => Err(Problem::user(format!(
                "layer {}: unpacks to {found}, not to {expected} as the configuration says",
                self.layer.blob
            ))
            .hint("the image is damaged, or its parts are not of one image; pull it again")),
            _ => Ok(found),
        }
    }
}

/// Hands out what is left, in the order that [`Sink`] promises.
///
/// # Errors
/// What the sink or a layer says.
pub fn emit(
    store: &Store,
    layers: &[Layer],
    tree: &Tree,
    sink: &mut dyn Sink,
    progress: Progress<'_>,
) -> Result<(), Problem> {
    emit_but(store, layers, tree, &|_, _| false, sink, progress)
}

/// The same without some files.
///
/// # Arguments
/// * `sent` - whether a file of a layer, by its number in there, went out
///   already
fn emit_but(
    store: &Store,
    layers: &[Layer],
    tree: &Tree,
    sent: &dyn Fn(usize, usize) -> bool,
    sink: &mut dyn Sink,
    progress: Progress<'_>,
) -> Result<(), Problem> {
    for entry in tree.directories() {
        sink.node(entry)?;
    }
    for (number, layer) in layers.iter().enumerate() {
        let mut files = tree.files_of(number);
        files.retain(|(file, _)| !sent(number, *file));
        if files.is_empty() {
            progress(store.size(&layer.blob)?);
            continue;
        }
        emit_layer(store, layer, &files, sink, progress)?;
    }
    for entry in tree.rest() {
        sink.node(entry)?;
    }
    Ok(())
}

/// # Arguments
/// * `files` - number of the entry in the layer, and its names, sorted
fn emit_layer(
    store: &Store,
    layer: &Layer,
    files: &[(usize, Vec<&Path>)],
    sink: &mut dyn Sink,
    progress: Progress<'_>,
) -> Result<(), Problem> {
    let wrong = |e: tar::Error| in_layer(&layer.blob, &e);
    let plain = open(store, layer, progress)?;
    let mut reader = Reader::new(io::BufReader::with_capacity(1 << 17, plain));
    let mut wanted = files.iter().peekable();
    let mut number = 0;
    while let Some((next, names)) = wanted.peek() {
        let entry = reader.next_entry().map_err(wrong)?;
        let Some(mut entry) = entry else {
            return Err(Problem::site(format!("layer {}: changed while it was read", layer.blob)));
        };
        if number == *next {
            entry.path = names[0].clone();
            sink.file(&entry, &mut reader.data())?;
            for name in &names[1..] {
                sink.node(&link_to(&entry, name))?;
            }
            wanted.next();
        }
        number += 1;
    }
    Ok(())
}

/// One more name of a file.
fn link_to(file: &Entry, name: &Path) -> Entry {
    let kind = Kind::Hardlink(file.path.clone());
    Entry { path: name.clone(), kind, stored: 0, size: 0, sparse: None, ..file.clone() }
}

/// A layer's tar.
fn open<'a>(
    store: &Store,
    layer: &Layer,
    progress: Progress<'a>,
) -> Result<Box<dyn Read + Send + 'a>, Problem> {
    let mut file = store.open_blob(&layer.blob)?;
    let wrong = |e: io::Error| in_layer(&layer.blob, &e);
    let mut start = [0; 4];
    let squashfs = file.read(&mut start).map_err(wrong)? == 4 && start == *SQUASHFS_MAGIC;
    io::Seek::rewind(&mut file).map_err(wrong)?;
    if squashfs {
        return Ok(Box::new(super::flatten::read_squashfs(file)?));
    }
    decompress::open(Counted { file, progress }).map_err(wrong)
}

pub fn in_layer(blob: &Digest, why: &dyn std::fmt::Display) -> Problem {
    Problem::user(format!("layer {blob}: {why}"))
        .hint("the layer is damaged, or made to do harm; nothing of it was unpacked")
}

fn too_large(bounds: Bounds) -> Problem {
    Problem::site(format!(
        "the image unpacks to more than the {} bytes that the site allows",
        bounds.bytes
    ))
    .hint("images.most-unpacked in /etc/denovo/denovo.toml sets that")
}

fn too_many(bounds: Bounds) -> Problem {
    Problem::site(format!(
        "the image has more than the {} files and directories that the site allows",
        bounds.entries
    ))
    .hint("images.most-entries in /etc/denovo/denovo.toml sets that")
}

fn panicked() -> Problem {
    Problem::ours("reading a layer ended in a panic")
}

struct Counted<'a> {
    file: File,
    progress: Progress<'a>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        (self.progress)(n as u64);
        Ok(n)
    }
}

/// Hashes what is read, in a thread of its own: unpacking alone keeps a core
/// busy.
struct Hashed<R> {
    source: R,
    piece: Vec<u8>,
    pieces: SyncSender<Vec<u8>>,
    thread: JoinHandle<Digest>,
}

/// Bytes handed over to be hashed at a time, and how many such may wait.
const PIECE: usize = 256 << 10;
const WAITING: usize = 4;

impl<R> Hashed<R> {
    fn new(source: R, algorithm: Algorithm) -> Self {
        let (pieces, taken) = sync_channel::<Vec<u8>>(WAITING);
        let thread = std::thread::spawn(move || {
            let mut hasher = Hasher::new(algorithm);
            taken.iter().for_each(|piece| hasher.update(&piece));
            hasher.finish()
        });
        Self { source, piece: Vec::with_capacity(PIECE), pieces, thread }
    }

    /// The digest of all that was read.
    fn finish(mut self) -> Result<Digest, Problem> {
        self.hand_over().map_err(|_| panicked())?;
        drop(self.pieces);
        self.thread.join().map_err(|_| panicked())
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.pieces.send(piece).map_err(|_| io::Error::other("hashing ended in a panic"))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        self.piece.extend_from_slice(&buffer[..n]);
        if self.piece.len() >= PIECE {
            self.hand_over()?;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
