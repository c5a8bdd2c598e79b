//! Compiles C files that include many headers, and links them; the compiler itself is that of the machine.

use std::process::Command;

use super::{Ability, Caches, Change, Outcome, Site, Workload, needs};
use crate::data::{Sizes, Stack};
use crate::error::{Doing, Result};
use crate::scratch;

/// The compilation.
pub(super) struct Gcc;

impl Workload for Gcc {
    fn name(&self) -> &'static str {
        "gcc"
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!("compile {} C files with 40 headers, and link them", sizes.sources)
    }

    fn stack(&self) -> Stack {
        Stack::Sources
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn change(&self) -> Change {
        Change::Adds
    }

    fn obstacle(&self, _ability: Ability) -> Option<String> {
        needs("gcc")
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let mut link = Command::new("gcc");
        link.args(["-o", "program"]).current_dir(site.root);
        for number in 0..site.sizes.sources {
            let mut compile = Command::new("gcc");
            compile.args(["-O1", "-c"]).arg(format!("c{number}.c"));
            scratch::run(compile.current_dir(site.root))?;
            link.arg(format!("c{number}.o"));
        }
        scratch::run(&mut link)?;
        let program = site.root.join("program");
        std::fs::metadata(&program).doing("find", &program)?;
        Ok(Outcome::Done)
    }
}
