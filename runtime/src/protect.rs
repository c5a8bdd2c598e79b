//! Keeps containers from writing to the runtime's own program file (CVE-2019-5736).
//!
//! A container can make the runtime run a program of its choice, and with the name `/proc/self/exe` that is the
//! runtime itself, from then on under the container's control and with its file at hand. So whatever touches a
//! container runs from a copy that nobody can write to:
//! 1. the same file through a read-only mount that is attached nowhere (no bytes copied), or, without the right to
//!    mount,
//! 2. a sealed copy in memory.
//!
//! The process then starts again from there, which it recognises by looking at its own program file.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{AtFlags, FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::error::{Context, Error, Result};
use crate::sys::mount::{self as sys, MountAttr};

const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Makes sure that this process runs from a file that cannot be written to; starts again if it does not.
pub fn ensure() -> Result<()> {
    let own = File::open("/proc/self/exe").context(|| "open the runtime's own program")?;
    if is_protected(&own)? {
        return Ok(());
    }
    let program = match read_only_mount() {
        Ok(program) => program,
        Err(error) => {
            tracing::debug!(
                "protecting the runtime by a copy, since there is no read-only mount of it: {error}"
            );
            sealed_copy(own)?
        }
    };
    restart(program)
}

fn is_protected(own: &File) -> Result<bool> {
    let read_only = fstatvfs(own)
        .context(|| "look at the runtime's own program")?
        .flags()
        .contains(FsFlags::ST_RDONLY);
    // Only files in memory have seals.
    let sealed = fcntl(own, FcntlArg::F_GET_SEALS).is_ok_and(|seals| seals & SEALS.bits() == SEALS.bits());
    Ok(read_only || sealed)
}

fn read_only_mount() -> Result<OwnedFd> {
    let tree = sys::open_tree(nix::fcntl::AT_FDCWD, Path::new("/proc/self/exe"), false)?;
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_RDONLY,
        ..MountAttr::default()
    };
    sys::set_attr(tree.as_fd(), attr, false)?;
    Ok(tree)
}

fn sealed_copy(mut own: File) -> Result<OwnedFd> {
    // Kernels that know MFD_EXEC may forbid memory files without it; older ones refuse it.
    let exec = MFdFlags::from_bits_retain(libc::MFD_EXEC);
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = memfd_create(c"shale-runtime", flags | exec)
        .or_else(|_| memfd_create(c"shale-runtime", flags))
        .context(|| "make a file in memory for a copy of the runtime")?;
    let mut copy = File::from(copy);
    std::io::copy(&mut own, &mut copy).context(|| "copy the runtime into memory")?;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(SEALS)).context(|| "seal the copy of the runtime")?;
    Ok(copy.into())
}

fn restart(program: OwnedFd) -> Result<()> {
    let c_string =
        |text: std::ffi::OsString| CString::new(text.as_bytes()).map_err(|_| Error::invalid("zero byte"));
    let args = std::env::args_os().map(c_string).collect::<Result<Vec<_>>>()?;
    let env = std::env::vars_os().map(|(name, value)| {
        let mut entry = name;
        entry.push("=");
        entry.push(value);
        c_string(entry)
    });
    let env = env.collect::<Result<Vec<_>>>()?;
    tracing::debug!("starting again from descriptor {}", program.as_raw_fd());
    let Err(errno) = nix::unistd::execveat(&program, c"", &args, &env, AtFlags::AT_EMPTY_PATH);
    Err(errno).context(|| "start the runtime again from a file that cannot be written to")
}
