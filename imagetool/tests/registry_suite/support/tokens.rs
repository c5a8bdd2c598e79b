//! A token server: gives who may the right that is asked for, as signed JSON web tokens that `docker-registry` verifies.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::http::{Head, Server, answer, body};
use super::tls::openssl;

/// The user the server knows.
pub(crate) const USER: &str = "me";
/// Their password.
pub(crate) const PASSWORD: &str = "hunter2";
/// The refresh token the server gives and takes.
pub(crate) const REFRESH: &str = "refresh-me";

/// What the server does besides.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Pulling is for everyone.
    pub(crate) anonymous_pull: bool,
    /// What the tokens are told to be good for.
    pub(crate) expires_s: u64,
    /// So many tokens are worthless at first.
    pub(crate) worthless: usize,
}

/// A request for a token, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) head: Head,
    pub(crate) form: String,
}

/// The server; ends when dropped.
pub(crate) struct Tokens {
    server: Server,
    pub(crate) certificate: PathBuf,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Tokens {
    /// Keeps its key in `folder`.
    pub(crate) fn start(folder: &Path, manner: Manner) -> Self {
        let (key, certificate) = (folder.join("token.key"), folder.join("token.crt"));
        let (key_text, certificate_text) = (key.to_str().unwrap(), certificate.to_str().unwrap());
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=tokens",
            "-keyout",
            key_text,
            "-out",
            certificate_text,
        ]);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, signer) = (seen.clone(), Signer::new(&key, &certificate));
        let server = Server::start(move |reader, head| {
            let form = String::from_utf8(body(reader, head)?).unwrap();
            let count = {
                let mut kept = kept.lock().unwrap();
                kept.push(Asked {
                    head: head.clone(),
                    form: form.clone(),
                });
                kept.len()
            };
            let reply = reply(&signer, manner, head, &form, count <= manner.worthless);
            let (status, text) = match reply {
                Some(text) => (200, text),
                None => (401, r#"{"details":"incorrect username or password"}"#.to_owned()),
            };
            answer(
                reader.get_mut(),
                status,
                &[("Content-Type", "application/json")],
                text.as_bytes(),
            )
        });
        Self {
            server,
            certificate,
            seen,
        }
    }

    pub(crate) fn realm(&self) -> String {
        format!("http://{}/token", self.server.address())
    }

    pub(crate) fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }
}

fn reply(signer: &Signer, manner: Manner, head: &Head, form: &str, worthless: bool) -> Option<String> {
    let known = head.header("authorization")
        == Some(&format!(
            "Basic {}",
            STANDARD.encode(format!("{USER}:{PASSWORD}"))
        ));
    let refreshed = form.contains(&format!("refresh_token={REFRESH}"));
    let nobody = head.header("authorization").is_none() && head.method == "GET";
    let allowed = known || refreshed || (nobody && manner.anonymous_pull);
    if !allowed {
        return None;
    }
    let query = match head.method.as_str() {
        "POST" => form,
        _ => head.target.split_once('?').map_or("", |(_, query)| query),
    };
    let mut scopes = Vec::new();
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        if key == "scope" {
            let value = value
                .replace("%3A", ":")
                .replace("%2F", "/")
                .replace("%2C", ",")
                .replace("%2A", "*");
            scopes.extend(value.split("%20").map(str::to_owned));
        }
    }
    let access: Vec<_> = scopes.iter().filter_map(|scope| access(scope, nobody)).collect();
    let token = match worthless {
        true => "worthless".to_owned(),
        false => signer.sign(&access.join(",")),
    };
    let refresh = match query.contains("offline_token=true") {
        true => format!(r#","refresh_token":"{REFRESH}""#),
        false => String::new(),
    };
    Some(format!(
        r#"{{"token":"{token}","expires_in":{}{refresh}}}"#,
        manner.expires_s
    ))
}

/// The right for a scope, `TYPE:NAME:ACTIONS`; nobody may only read.
fn access(scope: &str, nobody: bool) -> Option<String> {
    let (rest, actions) = scope.rsplit_once(':')?;
    let (kind, name) = rest.split_once(':')?;
    let actions: Vec<_> = actions
        .split(',')
        .filter(|action| !nobody || *action == "pull")
        .map(|action| format!("{action:?}"))
        .collect();
    Some(format!(
        r#"{{"type":{kind:?},"name":{name:?},"actions":[{}]}}"#,
        actions.join(",")
    ))
}

/// Signs tokens with RS256 (RFC 7515).
struct Signer {
    key: PathBuf,
    certificate: String,
}

impl Signer {
    fn new(key: &Path, certificate: &Path) -> Self {
        let pem = fs::read_to_string(certificate).unwrap();
        Self {
            key: key.to_owned(),
            certificate: pem.lines().filter(|line| !line.starts_with('-')).collect(),
        }
    }

    fn sign(&self, access: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let head = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{}"]}}"#, self.certificate);
        let claims = format!(
            r#"{{"iss":"test-issuer","sub":"{USER}","aud":"test-registry","exp":{},"nbf":{},"iat":{now},"jti":"1","access":[{access}]}}"#,
            now + 300,
            now - 60
        );
        let text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(head),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = self.signature(&text).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn signature(&self, text: &str) -> io::Result<Vec<u8>> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), text)?;
        let (key, path) = (self.key.to_str().unwrap(), file.path().to_str().unwrap());
        Ok(openssl(&["dgst", "-sha256", "-sign", key, path]))
    }
}
