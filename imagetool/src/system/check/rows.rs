//! Rows against rows, and rows against the names of files. Nothing is opened here: pure.

use std::collections::BTreeSet;

use super::{Finding, Subject};
use crate::digest::Digest;
use crate::manifest::parse_config;
use crate::store::{Listing, RawImage};

/// What the rows say that cannot be.
pub(super) fn check(listing: &Listing) -> Vec<Finding> {
    let mut findings: Vec<Finding> = listing
        .damage
        .iter()
        .map(|line| Finding::new(Subject::Database, line))
        .collect();
    for image in &listing.images {
        check_image(image, &mut findings);
    }
    for layer in &listing.layers {
        if layer.diff_id.parse::<Digest>().is_err() {
            findings.push(Finding::new(
                Subject::Database,
                format!("a layer has the id {:?}, which is no digest", layer.diff_id),
            ));
        }
    }
    if !listing.index_fits {
        findings.push(Finding::new(
            Subject::Layout,
            "says something else than the database",
        ));
    }
    findings
}

fn check_image(image: &RawImage, findings: &mut Vec<Finding>) {
    let Ok(id) = image.id.parse::<Digest>() else {
        let detail = format!("an image has the id {:?}, which is no digest", image.id);
        findings.push(Finding::new(Subject::Database, detail));
        return;
    };
    let mut found = |detail: String| findings.push(Finding::new(Subject::ImageRow(id), detail));
    if Digest::of(image.config.as_bytes()) != id {
        found("its configuration is not the one that its id names".to_owned());
        return;
    }
    if image.manifest.parse::<Digest>().is_err() {
        found(format!(
            "its manifest is {:?}, which is no digest",
            image.manifest
        ));
    }
    for name in &image.names {
        if name.parse::<crate::reference::Reference>().is_err() {
            found(format!("it has the name {name:?}, which is none"));
        }
    }
    match parse_config("configuration", image.config.as_bytes()) {
        Err(error) => found(error.to_string()),
        Ok((_, diff_ids)) => {
            let wanted: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
            let rows: Vec<&String> = image.layers.iter().map(|(diff_id, _)| diff_id).collect();
            if !wanted.iter().eq(rows) {
                found("its layers are not those that its configuration lists".to_owned());
            }
        }
    }
    for (_, blob) in &image.layers {
        if blob.parse::<Digest>().is_err() {
            found(format!("the blob of a layer is {blob:?}, which is no digest"));
        }
    }
}

/// Files without rows, and rows without files.
pub(super) fn check_files(listing: &Listing) -> Vec<Finding> {
    let mut findings = Vec::new();
    let hex = |digest: &str| digest.strip_prefix("sha256:").unwrap_or(digest).to_owned();
    let mut blobs: BTreeSet<String> = BTreeSet::new();
    for image in &listing.images {
        blobs.extend([hex(&image.id), hex(&image.manifest)]);
        blobs.extend(image.layers.iter().map(|(_, blob)| hex(blob)));
    }
    blobs.extend(listing.kept_manifests.iter().map(|(_, manifest)| hex(manifest)));
    let layers: BTreeSet<String> = listing.layers.iter().map(|layer| hex(&layer.diff_id)).collect();
    let unneeded = |folder: &str, name: &String| {
        Finding::new(
            Subject::Unneeded(format!("{folder}/{name}")),
            "nothing in the database names it",
        )
    };
    findings.extend(
        listing
            .blob_files
            .difference(&blobs)
            .map(|name| unneeded("blobs/sha256", name)),
    );
    let strange = |name: &&String| Digest::from_hex(name).is_err();
    findings.extend(
        listing
            .download_files
            .iter()
            .filter(strange)
            .map(|name| unneeded("downloads", name)),
    );
    findings.extend(
        listing
            .layer_files
            .difference(&layers)
            .map(|name| unneeded("layers", name)),
    );
    findings.extend(listing.unneeded_objects.iter().map(|name| {
        let folder = format!("objects/{}", name.get(..2).unwrap_or_default());
        Finding::new(Subject::Unneeded(format!("{folder}/{name}")), "no layer names it")
    }));
    for name in layers.difference(&listing.layer_files) {
        if let Ok(diff_id) = Digest::from_hex(name) {
            findings.push(Finding::new(Subject::Layer(diff_id), "its directory is missing"));
        }
    }
    for id in listing.containers.difference(&listing.container_files) {
        findings.push(Finding::new(
            Subject::Container(id.clone()),
            "its directory is missing",
        ));
    }
    for id in listing.container_files.difference(&listing.containers) {
        findings.push(Finding::new(
            Subject::Container(id.clone()),
            "its directory is there, but the database does not know it",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(config: &str) -> RawImage {
        RawImage {
            id: Digest::of(config.as_bytes()).to_string(),
            manifest: Digest::of(b"manifest").to_string(),
            config: config.to_owned(),
            layers: Vec::new(),
            names: vec!["docker.io/library/a:1".to_owned()],
        }
    }

    #[test]
    fn rows_that_contradict_each_other_are_found() {
        let layer = Digest::of(b"layer").to_string();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#
        );
        let good = RawImage {
            layers: vec![(layer.clone(), layer.clone())],
            ..image(&config)
        };
        let details = |image: RawImage| {
            let listing = Listing {
                images: vec![image],
                index_fits: true,
                ..Listing::default()
            };
            check(&listing)
                .into_iter()
                .map(|finding| finding.detail)
                .collect::<Vec<_>>()
        };
        assert_eq!(details(good.clone()), Vec::<String>::new());
        let bad = [
            RawImage {
                config: config.replace("linux", "Linux"),
                ..good.clone()
            },
            RawImage {
                layers: Vec::new(),
                ..good.clone()
            },
            RawImage {
                layers: vec![(layer.clone(), "x".to_owned())],
                ..good.clone()
            },
            RawImage {
                manifest: "sha256:0".to_owned(),
                ..good.clone()
            },
            RawImage {
                names: vec!["".to_owned()],
                ..good.clone()
            },
            RawImage {
                id: "x".to_owned(),
                ..good.clone()
            },
        ];
        for image in bad {
            assert_eq!(details(image.clone()).len(), 1, "{image:?}");
        }
    }

    #[test]
    fn files_and_rows_are_compared() {
        let one = |name: &str| BTreeSet::from([name.to_owned()]);
        let listing = Listing {
            layers: vec![crate::store::RawLayer {
                diff_id: Digest::of(b"gone").to_string(),
                size_bytes: 0,
            }],
            blob_files: one("left"),
            layer_files: one("left"),
            containers: one("a"),
            container_files: one("b"),
            ..Listing::default()
        };
        let found: Vec<String> = check_files(&listing).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 5, "{found:?}");
    }
}
