//! How random layers and operations are drawn: few names and short paths, so that they meet often.

use crate::layers::{Item, Layer};
use crate::ops::{Access, Op, RelPath, RenameFlag, XattrFlag};
use proptest::collection::vec;
use proptest::prelude::*;

/// One random test: lower layers (top first) and the steps.
#[derive(Clone, Debug)]
pub struct Case {
    /// Top first.
    pub layers: Vec<Layer>,
    /// In order.
    pub ops: Vec<Op>,
}

/// More of everything: sequences in which a directory moves many times over many layers.
pub const LONG: Shape = Shape {
    max_layers: 6,
    max_entries: 14,
    max_ops: 90,
    lower_links: true,
    one_user: false,
};

/// Which cases are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// At most so many layers.
    pub max_layers: usize,
    /// At most so many entries in a layer.
    pub max_entries: usize,
    /// At most so many steps.
    pub max_ops: usize,
    /// Whether layers hold hard links.
    pub lower_links: bool,
    /// Whether there is one owner only, no device and no `trusted.*` attribute, as in a user namespace.
    pub one_user: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            max_layers: 3,
            max_entries: 8,
            max_ops: 24,
            lower_links: true,
            one_user: false,
        }
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(b"a".to_vec()),
        4 => Just(b"b".to_vec()),
        2 => Just(b"c".to_vec()),
        1 => Just(b"n\xff".to_vec()),
    ]
}

fn path() -> impl Strategy<Value = RelPath> {
    prop_oneof![
        3 => vec(name(), 1),
        4 => vec(name(), 2),
        2 => vec(name(), 3),
    ]
    .prop_map(RelPath)
}

/// Names that are valid text, for opaque directories and link targets.
fn target() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"a".to_vec()),
        Just(b"b".to_vec()),
        Just(b"a/b".to_vec()),
        Just(b"missing".to_vec())
    ]
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    vec(b'A'..=b'Z', 1..12)
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0o644),
        Just(0o755),
        Just(0o600),
        Just(0o4755),
        Just(0o2755),
        Just(0o000)
    ]
}

fn owner() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0_u32), Just(1000), Just(65534)]
}

fn xattr_name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("user.lower".to_owned()),
        Just("user.x".to_owned()),
        Just("trusted.x".to_owned())
    ]
}

fn item(links: bool) -> impl Strategy<Value = Item> {
    let link_weight = u32::from(links);
    prop_oneof![
        5 => data().prop_map(Item::File),
        4 => Just(Item::Dir { opaque: false }),
        1 => Just(Item::Dir { opaque: true }),
        1 => target().prop_map(Item::Symlink),
        1 => Just(Item::Fifo),
        2 => Just(Item::Whiteout),
        1 + link_weight => data().prop_map(move |d| if links { Item::Linked(d) } else { Item::File(d) }),
    ]
}

fn layers(shape: Shape) -> impl Strategy<Value = Vec<Layer>> {
    let xattr = proptest::option::weighted(0.2, data());
    let entry = (path(), item(shape.lower_links), mode(), owner(), xattr);
    vec(vec(entry, 0..=shape.max_entries), 1..=shape.max_layers).prop_map(|lists| {
        let layers = lists
            .iter()
            .enumerate()
            .map(|(index, list)| Layer::from_list(index, list))
            .collect();
        without_stray_whiteouts(layers)
    })
}

/// Drops whiteouts in directories that are not merged with one below: the kernel's overlayfs lists such a
/// whiteout and then does not find it, so that there is nothing to compare with (a named test covers ours).
fn without_stray_whiteouts(mut layers: Vec<Layer>) -> Vec<Layer> {
    for index in (0..layers.len()).rev() {
        let below = crate::model::Model::of_layers(&layers[index + 1..]).snapshot();
        let layer = &mut layers[index];
        let is_merged = |path: &RelPath, layer: &Layer| {
            let mut ancestor = path.parent();
            while let Some(directory) = ancestor {
                let is_dir = |entry: &crate::snapshot::Entry| entry.kind == crate::snapshot::Kind::Dir;
                let opaque = layer
                    .entries
                    .get(&directory)
                    .is_some_and(|e| e.item == Item::Dir { opaque: true });
                if opaque || !below.entries.get(&directory.bytes()).is_some_and(is_dir) {
                    return false;
                }
                ancestor = directory.parent();
            }
            // In the root all is well: it is merged with the upper directory.
            true
        };
        let strays: Vec<RelPath> = layer
            .entries
            .iter()
            .filter(|(path, entry)| entry.item == Item::Whiteout && !is_merged(path, layer))
            .map(|(path, _)| path.clone())
            .collect();
        for stray in strays {
            layer.entries.remove(&stray);
        }
    }
    layers
}

fn changing_op() -> impl Strategy<Value = Op> {
    let rename_flag = prop_oneof![4 => Just(RenameFlag::Plain), 1 => Just(RenameFlag::NoReplace), 2 => Just(RenameFlag::Exchange)];
    let xattr_flag =
        prop_oneof![2 => Just(XattrFlag::Any), 1 => Just(XattrFlag::Create), 1 => Just(XattrFlag::Replace)];
    prop_oneof![
        4 => (path(), data(), any::<bool>()).prop_map(|(path, data, exclusive)| Op::Create { path, data, exclusive }),
        3 => (path(), 0_u64..20, data()).prop_map(|(path, offset, data)| Op::WriteAt { path, offset, data }),
        2 => (path(), data()).prop_map(|(path, data)| Op::Append { path, data }),
        1 => (path(), 0_u64..20).prop_map(|(path, len)| Op::Truncate { path, len }),
        3 => (path(), prop_oneof![Just(0o755_u32), Just(0o777), Just(0o700)])
            .prop_map(|(path, mode)| Op::Mkdir { path, mode }),
        3 => path().prop_map(|path| Op::Rmdir { path }),
        4 => path().prop_map(|path| Op::Unlink { path }),
        8 => (path(), path(), rename_flag).prop_map(|(from, to, flag)| Op::Rename { from, to, flag }),
        3 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        1 => (target(), path()).prop_map(|(target, path)| Op::Symlink { target, path }),
        1 => path().prop_map(|path| Op::Mkfifo { path }),
        1 => path().prop_map(|path| Op::Mknod { path }),
        1 => (path(), 0_u64..20, 1_u64..20).prop_map(|(path, offset, len)| Op::Punch { path, offset, len }),
        1 => (path(), path(), 1_u64..20).prop_map(|(from, to, len)| Op::CopyRange { from, to, len }),
        1 => (path(), data()).prop_map(|(path, data)| Op::TmpfileLink { path, data }),
        2 => (path(), mode()).prop_map(|(path, mode)| Op::Chmod { path, mode }),
        1 => (path(), owner(), owner()).prop_map(|(path, uid, gid)| Op::Chown { path, uid, gid }),
        1 => (path(), 1_i64..2_000_000_000, 0_u32..1_000_000_000)
            .prop_map(|(path, secs, nanos)| Op::SetTimes { path, secs, nanos }),
        2 => (path(), xattr_name(), data(), xattr_flag)
            .prop_map(|(path, name, value, flag)| Op::SetXattr { path, name, value, flag }),
        1 => (path(), xattr_name()).prop_map(|(path, name)| Op::RemoveXattr { path, name }),
        1 => Just(Op::Remount),
        2 => Just(Op::DropCaches),
    ]
}

fn held_op() -> impl Strategy<Value = Op> {
    let slot = || 0_u8..3;
    let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::ReadWrite)];
    prop_oneof![
        3 => (slot(), path(), access).prop_map(|(slot, path, access)| Op::Hold { slot, path, access }),
        2 => (slot(), 0_u64..20, data()).prop_map(|(slot, offset, data)| Op::HeldWrite { slot, offset, data }),
        2 => slot().prop_map(|slot| Op::HeldRead { slot }),
        1 => (slot(), 0_u64..20).prop_map(|(slot, len)| Op::HeldTruncate { slot, len }),
        1 => (slot(), mode()).prop_map(|(slot, mode)| Op::HeldChmod { slot, mode }),
        1 => slot().prop_map(|slot| Op::HeldClose { slot }),
    ]
}

fn looking_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => path().prop_map(|path| Op::Read { path }),
        2 => path().prop_map(|path| Op::Stat { path }),
        2 => path().prop_map(|path| Op::List { path }),
        1 => path().prop_map(|path| Op::Readlink { path }),
    ]
}

/// Random layers and steps.
pub fn case(shape: Shape) -> impl Strategy<Value = Case> {
    let op = prop_oneof![6 => changing_op(), 2 => held_op(), 2 => looking_op()];
    // Paths of one name from the layers are aimed at as well: links get names that no path draws.
    (
        layers(shape),
        vec(op, 1..=shape.max_ops),
        vec(any::<prop::sample::Index>(), 4),
    )
        .prop_map(move |(layers, mut ops, picks)| {
            aim_at_links(&layers, &mut ops, &picks);
            let case = Case { layers, ops };
            if shape.one_user { case.for_one_user() } else { case }
        })
}

impl Case {
    /// The same without what needs rights outside a user namespace.
    fn for_one_user(mut self) -> Case {
        for entry in self
            .layers
            .iter_mut()
            .flat_map(|layer| layer.entries.values_mut())
        {
            entry.owner = 0;
            entry.mode &= 0o777;
        }
        for op in &mut self.ops {
            match op {
                Op::Mknod { path } => *op = Op::Mkfifo { path: path.clone() },
                Op::Chown { uid, gid, .. } => (*uid, *gid) = (0, 0),
                // A write by the root of a user namespace clears set-id bits, as by any user.
                Op::Chmod { mode, .. } | Op::HeldChmod { mode, .. } => *mode &= 0o777,
                Op::SetXattr { name, .. } | Op::RemoveXattr { name, .. } => {
                    *name = name.replace("trusted.", "user.t");
                }
                // Names are forgotten by a remount of the file system, which a user namespace may not do.
                Op::DropCaches => {
                    *op = Op::Stat {
                        path: crate::ops::p("a"),
                    }
                }
                _ => {}
            }
        }
        self
    }
}

/// Where the file is after those of `ops` that rename a directory above it, if all of them succeed.
fn follow_moves(ops: &[Op], aim: &mut RelPath) {
    for op in ops {
        if let Op::Rename { from, to, .. } = op
            && aim.0.starts_with(&from.0)
        {
            aim.0.splice(..from.0.len(), to.0.iter().cloned());
        }
    }
}

/// Redirects some steps to the hard links of the layers.
fn aim_at_links(layers: &[Layer], ops: &mut [Op], picks: &[prop::sample::Index]) {
    let linked: Vec<RelPath> = layers
        .iter()
        .flat_map(|layer| &layer.entries)
        .filter(|(_, entry)| matches!(entry.item, Item::Linked(_)))
        .flat_map(|(path, _)| <[RelPath; 2]>::from(crate::layers::linked_names(path)))
        .collect();
    if linked.is_empty() {
        return;
    }
    for pick in picks {
        let at = pick.index(ops.len());
        let mut aim = linked[(at + pick.index(linked.len())) % linked.len()].clone();
        if at % 2 == 1 {
            follow_moves(&ops[..at], &mut aim);
        }
        match &mut ops[at] {
            Op::WriteAt { path, .. }
            | Op::Append { path, .. }
            | Op::Truncate { path, .. }
            | Op::Unlink { path }
            | Op::Rename { from: path, .. }
            | Op::Link { from: path, .. }
            | Op::Chmod { path, .. }
            | Op::Hold { path, .. }
            | Op::Read { path }
            | Op::Stat { path } => *path = aim,
            _ => {}
        }
    }
}
