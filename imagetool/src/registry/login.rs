//! Logging in and out: credentials are tried before they are kept.

use std::fmt;
use std::sync::Arc;

use super::answer::failure;
use super::credentials::{Credentials, DOCKER_HUB_KEY, KeptIn, Secret, host_of, is_docker_hub};
use super::error::{Asked, RegistryError};
use super::host::{Host, is_host};
use super::token::{TokenServer, basic, bearer};
use super::transport::Call;
use super::url::Url;
use super::{DOCKER_ENDPOINT, Registries};
use crate::reference::DEFAULT_DOMAIN;

/// A registry one logs in to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    domain: String,
}

impl Server {
    /// Of what people type: `HOST[:PORT]`, a URL, or nothing for Docker Hub.
    pub fn parse(text: Option<&str>) -> Result<Self, RegistryError> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(Self {
                domain: DEFAULT_DOMAIN.to_owned(),
            });
        };
        let host = host_of(text).to_ascii_lowercase();
        if !is_host(&host) {
            let problem = "is no registry: write HOST[:PORT]";
            return Err(RegistryError::config(format!("{text:?}"), problem));
        }
        let domain = match is_docker_hub(&host) {
            true => DEFAULT_DOMAIN.to_owned(),
            false => host,
        };
        Ok(Self { domain })
    }

    fn endpoint(&self) -> &str {
        match is_docker_hub(&self.domain) {
            true => DOCKER_ENDPOINT,
            false => &self.domain,
        }
    }
}

/// The name under which credentials are kept.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match is_docker_hub(&self.domain) {
            true => DOCKER_HUB_KEY,
            false => &self.domain,
        })
    }
}

impl Registries {
    /// Tries a user and a password with a registry, and keeps them when they are right. Where the registry gives a
    /// refresh token, that is kept in the password's place.
    pub fn login(&self, server: &Server, user: &str, password: &Secret) -> Result<KeptIn, RegistryError> {
        let credentials = Credentials::Password {
            user: user.to_owned(),
            password: password.clone(),
        };
        let kept = match self.verify(server, &credentials)? {
            Some(refresh) => Credentials::Identity(refresh),
            None => credentials,
        };
        self.shared.credentials.keep(&server.domain, &kept, user)
    }

    /// Tries the credentials that are kept for a registry; false when there are none.
    pub fn login_again(&self, server: &Server) -> Result<bool, RegistryError> {
        match self.shared.credentials.find(&server.domain, "")? {
            Some(credentials) => self.verify(server, &credentials).map(|_| true),
            None => Ok(false),
        }
    }

    /// Forgets the credentials of a registry; false when there were none.
    pub fn logout(&self, server: &Server) -> Result<bool, RegistryError> {
        self.shared.credentials.forget(&server.domain)
    }

    /// Asks the registry whether credentials are right; gives the refresh token it may offer.
    fn verify(&self, server: &Server, credentials: &Credentials) -> Result<Option<Secret>, RegistryError> {
        let asked = Asked::of_registry(&server.domain, "log in to");
        self.allow_configured(server.endpoint());
        let host = Arc::new(Host::new(&server.domain, server.endpoint()));
        let contact = host.contact(&self.shared)?;
        let of_kind = |kind: &str| {
            contact
                .challenges
                .iter()
                .find(|challenge| challenge.scheme == kind)
        };
        let mut refresh = None;
        let authorization = match (of_kind("bearer"), of_kind("basic"), credentials) {
            (Some(_), _, Credentials::Bearer(token)) => Some(bearer(token)),
            (Some(challenge), _, _) => {
                let transport = &self.shared.transport;
                let server = TokenServer::new(transport, challenge, contact.origin.scheme, &asked)?;
                let token = server.token(&[], Some(credentials), true)?;
                refresh = token.refresh;
                Some(bearer(&token.secret))
            }
            (None, Some(_), Credentials::Password { user, password }) => Some(basic(user, password)),
            // nobody asks; whether it is a registry at all is seen below
            (None, None, _) if contact.challenges.is_empty() => None,
            _ => return Err(asked.wrong("the registry does not take credentials of this kind")),
        };
        let url = Url::at(contact.origin, "/v2/").map_err(|problem| asked.wrong(problem))?;
        let call = Call::get(url, &asked);
        let authorization = authorization.as_ref().map(Secret::reveal);
        let answer = self.shared.transport.send(&call, authorization)?;
        if answer.url.origin != call.url.origin {
            return Err(asked.wrong(format!(
                "it leads elsewhere ({}): this is no registry",
                answer.url
            )));
        }
        match answer.status {
            200..=299 => Ok(refresh),
            401 => Err(RegistryError::Denied {
                asked: Box::new(asked),
                message: "unauthorized: the user name or the password is wrong".to_owned(),
            }),
            _ => Err(failure(answer, &asked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_parsed() {
        let cases = [
            (None, DOCKER_HUB_KEY),
            (Some(""), DOCKER_HUB_KEY),
            (Some("docker.io"), DOCKER_HUB_KEY),
            (Some("https://index.docker.io/v1/"), DOCKER_HUB_KEY),
            (Some("Host.example:5000"), "host.example:5000"),
            (Some("http://h/v2/"), "h"),
            (Some("[::1]:5000"), "[::1]:5000"),
        ];
        for (text, expected) in cases {
            assert_eq!(Server::parse(text).unwrap().to_string(), expected);
        }
        for wrong in ["a b", "h:port", "https://", "-:x"] {
            assert!(Server::parse(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
