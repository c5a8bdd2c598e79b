//! Certificates made by the `openssl` program: an authority, and what it signs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate and its key, in files.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// A certificate authority in a directory.
pub(crate) struct Authority {
    folder: PathBuf,
    pub(crate) pair: Pair,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let pair = Pair {
            certificate: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
        };
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-keyout",
            text(&pair.key),
            "-out",
            text(&pair.certificate),
        ]);
        Self {
            folder: folder.to_owned(),
            pair,
        }
    }

    /// A certificate for this machine's loopback.
    pub(crate) fn sign(&self, name: &str) -> Pair {
        self.sign_for(name, "IP:127.0.0.1")
    }

    /// A certificate for a name or an address (`DNS:…`, `IP:…`).
    pub(crate) fn sign_for(&self, name: &str, address: &str) -> Pair {
        let at = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        let (request, extensions) = (at("csr"), at("ext"));
        let pair = Pair {
            certificate: at("cert"),
            key: at("key"),
        };
        openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            text(&pair.key),
            "-out",
            text(&request),
        ]);
        fs::write(&extensions, format!("subjectAltName={address},DNS:localhost\n")).unwrap();
        openssl(&[
            "x509",
            "-req",
            "-in",
            text(&request),
            "-CA",
            text(&self.pair.certificate),
            "-CAkey",
            text(&self.pair.key),
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            text(&extensions),
            "-out",
            text(&pair.certificate),
        ]);
        pair
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs the program; it must succeed.
pub(crate) fn openssl(words: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(words).output().unwrap();
    assert!(
        output.status.success(),
        "openssl {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
