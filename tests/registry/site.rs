//! denovo with a site's configuration and a store of the case's own.

use std::path::PathBuf;
use std::process::Command;

use crate::common::{Case, Ran};
use crate::server::{Made, Server};

pub fn store(case: &Case) -> PathBuf {
    case.dir.join("store")
}

/// `denovo image ARGS --store …`, on a site that says `site`, with no login.
pub fn command(case: &Case, site: &str, args: &[&str]) -> Command {
    let file = case.dir.join("denovo.toml");
    std::fs::write(&file, site).unwrap();
    let mut command = case.denovo(&["image"]);
    command.args(args).arg("--store").arg(store(case));
    command.env("DENOVO_CONFIG", file).env("HOME", &case.dir);
    command.env_remove("REGISTRY_AUTH_FILE").env_remove("XDG_CONFIG_HOME");
    command
}

pub fn image(case: &Case, site: &str, args: &[&str]) -> Ran {
    case.finish(command(case, site, args))
}

pub fn pull(case: &Case, site: &str, args: &[&str]) -> Ran {
    image(case, site, &[&["pull"], args].concat())
}

#[test]
fn a_name_without_a_registry_goes_where_the_site_says_or_nowhere() {
    for case in Case::each("a_name_without_a_registry_goes_where_the_site_says_or_nowhere") {
        let made = Made::large(2048);
        let m = made.clone();
        let server = Server::start(move |seen| m.answer(seen));
        pull(&case, "", &["b:t"]).refused(&["names no registry", "unqualified"]);
        assert!(server.seen().is_empty());
        let site = format!("[images]\nunqualified = \"{}/hpc\"", server.address);
        let ran = pull(&case, &site, &["b:t", "--plain-http"]).expect(0, "pull");
        assert!(ran.out.starts_with(&server.name("hpc/b:t")), "{ran:?}");
        assert!(server.seen().iter().all(|s| s.path.starts_with("/v2/hpc/b/")));
    }
}

#[test]
fn a_site_can_block_a_registry() {
    let Some(case) = Case::user("a_site_can_block_a_registry") else { return };
    let server = Server::start(|_| crate::server::Reply::new(404));
    let site = format!("[registry.\"{}\"]\nblocked = true", server.address);
    pull(&case, &site, &[&server.name("b:t")]).refused(&["the site blocks"]);
    assert!(server.seen().is_empty());
}

#[test]
fn root_does_not_follow_a_file_that_others_can_write() {
    let Some(case) = Case::root("root_does_not_follow_a_file_that_others_can_write") else {
        return;
    };
    let mut command = command(&case, "", &["pull", "b:t"]);
    let file = case.dir.join("denovo.toml");
    std::os::unix::fs::chown(&file, Some(1234), None).unwrap();
    let ran = case.finish(command);
    ran.refused(&["root does not follow", "owner 1234", "chown root"]);
    command = self::command(&case, "", &["pull", "b:t"]);
    std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    case.finish(command).refused(&["root does not follow", "mode 666"]);
}

#[test]
fn a_key_that_nobody_knows_is_named_with_its_line() {
    let Some(case) = Case::user("a_key_that_nobody_knows_is_named_with_its_line") else { return };
    pull(&case, "[images]\n\nunqalified = 1", &["b:t"])
        .refused(&["denovo.toml: line 3: unknown field `unqalified`"]);
    let mut command = command(&case, "", &["pull", "b:t"]);
    command.env("DENOVO_CONFIG", case.dir.join("nothing.toml"));
    case.finish(command).refused(&["nothing.toml: cannot be read"]);
}

#[test]
fn a_container_starts_without_the_sites_file() {
    let Some(case) = Case::user("a_container_starts_without_the_sites_file") else { return };
    let bundle = case.bundle(|config| crate::common::shell(config, "echo ran"));
    let mut command = case.denovo(&["run", "--bundle"]);
    command.arg(&bundle).arg(case.id("c")).env("DENOVO_CONFIG", case.file("bad", "not = [toml"));
    let ran = case.finish(command).expect(0, "run");
    assert_eq!(ran.out(), "ran");
}

/// `denovo job run` on a site that says `site`, with the case's own store.
fn job(case: &Case, site: &str, id: &str, args: &[&str]) -> Ran {
    let file = case.dir.join("denovo.toml");
    let stores = format!("[images]\nstores = [{:?}]\n", store(case).display());
    std::fs::write(&file, site.replacen("[images]\n", &stores, 1)).unwrap();
    let mut command = case.denovo(&["job", "run", "--id", id, "--network", "none", "--no-home"]);
    command.args(["--image", args[0], "--"]).args(&args[1..]);
    command.env("DENOVO_CONFIG", file).env("HOME", &case.dir);
    command.env_remove("XDG_DATA_HOME").env_remove("REGISTRY_AUTH_FILE");
    let ran = case.finish(command);
    let jobs = case.state().join("jobs");
    let records = || std::fs::read_dir(&jobs).into_iter().flatten().count();
    crate::common::until("the job's record is gone", || records() == 0);
    ran
}

#[test]
fn a_job_fetches_only_what_the_site_sends_it_for_and_trusts() {
    let test = "a_job_fetches_only_what_the_site_sends_it_for_and_trusts";
    // A user's jobs: root's store is the node's own.
    let Some(case) = Case::user(test) else { return };
    let Some(registry) = crate::distribution::Registry::start(test, &case, "", "") else { return };
    let recipe = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/busybox");
    image(&case, "", &["build", recipe.to_str().unwrap()]).expect(0, "build");
    let name = registry.name("hpc/busybox:1");
    image(&case, "", &["push", "busybox", &name, "--plain-http"]).expect(0, "push");

    // Not without the site's word.
    let ran = job(&case, "[images]\n", &case.id("a"), &["busybox:1", "true"]);
    ran.refused(&["image busybox:1", "none of this name"]);
    let site = format!(
        "[images]\nunqualified = \"{0}/hpc\"\n[registry.\"{0}\"]\nplain-http = true\n",
        registry.address
    );
    let ran = job(&case, &site, &case.id("b"), &["busybox:1", "sh", "-c", "busybox | head -n 1"]);
    let ran = ran.expect(0, "fetched");
    assert!(ran.out.starts_with("BusyBox v"), "{ran:?}");
    assert!(ran.err.contains(&format!("fetching {name}, as the site says")), "{ran:?}");
    drop(registry);
    let ran = job(&case, &site, &case.id("c"), &["busybox:1", "true"]).expect(0, "from the store");
    assert!(!ran.err.contains("fetching"), "{ran:?}");
    // Trust is looked at when it is used, not only when it came.
    let strict = format!("{site}[trust]\nallow = [\"other.example/**\"]\n");
    job(&case, &strict, &case.id("d"), &["busybox:1", "true"]).refused(&["none of those"]);
    let strict = format!("{site}[trust]\nrequire-digest = true\n");
    job(&case, &strict, &case.id("e"), &["busybox:1", "true"]).refused(&["by digest"]);

    let _ = std::fs::remove_dir_all(case.state());
}
