//! The mark that makes a metadata-only copy a partial one.
//!
//! ```text
//! overlay.shale.partial =  version 1 │ limit, u64 LE │ inode number of the copy, u64 LE
//! ```
//!
//! *limit*: so many bytes of the content below count. What lies past it and is not in the upper is zeros. The number
//! is there to tell a copy of the copy: most programs that copy files fill holes with zeros, or make some, and then
//! nothing tells any more what was written.

use crate::error::{Error, Result};

/// The mark's name after `trusted.overlay.` or `user.overlay.`.
pub(crate) const NAME: &str = "shale.partial";

const VERSION: u8 = 1;

/// What the mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// How many bytes of the content below count.
    pub(crate) limit: u64,
    /// The number of the file that the mark was made for.
    pub(crate) ino: u64,
}

impl Mark {
    pub(crate) fn value(self) -> Vec<u8> {
        let mut value = vec![VERSION];
        value.extend(self.limit.to_le_bytes());
        value.extend(self.ino.to_le_bytes());
        value
    }

    /// Reads the mark of the file with number `ino`.
    pub(crate) fn parse(value: &[u8], ino: u64) -> Result<Self> {
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
        let mark = match value {
            [VERSION, rest @ ..] if rest.len() == 16 => number(&rest[..8]).zip(number(&rest[8..])),
            _ => None,
        };
        let (limit, noted) = mark.ok_or(Error::Damaged("a partial copy of a kind that is not known"))?;
        if noted != ino {
            return Err(Error::Damaged(
                "a partial copy was itself copied: seal an upper before it is copied",
            ));
        }
        Ok(Self { limit, ino })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_read_back() {
        for limit in [0, 1, 4096, u64::MAX] {
            let mark = Mark { limit, ino: 77 };
            assert_eq!(Mark::parse(&mark.value(), 77).unwrap(), mark);
        }
    }

    #[test]
    fn foreign_marks_are_refused() {
        let value = Mark { limit: 5, ino: 77 }.value();
        assert!(Mark::parse(&value, 78).is_err());
        assert!(Mark::parse(&value[..16], 77).is_err());
        assert!(Mark::parse(&[], 77).is_err());
        let newer = [&[2], &value[1..]].concat();
        assert!(Mark::parse(&newer, 77).is_err());
    }
}
