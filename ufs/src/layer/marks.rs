//! The extended attributes with which overlayfs notes what a directory or file is, and how they are kept apart from
//! the attributes that programs set.
//!
//! ```text
//! overlay.opaque    "y" on a directory: what lies below does not show ("x": it may hold xattr whiteouts)
//! overlay.redirect  on a directory or metadata-only copy: below, look here instead ("NAME" or "/PATH")
//! overlay.metacopy  on a regular file: only the metadata is here, the content is below
//! overlay.whiteout  on an empty regular file in a directory with opaque=x: a whiteout
//! overlay.shale.ino on a copy: the inode number shown before copy-up, 16 hexadecimal digits
//! overlay.shale.partial  on a metadata-only copy: some of the content is here (see `upper/partial/mark.rs`)
//! ```
//!
//! The names stand in the `trusted.` namespace when the server may use it, else in `user.`; exactly one of the two
//! counts on a mount, as for the kernel's `userxattr` option, so that a program that may only set `user.*` cannot
//! forge a mark on a privileged mount. A program inside the mount that uses the mount's own prefix has its attribute
//! stored *escaped* (`trusted.overlay.X` as `trusted.overlay.overlay.X`), as the kernel does since 6.7.
//!
//! Source: Documentation/filesystems/overlayfs.rst of the kernel. fuse-overlayfs adds `user.fuseoverlayfs.opaque`.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::error::{Error, Result};
use crate::upper::partial::mark;

/// The longest redirect that is believed, as a path.
const REDIRECT_BYTES_MAX: usize = 64 * 1024;

/// The marks of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Nothing below shows.
    pub opaque: bool,
    /// Below, the file lies elsewhere.
    pub redirect: Option<Redirect>,
    /// The content is below.
    pub metacopy: bool,
    /// Of a metadata-only copy: some of the content is here all the same.
    pub partial: bool,
}

/// Where a file lies in the layers below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// Under this name in the same directory.
    Sibling(OsString),
    /// At this path from the root: its components.
    Absolute(Vec<OsString>),
}

impl Redirect {
    /// Reads the value of a redirect attribute. No component may be empty, `.`, `..` or over 255 bytes, so that a
    /// redirect never leads out of its layer.
    ///
    /// # Errors
    /// [`Error::Damaged`] for anything else.
    pub fn parse(value: &[u8]) -> Result<Self> {
        if value.len() > REDIRECT_BYTES_MAX {
            return Err(Error::Damaged("redirect is too long"));
        }
        match value.strip_prefix(b"/") {
            Some(path) => path
                .split(|&byte| byte == b'/')
                .map(component)
                .collect::<Result<_>>()
                .map(Self::Absolute),
            None => component(value).map(Self::Sibling),
        }
    }

    /// The attribute's value for the absolute path `path` (components separated by `/`, no leading slash).
    #[must_use]
    pub fn absolute_value(path: &OsStr) -> Vec<u8> {
        let mut value = vec![b'/'];
        value.extend_from_slice(path.as_bytes());
        value
    }
}

fn component(bytes: &[u8]) -> Result<OsString> {
    let fits = !bytes.is_empty() && bytes.len() <= 255 && bytes != b"." && bytes != b"..";
    if !fits || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(Error::Damaged("redirect holds an impossible name"));
    }
    Ok(OsString::from_vec(bytes.to_vec()))
}

/// Which of the two namespaces holds the marks of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkSpace {
    /// `trusted.overlay.*`: the server has CAP_SYS_ADMIN in the first user namespace.
    Trusted,
    /// `user.overlay.*`: rootless, or asked for with `userxattr`.
    User,
}

/// Inside the mark namespace, what programs set is kept under this second `overlay.`.
const ESCAPE: &[u8] = b"overlay.";

/// fuse-overlayfs' own namespace on rootless mounts.
const FUSE_OVERLAYFS: &[u8] = b"user.fuseoverlayfs.";

impl MarkSpace {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    /// The full attribute name of a mark such as `opaque`.
    #[must_use]
    pub fn name(self, mark: &str) -> OsString {
        let mut name = self.prefix().to_vec();
        name.extend_from_slice(mark.as_bytes());
        OsString::from_vec(name)
    }

    /// Under which name an attribute that a program names is stored.
    ///
    /// # Errors
    /// [`Error::Denied`] for the names that belong to a neighbour's marks.
    pub fn to_stored(self, shown: &OsStr) -> Result<Cow<'_, OsStr>> {
        let bytes = shown.as_bytes();
        if self == Self::User && bytes.starts_with(FUSE_OVERLAYFS) {
            return Err(Error::Denied(
                "attribute name is reserved for marks of a union file system",
            ));
        }
        match bytes.strip_prefix(self.prefix()) {
            None => Ok(Cow::Borrowed(shown)),
            Some(rest) => {
                let stored = [self.prefix(), ESCAPE, rest].concat();
                if stored.len() > 255 {
                    return Err(Error::Invalid(
                        "attribute name is too long to be kept apart from marks",
                    ));
                }
                Ok(Cow::Owned(OsString::from_vec(stored)))
            }
        }
    }

    /// What a program sees of a stored attribute; `None` when it is a mark.
    #[must_use]
    pub fn to_shown(self, stored: &OsStr) -> Option<OsString> {
        let bytes = stored.as_bytes();
        if self == Self::User && bytes.starts_with(FUSE_OVERLAYFS) {
            return None;
        }
        let Some(rest) = bytes.strip_prefix(self.prefix()) else {
            return Some(stored.to_os_string());
        };
        let rest = rest.strip_prefix(ESCAPE)?;
        Some(OsString::from_vec([self.prefix(), rest].concat()))
    }

    /// Reads the marks of a file whose attributes are called `names`; `get` reads one of them. Most files have none,
    /// so that the list alone answers.
    ///
    /// # Errors
    /// What `get` answers; [`Error::Damaged`] for a redirect that leads nowhere.
    pub fn marks(
        self,
        is_dir: bool,
        names: &[OsString],
        get: impl Fn(&OsStr) -> Result<Option<Vec<u8>>>,
    ) -> Result<Marks> {
        let get = |name: &OsStr| {
            if names.iter().any(|listed| listed == name) {
                get(name)
            } else {
                Ok(None)
            }
        };
        if is_dir {
            self.directory_marks(get)
        } else {
            self.file_marks(get)
        }
    }

    /// Reads a directory's marks; `get` reads one attribute of it.
    ///
    /// # Errors
    /// What `get` answers; [`Error::Damaged`] for a redirect that leads nowhere.
    fn directory_marks(self, get: impl Fn(&OsStr) -> Result<Option<Vec<u8>>>) -> Result<Marks> {
        let mut opaque = get(&self.name("opaque"))?.is_some_and(|value| value == b"y");
        if !opaque && self == Self::User {
            opaque = get(OsStr::new("user.fuseoverlayfs.opaque"))?.is_some_and(|value| value == b"y");
        }
        let redirect = get(&self.name("redirect"))?
            .map(|value| Redirect::parse(&value))
            .transpose()?;
        Ok(Marks {
            opaque,
            redirect,
            metacopy: false,
            partial: false,
        })
    }

    /// Reads a regular file's marks; `get` reads one attribute of it.
    ///
    /// # Errors
    /// As for [`MarkSpace::directory_marks`].
    fn file_marks(self, get: impl Fn(&OsStr) -> Result<Option<Vec<u8>>>) -> Result<Marks> {
        if get(&self.name("metacopy"))?.is_none() {
            return Ok(Marks::default());
        }
        let redirect = get(&self.name("redirect"))?
            .map(|value| Redirect::parse(&value))
            .transpose()?;
        Ok(Marks {
            opaque: false,
            redirect,
            metacopy: true,
            partial: get(&self.name(mark::NAME))?.is_some(),
        })
    }
}

/// The value that notes an inode number.
#[must_use]
pub fn number_value(ino: u64) -> Vec<u8> {
    format!("{ino:016x}").into_bytes()
}

/// Reads a noted inode number; anything odd counts as none.
#[must_use]
pub fn parse_number(value: &[u8]) -> Option<u64> {
    (value.len() == 16).then(|| u64::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(text: &str) -> OsString {
        OsString::from(text)
    }

    #[test]
    fn redirects_are_read() {
        assert_eq!(Redirect::parse(b"name").unwrap(), Redirect::Sibling(os("name")));
        assert_eq!(
            Redirect::parse(b"/a/b").unwrap(),
            Redirect::Absolute(vec![os("a"), os("b")])
        );
        assert_eq!(Redirect::absolute_value(OsStr::new("a/b")), b"/a/b");
    }

    #[test]
    fn redirects_that_lead_out_are_refused() {
        for value in [
            &b""[..],
            b"/",
            b"..",
            ".".as_bytes(),
            b"/a/../b",
            b"a/b",
            b"/a//b",
            b"../../etc",
            b"a\0b",
        ] {
            assert!(Redirect::parse(value).is_err(), "{:?}", OsStr::from_bytes(value));
        }
        assert!(Redirect::parse(&[b'a'; 256]).is_err());
        assert!(Redirect::parse(&b"/a".repeat(40_000)).is_err());
    }

    #[test]
    fn programs_cannot_name_marks() {
        let space = MarkSpace::Trusted;
        let stored = space
            .to_stored(OsStr::new("trusted.overlay.opaque"))
            .unwrap()
            .into_owned();
        assert_eq!(stored, "trusted.overlay.overlay.opaque");
        assert_eq!(space.to_shown(&stored), Some(os("trusted.overlay.opaque")));
        assert_eq!(space.to_shown(OsStr::new("trusted.overlay.opaque")), None);
        assert_eq!(
            space.to_shown(OsStr::new("user.overlay.opaque")),
            Some(os("user.overlay.opaque"))
        );
        assert_eq!(
            MarkSpace::User.to_shown(OsStr::new("user.fuseoverlayfs.opaque")),
            None
        );
        assert!(
            MarkSpace::User
                .to_stored(OsStr::new("user.fuseoverlayfs.opaque"))
                .is_err()
        );
    }

    #[test]
    fn a_users_attribute_is_no_mark_on_a_privileged_mount() {
        let get = |name: &OsStr| Ok((name == "user.overlay.opaque").then(|| b"y".to_vec()));
        assert!(!MarkSpace::Trusted.directory_marks(get).unwrap().opaque);
        assert!(MarkSpace::User.directory_marks(get).unwrap().opaque);
    }

    #[test]
    fn numbers_read_back() {
        assert_eq!(parse_number(&number_value(0x1234)), Some(0x1234));
        assert_eq!(parse_number(b"12"), None);
        assert_eq!(parse_number(b"zzzzzzzzzzzzzzzz"), None);
    }
}
