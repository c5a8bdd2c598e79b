//! `capget`, `capset` and the bounding and ambient sets.

use nix::errno::Errno;

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Three sets of a process as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// What counts.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What may be kept over exec.
    pub inheritable: u64,
}

/// The sets of the calling process.
pub fn get() -> nix::Result<Sets> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 of the interface takes a header and two data structures.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | (u64::from(high) << 32);
    Ok(Sets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// Changes the sets of the calling process.
pub fn set(sets: Sets) -> nix::Result<()> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let part = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [part(0), part(32)];
    // SAFETY: as in `get`; the kernel only reads.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Whether `capability` is in the bounding set; an error means that the kernel does not know it.
pub fn in_bounding(capability: u32) -> nix::Result<bool> {
    // SAFETY: a plain call with integers.
    Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability), 0, 0, 0) })
        .map(|value| value == 1)
}

/// Removes `capability` from the bounding set.
pub fn drop_bounding(capability: u32) -> nix::Result<()> {
    // SAFETY: a plain call with integers.
    Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) })
        .map(drop)
}

/// Empties the ambient set.
pub fn clear_ambient() -> nix::Result<()> {
    // SAFETY: a plain call with integers.
    Errno::result(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
            0,
            0,
            0,
        )
    })
    .map(drop)
}

/// Adds `capability` to the ambient set.
pub fn raise_ambient(capability: u32) -> nix::Result<()> {
    // SAFETY: a plain call with integers.
    Errno::result(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            libc::c_ulong::from(capability),
            0,
            0,
        )
    })
    .map(drop)
}
