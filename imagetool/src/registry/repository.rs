//! One repository at one endpoint (distribution-spec, "Endpoints").

mod blob;
mod manifest;
mod upload;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use ureq::http::Method;

pub use blob::Blob;
pub use manifest::{Document, Which};
pub use upload::{Mounted, Upload};

use super::RegistryError;
use super::answer::{PAGE_LIMIT, Pages, failure};
use super::error::Asked;
use super::host::{Host, Shared};
use super::retry::{ATTEMPTS, Patience};
use super::token::Scope;
use super::transport::{Answer, Call};
use super::url::Url;
use crate::digest::Digest;

/// Names asked for per page.
const PER_PAGE: usize = 1000;

/// A repository at an endpoint. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Repository {
    name: String,
    host: Arc<Host>,
    shared: Arc<Shared>,
    /// Uploads that a refused mount has begun.
    begun: Arc<Mutex<HashMap<Digest, Url>>>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({}/{})", self.host.endpoint, self.name)
    }
}

impl Repository {
    pub(super) fn new(name: &str, host: Arc<Host>, shared: Arc<Shared>) -> Self {
        Self {
            name: name.to_owned(),
            host,
            shared,
            begun: Arc::default(),
        }
    }

    /// The repository's path on its registry (`library/debian`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `HOST[:PORT]`, for messages.
    pub fn endpoint(&self) -> String {
        self.host.endpoint.clone()
    }

    /// Whether two repositories are on one registry, so that blobs can be mounted from one to the other.
    pub fn same_registry(&self, other: &Self) -> bool {
        self.host.endpoint == other.host.endpoint
    }

    /// All tags, in the registry's order.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let asked = self.asked("list the tags of");
        let mut url = self.url(&format!("tags/list?n={PER_PAGE}"), &asked)?;
        let mut pages = Pages::new(&url);
        let mut tags = Vec::new();
        loop {
            let (link, bytes) = self.patience().run(|| {
                let answer = self.ask(&Call::get(url.clone(), &asked), &[200])?;
                let link = answer.header("link").map(str::to_owned);
                Ok((link, answer.read(PAGE_LIMIT, &asked)?))
            })?;
            let page: Page = serde_json::from_slice(&bytes)
                .map_err(|error| asked.wrong(format!("the answer is no list of tags: {error}")))?;
            let found = page.tags.unwrap_or_default();
            let next = pages.next(&url, link.as_deref(), found.len(), &asked)?;
            tags.extend(found);
            match next {
                Some(next) => url = next,
                None => return Ok(tags),
            }
        }
    }

    fn asked(&self, what: &str) -> Asked {
        Asked {
            endpoint: self.host.endpoint.clone(),
            repository: self.name.clone(),
            what: what.to_owned(),
        }
    }

    fn patience(&self) -> Patience {
        Patience::new(self.shared.first_wait, ATTEMPTS)
    }

    /// The URL of something of this repository's.
    fn url(&self, rest: &str, asked: &Asked) -> Result<Url, RegistryError> {
        let origin = self.host.contact(&self.shared)?.origin;
        Url::at(origin, &format!("/v2/{}/{rest}", self.name)).map_err(|problem| asked.wrong(problem))
    }

    /// Sends a request for reading; any status but those in `good` is an error.
    fn ask(&self, call: &Call<'_>, good: &[u16]) -> Result<Answer, RegistryError> {
        self.ask_for(call, &[Scope::pull(&self.name)], good)
    }

    /// Sends a request for writing.
    fn ask_to_write(&self, call: &Call<'_>, good: &[u16]) -> Result<Answer, RegistryError> {
        self.ask_for(call, &[Scope::push(&self.name)], good)
    }

    fn ask_for(&self, call: &Call<'_>, scopes: &[Scope], good: &[u16]) -> Result<Answer, RegistryError> {
        let answer = self.host.send(&self.shared, call, scopes, &self.name)?;
        match good.contains(&answer.status) {
            true => Ok(answer),
            false => Err(failure(answer, call.asked)),
        }
    }

    /// A HEAD request: `None` where there is no such thing.
    fn head(&self, url: &Url, asked: &Asked, accept: Option<&str>) -> Result<Option<Answer>, RegistryError> {
        self.patience().run(|| {
            let mut call = Call::new(Method::HEAD, url.clone(), asked);
            if let Some(accept) = accept {
                call = call.header("accept", accept);
            }
            match self.ask(&call, &[200]) {
                Ok(answer) => Ok(Some(answer)),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        })
    }
}
