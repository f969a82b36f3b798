//! Debian roots, out of packages, by mmdebstrap.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::files;
use super::pack::{self, Packed, layer};
use super::program::{self, quote};
use crate::image::Store;
use crate::image::registry::Line;
use crate::problem::Problem;
use crate::request::recipe::{Loaded, Recipe, Root};

/// apt's own downloader: it knows the node's proxies and certificates.
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// Debian's keys; an own mirror signs with them too.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What of apt's configuration on this node holds for a root made here too.
const KEPT: [&str; 8] = [
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::http::Proxy-Auto-Detect",
    "Acquire::https::CaInfo",
    "Acquire::Retries",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Max-FutureTime",
];

/// The archive as it is now.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Lines of a sources.list without components: address and suite, with
    /// the date of its Release file in seconds since 1970.
    parts: Vec<(String, String, u64)>,
    /// The newest of those dates.
    pub newest: u64,
    /// Options for the apt that fills the root.
    options: Vec<String>,
}

impl fmt::Display for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suites: Vec<String> =
            self.parts.iter().map(|(_, suite, date)| format!("{suite} {date}")).collect();
        f.write_str(&suites.join(", "))
    }
}

impl Archive {
    /// Looks where apt on this node gets Debian from, and how new a suite is
    /// there.
    ///
    /// # Errors
    /// apt knows no archive of Debian, or it does not have the suite.
    pub fn find(suite: &str, mirror: Option<&str>) -> Result<Self, Problem> {
        let (main, security) = match mirror {
            Some(mirror) => (mirror.trim_end_matches('/').to_owned(), None),
            None => known()?,
        };
        let mut wanted = vec![(main.clone(), suite.to_owned())];
        // These have no updates beside them.
        if !matches!(suite, "sid" | "unstable" | "testing" | "experimental") {
            wanted.push((main, format!("{suite}-updates")));
            wanted.extend(security.map(|s| (s, format!("{suite}-security"))));
        }
        let mut parts = Vec::new();
        for (address, suite) in wanted {
            let date = date(&address, &suite)?;
            parts.push((address, suite, date));
        }
        let newest = parts.iter().map(|(.., date)| *date).max().unwrap_or(0);
        Ok(Self { parts, newest, options: options() })
    }
}

fn output(program: &str, arguments: &[&str]) -> Result<String, Problem> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).env("LC_ALL", "C");
    let out = command.output().map_err(|e| {
        Problem::site(format!("{program}: cannot be run: {e}"))
            .hint("recipes of Debian roots are built where apt and mmdebstrap are")
    })?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The addresses of Debian's archive and of its security updates.
fn known() -> Result<(String, Option<String>), Problem> {
    let format = "$(REPO_URI)|$(RELEASE)|$(ORIGIN)";
    let text = output("apt-get", &["indextargets", "--format", format, "Identifier: Packages"])?;
    let (main, security) = addresses(&text);
    main.map(|main| (main, security)).ok_or_else(|| {
        Problem::site("apt on this node knows no archive of Debian's packages")
            .hint("name one with --mirror URL, or run apt-get update first")
    })
}

/// From lines of address, suite and origin; an origin is known only after
/// an update.
fn addresses(text: &str) -> (Option<String>, Option<String>) {
    let mut found = (None, None);
    for line in text.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let [address, suite, origin] = fields[..] else { continue };
        if !matches!(origin, "Debian" | "" | "$(ORIGIN)") || suite.contains('/') {
            continue;
        }
        let place = if suite.ends_with("-security") { &mut found.1 } else { &mut found.0 };
        place.get_or_insert_with(|| address.trim_end_matches('/').to_owned());
    }
    found
}

/// The date of a suite's Release file.
fn date(address: &str, suite: &str) -> Result<u64, Problem> {
    let wrong = |why: &str| {
        Problem::user(format!("{address}: suite {suite}: {why}"))
            .hint("check the suite's name; --mirror URL names another archive")
    };
    let dir = std::env::temp_dir();
    let name = format!("denovo-release-{}-{suite}", std::process::id());
    let file = dir.join(name);
    let place = file.to_string_lossy().into_owned();
    let url = format!("{address}/dists/{suite}/InRelease");
    output(HELPER, &["download-file", &url, &place])?;
    let text = std::fs::read_to_string(&file);
    let _ = std::fs::remove_file(&file);
    let text = text.map_err(|_| wrong("it has none of this name, or does not answer"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("Date: "));
    let seconds = line.and_then(|date| output("date", &["--utc", "--date", date, "+%s"]).ok());
    seconds.and_then(|s| s.trim().parse().ok()).ok_or_else(|| wrong("its Release file has no date"))
}

fn options() -> Vec<String> {
    let text = output("apt-config", &["dump"]).unwrap_or_default();
    let kept = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default();
        KEPT.iter().any(|k| k.eq_ignore_ascii_case(name)) && !line.ends_with("\"\";")
    };
    text.lines().filter(kept).map(|l| l.trim_end_matches(';').to_owned()).collect()
}

/// What mmdebstrap is told; `work` has the scripts of a build that is on its way.
pub fn arguments(recipe: &Recipe, archive: &Archive, work: Option<&Path>) -> Vec<String> {
    let Root::Debian { suite, variant, components, packages, exclude } = &recipe.root else {
        return Vec::new();
    };
    let mode = if nix::unistd::geteuid().is_root() { "root" } else { "unshare" };
    let mut words = vec![
        format!("--mode={mode}"),
        format!("--variant={variant}"),
        format!("--components={}", components.join(",")),
        "--format=tar".to_owned(),
        // A root that is not complete is thrown away: nothing needs to be on
        // the disk at any moment.
        "--dpkgopt=force-unsafe-io".to_owned(),
    ];
    if !packages.is_empty() {
        words.push(format!("--include={}", packages.join(",")));
    }
    words.extend(exclude.iter().map(|p| format!("--dpkgopt=path-exclude={p}")));
    words.extend(archive.options.iter().map(|o| format!("--aptopt={o}")));
    if let Some(work) = work {
        if !recipe.file.is_empty() {
            words.push(format!(
                "--customize-hook=tar --extract --keep-directory-symlink --no-same-owner --same-permissions --directory \"$1\" --file {}",
                quote(&work.join("files.tar"))
            ));
        }
        if !recipe.run.is_empty() {
            words.push(format!("--customize-hook={} \"$1\"", quote(&work.join("run.sh"))));
        }
    }
    words.push(format!("--customize-hook={CLEAN}"));
    words.extend([suite.clone(), "-".to_owned()]);
    let signed = if Path::new(KEYS).exists() { format!("[signed-by={KEYS}] ") } else { "".into() };
    words.extend(archive.parts.iter().map(|(address, suite, _)| {
        format!("deb {signed}{address} {suite} {}", components.join(" "))
    }));
    words
}

/// What the making leaves in a root that is of the moment or of the node.
const CLEAN: &str = concat!(
    "cd \"$1\" && find var/log -type f -delete",
    " && find var/cache/ldconfig var/cache/debconf var/lib/dpkg var/backups -name aux-cache -delete -o -name '*-old' -delete 2>/dev/null;",
    " cd \"$1\" && rm -f etc/resolv.conf etc/hostname etc/passwd- etc/group- etc/shadow- etc/gshadow-",
    " etc/subuid- etc/subgid- root/.wget-hsts",
    " && : >etc/machine-id && rm -f var/lib/dbus/machine-id",
);

/// Makes the root and takes it into the store.
///
/// # Errors
/// mmdebstrap is not there or fails, or a file or command of the recipe.
pub fn make(
    store: &Store,
    loaded: &Loaded,
    archive: &Archive,
    epoch: u64,
    work: &Path,
    line: &Line,
) -> Result<Packed, Problem> {
    let recipe = &loaded.recipe;
    if !recipe.file.is_empty() {
        let tree = files::directory(work, "files")?;
        files::place(loaded, &tree)?;
        let mut tar = pack::tar_of(&tree, epoch);
        let status = tar
            .stdout(std::fs::File::create(work.join("files.tar")).map_err(|e| {
                Problem::site(format!("{}: cannot be written: {e}", work.display()))
            })?)
            .status();
        if !status.is_ok_and(|s| s.success()) {
            return Err(Problem::site("tar failed on the recipe's files"));
        }
    }
    program::runner(&recipe.run, epoch, work)?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(arguments(recipe, archive, Some(work)));
    mmdebstrap.env("SOURCE_DATE_EPOCH", epoch.to_string()).env("LC_ALL", "C.UTF-8");
    let started = program::start(&mut mmdebstrap, work, "mmdebstrap")?;
    layer(store, "mmdebstrap", started, line)
}

#[cfg(test)]
mod tests {
    use super::addresses;

    #[test]
    fn debians_own_addresses_are_told_from_others() {
        let text = "http://x/other/|stable|Other\nhttp://m/debian/|bookworm|Debian\n\
                    http://m/debian/|bookworm-updates|Debian\n\
                    http://s/debian-security/|bookworm-security|Debian\n";
        let own = |t: &str| Some(t.to_owned());
        assert_eq!(addresses(text), (own("http://m/debian"), own("http://s/debian-security")));
        assert_eq!(addresses("http://m/debian|bookworm|\n"), (own("http://m/debian"), None));
        assert_eq!(addresses("http://x/other|stable|Other\n"), (None, None));
    }
}
