//! A directory becomes a layer.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path as FsPath;

use super::Import;
use crate::image::Digest;
use crate::image::tar::{Entry, Kind, Path, Writer};
use crate::problem::Problem;

/// Names are sorted, so that the same directory gives the same digest.
pub fn import(import: &Import<'_>, source: &FsPath) -> Result<Digest, Problem> {
    let mut writer = import.store.incoming(None)?;
    let mut store = None;
    let counted = Counted { writer: &mut writer, progress: import.progress, failed: &mut store };
    let mut tar = Writer::new(io::BufWriter::with_capacity(1 << 17, counted));
    let mut walk = Walk { tar: &mut tar, links: HashMap::new() };
    let read = walk.entry(source, &Path::default()).and_then(|()| tar.finish().map(drop));
    if let Err(why) = read {
        let source = || Problem::user(format!("{}: {why}", source.display()));
        return Err(store.unwrap_or_else(source));
    }
    let (blob, size) = writer.finish()?;
    import.one_layer(&blob, size)
}

struct Counted<'a> {
    writer: &'a mut crate::image::store::BlobWriter,
    progress: super::Progress<'a>,
    /// What the store said, where it is not the source that failed.
    failed: &'a mut Option<Problem>,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.writer.write(bytes).inspect_err(|e| {
            *self.failed = Some(self.writer.problem(e));
        })?;
        (self.progress)(n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Walk<'a, W: Write> {
    tar: &'a mut Writer<W>,
    /// Files with several names: device and inode.
    links: HashMap<(u64, u64), Path>,
}

impl<W: Write> Walk<'_, W> {
    fn entry(&mut self, real: &FsPath, path: &Path) -> io::Result<()> {
        let named = |e: io::Error| io::Error::other(format!("{}: {e}", real.display()));
        let metadata = fs::symlink_metadata(real).map_err(named)?;
        let kind = metadata.file_type();
        // A socket is its listener's, of which there is none in an image.
        if kind.is_socket() {
            return Ok(());
        }
        let mut entry = describe(real, path, &metadata).map_err(named)?;
        if !kind.is_dir() && metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&inode) {
                entry.kind = Kind::Hardlink(first.clone());
                (entry.size, entry.stored) = (0, 0);
                return self.tar.entry(&entry, &mut io::empty());
            }
            self.links.insert(inode, path.clone());
        }
        if entry.kind == Kind::File {
            let mut file = File::open(real).map_err(named)?;
            return self.tar.entry(&entry, &mut file).map_err(named);
        }
        self.tar.entry(&entry, &mut io::empty())?;
        if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(real)
                .and_then(|dir| dir.map(|e| e.map(|e| e.file_name())).collect::<io::Result<_>>())
                .map_err(named)?;
            names.sort();
            for name in names {
                self.entry(&real.join(&name), &path.join(name.as_bytes()))?;
            }
        }
        Ok(())
    }
}

fn describe(real: &FsPath, path: &Path, metadata: &Metadata) -> io::Result<Entry> {
    let kind = metadata.file_type();
    let device = || (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let kind = if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(real)?.into_os_string().into_encoded_bytes())
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_char_device() {
        Kind::Character(device().0, device().1)
    } else if kind.is_block_device() {
        Kind::Block(device().0, device().1)
    } else {
        Kind::File
    };
    let size = if kind == Kind::File { metadata.size() } else { 0 };
    let path = Path::parse(path.bytes()).map_err(io::Error::other)?;
    Ok(Entry {
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: metadata.mtime(),
        stored: size,
        size,
        xattrs: attributes(real)?,
        kind,
        ..Entry::implied(path)
    })
}

/// All but those that belong to the file system it lies on.
fn attributes(real: &FsPath) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0u8; 1 << 16];
    let n = match rustix::fs::llistxattr(real, &mut names) {
        Ok(n) => n,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut all = Vec::new();
    for name in names[..n].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.") || name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0u8; 1 << 16];
        let n = rustix::fs::lgetxattr(real, name, &mut value[..])?;
        value.truncate(n);
        all.push((name.to_vec(), value));
    }
    Ok(all)
}
