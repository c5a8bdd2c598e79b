//! Any text as a template of `--format`, and as an instruction of `commit -c`.
#![no_main]

use imagetool::changes::Change;
use imagetool::template::Template;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let value = serde_json::json!({ "ID": "abc", "List": [1, "b"], "Map": { "a.b": null }, "On": true });
    if let Ok(template) = text.parse::<Template>() {
        let _ = template.render(&value);
    }
    if let Ok(change) = text.parse::<Change>() {
        change.apply(&mut serde_json::Map::new());
    }
});
