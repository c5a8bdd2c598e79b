//! Finding a name across the layers: what is visible, what it merges with, where its content lies.
//!
//! The rules are overlayfs': the topmost file wins; directories merge down to the first opaque one, whiteout or file;
//! a redirect sends the search in the layers below elsewhere; a metadata-only copy takes its content from the next
//! regular file below.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::LowerRef;
use crate::attr::{Attr, FileType};
use crate::error::{Error, Result};
use crate::layer::marks::{Marks, Redirect};
use crate::layer::{Content, Found, Layer, LayerNode, Merged, Portion};

/// Where to look in the layers that are still to be asked.
enum Search<'a> {
    /// For this name in these directories.
    Name { dirs: &'a [LowerRef], name: OsString },
    /// For this path, from the root, in this layer and those below.
    Path {
        from_layer: usize,
        components: VecDeque<OsString>,
    },
}

/// A file found in the lower layers: its places, top first, each with its attributes there.
pub(crate) type Places = Vec<(LowerRef, Attr)>;

/// Looks for `name` in the merged directory whose lower parts are `dirs`.
pub(crate) fn by_name(layers: &[Arc<dyn Layer>], dirs: &[LowerRef], name: &OsStr) -> Result<Places> {
    if let [dir] = dirs {
        // The usual case in an image: nothing to merge.
        return Ok(match layers[dir.layer].lookup(&dir.node, name)? {
            Found::Entry(node, attr) if !may_lead_on(layers, dir.layer, &node, &attr)? => {
                let layer = dir.layer;
                vec![(LowerRef { layer, node }, attr)]
            }
            Found::Entry(..) => return search(layers, dirs, name),
            Found::Absent | Found::Whiteout => Places::new(),
        });
    }
    search(layers, dirs, name)
}

/// Whether a redirect or a metadata-only copy sends the search for a file's other parts into the layers below.
fn may_lead_on(layers: &[Arc<dyn Layer>], layer: usize, node: &LayerNode, attr: &Attr) -> Result<bool> {
    let marks = layers[layer].marks(node, attr)?;
    Ok(marks.redirect.is_some() || marks.metacopy)
}

fn search(layers: &[Arc<dyn Layer>], dirs: &[LowerRef], name: &OsStr) -> Result<Places> {
    run(
        layers,
        Search::Name {
            dirs,
            name: name.to_os_string(),
        },
        Places::new(),
        false,
    )
}

/// Goes on below an upper file that has marks. `want_content`: the upper is a metadata-only copy.
pub(crate) fn below_upper(
    layers: &[Arc<dyn Layer>],
    dirs: &[LowerRef],
    name: &OsStr,
    marks: &Marks,
) -> Result<Places> {
    let search = match &marks.redirect {
        None => Search::Name {
            dirs,
            name: name.to_os_string(),
        },
        Some(Redirect::Sibling(name)) => Search::Name {
            dirs,
            name: name.clone(),
        },
        Some(Redirect::Absolute(path)) => Search::Path {
            from_layer: 0,
            components: path.clone().into(),
        },
    };
    let expect = if marks.metacopy {
        FileType::Regular
    } else {
        FileType::Directory
    };
    let places = run(layers, search, Places::new(), marks.metacopy)?;
    // What lies below must be of the upper's kind to belong to it.
    Ok(
        if places.first().is_some_and(|(_, attr)| attr.file_type() == expect) {
            places
        } else {
            Vec::new()
        },
    )
}

/// Opens the content of the file that lies in these places, top first: that of the last one, with what the partial
/// copies above it hold.
pub(crate) fn content(layers: &[Arc<dyn Layer>], places: &[LowerRef]) -> Result<Content> {
    let (last, copies) = places.split_last().ok_or(Error::NotFound)?;
    let mut content = layers[last.layer].content(&last.node)?;
    for copy in copies.iter().rev() {
        content = match layers[copy.layer].portion(&copy.node)? {
            Portion::Nothing => content,
            Portion::Blocks(file, space) => Content::Merged(Merged::new(file, content, space)?),
            Portion::Everything(file) => Content::File(file),
        };
    }
    Ok(content)
}

/// Looks for an absolute path in all layers.
pub(crate) fn by_path(layers: &[Arc<dyn Layer>], path: &OsStr) -> Result<Places> {
    use std::os::unix::ffi::OsStrExt;
    let components = path
        .as_bytes()
        .split(|&byte| byte == b'/')
        .map(|name| OsStr::from_bytes(name).to_os_string());
    run(
        layers,
        Search::Path {
            from_layer: 0,
            components: components.collect(),
        },
        Places::new(),
        false,
    )
}

fn run(
    layers: &[Arc<dyn Layer>],
    mut search: Search<'_>,
    mut places: Places,
    mut content_only: bool,
) -> Result<Places> {
    loop {
        let Some((layer, found, stop)) = next(layers, &mut search)? else {
            return Ok(places);
        };
        let (node, attr) = match found {
            Found::Absent if stop => return Ok(places),
            Found::Absent => continue,
            Found::Whiteout => return Ok(places),
            Found::Entry(node, attr) => (node, attr),
        };
        let merging_dirs = places.first().is_some_and(|(_, first)| first.is_dir());
        let fits = match (merging_dirs, content_only) {
            (true, _) => attr.is_dir(),
            (false, true) => attr.file_type() == FileType::Regular,
            (false, false) => true,
        };
        if !fits {
            return Ok(places);
        }
        let marks = layers[layer].marks(&node, &attr)?;
        places.push((LowerRef { layer, node }, attr));
        let goes_on = if attr.is_dir() {
            !marks.opaque && !stop
        } else {
            marks.metacopy
        };
        if !goes_on {
            return Ok(places);
        }
        content_only = marks.metacopy;
        search = redirected(search, layer, marks.redirect);
    }
}

fn redirected(search: Search<'_>, layer: usize, redirect: Option<Redirect>) -> Search<'_> {
    match (redirect, search) {
        (None, search) => search,
        (Some(Redirect::Absolute(path)), _) => Search::Path {
            from_layer: layer + 1,
            components: path.into(),
        },
        (Some(Redirect::Sibling(name)), Search::Name { dirs, .. }) => Search::Name { dirs, name },
        (
            Some(Redirect::Sibling(name)),
            Search::Path {
                from_layer,
                mut components,
            },
        ) => {
            components.pop_back();
            components.push_back(name);
            Search::Path {
                from_layer,
                components,
            }
        }
    }
}

/// Asks the next layer. `None`: none is left. The flag says that the layers below have no part in the answer.
fn next(layers: &[Arc<dyn Layer>], search: &mut Search<'_>) -> Result<Option<(usize, Found, bool)>> {
    match search {
        Search::Name { dirs, name } => {
            let Some((dir, rest)) = dirs.split_first() else {
                return Ok(None);
            };
            *dirs = rest;
            let found = layers[dir.layer].lookup(&dir.node, name)?;
            Ok(Some((dir.layer, found, false)))
        }
        Search::Path {
            from_layer,
            components,
        } => {
            let layer = *from_layer;
            let Some(asked) = layers.get(layer) else {
                return Ok(None);
            };
            *from_layer += 1;
            let (found, stop) = walk(asked.as_ref(), components)?;
            Ok(Some((layer, found, stop)))
        }
    }
}

/// Follows a path through one layer. Redirects met on the way change the path for the layers below.
fn walk(layer: &dyn Layer, components: &mut VecDeque<OsString>) -> Result<(Found, bool)> {
    let path: Vec<OsString> = components.iter().cloned().collect();
    let mut node = layer.root();
    let mut stop = layer.hides_all_below()?;
    for (depth, name) in path.iter().enumerate() {
        let last = depth + 1 == path.len();
        match layer.lookup(&node, name)? {
            Found::Entry(child, attr) if last => return Ok((Found::Entry(child, attr), stop)),
            Found::Entry(child, attr) if attr.is_dir() => {
                let marks = layer.marks(&child, &attr)?;
                stop |= marks.opaque;
                apply(components, depth, path.len(), marks.redirect);
                node = child;
            }
            // Something on the way is gone or no directory: nothing below shows either.
            Found::Entry(..) | Found::Whiteout => return Ok((Found::Whiteout, true)),
            Found::Absent => return Ok((Found::Absent, stop)),
        }
    }
    Err(Error::Damaged("redirect to the root"))
}

/// Replaces the part of the path up to `depth` by a redirect; `length` is the length of the path as walked.
fn apply(components: &mut VecDeque<OsString>, depth: usize, length: usize, redirect: Option<Redirect>) {
    let keep = length - depth - 1;
    match redirect {
        None => {}
        Some(Redirect::Sibling(name)) => {
            let at = components.len() - keep - 1;
            components[at] = name;
        }
        Some(Redirect::Absolute(path)) => {
            let tail = components.split_off(components.len() - keep);
            *components = path.into_iter().chain(tail).collect();
        }
    }
}

#[cfg(test)]
mod tests;
