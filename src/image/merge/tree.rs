//! The tree that layers add up to, in memory: names and what they are, no data.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::super::tar::{Entry, Error, Kind, Path};

/// Links in links that are followed to a directory, as the kernel does it
/// (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// What a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// The entry of a layer that has the data: two names with one of these
    /// are hard links.
    File { layer: usize, number: usize },
    /// Anything else, as it will be; hard links among these are copies.
    Other(Entry),
}

/// Everything below a root.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<Path, Node>,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node::Other(Entry::implied(Path::default()));
        Self { nodes: BTreeMap::from([(Path::default(), root)]) }
    }
}

pub(super) enum Whiteout {
    /// Of one name below.
    Name(Path),
    /// Of everything in a directory (layer.md, "Opaque Whiteout").
    Opaque(Path),
}

impl Tree {
    pub fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.len() <= 1
    }

    /// Adds a layer: first what it takes away from those below, wherever in
    /// the layer that stands, then what it brings.
    ///
    /// # Errors
    /// An entry lies below something that is no directory, links to what is
    /// not there, or replaces the root by something else.
    pub fn add(&mut self, layer: usize, entries: Vec<Entry>) -> Result<(), Error> {
        for entry in &entries {
            match whiteout(entry)? {
                Some(Whiteout::Name(path)) => {
                    if let Some(place) = self.place(&path)? {
                        self.remove(&place);
                    }
                }
                Some(Whiteout::Opaque(directory)) => {
                    if let Some(place) = self.directory(&directory)? {
                        self.remove_below(&place);
                    }
                }
                None => {}
            }
        }
        for (number, entry) in entries.into_iter().enumerate() {
            if !is_mark(&entry.path) {
                self.insert(layer, number, entry)?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, layer: usize, number: usize, mut entry: Entry) -> Result<(), Error> {
        if entry.path.is_root() {
            if entry.kind != Kind::Directory {
                return Err(Error::entry(
                    b"/",
                    "would replace the root by something that is no directory",
                ));
            }
            self.nodes.insert(Path::default(), Node::Other(entry));
            return Ok(());
        }
        let place = self.make_place(&entry.path)?;
        let node = match &entry.kind {
            Kind::File => Node::File { layer, number },
            Kind::Hardlink(to) => {
                let target = self.place(to)?.filter(|target| *target != place);
                match target.and_then(|target| self.nodes.get(&target)) {
                    Some(Node::Other(Entry { kind: Kind::Directory, .. })) => {
                        return Err(bad(&entry, "is a hard link to a directory"));
                    }
                    Some(Node::Other(other)) => {
                        Node::Other(Entry { path: place.clone(), ..other.clone() })
                    }
                    Some(file) => file.clone(),
                    None => return Err(bad(&entry, "is a hard link to what is not there")),
                }
            }
            _ => {
                entry.path = place.clone();
                Node::Other(entry)
            }
        };
        let stays = is_directory(&node) && self.nodes.get(&place).is_some_and(is_directory);
        if !stays {
            self.remove_below(&place);
        }
        self.nodes.insert(place, node);
        Ok(())
    }

    /// Where an entry of this path belongs: its directory with every symlink
    /// on the way followed inside the root, then its name. Directories that
    /// are missing are made.
    fn make_place(&mut self, path: &Path) -> Result<Path, Error> {
        let Some((directory, name)) = path.split() else { return Ok(Path::default()) };
        let directory = self.walk(&directory, true)?.unwrap_or_default();
        Ok(directory.join(name))
    }

    /// The same for what may not be there.
    fn place(&mut self, path: &Path) -> Result<Option<Path>, Error> {
        let Some((directory, name)) = path.split() else { return Ok(Some(Path::default())) };
        Ok(self.walk(&directory, false)?.map(|directory| directory.join(name)))
    }

    fn directory(&mut self, path: &Path) -> Result<Option<Path>, Error> {
        self.walk(path, false)
    }

    /// Follows a path to a directory, as chroot(2) would have it followed.
    fn walk(&mut self, path: &Path, make: bool) -> Result<Option<Path>, Error> {
        let mut ahead: Vec<Vec<u8>> = path.parts().rev().map(<[u8]>::to_vec).collect();
        let mut at = Path::default();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part.is_empty() || part == b"." {
                continue;
            }
            if part == b".." {
                at = at.split().map_or_else(Path::default, |(up, _)| up);
                continue;
            }
            let next = at.join(&part);
            match self.nodes.get(&next) {
                Some(Node::Other(Entry { kind: Kind::Directory, .. })) => at = next,
                Some(Node::Other(Entry { kind: Kind::Symlink(to), .. })) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Error::entry(path.bytes(), "leads through too many symlinks"));
                    }
                    if to.starts_with(b"/") {
                        at = Path::default();
                    }
                    ahead.extend(to.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
                }
                Some(_) if make => {
                    return Err(Error::entry(
                        path.bytes(),
                        "lies below something that is no directory",
                    ));
                }
                Some(_) => return Ok(None),
                None if make => {
                    Path::parse(next.bytes()).map_err(|why| Error::entry(path.bytes(), why))?;
                    self.nodes.insert(next.clone(), Node::Other(Entry::implied(next.clone())));
                    at = next;
                }
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn remove(&mut self, path: &Path) {
        self.remove_below(path);
        if !path.is_root() {
            self.nodes.remove(path);
        }
    }

    fn remove_below(&mut self, path: &Path) {
        // What lies between `path/` and `path0`: `0` is what follows `/`.
        let below: Vec<Path> = if path.is_root() {
            self.nodes.keys().filter(|p| !p.is_root()).cloned().collect()
        } else {
            let first = path.join(b"");
            let prefix = first.bytes().to_vec();
            self.nodes
                .range((Bound::Excluded(first), Bound::Unbounded))
                .map(|(p, _)| p)
                .take_while(|p| p.bytes().starts_with(&prefix))
                .cloned()
                .collect()
        };
        for path in below {
            self.nodes.remove(&path);
        }
    }

    fn others(&self) -> impl Iterator<Item = &Entry> {
        self.nodes.values().filter_map(|node| match node {
            Node::Other(entry) => Some(entry),
            Node::File { .. } => None,
        })
    }

    /// Every name but the root's.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.nodes.keys().filter(|path| !path.is_root())
    }

    /// Every directory, each after the one that it is in; the root first.
    pub fn directories(&self) -> impl Iterator<Item = &Entry> {
        self.others().filter(|e| e.kind == Kind::Directory)
    }

    /// What is neither directory nor regular file, symlinks last.
    pub fn rest(&self) -> impl Iterator<Item = &Entry> {
        let link = |e: &&Entry| matches!(e.kind, Kind::Symlink(_));
        let nodes = self.others().filter(move |e| e.kind != Kind::Directory && !link(e));
        nodes.chain(self.others().filter(link))
    }

    /// Files whose data is in one layer, in the order in which it has them,
    /// each with its names.
    pub fn files_of(&self, layer: usize) -> Vec<(usize, Vec<&Path>)> {
        let mut names: HashMap<usize, Vec<&Path>> = HashMap::new();
        for (path, node) in &self.nodes {
            match node {
                Node::File { layer: of, number } if *of == layer => {
                    names.entry(*number).or_default().push(path);
                }
                _ => {}
            }
        }
        let mut files: Vec<_> = names.into_iter().collect();
        files.sort_unstable_by_key(|(number, _)| *number);
        files
    }
}

fn is_directory(node: &Node) -> bool {
    matches!(node, Node::Other(Entry { kind: Kind::Directory, .. }))
}

fn bad(entry: &Entry, why: &str) -> Error {
    Error::entry(entry.path.bytes(), why)
}

/// Names that begin like this say something about others (layer.md,
/// "Whiteouts"); no file can have one.
const MARK: &[u8] = b".wh.";
/// AUFS' own, of which one means something.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

pub(super) fn is_mark(path: &Path) -> bool {
    path.parts().any(|part| part.starts_with(MARK))
}

pub(super) fn whiteout(entry: &Entry) -> Result<Option<Whiteout>, Error> {
    let Some((directory, name)) = entry.path.split() else { return Ok(None) };
    if name == OPAQUE {
        return Ok(Some(Whiteout::Opaque(directory)));
    }
    if name.starts_with(AUFS) {
        return Ok(None);
    }
    let Some(hidden) = name.strip_prefix(MARK) else { return Ok(None) };
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(bad(entry, "takes away what no name is"));
    }
    Ok(Some(Whiteout::Name(directory.join(hidden))))
}
