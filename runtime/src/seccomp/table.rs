//! Numbers of system calls, by instruction set.

use std::str::FromStr;

/// An instruction set (or ABI) that a profile can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arch {
    X86,
    X86_64,
    X32,
    Arm,
    Aarch64,
    Mips,
    Mipsel,
    Mips64,
    Mipsel64,
    Ppc64,
    Ppc64Le,
    Riscv64,
    S390X,
    Loongarch64,
}

const BITS_64: u32 = 0x8000_0000;
const LITTLE_ENDIAN: u32 = 0x4000_0000;

/// Calls of the x32 ABI that have a number of their own; all others have that of x86-64.
const X32_OWN: [(&str, u32); 36] = [
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

impl Arch {
    /// The instruction set that this runtime was built for.
    pub(super) fn native() -> Option<Self> {
        Some(match (std::env::consts::ARCH, cfg!(target_endian = "little")) {
            ("x86", _) => Self::X86,
            ("x86_64", _) => Self::X86_64,
            ("arm", _) => Self::Arm,
            ("aarch64", _) => Self::Aarch64,
            ("powerpc64", true) => Self::Ppc64Le,
            ("powerpc64", false) => Self::Ppc64,
            ("riscv64", _) => Self::Riscv64,
            ("s390x", _) => Self::S390X,
            ("loongarch64", _) => Self::Loongarch64,
            _ => return None,
        })
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "SCMP_ARCH_X86" => Self::X86,
            "SCMP_ARCH_X86_64" => Self::X86_64,
            "SCMP_ARCH_X32" => Self::X32,
            "SCMP_ARCH_ARM" => Self::Arm,
            "SCMP_ARCH_AARCH64" => Self::Aarch64,
            "SCMP_ARCH_MIPS" => Self::Mips,
            "SCMP_ARCH_MIPSEL" => Self::Mipsel,
            "SCMP_ARCH_MIPS64" => Self::Mips64,
            "SCMP_ARCH_MIPSEL64" => Self::Mipsel64,
            "SCMP_ARCH_PPC64" => Self::Ppc64,
            "SCMP_ARCH_PPC64LE" => Self::Ppc64Le,
            "SCMP_ARCH_RISCV64" => Self::Riscv64,
            "SCMP_ARCH_S390X" => Self::S390X,
            "SCMP_ARCH_LOONGARCH64" => Self::Loongarch64,
            _ => return None,
        })
    }

    /// All names that [`Self::parse`] takes, for `features`.
    pub(super) const NAMES: [&'static str; 14] = [
        "SCMP_ARCH_AARCH64",
        "SCMP_ARCH_ARM",
        "SCMP_ARCH_LOONGARCH64",
        "SCMP_ARCH_MIPS",
        "SCMP_ARCH_MIPS64",
        "SCMP_ARCH_MIPSEL",
        "SCMP_ARCH_MIPSEL64",
        "SCMP_ARCH_PPC64",
        "SCMP_ARCH_PPC64LE",
        "SCMP_ARCH_RISCV64",
        "SCMP_ARCH_S390X",
        "SCMP_ARCH_X32",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X86_64",
    ];

    /// `AUDIT_ARCH_*`: the ELF machine with marks for width and byte order (linux/audit.h).
    pub(super) fn audit_arch(self) -> u32 {
        match self {
            Self::X86 => 3 | LITTLE_ENDIAN,
            Self::X86_64 | Self::X32 => 62 | BITS_64 | LITTLE_ENDIAN,
            Self::Arm => 40 | LITTLE_ENDIAN,
            Self::Aarch64 => 183 | BITS_64 | LITTLE_ENDIAN,
            Self::Mips => 8,
            Self::Mipsel => 8 | LITTLE_ENDIAN,
            Self::Mips64 => 8 | BITS_64,
            Self::Mipsel64 => 8 | BITS_64 | LITTLE_ENDIAN,
            Self::Ppc64 => 21 | BITS_64,
            Self::Ppc64Le => 21 | BITS_64 | LITTLE_ENDIAN,
            Self::Riscv64 => 243 | BITS_64 | LITTLE_ENDIAN,
            Self::S390X => 22 | BITS_64,
            Self::Loongarch64 => 258 | BITS_64 | LITTLE_ENDIAN,
        }
    }

    /// The number of a call, where this instruction set has it.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        use syscalls::{aarch64, arm, loongarch64, mips, mips64, powerpc64, riscv64, s390x, x86, x86_64};
        let number = match self {
            Self::X86 => x86::Sysno::from_str(name).ok()?.id(),
            Self::X86_64 => x86_64::Sysno::from_str(name).ok()?.id(),
            Self::X32 => {
                let own = X32_OWN
                    .iter()
                    .find(|(own, _)| *own == name)
                    .map(|(_, number)| *number as i32);
                own.or_else(|| Some(x86_64::Sysno::from_str(name).ok()?.id()))? | 0x4000_0000
            }
            Self::Arm => arm::Sysno::from_str(name).ok()?.id(),
            Self::Aarch64 => aarch64::Sysno::from_str(name).ok()?.id(),
            Self::Mips | Self::Mipsel => mips::Sysno::from_str(name).ok()?.id(),
            Self::Mips64 | Self::Mipsel64 => mips64::Sysno::from_str(name).ok()?.id(),
            Self::Ppc64 | Self::Ppc64Le => powerpc64::Sysno::from_str(name).ok()?.id(),
            Self::Riscv64 => riscv64::Sysno::from_str(name).ok()?.id(),
            Self::S390X => s390x::Sysno::from_str(name).ok()?.id(),
            Self::Loongarch64 => loongarch64::Sysno::from_str(name).ok()?.id(),
        };
        u32::try_from(number).ok()
    }
}
