//! Roots of a recipe's own files, and of this node's distribution.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::pack::{self, Packed, layer};
use super::program;
use crate::image::Store;
use crate::image::registry::Line;
use crate::problem::Problem;
use crate::request::recipe::{Item, Loaded};

/// The largest file that a recipe may copy, in bytes.
const LARGEST: u64 = 1 << 30;

/// A file that a recipe copies.
///
/// # Errors
/// It cannot be read, or is too large.
pub fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let wrong = |why: String| {
        Problem::user(format!("{}: cannot be copied: {why}", path.display()))
            .hint("a recipe's source is a file of its folder, or of this node if it begins with /")
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| wrong(e.to_string()))?;
    if bytes.len() as u64 > LARGEST {
        return Err(wrong(format!("it is larger than {LARGEST} bytes")));
    }
    Ok(bytes)
}

/// Puts the recipe's files into a directory that is ours alone.
///
/// # Errors
/// One of them cannot be read or written.
pub fn place(loaded: &Loaded, root: &Path) -> Result<(), Problem> {
    for item in &loaded.recipe.file {
        let to = root.join(item.path.strip_prefix("/").unwrap_or(&item.path));
        put(loaded, item, root, &to).map_err(|e| match e {
            Failed::Here(why) => Problem::user(format!("file {}: {why}", item.path.display()))
                .hint("each path must be new, below directories"),
            Failed::Source(problem) => problem,
        })?;
    }
    Ok(())
}

enum Failed {
    Here(std::io::Error),
    Source(Problem),
}

impl From<std::io::Error> for Failed {
    fn from(why: std::io::Error) -> Self {
        Self::Here(why)
    }
}

fn put(loaded: &Loaded, item: &Item, root: &Path, to: &Path) -> Result<(), Failed> {
    let parent = to.parent().unwrap_or(root);
    fs::create_dir_all(parent)?;
    // A link that an earlier item made must not lead out of the root.
    if !parent.canonicalize()?.starts_with(root.canonicalize()?) {
        return Err(Failed::Here(std::io::Error::other("a link leads out of the root")));
    }
    if let Some(link) = &item.link {
        return Ok(symlink(link, to)?);
    }
    let (bytes, default) = match (&item.text, &item.source) {
        (Some(text), _) => (text.clone().into_bytes(), 0o644),
        (None, Some(source)) => {
            let from = loaded.dir.join(source);
            let program = fs::metadata(&from)?.permissions().mode() & 0o111 != 0;
            (read(&from).map_err(Failed::Source)?, if program { 0o755 } else { 0o644 })
        }
        (None, None) => {
            fs::create_dir_all(to)?;
            return Ok(fs::set_permissions(to, Permissions::from_mode(item.mode(0o755)))?);
        }
    };
    let mut file = File::create_new(to)?;
    std::io::Write::write_all(&mut file, &bytes)?;
    Ok(fs::set_permissions(to, Permissions::from_mode(item.mode(default)))?)
}

/// A root of nothing but these files, in which the recipe's commands have run.
///
/// # Errors
/// A file or a command fails.
pub fn make(
    store: &Store,
    loaded: &Loaded,
    epoch: u64,
    work: &Path,
    line: &Line,
) -> Result<Packed, Problem> {
    let root = directory(work, "root")?;
    place(loaded, &root)?;
    if !loaded.recipe.run.is_empty() {
        line.says("running its commands");
        let script = program::runner(&loaded.recipe.run, epoch, work)?;
        let mut run = Command::new(script);
        run.arg(&root);
        let (mut child, log) = program::start(&mut run, work, "sed")?;
        let status = child.wait().map_err(|e| Problem::kernel(e.to_string()))?;
        program::check("a command of the recipe", status, &log)?;
    }
    let tar = program::start(&mut pack::tar_of(&root, epoch), work, "tar")?;
    layer(store, "tar", tar, line)
}

/// What a job sees of this node, by tar in an environment of its own: the
/// node's distribution without its accounts, secrets and state.
///
/// # Errors
/// The environment cannot be made, or tar fails.
pub fn host(store: &Store, epoch: u64, work: &Path, line: &Line) -> Result<Packed, Problem> {
    let own = std::env::current_exe().map_err(|e| Problem::ours(e.to_string()))?;
    let mut run = Command::new(own);
    run.arg("--root").arg(work.join("state"));
    run.args(["job", "run", "--id"]).arg(format!("build-{}", std::process::id()));
    run.args(["--no-home", "--network", "none", "--clean-env", "--cwd", "/", "--"]);
    let tar = pack::tar(epoch);
    run.arg(tar.get_program()).args(tar.get_args());
    for left_out in ["proc", "sys", "dev", "run", "tmp", "root", "home", "var/tmp"] {
        run.arg(format!("--exclude=./{left_out}/*"));
    }
    if !nix::unistd::geteuid().is_root() {
        // Nobody's, as this user sees them inside.
        run.args(["--owner=0", "--group=0"]);
    }
    run.args(["--ignore-failed-read", "--warning=no-file-ignored", "--directory=/", "."]);
    // A job brings its caller's working directory in; this one brings nothing.
    run.current_dir("/").stdin(Stdio::null());
    let tar = program::start(&mut run, work, "tar")?;
    layer(store, "tar in an environment of this node's distribution", tar, line)
}

/// A new directory of a build.
///
/// # Errors
/// It cannot be made.
pub fn directory(work: &Path, name: &str) -> Result<PathBuf, Problem> {
    let path = work.join(name);
    let made = fs::create_dir(&path)
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)));
    made.map_err(|e| Problem::site(format!("{}: cannot be made: {e}", path.display())))?;
    Ok(path)
}
