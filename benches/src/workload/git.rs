//! Puts the whole tree under version control: `git add` reads, hashes and writes every file, `git commit` the tree.

use std::path::Path;
use std::process::Command;

use super::{Ability, Caches, Change, Outcome, Site, Workload, needs};
use crate::data::{Sizes, Stack};
use crate::error::{Doing, Result};
use crate::scratch;

/// The commit.
pub(super) struct Git;

impl Workload for Git {
    fn name(&self) -> &'static str {
        "git"
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!("git add and git commit of {} files", sizes.files)
    }

    fn stack(&self) -> Stack {
        Stack::Tree
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn change(&self) -> Change {
        Change::Adds
    }

    fn obstacle(&self, _ability: Ability) -> Option<String> {
        needs("git")
    }

    fn prepare(&self, site: Site<'_>) -> Result<()> {
        scratch::run(git(site.root).args(["init", "--quiet"]))
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        scratch::run(git(site.root).args(["add", "--all"]))?;
        scratch::run(git(site.root).args(["commit", "--quiet", "--message", "all"]))?;
        let head = site.root.join(".git/logs/HEAD");
        std::fs::metadata(&head).doing("find", &head)?;
        Ok(Outcome::Done)
    }
}

/// git without anyone's configuration, and without its own idea of housekeeping.
fn git(root: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(root);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "bench");
        command.env(format!("GIT_{who}_EMAIL"), "bench@example.org");
    }
    command.args([
        "-c",
        "gc.auto=0",
        "-c",
        "maintenance.auto=false",
        "-c",
        "safe.directory=*",
    ]);
    command
}
