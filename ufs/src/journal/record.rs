//! The records of a journal, as bytes and back. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::fs::Mode;
use crate::io_mode::Side;

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// A log begins, newer than all with a smaller number.
    Generation(u64),
    /// All that was copied from the log before is here.
    Complete,
    /// The kernel's INIT request.
    Init(&'a [u8]),
    /// The kernel is told of a node of the file with the number `inode`.
    Held { number: u64, inode: u64, is_dir: bool },
    /// The kernel forgot a node.
    Gone { number: u64 },
    /// A file is called `name` in `parent`.
    Link {
        number: u64,
        parent: u64,
        name: &'a OsStr,
    },
    /// It is no longer.
    Unlink {
        number: u64,
        parent: u64,
        name: &'a OsStr,
    },
    /// A number was handed out for a file (tag, device, inode) whose own does not fit.
    HandedOut { key: (u64, u64, u64), number: u64 },
    /// A file was opened, as the request asked that has this number.
    Open {
        handle: u64,
        node: u64,
        mode: Mode,
        request: u64,
    },
    /// It was closed.
    Closed { handle: u64 },
    /// A node is passed through to the backing file that the kernel knows by `id`.
    Backing { node: u64, id: u32, side: Side },
    /// It is no longer.
    Unbacked { node: u64 },
    /// The request `unique` exchanges two names, of which the first led to `number`.
    Exchange { unique: u64, number: u64 },
}

/// Bytes of length and sum.
const FRAME_BYTES: usize = 8;

impl<'a> Record<'a> {
    /// Appends the record with its length and sum before it.
    pub(super) fn frame(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.resize(start + FRAME_BYTES, 0);
        let (kind, numbers, tail): (u8, &[u64], &[u8]) = match self {
            Self::Generation(number) => (1, &[*number], &[]),
            Self::Complete => (2, &[], &[]),
            Self::Init(request) => (3, &[], request),
            Self::Held {
                number,
                inode,
                is_dir,
            } => (4, &[*number, *inode, u64::from(*is_dir)], &[]),
            Self::Gone { number } => (5, &[*number], &[]),
            Self::Link { number, parent, name } => (6, &[*number, *parent], name.as_bytes()),
            Self::Unlink { number, parent, name } => (7, &[*number, *parent], name.as_bytes()),
            Self::HandedOut { key, number } => (9, &[key.0, key.1, key.2, *number], &[]),
            Self::Open {
                handle,
                node,
                mode,
                request,
            } => {
                let mode = u64::from(mode.write) | u64::from(mode.runs) << 1;
                (10, &[*handle, *node, mode, *request], &[])
            }
            Self::Closed { handle } => (11, &[*handle], &[]),
            Self::Backing { node, id, side } => {
                (12, &[*node, u64::from(*id), u64::from(*side == Side::Upper)], &[])
            }
            Self::Unbacked { node } => (13, &[*node], &[]),
            Self::Exchange { unique, number } => (14, &[*unique, *number], &[]),
        };
        bytes.push(kind);
        for number in numbers {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(tail);
        let (frame, body) = bytes[start..].split_at_mut(FRAME_BYTES);
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        frame[..4].copy_from_slice(&length.to_le_bytes());
        frame[4..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    }

    /// How many records no longer count with this one, about, itself included.
    pub(super) fn ends(&self) -> usize {
        match self {
            // With the node goes its name.
            Self::Gone { .. } => 3,
            Self::Unlink { .. } | Self::Closed { .. } | Self::Unbacked { .. } => 2,
            Self::Exchange { .. } => 1,
            _ => 0,
        }
    }

    /// The first record of `bytes` and what follows it; `None` at the end, or where a record is torn.
    pub(super) fn next(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (body, rest) = rest.split_at_checked(length)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return None;
        }
        Some((Self::parse(body)?, rest))
    }

    fn parse(body: &'a [u8]) -> Option<Self> {
        let (kind, mut rest) = body.split_first()?;
        let mut number = || {
            let (first, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            Some(u64::from_le_bytes(*first))
        };
        Some(match kind {
            1 => Self::Generation(number()?),
            2 => Self::Complete,
            3 => Self::Init(rest),
            4 => Self::Held {
                number: number()?,
                inode: number()?,
                is_dir: number()? != 0,
            },
            5 => Self::Gone { number: number()? },
            6 => Self::Link {
                number: number()?,
                parent: number()?,
                name: OsStr::from_bytes(rest),
            },
            7 => Self::Unlink {
                number: number()?,
                parent: number()?,
                name: OsStr::from_bytes(rest),
            },
            9 => Self::HandedOut {
                key: (number()?, number()?, number()?),
                number: number()?,
            },
            10 => {
                let (handle, node, mode) = (number()?, number()?, number()?);
                let mode = Mode {
                    write: mode & 1 != 0,
                    runs: mode & 2 != 0,
                };
                Self::Open {
                    handle,
                    node,
                    mode,
                    request: number()?,
                }
            }
            11 => Self::Closed { handle: number()? },
            12 => Self::Backing {
                node: number()?,
                id: u32::try_from(number()?).ok()?,
                side: if number()? == 0 { Side::Lower } else { Side::Upper },
            },
            13 => Self::Unbacked { node: number()? },
            14 => Self::Exchange {
                unique: number()?,
                number: number()?,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_comes_back_and_a_flipped_bit_does_not() {
        let name = OsStr::from_bytes(b"\xff name");
        let records = [
            Record::Generation(5),
            Record::Complete,
            Record::Init(b"request"),
            Record::Held {
                number: 1,
                inode: 2,
                is_dir: true,
            },
            Record::Gone { number: 3 },
            Record::Link {
                number: 1,
                parent: 2,
                name,
            },
            Record::Unlink {
                number: 1,
                parent: 2,
                name,
            },
            Record::HandedOut {
                key: (1, 2, 3),
                number: 4,
            },
            Record::Open {
                handle: 1,
                node: 2,
                mode: Mode {
                    write: false,
                    runs: true,
                },
                request: 3,
            },
            Record::Closed { handle: 1 },
            Record::Backing {
                node: 1,
                id: 2,
                side: Side::Upper,
            },
            Record::Unbacked { node: 1 },
            Record::Exchange { unique: 1, number: 2 },
        ];
        let mut all = Vec::new();
        for record in &records {
            record.frame(&mut all);
        }
        // Zeros follow the last one.
        all.extend([0; 100]);
        let mut rest = &all[..];
        for record in &records {
            let (found, after) = Record::next(rest).unwrap();
            assert_eq!(found, *record);
            rest = after;
        }
        assert_eq!(Record::next(rest), None);
        let mut damaged = Vec::new();
        records[3].frame(&mut damaged);
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(Record::next(&damaged), None);
    }
}
