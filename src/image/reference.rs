//! Names of images.

use std::fmt;
use std::str::FromStr;

use super::Digest;
use crate::problem::Problem;

/// `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]` (OCI distribution-spec, "Pulling
/// manifests", with the separation of a registry's name that every client
/// has: a first part with a dot or a port, or `localhost`).
///
/// A name without a registry never gets one (CVE-2021-32635): it is a name
/// in a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// `HOST[:PORT]`.
    pub registry: Option<String>,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

/// The most characters of a reference's name, as clients hold it.
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

impl Reference {
    /// The name by which a store knows it: with the tag, `latest` unless
    /// another is given; without a digest.
    pub fn stored_name(&self) -> String {
        format!("{}:{}", self.name(), self.tag.as_deref().unwrap_or("latest"))
    }

    /// Whether it can be given to an image that comes in.
    ///
    /// # Errors
    /// A digest is part of it: that is what comes out.
    pub fn to_give(&self) -> Result<(), Problem> {
        match &self.digest {
            None => Ok(()),
            Some(_) => Err(Problem::user(format!("{self}: a name to give has no digest"))
                .hint("leave @… out; what the image's digest is, is printed")),
        }
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        match &self.registry {
            Some(registry) => format!("{registry}/{}", self.repository),
            None => self.repository.clone(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Problem;

    /// # Errors
    /// A [`Problem`] that names the text and what of it is wrong.
    fn from_str(text: &str) -> Result<Self, Problem> {
        let wrong = |why: &str| {
            let shown: String = text.chars().take(300).collect();
            Problem::user(format!("image {shown:?}: {why}")).hint(
                "an image is [REGISTRY/]NAME[:TAG][@DIGEST], such as debian-12 or registry.site:5000/hpc/debian:12",
            )
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it a port.
        let name_start = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[name_start..].split_once(':') {
            Some((last, tag)) => (&rest[..name_start + last.len()], Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(wrong(&format!("{tag:?} is no tag")));
        }
        if name.len() > LONGEST_NAME {
            return Err(wrong("the name is longer than 255 characters"));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (Some(first), rest)
            }
            _ => (None, name),
        };
        if let Some(registry) = registry.filter(|r| !is_registry(r)) {
            return Err(wrong(&format!("{registry:?} is no HOST[:PORT]")));
        }
        if !is_repository(repository) {
            return Err(wrong(
                "the name must be of lower-case letters and digits, with single '.', '_', '__' or '-' between them and '/' between parts",
            ));
        }
        Ok(Self {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution-spec).
fn is_tag(text: &str) -> bool {
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= LONGEST_TAG
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.bytes().all(rest)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`
/// (distribution-spec).
fn is_repository(text: &str) -> bool {
    text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().copied().is_some_and(word) || !bytes.last().copied().is_some_and(word) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .collect::<String>()
        .bytes()
        .all(|b| matches!(b, b'.' | b'_' | b'-'))
        && bytes.chunk_by(|a, b| word(*a) == word(*b)).all(|run| {
            word(run[0]) || matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-')
        })
}

/// A host name, an IPv4 address or a bracketed IPv6 address, with a port.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, after)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let digits = |p: &str| p.bytes().all(|b| b.is_ascii_digit());
    host.is_none_or(|host| host.split('.').all(label))
        && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok_and(|n| n > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_told_apart() {
        let hash = format!("sha256:{}", "ab".repeat(32));
        let full = format!("registry.site:5000/hpc/debian:12.1@{hash}");
        for (text, registry, repository, tag, digest) in [
            ("debian-12", None, "debian-12", None, None),
            ("debian:12", None, "debian", Some("12"), None),
            ("hpc/debian", None, "hpc/debian", None, None),
            ("localhost/a", Some("localhost"), "a", None, None),
            ("localhost:5000/a:b", Some("localhost:5000"), "a", Some("b"), None),
            ("127.0.0.1:5000/a/b__c", Some("127.0.0.1:5000"), "a/b__c", None, None),
            ("[::1]:5000/a", Some("[::1]:5000"), "a", None, None),
            (&full, Some("registry.site:5000"), "hpc/debian", Some("12.1"), Some(&hash)),
        ] {
            let parsed: Reference = text.parse().unwrap();
            assert_eq!(parsed.registry.as_deref(), registry, "{text}");
            assert_eq!(parsed.repository, repository, "{text}");
            assert_eq!(parsed.tag.as_deref(), tag, "{text}");
            assert_eq!(parsed.digest.as_ref().map(ToString::to_string).as_ref(), digest, "{text}");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "../a",
            "a/../b",
            "./a",
            "A",
            "a b",
            "a:",
            ":a",
            "a:..",
            "a:b:c",
            "a@",
            "a@sha256:00",
            "a___b",
            "a..b",
            "a-",
            "-a",
            "a._b",
            "é",
            "a\n",
            "a\0b",
            "reg.x:/a",
            "reg.x:0/a",
            "reg.x:99999/a",
            "reg.x:1:2/a",
            "-r.x/a",
            "[::g]:1/a",
            "[::1]x/a",
            "reg.x/",
            "a:-b",
            &long,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        let long_tag = format!("a:{}", "b".repeat(129));
        assert!(long_tag.parse::<Reference>().is_err());
    }

    #[test]
    fn a_digest_is_not_to_be_given() {
        let digest = format!("debian@sha256:{}", "0".repeat(64));
        for (name, fits) in [("debian:12", true), (&digest[..], false)] {
            assert_eq!(name.parse::<Reference>().unwrap().to_give().is_ok(), fits, "{name}");
        }
    }

    #[test]
    fn a_name_without_registry_gets_none() {
        let parsed: Reference = "debian".parse().unwrap();
        assert_eq!(parsed.registry, None);
        assert_eq!(parsed.stored_name(), "debian:latest");
    }
}
