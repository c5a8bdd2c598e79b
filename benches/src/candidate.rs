//! Who is compared: union file systems over directories, images of shale's own store, and the plain directory.
//!
//! ```text
//! lowers ─┬─ Union ──► mount over them, with an upper
//!         ├─ Image ──► taken into a store once, as many layers as there are ──► shale mount [--rw]
//!         └─ Native ─► the layer itself │ a copy by hard links │ a real copy      by what the workload changes
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::data::{Data, Stack, pipe, read_all};
use crate::error::{Doing, Result};
use crate::images::archive::{self, Layer};
use crate::images::shale::{Shale, ShaleMount};
use crate::interrupt;
use crate::scratch;
use crate::system::{Layout, Mounted, System, mount_options};
use crate::workload::{Change, Kind};

/// Somebody who is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidate {
    /// No mount: a plain directory with the same content.
    Native,
    /// A union over directories.
    Union(System),
    /// `shale mount` of an image with the same content.
    Image {
        /// `shale`.
        program: PathBuf,
        /// Whether with an upper, as containers have.
        writable: bool,
    },
}

impl Candidate {
    /// A short name for tables and options.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Union(system) => system.name(),
            Self::Image { writable: false, .. } => "shale-image",
            Self::Image { writable: true, .. } => "shale-image-rw",
        }
    }

    /// What it says about its version.
    ///
    /// # Errors
    /// When its program cannot be started.
    pub fn version(&self) -> Result<String> {
        match self {
            Self::Native => Ok("no mount".to_owned()),
            Self::Union(system) => system.version(),
            Self::Image { program, .. } => {
                let ran = crate::images::tools::run(Command::new(program).arg("--version"))?;
                Ok(ran.stdout.trim().to_owned())
            }
        }
    }

    /// What workloads ask about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind {
            served: !matches!(self, Self::Native | Self::Union(System::Overlayfs)),
            writable: !matches!(self, Self::Image { writable: false, .. }),
            mounted: !matches!(self, Self::Native),
        }
    }

    /// Puts the layers of a stack at the disposal of a workload.
    ///
    /// # Errors
    /// What the kernel or a program says; nothing is mounted then.
    pub(crate) fn stand(&self, what: &Standing<'_>, images: &mut Images) -> Result<Stand> {
        let lowers = what.data.lowers(what.stack);
        match self {
            Self::Native => native(&lowers, what).map(Stand::Plain),
            Self::Union(system) => {
                let layout = Layout {
                    lowers,
                    upper: what.upper.join("upper"),
                    work: what.upper.join("work"),
                };
                system.mount(&layout, what.mountpoint).map(Stand::Union)
            }
            Self::Image { program, writable } => {
                let (store, name) = images.image(program, what.data, what.stack)?;
                let words: &[&str] = match writable {
                    true => &["--rw", &name],
                    false => &[&name],
                };
                store.mount(words, what.mountpoint).map(Stand::Image)
            }
        }
    }

    /// Brings what lies below a mount into the kernel's caches.
    pub(crate) fn warm(&self, what: &Standing<'_>, images: &mut Images) -> Result<()> {
        if matches!(self, Self::Image { .. }) {
            let stand = self.stand(what, images)?;
            let read = read_all(stand.root());
            stand.end()?;
            return read;
        }
        what.data
            .lowers(what.stack)
            .iter()
            .try_for_each(|lower| read_all(lower))
    }
}

/// What a candidate is to stand on.
#[derive(Debug)]
pub(crate) struct Standing<'a> {
    pub(crate) data: &'a Data,
    pub(crate) stack: Stack,
    pub(crate) change: Change,
    /// A directory with an empty `upper` and `work`.
    pub(crate) upper: &'a Path,
    pub(crate) mountpoint: &'a Path,
}

/// A tree that a workload can work in.
#[derive(Debug)]
pub(crate) enum Stand {
    Plain(PathBuf),
    Union(Mounted),
    Image(ShaleMount),
}

impl Stand {
    pub(crate) fn root(&self) -> &Path {
        match self {
            Self::Plain(root) => root,
            Self::Union(mounted) => mounted.root(),
            Self::Image(mounted) => mounted.root(),
        }
    }

    pub(crate) fn server(&self) -> Option<u32> {
        match self {
            Self::Plain(_) => None,
            Self::Union(mounted) => mounted.server(),
            Self::Image(mounted) => mounted.server(),
        }
    }

    pub(crate) fn options(&self) -> Option<String> {
        match self {
            Self::Plain(_) => None,
            Self::Union(_) | Self::Image(_) => mount_options(self.root()),
        }
    }

    /// Unmounts.
    pub(crate) fn end(self) -> Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Union(mounted) => mounted.end(),
            Self::Image(mounted) => mounted.end(),
        }
    }
}

/// One directory with all layers, which a workload may treat as it does.
fn native(lowers: &[PathBuf], what: &Standing<'_>) -> Result<PathBuf> {
    if what.change == Change::Nothing
        && let [lower] = lowers
    {
        return Ok(lower.clone());
    }
    let root = what.upper.join("upper");
    // The bottom first: what lies above wins.
    for lower in lowers.iter().rev() {
        let mut copy = Command::new("cp");
        copy.arg("--archive");
        if what.change != Change::Alters {
            copy.args(["--link", "--force"]);
        }
        scratch::run(copy.arg(lower.join(".")).arg(&root))?;
    }
    Ok(root)
}

/// The images of a run, made when they are first asked for.
#[derive(Debug)]
pub(crate) struct Images {
    dir: PathBuf,
    store: Option<Shale>,
    made: BTreeSet<String>,
}

impl Images {
    /// None yet; the store will be in a directory of `base`.
    pub(crate) fn new(base: &Path) -> Self {
        Self {
            dir: base.join("store"),
            store: None,
            made: BTreeSet::new(),
        }
    }

    /// The store, and the name of the image of a stack in it.
    fn image(&mut self, program: &Path, data: &Data, stack: Stack) -> Result<(Shale, String)> {
        let store = match &self.store {
            Some(store) => store.clone(),
            None => self.store.insert(Shale::new(program, self.dir.clone())?).clone(),
        };
        let name = format!("bench:{}", data.key(stack));
        if !self.made.contains(&name) {
            match data.lowers(stack).as_slice() {
                [lower] => import(&store, &name, lower)?,
                lowers => self.load(&store, &name, lowers)?,
            }
            self.made.insert(name.clone());
        }
        Ok((store, name))
    }

    /// Makes an image of a layer for each directory. Their archives lie beside the store until it has them.
    fn load(&self, store: &Shale, name: &str, lowers: &[PathBuf]) -> Result<()> {
        let base = self.dir.parent().unwrap_or(&self.dir);
        let archives = tempfile::tempdir_in(base).doing("make a directory in", base)?;
        let layout = archives.path().join("layout");
        archive::write_layout(&layout, name, &pack_all(archives.path(), lowers)?, false)?;
        scratch::run(store.command().args(["load", "--quiet", "--input"]).arg(&layout))
    }
}

/// Makes an image of one layer, without a second copy on the disk: the layer may be large.
fn import(store: &Shale, name: &str, lower: &Path) -> Result<()> {
    let mut import = store.command();
    import.args(["import", "--quiet", "-", name]);
    pipe(
        &mut pack(lower, Path::new("-")),
        import.stdout(std::process::Stdio::null()),
    )
}

/// An archive of each directory, the last one first: images count their layers from the bottom.
fn pack_all(dir: &Path, lowers: &[PathBuf]) -> Result<Vec<Layer>> {
    let archive = |(number, lower): (usize, &PathBuf)| {
        interrupt::check()?;
        let path = dir.join(format!("{number}.tar"));
        scratch::run(&mut pack(lower, &path))?;
        Layer::of(path)
    };
    lowers.iter().rev().enumerate().map(archive).collect()
}

/// The command that puts what is in a directory into an archive.
fn pack(dir: &Path, archive: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--numeric-owner", "--directory"]).arg(dir);
    tar.arg("--file").arg(archive).arg(".");
    tar
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::tests::tiny;

    /// The top wins in either order: what is on top of the lowers must be on top of the image.
    #[test]
    fn layers_of_an_image_are_packed_from_the_bottom() {
        let scratch = tempfile::tempdir().unwrap();
        let lowers = ["top", "middle", "bottom"].map(|name| scratch.path().join(name));
        for lower in &lowers {
            fs::create_dir(lower).unwrap();
            fs::write(lower.join("name"), lower.file_name().unwrap().as_encoded_bytes()).unwrap();
        }
        let layers = pack_all(scratch.path(), &lowers).unwrap();
        for (layer, wanted) in layers.iter().zip(["bottom", "middle", "top"]) {
            assert_eq!(layer.size, fs::metadata(&layer.path).unwrap().len());
            let mut show = Command::new("tar");
            show.args(["--extract", "--to-stdout", "--file"])
                .arg(&layer.path)
                .arg("./name");
            assert_eq!(show.output().unwrap().stdout, wanted.as_bytes());
        }
        assert_eq!(layers.len(), lowers.len());
    }

    #[test]
    fn a_plain_directory_never_lends_its_layer_to_a_change() {
        let scratch = tempfile::tempdir().unwrap();
        let mut data = Data::new(&scratch.path().join("l"), &tiny(), None).unwrap();
        data.make(Stack::Deep(2)).unwrap();
        data.make(Stack::Programs).unwrap();
        let lower = data.lowers(Stack::Programs).swap_remove(0);
        let links = |path: &Path| std::os::unix::fs::MetadataExt::nlink(&fs::metadata(path).unwrap());
        for (change, copied, shared) in [
            (Change::Nothing, false, true),
            (Change::Adds, true, true),
            (Change::Alters, true, false),
        ] {
            let upper = scratch.path().join(format!("{change:?}"));
            fs::create_dir_all(upper.join("upper")).unwrap();
            let what = |stack| Standing {
                data: &data,
                stack,
                change,
                upper: &upper,
                mountpoint: Path::new("/nowhere"),
            };
            let root = native(&data.lowers(Stack::Programs), &what(Stack::Programs)).unwrap();
            assert_eq!(root != lower, copied, "{change:?}");
            assert_eq!(links(&root.join("sh")) > 1 || root == lower, shared, "{change:?}");
            let root = native(&data.lowers(Stack::Deep(2)), &what(Stack::Deep(2))).unwrap();
            assert_eq!(fs::read_dir(root.join("d")).unwrap().count(), tiny().names);
            // the next one links the same file again
            let _ = fs::remove_dir_all(&upper);
        }
    }
}
