//! gzip (RFC 1952) step by step: for the pass that indexes, and for reading from a checkpoint.
//!
//! ```text
//! ┌────────┬──────────────────────┬─────────┐┌────────┬────
//! │ header │ deflate blocks       │ trailer ││ header │ …        members follow each other
//! └────────┴──────────────────────┴─────────┘└────────┴────
//! ▲             ▲ a checkpoint with a window  ▲ one without
//! ```
//!
//! As gzip does: what follows a member and does not begin like another one is no error and no data. A member that is
//! cut, whose sum or length is wrong, or whose header is none is an error that says where. A reader that began inside
//! of a member cannot check that member's sum; its bytes are checked by the sums of the stream file.

use std::io;

use super::input::{Input, Origin, Supply};
use crate::sys::inflate::{Inflate, InflateError, Stop};

const MAGIC: [u8; 2] = [0x1f, 0x8b];
const DEFLATE: u8 = 8;
const HEADER_SUM: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

/// What a step met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing of note.
    None,
    /// The boundary between two blocks, in the middle of a byte: so many bits of the byte before the position.
    Boundary {
        /// Bits of the byte before that belong to the next block.
        bits: u32,
        /// The byte after that one, in the slice.
        source: u64,
    },
    /// The end of a member, whose sum was right.
    Member,
    /// The end of the stream.
    End,
}

enum Phase {
    /// Before the header of a member, the first or a later one.
    Header {
        first: bool,
    },
    Body,
    Trailer,
    End,
}

/// The sum of a member's plain bytes so far.
struct MemberSum {
    hasher: crc32fast::Hasher,
    length: u64,
}

/// A decoder of gzip.
pub(crate) struct Gunzip<S> {
    origin: Origin,
    input: Input<S>,
    inflate: Inflate,
    phase: Phase,
    /// Absent when the member was not read from its beginning.
    sum: Option<MemberSum>,
}

impl<S: Supply> Gunzip<S> {
    /// Begins at the header of a member.
    pub(crate) fn at_member(supply: S, offset: u64, origin: Origin) -> io::Result<Self> {
        let inflate = Inflate::new().map_err(|error| origin.corrupt(error.0, offset))?;
        Ok(Self {
            input: Input::new(supply, offset),
            origin,
            inflate,
            phase: Phase::Header { first: offset == 0 },
            sum: None,
        })
    }

    /// Begins between two blocks: after `bits` of the byte before `source` were left over.
    pub(crate) fn at_block(
        supply: S,
        source: u64,
        bits: u32,
        window: &[u8],
        origin: Origin,
    ) -> io::Result<Self> {
        let mut decoder = Self::at_member(supply, source.saturating_sub(u64::from(bits != 0)), origin)?;
        let value = match bits {
            0 => 0,
            _ => u32::from(decoder.need_byte("the archive ends before a checkpoint")?) >> (8 - bits),
        };
        decoder.phase = Phase::Body;
        match decoder.inflate.resume(bits, value, window) {
            Ok(()) => Ok(decoder),
            Err(error) => Err(decoder.corrupt(error.0)),
        }
    }

    /// Of the next compressed byte, in the slice.
    pub(crate) fn position(&self) -> u64 {
        self.input.position()
    }

    /// The last plain bytes.
    pub(crate) fn window(&self) -> Vec<u8> {
        self.inflate.window()
    }

    /// Gives memory back that is not needed until the next step.
    pub(crate) fn rest(&mut self) {
        self.input.rest();
    }

    /// Decompresses into `output`, up to the next mark at most; block boundaries are marks when `stop_at_boundary`.
    /// Gives how many bytes were written, which may be none.
    pub(crate) fn step(&mut self, output: &mut [u8], stop_at_boundary: bool) -> io::Result<(usize, Mark)> {
        match self.phase {
            Phase::Header { first } => {
                if self.header(first)? {
                    self.phase = Phase::Body;
                    Ok((0, Mark::None))
                } else {
                    self.phase = Phase::End;
                    Ok((0, Mark::End))
                }
            }
            Phase::Body => self.body(output, stop_at_boundary),
            Phase::Trailer => {
                self.trailer()?;
                self.phase = Phase::Header { first: false };
                Ok((0, Mark::Member))
            }
            Phase::End => Ok((0, Mark::End)),
        }
    }

    fn body(&mut self, output: &mut [u8], stop_at_boundary: bool) -> io::Result<(usize, Mark)> {
        let input = self.input.peek()?;
        let at_end = input.is_empty();
        let progress = match self.inflate.run(input, output, stop_at_boundary) {
            Ok(progress) => progress,
            Err(InflateError(what)) => return Err(self.corrupt(format!("damaged gzip data ({what})"))),
        };
        self.input.consume(progress.read);
        if let Some(sum) = &mut self.sum {
            sum.hasher.update(&output[..progress.written]);
            sum.length += progress.written as u64;
        }
        let mark = match progress.stop {
            Stop::End => {
                self.phase = Phase::Trailer;
                Mark::None
            }
            Stop::Boundary { bits } if stop_at_boundary => Mark::Boundary {
                bits: bits % 8,
                source: self.input.position() - u64::from(bits / 8),
            },
            Stop::Boundary { .. } | Stop::Middle => {
                if at_end && progress.written == 0 && !output.is_empty() {
                    return Err(self.corrupt("the gzip data is cut"));
                }
                Mark::None
            }
        };
        Ok((progress.written, mark))
    }

    /// Reads a header; false when there is no further member.
    fn header(&mut self, first: bool) -> io::Result<bool> {
        let start = self.input.position();
        let mut sum = crc32fast::Hasher::new();
        for expected in MAGIC {
            let byte = self.input.byte()?;
            if byte != Some(expected) {
                return match first {
                    true => Err(self.origin.corrupt("this is not gzip data", start)),
                    // as gzip: padding and garbage after a member are left alone
                    false => Ok(false),
                };
            }
        }
        sum.update(&MAGIC);
        let (method, flags) = (self.header_byte(&mut sum)?, self.header_byte(&mut sum)?);
        if method != DEFLATE || flags & RESERVED != 0 {
            return Err(self.origin.corrupt("a gzip header of an unknown kind", start));
        }
        for _ in 0..6 {
            self.header_byte(&mut sum)?;
        }
        if flags & EXTRA != 0 {
            let length = u16::from_le_bytes([self.header_byte(&mut sum)?, self.header_byte(&mut sum)?]);
            for _ in 0..length {
                self.header_byte(&mut sum)?;
            }
        }
        for text in [NAME, COMMENT] {
            while flags & text != 0 && self.header_byte(&mut sum)? != 0 {}
        }
        if flags & HEADER_SUM != 0 {
            let expected = sum.clone().finalize() as u16;
            let found = u16::from_le_bytes([self.header_byte(&mut sum)?, self.header_byte(&mut sum)?]);
            if found != expected {
                return Err(self.origin.corrupt("a gzip header with a wrong sum", start));
            }
        }
        self.inflate.reset().map_err(|error| self.corrupt(error.0))?;
        self.sum = Some(MemberSum {
            hasher: crc32fast::Hasher::new(),
            length: 0,
        });
        Ok(true)
    }

    fn header_byte(&mut self, sum: &mut crc32fast::Hasher) -> io::Result<u8> {
        let byte = self.need_byte("a gzip header is cut")?;
        sum.update(&[byte]);
        Ok(byte)
    }

    fn trailer(&mut self) -> io::Result<()> {
        let start = self.input.position();
        let mut trailer = [0; 8];
        for byte in &mut trailer {
            *byte = self.need_byte("the gzip data is cut")?;
        }
        let [a, b, c, d, e, f, g, h] = trailer;
        let Some(sum) = self.sum.take() else { return Ok(()) };
        if u32::from_le_bytes([a, b, c, d]) != sum.hasher.finalize() {
            return Err(self
                .origin
                .corrupt("the gzip data does not match its sum (crc)", start));
        }
        if u32::from_le_bytes([e, f, g, h]) != sum.length as u32 {
            return Err(self
                .origin
                .corrupt("the gzip data does not match its length", start));
        }
        Ok(())
    }

    fn need_byte(&mut self, what: &str) -> io::Result<u8> {
        match self.input.byte()? {
            Some(byte) => Ok(byte),
            None => Err(self.corrupt(what)),
        }
    }

    fn corrupt(&self, what: impl Into<String>) -> io::Error {
        self.origin.corrupt(what, self.input.position())
    }
}
