//! From the OCI form to a BPF program.
//!
//! The program first looks at the architecture: a call made by a 32-bit entry (whose numbers mean other calls) ends
//! the process, and x32 numbers give ENOSYS. Then a binary search over ranges of numbers with the same answer: most
//! calls cost ten comparisons, and the kernel itself caches constant answers. Argument comparisons are seccompiler's.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, sock_filter,
};

use super::numbers;

/// Instructions as seccomp(2) takes them.
pub type Program = BpfProgram;

/// Why a profile cannot be applied here.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("the seccomp profile does not cover this machine's architecture")]
    Architecture,
    #[error("the seccomp action {0:?} is not supported: use errno, kill, trap, log or allow")]
    Action(LinuxSeccompAction),
    #[error("the seccomp flags or listener of the profile are not supported")]
    Flags,
    #[error("a condition of the seccomp rule for {call} is not valid: {reason}")]
    Condition { call: String, reason: String },
    #[error("the seccomp profile is too large: {0} instructions, the kernel takes 4096")]
    TooLarge(usize),
}

/// Compiles a profile for this machine's architecture. Names it does not have are passed over, as by other runtimes.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, CompileError> {
    let native = if cfg!(target_arch = "x86_64") {
        Arch::ScmpArchX86_64
    } else {
        Arch::ScmpArchAarch64
    };
    let named = profile.architectures().as_deref().unwrap_or_default();
    if !named.is_empty() && !named.contains(&native) && !named.contains(&Arch::ScmpArchNative) {
        return Err(CompileError::Architecture);
    }
    if profile.listener_path().is_some() || profile.flags().as_ref().is_some_and(|f| !f.is_empty()) {
        return Err(CompileError::Flags);
    }
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let leaves = leaves(profile, default)?;
    let mut program = prologue();
    program.extend(search(&ranges(leaves, default)));
    if program.len() > 4096 {
        return Err(CompileError::TooLarge(program.len()));
    }
    Ok(program)
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K

fn op(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Architecture check; ends with the call's number loaded. Offsets are those of `struct seccomp_data`.
fn prologue() -> Program {
    let arch = if cfg!(target_arch = "x86_64") {
        0xc000_003e
    } else {
        0xc000_00b7
    };
    let mut program = vec![
        op(LOAD, 0, 0, 4),
        op(EQUAL, 1, 0, arch),
        op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        op(LOAD, 0, 0, 0),
    ];
    if cfg!(target_arch = "x86_64") {
        program.push(op(AT_LEAST, 0, 1, 0x4000_0000));
        program.push(op(RETURN, 0, 0, errno(libc::ENOSYS as u32)));
    }
    program
}

fn errno(number: u32) -> u32 {
    SeccompAction::Errno(number).into()
}

/// The kernel's return value for an action.
fn action(action: LinuxSeccompAction, errno_ret: Option<u32>) -> Result<u32, CompileError> {
    use LinuxSeccompAction as A;
    Ok(match action {
        A::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        A::ScmpActErrno => errno(errno_ret.unwrap_or(libc::EPERM as u32)),
        A::ScmpActKill | A::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        A::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        A::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        A::ScmpActLog => libc::SECCOMP_RET_LOG,
        other => return Err(CompileError::Action(other)),
    })
}

/// What is answered to one call: the first condition that holds, else `otherwise`.
#[derive(Clone, Default)]
struct Answer {
    conditional: Vec<(SeccompRule, u32)>,
    otherwise: Option<u32>,
}

impl Answer {
    fn program(self, default: u32) -> Program {
        let mut program = Program::new();
        for (rule, value) in self.conditional {
            program.extend(Program::from(rule));
            program.push(op(RETURN, 0, 0, value));
        }
        program.push(op(RETURN, 0, 0, self.otherwise.unwrap_or(default)));
        program
    }
}

/// The answers by number; a rule without conditions that is as the default adds nothing.
fn leaves(profile: &LinuxSeccomp, default: u32) -> Result<BTreeMap<u32, Answer>, CompileError> {
    let mut answers: BTreeMap<u32, Answer> = BTreeMap::new();
    for call in profile.syscalls().iter().flatten() {
        let value = action(call.action(), call.errno_ret())?;
        if value == default {
            continue;
        }
        for number in call.names().iter().filter_map(|name| numbers::number(name)) {
            let answer = answers.entry(number).or_default();
            let arguments = call.args().as_deref().unwrap_or_default();
            if arguments.is_empty() {
                answer.otherwise.get_or_insert(value);
            } else if repeats(arguments) {
                for argument in arguments {
                    let one = std::slice::from_ref(argument);
                    answer.conditional.push((rule(call, one)?, value));
                }
            } else {
                answer.conditional.push((rule(call, arguments)?, value));
            }
        }
    }
    Ok(answers)
}

/// Whether one argument is compared twice: then, as in every runtime built on libseccomp, any of the comparisons will do.
fn repeats(arguments: &[LinuxSeccompArg]) -> bool {
    let once = |a: &LinuxSeccompArg| arguments.iter().filter(|b| b.index() == a.index()).count() == 1;
    !arguments.iter().all(once)
}

fn rule(call: &LinuxSyscall, arguments: &[LinuxSeccompArg]) -> Result<SeccompRule, CompileError> {
    let bad = |reason: String| CompileError::Condition {
        call: call.names().join(", "),
        reason,
    };
    let mut conditions = Vec::new();
    for a in arguments {
        let (op, value) = comparison(a);
        let index = u8::try_from(a.index()).map_err(|e| bad(e.to_string()))?;
        conditions.push(
            SeccompCondition::new(index, SeccompCmpArgLen::Qword, op, value)
                .map_err(|e| bad(e.to_string()))?,
        );
    }
    SeccompRule::new(conditions).map_err(|e| bad(e.to_string()))
}

/// For a masked comparison the OCI's `value` is the mask and `valueTwo` what must remain.
fn comparison(a: &LinuxSeccompArg) -> (SeccompCmpOp, u64) {
    use LinuxSeccompOperator as O;
    match a.op() {
        O::ScmpCmpNe => (SeccompCmpOp::Ne, a.value()),
        O::ScmpCmpLt => (SeccompCmpOp::Lt, a.value()),
        O::ScmpCmpLe => (SeccompCmpOp::Le, a.value()),
        O::ScmpCmpEq => (SeccompCmpOp::Eq, a.value()),
        O::ScmpCmpGe => (SeccompCmpOp::Ge, a.value()),
        O::ScmpCmpGt => (SeccompCmpOp::Gt, a.value()),
        O::ScmpCmpMaskedEq => (SeccompCmpOp::MaskedEq(a.value()), a.value_two().unwrap_or(0)),
    }
}

/// Ranges that cover all numbers: their first number and what is done there.
///
/// Where the default is an error, calls newer than the table give ENOSYS instead, so that a libc that tries them
/// falls back, as it does on an older kernel.
fn ranges(answers: BTreeMap<u32, Answer>, default: u32) -> Vec<(u32, Program)> {
    let mut ranges: Vec<(u32, Program)> = vec![(0, vec![op(RETURN, 0, 0, default)])];
    let mut append = |first: u32, program: Program| {
        if let Some(last) = ranges.last_mut() {
            if last.0 == first {
                last.1 = program;
                return;
            }
            if last.1 == program {
                return;
            }
        }
        ranges.push((first, program));
    };
    let mut next = 0;
    for (number, answer) in answers {
        if number > next {
            append(next, vec![op(RETURN, 0, 0, default)]);
        }
        append(number, answer.program(default));
        next = number + 1;
    }
    append(next, vec![op(RETURN, 0, 0, default)]);
    if default & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO {
        let beyond = next.max(numbers::highest() + 1);
        append(beyond, vec![op(RETURN, 0, 0, errno(libc::ENOSYS as u32))]);
    }
    ranges
}

/// A binary search tree in code: conditional jumps reach only 255 instructions, so each choice is made by two plain
/// jumps.
fn search(ranges: &[(u32, Program)]) -> Program {
    if let [(_, program)] = ranges {
        return program.clone();
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (left, right) = (search(low), search(high));
    let mut program = vec![op(AT_LEAST, 0, 1, high[0].0), op(JUMP, 0, 0, left.len() as u32)];
    program.extend(left);
    program.extend(right);
    program
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{default_profile, read_profile};
    use super::*;

    /// Runs a program as the kernel would (the instructions the compiler emits).
    fn run(program: &Program, arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend([0; 8]);
        args.iter().for_each(|a| data.extend(a.to_ne_bytes()));
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let i = &program[at];
            at += 1;
            let jump = |yes: bool| if yes { i.jt as usize } else { i.jf as usize };
            match i.code {
                LOAD => a = u32::from_ne_bytes(data[i.k as usize..][..4].try_into().unwrap()),
                RETURN => return i.k,
                JUMP => at += i.k as usize,
                EQUAL => at += jump(a == i.k),
                AT_LEAST => at += jump(a >= i.k),
                0x25 => at += jump(a > i.k),
                0x54 => a &= i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const HERE: u32 = if cfg!(target_arch = "x86_64") {
        0xc000_003e
    } else {
        0xc000_00b7
    };

    fn default_answer(name: &str, args: [u64; 6]) -> u32 {
        let program = compile(&default_profile(&BTreeSet::new()).unwrap()).unwrap();
        run(&program, HERE, numbers::number(name).unwrap(), args)
    }

    #[test]
    fn every_call_of_the_default_profile_is_answered_as_written() {
        let profile = default_profile(&BTreeSet::new()).unwrap();
        let program = compile(&profile).unwrap();
        let mut plain = BTreeMap::new();
        let mut conditional = BTreeSet::new();
        for call in profile.syscalls().iter().flatten() {
            for nr in call.names().iter().filter_map(|n| numbers::number(n)) {
                if call.args().is_some() {
                    conditional.insert(nr);
                } else {
                    plain.insert(nr, action(call.action(), call.errno_ret()).unwrap());
                }
            }
        }
        for nr in (0..600).filter(|nr| !conditional.contains(nr)) {
            let otherwise = if nr > numbers::highest() {
                libc::ENOSYS
            } else {
                libc::EPERM
            };
            let expected = plain.get(&nr).copied().unwrap_or(errno(otherwise as u32));
            assert_eq!(run(&program, HERE, nr, [0; 6]), expected, "call {nr}");
        }
    }

    #[test]
    fn conditions_hold_on_all_64_bits() {
        let allow = libc::SECCOMP_RET_ALLOW;
        let eperm = errno(libc::EPERM as u32);
        assert_eq!(default_answer("socket", [2, 1, 0, 0, 0, 0]), allow);
        assert_eq!(default_answer("socket", [40, 1, 0, 0, 0, 0]), eperm);
        assert_eq!(default_answer("personality", [0x20008, 0, 0, 0, 0, 0]), allow);
        assert_eq!(default_answer("personality", [0x0040000, 0, 0, 0, 0, 0]), eperm);
        assert_eq!(default_answer("clone", [0x0100_0011, 0, 0, 0, 0, 0]), allow);
        for flag in [0x2_0000, 0x0200_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(
                default_answer("clone", [flag | 17, 0, 0, 0, 0, 0]),
                eperm,
                "{flag:#x}"
            );
        }
        assert_eq!(default_answer("clone3", [0; 6]), errno(libc::ENOSYS as u32));
    }

    #[test]
    fn other_architectures_are_refused_knowingly() {
        let program = compile(&default_profile(&BTreeSet::new()).unwrap()).unwrap();
        assert_eq!(
            run(&program, 0x4000_0003, 1, [0; 6]),
            libc::SECCOMP_RET_KILL_PROCESS
        );
        if cfg!(target_arch = "x86_64") {
            assert_eq!(
                run(&program, HERE, 0x4000_0001, [0; 6]),
                errno(libc::ENOSYS as u32)
            );
        }
        let foreign = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}"#;
        let foreign: LinuxSeccomp = serde_json::from_str(foreign).unwrap();
        assert!(matches!(compile(&foreign), Err(CompileError::Architecture)));
    }

    #[test]
    fn a_denylist_allows_what_it_does_not_name() {
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
            {"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS",
             "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]}]}"#;
        let program = compile(&read_profile(text, &BTreeSet::new(), (5, 15)).unwrap()).unwrap();
        let at = |name: &str, args| run(&program, HERE, numbers::number(name).unwrap(), args);
        assert_eq!(at("mkdirat", [0; 6]), errno(5));
        assert_eq!(at("read", [0; 6]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(at("kill", [1, 9, 0, 0, 0, 0]), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(at("kill", [1, 15, 0, 0, 0, 0]), libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    fn comparisons_of_one_argument_are_alternatives_of_several_all_hold() {
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [
              {"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 17, "op": "SCMP_CMP_EQ"}]},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [
              {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]}]}"#;
        let program = compile(&read_profile(text, &BTreeSet::new(), (5, 15)).unwrap()).unwrap();
        let refuses = |name: &str, args| {
            run(&program, HERE, numbers::number(name).unwrap(), args) == errno(libc::EPERM as u32)
        };
        assert!(refuses("socket", [16, 0, 0, 0, 0, 0]) && refuses("socket", [17, 0, 0, 0, 0, 0]));
        assert!(!refuses("socket", [2, 0, 0, 0, 0, 0]));
        assert!(refuses("kill", [1, 9, 0, 0, 0, 0]));
        assert!(!refuses("kill", [1, 15, 0, 0, 0, 0]) && !refuses("kill", [2, 9, 0, 0, 0, 0]));
    }
}
