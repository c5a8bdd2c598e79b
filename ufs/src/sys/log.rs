//! A file in memory that grows by appending, through a map: a record costs no system call.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::Arc;

use memmap2::{MmapMut, MmapOptions};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

/// The file grows by so much at a time.
const STEP_BYTES: u64 = 1 << 20;

/// A new file in memory, known to nobody but who gets its descriptor.
pub(crate) fn memory_file() -> io::Result<File> {
    Ok(memfd_create("shale-ufs", MemfdFlags::CLOEXEC)?.into())
}

/// What is appended is in the file at once, whatever becomes of the process. Zeros follow it.
#[derive(Debug)]
pub(crate) struct Log {
    file: Arc<File>,
    map: MmapMut,
    length: usize,
}

impl Log {
    /// Empties `file`, which is of [`memory_file`], and begins with `bytes`. No other log on it may be alive.
    pub(crate) fn over(file: &Arc<File>, bytes: &[u8]) -> io::Result<Self> {
        file.set_len(0)?;
        let mut log = Self {
            file: Arc::clone(file),
            map: grown(file, bytes.len())?,
            length: 0,
        };
        log.append(bytes)?;
        Ok(log)
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.length
    }

    /// Appends.
    ///
    /// # Errors
    /// When there is no memory to grow.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.length + bytes.len();
        if end > self.map.len() {
            self.map = grown(&self.file, end)?;
        }
        self.map[self.length..end].copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }
}

/// Makes the file as long as is wanted, or longer, and maps it.
fn grown(file: &File, wanted: usize) -> io::Result<MmapMut> {
    let length = (wanted as u64 + 1).next_multiple_of(STEP_BYTES);
    // All of its pages are there afterwards: writing to the map cannot fail.
    fallocate(file, FallocateFlags::empty(), 0, length)?;
    let length = usize::try_from(length).map_err(io::Error::other)?;
    // SAFETY: the file is one in memory that this process and its supervisor know. The supervisor reads it when this
    // process has ended, and nobody cuts it short while a map of it is alive: `Log::over` is called for the one of two
    // files that no log is on.
    unsafe { MmapOptions::new().len(length).map_mut(file) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_is_appended_is_in_the_file() {
        let file = Arc::new(memory_file().unwrap());
        let mut log = Log::over(&file, b"begin").unwrap();
        let record = [7; 1000];
        let count = 3 * STEP_BYTES as usize / record.len();
        for _ in 0..count {
            log.append(&record).unwrap();
        }
        assert_eq!(log.len_bytes(), 5 + count * record.len());
        let mut found = vec![0; log.len_bytes() + 1];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(&found[..5], b"begin");
        assert!(found[5..log.len_bytes()].iter().all(|byte| *byte == 7));
        assert_eq!(found.last(), Some(&0));
        drop(log);
        Log::over(&file, b"").unwrap();
        assert_eq!(file.metadata().unwrap().len(), STEP_BYTES);
        file.read_exact_at(&mut found[..5], 0).unwrap();
        assert_eq!(found[..5], [0; 5], "nothing is left of it");
    }
}
