//! Visible skips: a test whose precondition is not met says so on stderr, past libtest's capture.
//!
//! `SHALE_TESTS_NO_SKIP=1` (or a comma-separated list of tiers) turns the skip of a listed tier into a
//! failure, so that a machine that is meant to have everything cannot quietly run nothing.

use std::io::Write;

/// What a test needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Real root: loop devices, mounts, `trusted.*` attributes.
    Root,
    /// The kernel's overlayfs.
    Overlay,
    /// The peer program `fuse-overlayfs`.
    FuseOverlayfs,
    /// Our mount program, built beside the tests, and `/dev/fuse`.
    ShaleUfs,
    /// `podman` with `runc`.
    Podman,
    /// A tool of the base system (`setfacl`, `setcap`, `busybox`, ...).
    Tool,
    /// A feature that the file system under test may lawfully lack.
    Feature,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Tier::Root => "root",
            Tier::Overlay => "overlay",
            Tier::FuseOverlayfs => "fuse-overlayfs",
            Tier::ShaleUfs => "shale-ufs",
            Tier::Podman => "podman",
            Tier::Tool => "tool",
            Tier::Feature => "feature",
        }
    }

    /// Whether skipping this tier is forbidden. `Feature` has to be named explicitly.
    fn is_required(self) -> bool {
        match std::env::var("SHALE_TESTS_NO_SKIP") {
            Ok(value) if value == "1" || value == "all" => self != Tier::Feature,
            Ok(value) => value.split(',').any(|tier| tier.trim() == self.name()),
            Err(_) => false,
        }
    }
}

/// Announces that the running test is skipped, or fails it when the tier is required.
pub fn skip(tier: Tier, reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("test").to_owned();
    assert!(
        !tier.is_required(),
        "{name} needs tier {} and must not be skipped: {reason}",
        tier.name()
    );
    // Past the capture of libtest, which only redirects the print macros; a closed stderr is not our concern.
    let _ = writeln!(std::io::stderr(), "SKIP {name}: {reason}");
}

/// Whether the tests run as root; skips the running test otherwise.
#[must_use]
pub fn is_root_or_skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(
            Tier::Root,
            "needs root for loop devices and mounts; run the tests with sudo",
        );
    }
    root
}
