//! A version control system at work.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use shale_tests::fixture::put;
use shale_tests::mount::Backend;
use shale_tests::scratch::run;
use shale_tests::skip::{Tier, skip};

use crate::data::content;
use crate::killer::Killer;
use crate::{RUN, supervised};

const FILES: u64 = 30;

/// A git that takes nothing from the machine's settings.
fn git(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(arguments);
    for (name, value) in [
        ("GIT_AUTHOR_NAME", "a"),
        ("GIT_AUTHOR_EMAIL", "a@example.org"),
        ("GIT_COMMITTER_NAME", "a"),
        ("GIT_COMMITTER_EMAIL", "a@example.org"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "safe.directory"),
        ("GIT_CONFIG_VALUE_0", "*"),
    ] {
        command.env(name, value);
    }
    run(&mut command);
}

fn commit(repository: &Path, number: u64) {
    for file in 0..FILES {
        let path = format!("d{}/f{file}", file % 5);
        put(repository, &path, content(number * 100 + file, 2_000));
    }
    git(repository, &["add", "-A"]);
    git(repository, &["commit", "-q", "-m", "more"]);
    git(repository, &["tag", &format!("t{number}")]);
}

fn verify(repository: &Path, number: u64) {
    git(repository, &["checkout", "-q", &format!("t{number}")]);
    for file in 0..FILES {
        let found = fs::read(repository.join(format!("d{}/f{file}", file % 5))).expect("read");
        assert!(
            found == content(number * 100 + file, 2_000),
            "f{file} of t{number}"
        );
    }
    git(repository, &["checkout", "-q", "main"]);
}

/// Clones, commits, goes back and forth, packs and checks.
fn git_goes_on(backend: Backend) {
    if shale_tests::programs::system_binary("git").is_none() {
        return skip(Tier::Tool, "no git");
    }
    if !backend.is_available_or_skip() {
        return;
    }
    let (fixture, supervisor) = supervised(backend, true, &[], |_| {});
    let source = fixture.scratch().directory("source");
    git(&source, &["init", "-q", "-b", "main"]);
    commit(&source, 0);
    commit(&source, 1);
    let killer = Killer::start(supervisor);
    let deadline = Instant::now() + 2 * RUN;
    // By its protocol, so that a pack is written and read.
    let url = format!("file://{}", source.display());
    git(fixture.root(), &["clone", "-q", &url, "repository"]);
    let repository = fixture.at("repository");
    let mut commits: u64 = 2;
    while Instant::now() < deadline {
        commit(&repository, commits);
        commits += 1;
        match commits % 4 {
            0 => verify(&repository, commits / 2),
            1 => git(&repository, &["gc", "-q", "--prune=now"]),
            2 => git(&repository, &["fsck", "--full", "--strict"]),
            _ => {}
        }
    }
    killer.finish();
    assert!(commits > 5, "only {commits} commits");
    git(&repository, &["fsck", "--full", "--strict"]);
    for number in 0..commits {
        verify(&repository, number);
    }
}

#[test]
fn git_with_passthrough_goes_on() {
    git_goes_on(Backend::ShalePassthrough);
}

#[test]
fn git_without_passthrough_goes_on() {
    git_goes_on(Backend::ShalePlain);
}
