//! The profile with names replaced by numbers: what happens to each call of each instruction set. Pure.

use std::collections::BTreeMap;

use super::table::Arch;
use crate::error::{Error, Result};
use crate::spec::{Seccomp, SyscallArg, SyscallRule};

/// What the kernel does with a call: a `SECCOMP_RET_*` value with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action(pub u32);

impl Action {
    /// The call goes on.
    pub const ALLOW: Self = Self(libc::SECCOMP_RET_ALLOW);
    /// The process dies.
    pub const KILL_PROCESS: Self = Self(libc::SECCOMP_RET_KILL_PROCESS);
    /// The call fails as if the kernel did not have it.
    pub const ENOSYS: Self = Self(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);

    fn parse(name: &str, errno: Option<u32>) -> Result<Self> {
        let data = errno.unwrap_or(libc::EPERM as u32) & libc::SECCOMP_RET_DATA;
        Ok(Self(match name {
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
            "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
            "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
            "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | data,
            "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | data,
            "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
            "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
            "SCMP_ACT_NOTIFY" => libc::SECCOMP_RET_USER_NOTIF,
            other => {
                return Err(Error::invalid(format!(
                    "linux.seccomp: {other:?} is not an action"
                )));
            }
        }))
    }

    fn kind(self) -> u32 {
        self.0 & libc::SECCOMP_RET_ACTION_FULL
    }

    /// Whether a call that the profile's author cannot have known should answer ENOSYS instead.
    fn hides_new_calls(self) -> bool {
        let refuses = matches!(
            self.kind(),
            libc::SECCOMP_RET_ERRNO
                | libc::SECCOMP_RET_KILL_THREAD
                | libc::SECCOMP_RET_KILL_PROCESS
                | libc::SECCOMP_RET_TRAP
        );
        refuses && self != Self::ENOSYS
    }
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `==`
    Eq,
    /// `>=`
    Ge,
    /// `>`
    Gt,
    /// `argument & mask == value`
    MaskedEq {
        /// The bits that count.
        mask: u64,
    },
}

/// One condition, on all 64 bits of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which argument: 0 to 5.
    pub index: u32,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub value: u64,
}

/// What happens to one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallPolicy {
    /// Always this.
    Always(Action),
    /// The action of the first whose conditions all hold, or else the default.
    FirstOf(Vec<(Vec<Condition>, Action)>),
}

/// What happens to the calls of one instruction set, as the kernel reports it (`AUDIT_ARCH_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchPolicy {
    /// `AUDIT_ARCH_*`.
    pub audit_arch: u32,
    /// By number; others get the default.
    pub calls: BTreeMap<u32, CallPolicy>,
    /// Numbers from here on up to the next known one are newer than the profile, or of another ABI.
    pub beyond: Vec<(u32, Action)>,
}

/// The profile in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What happens to a call that no rule names.
    pub default: Action,
    /// By instruction set; others kill the process.
    pub arches: Vec<ArchPolicy>,
}

impl Policy {
    /// Whether the filter would do nothing.
    pub fn allows_everything(&self) -> bool {
        self.default == Action::ALLOW && self.arches.iter().all(|arch| arch.calls.is_empty())
    }

    /// Whether somebody must be there to decide.
    pub fn notifies(&self) -> bool {
        let notify = |action: &Action| action.kind() == libc::SECCOMP_RET_USER_NOTIF;
        let call_notifies = |call: &CallPolicy| match call {
            CallPolicy::Always(action) => notify(action),
            CallPolicy::FirstOf(rules) => rules.iter().any(|(_, action)| notify(action)),
        };
        notify(&self.default)
            || self
                .arches
                .iter()
                .any(|arch| arch.calls.values().any(call_notifies))
    }
}

/// The bit that marks calls of the x32 ABI.
const X32_BIT: u32 = 0x4000_0000;

/// Replaces names by numbers.
pub fn lower(seccomp: &Seccomp, warnings: &mut Vec<String>) -> Result<Policy> {
    let default = Action::parse(&seccomp.default_action, seccomp.default_errno_ret)?;
    let mut arches = vec![];
    arches.extend(Arch::native());
    if arches.is_empty() {
        return Err(Error::invalid(
            "linux.seccomp: filters are not supported on this machine's instruction set",
        ));
    }
    for name in &seccomp.architectures {
        match Arch::parse(name) {
            Some(arch) if !arches.contains(&arch) => arches.push(arch),
            Some(_) => {}
            None => warnings.push(format!(
                "linux.seccomp: the architecture {name} is unknown, its programs are killed"
            )),
        }
    }
    let x32 = arches.contains(&Arch::X32);
    let mut lowered = Vec::new();
    for arch in arches.iter().copied().filter(|arch| *arch != Arch::X32) {
        let mut calls = lower_calls(seccomp, arch, default)?;
        let mut beyond = Vec::new();
        let last = highest_named(seccomp, arch);
        if default.hides_new_calls() {
            beyond.extend(last.map(|last| (last + 1, Action::ENOSYS)));
        }
        if arch == Arch::X86_64 && x32 {
            beyond.push((X32_BIT, default));
            calls.extend(lower_calls(seccomp, Arch::X32, default)?);
            let last = highest_named(seccomp, Arch::X32);
            if default.hides_new_calls() {
                beyond.extend(last.map(|last| (last + 1, Action::ENOSYS)));
            }
        } else if arch == Arch::X86_64 {
            beyond.push((X32_BIT, Action::KILL_PROCESS));
        }
        lowered.push(ArchPolicy {
            audit_arch: arch.audit_arch(),
            calls,
            beyond,
        });
    }
    Ok(Policy {
        default,
        arches: lowered,
    })
}

fn highest_named(seccomp: &Seccomp, arch: Arch) -> Option<u32> {
    seccomp
        .syscalls
        .iter()
        .flat_map(|rule| &rule.names)
        .filter_map(|name| arch.number(name))
        .max()
}

fn lower_calls(seccomp: &Seccomp, arch: Arch, default: Action) -> Result<BTreeMap<u32, CallPolicy>> {
    let mut calls: BTreeMap<u32, CallPolicy> = BTreeMap::new();
    for rule in &seccomp.syscalls {
        let action = Action::parse(&rule.action, rule.errno_ret)?;
        let alternatives = alternatives(rule)?;
        if action == default {
            continue;
        }
        for number in rule.names.iter().filter_map(|name| arch.number(name)) {
            add_rule(&mut calls, number, action, &alternatives);
        }
    }
    Ok(calls)
}

fn add_rule(
    calls: &mut BTreeMap<u32, CallPolicy>,
    number: u32,
    action: Action,
    alternatives: &[Vec<Condition>],
) {
    if alternatives.is_empty() {
        // The first rule without conditions stays; rules with conditions give way to it.
        let known = calls.entry(number).or_insert(CallPolicy::Always(action));
        if matches!(known, CallPolicy::FirstOf(_)) {
            *known = CallPolicy::Always(action);
        }
        return;
    }
    let known = calls
        .entry(number)
        .or_insert_with(|| CallPolicy::FirstOf(Vec::new()));
    if let CallPolicy::FirstOf(rules) = known {
        rules.extend(alternatives.iter().map(|conditions| (conditions.clone(), action)));
    }
}

/// Sets of conditions of which one must hold entirely; none at all means always.
fn alternatives(rule: &SyscallRule) -> Result<Vec<Vec<Condition>>> {
    let conditions = rule.args.iter().map(condition).collect::<Result<Vec<_>>>()?;
    let repeated = conditions.iter().enumerate().any(|(position, condition)| {
        conditions[..position]
            .iter()
            .any(|earlier| earlier.index == condition.index)
    });
    Ok(match conditions {
        conditions if conditions.is_empty() => Vec::new(),
        conditions if repeated => conditions.into_iter().map(|condition| vec![condition]).collect(),
        conditions => vec![conditions],
    })
}

fn condition(arg: &SyscallArg) -> Result<Condition> {
    if arg.index > 5 {
        return Err(Error::invalid(format!(
            "linux.seccomp: a call has no argument {}",
            arg.index
        )));
    }
    let comparison = match arg.op.as_str() {
        "SCMP_CMP_NE" => Comparison::Ne,
        "SCMP_CMP_LT" => Comparison::Lt,
        "SCMP_CMP_LE" => Comparison::Le,
        "SCMP_CMP_EQ" => Comparison::Eq,
        "SCMP_CMP_GE" => Comparison::Ge,
        "SCMP_CMP_GT" => Comparison::Gt,
        "SCMP_CMP_MASKED_EQ" => {
            let comparison = Comparison::MaskedEq { mask: arg.value };
            return Ok(Condition {
                index: arg.index,
                comparison,
                value: arg.value_two & arg.value,
            });
        }
        other => {
            return Err(Error::invalid(format!(
                "linux.seccomp: {other:?} is not a comparison"
            )));
        }
    };
    Ok(Condition {
        index: arg.index,
        comparison,
        value: arg.value,
    })
}
