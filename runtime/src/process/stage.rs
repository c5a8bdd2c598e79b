//! Between the runtime and the container: enters and makes the namespaces, then gives birth to init and ends.

use nix::sched::{CloneFlags, unshare};

use super::handshake::{Channel, Message};
use crate::error::{Context, Result};
use crate::namespace;
use crate::plan::Plan;
use crate::sys::process::{self as sys, Cloned};

/// Runs in stage. Returns in init only; stage itself ends here.
pub fn run(plan: &Plan, channel: &Channel) -> Result<()> {
    sys::reset_signals().context(|| "reset the signals")?;
    before_namespaces(plan)?;
    channel.expect_go()?;
    let namespaces = &plan.namespaces;
    namespace::join(namespaces)?;
    if namespaces.create.contains(CloneFlags::CLONE_NEWUSER) {
        // The runtime may write the mapping only while we are dumpable.
        unshare(CloneFlags::CLONE_NEWUSER).context(|| "make a user namespace")?;
        nix::sys::prctl::set_dumpable(true)?;
        channel.send(&Message::MapIds)?;
        channel.expect_go()?;
        namespace::become_root()?;
    }
    let time = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
    if namespaces.create.contains(time) {
        unshare(time).context(|| "make a time namespace")?;
        nix::sys::prctl::set_dumpable(true)?;
        namespace::write_time_offsets(namespaces)?;
    }
    nix::sys::prctl::set_dumpable(false)?;
    let others = namespaces.create & !(CloneFlags::CLONE_NEWUSER | time);
    match sys::clone_process(others | CloneFlags::CLONE_PARENT).context(|| "make the namespaces")? {
        Cloned::Child => Ok(()),
        Cloned::Parent(pid) => {
            channel.send(&Message::Init(pid.as_raw()))?;
            sys::exit_now(0)
        }
    }
}

/// What takes the rights that the runtime has outside.
fn before_namespaces(plan: &Plan) -> Result<()> {
    for limit in raise_limits(&plan.process) {
        tracing::warn!("{limit}");
    }
    if let Some(score) = plan.process.oom_score_adj {
        set_oom_score(score)?;
    }
    Ok(())
}

/// Raises hard limits to what will be asked for, as long as we may. They are lowered right before exec, so that
/// nothing on the way suffers. Says which stay as they are.
pub fn raise_limits(process: &crate::plan::process::ProcessPlan) -> Vec<String> {
    let mut kept = Vec::new();
    for limit in &process.rlimits {
        let Ok((soft, hard)) = sys::rlimit(limit.resource) else {
            continue;
        };
        if limit.hard <= hard {
            continue;
        }
        if sys::set_rlimit(limit.resource, soft, limit.hard).is_err() {
            kept.push(format!(
                "{} cannot be raised from {hard} to {}, it stays",
                limit.name, limit.hard
            ));
        }
    }
    kept
}

/// Without CAP_SYS_RESOURCE the score can only go up: a lower one is left out.
pub fn set_oom_score(score: i32) -> Result<()> {
    let path = "/proc/self/oom_score_adj";
    match std::fs::write(path, score.to_string()).context(|| format!("write {score} to {path}")) {
        Err(error) if error.is_denied() => {
            tracing::warn!("oom_score_adj cannot be lowered to {score}, it stays: {error}");
            Ok(())
        }
        result => result,
    }
}
