//! `shale mount` of archives where they lie, `shale which` and `shale diff` between images, from outside. What is shown of
//! an archive is compared with what is shown of the same archive after `shale load` or `import`.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use common::{Entry, Shale, dir, file, link, skip, tar, tree};
use imagetool::archive::member::Kind;
use imagetool::digest::Digest;
use serde_json::{Value, json};

/// A store, or the reason why nothing can be mounted.
fn shale() -> Option<Shale> {
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root".to_owned()
    } else if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        format!("/dev/fuse: {error}")
    } else if !Path::new(env!("CARGO_BIN_EXE_shale"))
        .with_file_name("shale-ufs")
        .is_file()
    {
        "shale-ufs is not built: cargo build -p shale-ufs".to_owned()
    } else {
        return Some(Shale::new());
    };
    skip(&reason);
    None
}

/// A mount that ends with this value.
struct Mounted<'a> {
    shale: &'a Shale,
    at: PathBuf,
}

impl<'a> Mounted<'a> {
    fn new(shale: &'a Shale, words: &[&str]) -> Self {
        let mounted = Self::place(shale);
        let place = mounted.at.to_str().unwrap().to_owned();
        shale.ok(["mount"].iter().chain(words).copied().chain([place.as_str()]));
        mounted
    }

    fn place(shale: &'a Shale) -> Self {
        let number = fs::read_dir(shale.folder.path()).unwrap().count();
        let at = shale.path(&format!("mnt{number}"));
        fs::create_dir(&at).unwrap();
        Self { shale, at }
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(&self.at).unwrap();
        let mut names: Vec<String> = names
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        self.shale
            .run([Path::new("umount"), Path::new("--lazy"), &self.at]);
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn bottom() -> Vec<Entry> {
    let (mut holes, content) = file("data/sparse", &"s".repeat(1024));
    holes.size_bytes = 10_000;
    holes.segments = Some(vec![(4096, 512), (8192, 512)]);
    vec![
        dir("etc"),
        file("etc/one", "first"),
        link("etc/same", Kind::HardLink, "etc/one"),
        file("etc/two", "second"),
        link("bin", Kind::Symlink, "usr/bin"),
        file("usr/bin/tool", &"t".repeat(300_000)),
        file("usr/share/gone/a", "x"),
        file("usr/share/kept", &"k".repeat(20_000)),
        file("empty", ""),
        (holes, content),
    ]
}

fn top() -> Vec<Entry> {
    vec![
        file("etc/two", "changed"),
        file("etc/.wh.one", ""),
        file("usr/share/.wh.gone", ""),
        dir("data"),
        file("data/.wh..wh..opq", ""),
        file("data/new", "n"),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

/// The files of an archive or layout, by their paths.
type Files = Vec<(String, Vec<u8>)>;

fn config(layers: &[Vec<u8>]) -> String {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    json!({
        "architecture": imagetool::manifest::host_architecture(), "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [
            { "created_by": "ADD root" }, { "created_by": "ENV a=b", "empty_layer": true }, { "created_by": "RUN change" },
        ],
    })
    .to_string()
}

fn docker(layers: &[Vec<u8>], name: &str) -> Files {
    let paths: Vec<String> = (0..layers.len())
        .map(|n| format!("{name}{n}/layer.tar"))
        .collect();
    let manifest =
        json!([{ "Config": format!("{name}.json"), "RepoTags": [format!("{name}:1")], "Layers": paths }]);
    let mut files: Files = paths.into_iter().zip(layers.iter().cloned()).collect();
    files.push((format!("{name}.json"), config(layers).into_bytes()));
    files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
    files
}

fn oci(layers: &[Vec<u8>], pack: fn(&[u8]) -> Vec<u8>) -> Files {
    let mut files = Files::new();
    let mut blob = |bytes: Vec<u8>, media_type: &str| {
        let digest = Digest::of(&bytes);
        let descriptor =
            json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() });
        files.push((format!("blobs/sha256/{}", digest.hex()), bytes));
        descriptor
    };
    let layer_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let packed: Vec<Value> = layers.iter().map(|layer| blob(pack(layer), layer_type)).collect();
    let config = blob(
        config(layers).into_bytes(),
        "application/vnd.oci.image.config.v1+json",
    );
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": packed });
    let manifest = blob(
        manifest.to_string().into_bytes(),
        "application/vnd.oci.image.manifest.v1+json",
    );
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
    files.push(("oci-layout".to_owned(), layout));
    files
}

fn archive(files: &Files) -> Vec<u8> {
    let entries: Vec<Entry> = files
        .iter()
        .map(|(path, bytes)| {
            let (mut member, _) = file(path, "");
            member.size_bytes = bytes.len() as u64;
            (member, bytes.clone())
        })
        .collect();
    tar(&entries)
}

fn unpack(files: &Files, at: &Path) {
    for (path, bytes) in files {
        let path = at.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn layers() -> Vec<Vec<u8>> {
    vec![tar(&bottom()), tar(&top())]
}

#[test]
fn every_form_of_an_image_shows_what_loading_it_shows() {
    let Some(shale) = shale() else { return };
    let files = docker(&layers(), "sample");
    let write = |name: &str, bytes: Vec<u8>| {
        fs::write(shale.path(name), bytes).unwrap();
        text(&shale.path(name))
    };
    let reference = write("docker.tar", archive(&files));
    shale.ok(["load", "-q", "-i", &reference]);
    let loaded = Mounted::new(&shale, &["sample:1"]);
    let expected = tree(&loaded.at);
    assert!(expected.contains_key(&b"etc/same"[..]) && !expected.contains_key(&b"etc/one"[..]));
    assert!(!expected.contains_key(&b"data/sparse"[..]));
    unpack(&files, &shale.path("unpacked"));
    unpack(&oci(&layers(), gzip), &shale.path("layout"));
    let forms = [
        reference,
        write("docker.tar.gz", gzip(&archive(&files))),
        write("docker.tar.zst", zstd(&archive(&files))),
        write("oci.tar", archive(&oci(&layers(), gzip))),
        write("oci-plain.tar", archive(&oci(&layers(), plain))),
        write("oci-zstd.tar", archive(&oci(&layers(), zstd))),
        write("oci.tar.gz", gzip(&archive(&oci(&layers(), gzip)))),
        text(&shale.path("unpacked")),
        text(&shale.path("layout")),
    ];
    for form in forms {
        // the second time from what the first one kept
        for time in ["first", "second"] {
            let mounted = Mounted::new(&shale, &[&form]);
            let shown = tree(&mounted.at);
            assert_eq!(shown, expected, "{form}, the {time} time");
        }
    }
}

#[test]
fn every_form_of_a_bare_tar_shows_what_importing_it_shows() {
    let Some(shale) = shale() else { return };
    let whole = tar(&bottom());
    shale.import(&whole, "bare");
    let imported = Mounted::new(&shale, &["bare"]);
    let expected = tree(&imported.at);
    assert!(expected.contains_key(&b"data/sparse"[..]));
    for (name, bytes) in [
        ("bare.tar", whole.clone()),
        ("bare.tar.gz", gzip(&whole)),
        ("bare.tar.zst", zstd(&whole)),
    ] {
        fs::write(shale.path(name), bytes).unwrap();
        let mounted = Mounted::new(&shale, &[&text(&shale.path(name))]);
        assert_eq!(tree(&mounted.at), expected, "{name}");
    }
}

#[test]
fn a_layout_directory_shows_no_file_outside_itself() {
    let Some(shale) = shale() else { return };
    let secret = tar(&[file("secret", "s")]);
    fs::write(shale.path("secret.tar"), &secret).unwrap();
    let layers = [secret];
    let outside = |name: &str, layer: &str| {
        let mut files = docker(&layers, name);
        files.retain(|(path, _)| !path.ends_with("layer.tar") && path != "manifest.json");
        let manifest = json!([{ "Config": format!("{name}.json"), "RepoTags": null, "Layers": [layer] }]);
        files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
        unpack(&files, &shale.path(name));
        text(&shale.path(name))
    };
    let above = outside("above", "../secret.tar");
    let linked = outside("linked", "layer.tar");
    std::os::unix::fs::symlink(shale.path("secret.tar"), shale.path("linked/layer.tar")).unwrap();
    let whole = outside("whole", shale.path("secret.tar").to_str().unwrap());
    for (directory, reason) in [
        (above, "leads outside"),
        (linked, "leads outside"),
        (whole, "not there"),
    ] {
        let mounted = Mounted::place(&shale);
        let output = shale.run(["mount", &directory, &text(&mounted.at)]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(reason),
            "{directory}: {said}"
        );
        assert!(mounted.names().is_empty());
        let output = shale.run(["load", "-q", "-i", &directory]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{directory}: {said}");
    }
}

#[test]
fn what_was_indexed_is_used_again_until_the_file_changes() {
    let Some(shale) = shale() else { return };
    let path = shale.path("a.tar.gz");
    fs::write(&path, gzip(&tar(&bottom()))).unwrap();
    let kept = || -> BTreeMap<PathBuf, u64> {
        let folders = fs::read_dir(shale.root().join("archives")).unwrap();
        let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        files
            .map(|file| file.unwrap())
            .map(|file| (file.path(), file.metadata().unwrap().ino()))
            .collect()
    };
    drop(Mounted::new(&shale, &[&text(&path)]));
    let before = kept();
    drop(Mounted::new(&shale, &[&text(&path)]));
    assert_eq!(kept(), before);
    fs::write(&path, gzip(&tar(&top()))).unwrap();
    let mounted = Mounted::new(&shale, &[&text(&path)]);
    assert_eq!(fs::read_to_string(mounted.at.join("etc/two")).unwrap(), "changed");
    assert!(kept().len() > before.len());
}

#[test]
fn layers_are_shown_one_by_one() {
    let Some(shale) = shale() else { return };
    let path = shale.path("a.tar");
    fs::write(&path, archive(&docker(&layers(), "a"))).unwrap();
    shale.ok(["load", "-q", "-i", &text(&path)]);
    for source in ["a:1".to_owned(), text(&path)] {
        let all = Mounted::new(&shale, &["--layers", &source]);
        let names = all.names();
        let expected: Vec<String> = layers()
            .iter()
            .enumerate()
            .map(|(number, layer)| format!("{number}-sha256-{}", Digest::of(layer).short()))
            .collect();
        assert_eq!(names, expected);
        let upper = all.at.join(&names[1]);
        assert!(upper.join("etc/.wh.one").exists() && upper.join("data/.wh..wh..opq").exists());
        assert_eq!(
            fs::read_to_string(all.at.join(&names[0]).join("etc/one")).unwrap(),
            "first"
        );
        let one = Mounted::new(&shale, &["--layer", "0", &source]);
        assert_eq!(fs::read_to_string(one.at.join("etc/two")).unwrap(), "second");
        let place = Mounted::place(&shale);
        let refused = shale.fails(["mount", "--layer", "2", &source, &text(&place.at)]);
        assert!(refused.contains("no layer 2: the image has 2"), "{refused}");
    }
}

#[test]
fn one_of_several_images_is_chosen() {
    let Some(shale) = shale() else { return };
    let mut files = docker(&layers(), "one");
    let other = docker(&[tar(&[file("other", "o")])], "other");
    let parse = |files: &Files| -> Vec<Value> { serde_json::from_slice(&files.last().unwrap().1).unwrap() };
    let both = [parse(&files), parse(&other)].concat();
    files.pop();
    files.extend(other);
    files.last_mut().unwrap().1 = serde_json::to_vec(&both).unwrap();
    let path = shale.path("both.tar");
    fs::write(&path, archive(&files)).unwrap();
    let place = Mounted::place(&shale);
    let several = shale.fails(["mount", &text(&path), &text(&place.at)]);
    assert!(
        several.contains("choose one with --image: one:1, other:1"),
        "{several}"
    );
    let unknown = shale.fails(["mount", "--image", "third", &text(&path), &text(&place.at)]);
    assert!(unknown.contains("no image third"), "{unknown}");
    let chosen = Mounted::new(&shale, &["--image", "other:1", &text(&path)]);
    assert_eq!(chosen.names(), ["other"]);
}

#[test]
fn archives_that_lie_or_are_cut_are_refused() {
    let Some(shale) = shale() else { return };
    let good = layers();
    let lying = |files: Files, from: &str, to: &str| -> Vec<u8> {
        let replace = |(path, bytes): (String, Vec<u8>)| {
            let text = String::from_utf8(bytes.clone()).map(|text| text.replace(from, to).into_bytes());
            (path, text.unwrap_or(bytes))
        };
        archive(&files.into_iter().map(replace).collect())
    };
    let (first, other) = (Digest::of(&good[0]).to_string(), Digest::of(b"other").to_string());
    let whole = tar(&bottom());
    let packed = gzip(&whole);
    // a blob of the same length whose name says something else
    let mut bent = oci(&good, gzip);
    let at = bent[0].1.len() / 2;
    bent[0].1[at] ^= 1;
    let cases: [(&str, Vec<u8>, &[&str]); 10] = [
        ("text", b"this is no archive".repeat(100), &["no tar archive"]),
        ("empty", Vec::new(), &["end marker"]),
        ("cut in a header", whole[..700].to_vec(), &["truncated"]),
        ("cut in a file", whole[..200_000].to_vec(), &["truncated"]),
        (
            "without its end",
            whole[..whole.len() - 1024].to_vec(),
            &["end marker"],
        ),
        (
            "cut gzip",
            packed[..packed.len() - 9].to_vec(),
            &["cut", "end", "truncated"],
        ),
        (
            "another diff id",
            gzip(&lying(docker(&good, "a"), &first, &other)),
            &["diff id"],
        ),
        (
            "bent blob",
            archive(&bent),
            &["the manifest says", "corrupt", "invalid", "damaged", "bad"],
        ),
        (
            "without a layer",
            archive(&docker(&good, "a").into_iter().skip(1).collect()),
            &["a0/layer.tar is not in the archive"],
        ),
        ("escaping", tar(&[file("../x", "x")]), &["leads outside"]),
    ];
    for (what, bytes, parts) in cases {
        let path = shale.path("bad.tar");
        fs::write(&path, bytes).unwrap();
        let place = Mounted::place(&shale);
        let refused = shale.fails(["mount", &text(&path), &text(&place.at)]);
        assert!(
            refused.starts_with("Error: ") && parts.iter().any(|part| refused.contains(part)),
            "{what}: {refused}"
        );
        assert_eq!(fs::read_dir(&place.at).unwrap().count(), 0);
    }
    assert_eq!(shale.ok(["mount", "-q"]), "");
}

#[test]
fn an_archive_that_changes_while_mounted_gives_errors_and_no_wrong_bytes() {
    let Some(shale) = shale() else { return };
    let content = |n: u32| format!("{n:08}").repeat(20_000);
    let entries: Vec<Entry> = (0..20).map(|n| file(format!("f{n}"), &content(n))).collect();
    for pack in [plain, gzip] {
        for spoil in ["overwrite", "truncate"] {
            let path = shale.path("a.tar");
            fs::write(&path, pack(&tar(&entries))).unwrap();
            let mounted = Mounted::new(&shale, &[&text(&path)]);
            assert_eq!(fs::read_to_string(mounted.at.join("f0")).unwrap(), content(0));
            let archive = fs::OpenOptions::new().write(true).open(&path).unwrap();
            match spoil {
                "truncate" => archive.set_len(1000).unwrap(),
                _ => archive.write_all_at(&[b'!'; 3000], 1000).unwrap(),
            }
            drop(archive);
            for n in 10..20 {
                match fs::read_to_string(mounted.at.join(format!("f{n}"))) {
                    Ok(read) => assert_eq!(read, content(n), "{spoil}: f{n}"),
                    Err(error) => assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{spoil}: f{n}"),
                }
            }
            let last = fs::read(mounted.at.join("f19"));
            assert!(last.is_err(), "{spoil}: a changed archive is still read");
            let folder = fs::read_dir(shale.root().join("run/mounts")).unwrap();
            let logs =
                folder.filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("ufs.log")).ok());
            let logs: String = logs.collect();
            assert!(logs.contains("changed"), "{spoil}: the log says {logs:?}");
        }
    }
}

#[test]
fn what_is_mounted_outlives_removal() {
    let Some(shale) = shale() else { return };
    let path = shale.path("a.tar.gz");
    fs::write(&path, gzip(&archive(&docker(&layers(), "a")))).unwrap();
    shale.ok(["load", "-q", "-i", &text(&path)]);
    let image = Mounted::new(&shale, &["a:1"]);
    let in_place = Mounted::new(&shale, &[&text(&path)]);
    let unused = shale.path("unused.tar.gz");
    fs::write(&unused, gzip(&tar(&bottom()))).unwrap();
    // waits for the server, which holds what it serves: a lazy unmount does not
    shale.ok(["umount", &text(&Mounted::new(&shale, &[&text(&unused)]).at)]);
    let kept = || fs::read_dir(shale.root().join("archives")).unwrap().count();
    let before = kept();
    shale.run(["rmi", "a:1"]);
    let pruned = imagetool::in_place::cache::prune(&shale.root(), 0).unwrap();
    assert_eq!((pruned.count, kept()), (1, before - 1));
    assert_eq!(tree(&image.at), tree(&in_place.at));
    shale.ok(["umount", "--all"]);
    imagetool::in_place::cache::prune(&shale.root(), 0).unwrap();
    assert_eq!(kept(), 0);
}

#[test]
fn which_tells_layer_instruction_and_what_is_hidden() {
    let Some(shale) = shale() else { return };
    let path = shale.path("a.tar");
    fs::write(&path, archive(&docker(&layers(), "a"))).unwrap();
    shale.ok(["load", "-q", "-i", &text(&path)]);
    let [first, second] = [0, 1].map(|n| Digest::of(&layers()[n]).to_string());
    for source in ["a:1".to_owned(), text(&path)] {
        let rows = |path: &str| -> Vec<Value> {
            let lines = shale.ok(["which", "--format", "json", &source, path]);
            lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        };
        let changed = rows("/etc/two");
        assert_eq!(
            (
                &changed[0]["State"],
                &changed[0]["Layer"],
                &changed[0]["CreatedBy"]
            ),
            (&json!("shown"), &json!(second), &json!("RUN change"))
        );
        assert_eq!(
            (&changed[1]["State"], &changed[1]["Layer"], &changed[1]["Size"]),
            (&json!("hidden"), &json!(first), &json!(6))
        );
        assert_eq!(rows("/").len(), 2);
        let through_link = rows("/bin/tool");
        assert_eq!(through_link.len(), 1);
        assert_eq!(through_link[0]["Path"], "/usr/bin/tool");
        let gone = shale.fails(["which", &source, "/etc/one"]);
        let expected = format!("/etc/one is not in {source}: deleted in layer 1 ({second}): RUN change");
        assert!(gone.contains(&expected), "{gone}");
        let with = shale.fails(["which", &source, "/usr/share/gone/a"]);
        assert!(with.contains("deleted with /usr/share/gone in layer 1"), "{with}");
        let opaque = shale.fails(["which", &source, "data/sparse"]);
        assert!(opaque.contains("hidden by a new /data in layer 1"), "{opaque}");
        let never = shale.fails(["which", &source, "/never"]);
        assert!(
            never.contains(&format!("no layer of {source} has /never")),
            "{never}"
        );
    }
    let table = shale.ok(["which", "a:1", "/etc/two"]);
    assert!(table.lines().next().unwrap().starts_with("STATE"), "{table}");
    for source in ["a:1".to_owned(), text(&path)] {
        let mounted = Mounted::new(&shale, &[&source]);
        let named = xattr::get(mounted.at.join("etc/two"), "user.shale.layer").unwrap();
        assert_eq!(String::from_utf8(named.unwrap()).unwrap(), second, "{source}");
    }
}

#[test]
fn images_are_compared() {
    let Some(shale) = shale() else { return };
    let write = |name: &str, layers: &[Vec<u8>]| {
        fs::write(shale.path("a.tar"), archive(&docker(layers, name))).unwrap();
        shale.ok(["load", "-q", "-i", &text(&shale.path("a.tar"))]);
    };
    write("old", &layers()[..1]);
    write("new", &layers());
    let lines = shale.ok(["diff", "old:1", "new:1"]);
    let expected = "C /data\nA /data/new\nD /data/sparse\nC /etc\nD /etc/one\nC /etc/two\nC /usr\nC /usr/share\nD /usr/share/gone";
    assert_eq!(lines, expected);
    assert_eq!(shale.ok(["diff", "new:1", "new:1"]), "");
    let json = shale.ok(["diff", "--format", "json", "old:1", "new:1"]);
    let row: Value = serde_json::from_str(json.lines().nth(5).unwrap()).unwrap();
    assert_eq!(
        (&row["Path"], &row["New"]["Size"]),
        (&json!("/etc/two"), &json!(7))
    );
    let one = shale.fails(["diff", "old:1"]);
    assert!(one.contains("is an image: name a second one"), "{one}");
}

#[test]
fn names_that_could_be_two_things_are_told() {
    let Some(shale) = shale() else { return };
    fs::create_dir_all(shale.path("lib/a")).unwrap();
    let place = Mounted::place(&shale);
    let call = |word: &str| {
        let mut command = shale.command(["mount", word, &text(&place.at)]);
        let output = command.current_dir(shale.folder.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(
        call("lib/a"),
        (Some(0), String::new()),
        "a path with a slash is one"
    );
    shale.ok(["umount", &text(&place.at)]);
    let (status, errors) = call("lib");
    assert!(status == Some(1) && errors.contains("written ./lib"), "{errors}");
    shale.import(&tar(&bottom()), "lib/a");
    let (status, errors) = call("lib/a");
    assert!(
        status == Some(1) && errors.contains("./lib/a for the path"),
        "{errors}"
    );
}

/// A Docker archive of two layers, loaded as `sample:1`.
fn load_sample(shale: &Shale) {
    let path = shale.path("sample.tar");
    fs::write(&path, archive(&docker(&layers(), "sample"))).unwrap();
    shale.ok(["load", "-q", "-i", &text(&path)]);
}

#[test]
fn a_mount_needs_no_merged_index_when_its_image_is_removed_at_the_worst_moment() {
    let Some(shale) = shale() else { return };
    load_sample(&shale);
    let expected = tree(&Mounted::new(&shale, &["sample:1"]).at);
    // what `shale rmi` does to the chain, just before the server opens it
    let server = Path::new(env!("CARGO_BIN_EXE_shale")).with_file_name("shale-ufs");
    let chains = shale.root().join("chains");
    assert_ne!(fs::read_dir(&chains).unwrap().count(), 0);
    let script = shale.path("server");
    let steps = format!(
        "#!/bin/sh\nrm -rf {}/*\nexec {} \"$@\"\n",
        chains.display(),
        server.display()
    );
    fs::write(&script, steps).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mounted = Mounted::place(&shale);
    let mut command = shale.command(["mount", "sample:1", &text(&mounted.at)]);
    let output = command.env("SHALE_UFS", &script).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(fs::read_dir(&chains).unwrap().count(), 0);
    // names that an upper layer hides are counted when layers are not merged beforehand
    let without_link_counts = |tree: common::Tree| -> common::Tree {
        let told = tree
            .into_iter()
            .map(|(path, told)| match told.strip_prefix("file ") {
                Some(rest) => (path, rest.split_once(' ').unwrap().1.to_owned()),
                None => (path, told),
            });
        told.collect()
    };
    assert_eq!(
        without_link_counts(tree(&mounted.at)),
        without_link_counts(expected)
    );
}

#[test]
fn an_archive_that_is_mounted_is_not_forgotten_by_a_repair() {
    let Some(shale) = shale() else { return };
    let path = shale.path("a.tar.gz");
    fs::write(&path, gzip(&tar(&bottom()))).unwrap();
    let mounted = Mounted::new(&shale, &[&text(&path)]);
    let expected = tree(&mounted.at);
    let store = imagetool::store::Store::open(&shale.root()).unwrap();
    let folders = fs::read_dir(shale.root().join("archives")).unwrap();
    let names: Vec<String> = folders
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.is_empty());
    assert!(names.iter().all(|name| !store.forget_archive(name).unwrap()));
    assert_eq!(tree(&mounted.at), expected);
    drop(mounted);
    // the server lets go when it has ended
    while !names.iter().all(|name| store.forget_archive(name).unwrap()) {}
    assert_eq!(fs::read_dir(shale.root().join("archives")).unwrap().count(), 0);
}
