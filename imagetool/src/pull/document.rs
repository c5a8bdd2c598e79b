//! What a registry's document is: an index, an image's manifest, or something that is refused. Pure.

use serde_json::Value;

use crate::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, DOCUMENT_LIMIT, Descriptor, Index, Manifest, OCI_CONFIG, OCI_INDEX,
    OCI_LAYER, OCI_MANIFEST, parse_index, parse_manifest,
};
use crate::transfer::TransferError;

/// Media type of a Docker configuration.
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// What registries say that do not know better.
const VAGUE: [&str; 4] = ["", "application/json", "application/octet-stream", "text/plain"];
/// Larger than any disk; keeps sums of sizes from running over.
const SIZE_MAX: u64 = 1 << 53;

/// A document that can lead to an image.
#[derive(Debug)]
pub(super) enum Kind {
    /// Several images for several platforms.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

fn invalid<T>(text: String) -> Result<T, TransferError> {
    Err(TransferError::Invalid(text))
}

/// A few words of outside input.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(100).collect::<String>())
}

/// Reads a document; `media_type` is what the registry calls it, `name` the image in errors.
pub(super) fn parse(name: &str, media_type: &str, bytes: &[u8]) -> Result<Kind, TransferError> {
    let what = format!("the manifest of {name}");
    let media_type = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if bytes.len() as u64 > DOCUMENT_LIMIT {
        return invalid(format!("{what} is larger than {DOCUMENT_LIMIT} bytes"));
    }
    let known = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&media_type.as_str());
    let is_first_schema = media_type.starts_with("application/vnd.docker.distribution.manifest.v1+");
    if !known && !is_first_schema && !VAGUE.contains(&media_type.as_str()) {
        return invalid(format!(
            "{what} has the media type {}, which is neither a manifest nor an index of images",
            shown(&media_type)
        ));
    }
    let document: Value = match serde_json::from_slice(bytes) {
        Ok(document) => document,
        Err(error) => return invalid(format!("{what} does not parse: {error}")),
    };
    if is_first_schema || document.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
        return invalid(format!(
            "{name} has a manifest of Docker's schema 1, which registries and engines have given up: push it again with \
             a newer tool"
        ));
    }
    let own = document
        .get("mediaType")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if known && !own.is_empty() && own != media_type {
        return invalid(format!(
            "{what} calls itself {}, the registry calls it {}",
            shown(own),
            shown(&media_type)
        ));
    }
    let has = |key: &str| document.get(key).is_some();
    let is_index = has("manifests");
    if is_index && (has("config") || has("layers")) {
        return invalid(format!("{what} is an index and an image's manifest at once"));
    }
    let said = if own.is_empty() { media_type.as_str() } else { own };
    let fits = match is_index {
        true => [OCI_INDEX, DOCKER_LIST].contains(&said),
        false => [OCI_MANIFEST, DOCKER_MANIFEST].contains(&said),
    };
    if !fits && !VAGUE.contains(&said) {
        return invalid(format!(
            "{what} has the media type {}, but the content of {}",
            shown(said),
            if is_index {
                "an index"
            } else {
                "an image's manifest"
            }
        ));
    }
    if is_index {
        return Ok(Kind::Index(parse_index(&what, bytes)?));
    }
    let mut manifest = parse_manifest(&what, bytes)?;
    if manifest.media_type.is_empty() {
        manifest.media_type = if known {
            media_type
        } else {
            OCI_MANIFEST.to_owned()
        };
    }
    check_manifest(name, &manifest)?;
    Ok(Kind::Manifest(manifest))
}

/// Whether a manifest is one of an image, and of one that can be.
fn check_manifest(name: &str, manifest: &Manifest) -> Result<(), TransferError> {
    let config = manifest.config.media_type.as_str();
    if ![OCI_CONFIG, DOCKER_CONFIG, "", "application/octet-stream"].contains(&config) {
        return invalid(format!(
            "{name} is no image: its configuration has the media type {}",
            shown(config)
        ));
    }
    if manifest.config.size_bytes > DOCUMENT_LIMIT {
        return invalid(format!(
            "the configuration of {name} has {} bytes: more than {DOCUMENT_LIMIT} are not read",
            manifest.config.size_bytes
        ));
    }
    let mut sum = 0u64;
    for layer in &manifest.layers {
        if !is_layer_type(layer) {
            return invalid(format!(
                "{name} has a layer with the media type {}, which is none of an image's layers",
                shown(&layer.media_type)
            ));
        }
        sum = sum.saturating_add(layer.size_bytes);
    }
    if sum > SIZE_MAX {
        return invalid(format!(
            "the layers of {name} have {sum} bytes altogether: that cannot be"
        ));
    }
    Ok(())
}

fn is_layer_type(layer: &Descriptor) -> bool {
    let media_type = layer.media_type.as_str();
    let plain = [
        OCI_LAYER,
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    let base = ["+gzip", "+zstd", ".gzip", ".zstd"]
        .iter()
        .find_map(|suffix| media_type.strip_suffix(suffix))
        .unwrap_or(media_type);
    media_type.is_empty() || plain.contains(&base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(rest: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{OCI_CONFIG}","digest":"{D}","size":2}},"layers":[{{"mediaType":"{OCI_LAYER}+gzip","digest":"{D}","size":1}}]{rest}}}"#
        )
    }

    #[test]
    fn documents_are_told_apart() {
        let image = manifest("");
        for media_type in [
            OCI_MANIFEST,
            DOCKER_MANIFEST,
            "",
            "application/json; charset=utf-8",
        ] {
            assert!(matches!(
                parse("a", media_type, image.as_bytes()),
                Ok(Kind::Manifest(_))
            ));
        }
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        for media_type in [OCI_INDEX, DOCKER_LIST, "application/octet-stream"] {
            assert!(matches!(
                parse("a", media_type, index.as_bytes()),
                Ok(Kind::Index(_))
            ));
        }
    }

    #[test]
    fn what_is_no_image_is_refused_with_its_reason() {
        let own = format!(r#","mediaType":"{OCI_MANIFEST}""#);
        let cases: [(&str, String, &str); 14] = [
            ("text/html", manifest(""), "text/html"),
            (OCI_INDEX, manifest(""), "content of an image's manifest"),
            (DOCKER_MANIFEST, manifest(&own), "calls itself"),
            ("", manifest(r#","mediaType":"a/b""#), "\"a/b\""),
            ("", manifest(r#","manifests":[]"#), "at once"),
            ("", r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "schema 1"),
            (
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                "{}".to_owned(),
                "schema 1",
            ),
            ("", "{}".to_owned(), "does not parse"),
            ("", "[".to_owned(), "does not parse"),
            (
                "",
                manifest("").replace("\"size\":1", "\"size\":-1"),
                "does not parse",
            ),
            (
                "",
                manifest("").replace("\"size\":1", "\"size\":18446744073709551615"),
                "cannot be",
            ),
            (
                "",
                manifest("").replace("\"size\":2", "\"size\":99999999"),
                "are not read",
            ),
            (
                "",
                manifest("").replace(OCI_CONFIG, "application/vnd.cncf.helm.config.v1+json"),
                "no image",
            ),
            ("", manifest("").replace("sha256:e3", "sha512:e3"), "sha512"),
        ];
        for (media_type, text, part) in cases {
            let error = parse("a", media_type, text.as_bytes()).unwrap_err();
            let error = crate::error::chain(&error);
            assert!(error.contains(part), "{text}: {error}");
        }
        let chart = manifest("").replace("image.layer.v1.tar+gzip", "image.layer.v1.tar+encrypted");
        assert!(parse("a", "", chart.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_document_panics(media_type in "\\PC{0,20}", text in "\\PC{0,200}") {
            let _ = parse("a", &media_type, text.as_bytes());
            let _ = parse("a", "", text.as_bytes());
        }
    }
}
