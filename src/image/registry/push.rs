//! From the store to a registry (distribution-spec, "Push").

use std::collections::BTreeSet;
use std::io::Cursor;

use ureq::SendBody;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use ureq::http::{HeaderMap, Method, Uri};

use super::error::Error;
use super::progress::Progress;
use super::session::{Access, Ask, Patience, Place, Session, join};
use super::sources::qualify;
use crate::image::manifest::{Document, LARGEST, Part, parse};
use crate::image::trust::{self, signature_tag};
use crate::image::{Digest, Reference, Store};
use crate::problem::Problem;
use crate::request::site::Site;

/// What came of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Pushed {
    pub name: String,
    pub manifest: Digest,
    /// Bytes of its blobs, and of those that the registry did not have.
    pub size: u64,
    pub sent: u64,
}

/// Pushes what `from` leads to as `to`, with its signatures if the store has
/// any for that name.
///
/// # Errors
/// It is not in the store, or the registry refuses it.
pub fn push(
    store: &Store,
    site: &Site,
    from: &Reference,
    to: &Reference,
    plain: bool,
    progress: &Progress,
) -> Result<Pushed, Problem> {
    let to = qualify(to, site)?;
    let manifest = store.resolve(from)?.manifest;
    let registry = to.registry.clone().unwrap_or_default();
    let mut said = site.registry(&registry);
    if said.blocked {
        return Err(Problem::site(format!("image {to}: the site blocks {registry}"))
            .hint("blocked in denovo.toml says so; use another registry"));
    }
    said.plain_http |= plain;
    let place = Place { registry, repository: to.repository.clone() };
    let session = Session::open(place, &said, Access::Push)?;
    let tag = to.tag.clone().unwrap_or_else(|| "latest".to_owned());
    let (size, mut sent) = image(store, &session, &manifest, &tag, progress)?;
    let signature = signature_tag(&manifest);
    if let Ok(found) = store.resolve(&trust::tagged(&to, signature.clone())) {
        sent += image(store, &session, &found.manifest, &signature, progress)?.1;
    }
    Ok(Pushed { name: to.stored_name(), manifest, size, sent })
}

/// Blobs first: a registry takes a manifest only when it has what that names.
fn image(
    store: &Store,
    session: &Session,
    manifest: &Digest,
    tag: &str,
    progress: &Progress,
) -> Result<(u64, u64), Problem> {
    let bytes = store.read_blob(manifest, LARGEST)?;
    let Document::Manifest(parsed) = parse(&bytes, None)? else {
        return Err(Problem::user(format!("{manifest}: is an index, not an image"))
            .hint("push the image for one platform: denovo image list shows them"));
    };
    let (mut size, mut sent, mut seen) = (0, 0, BTreeSet::new());
    for part in std::iter::once(&parsed.config).chain(&parsed.layers) {
        if !seen.insert(&part.digest) {
            continue;
        }
        size += part.size;
        if !has(session, part)? {
            blob(store, session, part, progress)?;
            sent += part.size;
        }
    }
    let what = format!("manifest {tag}");
    let mut ask = session.get(&what, &format!("manifests/{tag}"))?;
    ask.method = Method::PUT;
    let ask = ask
        .header(CONTENT_TYPE, &media_type(&bytes))
        .header(CONTENT_LENGTH, &bytes.len().to_string());
    let body = || Ok(SendBody::from_owned_reader(Cursor::new(bytes.clone())));
    patiently(|| session.once(&ask, &body).map(drop))?;
    Ok((size, sent))
}

/// What a manifest says that it is; one of OCI's need not say.
fn media_type(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let said = serde_json::from_slice::<Typed>(bytes).ok().and_then(|t| t.media_type);
    said.unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned())
}

fn patiently<T>(mut act: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut patience = Patience::default();
    loop {
        match act() {
            Err(error) if patience.again(&error) => {}
            result => return result,
        }
    }
}

fn has(session: &Session, part: &Part) -> Result<bool, Error> {
    let what = format!("blob {}", part.digest);
    let mut ask = session.get(&what, &format!("blobs/{}", part.digest))?;
    ask.method = Method::HEAD;
    match session.ask(&ask) {
        Ok(_) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// "Pushing a blob monolithically", by POST and then PUT.
fn blob(store: &Store, session: &Session, part: &Part, progress: &Progress) -> Result<(), Problem> {
    let line = progress.bytes(part.digest.short(), part.size);
    let what = format!("blob {}", part.digest);
    patiently(|| {
        let mut begin = session.get(&what, "blobs/uploads/")?.header(CONTENT_LENGTH, "0");
        begin.method = Method::POST;
        let response =
            session.once(&begin, &|| Ok(SendBody::from_owned_reader(std::io::empty())))?;
        let place = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
        let url = place.and_then(|p| join(&begin.url, p)).and_then(|url| with_digest(&url, part));
        let url = url
            .ok_or_else(|| session.wrong(&what, "it does not say where to upload to".to_owned()))?;
        let ask = Ask { what: what.clone(), method: Method::PUT, url, headers: HeaderMap::new() }
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, &part.size.to_string());
        let body = || {
            let file = store.open_blob(&part.digest)?;
            line.at(0);
            Ok(SendBody::from_owned_reader(line.counting(file)))
        };
        session.once(&ask, &body).map(drop)
    })?;
    Ok(())
}

/// The place of an upload with the digest that closes it.
fn with_digest(url: &Uri, part: &Part) -> Option<Uri> {
    let joint = if url.query().is_some() { '&' } else { '?' };
    format!("{url}{joint}digest={}", part.digest).parse().ok()
}
