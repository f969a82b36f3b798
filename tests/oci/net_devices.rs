//! `linux.netDevices`: devices of the node become the container's, in a
//! network of the test's own.

use serde_json::{Value, json};

use crate::common::{Case, Ran, skip};

/// Runs denovo where there is a network device `dnt0` with addresses, after
/// which `then` is run with the exit code in `$code`.
fn in_own_network(case: &Case, then: &str, change: impl FnOnce(&mut Value)) -> Ran {
    let bundle = case.bundle(change);
    let mut run = case.command("unshare");
    run.args(["--net", "sh", "-c"]);
    run.arg(format!(
        "ip link add dnt0 type dummy || exit 99
        ip link set dnt0 mtu 1400 address 02:00:00:00:00:77
        ip addr add 10.9.8.7/24 dev dnt0; ip addr add fd09::7/64 dev dnt0 nodad
        ip link set dnt0 up; \"$@\"; code=$?; {then}; exit $code"
    ));
    run.arg("sh").arg(crate::common::binary(false)).arg("--root").arg(case.state());
    run.args(["run", "-b", bundle.to_str().unwrap(), &case.id("a")]);
    case.finish(run)
}

fn device(test: &str) -> Option<Case> {
    let case = Case::root(test)?;
    let mut probe = case.command("unshare");
    probe.args(["--net", "ip", "link", "add", "dnt0", "type", "dummy"]);
    if case.finish(probe).code() != 0 {
        skip(test, "this kernel makes no dummy network devices");
        return None;
    }
    Some(case)
}

const LOOK: &str = "for f in mtu address flags; do cat /sys/class/net/$0/$f; done
    ls /sys/class/net; grep -A4 -B1 10.9.8.7 /proc/net/fib_trie | grep -c '32 host'
    grep -c 'fd09.*07 .*inside\\|fd09.*07 .*dnt0' /proc/net/if_inet6";

#[test]
fn a_device_moves_in_with_its_addresses() {
    let Some(case) = device("a_device_moves_in_with_its_addresses") else { return };
    for (value, name) in [(json!({}), "dnt0"), (json!({"name": "inside"}), "inside")] {
        let ran = in_own_network(&case, "ip link show dnt0", |config| {
            config["linux"]["netDevices"] = json!({ "dnt0": value });
            config["process"]["args"] = json!(["sh", "-c", LOOK, name]);
        });
        let lines = ran.lines();
        assert_eq!(lines[..2], ["1400", "02:00:00:00:00:77"], "{ran:#?}");
        let flags = u32::from_str_radix(lines[2].trim_start_matches("0x"), 16).unwrap();
        assert_eq!(flags & 1, 1, "it is up: {ran:#?}");
        let mut devices = vec![lines[3], lines[4]];
        devices.sort_unstable();
        let mut expected = vec!["lo", name];
        expected.sort_unstable();
        assert_eq!(devices, expected, "{ran:#?}");
        assert_ne!(lines[5], "0", "IPv4: {ran:#?}");
        assert_eq!(lines[6], "1", "IPv6: {ran:#?}");
        assert!(ran.err.contains("dnt0"), "it left the node's: {ran:#?}");
    }
}

#[test]
fn hooks_find_the_device_there() {
    let Some(case) = device("hooks_find_the_device_there") else { return };
    let log = case.dir.join("log");
    let hook = case.script("hook", &format!("ls /sys/class/net > {}", log.display()));
    let ran = in_own_network(&case, "true", |config| {
        config["linux"]["netDevices"] = json!({"dnt0": {"name": "inside"}});
        config["hooks"] =
            json!({"createContainer": [{"path": hook, "env": ["PATH=/bin:/usr/bin"]}]});
        config["process"]["args"] = json!(["true"]);
    });
    assert_eq!(ran.code(), 0, "{ran:#?}");
}

#[test]
fn a_start_that_fails_gives_the_device_back() {
    let Some(case) = device("a_start_that_fails_gives_the_device_back") else { return };
    let ran = in_own_network(&case, "ip addr show dnt0", |config| {
        config["linux"]["netDevices"] = json!({"dnt0": {"name": "inside"}});
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
        config["process"]["args"] = json!(["true"]);
    });
    ran.refused(&["hook /bin/false"]);
    for text in ["10.9.8.7/24", "fd09::7/64", "mtu 1400"] {
        assert!(ran.out.contains(text), "{text}: {ran:#?}");
    }
}

#[test]
fn what_cannot_be_moved_is_named() {
    let Some(case) = device("what_cannot_be_moved_is_named") else { return };
    for (devices, words) in [
        (json!({"dnt-none": {}}), ["linux.netDevices.dnt-none", "look for the device"]),
        (json!({"lo": {"name": "x"}}), ["linux.netDevices.lo", "move to the container"]),
        (json!({"dnt0": {"name": "lo"}}), ["linux.netDevices.dnt0", "another name"]),
    ] {
        let ran = in_own_network(&case, "ip link show dnt0", |config| {
            config["linux"]["netDevices"] = devices;
            config["process"]["args"] = json!(["true"]);
        });
        ran.refused(&words);
        assert!(ran.out.contains("dnt0"), "it is still there: {ran:#?}");
    }
}
