//! What workloads share, each thing made when it is first asked for: the root file system's archive, its split into
//! layers, images in one store of shale's, unpacked trees.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Bench;
use super::archive::{self, Hashed, Layer};
use super::registry::Registry;
use super::shale::Shale;
use super::synthetic::SmallFiles;
use super::tools::{run, run_with_input, which};
use crate::error::{BenchError, Doing, Result};

/// Layers of the image that imports are measured with.
pub const LAYERS: usize = 5;

/// What was made so far.
#[derive(Debug, Default)]
pub struct Data {
    given: Option<PathBuf>,
    rootfs: OnceCell<PathBuf>,
    layers: RefCell<HashMap<usize, Vec<Layer>>>,
    store: OnceCell<Shale>,
    pub(super) registry: OnceCell<Registry>,
    images: RefCell<HashSet<String>>,
    notes: RefCell<Vec<String>>,
}

impl Data {
    /// Nothing yet; the root file system's archive may be given.
    #[must_use]
    pub fn new(rootfs: Option<PathBuf>) -> Self {
        Self {
            given: rootfs,
            ..Self::default()
        }
    }

    /// Tells the reader of the report something.
    pub fn note(&self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("  {text}");
        self.notes.borrow_mut().push(text);
    }

    /// What was noted.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.notes.borrow().clone()
    }
}

/// An image in the shared store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// The root file system in this many layers.
    Rootfs(usize),
    /// The synthetic files in this many layers.
    Many(usize),
    /// The root file system and the synthetic files in one layer: many files, and programs to run.
    ManyWithPrograms,
}

impl Image {
    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Rootfs(layers) => format!("rootfs:{layers}"),
            Self::Many(layers) => format!("many:{layers}"),
            Self::ManyWithPrograms => "many-with-programs:1".to_owned(),
        }
    }
}

impl Bench {
    /// The synthetic files.
    #[must_use]
    pub fn many(&self) -> SmallFiles {
        SmallFiles {
            dirs: self.sizes.dirs,
            files_per_dir: self.sizes.files_per_dir,
        }
    }

    /// The archive of the root file system.
    ///
    /// # Errors
    /// When it was not given and cannot be made.
    pub fn rootfs(&self) -> Result<&Path> {
        if let Some(path) = self.data.rootfs.get() {
            return Ok(path);
        }
        let path = match &self.data.given {
            Some(path) => path.canonicalize().doing("find", path)?,
            None => self.make_rootfs()?,
        };
        Ok(self.data.rootfs.get_or_init(|| path))
    }

    fn make_rootfs(&self) -> Result<PathBuf> {
        let path = self.place.data().join("rootfs.tar");
        eprintln!("  making a root file system with mmdebstrap");
        if which("mmdebstrap").is_none() {
            return Err(BenchError::Wrong(
                "no root file system: name its archive with --rootfs, or install mmdebstrap".to_owned(),
            ));
        }
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=minbase", "--include=gcc,git,python3,perl", "bookworm"]);
        run(command.arg(&path))?;
        Ok(path)
    }

    /// The root file system in this many layers: five by where files lie, others by the hash of their paths, so that
    /// most directories are in all of them.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn layers(&self, count: usize) -> Result<Vec<Layer>> {
        if let Some(layers) = self.data.layers.borrow().get(&count) {
            return Ok(layers.clone());
        }
        eprintln!("  splitting the root file system into {count}");
        let dir = self.place.data().join(format!("layers-{count}"));
        let group = |path: &[u8]| match count {
            LAYERS => by_place(path),
            _ => by_hash(path, count),
        };
        let layers = archive::split(self.rootfs()?, &dir, count, &group, &mut |_, _| {})?;
        self.data.layers.borrow_mut().insert(count, layers.clone());
        Ok(layers)
    }

    /// A Docker archive of plain layers.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn docker_archive(&self, count: usize) -> Result<PathBuf> {
        let path = self.place.data().join(format!("docker-{count}.tar"));
        if !path.exists() {
            archive::write_docker_file(&path, &Image::Rootfs(count).name(), &self.layers(count)?)?;
        }
        Ok(path)
    }

    /// An OCI layout with the tag `latest`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn layout(&self, gzip: bool) -> Result<PathBuf> {
        let path = self
            .place
            .data()
            .join(if gzip { "layout-gzip" } else { "layout-plain" });
        if !path.exists() {
            archive::write_layout(&path, "latest", &self.layers(LAYERS)?, gzip)?;
        }
        Ok(path)
    }

    /// An OCI archive of gzip layers.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn gzip_archive(&self) -> Result<PathBuf> {
        let path = self.place.data().join("oci-gzip.tar");
        if !path.exists() {
            archive::write_layout_archive(&self.layout(true)?, &path)?;
        }
        Ok(path)
    }

    /// The store that workloads share.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn store(&self) -> Result<&Shale> {
        if let Some(store) = self.data.store.get() {
            return Ok(store);
        }
        let store = Shale::new(&self.tools.shale, self.place.fresh("store")?)?;
        Ok(self.data.store.get_or_init(|| store))
    }

    /// The name of an image that is in the shared store afterwards.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn image(&self, image: Image) -> Result<String> {
        let name = image.name();
        if self.data.images.borrow().contains(&name) {
            return Ok(name);
        }
        eprintln!("  making the image {name}");
        let (store, many) = (self.store()?, self.many());
        let ran = match image {
            Image::Rootfs(layers) => store.load(&self.docker_archive(layers)?)?,
            Image::Many(1) => store.read_pipe(Some(&name), |out| {
                many.write(BufWriter::with_capacity(1 << 16, out), 0, 1)
                    .doing("write", Path::new("a pipe"))
            })?,
            Image::Many(layers) => store.read_pipe(None, |out| {
                write_many(out, &name, many, layers as u64).doing("write", Path::new("a pipe"))
            })?,
            Image::ManyWithPrograms => {
                let rootfs = self.rootfs()?;
                store.read_pipe(Some(&name), |out| {
                    let mut out = BufWriter::with_capacity(1 << 16, out);
                    archive::copy_members(rootfs, &mut out)?;
                    many.write(out, 0, 1).doing("write", Path::new("a pipe"))
                })?
            }
        };
        self.data.note(format!(
            "making the image {name} took {:.1} s and at most {:.0} MB of memory",
            ran.seconds,
            ran.peak_bytes / 1e6
        ));
        self.data.images.borrow_mut().insert(name.clone());
        Ok(name)
    }

    /// The root file system unpacked on the ext4.
    ///
    /// # Errors
    /// When it cannot be unpacked.
    pub fn unpacked_rootfs(&self) -> Result<PathBuf> {
        let rootfs = self.rootfs()?.to_path_buf();
        self.unpacked("tree-rootfs", |tar| {
            let file = File::open(&rootfs).doing("open", &rootfs)?;
            run_with_input(tar.stdin(file), || Ok(())).map(drop)
        })
    }

    /// The layers of the root file system, each unpacked on the ext4; top first.
    ///
    /// # Errors
    /// When they cannot be unpacked.
    pub fn unpacked_layers(&self) -> Result<Vec<PathBuf>> {
        let mut dirs = Vec::new();
        for (number, layer) in self.layers(LAYERS)?.iter().enumerate() {
            dirs.push(self.unpacked(&format!("tree-{number}"), |tar| {
                let file = File::open(&layer.path).doing("open", &layer.path)?;
                run_with_input(tar.stdin(file), || Ok(())).map(drop)
            })?);
        }
        dirs.reverse();
        Ok(dirs)
    }

    /// The synthetic files unpacked on the ext4.
    ///
    /// # Errors
    /// When they cannot be unpacked.
    pub fn unpacked_many(&self) -> Result<PathBuf> {
        let many = self.many();
        self.unpacked("tree-many", |tar| {
            let (reader, writer) = io::pipe().doing("make", Path::new("a pipe"))?;
            run_with_input(tar.stdin(reader), || {
                many.write(BufWriter::with_capacity(1 << 16, writer), 0, 1)
                    .doing("write", Path::new("a pipe"))
            })
            .map(drop)
        })
    }

    fn unpacked(&self, name: &str, unpack: impl FnOnce(&mut Command) -> Result<()>) -> Result<PathBuf> {
        let dir = self.place.base().join(name);
        if dir.exists() {
            return Ok(dir);
        }
        eprintln!("  unpacking {name}");
        let half = self.place.fresh("tree-half")?;
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(&half)
            .args(["-xp", "--xattrs", "--xattrs-include=*", "-f", "-"]);
        unpack(&mut tar)?;
        fs::rename(&half, &dir).doing("rename", &half)?;
        crate::scratch::settle();
        Ok(dir)
    }
}

/// The synthetic files in layers, as a Docker archive. Written twice: the first time to know the digests.
fn write_many(out: impl Write, name: &str, many: SmallFiles, layers: u64) -> io::Result<()> {
    let mut known = Vec::new();
    for part in 0..layers {
        let mut hashed = Hashed::new(io::sink());
        many.write(BufWriter::with_capacity(1 << 16, &mut hashed), part, layers)?;
        known.push(hashed.finish()?);
    }
    let out = BufWriter::with_capacity(1 << 16, out);
    archive::write_docker(out, name, &known, |number, out| {
        many.write(out, number as u64, layers)
    })
}

fn by_place(path: &[u8]) -> usize {
    let parts: [&[u8]; LAYERS - 1] = [b"usr/lib/gcc", b"usr/share", b"usr/lib", b"usr/bin"];
    parts
        .iter()
        .position(|part| path.starts_with(part))
        .map_or(0, |at| at + 1)
}

fn by_hash(path: &[u8], count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    (hasher.finish() % count as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_layers_arrive_as_their_digests_say() {
        let many = SmallFiles {
            dirs: 4,
            files_per_dir: 2,
        };
        let mut bytes = Vec::new();
        write_many(&mut bytes, "x:1", many, 3).unwrap();
        let mut archive = tar::Archive::new(&*bytes);
        let mut layers = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            if let Some(digest) = name.strip_suffix(".tar") {
                let mut hashed = Hashed::new(io::sink());
                io::copy(&mut entry, &mut hashed).unwrap();
                assert_eq!(hashed.finish().unwrap().0, digest);
                layers += 1;
            }
        }
        assert_eq!(layers, 3);
    }
}
