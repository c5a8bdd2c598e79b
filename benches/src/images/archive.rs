//! A root file system's archive split into layers, and images of them in the forms that tools read.
//!
//! Members are copied as they stand, header blocks included, so that nothing of them is lost and the same input gives
//! the same bytes. Every layer gets the directories above its files, so that modes survive in every tool. Hard links
//! follow their targets.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{Archive, Builder, EntryType, Header};

use crate::error::{Doing, Result};

/// A layer as a plain archive, and perhaps a compressed copy.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The plain archive.
    pub path: PathBuf,
    /// Its SHA-256 in hexadecimal.
    pub digest: String,
    /// Its length.
    pub size: u64,
}

impl Layer {
    /// What lies at a path, read once to know its digest.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: PathBuf) -> Result<Self> {
        let mut hashed = Hashed::new(io::sink());
        let mut file = File::open(&path).doing("open", &path)?;
        io::copy(&mut file, &mut hashed).doing("read", &path)?;
        let (digest, size) = hashed.finish().doing("read", &path)?;
        Ok(Self { path, digest, size })
    }
}

/// Into which layer a path goes.
pub type Group<'a> = &'a dyn Fn(&[u8]) -> usize;

/// What may be changed of a member on its way: the header, and whether it is kept.
pub type Edit<'a> = &'a mut dyn FnMut(&mut Header, &mut Vec<u8>);

/// Splits an archive into `count` layers below `dir`.
///
/// # Errors
/// When the archive cannot be read or a layer cannot be written.
pub fn split(
    rootfs: &Path,
    dir: &Path,
    count: usize,
    group: Group<'_>,
    edit: Edit<'_>,
) -> Result<Vec<Layer>> {
    fs::create_dir_all(dir).doing("make", dir)?;
    let mut outs = (0..count)
        .map(|number| {
            let path = dir.join(format!("layer-{number}.tar"));
            let file = File::create(&path).doing("make", &path)?;
            Ok(Out::new(path, file))
        })
        .collect::<Result<Vec<_>>>()?;
    split_into(rootfs, &mut outs, group, edit).doing("split", rootfs)?;
    outs.into_iter().map(Out::finish).collect()
}

struct Out {
    path: PathBuf,
    out: Hashed<BufWriter<File>>,
    dirs: HashSet<Vec<u8>>,
}

impl Out {
    fn new(path: PathBuf, file: File) -> Self {
        Self {
            path,
            out: Hashed::new(BufWriter::with_capacity(1 << 16, file)),
            dirs: HashSet::new(),
        }
    }

    fn finish(mut self) -> Result<Layer> {
        self.out.write_all(&[0; 1024]).doing("write", &self.path)?;
        let (digest, size) = self.out.finish().doing("write", &self.path)?;
        Ok(Layer {
            path: self.path,
            digest,
            size,
        })
    }
}

fn split_into(rootfs: &Path, outs: &mut [Out], group: Group<'_>, edit: Edit<'_>) -> io::Result<()> {
    let mut archive = Archive::new(BufReader::with_capacity(1 << 16, File::open(rootfs)?));
    let mut pending = Vec::new();
    let mut dirs: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut order = Vec::new();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let mut header = entry.header().clone();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let kind = header.entry_type();
        if kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink() {
            append(&mut pending, &header, &content);
            continue;
        }
        if kind.is_pax_global_extensions() {
            continue;
        }
        edit(&mut header, &mut content);
        let name = cleaned(&header.path_bytes());
        append(&mut pending, &header, &content);
        let member = std::mem::take(&mut pending);
        if kind == EntryType::Directory {
            order.push(name.clone());
            dirs.insert(name, member);
            continue;
        }
        let of = match kind {
            EntryType::Link => header
                .link_name_bytes()
                .map_or_else(|| name.clone(), |link| cleaned(&link)),
            _ => name.clone(),
        };
        let out = &mut outs[group(&of)];
        add_dirs(out, &dirs, &name)?;
        out.out.write_all(&member)?;
    }
    // Directories without files.
    for name in order {
        if !outs.iter().any(|out| out.dirs.contains(&name)) {
            let out = &mut outs[group(&name)];
            add_dirs(out, &dirs, &name)?;
            add_dir(out, &dirs, &name)?;
        }
    }
    Ok(())
}

/// Writes the directories above a path that the layer does not have yet.
fn add_dirs(out: &mut Out, dirs: &HashMap<Vec<u8>, Vec<u8>>, path: &[u8]) -> io::Result<()> {
    add_dir(out, dirs, b"")?;
    for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        add_dir(out, dirs, &path[..at])?;
    }
    Ok(())
}

fn add_dir(out: &mut Out, dirs: &HashMap<Vec<u8>, Vec<u8>>, path: &[u8]) -> io::Result<()> {
    match dirs.get(path) {
        Some(member) if out.dirs.insert(path.to_vec()) => out.out.write_all(member),
        _ => Ok(()),
    }
}

/// Without `./` before and `/` after it.
fn cleaned(path: &[u8]) -> Vec<u8> {
    let path = path
        .strip_prefix(b".")
        .filter(|rest| rest.is_empty() || rest[0] == b'/')
        .unwrap_or(path);
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    let end = path
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(start, |at| at + 1);
    path[start..end].to_vec()
}

fn append(out: &mut Vec<u8>, header: &Header, content: &[u8]) {
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// Copies all members of an archive, but not its end, so that more can follow.
///
/// # Errors
/// When it cannot be read or written.
pub fn copy_members(rootfs: &Path, out: &mut impl Write) -> Result<()> {
    let open = || File::open(rootfs).doing("open", rootfs);
    let mut archive = Archive::new(BufReader::new(open()?));
    let mut end = 0;
    for entry in archive.entries_with_seek().doing("read", rootfs)?.raw(true) {
        let entry = entry.doing("read", rootfs)?;
        end = entry.raw_file_position() + entry.header().entry_size().unwrap_or(0).next_multiple_of(512);
    }
    io::copy(&mut open()?.take(end), out).doing("copy", rootfs)?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A writer that hashes and counts what goes through.
pub struct Hashed<W> {
    out: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Hashed<W> {
    /// Hashes what is written to `out` from now on.
    pub fn new(out: W) -> Self {
        Self {
            out,
            hash: Sha256::new(),
            size: 0,
        }
    }

    /// The digest in hexadecimal and the number of bytes.
    ///
    /// # Errors
    /// When what is left cannot be written.
    pub fn finish(mut self) -> io::Result<(String, u64)> {
        self.out.flush()?;
        Ok((hex(&self.hash.finalize()), self.size))
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The configuration of an image of these layers.
#[must_use]
pub fn config(digests: &[&str]) -> String {
    let diff_ids: Vec<_> = digests.iter().map(|digest| format!("sha256:{digest}")).collect();
    let history: Vec<_> = (0..digests.len())
        .map(|number| serde_json::json!({ "created": CREATED, "created_by": format!("layer {number}") }))
        .collect();
    serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "created": CREATED,
        "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": history,
    })
    .to_string()
}

const CREATED: &str = "2026-01-01T00:00:00Z";

/// Writes a Docker archive whose layers `write_layer` gives, one after another; their sizes and digests are known.
///
/// # Errors
/// When it cannot be written.
pub fn write_docker<W: Write>(
    out: W,
    name: &str,
    layers: &[(String, u64)],
    mut write_layer: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let digests: Vec<&str> = layers.iter().map(|(digest, _)| digest.as_str()).collect();
    let config = config(&digests);
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    let layer_name = |digest: &str| format!("{digest}.tar");
    let manifest = serde_json::json!([{
        "Config": config_name,
        "RepoTags": [name],
        "Layers": digests.iter().map(|digest| layer_name(digest)).collect::<Vec<_>>(),
    }])
    .to_string();
    let mut out = out;
    for (number, (digest, size)) in layers.iter().enumerate() {
        out.write_all(member_header(&layer_name(digest), *size)?.as_bytes())?;
        write_layer(number, &mut out)?;
        let padding = size.next_multiple_of(512) - size;
        out.write_all(&[0; 512][..padding as usize])?;
    }
    let mut tar = Builder::new(out);
    for (name, text) in [(config_name.as_str(), &config), ("manifest.json", &manifest)] {
        tar.append(&member_header(name, text.len() as u64)?, text.as_bytes())?;
    }
    tar.into_inner()?.flush()
}

fn member_header(name: &str, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    Ok(header)
}

/// Writes a Docker archive of layers that lie in files.
///
/// # Errors
/// When it cannot be written.
pub fn write_docker_file(path: &Path, name: &str, layers: &[Layer]) -> Result<()> {
    let out = BufWriter::with_capacity(1 << 20, File::create(path).doing("make", path)?);
    let known: Vec<_> = layers
        .iter()
        .map(|layer| (layer.digest.clone(), layer.size))
        .collect();
    write_docker(out, name, &known, |number, out| {
        io::copy(&mut File::open(&layers[number].path)?, out).map(drop)
    })
    .doing("write", path)
}

/// Writes an OCI layout of one image called `tag`. Plain layers are hard links to the layers' files.
///
/// # Errors
/// When it cannot be written.
pub fn write_layout(dir: &Path, tag: &str, layers: &[Layer], gzip: bool) -> Result<()> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).doing("make", &blobs)?;
    let mut descriptors = Vec::new();
    for layer in layers {
        let blob = match gzip {
            true => compressed(layer)?,
            false => layer.clone(),
        };
        link(&blob.path, &blobs.join(&blob.digest))?;
        let kind = if gzip { "tar+gzip" } else { "tar" };
        descriptors.push(descriptor(&format!("layer.v1.{kind}"), &blob.digest, blob.size));
    }
    let digests: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let config = put(&blobs, &config(&digests), "config.v1+json")?;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": descriptors,
    });
    let mut manifest = put(&blobs, &manifest.to_string(), "manifest.v1+json")?;
    manifest["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": tag });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    let files = [
        ("index.json", index.to_string()),
        ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#.to_owned()),
    ];
    for (name, text) in files {
        let path = dir.join(name);
        fs::write(&path, text).doing("write", &path)?;
    }
    Ok(())
}

fn put(blobs: &Path, text: &str, kind: &str) -> Result<serde_json::Value> {
    let digest = hex(&Sha256::digest(text.as_bytes()));
    let path = blobs.join(&digest);
    fs::write(&path, text).doing("write", &path)?;
    Ok(descriptor(kind, &digest, text.len() as u64))
}

fn descriptor(kind: &str, digest: &str, size: u64) -> serde_json::Value {
    let kind = match kind.starts_with("layer") || kind.starts_with("config") || kind.starts_with("manifest") {
        true => format!("application/vnd.oci.image.{kind}"),
        false => kind.to_owned(),
    };
    serde_json::json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size })
}

/// The gzip copy of a layer, made beside it the first time.
fn compressed(layer: &Layer) -> Result<Layer> {
    let path = layer.path.with_extension("tar.gz");
    if !path.exists() {
        gzip_file(&layer.path, &path)?;
    }
    Layer::of(path)
}

/// Compresses a file as gzip does by default.
///
/// # Errors
/// When it cannot be read or written.
pub fn gzip_file(from: &Path, to: &Path) -> Result<()> {
    let out = File::create(to).doing("make", to)?;
    let mut encoder = GzEncoder::new(BufWriter::with_capacity(1 << 16, out), Compression::new(6));
    io::copy(&mut File::open(from).doing("open", from)?, &mut encoder).doing("compress", from)?;
    encoder
        .finish()
        .and_then(|mut out| out.flush())
        .doing("write", to)
}

fn link(from: &Path, to: &Path) -> Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.doing("link", to),
    }
}

/// Writes all files of a layout as an OCI archive.
///
/// # Errors
/// When it cannot be written.
pub fn write_layout_archive(layout: &Path, path: &Path) -> Result<()> {
    let out = BufWriter::with_capacity(1 << 20, File::create(path).doing("make", path)?);
    let mut tar = Builder::new(out);
    append_layout(&mut tar, layout).doing("write", path)?;
    tar.into_inner()
        .and_then(|mut out| out.flush())
        .doing("write", path)
}

fn append_layout(tar: &mut Builder<impl Write>, layout: &Path) -> io::Result<()> {
    for name in ["oci-layout", "index.json"] {
        tar.append_path_with_name(layout.join(name), name)?;
    }
    let blobs = layout.join("blobs/sha256");
    let names = fs::read_dir(&blobs)?.map(|entry| Ok(entry?.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        tar.append_path_with_name(blobs.join(&name), Path::new("blobs/sha256").join(&name))?;
    }
    tar.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rootfs(dir: &Path) -> PathBuf {
        let path = dir.join("rootfs.tar");
        let mut tar = Builder::new(File::create(&path).unwrap());
        let mut add = |name: &str, kind: EntryType, content: &[u8], link: &str| {
            let mut header = member_header(name, content.len() as u64).unwrap();
            header.set_entry_type(kind);
            if !link.is_empty() {
                header.set_link_name(link).unwrap();
            }
            header.set_cksum();
            tar.append(&header, content).unwrap();
        };
        for name in ["./", "./a/", "./b/", "./empty/"] {
            add(name, EntryType::Directory, b"", "");
        }
        add("./a/one", EntryType::Regular, b"1", "");
        add("./b/two", EntryType::Regular, b"22", "");
        add("./b/link", EntryType::Link, b"", "./a/one");
        tar.finish().unwrap();
        path
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut archive = Archive::new(bytes);
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| String::from_utf8(entry.unwrap().path_bytes().into_owned()).unwrap())
            .collect()
    }

    #[test]
    fn layers_have_the_directories_above_their_files_and_links_their_targets() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = rootfs(dir.path());
        let group = |path: &[u8]| usize::from(path.starts_with(b"b"));
        let layers = split(&rootfs, &dir.path().join("l"), 2, &group, &mut |_, _| {}).unwrap();
        let bytes: Vec<_> = layers
            .iter()
            .map(|layer| fs::read(&layer.path).unwrap())
            .collect();
        assert_eq!(names(&bytes[0]), ["./", "a/", "a/one", "b/", "b/link", "empty/"]);
        assert_eq!(names(&bytes[1]), ["./", "b/", "b/two"]);
        for (layer, bytes) in layers.iter().zip(&bytes) {
            assert_eq!(layer.digest, hex(&Sha256::digest(bytes)));
            assert_eq!(layer.size, bytes.len() as u64);
        }
    }

    #[test]
    fn images_name_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = rootfs(dir.path());
        let layers = split(&rootfs, &dir.path().join("l"), 1, &|_| 0, &mut |_, _| {}).unwrap();
        let docker = dir.path().join("docker.tar");
        write_docker_file(&docker, "x:1", &layers).unwrap();
        let found = names(&fs::read(&docker).unwrap());
        assert_eq!(found[0], format!("{}.tar", layers[0].digest));
        assert_eq!(found[2], "manifest.json");
        for gzip in [false, true] {
            let layout = dir.path().join(format!("layout-{gzip}"));
            write_layout(&layout, "1", &layers, gzip).unwrap();
            for entry in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
                let path = entry.unwrap().path();
                let digest = hex(&Sha256::digest(fs::read(&path).unwrap()));
                assert_eq!(path.file_name().unwrap().to_str().unwrap(), digest);
            }
            let archive = dir.path().join("oci.tar");
            write_layout_archive(&layout, &archive).unwrap();
            assert_eq!(names(&fs::read(&archive).unwrap()).len(), 5);
        }
    }

    #[test]
    fn members_are_copied_without_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = rootfs(dir.path());
        let mut bytes = Vec::new();
        copy_members(&rootfs, &mut bytes).unwrap();
        assert!(bytes.len() < fs::metadata(&rootfs).unwrap().len() as usize);
        assert_eq!(names(&bytes).len(), 7);
    }

    #[test]
    fn paths_lose_what_does_not_matter() {
        for (path, clean) in [
            ("./a/b/", "a/b"),
            (".", ""),
            ("./", ""),
            (".a", ".a"),
            ("/x", "x"),
        ] {
            assert_eq!(cleaned(path.as_bytes()), clean.as_bytes(), "{path}");
        }
    }
}
