//! Where and when a run was made: without it a figure means nothing.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// The machine of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// `/proc/loadavg` before the run: a loaded machine disturbs it.
    pub load_before: String,
    /// The same after the run; this process itself adds about 1.
    pub load_after: String,
    /// Defaults of the kernel's overlayfs.
    pub overlay_parameters: String,
    /// When the run was started.
    pub date: String,
}

impl Host {
    /// Looks at this machine. Without a `date` the system's clock gives it.
    #[must_use]
    pub fn here(date: Option<String>) -> Self {
        Self {
            kernel: first_line("/proc/sys/kernel/osrelease"),
            cpu: value_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_mib: value_of("/proc/meminfo", "MemTotal")
                .and_then(|value| kib(&value))
                .unwrap_or(0)
                / 1024,
            load_before: load(),
            load_after: String::new(),
            overlay_parameters: ["metacopy", "redirect_dir", "index", "xino_auto"]
                .map(|name| {
                    format!(
                        "{name}={}",
                        first_line(&format!("/sys/module/overlay/parameters/{name}"))
                    )
                })
                .join(" "),
            date: date.unwrap_or_else(|| utc(SystemTime::now())),
        }
    }
}

/// The load of the machine now.
#[must_use]
pub fn load() -> String {
    first_line("/proc/loadavg")
}

/// The type of the file system that a directory lies on.
#[must_use]
pub fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?)).filter(|(path, _)| dir.starts_with(path))
    });
    // of two mounts at the same place, the later one covers the other
    let longest = mounts.max_by_key(|(path, _)| path.len());
    longest.map_or("unknown", |(_, kind)| kind).to_owned()
}

/// Peak and present memory of a process in KiB, of its own pages and the files it maps.
#[must_use]
pub fn memory_of(pid: u32) -> Option<(u64, u64)> {
    let status = format!("/proc/{pid}/status");
    Some((
        value_of(&status, "VmHWM").and_then(|value| kib(&value))?,
        value_of(&status, "VmRSS").and_then(|value| kib(&value))?,
    ))
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|_| "unknown".to_owned());
    text.lines().next().unwrap_or_default().to_owned()
}

fn value_of(path: &str, key: &str) -> Option<String> {
    find_value(&fs::read_to_string(path).ok()?, key)
}

/// The value of a line `key : value`.
fn find_value(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key).then(|| value.trim().to_owned())
    })
}

/// Reads `1234 kB`.
fn kib(value: &str) -> Option<u64> {
    value.strip_suffix(" kB")?.trim().parse().ok()
}

/// A time as `2026-01-31T23:59:59Z`.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01, counted in years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_right_at_the_edges() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn directories_lie_on_the_file_system_of_their_mount() {
        assert_eq!(file_system(Path::new("/proc/self")), "proc");
        assert_ne!(file_system(Path::new("/")), "unknown");
    }

    #[test]
    fn values_are_found_by_their_whole_key() {
        let text = "VmHWMx:\t  1 kB\nVmHWM:\t  5120 kB\n";
        assert_eq!(find_value(text, "VmHWM").as_deref(), Some("5120 kB"));
        assert_eq!(kib("5120 kB"), Some(5120));
        assert_eq!(find_value(text, "VmRSS"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let (peak, now) = memory_of(std::process::id()).unwrap();
        // Not compared with each other: the kernel's counters lag a few pages behind.
        assert!(now > 0 && peak > 0, "{peak} {now}");
    }
}
