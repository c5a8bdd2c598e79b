//! From a policy to classic BPF: pure.
//!
//! ```text
//!   load arch
//!   arch == A? ─▶ load number ─▶ binary search over ranges of numbers ─▶ return action
//!   arch == B? ─▶ …                                                   └▶ conditions, first that holds returns
//!   return KILL_PROCESS
//! ```
//!
//! Neighbouring numbers with one action are one range, so that an allowed call costs about eight instructions
//! whatever the length of the profile. Jumps of classic BPF reach 255 instructions; longer ways go over `ja`.

use super::profile::{Action, ArchPolicy, CallPolicy, Comparison, Condition, Policy};
use crate::sys::seccomp::Instruction;

const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GT: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`.
const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;
const ARGS_OFFSET: u32 = 16;

/// Compiles the policy.
pub fn assemble(policy: &Policy) -> Vec<Instruction> {
    let mut program = vec![plain(LOAD_WORD, ARCH_OFFSET)];
    for arch in &policy.arches {
        let block = arch_block(arch, policy.default);
        program.push(jump(JUMP_EQ, arch.audit_arch, 1, 0));
        program.push(plain(JUMP, block.len() as u32));
        program.extend(block);
    }
    program.push(plain(RETURN, Action::KILL_PROCESS.0));
    program
}

/// A range of numbers that share their fate, up to the start of the next one.
struct Range {
    start: u32,
    policy: CallPolicy,
}

fn arch_block(arch: &ArchPolicy, default: Action) -> Vec<Instruction> {
    let ranges = ranges(arch, default);
    let mut block = vec![plain(LOAD_WORD, NUMBER_OFFSET)];
    block.extend(search(&ranges, default));
    block
}

/// The whole line of numbers cut into ranges, neighbours with the same action merged.
fn ranges(arch: &ArchPolicy, default: Action) -> Vec<Range> {
    let mut ranges = vec![Range {
        start: 0,
        policy: CallPolicy::Always(default),
    }];
    let mut push = |start: u32, policy: CallPolicy| match ranges.last_mut() {
        Some(last) if last.start == start => last.policy = policy,
        Some(last) if last.policy == policy && matches!(policy, CallPolicy::Always(_)) => {}
        _ => ranges.push(Range { start, policy }),
    };
    let mut beyond = arch.beyond.iter().peekable();
    let mut between = default;
    for (number, policy) in &arch.calls {
        while let Some((start, action)) = beyond.next_if(|(start, _)| start <= number) {
            between = *action;
            push(*start, CallPolicy::Always(between));
        }
        push(*number, policy.clone());
        if let Some(next) = number.checked_add(1) {
            push(next, CallPolicy::Always(between));
        }
    }
    for (start, action) in beyond {
        push(*start, CallPolicy::Always(*action));
    }
    // A start that was overwritten may have left equal neighbours.
    ranges.dedup_by(|later, earlier| {
        later.policy == earlier.policy && matches!(later.policy, CallPolicy::Always(_))
    });
    ranges
}

/// Binary search; every path through it ends in a return.
fn search(ranges: &[Range], default: Action) -> Vec<Instruction> {
    let [range] = ranges else {
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let pivot = right[0].start;
        let (left, right) = (search(left, default), search(right, default));
        let mut code = match u8::try_from(left.len()) {
            Ok(distance) => vec![jump(JUMP_GE, pivot, distance, 0)],
            Err(_) => vec![jump(JUMP_GE, pivot, 0, 1), plain(JUMP, left.len() as u32)],
        };
        code.extend(left);
        code.extend(right);
        return code;
    };
    match &range.policy {
        CallPolicy::Always(action) => vec![plain(RETURN, action.0)],
        CallPolicy::FirstOf(rules) => {
            let mut code = Vec::new();
            for (conditions, action) in rules {
                code.extend(rule(conditions, *action));
            }
            code.push(plain(RETURN, default.0));
            code
        }
    }
}

/// Where a comparison goes, before distances are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// The next instruction.
    Next,
    /// The next condition: this one holds.
    Holds,
    /// The next rule: this one does not apply.
    Fails,
}

struct Draft {
    code: u16,
    operand: u32,
    on_true: To,
    on_false: To,
}

/// One rule: at most six conditions of six instructions, so that every distance fits.
fn rule(conditions: &[Condition], action: Action) -> Vec<Instruction> {
    let drafts: Vec<Vec<Draft>> = conditions.iter().map(condition).collect();
    let total = drafts.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(total);
    for condition in drafts {
        let end = code.len() + condition.len();
        for draft in condition {
            let next = code.len() + 1;
            let distance = |to: To| match to {
                To::Next => 0,
                To::Holds => (end - next) as u8,
                To::Fails => (total - next) as u8,
            };
            code.push(jump(
                draft.code,
                draft.operand,
                distance(draft.on_true),
                distance(draft.on_false),
            ));
        }
    }
    code.push(plain(RETURN, action.0));
    code
}

/// A comparison of 64 bits with the 32-bit words that BPF has: the high word decides unless it is equal.
fn condition(condition: &Condition) -> Vec<Draft> {
    use To::{Fails, Holds, Next};
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    let little = cfg!(target_endian = "little");
    let word = |high: bool| {
        let offset = ARGS_OFFSET + 8 * condition.index + if high == little { 4 } else { 0 };
        Draft {
            code: LOAD_WORD,
            operand: offset,
            on_true: Next,
            on_false: Next,
        }
    };
    let test = |code, operand, on_true, on_false| Draft {
        code,
        operand,
        on_true,
        on_false,
    };
    match condition.comparison {
        Comparison::Eq => {
            vec![
                word(true),
                test(JUMP_EQ, high, Next, Fails),
                word(false),
                test(JUMP_EQ, low, Next, Fails),
            ]
        }
        Comparison::Ne => {
            vec![
                word(true),
                test(JUMP_EQ, high, Next, Holds),
                word(false),
                test(JUMP_EQ, low, Fails, Next),
            ]
        }
        Comparison::Gt | Comparison::Ge => vec![
            word(true),
            test(JUMP_GT, high, Holds, Next),
            test(JUMP_EQ, high, Next, Fails),
            word(false),
            test(
                if condition.comparison == Comparison::Gt {
                    JUMP_GT
                } else {
                    JUMP_GE
                },
                low,
                Next,
                Fails,
            ),
        ],
        Comparison::Lt | Comparison::Le => vec![
            word(true),
            test(JUMP_GT, high, Fails, Next),
            test(JUMP_EQ, high, Next, Holds),
            word(false),
            test(
                if condition.comparison == Comparison::Lt {
                    JUMP_GE
                } else {
                    JUMP_GT
                },
                low,
                Fails,
                Next,
            ),
        ],
        Comparison::MaskedEq { mask } => vec![
            word(true),
            test(AND, (mask >> 32) as u32, Next, Next),
            test(JUMP_EQ, high, Next, Fails),
            word(false),
            test(AND, mask as u32, Next, Next),
            test(JUMP_EQ, low, Next, Fails),
        ],
    }
}

fn plain(code: u16, operand: u32) -> Instruction {
    jump(code, operand, 0, 0)
}

fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        operand,
    }
}
