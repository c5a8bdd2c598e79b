//! Looking for images: Docker's `/v1/search`, and where a registry has none, its list of repositories.

use serde::Deserialize;

use super::answer::{PAGE_LIMIT, Pages, failure};
use super::credentials::is_docker_hub;
use super::error::{Asked, RegistryError, clean};
use super::retry::{ATTEMPTS, Patience};
use super::token::Scope;
use super::transport::Call;
use super::url::Url;
use super::{Registries, login::Server};

/// Where Docker Hub is searched.
const DOCKER_INDEX: &str = "index.docker.io";
/// Names asked for per page of a list.
const PER_PAGE: usize = 1000;

/// A repository that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name to pull it by.
    pub name: String,
    /// What it is, in a line.
    pub description: String,
    /// How many people like it.
    pub stars: u64,
    /// Whether Docker looks after it.
    pub is_official: bool,
    /// Whether it was built by Docker Hub.
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<OneResult>,
}

#[derive(Deserialize)]
struct OneResult {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    star_count: Option<i64>,
    #[serde(default)]
    is_official: bool,
    #[serde(default)]
    is_automated: bool,
}

impl Registries {
    /// Repositories that fit a term (`TERM` at Docker Hub, or `HOST[:PORT]/TERM`), at most `limit` of them.
    pub fn search(&self, term: &str, limit: usize) -> Result<Vec<Found>, RegistryError> {
        let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost";
        let (host, term) = match term.split_once('/') {
            Some((host, term)) if is_host(host) => (Some(host), term),
            _ => (None, term),
        };
        match host.filter(|host| !is_docker_hub(host)) {
            Some(host) => {
                Server::parse(Some(host))?;
                match self.search_v1(host, term, limit)? {
                    Some(found) => Ok(found),
                    None => self.search_catalog(host, term, limit),
                }
            }
            None => {
                let term = term.strip_prefix("library/").unwrap_or(term);
                let found = self.search_v1(DOCKER_INDEX, term, limit)?;
                found.ok_or_else(|| {
                    Asked::of_registry(DOCKER_INDEX, "search").wrong("the answer is no list of images")
                })
            }
        }
    }

    /// Asks the old search; `None` where there is none.
    fn search_v1(&self, domain: &str, term: &str, limit: usize) -> Result<Option<Vec<Found>>, RegistryError> {
        let asked = Asked::of_registry(domain, "search");
        self.allow_configured(domain);
        let host = self.host(domain, domain);
        let origin = host.contact(&self.shared)?.origin;
        let url = Url::at(origin, "/v1/search")
            .map_err(|problem| asked.wrong(problem))?
            .with("q", term)
            .with("n", &limit.to_string());
        let is_hub = domain == DOCKER_INDEX;
        let outcome = self.patience().run(|| {
            let call = Call::get(url.clone(), &asked);
            // Docker Hub is searched by everyone
            let answer = match is_hub {
                true => self.shared.transport.send(&call, None)?,
                false => host.send(&self.shared, &call, &[Scope::catalog()], "")?,
            };
            match answer.status {
                200 => answer.read(PAGE_LIMIT, &asked),
                _ => Err(failure(answer, &asked)),
            }
        });
        let bytes = match outcome {
            Ok(bytes) => bytes,
            Err(
                RegistryError::Status {
                    status: 400..=499, ..
                }
                | RegistryError::Denied { .. },
            ) if !is_hub => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // anything else that answers with a success is no registry of old
        let Ok(answer) = serde_json::from_slice::<Answer>(&bytes) else {
            return Ok(None);
        };
        let name = |name: &str| match is_hub {
            true => clean(name),
            false => format!("{domain}/{}", clean(name)),
        };
        let found = answer.results.into_iter().take(limit).map(|result| Found {
            name: name(&result.name),
            description: clean(&result.description.unwrap_or_default()),
            stars: result.star_count.map_or(0, |count| count.max(0).unsigned_abs()),
            is_official: result.is_official,
            is_automated: result.is_automated,
        });
        Ok(Some(found.collect()))
    }

    /// Reads the list of all repositories and keeps those whose name has the term in it.
    fn search_catalog(&self, domain: &str, term: &str, limit: usize) -> Result<Vec<Found>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            repositories: Option<Vec<String>>,
        }
        let asked = Asked::of_registry(domain, "list the repositories of");
        self.allow_configured(domain);
        let host = self.host(domain, domain);
        let origin = host.contact(&self.shared)?.origin;
        let mut url =
            Url::at(origin, &format!("/v2/_catalog?n={PER_PAGE}")).map_err(|problem| asked.wrong(problem))?;
        let mut pages = Pages::new(&url);
        let mut found = Vec::new();
        loop {
            let (link, bytes) = self.patience().run(|| {
                let call = Call::get(url.clone(), &asked);
                let answer = host.send(&self.shared, &call, &[Scope::catalog()], "")?;
                let link = answer.header("link").map(str::to_owned);
                match answer.status {
                    200 => Ok((link, answer.read(PAGE_LIMIT, &asked)?)),
                    404 | 405 => Err(asked.wrong("it has neither a search nor a list of its repositories")),
                    _ => Err(failure(answer, &asked)),
                }
            })?;
            let page: Page = serde_json::from_slice(&bytes)
                .map_err(|error| asked.wrong(format!("the answer is no list of repositories: {error}")))?;
            let names = page.repositories.unwrap_or_default();
            let next = pages.next(&url, link.as_deref(), names.len(), &asked)?;
            let fitting = names.iter().filter(|name| name.contains(term));
            found.extend(fitting.map(|name| Found {
                name: format!("{domain}/{}", clean(name)),
                description: String::new(),
                stars: 0,
                is_official: false,
                is_automated: false,
            }));
            match next {
                Some(next) if found.len() < limit => url = next,
                _ => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    fn patience(&self) -> Patience {
        Patience::new(self.shared.first_wait, ATTEMPTS)
    }
}
