use super::*;
use crate::attr::Time;
use crate::layer::{Content, LayerEntry, LayerNode, Space};
use crate::union::roots;
use std::collections::BTreeMap;

/// A layer made of values: paths and what is there.
#[derive(Default)]
struct Mock(BTreeMap<&'static str, What>);

#[derive(Clone)]
enum What {
    File,
    Copy(Option<Redirect>),
    Dir(Marks),
    Whiteout,
}

impl Mock {
    fn with(entries: &[(&'static str, What)]) -> Arc<dyn Layer> {
        Arc::new(Self(entries.iter().cloned().collect()))
    }
}

fn attr(mode: u32) -> Attr {
    let time = Time::default();
    Attr {
        ino: 1,
        dev: 0,
        mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size_bytes: 1,
        blocks: 0,
        block_size: 4096,
        atime: time,
        mtime: time,
        ctime: time,
        mount_root: false,
    }
}

impl Layer for Mock {
    fn name(&self) -> String {
        "mock".to_owned()
    }
    fn root_attr(&self) -> Result<Attr> {
        Ok(attr(libc::S_IFDIR))
    }
    fn lookup(&self, dir: &LayerNode, name: &OsStr) -> Result<Found> {
        let (dir, name) = (path_of(dir), name.to_str().unwrap());
        let path = if dir.is_empty() {
            name.to_owned()
        } else {
            format!("{dir}/{name}")
        };
        let node = LayerNode::at(OsStr::new(&path));
        Ok(match self.0.get(path.as_str()) {
            None => Found::Absent,
            Some(What::Whiteout) => Found::Whiteout,
            Some(What::Dir(_)) => Found::Entry(node, attr(libc::S_IFDIR)),
            Some(What::File | What::Copy(_)) => Found::Entry(node, attr(libc::S_IFREG)),
        })
    }
    fn marks(&self, node: &LayerNode, _: &Attr) -> Result<Marks> {
        Ok(match self.0.get(path_of(node)) {
            Some(What::Dir(marks)) => marks.clone(),
            Some(What::Copy(redirect)) => Marks {
                metacopy: true,
                redirect: redirect.clone(),
                ..Marks::default()
            },
            _ => Marks::default(),
        })
    }
    fn read_dir(&self, _: &LayerNode) -> Result<Vec<LayerEntry>> {
        unreachable!()
    }
    fn attr(&self, _: &LayerNode) -> Result<Attr> {
        unreachable!()
    }
    fn read_link(&self, _: &LayerNode) -> Result<OsString> {
        unreachable!()
    }
    fn xattr(&self, _: &LayerNode, _: &OsStr) -> Result<Option<Vec<u8>>> {
        unreachable!()
    }
    fn xattr_names(&self, _: &LayerNode) -> Result<Vec<OsString>> {
        unreachable!()
    }
    fn content(&self, _: &LayerNode) -> Result<Content> {
        unreachable!()
    }
    fn space(&self) -> Result<Space> {
        unreachable!()
    }
    fn hard_links(&self, _: &LayerNode, _: &Attr) -> Result<Vec<LayerNode>> {
        unreachable!()
    }
    fn path(&self, _: &LayerNode) -> Result<Arc<OsStr>> {
        unreachable!()
    }
}

fn dir() -> What {
    What::Dir(Marks::default())
}

fn redirected(redirect: Redirect) -> What {
    What::Dir(Marks {
        redirect: Some(redirect),
        ..Marks::default()
    })
}

fn absolute(path: &str) -> Redirect {
    Redirect::Absolute(path.split('/').map(OsString::from).collect())
}

fn path_of(node: &LayerNode) -> &str {
    match node {
        LayerNode::Path(path) => path.to_str().unwrap(),
        LayerNode::Entry(_) => unreachable!(),
    }
}

/// Where `name` of the root is found, as `layer:path`.
fn found(layers: &[Arc<dyn Layer>], name: &str) -> Vec<String> {
    let places = by_name(layers, &roots(layers).unwrap(), OsStr::new(name)).unwrap();
    shown(&places)
}

fn shown(places: &Places) -> Vec<String> {
    places
        .iter()
        .map(|(place, _)| format!("{}:{}", place.layer, path_of(&place.node)))
        .collect()
}

#[test]
fn the_topmost_file_wins() {
    let layers = [
        Mock::with(&[]),
        Mock::with(&[("f", What::File)]),
        Mock::with(&[("f", What::File)]),
    ];
    assert_eq!(found(&layers, "f"), ["1:f"]);
    assert!(found(&layers, "g").is_empty());
}

#[test]
fn a_whiteout_hides_what_is_below_and_nothing_above() {
    let layers = [
        Mock::with(&[("a", What::Whiteout), ("b", What::File)]),
        Mock::with(&[("a", What::File), ("b", What::File)]),
    ];
    assert!(found(&layers, "a").is_empty());
    assert_eq!(found(&layers, "b"), ["0:b"]);
}

#[test]
fn directories_merge_down_to_an_opaque_one_a_file_or_a_whiteout() {
    let opaque = What::Dir(Marks {
        opaque: true,
        ..Marks::default()
    });
    for (middle, expected) in [
        (dir(), vec!["0:d", "1:d", "2:d"]),
        (opaque, vec!["0:d", "1:d"]),
        (What::File, vec!["0:d"]),
        (What::Whiteout, vec!["0:d"]),
    ] {
        let layers = [
            Mock::with(&[("d", dir())]),
            Mock::with(&[("d", middle)]),
            Mock::with(&[("d", dir())]),
        ];
        assert_eq!(found(&layers, "d"), expected);
    }
}

#[test]
fn redirects_lead_to_another_name_or_path_below() {
    let below = Mock::with(&[("old", dir()), ("a", dir()), ("a/b", dir()), ("new", dir())]);
    let sibling = [
        Mock::with(&[("new", redirected(Redirect::Sibling("old".into())))]),
        Arc::clone(&below),
    ];
    assert_eq!(found(&sibling, "new"), ["0:new", "1:old"]);
    let path = [Mock::with(&[("new", redirected(absolute("a/b")))]), below];
    assert_eq!(found(&path, "new"), ["0:new", "1:a/b"]);
}

#[test]
fn a_redirect_met_on_the_way_counts_for_the_layers_below() {
    let layers = [
        Mock::with(&[("x", redirected(absolute("p/q")))]),
        Mock::with(&[("p", redirected(absolute("r"))), ("p/q", dir())]),
        Mock::with(&[("p", dir()), ("p/q", dir()), ("r", dir()), ("r/q", dir())]),
    ];
    assert_eq!(found(&layers, "x"), ["0:x", "1:p/q", "2:r/q"]);
}

#[test]
fn a_redirect_through_something_gone_finds_nothing() {
    let top = ("x", redirected(absolute("p/q")));
    let bottom = Mock::with(&[("p", dir()), ("p/q", dir())]);
    for way in [What::Whiteout, What::File] {
        let layers = [
            Mock::with(std::slice::from_ref(&top)),
            Mock::with(&[("p", way)]),
            Arc::clone(&bottom),
        ];
        assert_eq!(found(&layers, "x"), ["0:x"]);
    }
}

#[test]
fn a_metadata_copy_takes_its_content_from_the_next_regular_file() {
    let layers = [
        Mock::with(&[("f", What::Copy(None))]),
        Mock::with(&[("f", What::Copy(Some(absolute("d/g"))))]),
        Mock::with(&[("f", What::File), ("d", dir()), ("d/g", What::File)]),
    ];
    assert_eq!(found(&layers, "f"), ["0:f", "1:f", "2:d/g"]);
    let lost = [
        Mock::with(&[("f", What::Copy(None))]),
        Mock::with(&[("f", dir())]),
    ];
    assert_eq!(found(&lost, "f"), ["0:f"], "a directory is no content");
}

#[test]
fn an_upper_directory_merges_with_directories_only() {
    let layers = [Mock::with(&[("d", What::File)]), Mock::with(&[("d", dir())])];
    let places = below_upper(
        &layers,
        &roots(&layers).unwrap(),
        OsStr::new("d"),
        &Marks::default(),
    )
    .unwrap();
    assert!(places.is_empty());
}
