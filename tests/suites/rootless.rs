//! The model once more inside a user namespace: `user.overlay.*` attributes, one owner, no privileges outside.
//!
//! Each test starts this very program again inside `unshare --user --map-root-user`, where the ignored test
//! `inside` does the work. The kernel's overlayfs is no reference here: in a user namespace it has neither
//! redirects nor metadata-only copies; the model is, which the suite `model` holds against it.

use shale_tests::mount::Backend;
use shale_tests::runner::{Plan, run_random};
use shale_tests::scratch::{SCRATCH_VARIABLE, Scratch, is_rootless};
use shale_tests::skip::{Tier, skip};
use shale_tests::strategies::Shape;
use std::process::Command;

const BACKEND_VARIABLE: &str = "SHALE_TESTS_ROOTLESS_BACKEND";

fn run_inside(backend: &str) {
    if !Backend::ShalePlain.is_available_or_skip() {
        return;
    }
    if shale_tests::programs::system_binary("unshare").is_none() {
        return skip(Tier::Tool, "unshare is missing; install util-linux");
    }
    let scratch = Scratch::new();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "inside", "--nocapture"])
        .env(SCRATCH_VARIABLE, scratch.path())
        .env(BACKEND_VARIABLE, backend)
        .output()
        .expect("start unshare");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && said.contains("1 passed"),
        "inside the user namespace: {said}"
    );
}

#[test]
fn shale_passthrough() {
    run_inside("passthrough");
}

#[test]
fn shale_plain() {
    run_inside("plain");
}

#[test]
#[ignore = "runs inside the user namespace that the other tests make"]
fn inside() {
    if !is_rootless() {
        return skip(Tier::Feature, "not inside a user namespace");
    }
    let plain = std::env::var(BACKEND_VARIABLE).is_ok_and(|value| value == "plain");
    let backend = if plain {
        Backend::ShalePlain
    } else {
        Backend::ShalePassthrough
    };
    let plan = Plan {
        unions: vec![backend],
        readers: vec![],
        stackers: vec![backend],
        compare_every: 2,
    };
    run_random(
        Shape {
            one_user: true,
            ..Shape::default()
        },
        &plan,
        50,
    );
}
