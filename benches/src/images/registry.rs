//! A registry on this machine's loopback, with an image in it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Bench;
use super::data::LAYERS;
use super::tools::{run, which};
use crate::error::{BenchError, Doing, Result};
use crate::sys;

const START_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// A running registry; ended when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    /// Starts one that keeps everything below an empty directory.
    ///
    /// # Errors
    /// When there is no registry program, or it does not answer.
    pub fn start(program: Option<&PathBuf>, dir: &Path) -> Result<Self> {
        let program = program.ok_or_else(|| BenchError::Program {
            program: "docker-registry".to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let name = Path::new("a port");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .doing("find", name)?
            .port();
        let address = format!("127.0.0.1:{port}");
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\nhttp:\n  addr: {address}\n",
            dir.join("data").display()
        );
        fs::write(&config, text).doing("write", &config)?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&config);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        sys::dies_with_us(&mut command);
        let child = command.spawn().map_err(|source| BenchError::Program {
            program: program.display().to_string(),
            source,
        })?;
        let registry = Self { child, address };
        let started = Instant::now();
        while TcpStream::connect(&registry.address).is_err() {
            if started.elapsed() > START_TIMEOUT {
                return Err(BenchError::Wrong("the registry does not answer".to_owned()));
            }
            std::thread::sleep(POLL_PAUSE);
        }
        Ok(registry)
    }

    /// The full name of an image in it.
    #[must_use]
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The registry, under either of its names.
#[must_use]
pub fn program() -> Option<PathBuf> {
    which("docker-registry").or_else(|| which("registry"))
}

/// A `skopeo` that asks no policy for its consent.
///
/// # Errors
/// When it is missing.
pub fn skopeo(bench: &Bench) -> Result<Command> {
    let program = bench.tools.skopeo.as_ref().ok_or_else(|| BenchError::Program {
        program: "skopeo".to_owned(),
        source: std::io::ErrorKind::NotFound.into(),
    })?;
    let mut command = Command::new(program);
    command.args(["--insecure-policy", "copy", "-q"]);
    Ok(command)
}

impl Bench {
    /// The registry, and the name of the root file system in five gzip layers in it.
    ///
    /// # Errors
    /// When it cannot be started or filled.
    pub fn registry(&self) -> Result<(&Registry, String)> {
        const NAME: &str = "rootfs:5";
        if let Some(registry) = self.data.registry.get() {
            return Ok((registry, registry.image(NAME)));
        }
        let layout = self.layout(true)?;
        let dir = self.place.data().join("registry");
        fs::create_dir_all(&dir).doing("make", &dir)?;
        let registry = Registry::start(self.tools.registry.as_ref(), &dir)?;
        eprintln!("  filling the registry with an image of {LAYERS} layers");
        let image = registry.image(NAME);
        run(skopeo(self)?
            .arg("--dest-tls-verify=false")
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("docker://{image}")))?;
        Ok((self.data.registry.get_or_init(|| registry), image))
    }
}
