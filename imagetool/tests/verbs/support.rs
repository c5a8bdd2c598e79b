//! A store with the images of [`crate::common::images`], and commands on it.

#![allow(unreachable_pub)]

use crate::common::Shale;
use crate::common::images::{Images, images};

pub fn loaded() -> (Shale, Images) {
    let (shale, images) = (Shale::new(), images());
    std::fs::write(shale.path("images.tar"), &images.archive).unwrap();
    shale.ok(["load", "-q", "-i", shale.path("images.tar").to_str().unwrap()]);
    (shale, images)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Status, standard output and error of a command.
pub fn run(shale: &Shale, words: &[&str]) -> (i32, String, String) {
    let output = shale.run(words);
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}
