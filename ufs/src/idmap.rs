//! Owners as stored and as shown: a container in a user namespace starts without one chown.
//!
//! `uidmapping=SHOWN:STORED:COUNT[:…]` as in fuse-overlayfs, and the squash options on top of it.

/// The number that the kernel gives for an owner that a user namespace cannot name.
pub const OVERFLOW: u32 = 65534;

/// Nobody's number: what stands for "leave it" in chown(2). The kernel takes it for an owner that it cannot name, who is
/// no user, and shows [`OVERFLOW`] for it (`make_kuid` and `from_kuid_munged` in its kernel/user_namespace.c).
pub const NOBODY_AT_ALL: u32 = u32::MAX;

/// A run of identities that are shown under other numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First number as shown in the mount.
    pub shown: u32,
    /// First number as stored in the layers.
    pub stored: u32,
    /// How many.
    pub count: u32,
}

/// Which owners are shown as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Squash {
    /// None: each as it is.
    #[default]
    No,
    /// All are shown as this user and group.
    To {
        /// The user.
        uid: Option<u32>,
        /// The group.
        gid: Option<u32>,
    },
    /// Owners that the user namespace cannot name are shown as root.
    Overflow,
}

/// The owners that the user namespace of this process can name.
///
/// A layer's index holds owners as its archive had them. Where the kernel could not name one, [`OVERFLOW`] stands for it,
/// as it does for files on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapped {
    users: Vec<(u32, u32)>,
    groups: Vec<(u32, u32)>,
}

impl Mapped {
    /// Those of this process: `/proc/self/uid_map` and `gid_map` (user_namespaces(7)). Where these cannot be read, all.
    #[must_use]
    pub fn by_this_process() -> Self {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        Self::parse(&read("/proc/self/uid_map"), &read("/proc/self/gid_map"))
    }

    fn parse(users: &str, groups: &str) -> Self {
        let ranges = |text: &str| {
            text.lines()
                .filter_map(|line| {
                    let mut numbers = line.split_whitespace().map(str::parse::<u32>);
                    let (first, _, count) = (
                        numbers.next()?.ok()?,
                        numbers.next()?.ok()?,
                        numbers.next()?.ok()?,
                    );
                    Some((first, count))
                })
                // the first namespace's map names everybody
                .filter(|(first, count)| (*first, *count) != (0, u32::MAX))
                .collect()
        };
        Self {
            users: ranges(users),
            groups: ranges(groups),
        }
    }

    /// The user, or [`OVERFLOW`].
    #[must_use]
    pub fn uid(&self, uid: u32) -> u32 {
        named(&self.users, uid)
    }

    /// The group, or [`OVERFLOW`].
    #[must_use]
    pub fn gid(&self, gid: u32) -> u32 {
        named(&self.groups, gid)
    }
}

fn named(ranges: &[(u32, u32)], id: u32) -> u32 {
    let named = |(first, count): &(u32, u32)| id >= *first && id - first < *count;
    let can = ranges.is_empty() || ranges.iter().any(named);
    if can && id != NOBODY_AT_ALL { id } else { OVERFLOW }
}

/// How owners are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap {
    /// Ranges of users; empty: all as they are.
    pub users: Vec<Range>,
    /// Ranges of groups; empty: all as they are.
    pub groups: Vec<Range>,
    /// What is shown as one.
    pub squash: Squash,
}

impl IdMap {
    /// The user that a stored owner is shown as; [`NOBODY_AT_ALL`] for one that is not mapped.
    #[must_use]
    pub fn shown_uid(&self, stored: u32) -> u32 {
        match self.squash {
            Squash::To { uid: Some(uid), .. } => uid,
            Squash::Overflow if stored == OVERFLOW => 0,
            _ => shown(&self.users, stored),
        }
    }

    /// The group that a stored group is shown as; [`NOBODY_AT_ALL`] for one that is not mapped.
    #[must_use]
    pub fn shown_gid(&self, stored: u32) -> u32 {
        match self.squash {
            Squash::To { gid: Some(gid), .. } => gid,
            Squash::Overflow if stored == OVERFLOW => 0,
            _ => shown(&self.groups, stored),
        }
    }

    /// The owner to store for a user of the mount; `None` when it has none.
    #[must_use]
    pub fn stored_uid(&self, shown: u32) -> Option<u32> {
        stored(&self.users, shown)
    }

    /// The group to store for a group of the mount; `None` when it has none.
    #[must_use]
    pub fn stored_gid(&self, shown: u32) -> Option<u32> {
        stored(&self.groups, shown)
    }

    /// Whether owners that a user sets may be kept: with all shown as one they make no difference.
    #[must_use]
    pub fn keeps_owners(&self) -> bool {
        !matches!(self.squash, Squash::To { .. })
    }

    /// Reads `SHOWN:STORED:COUNT[:SHOWN:STORED:COUNT…]`.
    ///
    /// # Errors
    /// A text that says what is wrong.
    pub fn parse_ranges(text: &str) -> Result<Vec<Range>, String> {
        let numbers = text
            .split([':', ' '])
            .map(|part| {
                part.parse::<u32>()
                    .map_err(|_| format!("`{part}` in `{text}` is no number"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (triples, rest) = numbers.as_chunks::<3>();
        if triples.is_empty() || !rest.is_empty() {
            return Err(format!("`{text}` is not made of SHOWN:STORED:COUNT"));
        }
        Ok(triples
            .iter()
            .map(|&[shown, stored, count]| Range { shown, stored, count })
            .collect())
    }
}

fn shown(ranges: &[Range], stored: u32) -> u32 {
    if ranges.is_empty() {
        return stored;
    }
    let hit = ranges
        .iter()
        .find(|range| stored.wrapping_sub(range.stored) < range.count && stored >= range.stored);
    // Not as the overflow number: that may be a user's, who would then own all that has no name here.
    hit.map_or(NOBODY_AT_ALL, |range| {
        range.shown.saturating_add(stored - range.stored)
    })
}

fn stored(ranges: &[Range], shown: u32) -> Option<u32> {
    if shown == NOBODY_AT_ALL {
        return None;
    }
    if ranges.is_empty() {
        return Some(shown);
    }
    let hit = ranges
        .iter()
        .find(|range| shown >= range.shown && shown - range.shown < range.count)?;
    hit.stored.checked_add(shown - hit.shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_without_a_name_in_the_namespace_overflow() {
        let all = Mapped::parse("         0          0 4294967295\n", "");
        assert_eq!((all.uid(1000), all.gid(70_000)), (1000, 70_000));
        let few = Mapped::parse("0 1000 1\n1 100000 65536\n", "0 1000 1\n");
        assert_eq!(
            (few.uid(0), few.uid(65_536), few.uid(65_537)),
            (0, 65_536, OVERFLOW)
        );
        assert_eq!((few.gid(0), few.gid(1)), (0, OVERFLOW));
        assert_eq!(all.uid(u32::MAX), OVERFLOW, "an archive may say so, no file can");
    }

    fn map() -> IdMap {
        IdMap {
            users: IdMap::parse_ranges("0:1000:1:1:100000:65536").unwrap(),
            ..IdMap::default()
        }
    }

    #[test]
    fn owners_go_both_ways() {
        let map = map();
        for (stored, shown) in [(1000, 0), (100_000, 1), (100_999, 1000)] {
            assert_eq!(map.shown_uid(stored), shown);
            assert_eq!(map.stored_uid(shown), Some(stored));
        }
        assert_eq!(map.shown_uid(5), NOBODY_AT_ALL);
        assert_eq!(map.stored_uid(70_000), None);
        assert_eq!(map.shown_gid(5), 5, "no group ranges: groups stay");
        assert_eq!(
            map.stored_gid(u32::MAX),
            None,
            "chown(2) would take it for: leave it"
        );
    }

    #[test]
    fn bad_ranges_say_why() {
        assert!(
            IdMap::parse_ranges("0:1")
                .unwrap_err()
                .contains("SHOWN:STORED:COUNT")
        );
        assert!(IdMap::parse_ranges("0:x:1").unwrap_err().contains("`x`"));
        assert!(IdMap::parse_ranges("").is_err());
    }

    #[test]
    fn squashing() {
        let all = IdMap {
            squash: Squash::To {
                uid: Some(0),
                gid: Some(0),
            },
            ..map()
        };
        assert_eq!(all.shown_uid(4711), 0);
        let overflow = IdMap {
            squash: Squash::Overflow,
            ..IdMap::default()
        };
        assert_eq!((overflow.shown_uid(OVERFLOW), overflow.shown_uid(7)), (0, 7));
    }
}
