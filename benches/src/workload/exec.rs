//! Executes a shell that does nothing, again and again: program and C library are mapped from the mount.

use std::process::{Command, Stdio};

use super::{Caches, Outcome, Site, Workload};
use crate::data::{Sizes, Stack, expect};
use crate::error::{Doing, Result};

/// The executions.
pub(super) struct Exec;

impl Workload for Exec {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!("execute `sh -c :` {} times", sizes.exec)
    }

    fn stack(&self) -> Stack {
        Stack::Programs
    }

    fn caches(&self) -> Caches {
        Caches::WarmMount
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let program = site.root.join("sh");
        let mut succeeded = 0;
        for _ in 0..site.sizes.exec {
            let status = Command::new(&program)
                .args(["-c", ":"])
                .env_clear()
                .env("LD_LIBRARY_PATH", site.root)
                .stdin(Stdio::null())
                .status()
                .doing("execute", &program)?;
            succeeded += usize::from(status.success());
        }
        expect("programs that succeeded", succeeded, site.sizes.exec)?;
        Ok(Outcome::Done)
    }
}
