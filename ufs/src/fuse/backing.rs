//! Backing files in the library's form, as answers name them.

use std::any::Any;
use std::mem::ManuallyDrop;

use fuser::BackingId;

use crate::io_mode::Backing;
use crate::sys::fuse as sys;

/// A backing for the time of one answer.
pub(super) enum Lent<'a> {
    /// The library's own.
    Own(&'a BackingId),
    /// One that outlives this server, known by its number: the library must not close it.
    Kept(ManuallyDrop<BackingId>),
}

impl<'a> Lent<'a> {
    /// `wrap` makes the library's form of a number. `None` for a backing that this adapter has not made.
    pub(super) fn of(
        backing: &'a dyn Backing,
        wrap: impl FnOnce(&sys::Backing) -> ManuallyDrop<BackingId>,
    ) -> Option<Self> {
        let any: &dyn Any = backing;
        let own = any.downcast_ref::<BackingId>().map(Self::Own);
        own.or_else(|| {
            let kept = any.downcast_ref::<sys::Backing>()?;
            Some(Self::Kept(wrap(kept)))
        })
    }

    pub(super) fn id(&self) -> &BackingId {
        match self {
            Self::Own(own) => own,
            Self::Kept(kept) => kept,
        }
    }
}
