//! One inode, one way of doing I/O: decided here and nowhere else.
//!
//! ```text
//!              first open                      further opens while open            last close
//! Idle ──────► Cached       reads and writes come to the server; the kernel caches pages      ─► Idle
//!      ──────► Passthrough  the kernel does I/O on the backing file itself, no cache of ours  ─► Idle
//! ```
//!
//! The kernel holds an inode to one mode and, when passed through, to one backing file, while any descriptor or
//! mapping is open; a different answer to OPEN is EIO for the program. Hence:
//!
//! - A node that is passed through to a *lower* file cannot serve a writer, nor a reader after copy-up: its new
//!   next open answers [`Choice::Stale`], the kernel looks the name up again and gets a new node, and the old
//!   descriptors stay on the old content, as with overlayfs. A backing of a reader never serves a writer.
//!   An open that cannot be by name (`/proc/self/fd/N`, a bind-mounted file) gets the ESTALE: the kernel takes nothing
//!   but a passthrough to the same backing from a node that has one.
//! - A lower file with several names is not passed through: the kernel would find the new node under one of them only.
//! - A node in cached mode stays in it; its old descriptors and mappings see what is written after copy-up.
//! - Pages cached before a file was written through its backing are old: the next cached open drops them.

use std::sync::Arc;

/// Below this size a file is read through the page cache of the mount: registering a backing costs more than the
/// one or two reads it saves.
pub const PASSTHROUGH_BYTES_MIN: u64 = 64 * 1024;

/// Which file a descriptor of the server is open on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A layer's file: never written.
    Lower,
    /// The upper's file.
    Upper,
}

/// A backing file as registered with the kernel. It is released when the last holder drops it.
///
/// Only the adapter that made it knows its type.
pub trait Backing: std::any::Any + Send + Sync + std::fmt::Debug {}
impl<T: std::any::Any + Send + Sync + std::fmt::Debug> Backing for T {}

/// The I/O mode of one node.
#[derive(Debug, Default)]
pub struct IoState {
    mode: Mode,
    open: u32,
    /// Pages of the mount's cache may be older than the file.
    cache_is_old: bool,
}

#[derive(Debug, Default)]
enum Mode {
    #[default]
    Idle,
    Cached,
    Passthrough {
        side: Side,
        backing: Arc<dyn Backing>,
    },
}

/// What an open wants, and what is possible.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// The file that holds the content now.
    pub side: Side,
    /// Opened for writing.
    pub write: bool,
    /// Length in bytes.
    pub size_bytes: u64,
    /// The kernel offers passthrough and lets this server use it.
    pub can_pass: bool,
}

/// What to answer to an open.
#[derive(Debug)]
pub enum Choice {
    /// Requests come to the server. `keep`: pages cached earlier are still right.
    Cached {
        /// Whether pages cached earlier may stay.
        keep: bool,
    },
    /// Pass through to the backing that is registered already.
    PassTo(Arc<dyn Backing>),
    /// Register the file as a backing and call [`IoState::passing`], or [`IoState::cached`] if that fails.
    Register,
    /// Answer ESTALE: this node is bound to the lower file.
    Stale,
}

impl IoState {
    /// Decides for one more open. [`Choice::Cached`] and [`Choice::PassTo`] count it as done.
    pub fn choose(&mut self, wish: Wish) -> Choice {
        match &self.mode {
            Mode::Passthrough { side, backing }
                if *side == wish.side && (*side == Side::Upper || !wish.write) =>
            {
                let backing = Arc::clone(backing);
                self.open += 1;
                Choice::PassTo(backing)
            }
            Mode::Passthrough { .. } => Choice::Stale,
            Mode::Cached => self.cached(),
            Mode::Idle if wish.can_pass && (wish.write || wish.size_bytes >= PASSTHROUGH_BYTES_MIN) => {
                Choice::Register
            }
            Mode::Idle => self.cached(),
        }
    }

    /// Counts an open in cached mode.
    pub fn cached(&mut self) -> Choice {
        self.mode = Mode::Cached;
        self.open += 1;
        Choice::Cached {
            keep: !std::mem::take(&mut self.cache_is_old),
        }
    }

    /// Counts an open that is passed through to a backing just registered.
    pub fn passing(&mut self, side: Side, backing: Arc<dyn Backing>) {
        self.mode = Mode::Passthrough { side, backing };
        self.cache_is_old = true;
        self.open += 1;
    }

    /// Takes pages of the mount's cache for old, where nobody knows.
    pub fn doubt_cache(&mut self) {
        self.cache_is_old = true;
    }

    /// Counts an open that an earlier server answered: passed through to `backing`, or cached.
    pub fn resume(&mut self, backing: Option<(Side, Arc<dyn Backing>)>) {
        self.open += 1;
        match (backing, &self.mode) {
            (Some((side, backing)), Mode::Idle | Mode::Cached) => {
                self.mode = Mode::Passthrough { side, backing };
                self.cache_is_old = true;
            }
            (None, Mode::Idle) => self.mode = Mode::Cached,
            _ => {}
        }
    }

    /// One descriptor is gone. Returns the backing that nobody uses any more, to be dropped without locks held.
    pub fn close(&mut self) -> Option<Arc<dyn Backing>> {
        self.open = self.open.saturating_sub(1);
        if self.open > 0 {
            return None;
        }
        match std::mem::take(&mut self.mode) {
            Mode::Passthrough { backing, .. } => Some(backing),
            Mode::Idle | Mode::Cached => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(side: Side, write: bool) -> Wish {
        Wish {
            side,
            write,
            size_bytes: 1 << 20,
            can_pass: true,
        }
    }

    fn passing(side: Side) -> IoState {
        let mut state = IoState::default();
        state.passing(side, Arc::new(()));
        state
    }

    #[test]
    fn a_readers_backing_never_serves_a_writer() {
        let mut state = passing(Side::Lower);
        assert!(matches!(
            state.choose(wish(Side::Lower, false)),
            Choice::PassTo(_)
        ));
        assert!(matches!(state.choose(wish(Side::Upper, true)), Choice::Stale));
        let mut state = passing(Side::Lower);
        assert!(matches!(state.choose(wish(Side::Upper, false)), Choice::Stale));
        let mut state = passing(Side::Lower);
        assert!(matches!(state.choose(wish(Side::Lower, true)), Choice::Stale));
    }

    #[test]
    fn a_node_keeps_its_mode_while_it_is_open() {
        let mut state = IoState::default();
        let small = Wish {
            size_bytes: 10,
            ..wish(Side::Lower, false)
        };
        assert!(matches!(state.choose(small), Choice::Cached { keep: true }));
        assert!(matches!(
            state.choose(wish(Side::Upper, true)),
            Choice::Cached { .. }
        ));
        assert!(state.close().is_none());
        assert!(state.close().is_none());
        assert!(matches!(state.choose(wish(Side::Upper, true)), Choice::Register));
    }

    #[test]
    fn pages_from_before_passthrough_are_dropped_once() {
        let mut state = passing(Side::Upper);
        assert!(state.close().is_some());
        let read = Wish {
            size_bytes: 10,
            ..wish(Side::Upper, false)
        };
        assert!(matches!(state.choose(read), Choice::Cached { keep: false }));
        assert!(matches!(state.choose(read), Choice::Cached { keep: true }));
    }

    #[test]
    fn without_the_right_everything_is_cached() {
        let mut state = IoState::default();
        let plain = Wish {
            can_pass: false,
            ..wish(Side::Upper, true)
        };
        assert!(matches!(state.choose(plain), Choice::Cached { .. }));
    }
}
