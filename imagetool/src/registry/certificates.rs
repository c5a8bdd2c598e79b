//! Certificates: the system's roots, and per registry those of `certs.d` (Docker's `dockerd` and containers-certs.d(5)).
//!
//! ```text
//! certs.d/HOST[:PORT]/*.crt                 authorities trusted beside the system's
//! certs.d/HOST[:PORT]/NAME.cert, NAME.key   what we show the registry
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::RegistryError;
use super::environment::Environment;
use super::url::Origin;

/// Where certificates are.
#[derive(Debug)]
pub(super) struct Certificates {
    /// The one directory that the command line names.
    named: Option<PathBuf>,
    /// `certs.d` directories, the first with a folder for the registry counts.
    folders: Vec<PathBuf>,
    roots: OnceLock<Vec<Certificate<'static>>>,
}

impl Certificates {
    pub(super) fn new(named: Option<PathBuf>, environment: &Environment) -> Self {
        let own = environment
            .config_home()
            .map(|config| config.join("containers/certs.d"));
        let system = ["containers/certs.d", "docker/certs.d"].map(|path| environment.etc.join(path));
        Self {
            named,
            folders: own.into_iter().chain(system).collect(),
            roots: OnceLock::new(),
        }
    }

    /// How to speak TLS with an origin; `verify` is off for registries that may be insecure.
    pub(super) fn tls(&self, origin: &Origin, verify: bool) -> Result<TlsConfig, RegistryError> {
        let mut files = Files::default();
        if let Some(folder) = self.folder(origin) {
            files = Files::read(&folder)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut authorities = files.authorities;
        if verify {
            authorities.extend(self.system().iter().cloned());
        }
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&authorities))
            .client_cert(files.client)
            .disable_verification(!verify)
            .unversioned_rustls_crypto_provider(provider)
            .build())
    }

    fn folder(&self, origin: &Origin) -> Option<PathBuf> {
        if self.named.is_some() {
            return self.named.clone();
        }
        let with_port = format!("{}:{}", origin.host, origin.port);
        let mut names = vec![with_port];
        if origin.port == 443 {
            names.insert(0, origin.host.clone());
        }
        let all = self
            .folders
            .iter()
            .flat_map(|folder| names.iter().map(move |name| folder.join(name)));
        all.into_iter().find(|folder| folder.is_dir())
    }

    /// The system's roots, read once and only when they are needed.
    fn system(&self) -> &[Certificate<'static>] {
        self.roots.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!("certificates of the system: {error}");
            }
            let owned = |der: &CertificateDer<'static>| Certificate::from_der(der).to_owned();
            found.certs.iter().map(owned).collect()
        })
    }
}

/// What a folder of `certs.d` holds.
#[derive(Default)]
struct Files {
    authorities: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

impl Files {
    fn read(folder: &Path) -> Result<Self, RegistryError> {
        let wrong = |error: std::io::Error| RegistryError::config(folder.display(), error);
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(wrong)? {
            paths.push(entry.map_err(wrong)?.path());
        }
        paths.sort();
        let mut files = Self::default();
        for path in paths {
            let extension = path.extension().and_then(|extension| extension.to_str());
            match extension {
                Some("crt") => files
                    .authorities
                    .extend(chain(&path)?.iter().map(ureq_certificate)),
                Some("cert") => {
                    let client = client(&path)?;
                    files.client.get_or_insert(client);
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    let problem =
                        "there is no certificate beside this key: name it the same, with .cert at the end";
                    return Err(RegistryError::config(path.display(), problem));
                }
                _ => {}
            }
        }
        Ok(files)
    }
}

fn ureq_certificate(der: &CertificateDer<'static>) -> Certificate<'static> {
    Certificate::from_der(der).to_owned()
}

/// All certificates of a PEM file; none is an error.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let wrong = |problem: String| RegistryError::config(path.display(), problem);
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| wrong(format!("no certificate can be read: {error}")))?
        .collect();
    let parsed = parsed.map_err(|error| wrong(format!("no certificate can be read: {error}")))?;
    match parsed.is_empty() {
        true => Err(wrong("no certificate in PEM form is in it".to_owned())),
        false => Ok(parsed),
    }
}

/// A client's certificate and its key, checked to belong together.
fn client(path: &Path) -> Result<ClientCert, RegistryError> {
    let certificates = chain(path)?;
    let key_path = path.with_extension("key");
    let wrong = |problem: String| RegistryError::config(key_path.display(), problem);
    let key = PrivateKeyDer::from_pem_file(&key_path)
        .map_err(|error| wrong(format!("no private key can be read: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(rustls::RootCertStore::empty()))
        .and_then(|builder| builder.with_client_auth_cert(certificates.clone(), key))
        .map_err(|error| wrong(format!("the key does not go with {}: {error}", path.display())))?;
    let pem = fs::read(&key_path).map_err(|error| wrong(error.to_string()))?;
    let key = PrivateKey::from_pem(&pem).map_err(|error| wrong(error.to_string()))?;
    let certificates: Vec<_> = certificates.iter().map(ureq_certificate).collect();
    Ok(ClientCert::new_with_certs(&certificates, key))
}
