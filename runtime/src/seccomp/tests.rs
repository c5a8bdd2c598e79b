//! The compiled program is run by an interpreter and compared with the meaning of the profile.

use proptest::prelude::*;

use super::*;
use crate::spec::{SyscallArg, SyscallRule};
use profile::{CallPolicy, Comparison};

/// What the kernel hands to the program (`struct seccomp_data`).
#[derive(Clone, Copy, Debug)]
struct Call {
    number: u32,
    arch: u32,
    args: [u64; 6],
}

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;

impl Call {
    fn new(number: u32, args: &[u64]) -> Self {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        Self {
            number,
            arch: X86_64,
            args: all,
        }
    }

    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 => {
                let arg = self.args[((offset - 16) / 8) as usize].to_ne_bytes();
                let at = ((offset - 16) % 8) as usize;
                u32::from_ne_bytes([arg[at], arg[at + 1], arg[at + 2], arg[at + 3]])
            }
            other => panic!("load from {other}"),
        }
    }
}

/// Runs the program as the kernel would.
fn interpret(program: &[Instruction], call: &Call) -> u32 {
    let mut accumulator = 0_u32;
    let mut next = 0_usize;
    loop {
        let i = program[next];
        next += 1;
        let mut branch = |holds: bool| next += usize::from(if holds { i.jump_true } else { i.jump_false });
        match i.code {
            0x20 => accumulator = call.word(i.operand),
            0x54 => accumulator &= i.operand,
            0x05 => next += i.operand as usize,
            0x15 => branch(accumulator == i.operand),
            0x25 => branch(accumulator > i.operand),
            0x35 => branch(accumulator >= i.operand),
            0x06 => return i.operand,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn rule(names: &[&str], action: &str, args: &[(u32, &str, u64, u64)]) -> SyscallRule {
    let arg = |&(index, op, value, value_two): &(u32, &str, u64, u64)| SyscallArg {
        index,
        value,
        value_two,
        op: op.into(),
    };
    SyscallRule {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        action: action.into(),
        errno_ret: None,
        args: args.iter().map(arg).collect(),
    }
}

fn profile(default: &str, syscalls: Vec<SyscallRule>) -> Seccomp {
    Seccomp {
        default_action: default.into(),
        architectures: vec![
            "SCMP_ARCH_X86_64".into(),
            "SCMP_ARCH_X86".into(),
            "SCMP_ARCH_X32".into(),
        ],
        syscalls,
        ..Seccomp::default()
    }
}

fn compiled(profile: &Seccomp) -> Vec<Instruction> {
    compile(profile, &mut Vec::new()).unwrap().unwrap().program
}

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL_PROCESS: u32 = 0x8000_0000;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;

    #[test]
    fn named_calls_are_allowed_on_each_instruction_set() {
        let program = compiled(&profile(
            "SCMP_ACT_ERRNO",
            vec![rule(&["read", "execve", "mseal"], "SCMP_ACT_ALLOW", &[])],
        ));
        let on = |arch, number| {
            interpret(
                &program,
                &Call {
                    arch,
                    ..Call::new(number, &[])
                },
            )
        };
        assert_eq!(on(X86_64, 0), ALLOW, "read");
        assert_eq!(on(X86_64, 1), EPERM, "write");
        assert_eq!(on(X86_64, 59), ALLOW, "execve");
        assert_eq!(on(X86, 3), ALLOW, "read of i386");
        assert_eq!(on(X86, 0), EPERM, "restart_syscall of i386");
        assert_eq!(on(X86, 11), ALLOW, "execve of i386");
        assert_eq!(on(X86_64, 0x4000_0000), ALLOW, "read of x32");
        assert_eq!(on(X86_64, 0x4000_0000 + 520), ALLOW, "execve of x32");
        assert_eq!(
            on(X86_64, 0x4000_0000 + 59),
            EPERM,
            "x32 has another number for execve"
        );
        assert_eq!(on(0xc000_00b7, 63), KILL_PROCESS, "aarch64 was not named");
    }

    #[test]
    fn x32_dies_unless_named() {
        let mut profile = profile("SCMP_ACT_ERRNO", vec![rule(&["read"], "SCMP_ACT_ALLOW", &[])]);
        profile.architectures = vec![];
        let program = compiled(&profile);
        assert_eq!(interpret(&program, &Call::new(0x4000_0000, &[])), KILL_PROCESS);
        assert_eq!(
            interpret(&program, &Call::new(0, &[])),
            ALLOW,
            "the machine's own set needs no naming"
        );
        assert_eq!(
            interpret(
                &program,
                &Call {
                    arch: X86,
                    ..Call::new(3, &[])
                }
            ),
            KILL_PROCESS
        );
    }

    #[test]
    fn newer_calls_do_not_exist() {
        let program = compiled(&profile(
            "SCMP_ACT_ERRNO",
            vec![rule(&["read", "openat"], "SCMP_ACT_ALLOW", &[])],
        ));
        assert_eq!(
            interpret(&program, &Call::new(256, &[])),
            EPERM,
            "below the newest named call"
        );
        assert_eq!(
            interpret(&program, &Call::new(435, &[])),
            ENOSYS,
            "clone3, above it"
        );
        let program = compiled(&profile(
            "SCMP_ACT_LOG",
            vec![rule(&["read"], "SCMP_ACT_ERRNO", &[])],
        ));
        assert_eq!(
            interpret(&program, &Call::new(435, &[])),
            0x7ffc_0000,
            "a default that allows stays"
        );
    }

    #[test]
    fn without_conditions_wins_and_repeated_arguments_are_alternatives() {
        let rules = vec![
            rule(&["read"], "SCMP_ACT_TRAP", &[(0, "SCMP_CMP_EQ", 7, 0)]),
            rule(&["read"], "SCMP_ACT_ALLOW", &[]),
            rule(
                &["socket"],
                "SCMP_ACT_ALLOW",
                &[(0, "SCMP_CMP_EQ", 1, 0), (0, "SCMP_CMP_EQ", 2, 0)],
            ),
            rule(
                &["openat"],
                "SCMP_ACT_ALLOW",
                &[(0, "SCMP_CMP_EQ", 1, 0), (1, "SCMP_CMP_EQ", 2, 0)],
            ),
            rule(&["mseal"], "SCMP_ACT_ALLOW", &[]),
        ];
        let program = compiled(&profile("SCMP_ACT_ERRNO", rules));
        let run = |number, args: &[u64]| interpret(&program, &Call::new(number, args));
        assert_eq!(run(0, &[7]), ALLOW);
        assert_eq!(
            (run(41, &[1]), run(41, &[2]), run(41, &[3])),
            (ALLOW, ALLOW, EPERM)
        );
        assert_eq!(
            (run(257, &[1, 2]), run(257, &[1, 3]), run(257, &[2, 2])),
            (ALLOW, EPERM, EPERM)
        );
    }

    #[test]
    fn a_large_profile_needs_long_jumps_and_still_fits() {
        let names: Vec<String> = ::syscalls::x86_64::Sysno::iter()
            .map(|call| call.name().to_owned())
            .collect();
        let every_other: Vec<&str> = names.iter().step_by(2).map(String::as_str).collect();
        let program = compiled(&profile(
            "SCMP_ACT_ERRNO",
            vec![rule(&every_other, "SCMP_ACT_ALLOW", &[])],
        ));
        assert!(program.len() < MAX_INSTRUCTIONS, "{}", program.len());
        for call in ::syscalls::x86_64::Sysno::iter() {
            let expected = if every_other.contains(&call.name()) {
                ALLOW
            } else {
                EPERM
            };
            let got = interpret(&program, &Call::new(call.id() as u32, &[]));
            assert!(
                got == expected || got == ENOSYS && expected == EPERM,
                "{call}: {got:#x}"
            );
        }
    }
}

#[test]
fn wrong_profiles_are_refused_and_unknown_names_passed_over() {
    let error = |profile: &Seccomp| compile(profile, &mut Vec::new()).unwrap_err().to_string();
    assert!(error(&profile("SCMP_ACT_NOPE", vec![])).contains("not an action"));
    let bad = rule(&["read"], "SCMP_ACT_ALLOW", &[(6, "SCMP_CMP_EQ", 0, 0)]);
    assert!(error(&profile("SCMP_ACT_ERRNO", vec![bad])).contains("argument 6"));
    let notify = rule(&["read"], "SCMP_ACT_NOTIFY", &[]);
    assert!(error(&profile("SCMP_ACT_ALLOW", vec![notify])).contains("listenerPath"));

    let mut unknown = profile(
        "SCMP_ACT_ALLOW",
        vec![rule(&["no_such_call"], "SCMP_ACT_ERRNO", &[])],
    );
    unknown.architectures.push("SCMP_ARCH_TOMORROW".into());
    let mut warnings = Vec::new();
    assert!(
        compile(&unknown, &mut warnings).unwrap().is_none(),
        "nothing is left to filter"
    );
    assert_eq!(warnings.len(), 1);
}

#[test]
fn numbers_of_errors_reach_the_kernel() {
    let mut denied = rule(&["read"], "SCMP_ACT_ERRNO", &[]);
    denied.errno_ret = Some(38);
    let profile = profile("SCMP_ACT_ALLOW", vec![denied]);
    let policy = profile::lower(&profile, &mut Vec::new()).unwrap();
    let calls = &policy.arches[0].calls;
    assert_eq!(
        calls.values().next(),
        Some(&CallPolicy::Always(profile::Action(ENOSYS)))
    );
}

fn holds(op: &str, argument: u64, value: u64, value_two: u64) -> bool {
    match op {
        "SCMP_CMP_NE" => argument != value,
        "SCMP_CMP_LT" => argument < value,
        "SCMP_CMP_LE" => argument <= value,
        "SCMP_CMP_EQ" => argument == value,
        "SCMP_CMP_GE" => argument >= value,
        "SCMP_CMP_GT" => argument > value,
        _ => argument & value == value_two & value,
    }
}

/// Values that differ in one half, or by one.
fn interesting() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0_u64..3, 0_u64..3).prop_map(|(high, low)| (high << 32) | low),
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
    ]
}

proptest! {
    #[test]
    fn conditions_mean_what_they_say(
        op in prop::sample::select(vec![
            "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ",
        ]),
        index in 0_u32..6,
        argument in interesting(),
        value in interesting(),
        value_two in interesting(),
        other in interesting(),
    ) {
        let conditions = [(index, op, value, value_two), ((index + 1) % 6, "SCMP_CMP_EQ", other, 0)];
        let policy = profile::lower(
            &profile("SCMP_ACT_ERRNO", vec![rule(&["getpid"], "SCMP_ACT_ALLOW", &conditions)]),
            &mut Vec::new(),
        ).unwrap();
        let number = *policy.arches[0].calls.keys().next().unwrap();
        let program = bpf::assemble(&policy);
        for second in [other, other ^ 1] {
            let mut call = Call { arch: policy.arches[0].audit_arch, ..Call::new(number, &[]) };
            call.args[index as usize] = argument;
            call.args[((index + 1) % 6) as usize] = second;
            let expected = holds(op, argument, value, value_two) && second == other;
            prop_assert_eq!(interpret(&program, &call) == ALLOW, expected);
        }
    }

    #[test]
    fn search_agrees_with_the_table(
        actions in prop::collection::btree_map(0_u32..600, 0_u32..4, 0..200),
        asked in prop::collection::vec(0_u32..700, 50),
    ) {
        let calls = actions.iter().map(|(number, action)| (*number, CallPolicy::Always(profile::Action(*action)))).collect();
        let arch = profile::ArchPolicy { audit_arch: X86_64, calls, beyond: vec![(650, profile::Action(9))] };
        let policy = profile::Policy { default: profile::Action(0), arches: vec![arch] };
        let program = bpf::assemble(&policy);
        for number in asked {
            let expected = match actions.get(&number) {
                Some(action) => *action,
                None if number >= 650 => 9,
                None => 0,
            };
            prop_assert_eq!(interpret(&program, &Call::new(number, &[])), expected);
        }
    }
}

#[test]
fn masks_apply_to_the_value_too() {
    let arg = SyscallArg {
        index: 0,
        value: 0xf0,
        value_two: 0x1ff,
        op: "SCMP_CMP_MASKED_EQ".into(),
    };
    let rule = SyscallRule {
        names: vec!["getpid".into()],
        action: "SCMP_ACT_ALLOW".into(),
        errno_ret: None,
        args: vec![arg],
    };
    let policy = profile::lower(&profile("SCMP_ACT_ERRNO", vec![rule]), &mut Vec::new()).unwrap();
    let Some(CallPolicy::FirstOf(rules)) = policy.arches[0].calls.values().next() else {
        panic!("no rule")
    };
    assert_eq!(rules[0].0[0].comparison, Comparison::MaskedEq { mask: 0xf0 });
    assert_eq!(rules[0].0[0].value, 0xf0);
}
