//! Images: the store, what comes in and what goes out.

mod build;
mod progress;
mod registry;
mod show;
mod transfer;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Context;
use super::say::out;
use crate::image::site::Site;
use crate::image::{Reference, Store, care};
use crate::problem::{Problem, Problems};
use crate::supervise::container::Refusal;

pub use progress::Progress;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring a file or directory of this node in as an image
    Import(transfer::Import),
    /// Write an image out for other tools
    Export(transfer::Export),
    /// Fetch an image from a registry
    Pull(registry::Pull),
    /// Send an image to a registry
    Push(registry::Push),
    /// Make an image by a recipe
    Build(build::Build),
    /// List images
    #[command(visible_alias = "ls")]
    List(Listing),
    /// Show one image
    Inspect(One),
    /// Give an image another name
    Tag(Tag),
    /// Take a name away; gc frees the space
    #[command(visible_alias = "rm")]
    Remove(Remove),
    /// Free the space of what no name leads to
    Gc(Gc),
    /// Hash everything anew, say what is damaged or not signed as the site
    /// wants it
    Verify(Verify),
    /// Show where the store's space goes
    Du(Listing),
}

/// Which store.
#[derive(Debug, Args)]
pub struct Where {
    /// The store to write [default: the caller's own]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Listing {
    #[command(flatten)]
    place: Where,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct One {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: Reference,
    #[command(flatten)]
    place: Where,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Tag {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// Its further name
    #[arg(value_name = "NAME")]
    name: Reference,
    #[command(flatten)]
    place: Where,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// The names
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<Reference>,
    #[command(flatten)]
    place: Where,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Gc {
    #[command(flatten)]
    place: Where,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Also what was written within the last hour, which an import may be
    /// at work on
    #[arg(long)]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// Only this image [default: the whole store]
    #[arg(value_name = "IMAGE")]
    image: Option<Reference>,
    /// Remove what is damaged, so that a pull or import brings it in again
    #[arg(long)]
    discard: bool,
    #[command(flatten)]
    place: Where,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Where {
    /// The store over those of the site, for who brings something in.
    fn open(&self, site: &Site) -> Result<Store, Problem> {
        self.by(site, Store::open)
    }

    /// The same for who looks at what is there.
    fn find(&self, site: &Site) -> Result<Store, Problem> {
        self.by(site, Store::existing)
    }

    /// Where that is, if nothing is to be made.
    fn directory(&self, site: &Site) -> Result<PathBuf, Problem> {
        match &self.store {
            Some(dir) => Ok(std::path::absolute(dir).unwrap_or_else(|_| dir.clone())),
            None => Ok(Store::of_caller(site)?.directory().to_owned()),
        }
    }

    fn by(
        &self,
        site: &Site,
        open: fn(PathBuf) -> Result<Store, Problem>,
    ) -> Result<Store, Problem> {
        let Some(dir) = &self.store else { return Store::of_caller(site) };
        let below = site.stores().into_iter().filter(|d| d != dir).collect();
        Ok(open(self.directory(site)?)?.over(below))
    }
}

pub fn run(context: &Context, verb: Verb) -> Result<i32, Refusal> {
    let site = Site::read()?;
    if context.explain {
        context.print_plan(&explain(&verb, &site)?);
        return Ok(0);
    }
    // From here on Ctrl-C takes what was begun with it.
    progress::clean_up_when_told_to_end();
    progress::unless_told_to_end(match verb {
        Verb::Import(args) => transfer::import(&site, &args),
        Verb::Export(args) => transfer::export(&site, &args),
        Verb::Pull(args) => registry::pull(&site, &args),
        Verb::Push(args) => registry::push(&site, &args),
        Verb::Build(args) => build::build(&site, &args),
        Verb::List(args) => show::list(&args.place.find(&site)?, args.json),
        Verb::Inspect(args) => show::inspect(&args.place.find(&site)?, &args.image, args.json),
        Verb::Tag(args) => tag(&args.place.find(&site)?, &args),
        Verb::Remove(args) => remove(&args.place.find(&site)?, &args),
        Verb::Gc(args) => show::gc(&site, &args.place.find(&site)?, &args),
        Verb::Verify(args) => show::verify(&args.place.find(&site)?, &args),
        Verb::Du(args) => show::usage(&args.place.find(&site)?, args.json),
    })
}

/// What a verb would do.
fn explain(verb: &Verb, site: &Site) -> Result<Vec<String>, Problems> {
    let line = match verb {
        Verb::Import(args) => return Ok(transfer::explain_import(site, args)?),
        Verb::Pull(args) => return Ok(args.explain(site)?),
        Verb::Push(args) => return Ok(args.explain()?),
        Verb::Build(args) => return Ok(args.explain()?),
        Verb::Export(args) => format!("write image {} to {}", args.image, args.to.display()),
        Verb::List(_) | Verb::Inspect(_) | Verb::Du(_) => "read the store, change nothing".into(),
        Verb::Tag(args) => {
            let found = args.place.find(site)?.resolve(&args.image)?;
            format!("give {} the name {}", found.manifest, args.name.stored_name())
        }
        Verb::Remove(args) => {
            let names: Vec<String> = args.images.iter().map(Reference::stored_name).collect();
            format!("take away the names {}", names.join(", "))
        }
        Verb::Gc(args) => {
            let keep = if args.all { 0 } else { care::YOUNG };
            let found = care::gc(&args.place.find(site)?, keep, true)?;
            return Ok(found.removed.iter().map(|digest| format!("remove {digest}")).collect());
        }
        Verb::Verify(args) if args.discard => "hash what is stored, remove what is damaged".into(),
        Verb::Verify(_) => "hash what is stored, change nothing".into(),
    };
    Ok(vec![line])
}

fn tag(store: &Store, args: &Tag) -> Result<i32, Refusal> {
    let found = store.resolve(&args.image)?;
    if found.place != store.directory() {
        return Err(Problem::site(format!(
            "image {}: is in {}, which is only read",
            args.image,
            found.place.display()
        ))
        .hint("denovo image import or pull brings a copy of one's own")
        .into());
    }
    args.name.to_give()?;
    store.set_ref(&args.name, &found.manifest)?;
    let name = args.name.stored_name();
    if args.json {
        say_json(&serde_json::json!({ "name": name, "manifest": found.manifest }))?;
    }
    Ok(0)
}

fn remove(store: &Store, args: &Remove) -> Result<i32, Refusal> {
    let mut problems = Vec::new();
    let mut removed = Vec::new();
    for image in &args.images {
        match store.remove_ref(image) {
            Ok(()) => removed.push(image.stored_name()),
            Err(problem) => problems.push(problem),
        }
    }
    if args.json {
        say_json(&serde_json::json!({ "removed": removed }))?;
    }
    if problems.is_empty() { Ok(0) } else { Err(problems.into()) }
}

pub(super) fn say_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<(), Problem> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Problem::ours(e.to_string()))?;
    out(format_args!("{text}"));
    Ok(())
}
