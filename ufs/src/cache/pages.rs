//! One shard: chunks that are here, and chunks on their way.
//!
//! ```text
//! absent ──first request──► in flight ──fetched──► here ──displaced──► absent
//!                               │ failed, panicked
//!                               └──────────────────────────────────────► absent
//! ```
//!
//! Who asks for a chunk in flight waits for it and gets what the first one gets, the error too. The shard's lock is
//! held for the table only, never while something is fetched. A fetch that panics lands as an error, so that nobody
//! waits for ever; the next request fetches again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;

use super::eviction::Shelf;
use crate::sync::{Condvar, Mutex};

/// A chunk's bytes, shared with all who read them.
pub(crate) type Page = Arc<[u8]>;

/// A stream's number and the chunk's number in it.
pub(crate) type Key = (u64, u64);

/// How a request was answered.
pub(crate) enum Answer {
    /// It was here.
    Hit(Page),
    /// Another's fetch brought it.
    Waited(io::Result<Page>),
    /// This request fetched it, and displaced so many.
    Fetched(io::Result<Page>, u64),
}

pub(crate) struct Shard {
    table: Mutex<Table>,
}

struct Table {
    shelf: Shelf<Key, Page>,
    flights: HashMap<Key, Arc<Flight>>,
}

/// A chunk on its way, and those who wait for it.
#[derive(Default)]
struct Flight {
    outcome: Mutex<Option<Result<Page, Arc<io::Error>>>>,
    landed: Condvar,
}

impl Shard {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self {
            table: Mutex::new(Table {
                shelf: Shelf::new(limit_bytes),
                flights: HashMap::new(),
            }),
        }
    }

    pub(crate) fn held_bytes(&self) -> u64 {
        self.table.lock().shelf.held_bytes()
    }

    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.table.lock().shelf.contains(key)
    }

    pub(crate) fn peek(&self, key: &Key) -> Option<Page> {
        self.table.lock().shelf.peek(key)
    }

    /// Takes in a chunk that nobody asked for; gives how many it displaced.
    pub(crate) fn offer(&self, key: Key, page: Page) -> u64 {
        let size_bytes = page.len() as u64;
        self.table.lock().shelf.insert(key, page, size_bytes, false)
    }

    pub(crate) fn get_or_fetch(&self, key: Key, fetch: impl FnOnce() -> io::Result<Page>) -> Answer {
        let flight = {
            let mut table = self.table.lock();
            if let Some(page) = table.shelf.get(&key) {
                return Answer::Hit(page);
            }
            match table.flights.entry(key) {
                Entry::Occupied(entry) => Err(Arc::clone(entry.get())),
                Entry::Vacant(entry) => Ok(Arc::clone(entry.insert(Arc::default()))),
            }
        };
        match flight {
            Err(others) => Answer::Waited(others.wait()),
            Ok(own) => {
                let landing = Landing {
                    shard: self,
                    key,
                    flight: own,
                    landed: false,
                };
                landing.land(fetch())
            }
        }
    }
}

impl Flight {
    fn wait(&self) -> io::Result<Page> {
        let mut outcome = self.outcome.lock();
        loop {
            match &*outcome {
                Some(Ok(page)) => return Ok(Arc::clone(page)),
                Some(Err(error)) => return Err(copy_of(error)),
                None => self.landed.wait(&mut outcome),
            }
        }
    }
}

/// Ends a flight in every case, a panic of the fetch too.
struct Landing<'a> {
    shard: &'a Shard,
    key: Key,
    flight: Arc<Flight>,
    landed: bool,
}

impl Landing<'_> {
    fn land(mut self, fetched: io::Result<Page>) -> Answer {
        match fetched {
            Ok(page) => {
                let displaced = self.settle(Ok(Arc::clone(&page)));
                Answer::Fetched(Ok(page), displaced)
            }
            Err(error) => {
                let error = Arc::new(error);
                self.settle(Err(Arc::clone(&error)));
                Answer::Fetched(Err(copy_of(&error)), 0)
            }
        }
    }

    fn settle(&mut self, outcome: Result<Page, Arc<io::Error>>) -> u64 {
        self.landed = true;
        let mut displaced = 0;
        {
            let mut table = self.shard.table.lock();
            table.flights.remove(&self.key);
            if let Ok(page) = &outcome {
                displaced = table
                    .shelf
                    .insert(self.key, Arc::clone(page), page.len() as u64, true);
            }
        }
        *self.flight.outcome.lock() = Some(outcome);
        self.flight.landed.notify_all();
        displaced
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if !self.landed {
            self.settle(Err(Arc::new(io::Error::other(
                "fetching a chunk failed unexpectedly",
            ))));
        }
    }
}

/// An error that many get: its number is kept, or else its kind, its text and its causes.
fn copy_of(error: &Arc<io::Error>) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), Shared(Arc::clone(error))),
    }
}

#[derive(Debug)]
struct Shared(Arc<io::Error>);

impl std::fmt::Display for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}
