use super::super::testing::{assert_problems, checked, facts, run_bpf};
use super::*;
use serde_json::{Value, json};

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_THREAD: u32 = 0;
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

fn with(seccomp: Value) -> Value {
    json!({"linux": {"seccomp": seccomp}})
}

fn filter(seccomp: Value) -> Seccomp {
    checked(with(seccomp), &facts()).spec.seccomp.unwrap()
}

fn native(filter: &Seccomp, number: i64, args: [u64; 6]) -> u32 {
    run_bpf(&filter.program, X86_64, number, args)
}

#[test]
fn actions_reach_their_system_calls() {
    let filter = filter(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}
        ]
    }));
    for (number, verdict) in [
        (libc::SYS_read, ALLOW),
        (libc::SYS_write, ALLOW),
        (libc::SYS_mount, ERRNO | 38),
        (libc::SYS_reboot, 0x8000_0000),
        (libc::SYS_swapon, ERRNO | 1),
        (libc::SYS_open, ERRNO | 1),
    ] {
        assert_eq!(native(&filter, number, [0; 6]), verdict, "{number}");
    }
    assert_eq!(run_bpf(&filter.program, I386, 3, [0; 6]), KILL_THREAD);
    assert_eq!(filter.flags, FLAG_SPEC_ALLOW);
    assert_eq!(filter.program.len() % INSTRUCTION, 0);
}

#[test]
fn arguments_are_compared() {
    let high = 1u64 << 40;
    for (op, value, two, yes, no) in [
        ("NE", 5, 0, high, 5),
        ("LT", high, 0, high - 1, high),
        ("LE", high, 0, high, high + 1),
        ("EQ", high, 0, high, 0),
        ("GE", high, 0, high, high - 1),
        ("GT", high, 0, high + 1, high),
        ("MASKED_EQ", 0x7e02_0000, 0, 0x11, 0x0002_0000),
        ("MASKED_EQ", 0xff, 0x10, 0x1110, 0x1111),
    ] {
        let arg = json!({"index": 1, "value": value, "valueTwo": two,
            "op": format!("SCMP_CMP_{op}")});
        let rule = json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [arg]});
        let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}));
        let verdict = |arg| native(&filter, libc::SYS_clone, [0, arg, 0, 0, 0, 0]);
        assert_eq!((verdict(yes), verdict(no)), (ALLOW, ERRNO | 1), "{op} {value:#x}");
    }
}

#[test]
fn several_values_of_one_argument_are_alternatives_and_others_go_together() {
    let arg = |index: u32, value: u32| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let rule = |name: &str, args: [Value; 2]| json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args});
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        rule("personality", [arg(0, 0), arg(0, 8)]),
        rule("socket", [arg(0, 1), arg(1, 2)])
    ]}));
    let at = |number, a, b| native(&filter, number, [a, b, 0, 0, 0, 0]);
    let personality = [0, 8, 1].map(|a| at(libc::SYS_personality, a, 0));
    assert_eq!(personality, [ALLOW, ALLOW, ERRNO | 1]);
    let socket = [(1, 2), (1, 0), (0, 2)].map(|(a, b)| at(libc::SYS_socket, a, b));
    assert_eq!(socket, [ALLOW, ERRNO | 1, ERRNO | 1]);
}

#[test]
fn other_architectures_when_listed() {
    let filter = filter(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]
    }));
    // mount is 21 there.
    assert_eq!(run_bpf(&filter.program, I386, 21, [0; 6]), ERRNO | 1);
    assert_eq!(run_bpf(&filter.program, I386, 3, [0; 6]), ALLOW);
    assert_eq!(filter.flags, FLAG_LOG);
}

#[test]
fn many_rules_compile_into_one_program() {
    let names: Vec<String> = (0..300)
        .filter_map(|n| ScmpSyscall::from_raw_syscall(n).get_name().ok())
        .filter(|name| name != "mount")
        .collect();
    assert!(names.len() > 200);
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "flags": [],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]}));
    assert_eq!(native(&filter, libc::SYS_read, [0; 6]), ALLOW);
    assert_eq!(native(&filter, libc::SYS_mount, [0; 6]), ERRNO | 1);
    assert_eq!(filter.flags, 0);
}

#[test]
fn unknown_system_calls_are_left_out_with_a_warning() {
    let long = "x".repeat(100);
    let checked = checked(
        with(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["no_such_call", &long], "action": "SCMP_ACT_ERRNO"}]})),
        &facts(),
    );
    assert!(checked.spec.seccomp.is_some());
    assert!(checked.warnings[0].contains("no_such_call"), "{:?}", checked.warnings);
}

#[test]
fn what_does_not_fit_is_named() {
    let rule = |rule: Value| with(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
    let arg = json!([{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]);
    assert_problems(&[
        (
            with(json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1})),
            &["linux.seccomp.defaultErrnoRet: the action SCMP_ACT_ALLOW returns no"],
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096})),
            &["linux.seccomp.syscalls[0].errnoRet: "],
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": arg})),
            &["linux.seccomp.syscalls[0].args[0].index: "],
        ),
        (
            rule(json!({"names": [""], "action": "SCMP_ACT_ERRNO"})),
            &["linux.seccomp.syscalls[0].names: "],
        ),
        (
            with(json!({"defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_S390X"]})),
            &["linux.seccomp.architectures[0]: libseccomp refuses it"],
        ),
    ]);
}
