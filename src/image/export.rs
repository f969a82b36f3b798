//! Images leave a store, in forms that other tools read.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::flatten::{self, TarSink};
use super::import::{Stored, tree_of, write};
use super::manifest::SQUASHFS_LAYER;
use super::merge::{self, Bounds, Progress};
use super::store::{Begun, Flat};
use super::{Digest, Reference, Store};
use crate::problem::Problem;

/// Forms of an exported image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A directory (image-spec, image-layout.md).
    Oci,
    /// The root as one tar.
    Tar,
    Squashfs,
    Erofs,
}

impl Format {
    /// What a file's name asks for.
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|e| e.to_str()) {
            Some("tar") => Self::Tar,
            Some("sqfs" | "squashfs" | "sqsh") => Self::Squashfs,
            Some("erofs") => Self::Erofs,
            _ => Self::Oci,
        }
    }
}

/// Writes a stored image to `to`, which must not be there.
///
/// # Errors
/// It is there, cannot be written, or the image lacks something.
pub fn export(
    store: &Store,
    image: &Stored,
    flat: &dyn Fn() -> Result<Flat, Problem>,
    name: &Reference,
    (to, format): (&Path, Format),
    (bounds, progress): (Bounds, Progress<'_>),
) -> Result<(), Problem> {
    if to.symlink_metadata().is_ok() {
        return Err(Problem::user(format!("{}: is there already", to.display()))
            .hint("remove it, or give another name"));
    }
    // Under another name until it is whole.
    let new = with_suffix(to, &format!(".denovo-part-{}", std::process::id()));
    let begun = Begun::new(new.clone());
    match format {
        Format::Oci => layout(store, image, name, &new, (bounds, progress))?,
        Format::Tar => {
            let (layers, tree) = tree_of(store, image, bounds, progress)?;
            let file = File::create_new(&new).map_err(|e| failed(&new, &e))?;
            let mut sink = TarSink::new(BufWriter::with_capacity(1 << 17, file), true);
            merge::emit(store, &layers, &tree, &mut sink, progress)?;
            sink.finish().map_err(|e| failed(&new, &e))?;
        }
        Format::Squashfs => {
            let flat = flat()?;
            copy(store, &flat.file, &new, progress)?;
        }
        Format::Erofs => {
            let (layers, tree) = tree_of(store, image, bounds, progress)?;
            flatten::erofs(store, &layers, &tree, &new, progress)?;
        }
    }
    put(&new, to).map_err(|e| failed(to, &e))?;
    begun.keep();
    Ok(())
}

/// Renames, over nothing that has come meanwhile.
fn put(new: &Path, to: &Path) -> io::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    match renameat2(AT_FDCWD, new, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // A file system that does not know how (NFS).
        Err(nix::errno::Errno::EINVAL) => fs::rename(new, to),
        result => Ok(result?),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

fn failed(path: &Path, why: &io::Error) -> Problem {
    Problem::user(format!("{}: cannot be written: {why}", path.display()))
        .hint("give a place that can be written and has room")
}

/// Copies content, checking it on the way.
fn copy(store: &Store, digest: &Digest, to: &Path, progress: Progress<'_>) -> Result<(), Problem> {
    let mut from = store.open_blob(digest)?;
    let mut file = File::create_new(to).map_err(|e| failed(to, &e))?;
    let mut hasher = super::digest::Hasher::new(digest.algorithm());
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = io::Read::read(&mut from, &mut buffer).map_err(|e| failed(to, &e))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(|e| failed(to, &e))?;
        progress(n as u64);
    }
    if hasher.finish() == *digest {
        return Ok(());
    }
    Err(Problem::site(format!("{digest}: what is stored under this digest is something else"))
        .hint("denovo image verify names the images that it belongs to"))
}

/// The layers as they came, so that the digest stays the same; what came as
/// a squashfs becomes a tar.
fn layout(
    store: &Store,
    image: &Stored,
    name: &Reference,
    to: &Path,
    (bounds, progress): (Bounds, Progress<'_>),
) -> Result<(), Problem> {
    let squashfs = image.manifest.layers.iter().any(|part| part.media_type == SQUASHFS_LAYER);
    let plain = if squashfs { Some(as_tar(store, image, bounds, progress)?) } else { None };
    let image = plain.as_ref().unwrap_or(image);
    let blobs = to.join("blobs");
    fs::create_dir(to).and_then(|()| fs::create_dir(&blobs)).map_err(|e| failed(to, &e))?;
    for digest in image.parts() {
        let dir = blobs.join(digest.algorithm().name());
        fs::create_dir_all(&dir).map_err(|e| failed(&dir, &e))?;
        let path = dir.join(digest.hex());
        if !path.exists() {
            copy(store, &digest, &path, progress)?;
        }
    }
    let tag = name.tag.as_deref().unwrap_or("latest");
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": super::manifest::ACCEPTED[1],
        "manifests": [{
            "mediaType": super::manifest::ACCEPTED[0],
            "digest": image.digest,
            "size": store.size(&image.digest)?,
            "annotations": { "org.opencontainers.image.ref.name": tag },
        }],
    });
    let file = |name: &str, value: &serde_json::Value| {
        let path = to.join(name);
        fs::write(&path, value.to_string()).map_err(|e| failed(&path, &e))
    };
    file("index.json", &index)?;
    file("oci-layout", &serde_json::json!({ "imageLayoutVersion": "1.0.0" }))
}

fn as_tar(
    store: &Store,
    image: &Stored,
    bounds: Bounds,
    progress: Progress<'_>,
) -> Result<Stored, Problem> {
    let (layers, tree) = tree_of(store, image, bounds, progress)?;
    let mut sink = TarSink::new(BufWriter::with_capacity(1 << 17, store.incoming(None)?), true);
    merge::emit(store, &layers, &tree, &mut sink, progress)?;
    let broken = |e: &io::Error| Problem::site(format!("writing the image's tree: {e}"));
    let buffer = sink.finish().map_err(|e| broken(&e))?;
    let writer = buffer.into_inner().map_err(|e| broken(e.error()))?;
    let (blob, size) = writer.finish()?;
    let layer = ("application/vnd.oci.image.layer.v1.tar", &blob, size, &blob);
    Stored::read(store, &write(store, &image.config, &[layer])?)
}
