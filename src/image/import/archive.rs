//! A tar file: an OCI layout, a docker-archive (`docker save`), or a root.
//!
//! What it is shows in its names. The parts of an image go into the store as
//! they come by; should an entry turn up that is no part of one, the file is
//! a root after all.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path as FsPath;

use serde::Deserialize;

use super::{Import, NewLayer, layout, write};
use crate::image::Digest;
use crate::image::decompress::{self, Bounded};
use crate::image::manifest::{self, Part};
use crate::image::merge::{self, Layer};
use crate::image::tar::{Kind, Path, Reader};
use crate::problem::Problem;

/// Parts of one archive.
const MOST_PARTS: usize = 4096;
/// Documents that are read whole: index.json, manifest.json.
const MOST_DOCUMENT: u64 = manifest::LARGEST;

pub fn import(import: &Import<'_>, mut file: File, source: &FsPath) -> Result<Digest, Problem> {
    let again = file.try_clone().map_err(|e| super::unreadable(source, &e))?;
    match parts(import, again)? {
        Some(parts) if parts.documents.contains_key("index.json") => oci(import, &parts),
        Some(parts) if parts.documents.contains_key("manifest.json") => docker(import, &parts),
        _ => {
            file.rewind().map_err(|e| super::unreadable(source, &e))?;
            import.root_tar(&mut file)
        }
    }
}

#[derive(Default)]
struct Parts {
    /// By path in the archive.
    blobs: HashMap<String, (Digest, u64)>,
    documents: HashMap<String, Vec<u8>>,
    /// `docker save` of old links a layer that several images have.
    links: HashMap<String, String>,
}

impl Parts {
    fn blob(&self, path: &str) -> Result<(Digest, u64), Problem> {
        let path = self.links.get(path).map_or(path, String::as_str);
        self.blobs.get(path).cloned().ok_or_else(|| {
            Problem::user(format!("the archive lacks {path:?}, which its manifest names"))
        })
    }
}

/// Takes the parts of an image in; nothing if the file is something else.
fn parts(import: &Import<'_>, file: File) -> Result<Option<Parts>, Problem> {
    let wrong = |e: &dyn std::fmt::Display| Problem::user(format!("the archive: {e}"));
    let plain = decompress::open(file).map_err(|e| wrong(&e))?;
    let bounded = Bounded::new(plain, import.bounds.bytes);
    let mut reader = Reader::new(std::io::BufReader::with_capacity(1 << 17, bounded));
    let mut parts = Parts::default();
    while let Some(entry) = reader.next_entry().map_err(|e| wrong(&e))? {
        let name = entry.path.lossy().into_owned();
        if !is_part(&entry.path) {
            return Ok(None);
        }
        if parts.blobs.len() + parts.documents.len() + parts.links.len() > MOST_PARTS {
            return Err(wrong(&"it has too many parts"));
        }
        match entry.kind {
            Kind::File if is_document(&name) => {
                let mut bytes = Vec::new();
                let data = reader.data().take(MOST_DOCUMENT + 1).read_to_end(&mut bytes);
                data.map_err(|e| wrong(&e))?;
                parts.documents.insert(name, bytes);
            }
            Kind::File if entry.sparse.is_none() => {
                let expected = named_digest(&name);
                let known = expected.as_ref().filter(|digest| import.store.has(digest));
                let blob = match known {
                    Some(digest) => (digest.clone(), entry.size),
                    None => import.take_in(&mut reader.data(), expected.as_ref())?,
                };
                parts.blobs.insert(name, blob);
            }
            Kind::Symlink(to) => {
                // As in `HEX/layer.tar -> ../HEX/layer.tar`.
                let to = String::from_utf8_lossy(&to).trim_start_matches("../").to_owned();
                parts.links.insert(name, to);
            }
            _ => {}
        }
    }
    Ok(Some(parts))
}

fn is_document(name: &str) -> bool {
    matches!(name, "index.json" | "manifest.json" | "oci-layout" | "repositories")
}

/// `blobs/…`, the documents, and what `docker save` makes: `HEX.json`,
/// `HEX.tar`, `HEX/layer.tar`, `HEX/json`, `HEX/VERSION`.
fn is_part(path: &Path) -> bool {
    let Some(first) = path.parts().next().and_then(|p| std::str::from_utf8(p).ok()) else {
        return path.is_root();
    };
    let stem = first.strip_suffix(".json").or_else(|| first.strip_suffix(".tar")).unwrap_or(first);
    let hash = stem.len() == 64 && stem.bytes().all(|b| b.is_ascii_hexdigit());
    first == "blobs" || is_document(first) || hash
}

/// The digest that a blob in a layout is called by.
fn named_digest(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

fn oci(import: &Import<'_>, parts: &Parts) -> Result<Digest, Problem> {
    let fetch = |part: &Part| import.store.read_blob(&part.digest, manifest::LARGEST);
    let (bytes, image) = layout::choose(&parts.documents["index.json"], import.wanted, fetch)?;
    for part in std::iter::once(&image.config).chain(&image.layers) {
        import.store.blob_path(&part.digest)?;
    }
    import.store.put(&bytes)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Its layers become an OCI image with the configuration as it is.
fn docker(import: &Import<'_>, parts: &Parts) -> Result<Digest, Problem> {
    let text = &parts.documents["manifest.json"];
    let images: Vec<Saved> = serde_json::from_slice(text)
        .map_err(|e| Problem::user(format!("the archive's manifest.json: {e}")))?;
    let saved = chosen(&images, import.wanted)?;
    if saved.layers.len() > manifest::MOST_LAYERS {
        return Err(Problem::user(format!(
            "the archive's image has {} layers",
            saved.layers.len()
        )));
    }
    let (config, _) = parts.blob(&saved.config)?;
    let config = manifest::parse_config(&import.store.read_blob(&config, manifest::LARGEST)?)?;
    if config.diff_ids.len() != saved.layers.len() {
        return Err(Problem::user("the archive's configuration is of other layers"));
    }
    let layers: Vec<Layer> = saved
        .layers
        .iter()
        .zip(&config.diff_ids)
        .map(|(path, id)| Ok(Layer { blob: parts.blob(path)?.0, diff_id: Some(id.clone()) }))
        .collect::<Result<_, Problem>>()?;
    // Checks that they are the configuration's before anything is written.
    let (tree, ids) = merge::read(import.store, &layers, import.bounds, import.progress)?;
    let sizes: Vec<(&str, u64)> = saved
        .layers
        .iter()
        .map(|path| {
            let (blob, size) = parts.blob(path)?;
            let plain = config.diff_ids.contains(&blob);
            Ok((if plain { TAR } else { TAR_GZIP }, size))
        })
        .collect::<Result<_, Problem>>()?;
    let new: Vec<NewLayer<'_>> = layers
        .iter()
        .zip(&ids)
        .zip(&sizes)
        .map(|((layer, id), (media, size))| (*media, &layer.blob, *size, id))
        .collect();
    let digest = write(import.store, &config, &new)?;
    crate::image::flatten::flatten(import.store, &digest, &layers, &tree, import.progress)?;
    Ok(digest)
}

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn chosen<'a>(images: &'a [Saved], wanted: Option<&str>) -> Result<&'a Saved, Problem> {
    let tags = || {
        let all = images.iter().flat_map(|i| i.repo_tags.iter().flatten().cloned());
        format!("--ref NAME chooses one of: {}", all.collect::<Vec<_>>().join(", "))
    };
    match wanted {
        Some(name) => images
            .iter()
            .find(|i| i.repo_tags.iter().flatten().any(|tag| tag == name))
            .ok_or_else(|| Problem::user("the archive has no image of that name").hint(tags())),
        None if images.len() == 1 => Ok(&images[0]),
        None => Err(Problem::user(format!("the archive has {} images", images.len())).hint(tags())),
    }
}
