//! What is in the store, for people and as JSON.

use std::collections::BTreeMap;

use super::{Gc, Progress, Verify, say_json};
use crate::cli::say::{out, rfc3339};
use crate::image::import::Stored;
use crate::image::site::Site;
use crate::image::{Reference, Store, care, trust};
use crate::problem::Problem;
use crate::request::site;
use crate::supervise::container::Refusal;
use crate::supervise::image::unpacked;

pub fn list(store: &Store, json: bool) -> Result<i32, Refusal> {
    let all = care::list(store);
    if json {
        say_json(&all)?;
        return Ok(0);
    }
    out(format_args!(
        "{:<40} {:<12} {:>9} {:>9}  {:<21} STORE",
        "IMAGE", "DIGEST", "LAYERS", "FILE", "ADDED"
    ));
    for image in all {
        let size = |bytes: Option<u64>| bytes.map_or("-".into(), human);
        out(format_args!(
            "{:<40} {} {:>9} {:>9}  {:<21} {}",
            image.name,
            image.manifest.short(),
            size(image.layers),
            size(image.flat.map(|flat| flat.size)),
            rfc3339(image.added),
            image.store.display()
        ));
    }
    Ok(0)
}

pub fn inspect(store: &Store, image: &Reference, json: bool) -> Result<i32, Refusal> {
    let found = store.resolve(image)?;
    let stored = Stored::read(store, &found.manifest)?;
    let flat = store.flat(&found.manifest);
    if json {
        say_json(&serde_json::json!({
            "name": found.name,
            "manifest": found.manifest,
            "store": found.place,
            "config": stored.config,
            "layers": stored.manifest.layers,
            "annotations": stored.manifest.annotations,
            "flat": flat,
        }))?;
        return Ok(0);
    }
    let row = |name: &str, value: &str| out(format_args!("{name:<14} {value}"));
    row("image", found.name.as_deref().unwrap_or("no name"));
    row("digest", &found.manifest.to_string());
    row("store", &found.place.display().to_string());
    let config = &stored.config;
    row("for", &format!("{}/{}", config.os, config.architecture));
    if let Some(created) = &config.created {
        row("created", created);
    }
    for layer in &stored.manifest.layers {
        row("layer", &format!("{} {:>9} {}", layer.digest, human(layer.size), layer.media_type));
    }
    match &flat {
        Some(flat) => {
            row("file", &format!("{} {:>9} {}", flat.file, human(flat.size), flat.format))
        }
        None => row("file", "not flattened yet"),
    }
    for variable in &config.env {
        row("env", variable);
    }
    let words = |words: &[String]| words.join(" ");
    for (name, value) in [
        ("entrypoint", words(&config.entrypoint)),
        ("cmd", words(&config.cmd)),
        ("working dir", config.working_dir.clone().unwrap_or_default()),
        ("user", config.user.clone().unwrap_or_default()),
    ] {
        if !value.is_empty() {
            row(name, &value);
        }
    }
    for (name, value) in &config.labels {
        row("label", &format!("{name}={value}"));
    }
    Ok(0)
}

pub fn gc(site: &Site, store: &Store, args: &Gc) -> Result<i32, Refusal> {
    let keep = if args.all { 0 } else { care::YOUNG };
    let found = care::gc(store, keep, args.dry_run)?;
    // In whichever store the name is.
    let named = store.refs().into_iter().chain(Store::of_caller(site)?.refs());
    let live = named.map(|(named, _)| named.manifest.hex().to_owned()).collect();
    let unpacked = unpacked::collect(&live, args.dry_run);
    if args.json {
        say_json(&serde_json::json!({
            "removed": found.removed,
            "freed": found.freed,
            "young": found.young,
            "unpacked": unpacked,
        }))?;
        return Ok(0);
    }
    let did = if args.dry_run { "would free" } else { "freed" };
    out(format_args!("{did} {} in {} files", human(found.freed), found.removed.len()));
    if !unpacked.is_empty() {
        let what = if args.dry_run { "and would remove" } else { "and removed" };
        out(format_args!("{what} {} unpacked images of this node", unpacked.len()));
    }
    if found.young > 0 {
        out(format_args!(
            "{} files of the last hour are kept, which an import may be at work on; --all takes them too",
            found.young
        ));
    }
    Ok(0)
}

pub fn verify(store: &Store, args: &Verify) -> Result<i32, Refusal> {
    let total = care::usage(store);
    let progress = Progress::new("verify", Some(total.layers + total.flat + total.spare));
    let found = care::verify(store, args.image.as_ref(), &|n| progress.add(n))?;
    drop(progress);
    if args.discard {
        found.damaged.iter().try_for_each(|digest| store.remove_blob(digest))?;
    }
    let hint = match (args.discard, found.damaged.is_empty()) {
        (false, false) => "denovo image verify --discard removes it; then bring the image in again",
        _ => "bring the image in again",
    };
    let problem = |text: &String| Problem::site(text.clone()).hint(hint);
    let mut problems: Vec<Problem> = found.problems.iter().map(problem).collect();
    let site = site::load()?;
    let mut signed = BTreeMap::new();
    for image in args.image.clone().map_or_else(|| care::images(store), |image| vec![image]) {
        match trust::signer(store, &site, &image) {
            Ok(Some(key)) => drop(signed.insert(image.to_string(), key)),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    if args.json {
        say_json(&serde_json::json!({
            "bytes": found.bytes,
            "files": found.files,
            "signed": signed,
            "problems": problems.iter().map(|p| &p.message).collect::<Vec<_>>(),
        }))?;
    } else if problems.is_empty() {
        out(format_args!("{} files, {}: whole", found.files, human(found.bytes)));
        for (image, key) in &signed {
            out(format_args!("{image}: signed with {key}"));
        }
    }
    if problems.is_empty() { Ok(0) } else { Err(problems.into()) }
}

pub fn usage(store: &Store, json: bool) -> Result<i32, Refusal> {
    let usage = care::usage(store);
    if json {
        say_json(&usage)?;
        return Ok(0);
    }
    for (name, bytes) in [
        ("images as they came", usage.layers),
        ("files that jobs start from", usage.flat),
        ("no name leads to it", usage.spare),
        ("on its way, or broken off", usage.incoming),
    ] {
        out(format_args!("{name:<28} {:>9}", human(bytes)));
    }
    for (name, bytes) in &usage.alone {
        out(format_args!("  only for {name:<40} {:>9}", human(*bytes)));
    }
    Ok(0)
}

/// Bytes as people read them.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}
