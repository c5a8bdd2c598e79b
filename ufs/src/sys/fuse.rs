//! What the FUSE library has no safe call for: taking over a device, and backings known by their number.
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use fuser::BackingId;

/// `FUSE_NOTIFY_RESEND` of fuse.h, from Linux 6.9 on.
const NOTIFY_RESEND: i32 = 7;

/// Puts `device` in the place of the descriptor `place`, which its owner goes on using.
pub(crate) fn put_in_place(device: &OwnedFd, place: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open, since it is borrowed; it is not closed here, and the owner's number stays open
    // throughout, as dup3 exchanges what it stands for in one step.
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(place.as_raw_fd()) });
    Ok(rustix::io::dup3(
        device,
        &mut place,
        rustix::io::DupFlags::CLOEXEC,
    )?)
}

/// Asks the kernel for all requests once more that were read and not answered. They come with the highest bit of
/// their number set.
pub(crate) fn ask_again(device: &OwnedFd) -> io::Result<()> {
    // struct fuse_out_header: length, notification code, and 0 for the request.
    let mut message = [0; 16];
    message[..4].copy_from_slice(&16_u32.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    rustix::io::write(device, &message)?;
    Ok(())
}

nix::ioctl_write_ptr!(
    /// `FUSE_DEV_IOC_BACKING_CLOSE` of fuse.h.
    backing_close,
    229,
    2,
    u32
);

/// A backing file by the number that the kernel knows it by, also from a server before this one. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Backing {
    device: Arc<OwnedFd>,
    id: u32,
}

impl Backing {
    pub(crate) fn new(device: &Arc<OwnedFd>, id: u32) -> Self {
        Self {
            device: Arc::clone(device),
            id,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

/// The library's form of a backing's number, for an answer to `open`. To be taken out again by `into_raw`.
pub(crate) fn lent_to_open(reply: &fuser::ReplyOpen, backing: &Backing) -> ManuallyDrop<BackingId> {
    // SAFETY: the number is one that the kernel gave for this device, and it is closed by `backing` alone, since what
    // is made here is never dropped.
    ManuallyDrop::new(unsafe { reply.wrap_backing(backing.id) })
}

/// The same for an answer to `create`.
pub(crate) fn lent_to_create(reply: &fuser::ReplyCreate, backing: &Backing) -> ManuallyDrop<BackingId> {
    // SAFETY: as above.
    ManuallyDrop::new(unsafe { reply.wrap_backing(backing.id) })
}

/// Takes a descriptor that was received with a message.
pub(crate) fn own(received: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: the kernel made it for this process when the message was received, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(received) }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // SAFETY: the call reads one u32, which outlives it.
        let closed = unsafe { backing_close(self.device.as_fd().as_raw_fd(), &raw const self.id) };
        if let Err(error) = closed {
            tracing::debug!(%error, "a backing file stays registered");
        }
    }
}
