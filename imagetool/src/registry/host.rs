//! A registry's host: the first contact, and requests with the authorization it wants.
//!
//! ```text
//! first contact   GET /v2/ over HTTPS; where that may be insecure and fails, over HTTP
//!                 └► 200: nobody asks who we are   401: Basic or Bearer
//! each request    with a token for its scopes, remembered until it expires; 401: once more with a new one
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::answer::failure;
use super::challenge::{self, Challenge};
use super::credentials::{CredentialStore, Credentials, Secret};
use super::error::{Asked, RegistryError};
use super::retry::Patience;
use super::token::{Scope, Token, TokenServer, basic, bearer};
use super::transport::{Answer, Call, Transport};
use super::url::{Origin, Scheme, Url, split_port};

/// How often the first contact is tried: a wrong name should not take long to be told.
const CONTACT_ATTEMPTS: u32 = 3;
/// What a server that may not speak TLS at all gets to answer to it.
const TLS_PROBE: Duration = Duration::from_secs(5);

/// So much of the answer to the first contact is read.
const PING_LIMIT: u64 = 64 << 10;

/// What all repositories share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) transport: Transport,
    pub(super) credentials: CredentialStore,
    /// The wait after a first failure.
    pub(super) first_wait: Duration,
}

/// What the first contact told.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    pub(super) origin: Origin,
    pub(super) challenges: Vec<Challenge>,
}

/// A host. Locks are held while a question is on its way, so that it is asked once for all threads: `tokens` before
/// `contact` and `credentials`, which are the last.
#[derive(Debug)]
pub(super) struct Host {
    /// `HOST[:PORT]` as names and credentials have it.
    pub(super) domain: String,
    /// `HOST[:PORT]` as it is connected to.
    pub(super) endpoint: String,
    contact: Mutex<Option<Contact>>,
    tokens: Mutex<BTreeMap<Vec<Scope>, Token>>,
    credentials: Mutex<BTreeMap<String, Option<Credentials>>>,
}

impl Host {
    pub(super) fn new(domain: &str, endpoint: &str) -> Self {
        Self {
            domain: domain.to_owned(),
            endpoint: endpoint.to_owned(),
            contact: Mutex::default(),
            tokens: Mutex::default(),
            credentials: Mutex::default(),
        }
    }

    /// How to speak with the host, found out once.
    pub(super) fn contact(&self, shared: &Shared) -> Result<Contact, RegistryError> {
        let mut known = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(contact) = &*known {
            return Ok(contact.clone());
        }
        let patience = Patience::new(shared.first_wait, CONTACT_ATTEMPTS);
        let contact = patience.run(|| self.first_contact(shared))?;
        *known = Some(contact.clone());
        Ok(contact)
    }

    fn first_contact(&self, shared: &Shared) -> Result<Contact, RegistryError> {
        let asked = Asked::of_registry(&self.endpoint, "connect to");
        let wrong = |problem: String| asked.wrong(problem);
        let secure = Origin::new(Scheme::Https, &self.endpoint).map_err(wrong)?;
        if !shared.transport.is_insecure(&secure.host, secure.port) {
            return ping(shared, secure, &asked, None);
        }
        match ping(
            shared,
            secure,
            &asked,
            Some(TLS_PROBE.min(shared.transport.stall)),
        ) {
            Err(error @ (RegistryError::Transport { .. } | RegistryError::Answer { .. })) => {
                tracing::debug!("{error}; trying plain HTTP");
                let plain = Origin::new(Scheme::Http, &self.endpoint).map_err(wrong)?;
                ping(shared, plain, &asked, None)
            }
            other => other,
        }
    }

    /// Sends a request of this host's, with the authorization it wants, where it is for this host. Gives answers with
    /// any status but 401.
    pub(super) fn send(
        &self,
        shared: &Shared,
        call: &Call<'_>,
        scopes: &[Scope],
        repository: &str,
    ) -> Result<Answer, RegistryError> {
        let contact = self.contact(shared)?;
        if call.url.origin != contact.origin {
            return finished(shared.transport.send(call, None)?, call.asked);
        }
        let authorization = self.authorize(
            shared,
            &contact.challenges,
            (scopes, scopes),
            repository,
            call.asked,
        )?;
        let answer = shared
            .transport
            .send(call, authorization.as_ref().map(Secret::reveal))?;
        // one that comes from elsewhere is no word of this registry
        if answer.status != 401 || answer.url.origin != contact.origin {
            return finished(answer, call.asked);
        }
        let challenges = challenges(&answer);
        self.learn(&challenges);
        let again = match challenges.is_empty() {
            true => None,
            false => {
                self.forget(scopes);
                let wanted = with_wanted(scopes, &challenges);
                let authorization =
                    self.authorize(shared, &challenges, (scopes, &wanted), repository, call.asked)?;
                // the same password once more would be the same answer
                authorization
                    .filter(|new| new.reveal().starts_with("Bearer ") || contact.challenges.is_empty())
            }
        };
        let answer = match again {
            Some(authorization) => shared.transport.send(call, Some(authorization.reveal()))?,
            None => answer,
        };
        if answer.status != 401 || answer.url.origin != contact.origin {
            return finished(answer, call.asked);
        }
        Err(self.denied(shared, answer, call.asked, repository))
    }

    /// A host that lets everybody read asks only when something is written: from then on it is not asked twice.
    fn learn(&self, challenges: &[Challenge]) {
        let mut known = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(contact) = &mut *known
            && contact.challenges.is_empty()
        {
            contact.challenges = challenges.to_vec();
        }
    }

    /// What to do about a refusal depends on whether one is logged in.
    fn denied(&self, shared: &Shared, answer: Answer, asked: &Asked, repository: &str) -> RegistryError {
        let known = self.credentials(shared, repository);
        let advice = match known {
            Ok(Some(_)) => "the credentials that are kept were refused",
            _ => "it may need a login",
        };
        match failure(answer, asked) {
            RegistryError::Denied { asked, message } => RegistryError::Denied {
                asked,
                message: format!("{message}: {advice} (shale login {})", self.domain),
            },
            other => other,
        }
    }

    /// The value of `Authorization`; none where nobody asks, or nobody is logged in where a login is asked for. A token
    /// for `scopes` is kept under `key`, which is what the request itself needs.
    fn authorize(
        &self,
        shared: &Shared,
        challenges: &[Challenge],
        (key, scopes): (&[Scope], &[Scope]),
        repository: &str,
        asked: &Asked,
    ) -> Result<Option<Secret>, RegistryError> {
        if challenges.is_empty() {
            return Ok(None);
        }
        let of_kind = |kind: &str| challenges.iter().find(|challenge| challenge.scheme == kind);
        if let Some(challenge) = of_kind("bearer") {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(token) = tokens.get(key).filter(|token| token.is_good()) {
                return Ok(Some(bearer(&token.secret)));
            }
            let credentials = self.credentials(shared, repository)?;
            if let Some(Credentials::Bearer(token)) = &credentials {
                return Ok(Some(bearer(token)));
            }
            let scheme = self.contact_scheme(shared);
            let server = TokenServer::new(&shared.transport, challenge, scheme, asked)?;
            let token = server.token(scopes, credentials.as_ref(), false)?;
            let authorization = bearer(&token.secret);
            tokens.insert(key.to_vec(), token);
            return Ok(Some(authorization));
        }
        if of_kind("basic").is_some() {
            return Ok(match self.credentials(shared, repository)? {
                Some(Credentials::Password { user, password }) => Some(basic(&user, &password)),
                _ => None,
            });
        }
        let offered: Vec<_> = challenges
            .iter()
            .map(|challenge| challenge.scheme.as_str())
            .collect();
        Err(asked.wrong(format!(
            "the registry asks for authorization by {}: Basic and Bearer are known",
            offered.join(", ")
        )))
    }

    /// What is known for a repository, looked up once: a helper program may have to be asked.
    fn credentials(&self, shared: &Shared, repository: &str) -> Result<Option<Credentials>, RegistryError> {
        let mut known = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(repository) {
            return Ok(found.clone());
        }
        let found = shared.credentials.find(&self.domain, repository)?;
        known.insert(repository.to_owned(), found.clone());
        Ok(found)
    }

    fn contact_scheme(&self, shared: &Shared) -> Scheme {
        match self.contact(shared) {
            Ok(contact) => contact.origin.scheme,
            Err(_) => Scheme::Https,
        }
    }

    fn forget(&self, scopes: &[Scope]) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.remove(scopes);
    }
}

/// Asks a host whether it is a registry, and how it wants to be asked.
fn ping(
    shared: &Shared,
    origin: Origin,
    asked: &Asked,
    stall: Option<Duration>,
) -> Result<Contact, RegistryError> {
    let url = Url::at(origin, "/v2/").map_err(|problem| asked.wrong(problem))?;
    let mut call = Call::get(url, asked);
    call.stall = stall;
    let answer = shared.transport.send(&call, None)?;
    if matches!(answer.status, 429 | 500..) {
        return Err(failure(answer, asked));
    }
    let challenges = match answer.status {
        401 => challenges(&answer),
        _ => Vec::new(),
    };
    // read to its end, so that the connection serves the next request
    let _ = answer.read(PING_LIMIT, asked);
    Ok(Contact {
        origin: call.url.origin,
        challenges,
    })
}

/// The challenges of an answer, of all its headers.
pub(super) fn challenges(answer: &Answer) -> Vec<Challenge> {
    let headers = answer.headers.get_all("www-authenticate").iter();
    let texts = headers.filter_map(|header| header.to_str().ok());
    texts.flat_map(challenge::parse).collect()
}

/// The scopes, and the one the registry says is missing.
fn with_wanted(scopes: &[Scope], challenges: &[Challenge]) -> Vec<Scope> {
    let mut all = scopes.to_vec();
    let wanted = challenges.iter().filter_map(|challenge| challenge.get("scope"));
    for scope in wanted.flat_map(str::split_ascii_whitespace) {
        let scope = Scope(scope.to_owned());
        if !all.contains(&scope) {
            all.push(scope);
        }
    }
    all
}

fn finished(answer: Answer, asked: &Asked) -> Result<Answer, RegistryError> {
    match answer.status {
        401 => Err(failure(answer, asked)),
        _ => Ok(answer),
    }
}

/// Whether a text can be the name of a host, for who types one.
pub(super) fn is_host(text: &str) -> bool {
    Origin::new(Scheme::Https, text).is_ok() && split_port(text).is_ok()
}
