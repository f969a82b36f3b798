//! Images that are files or directories of this node come into a store.

mod archive;
mod directory;
mod layout;
mod sif;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::decompress::Compression;
use super::flatten::{self, SQUASHFS_MAGIC};
use super::manifest::{self, Config, Manifest, Platform, SQUASHFS_LAYER};
use super::merge::{self, Bounds, Layer, Progress, Tree};
use super::store::Flat;
use super::{Digest, Reference, Store, care};
use crate::problem::Problem;

/// What an import needs to know.
pub struct Import<'a> {
    pub store: &'a Store,
    pub bounds: Bounds,
    /// Which of several images in a layout or archive.
    pub wanted: Option<&'a str>,
    /// Told of bytes that were read.
    pub progress: Progress<'a>,
}

/// Brings in what `source` is: an OCI layout (directory or tar), a
/// docker-archive, a tar of a root, a squashfs, a SIF, or a directory; `-`
/// is a tar of a root on standard input. Gives the manifest.
///
/// # Errors
/// It is none of these, damaged, or made to do harm.
pub fn import(
    import: &Import<'_>,
    source: &Path,
    name: &Reference,
) -> Result<(Digest, Flat), Problem> {
    let digest = match kind(source)? {
        Source::Stdin => import.root_tar(&mut io::stdin().lock())?,
        Source::Layout => layout::import(import, source)?,
        Source::Directory => directory::import(import, source)?,
        Source::Squashfs(file) => import.squashfs(file, None)?,
        Source::Sif(mut file) => {
            let (offset, length) = sif::squashfs_partition(&mut file, source)?;
            file.seek(SeekFrom::Start(offset)).map_err(|e| unreadable(source, &e))?;
            import.squashfs(file, Some(length))?
        }
        Source::Tar(file) => archive::import(import, file, source)?,
    };
    let flat = import.complete(&digest)?;
    care::name(import.store, name, &digest)?;
    Ok((digest, flat))
}

/// What `docker save` and `skopeo copy … oci-archive:` write has these at its top.
fn is_archive_of_images(tree: &Tree) -> bool {
    let top = |names: &[&str]| {
        let is = |path: &[u8]| names.iter().any(|name| path == name.as_bytes());
        tree.paths().any(|path| is(path.bytes()))
    };
    top(&["manifest.json", "oci-layout"]) && !top(&["usr", "bin", "sbin"])
}

enum Source {
    Stdin,
    Layout,
    Directory,
    Squashfs(File),
    Sif(File),
    Tar(File),
}

fn kind(source: &Path) -> Result<Source, Problem> {
    if source == Path::new("-") {
        return Ok(Source::Stdin);
    }
    let mut file = File::open(source).map_err(|e| unreadable(source, &e))?;
    let metadata = file.metadata().map_err(|e| unreadable(source, &e))?;
    if metadata.is_dir() {
        let layout = source.join("oci-layout").is_file() || source.join("index.json").is_file();
        return Ok(if layout { Source::Layout } else { Source::Directory });
    }
    let mut start = Vec::new();
    file.by_ref().take(1028).read_to_end(&mut start).map_err(|e| unreadable(source, &e))?;
    file.rewind().map_err(|e| unreadable(source, &e))?;
    Ok(match &start[..] {
        s if s.starts_with(SQUASHFS_MAGIC) => Source::Squashfs(file),
        s if sif::is_sif(s) => Source::Sif(file),
        // EROFS_SUPER_MAGIC_V1 at 1024.
        s if s.get(1024..1028) == Some(&[0xe2, 0xe1, 0xf5, 0xe0]) => {
            return Err(Problem::user(format!(
                "{}: is an erofs, which is not read",
                source.display()
            ))
            .hint("mount it and import the directory"));
        }
        _ => Source::Tar(file),
    })
}

fn unreadable(source: &Path, why: &io::Error) -> Problem {
    Problem::user(format!("{}: cannot be read: {why}", source.display()))
        .hint("give an OCI layout, a docker-archive, a tar, a squashfs, a SIF or a directory")
}

impl Import<'_> {
    /// Copies a stream into the store.
    fn take_in(
        &self,
        source: &mut dyn Read,
        expected: Option<&Digest>,
    ) -> Result<(Digest, u64), Problem> {
        let mut writer = self.store.incoming(expected)?;
        if writer.offset() > 0 {
            writer.restart()?;
        }
        let mut buffer = vec![0; 1 << 17];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return writer.finish(),
                Ok(n) => {
                    writer.put(&buffer[..n])?;
                    (self.progress)(n as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Problem::user(format!("the source cannot be read: {e}"))),
            }
        }
    }

    /// A tar of a root, compressed or not, becomes the only layer.
    fn root_tar(&self, source: &mut dyn Read) -> Result<Digest, Problem> {
        let (blob, size) = self.take_in(source, None)?;
        self.one_layer(&blob, size)
    }

    /// An image of one layer that is stored.
    fn one_layer(&self, blob: &Digest, size: u64) -> Result<Digest, Problem> {
        let mut start = [0; 8];
        let n =
            self.store.open_blob(blob)?.read(&mut start).map_err(|e| merge::in_layer(blob, &e))?;
        let media_type = match Compression::of(&start[..n]) {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        let layers = [Layer { blob: blob.clone(), diff_id: None }];
        let (tree, diff_ids) = merge::read(self.store, &layers, self.bounds, self.progress)?;
        if tree.is_empty() {
            return Err(Problem::user("the tar has no files").hint("it is no root file system"));
        }
        if is_archive_of_images(&tree) {
            return Err(Problem::user("the tar is an archive of images, not of a root")
                .hint("save it to a file and import that: of a pipe only a root is taken"));
        }
        let manifest =
            write(self.store, &Config::default(), &[(media_type, blob, size, &diff_ids[0])])?;
        flatten::flatten(self.store, &manifest, &layers, &tree, self.progress)?;
        Ok(manifest)
    }

    /// A squashfs is the layer and what it is flattened to in one.
    fn squashfs(&self, file: File, length: Option<u64>) -> Result<Digest, Problem> {
        let mut source = file.take(length.unwrap_or(u64::MAX));
        let (blob, size) = self.take_in(&mut source, None)?;
        if length.is_some_and(|length| length != size) {
            return Err(Problem::user("the file ends before its squashfs does"));
        }
        check_squashfs(self.store, &blob, size)?;
        let manifest =
            write(self.store, &Config::default(), &[(SQUASHFS_LAYER, &blob, size, &blob)])?;
        let format = "squashfs".to_owned();
        let accounts = None;
        self.store.set_flat(&Flat {
            manifest: manifest.clone(),
            file: blob,
            format,
            size,
            accounts,
        })?;
        Ok(manifest)
    }

    /// Flattens what is not yet.
    fn complete(&self, manifest: &Digest) -> Result<Flat, Problem> {
        complete(self.store, manifest, self.bounds, self.progress)
    }
}

/// Flattens a stored image unless that was done; gives the file.
///
/// # Errors
/// As [`flatten::flatten`].
pub fn complete(
    store: &Store,
    manifest: &Digest,
    bounds: Bounds,
    progress: Progress<'_>,
) -> Result<Flat, Problem> {
    if let Some(flat) = store.flat(manifest) {
        return Ok(flat);
    }
    let image = Stored::read(store, manifest)?;
    if let [part] = &image.manifest.layers[..]
        && part.media_type == SQUASHFS_LAYER
    {
        check_squashfs(store, &part.digest, part.size)?;
        let flat = Flat {
            manifest: manifest.clone(),
            file: part.digest.clone(),
            format: "squashfs".into(),
            size: part.size,
            accounts: None,
        };
        store.set_flat(&flat)?;
        return Ok(flat);
    }
    let layers = image.layers()?;
    if let Ok(flat) = flatten::flatten_at_once(store, manifest, &layers, bounds, progress) {
        return Ok(flat);
    }
    let (tree, _) = merge::read(store, &layers, bounds, progress)?;
    flatten::flatten(store, manifest, &layers, &tree, progress)
}

/// An image as a store has it.
pub struct Stored {
    pub digest: Digest,
    pub manifest: Manifest,
    pub config: Config,
}

impl Stored {
    /// # Errors
    /// A part is missing or damaged, or the configuration is of another image.
    pub fn read(store: &Store, digest: &Digest) -> Result<Self, Problem> {
        let bytes = store.read_blob(digest, manifest::LARGEST)?;
        let manifest::Document::Manifest(manifest) = manifest::parse(&bytes, None)? else {
            return Err(Problem::user(format!("{digest}: is an index of images, not one image")));
        };
        let config = store.read_blob(&manifest.config.digest, manifest::LARGEST)?;
        let config = manifest::parse_config(&config)?;
        Ok(Self { digest: digest.clone(), manifest, config })
    }

    /// The layers with what they must unpack to.
    ///
    /// # Errors
    /// There are others than the configuration says, or they are no tars.
    pub fn layers(&self) -> Result<Vec<Layer>, Problem> {
        let (parts, ids) = (&self.manifest.layers, &self.config.diff_ids);
        if parts.len() != ids.len() {
            return Err(Problem::user(format!(
                "image {}: has {} layers, and its configuration {}",
                self.digest,
                parts.len(),
                ids.len()
            )));
        }
        let layer = |(part, id): (&manifest::Part, &Digest)| {
            let squashfs = part.media_type == SQUASHFS_LAYER;
            if !squashfs && !manifest::is_tar_layer(&part.media_type) {
                return Err(Problem::user(format!(
                    "image {}: a layer is of media type {:?}, which is no file system",
                    self.digest, part.media_type
                )));
            }
            Ok(Layer { blob: part.digest.clone(), diff_id: (!squashfs).then(|| id.clone()) })
        };
        parts.iter().zip(ids).map(layer).collect()
    }

    /// Manifest, configuration and layers.
    pub fn parts(&self) -> Vec<Digest> {
        let layers = self.manifest.layers.iter().map(|part| part.digest.clone());
        [self.digest.clone(), self.manifest.config.digest.clone()]
            .into_iter()
            .chain(layers)
            .collect()
    }
}

/// The tree of a stored image, with its layers.
///
/// # Errors
/// As [`merge::read`].
pub fn tree_of(
    store: &Store,
    image: &Stored,
    bounds: Bounds,
    progress: Progress<'_>,
) -> Result<(Vec<Layer>, Tree), Problem> {
    let layers = image.layers()?;
    let (tree, _) = merge::read(store, &layers, bounds, progress)?;
    Ok((layers, tree))
}

/// A layer: media type, digest, bytes, digest of its tar.
pub type NewLayer<'a> = (&'a str, &'a Digest, u64, &'a Digest);

/// Writes configuration and manifest of an image whose layers are stored.
///
/// The same layers and settings give the same digest: no time, no host.
///
/// # Errors
/// The store cannot be written.
pub fn write(store: &Store, config: &Config, layers: &[NewLayer<'_>]) -> Result<Digest, Problem> {
    let platform = Platform::own();
    let mut process = serde_json::Map::new();
    let mut set = |key: &str, value: serde_json::Value, given: bool| {
        if given {
            process.insert(key.to_owned(), value);
        }
    };
    set("Env", serde_json::json!(config.env), !config.env.is_empty());
    set("Entrypoint", serde_json::json!(config.entrypoint), !config.entrypoint.is_empty());
    set("Cmd", serde_json::json!(config.cmd), !config.cmd.is_empty());
    set("WorkingDir", serde_json::json!(config.working_dir), config.working_dir.is_some());
    set("User", serde_json::json!(config.user), config.user.is_some());
    set("Labels", serde_json::json!(config.labels), !config.labels.is_empty());
    let or = |text: &String, own: String| if text.is_empty() { own } else { text.clone() };
    let mut document = serde_json::json!({
        "os": or(&config.os, platform.os),
        "architecture": or(&config.architecture, platform.architecture),
        "config": process,
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|(.., id)| id.to_string()).collect::<Vec<_>>(),
        },
    });
    if let Some(created) = &config.created {
        document["created"] = serde_json::json!(created);
    }
    let bytes = serde_json::to_vec(&document).map_err(|e| Problem::ours(e.to_string()))?;
    let config_digest = store.put(&bytes)?;
    let parts: Vec<_> = layers
        .iter()
        .map(|(media_type, digest, size, _)| {
            serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size })
        })
        .collect();
    let annotations: BTreeMap<&String, &String> = config.labels.iter().collect();
    let mut document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": manifest::ACCEPTED[0],
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": bytes.len(),
        },
        "layers": parts,
    });
    if !annotations.is_empty() {
        document["annotations"] = serde_json::json!(annotations);
    }
    let bytes = serde_json::to_vec(&document).map_err(|e| Problem::ours(e.to_string()))?;
    store.put(&bytes)
}

/// That a file is a squashfs as the kernel takes them, and whole: version 4,
/// blocks of a size that there is, tables in their order within the bytes that
/// its superblock counts, and all of those bytes (Linux, fs/squashfs/super.c and
/// `struct squashfs_super_block`).
fn check_squashfs(store: &Store, blob: &Digest, size: u64) -> Result<(), Problem> {
    let mut block = [0; 96];
    store.open_blob(blob)?.read_exact(&mut block).map_err(|e| merge::in_layer(blob, &e))?;
    let small = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let large = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&block[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    if block[..4] != *SQUASHFS_MAGIC || small(28) != 4 {
        return Err(Problem::user("the file is no squashfs of version 4"));
    }
    let used = large(40);
    if used > size {
        return Err(Problem::user(format!("the squashfs has {used} bytes, the file only {size}")));
    }
    let power = small(22);
    let blocks = (12..=20).contains(&power) && large(12) as u32 == 1 << power;
    let (inodes, directories, ids) = (large(64), large(72), large(48));
    let tables = block.len() as u64 <= inodes && inodes < directories && directories < ids;
    if blocks && tables && ids < used {
        return Ok(());
    }
    Err(Problem::user("the squashfs is damaged: what its superblock says cannot be")
        .hint("unsquashfs -s shows it; get the file again"))
}
