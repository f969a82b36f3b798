//! `image pull` and `image push`.

use clap::Args;

use super::{Where, say_json};
use crate::cli::say::out;
use crate::image::manifest::Platform;
use crate::image::registry::{Progress, Pull as Wanted, pull as fetch, push as send, qualify};
use crate::image::site::Site as Stores;
use crate::image::{Reference, care};
use crate::problem::Problem;
use crate::request::site;
use crate::supervise::container::Refusal;

#[derive(Debug, Args)]
pub struct Pull {
    /// [REGISTRY/]NAME[:TAG][@DIGEST]
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// For another machine than this one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = platform)]
    platform: Option<Platform>,
    /// The registry speaks http without TLS
    #[arg(long)]
    plain_http: bool,
    #[command(flatten)]
    place: Where,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Push {
    /// An image of the store
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// The name that it gets there [default: its own]
    #[arg(value_name = "REGISTRY/NAME[:TAG]")]
    to: Option<Reference>,
    /// The registry speaks http without TLS
    #[arg(long)]
    plain_http: bool,
    #[command(flatten)]
    place: Where,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn platform(text: &str) -> Result<Platform, String> {
    let mut parts = text.split('/').map(str::to_owned);
    let named = |part: Option<String>| part.filter(|p| !p.is_empty());
    match (named(parts.next()), named(parts.next()), parts.next(), parts.next()) {
        (Some(os), Some(architecture), variant, None) => Ok(Platform { os, architecture, variant }),
        _ => Err("a platform is OS/ARCH, such as linux/arm64".to_owned()),
    }
}

pub fn pull(stores: &Stores, args: &Pull) -> Result<i32, Refusal> {
    let site = site::load()?;
    let store = args.place.open(stores)?;
    store.sweep(care::RESUMABLE);
    let pulled = fetch(&store, &site, &args.wanted(), &Progress::new())?;
    if args.json {
        say_json(&pulled)?;
    } else {
        out(format_args!("{}@{}", pulled.name, pulled.manifest));
    }
    Ok(0)
}

pub fn push(stores: &Stores, args: &Push) -> Result<i32, Refusal> {
    let site = site::load()?;
    let store = args.place.find(stores)?;
    let to = args.to.as_ref().unwrap_or(&args.image);
    let pushed = send(&store, &site, &args.image, to, args.plain_http, &Progress::new())?;
    if args.json {
        say_json(&pushed)?;
    } else {
        out(format_args!("{}@{}", pushed.name, pushed.manifest));
    }
    Ok(0)
}

impl Pull {
    fn wanted(&self) -> Wanted {
        Wanted {
            reference: self.image.clone(),
            platform: self.platform.clone().unwrap_or_else(Platform::own),
            plain_http: self.plain_http,
        }
    }

    /// What it would do.
    pub fn explain(&self, stores: &Stores) -> Result<Vec<String>, Problem> {
        let site = site::load()?;
        let full = qualify(&self.image, &site)?;
        let said = site.registry(full.registry.as_deref().unwrap_or_default());
        let mut lines: Vec<String> =
            said.mirrors.iter().map(|mirror| format!("ask the mirror {mirror} first")).collect();
        let store = self.place.directory(stores)?;
        let platform = self.wanted().platform;
        lines.push(format!(
            "fetch {full} for {platform} into {}, what is not there yet",
            store.display()
        ));
        lines.push("hold it to what the site demands: names, digests, signatures".to_owned());
        lines.push("write one squashfs of what the layers add up to, by digest".to_owned());
        lines.push(format!("give the image the name {}", full.stored_name()));
        Ok(lines)
    }
}

impl Push {
    /// What it would do.
    pub fn explain(&self) -> Result<Vec<String>, Problem> {
        let full = qualify(self.to.as_ref().unwrap_or(&self.image), &site::load()?)?;
        Ok(vec![format!("send to {full} what of {} it does not have", self.image)])
    }
}
