//! Container names: what is allowed, and one for who gives none.

use super::ContainerError;
use crate::store::ContainerId;

/// How a place or a rock may be.
const ADJECTIVES: &[&str] = &[
    "agile", "amber", "ancient", "ashen", "bold", "brave", "bright", "brisk", "calm", "candid", "chalky",
    "clear", "clever", "cosy", "crisp", "curious", "dapper", "deep", "eager", "early", "earnest", "fair",
    "fearless", "fine", "fond", "gentle", "glad", "golden", "grand", "happy", "hardy", "honest", "humble",
    "jolly", "keen", "kind", "lively", "lucid", "lucky", "mellow", "merry", "mighty", "mossy", "neat",
    "nimble", "noble", "patient", "placid", "plucky", "polite", "proud", "quick", "quiet", "rapid", "ready",
    "rosy", "rustic", "sandy", "serene", "sharp", "shiny", "silent", "sleek", "smooth", "snug", "solid",
    "spry", "steady", "stoic", "sturdy", "sunny", "swift", "tidy", "tranquil", "true", "upbeat", "vivid",
    "warm", "wise", "witty", "zealous",
];

/// Rocks, minerals and the ages they come from.
const NOUNS: &[&str] = &[
    "agate",
    "amethyst",
    "andesite",
    "anthracite",
    "apatite",
    "aragonite",
    "argillite",
    "azurite",
    "barite",
    "basalt",
    "bauxite",
    "beryl",
    "biotite",
    "bluestone",
    "borax",
    "breccia",
    "calcite",
    "cambrian",
    "carnelian",
    "chalk",
    "chert",
    "chlorite",
    "cinnabar",
    "citrine",
    "clay",
    "cobalt",
    "copper",
    "corundum",
    "cretaceous",
    "devonian",
    "diabase",
    "diorite",
    "dolomite",
    "eocene",
    "epidote",
    "feldspar",
    "flint",
    "fluorite",
    "gabbro",
    "galena",
    "garnet",
    "gneiss",
    "granite",
    "graphite",
    "greywacke",
    "gypsum",
    "halite",
    "hematite",
    "holocene",
    "hornfels",
    "jade",
    "jasper",
    "jurassic",
    "kaolin",
    "kyanite",
    "lapis",
    "lignite",
    "limestone",
    "loess",
    "magnetite",
    "malachite",
    "marble",
    "marl",
    "mica",
    "miocene",
    "mudstone",
    "obsidian",
    "olivine",
    "onyx",
    "opal",
    "ordovician",
    "peridot",
    "perlite",
    "permian",
    "phyllite",
    "pumice",
    "pyrite",
    "quartz",
    "rhyolite",
    "ruby",
    "sandstone",
    "sapphire",
    "schist",
    "selenite",
    "shale",
    "siltstone",
    "silurian",
    "slate",
    "spinel",
    "syenite",
    "talc",
    "topaz",
    "travertine",
    "triassic",
    "tuff",
    "turquoise",
    "zircon",
];

/// A name made of the id's own random digits. Later attempts add a digit to names that were taken.
pub(super) fn generate(id: &ContainerId, attempt: usize) -> String {
    // 32 bits of a random id pick both words; attempts use other digits of it.
    let from = (attempt * 8) % 48;
    let bits = u32::from_str_radix(&id.as_str()[from..from + 8], 16).unwrap_or(0) as usize;
    let (adjective, noun) = (
        ADJECTIVES[bits % ADJECTIVES.len()],
        NOUNS[bits / ADJECTIVES.len() % NOUNS.len()],
    );
    if attempt == 0 {
        format!("{adjective}_{noun}")
    } else {
        format!("{adjective}_{noun}{}", bits % 1000)
    }
}

/// Checks `--name`.
pub(super) fn check(name: &str) -> Result<(), ContainerError> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = bytes.len() > 0 && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if first && rest {
        Ok(())
    } else {
        Err(ContainerError::Name(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["ab", "a.b", "web-1", "0_0"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "-ab", "a b", "a/b", "é2", "ab\n"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn generated_names_are_names() {
        for attempt in 0..20 {
            let id = ContainerId::random().unwrap();
            let name = generate(&id, attempt);
            assert!(check(&name).is_ok() && name.contains('_'), "{name}");
        }
        let id: ContainerId = "0".repeat(64).parse().unwrap();
        assert_eq!(generate(&id, 0), "agile_agate");
        assert_eq!(generate(&id, 1), "agile_agate0");
    }

    #[test]
    fn the_words_are_sorted_and_unique() {
        for words in [ADJECTIVES, NOUNS] {
            assert!(words.windows(2).all(|pair| pair[0] < pair[1]), "{words:?}");
        }
    }
}
