//! Images from and to registries, and whether they are to be trusted.

use clap::Args;

use super::Context;
use super::say::out;
use crate::image::manifest::Platform;
use crate::image::registry::{Progress, Pull as Wanted, pull as fetch, push as send, qualify};
use crate::image::trust::is_companion;
use crate::image::{Reference, Store, verify};
use crate::problem::{Problem, Problems};
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
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// Images of the store [default: all of them]
    #[arg(value_name = "IMAGE")]
    images: Vec<Reference>,
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

pub fn pull(context: &Context, store: &Store, args: &Pull) -> Result<i32, Refusal> {
    let site = site::load()?;
    let wanted = Wanted {
        reference: args.image.clone(),
        platform: args.platform.clone().unwrap_or_else(Platform::own),
        plain_http: args.plain_http,
    };
    if context.explain {
        let full = qualify(&wanted.reference, &site)?;
        let said = site.registry(full.registry.as_deref().unwrap_or_default());
        let mut lines: Vec<String> =
            said.mirrors.iter().map(|mirror| format!("ask the mirror {mirror}")).collect();
        lines.push(format!(
            "fetch {full} for {} into {}",
            wanted.platform,
            store.directory().display()
        ));
        context.print_plan(&lines);
        return Ok(0);
    }
    let pulled = fetch(store, &site, &wanted, &Progress::new())?;
    if args.json {
        return json(&pulled);
    }
    out(format_args!("{}  {}", pulled.name, pulled.manifest));
    Ok(0)
}

pub fn push(context: &Context, store: &Store, args: &Push) -> Result<i32, Refusal> {
    let site = site::load()?;
    let to = args.to.as_ref().unwrap_or(&args.image);
    if context.explain {
        let full = qualify(to, &site)?;
        context.print_plan(&[format!("send {} to {full}", args.image)]);
        return Ok(0);
    }
    let pushed = send(store, &site, &args.image, to, args.plain_http, &Progress::new())?;
    if args.json {
        return json(&pushed);
    }
    out(format_args!("{}  {}", pushed.name, pushed.manifest));
    Ok(0)
}

pub fn verify(context: &Context, store: &Store, args: &Verify) -> Result<i32, Refusal> {
    let site = site::load()?;
    let mut images = args.images.clone();
    if images.is_empty() {
        images = named(store);
    }
    if context.explain {
        let lines: Vec<String> =
            images.iter().map(|image| format!("hash every blob of {image} again")).collect();
        context.print_plan(&lines);
        return Ok(0);
    }
    let (mut good, mut problems) = (Vec::new(), Problems::new());
    for image in &images {
        match verify::verify(store, &site, image, &Progress::new()) {
            Ok(verified) => good.push(verified),
            Err(more) => problems.extend(more),
        }
    }
    if args.json {
        json(&good)?;
    } else {
        for image in &good {
            let signed =
                image.signed_by.as_ref().map_or(String::new(), |k| format!(", signed with {k}"));
            out(format_args!(
                "{}  {}: {} blobs, {} MiB are what they say{signed}",
                image.name,
                image.manifest,
                image.blobs,
                image.size >> 20
            ));
        }
    }
    if problems.is_empty() { Ok(0) } else { Err(problems.into()) }
}

/// All images with a name: what is under the tags of signatures belongs to them.
fn named(store: &Store) -> Vec<Reference> {
    let names = store.refs().into_iter().filter_map(|(named, _)| named.name.parse().ok());
    names.filter(|reference: &Reference| !is_companion(reference)).collect()
}

fn json<T: serde::Serialize>(value: &T) -> Result<i32, Refusal> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Problem::ours(e.to_string()))?;
    out(format_args!("{text}"));
    Ok(0)
}
