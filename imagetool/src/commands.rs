//! One file per verb.

pub(crate) mod diff;
pub(crate) mod mount;
pub(crate) mod ps;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod umount;
pub(crate) mod version;
