//! Bearer tokens: asked for at the server that a registry names (Docker's token and OAuth 2 specifications).
//!
//! ```text
//! 401 Bearer realm=R,service=S ─► GET R?service=S&scope=… (Basic, or nobody)  ─► {"token", "expires_in"}
//!                              └► POST R grant_type=refresh_token (identity token)
//! ```

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::Method;

use super::answer::failure;
use super::challenge::Challenge;
use super::credentials::{Credentials, Secret};
use super::error::{Asked, RegistryError};
use super::transport::{Answer, Call, Payload, Transport};
use super::url::{Scheme, Url, encode};

/// The largest answer of a token server.
const ANSWER_LIMIT: u64 = 1 << 20;
/// What a token without a time of its own is good for, as the specification has it.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// So much earlier a token counts as expired.
const MARGIN: Duration = Duration::from_secs(5);
/// How we call ourselves.
const CLIENT: &str = "shale";

/// What is to be done with which repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scope(pub(super) String);

impl Scope {
    /// To read from a repository.
    pub(super) fn pull(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull"))
    }

    /// To read from it and write to it.
    pub(super) fn push(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull,push"))
    }

    /// To list the repositories.
    pub(super) fn catalog() -> Self {
        Self("registry:catalog:*".to_owned())
    }
}

/// A token and until when it is good.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) secret: Secret,
    expires: Instant,
    /// A refresh token, where one was asked for.
    pub(super) refresh: Option<Secret>,
}

impl Token {
    pub(super) fn is_good(&self) -> bool {
        Instant::now() < self.expires
    }
}

#[derive(Deserialize)]
struct RawToken {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
    #[serde(default)]
    refresh_token: Option<String>,
}

/// Asks for tokens.
pub(super) struct TokenServer<'a> {
    transport: &'a Transport,
    realm: Url,
    service: Option<String>,
    asked: &'a Asked,
}

impl<'a> TokenServer<'a> {
    /// The server a challenge names. One without TLS is refused where the registry has TLS.
    pub(super) fn new(
        transport: &'a Transport,
        challenge: &Challenge,
        registry: Scheme,
        asked: &'a Asked,
    ) -> Result<Self, RegistryError> {
        let realm = challenge
            .get("realm")
            .ok_or_else(|| asked.wrong("the registry wants a token but does not say from where"))?;
        let realm = Url::parse(realm).map_err(|problem| {
            asked.wrong(format!(
                "the registry wants a token from where none can be: {problem}"
            ))
        })?;
        if registry == Scheme::Https && realm.origin.scheme == Scheme::Http {
            let problem = format!("the registry wants a token from {realm}, over plain HTTP");
            return Err(asked.wrong(problem));
        }
        Ok(Self {
            transport,
            realm,
            service: challenge.get("service").map(str::to_owned),
            asked,
        })
    }

    /// A token for scopes; `offline` asks for a refresh token as well.
    pub(super) fn token(
        &self,
        scopes: &[Scope],
        credentials: Option<&Credentials>,
        offline: bool,
    ) -> Result<Token, RegistryError> {
        match credentials {
            Some(Credentials::Identity(refresh)) => self.refresh(scopes, refresh),
            other => self.ask(scopes, other, offline),
        }
    }

    fn ask(
        &self,
        scopes: &[Scope],
        credentials: Option<&Credentials>,
        offline: bool,
    ) -> Result<Token, RegistryError> {
        let mut url = self.realm.clone();
        if let Some(service) = &self.service {
            url = url.with("service", service);
        }
        for scope in scopes {
            url = url.with("scope", &scope.0);
        }
        if offline {
            url = url.with("offline_token", "true").with("client_id", CLIENT);
        }
        let mut authorization = None;
        if let Some(Credentials::Password { user, password }) = credentials {
            url = url.with("account", user);
            authorization = Some(basic(user, password));
        }
        let call = Call::get(url, self.asked);
        let authorization = authorization.as_ref().map(Secret::reveal);
        self.parse(self.transport.send(&call, authorization)?)
    }

    fn refresh(&self, scopes: &[Scope], refresh: &Secret) -> Result<Token, RegistryError> {
        let scopes: Vec<_> = scopes.iter().map(|scope| scope.0.as_str()).collect();
        let pairs = [
            ("grant_type", "refresh_token"),
            ("service", self.service.as_deref().unwrap_or_default()),
            ("client_id", CLIENT),
            ("scope", &scopes.join(" ")),
            ("refresh_token", refresh.reveal()),
        ];
        let pairs = pairs.map(|(key, value)| format!("{key}={}", encode(value)));
        let form = pairs.join("&");
        let mut call = Call::new(Method::POST, self.realm.clone(), self.asked)
            .header("content-type", "application/x-www-form-urlencoded")
            .payload(Payload::Bytes(form.as_bytes()));
        call.stays = true;
        self.parse(self.transport.send(&call, None)?)
    }

    fn parse(&self, answer: Answer) -> Result<Token, RegistryError> {
        if answer.status != 200 {
            return Err(match (answer.status, failure(answer, self.asked)) {
                // a refusal of the credentials, however it is worded
                (400, RegistryError::Status { asked, message, .. }) => {
                    RegistryError::Denied { asked, message }
                }
                (_, error) => error,
            });
        }
        let bytes = answer.read(ANSWER_LIMIT, self.asked)?;
        // the parser's message could show a part of the token
        let raw: RawToken = serde_json::from_slice(&bytes).map_err(|_| {
            self.asked
                .wrong(format!("{} does not answer with a token", self.realm))
        })?;
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        let secret = text(raw.token)
            .or(text(raw.access_token))
            .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(|| {
                self.asked
                    .wrong(format!("{} answers without a token", self.realm))
            })?;
        let life = raw
            .expires_in
            .filter(|seconds| *seconds > 0.0)
            .map_or(DEFAULT_LIFE, |seconds| {
                Duration::from_secs_f64(seconds.min(86_400.0))
            });
        Ok(Token {
            secret: Secret::new(secret),
            expires: Instant::now() + life.saturating_sub(MARGIN.min(life / 2)),
            refresh: text(raw.refresh_token).map(Secret::new),
        })
    }
}

/// The value of `Authorization` for a user and a password (RFC 7617).
pub(super) fn basic(user: &str, password: &Secret) -> Secret {
    Secret::new(format!(
        "Basic {}",
        STANDARD.encode(format!("{user}:{}", password.reveal()))
    ))
}

/// The value of `Authorization` for a token (RFC 6750).
pub(super) fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.reveal()))
}
