//! What still counts of a journal.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Record;
use crate::fs::Mode;
use crate::io_mode::Side;
use crate::union::number::HandedOut;

/// More than can be under way at a time.
const EXCHANGES_MAX: usize = 256;

/// A node that the kernel was told of, or a file that leads to one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LiveNode {
    /// The number of its file, when the kernel holds this node.
    pub(crate) held: Option<u64>,
    pub(crate) is_dir: bool,
    /// The names that were met, by the number of the directory, the last one last.
    pub(crate) links: Vec<(u64, OsString)>,
}

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LiveHandle {
    pub(crate) node: u64,
    pub(crate) mode: Mode,
    /// The request that asked for it.
    pub(crate) request: u64,
}

/// All that a server knew.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) generation: u64,
    is_complete: bool,
    pub(crate) init: Option<Vec<u8>>,
    pub(crate) nodes: HashMap<u64, LiveNode>,
    pub(crate) handed_out: HandedOut,
    pub(crate) handles: HashMap<u64, LiveHandle>,
    pub(crate) backings: HashMap<u64, (u32, Side)>,
    /// Exchanges that may not have been answered.
    pub(crate) exchanges: BTreeMap<u64, u64>,
    /// The largest handle and second node that were given.
    pub(crate) handle_max: u64,
    pub(crate) node_max: u64,
}

impl Live {
    /// Reads a log up to its end, or to where it is torn.
    pub(super) fn replay(file: &File) -> io::Result<Self> {
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        let mut live = Self::default();
        let mut rest = &bytes[..];
        while let Some((record, after)) = Record::next(rest) {
            live.take(&record);
            rest = after;
        }
        Ok(live)
    }

    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        self.is_complete && (!other.is_complete || self.generation > other.generation)
    }

    fn take(&mut self, record: &Record<'_>) {
        match *record {
            Record::Generation(generation) => self.generation = generation,
            Record::Complete => self.is_complete = true,
            Record::Init(request) => self.init = Some(request.to_vec()),
            Record::Held {
                number,
                inode,
                is_dir,
            } => {
                let node = self.nodes.entry(number).or_default();
                node.held = Some(inode);
                node.is_dir = is_dir;
                self.node_max = self.node_max.max(number);
            }
            Record::Gone { number } => {
                if let Some(node) = self.nodes.get_mut(&number) {
                    node.held = None;
                }
            }
            Record::Link { number, parent, name } => {
                let links = &mut self.nodes.entry(number).or_default().links;
                links.retain(|link| (link.0, link.1.as_os_str()) != (parent, name));
                links.push((parent, name.to_os_string()));
            }
            Record::Unlink { number, parent, name } => {
                if let Some(node) = self.nodes.get_mut(&number) {
                    node.links
                        .retain(|link| (link.0, link.1.as_os_str()) != (parent, name));
                }
            }
            Record::HandedOut { key, number } => {
                self.handed_out.insert(key, number);
            }
            Record::Open {
                handle,
                node,
                mode,
                request,
            } => {
                self.handle_max = self.handle_max.max(handle);
                self.handles.insert(handle, LiveHandle { node, mode, request });
            }
            Record::Closed { handle } => {
                self.handles.remove(&handle);
                self.handle_max = self.handle_max.max(handle);
            }
            Record::Backing { node, id, side } => {
                self.backings.insert(node, (id, side));
            }
            Record::Unbacked { node } => {
                self.backings.remove(&node);
            }
            Record::Exchange { unique, number } => {
                self.exchanges.insert(unique, number);
                // The kernel counts requests upwards: the oldest was answered long ago.
                if self.exchanges.len() > EXCHANGES_MAX {
                    self.exchanges.pop_first();
                }
            }
        }
    }

    /// The numbers of nodes that are held, of the files they stand for, and of the directories on the way there.
    fn needed(&self) -> HashSet<u64> {
        let mut needed = HashSet::new();
        let mut to_do: Vec<u64> = self
            .nodes
            .iter()
            .filter_map(|(number, node)| Some([*number, node.held?]))
            .flatten()
            .collect();
        while let Some(number) = to_do.pop() {
            if needed.insert(number)
                && let Some(node) = self.nodes.get(&number)
            {
                to_do.extend(node.links.iter().map(|(parent, _)| *parent));
            }
        }
        needed
    }

    /// The records that lead to the same, without those that no longer matter.
    pub(super) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let needed = self.needed();
        let init = self.init.iter().map(|request| Record::Init(request));
        let nodes = self
            .nodes
            .iter()
            .filter(move |(number, _)| needed.contains(number));
        let nodes = nodes.flat_map(|(number, node)| node.records(*number));
        let handed_out = self.handed_out.iter().map(|(key, number)| Record::HandedOut {
            key: *key,
            number: *number,
        });
        // So that no handle or second node is given twice.
        let largest = [
            Record::Closed {
                handle: self.handle_max,
            },
            Record::Held {
                number: self.node_max,
                inode: self.node_max,
                is_dir: false,
            },
            Record::Gone {
                number: self.node_max,
            },
        ];
        let handles = self.handles.iter().map(|(handle, open)| Record::Open {
            handle: *handle,
            node: open.node,
            mode: open.mode,
            request: open.request,
        });
        let backings = self.backings.iter().map(|(node, (id, side))| Record::Backing {
            node: *node,
            id: *id,
            side: *side,
        });
        let exchanges = self.exchanges.iter().map(|(unique, number)| Record::Exchange {
            unique: *unique,
            number: *number,
        });
        largest
            .into_iter()
            .chain(init)
            .chain(nodes)
            .chain(handed_out)
            .chain(handles)
            .chain(backings)
            .chain(exchanges)
    }
}

impl LiveNode {
    fn records(&self, number: u64) -> impl Iterator<Item = Record<'_>> {
        let held = self.held.map(|inode| Record::Held {
            number,
            inode,
            is_dir: self.is_dir,
        });
        let links = self.links.iter().map(move |(parent, name)| Record::Link {
            number,
            parent: *parent,
            name,
        });
        held.into_iter().chain(links)
    }
}
