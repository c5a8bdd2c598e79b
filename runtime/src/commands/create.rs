//! `create`, and the options that `run` shares with it.

use std::path::PathBuf;

use super::Global;
use crate::error::{Context, Error, Result};
use crate::process::parent::{self, CreateOptions};
use crate::state::ContainerId;

/// Options of `create` and `run`.
#[derive(Debug, clap::Args)]
pub struct Making {
    /// directory with config.json
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    pub bundle: PathBuf,
    /// socket that gets the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// file that gets the process id
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// chroot instead of pivot_root, for a root on an initramfs
    #[arg(long)]
    pub no_pivot: bool,
    /// keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// pass descriptors 3 to 2+N to the command
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub preserve_fds: u32,
    /// name of the container
    pub id: ContainerId,
}

/// `create`.
#[derive(Debug, clap::Args)]
pub struct Create {
    #[command(flatten)]
    making: Making,
}

impl Making {
    /// As the engine wants them.
    pub fn options(self, global: &Global, wait_for_start: bool, detach: bool) -> Result<CreateOptions> {
        Ok(CreateOptions {
            preserve_fds: preserved(self.preserve_fds)?,
            listen_fds: listen_fds(),
            id: self.id,
            bundle: self.bundle,
            console_socket: self.console_socket,
            pid_file: self.pid_file,
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            systemd_cgroup: global.systemd_cgroup,
            wait_for_start,
            detach,
        })
    }
}

/// Sockets that whoever started this process passed on.
fn listen_fds() -> u32 {
    std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

/// Descriptors to keep: those asked for and those of socket activation. All must be open, lest one of the runtime's
/// own takes the number (CVE-2024-21626).
pub fn preserved(asked: u32) -> Result<u32> {
    let count = asked.saturating_add(listen_fds());
    if count > 4096 {
        return Err(Error::invalid("--preserve-fds: more than 4096 descriptors"));
    }
    for fd in 3..3 + count as i32 {
        crate::sys::process::set_cloexec(fd, true)
            .context(|| format!("--preserve-fds: descriptor {fd} is not open"))?;
    }
    Ok(count)
}

impl Create {
    /// Makes the container and leaves it waiting.
    pub fn run(self, global: &Global) -> Result<i32> {
        let options = self.making.options(global, true, true)?;
        parent::create(&global.store(), &options)?;
        Ok(0)
    }
}
