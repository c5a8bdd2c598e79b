//! HTTP: one agent per origin, redirects followed here, limits on what is read.
//!
//! Invariants: `Authorization` goes to the origin it was made for and to no other, not even when a chain of redirects
//! comes back to it; from HTTPS no redirect leads to plain HTTP; a read or write that stands still ends.

use std::collections::HashMap;
use std::error::Error as _;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ureq::http::{HeaderMap, Method, Request, Response};
use ureq::{Agent, AsSendBody, Body, Proxy, SendBody};

use super::certificates::Certificates;
use super::error::{Asked, RegistryError, clean};
use super::proxy::{Proxies, is_loopback};
use super::url::{Origin, Scheme, Url, split_port};

/// Redirects that are followed for one request.
const HOP_LIMIT: usize = 10;
/// The largest head of an answer.
const HEAD_LIMIT: usize = 64 << 10;
/// Connections to one host that are kept for the next request.
const IDLE_LIMIT: usize = 16;
/// Time for a connection to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// After an upload a registry may verify and move what it got before it answers: so many times longer than usual.
const UPLOAD_PATIENCE: u32 = 5;

/// Who is who, as to certificates.
#[derive(Debug, Clone, Default)]
pub(super) struct Insecure {
    /// `HOST`, `HOST:PORT` or `*.DOMAIN`.
    pub(super) hosts: Vec<String>,
}

impl Insecure {
    /// Whether plain HTTP and unknown certificates will do for a host: this machine, and what the configuration names.
    pub(super) fn covers(&self, host: &str, port: u16) -> bool {
        is_loopback(host)
            || self.hosts.iter().any(|entry| {
                let Ok((name, of_port)) = split_port(entry) else {
                    return false;
                };
                let same = match name.strip_prefix("*.") {
                    Some(domain) => host
                        .strip_suffix(&domain.to_ascii_lowercase())
                        .is_some_and(|rest| rest.ends_with('.')),
                    None => name.eq_ignore_ascii_case(host),
                };
                same && of_port.is_none_or(|of_port| of_port == port)
            })
    }
}

/// What is sent with a request.
pub(super) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    /// Opened once per hop; as long as told.
    Stream {
        open: &'a dyn Fn() -> io::Result<Box<dyn Read + Send>>,
        length_bytes: u64,
    },
}

/// A request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload<'a>,
    pub(super) asked: &'a Asked,
    /// The limit between two reads, where it is not the usual one.
    pub(super) stall: Option<Duration>,
    /// Whether what is sent is for this origin alone.
    pub(super) stays: bool,
}

impl<'a> Call<'a> {
    pub(super) fn get(url: Url, asked: &'a Asked) -> Self {
        Self::new(Method::GET, url, asked)
    }

    pub(super) fn new(method: Method, url: Url, asked: &'a Asked) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            payload: Payload::None,
            asked,
            stall: None,
            stays: false,
        }
    }

    #[must_use]
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub(super) fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// Who answered, after redirects.
    pub(super) url: Url,
}

impl Answer {
    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body, refused when it is larger than `limit_bytes`.
    pub(super) fn read(self, limit_bytes: u64, asked: &Asked) -> Result<Vec<u8>, RegistryError> {
        let too_large = || asked.wrong(format!("the answer is larger than {limit_bytes} bytes"));
        if self
            .body
            .content_length()
            .is_some_and(|length| length > limit_bytes)
        {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let mut reader = self.body.into_reader().take(limit_bytes + 1);
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| broken(asked, &self.url.origin, error))?;
        match bytes.len() as u64 > limit_bytes {
            true => Err(too_large()),
            false => Ok(bytes),
        }
    }
}

/// The agents, and what they are made of.
#[derive(Debug)]
pub(super) struct Transport {
    certificates: Certificates,
    proxies: Proxies,
    insecure: Mutex<Insecure>,
    /// The limit between two reads.
    pub(super) stall: Duration,
    agents: Mutex<HashMap<Origin, Agent>>,
}

impl Transport {
    pub(super) fn new(
        certificates: Certificates,
        proxies: Proxies,
        insecure: Insecure,
        stall: Duration,
    ) -> Self {
        Self {
            certificates,
            proxies,
            insecure: Mutex::new(insecure),
            stall,
            agents: Mutex::default(),
        }
    }

    /// Whether plain HTTP and unknown certificates will do for a host.
    pub(super) fn is_insecure(&self, host: &str, port: u16) -> bool {
        let insecure = self.insecure.lock().unwrap_or_else(PoisonError::into_inner);
        insecure.covers(host, port)
    }

    /// Lets a host (`HOST[:PORT]`) be insecure from now on.
    pub(super) fn allow_insecure(&self, host: &str) {
        let mut insecure = self.insecure.lock().unwrap_or_else(PoisonError::into_inner);
        insecure.hosts.push(host.to_owned());
    }

    fn agent(&self, origin: &Origin) -> Result<Agent, RegistryError> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(origin) {
            return Ok(agent.clone());
        }
        let proxy = match self.proxies.for_origin(origin) {
            // the address may have a password in it: it is not shown
            Some(address) => Some(Proxy::new(address).map_err(|_| {
                RegistryError::config("the environment's proxy", "write it as http://HOST:PORT")
            })?),
            None => None,
        };
        let mut builder = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("shale/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_per_read(Some(self.stall))
            .timeout_per_write(Some(self.stall))
            .max_response_header_size(HEAD_LIMIT)
            .max_idle_connections(4 * IDLE_LIMIT)
            .max_idle_connections_per_host(IDLE_LIMIT)
            .proxy(proxy);
        if origin.scheme == Scheme::Https {
            let verify = !self.is_insecure(&origin.host, origin.port);
            builder = builder.tls_config(self.certificates.tls(origin, verify)?);
        }
        let agent = builder.build().new_agent();
        agents.insert(origin.clone(), agent.clone());
        Ok(agent)
    }

    /// Sends a request and follows redirects. `authorization` goes along as long as the origin stays.
    pub(super) fn send(
        &self,
        call: &Call<'_>,
        mut authorization: Option<&str>,
    ) -> Result<Answer, RegistryError> {
        let asked = call.asked;
        let mut url = call.url.clone();
        for _ in 0..=HOP_LIMIT {
            let answer = self.hop(call, &url, authorization)?;
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let plain_question = matches!(call.method, Method::GET | Method::HEAD);
            if !plain_question && matches!(answer.status, 301..=303) {
                let problem = format!(
                    "{} leads elsewhere (HTTP status {}) where something is sent",
                    answer.url, answer.status
                );
                return Err(asked.wrong(problem));
            }
            let location = answer
                .header("location")
                .ok_or_else(|| asked.wrong(format!("{url} leads elsewhere without saying where")))?;
            let next = url
                .join(location)
                .map_err(|problem| asked.wrong(format!("{url} leads elsewhere: {problem}")))?;
            if url.origin.scheme == Scheme::Https && next.origin.scheme == Scheme::Http {
                return Err(asked.wrong(format!("{url} leads from HTTPS to plain HTTP ({next})")));
            }
            if next.origin != url.origin {
                if call.stays {
                    return Err(asked.wrong(format!(
                        "{url} leads to another host ({next}) where a secret is sent"
                    )));
                }
                authorization = None;
            }
            tracing::debug!("{url} leads to {next}");
            url = next;
        }
        Err(asked.wrong(format!(
            "{} leads elsewhere more than {HOP_LIMIT} times",
            call.url
        )))
    }

    /// One request, one answer.
    fn hop(&self, call: &Call<'_>, url: &Url, authorization: Option<&str>) -> Result<Answer, RegistryError> {
        let agent = self.agent(&url.origin)?;
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(url.in_full())
            // digests are over bytes as they are
            .header("accept-encoding", "identity");
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let invalid = |error: ureq::http::Error| call.asked.wrong(format!("{url}: {error}"));
        let mut failed_content = None;
        let sends = !matches!(call.payload, Payload::None);
        let stall = call.stall.unwrap_or(match sends {
            true => self.stall * UPLOAD_PATIENCE,
            false => self.stall,
        });
        let outcome = match &call.payload {
            Payload::None => run(&agent, request.body(()).map_err(invalid)?, stall),
            Payload::Bytes(bytes) => run(&agent, request.body(*bytes).map_err(invalid)?, stall),
            Payload::Stream { open, length_bytes } => {
                let content = |source| RegistryError::Content {
                    asked: Box::new(call.asked.clone()),
                    source,
                };
                let mut reader = Exactly {
                    inner: open().map_err(content)?,
                    left_bytes: *length_bytes,
                    failed: &mut failed_content,
                };
                let request = request
                    .header("content-length", length_bytes.to_string())
                    .body(SendBody::from_reader(&mut reader))
                    .map_err(invalid)?;
                let outcome = run(&agent, request, stall);
                if let Some(source) = failed_content {
                    return Err(content(source));
                }
                outcome
            }
        };
        let (parts, body) = match outcome {
            Ok(response) => response.into_parts(),
            Err(error) => return Err(broken(call.asked, &url.origin, error.into_io())),
        };
        tracing::debug!("{} {url}: {}", call.method, parts.status.as_u16());
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            url: url.clone(),
        })
    }
}

fn run<S: AsSendBody>(
    agent: &Agent,
    request: Request<S>,
    stall: Duration,
) -> Result<Response<Body>, ureq::Error> {
    agent.run(
        agent
            .configure_request(request)
            .timeout_per_read(Some(stall))
            .build(),
    )
}

/// Content of a length that was promised; what goes wrong with it is kept apart from what goes wrong with the network.
struct Exactly<'a> {
    inner: Box<dyn Read + Send>,
    left_bytes: u64,
    failed: &'a mut Option<io::Error>,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left_bytes).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let outcome = match self.inner.read(&mut buffer[..most]) {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it ends {} bytes early", self.left_bytes),
            )),
            other => other,
        };
        match outcome {
            Ok(count) => {
                self.left_bytes -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                *self.failed = Some(error);
                Err(copy)
            }
        }
    }
}

/// Makes an error of what the network did. What cannot be better next time is told apart.
pub(super) fn broken(asked: &Asked, origin: &Origin, error: io::Error) -> RegistryError {
    let transport = |problem: String, transient| RegistryError::Transport {
        asked: Box::new(asked.clone()),
        problem,
        transient,
    };
    let inner = error.get_ref();
    if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return transport(tls_problem(tls, origin), false);
    }
    match inner.and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(ureq::Error::Rustls(tls)) => return transport(tls_problem(tls, origin), false),
        Some(ureq::Error::Timeout(_)) => {
            return transport(format!("{} stands still", origin.host), true);
        }
        Some(ureq::Error::HostNotFound) => {
            return transport(format!("no address is known for the host {}", origin.host), false);
        }
        Some(ureq::Error::LargeResponseHeader(..)) => {
            return asked.wrong(format!(
                "the head of the answer is larger than {HEAD_LIMIT} bytes"
            ));
        }
        Some(ureq::Error::ConnectProxyFailed(text)) => {
            return transport(format!("the proxy refuses: {}", clean(text)), false);
        }
        Some(ureq::Error::Protocol(problem)) => {
            return asked.wrong(format!(
                "this is no answer in HTTP: {}",
                clean(&problem.to_string())
            ));
        }
        _ => {}
    }
    let text = match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("nothing listens at {origin}"),
        io::ErrorKind::UnexpectedEof => "the connection ended early".to_owned(),
        io::ErrorKind::TimedOut => format!("{} stands still", origin.host),
        _ => clean(&error.to_string()),
    };
    let cause = error
        .source()
        .and_then(|inner| inner.downcast_ref::<ureq::Error>());
    let transient = cause.is_none_or(|inner| !matches!(inner, ureq::Error::Tls(_) | ureq::Error::BadUri(_)));
    transport(text, transient && error.kind() != io::ErrorKind::InvalidInput)
}

fn tls_problem(error: &rustls::Error, origin: &Origin) -> String {
    let name = match origin.port {
        443 => origin.host.clone(),
        port => format!("{}:{port}", origin.host),
    };
    match error {
        rustls::Error::InvalidCertificate(problem) => format!(
            "the certificate of {name} is not valid ({problem}): put its authority's certificate into \
             /etc/docker/certs.d/{name}/ca.crt, or allow it with --insecure-registry {name}"
        ),
        rustls::Error::InvalidMessage(_) => {
            format!("{name} does not speak TLS: allow plain HTTP with --insecure-registry {name}")
        }
        other => format!("TLS with {name}: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_hosts_are_named_or_here() {
        let insecure = Insecure {
            hosts: ["a.example", "b.example:5000", "*.c.example"]
                .map(str::to_owned)
                .to_vec(),
        };
        let cases = [
            ("localhost", 5000, true),
            ("127.8.9.1", 1, true),
            ("[::1]", 1, true),
            ("128.0.0.1", 1, false),
            ("a.example", 443, true),
            ("A.example", 1, true),
            ("x.a.example", 1, false),
            ("b.example", 5000, true),
            ("b.example", 443, false),
            ("x.c.example", 443, true),
            ("c.example", 443, false),
            ("localhost.example", 1, false),
        ];
        for (host, port, expected) in cases {
            assert_eq!(insecure.covers(host, port), expected, "{host}:{port}");
        }
    }

    #[test]
    fn content_that_is_shorter_than_told_is_an_error() {
        let mut failed = None;
        let mut reader = Exactly {
            inner: Box::new(&b"abc"[..]),
            left_bytes: 5,
            failed: &mut failed,
        };
        let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("2 bytes early"), "{error}");
        assert!(failed.is_some());
    }
}
