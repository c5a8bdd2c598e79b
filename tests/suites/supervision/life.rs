//! How a supervisor ends.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shale_tests::fixture::listed;
use shale_tests::mount::Backend;

use crate::data::fill_files;
use crate::killer::{kill_once, server_of};
use crate::supervised;

/// A server that cannot live is given up, and nobody waits for it.
#[test]
fn a_server_that_dies_again_and_again_is_given_up() {
    if !Backend::ShalePlain.is_available_or_skip() {
        return;
    }
    let (mut fixture, supervisor) = supervised(Backend::ShalePlain, false, &[], fill_files);
    let task = format!("/proc/{supervisor}/task/{supervisor}/children");
    let give_up = Instant::now() + Duration::from_secs(60);
    // A supervisor that has ended is a zombie without children.
    while Path::new(&format!("/proc/{supervisor}/exe")).read_link().is_ok() {
        assert!(Instant::now() < give_up, "the supervisor does not give up");
        let children = fs::read_to_string(&task).unwrap_or_default();
        if let Some(Ok(server)) = children.split_whitespace().next().map(str::parse) {
            let _ = kill(Pid::from_raw(server), Signal::SIGKILL);
        }
    }
    let error = fixture.at("many").read_dir().expect_err("a dead mount");
    assert!(
        [libc::ENOTCONN, libc::ECONNABORTED].contains(&error.raw_os_error().unwrap_or(0)),
        "{error}"
    );
    fixture.abandon_mount();
}

/// A signal to the supervisor takes the mount away and ends both.
#[test]
fn a_signal_unmounts() {
    if !Backend::ShaleImage.is_available_or_skip() {
        return;
    }
    let (mut fixture, supervisor) = supervised(Backend::ShaleImage, false, &[], fill_files);
    kill_once(supervisor);
    let server = server_of(supervisor).expect("a server");
    kill(Pid::from_raw(supervisor), Signal::SIGTERM).expect("ask to end");
    let give_up = Instant::now() + Duration::from_secs(20);
    while Path::new(&format!("/proc/{supervisor}/exe")).read_link().is_ok() {
        assert!(Instant::now() < give_up, "the supervisor does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        !Path::new(&format!("/proc/{server}")).exists(),
        "the server is left"
    );
    assert!(listed(fixture.root()).is_empty(), "still mounted");
    fixture.abandon_mount();
}
