//! Archives built member by member, directories read back whole, and the program run on a store of its own.

#![allow(dead_code, unreachable_pub)] // each test file uses its part

pub mod images;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use imagetool::archive::member::{Kind, Member};
use imagetool::archive::write::{Writer, file_entry};
use imagetool::digest::Digest;
use imagetool::store::{ContainerId, ContainerRecord, ContainerStatus, Store};
use ufs::attr::FileType;
use ufs::index::{Index, InodeId, Place, Sha256};

/// A member and its content.
pub type Entry = (Member, Vec<u8>);

pub fn entry(path: impl AsRef<[u8]>, kind: Kind) -> Entry {
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    let member = Member {
        path: path.as_ref().to_vec(),
        kind,
        mode,
        mtime: (1_600_000_000, 5),
        ..file_entry("", 0)
    };
    (member, Vec::new())
}

pub fn file(path: impl AsRef<[u8]>, content: &str) -> Entry {
    let (member, _) = entry(path, Kind::Regular);
    (
        Member {
            size_bytes: content.len() as u64,
            ..member
        },
        content.as_bytes().to_vec(),
    )
}

pub fn dir(path: impl AsRef<[u8]>) -> Entry {
    entry(path, Kind::Directory)
}

pub fn link(path: &str, kind: Kind, target: &str) -> Entry {
    let (member, content) = entry(path, kind);
    (
        Member {
            link: target.as_bytes().to_vec(),
            ..member
        },
        content,
    )
}

pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (member, content) in entries {
        writer.member(member, &mut content.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

/// What can be told of one file, as text.
pub type Tree = BTreeMap<Vec<u8>, String>;

/// Reads a directory: type, mode, content or target, link count, marks, time.
pub fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    walk(root, root, &mut found);
    found
}

fn walk(root: &Path, path: &Path, found: &mut Tree) {
    let metadata = path.symlink_metadata().unwrap();
    let kind = metadata.file_type();
    let what = if kind.is_symlink() {
        format!("link {:?}", path.read_link().unwrap())
    } else if kind.is_char_device() {
        format!("char {}", metadata.rdev())
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else if kind.is_dir() {
        let opaque = ["trusted.overlay.opaque", "user.overlay.opaque"];
        let opaque = opaque
            .iter()
            .any(|name| xattr::get(path, name).ok().flatten().is_some());
        format!(
            "dir{} {:?}",
            if opaque { " opaque" } else { "" },
            metadata.mtime()
        )
    } else {
        format!(
            "file {} {:?} {:?}",
            metadata.nlink(),
            metadata.mtime(),
            content(path)
        )
    };
    let relative = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
    found.insert(relative, format!("{what} {:o}", metadata.mode() & 0o7777));
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            walk(root, &entry.unwrap().path(), found);
        }
    }
}

/// A layer of a store, in the same words as [`tree`].
pub fn tree_of_layer(store: &Store, diff_id: &Digest) -> Tree {
    let repository = store.repository();
    let index = Index::open(&repository.index(diff_id.as_bytes())).unwrap();
    index.check().unwrap();
    let object = |digest: &Sha256| repository.object(digest);
    tree_of_index(&index, &repository.pack(diff_id.as_bytes()), &object)
}

/// What an index tells, in the same words as [`tree`]; `pack` and `objects` are where its contents are.
pub fn tree_of_index(index: &Index, pack: &Path, objects: &dyn Fn(&Sha256) -> PathBuf) -> Tree {
    let mut found = Tree::new();
    let mut directories = vec![(InodeId::ROOT, Vec::new())];
    found.insert(Vec::new(), told(index, InodeId::ROOT, pack, objects));
    while let Some((directory, path)) = directories.pop() {
        for entry in index.entries(directory).unwrap() {
            let (name, entry) = entry.unwrap();
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let path = [&path, slash, name].concat();
            let Some(inode) = entry.inode else {
                found.insert(path, "char 0 0".to_owned());
                continue;
            };
            found.insert(path.clone(), told(index, inode, pack, objects));
            if index.inode(inode).unwrap().is_dir() {
                directories.push((inode, path));
            }
        }
    }
    found
}

fn told(index: &Index, id: InodeId, pack: &Path, objects: &dyn Fn(&Sha256) -> PathBuf) -> String {
    let inode = index.inode(id).unwrap();
    let what = match inode.file_type() {
        FileType::Directory => {
            let opaque = if inode.opaque { " opaque" } else { "" };
            format!("dir{opaque} {:?}", inode.mtime.secs)
        }
        FileType::Symlink => {
            let target = index.link_target(id).unwrap();
            format!("link {:?}", Path::new(OsStr::from_bytes(target)))
        }
        FileType::Regular => {
            let bytes = match index.place(id).unwrap() {
                Place::Empty => vec![0; inode.size_bytes as usize],
                Place::Pack { offset, digest, .. } => {
                    let from = offset as usize;
                    let bytes = std::fs::read(pack).unwrap()[from..from + inode.size_bytes as usize].to_vec();
                    assert_eq!(Digest::of(&bytes).as_bytes(), digest);
                    bytes
                }
                Place::Object { digest } => std::fs::read(objects(digest)).unwrap(),
                Place::Stream { .. } => panic!("no layer of a store has contents in a stream"),
            };
            format!("file {} {:?} {:?}", inode.nlink, inode.mtime.secs, shown(bytes))
        }
        FileType::CharDevice | FileType::BlockDevice => format!("device {}", inode.rdev),
        FileType::Fifo => "fifo".to_owned(),
        FileType::Socket => "socket".to_owned(),
    };
    format!("{what} {:o}", inode.mode & 0o7777)
}

/// A file's content; of a large one its digest, so that a failed comparison stays readable.
fn content(path: &Path) -> String {
    shown(std::fs::read(path).unwrap_or_default())
}

fn shown(bytes: Vec<u8>) -> String {
    match bytes {
        bytes if bytes.len() > 100 => Digest::of(&bytes).to_string(),
        bytes => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// The program on a store of its own.
pub struct Shale {
    pub folder: tempfile::TempDir,
}

impl Shale {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shale"));
        command
            .env_remove("SHALE_ROOT")
            .env_remove("SOURCE_DATE_EPOCH")
            .env_remove("RUST_LOG");
        command.arg("--root").arg(self.root()).args(words);
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Output {
        self.command(words).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed; gives its standard output without the last line break.
    pub fn ok<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> String {
        let output = self.run(words);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Runs a command that must fail with status 1; gives its standard error.
    pub fn fails<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> String {
        let output = self.run(words);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        errors
    }

    /// Runs a command with bytes on its standard input.
    pub fn feed<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>, input: &[u8]) -> Output {
        let mut child = self
            .command(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // a program that refuses its input early closes the pipe
            let _ = io::Write::write_all(&mut stdin, &input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Imports an archive; gives the image's id.
    pub fn import(&self, archive: &[u8], name: &str) -> String {
        let output = self.feed(["import", "-q", "-", name], archive);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Names in a folder of the store.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.root().join(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Nothing of a failed command may be left.
    pub fn assert_empty(&self) {
        assert_eq!(self.ok(["images", "-aq"]), "");
        for folder in ["tmp", "layers", "blobs/sha256", "chains"] {
            assert_eq!(self.names(folder), Vec::<String>::new(), "{folder}");
        }
        for folder in self.names("objects") {
            assert_eq!(self.names(&format!("objects/{folder}")), Vec::<String>::new());
        }
    }
}

/// Prints why a test did nothing.
pub fn skip(reason: &str) {
    eprintln!("SKIP: {reason}");
}

/// The record of a container on `image`, its id and name, that a command made and that has ended.
pub fn ended(name: &str, image: Option<(Digest, &str)>) -> ContainerRecord {
    let (image_id, image_ref) = image.unzip();
    ContainerRecord {
        id: ContainerId::random().unwrap(),
        name: name.to_owned(),
        image_id,
        image_ref: image_ref.unwrap_or("rootfs").to_owned(),
        command: vec!["make".to_owned()],
        created_at_s: 1,
        status: ContainerStatus::Exited,
        exit_code: Some(0),
        pid: None,
        rootfs: None,
        started_at_s: Some(1),
        finished_at_s: Some(2),
        config_json: "{}".to_owned(),
    }
}

/// Puts a container into the store, with empty directories. Gives its own.
pub fn keep_container(store: &Store, record: &ContainerRecord) -> PathBuf {
    store.containers().insert(record).unwrap();
    let dir = store.container_dir(&record.id);
    for part in ["init", "upper", "work"] {
        std::fs::create_dir_all(dir.join(part)).unwrap();
        std::fs::set_permissions(dir.join(part), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}
