//! The command and everything about its process: pure. Used by `create` and by `exec`.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use super::{Step, clean};
use crate::capability::CapabilitySets;
use crate::error::{Error, Result};
use crate::seccomp::{self, Filter};
use crate::spec::{ConsoleSize, Linux, Personality, Process, User};
use crate::sys::process::SchedAttr;

/// The command and everything about its process.
#[derive(Clone, Debug)]
pub struct ProcessPlan {
    /// The command.
    pub args: Vec<CString>,
    /// The environment.
    pub env: Vec<CString>,
    /// The working directory.
    pub cwd: PathBuf,
    /// Who runs it.
    pub user: User,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The first size of the terminal.
    pub console_size: Option<ConsoleSize>,
    /// What it may do; `None` leaves everything as the runtime has it.
    pub capabilities: Option<CapabilitySets>,
    /// Whether exec may not give new rights.
    pub no_new_privileges: bool,
    /// Resource limits.
    pub rlimits: Vec<Limit>,
    /// How willingly the kernel ends it when memory is short.
    pub oom_score_adj: Option<i32>,
    /// The AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// The SELinux label.
    pub selinux_label: Option<String>,
    /// Scheduling policy.
    pub scheduler: Option<SchedAttr>,
    /// I/O priority: class, level.
    pub io_priority: Option<(i32, i32)>,
    /// Execution domain, as `personality(2)` numbers them.
    pub personality: Option<u64>,
    /// Filter of system calls.
    pub seccomp: Option<Filter>,
}

/// One resource limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// As the specification names it.
    pub name: String,
    /// Its number.
    pub resource: u32,
    /// What counts.
    pub soft: u64,
    /// What may not be exceeded.
    pub hard: u64,
}

/// Reads `process`, and what concerns it elsewhere in the configuration.
pub fn plan_process(process: &Process, linux: &Linux, warnings: &mut Vec<String>) -> Result<ProcessPlan> {
    if process.args.is_empty() {
        return Err(Error::invalid(
            "process.args is empty: there is no command to run",
        ));
    }
    if !process.cwd.is_absolute() {
        return Err(Error::invalid(format!(
            "process.cwd: {:?} is not an absolute path",
            process.cwd
        )));
    }
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Ok(ProcessPlan {
        args: c_strings(&process.args, "process.args")?,
        env: c_strings(&process.env, "process.env")?,
        cwd: clean(Path::new(&process.cwd)),
        user: process.user.clone(),
        terminal: process.terminal,
        console_size: process
            .console_size
            .filter(|size| size.height > 0 && size.width > 0),
        capabilities: process
            .capabilities
            .as_ref()
            .map(|names| CapabilitySets::parse(names, warnings)),
        no_new_privileges: process.no_new_privileges,
        rlimits: limits(process)?,
        oom_score_adj: process.oom_score_adj,
        apparmor_profile: given(&process.apparmor_profile),
        selinux_label: given(&process.selinux_label),
        scheduler: process.scheduler.as_ref().map(scheduler).transpose()?,
        io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
        personality: linux.personality.as_ref().map(personality).transpose()?,
        seccomp: linux
            .seccomp
            .as_ref()
            .map(|profile| seccomp::compile(profile, warnings))
            .transpose()?
            .flatten(),
    })
}

impl ProcessPlan {
    /// Tells the command about the sockets that it inherits (`sd_listen_fds(3)`).
    pub fn announce_sockets(&mut self, count: u32) {
        if let (1.., Ok(fds)) = (count, CString::new(format!("LISTEN_FDS={count}"))) {
            self.env.extend([fds, c"LISTEN_PID=1".to_owned()]);
        }
    }

    /// What happens to the process before it waits for `start`: it becomes the user and finds its command.
    pub fn prepare_steps(&self) -> Vec<Step> {
        vec![Step::Attributes, Step::User, Step::Cwd, Step::FindCommand]
    }

    /// What happens after that.
    pub fn launch_steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Rlimits];
        if self.seccomp.is_some() {
            steps.push(Step::Seccomp);
            if self.keeps_capability_for_seccomp() {
                steps.push(Step::DropSeccompCapability);
            }
        }
        steps.push(Step::Exec);
        steps
    }

    /// Whether loading the filter takes CAP_SYS_ADMIN, which then is given up only after that.
    pub fn keeps_capability_for_seccomp(&self) -> bool {
        self.seccomp.is_some() && !self.no_new_privileges && self.capabilities.is_some()
    }
}

fn c_strings(texts: &[String], field: &str) -> Result<Vec<CString>> {
    let convert = |text: &String| {
        CString::new(text.as_str())
            .map_err(|_| Error::invalid(format!("{field}: {text:?} has a zero byte in it")))
    };
    texts.iter().map(convert).collect()
}

fn limits(process: &Process) -> Result<Vec<Limit>> {
    let mut limits: Vec<Limit> = Vec::new();
    for limit in &process.rlimits {
        let name = limit.kind.clone();
        if limits.iter().any(|known| known.name == name) {
            return Err(Error::invalid(format!("process.rlimits names {name} twice")));
        }
        if limit.soft > limit.hard {
            return Err(Error::invalid(format!(
                "process.rlimits: {name} has a soft limit above its hard limit"
            )));
        }
        limits.push(Limit {
            resource: resource_number(&name)?,
            name,
            soft: limit.soft,
            hard: limit.hard,
        });
    }
    Ok(limits)
}

fn resource_number(name: &str) -> Result<u32> {
    let number = match name {
        "RLIMIT_CPU" => libc::RLIMIT_CPU,
        "RLIMIT_FSIZE" => libc::RLIMIT_FSIZE,
        "RLIMIT_DATA" => libc::RLIMIT_DATA,
        "RLIMIT_STACK" => libc::RLIMIT_STACK,
        "RLIMIT_CORE" => libc::RLIMIT_CORE,
        "RLIMIT_RSS" => libc::RLIMIT_RSS,
        "RLIMIT_NPROC" => libc::RLIMIT_NPROC,
        "RLIMIT_NOFILE" => libc::RLIMIT_NOFILE,
        "RLIMIT_MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "RLIMIT_AS" => libc::RLIMIT_AS,
        "RLIMIT_LOCKS" => libc::RLIMIT_LOCKS,
        "RLIMIT_SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "RLIMIT_MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => libc::RLIMIT_NICE,
        "RLIMIT_RTPRIO" => libc::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => libc::RLIMIT_RTTIME,
        _ => {
            return Err(Error::invalid(format!(
                "process.rlimits: {name:?} is not a resource limit"
            )));
        }
    };
    Ok(number as u32)
}

fn personality(personality: &Personality) -> Result<u64> {
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::invalid(format!(
            "linux.personality: {other:?} is not a domain"
        ))),
    }
}

fn scheduler(scheduler: &crate::spec::Scheduler) -> Result<SchedAttr> {
    let policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" => libc::SCHED_OTHER,
        "SCHED_FIFO" => libc::SCHED_FIFO,
        "SCHED_RR" => libc::SCHED_RR,
        "SCHED_BATCH" => libc::SCHED_BATCH,
        "SCHED_IDLE" => libc::SCHED_IDLE,
        "SCHED_DEADLINE" => libc::SCHED_DEADLINE,
        other => {
            return Err(Error::invalid(format!(
                "process.scheduler: {other:?} is not a policy"
            )));
        }
    };
    let mut flags = 0;
    for flag in &scheduler.flags {
        flags |= match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => {
                return Err(Error::invalid(format!(
                    "process.scheduler: {other:?} is not a flag"
                )));
            }
        };
    }
    Ok(SchedAttr {
        size: 0,
        policy: policy as u32,
        flags,
        nice: scheduler.nice,
        priority: u32::try_from(scheduler.priority)
            .map_err(|_| Error::invalid("process.scheduler: the priority is negative"))?,
        runtime_ns: scheduler.runtime,
        deadline_ns: scheduler.deadline,
        period_ns: scheduler.period,
    })
}

fn io_priority(priority: &crate::spec::IoPriority) -> Result<(i32, i32)> {
    let class = match priority.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => {
            return Err(Error::invalid(format!(
                "process.ioPriority: {other:?} is not a class"
            )));
        }
    };
    if !(0..=7).contains(&priority.priority) {
        return Err(Error::invalid(
            "process.ioPriority: the priority is not between 0 and 7",
        ));
    }
    Ok((class, priority.priority))
}
