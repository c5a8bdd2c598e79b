//! The seccomp filter of a container: Docker's default profile, or a file in Docker's form, as the runtime
//! specification wants it (pure).
//!
//! The default answers EPERM to every call that is not in `syscalls.rs`. Five calls depend on their arguments:
//!
//! ```text
//! personality   only the execution domains of Linux, 32-bit Linux and their ADDR_NO_RANDOMIZE-free forms
//! clone         no flag that makes a namespace           } unless the container has SYS_ADMIN
//! clone3        ENOSYS: its flags lie in memory, libc    }
//!               falls back to clone
//! socket        every family but AF_ALG and AF_VSOCK
//! io_uring_*    not in the list
//! ```
//!
//! The kernel looks at 32 bits of an `int` argument, so `socket` is compared under a 32-bit mask: a range check on
//! the whole register would let `1 << 32 | AF_ALG` pass.

mod profile;
mod syscalls;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use crate::bundle::{BundleError, CapabilitySet};

pub use self::profile::{Host, parse_profile};

/// `errno` of a refused call.
const EPERM: u32 = 1;
/// `errno` of a call that libc is to believe absent.
const ENOSYS: u32 = 38;

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET together.
const CLONE_NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// Execution domains: PER_LINUX, PER_LINUX32, with UNAME26 each, and the query.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Mask and value of each block of address families that a container may use: all below 48 but 38 (AF_ALG) and
/// 40 (AF_VSOCK).
const SOCKET_FAMILIES: [(u64, u64); 7] = [
    (0xffff_ffe0, 0),
    (0xffff_fffc, 32),
    (0xffff_fffe, 36),
    (0xffff_ffff, 39),
    (0xffff_ffff, 41),
    (0xffff_fffe, 42),
    (0xffff_fffc, 44),
];

/// Docker's default profile for a container with these capabilities on this architecture (as
/// `std::env::consts::ARCH` names it).
pub fn default_profile(
    architecture: &str,
    capabilities: &CapabilitySet,
) -> Result<LinuxSeccomp, BundleError> {
    let mut names: Vec<&str> = syscalls::ALWAYS.concat();
    for (architectures, calls) in syscalls::BY_ARCHITECTURE {
        if architectures.contains(&architecture) {
            names.extend(*calls);
        }
    }
    for (capability, calls) in syscalls::BY_CAPABILITY {
        if capabilities.contains(capability) {
            names.extend(*calls);
        }
    }
    names.sort_unstable();
    names.dedup();
    let mut rules = vec![allow(&names, None)];
    for value in PERSONALITIES {
        rules.push(allow(
            &["personality"],
            Some(argument(0, LinuxSeccompOperator::ScmpCmpEq, value, None)?),
        ));
    }
    for (mask, value) in SOCKET_FAMILIES {
        let family = argument(0, LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(value))?;
        rules.push(allow(&["socket"], Some(family)));
    }
    if !capabilities.contains("SYS_ADMIN") {
        // On s390 the flags are the second argument.
        let index = if architecture == "s390x" { 1 } else { 0 };
        let no_namespace = argument(
            index,
            LinuxSeccompOperator::ScmpCmpMaskedEq,
            CLONE_NAMESPACE_FLAGS,
            Some(0),
        )?;
        rules.push(allow(&["clone"], Some(no_namespace)));
        rules.push(rule(
            &["clone3"],
            LinuxSeccompAction::ScmpActErrno,
            Some(ENOSYS),
            None,
        ));
    }
    Ok(LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(architectures(architecture))
        .syscalls(rules)
        .build()?)
}

/// The architectures whose programs run on a machine: 32-bit programs are filtered as well.
fn architectures(architecture: &str) -> Vec<Arch> {
    match architecture {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        "s390x" => vec![Arch::ScmpArchS390x, Arch::ScmpArchS390],
        _ => Vec::new(),
    }
}

fn allow(names: &[&str], condition: Option<LinuxSeccompArg>) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow, None, condition)
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    errno: Option<u32>,
    condition: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut call = LinuxSyscall::default();
    call.set_names(names.iter().map(|name| (*name).to_owned()).collect());
    call.set_action(action);
    call.set_errno_ret(errno);
    call.set_args(condition.map(|condition| vec![condition]));
    call
}

fn argument(
    index: usize,
    op: LinuxSeccompOperator,
    value: u64,
    value_two: Option<u64>,
) -> Result<LinuxSeccompArg, BundleError> {
    let argument = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    Ok(match value_two {
        Some(value_two) => argument.value_two(value_two).build()?,
        None => argument.build()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(capabilities: &[&'static str]) -> LinuxSeccomp {
        default_profile("x86_64", &capabilities.iter().copied().collect()).unwrap()
    }

    /// What the profile does with a call: a model of the kernel's filter over the specification.
    fn verdict(profile: &LinuxSeccomp, name: &str, first: u64) -> Option<u32> {
        let holds = |argument: &LinuxSeccompArg| match argument.op() {
            LinuxSeccompOperator::ScmpCmpEq => first == argument.value(),
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                first & argument.value() == argument.value_two().unwrap()
            }
            other => panic!("unexpected operator {other:?}"),
        };
        let matching = profile.syscalls().iter().flatten().find(|call| {
            call.names().iter().any(|held| held == name) && call.args().iter().flatten().all(holds)
        });
        match matching {
            Some(call) if call.action() == LinuxSeccompAction::ScmpActAllow => None,
            Some(call) => Some(call.errno_ret().unwrap()),
            None => Some(profile.default_errno_ret().unwrap()),
        }
    }

    #[test]
    fn ordinary_calls_pass_and_dangerous_ones_do_not() {
        let profile = profile(&["CHOWN", "SYS_CHROOT"]);
        for name in [
            "read",
            "openat",
            "statx",
            "execve",
            "fchmodat2",
            "rseq",
            "arch_prctl",
            "chroot",
            "ptrace",
        ] {
            assert_eq!(verdict(&profile, name, 0), None, "{name}");
        }
        let refused = [
            "mount",
            "umount2",
            "bpf",
            "unshare",
            "setns",
            "kexec_load",
            "init_module",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "add_key",
            "keyctl",
            "userfaultfd",
            "perf_event_open",
            "reboot",
            "open_by_handle_at",
            "swapon",
            "settimeofday",
            "iopl",
            "quotactl",
        ];
        for name in refused {
            assert_eq!(verdict(&profile, name, 0), Some(EPERM), "{name}");
        }
    }

    #[test]
    fn clone_makes_threads_and_processes_but_no_namespaces() {
        let plain = profile(&[]);
        assert_eq!(verdict(&plain, "clone", 0x3d_0f00), None);
        assert_eq!(verdict(&plain, "clone", 17), None);
        for flag in [
            0x2_0000,
            0x200_0000,
            0x400_0000,
            0x800_0000,
            0x1000_0000,
            0x2000_0000,
            0x4000_0000,
        ] {
            assert_eq!(verdict(&plain, "clone", flag | 17), Some(EPERM), "{flag:x}");
        }
        assert_eq!(verdict(&plain, "clone3", 0), Some(ENOSYS));
        let admin = profile(&["SYS_ADMIN"]);
        assert_eq!(verdict(&admin, "clone", 0x1000_0000), None);
        assert_eq!(verdict(&admin, "clone3", 0), None);
        assert_eq!(verdict(&admin, "unshare", 0), None);
    }

    #[test]
    fn sockets_of_two_families_are_refused_in_every_spelling() {
        let profile = profile(&[]);
        for family in 0..48 {
            let expected = if family == 38 || family == 40 {
                Some(EPERM)
            } else {
                None
            };
            assert_eq!(verdict(&profile, "socket", family), expected, "{family}");
            assert_eq!(
                verdict(&profile, "socket", 1 << 32 | family),
                expected,
                "high bits, {family}"
            );
        }
        assert_eq!(verdict(&profile, "socket", 0xffff_ffff), Some(EPERM));
    }

    #[test]
    fn personality_is_limited() {
        let profile = profile(&[]);
        assert_eq!(verdict(&profile, "personality", 0xffff_ffff), None);
        assert_eq!(verdict(&profile, "personality", 8), None);
        assert_eq!(verdict(&profile, "personality", 0x004_0000), Some(EPERM));
    }

    #[test]
    fn no_call_is_named_twice() {
        let mut names = syscalls::ALWAYS.concat();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn foreign_programs_are_filtered_too() {
        let text = serde_json::to_string(&profile(&[])).unwrap();
        for architecture in ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"] {
            assert!(text.contains(architecture));
        }
    }
}
