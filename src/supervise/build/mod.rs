//! Makes an image out of a recipe: plans its steps, which `explain` prints,
//! then takes them.

mod debian;
mod files;
mod pack;
mod program;

use std::path::Path;

use crate::image::import::Stored;
use crate::image::manifest::Config;
use crate::image::registry::Progress;
use crate::image::{Digest, Reference, Store};
use crate::problem::{Problem, Problems};
use crate::record::time::rfc3339;
use crate::request::recipe::{Loaded, Root};
use crate::request::site::Site;
use debian::Archive;

/// The recipe that an image was made by, and the state of the packages.
const RECIPE: &str = "denovo.recipe";
const SNAPSHOT: &str = "denovo.snapshot";

/// What is asked.
#[derive(Debug, Clone)]
pub struct Build {
    pub loaded: Loaded,
    pub name: Reference,
    /// Debian's archive, instead of the one that apt knows.
    pub mirror: Option<String>,
    /// Also if there is an image by the same recipe and packages.
    pub force: bool,
    /// `$SOURCE_DATE_EPOCH`, in seconds since 1970.
    pub epoch: Option<u64>,
}

/// What came of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Built {
    pub name: String,
    pub manifest: Digest,
    /// It was there already.
    pub unchanged: bool,
}

/// What has to be known before the first step.
struct Facts {
    recipe: Digest,
    archive: Option<Archive>,
    epoch: u64,
}

impl Facts {
    fn read(build: &Build) -> Result<Self, Problem> {
        let recipe = &build.loaded.recipe;
        let archive = match &recipe.root {
            Root::Debian { suite, .. } => Some(Archive::find(suite, build.mirror.as_deref())?),
            Root::Files | Root::Host => None,
        };
        let newest = archive.as_ref().map(|a| a.newest);
        let epoch = build.epoch.or(newest).or(recipe.epoch).unwrap_or(0);
        Ok(Self { recipe: fingerprint(&build.loaded)?, archive, epoch })
    }

    fn snapshot(&self) -> String {
        let archive = self.archive.as_ref().map_or(String::new(), Archive::to_string);
        format!("{archive} {}", self.epoch).trim().to_owned()
    }
}

/// Of everything that a recipe says, and of the files that it copies.
fn fingerprint(loaded: &Loaded) -> Result<Digest, Problem> {
    let mut text = serde_json::to_vec(&loaded.recipe).map_err(|e| Problem::ours(e.to_string()))?;
    for source in loaded.recipe.file.iter().filter_map(|item| item.source.as_ref()) {
        let bytes = files::read(&loaded.dir.join(source))?;
        text.extend_from_slice(Digest::of(&bytes).to_string().as_bytes());
    }
    Ok(Digest::of(&text))
}

/// The steps, for people.
///
/// # Errors
/// A file that it copies or Debian's archive cannot be read.
pub fn explain(build: &Build) -> Result<Vec<String>, Problem> {
    let facts = Facts::read(build)?;
    let recipe = &build.loaded.recipe;
    let mut lines = match (&recipe.root, &facts.archive) {
        (Root::Debian { .. }, Some(archive)) => {
            vec![format!("mmdebstrap {}", debian::arguments(recipe, archive, None).join(" "))]
        }
        (Root::Host, _) => {
            vec!["archive what a job sees of this node's own distribution".to_owned()]
        }
        _ => vec!["make an empty root".to_owned()],
    };
    lines.extend(recipe.file.iter().map(|item| format!("put {} into it", item.path.display())));
    lines.extend(recipe.run.iter().map(|line| format!("run in a container on it: {line}")));
    lines.push(format!("archive it in order, no file newer than {} s after 1970", facts.epoch));
    lines.push("write one squashfs of it, by digest".to_owned());
    lines.push(format!("give the image the name {}", build.name.stored_name()));
    Ok(lines)
}

/// Builds the image, unless one by the same recipe and packages is there.
///
/// # Errors
/// A step fails; nothing is left of it.
pub fn build(
    store: &Store,
    site: &Site,
    build: &Build,
    progress: &Progress,
) -> Result<Built, Problems> {
    let facts = Facts::read(build)?;
    let name = build.name.stored_name();
    if !build.force
        && !matches!(build.loaded.recipe.root, Root::Host)
        && let Some(manifest) = standing(store, build, &facts)
    {
        return Ok(Built { name, manifest, unchanged: true });
    }
    let work = store.temporary("build")?;
    std::fs::create_dir_all(work.path()).map_err(|e| {
        Problem::site(format!("{}: cannot be made: {e}", work.path().display()))
            .hint("the store must be writable for the caller")
    })?;
    let done = make(store, site, build, &facts, work.path(), progress);
    let _ = crate::image::unpack::remove(work.path());
    let manifest = done?;
    crate::image::care::name(store, &build.name, &manifest)?;
    Ok(Built { name, manifest, unchanged: false })
}

/// The image of that name, if it was made the same way.
fn standing(store: &Store, build: &Build, facts: &Facts) -> Option<Digest> {
    let found = store.resolve(&build.name).ok()?;
    let stored = Stored::read(store, &found.manifest).ok()?;
    let label = |name: &str| stored.config.labels.get(name).cloned().unwrap_or_default();
    let same = label(RECIPE) == facts.recipe.to_string() && label(SNAPSHOT) == facts.snapshot();
    (same && store.flat(&found.manifest).is_some()).then_some(found.manifest)
}

fn make(
    store: &Store,
    site: &Site,
    build: &Build,
    facts: &Facts,
    work: &Path,
    progress: &Progress,
) -> Result<Digest, Problem> {
    let line = progress.step(&build.loaded.name, "making the root");
    let recipe = &build.loaded.recipe;
    let packed = match (&recipe.root, &facts.archive) {
        (Root::Debian { .. }, Some(archive)) => {
            debian::make(store, &build.loaded, archive, facts.epoch, work, &line)?
        }
        (Root::Host, _) => files::host(store, facts.epoch, work, &line)?,
        _ => files::make(store, &build.loaded, facts.epoch, work, &line)?,
    };
    line.says("flattening");
    pack::finish(store, site, &packed, &config(build, facts))
}

fn config(build: &Build, facts: &Facts) -> Config {
    let recipe = &build.loaded.recipe;
    let given = recipe.config.clone();
    let mut labels = given.labels;
    for (name, value) in [
        ("org.opencontainers.image.description", recipe.about.clone()),
        (RECIPE, facts.recipe.to_string()),
        (SNAPSHOT, facts.snapshot()),
    ] {
        labels.entry(name.to_owned()).or_insert(value);
    }
    let mut env = given.env;
    env.entry("PATH".to_owned()).or_insert_with(|| program::PATH.to_owned());
    Config {
        env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        working_dir: given.working_dir,
        entrypoint: given.entrypoint,
        cmd: given.cmd,
        user: given.user,
        labels,
        created: Some(rfc3339(facts.epoch)),
        ..Config::default()
    }
}
