//! `delete`.

use super::Global;
use crate::error::Result;
use crate::life;
use crate::state::ContainerId;

/// `delete`.
#[derive(Debug, clap::Args)]
pub struct Delete {
    /// even while it runs; no error if it does not exist
    #[arg(short, long)]
    force: bool,
    /// name of the container
    id: ContainerId,
}

impl Delete {
    /// Deletes the container.
    pub fn run(self, global: &Global) -> Result<i32> {
        let store = global.store();
        let container = match store.load(&self.id) {
            Err(error) => {
                return if self.force {
                    let unfinished = store.load_unfinished(&self.id)?;
                    unfinished.as_ref().map_or(Ok(0), |unfinished| {
                        life::delete_unfinished(unfinished).map(|()| 0)
                    })
                } else {
                    Err(error)
                };
            }
            Ok(container) => container,
        };
        if self.force {
            life::delete_forced(&container)?;
        } else {
            life::delete(&container)?;
        }
        Ok(0)
    }
}
