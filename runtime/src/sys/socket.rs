//! Receiving descriptors over a socket.

use std::io::IoSliceMut;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Receives bytes and perhaps a descriptor; no bytes mean that the other side is gone.
pub fn receive_packet(socket: RawFd, buffer: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
    loop {
        let mut space = nix::cmsg_space!(RawFd);
        let mut slices = [IoSliceMut::new(buffer)];
        let received = recvmsg::<()>(socket, &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
        let message = match received {
            Err(Errno::EINTR) => continue,
            Err(Errno::ECONNRESET) => return Ok((0, None)),
            result => result?,
        };
        let mut fd = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                // SAFETY: the kernel has just made these descriptors for us.
                fd = fds
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
                    .next();
            }
        }
        return Ok((message.bytes, fd));
    }
}
