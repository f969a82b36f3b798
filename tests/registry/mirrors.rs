//! Mirrors that the site puts before a registry.

use std::net::TcpListener;

use crate::common::Case;
use crate::faults::is_stored;
use crate::server::{Made, Reply, Server};
use crate::site::pull;

fn serving(image: &Made) -> Server {
    let image = image.clone();
    Server::start(move |seen| image.answer(seen))
}

/// A site where `registry` has these mirrors, all of them plain.
fn site(registry: &Server, mirrors: &[String]) -> String {
    let mut text =
        format!("[registry.\"{}\"]\nplain-http = true\nmirrors = {mirrors:?}\n", registry.address);
    for mirror in mirrors {
        let host = mirror.split('/').next().unwrap();
        text.push_str(&format!("[registry.\"{host}\"]\nplain-http = true\n"));
    }
    text
}

#[test]
fn a_mirror_is_asked_instead_of_the_registry() {
    let Some(case) = Case::user("a_mirror_is_asked_instead_of_the_registry") else { return };
    let image = Made::large(2048);
    let (mirror, registry) = (serving(&image), serving(&image));
    let site = site(&registry, &[format!("{}/proxy", mirror.address)]);
    let name = registry.name("a/b:t");
    pull(&case, &site, &[&name]).expect(0, "pull");
    // It has its name from the registry all the same.
    is_stored(&case, &name, &image);
    assert!(mirror.seen().iter().all(|s| s.path.starts_with("/v2/proxy/a/b/")));
    assert!(registry.asked("/blobs/").is_empty());
    assert!(registry.asked("/manifests/t").is_empty());
}

#[test]
fn a_mirror_that_is_down_lacks_it_or_lies_is_passed_over() {
    let Some(case) = Case::user("a_mirror_that_is_down_lacks_it_or_lies_is_passed_over") else {
        return;
    };
    let image = Made::large(2048);
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let i = image.clone();
    let lying = Server::start(move |seen| match i.is_layer(seen) {
        true => Reply::ok(vec![0; 2048]),
        false => i.answer(seen),
    });
    let lacking = Server::start(|_| Reply::new(404));
    let registry = serving(&image);
    let mirrors = [down.to_string(), lacking.address.to_string(), lying.address.to_string()];
    let name = registry.name("a/b:t");
    pull(&case, &site(&registry, &mirrors), &[&name]).expect(0, "pull");
    is_stored(&case, &name, &image);
    assert!(!lacking.seen().is_empty() && !lying.asked("/blobs/").is_empty());
}

#[test]
fn each_that_failed_is_named() {
    let Some(case) = Case::user("each_that_failed_is_named") else { return };
    let (mirror, registry) =
        (Server::start(|_| Reply::new(403)), Server::start(|_| Reply::new(404)));
    let ran =
        pull(&case, &site(&registry, &[mirror.address.to_string()]), &[&registry.name("a/b:t")]);
    let (mirror, registry) = (mirror.address.to_string(), registry.address.to_string());
    ran.refused(&[
        &format!("{mirror} answered 403 to manifest t"),
        &format!("{registry} answered 404 to manifest t"),
    ]);
}
