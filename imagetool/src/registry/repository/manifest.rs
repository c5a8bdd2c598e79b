//! Manifests and indexes, byte for byte (distribution-spec, "Pulling manifests", "Pushing Manifests").

use std::fmt;

use ureq::http::Method;

use super::Repository;
use crate::digest::Digest;
use crate::manifest::{DOCUMENT_LIMIT, OCI_INDEX, OCI_MANIFEST};
use crate::registry::RegistryError;
use crate::registry::transport::{Call, Payload};

/// What is understood, in the order of Docker's client.
const DOCKER_TYPES: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// The header in which a registry names what it gives.
const DIGEST_HEADER: &str = "docker-content-digest";

/// Which manifest is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// What the tag points to now.
    Tag(String),
    /// The one with this digest.
    Digest(Digest),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A manifest or index as the registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its media type, without parameters.
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

fn accept() -> String {
    [&DOCKER_TYPES[..], &[OCI_MANIFEST, OCI_INDEX]]
        .concat()
        .join(", ")
}

impl Repository {
    /// The manifest or index. Its bytes are limited to [`DOCUMENT_LIMIT`]; the digest is verified where one was asked
    /// for or the registry names one.
    pub fn manifest(&self, which: &Which) -> Result<Document, RegistryError> {
        let asked = self.asked(&format!("get manifest {which} of"));
        let url = self.url(&format!("manifests/{which}"), &asked)?;
        let (kind, named, bytes) = self.patience().run(|| {
            let call = Call::get(url.clone(), &asked).header("accept", accept());
            let answer = self.ask(&call, &[200])?;
            let kind = answer.header("content-type").unwrap_or_default().to_owned();
            let named = answer.header(DIGEST_HEADER).map(str::to_owned);
            Ok((kind, named, answer.read(DOCUMENT_LIMIT, &asked)?))
        })?;
        let digest = Digest::of(&bytes);
        if let Which::Digest(wanted) = which
            && *wanted != digest
        {
            return Err(asked.wrong(format!(
                "the registry gives a manifest with another digest: {digest}"
            )));
        }
        // a digest of another algorithm cannot be compared
        if let Some(Ok(named)) = named.map(|text| text.parse::<Digest>())
            && named != digest
        {
            let problem =
                format!("the manifest has the digest {digest}, and the registry says it is {named}");
            return Err(asked.wrong(problem));
        }
        Ok(Document {
            media_type: media_type(&kind, &bytes),
            digest,
            bytes,
        })
    }

    /// The digest of a manifest, without the manifest where the registry can tell it so. None: there is no such
    /// manifest.
    pub fn manifest_digest(&self, which: &Which) -> Result<Option<Digest>, RegistryError> {
        let asked = self.asked(&format!("get the digest of manifest {which} of"));
        let url = self.url(&format!("manifests/{which}"), &asked)?;
        match self.head(&url, &asked, Some(&accept())) {
            Ok(None) => return Ok(None),
            Ok(Some(answer)) => {
                if let Some(Ok(digest)) = answer.header(DIGEST_HEADER).map(str::parse) {
                    return Ok(Some(digest));
                }
            }
            // some registries know GET only
            Err(RegistryError::Status {
                status: 400..=499, ..
            }) => {}
            Err(error) => return Err(error),
        }
        match self.manifest(which) {
            Ok(document) => Ok(Some(document.digest)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a manifest under a tag or its digest; gives its digest.
    pub fn put_manifest(
        &self,
        which: &Which,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        let asked = self.asked(&format!("put manifest {which} into"));
        let url = self.url(&format!("manifests/{which}"), &asked)?;
        let digest = Digest::of(bytes);
        self.patience().run(|| {
            let call = Call::new(Method::PUT, url.clone(), &asked)
                .header("content-type", media_type)
                .payload(Payload::Bytes(bytes));
            let answer = self.ask_to_write(&call, &[200, 201, 202])?;
            match answer.header(DIGEST_HEADER).map(str::parse::<Digest>) {
                Some(Ok(named)) if named != digest => Err(asked.wrong(format!(
                    "the manifest has the digest {digest}, and the registry keeps it as {named}"
                ))),
                _ => Ok(digest),
            }
        })
    }
}

/// The type a registry names, or where it names none of use, the one that the document names itself.
fn media_type(header: &str, bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Named {
        #[serde(default)]
        media_type: String,
    }
    let header = header
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match header.as_str() {
        "" | "application/json" | "application/octet-stream" | "text/plain" => {
            let named = serde_json::from_slice::<Named>(bytes).map(|named| named.media_type);
            named.ok().filter(|named| !named.is_empty()).unwrap_or(header)
        }
        _ => header,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found() {
        let body = format!(r#"{{"mediaType":"{OCI_INDEX}"}}"#);
        let cases = [
            ("Application/X; charset=utf-8", "application/x"),
            ("", OCI_INDEX),
            ("text/plain; charset=utf-8", OCI_INDEX),
        ];
        for (header, expected) in cases {
            assert_eq!(media_type(header, body.as_bytes()), expected);
        }
        assert_eq!(media_type("application/json", b"[]"), "application/json");
        assert_eq!(accept().split(", ").count(), 4);
    }
}
