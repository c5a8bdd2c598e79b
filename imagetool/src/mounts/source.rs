//! What the words of `shale mount` mean: names of images, archives, layouts, directories.
//!
//! ```text
//! /x  ./x  ../x        a path            directory with oci-layout or a Docker manifest.json ► layout
//! a/b                  a name, or a path  other directory ► layer      file ► archive
//! x                    a name             of an image or a container
//! ```
//!
//! Several words are directories, one lying over the other, the first on top.

use std::path::{Path, PathBuf};

/// What is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An image or container by name or id, unless there is none: with a slash in it, it may be a path then.
    Name {
        /// The name.
        name: String,
        /// Whether there is such a path.
        is_path_too: bool,
    },
    /// A file.
    Archive(PathBuf),
    /// The directory of an OCI layout, or of an unpacked Docker archive.
    Layout(PathBuf),
    /// Directories, top first.
    Directories(Vec<PathBuf>),
}

/// Why the words mean nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing was named.
    #[error("name what to mount")]
    Nothing,
    /// A path is not there, or cannot be looked at.
    #[error("{}", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is neither a file nor a directory.
    #[error("{} is neither a directory nor a file", .0.display())]
    Odd(PathBuf),
    /// Only directories can be laid over each other.
    #[error("{} is not a directory: several sources must all be directories (write ./NAME for one without a slash)", .0.display())]
    NoDirectory(PathBuf),
    /// Not text.
    #[error("{}: no image has such a name (a path is written with ./ before it)", .0.display())]
    NoName(PathBuf),
}

/// Tells what the words mean.
pub fn recognise(words: &[PathBuf]) -> Result<Source, SourceError> {
    let [word] = words else {
        let directories = words
            .iter()
            .map(|word| directory(word))
            .collect::<Result<Vec<_>, _>>()?;
        return if directories.is_empty() {
            Err(SourceError::Nothing)
        } else {
            Ok(Source::Directories(directories))
        };
    };
    if is_plainly_a_path(word) {
        return path(word);
    }
    match word.to_str() {
        Some(name) => Ok(Source::Name {
            name: name.to_owned(),
            is_path_too: std::fs::symlink_metadata(word).is_ok(),
        }),
        None => Err(SourceError::NoName(word.clone())),
    }
}

/// What a path is.
pub fn path(word: &Path) -> Result<Source, SourceError> {
    let failed = |source| SourceError::Path {
        path: word.to_owned(),
        source,
    };
    let whole = word.canonicalize().map_err(failed)?;
    let metadata = whole.metadata().map_err(failed)?;
    if metadata.is_dir() {
        let layout = ["oci-layout", "manifest.json"]
            .iter()
            .any(|name| whole.join(name).is_file());
        return Ok(if layout {
            Source::Layout(whole)
        } else {
            Source::Directories(vec![whole])
        });
    }
    if metadata.is_file() {
        return Ok(Source::Archive(whole));
    }
    Err(SourceError::Odd(whole))
}

/// Names of images start with a letter or digit.
fn is_plainly_a_path(word: &Path) -> bool {
    matches!(word.as_os_str().as_encoded_bytes().first(), Some(b'/' | b'.'))
}

fn directory(word: &Path) -> Result<PathBuf, SourceError> {
    let slash = word.as_os_str().as_encoded_bytes().contains(&b'/') || is_plainly_a_path(word);
    if !slash {
        return Err(SourceError::NoDirectory(word.to_owned()));
    }
    let whole = word.canonicalize().map_err(|source| SourceError::Path {
        path: word.to_owned(),
        source,
    })?;
    if whole.is_dir() {
        Ok(whole)
    } else {
        Err(SourceError::NoDirectory(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn paths_and_names_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("dir")).unwrap();
        fs::create_dir_all(root.join("layout")).unwrap();
        fs::write(root.join("layout/oci-layout"), "{}").unwrap();
        fs::write(root.join("image.tar"), "").unwrap();
        let one = |path: PathBuf| recognise(&[path]);
        assert_eq!(
            one(root.join("dir")).unwrap(),
            Source::Directories(vec![root.join("dir")])
        );
        assert_eq!(
            one(root.join("layout")).unwrap(),
            Source::Layout(root.join("layout"))
        );
        assert_eq!(
            one(root.join("image.tar")).unwrap(),
            Source::Archive(root.join("image.tar"))
        );
        assert!(matches!(one(root.join("nope")), Err(SourceError::Path { .. })));
        assert!(matches!(one("/dev/null".into()), Err(SourceError::Odd(_))));
        for name in [
            "debian",
            "debian:12",
            "example.com/no/such:path",
            "me/image@sha256:0",
        ] {
            let Source::Name {
                name: found,
                is_path_too,
            } = one(name.into()).unwrap()
            else {
                panic!("{name}");
            };
            assert_eq!((found.as_str(), is_path_too), (name, false));
        }
    }

    #[test]
    fn several_are_directories() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir(root.join("a")).unwrap();
        fs::create_dir(root.join("b")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let both = [root.join("b"), root.join("a")];
        assert_eq!(recognise(&both).unwrap(), Source::Directories(both.to_vec()));
        let with_file = [root.join("a"), root.join("file")];
        assert!(matches!(recognise(&with_file), Err(SourceError::NoDirectory(_))));
        assert!(matches!(
            recognise(&["debian".into(), root.join("a")]),
            Err(SourceError::NoDirectory(_))
        ));
        assert!(matches!(recognise(&[]), Err(SourceError::Nothing)));
    }
}
