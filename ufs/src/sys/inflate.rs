//! Raw deflate (RFC 1951), with what random access needs: stops at block boundaries, and a start in the middle.
//!
//! ```text
//! …block │ block │ block…        a boundary lies at a bit, not at a byte
//!        ▲
//!        └ resume(bits left of the byte before, 32 KiB of plain bytes before)
//! ```
//!
//! The library is zlib-rs through its C interface, since its Rust interface knows neither block boundaries nor bits.
//! Errors are values; a state that met one must not be used on.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};

use libz_rs_sys::{
    Z_BLOCK, Z_BUF_ERROR, Z_NO_FLUSH, Z_OK, Z_STREAM_END, inflate, inflateEnd, inflateGetDictionary,
    inflateInit2_, inflatePrime, inflateReset, inflateSetDictionary, z_stream, zlibVersion,
};

/// Plain bytes that a deflate stream may refer back to.
pub(crate) const WINDOW_BYTES: usize = 32 << 10;

/// Raw deflate with the largest window, in the library's way of saying so.
const RAW: c_int = -15;
/// Set in `data_type` after the last block.
const LAST_BLOCK: c_int = 64;
/// Set in `data_type` when decompression stopped at a block boundary.
const BOUNDARY: c_int = 128;
/// The rest of `data_type`: bits taken from the input and not used.
const UNUSED_BITS: c_int = 63;

/// Where decompression stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The input or the room for output is used up.
    Middle,
    /// Between two blocks; `bits` bits of the last `1 + bits / 8` bytes of input were not used yet.
    Boundary {
        /// Bits taken in but not used.
        bits: u32,
    },
    /// After the last block.
    End,
}

/// How far a call came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    /// Bytes of input taken.
    pub(crate) read: usize,
    /// Bytes of output written.
    pub(crate) written: usize,
    /// Where it stopped.
    pub(crate) stop: Stop,
}

/// The compressed bytes are no deflate stream; the library's words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InflateError(pub(crate) &'static str);

/// A state of decompression.
pub(crate) struct Inflate {
    // boxed: the library keeps no pointer back to it, but other implementations of its interface do
    stream: Box<z_stream>,
}

// SAFETY: the state is owned by the stream alone and bound to no thread; every use takes `&mut self` or reads only.
unsafe impl Send for Inflate {}

impl Inflate {
    /// A state at the beginning of a deflate stream.
    pub(crate) fn new() -> Result<Self, InflateError> {
        let mut stream = Box::new(z_stream::default());
        // SAFETY: the stream is valid, with no allocator of ours; the version and the size are the library's own.
        let outcome = unsafe {
            inflateInit2_(
                &raw mut *stream,
                RAW,
                zlibVersion(),
                size_of::<z_stream>() as c_int,
            )
        };
        match outcome {
            Z_OK => Ok(Self { stream }),
            _ => Err(InflateError("out of memory")),
        }
    }

    /// Goes back to the beginning of a deflate stream, the memory kept.
    pub(crate) fn reset(&mut self) -> Result<(), InflateError> {
        // SAFETY: the stream was initialised by `new`.
        match unsafe { inflateReset(&raw mut *self.stream) } {
            Z_OK => Ok(()),
            _ => Err(InflateError("inconsistent state")),
        }
    }

    /// Goes to a place inside of a deflate stream: the low `bits` bits of `value` come before the next input, and
    /// `window` is what was decompressed before.
    pub(crate) fn resume(&mut self, bits: u32, value: u32, window: &[u8]) -> Result<(), InflateError> {
        self.reset()?;
        // SAFETY: the stream was initialised by `new`; the library checks the number of bits.
        if unsafe { inflatePrime(&raw mut *self.stream, bits as c_int, value as c_int) } != Z_OK {
            return Err(InflateError("impossible number of bits"));
        }
        if window.is_empty() {
            return Ok(());
        }
        let window = &window[window.len().saturating_sub(WINDOW_BYTES)..];
        // SAFETY: the stream was initialised by `new`, pointer and length are those of a slice.
        let outcome =
            unsafe { inflateSetDictionary(&raw mut *self.stream, window.as_ptr(), window.len() as c_uint) };
        match outcome {
            Z_OK => Ok(()),
            _ => Err(InflateError("window refused")),
        }
    }

    /// Decompresses from `input` into `output`; with `stop_at_boundary` until the next block boundary at most.
    pub(crate) fn run(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        stop_at_boundary: bool,
    ) -> Result<Progress, InflateError> {
        let given = c_uint::try_from(input.len()).unwrap_or(c_uint::MAX);
        let room = c_uint::try_from(output.len()).unwrap_or(c_uint::MAX);
        self.stream.next_in = input.as_ptr().cast_mut();
        self.stream.avail_in = given;
        self.stream.next_out = output.as_mut_ptr();
        self.stream.avail_out = room;
        let flush = if stop_at_boundary { Z_BLOCK } else { Z_NO_FLUSH };
        // SAFETY: the stream was initialised by `new`; its input and output were just set to two slices that outlive
        // the call and, borrowed shared and mutably, do not overlap. The lengths are not above those of the slices.
        let outcome = unsafe { inflate(&raw mut *self.stream, flush) };
        let read = (given - self.stream.avail_in) as usize;
        let written = (room - self.stream.avail_out) as usize;
        // nothing may be read through pointers whose slices are gone
        self.stream.next_in = std::ptr::null_mut();
        self.stream.avail_in = 0;
        self.stream.next_out = std::ptr::null_mut();
        self.stream.avail_out = 0;
        let stop = match outcome {
            Z_STREAM_END => Stop::End,
            // no progress: more input or room is needed
            Z_OK | Z_BUF_ERROR => self.boundary(),
            _ => return Err(self.complaint()),
        };
        Ok(Progress { read, written, stop })
    }

    fn boundary(&self) -> Stop {
        let state = self.stream.data_type;
        if state & BOUNDARY != 0 && state & LAST_BLOCK == 0 {
            Stop::Boundary {
                bits: (state & UNUSED_BITS) as u32,
            }
        } else {
            Stop::Middle
        }
    }

    /// The last plain bytes, at most [`WINDOW_BYTES`].
    pub(crate) fn window(&self) -> Vec<u8> {
        let mut window = vec![0; WINDOW_BYTES];
        let mut length: c_uint = 0;
        // SAFETY: the stream was initialised by `new`; the room is as large as the library may write.
        let outcome =
            unsafe { inflateGetDictionary(&raw const *self.stream, window.as_mut_ptr(), &raw mut length) };
        let length = if outcome == Z_OK { length as usize } else { 0 };
        window.truncate(length);
        window
    }

    fn complaint(&self) -> InflateError {
        if self.stream.msg.is_null() {
            return InflateError("no deflate stream");
        }
        // SAFETY: the library's messages are constants of its own that end with a zero byte.
        let message = unsafe { std::ffi::CStr::from_ptr(self.stream.msg.cast_const()) };
        InflateError(message.to_str().unwrap_or("no deflate stream"))
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: the stream was initialised by `new` and is not used again.
        unsafe { inflateEnd(&raw mut *self.stream) };
    }
}

impl std::fmt::Debug for Inflate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Inflate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn deflate(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn text(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                b"abcdefgh ijklmno"[(state >> 28) as usize]
            })
            .collect()
    }

    /// Every block boundary, as (bytes of input, bits, bytes of output, window).
    fn boundaries(packed: &[u8]) -> Vec<(usize, u32, usize, Vec<u8>)> {
        let mut inflate = Inflate::new().unwrap();
        let (mut read, mut written, mut found) = (0, 0, Vec::new());
        let mut room = vec![0; 10_000];
        loop {
            // odd portions, so that boundaries meet the ends of buffers
            let end = packed.len().min(read + 777);
            let progress = inflate.run(&packed[read..end], &mut room, true).unwrap();
            read += progress.read;
            written += progress.written;
            match progress.stop {
                Stop::End => return found,
                Stop::Boundary { bits } => found.push((read, bits, written, inflate.window())),
                Stop::Middle => (),
            }
        }
    }

    #[test]
    fn every_block_boundary_can_be_resumed() {
        let plain = text(500_000);
        let packed = deflate(&plain);
        let found = boundaries(&packed);
        assert!(found.len() > 5, "one block only proves nothing");
        for (read, bits, written, window) in found {
            assert_eq!(window, plain[written.saturating_sub(WINDOW_BYTES)..written]);
            let whole = (bits / 8) as usize;
            let (at, bits) = (read - whole, bits % 8);
            let value = if bits == 0 {
                0
            } else {
                u32::from(packed[at - 1]) >> (8 - bits)
            };
            let mut inflate = Inflate::new().unwrap();
            inflate.resume(bits, value, &window).unwrap();
            let mut rest = vec![0; plain.len() - written + 1];
            let progress = inflate.run(&packed[at..], &mut rest, false).unwrap();
            assert_eq!(progress.stop, Stop::End);
            assert_eq!(progress.read, packed.len() - at);
            assert!(
                rest[..progress.written] == plain[written..],
                "other bytes from {written}"
            );
        }
    }

    #[test]
    fn damage_is_an_error_with_a_reason() {
        let error = Inflate::new()
            .unwrap()
            .run(&[0xff; 64], &mut [0; 64], false)
            .unwrap_err();
        assert_eq!(error.to_string(), "invalid block type");
    }

    #[test]
    fn a_state_can_be_used_again() {
        let packed = deflate(b"again and again");
        let mut inflate = Inflate::new().unwrap();
        for _ in 0..3 {
            let mut room = [0; 64];
            let progress = inflate.run(&packed, &mut room, false).unwrap();
            assert_eq!(&room[..progress.written], b"again and again");
            inflate.reset().unwrap();
        }
    }
}
