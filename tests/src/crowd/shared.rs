//! The part of the tree that all members change at once, by operations whose order does not matter: afterwards the
//! counts must add up.
//!
//! ```text
//! s/log       all append records: none is lost, torn, or before an earlier one of the same member
//! s/names     each makes and removes names of its own: what is left is what the members left
//! s/tokens    each tries to move tokens away: every token was moved by one member
//! s/race      all make the same directories: one of them succeeds for each
//! s/hub       each links and unlinks it: its count is one more than the links that are left
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::status::Status;
use super::{Dice, Member};
use crate::fixture::{listed, put, put_dir};
use crate::posix;

const TOKENS: usize = 200;
const RECORD_BYTES: usize = 16;
/// Names of its own that a member has at most.
const OWN_MAX: usize = 20;
const HEADER: &str = "0000 0000000000\n";

/// One member's account of what it did to the shared part.
pub(super) struct Shared {
    root: PathBuf,
    index: usize,
    appended: usize,
    names: BTreeSet<String>,
    links: BTreeSet<String>,
    tokens: BTreeSet<String>,
    races: Vec<usize>,
    next_race: usize,
    serial: usize,
}

/// Fills the lowest layer with the shared part, and the top one with one name more.
pub(super) fn fill(layers: &[PathBuf]) {
    let (top, bottom) = (&layers[0], &layers[layers.len() - 1]);
    put(bottom, "s/log", HEADER);
    put(bottom, "s/hub", "hub");
    for token in 0..TOKENS {
        let layer = if token % 2 == 0 { top } else { bottom };
        put(layer, &format!("s/tokens/{token}"), token.to_string());
    }
    for dir in ["s/names", "s/links", "s/taken", "s/race"] {
        put_dir(bottom, dir);
    }
}

fn record(index: usize, number: usize) -> String {
    format!("{:04} {number:010}\n", index + 1)
}

impl Shared {
    pub(super) fn new(member: &Member) -> Shared {
        Shared {
            root: member.mount.join("s"),
            index: member.index,
            appended: 0,
            names: BTreeSet::new(),
            links: BTreeSet::new(),
            tokens: BTreeSet::new(),
            races: Vec::new(),
            next_race: 0,
            serial: 0,
        }
    }

    /// One operation.
    pub(super) fn step(&mut self, dice: &mut Dice, status: &mut Status) -> Result<(), String> {
        let kind = dice.below(7);
        let what = ["append", "name", "link", "token", "race", "list", "attribute"][kind];
        status.begin(format!("shared {what}"));
        let done = match what {
            "append" => self.append(),
            "name" => self.toggle(dice, "names"),
            "link" => self.toggle(dice, "links"),
            "token" => self.take(dice),
            "race" => self.race(),
            "list" => self.list(),
            _ => self.attribute(dice),
        };
        done.map_err(|error| format!("shared {what}: {error}"))
    }

    fn append(&mut self) -> io::Result<()> {
        posix::append(
            &self.root.join("log"),
            record(self.index, self.appended).as_bytes(),
        )?;
        self.appended += 1;
        Ok(())
    }

    /// Makes a name of its own in `dir`, or removes one when there are enough.
    fn toggle(&mut self, dice: &mut Dice, dir: &str) -> io::Result<()> {
        let is_link = dir == "links";
        let own = if is_link { &mut self.links } else { &mut self.names };
        let at = self.root.join(dir);
        if own.len() >= dice.below(OWN_MAX).max(1) {
            let name = own.pop_first().expect("there is one");
            return std::fs::remove_file(at.join(name));
        }
        self.serial += 1;
        let name = format!("{}-{}", self.index, self.serial);
        if is_link {
            posix::link(&self.root.join("hub"), &at.join(&name))?;
        } else {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
            posix::open(&at.join(&name), flags, 0o644)?;
        }
        own.insert(name);
        Ok(())
    }

    fn take(&mut self, dice: &mut Dice) -> io::Result<()> {
        let token = dice.below(TOKENS).to_string();
        let to = self.root.join("taken").join(format!("{}-{token}", self.index));
        match std::fs::rename(self.root.join("tokens").join(&token), to) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            moved => {
                moved?;
                self.tokens.insert(token);
                Ok(())
            }
        }
    }

    fn race(&mut self) -> io::Result<()> {
        let number = self.next_race;
        self.next_race += 1;
        match std::fs::create_dir(self.root.join("race").join(number.to_string())) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => {
                made?;
                self.races.push(number);
                Ok(())
            }
        }
    }

    /// What the member alone changes must be listed exactly, whatever the others do meanwhile.
    fn list(&self) -> io::Result<()> {
        let own = format!("{}-", self.index);
        let mut seen = BTreeSet::new();
        for name in posix::names(&self.root.join("names"))? {
            let name = String::from_utf8_lossy(&name).into_owned();
            if name.starts_with(&own) && !seen.insert(name.clone()) {
                return Err(io::Error::other(format!("{name} is listed twice")));
            }
        }
        if seen == self.names {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "listed {seen:?}, but there are {:?}",
            self.names
        )))
    }

    /// All change one file's times and permissions; whatever comes last, the file stays whole.
    fn attribute(&self, dice: &mut Dice) -> io::Result<()> {
        let hub = self.root.join("hub");
        posix::chmod(&hub, 0o600 + u32::try_from(dice.below(64)).expect("small"))?;
        let text = std::fs::read(&hub)?;
        if text == b"hub" {
            Ok(())
        } else {
            Err(io::Error::other(format!("read \"{}\"", text.escape_ascii())))
        }
    }

    /// Writes the account beside the mount.
    pub(super) fn report(&self, reports: &Path) -> Result<(), String> {
        let mut text = format!("appended {}\n", self.appended);
        for (kind, names) in [
            ("name", &self.names),
            ("link", &self.links),
            ("token", &self.tokens),
        ] {
            for name in names {
                let _ = writeln!(text, "{kind} {name}");
            }
        }
        for number in &self.races {
            let _ = writeln!(text, "race {number}");
        }
        std::fs::write(report_path(reports, self.index), text).map_err(|error| error.to_string())
    }
}

fn report_path(reports: &Path, index: usize) -> PathBuf {
    reports.join(format!("{index}.report"))
}

/// Everything that the members' accounts say, by kind; a thing that two claim fails.
fn accounts(reports: &Path, processes: usize) -> (Vec<usize>, BTreeMap<String, BTreeMap<String, usize>>) {
    let mut appended = Vec::new();
    let mut all: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for index in 0..processes {
        let text = std::fs::read_to_string(report_path(reports, index)).expect("every member reports");
        for line in text.lines() {
            let (kind, what) = line.split_once(' ').expect("kind and name");
            if kind == "appended" {
                appended.push(what.parse().expect("a number"));
                continue;
            }
            let known = all
                .entry(kind.to_owned())
                .or_default()
                .insert(what.to_owned(), index);
            assert_eq!(known, None, "{kind} {what}: two members had it, {index} is one");
        }
    }
    (appended, all)
}

/// Compares the shared part at `root` with the accounts of the members.
pub(super) fn check(root: &Path, reports: &Path, processes: usize) {
    let (appended, all) = accounts(reports, processes);
    check_log(&root.join("log"), &appended);
    let claimed = |kind: &str| -> BTreeMap<String, usize> { all.get(kind).cloned().unwrap_or_default() };
    let names = |kind: &str| -> BTreeSet<String> { claimed(kind).into_keys().collect() };
    let seen = |dir: &str| -> BTreeSet<String> { listed(&root.join(dir)).into_iter().collect() };
    assert_eq!(seen("names"), names("name"), "s/names");
    assert_eq!(seen("links"), names("link"), "s/links");
    let hub = root.join("hub").metadata().expect("the hub is there");
    assert_eq!(
        hub.nlink(),
        1 + names("link").len() as u64,
        "the link count of s/hub"
    );
    let taken = claimed("token");
    let moved: BTreeSet<String> = taken
        .iter()
        .map(|(token, index)| format!("{index}-{token}"))
        .collect();
    assert_eq!(seen("taken"), moved, "s/taken");
    let left: BTreeSet<String> = (0..TOKENS)
        .map(|token| token.to_string())
        .filter(|token| !taken.contains_key(token))
        .collect();
    assert_eq!(seen("tokens"), left, "s/tokens");
    assert_eq!(seen("race"), names("race"), "s/race");
}

fn check_log(log: &Path, appended: &[usize]) {
    let bytes = std::fs::read(log).expect("read s/log");
    let text = bytes.strip_prefix(HEADER.as_bytes()).expect("s/log's first line");
    let mut next = vec![0; appended.len()];
    for (at, found) in text.chunks(RECORD_BYTES).enumerate() {
        let line = String::from_utf8_lossy(found);
        let member: usize = line.get(..4).and_then(|text| text.parse().ok()).unwrap_or(0);
        let index = member
            .checked_sub(1)
            .unwrap_or_else(|| panic!("record {at} of s/log is {line:?}"));
        assert_eq!(line, record(index, next[index]), "record {at} of s/log");
        next[index] += 1;
    }
    assert_eq!(next, appended, "the records of each member in s/log");
}
