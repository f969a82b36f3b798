//! Recipes of images: `bundle.toml` in a folder of its own.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::problem::{Problem, Problems};

/// What an image is made of; bundles/README.md explains each key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// One line for people.
    pub about: String,
    pub root: Root,
    /// What is put into the root, in this order.
    #[serde(default)]
    pub file: Vec<Item>,
    /// Shell commands that are run inside afterwards, each by its own `sh -ec`.
    #[serde(default)]
    pub run: Vec<String>,
    #[serde(default)]
    pub config: Defaults,
    /// Seconds since 1970 that no file of a root that is not Debian's is newer
    /// than; `$SOURCE_DATE_EPOCH` stands for it.
    #[serde(default)]
    pub epoch: Option<u64>,
}

/// How the root is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "from")]
pub enum Root {
    /// Out of Debian's packages, by mmdebstrap.
    Debian {
        /// Such as `bookworm`.
        suite: String,
        /// mmdebstrap's variant.
        #[serde(default = "minbase")]
        variant: String,
        #[serde(default = "main")]
        components: Vec<String>,
        #[serde(default)]
        packages: Vec<String>,
        /// Paths that dpkg leaves out, such as `/usr/share/doc/*`.
        #[serde(default)]
        exclude: Vec<String>,
    },
    /// Of nothing but the recipe's own files.
    Files,
    /// What a job sees of this node's own distribution.
    Host,
}

fn minbase() -> String {
    "minbase".to_owned()
}

fn main() -> Vec<String> {
    vec!["main".to_owned()]
}

/// A file, a link or a directory of the root.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Item {
    /// Absolute, in the root.
    pub path: PathBuf,
    /// The contents of a file.
    pub text: Option<String>,
    /// A file to copy: of the recipe's folder, or of this node if absolute.
    pub source: Option<PathBuf>,
    /// The target of a symbolic link.
    pub link: Option<PathBuf>,
    /// Octal [default: 644 for files, 755 for directories and for programs
    /// that are copied].
    pub mode: Option<String>,
}

/// Defaults of the OCI image configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Defaults {
    pub env: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
}

/// What a recipe's folder is found to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub dir: PathBuf,
    /// The name of the folder, which the image gets.
    pub name: String,
    pub recipe: Recipe,
}

/// The most that is read of a recipe, in bytes.
const LONGEST: u64 = 1 << 20;

/// Reads `DIR/bundle.toml`.
///
/// # Errors
/// There is none, or everything that is wrong with it.
pub fn load(dir: &Path) -> Result<Loaded, Problems> {
    use std::io::Read;
    let file = dir.join("bundle.toml");
    let mut text = String::new();
    std::fs::File::open(&file).and_then(|f| f.take(LONGEST).read_to_string(&mut text)).map_err(
        |e| {
            Problem::user(format!("{}: cannot be read: {e}", file.display()))
                .hint("give the folder of a recipe, such as bundles/debian-12")
        },
    )?;
    let recipe = parse(&text, &file)?;
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = dir.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    Ok(Loaded { dir, name, recipe })
}

/// Parses a recipe's text; `file` is for what is said of it.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, file: &Path) -> Result<Recipe, Problems> {
    let wrong = |what: String| {
        Problem::user(format!("{}: {what}", file.display()))
            .hint("bundles/README.md has every key with its meaning")
    };
    let recipe: Recipe = toml::from_str(text).map_err(|e| {
        let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        let line = line.map_or(String::new(), |line| format!("line {line}: "));
        wrong(format!("{line}{}", e.message().trim().replace('\n', ", ")))
    })?;
    let found = faults(&recipe);
    if found.is_empty() { Ok(recipe) } else { Err(found.into_iter().map(wrong).collect()) }
}

/// Everything that no type says. What goes to mmdebstrap goes through a
/// shell there, so that nothing may stand in it that a shell reads.
fn faults(recipe: &Recipe) -> Vec<String> {
    let mut found: Vec<String> = recipe.file.iter().filter_map(item_fault).collect();
    match &recipe.root {
        Root::Debian { suite, variant, components, packages, exclude } => {
            let word = |w: &str| {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"+-.:~_".contains(&b);
                !w.is_empty() && !w.starts_with('-') && w.bytes().all(plain)
            };
            let words = [suite, variant].into_iter().chain(components).chain(packages);
            let odd = words.filter(|w| !word(w));
            found.extend(odd.map(|w| format!("{w:?}: is no name of a suite or package")));
            let path = |p: &&String| {
                p.starts_with('/')
                    && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"/+-._*?".contains(&b))
            };
            let odd = exclude.iter().filter(|p| !path(p));
            found.extend(odd.map(|p| format!("exclude: {p:?} is no absolute pattern of paths")));
        }
        Root::Host if !recipe.file.is_empty() || !recipe.run.is_empty() => {
            found.push("a root from the host takes no files and runs nothing".to_owned());
        }
        Root::Files if recipe.file.is_empty() => {
            found.push("a root of files has no file".to_owned());
        }
        Root::Files | Root::Host => {}
    }
    let names = recipe.config.env.keys();
    let odd = names.filter(|n| n.is_empty() || n.contains(['=', '\0']));
    found.extend(odd.map(|n| format!("config.env: {n:?} is no name of a variable")));
    found
}

fn item_fault(item: &Item) -> Option<String> {
    let name = item.path.display();
    let kinds = [item.text.is_some(), item.source.is_some(), item.link.is_some()];
    if kinds.iter().filter(|k| **k).count() > 1 {
        return Some(format!("file {name}: has more than one of text, source and link"));
    }
    let plain = |c: Component| matches!(c, Component::RootDir | Component::Normal(_));
    if !item.path.is_absolute() || !item.path.components().all(plain) {
        return Some(format!("file {name}: is not absolute, or has `..` in it"));
    }
    match &item.mode {
        Some(mode) if u32::from_str_radix(mode, 8).is_ok_and(|m| m <= 0o7777) => None,
        Some(mode) => Some(format!("file {name}: mode {mode:?} is not octal, such as \"755\"")),
        None => None,
    }
}

impl Item {
    /// The mode that is given, else `default`.
    pub fn mode(&self, default: u32) -> u32 {
        let given = self.mode.as_ref().and_then(|m| u32::from_str_radix(m, 8).ok());
        given.unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{load, parse};

    #[test]
    fn every_recipe_that_is_shipped_is_one() {
        let bundles = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles");
        let mut count = 0;
        for entry in std::fs::read_dir(bundles).unwrap().flatten().filter(|e| e.path().is_dir()) {
            let loaded = load(&entry.path()).unwrap_or_else(|e| panic!("{e:?}"));
            assert_eq!(loaded.name, entry.file_name().to_str().unwrap());
            count += 1;
        }
        assert!(count >= 7);
    }

    #[test]
    fn every_key_of_the_documentation_is_known() {
        let text = include_str!("../../bundles/README.md");
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            parse(block, Path::new("README.md")).unwrap_or_else(|e| panic!("{e:?}:\n{block}"));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let head = "about = \"x\"\n";
        let debian = "[root]\nfrom = \"debian\"\nsuite = ";
        let table = [
            (String::new(), "missing field `about`"),
            (format!("{head}[root]\nfrom = \"gentoo\""), "unknown variant `gentoo`"),
            (format!("{head}{debian}\"a\"\npackages = [\"gcc;reboot\"]"), "gcc;reboot"),
            (format!("{head}{debian}\"-a\""), "no name of a suite"),
            (format!("{head}{debian}\"a\"\nexclude = [\"/a$(b)\"]"), "no absolute pattern"),
            (format!("{head}{debian}\"a\"\nsuit = \"b\""), "suit"),
            (format!("{head}[root]\nfrom = \"files\""), "has no file"),
            (format!("{head}run = [\"x\"]\n[root]\nfrom = \"host\""), "takes no files"),
            (format!("{head}{debian}\"a\"\n[[file]]\npath = \"/a/../b\""), "has `..`"),
            (format!("{head}{debian}\"a\"\n[[file]]\npath = \"a\""), "not absolute"),
            (format!("{head}{debian}\"a\"\n[[file]]\npath = \"/a\"\nmode = \"9\""), "not octal"),
            (
                format!("{head}{debian}\"a\"\n[[file]]\npath = \"/a\"\ntext = \"\"\nlink = \"b\""),
                "more than one",
            ),
        ];
        for (text, words) in table {
            let said: Vec<String> = parse(&text, Path::new("bundle.toml"))
                .unwrap_err()
                .into_iter()
                .map(|p| p.message)
                .collect();
            assert!(said.iter().any(|m| m.contains(words)), "{text}: {said:?}");
        }
    }
}
