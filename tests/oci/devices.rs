//! `linux.devices` and the default ones.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::common::{Case, add_mount, shell};

const DEFAULTS: &str = "full null random tty urandom zero";

#[test]
fn the_default_devices_work() {
    for case in Case::each("the_default_devices_work") {
        let script = format!(
            "cd /dev; stat -c '%n %F %t:%T %a' {DEFAULTS}
            for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done
            echo x > null; head -c 3 zero | wc -c; head -c 3 urandom | wc -c
            echo x 2>/dev/null > full || echo full"
        );
        let ran = case.run(&script, |_| {}).expect(0, "devices");
        let expected = [
            "full character special file 1:7 666",
            "null character special file 1:3 666",
            "random character special file 1:8 666",
            "tty character special file 5:0 666",
            "urandom character special file 1:9 666",
            "zero character special file 1:5 666",
            "fd /proc/self/fd",
            "stdin /proc/self/fd/0",
            "stdout /proc/self/fd/1",
            "stderr /proc/self/fd/2",
            "ptmx pts/ptmx",
            "3",
            "3",
            "full",
        ];
        assert_eq!(ran.lines(), expected);
    }
}

#[test]
fn a_listed_device_is_made_as_configured() {
    let Some(case) = Case::root("a_listed_device_is_made_as_configured") else { return };
    let text =
        case.see("stat -c '%F %t:%T %a %u:%g' /dev/mine /dev/sub/disk /dev/pipe", |config| {
            config["linux"]["devices"] = json!([
                {"path": "/dev/mine", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640,
                    "uid": 5, "gid": 6},
                {"path": "/dev/sub/disk", "type": "b", "major": 7, "minor": 99, "fileMode": 0o600},
                {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
            ]);
        });
    let expected = [
        "character special file a:c8 640 5:6",
        "block special file 7:63 600 0:0",
        "fifo 0:0 622 0:0",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_device_that_no_rule_allows_cannot_be_opened() {
    let Some(case) = Case::root("a_device_that_no_rule_allows_cannot_be_opened") else { return };
    // /dev/kmsg exists on every node; reading it needs no capability here.
    let script = "cat /dev/mem-like > /dev/null 2>&1 && echo read; head -c 1 /dev/zero | wc -c";
    let device = json!([{"path": "/dev/mem-like", "type": "c", "major": 1, "minor": 11}]);
    let deny = json!([{"allow": false, "access": "rwm"}]);
    let text = case.see(script, |config| {
        config["linux"]["devices"] = device.clone();
        config["linux"]["resources"]["devices"] = deny.clone();
    });
    assert!(!text.contains("read"), "{text}");
    assert!(text.ends_with('1'), "{text}");
}

#[test]
fn masks_do_not_come_from_the_root_s_own_null_device() {
    for case in Case::each("masks_do_not_come_from_the_root_s_own_null_device") {
        let bundle = case.bundle(|config| {
            let dev = case.directory("dev");
            symlink("/etc/target", dev.join("null")).unwrap();
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
            add_mount(config, json!({"destination": "/dev", "source": dev, "options": ["bind"]}));
            config["linux"]["maskedPaths"] = json!(["/etc/secret"]);
            shell(config, "cat /etc/secret; stat -c %t:%T /etc/secret");
        });
        fs::write(bundle.join("rootfs/etc/target"), "swapped").unwrap();
        fs::write(bundle.join("rootfs/etc/secret"), "secret").unwrap();
        let ran = case.run_bundle(&bundle);
        assert_eq!(ran.out(), "1:3", "{ran:#?}");
    }
}
