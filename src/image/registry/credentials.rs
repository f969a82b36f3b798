//! Who asks: the standard files in which container tools keep logins
//! (containers-auth.json(5), Docker's config.json), and credential helpers.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::problem::Problem;

#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// An OAuth2 refresh token.
    Identity(String),
}

/// A secret is never printed.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user})"),
            Self::Identity(_) => f.write_str("Identity"),
        }
    }
}

impl Credential {
    /// The value of an `Authorization` header (RFC 7617).
    pub fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Self::Identity(_) => None,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AuthFile {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    identitytoken: String,
}

/// Files in the order in which they are looked at. `$REGISTRY_AUTH_FILE`
/// stands for all of them.
fn files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = variable("HOME");
    let run = variable("XDG_RUNTIME_DIR")
        .unwrap_or_else(|| PathBuf::from(format!("/run/containers/{}", nix::unistd::geteuid())));
    let run = if run.starts_with("/run/containers") { run } else { run.join("containers") };
    let configuration =
        variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|h| h.join(".config")));
    let docker = variable("DOCKER_CONFIG").or_else(|| home.map(|h| h.join(".docker")));
    [
        Some(run.join("auth.json")),
        configuration.map(|d| d.join("containers/auth.json")),
        docker.map(|d| d.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The login for a registry and repository; `None`: ask as nobody.
///
/// # Errors
/// A file is not what it should be, or its helper fails.
pub fn find(registry: &str, repository: &str) -> Result<Option<Credential>, Problem> {
    for path in files() {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            // Podman, run by root, closes /run/containers to everybody else.
            Err(_) if out_of_sight(&path) => continue,
            Err(e) => return Err(wrong(&path, &e.to_string())),
        };
        let file = serde_json::from_str::<AuthFile>(&text)
            .map_err(|e| wrong(&path, &format!("{}:{}: {e}", e.line(), e.column())))?;
        if let Some(found) = look(&file, registry, repository).map_err(|why| wrong(&path, &why))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Whether nothing of this user's can be there: a directory on the way cannot
/// be entered, and nobody has named the file.
fn out_of_sight(path: &Path) -> bool {
    let denied = |e: std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    std::env::var_os("REGISTRY_AUTH_FILE").is_none()
        && path.symlink_metadata().err().is_some_and(denied)
}

fn wrong(path: &Path, why: &str) -> Problem {
    Problem::user(format!("{}: the login cannot be read: {why}", path.display())).hint(
        "log in again (podman login, skopeo login), or name another file with REGISTRY_AUTH_FILE",
    )
}

fn look(file: &AuthFile, registry: &str, repository: &str) -> Result<Option<Credential>, String> {
    let keys = keys(registry, repository);
    if let Some(helper) = keys.iter().find_map(|k| file.cred_helpers.get(k)) {
        return help(helper, registry);
    }
    for auth in keys.iter().filter_map(|key| file.auths.get(key)) {
        if !auth.identitytoken.is_empty() {
            return Ok(Some(Credential::Identity(auth.identitytoken.clone())));
        }
        if !auth.auth.is_empty() {
            return decode(&auth.auth).map(Some);
        }
    }
    match &file.creds_store[..] {
        "" => Ok(None),
        helper => help(helper, registry),
    }
}

/// What a login may stand under, the most specific first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let whole = format!("{registry}/{repository}");
    let ends = whole.char_indices().rev().filter(|(_, c)| *c == '/').map(|(at, _)| at);
    let mut keys: Vec<String> =
        std::iter::once(whole.len()).chain(ends).map(|end| whole[..end].to_owned()).collect();
    // As Docker's own client writes them.
    keys.extend(["https", "http"].map(|scheme| format!("{scheme}://{registry}")));
    keys.extend(["v1/", "v2/"].map(|version| format!("https://{registry}/{version}")));
    if registry == "docker.io" {
        keys.push("https://index.docker.io/v1/".to_owned());
    }
    keys
}

fn decode(text: &str) -> Result<Credential, String> {
    let bytes = STANDARD.decode(text.trim()).map_err(|_| "an auth is not in base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "an auth is not text")?;
    let (user, password) = text.split_once(':').ok_or("an auth is not USER:PASSWORD")?;
    let password = password.trim_end_matches('\0');
    Ok(Credential::Password { user: user.to_owned(), password: password.to_owned() })
}

/// `docker-credential-NAME get`: the registry on its standard input, a JSON
/// document on its standard output.
fn help(name: &str, registry: &str) -> Result<Option<Credential>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Said {
        username: String,
        secret: String,
    }
    if name.contains('/') || name.is_empty() {
        return Err(format!("{name:?} is no name of a credential helper"));
    }
    let program = format!("docker-credential-{name}");
    let mut command = Command::new(&program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends before it has read says why in its status.
        let _ = input.write_all(registry.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        // What every helper says of a registry that it does not know.
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(format!("{program} failed{}", super::error::printable(&text)));
    }
    let said: Said =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("{program}: {e}"))?;
    Ok(Some(match &said.username[..] {
        "<token>" => Credential::Identity(said.secret),
        _ => Credential::Password { user: said.username, password: said.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::{AuthFile, Credential, decode, keys, look};

    fn password(user: &str, password: &str) -> Credential {
        Credential::Password { user: user.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn the_most_specific_login_is_taken() {
        let file: AuthFile = serde_json::from_str(
            r#"{"auths":{"r:5000":{"auth":"YTpi"},"r:5000/x/y":{"auth":"Yzpk"},
                "https://old/v1/":{"auth":"ZTpmOmc="},"t":{"identitytoken":"tok"},"none":{}},
                "HttpHeaders":{"x":"y"}}"#,
        )
        .unwrap();
        let table = [
            ("r:5000", "z", Some(password("a", "b"))),
            ("r:5000", "x/y/z", Some(password("c", "d"))),
            ("r:5000", "x/yy", Some(password("a", "b"))),
            ("old", "z", Some(password("e", "f:g"))),
            ("t", "z", Some(Credential::Identity("tok".to_owned()))),
            ("none", "z", None),
            ("r", "z", None),
        ];
        for (registry, repository, expected) in table {
            assert_eq!(look(&file, registry, repository).unwrap(), expected, "{registry}");
        }
    }

    #[test]
    fn keys_go_from_the_repository_to_the_host() {
        let keys = keys("r", "a/b");
        assert_eq!(keys[..3], ["r/a/b", "r/a", "r"]);
    }

    #[test]
    fn what_is_no_login_is_said() {
        for text in ["!", "YQ==", "/w=="] {
            assert!(decode(text).is_err(), "{text}");
        }
        let file = AuthFile { creds_store: "../x".to_owned(), ..AuthFile::default() };
        assert!(look(&file, "r", "a").unwrap_err().contains("no name of a credential helper"));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", password("u", "secret")), "Password(u)");
    }
}
