//! What passes from a server to the one after it, and the handshake with a kernel that has shaken hands already.
//!
//! ```text
//! first server     device ──INIT──► journal ─► socket ─► library ──reply──► socket ─► device
//! a later one                       journal ─► socket ─► library ──reply──► socket ─► (known already)
//! both             device put in the place of the library's end of the socket; what was unanswered is asked for again
//! ```
//!
//! The kernel keeps a connection as long as one descriptor of its device is open. The supervisor holds it, so that
//! requests wait for the next server when one dies.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::io::Errno;

use super::Adapter;
use super::counted::Counted;
use crate::journal::{Journal, KeptFiles, Live, Record, Store};
use crate::sys::{self, mount};

/// The smallest buffer that the kernel reads requests into (`FUSE_MIN_READ_BUFFER`).
const REQUEST_BYTES: usize = 8192;

/// Where `flags` and `flags2` of `struct fuse_init_in` lie, after the 40 bytes of the header.
const FLAGS_AT: usize = 40 + 12;
const FLAGS2_AT: usize = 40 + 16;
const INIT_EXT: u32 = 1 << 30;
/// `FUSE_HAS_RESEND`, bit 39 of both.
const HAS_RESEND: u32 = 1 << (39 - 32);

/// What the supervisor keeps while servers come and go.
#[derive(Debug)]
pub struct Kept {
    pub(crate) device: Arc<OwnedFd>,
    store: Store,
    /// Deleted files that are open.
    pub(super) files: KeptFiles,
}

impl Kept {
    /// A device that nothing is mounted on yet, and an empty journal.
    pub(super) fn new() -> Result<Self, crate::SetupError> {
        let device = mount::open_device().map_err(|source| crate::SetupError::Device { source })?;
        let made = Store::new().and_then(|store| Ok((store, KeptFiles::new()?)));
        let (store, files) = made.map_err(|source| crate::SetupError::Io {
            doing: "make a journal in memory",
            source,
        })?;
        Ok(Self {
            device: Arc::new(device),
            store,
            files,
        })
    }

    /// The journal to go on with, and what it holds.
    pub(super) fn journal(&self) -> io::Result<(Journal, Live)> {
        Journal::resume(&self.store, Some(self.files.keeper()))
    }

    /// Whether a server has begun, and another could go on after it: before Linux 6.9 the requests that were under
    /// way would never be answered.
    pub(super) fn can_resume(&self) -> bool {
        let init = self.store.read().ok().and_then(|live| live.init);
        init.is_some_and(|init| can_ask_again(&init))
    }
}

fn can_ask_again(init: &[u8]) -> bool {
    let word = |at: usize| {
        init.get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_ne_bytes)
    };
    word(FLAGS_AT) & INIT_EXT != 0 && word(FLAGS2_AT) & HAS_RESEND != 0
}

/// Reads the request that the kernel begins with, of a file system mounted just now.
pub(super) fn receive_init(device: &OwnedFd, journal: &Journal) -> io::Result<Vec<u8>> {
    let mut request = vec![0; REQUEST_BYTES];
    let length = sys::retry(|| rustix::io::read(device, &mut request[..]))?;
    request.truncate(length);
    journal.note(&Record::Init(&request));
    Ok(request)
}

/// Makes a session on a device whose INIT request is `init`, whether or not it was answered before.
pub(super) fn shake_hands(
    adapter: Counted<Adapter>,
    device: &OwnedFd,
    init: &[u8],
    config: fuser::Config,
) -> io::Result<fuser::Session<Counted<Adapter>>> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    rustix::io::write(&ours, init)?;
    let session = fuser::Session::from_fd(adapter, theirs, fuser::SessionACL::All, config)?;
    let mut reply = [0; REQUEST_BYTES];
    let length = sys::retry(|| rustix::io::read(&ours, &mut reply))?;
    match rustix::io::write(device, &reply[..length]) {
        Ok(_) => {}
        // An earlier server has answered it.
        Err(Errno::NOENT) => {}
        // Unmounted meanwhile: the loop will find out.
        Err(Errno::NODEV | Errno::PERM | Errno::CONNABORTED) => {}
        Err(error) => return Err(error.into()),
    }
    sys::fuse::put_in_place(device, session.as_fd())?;
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resending_is_announced_in_the_second_word() {
        let mut init = vec![0; 104];
        assert!(!can_ask_again(&init));
        init[FLAGS2_AT] = 0x80;
        assert!(!can_ask_again(&init), "the second word does not count yet");
        init[FLAGS_AT + 3] = 0x40;
        assert!(can_ask_again(&init));
        assert!(!can_ask_again(&init[..50]));
    }
}
