//! What `run` does with the standard streams while it serves a terminal.

mod support;

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Bundle, OURS, ready};

fn with_terminal(script: &str) -> Bundle {
    let mut bundle = Bundle::script(OURS, script);
    bundle.config["process"]["terminal"] = json!(true);
    bundle
}

/// The status, within a time that no machine needs; whatever goes on is killed.
fn status_of(mut child: Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// `run … | head -1`
#[test]
fn a_reader_that_goes_away_hangs_the_terminal_up() {
    if !ready() {
        return;
    }
    let bundle = with_terminal("exec busybox yes");
    let mut child = bundle
        .command(&["run", &bundle.id()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 3];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"y\r\n");
    // The first process of a container need not die of SIGHUP, but it can write no more.
    assert_eq!(status_of(child), Some(1));
}

/// A pipe whose reader is slow and whose writers do not wait, as those of event loops are.
#[test]
fn nothing_is_lost_on_a_full_pipe_that_does_not_block() {
    if !ready() {
        return;
    }
    const LINES: usize = 30_000;
    let bundle = with_terminal(&format!(
        "i=0; while test $i -lt {LINES}; do i=$((i+1)); echo $i; done"
    ));
    let (mut reader, writer) = std::io::pipe().unwrap();
    let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(&writer, flags).unwrap();
    let child = bundle
        .command(&["run", &bundle.id()])
        .stdout(writer)
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let expected: String = (1..=LINES).map(|line| format!("{line}\r\n")).collect();
    assert!(
        text == expected,
        "{} of {} bytes came",
        text.len(),
        expected.len()
    );
    assert_eq!(status_of(child), Some(0));
}

/// The null device as standard input is nobody who types, and nobody who ends the input.
#[test]
fn the_null_device_types_nothing() {
    if !ready() {
        return;
    }
    let bundle = with_terminal("(cat </dev/console; echo ended) & sleep 0.5; echo still");
    let text = bundle.run_ok();
    assert_eq!(text, "still\r\n");
}

/// With no terminal as standard input, the size is that of the one that shows the output. It is there before the
/// command is: the hook keeps the runtime from serving the terminal until the command is over.
#[test]
fn the_size_may_come_from_standard_output() {
    if !ready() {
        return;
    }
    let size = nix::pty::Winsize {
        ws_row: 33,
        ws_col: 111,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let outer = nix::pty::openpty(Some(&size), None).unwrap();
    let mut bundle = with_terminal("busybox stty size");
    let wait = "/bin/sleep";
    bundle.config["hooks"] = json!({"poststart": [{"path": wait, "args": [wait, "0.5"]}]});
    let child = bundle
        .command(&["run", &bundle.id()])
        .stdout(outer.slave)
        .spawn()
        .unwrap();
    assert_eq!(status_of(child), Some(0));
    let mut buffer = [0; 100];
    let length = nix::unistd::read(&outer.master, &mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(text.starts_with("33 111"), "{text:?}");
}
