//! The five capability sets, read back from the kernel.

use serde_json::{Value, json};

use crate::common::{Case, is_root};

const SCRIPT: &str = "grep ^Cap /proc/self/status | tr -d '\\t'";
const KILL: u64 = 1 << 5;
const CHOWN: u64 = 1;
const NET_BIND: u64 = 1 << 10;
const AUDIT_WRITE: u64 = 1 << 29;

fn sets(inheritable: u64, permitted: u64, effective: u64, bounding: u64, ambient: u64) -> String {
    [
        ("Inh", inheritable),
        ("Prm", permitted),
        ("Eff", effective),
        ("Bnd", bounding),
        ("Amb", ambient),
    ]
    .map(|(name, set)| format!("Cap{name}:{set:016x}"))
    .join("\n")
}

fn user(config: &mut Value, uid: u32, capabilities: Value) {
    if uid != 0 {
        config["process"]["user"] = json!({"uid": uid, "gid": uid});
    }
    config["process"]["capabilities"] = capabilities;
}

#[test]
fn the_default_sets_are_exact_and_nothing_is_inheritable() {
    for case in Case::each("the_default_sets_are_exact_and_nothing_is_inheritable") {
        let three = KILL | NET_BIND | AUDIT_WRITE;
        assert_eq!(case.see(SCRIPT, |_| {}), sets(0, three, three, three, 0));
    }
}

#[test]
fn no_capability_is_no_capability() {
    for case in Case::each("no_capability_is_no_capability") {
        assert_eq!(case.see(SCRIPT, |c| user(c, 0, json!({}))), sets(0, 0, 0, 0, 0));
    }
}

#[test]
fn another_user_keeps_only_ambient_ones_over_exec() {
    let Some(case) = Case::root("another_user_keeps_only_ambient_ones_over_exec") else { return };
    let asked = json!({
        "bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
        "effective": ["CAP_KILL", "CAP_CHOWN"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    // exec(2) of a program without file capabilities leaves an ordinary user
    // the ambient set (capabilities(7)).
    let text = case.see(SCRIPT, |c| user(c, 1234, asked));
    assert_eq!(text, sets(KILL, KILL, KILL, KILL | CHOWN, KILL));
    let asked =
        json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]});
    assert_eq!(case.see(SCRIPT, |c| user(c, 1234, asked)), sets(0, 0, 0, KILL, 0));
}

#[test]
fn the_bounding_set_holds_for_root_inside() {
    for case in Case::each("the_bounding_set_holds_for_root_inside") {
        let asked = json!({"bounding": ["CAP_KILL"], "permitted": [], "effective": []});
        // Root gets what the bounding set allows at exec(2), unless nothing
        // may be gained there.
        for (no_new, held) in [(false, KILL), (true, 0)] {
            let text = case.see(SCRIPT, |config| {
                user(config, 0, asked.clone());
                config["process"]["noNewPrivileges"] = json!(no_new);
            });
            assert_eq!(text, sets(0, held, held, KILL, 0));
        }
    }
}

#[test]
fn what_a_capability_is_needed_for_is_refused_without() {
    let Some(case) = Case::root("what_a_capability_is_needed_for_is_refused_without") else {
        return;
    };
    let script = "mount -t tmpfs x /tmp 2>/dev/null && echo mounted
        hostname other 2>/dev/null && echo named
        mknod /tmp/disk b 8 0 2>/dev/null && echo made
        echo end";
    assert_eq!(case.see(script, |c| c["root"]["readonly"] = json!(false)), "end");
}

#[test]
fn caller_s_inheritable_capabilities_do_not_get_in() {
    let name = "caller_s_inheritable_capabilities_do_not_get_in";
    if !is_root() {
        return crate::common::skip(name, "needs root");
    }
    let Some(case) = Case::root(name) else { return };
    let bundle = case.bundle(|c| crate::common::shell(c, SCRIPT));
    let mut run = case.command("setpriv");
    run.args(["--inh-caps", "+chown,+kill", "--ambient-caps", "+chown,+kill"]);
    run.arg(crate::common::binary(false)).arg("--root").arg(case.state());
    run.args(["run", "-b", bundle.to_str().unwrap(), &case.id("a")]);
    let three = KILL | NET_BIND | AUDIT_WRITE;
    assert_eq!(case.finish(run).expect(0, name).out(), sets(0, three, three, three, 0));
}
