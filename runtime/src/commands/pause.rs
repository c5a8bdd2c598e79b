//! `pause` and `resume`.

use super::Global;
use crate::error::{Error, Result};
use crate::state::{ContainerId, Status};

/// `pause` and `resume`.
#[derive(Debug, clap::Args)]
pub struct Pause {
    /// name of the container
    id: ContainerId,
}

impl Pause {
    /// Stops the processes, or lets them go on.
    pub fn run(self, global: &Global, pause: bool) -> Result<i32> {
        let container = global.store().load(&self.id)?;
        let status = container.status();
        let fits = if pause {
            matches!(status, Status::Running | Status::Created)
        } else {
            status == Status::Paused
        };
        if !fits {
            let verb = if pause { "paused" } else { "resumed" };
            return Err(Error::invalid(format!(
                "a container that is {status} cannot be {verb}"
            )));
        }
        container.state.cgroup.freeze(pause)?;
        Ok(0)
    }
}
