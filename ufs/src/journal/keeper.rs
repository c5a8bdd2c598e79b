//! Deleted files that are still open: the supervisor holds them, or their contents would go with the server.
//!
//! ```text
//! server ──number, descriptor──► supervisor      before the last name of an open file is taken away
//!        ──number──────────────►                 when the kernel has forgotten the file
//! ```

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

/// The server's end.
#[derive(Debug, Clone)]
pub(crate) struct Keeper(Arc<OwnedFd>);

impl Keeper {
    /// Hands over a file to be held, or lets go of one.
    pub(super) fn tell(&self, number: u64, file: Option<&OwnedFd>) -> io::Result<()> {
        let number = number.to_ne_bytes();
        let descriptors = file.map(|file| [file.as_raw_fd()]);
        let rights = descriptors.as_ref().map(|fds| ControlMessage::ScmRights(fds));
        let rights: Vec<_> = rights.into_iter().collect();
        let parts = [IoSlice::new(&number)];
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None) {
                Err(Errno::EINTR) => {}
                result => return Ok(result.map(|_| ())?),
            }
        }
    }
}

/// The supervisor's end, with the files it holds by their numbers.
#[derive(Debug)]
pub(crate) struct Kept {
    receive: OwnedFd,
    send: Keeper,
    files: HashMap<u64, Arc<OwnedFd>>,
}

impl Kept {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (receive, send) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok(Self {
            receive,
            send: Keeper(Arc::new(send)),
            files: HashMap::new(),
        })
    }

    pub(crate) fn keeper(&self) -> Keeper {
        self.send.clone()
    }

    pub(crate) fn files(&self) -> HashMap<u64, Arc<OwnedFd>> {
        self.files.clone()
    }

    /// Readable when a server has told something.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.receive.as_fd()
    }

    /// Takes in all that servers have told.
    pub(crate) fn take_in(&mut self) -> io::Result<()> {
        loop {
            let mut number = [0; 8];
            let mut space = nix::cmsg_space!(std::os::fd::RawFd);
            let mut parts = [IoSliceMut::new(&mut number)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let message = match recvmsg::<()>(self.receive.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut received = None;
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = control {
                    received = fds.first().copied();
                }
            }
            let number = u64::from_ne_bytes(number);
            match received {
                Some(fd) => {
                    let file = crate::sys::fuse::own(fd);
                    self.files.insert(number, Arc::new(file));
                }
                None => {
                    self.files.remove(&number);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    #[test]
    fn a_deleted_file_is_held_until_it_is_let_go() {
        let mut kept = Kept::new().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let fd = OwnedFd::from(file);
        kept.keeper().tell(7, Some(&fd)).unwrap();
        drop(fd);
        kept.take_in().unwrap();
        let held = kept.files().remove(&7).unwrap();
        let mut again = std::fs::File::from(held.try_clone().unwrap());
        again.rewind().unwrap();
        let mut text = String::new();
        again.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        kept.keeper().tell(7, None).unwrap();
        kept.take_in().unwrap();
        assert!(kept.files().is_empty());
    }
}
