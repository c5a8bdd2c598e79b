//! Extended attributes, with the overlay's own marks kept out of sight (see [`crate::layer::marks`]).

use std::ffi::{OsStr, OsString};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::Fs;
use crate::acl;
use crate::error::{Doing, Error, Result};
use crate::sync::RwLockWriteGuard;
use crate::sync::atomic::Ordering;
use crate::sys;
use crate::union::inode::Inode;
use crate::upper::copy_up::Depth;

/// Tells which layer of an image a file comes from. Answered, but neither listed nor stored, so that copies of a file
/// do not carry it on.
pub const PROVENANCE: &str = "user.shale.layer";

/// On the root directory: what the server counts, as JSON.
pub const COUNTERS: &str = "user.shale.counters";

/// On the root directory: set, it has all partial copies made whole in the background; read, it tells as JSON how many
/// are still to be (`waiting`), and whether more are looked for (`looking`).
pub const SEAL: &str = "user.shale.seal";

impl Fs {
    /// Reads an attribute.
    ///
    /// # Errors
    /// [`Error::NoAttribute`] when it is not set.
    pub fn xattr(&self, node: u64, name: &OsStr) -> Result<Vec<u8>> {
        let node = self.union.node(node)?;
        if name == PROVENANCE {
            let layer = self.union.provenance(&node.inode)?;
            return layer.map(String::into_bytes).ok_or(Error::NoAttribute);
        }
        if name == COUNTERS && node.id == super::ROOT {
            return Ok(self.counters().into_bytes());
        }
        if name == SEAL && node.id == super::ROOT {
            return Ok(self.seal_state().into_bytes());
        }
        let stored = self.union.space.to_stored(name)?;
        let value = self
            .union
            .stored_xattr(&node.inode, &stored)?
            .ok_or_else(|| missing(name))?;
        Ok(if acl::is_acl(name) {
            acl::to_shown(value, &self.ids)
        } else {
            value
        })
    }

    fn counters(&self) -> String {
        let cache = self.union.cache.counters();
        format!(
            "{{\"nodes\":{},\"handles\":{},\"requests\":{},\"page_cache\":{{\"hits\":{},\"misses\":{},\"waits\":{},\
             \"failures\":{},\"evictions\":{},\"bytes\":{},\"limit_bytes\":{}}}}}",
            self.node_count(),
            self.handles.len(),
            self.requests.to_json(),
            cache.hits,
            cache.misses,
            cache.waits,
            cache.failures,
            cache.evictions,
            cache.bytes,
            cache.limit_bytes,
        )
    }

    /// The names of all attributes that programs may see.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn xattr_names(&self, node: u64) -> Result<Vec<OsString>> {
        let node = self.union.node(node)?;
        let stored = self.union.stored_xattr_names(&node.inode)?;
        Ok(stored
            .iter()
            .filter_map(|name| self.union.space.to_shown(name))
            .collect())
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// As `setxattr(2)`.
    pub fn set_xattr(&self, node: u64, name: &OsStr, value: &[u8], flags: u32) -> Result<()> {
        let node = self.union.node(node)?;
        let inode = &node.inode;
        if name == PROVENANCE {
            return Err(Error::Denied("the attribute tells where a file comes from"));
        }
        if name == SEAL && node.id == super::ROOT {
            return self.ask_to_seal();
        }
        let stored = self.union.space.to_stored(name)?;
        let upper = self.union.writable()?;
        let mapped = if acl::is_acl(name) {
            let mapped = acl::to_stored(value, &self.ids);
            Some(mapped.ok_or(Error::Invalid("an id in the access control list is not mapped"))?)
        } else {
            None
        };
        let value = mapped.as_deref().unwrap_or(value);
        self.union.copy_up(inode, Depth::Metadata)?;
        let named = upper.name(inode)?;
        let flags = XattrFlags::from_bits_retain(flags);
        let _alone = Self::unseen_by_makers(inode);
        sys::set_xattr(&*named, &stored, value, flags).doing("set extended attribute")?;
        inode.default_acl.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// [`Error::NoAttribute`] when it is not set.
    pub fn remove_xattr(&self, node: u64, name: &OsStr) -> Result<()> {
        let node = self.union.node(node)?;
        let inode = &node.inode;
        let stored = self.union.space.to_stored(name)?;
        let upper = self.union.writable()?;
        if self.union.stored_xattr(inode, &stored)?.is_none() {
            return Err(missing(name));
        }
        self.union.copy_up(inode, Depth::Metadata)?;
        let named = upper.name(inode)?;
        let _alone = Self::unseen_by_makers(inode);
        match sys::remove_xattr(&*named, &stored) {
            Err(Errno::NODATA) => return Err(Error::NoAttribute),
            result => result.doing("remove extended attribute")?,
        }
        inode.default_acl.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// What new entries inherit changes between two of them: who makes one notes what it has found (`default_acl`).
    fn unseen_by_makers(inode: &Inode) -> Option<RwLockWriteGuard<'_, ()>> {
        inode.is_dir().then(|| inode.entries.write())
    }
}

/// Why an attribute cannot be read: there is none of this name, or there can be none (xattr(7), "namespaces").
fn missing(name: &OsStr) -> Error {
    let known = ["user.", "trusted.", "security.", "system."];
    if known
        .iter()
        .any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
    {
        Error::NoAttribute
    } else {
        Error::Unsupported("no attribute namespace of that name")
    }
}
