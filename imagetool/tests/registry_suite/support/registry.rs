//! Debian's `docker-registry` on a free port of the loopback, with a directory of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::tls::Pair;
use crate::common::skip;

/// How a registry is set up; plain by default.
#[derive(Default)]
pub(crate) struct Setup {
    /// The one user there is, and the password.
    pub(crate) user: Option<(String, String)>,
    /// With TLS, with this certificate and key.
    pub(crate) tls: Option<Pair>,
    /// The token server's URL and the certificate its tokens are signed by.
    pub(crate) tokens: Option<(String, PathBuf)>,
    /// Another address of this machine than 127.0.0.1.
    pub(crate) listen: Option<String>,
}

impl Setup {
    fn host(&self) -> &str {
        self.listen.as_deref().unwrap_or("127.0.0.1")
    }

    pub(crate) fn with_user(user: &str, password: &str) -> Self {
        Self {
            user: Some((user.to_owned(), password.to_owned())),
            ..Self::default()
        }
    }
}

/// A running registry; ends when dropped.
pub(crate) struct Registry {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Registry {
    /// A plain one; `None`, with a skip printed, where the program is missing.
    pub(crate) fn plain() -> Option<Self> {
        Self::start(&Setup::default())
    }

    pub(crate) fn start(setup: &Setup) -> Option<Self> {
        if !has("docker-registry") {
            skip("docker-registry is not installed");
            return None;
        }
        // a port that was free may be taken by the time the registry wants it
        (0..5)
            .find_map(|_| Self::attempt(setup))
            .or_else(|| panic!("docker-registry does not start"))
    }

    fn attempt(setup: &Setup) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind((setup.host(), 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = folder.path().join("config.yml");
        let address = format!("{}:{port}", setup.host());
        fs::write(&config, configuration(setup, folder.path(), &address)).unwrap();
        // the registry ends with the thread that started it, whatever happens to that
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect(&address).is_ok() {
                return Some(Self {
                    child,
                    address,
                    folder,
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Where it keeps its content.
    pub(crate) fn storage(&self) -> PathBuf {
        self.folder.path().join("storage")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(setup: &Setup, folder: &Path, address: &str) -> String {
    let shown = folder.display();
    let mut text = format!(
        "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: {shown}/storage\n  delete:\n    enabled: true\n\
         http:\n  addr: {address}\n"
    );
    if let Some(pair) = &setup.tls {
        text += &format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            pair.certificate.display(),
            pair.key.display()
        );
    }
    if let Some((user, password)) = &setup.user {
        let made = Command::new("htpasswd")
            .args(["-Bbn", user, password])
            .output()
            .unwrap();
        assert!(made.status.success());
        fs::write(folder.join("htpasswd"), made.stdout).unwrap();
        text += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {shown}/htpasswd\n");
    }
    if let Some((realm, certificate)) = &setup.tokens {
        text += &format!(
            "auth:\n  token:\n    realm: {realm}\n    service: test-registry\n    issuer: test-issuer\n    rootcertbundle: {}\n",
            certificate.display()
        );
    }
    text
}

/// Whether a program is installed.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Whether a program is installed; prints a skip where it is not.
pub(crate) fn needs(program: &str) -> bool {
    let there = has(program);
    if !there {
        skip(&format!("{program} is not installed"));
    }
    there
}
