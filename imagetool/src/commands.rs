//! One file per verb.

mod ask;
pub(crate) mod bench;
pub(crate) mod commit;
pub(crate) mod completion;
pub(crate) mod diff;
pub(crate) mod export;
mod filter;
mod format;
pub(crate) mod history;
pub(crate) mod image;
mod image_du;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod man;
pub(crate) mod mount;
mod output;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
mod registry_options;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod seal;
pub(crate) mod search;
pub(crate) mod stats;
pub(crate) mod system;
mod system_check;
mod system_df;
mod system_info;
pub(crate) mod tag;
pub(crate) mod umount;
pub(crate) mod version;
pub(crate) mod which;

/// A truth value as Go's flags take it.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}
