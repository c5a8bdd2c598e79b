//! Trying again: what can be expected to pass, after a while that grows.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::Duration;

use super::RegistryError;

/// How often something is tried before its error is final.
pub(super) const ATTEMPTS: u32 = 5;
/// The longest a `Retry-After` of the registry is obeyed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Counts failures since there last was progress.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    /// The wait after the first failure; it doubles.
    first_wait: Duration,
    attempts: u32,
    failures: u32,
}

impl Patience {
    pub(super) fn new(first_wait: Duration, attempts: u32) -> Self {
        Self {
            first_wait,
            attempts,
            failures: 0,
        }
    }

    /// Something arrived: the count begins anew.
    pub(super) fn progress(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt, or gives the error back as final.
    pub(super) fn after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.failures += 1;
        if !error.is_transient() || self.failures >= self.attempts {
            return Err(error);
        }
        let wait = self.wait(error.retry_after());
        tracing::debug!("attempt {} failed, next in {wait:?}: {error}", self.failures);
        thread::sleep(wait);
        Ok(())
    }

    /// The back-off with up to a half of it more, so that many clients do not come back at once; never less than what
    /// the registry asks for, unless that is too much.
    fn wait(&self, asked: Option<Duration>) -> Duration {
        let doubled = self.first_wait * (1 << (self.failures - 1).min(8));
        let random = RandomState::new().hash_one(self.failures) % 512;
        let jitter = doubled * u32::try_from(random).unwrap_or(0) / 1024;
        asked
            .unwrap_or_default()
            .min(LONGEST_WAIT)
            .max((doubled + jitter).min(LONGEST_WAIT))
    }

    /// Calls until it succeeds, fails for good, or the attempts are used up.
    pub(super) fn run<T>(
        mut self,
        mut call: impl FnMut() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        loop {
            match call() {
                Ok(value) => return Ok(value),
                Err(error) => self.after(error)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::error::Asked;

    fn status(status: u16) -> RegistryError {
        RegistryError::Status {
            asked: Box::new(Asked::of_registry("h", "ask")),
            status,
            code: String::new(),
            message: String::new(),
            retry_after: None,
        }
    }

    #[test]
    fn what_can_pass_is_tried_again() {
        let patience = || Patience::new(Duration::from_millis(1), 5);
        for (code, tries) in [(500, 5), (503, 5), (429, 5), (404, 1), (401, 1), (501, 1)] {
            let mut count = 0;
            let outcome: Result<(), _> = patience().run(|| {
                count += 1;
                Err(status(code))
            });
            assert!(outcome.is_err());
            assert_eq!(count, tries, "{code}");
        }
        let mut count = 0;
        let third = patience().run(|| {
            count += 1;
            if count < 3 { Err(status(500)) } else { Ok(count) }
        });
        assert_eq!(third.unwrap(), 3);
    }

    #[test]
    fn waits_grow_and_have_a_bound() {
        let mut patience = Patience::new(Duration::from_millis(250), 5);
        for (failures, from, to) in [(1, 250, 375), (2, 500, 750), (4, 2000, 3000)] {
            patience.failures = failures;
            let wait = patience.wait(None).as_millis();
            assert!((from..=to).contains(&wait), "{wait}");
        }
        assert_eq!(
            patience.wait(Some(Duration::from_secs(7))),
            Duration::from_secs(7)
        );
        assert_eq!(patience.wait(Some(Duration::from_secs(7000))), LONGEST_WAIT);
    }
}
