//! `linux.seccomp` (OCI config-linux.md, "Seccomp"), compiled by libseccomp.

use std::io::{Read, Seek, SeekFrom};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
    error::SeccompError,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp as Asked, LinuxSeccompAction as Action, LinuxSeccompArg,
    LinuxSeccompFilterFlag as Flag, LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::findings::Findings;
use super::{Filters, seccomp_listener, seccomp_newer};
use crate::policy::spec::Seccomp;
use crate::problem::Problem;

/// `SECCOMP_FILTER_FLAG_*` of seccomp(2).
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// The kernel's largest errno; what is above would be cut.
const MAX_ERRNO: u32 = 4095;
/// `BPF_MAXINSNS`: the kernel takes no longer program.
const MAX_INSTRUCTIONS: usize = 4096;
/// From here on libseccomp's binary tree beats its list, as runc found.
const MANY_RULES: usize = 32;
/// `struct sock_filter` has so many bytes.
const INSTRUCTION: usize = 8;

/// The words of the specification, each of which is probed before it is said
/// to be supported (`features`).
pub(super) const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
pub(super) const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
pub(super) const ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];
pub(super) const FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Compiles the filter; `None` when there are problems.
///
/// As runc: a system call that libseccomp does not know is left out (with a
/// warning), and so is a rule that says what the default says; comparisons of
/// one argument with several values are alternatives; and what is newer than
/// the profile does not exist ([`seccomp_newer`]).
pub(super) fn check(asked: &Asked, filters: &dyn Filters, found: &mut Findings) -> Option<Seccomp> {
    let listener = seccomp_listener::check(asked, found);
    let mut flags = flags(asked, listener.is_some(), found);
    if listener.is_some() {
        flags |= FLAG_NEW_LISTENER;
    }
    let default = action(
        asked.default_action(),
        ("linux.seccomp.defaultErrnoRet", asked.default_errno_ret()),
        found,
    );
    let rules = rules(asked, found);
    let (default, rules) = (default?, rules?);
    match compiled(asked, default, &rules, filters) {
        Ok(program) if program.len() / INSTRUCTION > MAX_INSTRUCTIONS => {
            found.refuse("linux.seccomp", "its program is longer than the kernel takes");
            None
        }
        Ok(program) => {
            let summary = summary(default, rules.len(), program.len() / INSTRUCTION);
            Some(Seccomp { program, flags, summary, listener })
        }
        Err(problem) => {
            found.push(problem);
            None
        }
    }
}

fn summary(default: ScmpAction, rules: usize, instructions: usize) -> String {
    format!("default {default:?}, {rules} rules, {instructions} instructions")
}

/// runc's default is `SPEC_ALLOW`, which spares the job a slow mitigation
/// that the kernel itself no longer ties to seccomp. `TSYNC` is about threads,
/// of which a starting process has one.
fn flags(asked: &Asked, listened: bool, found: &mut Findings) -> u32 {
    let Some(list) = asked.flags() else {
        return FLAG_SPEC_ALLOW;
    };
    let mut flags = 0;
    for (index, flag) in list.iter().enumerate() {
        match flag {
            Flag::SeccompFilterFlagLog => flags |= FLAG_LOG,
            Flag::SeccompFilterFlagSpecAllow => flags |= FLAG_SPEC_ALLOW,
            Flag::SeccompFilterFlagTsync => {}
            Flag::SeccompFilterFlagWaitKillableRecv if listened => {
                flags |= FLAG_WAIT_KILLABLE_RECV;
            }
            // seccomp(2) refuses it without a listener.
            Flag::SeccompFilterFlagWaitKillableRecv => {
                let field = format!("linux.seccomp.flags[{index}]");
                found.warn(field, format!("{flag}: no call has SCMP_ACT_NOTIFY; ignored"));
            }
        }
    }
    flags
}

/// # Arguments
/// * `errno` - the field of the error number, and its value
fn action(
    asked: Action,
    (errno_field, errno): (&str, Option<u32>),
    found: &mut Findings,
) -> Option<ScmpAction> {
    if errno.is_some_and(|errno| errno > MAX_ERRNO) {
        found.refuse(errno_field, "is above the kernel's largest error number, 4095");
        return None;
    }
    if errno.is_some_and(|e| e != 0)
        && !matches!(asked, Action::ScmpActErrno | Action::ScmpActTrace)
    {
        // OCI: the runtime must fail.
        found.refuse(errno_field, format!("the action {asked} returns no error number"));
        return None;
    }
    let errno = u16::try_from(errno.unwrap_or(libc::EPERM as u32)).unwrap_or(0);
    Some(match asked {
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActErrno => ScmpAction::Errno(i32::from(errno)),
        Action::ScmpActTrace => ScmpAction::Trace(errno),
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
        Action::ScmpActNotify => ScmpAction::Notify,
    })
}

/// One rule for libseccomp, and the field that it comes from.
struct Rule {
    field: String,
    action: ScmpAction,
    syscall: ScmpSyscall,
    comparisons: Vec<ScmpArgCompare>,
}

/// `None` when one of them has a problem.
fn rules(asked: &Asked, found: &mut Findings) -> Option<Vec<Rule>> {
    let mut rules = Vec::new();
    let mut unknown: Vec<&str> = Vec::new();
    let mut fine = true;
    for (index, entry) in asked.syscalls().iter().flatten().enumerate() {
        let field = format!("linux.seccomp.syscalls[{index}]");
        let errno_field = format!("{field}.errnoRet");
        let errno = (errno_field.as_str(), entry.errno_ret());
        let action = action(entry.action(), errno, found);
        let alternatives = alternatives(&field, entry, found);
        let (Some(action), Some(alternatives)) = (action, alternatives) else {
            fine = false;
            continue;
        };
        for name in entry.names() {
            let Ok(syscall) = ScmpSyscall::from_name(name) else {
                unknown.push(name);
                continue;
            };
            rules.extend(alternatives.iter().map(|comparisons| Rule {
                field: format!("{field}: {name}"),
                action,
                syscall,
                comparisons: comparisons.clone(),
            }));
        }
    }
    if !unknown.is_empty() {
        unknown.sort_unstable();
        unknown.dedup();
        let names = unknown.join(", ");
        found.warn("linux.seccomp.syscalls", format!("unknown here, so left out: {names}"));
    }
    fine.then_some(rules)
}

/// What must hold for the rule to apply: one of these lists, as a whole.
fn alternatives(
    field: &str,
    entry: &LinuxSyscall,
    found: &mut Findings,
) -> Option<Vec<Vec<ScmpArgCompare>>> {
    let args = entry.args().as_deref().unwrap_or_default();
    let mut fine = true;
    let mut uses = [0u32; 6];
    for (index, arg) in args.iter().enumerate() {
        match uses.get_mut(arg.index()) {
            Some(count) => *count += 1,
            None => {
                let field = format!("{field}.args[{index}].index");
                found.refuse(field, format!("{} is not within 0 to 5", arg.index()));
                fine = false;
            }
        }
    }
    if entry.names().is_empty() || entry.names().iter().any(String::is_empty) {
        found.refuse(format_args!("{field}.names"), "names no system call");
        fine = false;
    }
    if !fine {
        return None;
    }
    if uses.iter().any(|count| *count > 1) {
        return Some(args.iter().map(|arg| vec![comparison(arg)]).collect());
    }
    Some(vec![args.iter().map(comparison).collect()])
}

fn comparison(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let value = arg.value();
    let (op, datum) = match arg.op() {
        Operator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        Operator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        Operator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        Operator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        Operator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        Operator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        // The first value is the mask.
        Operator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(value), arg.value_two().unwrap_or(0))
        }
    };
    // An index was held to 0..=5 before.
    ScmpArgCompare::new(u32::try_from(arg.index()).unwrap_or(0), op, datum)
}

/// From `filters`, or compiled and kept there: libseccomp takes longer than
/// the whole rest of a start for a profile of the usual size.
fn compiled(
    asked: &Asked,
    default: ScmpAction,
    rules: &[Rule],
    filters: &dyn Filters,
) -> Result<Vec<u8>, Problem> {
    let request = if rules.len() > MANY_RULES { request(asked) } else { None };
    let Some(request) = request else { return compile(asked, default, rules) };
    let whole = |p: &Vec<u8>| !p.is_empty() && p.len().is_multiple_of(INSTRUCTION);
    if let Some(program) = filters.load(&request).filter(whole) {
        return Ok(program);
    }
    let program = compile(asked, default, rules)?;
    filters.keep(&request, &program);
    Ok(program)
}

/// All that a compiled filter depends on, as one text: the profile, and who
/// compiles it for what.
fn request(asked: &Asked) -> Option<Vec<u8>> {
    let library = libseccomp::ScmpVersion::current().ok()?;
    let kernel = nix::sys::utsname::uname().ok()?;
    let mut text = format!(
        "denovo {} libseccomp {}.{}.{} linux {} {:?}\n",
        env!("CARGO_PKG_VERSION"),
        library.major,
        library.minor,
        library.micro,
        // What it refuses is not compiled in (SCMP_ACT_LOG before 4.14).
        kernel.release().to_string_lossy(),
        ScmpArch::native(),
    )
    .into_bytes();
    serde_json::to_writer(&mut text, asked).ok()?;
    Some(text)
}

fn compile(asked: &Asked, default: ScmpAction, rules: &[Rule]) -> Result<Vec<u8>, Problem> {
    let failed = |field: &str, error: &SeccompError| {
        Problem::user(format!("{field}: libseccomp refuses it: {error}"))
    };
    let mut filter =
        ScmpFilterContext::new(default).map_err(|e| failed("linux.seccomp.defaultAction", &e))?;
    for (index, arch) in asked.architectures().iter().flatten().enumerate() {
        let field = format!("linux.seccomp.architectures[{index}]");
        filter.add_arch(architecture(*arch)).map_err(|e| failed(&field, &e))?;
    }
    if rules.len() > MANY_RULES {
        // Only speed depends on it.
        let _ = filter.set_ctl_optimize(2);
    }
    for rule in rules.iter().filter(|rule| rule.action != default) {
        filter
            .add_rule_conditional(rule.action, rule.syscall, &rule.comparisons)
            .map_err(|e| failed(&rule.field, &e))?;
    }
    let mut program = seccomp_newer::stub(asked, default);
    let exported = export(&filter)
        .map_err(|e| Problem::ours(format!("linux.seccomp: the filter was not written: {e}")))?;
    program.extend(exported);
    Ok(program)
}

/// libseccomp before 2.6 writes only to a descriptor.
fn export(filter: &ScmpFilterContext) -> std::io::Result<Vec<u8>> {
    let memory = memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC)?;
    let mut memory = std::fs::File::from(memory);
    filter.export_bpf(&memory).map_err(std::io::Error::other)?;
    memory.seek(SeekFrom::Start(0))?;
    let mut program = Vec::new();
    memory.read_to_end(&mut program)?;
    Ok(program)
}

pub(super) fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
