//! Messages between the runtime and the processes of the container: one JSON document per packet.
//!
//! A packet may carry one descriptor. End of file means that the other side became another program, or died.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// Longer texts are cut.
const MAX_PACKET_BYTES: usize = 32 * 1024;

/// What is said.
#[derive(Debug, Deserialize, Serialize)]
pub enum Message {
    /// Go on.
    Go,
    /// Stage: I am in a new user namespace, map its users.
    MapIds,
    /// Stage: this is the process of the container.
    Init(i32),
    /// Init: everything is prepared. Carries the terminal's master when the runtime is to serve it.
    Ready,
    /// Something the user should know.
    Warning(String),
    /// I cannot go on.
    Failed {
        /// The error with its context.
        message: String,
        /// The exit status that the runtime should end with.
        status: i32,
    },
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Two connected ends.
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .context(|| "socketpair")?;
        Ok((Self(one), Self(other)))
    }

    /// Another handle of this end.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Says something.
    pub fn send(&self, message: &Message) -> Result<()> {
        self.send_with(message, None)
    }

    /// Says something and passes a descriptor along.
    pub fn send_with(&self, message: &Message, fd: Option<RawFd>) -> Result<()> {
        let packet = serde_json::to_vec(message)?;
        send_packet(self.0.as_raw_fd(), &packet, fd).context(|| "talk to the other process of the runtime")
    }

    /// Waits for the other side; `None` when it is gone. Warnings are kept for the log.
    pub fn receive(&self) -> Result<Option<(Message, Option<OwnedFd>)>> {
        loop {
            match self.receive_any()? {
                Some((Message::Warning(text), _)) => crate::log::keep(text),
                message => return Ok(message),
            }
        }
    }

    fn receive_any(&self) -> Result<Option<(Message, Option<OwnedFd>)>> {
        let mut buffer = vec![0; MAX_PACKET_BYTES];
        let (length, fd) = crate::sys::socket::receive_packet(self.0.as_raw_fd(), &mut buffer)
            .context(|| "listen to the other process of the runtime")?;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&buffer[..length])?, fd)))
    }

    /// Waits until the other side says to go on.
    pub fn expect_go(&self) -> Result<()> {
        match self.receive()? {
            Some((Message::Go, _)) => Ok(()),
            _ => Err(Error::invalid("the runtime gave up")),
        }
    }

    /// Tells the other side why this one ends.
    pub fn send_failure(&self, error: &Error) {
        // When nobody listens any more there is nobody left to tell.
        let _ = self.send(&failure(error));
    }
}

impl std::os::fd::AsFd for Channel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// The message about an error, short enough for a packet.
fn failure(error: &Error) -> Message {
    let mut message = error.to_string();
    while message.len() > MAX_PACKET_BYTES / 8 {
        message.pop();
    }
    Message::Failed {
        message,
        status: error.exit_status(),
    }
}

/// Sends bytes and perhaps a descriptor over any socket.
pub fn send_packet(socket: RawFd, bytes: &[u8], fd: Option<RawFd>) -> nix::Result<()> {
    let fds: Vec<RawFd> = fd.into_iter().collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    loop {
        match sendmsg::<()>(
            socket,
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}
