//! Who asks.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::Case;
use crate::faults::is_stored;
use crate::server::{Made, Reply, Server};
use crate::site::command;

/// A registry with an authority: tokens `T1`, `T2`, … of which each is good
/// for `uses` requests; the user is `user:pass`.
fn with_tokens(image: &Made, uses: usize) -> Server {
    let image = image.clone();
    let (given, left) = (AtomicUsize::new(0), AtomicUsize::new(0));
    Server::start(move |seen| {
        let host = seen.header("host").to_owned();
        if seen.path.starts_with("/token") {
            let asked = seen.path.contains("scope=repository%3Aa%2Fb%3Apull")
                && seen.path.contains("service=the%20service");
            let body = String::from_utf8_lossy(&seen.body).into_owned();
            let known = seen.header("authorization") == "Basic dXNlcjpwYXNz" && asked
                || seen.method == "POST" && body.contains("refresh_token=idtoken");
            if !known {
                let words = r#"{"errors":[{"code":"UNAUTHORIZED","message":"unknown user"}]}"#;
                return Reply { status: 401, ..Reply::ok(words) };
            }
            left.store(uses, Ordering::SeqCst);
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            return Reply::ok(format!("{{\"token\":\"T{number}\"}}"));
        }
        let token = format!("Bearer T{}", given.load(Ordering::SeqCst));
        let still = |n: usize| n.checked_sub(1);
        let alive = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, still).is_ok();
        if seen.header("authorization") == token && alive {
            return image.answer(seen);
        }
        Reply::new(401).header(
            "WWW-Authenticate",
            format!(
                "Bearer realm=\"http://{host}/token\",service=\"the service\",scope=\"repository:a/b:pull\""
            ),
        )
    })
}

fn auth_file(case: &Case, server: &Server, entry: &str) -> std::path::PathBuf {
    case.file("auth.json", &format!(r#"{{"auths":{{"{}":{entry}}}}}"#, server.address))
}

#[test]
fn a_token_is_fetched_and_fetched_again_when_it_has_run_out() {
    let test = "a_token_is_fetched_and_fetched_again_when_it_has_run_out";
    let Some(case) = Case::user(test) else { return };
    for entry in [r#"{"auth":"dXNlcjpwYXNz"}"#, r#"{"identitytoken":"idtoken"}"#] {
        let image = Made::large(2048);
        // One at a time, so that no request's token is another's.
        let server = with_tokens(&image, 2);
        let name = server.name("a/b:t");
        let mut pull = command(&case, "[images]\nparallel = 1", &["pull", &name, "--plain-http"]);
        pull.env("REGISTRY_AUTH_FILE", auth_file(&case, &server, entry));
        case.finish(pull).expect(0, entry);
        is_stored(&case, &name, &image);
        assert!(server.asked("/token").len() >= 2, "{entry}");
        std::fs::remove_dir_all(crate::site::store(&case)).unwrap();
    }
}

#[test]
fn an_authority_that_says_no_is_quoted() {
    let Some(case) = Case::user("an_authority_that_says_no_is_quoted") else { return };
    let server = with_tokens(&Made::large(2048), 2);
    let name = server.name("a/b:t");
    let mut pull = command(&case, "", &["pull", &name, "--plain-http"]);
    pull.env("REGISTRY_AUTH_FILE", auth_file(&case, &server, r#"{"auth":"dXNlcjp3cm9uZw=="}"#));
    let ran = case.finish(pull);
    let said = format!("{} answered 401 to manifest t", server.address);
    ran.refused(&[&said, "/token answered 401: unknown user", "log in"]);
    assert!(!ran.err.contains("wrong") && !ran.err.contains("dXNl"), "{ran:?}");
}

#[test]
fn a_login_is_found_in_each_of_the_standard_places() {
    let Some(case) = Case::user("a_login_is_found_in_each_of_the_standard_places") else { return };
    let image = Made::large(2048);
    let server = with_tokens(&image, 1000);
    let name = server.name("a/b:t");
    let entry = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, server.address);
    let table = [
        ("run/containers/auth.json", "XDG_RUNTIME_DIR", "run"),
        ("conf/containers/auth.json", "XDG_CONFIG_HOME", "conf"),
        ("home/.config/containers/auth.json", "HOME", "home"),
        ("home/.docker/config.json", "HOME", "home"),
        ("docker/config.json", "DOCKER_CONFIG", "docker"),
    ];
    for (file, variable, dir) in table {
        let path = case.dir.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &entry).unwrap();
        let mut pull = command(&case, "", &["pull", &name, "--plain-http"]);
        pull.env(variable, case.dir.join(dir));
        case.finish(pull).expect(0, file);
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_credential_helper_is_asked() {
    let Some(case) = Case::user("a_credential_helper_is_asked") else { return };
    let image = Made::large(2048);
    let server = with_tokens(&image, 1000);
    let name = server.name("a/b:t");
    let helper = case.script(
        "docker-credential-test",
        r#"read -r server || true
echo "$1 $server" >>"$(dirname "$0")/asked"
echo '{"ServerURL":"x","Username":"user","Secret":"pass"}'"#,
    );
    assert!(helper.metadata().unwrap().permissions().mode() & 1 != 0);
    case.file("asked", "");
    let path = format!("{}:/usr/bin:/bin", case.dir.display());
    for text in [
        format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, server.address),
        r#"{"credsStore":"test"}"#.to_owned(),
    ] {
        let mut pull = command(&case, "", &["pull", &name, "--plain-http"]);
        pull.env("PATH", &path).env("REGISTRY_AUTH_FILE", case.file("auth.json", &text));
        case.finish(pull).expect(0, &text);
    }
    let asked = std::fs::read_to_string(case.dir.join("asked")).unwrap();
    assert_eq!(asked, format!("get {0}\nget {0}\n", server.address));
    let broken = case.file("auth.json", r#"{"credsStore":"no-such-helper"}"#);
    let mut pull = command(&case, "", &["pull", &name, "--plain-http"]);
    pull.env("REGISTRY_AUTH_FILE", broken);
    case.finish(pull).refused(&["auth.json", "docker-credential-no-such-helper"]);
}
