//! The device list of a cgroup v2 group: an eBPF program that the kernel asks
//! at every open(2) and mknod(2) of a device (kernel document cgroup-v2,
//! "Device controller").

use std::os::fd::AsFd;

use super::CgroupError;
use super::directory::Directory;
use crate::kernel::sys::bpf::{Instruction, attach_device_program, load_device_program};
use crate::plan::cgroup::Place;
use crate::plan::cgroup::devices::is_everything;
use crate::policy::limits::{DeviceKind, DeviceRule};

// `linux/bpf.h`: the access in the high, the kind in the low half of
// `access_type` of `struct bpf_cgroup_dev_ctx`.
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// Registers of the program.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// Those bits of the access asked for that no rule has decided yet.
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Operation codes (kernel document bpf/standardization/instruction-set).
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP: u8 = 0x05;
const JUMP_IF_ANY_SET: u8 = 0x45;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn op(code: u8, to: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to, offset, immediate }
}

/// Gives the group `group` the device list `rules`.
pub(super) fn attach(group: &Directory, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let error = |act| {
        move |errno| {
            let at = Place {
                mount: group.path().to_owned(),
                version: group.version,
                path: String::new(),
            };
            CgroupError::DeviceFilter { at, act, errno }
        }
    };
    let program = load_device_program(&assemble(rules)).map_err(error("load"))?;
    attach_device_program(group.as_fd(), program.as_fd()).map_err(error("attach"))
}

/// The program for a list in which a later rule overrides an earlier one.
///
/// It goes through the rules from the last to the first. A rule that denies
/// one of the undecided accesses ends it; one that allows takes its accesses
/// out, and the answer is yes when none is left. So `r` and `w` may come from
/// different rules. What no rule speaks of is denied, as with runc and crun.
pub fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    let context_in = CONTEXT << 4;
    let mut program = vec![
        op(LOAD_WORD, KIND | context_in, 0, 0),
        op(MOVE_REGISTER, ACCESS | KIND << 4, 0, 0),
        op(AND, KIND, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 16),
        op(LOAD_WORD, MAJOR | context_in, 4, 0),
        op(LOAD_WORD, MINOR | context_in, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(rule_block(rule));
        if is_everything(rule) {
            // It answers whatever comes; the kernel takes no program of which
            // a part is never run.
            return program;
        }
    }
    program.extend(answer(0));
    program
}

fn answer(value: i32) -> [Instruction; 2] {
    [op(MOVE, RESULT, 0, value), op(EXIT, 0, 0, 0)]
}

fn rule_block(rule: &DeviceRule) -> Vec<Instruction> {
    let access = [(rule.read, READ), (rule.write, WRITE), (rule.mknod, MKNOD)]
        .into_iter()
        .fold(0, |mask, (on, bit)| if on { mask | bit } else { mask });
    // A rule for all accesses decides whatever is undecided.
    let mut decide = if access == READ | WRITE | MKNOD {
        Vec::new()
    } else if rule.allow {
        // Jumps are counted from the instruction after them.
        vec![op(AND, ACCESS, 0, !access), op(JUMP_UNLESS_EQUAL, ACCESS, 2, 0)]
    } else {
        vec![op(JUMP_IF_ANY_SET, ACCESS, 1, access), op(JUMP, 0, 2, 0)]
    };
    decide.extend(answer(i32::from(rule.allow)));

    let kind = match rule.kind {
        DeviceKind::All => None,
        DeviceKind::Block => Some(BLOCK),
        DeviceKind::Char => Some(CHAR),
    };
    // Numbers of more than 31 bits turn negative here and match no device;
    // there is none with such a number (12 bits of major, 20 of minor).
    let number = |n: Option<u32>| n.map(|n| n as i32);
    let tests: Vec<(u8, i32)> =
        [(KIND, kind), (MAJOR, number(rule.major)), (MINOR, number(rule.minor))]
            .into_iter()
            .filter_map(|(register, value)| Some((register, value?)))
            .collect();
    let mut block = Vec::new();
    for (index, (register, value)) in tests.iter().enumerate() {
        let past = tests.len() - index - 1 + decide.len();
        block.push(op(JUMP_UNLESS_EQUAL, *register, past as i16, *value));
    }
    block.extend(decide);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program on (access_type, major, minor), as the kernel would.
    fn run(program: &[Instruction], context: [u32; 3]) -> u64 {
        let mut r = [0u64; 11];
        let mut at = 0usize;
        for _ in 0..10_000 {
            let Instruction { code, registers, offset, immediate } = program[at];
            let (to, from) = ((registers & 15) as usize, (registers >> 4) as usize);
            let value = i64::from(immediate) as u64;
            at += 1;
            let jump = match code {
                LOAD_WORD => {
                    assert_eq!(from, CONTEXT as usize);
                    r[to] = u64::from(context[offset as usize / 4]);
                    false
                }
                MOVE => {
                    r[to] = value;
                    false
                }
                MOVE_REGISTER => {
                    r[to] = r[from];
                    false
                }
                AND => {
                    r[to] &= value;
                    false
                }
                SHIFT_RIGHT => {
                    r[to] >>= value;
                    false
                }
                JUMP => true,
                JUMP_IF_ANY_SET => r[to] & value != 0,
                JUMP_UNLESS_EQUAL => r[to] != value,
                EXIT => return r[0],
                other => panic!("unknown code {other:#x}"),
            };
            if jump {
                at = at.checked_add_signed(offset as isize).unwrap();
            }
        }
        panic!("the program does not end");
    }

    fn rule(allow: bool, kind: DeviceKind, major: Option<u32>, access: &str) -> DeviceRule {
        let has = |letter| access.contains(letter);
        let (read, write, mknod) = (has('r'), has('w'), has('m'));
        DeviceRule { allow, kind, major, minor: major.map(|_| 3), read, write, mknod }
    }

    fn allowed(rules: &[DeviceRule], kind: i32, major: u32, minor: u32, access: i32) -> bool {
        run(&assemble(rules), [(access << 16 | kind) as u32, major, minor]) == 1
    }

    #[test]
    fn the_last_rule_that_matches_counts() {
        use DeviceKind::{All, Block, Char};
        let null = rule(true, Char, Some(1), "rwm");
        let none = rule(false, All, None, "rwm");
        let all = rule(true, All, None, "rwm");
        let usual = [none.clone(), null.clone()];
        assert!(allowed(&usual, CHAR, 1, 3, READ | WRITE));
        assert!(!allowed(&usual, CHAR, 1, 5, READ));
        assert!(!allowed(&usual, BLOCK, 1, 3, READ));
        assert!(!allowed(&[null.clone(), none], CHAR, 1, 3, READ));

        let read_only = [all.clone(), rule(false, Char, Some(1), "w")];
        assert!(allowed(&read_only, CHAR, 1, 3, READ));
        assert!(!allowed(&read_only, CHAR, 1, 3, READ | WRITE), "one denied bit denies");
        assert!(allowed(&read_only, CHAR, 1, 4, WRITE));
        assert!(allowed(&read_only, BLOCK, 8, 0, WRITE | MKNOD));

        let in_parts = [rule(true, Char, Some(1), "r"), rule(true, Char, Some(1), "w")];
        assert!(allowed(&in_parts, CHAR, 1, 3, READ | WRITE));
        assert!(!allowed(&in_parts, CHAR, 1, 3, READ | MKNOD));

        let blocks = [rule(true, Block, None, "m")];
        assert!(allowed(&blocks, BLOCK, 7, 7, MKNOD) && !allowed(&blocks, CHAR, 7, 7, MKNOD));
        assert!(!allowed(&[], CHAR, 1, 3, READ), "an empty list allows nothing");
    }

    #[test]
    fn numbers_that_no_device_has_match_none() {
        let strange = [DeviceRule {
            major: Some(u32::MAX),
            minor: None,
            ..rule(true, DeviceKind::Char, Some(1), "rwm")
        }];
        assert!(!allowed(&strange, CHAR, u32::MAX, 0, READ));
    }
}
