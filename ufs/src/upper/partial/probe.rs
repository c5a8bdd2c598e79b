//! Whether the upper's file system is fit for partial copies: holes must be told exactly, before and after data
//! reach the disk, and also when what lies beside them was read.
//!
//! Unfit are those that allocate more than was written (extent size hints, huge pages, large records) or do not know
//! holes (NFS before 4.2, FAT). Asked once, when the first copy is to be made: it takes a sync, but on ext4, whose extents
//! map single blocks and tell what is allocated beside them apart from data (`ext4_ext_map_blocks`, fs/ext4/extents.c).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{self, AtFlags, FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::layer::Content;
use crate::sys::{self, SysResult};
use crate::upper::Upper;

/// The length of the file that is tried.
const TRIED_BYTES: u64 = 8 << 20;

/// So much is read on both sides of the one block.
const READ_AROUND_BYTES: u64 = 128 << 10;

/// The largest blocks that are of use.
const BLOCK_BYTES_MAX: u64 = 64 << 10;

impl Upper {
    /// The size of the blocks of partial copies; `None` where there can be none.
    pub(crate) fn partial_block_bytes(&self) -> Option<u64> {
        *self.partials.fitness.get_or_init(|| {
            let block = try_holes(self);
            match &block {
                Ok(Some(block)) => tracing::debug!(block, "partial copies"),
                Ok(None) => tracing::debug!("no partial copies: the upper does not tell holes exactly"),
                Err(error) => tracing::debug!(%error, "no partial copies"),
            }
            block.ok().flatten()
        })
    }

    /// Whether the copy of a whole content would share its blocks.
    pub(crate) fn shares_blocks_with(&self, content: &Content) -> bool {
        let Content::File(file) = content else {
            return false;
        };
        if !self.can_reflink.load(Ordering::Relaxed) {
            return false;
        }
        let Ok(device) = sys::stat_fd(file).map(|attr| attr.dev) else {
            return false;
        };
        if let Some(known) = self.partials.sharing.lock().get(&device) {
            return *known;
        }
        let tried = self
            .scratch_file()
            .and_then(|scratch| fs::ioctl_ficlone(&scratch, file));
        if matches!(tried, Err(Errno::OPNOTSUPP | Errno::NOTTY)) {
            self.can_reflink.store(false, Ordering::Relaxed);
        }
        let shares = tried.is_ok();
        self.partials.sharing.lock().insert(device, shares);
        shares
    }

    /// A file without a name in the work directory.
    fn scratch_file(&self) -> SysResult<OwnedFd> {
        let name = self.fresh_name();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = fs::openat(self.work(), &name, flags, Mode::from_raw_mode(0o600))?;
        fs::unlinkat(self.work(), &name, AtFlags::empty())?;
        Ok(file)
    }
}

fn try_holes(upper: &Upper) -> SysResult<Option<u64>> {
    let file = upper.scratch_file()?;
    let block = sys::space(&file)?.block_bytes;
    if !block.is_power_of_two() || !(512..=BLOCK_BYTES_MAX).contains(&block) {
        return Ok(None);
    }
    let middle = TRIED_BYTES / 2;
    fs::ftruncate(&file, TRIED_BYTES)?;
    let data = vec![1; usize::try_from(block).unwrap_or(0)];
    if sys::retry(|| rustix::io::pwrite(&file, &data, middle))? != data.len() {
        return Ok(None);
    }
    if !holds_only(&file, middle..middle + block)? {
        return Ok(None);
    }
    if fs::fstatfs(&file)?.f_type != libc::EXT4_SUPER_MAGIC {
        sys::retry(|| fs::fdatasync(&file))?;
    }
    let mut around = vec![0; usize::try_from(2 * READ_AROUND_BYTES).unwrap_or(0)];
    sys::retry(|| rustix::io::pread(&file, &mut around[..], middle - READ_AROUND_BYTES))?;
    if !holds_only(&file, middle..middle + block)? {
        return Ok(None);
    }
    fs::fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        middle,
        block,
    )?;
    Ok((fs::seek(&file, SeekFrom::Data(0)) == Err(Errno::NXIO)).then_some(block))
}

fn holds_only(file: impl AsFd, data: std::ops::Range<u64>) -> SysResult<bool> {
    let file = file.as_fd();
    Ok(fs::seek(file, SeekFrom::Data(0))? == data.start
        && fs::seek(file, SeekFrom::Hole(data.start))? == data.end
        && fs::seek(file, SeekFrom::Data(data.end)) == Err(Errno::NXIO))
}
