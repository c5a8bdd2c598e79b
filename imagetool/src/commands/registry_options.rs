//! The options of every verb that speaks to a registry.

use std::path::PathBuf;

use imagetool::registry::{Options, Registries, RegistryError};

/// Flattened into the verbs' arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct RegistryArgs {
    /// Speak to this registry without TLS, or with a certificate nobody vouches for (repeatable)
    #[arg(long, value_name = "HOST[:PORT]")]
    insecure_registry: Vec<String>,

    /// Certificates of the registry: *.crt, client.cert and client.key
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
}

impl RegistryArgs {
    /// The registries as configured, with what the command line adds.
    pub(crate) fn registries(&self) -> Result<Registries, RegistryError> {
        Registries::from_environment(&Options {
            insecure: self.insecure_registry.clone(),
            cert_dir: self.cert_dir.clone(),
            ..Options::default()
        })
    }
}
