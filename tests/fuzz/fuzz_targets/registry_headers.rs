//! Any text as a header of a registry's answer: a challenge, a link to the next page, a location.
#![no_main]

use imagetool::registry::fuzzing::read_headers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| read_headers(text));
