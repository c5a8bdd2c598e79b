//! Pseudo-terminals, without ever naming one by its path.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::pty::Winsize;

use super::{STDERR, STDIN, STDOUT, owned_fd};

/// Lets the other end of the pseudo-terminal be opened.
pub fn unlock(master: BorrowedFd<'_>) -> nix::Result<()> {
    let unlock: libc::c_int = 0;
    // SAFETY: the kernel reads one int.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }).map(drop)
}

/// Opens the other end of the pseudo-terminal through the master itself.
pub fn peer(master: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: a plain call with integers.
    owned_fd(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// Makes the terminal on standard input the controlling one of this session.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: a plain call with integers.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// The size of the window behind a terminal.
pub fn window_size(terminal: BorrowedFd<'_>) -> nix::Result<Winsize> {
    let mut size = Winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel writes one winsize.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(size)
}

/// The size of the terminal outside, whichever standard stream it is; without one there is no size.
pub fn outer_size() -> Option<Winsize> {
    [STDIN, STDOUT, STDERR]
        .into_iter()
        .find_map(|stream| window_size(stream).ok())
}

/// Changes the size of the window behind a terminal.
pub fn set_window_size(terminal: BorrowedFd<'_>, size: Winsize) -> nix::Result<()> {
    // SAFETY: the kernel reads one winsize.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}
