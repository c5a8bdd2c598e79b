//! `events`: statistics, once or again and again.

use std::time::Duration;

use super::{Global, print};
use crate::error::{Error, Result};
use crate::state::{ContainerId, Status};

/// `events`.
#[derive(Debug, clap::Args)]
pub struct Events {
    /// print statistics once
    #[arg(long)]
    stats: bool,
    /// time between two prints, such as 5s or 500ms
    #[arg(long, default_value = "5s", value_parser = parse_interval)]
    interval: Duration,
    /// name of the container
    id: ContainerId,
}

impl Events {
    /// Prints statistics, one JSON document on a line.
    pub fn run(self, global: &Global) -> Result<i32> {
        let container = global.store().load(&self.id)?;
        if container.status() == Status::Stopped {
            return Err(Error::invalid(format!("container {} is not running", self.id)));
        }
        loop {
            let data = container.state.cgroup.statistics();
            let line = serde_json::json!({"type": "stats", "id": self.id, "data": data});
            print(&format!("{line}\n"))?;
            if self.stats {
                return Ok(0);
            }
            std::thread::sleep(self.interval);
            if container.status() == Status::Stopped {
                return Ok(0);
            }
        }
    }
}

fn parse_interval(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a time such as 5s"))?;
    let interval = match &text[digits.len()..] {
        "ms" => Duration::from_millis(number),
        "" | "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        _ => return Err(format!("{text:?} is not a time such as 5s")),
    };
    if interval.is_zero() {
        Err("the interval must be longer than nothing".into())
    } else {
        Ok(interval)
    }
}
