//! The verbs about images as a Docker user calls them: options, columns, formats, filters, texts and exit statuses; and
//! the same beside Docker's own client and engine.

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod docker;
mod listing;
mod space;
mod support;
