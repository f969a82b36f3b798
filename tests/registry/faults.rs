//! What a pull makes of a registry that breaks off, lies, limits or sends on.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use denovo::image::{Digest, Reference, Store};

use crate::common::{Case, Ran, until};
use crate::server::{Made, Reply, Seen, Server};
use crate::site::{pull, store};

/// The image is there, whole, under its name.
pub fn is_stored(case: &Case, name: &str, image: &Made) {
    let reference: Reference = name.parse().unwrap();
    let store = Store::open(store(case)).unwrap();
    assert_eq!(store.resolve(&reference).unwrap().manifest, image.digest());
    for bytes in [&image.layer, &image.config, &image.manifest] {
        assert_eq!(store.read_blob(&Digest::of(bytes), 1 << 24).unwrap(), *bytes);
    }
    assert_eq!(fs::read_dir(case.dir.join("store/incoming")).unwrap().count(), 0);
}

/// There is no name, and nothing under the layer's digest.
fn is_not_stored(case: &Case, name: &str, image: &Made) {
    let store = Store::open(store(case)).unwrap();
    assert!(store.resolve(&name.parse().unwrap()).is_err());
    assert!(!store.has(&image.layer_digest()));
}

/// Serves an image, but for what `change` makes of the answers.
fn serve(image: &Made, change: impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let image = image.clone();
    Server::start(move |seen| change(seen, image.answer(seen)))
}

/// True for the first `n` calls.
fn first(n: usize) -> impl Fn() -> bool + Send + Sync {
    let count = AtomicUsize::new(0);
    move || count.fetch_add(1, Ordering::SeqCst) < n
}

fn one(
    test: &str,
    image: &Made,
    change: impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static,
) -> Option<(Case, Server, String, Ran)> {
    let case = Case::user(test)?;
    let server = serve(image, change);
    let name = server.name("a/b:t");
    let ran = pull(&case, "", &[&name, "--plain-http"]);
    Some((case, server, name, ran))
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_ended() {
    let image = Made::large(307_200);
    let (i, breaks) = (image.clone(), first(2));
    let Some((case, server, name, ran)) =
        one("a_transfer_that_breaks_off_goes_on_where_it_ended", &image, move |seen, reply| {
            let cut = i.is_layer(seen) && breaks();
            Reply { cut: cut.then_some(100_000), ..reply }
        })
    else {
        return;
    };
    ran.expect(0, "pull");
    is_stored(&case, &name, &image);
    let asked = server.asked(&image.layer_digest().to_string());
    let ranges: Vec<&str> = asked.iter().map(|s| s.header("range")).collect();
    assert_eq!(ranges, ["", "bytes=100000-", "bytes=200000-"]);
}

#[test]
fn a_registry_without_ranges_begins_again() {
    let image = Made::large(307_200);
    let (i, breaks) = (image.clone(), first(1));
    let Some((case, _server, name, ran)) =
        one("a_registry_without_ranges_begins_again", &image, move |seen, reply| {
            if !i.is_layer(seen) {
                return reply;
            }
            Reply { cut: breaks().then_some(100_000), ..Reply::ok(i.layer.clone()) }
        })
    else {
        return;
    };
    ran.expect(0, "pull");
    is_stored(&case, &name, &image);
}

#[test]
fn a_range_that_was_not_asked_for_is_refused() {
    let image = Made::large(307_200);
    let (i, breaks) = (image.clone(), first(1));
    let Some((case, server, name, ran)) =
        one("a_range_that_was_not_asked_for_is_refused", &image, move |seen, reply| {
            if !i.is_layer(seen) || breaks() {
                return Reply { cut: i.is_layer(seen).then_some(100_000), ..reply };
            }
            let body = i.layer[50_000..].to_vec();
            Reply { status: 206, body, ..Reply::default() }
                .header("Content-Range", "bytes 50000-307199/307200")
        })
    else {
        return;
    };
    ran.refused(&[&server.address.to_string(), "asked from byte 100000", "bytes 50000-"]);
    is_not_stored(&case, &name, &image);
}

#[test]
fn content_that_is_not_what_its_digest_says_is_refused() {
    let image = Made::large(2048);
    let i = image.clone();
    let Some((case, server, name, ran)) =
        one("content_that_is_not_what_its_digest_says_is_refused", &image, move |seen, reply| {
            if i.is_layer(seen) { Reply::ok(vec![b'x'; 2048]) } else { reply }
        })
    else {
        return;
    };
    let is = Digest::of(&[b'x'; 2048]).to_string();
    ran.refused(&[&server.address.to_string(), &image.layer_digest().to_string(), &is]);
    is_not_stored(&case, &name, &image);
    assert_eq!(fs::read_dir(case.dir.join("store/incoming")).unwrap().count(), 0);
}

#[test]
fn a_part_of_another_time_that_was_wrong_is_fetched_anew() {
    let test = "a_part_of_another_time_that_was_wrong_is_fetched_anew";
    let Some(case) = Case::user(test) else { return };
    let image = Made::large(2048);
    let server = serve(&image, |_, reply| reply);
    let name = server.name("a/b:t");
    drop(Store::open(store(&case)).unwrap().put(b"x").unwrap());
    let part = format!("sha256-{}", image.layer_digest().hex());
    let part = case.file(&format!("store/incoming/{part}"), "not the beginning of it");
    for dir in ["", "blobs", "blobs/sha256", "blobs/sha512", "refs", "flat", "incoming"] {
        case.give(&store(&case).join(dir));
    }
    assert!(part.exists());
    pull(&case, "", &[&name, "--plain-http"]).expect(0, "pull");
    is_stored(&case, &name, &image);
}

#[test]
fn more_than_the_manifest_promises_is_not_read() {
    let image = Made::large(2048);
    for unmeasured in [true, false] {
        let i = image.clone();
        let Some((case, _server, name, ran)) =
            one("more_than_the_manifest_promises_is_not_read", &image, move |seen, reply| {
                if !i.is_layer(seen) {
                    return reply;
                }
                let body = [&i.layer[..], &[0; 5000]].concat();
                Reply { body, unmeasured, ..reply }
            })
        else {
            return;
        };
        let words = if unmeasured { "longer than its 2048 bytes" } else { "7048 bytes long" };
        ran.refused(&[words]);
        is_not_stored(&case, &name, &image);
    }
}

#[test]
fn a_blob_above_the_sites_limit_is_not_asked_for() {
    let Some(case) = Case::user("a_blob_above_the_sites_limit_is_not_asked_for") else { return };
    let image = Made::large(5120);
    let server = serve(&image, |_, reply| reply);
    let name = server.name("a/b:t");
    let ran = pull(&case, "[images]\nmost-blob = \"4K\"", &[&name, "--plain-http"]);
    ran.refused(&["has 5120 bytes", "4096 are allowed", "most-blob"]);
    assert!(server.asked("/blobs/").is_empty());
}

#[test]
fn a_manifest_must_be_the_one_that_is_named() {
    let Some(case) = Case::user("a_manifest_must_be_the_one_that_is_named") else { return };
    let (image, other) = (Made::large(2048), Made::large(2560));
    let server = serve(&image, |_, reply| reply);
    let good = server.name(&format!("a/b@{}", image.digest()));
    pull(&case, "", &[&good, "--plain-http"]).expect(0, "by digest");
    let o = other.clone();
    let lying = Server::start(move |seen| match seen.path.contains("/manifests/") {
        true => Reply::ok(o.manifest.clone()),
        false => o.answer(seen),
    });
    let name = lying.name(&format!("a/b@{}", image.digest()));
    let ran = pull(&case, "", &[&name, "--plain-http"]);
    ran.refused(&[&lying.address.to_string(), &other.digest().to_string()]);
}

#[test]
fn errors_that_pass_are_waited_for() {
    let image = Made::large(2048);
    let (i, limits, fails) = (image.clone(), first(1), first(2));
    let Some((case, server, name, ran)) =
        one("errors_that_pass_are_waited_for", &image, move |seen, reply| {
            if seen.path.ends_with("/manifests/t") && limits() {
                return Reply::new(429).header("Retry-After", "1");
            }
            if i.is_layer(seen) && fails() { Reply::new(503) } else { reply }
        })
    else {
        return;
    };
    ran.expect(0, "pull");
    is_stored(&case, &name, &image);
    assert_eq!(server.asked("/manifests/t").len(), 2);
    assert_eq!(server.asked(&image.layer_digest().to_string()).len(), 3);
}

#[test]
fn errors_say_which_registry_answered_what() {
    let Some(case) = Case::user("errors_say_which_registry_answered_what") else { return };
    let words = r#"{"errors":[{"code":"X","message":"go \u001b[31maway"}]}"#;
    let table = [
        (404, "", "answered 404 to manifest t", "check the name and the tag"),
        (401, "", "answered 401 to manifest t", "log in"),
        (403, words, "answered 403 to manifest t: go  [31maway", "log in"),
        (410, "<html>", "answered 410 to manifest t", ""),
        // It asks for more patience than anybody has.
        (429, "", "answered 429 to manifest t", "mirror"),
    ];
    for (status, body, said, hint) in table {
        let server = Server::start(move |_| {
            Reply { status, ..Reply::ok(body) }.header("Retry-After", "9999")
        });
        let ran = pull(&case, "", &[&server.name("a:t"), "--plain-http"]);
        ran.refused(&[&format!("{} {said}", server.address), hint]);
        assert!(!ran.err.contains('\u{1b}'), "{ran:?}");
        assert_eq!(server.seen().len(), 1, "{status} is not asked again");
    }
}

/// As user:pass at that server.
fn pull_with_login(case: &Case, server: &Server, name: &str) -> Ran {
    let auth = case.file(
        "auth.json",
        &format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, server.address),
    );
    let mut command = crate::site::command(case, "", &["pull", name, "--plain-http"]);
    command.env("REGISTRY_AUTH_FILE", auth);
    case.finish(command)
}

#[test]
fn who_is_redirected_to_does_not_see_the_login() {
    let Some(case) = Case::user("who_is_redirected_to_does_not_see_the_login") else { return };
    let image = Made::large(2048);
    let i = image.clone();
    let elsewhere = Server::start(move |seen| match seen.path.as_str() {
        "/storage?sig=1" => Reply::ok(i.layer.clone()),
        _ => Reply::new(404),
    });
    let (i, to) = (image.clone(), format!("http://{}/storage?sig=1", elsewhere.address));
    let server = Server::start(move |seen| {
        if seen.header("authorization").is_empty() {
            return Reply::new(401).header("WWW-Authenticate", "Basic realm=\"r\"");
        }
        if seen.path.contains("/manifests/t") {
            // Its own house is no secret to it.
            return Reply::new(302).header("Location", format!("/v2/a/b/manifests/{}", i.digest()));
        }
        if i.is_layer(seen) {
            return Reply::new(307).header("Location", to.clone());
        }
        i.answer(seen)
    });
    let name = server.name("a/b:t");
    pull_with_login(&case, &server, &name).expect(0, "pull");
    is_stored(&case, &name, &image);
    assert_eq!(
        server.asked("/blobs/").last().unwrap().header("authorization"),
        "Basic dXNlcjpwYXNz"
    );
    assert_eq!(elsewhere.seen().len(), 1);
    assert_eq!(elsewhere.seen()[0].header("authorization"), "");
}

#[test]
fn who_is_redirected_to_gets_no_login_by_asking_for_it() {
    let test = "who_is_redirected_to_gets_no_login_by_asking_for_it";
    let Some(case) = Case::user(test) else { return };
    for challenge in ["Basic realm=\"r\"", "Bearer realm=\"http://HOST/token\",service=\"s\""] {
        let image = Made::large(2048);
        let elsewhere = Server::start(move |seen| match seen.path.as_str() {
            "/storage" => {
                let challenge = challenge.replace("HOST", seen.header("host"));
                Reply::new(401).header("WWW-Authenticate", challenge)
            }
            _ => Reply::ok(br#"{"token":"t"}"#.to_vec()),
        });
        let (i, to) = (image.clone(), format!("http://{}/storage", elsewhere.address));
        let server = Server::start(move |seen| match i.is_layer(seen) {
            _ if seen.header("authorization").is_empty() => {
                Reply::new(401).header("WWW-Authenticate", "Basic realm=\"r\"")
            }
            true => Reply::new(307).header("Location", to.clone()),
            false => i.answer(seen),
        });
        let name = server.name("a/b:t");
        pull_with_login(&case, &server, &name).refused(&["401"]);
        let seen = elsewhere.seen();
        assert!(seen.iter().all(|s| s.path == "/storage"), "{seen:?}");
        assert!(!seen.is_empty() && seen.iter().all(|s| s.header("authorization").is_empty()));
    }
}

#[test]
fn redirects_come_to_an_end() {
    let image = Made::large(2048);
    let Some((_case, server, _name, ran)) = one("redirects_come_to_an_end", &image, |seen, _| {
        Reply::new(302).header("Location", format!("{}x", seen.path))
    }) else {
        return;
    };
    ran.refused(&["sends us on more than 5 times"]);
    assert_eq!(server.seen().len(), 6);
}

#[test]
fn a_pull_that_was_killed_leaves_no_name_and_goes_on_later() {
    let test = "a_pull_that_was_killed_leaves_no_name_and_goes_on_later";
    let Some(case) = Case::user(test) else { return };
    let image = Made::large(512_000);
    let (i, stalls) = (image.clone(), first(1));
    let server = serve(&image, move |seen, reply| {
        let stall = i.is_layer(seen) && stalls();
        Reply { cut: stall.then_some(200_000), hold: stall, ..reply }
    });
    let name = server.name("a/b:t");
    let going = case.start(crate::site::command(&case, "", &["pull", &name, "--plain-http"]));
    let incoming = store(&case).join("incoming");
    until("200000 bytes are there", || {
        let entries = fs::read_dir(&incoming).into_iter().flatten().flatten();
        entries.map(|e| e.metadata().map_or(0, |m| m.len())).any(|length| length == 200_000)
    });
    going.signal(libc::SIGINT);
    assert_eq!(going.wait().code(), 130);
    is_not_stored(&case, &name, &image);
    pull(&case, "", &[&name, "--plain-http"]).expect(0, "again");
    is_stored(&case, &name, &image);
    let asked = server.asked(&image.layer_digest().to_string());
    assert_eq!(asked.last().unwrap().header("range"), "bytes=200000-");
}

#[test]
fn blobs_come_at_the_same_moment() {
    let Some(case) = Case::user("blobs_come_at_the_same_moment") else { return };
    let image = Made::large(2048);
    let (i, waiting) = (image.clone(), AtomicUsize::new(0));
    // Neither blob is given before both were asked for.
    let server = serve(&image, move |seen, reply| {
        if seen.path.contains("/blobs/") {
            waiting.fetch_add(1, Ordering::SeqCst);
            until("both are asked for", || waiting.load(Ordering::SeqCst) >= 2);
        }
        assert!(i.layer.len() == 2048);
        reply
    });
    let name = server.name("a/b:t");
    pull(&case, "", &[&name, "--plain-http"]).expect(0, "pull");
    is_stored(&case, &name, &image);
}

#[test]
fn http_is_spoken_only_when_asked_for() {
    let Some(case) = Case::user("http_is_spoken_only_when_asked_for") else { return };
    let image = Made::large(2048);
    let server = serve(&image, |_, reply| reply);
    let name = server.name("a/b:t");
    pull(&case, "", &[&name]).refused(&[&server.address.to_string(), "--plain-http"]);
    assert!(server.seen().iter().all(|s| s.method != "GET"), "nothing was said in the clear");
    let site = format!("[registry.\"{}\"]\nplain-http = true", server.address);
    pull(&case, &site, &[&name]).expect(0, "the site says so");
}
