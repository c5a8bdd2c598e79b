//! Every file of the store against its name, its sums and what it was made from.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use twox_hash::XxHash3_64;
use ufs::attr::FileType;
use ufs::index::{ContentId, Index, InodeId, Kind, Place, merge};
use ufs::repository::Repository;

use super::{Depth, Finding, Subject};
use crate::digest::{Digest, Hashing};
use crate::layer::writer::{PACK_HEADER_BYTES, PACK_MAGIC, PACK_VERSION};
use crate::manifest::parse_manifest;
use crate::store::{Listing, RawImage, Store};

/// Size of the buffers through which files flow.
const BUFFER_BYTES: usize = 256 << 10;

/// A file, or a layer's files, to be checked.
#[derive(Debug)]
pub(super) struct Job {
    what: What,
    /// What it takes on disk: for the progress.
    pub(super) bytes: u64,
}

#[derive(Debug)]
enum What {
    /// The documents of an image, by its number in the listing.
    Image(usize),
    /// A compressed layer.
    Blob(Digest),
    /// A layer and the size that its row says.
    Layer(Digest, u64),
    Object(Digest),
    Chain(String),
    Archive(String),
}

/// Everything there is to be checked.
pub(super) fn jobs(store: &Store, listing: &Listing) -> Vec<Job> {
    let root = store.root();
    let size = |path: &Path| path.symlink_metadata().map_or(0, |metadata| metadata.len());
    let mut jobs = Vec::new();
    let mut push = |what, bytes| jobs.push(Job { what, bytes });
    let mut documents = std::collections::BTreeSet::new();
    for (number, image) in listing.images.iter().enumerate() {
        push(What::Image(number), 0);
        for document in [&image.id, &image.manifest] {
            documents.extend(document.parse::<Digest>().ok());
        }
    }
    let digests = |names: &std::collections::BTreeSet<String>| -> Vec<Digest> {
        names
            .iter()
            .filter_map(|name| Digest::from_hex(name).ok())
            .collect()
    };
    for digest in digests(&listing.blob_files) {
        if !documents.contains(&digest) {
            push(What::Blob(digest), size(&store.blob_path(&digest)));
        }
    }
    for layer in &listing.layers {
        let Ok(diff_id) = layer.diff_id.parse::<Digest>() else {
            continue;
        };
        if listing.layer_files.contains(&diff_id.hex()) {
            let folder = store.repository().layer(diff_id.as_bytes());
            let bytes = ["index", "pack", "recipe"]
                .iter()
                .map(|name| size(&folder.join(name)))
                .sum();
            push(What::Layer(diff_id, layer.size_bytes), bytes);
        }
    }
    for digest in digests(&listing.object_files) {
        push(
            What::Object(digest),
            size(&store.repository().object(digest.as_bytes())),
        );
    }
    for name in &listing.chain_files {
        push(What::Chain(name.clone()), size(&root.join("chains").join(name)));
    }
    for name in &listing.archive_files {
        push(
            What::Archive(name.clone()),
            size(&root.join("archives").join(name).join("index")),
        );
    }
    jobs
}

/// Does one of them.
pub(super) fn check(store: &Store, listing: &Listing, job: &Job, depth: Depth) -> Vec<Finding> {
    let one = |subject: Subject, outcome: Result<(), String>| -> Vec<Finding> {
        outcome
            .err()
            .map(|detail| Finding::new(subject, detail))
            .into_iter()
            .collect()
    };
    match &job.what {
        What::Image(number) => check_documents(store, &listing.images[*number]),
        What::Blob(digest) => one(
            Subject::Blob(*digest),
            check_named(&store.blob_path(digest), digest, depth),
        ),
        What::Object(digest) => {
            let path = store.repository().object(digest.as_bytes());
            one(Subject::Object(*digest), check_named(&path, digest, depth))
        }
        What::Layer(diff_id, size_bytes) => check_layer(store, diff_id, *size_bytes, depth),
        What::Chain(name) => one(Subject::Chain(name.clone()), check_chain(store, name, depth)),
        What::Archive(name) => {
            let path = store.root().join("archives").join(name).join("index");
            let outcome = match path.exists() {
                true => Index::open(&path)
                    .and_then(|index| index.check())
                    .map_err(|error| error.to_string()),
                false => Ok(()),
            };
            one(Subject::Archive(name.clone()), outcome)
        }
    }
}

/// A file whose name is its content's digest.
fn check_named(path: &Path, digest: &Digest, depth: Depth) -> Result<(), String> {
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("is no file".to_owned());
    }
    if depth == Depth::Quick {
        return Ok(());
    }
    let mut hashing = Hashing::new(file);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match hashing.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot be read: {error}")),
        }
    }
    let (found, _, _) = hashing.finish();
    match found == *digest {
        true => Ok(()),
        false => Err(format!("its content has the digest {found}")),
    }
}

/// An image's configuration and manifest.
fn check_documents(store: &Store, image: &RawImage) -> Vec<Finding> {
    let (Ok(id), Ok(manifest)) = (image.id.parse::<Digest>(), image.manifest.parse::<Digest>()) else {
        return Vec::new(); // told of the row
    };
    let mut findings = Vec::new();
    if let Err(error) = store.read_document(&id) {
        findings.push(Finding::new(Subject::Config(id), error));
    }
    let mut wrong = |detail: String| findings.push(Finding::new(Subject::Manifest(id), detail));
    let bytes = match store.read_document(&manifest) {
        Ok(bytes) => bytes,
        Err(error) => {
            wrong(error.to_string());
            return findings;
        }
    };
    match parse_manifest("manifest", &bytes) {
        Err(error) => wrong(error.to_string()),
        Ok(parsed) => {
            let blobs = parsed
                .layers
                .iter()
                .map(|layer| layer.digest().ok().map(|digest| digest.to_string()));
            if parsed.config.digest().ok() != Some(id) {
                wrong("names another configuration".to_owned());
            } else if !blobs.eq(image.layers.iter().map(|(_, blob)| Some(blob.clone()))) {
                findings.push(Finding::new(
                    Subject::ImageRow(id),
                    "its blobs are not those that its manifest lists",
                ));
            }
        }
    }
    findings
}

/// A layer's index, pack and recipe, and that its objects are there.
fn check_layer(store: &Store, diff_id: &Digest, size_bytes: u64, depth: Depth) -> Vec<Finding> {
    let repository = store.repository();
    let folder = repository.layer(diff_id.as_bytes());
    if folder.join("diff").is_dir() && !folder.join("index").exists() {
        return Vec::new(); // of the earlier form: it is made anew from its blob, which is checked, when it is used
    }
    let index = match open_layer(&repository, diff_id) {
        Ok(index) => index,
        Err(detail) => return vec![Finding::new(Subject::Layer(*diff_id), detail)],
    };
    let mut findings = Vec::new();
    match regular_bytes(&index) {
        Ok(sum) if sum != size_bytes => {
            let detail = format!("the database says {size_bytes} bytes, its files have {sum}");
            findings.push(Finding::new(Subject::LayerRow(*diff_id), detail));
        }
        _ => {}
    }
    if let Err(detail) = check_contents(&repository, diff_id, &index, depth) {
        findings.push(Finding::new(Subject::Layer(*diff_id), detail));
        return findings; // the stream would be wrong for the same reason
    }
    let stream = store
        .open_layer_stream(diff_id)
        .map_err(|error| crate::error::chain(&error));
    let verified = stream.and_then(|mut stream| match depth {
        Depth::Quick => Ok(()),
        Depth::Full => io::copy(&mut stream, &mut io::sink())
            .map(drop)
            .map_err(|error| error.to_string()),
    });
    if let Err(detail) = verified {
        findings.push(Finding::new(Subject::Recipe(*diff_id), detail));
    }
    findings
}

fn open_layer(repository: &Repository, diff_id: &Digest) -> Result<Index, String> {
    let index = Index::open(&repository.index(diff_id.as_bytes())).map_err(|error| error.to_string())?;
    index.check().map_err(|error| error.to_string())?;
    match (index.kind(), index.layers()) {
        (Kind::Layer, [only]) if only == diff_id.as_bytes() => Ok(index),
        _ => Err("its index is that of another layer".to_owned()),
    }
}

/// The sum of the sizes of regular files, each once.
fn regular_bytes(index: &Index) -> Result<u64, ufs::index::IndexError> {
    let mut sum = 0u64;
    for number in 0..index.inode_count() {
        let inode = index.inode(InodeId(number))?;
        if inode.file_type() == FileType::Regular {
            sum = sum.saturating_add(inode.size_bytes);
        }
    }
    Ok(sum)
}

/// Contents in the pack against their sums and digests; objects are checked by themselves and only have to be there.
fn check_contents(
    repository: &Repository,
    diff_id: &Digest,
    index: &Index,
    depth: Depth,
) -> Result<(), String> {
    let pack = File::open(repository.pack(diff_id.as_bytes())).map_err(|error| format!("pack: {error}"))?;
    let mut header = [0; PACK_HEADER_BYTES as usize];
    let read = pack.read_exact_at(&mut header, 0);
    if read.is_err()
        || header[..8] != *PACK_MAGIC
        || header[8..] != [&PACK_VERSION.to_le_bytes()[..], &[0; 4]].concat()
    {
        return Err("pack: its header is damaged".to_owned());
    }
    let mut buffer = Vec::new();
    for number in 0..index.content_count() {
        let (place, size_bytes) = index
            .content(ContentId(number))
            .map_err(|error| error.to_string())?;
        match place {
            Place::Empty => {}
            Place::Stream { .. } => return Err("a content lies in a stream".to_owned()),
            Place::Object { digest } => {
                let path = repository.object(digest);
                match path.symlink_metadata() {
                    Ok(metadata) if metadata.len() == size_bytes => {}
                    Ok(_) => {
                        return Err(format!(
                            "object {} has another size",
                            Digest::from(*digest).short()
                        ));
                    }
                    Err(error) => return Err(format!("object {}: {error}", Digest::from(*digest).short())),
                }
            }
            Place::Pack {
                offset, sum, digest, ..
            } => {
                buffer.resize(usize::try_from(size_bytes).unwrap_or(0), 0);
                pack.read_exact_at(&mut buffer, offset)
                    .map_err(|error| format!("pack: content at {offset}: {error}"))?;
                let whole = depth == Depth::Quick || Sha256::digest(&buffer)[..] == digest[..];
                if XxHash3_64::oneshot(&buffer) != sum || !whole {
                    return Err(format!("pack: the content at {offset} is damaged"));
                }
            }
        }
    }
    Ok(())
}

/// A merged index: whole, and what merging its layers gives.
fn check_chain(store: &Store, name: &str, depth: Depth) -> Result<(), String> {
    let text = |error: ufs::index::IndexError| error.to_string();
    let path = store.root().join("chains").join(name);
    let index = Index::open(&path).map_err(text)?;
    index.check().map_err(text)?;
    if depth == Depth::Quick {
        return Ok(());
    }
    let repository = store.repository();
    let layers: Result<Vec<Index>, String> = index
        .layers()
        .iter()
        .map(|layer| Index::open(&repository.index(layer)).map_err(text))
        .collect();
    let layers = layers?;
    let borrowed: Vec<&Index> = layers.iter().collect();
    let mut wanted = Hashing::new(io::sink());
    merge::merge(&borrowed, index.kind())
        .map_err(text)?
        .write(&mut wanted)
        .map_err(|error| error.to_string())?;
    let wanted = wanted.finish().0;
    check_named(&path, &wanted, depth).map_err(|_| "is not what its layers give".to_owned())
}
