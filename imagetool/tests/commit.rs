//! Commits and exports of containers whose changes the test writes itself, without running anything.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use common::{dir, file, tar, tree_of_layer};
use imagetool::commit::{CommitOptions, commit};
use imagetool::digest::Digest;
use imagetool::error::StoreError;
use imagetool::export::export;
use imagetool::history;
use imagetool::import::{ImportOptions, import};
use imagetool::load::load_archive;
use imagetool::progress::Progress;
use imagetool::reference::Reference;
use imagetool::save::save;
use imagetool::store::{ContainerId, ContainerRecord, ContainerStatus, Removal, RemoveOptions, Store};
use ufs::index::{Index, Place};

struct Fixture {
    _folder: tempfile::TempDir,
    store: Store,
    base: Digest,
}

fn name(text: &str) -> Option<Reference> {
    Some(text.parse().unwrap())
}

/// A store with an image `base` of a few files.
fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let archive = tar(&[
        dir("etc"),
        file("etc/kept", "kept"),
        file("etc/gone", "gone"),
        dir("folder"),
        file("folder/hidden", "hidden"),
        dir("other"),
    ]);
    let options = ImportOptions {
        source: "test".to_owned(),
        name: name("base"),
        ..ImportOptions::default()
    };
    let base = import(&store, archive.as_slice(), &options, &Progress::none()).unwrap();
    Fixture {
        _folder: folder,
        store,
        base,
    }
}

impl Fixture {
    /// A stopped container; gives its record and its upper directory.
    fn container(&self, name: &str, rootfs: Option<PathBuf>) -> (ContainerRecord, PathBuf) {
        let record = ContainerRecord {
            id: ContainerId::random().unwrap(),
            name: name.to_owned(),
            image_id: rootfs.is_none().then_some(self.base),
            image_ref: "base".to_owned(),
            command: vec!["make".to_owned(), "it".to_owned()],
            created_at_s: 1,
            status: ContainerStatus::Exited,
            exit_code: Some(0),
            pid: None,
            rootfs,
            started_at_s: Some(1),
            finished_at_s: Some(2),
            config_json: "{}".to_owned(),
        };
        self.store.containers().insert(&record).unwrap();
        let dir = self.store.container_dir(&record.id);
        for folder in ["init", "upper", "work"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
            fs::set_permissions(dir.join(folder), fs::Permissions::from_mode(0o755)).unwrap();
        }
        (record, dir.join("upper"))
    }

    /// The diff id of an image's top layer.
    fn top(&self, image: &Digest) -> Digest {
        let details = self.store.image_details(image).unwrap();
        details.layers.last().unwrap().0
    }
}

/// Whether the machine lets the test write whiteouts and attributes as overlayfs does.
fn may_write_overlay(upper: &std::path::Path) -> bool {
    let probe = upper.join("probe");
    fs::create_dir(&probe).unwrap();
    let works = xattr::set(&probe, "trusted.overlay.opaque", b"y").is_ok();
    fs::remove_dir(&probe).unwrap();
    if !works {
        common::skip("trusted attributes need the rights of root");
    }
    works
}

fn whiteout(path: &std::path::Path) {
    use nix::sys::stat::{Mode, SFlag, mknod};
    mknod(path, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
}

#[test]
fn a_commit_holds_what_changed_and_nothing_else() {
    let fixture = fixture();
    let (record, upper) = fixture.container("one", None);
    if !may_write_overlay(&upper) {
        return;
    }
    fs::create_dir(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/new"), "new").unwrap();
    whiteout(&upper.join("etc/gone"));
    fs::create_dir(upper.join("folder")).unwrap();
    xattr::set(upper.join("folder"), "trusted.overlay.opaque", b"y").unwrap();
    fs::write(upper.join("folder/fresh"), "fresh").unwrap();
    fs::hard_link(upper.join("folder/fresh"), upper.join("folder/again")).unwrap();
    symlink("../etc/new", upper.join("folder/link")).unwrap();
    let sparse = fs::File::create(upper.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"x", 8 << 20).unwrap();
    // version 2 of the attribute: cap_net_raw, with a line feed in the numbers
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fs::write(upper.join("etc/ping"), "ping").unwrap();
    xattr::set(upper.join("etc/ping"), "security.capability", &capability).unwrap();
    xattr::set(upper.join("etc/ping"), "user.odd", b"\n=\0").unwrap();

    let options = CommitOptions {
        author: Some("me".to_owned()),
        message: Some("why".to_owned()),
        changes: vec!["CMD [\"sh\"]".parse().unwrap()],
        name: name("changed"),
        full: false,
    };
    let id = commit(&fixture.store, &record, &options, &Progress::none()).unwrap();
    let layer = fixture.top(&id);
    let found: Vec<String> = tree_of_layer(&fixture.store, &layer)
        .into_keys()
        .map(|path| String::from_utf8(path).unwrap())
        .collect();
    assert_eq!(
        found,
        [
            "",
            "etc",
            "etc/gone",
            "etc/new",
            "etc/ping",
            "folder",
            "folder/again",
            "folder/fresh",
            "folder/hidden",
            "folder/link",
            "sparse"
        ]
    );
    let tree = tree_of_layer(&fixture.store, &layer);
    assert!(
        tree[&b"etc/gone"[..]].starts_with("char 0") && tree[&b"folder/hidden"[..]].starts_with("char 0")
    );
    assert!(tree[&b"folder/again"[..]].starts_with("file 2"));
    let repository = fixture.store.repository();
    let index = Index::open(&repository.index(layer.as_bytes())).unwrap();
    let find = |path: &[u8]| index.find(path).unwrap().unwrap().inode.unwrap();
    let Place::Object { digest } = index.place(find(b"sparse")).unwrap() else {
        panic!("a large file is no object")
    };
    let sparse = repository.object(digest).metadata().unwrap();
    assert_eq!(sparse.len(), (8 << 20) + 1);
    assert!(sparse.blocks() * 512 < 1 << 20, "the hole was filled");
    let ping = find(b"etc/ping");
    assert_eq!(
        index.xattr(ping, b"security.capability").unwrap().unwrap(),
        capability
    );
    assert_eq!(index.xattr(ping, b"user.odd").unwrap().unwrap(), b"\n=\0");

    let details = fixture.store.image_details(&id).unwrap();
    assert_eq!((details.layers.len(), details.parent), (2, Some(fixture.base)));
    let steps = history::rows(&fixture.store, "changed").unwrap();
    assert_eq!(
        (steps[0].created_by.as_str(), steps[0].comment.as_str()),
        ("make it", "why")
    );
    assert_eq!((steps[0].id, steps[1].id), (Some(id), Some(fixture.base)));
    assert!(
        details.image.config_json.contains("\"author\":\"me\"")
            && details.image.config_json.contains("\"Cmd\":[\"sh\"]")
    );

    // the same changes give the same layer, and the saved image is the same elsewhere
    let again = commit(
        &fixture.store,
        &record,
        &CommitOptions::default(),
        &Progress::none(),
    )
    .unwrap();
    let layers = fixture.store.image_details(&again).unwrap().layers;
    assert_eq!(layers, details.layers);
    let mut archive = Vec::new();
    save(
        &fixture.store,
        &["changed".to_owned()],
        &mut archive,
        &Progress::none(),
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let other = Store::open(folder.path()).unwrap();
    let loaded = load_archive(&other, "archive", archive.as_slice(), &Progress::none()).unwrap();
    assert_eq!(loaded[0].id, id);
    assert_eq!(other.image_details(&id).unwrap().layers, details.layers);
    // the layer's own root is not among its members: its time is that of the unpacking
    let below = |tree: common::Tree| {
        tree.into_iter()
            .filter(|(path, _)| !path.is_empty())
            .collect::<Vec<_>>()
    };
    assert_eq!(below(tree_of_layer(&other, &layer)), below(tree));
}

#[test]
fn changes_of_the_configuration_alone_add_no_layer() {
    let fixture = fixture();
    let (record, _) = fixture.container("one", None);
    let options = CommitOptions {
        changes: vec!["ENV A=b".parse().unwrap()],
        ..CommitOptions::default()
    };
    let id = commit(&fixture.store, &record, &options, &Progress::none()).unwrap();
    let details = fixture.store.image_details(&id).unwrap();
    assert_eq!(details.layers.len(), 1);
    assert!(details.image.config_json.contains("\"empty_layer\":true"));
}

#[test]
fn an_image_on_a_host_directory_stays_at_home_unless_it_is_full() {
    let fixture = fixture();
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("below"), "below").unwrap();
    let (record, upper) = fixture.container("one", Some(host.path().to_owned()));
    fs::write(upper.join("above"), "above").unwrap();
    let id = commit(
        &fixture.store,
        &record,
        &CommitOptions::default(),
        &Progress::none(),
    )
    .unwrap();
    let image = fixture.store.image(&id).unwrap();
    assert_eq!(image.base_rootfs.as_deref(), Some(host.path()));
    let lowers = fixture.store.layer_lowers(&image).unwrap();
    assert_eq!(lowers.last().unwrap().path(), host.path());
    assert_eq!(lowers.len(), 2);
    let error = save(&fixture.store, &[id.to_string()], Vec::new(), &Progress::none())
        .unwrap_err()
        .to_string();
    assert!(error.contains("--full"), "{error}");
    let options = CommitOptions {
        full: true,
        ..CommitOptions::default()
    };
    let full = commit(&fixture.store, &record, &options, &Progress::none()).unwrap();
    let names: Vec<Vec<u8>> = tree_of_layer(&fixture.store, &fixture.top(&full))
        .into_keys()
        .collect();
    assert_eq!(names, [&b""[..], b"above", b"below"]);
    save(&fixture.store, &[full.to_string()], Vec::new(), &Progress::none()).unwrap();
}

#[test]
fn an_export_is_the_whole_tree() {
    let fixture = fixture();
    let (record, upper) = fixture.container("one", None);
    fs::create_dir(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/new"), "new").unwrap();
    let mut archive = Vec::new();
    export(&fixture.store, &record, &mut archive, &Progress::none()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let other = Store::open(folder.path()).unwrap();
    let options = ImportOptions::default();
    let id = import(&other, archive.as_slice(), &options, &Progress::none()).unwrap();
    let layer = other.image_details(&id).unwrap().layers[0].0;
    let names: Vec<String> = tree_of_layer(&other, &layer)
        .into_keys()
        .map(|path| String::from_utf8(path).unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "",
            "etc",
            "etc/gone",
            "etc/kept",
            "etc/new",
            "folder",
            "folder/hidden",
            "other"
        ]
    );
}

#[test]
fn images_that_something_needs_are_kept() {
    let fixture = fixture();
    let (record, upper) = fixture.container("one", None);
    let remove = |name: &str, force: bool| {
        fixture.store.remove_image(
            name,
            RemoveOptions {
                force,
                ..RemoveOptions::default()
            },
        )
    };
    let conflict = |outcome: Result<Vec<Removal>, StoreError>| match outcome {
        Err(StoreError::Conflict(text)) => text,
        other => panic!("{other:?}"),
    };
    let short = record.id.short();
    assert_eq!(
        conflict(remove("base", false)),
        format!(
            "unable to remove repository reference \"base:latest\" (must force) - container {short} is using its \
             referenced image {}",
            fixture.base.short()
        )
    );
    let id = fixture.base.to_string();
    assert!(conflict(remove(&id, false)).contains("image is being used by stopped container"));
    fs::write(upper.join("x"), "x").unwrap();
    let child = commit(
        &fixture.store,
        &record,
        &CommitOptions {
            name: name("child"),
            ..CommitOptions::default()
        },
        &Progress::none(),
    )
    .unwrap();
    assert_eq!(
        remove("base", true).unwrap(),
        [Removal::Untagged("base:latest".to_owned())]
    );
    fixture.store.containers().delete(&record.id).unwrap();
    assert!(conflict(remove(&id, true)).contains(&format!("dependent child images: {}", child.short())));
    // the child takes its parent along, which has no name any more
    let removed = remove("child", false).unwrap();
    assert!(removed.contains(&Removal::Deleted(child)) && removed.contains(&Removal::Deleted(fixture.base)));
    assert_eq!(fixture.store.image_ids().unwrap(), []);
    assert_eq!(
        fs::read_dir(fixture.store.root().join("layers")).unwrap().count(),
        0
    );
}
