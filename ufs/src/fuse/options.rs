//! The `-o` options of the mount program: fuse-overlayfs' names, read into values. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::SetupError;
use crate::fuse::Behaviour;
use crate::idmap::{IdMap, Squash};
use crate::union::{Layout, Lower};
use crate::upper::UpperOptions;

/// How long the kernel keeps names and attributes by default: as good as forever.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1_000_000_000);

/// The most server threads that may be asked for.
const THREADS_MAX: usize = 64;

/// All that the options say.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// The directories.
    pub layout: Layout,
    /// How owners are shown.
    pub ids: IdMap,
    /// Towards the kernel.
    pub behaviour: Behaviour,
    /// Flags of the mount.
    pub flags: MountFlags,
    /// Other users may use the mount.
    pub allow_other: bool,
    /// Start a server that dies again; `None`: when it is in the background.
    pub supervise: Option<bool>,
    /// Server threads; `None`: as the machine has processors.
    pub threads: Option<usize>,
    /// Name of the source in the mount table.
    pub source: String,
    /// Options that were not understood, for a warning.
    pub unknown: Vec<String>,
}

/// Flags of the mount, as for mount(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, clippy::struct_excessive_bools)]
pub struct MountFlags {
    pub read_only: bool,
    pub dev: bool,
    pub suid: bool,
    pub exec: bool,
    pub atime: bool,
}

impl Default for MountOptions {
    /// As fuse-overlayfs: root's mounts serve all users and honour set-user-id bits, but no devices.
    fn default() -> Self {
        let root = rustix::process::geteuid().is_root();
        Self {
            layout: Layout::default(),
            ids: IdMap::default(),
            behaviour: Behaviour {
                timeout: TIMEOUT_DEFAULT,
                acl: true,
                skip_open: true,
                passthrough: true,
                writeback: false,
            },
            flags: MountFlags {
                read_only: false,
                dev: false,
                suid: root,
                exec: true,
                atime: true,
            },
            allow_other: root,
            supervise: None,
            threads: None,
            source: "shale-ufs".to_owned(),
            unknown: Vec::new(),
        }
    }
}

/// Options of neighbours that change nothing here.
const HARMLESS: &[&str] = &[
    "default_permissions",
    "rw",
    "async",
    "sync",
    "dirsync",
    "auto_unmount",
    "nonempty",
    "xino",
    "index",
    "nfs_export",
    "redirect_dir",
    "static_nlink",
    "max_read",
    "max_write",
    "big_writes",
    "kernel_cache",
    "auto_cache",
    "splice_read",
    "splice_write",
    "splice_move",
    "max_idle_threads",
    "clone_fd",
    "context",
    "fscontext",
    "defcontext",
    "rootcontext",
    "subtype",
    "plugins",
    "relatime",
    "strictatime",
    "diratime",
    "nodiratime",
    "lazytime",
];

impl MountOptions {
    /// Reads the arguments of all `-o`, in order; later ones win.
    ///
    /// # Errors
    /// [`SetupError`] naming the option and what is wrong with its value.
    pub fn parse(arguments: &[OsString]) -> Result<Self, SetupError> {
        let mut options = Self::default();
        let (mut upper, mut work) = (None, None);
        let (mut lowers, mut repository) = (Vec::new(), None);
        for argument in arguments {
            for option in split_unescaped(argument.as_bytes(), b',') {
                let (name, value) = match option.iter().position(|&byte| byte == b'=') {
                    Some(at) => (&option[..at], Some(&option[at + 1..])),
                    None => (&option[..], None),
                };
                let name = String::from_utf8_lossy(name).into_owned();
                match name.as_str() {
                    "" => {}
                    "upperdir" => upper = Some(path(&name, value)?),
                    "workdir" => work = Some(path(&name, value)?),
                    "lowerdir" => lowers = lower_parts(value)?,
                    "repository" => repository = Some(path(&name, value)?),
                    _ => options.set(&name, value)?,
                }
            }
        }
        options.layout.lowers = lowers
            .into_iter()
            .map(|part| lower(part, repository.as_deref()))
            .collect();
        options.layout.upper = match (upper, work) {
            (Some(upper), Some(work)) if !options.flags.read_only => Some((upper, work)),
            // Mounted read-only, the upper is one more layer on top.
            (Some(upper), _) if options.flags.read_only => {
                options.layout.lowers.insert(0, Lower::Directory(upper));
                None
            }
            (None, None) => None,
            (None, Some(_)) if options.flags.read_only => None,
            _ => return Err(SetupError::HalfUpper),
        };
        options.flags.read_only |= options.layout.upper.is_none();
        if options.layout.lowers.is_empty() {
            return Err(SetupError::NoLayers);
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), SetupError> {
        match name {
            "uidmapping" => self.ids.users = ranges(name, value)?,
            "gidmapping" => self.ids.groups = ranges(name, value)?,
            "squash_to_root" => {
                self.ids.squash = Squash::To {
                    uid: Some(0),
                    gid: Some(0),
                }
            }
            "squash_to_uid" => self.squash(Some(number(name, value)?), None),
            "squash_to_gid" => self.squash(None, Some(number(name, value)?)),
            "squash_overflow" => self.ids.squash = Squash::Overflow,
            "cache" => self.layout.cache_bytes = Some(u64::from(number(name, value)?) << 20),
            "timeout" => self.behaviour.timeout = seconds(name, value)?,
            "threads" => self.threads = Some(threads(name, value)?),
            "supervise" => self.supervise = Some(switch(name, value)?),
            "passthrough" => {
                self.behaviour.passthrough = switch(name, value)?;
                self.behaviour.skip_open &= !self.behaviour.passthrough;
            }
            "skip_open" => self.behaviour.skip_open = switch(name, value)?,
            "writeback" => self.behaviour.writeback = switch(name, value)?,
            "metacopy" => self.layout.options.metacopy = switch(name, value)?,
            "partial" | "nopartial" => {
                let wanted = switch(name, value)? == (name == "partial");
                let min = UpperOptions::PARTIAL_MIN_BYTES;
                self.layout.options.partial_min_bytes = wanted.then_some(min);
            }
            "partial_min" => {
                self.layout.options.partial_min_bytes = Some(u64::from(number(name, value)?).max(1));
            }
            "seal" => {
                self.layout.options.seal_after = match value {
                    Some(b"off") => None,
                    value => Some(seconds(name, value)?),
                };
            }
            "volatile" => self.layout.options.volatile = true,
            "fsync" => self.layout.options.volatile = !switch(name, value)?,
            "userxattr" => self.layout.options.user_marks = true,
            "noacl" => self.behaviour.acl = false,
            "acl" => self.behaviour.acl = true,
            "allow_other" | "allow_root" => self.allow_other = true,
            "fsname" => self.source = text(name, value)?,
            "ro" => self.flags.read_only = true,
            "dev" | "nodev" => self.flags.dev = name == "dev",
            "suid" | "nosuid" => self.flags.suid = name == "suid",
            "exec" | "noexec" => self.flags.exec = name == "exec",
            "atime" | "noatime" => self.flags.atime = name == "atime",
            _ if HARMLESS.contains(&name) => {}
            _ => self.unknown.push(name.to_owned()),
        }
        Ok(())
    }

    fn squash(&mut self, new_uid: Option<u32>, new_gid: Option<u32>) {
        let (uid, gid) = match self.ids.squash {
            Squash::To { uid, gid } => (uid, gid),
            _ => (None, None),
        };
        self.ids.squash = Squash::To {
            uid: new_uid.or(uid),
            gid: new_gid.or(gid),
        };
    }
}

/// Splits at `separator`, except where a backslash stands before it. Backslashes stay.
fn split_unescaped(text: &[u8], separator: u8) -> impl Iterator<Item = Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut escaped = false;
    for &byte in text {
        if byte == separator && !escaped {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
        escaped = byte == b'\\' && !escaped;
    }
    parts.into_iter()
}

/// Takes the backslashes out of a path.
fn unescape(text: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(text.len());
    let mut escaped = false;
    for &byte in text {
        if byte == b'\\' && !escaped {
            escaped = true;
        } else {
            path.push(byte);
            escaped = false;
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

fn lower_parts(value: Option<&[u8]>) -> Result<Vec<PathBuf>, SetupError> {
    let value = value
        .filter(|value| !value.is_empty())
        .ok_or(SetupError::NoLayers)?;
    split_unescaped(value, b':')
        .map(|part| layer_path(&part))
        .collect()
}

/// With a repository, `@NAME` is an index in it.
fn lower(part: PathBuf, repository: Option<&Path>) -> Lower {
    let name = part.as_os_str().as_bytes().strip_prefix(b"@");
    match (name, repository) {
        (Some(name), Some(repository)) => Lower::Index {
            path: repository.join(OsStr::from_bytes(name)),
            repository: repository.to_path_buf(),
        },
        _ => Lower::Directory(part),
    }
}

fn layer_path(part: &[u8]) -> Result<PathBuf, SetupError> {
    if part.is_empty() {
        return Err(bad("lowerdir", "an empty path between two colons"));
    }
    Ok(unescape(part))
}

fn path(name: &str, value: Option<&[u8]>) -> Result<PathBuf, SetupError> {
    let value = value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| bad(name, "needs a path"))?;
    Ok(unescape(value))
}

fn text(name: &str, value: Option<&[u8]>) -> Result<String, SetupError> {
    let value = value.ok_or_else(|| bad(name, "needs a value"))?;
    Ok(OsStr::from_bytes(value).to_string_lossy().into_owned())
}

fn number(name: &str, value: Option<&[u8]>) -> Result<u32, SetupError> {
    let text = text(name, value)?;
    text.parse()
        .map_err(|_| bad(name, &format!("`{text}` is no number")))
}

fn threads(name: &str, value: Option<&[u8]>) -> Result<usize, SetupError> {
    match number(name, value)? as usize {
        count @ 1..=THREADS_MAX => Ok(count),
        _ => Err(bad(name, &format!("must lie between 1 and {THREADS_MAX}"))),
    }
}

fn seconds(name: &str, value: Option<&[u8]>) -> Result<Duration, SetupError> {
    let text = text(name, value)?;
    let seconds: f64 = text
        .parse()
        .map_err(|_| bad(name, &format!("`{text}` is no number of seconds")))?;
    Duration::try_from_secs_f64(seconds)
        .map(|timeout| timeout.min(TIMEOUT_DEFAULT))
        .map_err(|_| bad(name, &format!("`{text}` is no number of seconds")))
}

fn switch(name: &str, value: Option<&[u8]>) -> Result<bool, SetupError> {
    match value {
        None | Some(b"1" | b"on" | b"true" | b"yes") => Ok(true),
        Some(b"0" | b"off" | b"false" | b"no") => Ok(false),
        Some(other) => Err(bad(
            name,
            &format!("`{}` is neither on nor off", OsStr::from_bytes(other).display()),
        )),
    }
}

fn ranges(name: &str, value: Option<&[u8]>) -> Result<Vec<crate::idmap::Range>, SetupError> {
    IdMap::parse_ranges(&text(name, value)?).map_err(|why| bad(name, &why))
}

fn bad(name: &str, why: &str) -> SetupError {
    SetupError::Option {
        name: name.to_owned(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions, SetupError> {
        MountOptions::parse(&[OsString::from(text)])
    }

    fn directories(paths: &[&str]) -> Vec<Lower> {
        paths.iter().map(|path| Lower::Directory(path.into())).collect()
    }

    #[test]
    fn an_index_is_named_in_its_repository() {
        let options = parse("lowerdir=/init:@chains/abc:/base,repository=/r").unwrap();
        let index = Lower::Index {
            path: "/r/chains/abc".into(),
            repository: "/r".into(),
        };
        let expected = [
            Lower::Directory("/init".into()),
            index,
            Lower::Directory("/base".into()),
        ];
        assert_eq!(options.layout.lowers, expected);
        let without = parse("lowerdir=@chains/abc").unwrap();
        assert_eq!(without.layout.lowers, directories(&["@chains/abc"]));
    }

    #[test]
    fn layers_are_read_top_first() {
        let options = parse("lowerdir=/a:/b,upperdir=/u,workdir=/w").unwrap();
        assert_eq!(options.layout.lowers, directories(&["/a", "/b"]));
        assert_eq!(options.layout.upper, Some(("/u".into(), "/w".into())));
        assert!(!options.flags.read_only);
    }

    #[test]
    fn colons_and_commas_are_escaped_by_backslash() {
        let options = parse(r"lowerdir=/a\:b:/c\,d:/e\\f").unwrap();
        assert_eq!(options.layout.lowers, directories(&["/a:b", "/c,d", r"/e\f"]));
        assert!(options.flags.read_only);
    }

    #[test]
    fn read_only_makes_the_upper_a_layer() {
        let options = parse("ro,lowerdir=/a,upperdir=/u,workdir=/w").unwrap();
        assert_eq!(options.layout.lowers, directories(&["/u", "/a"]));
        assert_eq!(options.layout.upper, None);
    }

    #[test]
    fn halves_and_nonsense_are_refused() {
        assert!(matches!(
            parse("lowerdir=/a,upperdir=/u"),
            Err(SetupError::HalfUpper)
        ));
        assert!(matches!(
            parse("lowerdir=/a,workdir=/w"),
            Err(SetupError::HalfUpper)
        ));
        assert!(matches!(
            parse("upperdir=/u,workdir=/w"),
            Err(SetupError::NoLayers)
        ));
        for (text, part) in [
            ("lowerdir=/a::/b", "empty path"),
            ("lowerdir=/a,timeout=never", "`never`"),
            ("lowerdir=/a,threads=0", "between 1 and"),
            ("lowerdir=/a,uidmapping=1:2", "SHOWN:STORED:COUNT"),
            ("lowerdir=/a,passthrough=maybe", "neither on nor off"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn partial_copies_are_asked_for() {
        let upper = "lowerdir=/a,upperdir=/u,workdir=/w";
        let options = |more: &str| parse(&format!("{upper}{more}")).map(|options| options.layout.options);
        let plain = options("").unwrap();
        assert_eq!(
            (plain.partial_min_bytes, plain.seal_after),
            (None, Some(Duration::from_secs(5)))
        );
        let min = Some(UpperOptions::PARTIAL_MIN_BYTES);
        assert_eq!(options(",partial").unwrap().partial_min_bytes, min);
        assert_eq!(options(",partial,nopartial").unwrap().partial_min_bytes, None);
        assert_eq!(options(",partial,partial=off").unwrap().partial_min_bytes, None);
        assert_eq!(
            options(",partial_min=4096").unwrap().partial_min_bytes,
            Some(4096)
        );
        assert_eq!(options(",seal=off").unwrap().seal_after, None);
        assert_eq!(
            options(",seal=0.5").unwrap().seal_after,
            Some(Duration::from_millis(500))
        );
        assert!(options(",seal=soon").is_err());
    }

    #[test]
    fn neighbours_options_are_taken() {
        let text = "lowerdir=/a,volatile,noacl,squash_to_uid=5,squash_to_gid=6,xino=off,static_nlink,dev,suid,fsync=0,x-odd";
        let options = parse(text).unwrap();
        assert!(options.layout.options.volatile && !options.behaviour.acl);
        assert!(options.flags.dev && options.flags.suid);
        assert_eq!(
            options.ids.squash,
            Squash::To {
                uid: Some(5),
                gid: Some(6)
            }
        );
        assert_eq!(options.unknown, ["x-odd"]);
    }
}
