//! An image becomes one file: a squashfs with zstd, whose digest is its name.
//!
//! The merged tree goes to mksquashfs(1) as a tar stream, so that nothing is
//! ever unpacked; it compresses with all cores. docs/decisions says why
//! squashfs, and why at this level.

use std::fs::{DirBuilder, File};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

use super::child::Child;
use super::merge::{self, AtOnce, Bounds, Layer, Node, Progress, Sink, Tree};
use super::store::{Accounts, Flat, Temporary};
use super::tar::{Entry, Path as TarPath, Writer};
use super::unpack::{Owners, Unpacker};
use super::{Digest, Store};
use crate::problem::Problem;

/// Compressed well enough by the fastest level: a higher one costs more time
/// than it saves in reading.
const LEVEL: &str = "1";

/// Memory that mksquashfs may fill with data on its way.
const MEMORY: &str = "64M";

/// Writes a tree as tar entries.
pub struct TarSink<W: Write> {
    writer: Writer<W>,
    /// The root has no entry where the reader cannot take one.
    root: bool,
}

impl<W: Write> TarSink<W> {
    pub fn new(sink: W, root: bool) -> Self {
        Self { writer: Writer::new(sink), root }
    }

    /// # Errors
    /// What the sink says.
    pub fn finish(self) -> std::io::Result<W> {
        self.writer.finish()
    }
}

impl<W: Write> Sink for TarSink<W> {
    fn node(&mut self, entry: &Entry) -> Result<(), Problem> {
        if entry.path.is_root() && !self.root {
            return Ok(());
        }
        self.writer.entry(entry, &mut std::io::empty()).map_err(|e| stream(&e))
    }

    fn file(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), Problem> {
        self.writer.entry(entry, data).map_err(|e| stream(&e))
    }
}

fn stream(why: &std::io::Error) -> Problem {
    Problem::site(format!("writing the image's tree: {why}"))
}

/// Flattens an image and notes the file with its manifest.
///
/// # Errors
/// mksquashfs is not there or fails; a layer is damaged; the disk is full.
pub fn flatten(
    store: &Store,
    manifest: &Digest,
    layers: &[Layer],
    tree: &Tree,
    progress: Progress<'_>,
) -> Result<Flat, Problem> {
    let temporary = store.temporary("flat")?;
    let implied = Entry::implied(TarPath::default());
    let root = tree.directories().next().unwrap_or(&implied);
    let emit = |sink: &mut dyn Sink| merge::emit(store, layers, tree, sink, progress);
    let ((), seen) = squash(root, temporary.path(), emit)?;
    note(store, manifest, temporary, accounts(tree, seen))
}

/// The same from the layers alone, of which the largest is read only once.
///
/// # Errors
/// As [`flatten`]; or the layers are such that it takes [`flatten`], which
/// also tells better what is wrong with them.
pub fn flatten_at_once(
    store: &Store,
    manifest: &Digest,
    layers: &[Layer],
    bounds: Bounds,
    progress: Progress<'_>,
) -> Result<Flat, Problem> {
    let temporary = store.temporary("flat")?;
    let at_once = AtOnce::begin(store, layers, bounds, progress)?;
    let root = at_once.root().clone();
    let (tree, seen) = squash(&root, temporary.path(), |sink| at_once.emit(sink))?;
    note(store, manifest, temporary, accounts(&tree, seen))
}

fn note(
    store: &Store,
    manifest: &Digest,
    file: Temporary,
    accounts: Option<Accounts>,
) -> Result<Flat, Problem> {
    let (file, size) = file.adopt()?;
    let format = "squashfs".into();
    let flat = Flat { manifest: manifest.clone(), file, format, size, accounts };
    store.set_flat(&flat)?;
    Ok(flat)
}

/// The texts of [`ACCOUNTS`] that came by.
type Seen = [Option<String>; 2];

/// Writes what `emit` hands out as a squashfs to `to`.
///
/// # Errors
/// As [`flatten`].
fn squash<T>(
    root: &Entry,
    to: &Path,
    emit: impl FnOnce(&mut dyn Sink) -> Result<T, Problem>,
) -> Result<(T, Seen), Problem> {
    let mut command = tool("mksquashfs", "squashfs-tools")?;
    command.arg("-").arg(to);
    command.args(["-tar", "-noappend", "-quiet", "-no-progress", "-comp", "zstd"]);
    command.args(["-Xcompression-level", LEVEL, "-mem", MEMORY, "-mkfs-time", "0"]);
    // Inodes as they are: they are few bytes, looked at often, and the time
    // of the root's is to be set.
    command.arg("-noI");
    // The root has no entry of its own there.
    command.arg("-root-mode").arg(format!("{:o}", root.mode));
    command.arg("-root-uid").arg(root.uid.to_string());
    command.arg("-root-gid").arg(root.gid.to_string());
    let (mut seen, mut emitted) = ([None, None], None);
    feed(command, "mksquashfs", |input| {
        let mut sink = Squashed { tar: TarSink::new(input, false), seen: &mut seen };
        emitted = Some(emit(&mut sink)?);
        sink.tar.finish().map(drop).map_err(|e| stream(&e))
    })?;
    let time = root.mtime.clamp(0, i64::from(u32::MAX)) as u32;
    set_root_time(to, time).map_err(|e| stream(&e))?;
    let emitted = emitted.ok_or_else(|| Problem::ours("nothing was written"))?;
    Ok((emitted, seen))
}

/// The files of accounts, as paths in a tree.
const ACCOUNTS: [&[u8]; 2] = [b"etc/passwd", b"etc/group"];

/// Bytes of one that is kept beside the image.
const SHORT: u64 = 64 << 10;

/// The account files, if those that came by are what a start would find: one
/// with two names may have come under the other.
fn accounts(tree: &Tree, seen: Seen) -> Option<Accounts> {
    let text = |(path, seen): (&[u8], Option<String>)| {
        let path = TarPath::parse(path).ok()?;
        match tree.get(&path) {
            Some(Node::File { .. }) => seen,
            _ => Some(String::new()),
        }
    };
    let mut texts = ACCOUNTS.into_iter().zip(seen).map(text);
    Some(Accounts { passwd: texts.next()??, group: texts.next()?? })
}

/// Sets the root's time of change, in seconds since 1970: until 4.6
/// mksquashfs takes the present for it where it reads a tar, and two images
/// of the same layers would differ (kernel document filesystems/squashfs,
/// "Inodes"; the layout is that of `squashfs_base_inode`).
fn set_root_time(path: &Path, time: u32) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = File::options().read(true).write(true).open(path)?;
    let number = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).map(|()| u64::from_le_bytes(bytes))
    };
    let (root, table) = (number(32)?, number(64)?);
    let block = table + (root >> 16);
    let mut header = [0; 2];
    file.read_exact_at(&mut header, block)?;
    if u16::from_le_bytes(header) & 0x8000 == 0 {
        return Err(std::io::Error::other("mksquashfs compressed the inodes"));
    }
    file.write_all_at(&time.to_le_bytes(), block + 2 + (root & 0xffff) + 8)
}

/// What goes into a squashfs. It has times from 1970 on, in 32 bits.
struct Squashed<'a, W: Write> {
    tar: TarSink<W>,
    seen: &'a mut Seen,
}

impl<W: Write> Sink for Squashed<'_, W> {
    fn node(&mut self, entry: &Entry) -> Result<(), Problem> {
        self.tar.node(&clamped(entry))
    }

    fn file(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), Problem> {
        let which = ACCOUNTS.iter().position(|path| entry.path.bytes() == *path);
        let short = entry.sparse.is_none() && entry.stored <= SHORT;
        let Some(which) = which.filter(|_| short) else {
            return self.tar.file(&clamped(entry), data);
        };
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).map_err(|e| stream(&e))?;
        self.tar.file(&clamped(entry), &mut &bytes[..])?;
        // What is no text is no account file.
        self.seen[which] = Some(String::from_utf8(bytes).unwrap_or_default());
        Ok(())
    }
}

fn clamped(entry: &Entry) -> std::borrow::Cow<'_, Entry> {
    let most = i64::from(u32::MAX);
    if (0..=most).contains(&entry.mtime) {
        return std::borrow::Cow::Borrowed(entry);
    }
    std::borrow::Cow::Owned(Entry { mtime: entry.mtime.clamp(0, most), ..entry.clone() })
}

/// Writes a tree as an erofs to `to`, by way of a tar file, since mkfs.erofs(1)
/// reads its input twice; before 1.7 it reads no tar, but a directory, which
/// only root can make as the image has it.
///
/// # Errors
/// mkfs.erofs is not there, or too old for a user, or fails.
pub fn erofs(
    store: &Store,
    layers: &[Layer],
    tree: &Tree,
    to: &Path,
    progress: Progress<'_>,
) -> Result<(), Problem> {
    let mut command = tool("mkfs.erofs", "erofs-utils")?;
    let help = Command::new("mkfs.erofs").arg("--help").output();
    let text = help.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let has = |option: &str| text.contains(option);
    let temporary = store.temporary("erofs")?;
    let mut source = temporary.path().to_owned();
    if has("--tar") {
        let file = File::create(&source).map_err(|e| stream(&e))?;
        let mut sink = TarSink::new(BufWriter::with_capacity(1 << 17, file), true);
        merge::emit(store, layers, tree, &mut sink, progress)?;
        sink.finish().map_err(|e| stream(&e))?;
        command.arg("--tar=f");
    } else if nix::unistd::geteuid().is_root() {
        // There are setuid programs in it: nobody else may enter.
        DirBuilder::new().mode(0o700).create(&source).map_err(|e| stream(&e))?;
        source.push("root");
        DirBuilder::new().create(&source).map_err(|e| stream(&e))?;
        let mut unpacker = Unpacker::new(&source, Owners::Kept)?;
        merge::emit(store, layers, tree, &mut unpacker, progress)?;
        unpacker.finish()?;
    } else {
        return Err(Problem::site("mkfs.erofs of this node is too old to read a tar stream")
            .hint("erofs-utils 1.7 or newer can; export as squashfs or tar instead"));
    }
    command.args(["-zlz4", "--quiet"]);
    // The time of the file system alone; files keep theirs.
    if has("--mkfs-time") {
        command.args(["--mkfs-time", "-T0"]);
    }
    let child = Child::spawn(command.arg(to).arg(&source).stdin(Stdio::null()));
    wait(child.map_err(|e| cannot_start("mkfs.erofs", &e))?, "mkfs.erofs")
}

/// A program of the node with nothing of the caller's environment: what it
/// makes must depend on the image alone.
fn tool(name: &str, package: &str) -> Result<Command, Problem> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<std::path::PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/bin", "/usr/sbin"].map(Into::into));
    let found = places.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    let found = found.ok_or_else(|| {
        Problem::site(format!("{name}: is not on this node"))
            .hint(format!("Debian has it in {package}; it is needed where images are brought in, not where jobs run"))
    })?;
    let mut command = Command::new(found);
    command.env_clear().env("PATH", path).env("LC_ALL", "C");
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    Ok(command)
}

/// Runs a program with what `write` gives it on its standard input.
fn feed(
    mut command: Command,
    name: &str,
    write: impl FnOnce(BufWriter<ChildStdin>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let child = Child::spawn(command.stdin(Stdio::piped()));
    let mut child = child.map_err(|e| cannot_start(name, &e))?;
    let input = child.stdin.take().ok_or_else(|| Problem::ours("no pipe to a child"))?;
    // A pipe holds 64 KiB unless asked; a larger one lets both sides run.
    let _ = rustix::pipe::fcntl_setpipe_size(&input, 1 << 20);
    let written = write(BufWriter::with_capacity(1 << 17, input));
    let failed = written.is_err();
    if failed {
        // The end of its input must not look like the end of the image.
        let _ = child.kill();
    }
    match (wait(child, name), written) {
        // It went first: its words say why writing to it failed.
        (Err(said), Err(ours)) if ours.message.contains("Broken pipe") => Err(said),
        (_, Err(ours)) => Err(ours),
        (ended, Ok(())) => ended,
    }
}

fn wait(mut child: Child, name: &str) -> Result<(), Problem> {
    let mut words = String::new();
    if let Some(mut err) = child.stderr.take() {
        let _ = err.by_ref().take(1 << 16).read_to_string(&mut words);
        let _ = std::io::copy(&mut err, &mut std::io::sink());
    }
    let status = child.wait().map_err(|e| cannot_start(name, &e))?;
    if status.success() {
        return Ok(());
    }
    let last = words.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>();
    let tail = last[last.len().saturating_sub(3)..].join("; ");
    let problem = Problem::site(format!("{name} failed ({status}): {tail}"));
    Err(if tail.contains("No space left") || tail.contains("Failed to write") {
        problem.hint("the disk is full: denovo image gc removes what no name leads to")
    } else {
        problem
    })
}

fn cannot_start(name: &str, why: &std::io::Error) -> Problem {
    Problem::site(format!("{name}: cannot be run: {why}"))
}

/// A squashfs as a stream of tar entries, by sqfs2tar(1).
///
/// # Errors
/// It is not on this node.
pub fn read_squashfs(file: File) -> Result<SquashfsReader, Problem> {
    let mut command = tool("sqfs2tar", "squashfs-tools-ng")?;
    // Its own descriptor 0: whatever the file is called by then.
    command.args(["--no-skip", "/proc/self/fd/0"]).stdin(Stdio::from(file));
    let child = Child::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()))
        .map_err(|e| cannot_start("sqfs2tar", &e))?;
    Ok(SquashfsReader { child })
}

/// Reads what sqfs2tar writes; its failure is an error at the end.
pub struct SquashfsReader {
    child: Child,
}

impl Read for SquashfsReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = match self.child.stdout.as_mut() {
            Some(out) => out.read(buffer)?,
            None => 0,
        };
        if n == 0 && !buffer.is_empty() {
            let status = self.child.wait()?;
            if !status.success() {
                return Err(std::io::Error::other(format!("sqfs2tar failed ({status})")));
            }
        }
        Ok(n)
    }
}

impl Drop for SquashfsReader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a squashfs begins with (kernel document filesystems/squashfs).
pub const SQUASHFS_MAGIC: &[u8; 4] = b"hsqs";
