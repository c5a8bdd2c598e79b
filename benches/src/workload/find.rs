//! Several `find` at a time, each in its share of the tree, on a mount that has seen none of it.

use std::process::{Command, Stdio};

use super::{Ability, Caches, Outcome, Site, Workload, needs};
use crate::data::{Sizes, Stack, expect};
use crate::error::{BenchError, Doing, Result};

/// Programs at a time.
const PROGRAMS: usize = 4;

/// The search.
pub(super) struct Find;

impl Workload for Find {
    fn name(&self) -> &'static str {
        "find-parallel"
    }

    fn about(&self, _sizes: &Sizes) -> String {
        format!("{PROGRAMS} × find -size at a time, each in its share of the tree")
    }

    fn stack(&self) -> Stack {
        Stack::Real
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn obstacle(&self, _ability: Ability) -> Option<String> {
        needs("find")
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        // Shares are taken one level below the top, where a root file system has enough directories to share out.
        let mut starts = Vec::new();
        for entry in std::fs::read_dir(site.root).doing("list", site.root)? {
            let path = entry.doing("list", site.root)?.path();
            match path.is_dir() && !path.is_symlink() {
                true => {
                    for inner in std::fs::read_dir(&path).doing("list", &path)? {
                        starts.push(inner.doing("list", &path)?.path());
                    }
                }
                false => starts.push(path),
            }
        }
        starts.sort();
        let mut programs = Vec::new();
        for share in 0..PROGRAMS.min(starts.len()) {
            let mut find = Command::new("find");
            find.args(starts.iter().skip(share).step_by(PROGRAMS));
            // smaller than 4 TiB: true of every file, but only its attributes tell
            find.args(["-type", "f", "-size", "-4194304M"]);
            find.stdin(Stdio::null()).stdout(Stdio::piped());
            programs.push(find.spawn().map_err(|source| BenchError::Program {
                program: "find".to_owned(),
                source,
            })?);
        }
        let mut readers = Vec::new();
        for program in programs {
            readers.push(std::thread::spawn(move || program.wait_with_output()));
        }
        let mut found = 0;
        for reader in readers {
            let output = reader
                .join()
                .map_err(|_| BenchError::Wrong("a reader of find's output panicked".to_owned()))?;
            let output = output.doing("read what is printed by", "find".as_ref())?;
            if !output.status.success() {
                return Err(BenchError::Wrong(format!("find: {}", output.status)));
            }
            found += output.stdout.iter().filter(|byte| **byte == b'\n').count();
        }
        expect("files found", found, site.data.tree().files)?;
        Ok(Outcome::Done)
    }
}
