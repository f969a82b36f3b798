//! Id-mapped mounts: how the owners of a bound directory's files are shown.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use serde_json::{Value, json};

use crate::common::{Case, add_mount, namespace};

fn maps(inside: u32, outside: u32) -> Value {
    json!([{"containerID": inside, "hostID": outside, "size": 100}])
}

/// A directory with a file of uid 1 and gid 2, and one below it.
fn source(case: &Case) -> std::path::PathBuf {
    let source = case.directory("source");
    fs::create_dir_all(source.join("below")).unwrap();
    for file in ["file", "below/file"] {
        fs::write(source.join(file), "").unwrap();
        chown(source.join(file), Some(1), Some(2)).unwrap();
    }
    source
}

const OWNER: &str = "stat -c %u:%g /mnt/file /mnt/below/file";

#[test]
fn owners_are_shown_and_kept_as_mapped() {
    let Some(case) = Case::root("owners_are_shown_and_kept_as_mapped") else { return };
    let source = source(&case);
    let bind = |options: Value, mappings: Value| {
        json!({"destination": "/mnt", "source": source, "options": options,
            "uidMappings": mappings, "gidMappings": mappings})
    };
    for options in [json!(["rbind", "idmap"]), json!(["rbind", "ridmap"]), json!(["bind"])] {
        let text = case.see(OWNER, |c| add_mount(c, bind(options.clone(), maps(0, 5000))));
        assert_eq!(text, "5001:5002\n5001:5002", "{options}");
    }
    assert_eq!(case.see(OWNER, |c| add_mount(c, bind(json!(["bind"]), json!([])))), "1:2\n1:2");
    // What is made through it is stored under the owner that the map names,
    // where the directory's own owner has a name there too.
    chown(&source, Some(7), Some(7)).unwrap();
    case.see("touch /mnt/new", |config| {
        add_mount(config, bind(json!(["bind", "idmap"]), maps(7, 0)));
    });
    let made = fs::metadata(source.join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (7, 7));
    // Other attributes hold on it too.
    let ran = case.run("touch /mnt/other", |config| {
        add_mount(config, bind(json!(["bind", "idmap", "ro"]), maps(7, 0)));
    });
    assert!(ran.err.contains("Read-only"), "{ran:#?}");
}

#[test]
fn a_user_namespace_gives_its_own_maps() {
    let Some(case) = Case::root("a_user_namespace_gives_its_own_maps") else { return };
    let source = source(&case);
    let see = |script: &str, mappings: Value| {
        let bundle = case.bundle(|config| {
            crate::common::shell(config, script);
            userns(config, &source, mappings);
        });
        crate::common::own(&bundle.join("rootfs"), 700_000);
        let ran = case.run_bundle(&bundle).expect(0, script);
        ran.out()
    };
    // The container sees the very owners that are on the disk.
    assert_eq!(see(OWNER, json!([])), "1:2\n1:2");
    see("touch /mnt/new", json!([]));
    assert_eq!(fs::metadata(source.join("new")).unwrap().uid(), 0);
    // A map of its own may say otherwise.
    assert_eq!(see(OWNER, maps(0, 700_010)), "11:12\n11:12");
}

fn userns(config: &mut Value, source: &std::path::Path, mappings: Value) {
    config["linux"]["uidMappings"] = maps(0, 700_000);
    config["linux"]["gidMappings"] = maps(0, 700_000);
    namespace(config, "user", None);
    add_mount(
        config,
        json!({"destination": "/mnt", "source": source, "options": ["bind", "idmap"],
                "uidMappings": mappings, "gidMappings": mappings}),
    );
}

#[test]
fn a_user_is_told_that_only_root_makes_them() {
    let Some(case) = Case::user("a_user_is_told_that_only_root_makes_them") else { return };
    let source = case.directory("source");
    let mount = json!({"destination": "/mnt", "source": source, "options": ["bind", "idmap"],
        "uidMappings": maps(0, 0), "gidMappings": maps(0, 0)});
    case.run("true", |c| add_mount(c, mount)).refused(&["mounts[", "only root of the node"]);
}

#[test]
fn a_file_system_that_cannot_is_named() {
    let Some(case) = Case::root("a_file_system_that_cannot_is_named") else { return };
    let mount = json!({"destination": "/mnt", "source": "/proc/sys/kernel", "options": ["bind"],
        "uidMappings": maps(0, 5), "gidMappings": maps(0, 5)});
    case.run("true", |c| add_mount(c, mount)).refused(&[
        "/proc/sys/kernel",
        "owners mapped",
        "MOUNT_ATTR_IDMAP",
    ]);
}
