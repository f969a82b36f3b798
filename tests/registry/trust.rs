//! What a site demands of images: names, digests, signatures. The keys and
//! signatures are openssl's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use denovo::image::Digest;
use serde_json::json;

use crate::common::{Case, Ran, skip};
use crate::faults::is_stored;
use crate::server::{Made, Reply, Server};
use crate::site::{image, pull};

/// A key pair of the case: the private key's file and the public one's.
fn key(case: &Case, name: &str, kind: &[&str]) -> (PathBuf, PathBuf) {
    let (private, public) =
        (case.dir.join(format!("{name}.key")), case.dir.join(format!("{name}.pub")));
    let mut generate = Command::new("openssl");
    generate.args(["genpkey", "-out"]).arg(&private).arg("-algorithm").args(kind);
    assert!(generate.stderr(Stdio::null()).status().unwrap().success());
    let mut publish = Command::new("openssl");
    publish.args(["pkey", "-pubout", "-in"]).arg(&private).arg("-out").arg(&public);
    assert!(publish.status().unwrap().success());
    (private, public)
}

const P256: &[&str] = &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const EDWARDS: &[&str] = &["ED25519"];

fn sign(case: &Case, private: &Path, payload: &[u8]) -> Vec<u8> {
    let (text, signature) = (case.dir.join("payload"), case.dir.join("signature"));
    fs::write(&text, payload).unwrap();
    let edwards = private.to_string_lossy().contains("edwards");
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-sign", "-rawin", "-inkey"]).arg(private);
    if !edwards {
        openssl.args(["-digest", "sha256"]);
    }
    openssl.arg("-in").arg(&text).arg("-out").arg(&signature);
    assert!(openssl.status().unwrap().success());
    fs::read(signature).unwrap()
}

fn payload(digest: &Digest, name: &str) -> Vec<u8> {
    json!({
        "critical": {
            "identity": { "docker-reference": name },
            "image": { "docker-manifest-digest": digest },
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
    .into_bytes()
}

/// What is under `sha256-HEX.sig`.
struct Signature {
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl Signature {
    const CONFIG: &[u8] = b"{}";

    fn manifest(&self) -> Vec<u8> {
        let text = base64::engine::general_purpose::STANDARD.encode(&self.signature);
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(Self::CONFIG), "size": Self::CONFIG.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                "digest": Digest::of(&self.payload), "size": self.payload.len(),
                "annotations": { "dev.cosignproject.cosign/signature": text },
            }],
        })
        .to_string()
        .into_bytes()
    }
}

/// Serves an image and, where there is one, its signature.
fn serve(made: &Made, signature: Option<Signature>) -> Server {
    let made = made.clone();
    Server::start(move |seen| answer(&made, signature.as_ref(), seen))
}

fn answer(made: &Made, signature: Option<&Signature>, seen: &crate::server::Seen) -> Reply {
    let last = seen.path.rsplit('/').next().unwrap();
    let Some(signature) = signature else { return made.answer(seen) };
    if last == format!("sha256-{}.sig", made.digest().hex()) {
        return Reply::ok(signature.manifest())
            .header("Content-Type", "application/vnd.oci.image.manifest.v1+json");
    }
    for blob in [&signature.payload[..], Signature::CONFIG] {
        if last == Digest::of(blob).to_string() {
            return Reply::ok(blob);
        }
    }
    made.answer(seen)
}

fn demands(names: &str, key: &Path) -> String {
    format!("[[trust.signed]]\nnames = [{names:?}]\nkeys = [{:?}]\n", key.display().to_string())
}

fn has_openssl(test: &str) -> bool {
    let there = Command::new("openssl").arg("version").output().is_ok_and(|o| o.status.success());
    if !there {
        skip(test, "there is no openssl");
    }
    there
}

#[test]
fn names_and_digests_are_decided_before_anything_is_asked() {
    for case in Case::each("names_and_digests_are_decided_before_anything_is_asked") {
        let made = Made::large(2048);
        let server = serve(&made, None);
        let name = server.name("a/b:t");
        let refuse = |site: &str, words: &[&str]| {
            pull(&case, site, &[&name, "--plain-http"]).refused(words);
        };
        refuse("[trust]\nallow = [\"other.example/**\"]", &["none of those", "trust.allow"]);
        refuse("[trust]\nrequire-digest = true", &["by digest", "trust.require-digest"]);
        assert!(server.seen().is_empty());
        let allowed =
            format!("[trust]\nallow = [\"{}/a/*\"]\nrequire-digest = true", server.address);
        let pinned = server.name(&format!("a/b@{}", made.digest()));
        pull(&case, &allowed, &[&pinned, "--plain-http"]).expect(0, "pull");
    }
}

#[test]
fn root_is_held_to_its_own_table_and_a_user_is_not() {
    let site = "[root-trust]\nrequire-digest = true";
    for case in Case::each("root_is_held_to_its_own_table_and_a_user_is_not") {
        let server = serve(&Made::large(2048), None);
        let ran = pull(&case, site, &[&server.name("a/b:t"), "--plain-http"]);
        match case.uid() {
            0 => ran.refused(&["by digest"]),
            _ => drop(ran.expect(0, "pull")),
        }
    }
}

#[test]
fn signatures_of_openssl_by_both_kinds_of_key_count() {
    let test = "signatures_of_openssl_by_both_kinds_of_key_count";
    if !has_openssl(test) {
        return;
    }
    for case in Case::each(test) {
        let (other, _) = key(&case, "other", P256);
        assert!(other.exists());
        for (name, kind) in [("p256", P256), ("edwards", EDWARDS)] {
            let (private, public) = key(&case, name, kind);
            let made = Made::large(2048);
            // The port, and so the name, is known only once it listens.
            let slot: std::sync::Arc<std::sync::OnceLock<Signature>> = Default::default();
            let (m, s) = (made.clone(), slot.clone());
            let server = Server::start(move |seen| answer(&m, s.get(), seen));
            let named = format!("{}/a/b", server.address);
            let payload = payload(&made.digest(), &named);
            let signature = sign(&case, &private, &payload);
            assert!(slot.set(Signature { payload, signature }).is_ok());

            let site = demands("**", &public);
            let full = server.name("a/b:t");
            pull(&case, &site, &[&full, "--plain-http"]).expect(0, name);
            is_stored(&case, &full, &made);
            // With the key of somebody else it is nobody's.
            let wrong = demands("**", &case.dir.join("other.pub"));
            pull(&case, &wrong, &[&full, "--plain-http"])
                .refused(&["no signature by a key that the site trusts", "trust"]);
            let whole = verified(&case, &site, &full).expect(0, "verify");
            assert!(whole.out.contains("signed with"), "{whole:?}");
            verified(&case, &wrong, &full).refused(&["no signature by a key"]);
            // Names that none of the tables speak of need none.
            let elsewhere = demands("elsewhere.example/**", &public);
            pull(&case, &elsewhere, &[&full, "--plain-http"]).expect(0, "elsewhere");
        }
    }
}

/// Without the registry.
fn verified(case: &Case, site: &str, name: &str) -> Ran {
    image(case, site, &["verify", name])
}

#[test]
fn what_is_signed_must_be_this_image_and_unchanged() {
    let test = "what_is_signed_must_be_this_image_and_unchanged";
    if !has_openssl(test) {
        return;
    }
    let Some(case) = Case::user(test) else { return };
    let (private, public) = key(&case, "p256", P256);
    let site = demands("**", &public);
    let (made, other) = (Made::large(2048), Made::large(2560));
    let honest = payload(&made.digest(), "");
    let changed = |mut bytes: Vec<u8>, at: usize| {
        bytes[at] ^= 1;
        bytes
    };
    let refuse = |payload: Vec<u8>, signature: Vec<u8>, words: &str| {
        let server = serve(&made, Some(Signature { payload, signature }));
        let name = server.name("a/b:t");
        pull(&case, &site, &[&name, "--plain-http"]).refused(&[words]);
        let store = denovo::image::Store::open(crate::site::store(&case)).unwrap();
        assert!(store.resolve(&name.parse().unwrap()).is_err(), "{words}: it has no name");
    };
    let about = |payload: Vec<u8>| (payload.clone(), sign(&case, &private, &payload));
    let (text, signature) = about(payload(&other.digest(), ""));
    refuse(text, signature, "what is signed is sha256:");
    let (text, signature) = about(payload(&made.digest(), "registry.example/evil"));
    refuse(text, signature, "registry.example/evil");
    let (text, signature) = about(honest.clone());
    // Each byte of it matters, and so does each of the signature.
    for at in [0, text.len() / 2, text.len() - 1] {
        refuse(changed(text.clone(), at), signature.clone(), "no signature by a key");
    }
    for at in [4, signature.len() / 2, signature.len() - 1] {
        refuse(text.clone(), changed(signature.clone(), at), "no signature by a key");
    }
    refuse(text.clone(), Vec::new(), "no signature by a key");
    let server = serve(&made, None);
    pull(&case, &site, &[&server.name("a/b:t"), "--plain-http"]).refused(&["nobody has signed"]);
    let server = serve(&made, Some(Signature { payload: text, signature }));
    pull(&case, &site, &[&server.name("a/b:t"), "--plain-http"]).expect(0, "the honest one");
}

#[test]
fn a_key_of_another_kind_is_refused() {
    let test = "a_key_of_another_kind_is_refused";
    if !has_openssl(test) {
        return;
    }
    let Some(case) = Case::user(test) else { return };
    let (_, public) = key(&case, "p384", P384);
    let made = Made::large(2048);
    let signature = Signature { payload: payload(&made.digest(), ""), signature: vec![1; 70] };
    let server = serve(&made, Some(signature));
    let name = server.name("a/b:t");
    pull(&case, &demands("**", &public), &[&name, "--plain-http"])
        .refused(&["p384.pub", "neither ECDSA on P-256 nor Ed25519"]);
    pull(&case, &demands("**", &case.dir.join("none.pub")), &[&name, "--plain-http"])
        .refused(&["none.pub"]);
}

#[test]
fn root_does_not_trust_a_key_that_others_can_write() {
    let test = "root_does_not_trust_a_key_that_others_can_write";
    if !has_openssl(test) {
        return;
    }
    let Some(case) = Case::root(test) else { return };
    let (_, public) = key(&case, "p256", P256);
    std::os::unix::fs::chown(&public, Some(1234), None).unwrap();
    let made = Made::large(2048);
    let signature = Signature { payload: payload(&made.digest(), ""), signature: vec![1; 70] };
    let server = serve(&made, Some(signature));
    pull(&case, &demands("**", &public), &[&server.name("a/b:t"), "--plain-http"])
        .refused(&["p256.pub", "root does not trust a key that others can write"]);
}

#[test]
fn weak_digests_are_refused_wherever_they_stand() {
    let Some(case) = Case::user("weak_digests_are_refused_wherever_they_stand") else { return };
    let sha1 = format!("sha1:{}", "0".repeat(40));
    let server = Server::start(|_| Reply::new(404));
    let ran = image(&case, "", &["pull", &server.name(&format!("a@{sha1}"))]).expect(125, "sha1");
    assert!(ran.err.contains("sha1") && ran.err.contains("not one that denovo trusts"), "{ran:?}");
    let s = sha1.clone();
    let server = Server::start(move |_| {
        let part = json!({ "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": s, "size": 2 });
        let text = json!({ "schemaVersion": 2, "config": part, "layers": [part] });
        Reply::ok(text.to_string())
            .header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
    });
    pull(&case, "", &[&server.name("a:t"), "--plain-http"]).refused(&[&sha1]);
    assert!(server.asked("/blobs/").is_empty());
}
