//! `run`: create, start, wait and delete.

use super::Global;
use super::create::Making;
use crate::error::Result;
use crate::life;
use crate::process::foreground::{self, Signals};
use crate::process::parent;

/// `run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    making: Making,
    /// leave it running
    #[arg(short, long)]
    detach: bool,
    /// do not delete it when it ends
    #[arg(long)]
    keep: bool,
    /// do not collect orphaned processes of the container
    #[arg(long)]
    no_subreaper: bool,
}

impl Run {
    /// Runs the container; the status is that of its command.
    pub fn run(self, global: &Global) -> Result<i32> {
        let options = self.making.options(global, false, self.detach)?;
        let signals = if self.detach { None } else { Some(Signals::take()?) };
        if signals.is_some() && !self.no_subreaper {
            // Without it, orphans of a container without its own pid namespace go to the system's init: no harm.
            let _ = nix::sys::prctl::set_child_subreaper(true);
        }
        let created = parent::create(&global.store(), &options)?;
        let container = created.container;
        if let Err(error) = parent::launch(created.channel) {
            return Err(error.with_cleanup(life::delete_forced(&container)));
        }
        life::call_poststart(&container);
        let Some(signals) = signals else { return Ok(0) };
        crate::log::flush();
        let waited = foreground::wait(container.pid(), &signals, created.terminal);
        if self.keep {
            return waited;
        }
        match (waited, life::delete_forced(&container)) {
            (Err(error), deleted) => Err(error.with_cleanup(deleted)),
            (Ok(status), deleted) => deleted.map(|()| status),
        }
    }
}
