//! From a tar of a root to an image.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::program::check;
use crate::image::child::Child;
use crate::image::digest::{Algorithm, Hasher};
use crate::image::import;
use crate::image::manifest::Config;
use crate::image::merge::Bounds;
use crate::image::registry::Line;
use crate::image::site::Site as Limits;
use crate::image::{Digest, Store};
use crate::problem::Problem;
use crate::request::site::Site;

/// A layer in the store.
pub struct Packed {
    blob: Digest,
    size: u64,
    diff_id: Digest,
}

/// Takes a program's standard output, a tar, into the store: compressed on
/// its way, and never written uncompressed. gzip, which every client reads.
///
/// # Errors
/// The program failed, or the store cannot be written.
pub fn layer(
    store: &Store,
    what: &str,
    (mut child, log): (Child, std::path::PathBuf),
    line: &Line,
) -> Result<Packed, Problem> {
    let mut output = child.stdout.take().ok_or_else(|| Problem::ours("no output to read"))?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut encoder = GzEncoder::new(store.incoming(None)?, Compression::new(6));
    let (mut buffer, mut size) = (vec![0; 1 << 18], 0u64);
    let copied = loop {
        // Whole buffers: what deflate makes of the same bytes depends on the
        // pieces in which they come, and a pipe's are never the same.
        let n = match fill(&mut output, &mut buffer) {
            Ok(0) => break Ok(()),
            Ok(n) => n,
            Err(e) => break Err(Problem::kernel(format!("{what}: {e}"))),
        };
        hasher.update(&buffer[..n]);
        size += n as u64;
        line.says(&format!("packing, {} MiB", size >> 20));
        if let Err(e) = encoder.write_all(&buffer[..n]) {
            break Err(encoder.get_ref().problem(&e));
        }
    };
    drop(output);
    let status = child.wait().map_err(|e| Problem::kernel(format!("{what}: {e}")))?;
    copied?;
    check(what, status, &log)?;
    let writer = encoder.finish().map_err(|e| {
        Problem::site(format!("{}: cannot be written: {e}", store.directory().display()))
            .hint("denovo image gc removes what no name leads to")
    })?;
    let (blob, size) = writer.finish()?;
    Ok(Packed { blob, size, diff_id: hasher.finish() })
}

/// As much as fits, or is left.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match source.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// GNU tar over a root: sorted, with numbers for owners, no file newer than
/// `epoch` and no times but of contents.
pub fn tar(epoch: u64) -> Command {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--file=-", "--sort=name", "--numeric-owner", "--format=posix"])
        .args(["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"])
        .args(["--xattrs", "--xattrs-include=*", "--clamp-mtime"])
        .arg(format!("--mtime=@{epoch}"))
        .env_clear()
        .env("PATH", super::program::PATH)
        .env("LC_ALL", "C");
    tar
}

/// The same over a directory of ours, whose files all belong to root.
pub fn tar_of(root: &Path, epoch: u64) -> Command {
    let mut tar = tar(epoch);
    tar.args(["--owner=0", "--group=0", "--directory"]).arg(root).arg(".");
    tar
}

/// Writes configuration and manifest, and the file that jobs start from.
///
/// # Errors
/// The layer is no root, or the store cannot be written.
pub fn finish(
    store: &Store,
    site: &Site,
    packed: &Packed,
    config: &Config,
) -> Result<Digest, Problem> {
    let layer =
        ("application/vnd.oci.image.layer.v1.tar+gzip", &packed.blob, packed.size, &packed.diff_id);
    let manifest = import::write(store, config, &[layer])?;
    let bounds = Bounds::of(&Limits(site.images.clone()));
    import::complete(store, &manifest, bounds, &|_| {})?;
    Ok(manifest)
}
