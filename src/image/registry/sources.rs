//! Where an image comes from: its registry, and the mirrors that the site
//! puts before it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::error::Error;
use super::session::{Access, Place, Session};
use crate::image::Reference;
use crate::problem::Problem;
use crate::request::site::Site;

/// Gives a name the registry that it lacks, where the site says which.
///
/// # Errors
/// The site says nothing: where it would go must not be guessed
/// (CVE-2021-32635).
pub fn qualify(reference: &Reference, site: &Site) -> Result<Reference, Problem> {
    if reference.registry.is_some() {
        return Ok(reference.clone());
    }
    let Some(prefix) = &site.images.unqualified else {
        return Err(Problem::user(format!("image {reference}: names no registry"))
            .hint(format!(
                "write REGISTRY/{reference}; a site can say where such names go (unqualified in denovo.toml)"
            )));
    };
    let tail = reference.to_string();
    let full: Reference = format!("{}/{tail}", prefix.trim_end_matches('/')).parse()?;
    if full.registry.is_none() {
        return Err(Problem::site(format!(
            "images.unqualified in denovo.toml: {prefix:?} names no registry"
        ))
        .hint("begin it with a host, such as registry.example.org/hpc"));
    }
    Ok(full)
}

/// Sessions in the order in which they are asked, opened as they are needed.
pub struct Sources {
    /// Each with whether it is known to be silent.
    sessions: Vec<(Session, AtomicBool)>,
}

impl Sources {
    /// # Arguments
    /// * `plain` - the registry itself speaks http, because the caller says so
    ///
    /// # Errors
    /// The site blocks the registry, or a login cannot be read.
    pub fn of(reference: &Reference, site: &Site, plain: bool) -> Result<Self, Problem> {
        let mut sessions = Vec::new();
        for (place, own) in places(reference, site)? {
            let mut said = site.registry(&place.registry);
            said.plain_http |= plain && own;
            sessions.push((Session::open(place, &said, Access::Pull)?, AtomicBool::new(false)));
        }
        Ok(Self { sessions })
    }

    /// Asks one after the other until one has it.
    ///
    /// # Errors
    /// None has: what each of them answered.
    pub fn first<T>(&self, ask: impl FnMut(&Session) -> Result<T, Error>) -> Result<T, Problem> {
        self.ask(ask).map_err(|failures| joined(&failures))
    }

    /// As [`first`](Self::first); `None` where all of them say that there is
    /// nothing of this name.
    ///
    /// # Errors
    /// One of them failed and none had it.
    pub fn find<T>(
        &self,
        ask: impl FnMut(&Session) -> Result<T, Error>,
    ) -> Result<Option<T>, Problem> {
        match self.ask(ask) {
            Ok(found) => Ok(Some(found)),
            Err(failures) if failures.iter().all(Error::is_absent) => Ok(None),
            Err(failures) => Err(joined(&failures)),
        }
    }

    fn ask<T>(&self, mut ask: impl FnMut(&Session) -> Result<T, Error>) -> Result<T, Vec<Error>> {
        let mut failures = Vec::new();
        for (number, (session, silent)) in self.sessions.iter().enumerate() {
            // A mirror that is down is waited for once, not for each blob.
            if silent.load(Ordering::Relaxed) && number + 1 < self.sessions.len() {
                continue;
            }
            match ask(session) {
                Ok(found) => return Ok(found),
                // Nobody else can mend what is wrong here.
                Err(here @ Error::Here(_)) => return Err(vec![here]),
                Err(error) => {
                    silent.fetch_or(error.is_silence(), Ordering::Relaxed);
                    failures.push(error);
                }
            }
        }
        Err(failures)
    }
}

/// What all of them answered, with what can be done about the last one.
fn joined(failures: &[Error]) -> Problem {
    let said: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let last = failures.last().cloned().map(Problem::from);
    let problem = last.unwrap_or_else(|| Problem::ours("there is nobody to ask"));
    Problem { message: said.join("; "), ..problem }
}

/// Each with whether it is the registry itself.
fn places(reference: &Reference, site: &Site) -> Result<Vec<(Place, bool)>, Problem> {
    let registry = reference.registry.clone().unwrap_or_default();
    let repository = match reference.repository.split_once('/') {
        // Docker's own images have a folder that people leave out.
        None if registry == "docker.io" => format!("library/{}", reference.repository),
        _ => reference.repository.clone(),
    };
    let said = site.registry(&registry);
    if said.blocked {
        return Err(Problem::site(format!("image {reference}: the site blocks {registry}"))
            .hint("blocked in denovo.toml says so; use another registry"));
    }
    let mirrors = said.mirrors.iter().map(|mirror| {
        let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
        let prefix = prefix.trim_matches('/');
        let joint = if prefix.is_empty() { "" } else { "/" };
        (
            Place { registry: host.to_owned(), repository: format!("{prefix}{joint}{repository}") },
            false,
        )
    });
    let mirrors: Vec<_> = mirrors.collect();
    Ok(mirrors
        .into_iter()
        .chain([(Place { registry, repository: repository.clone() }, true)])
        .collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{places, qualify};
    use crate::image::Reference;
    use crate::request::site::{self, Site};

    fn site(text: &str) -> Site {
        site::parse(text, Path::new("/x")).unwrap()
    }

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_without_a_registry_goes_only_where_the_site_says() {
        let said = site("[images]\nunqualified = \"r.example:5000/hpc/\"");
        let full = qualify(&reference("debian:12"), &said).unwrap();
        assert_eq!(full.to_string(), "r.example:5000/hpc/debian:12");
        assert_eq!(qualify(&reference("a.b/c"), &said).unwrap().to_string(), "a.b/c");
        let error = qualify(&reference("debian:12"), &Site::default()).unwrap_err();
        assert!(error.message.contains("names no registry"), "{error}");
        let wrong = site("[images]\nunqualified = \"hpc\"");
        assert!(qualify(&reference("debian:12"), &wrong).is_err());
    }

    #[test]
    fn mirrors_come_first_with_their_prefix() {
        let said = site("[registry.\"r.x\"]\nmirrors = [\"m.x:1\", \"n.x/a/b\"]");
        let all: Vec<String> = places(&reference("r.x/c/d:e"), &said)
            .unwrap()
            .iter()
            .map(|(p, own)| format!("{} {} {own}", p.registry, p.repository))
            .collect();
        assert_eq!(all, ["m.x:1 c/d false", "n.x a/b/c/d false", "r.x c/d true"]);
        let blocked = site("[registry.\"r.x\"]\nblocked = true");
        assert!(places(&reference("r.x/c"), &blocked).unwrap_err().message.contains("blocks"));
    }

    #[test]
    fn dockers_own_images_are_found_by_their_short_name() {
        let all = places(&reference("docker.io/debian"), &Site::default()).unwrap();
        assert_eq!(all[0].0.repository, "library/debian");
    }
}
