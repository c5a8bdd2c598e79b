//! Which file an archive is, and whether it is still the same.

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last change of its content, in seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Last change of its attributes, in seconds and nanoseconds.
    pub ctime: (i64, u32),
}
