//! One request and its answer over http or TLS.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::http::{HeaderMap, Method, Request, Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, AsSendBody, Body};

use crate::problem::Problem;

/// How long somebody may be silent before they are taken for gone.
const CONNECT: Duration = Duration::from_secs(20);
const SILENT: Duration = Duration::from_secs(60);
/// A registry hashes what was pushed before it answers.
const ANSWER: Duration = Duration::from_secs(300);

/// The most that is read of a page that is no blob, in bytes.
pub const PAGE: u64 = 4 << 20;

/// Connections to one registry and to where it sends us.
#[derive(Debug, Clone)]
pub struct Http {
    agent: Agent,
}

impl Http {
    /// For a registry on `host` (no port), trusting `ca` or else the system's
    /// certificates. `$HTTPS_PROXY` and its like are followed, but not to
    /// this machine itself.
    ///
    /// # Errors
    /// The certificates cannot be read.
    pub fn new(host: &str, plain: bool, ca: Option<&Path>) -> Result<Self, Problem> {
        let roots = if plain && ca.is_none() { Vec::new() } else { certificates(ca)? };
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(!plain)
            .http_status_as_error(false)
            // Who is asked next decides what they are told: see `session`.
            .max_redirects(0)
            .user_agent(concat!("denovo/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_per_read(Some(SILENT))
            .timeout_per_write(Some(SILENT))
            .timeout_recv_response(Some(ANSWER))
            .max_idle_connections_per_host(8);
        let config = if is_loopback(host) { config.proxy(None) } else { config };
        Ok(Self { agent: Agent::with_parts(config.build(), DefaultConnector::new(), Names) })
    }

    /// # Errors
    /// No answer came; its status is not looked at.
    pub fn send(
        &self,
        method: &Method,
        url: &Uri,
        headers: &HeaderMap,
        body: impl AsSendBody,
    ) -> Result<Response<Body>, Silence> {
        let mut request = Request::builder().method(method).uri(url);
        if let Some(all) = request.headers_mut() {
            all.extend(headers.clone());
        }
        let request =
            request.body(body).map_err(|e| Silence { why: e.to_string(), for_good: true })?;
        self.agent.run(request).map_err(|e| Silence::of(&e))
    }
}

/// No answer came.
#[derive(Debug, Clone)]
pub struct Silence {
    pub why: String,
    /// Nothing will change that by waiting.
    pub for_good: bool,
}

impl Silence {
    /// ureq's errors, without its name in front.
    fn of(error: &ureq::Error) -> Self {
        let (why, for_good) = match error {
            // TLS says that it was refused as invalid data.
            ureq::Error::Io(e) => (
                e.to_string(),
                matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::InvalidData),
            ),
            ureq::Error::HostNotFound => ("nobody knows a host of this name".to_owned(), true),
            ureq::Error::Timeout(what) => (format!("no answer in time ({what})"), false),
            ureq::Error::Rustls(e) => (format!("TLS: {e}"), true),
            ureq::Error::RequireHttpsOnly(_) => {
                ("it leads to http, where https was asked for".to_owned(), true)
            }
            other => (other.to_string(), false),
        };
        Self { why, for_good }
    }
}

/// All of a page, if it is no longer than [`PAGE`].
///
/// # Errors
/// It is longer, or breaks off.
pub fn page(response: Response<Body>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut body = response.into_body().into_reader().take(PAGE + 1);
    body.read_to_end(&mut bytes).map_err(|e| format!("the answer broke off: {e}"))?;
    if bytes.len() as u64 > PAGE {
        return Err(format!("the answer is longer than {PAGE} bytes"));
    }
    Ok(bytes)
}

pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|a| a.is_loopback())
}

fn certificates(ca: Option<&Path>) -> Result<Vec<Certificate<'static>>, Problem> {
    let found = match ca {
        Some(path) => {
            let wrong = |why: String| {
                Problem::site(format!("{}: no certificate can be read: {why}", path.display()))
                    .hint("ca in denovo.toml names a file of certificates in PEM")
            };
            let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
            let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
                .collect::<Result<_, _>>()
                .map_err(|e| wrong(e.to_string()))?;
            if found.is_empty() {
                return Err(wrong("it holds none".to_owned()));
            }
            found
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                let why = found.errors.first().map_or(String::new(), |e| format!(" ({e})"));
                return Err(Problem::site(format!(
                    "this machine trusts no certificate authority{why}"
                ))
                .hint("install ca-certificates, or name a file with SSL_CERT_FILE"));
            }
            found.certs
        }
    };
    Ok(found.iter().map(|c| Certificate::from_der(c).to_owned()).collect())
}

/// Finds addresses through `getent`: the C library's own resolver loads
/// shared modules, which a static binary must not (see `host::accounts`).
#[derive(Debug)]
struct Names;

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &ureq::config::Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default);
        let mut found = self.empty();
        for address in addresses(host).into_iter().take(16) {
            found.push(SocketAddr::new(address, port));
        }
        if found.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(found) }
    }
}

fn addresses(host: &str) -> Vec<IpAddr> {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = literal.parse() {
        return vec![address];
    }
    let mut getent = Command::new("getent");
    getent.args(["ahosts", "--", host]).stdin(Stdio::null()).stderr(Stdio::null());
    let text = getent.output().map(|o| o.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut found = Vec::new();
    for address in text.lines().filter_map(|l| l.split_whitespace().next()?.parse().ok()) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{addresses, is_loopback};

    #[test]
    fn addresses_are_found_without_the_c_librarys_modules() {
        assert_eq!(addresses("127.0.0.2"), ["127.0.0.2".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(addresses("[::1]"), ["::1".parse::<std::net::IpAddr>().unwrap()]);
        assert!(addresses("localhost").iter().all(std::net::IpAddr::is_loopback));
        assert!(addresses("no-such-host.invalid").is_empty());
    }

    #[test]
    fn this_machine_is_told_by_its_names() {
        for (host, expected) in
            [("localhost", true), ("127.1.2.3", true), ("[::1]", true), ("10.0.0.1", false)]
        {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }
}
