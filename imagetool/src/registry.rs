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

mod answer;
mod certificates;
mod challenge;
mod config;
mod credentials;
mod environment;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod login;
mod proxy;
mod repository;
mod retry;
mod search;
mod token;
mod transport;
mod url;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use credentials::{Credentials, KeptIn, Secret};
pub use environment::Environment;
pub use error::{Asked, RegistryError};
pub use login::Server;
pub use repository::{Blob, Document, Mounted, Repository, Upload, Which};
pub use search::Found;

use certificates::Certificates;
use config::{Configuration, DOCKER_ENDPOINT, Place};
use credentials::CredentialStore;
use host::{Host, Shared};
use proxy::Proxies;
use transport::{Insecure, Transport};
use url::{Origin, Scheme};

use crate::reference::Reference;

/// The limit between two reads, and between two writes.
const STALL: Duration = Duration::from_secs(60);
/// The wait after a first failure; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// What the command line says about registries.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Hosts (`HOST[:PORT]`) that may be spoken to without TLS or with a certificate nobody vouches for.
    pub insecure: Vec<String>,
    /// A directory of certificates that is looked at instead of all others.
    pub cert_dir: Option<PathBuf>,
    /// The longest time without a byte; 60 s where it is not given.
    pub stall: Option<Duration>,
    /// The wait before a second attempt, which doubles; 0.25 s where it is not given.
    pub first_wait: Option<Duration>,
}

/// The registries as they are configured: names to endpoints, certificates, credentials.
#[derive(Debug, Clone)]
pub struct Registries {
    configuration: Arc<Configuration>,
    shared: Arc<Shared>,
    hosts: Arc<Mutex<HashMap<String, Arc<Host>>>>,
}

impl Registries {
    /// Reads the configuration: registries.conf and its directory, certificates, credentials, proxies.
    pub fn from_environment(options: &Options) -> Result<Self, RegistryError> {
        Self::new(options, &Environment::of_process())
    }

    /// As [`Registries::from_environment`], with another environment than the process's.
    pub fn new(options: &Options, environment: &Environment) -> Result<Self, RegistryError> {
        let configuration = Configuration::read(environment)?;
        let mut hosts = Vec::new();
        for named in &options.insecure {
            let host = credentials::host_of(named).to_ascii_lowercase();
            if !host::is_host(&host) {
                let problem = format!("{named:?} is no registry: write HOST[:PORT]");
                return Err(RegistryError::config("--insecure-registry", problem));
            }
            hosts.push(host);
        }
        let certificates = Certificates::new(options.cert_dir.clone(), environment);
        let transport = Transport::new(
            certificates,
            Proxies::from(environment),
            Insecure { hosts },
            options.stall.unwrap_or(STALL),
        );
        Ok(Self {
            configuration: Arc::new(configuration),
            shared: Arc::new(Shared {
                transport,
                credentials: CredentialStore::new(environment),
                first_wait: options.first_wait.unwrap_or(FIRST_WAIT),
            }),
            hosts: Arc::default(),
        })
    }

    /// Where images of this name are looked for, in order: mirrors, then the registry itself. A blocked registry is an
    /// error.
    pub fn sources(&self, name: &Reference) -> Result<Vec<Repository>, RegistryError> {
        let places = self.configuration.sources(name)?;
        Ok(places.iter().map(|place| self.repository(place)).collect())
    }

    /// Where an image of this name is pushed to: never a mirror.
    pub fn destination(&self, name: &Reference) -> Result<Repository, RegistryError> {
        Ok(self.repository(&self.configuration.destination(name)?))
    }

    fn repository(&self, place: &Place) -> Repository {
        if place.insecure {
            self.shared.transport.allow_insecure(place.endpoint());
        }
        let host = self.host(&place.domain, place.endpoint());
        Repository::new(&place.path, host, self.shared.clone())
    }

    /// Lets a host that is asked without a name be insecure, where the configuration says so.
    fn allow_configured(&self, endpoint: &str) {
        let hosts = self.configuration.insecure_hosts();
        let origin = Origin::new(Scheme::Https, endpoint);
        if origin.is_ok_and(|origin| Insecure { hosts }.covers(&origin.host, origin.port)) {
            self.shared.transport.allow_insecure(endpoint);
        }
    }

    /// One value per host, so that tokens and the first contact are shared.
    fn host(&self, domain: &str, endpoint: &str) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts
            .entry(domain.to_owned())
            .or_insert_with(|| Arc::new(Host::new(domain, endpoint)));
        host.clone()
    }
}
