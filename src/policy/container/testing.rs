//! Bundles and facts for the tests of the checks.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Checked, check};
use crate::host::{Caller, Cgroups, Facts, HierarchyV2};
use crate::request::default_config::{For, default_config};
use crate::request::oci::{Bundle, parse};
use crate::request::root::RootState;

/// A node with cgroup v2 on Linux 6.1, and root.
pub(super) fn facts() -> Facts {
    let v2 = HierarchyV2 {
        own_controllers: Vec::new(),
        writable: false,
        mount: PathBuf::from("/sys/fs/cgroup"),
        controllers: ["cpu", "memory", "pids"].map(String::from).to_vec(),
        own: "/".into(),
    };
    Facts {
        kernel: (6, 1),
        caller: Caller {
            uid: 0,
            gid: 0,
            groups: vec![0],
            capabilities: (1 << 41) - 1,
            cpus: vec![0, 1],
            nested: false,
        },
        cgroups: Cgroups { v1: Vec::new(), v2: Some(v2) },
    }
}

/// The same node, and an ordinary user.
pub(super) fn user() -> Facts {
    let mut facts = facts();
    facts.caller.uid = 1000;
    facts.caller.gid = 100;
    facts.caller.groups = vec![100];
    facts.caller.capabilities = 0;
    facts
}

/// The bundle of the configuration `text`, with a root that is there.
pub(super) fn bundle_of(text: &str) -> Bundle {
    let (config, unknown) = parse(text.as_bytes(), Path::new("config.json")).unwrap();
    let mut bundle = Bundle::new(PathBuf::from("/bundle"), config, unknown);
    bundle.root = RootState::Directory(PathBuf::from("/bundle/rootfs"));
    bundle
}

/// The default configuration, changed as a JSON merge patch (RFC 7386) says.
pub(super) fn bundle(change: Value) -> Bundle {
    let mut config: Value = serde_json::from_str(&default_config(For::default())).unwrap();
    merge(&mut config, change);
    bundle_of(&config.to_string())
}

fn merge(target: &mut Value, change: Value) {
    let Value::Object(change) = change else {
        *target = change;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    for (key, value) in change {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(&key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

pub(super) fn checked(change: Value, facts: &Facts) -> Checked {
    check(&bundle(change), "c1", facts).unwrap_or_else(|problems| panic!("{problems:?}"))
}

pub(super) fn problems(change: Value, facts: &Facts) -> Vec<String> {
    match check(&bundle(change), "c1", facts) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|p| p.message).collect(),
    }
}

/// Each change, by root, has exactly the problems that begin like these, in
/// this order but for what depends on the order of the checks.
pub(super) fn assert_problems(cases: &[(Value, &[&str])]) {
    for (change, expected) in cases {
        let found = problems(change.clone(), &facts());
        assert_eq!(found.len(), expected.len(), "{change}: {found:#?}");
        for expected in *expected {
            let named = found.iter().any(|f| f.starts_with(expected));
            assert!(named, "{change}: {expected:?} not in {found:#?}");
        }
    }
}

/// Runs a classic BPF program as the kernel does on a `struct
/// seccomp_data`: number, architecture, instruction pointer, arguments.
#[cfg(target_arch = "x86_64")]
pub(super) fn run_bpf(program: &[u8], arch: u32, number: i64, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend((number as u32).to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend([0; 8]);
    args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
    let (mut at, mut a) = (0, 0u32);
    loop {
        let i = &program[at * 8..at * 8 + 8];
        let code = u16::from_le_bytes([i[0], i[1]]);
        let k = u32::from_le_bytes([i[4], i[5], i[6], i[7]]);
        let mut jump = |yes: bool| at += usize::from(if yes { i[2] } else { i[3] });
        match code {
            0x20 => {
                let from = k as usize;
                a = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            }
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => jump(a == k),
            0x25 => jump(a > k),
            0x35 => jump(a >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
        at += 1;
    }
}
