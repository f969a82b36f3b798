//! Debian's docker-registry, with images that skopeo, umoci and buildah put
//! there, and what they make of ours.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use denovo::image::manifest::parse_config;
use denovo::image::{Digest, Reference, Store};
use serde_json::{Value, json};

use crate::common::{Case, skip, until};
use crate::site::{command, image, pull, store};

/// A docker-registry of the test's own.
pub struct Registry {
    process: Child,
    pub address: String,
}

impl Registry {
    /// `None` where there is no docker-registry, which is said. `http` is the
    /// rest of the table `http` of its configuration, `more` is further tables.
    pub fn start(test: &str, case: &Case, http: &str, more: &str) -> Option<Self> {
        for program in ["docker-registry", "skopeo", "umoci", "buildah", "htpasswd", "openssl"] {
            let known = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output();
            if !known.is_ok_and(|o| o.status.success()) {
                skip(test, &format!("there is no {program}"));
                return None;
            }
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let root = case.dir.join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {free}\n{http}{more}",
            root.display()
        );
        let file = case.file("registry.yml", &text);
        let log = fs::File::create(case.dir.join("registry.log")).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        until("docker-registry answers", || TcpStream::connect(free).is_ok());
        Some(Self { process, address: free.to_string() })
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a program, which must succeed; gives its output.
fn ok(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {err}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// An OCI layout that umoci made, with two layers; `DIR:t`.
fn layout(case: &Case) -> String {
    let dir = case.dir.join("layout");
    let name = format!("{}:t", dir.display());
    ok("umoci", &["init", "--layout", dir.to_str().unwrap()]);
    ok("umoci", &["new", "--image", &name]);
    // `umoci insert` would leave a tar without its end.
    for (number, (from, to)) in
        [("/etc/hostname", "etc/motd"), ("/bin/busybox", "bin/busybox")].into_iter().enumerate()
    {
        let bundle = case.dir.join(format!("umoci{number}"));
        let bundle = bundle.to_str().unwrap();
        ok("umoci", &["unpack", "--rootless", "--image", &name, bundle]);
        let place = Path::new(bundle).join("rootfs").join(to);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(from, &place).unwrap();
        if number == 0 {
            fs::write(&place, "from umoci\n").unwrap();
        }
        ok("umoci", &["repack", "--image", &name, bundle]);
    }
    ok("umoci", &["config", "--image", &name, "--config.env", "FROM=umoci"]);
    name
}

fn stored(case: &Case, name: &str) -> (Store, Digest) {
    let store = Store::open(store(case)).unwrap();
    let manifest = store.resolve(&name.parse::<Reference>().unwrap()).unwrap().manifest;
    (store, manifest)
}

/// `skopeo inspect`, of the configuration if `what` is `--config`.
fn inspect(name: &str, what: &[&str]) -> Value {
    let name = format!("docker://{name}");
    let args = [&["inspect", "--tls-verify=false"], what, &[&name]].concat();
    serde_json::from_str(&ok("skopeo", &args)).unwrap()
}

#[test]
fn what_skopeo_put_there_is_pulled_and_pushed_under_another_name() {
    let test = "what_skopeo_put_there_is_pulled_and_pushed_under_another_name";
    for case in Case::each(test) {
        let Some(registry) = Registry::start(test, &case, "", "") else { return };
        let name = registry.name("hpc/base:1");
        let source = format!("oci:{}", layout(&case));
        ok("skopeo", &["copy", "--dest-tls-verify=false", &source, &format!("docker://{name}")]);

        let ran = pull(&case, "", &[&name, "--plain-http", "--json"]).expect(0, "pull");
        let said: Value = serde_json::from_str(&ran.out).unwrap();
        let (store, manifest) = stored(&case, &name);
        assert_eq!(said["manifest"], json!(manifest.to_string()));
        assert_eq!(said["digest"], inspect(&name, &[])["Digest"]);
        assert_eq!(said["size"], said["fetched"]);
        assert!(said["size"].as_u64().unwrap() > 500_000, "{said}");

        // There is nothing more to fetch, nor to send.
        let again = pull(&case, "", &[&name, "--plain-http", "--json"]).expect(0, "again");
        assert_eq!(serde_json::from_str::<Value>(&again.out).unwrap()["fetched"], 0);
        let same = image(&case, "", &["push", &name, "--plain-http", "--json"]).expect(0, "push");
        assert_eq!(serde_json::from_str::<Value>(&same.out).unwrap()["sent"], 0);

        let other = registry.name("other/name:2");
        image(&case, "", &["push", &name, &other, "--plain-http"]).expect(0, "push");
        assert_eq!(inspect(&other, &[])["Digest"], json!(manifest.to_string()));
        let env = inspect(&other, &["--config"])["config"]["Env"].clone();
        assert!(env.as_array().unwrap().contains(&json!("FROM=umoci")), "{env}");
        drop(store);

        // Whole enough to be unpacked by somebody else.
        let back = case.dir.join("back");
        let target = format!("oci:{}:t", back.display());
        ok("skopeo", &["copy", "--src-tls-verify=false", &format!("docker://{other}"), &target]);
        let unpacked = case.dir.join("unpacked");
        let from = format!("{}:t", back.display());
        ok("umoci", &["unpack", "--rootless", "--image", &from, unpacked.to_str().unwrap()]);
        let motd = fs::read_to_string(unpacked.join("rootfs/etc/motd")).unwrap();
        assert_eq!(motd, "from umoci\n");
    }
}

/// Docker's own media types, zstd layers and an index, all from buildah and
/// skopeo.
#[test]
fn docker_manifests_zstd_layers_and_lists_by_platform() {
    let test = "docker_manifests_zstd_layers_and_lists_by_platform";
    let Some(case) = Case::root(test) else { return };
    let Some(registry) = Registry::start(test, &case, "", "") else { return };
    let source = format!("oci:{}", layout(&case));
    let docker = registry.name("docker:1");
    let copy = ["copy", "--dest-tls-verify=false", "--format", "v2s2", &source];
    ok("skopeo", &[&copy[..], &[&format!("docker://{docker}")]].concat());
    pull(&case, "", &[&docker, "--plain-http"]).expect(0, "docker");
    let (store, manifest) = stored(&case, &docker);
    let text = String::from_utf8(store.read_blob(&manifest, 1 << 20).unwrap()).unwrap();
    assert!(text.contains("application/vnd.docker.distribution.manifest.v2+json"), "{text}");
    image(&case, "", &["push", &docker, &registry.name("docker:2"), "--plain-http"])
        .expect(0, "push");
    assert_eq!(inspect(&registry.name("docker:2"), &[])["Digest"], manifest.to_string());

    let zstd = registry.name("zstd:1");
    let copy = ["copy", "--dest-tls-verify=false", "--dest-compress-format", "zstd", &source];
    ok("skopeo", &[&copy[..], &[&format!("docker://{zstd}")]].concat());
    pull(&case, "", &[&zstd, "--plain-http"]).expect(0, "zstd");

    // buildah makes one image for each of two platforms, and their list.
    let (root, run) = (case.dir.join("containers"), case.dir.join("run"));
    let base = ["--root", root.to_str().unwrap(), "--runroot", run.to_str().unwrap()];
    let base = [&base[..], &["--storage-driver", "vfs"]].concat();
    let buildah = |args: &[&str]| ok("buildah", &[&base[..], args].concat());
    let list = case.id("list");
    buildah(&["manifest", "create", &list]);
    for arch in ["amd64", "arm64", "s390x"] {
        let container = buildah(&["from", "--arch", arch, "scratch"]);
        let container = container.trim();
        buildah(&["config", "--arch", arch, "--label", &format!("for={arch}"), container]);
        buildah(&["copy", "-q", container, "/bin/busybox", "/bin/busybox"]);
        let committed = buildah(&["commit", "-q", container]);
        buildah(&["rm", container]);
        buildah(&["manifest", "add", "--arch", arch, &list, committed.trim()]);
    }
    let name = registry.name("many:1");
    let target = format!("docker://{name}");
    buildah(&["manifest", "push", "--all", "--tls-verify=false", &list, &target]);

    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    pull(&case, "", &[&name, "--plain-http"]).expect(0, "own platform");
    assert_eq!(label(&case, &name), own);
    pull(&case, "", &[&name, "--plain-http", "--platform", "linux/s390x"]).expect(0, "another");
    assert_eq!(label(&case, &name), "s390x");
    pull(&case, "", &[&name, "--plain-http", "--platform", "linux/mips"])
        .told(&["is not for linux/mips", "linux/amd64"]);
}

fn label(case: &Case, name: &str) -> String {
    let (store, manifest) = stored(case, name);
    let text = store.read_blob(&manifest, 1 << 20).unwrap();
    let manifest: Value = serde_json::from_slice(&text).unwrap();
    let config: Digest = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
    parse_config(&store.read_blob(&config, 1 << 20).unwrap()).unwrap().labels["for"].clone()
}

#[test]
fn a_registry_behind_a_login_takes_that_of_skopeo() {
    let test = "a_registry_behind_a_login_takes_that_of_skopeo";
    let Some(case) = Case::user(test) else { return };
    let passwords = case.dir.join("htpasswd");
    let auth =
        format!("auth:\n  htpasswd:\n    realm: denovo\n    path: {}\n", passwords.display());
    case.file("htpasswd", "");
    let Some(registry) = Registry::start(test, &case, "", &auth) else { return };
    fs::write(&passwords, ok("htpasswd", &["-nbB", "alice", "secret"])).unwrap();
    let name = registry.name("a:1");
    let file = case.file("auth.json", "{}");
    let authfile = format!("--authfile={}", file.display());
    ok(
        "skopeo",
        &[
            "login",
            &authfile,
            "--tls-verify=false",
            "-u",
            "alice",
            "-p",
            "secret",
            &registry.address,
        ],
    );
    case.give(&file);
    let source = format!("oci:{}", layout(&case));
    let target = format!("docker://{name}");
    ok("skopeo", &["copy", &authfile, "--dest-tls-verify=false", &source, &target]);

    let ran = pull(&case, "", &[&name, "--plain-http"]);
    ran.refused(&[&format!("{} answered 401", registry.address), "log in"]);
    for args in [
        &["pull", &name, "--plain-http"][..],
        &["push", &name, &registry.name("b:1"), "--plain-http"],
    ] {
        let mut command = command(&case, "", args);
        command.env("REGISTRY_AUTH_FILE", &file);
        case.finish(command).expect(0, "with the login");
    }
    let push = image(&case, "", &["push", &name, &registry.name("c:1"), "--plain-http"]);
    push.refused(&["answered 401"]);
}

#[test]
fn tls_is_held_to_the_systems_certificates_or_the_sites() {
    let test = "tls_is_held_to_the_systems_certificates_or_the_sites";
    let Some(case) = Case::user(test) else { return };
    let path = |name: &str| case.dir.join(name).display().to_string();
    let (key, certificate, ca) = (path("key.pem"), path("cert.pem"), path("ca.pem"));
    // An authority, and the registry's own certificate by it.
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority = ["-days", "2", "-subj", "/CN=site", "-out", &ca, "-keyout", &path("ca.key")];
    ok("openssl", &[&new[..], &authority].concat());
    let own = [
        "-days",
        "2",
        "-subj",
        "/CN=registry",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-CA",
        &ca,
        "-CAkey",
        &path("ca.key"),
        "-out",
        &certificate,
        "-keyout",
        &key,
    ];
    ok("openssl", &[&new[..], &own].concat());
    let tls = format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
    let Some(registry) = Registry::start(test, &case, &tls, "") else { return };
    let name = registry.name("a:1");
    let source = format!("oci:{}", layout(&case));
    ok("skopeo", &["copy", "--dest-tls-verify=false", &source, &format!("docker://{name}")]);
    pull(&case, "", &[&name]).refused(&[&registry.address, "certificate"]);
    let site = |ca: &str| format!("[registry.\"{}\"]\nca = {ca:?}", registry.address);
    pull(&case, &site(&ca), &[&name]).expect(0, "with its authority");
    image(&case, &site(&ca), &["push", &name, &registry.name("b:1")]).expect(0, "push");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    pull(&case, &site(&key), &[&name]).refused(&["key.pem", "no certificate"]);
}
