//! From what the caller named to the layers that a mount shows.

use std::path::{Path, PathBuf};

use ufs::Lower;
use ufs::index::IndexError;

use super::layers::{Layers, SideBySideError, write_side_by_side};
use super::source::{self, Source, SourceError};
use super::{MountError, Pins};
use crate::container;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::in_place::{self, Cache, InPlaceError};
use crate::store::{Image, Store};

/// Which of its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The tree that they make together.
    Whole,
    /// This one alone, bottom = 0.
    Layer(usize),
    /// All, each in a directory of its own.
    Layers,
}

/// What is to be shown.
#[derive(Debug, Clone)]
pub struct Wish<'a> {
    /// What the caller named.
    pub source: Source,
    /// Which image of an archive.
    pub image: Option<&'a str>,
    /// Which of its layers.
    pub part: Part,
}

/// Layers that can be mounted.
#[derive(Debug)]
pub struct Shown {
    /// Top first.
    pub lowers: Vec<Lower>,
    /// The same with each layer by itself, when `lowers` holds merged indexes: nothing keeps these from being deleted
    /// with the image before they are opened, while the layers are pinned. Link counts include names that are hidden.
    pub apart: Vec<Lower>,
    /// What keeps them there.
    pub pins: Pins,
    /// The image of the store.
    pub image: Option<Digest>,
    /// Whether archives were looked into: the cache may have grown.
    pub is_archive: bool,
}

/// Why something cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ShownError {
    /// The words mean nothing.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive cannot be used.
    #[error(transparent)]
    Archive(#[from] InPlaceError),
    /// Layers cannot be kept from being deleted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// An index is damaged.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Layers cannot be shown side by side.
    #[error(transparent)]
    SideBySide(#[from] SideBySideError),
    /// A name that is a path, too.
    #[error("{0:?} is the name of {1} and a path: write ./{0} for the path, or the {2} for the {1}")]
    Ambiguous(String, &'static str, &'static str),
    /// No such name.
    #[error("no image or container is called {0}: a path is written ./{0}, or from / on")]
    Unknown(String),
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
}

/// Finds the layers. What has to be made for this mount alone is written into the directory `scratch`.
pub fn find(store: &Store, wish: &Wish<'_>, scratch: &Path) -> Result<Shown, ShownError> {
    let mut shown = lowers(store, wish, scratch)?;
    if shown.lowers.is_empty() {
        // an image without layers is an empty directory
        let empty = scratch.join("empty");
        std::fs::create_dir(&empty).map_err(MountError::io("create", &empty))?;
        shown.lowers.push(empty.into());
    }
    Ok(shown)
}

fn lowers(store: &Store, wish: &Wish<'_>, scratch: &Path) -> Result<Shown, ShownError> {
    match &wish.source {
        Source::Name { name, is_path_too } => by_name(store, wish, name, *is_path_too, scratch),
        Source::Archive(path) | Source::Layout(path) => archive(store, wish, path, scratch),
        Source::Directories(paths) => {
            no_parts(wish, "a directory has no layers")?;
            no_image(wish)?;
            Ok(Shown {
                lowers: paths.iter().cloned().map(Lower::Directory).collect(),
                apart: Vec::new(),
                pins: Pins::none(),
                image: None,
                is_archive: false,
            })
        }
    }
}

fn no_parts(wish: &Wish<'_>, why: &str) -> Result<(), ShownError> {
    if wish.part == Part::Whole {
        return Ok(());
    }
    Err(ShownError::Usage(format!(
        "{why}: --layer and --layers are for images and archives"
    )))
}

fn no_image(wish: &Wish<'_>) -> Result<(), ShownError> {
    match wish.image {
        Some(_) => Err(ShownError::Usage(
            "--image chooses an image of an archive".to_owned(),
        )),
        None => Ok(()),
    }
}

fn by_name(
    store: &Store,
    wish: &Wish<'_>,
    name: &str,
    is_path_too: bool,
    scratch: &Path,
) -> Result<Shown, ShownError> {
    // only with a slash in it a name may be meant as a path
    let maybe_path = is_path_too && name.contains('/');
    let found = match store.resolve_image(name) {
        Ok(image) => Found::Image(Box::new(image)),
        Err(StoreError::NoSuchImage(_) | StoreError::Reference(_)) => match store.containers().get(name) {
            Ok(record) => Found::Container(Box::new(record)),
            Err(StoreError::NoSuchContainer(_)) if maybe_path => {
                let source = source::path(Path::new(name))?;
                return find(
                    store,
                    &Wish {
                        source,
                        ..wish.clone()
                    },
                    scratch,
                );
            }
            Err(StoreError::NoSuchContainer(_)) => {
                return Err(ShownError::Unknown(name.to_owned()));
            }
            Err(error) => return Err(error.into()),
        },
        Err(error) => return Err(error.into()),
    };
    if maybe_path {
        return Err(ShownError::Ambiguous(
            name.to_owned(),
            "an image",
            "full name or id",
        ));
    }
    no_image(wish)?;
    match found {
        Found::Image(image) => of_image(store, wish, &image, scratch),
        Found::Container(record) => {
            no_parts(wish, &format!("{name} is a container"))?;
            let pins = Pins::locked(container::pin_layers(store, &record)?);
            let mut lowers = vec![container::upper(store, &record).into()];
            lowers.extend(container::lowers(store, &record)?);
            Ok(Shown {
                lowers,
                apart: Vec::new(),
                pins,
                image: None,
                is_archive: false,
            })
        }
    }
}

enum Found {
    Image(Box<Image>),
    Container(Box<crate::store::ContainerRecord>),
}

fn of_image(store: &Store, wish: &Wish<'_>, image: &Image, scratch: &Path) -> Result<Shown, ShownError> {
    let pins = Pins::locked(store.pin_layers_for(image)?);
    let layers = Layers::of_image(store, image)?;
    let (lowers, apart) = match wish.part {
        Part::Whole => (store.layer_lowers(image)?, apart(store.root(), &layers)),
        part => (some(store.root(), &layers, part, scratch)?, Vec::new()),
    };
    Ok(Shown {
        lowers,
        apart,
        pins,
        image: Some(image.id),
        is_archive: false,
    })
}

fn archive(store: &Store, wish: &Wish<'_>, path: &Path, scratch: &Path) -> Result<Shown, ShownError> {
    let cache = Cache::open(store.root())?;
    let image = in_place::open(&cache, path, wish.image)?;
    let lowers = match wish.part {
        Part::Whole if image.layers.is_empty() => Vec::new(),
        Part::Whole => vec![index(store.root(), image.chain(&cache)?)],
        part => some(store.root(), &Layers::of_archive(&cache, &image), part, scratch)?,
    };
    Ok(Shown {
        lowers,
        apart: Vec::new(),
        pins: Pins::locked(cache.into_pins()),
        image: None,
        is_archive: true,
    })
}

/// Each layer by itself, top first.
fn apart(root: &Path, layers: &Layers) -> Vec<Lower> {
    let own = layers.layers.iter().rev();
    let own = own.map(|layer| index(root, layer.index.clone()));
    own.chain(layers.base_rootfs.clone().map(Lower::Directory))
        .collect()
}

/// One layer, or all side by side.
fn some(root: &Path, layers: &Layers, part: Part, scratch: &Path) -> Result<Vec<Lower>, ShownError> {
    let Part::Layer(number) = part else {
        let path = scratch.join("layers.index");
        write_side_by_side(layers, &path)?;
        return Ok(vec![index(root, path)]);
    };
    match layers.layers.get(number) {
        Some(layer) => Ok(vec![index(root, layer.index.clone())]),
        None => Err(ShownError::Usage(format!(
            "there is no layer {number}: the image has {}, counted from 0 at the bottom",
            layers.layers.len()
        ))),
    }
}

fn index(root: &Path, path: PathBuf) -> Lower {
    Lower::Index {
        path,
        repository: root.to_owned(),
    }
}
