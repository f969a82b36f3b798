//! Asking one registry about one repository: who asks, redirects, patience.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ureq::http::header::{AUTHORIZATION, HeaderName, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use ureq::http::{HeaderMap, HeaderValue, Method, Response, Uri};
use ureq::{Body, SendBody};

use super::challenge::{self, Challenge};
use super::credentials::{self, Credential};
use super::error::{Error, words};
use super::http::{Http, Silence, page};
use super::token;
use crate::problem::Problem;
use crate::request::site::Registry;

/// The most redirects that one request follows.
const REDIRECTS: usize = 5;

/// A repository at a registry or a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `host[:port]` as it is named.
    pub registry: String,
    pub repository: String,
}

/// What a token is to allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Pull,
    Push,
}

#[derive(Debug)]
pub struct Session {
    http: Http,
    place: Place,
    plain: bool,
    scope: String,
    credential: Option<Credential>,
    /// The header's value that was last accepted.
    authorization: Mutex<Option<HeaderValue>>,
}

/// One request; `what` is for what is said of it, such as `manifest 12`.
#[derive(Debug, Clone)]
pub struct Ask {
    pub what: String,
    pub method: Method,
    pub url: Uri,
    pub headers: HeaderMap,
}

/// Makes a request's body, each time that it is sent.
pub type Making<'a> = &'a dyn Fn() -> Result<SendBody<'static>, Problem>;

/// No body.
///
/// # Errors
/// None.
pub fn nothing() -> Result<SendBody<'static>, Problem> {
    Ok(SendBody::none())
}

impl Ask {
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }
}

impl Session {
    /// Looks up the login; sends nothing yet.
    ///
    /// # Errors
    /// The login or the certificates cannot be read.
    pub fn open(place: Place, said: &Registry, access: Access) -> Result<Self, Problem> {
        let credential = credentials::find(&place.registry, &place.repository)?;
        let actions = if access == Access::Push { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{actions}", place.repository);
        let http = Http::new(host(&place.registry), said.plain_http, said.ca.as_deref())?;
        let authorization = Mutex::default();
        Ok(Self { http, plain: said.plain_http, scope, credential, authorization, place })
    }

    /// `GET /v2/REPOSITORY/PATH`, to be changed as needed.
    ///
    /// # Errors
    /// That is no address.
    pub fn get(&self, what: &str, path: &str) -> Result<Ask, Error> {
        let scheme = if self.plain { "http" } else { "https" };
        let host = match &self.place.registry[..] {
            // The name that people write has no registry behind it.
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let url = format!("{scheme}://{host}/v2/{}/{path}", self.place.repository);
        let url = url.parse().map_err(|_| self.wrong(what, format!("{url:?} is no address")))?;
        Ok(Ask { what: what.to_owned(), method: Method::GET, url, headers: HeaderMap::new() })
    }

    /// Asks until there is an answer that says yes, or no for good.
    ///
    /// # Errors
    /// The last one.
    pub fn ask(&self, ask: &Ask) -> Result<Response<Body>, Error> {
        let mut patience = Patience::default();
        loop {
            match self.once(ask, &nothing) {
                Err(error) if patience.again(&error) => {}
                result => return result,
            }
        }
    }

    /// Asks once, with a login if the registry wants one; `body` is made for
    /// every time that it is sent.
    ///
    /// # Errors
    /// No answer, or one that is no success (status 2xx).
    pub fn once(&self, ask: &Ask, body: Making<'_>) -> Result<Response<Body>, Error> {
        let (response, home) = self.follow(ask, body)?;
        // A login is for the registry alone: whom it sends us on to may ask for none.
        if response.status() != 401 || !home {
            return self.success(ask, response);
        }
        let offered = response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenge::best(offered.iter().filter_map(|v| v.to_str().ok()));
        let Some(value) = self.answer(ask, challenge)? else { return self.success(ask, response) };
        self.remember(Some(value));
        let (response, _) = self.follow(ask, body)?;
        self.success(ask, response)
    }

    fn remembered(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn remember(&self, value: Option<HeaderValue>) {
        *self.authorization.lock().unwrap_or_else(|e| e.into_inner()) = value;
    }

    /// The answer to a challenge; `None`: there is none.
    fn answer(&self, ask: &Ask, asked: Option<Challenge>) -> Result<Option<HeaderValue>, Error> {
        let text = match asked {
            Some(Challenge::Basic) => self.credential.as_ref().and_then(Credential::basic),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let scope = scope.as_deref().unwrap_or(&self.scope);
                let wanted = token::Wanted { realm: &realm, service: service.as_deref(), scope };
                Some(format!("Bearer {}", self.token(ask, &wanted)?))
            }
            None => None,
        };
        let value = text.map(|t| HeaderValue::from_str(&t)).transpose();
        value.map_err(|_| self.wrong(&ask.what, "its token is no text for a header".to_owned()))
    }

    fn token(&self, ask: &Ask, wanted: &token::Wanted<'_>) -> Result<String, Error> {
        let registry = self.place.registry.clone();
        token::fetch(&self.http, wanted, self.credential.as_ref()).map_err(|(status, words)| {
            let what = ask.what.clone();
            match status {
                Some(status) => Error::Answered {
                    registry,
                    what,
                    status,
                    words: format!(": {words}"),
                    wait: None,
                },
                None => {
                    let secure = !self.plain;
                    Error::Unreachable { registry, what, why: words, secure, for_good: false }
                }
            }
        })
    }

    /// Sends it, and again where it is redirected; gives also whether it is the
    /// registry that answered. A login goes to the registry itself and to nobody
    /// else (CVE-2021-21284 and its kin).
    fn follow(&self, ask: &Ask, body: Making<'_>) -> Result<(Response<Body>, bool), Error> {
        let home = self.get(&ask.what, "")?.url;
        let mut url = ask.url.clone();
        for _ in 0..=REDIRECTS {
            let mut headers = ask.headers.clone();
            let at_home = origin(&url) == origin(&home);
            if at_home && let Some(value) = self.remembered() {
                headers.insert(AUTHORIZATION, value);
            }
            let response = self.http.send(&ask.method, &url, &headers, body()?);
            let response = response.map_err(|silence| self.unreachable(ask, &url, silence))?;
            let redirected = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirected || !matches!(ask.method, Method::GET | Method::HEAD) {
                return Ok((response, at_home));
            }
            let target = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            url = target.and_then(|target| join(&url, target)).ok_or_else(|| {
                self.wrong(&ask.what, "it sends us on without saying where to".to_owned())
            })?;
        }
        Err(self.wrong(&ask.what, format!("it sends us on more than {REDIRECTS} times")))
    }

    fn unreachable(&self, ask: &Ask, url: &Uri, silence: Silence) -> Error {
        let Silence { why, for_good } = silence;
        let host = url.authority().map_or("", |a| a.as_str());
        let why = if host == self.place.registry { why } else { format!("{host}: {why}") };
        let (registry, what) = (self.place.registry.clone(), ask.what.clone());
        Error::Unreachable { registry, what, why, secure: !self.plain, for_good }
    }

    fn success(&self, ask: &Ask, response: Response<Body>) -> Result<Response<Body>, Error> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wait = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
        let wait = wait.and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
        let words = page(response).map(|text| words(&text)).unwrap_or_default();
        Err(Error::Answered {
            registry: self.place.registry.clone(),
            what: ask.what.clone(),
            status: status.as_u16(),
            words,
            wait,
        })
    }

    pub fn wrong(&self, what: &str, why: String) -> Error {
        Error::Wrong { registry: self.place.registry.clone(), what: what.to_owned(), why }
    }

    /// The answer broke off.
    pub fn broke_off(&self, what: &str, why: String) -> Error {
        let (registry, what) = (self.place.registry.clone(), what.to_owned());
        Error::Unreachable { registry, what, why, secure: !self.plain, for_good: false }
    }
}

/// The host of `host[:port]`.
fn host(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    }
}

/// Scheme, host and port: who is asked.
fn origin(url: &Uri) -> Option<(String, String, u16)> {
    let scheme = url.scheme_str()?.to_ascii_lowercase();
    let port = url.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, url.host()?.to_ascii_lowercase(), port))
}

/// A reference found at `base` (RFC 3986, section 5.2, as far as `Location`
/// headers of registries use it: no `..`).
pub fn join(base: &Uri, target: &str) -> Option<Uri> {
    let target = target.split('#').next()?;
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let text = if target.contains("://") {
        target.to_owned()
    } else if target.starts_with("//") {
        format!("{scheme}:{target}")
    } else if target.starts_with('/') {
        format!("{scheme}://{authority}{target}")
    } else {
        let folder = base.path().rsplit_once('/')?.0;
        format!("{scheme}://{authority}{folder}/{target}")
    };
    let url: Uri = text.parse().ok()?;
    matches!(url.scheme_str(), Some("http" | "https")).then_some(url)
}

/// How often and how patiently something is tried again.
#[derive(Debug, Default)]
pub struct Patience {
    failures: u32,
}

/// Tries in a row that may fail.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest that a registry's own wish is followed.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

impl Patience {
    /// Something went well in between.
    pub fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits, and says whether to try again.
    pub fn again(&mut self, error: &Error) -> bool {
        self.failures += 1;
        if !error.passes() || self.failures >= TRIES {
            return false;
        }
        let asked = match error {
            Error::Answered { wait, .. } => *wait,
            _ => None,
        };
        if asked.is_some_and(|wait| wait > LONGEST_WAIT) {
            return false;
        }
        std::thread::sleep(asked.unwrap_or_else(|| backoff(self.failures)));
        true
    }
}

/// Twice as long each time, and not the same for all nodes of a job.
fn backoff(failures: u32) -> Duration {
    let base = FIRST_WAIT * (1 << failures.saturating_sub(1).min(6));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    base + base * (now % 1000) / 1000
}

#[cfg(test)]
mod tests {
    use super::{host, join, origin};

    #[test]
    fn a_location_is_read_as_a_browser_reads_it() {
        let table = [
            ("https://b/c?d=e", Some("https://b/c?d=e")),
            ("/v2/x?y=z", Some("https://r:5000/v2/x?y=z")),
            ("//b/c", Some("https://b/c")),
            ("up", Some("https://r:5000/v2/a/up")),
            ("https://b/c#part", Some("https://b/c")),
            ("ftp://b/c", None),
            ("file:///etc/passwd", None),
            ("http://", None),
        ];
        let base = "https://r:5000/v2/a/b".parse().unwrap();
        for (target, expected) in table {
            assert_eq!(join(&base, target).map(|u| u.to_string()).as_deref(), expected, "{target}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let of = |text: &str| origin(&text.parse().unwrap());
        assert_eq!(of("https://R/a"), of("https://r:443/b"));
        for other in ["http://r/a", "https://r:444/a", "https://r.evil/a", "https://r@evil/a"] {
            assert_ne!(of("https://r/a"), of(other), "{other}");
        }
    }

    #[test]
    fn a_port_is_no_part_of_a_host() {
        for (registry, expected) in
            [("a.b:5000", "a.b"), ("a.b", "a.b"), ("[::1]:5000", "[::1]"), ("[::1]", "[::1]")]
        {
            assert_eq!(host(registry), expected);
        }
    }
}
