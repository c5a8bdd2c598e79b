//! What the server's memory grows by when the kernel gets to know many inodes, and what is left of that when the kernel
//! has forgotten them. The kernel's own memory is not counted.

use super::walk::walk;
use super::{Ability, Caches, Kind, Outcome, Site, Unit, Workload};
use crate::data::{Sizes, Stack, expect};
use crate::error::{BenchError, Result};
use crate::{host, scratch};

/// The figures are for so many inodes.
const INODES: f64 = 100_000.0;

/// When it is looked at.
pub(super) enum Memory {
    /// While the kernel knows the inodes.
    Known,
    /// After it was made to forget them.
    Forgotten,
}

impl Workload for Memory {
    fn name(&self) -> &'static str {
        match self {
            Self::Known => "server-memory",
            Self::Forgotten => "server-memory-forgotten",
        }
    }

    fn about(&self, sizes: &Sizes) -> String {
        let when = match self {
            Self::Known => "",
            Self::Forgotten => " and forgotten again",
        };
        format!(
            "growth of the server's resident memory per 100,000 inodes, {} walked{when}",
            sizes.inodes
        )
    }

    fn stack(&self) -> Stack {
        Stack::Inodes
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn unit(&self) -> Unit {
        Unit::Bytes
    }

    fn obstacle(&self, ability: Ability) -> Option<String> {
        let forbidden = matches!(self, Self::Forgotten) && !ability.root;
        forbidden.then(|| "only root can make the kernel forget".to_owned())
    }

    fn unfit(&self, kind: Kind) -> Option<&'static str> {
        (!kind.served).then_some("no server")
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let resident = || {
            let memory = site.server.and_then(host::memory_of);
            let (_, kib) = memory.ok_or_else(|| BenchError::Wrong("the server is gone".to_owned()))?;
            Ok::<_, BenchError>(kib as f64 * 1024.0)
        };
        let before = resident()?;
        expect("entries walked", walk(site.root)?, site.data.tree().entries)?;
        if matches!(self, Self::Forgotten) {
            scratch::drop_inodes()?;
        }
        let growth = (resident()? - before).max(0.0);
        Ok(Outcome::Value(growth * INODES / site.data.tree().entries as f64))
    }
}
