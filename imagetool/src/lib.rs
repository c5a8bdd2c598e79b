//! The image store and everything that reads, writes and changes images.
//!
//! ```text
//! archive | tar ──► layer ──► store ──► save | export
//!                                ▲ │
//!                   commit ──────┘ └──► layer directories ──► mount, run
//! ```
//!
//! [`mod@reference`], [`digest`] and [`manifest`] are pure. [`store`] owns the directory on disk: nothing else writes
//! there. The `shale` program is a thin layer of commands over this library.

pub mod archive;
pub mod bundle;
pub mod changes;
pub mod commit;
pub mod config;
pub mod container;
pub mod digest;
pub mod error;
pub mod export;
pub mod fs_stats;
pub mod history;
pub mod image_diff;
pub mod images;
pub mod import;
pub mod in_place;
pub mod ingest;
pub mod inspect;
pub mod layer;
pub mod layer_tar;
pub mod load;
pub mod manifest;
pub mod mounts;
pub mod namespace;
pub mod parallel;
pub mod pattern;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod push;
pub mod reference;
pub mod registry;
pub mod rootless;
pub mod save;
pub mod seccomp;
pub mod shape;
pub mod store;
pub mod system;
pub mod table;
pub mod template;
pub mod terminal;
pub mod time;
pub mod transfer;
pub mod waste;
pub mod which;
