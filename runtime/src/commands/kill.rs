//! `kill`.

use super::Global;
use crate::error::{Error, Result};
use crate::life;
use crate::state::ContainerId;

/// `kill`.
#[derive(Debug, clap::Args)]
pub struct Kill {
    /// to every process of the container, not just its first
    #[arg(short, long)]
    all: bool,
    /// name of the container
    id: ContainerId,
    /// name or number
    #[arg(default_value = "SIGTERM")]
    signal: String,
}

impl Kill {
    /// Sends the signal.
    pub fn run(self, global: &Global) -> Result<i32> {
        let number = parse_signal(&self.signal)?;
        life::signal(&global.store().load(&self.id)?, number, self.all)?;
        Ok(0)
    }
}

/// `KILL`, `SIGKILL`, `9`, `RTMIN+3`.
fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || Error::invalid(format!("unknown signal {text:?}"));
    let last = libc::SIGRTMAX();
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=last).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| {
        if rest.is_empty() {
            Some(0)
        } else {
            rest.parse::<i32>().ok()
        }
    };
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => offset(rest).map(|offset| libc::SIGRTMIN() + offset),
        (_, Some(rest)) => offset(rest).map(|offset| last + offset),
        _ => None,
    };
    if let Some(number) = real_time {
        return if (libc::SIGRTMIN()..=last).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().map_err(|_| unknown())?;
    Ok(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::parse_signal;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [("KILL", 9), ("sigterm", 15), ("SIGHUP", 1), ("0", 0), ("15", 15)] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        assert_eq!(parse_signal("RTMIN+3").unwrap(), libc::SIGRTMIN() + 3);
        assert_eq!(parse_signal("SIGRTMAX-1").unwrap(), libc::SIGRTMAX() - 1);
        for bad in ["", "NOPE", "-1", "999", "RTMAX+1", "RTMINx"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
