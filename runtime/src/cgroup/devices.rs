//! Which device nodes may be used: files in version 1, a BPF program in version 2.
//!
//! The rules apply in order, the last that matches decides; before the first everything is denied, and after the
//! last come the devices that every container has.

use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::write;
use crate::error::{Context, Error, Result};
use crate::spec::DeviceRule;
use crate::sys::bpf::{Instruction, attach_device_program};

/// What every container may use: kind, major, minor, access (config-linux.md, "Default Devices").
const ALWAYS: [(char, Option<i64>, Option<i64>, &str); 11] = [
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), Some(0), "rwm"),
    ('c', Some(5), Some(1), "rwm"),
    ('c', Some(5), Some(2), "rwm"),
    ('c', Some(136), None, "rwm"),
];

/// A rule in a form that both versions share.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: char,
    major: Option<i64>,
    minor: Option<i64>,
    access: String,
}

impl Rule {
    fn matches_everything(&self) -> bool {
        let all = |letter| self.access.contains(letter);
        self.kind == 'a'
            && self.major.is_none()
            && self.minor.is_none()
            && ['r', 'w', 'm'].into_iter().all(all)
    }
}

/// The rules in order, or none at all: an engine that gives no rules wants no limits.
fn rules(given: &[DeviceRule]) -> Result<Vec<Rule>> {
    let parse = |rule: &DeviceRule| {
        let kind = rule
            .kind
            .as_deref()
            .filter(|kind| !kind.is_empty())
            .unwrap_or("a");
        let access = rule
            .access
            .clone()
            .filter(|access| !access.is_empty())
            .unwrap_or_else(|| "rwm".into());
        if !matches!(kind, "a" | "b" | "c") || !access.chars().all(|letter| "rwm".contains(letter)) {
            return Err(Error::invalid(format!(
                "linux.resources.devices: {kind:?} {access:?} is not a rule"
            )));
        }
        let number = |number: Option<i64>| number.filter(|number| *number >= 0);
        let kind = kind.chars().next().unwrap_or('a');
        Ok(Rule {
            allow: rule.allow,
            kind,
            major: number(rule.major),
            minor: number(rule.minor),
            access,
        })
    };
    let mut rules: Vec<Rule> = given.iter().map(parse).collect::<Result<_>>()?;
    if !rules.is_empty() {
        let always = |(kind, major, minor, access): (char, Option<i64>, Option<i64>, &str)| Rule {
            allow: true,
            kind,
            major,
            minor,
            access: access.to_owned(),
        };
        rules.extend(ALWAYS.into_iter().map(always));
    }
    Ok(rules)
}

/// Writes the rules to the files of version 1.
pub(super) fn limit_version_1(directory: &Path, given: &[DeviceRule]) -> Result<()> {
    for rule in rules(given)? {
        let file = directory.join(if rule.allow {
            "devices.allow"
        } else {
            "devices.deny"
        });
        let number = |number: Option<i64>| number.map_or("*".to_owned(), |number| number.to_string());
        let text = match rule.kind {
            // The kernel reads "a" as everything, whatever follows.
            'a' if rule.major.is_none() && rule.minor.is_none() && rule.access.len() == 3 => {
                vec!["a".to_owned()]
            }
            'a' => ['b', 'c']
                .map(|kind| {
                    format!(
                        "{kind} {}:{} {}",
                        number(rule.major),
                        number(rule.minor),
                        rule.access
                    )
                })
                .into(),
            kind => vec![format!(
                "{kind} {}:{} {}",
                number(rule.major),
                number(rule.minor),
                rule.access
            )],
        };
        text.iter().try_for_each(|line| write(&file, line))?;
    }
    Ok(())
}

/// Loads the rules as a program of version 2.
pub(super) fn limit_unified(directory: &Path, given: &[DeviceRule]) -> Result<()> {
    let rules = rules(given)?;
    if rules.is_empty() {
        return Ok(());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory_fd =
        open(directory, flags, Mode::empty()).context(|| format!("open {}", directory.display()))?;
    attach_device_program(directory_fd.as_fd(), &compile(&rules))
        .context(|| format!("limit the devices of {}", directory.display()))
}

const BPF_DEVCG_DEV_BLOCK: i32 = 1;
const BPF_DEVCG_DEV_CHAR: i32 = 2;

/// The program: r2 the kind, r3 the access, r4 major, r5 minor; the last rule is asked first.
///
/// `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, `access_type` is access << 16 | kind.
fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        load_word(2, 0),
        alu64(0x54, 2, 0xffff),
        load_word(3, 0),
        alu64(0x74, 3, 16),
        load_word(4, 4),
        load_word(5, 8),
    ];
    for rule in rules.iter().rev() {
        program.extend(compile_rule(rule));
        if rule.matches_everything() {
            // The kernel refuses programs with parts that nothing leads to.
            return program;
        }
    }
    program.extend([alu64(0xb7, 0, 0), EXIT]);
    program
}

const EXIT: Instruction = Instruction {
    code: 0x95,
    registers: 0,
    offset: 0,
    immediate: 0,
};

fn compile_rule(rule: &Rule) -> Vec<Instruction> {
    // Each test is a jump over the rest of the rule; its distance is filled in at the end.
    let mut code = Vec::new();
    let kind = match rule.kind {
        'b' => Some(BPF_DEVCG_DEV_BLOCK),
        'c' => Some(BPF_DEVCG_DEV_CHAR),
        _ => None,
    };
    code.extend(kind.map(|kind| jump_unless_equal(2, kind)));
    let access = rule.access.chars().fold(0, |bits, letter| {
        bits | match letter {
            'm' => 1,
            'r' => 2,
            _ => 4,
        }
    });
    if access != 7 {
        // r1 = access & what the rule is about. To allow, all that is wanted must be in the rule; to deny, any.
        code.push(Instruction {
            code: 0xbc,
            registers: 1 | (3 << 4),
            offset: 0,
            immediate: 0,
        });
        code.push(alu64(0x54, 1, access));
        code.push(match rule.allow {
            true => Instruction {
                code: 0x5d,
                registers: 1 | (3 << 4),
                offset: 0,
                immediate: 0,
            },
            false => Instruction {
                code: 0x15,
                registers: 1,
                offset: 0,
                immediate: 0,
            },
        });
    }
    code.extend(rule.major.map(|major| jump_unless_equal(4, major as i32)));
    code.extend(rule.minor.map(|minor| jump_unless_equal(5, minor as i32)));
    code.extend([alu64(0xb7, 0, i32::from(rule.allow)), EXIT]);
    let length = code.len();
    for (position, instruction) in code.iter_mut().enumerate() {
        if matches!(instruction.code, 0x55 | 0x5d | 0x15) {
            instruction.offset = (length - position - 1) as i16;
        }
    }
    code
}

/// `rD = *(u32 *)(r1 + offset)`
fn load_word(register: u8, offset: i16) -> Instruction {
    Instruction {
        code: 0x61,
        registers: register | (1 << 4),
        offset,
        immediate: 0,
    }
}

fn alu64(code: u8, register: u8, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset: 0,
        immediate,
    }
}

fn jump_unless_equal(register: u8, immediate: i32) -> Instruction {
    Instruction {
        code: 0x55,
        registers: register,
        offset: 0,
        immediate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the few instructions that the compiler writes.
    fn interpret(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let context = [(access << 16) | kind, major, minor];
        let mut registers = [0_i64; 11];
        let mut next = 0_usize;
        loop {
            let i = program[next];
            let (to, from) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            next += 1;
            let jumps = match i.code {
                0x61 => {
                    registers[to] = i64::from(context[(i.offset / 4) as usize]);
                    false
                }
                0x54 => {
                    registers[to] &= i64::from(i.immediate);
                    false
                }
                0x74 => {
                    registers[to] >>= i.immediate;
                    false
                }
                0xb7 => {
                    registers[to] = i64::from(i.immediate);
                    false
                }
                0xbc => {
                    registers[to] = registers[from];
                    false
                }
                0x55 => registers[to] != i64::from(i.immediate),
                0x15 => registers[to] == i64::from(i.immediate),
                0x5d => registers[to] != registers[from],
                0x95 => return registers[0] != 0,
                other => panic!("unknown instruction {other:#x}"),
            };
            if jumps {
                next += i.offset as usize;
            }
        }
    }

    fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
        DeviceRule {
            allow,
            kind: Some(kind.into()),
            major,
            minor,
            access: Some(access.into()),
        }
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let given = [
            rule(false, "a", None, None, "rwm"),
            rule(true, "c", Some(10), Some(200), "rw"),
            rule(true, "b", Some(8), None, "rwm"),
            rule(false, "b", Some(8), Some(1), "w"),
        ];
        let program = compile(&rules(&given).unwrap());
        let allowed = |kind, access, major, minor| interpret(&program, kind, access, major, minor);
        let (char, block, mknod, read, write) = (2, 1, 1, 2, 4);
        assert!(allowed(char, read | write, 1, 3), "/dev/null");
        assert!(allowed(char, read | write, 10, 200), "tun");
        assert!(!allowed(char, read, 10, 201));
        assert!(allowed(char, mknod, 10, 201), "making a node is always allowed");
        assert!(allowed(block, read | write, 8, 0));
        assert!(allowed(block, read, 8, 1));
        assert!(
            !allowed(block, read | write, 8, 1),
            "one denied right denies the request"
        );
        assert!(!allowed(block, read, 9, 0));
    }

    #[test]
    fn nothing_stands_behind_a_rule_that_matches_everything() {
        let given = [
            rule(true, "c", Some(99), None, "rwm"),
            rule(false, "a", None, None, "rwm"),
        ];
        let program = compile(&rules(&given).unwrap());
        assert!(!interpret(&program, 2, 2, 99, 1), "the later rule decides");
        assert_eq!(
            program.iter().filter(|i| i.immediate == 999).count(),
            0,
            "the earlier rule is left out"
        );
    }

    #[test]
    fn no_rules_mean_no_limits_and_wrong_ones_are_refused() {
        assert!(rules(&[]).unwrap().is_empty());
        assert!(rules(&[rule(true, "x", None, None, "r")]).is_err());
        assert!(rules(&[rule(true, "c", None, None, "q")]).is_err());
    }
}
