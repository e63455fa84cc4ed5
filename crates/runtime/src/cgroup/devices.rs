//! Device access: v1's allow and deny lists, v2's program.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{CgroupError, sys};

/// Which kind of device a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    All,
    Block,
    Character,
}

/// Some of making, reading, writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub mknod: bool,
    pub read: bool,
    pub write: bool,
}

impl Access {
    fn parse(text: &str) -> Self {
        Self {
            mknod: text.contains('m'),
            read: text.contains('r'),
            write: text.contains('w'),
        }
    }

    /// BPF_DEVCG_ACC_*.
    fn bits(self) -> i32 {
        i32::from(self.mknod) | i32::from(self.read) << 1 | i32::from(self.write) << 2
    }

    fn text(self) -> String {
        let letters = [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')];
        letters.iter().filter(|l| l.0).map(|l| l.1).collect()
    }
}

/// One rule; a later one overrides an earlier one. `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    pub allow: bool,
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

impl From<&LinuxDeviceCgroup> for DeviceRule {
    fn from(rule: &LinuxDeviceCgroup) -> Self {
        let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
        Self {
            allow: rule.allow(),
            kind: match rule.typ() {
                Some(LinuxDeviceType::B) => DeviceKind::Block,
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Character,
                _ => DeviceKind::All,
            },
            major: number(rule.major()),
            minor: number(rule.minor()),
            access: Access::parse(rule.access().as_deref().unwrap_or("rwm")),
        }
    }
}

/// Writes rules to devices.allow and devices.deny, one a write as the kernel wants them.
pub(super) fn write_v1(dir: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    for rule in rules {
        let file = dir.join(if rule.allow {
            "devices.allow"
        } else {
            "devices.deny"
        });
        fs::write(&file, v1_text(rule)).map_err(CgroupError::io("setting device access in", &file))?;
    }
    Ok(())
}

fn v1_text(rule: &DeviceRule) -> String {
    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    let kind = match rule.kind {
        DeviceKind::All => return "a".to_owned(),
        DeviceKind::Block => 'b',
        DeviceKind::Character => 'c',
    };
    let (major, minor) = (number(rule.major), number(rule.minor));
    format!("{kind} {major}:{minor} {}", rule.access.text())
}

/// Attaches the program. A group that has one keeps it: a container's rules never change, and programs add up.
pub(super) fn attach_v2(dir: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let group = fs::File::open(dir).map_err(CgroupError::io("opening control group", dir))?;
    let refused = |source| CgroupError::DeviceProgram {
        path: dir.to_path_buf(),
        source,
    };
    if sys::device_programs(&group).map_err(refused)? > 0 {
        return Ok(());
    }
    sys::attach_device_program(&group, &program(rules)).map_err(refused)
}

/// One instruction (Documentation/bpf/standardization/instruction-set.rst): code, registers, offset, immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

/// The program for BPF_CGROUP_DEVICE: 1 in r0 allows. Its context is access << 16 | kind, major, minor.
///
/// The last rule that says something about the request decides, so they are asked from the end; nothing: refused.
pub(super) fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(AND, 3, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 2, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(rule_block(rule));
        if rule.kind == DeviceKind::All && rule.major.is_none() && rule.access.bits() == 7 {
            // It always decides; what follows would be dead code, which the verifier refuses.
            return program;
        }
    }
    program.extend([op(MOVE, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    program
}

/// Leaves the block where the rule does not match.
fn rule_block(rule: &DeviceRule) -> Vec<Instruction> {
    let mut block = Vec::new();
    match rule.kind {
        DeviceKind::All => {}
        DeviceKind::Block => block.push(op(JUMP_NOT_EQUAL, 3, 0, 0, 1)),
        DeviceKind::Character => block.push(op(JUMP_NOT_EQUAL, 3, 0, 0, 2)),
    }
    let bits = rule.access.bits();
    if bits != 7 {
        block.push(op(MOVE_REGISTER, 6, 2, 0, 0));
        if rule.allow {
            // All that is asked for must be in what is allowed.
            block.push(op(AND, 6, 0, 0, !bits & 7));
            block.push(op(JUMP_NOT_EQUAL, 6, 0, 0, 0));
        } else {
            block.push(op(AND, 6, 0, 0, bits));
            block.push(op(JUMP_EQUAL, 6, 0, 0, 0));
        }
    }
    let number = |register, n: u32| op(JUMP_NOT_EQUAL, register, 0, 0, n.cast_signed());
    block.extend(rule.major.map(|n| number(4, n)));
    block.extend(rule.minor.map(|n| number(5, n)));
    block.extend([op(MOVE, 0, 0, 0, i32::from(rule.allow)), op(EXIT, 0, 0, 0, 0)]);
    let end = block.len();
    for (at, instruction) in block.iter_mut().enumerate() {
        if matches!(instruction.code, JUMP_EQUAL | JUMP_NOT_EQUAL) {
            instruction.offset = (end - at - 1) as i16;
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: DeviceKind, numbers: (Option<u32>, Option<u32>), access: &str) -> DeviceRule {
        DeviceRule {
            allow,
            kind,
            major: numbers.0,
            minor: numbers.1,
            access: Access::parse(access),
        }
    }

    fn docker_like() -> Vec<DeviceRule> {
        vec![
            rule(false, DeviceKind::All, (None, None), "rwm"),
            rule(true, DeviceKind::Character, (None, None), "m"),
            rule(true, DeviceKind::Character, (Some(1), Some(3)), "rwm"),
            rule(true, DeviceKind::Block, (Some(8), None), "r"),
        ]
    }

    /// Runs a program on a request.
    fn allows(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut r = [0u64; 10];
        let mut at = 0;
        loop {
            let i = program[at];
            at += 1;
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let immediate = i64::from(i.immediate).cast_unsigned();
            match i.code {
                LOAD_WORD => r[to] = u64::from(context[i.offset as usize / 4]),
                AND => r[to] &= immediate,
                SHIFT_RIGHT => r[to] >>= immediate,
                MOVE => r[to] = immediate,
                MOVE_REGISTER => r[to] = r[from],
                JUMP_EQUAL if r[to] == immediate => at += i.offset as usize,
                JUMP_NOT_EQUAL if r[to] != immediate => at += i.offset as usize,
                JUMP_EQUAL | JUMP_NOT_EQUAL => {}
                EXIT => return r[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_decides_as_the_rules_say() {
        let program = program(&docker_like());
        let (block, character) = (1, 2);
        let (mknod, read, write) = (1, 2, 4);
        assert!(allows(&program, character, read | write, 1, 3));
        assert!(!allows(&program, character, read, 1, 5));
        assert!(allows(&program, character, mknod, 9, 9));
        assert!(!allows(&program, block, mknod, 8, 0));
        assert!(allows(&program, block, read, 8, 77));
        assert!(!allows(&program, block, read | write, 8, 77));
    }

    #[test]
    fn the_instructions_are_these_bytes() {
        let bytes: Vec<[u8; 8]> = program(&docker_like()[..1])
            .iter()
            .map(|i| {
                let (o, n) = (i.offset.to_le_bytes(), i.immediate.to_le_bytes());
                [i.code, i.registers, o[0], o[1], n[0], n[1], n[2], n[3]]
            })
            .collect();
        assert_eq!(
            bytes,
            [
                [0x61, 0x12, 0, 0, 0, 0, 0, 0],
                [0xbf, 0x23, 0, 0, 0, 0, 0, 0],
                [0x57, 0x03, 0, 0, 0xff, 0xff, 0, 0],
                [0x77, 0x02, 0, 0, 16, 0, 0, 0],
                [0x61, 0x14, 4, 0, 0, 0, 0, 0],
                [0x61, 0x15, 8, 0, 0, 0, 0, 0],
                [0xb7, 0x00, 0, 0, 0, 0, 0, 0],
                [0x95, 0x00, 0, 0, 0, 0, 0, 0],
            ]
        );
    }

    #[test]
    fn v1_is_told_in_its_own_words() {
        let text: Vec<_> = docker_like().iter().map(v1_text).collect();
        assert_eq!(text, ["a", "c *:* m", "c 1:3 rwm", "b 8:* r"]);
    }

    /// Removes the group, whatever became of the test.
    struct Group(std::path::PathBuf);

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    #[test]
    fn the_attached_program_is_what_decides() {
        let root = super::super::Hierarchies::detect().unwrap().unified.unwrap();
        let group = Group(root.join(format!("wharf-test-devices-{}", std::process::id())));
        fs::create_dir(&group.0).unwrap();
        attach_v2(&group.0, &docker_like()).unwrap();
        attach_v2(&group.0, &docker_like()).unwrap();
        assert_eq!(
            sys::device_programs(&fs::File::open(&group.0).unwrap()).unwrap(),
            1
        );
        let reads = |device: &str| {
            let script = format!("echo $$ > {}/cgroup.procs && : < {device}", group.0.display());
            let mut shell = std::process::Command::new("/bin/sh");
            shell.args(["-c", &script]).stderr(std::process::Stdio::null());
            shell.status().unwrap().success()
        };
        assert!(reads("/dev/null"));
        assert!(!reads("/dev/zero"));
    }
}
