//! Reading the file, strictly.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Site;
use crate::problem::Problem;

const PLACE: &str = "/etc/denovo/denovo.toml";

/// The most that is read of it, in bytes.
const LONGEST: u64 = 1 << 20;

/// Where it is: `$DENOVO_CONFIG`, else /etc/denovo/denovo.toml.
pub fn path() -> PathBuf {
    std::env::var_os("DENOVO_CONFIG").filter(|p| !p.is_empty()).map_or(PLACE.into(), PathBuf::from)
}

/// Reads it. One that is not there is all defaults, unless `$DENOVO_CONFIG`
/// names it.
///
/// # Errors
/// It cannot be read or parsed, or it is root that asks and somebody else can
/// write the file: going on without it would drop what it demands.
pub fn load() -> Result<Site, Problem> {
    let path = path();
    let cannot = |e: &std::io::Error| {
        Problem::site(format!("{}: cannot be read: {e}", path.display()))
            .hint("mend it, or name another with DENOVO_CONFIG=FILE")
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound && path == Path::new(PLACE) => {
            return Ok(Site::default());
        }
        Err(e) => return Err(cannot(&e)),
    };
    let meta = file.metadata().map_err(|e| cannot(&e))?;
    if nix::unistd::geteuid().is_root() {
        only_root_writes(&path, meta.uid(), meta.mode())?;
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(|e| cannot(&e))?;
    parse(&text, &path)
}

fn only_root_writes(path: &Path, uid: u32, mode: u32) -> Result<(), Problem> {
    if uid == 0 && mode & 0o022 == 0 {
        return Ok(());
    }
    let (place, mode) = (path.display(), mode & 0o7777);
    Err(Problem::site(format!(
        "{place}: root does not follow a file that others can write (owner {uid}, mode {mode:o})"
    ))
    .hint(format!("chown root {place} && chmod go-w {place}")))
}

/// Parses its text; `path` is for what is said of it.
///
/// # Errors
/// It is no TOML (v1.1), has a key that is not known, or a value that is no
/// value of its key.
pub fn parse(text: &str, path: &Path) -> Result<Site, Problem> {
    let wrong = |what: String| {
        Problem::site(format!("{}: {what}", path.display()))
            .hint("docs/site-config.md has every key with its meaning")
    };
    let site: Site = toml::from_str(text).map_err(|e| {
        let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        let line = line.map_or(String::new(), |line| format!("line {line}: "));
        wrong(format!("{line}{}", e.message().trim().replace('\n', ", ")))
    })?;
    if let Some(what) = contradiction(&site) {
        return Err(wrong(what));
    }
    Ok(site)
}

/// What no type says.
fn contradiction(site: &Site) -> Option<String> {
    let hosts = site.registry.keys().chain(site.images.unqualified.as_ref());
    let mirrors = site.registry.values().flat_map(|r| &r.mirrors);
    for place in hosts.chain(mirrors) {
        if place.contains("://") {
            return Some(format!(
                "{place:?}: a registry is named host[:port], without a scheme (see plain-http)"
            ));
        }
        if place.is_empty() || place.starts_with('/') || place.contains(char::is_whitespace) {
            return Some(format!("{place:?}: is not host[:port][/prefix]"));
        }
    }
    if let Some(host) = site.registry.keys().find(|host| host.contains('/')) {
        return Some(format!("registry.{host:?}: is a host[:port] without a path"));
    }
    if site.images.parallel == Some(0) {
        return Some("images.parallel: 0 would fetch nothing".to_owned());
    }
    let files = site.registry.values().filter_map(|r| r.ca.as_ref());
    let trusts = std::iter::once(&site.trust).chain(site.root_trust.as_ref());
    let signed: Vec<_> = trusts.flat_map(|t| &t.signed).collect();
    if signed.iter().any(|s| s.keys.is_empty() || s.names.is_empty()) {
        return Some("trust.signed: names and keys must each have an entry".to_owned());
    }
    let files = files.chain(&site.images.stores).chain(signed.iter().flat_map(|s| &s.keys));
    let scheduler = &site.scheduler;
    let files = files.chain(&scheduler.scratch).chain(&scheduler.scontrol);
    let files = files.chain([&scheduler.receipts]).chain(&scheduler.receipt_key);
    let files = files.chain([&site.freshness.baseline]).chain(&site.freshness.directories);
    let relative = files.into_iter().find(|p| !p.is_absolute());
    relative.map(|p| format!("{:?}: must be absolute: it would depend on who asks", p.display()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{only_root_writes, parse};
    use crate::request::site::Site;

    fn read(text: &str) -> Result<Site, String> {
        parse(text, Path::new("/etc/denovo/denovo.toml")).map_err(|p| p.message)
    }

    #[test]
    fn nothing_said_is_all_defaults() {
        assert_eq!(read("").unwrap(), Site::default());
        assert_eq!(read("# only a remark\n").unwrap().images.parallel(), 4);
    }

    #[test]
    fn every_key_of_the_documentation_is_known() {
        let text = include_str!("../../../docs/site-config.md");
        let blocks: Vec<&str> = text.split("```toml\n").skip(1).collect();
        assert!(!blocks.is_empty());
        for block in blocks {
            let block = block.split("```").next().unwrap();
            read(block).unwrap_or_else(|e| panic!("{e}:\n{block}"));
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let table = [
            ("[images]\nunqualifed = \"a\"", "line 2: unknown field `unqualifed`"),
            ("[images]\nparallel = \"four\"", "line 2: invalid type"),
            ("[images]\nmost-blob = \"4Q\"", "its unit is unknown"),
            ("[images]\nparallel = 0", "images.parallel: 0"),
            ("images = [", "line 1: "),
            ("[registry.\"https://r\"]\n", "without a scheme"),
            ("[registry.r]\nmirrors = [\"http://m\"]", "without a scheme"),
            ("[registry.\"r/x\"]\n", "without a path"),
            ("[images]\nstores = [\"store\"]", "must be absolute"),
            ("[[trust.signed]]\nnames = [\"**\"]\nkeys = []", "must each have an entry"),
            ("[[trust.signed]]\nnames = [\"**\"]", "missing field `keys`"),
            ("[trust]\nallow = [\"a b\"]", "in no name"),
        ];
        for (text, words) in table {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error:?} lacks {words:?}");
        }
    }

    #[test]
    fn root_follows_only_what_root_alone_writes() {
        let table = [(0, 0o644, true), (0, 0o664, false), (0, 0o646, false), (1000, 0o644, false)];
        for (uid, mode, expected) in table {
            let is = only_root_writes(Path::new("/x"), uid, mode).is_ok();
            assert_eq!(is, expected, "{uid} {mode:o}");
        }
    }
}
