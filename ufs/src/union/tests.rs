//! Identity when others change a file between the look for it and the answer.

use std::fs;

use super::*;
use crate::UpperOptions;
use crate::upper::copy_up::Depth;

fn union_of(folder: &Path) -> Union {
    let layout = Layout {
        lowers: vec![folder.join("lower").into()],
        upper: Some((folder.join("upper"), folder.join("work"))),
        options: UpperOptions {
            user_marks: true,
            ..UpperOptions::default()
        },
        ..Layout::default()
    };
    Union::open(&layout, Arc::default(), &mut Live::default(), HashMap::new()).unwrap()
}

/// Copied up and forgotten, or given its content and forgotten: what was found before would be the file as it was.
#[test]
fn what_was_copied_up_since_it_was_found_is_looked_up_again() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("lower/f"), "content").unwrap();
    let union = union_of(folder.path());
    let name = OsStr::new("f");
    let find = || union.resolve(&union.root, name).unwrap().unwrap();
    for depth in [Depth::Metadata, Depth::Content] {
        let found_before = find();
        let node = union.adopt(&union.root, name, find()).unwrap();
        union.copy_up(&node.inode, depth).unwrap();
        let id = node.id;
        drop(node);
        union.nodes.forget(id, 1);
        assert!(union.nodes.get(id).is_none(), "it is forgotten");

        let node = union.adopt(&union.root, name, found_before).unwrap();
        assert!(node.inode.in_upper(), "{depth:?}");
        assert_eq!(node.inode.state.read().metadata_only, depth == Depth::Metadata);
        union.nodes.forget(node.id, 1);
    }
}
