//! `start`.

use super::Global;
use crate::error::Result;
use crate::life;
use crate::state::ContainerId;

/// `start`.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// name of the container
    id: ContainerId,
}

impl Start {
    /// Runs the command of the container.
    pub fn run(self, global: &Global) -> Result<i32> {
        life::start(&global.store().load(&self.id)?)?;
        Ok(0)
    }
}
