//! `exec`.

use std::path::PathBuf;

use super::Global;
use super::create::preserved;
use crate::error::{Context, Error, Result};
use crate::process::exec::{self, ExecOptions};
use crate::process::foreground::{self, Signals};
use crate::spec::{Process, User};
use crate::state::{Container, ContainerId, Status, write_whole};

/// `exec`.
#[derive(Debug, clap::Args)]
pub struct Exec {
    /// socket that gets the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// more variables, as NAME=value
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// with a terminal
    #[arg(short, long)]
    tty: bool,
    /// user, as uid or uid:gid
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// additional groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// file that describes the process
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// do not wait for it
    #[arg(short, long)]
    detach: bool,
    /// file that gets the process id
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// exec may not give new rights
    #[arg(long)]
    no_new_privs: bool,
    /// more capabilities
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// pass descriptors 3 to 2+N to the command
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
    /// also in a paused container
    #[arg(long)]
    ignore_paused: bool,
    /// name of the container
    id: ContainerId,
    /// command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    /// Runs the command; the status is its own.
    pub fn run(self, global: &Global) -> Result<i32> {
        let container = global.store().load(&self.id)?;
        match container.status() {
            Status::Stopped => return Err(Error::invalid("cannot exec in a stopped container")),
            Status::Paused if !self.ignore_paused => {
                return Err(Error::invalid(
                    "cannot exec in a paused container (use --ignore-paused to override)",
                ));
            }
            _ => {}
        }
        let process = self.describe(&container)?;
        let options = ExecOptions {
            console_socket: self.console_socket.clone(),
            detach: self.detach,
            preserve_fds: preserved(self.preserve_fds)?,
        };
        let signals = if self.detach { None } else { Some(Signals::take()?) };
        if signals.is_some() {
            let _ = nix::sys::prctl::set_child_subreaper(true);
        }
        let executed = exec::exec(&container, &process, &options)?;
        if let Some(path) = &self.pid_file {
            write_whole(path, executed.pid.to_string().as_bytes())?;
        }
        match signals {
            Some(signals) => foreground::wait(executed.pid, &signals, executed.terminal),
            None => Ok(0),
        }
    }

    /// From a file as it is; otherwise the container's own process with what the options change.
    fn describe(&self, container: &Container) -> Result<Process> {
        if let Some(path) = &self.process {
            let text = std::fs::read(path).context(|| format!("read {}", path.display()))?;
            let mut process: Process =
                serde_json::from_slice(&text).context(|| format!("read the process {}", path.display()))?;
            process.terminal |= self.tty;
            return Ok(process);
        }
        if self.command.is_empty() {
            return Err(Error::invalid("give a command, or a file with --process"));
        }
        let mut process = container.state.spec.process()?.clone();
        process.args.clone_from(&self.command);
        process.terminal = self.tty;
        process.console_size = None;
        process.no_new_privileges |= self.no_new_privs;
        process.cwd = self.cwd.clone().unwrap_or(process.cwd);
        for entry in &self.env {
            let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
            process
                .env
                .retain(|known| known.split_once('=').is_none_or(|(known, _)| known != name));
            process.env.push(entry.clone());
        }
        if let Some(user) = &self.user {
            process.user = parse_user(user, &process.user)?;
        }
        process.user.additional_gids.extend(&self.additional_gids);
        process.selinux_label = self.process_label.clone().or(process.selinux_label);
        process.apparmor_profile = self.apparmor.clone().or(process.apparmor_profile);
        if let (Some(sets), false) = (process.capabilities.as_mut(), self.cap.is_empty()) {
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                set.extend(self.cap.iter().cloned());
            }
        }
        Ok(process)
    }
}

fn parse_user(text: &str, own: &User) -> Result<User> {
    let number = |text: &str| {
        text.parse()
            .map_err(|_| Error::invalid(format!("--user: {text:?} is not a number")))
    };
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (number(uid)?, number(gid)?),
        None => (number(text)?, own.gid),
    };
    Ok(User {
        uid,
        gid,
        ..own.clone()
    })
}
