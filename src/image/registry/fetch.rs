//! Manifests and blobs (distribution-spec, "Pull").

use std::io::{ErrorKind, Read};

use ureq::Body;
use ureq::http::Response;
use ureq::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};

use super::error::Error;
use super::http::page;
use super::progress::Line;
use super::session::{Patience, Session, nothing};
use crate::image::Digest;
use crate::image::digest::Hasher;
use crate::image::manifest::{ACCEPTED, Part};
use crate::image::store::BlobWriter;

/// A manifest or an index as it came.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub bytes: Vec<u8>,
    pub media_type: Option<String>,
    pub digest: Digest,
}

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Fetches what a tag or a digest names.
///
/// # Errors
/// The registry does not have it, or it is not what the digest says.
pub fn manifest(session: &Session, tag: &str, expected: Option<&Digest>) -> Result<Fetched, Error> {
    let name = expected.map_or_else(|| tag.to_owned(), Digest::to_string);
    let what = format!("manifest {name}");
    let accepted = ACCEPTED.join(", ");
    let ask = session.get(&what, &format!("manifests/{name}"))?.header(ACCEPT, &accepted);
    let response = session.ask(&ask)?;
    let header = |name: &HeaderName| {
        response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
    };
    let media_type = header(&CONTENT_TYPE)
        .map(|t| t.split(';').next().unwrap_or_default().trim().to_owned())
        // What servers say that do not know what they send.
        .filter(|t| !matches!(&t[..], "" | "application/json" | "application/octet-stream"));
    let promised = header(&CONTENT_DIGEST);
    let bytes = page(response).map_err(|why| session.broke_off(&what, why))?;
    let promised: Option<Digest> = match (expected, promised) {
        (Some(digest), _) => Some(digest.clone()),
        // One that is no digest that we trust binds nobody.
        (None, Some(text)) => text.parse().ok(),
        (None, None) => None,
    };
    let digest = match promised {
        Some(promised) => {
            let is = hash(&bytes, &promised);
            if is != promised {
                return Err(session.wrong(&what, format!("what came is {is}, not {promised}")));
            }
            is
        }
        None => Digest::of(&bytes),
    };
    Ok(Fetched { bytes, media_type, digest })
}

fn hash(bytes: &[u8], like: &Digest) -> Digest {
    let mut hasher = Hasher::new(like.algorithm());
    hasher.update(bytes);
    hasher.finish()
}

/// Fetches a blob into a store, from where an earlier attempt ended. The
/// writer is complete and right afterwards, but not yet finished.
///
/// # Errors
/// The registry does not have it, or gives something else.
pub fn blob(
    session: &Session,
    part: &Part,
    writer: &mut BlobWriter,
    line: &Line,
) -> Result<(), Error> {
    let what = format!("blob {}", part.digest);
    let resumed = writer.offset() > 0;
    transfer(session, &what, part, writer, line)?;
    if writer.digest() == part.digest {
        return Ok(());
    }
    if resumed {
        // What was left from another time may have been the wrong part.
        writer.restart()?;
        transfer(session, &what, part, writer, line)?;
        if writer.digest() == part.digest {
            return Ok(());
        }
    }
    let is = writer.digest();
    writer.restart()?;
    Err(session.wrong(&what, format!("what came is {is}")))
}

fn transfer(
    session: &Session,
    what: &str,
    part: &Part,
    writer: &mut BlobWriter,
    line: &Line,
) -> Result<(), Error> {
    let mut patience = Patience::default();
    loop {
        let before = writer.offset();
        match attempt(session, what, part, writer, line) {
            Ok(()) => return Ok(()),
            Err(error) => {
                if writer.offset() > before {
                    patience.renew();
                }
                if !patience.again(&error) {
                    return Err(error);
                }
            }
        }
    }
}

fn attempt(
    session: &Session,
    what: &str,
    part: &Part,
    writer: &mut BlobWriter,
    line: &Line,
) -> Result<(), Error> {
    if writer.offset() > part.size {
        writer.restart()?;
    }
    let from = writer.offset();
    line.at(from);
    if from == part.size {
        return Ok(());
    }
    let ask = session.get(what, &format!("blobs/{}", part.digest))?;
    let ask = if from > 0 { ask.header(RANGE, &format!("bytes={from}-")) } else { ask };
    let response = match session.once(&ask, &nothing) {
        // Our part is of no use to it.
        Err(Error::Answered { status: 416, .. }) if from > 0 => {
            writer.restart()?;
            return attempt(session, what, part, writer, line);
        }
        result => result?,
    };
    if response.status() == 206 {
        let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
        let begins = range.and_then(begin);
        if begins != Some((from, Some(part.size))) && begins != Some((from, None)) {
            let range = range.unwrap_or("nothing").to_owned();
            return Err(session.wrong(what, format!("asked from byte {from} on it gave {range}")));
        }
    } else if from > 0 {
        // It knows no ranges and begins from the start.
        writer.restart()?;
    }
    length(&response, part.size - writer.offset()).map_err(|why| session.wrong(what, why))?;
    stream(session, what, part, writer, line, response)
}

/// Refuses a length that cannot be right before anything is read.
fn length(response: &Response<Body>, expected: u64) -> Result<(), String> {
    let said = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    match said.and_then(|v| v.parse::<u64>().ok()) {
        Some(said) if said != expected => {
            Err(format!("it is {said} bytes long, where {expected} were promised"))
        }
        _ => Ok(()),
    }
}

fn stream(
    session: &Session,
    what: &str,
    part: &Part,
    writer: &mut BlobWriter,
    line: &Line,
    response: Response<Body>,
) -> Result<(), Error> {
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let n = match body.read(&mut buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(session.broke_off(what, broken(writer, part, &e.to_string()))),
        };
        if n == 0 {
            if writer.offset() == part.size {
                return Ok(());
            }
            return Err(session.broke_off(what, broken(writer, part, "the end")));
        }
        if writer.offset() + n as u64 > part.size {
            writer.restart()?;
            return Err(session.wrong(what, format!("it is longer than its {} bytes", part.size)));
        }
        writer.put(&buffer[..n])?;
        line.at(writer.offset());
    }
}

fn broken(writer: &BlobWriter, part: &Part, why: &str) -> String {
    format!("broke off after {} of {} bytes: {why}", writer.offset(), part.size)
}

/// First byte and whole length of `bytes 5-9/10` (RFC 9110, section 14.4).
fn begin(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let whole = if whole == "*" { None } else { Some(whole.parse().ok()?) };
    Some((first.parse().ok()?, whole))
}

#[cfg(test)]
mod tests {
    use super::begin;

    #[test]
    fn a_range_is_read_strictly() {
        let table = [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes */10", None),
            ("5-9/10", None),
            ("bytes -9/10", None),
        ];
        for (text, expected) in table {
            assert_eq!(begin(text), expected, "{text}");
        }
    }
}
