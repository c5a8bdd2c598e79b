//! One file per verb.

mod ask;
pub(crate) mod commit;
pub(crate) mod completion;
pub(crate) mod diff;
pub(crate) mod export;
mod format;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod man;
pub(crate) mod mount;
mod output;
pub(crate) mod ps;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod umount;
pub(crate) mod version;
pub(crate) mod which;
