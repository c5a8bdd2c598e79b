//! When all members have come: links that waited, markers, and the order in which everything is written.
//!
//! Only now it is known which names the layer has itself. Markers are taken in the order of their paths, whiteouts
//! first, so that the order of members has no part in the outcome: `.wh.a` beside `a/.wh.b`, without an `a`, removes `a`.

use super::tree::{ROOT, State, Tree, number};
use super::walk::NoWay;
use super::{entry_error, shown, split};
use crate::attr::FileType;
use crate::index::BuildError;
use crate::index::format::NONE;

/// A layer whose members have all come, ready to be written.
#[derive(Debug)]
pub struct Finished {
    pub(super) tree: Tree,
    pub(super) order: Order,
    pub(super) size_bytes: u64,
}

/// What is written, in which order.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Nodes, directory by directory, breadth first, sorted by name in each; the root's first.
    pub(super) entries: Vec<u32>,
    /// File and first entry of each directory.
    pub(super) directories: Vec<(u32, u32)>,
    /// Number of entries of each directory.
    pub(super) counts: Vec<u32>,
    /// File and first entry of everything else.
    pub(super) others: Vec<(u32, u32)>,
    /// Number of each file in what is written.
    pub(super) numbers: Vec<u32>,
    /// Number and entry of each name of a file that has several.
    pub(super) links: Vec<(u32, u32)>,
    /// Length of all names and targets.
    pub(super) name_bytes: u64,
}

impl Tree {
    /// Ends the layer.
    ///
    /// # Errors
    /// When a hard link's target did not come, a link leads in a circle, or the layer is too large.
    pub fn finish(mut self) -> Result<Finished, BuildError> {
        self.finish_links()?;
        self.finish_whiteouts()?;
        self.finish_opaques()?;
        self.seal()?;
        let order = self.order()?;
        let regular = |file: u32| {
            let file = self.files[file as usize];
            let is_regular = self.owners[file.owner as usize][0] & libc::S_IFMT == libc::S_IFREG;
            if is_regular { file.size } else { 0 }
        };
        let size_bytes = order
            .others
            .iter()
            .fold(0u64, |sum, &(file, _)| sum.saturating_add(regular(file)));
        Ok(Finished {
            tree: self,
            order,
            size_bytes,
        })
    }

    /// Resolves the links that waited: one may be the target of another.
    fn finish_links(&mut self) -> Result<(), BuildError> {
        let links = std::mem::take(&mut self.waiting.links);
        self.bury();
        for first in 1..self.nodes.len() {
            if self.nodes[first].state != State::Waiting {
                continue;
            }
            let mut chain = vec![u32::try_from(first).unwrap_or(NONE)];
            while let Some(&node) = chain.last() {
                let (path, target) = &links[self.nodes[node as usize].file as usize];
                match self.target(path, target)? {
                    Some(found) if self.nodes[found as usize].state == State::File => {
                        for node in chain.drain(..) {
                            self.nodes[node as usize].file = self.nodes[found as usize].file;
                            self.nodes[node as usize].state = State::File;
                        }
                    }
                    // longer than all links together: a circle
                    Some(found) if chain.len() <= links.len() => chain.push(found),
                    _ => {
                        let problem = format!(
                            "is a hard link to {:?}, which is not in the archive",
                            shown(target)
                        );
                        return Err(entry_error(path, problem));
                    }
                }
            }
        }
        Ok(())
    }

    /// Lets what lies in a directory that was replaced be dead like that. A node comes after its parent.
    fn bury(&mut self) {
        for node in 1..self.nodes.len() {
            let parent = self.nodes[node].parent as usize;
            if self.nodes[parent].state == State::Dead {
                self.nodes[node].state = State::Dead;
            }
        }
    }

    fn finish_whiteouts(&mut self) -> Result<(), BuildError> {
        let mut whiteouts = std::mem::take(&mut self.waiting.whiteouts);
        whiteouts.sort_unstable();
        whiteouts.dedup();
        for path in &whiteouts {
            let (dir, name) = split(path);
            let parent = match self.enter(dir, path)? {
                Ok(parent) => parent,
                Err(NoWay::NotADirectory) => continue, // a file or a whiteout hides it anyway
                Err(problem) => return Err(entry_error(path, problem.text())),
            };
            match self.child(parent, name) {
                None => {
                    let node = self.replace(path, parent, name)?;
                    self.nodes[node as usize].state = State::Whiteout;
                }
                Some(node) => self.make_opaque(node),
            }
        }
        Ok(())
    }

    fn finish_opaques(&mut self) -> Result<(), BuildError> {
        let mut opaques = std::mem::take(&mut self.waiting.opaques);
        opaques.sort_unstable();
        opaques.dedup();
        for path in &opaques {
            match self.enter(path, path)? {
                Ok(node) => self.make_opaque(node),
                Err(NoWay::NotADirectory) => {} // a file or a whiteout hides everything anyway
                Err(problem) => return Err(entry_error(path, problem.text())),
            }
        }
        Ok(())
    }

    /// Marks a directory; nothing else hides in part.
    fn make_opaque(&mut self, node: u32) {
        if self.is_dir(node) {
            self.files[self.nodes[node as usize].file as usize].part = 1;
        }
    }

    /// Puts everything into the order in which it is written, and counts names.
    fn order(&mut self) -> Result<Order, BuildError> {
        let (starts, mut grouped) = self.group();
        let mut order = Order {
            entries: vec![ROOT],
            directories: vec![(self.nodes[ROOT as usize].file, 0)],
            numbers: vec![NONE; self.files.len()],
            ..Order::default()
        };
        order.numbers[self.nodes[ROOT as usize].file as usize] = 0;
        let mut at = 0;
        while let Some(&(file, entry)) = order.directories.get(at) {
            let node = order.entries[entry as usize] as usize;
            let children = &mut grouped[starts[node] as usize..starts[node + 1] as usize];
            children.sort_unstable_by(|&a, &b| {
                let name = |node: u32| self.name(&self.nodes[node as usize]);
                name(a).cmp(name(b))
            });
            order.counts.push(number(children.len(), "names")?);
            let mut subdirectories = 0;
            for &child in &*children {
                subdirectories += u32::from(self.is_dir(child));
                self.place(&mut order, child)?;
            }
            self.files[file as usize].nlink = 2 + subdirectories;
            at += 1;
        }
        self.number_others(&mut order);
        let targets = order.others.iter().map(|&(file, _)| self.target_bytes(file));
        order.name_bytes += targets.sum::<u64>();
        if order.name_bytes > u64::from(u32::MAX) {
            return Err(BuildError::TooLarge("bytes of names"));
        }
        Ok(order)
    }

    /// Nodes by their parents, and where the children of each start.
    fn group(&self) -> (Vec<u32>, Vec<u32>) {
        let mut starts = vec![0u32; self.nodes.len() + 1];
        let children = || {
            (1u32..)
                .zip(&self.nodes[1..])
                .filter(|(_, node)| node.state != State::Dead)
        };
        for (_, node) in children() {
            starts[node.parent as usize] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut grouped = vec![0; sum as usize];
        for (number, node) in children() {
            let start = &mut starts[node.parent as usize];
            *start -= 1;
            grouped[*start as usize] = number;
        }
        (starts, grouped)
    }

    /// Appends a name to what is written.
    fn place(&mut self, order: &mut Order, child: u32) -> Result<(), BuildError> {
        let node = self.nodes[child as usize];
        let entry = number(order.entries.len(), "names")?;
        order.entries.push(child);
        order.name_bytes += u64::from(node.name_bytes);
        if node.state == State::Whiteout {
            return Ok(());
        }
        let known = &mut order.numbers[node.file as usize];
        if self.is_dir(child) {
            *known = number(order.directories.len(), "directories")?;
            order.directories.push((node.file, entry));
            return Ok(());
        }
        if *known == NONE {
            *known = number(order.others.len(), "files")?;
            order.others.push((node.file, entry));
        }
        self.files[node.file as usize].nlink += 1;
        Ok(())
    }

    /// Lets the numbers of files that are no directories follow those of the directories.
    fn number_others(&self, order: &mut Order) {
        let first = u32::try_from(order.directories.len()).unwrap_or(NONE);
        for &(file, _) in &order.others {
            order.numbers[file as usize] += first;
        }
        for (entry, &node) in (0..).zip(&order.entries) {
            let node = self.nodes[node as usize];
            if node.state == State::File {
                let number = order.numbers[node.file as usize];
                if number >= first && self.files[node.file as usize].nlink > 1 {
                    order.links.push((number, entry));
                }
            }
        }
        order.links.sort_unstable();
    }

    /// Length of a symbolic link's target.
    fn target_bytes(&self, file: u32) -> u64 {
        let file = self.files[file as usize];
        let mode = self.owners[file.owner as usize][0];
        if FileType::from_mode(mode) == FileType::Symlink {
            file.size
        } else {
            0
        }
    }
}
