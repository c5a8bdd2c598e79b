//! Requests that no kernel would send, fed to a server through a socket: what tests and a fuzz target share.
//!
//! ```text
//! bytes ──script──► requests ──socket──► library ─► adapter ─► Fs over scratch directories
//!                                  ◄── replies: whole, an errno or an answer, nothing of the canary
//! ```
//!
//! Errors are fine. A panic, a request that is never answered, a layer or a file outside that changed, and a byte of
//! what lies outside in an answer are faults.
//!
//! Left out is what the library itself does not survive and the kernel cannot send: lengths in a request that
//! contradict its own (the session ends, or an assertion of the library fails), times beyond what a file system keeps
//! (`timestamp_truncate` in the kernel's fs/inode.c), a directory listing of more than the largest request.

mod script;
mod stand;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::TimeVal;

use super::{Adapter, Behaviour};
use crate::fs::Fs;
use crate::sys;
use script::{Reply, Script};
pub use stand::Stand;

/// How long a request may take before it counts as never answered.
const ANSWER_SECS: i64 = 60;

/// Requests of one input at most.
const REQUESTS_MAX: usize = 256;

/// The largest reply that is read.
const REPLY_BYTES_MAX: usize = 2 << 20;

const GETATTR: u32 = 3;
const INIT: u32 = 26;
const DESTROY: u32 = 38;

/// Feeds the requests that `input` says to a server of `fs`, until there are no more. `skip_open`: as
/// [`Behaviour::skip_open`]. `canary`: bytes that no reply may hold. Returns how many requests were answered.
///
/// # Panics
/// When the server does not answer, panics, or gives an answer that is none.
pub(crate) fn feed(fs: Fs, skip_open: bool, input: &[u8], canary: &[u8]) -> usize {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .expect("a pair of sockets");
    setsockopt(&ours, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_SECS, 0)).expect("a limit of time");
    let mut line = Line {
        socket: ours,
        canary,
        buffer: vec![0; REPLY_BYTES_MAX],
        unique: 2,
        answers: 0,
    };
    line.send(&script::request(
        INIT,
        line.unique,
        0,
        (0, 0),
        &script::init_body(),
    ));
    let server = serve(fs, skip_open, theirs);
    line.receive();
    let mut script = Script::new(input);
    for _ in 0..REQUESTS_MAX {
        let Some(request) = script.next(line.unique + 2) else {
            break;
        };
        line.unique += 2;
        line.send(&request.bytes);
        // Not all requests are answered, but all before this one are when it is.
        line.unique += 2;
        line.send(&script::request(GETATTR, line.unique, 1, (0, 0), &[0; 16]));
        loop {
            let reply = line.receive();
            if reply.unique == line.unique {
                break;
            }
            assert_eq!(reply.unique + 2, line.unique, "an answer to what was not asked");
            script.learn(&request, &reply);
        }
    }
    line.send(&script::request(DESTROY, line.unique + 2, 0, (0, 0), &[]));
    let ended = server.join().expect("the server's thread does not panic");
    ended.expect("the session ends well");
    line.answers
}

/// Serves from a thread of its own. Nothing ahead of its reading is given: there is no kernel to give it to.
fn serve(fs: Fs, skip_open: bool, socket: OwnedFd) -> std::thread::JoinHandle<io::Result<()>> {
    let behaviour = Behaviour {
        timeout: Duration::from_secs(1),
        acl: true,
        skip_open,
        passthrough: true,
        writeback: false,
    };
    std::thread::spawn(move || {
        let (adapter, _giver) = Adapter::new(Arc::new(fs), behaviour);
        let config = fuser::Config::default();
        fuser::Session::from_fd(adapter, socket, fuser::SessionACL::All, config)?.run()
    })
}

/// The kernel's end.
struct Line<'a> {
    socket: OwnedFd,
    canary: &'a [u8],
    buffer: Vec<u8>,
    unique: u64,
    answers: usize,
}

impl Line<'_> {
    fn send(&self, request: &[u8]) {
        sys::retry(|| rustix::io::write(&self.socket, request)).expect("the server takes requests");
    }

    /// The next reply.
    fn receive(&mut self) -> Reply {
        let read = sys::retry(|| rustix::io::read(&self.socket, &mut self.buffer[..]));
        let length = read.expect("every request is answered");
        assert!(length > 0, "the server has ended");
        let reply = &self.buffer[..length];
        let shows = reply.windows(self.canary.len()).any(|part| part == self.canary);
        assert!(!shows, "a reply shows what lies outside");
        self.answers += 1;
        Reply::parse(reply).expect("a reply says its length and an errno")
    }
}
