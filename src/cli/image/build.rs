//! `image build`.

use std::path::PathBuf;

use clap::Args;

use super::{Where, say_json};
use crate::cli::say::out;
use crate::image::registry::Progress;
use crate::image::site::Site as Stores;
use crate::image::{Reference, care};
use crate::problem::{Problem, Problems};
use crate::request::{recipe, site};
use crate::supervise::build;
use crate::supervise::container::Refusal;

#[derive(Debug, Args)]
pub struct Build {
    /// The folder of a recipe (bundle.toml), such as bundles/debian-12
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Its name from now on [default: the folder's]
    #[arg(long, value_name = "NAME")]
    name: Option<Reference>,
    /// Debian's archive [default: where apt on this node gets Debian from]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Also if an image by the same recipe and packages is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: Where,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Build {
    fn request(&self) -> Result<build::Build, Problems> {
        let loaded = recipe::load(&self.dir)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => loaded.name.parse().map_err(|p: Problem| vec![p])?,
        };
        let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|e| !e.is_empty());
        let epoch = epoch.map(|text| {
            text.parse().map_err(|_| {
                Problem::user(format!("SOURCE_DATE_EPOCH={text:?}: is no number of seconds"))
                    .hint("give seconds since 1970, or unset it")
            })
        });
        let epoch = epoch.transpose()?;
        Ok(build::Build { loaded, name, mirror: self.mirror.clone(), force: self.force, epoch })
    }

    /// What it would do.
    pub fn explain(&self) -> Result<Vec<String>, Problem> {
        let request = self.request().map_err(|mut problems| problems.remove(0))?;
        build::explain(&request)
    }
}

pub fn build(stores: &Stores, args: &Build) -> Result<i32, Refusal> {
    let request = args.request()?;
    request.name.to_give()?;
    let site = site::load()?;
    let store = args.place.open(stores)?;
    store.sweep(care::RESUMABLE);
    let built = build::build(&store, &site, &request, &Progress::new())?;
    if args.json {
        say_json(&built)?;
    } else {
        let unchanged = if built.unchanged { "  (unchanged)" } else { "" };
        out(format_args!("{}@{}{unchanged}", built.name, built.manifest));
    }
    Ok(0)
}
