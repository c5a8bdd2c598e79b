//! Zstandard (RFC 8878) step by step, frame after frame.
//!
//! A frame can be decompressed from its beginning only, so frame starts are the checkpoints. Skippable frames count as
//! frames without plain bytes.

use std::io;

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::input::{Input, Origin, Supply};

/// What a step met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing of note.
    None,
    /// The end of a frame, whose sum (if it has one) was right.
    Frame,
    /// The end of the stream.
    End,
}

/// A decoder of Zstandard frames.
pub(crate) struct Frames<S> {
    origin: Origin,
    input: Input<S>,
    decoder: Decoder<'static>,
    in_frame: bool,
    any: bool,
}

impl<S: Supply> Frames<S> {
    /// Begins at the start of a frame.
    pub(crate) fn at_frame(supply: S, offset: u64, origin: Origin) -> io::Result<Self> {
        Ok(Self {
            origin,
            input: Input::new(supply, offset),
            decoder: Decoder::new()?,
            in_frame: false,
            any: offset != 0,
        })
    }

    /// Of the next compressed byte, in the slice.
    pub(crate) fn position(&self) -> u64 {
        self.input.position()
    }

    /// Gives memory back that is not needed until the next step.
    pub(crate) fn rest(&mut self) {
        self.input.rest();
    }

    /// Decompresses into `output`, up to the end of the frame at most. Gives how many bytes were written.
    pub(crate) fn step(&mut self, output: &mut [u8]) -> io::Result<(usize, Mark)> {
        let input = self.input.peek()?;
        let at_end = input.is_empty();
        if at_end && !self.in_frame {
            return match self.any {
                true => Ok((0, Mark::End)),
                false => Err(self.corrupt("this is not zstd data: it is empty")),
            };
        }
        let room = output.len();
        let mut from = InBuffer::around(input);
        let mut into = OutBuffer::around(output);
        let outcome = self.decoder.run(&mut from, &mut into);
        let (read, written) = (from.pos(), into.pos());
        let left = match outcome {
            Ok(left) => left,
            Err(error) => return Err(self.corrupt(format!("damaged zstd data ({error})"))),
        };
        self.input.consume(read);
        self.in_frame = true;
        self.any = true;
        if left == 0 {
            self.decoder.reinit()?;
            self.in_frame = false;
            return Ok((written, Mark::Frame));
        }
        if at_end && written == 0 && room != 0 {
            return Err(self.corrupt("the zstd data is cut"));
        }
        Ok((written, Mark::None))
    }

    fn corrupt(&self, what: impl Into<String>) -> io::Error {
        self.origin.corrupt(what, self.input.position())
    }
}
