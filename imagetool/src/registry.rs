//! Registries: everything that speaks HTTP, over the OCI distribution protocol ([distribution-spec]).
//!
//! ```text
//! registries.conf ─┐
//! certs.d ─────────┼─► Registries ──► Repository ──► manifest | blob | upload | tags
//! config.json ─────┘       │               │
//!                    login, search     tokens per scope
//! ```
//!
//! [`Registries`] holds the configuration and is shared by all threads. A [`Repository`] is one repository at one
//! endpoint; it asks for a token when the registry wants one, retries what can be retried, follows redirects itself and
//! sends credentials to no host but the one they belong to.
//!
//! What a registry answers is outside input: headers and documents are limited, digests are verified where the caller
//! cannot, and a body of garbage is no more than an error text.
//!
//! [distribution-spec]: https://github.com/opencontainers/distribution-spec/blob/main/spec.md

mod error;
mod repository;

use std::path::PathBuf;

pub use error::RegistryError;
pub use repository::{Blob, Document, Mounted, Repository, Upload, Which};

use crate::reference::Reference;

/// What the command line says about registries.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Hosts (`HOST[:PORT]`) that may be spoken to without TLS or with a certificate nobody vouches for.
    pub insecure: Vec<String>,
    /// A directory of certificates that is looked at before all others.
    pub cert_dir: Option<PathBuf>,
}

/// The registries as they are configured: names to endpoints, certificates, credentials.
#[derive(Debug, Clone)]
pub struct Registries {
    _options: Options,
}

impl Registries {
    /// Reads the configuration: registries.conf and its directory, certificates, credentials, proxies.
    pub fn from_environment(options: &Options) -> Result<Self, RegistryError> {
        Ok(Self {
            _options: options.clone(),
        })
    }

    /// Where images of this name are looked for, in order: mirrors, then the registry itself. A blocked registry is an
    /// error.
    pub fn sources(&self, name: &Reference) -> Result<Vec<Repository>, RegistryError> {
        let _ = name;
        Err(RegistryError::NotImplemented)
    }

    /// Where an image of this name is pushed to: never a mirror.
    pub fn destination(&self, name: &Reference) -> Result<Repository, RegistryError> {
        let _ = name;
        Err(RegistryError::NotImplemented)
    }
}
