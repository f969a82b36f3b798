//! System calls that are newer than a seccomp profile.
//!
//! A C library tries a new system call and falls back to an old one on ENOSYS
//! only. A profile whose default is EPERM, written before the call existed,
//! so breaks programs (as fchmodat2 did chmod). The kernel without the call
//! would have said ENOSYS, and so does this: above the highest number that
//! the profile names, per architecture, as runc does it.

use libseccomp::{ScmpAction, ScmpArch, ScmpSyscall};
use oci_spec::runtime::{Arch, LinuxSeccomp};

use super::seccomp::architecture;

/// The numbers of x32 are those of x86-64 with this bit, under the same
/// architecture; they are left to the filter itself.
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Those that denovo may run on; the value of the crate's type is the
/// kernel's `AUDIT_ARCH_*`.
const NATIVE: &[Arch] = &[
    Arch::ScmpArchX86_64,
    Arch::ScmpArchAarch64,
    Arch::ScmpArchPpc64le,
    Arch::ScmpArchS390x,
    Arch::ScmpArchRiscv64,
    Arch::ScmpArchLoongarch64,
];

/// Classic BPF to stand before the filter of the profile `asked`, which goes
/// on with whatever it does not answer; empty when there is nothing to answer.
pub(super) fn stub(asked: &LinuxSeccomp, default: ScmpAction) -> Vec<u8> {
    let mut program = Vec::new();
    let permissive = matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_));
    if permissive || default == ScmpAction::Errno(libc::ENOSYS) {
        return program;
    }
    for arch in architectures(asked) {
        if let Some(last) = last(asked, architecture(arch)) {
            block(arch as u32, last, &mut program);
        }
    }
    program
}

/// Those of the filter, the native one included, each once.
fn architectures(asked: &LinuxSeccomp) -> Vec<Arch> {
    let native = ScmpArch::native();
    let native = NATIVE.iter().copied().find(|arch| architecture(*arch) == native);
    let mut found: Vec<Arch> = Vec::new();
    for arch in native.into_iter().chain(asked.architectures().iter().flatten().copied()) {
        // Several that share a number at the kernel's are not told apart.
        let shared = matches!(
            arch,
            Arch::ScmpArchNative
                | Arch::ScmpArchX32
                | Arch::ScmpArchMips64n32
                | Arch::ScmpArchMipsel64n32
        );
        if !shared && !found.contains(&arch) {
            found.push(arch);
        }
    }
    found
}

/// The highest number that the profile names there.
fn last(asked: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let names = asked.syscalls().iter().flatten().flat_map(|entry| entry.names());
    names
        .filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok())
        // Calls that the architecture lacks have negative stand-ins.
        .filter_map(|call| u32::try_from(call.as_raw_syscall()).ok())
        .max()
}

/// Six instructions: on `arch`, a number above `last` and not of x32 answers
/// ENOSYS.
fn block(arch: u32, last: u32, program: &mut Vec<u8>) {
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_ABOVE: u16 = 0x25;
    const JUMP_FROM: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const ERRNO: u32 = 0x0005_0000;
    let mut put = |code: u16, yes: u8, no: u8, value: u32| {
        program.extend(code.to_ne_bytes());
        program.extend([yes, no]);
        program.extend(value.to_ne_bytes());
    };
    put(LOAD, 0, 0, ARCHITECTURE);
    put(JUMP_EQUAL, 0, 4, arch);
    put(LOAD, 0, 0, NUMBER);
    put(JUMP_FROM, 2, 0, X32_BIT);
    put(JUMP_ABOVE, 0, 1, last);
    put(RETURN, 0, 0, ERRNO | libc::ENOSYS.unsigned_abs());
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::testing::{checked, facts, run_bpf};
    use serde_json::{Value, json};

    const ERRNO: u32 = 0x0005_0000;
    const ALLOW: u32 = 0x7fff_0000;
    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const AARCH64: u32 = 0xc000_00b7;

    fn verdict(seccomp: Value, arch: u32, number: i64) -> u32 {
        let config = json!({"linux": {"seccomp": seccomp}});
        let filter = checked(config, &facts()).spec.seccomp.unwrap();
        run_bpf(&filter.program, arch, number, [0; 6])
    }

    #[test]
    fn what_is_newer_than_the_profile_does_not_exist() {
        // openat2 is 437 on both.
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
            "syscalls": [{"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"}]});
        for (arch, number, expected) in [
            (X86_64, 0, ALLOW),
            (X86_64, 1, ERRNO | 1),
            (X86_64, 437, ALLOW),
            (X86_64, 438, ERRNO | 38),
            (X86_64, 452, ERRNO | 38),
            (I386, 3, ALLOW),
            (I386, 4, ERRNO | 1),
            (I386, 438, ERRNO | 38),
            // What the filter does not cover is killed, however new.
            (AARCH64, 500, 0),
            (X86_64, 0x4000_0000 | 500, 0),
        ] {
            assert_eq!(verdict(profile.clone(), arch, number), expected, "{arch:#x} {number}");
        }
    }

    #[test]
    fn a_permissive_default_stays_as_it_is() {
        let rules = json!([{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]);
        for (action, expected) in [
            ("SCMP_ACT_ALLOW", ALLOW),
            ("SCMP_ACT_LOG", 0x7ffc_0000),
            ("SCMP_ACT_TRACE", 0x7ff0_0001),
            ("SCMP_ACT_KILL_PROCESS", ERRNO | 38),
            ("SCMP_ACT_TRAP", ERRNO | 38),
        ] {
            let profile = json!({"defaultAction": action, "syscalls": rules});
            assert_eq!(verdict(profile, X86_64, 500), expected, "{action}");
        }
        let none = json!({"defaultAction": "SCMP_ACT_ERRNO"});
        assert_eq!(verdict(none, X86_64, 500), ERRNO | 1);
    }
}
