//! `image import` and `image export`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{Progress, Where, say_json};
use crate::cli::say::out;
use crate::image::export::{self, Format};
use crate::image::import::{self, Stored};
use crate::image::merge::Bounds;
use crate::image::site::Site;
use crate::image::{Reference, care};
use crate::problem::Problem;
use crate::supervise::container::Refusal;

#[derive(Debug, Args)]
pub struct Import {
    /// An OCI layout (directory or tar), a docker-archive, a tar of a root
    /// (`-`: standard input), a squashfs, a SIF, or a directory
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// Its name from now on
    #[arg(value_name = "NAME")]
    name: Reference,
    /// Which image of a layout or archive that has several
    #[arg(long = "ref", value_name = "NAME")]
    wanted: Option<String>,
    #[command(flatten)]
    place: Where,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Export {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub(super) image: Reference,
    /// The file or directory to write
    #[arg(value_name = "TO")]
    pub(super) to: PathBuf,
    /// Its form [default: by the name: .tar, .sqfs, .erofs, else an OCI layout]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Form>,
    #[command(flatten)]
    place: Where,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Oci,
    Tar,
    Squashfs,
    Erofs,
}

impl From<Form> for Format {
    fn from(form: Form) -> Self {
        match form {
            Form::Oci => Self::Oci,
            Form::Tar => Self::Tar,
            Form::Squashfs => Self::Squashfs,
            Form::Erofs => Self::Erofs,
        }
    }
}

pub fn import(site: &Site, args: &Import) -> Result<i32, Refusal> {
    args.name.to_give()?;
    let store = args.place.open(site)?;
    // What crashed imports have left goes first: it may be what fills the disk.
    store.sweep(care::RESUMABLE);
    let progress = Progress::new(&format!("import {}", args.name), expected(&args.source));
    let add = |n| progress.add(n);
    let import = import::Import {
        store: &store,
        bounds: Bounds::of(site),
        wanted: args.wanted.as_deref(),
        progress: &add,
    };
    let (manifest, flat) = import::import(&import, &args.source, &args.name)?;
    drop(progress);
    let name = args.name.stored_name();
    if args.json {
        say_json(&serde_json::json!({ "name": name, "manifest": manifest, "flat": flat }))?;
    } else {
        out(format_args!("{name}@{manifest}"));
    }
    Ok(0)
}

/// Bytes that an import reads: a file is copied, then read for its names,
/// then for its data.
fn expected(source: &Path) -> Option<u64> {
    let metadata = source.metadata().ok()?;
    metadata.is_file().then_some(metadata.len() * 3)
}

pub fn explain_import(site: &Site, args: &Import) -> Result<Vec<String>, Problem> {
    let store = args.place.directory(site)?;
    Ok(vec![
        format!("copy {} into {}, by digest", args.source.display(), store.display()),
        "read the names in all layers; refuse what is hostile".into(),
        "write one squashfs of what the layers add up to, by digest".into(),
        format!("give the image the name {}", args.name.stored_name()),
    ])
}

pub fn export(site: &Site, args: &Export) -> Result<i32, Refusal> {
    let store = args.place.find(site)?;
    let found = store.resolve(&args.image)?;
    let image = Stored::read(&store, &found.manifest)?;
    let format = args.format.map_or_else(|| Format::of(&args.to), Format::from);
    let progress = Progress::new(&format!("export {}", args.image), None);
    let add = |n| progress.add(n);
    let bounds = Bounds::of(site);
    let flat = || import::complete(&store, &image.digest, bounds, &add);
    let to = (args.to.as_path(), format);
    export::export(&store, &image, &flat, &args.image, to, (bounds, &add))?;
    drop(progress);
    if args.json {
        say_json(&serde_json::json!({ "manifest": image.digest, "to": args.to }))?;
    }
    Ok(0)
}
