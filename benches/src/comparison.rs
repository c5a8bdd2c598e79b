//! A whole run: find the systems, make the base, measure, clean up.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use crate::candidate::{Candidate, Images};
use crate::data::{Data, Sizes, Stack};
use crate::error::{BenchError, Doing, Result, chain};
use crate::host::{self, Host};
use crate::images::place;
use crate::random_io::RandomIo;
use crate::report::{Report, Version};
use crate::runner::Runner;
use crate::scratch::{self, Scratch};
use crate::system::System;
use crate::workload::{Ability, Change, Workload};

/// Names of those whom shale can be compared with.
pub const PEERS: [&str; 3] = ["overlayfs", "fuse-overlayfs", "native"];
/// Names of shale's own ways to mount.
pub const MODES: [&str; 4] = ["shale", "shale-passthrough", "shale-image", "shale-image-rw"];

/// What is to be compared.
pub struct Request {
    /// What to do.
    pub workloads: Vec<Box<dyn Workload>>,
    /// Of [`PEERS`].
    pub against: Vec<String>,
    /// Of [`MODES`].
    pub modes: Vec<String>,
    /// Where the base is made.
    pub dir: PathBuf,
    /// Whether the base may be a file system of its own: else it is a directory of `dir`, for root as well.
    pub loop_device: bool,
    /// Measurements of each workload on each system.
    pub rounds: usize,
    /// A directory or an archive that takes the place of the tree.
    pub rootfs: Option<PathBuf>,
    /// Whether fio makes random reads and writes, where it is installed.
    pub fio: bool,
    /// `shale`.
    pub shale: PathBuf,
    /// `shale-ufs`.
    pub shale_ufs: PathBuf,
    /// `fuse-overlayfs`.
    pub fuse_overlayfs: PathBuf,
    /// More options for `shale-ufs`.
    pub ufs_options: Vec<String>,
    /// How much.
    pub sizes: Sizes,
    /// Date to note; without it, that of the system's clock.
    pub date: Option<String>,
}

/// What a run tells while it lasts.
#[derive(Debug)]
pub enum Event<'a> {
    /// The base is being made.
    Base {
        /// What it will be.
        file_system: &'a str,
    },
    /// A workload begins.
    Workload {
        /// Counted from 1.
        number: usize,
        /// Of how many.
        of: usize,
        /// Its name.
        name: &'a str,
        /// What it does.
        about: &'a str,
    },
    /// A measurement begins.
    Turn {
        /// Counted from 1.
        round: usize,
        /// Of how many.
        of: usize,
        /// Who is measured.
        system: &'a str,
    },
}

/// Compares. What was measured before an interruption is in the report, which says so.
///
/// # Errors
/// When shale's own programs are missing, or the base cannot be made.
pub fn run(request: &Request, tell: &mut dyn FnMut(&Event<'_>)) -> Result<Report> {
    let mut host = Host::here(request.date.clone());
    let ability = Ability {
        root: scratch::is_root(),
        rootfs: request.rootfs.is_some(),
    };
    let own_base = ability.root && request.loop_device;
    let (workloads, left_out) = possible(&request.workloads, ability);
    check_space(request, &workloads)?;
    let file_system = match own_base {
        true => "a fresh ext4 on a loop device".to_owned(),
        false => format!("{}, as it is", host::file_system(&request.dir)),
    };
    tell(&Event::Base {
        file_system: &file_system,
    });
    let scratch = match own_base {
        true => Scratch::make_for(&request.dir, needed(request, &workloads), Some(inodes(request)))?,
        false => Scratch::directory(&request.dir)?,
    };
    let (candidates, versions, missing) = find_systems(request, &scratch)?;
    let data = Data::new(&scratch.base().join("l"), &request.sizes, request.rootfs.clone())?;
    let random_io = RandomIo::find(request.fio, &scratch.base())?;
    let mut report = Report {
        base: PEERS
            .into_iter()
            .find(|name| candidates.iter().any(|one| one.name() == *name)),
        file_system,
        systems: versions,
        missing,
        left_out,
        caches_dropped: ability.root,
        random_io: random_io.describe(),
        rootfs: request.rootfs.as_ref().map(|path| path.display().to_string()),
        rounds: request.rounds,
        interrupted: false,
        sizes: request.sizes.clone(),
        rows: Vec::new(),
        host: host.clone(),
    };
    let mut runner = Runner {
        options: vec![None; candidates.len()],
        base: report.base,
        images: Images::new(&scratch.base()),
        scratch: &scratch,
        sizes: &request.sizes,
        candidates: &candidates,
        rounds: request.rounds,
        data,
        random_io,
    };
    for (number, workload) in workloads.iter().enumerate() {
        tell(&Event::Workload {
            number: number + 1,
            of: workloads.len(),
            name: workload.name(),
            about: &workload.about(&request.sizes),
        });
        let mut turn = |round: usize, system: &'static str| {
            tell(&Event::Turn {
                round: round + 1,
                of: request.rounds,
                system,
            });
        };
        match runner.measure(*workload, &mut turn) {
            Ok(row) => report.rows.push(row),
            Err(BenchError::Interrupted) => {
                report.interrupted = true;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    for (version, options) in report.systems.iter_mut().zip(runner.options) {
        version.options = options;
    }
    host.load_after = host::load();
    report.host = host;
    Ok(report)
}

/// The workloads that can be run here, and why the others cannot.
fn possible(all: &[Box<dyn Workload>], ability: Ability) -> (Vec<&dyn Workload>, Vec<String>) {
    let (mut workloads, mut left_out) = (Vec::new(), Vec::new());
    for workload in all {
        match workload.obstacle(ability) {
            None => workloads.push(&**workload),
            Some(why) => left_out.push(format!("{}: {why}", workload.name())),
        }
    }
    (workloads, left_out)
}

/// The systems that can be mounted here, their versions, and what is missing. Peers may be; of shale's modes one must
/// be left.
fn find_systems(request: &Request, scratch: &Scratch) -> Result<(Vec<Candidate>, Vec<Version>, Vec<String>)> {
    let (mut candidates, mut versions, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let mut refused = None;
    for name in PEERS.iter().chain(&MODES) {
        let wanted = |names: &[String]| names.iter().any(|one| one == name);
        if !wanted(&request.against) && !wanted(&request.modes) {
            continue;
        }
        if let Some(why) = beside_the_point(name) {
            missing.push(format!("{name}: {why}"));
            continue;
        }
        let candidate = candidate(name, request);
        let tried = candidate.version().and_then(|version| {
            try_mount(&candidate, scratch)?;
            Ok(version)
        });
        match tried {
            Ok(version) => {
                versions.push(Version {
                    name,
                    version,
                    options: None,
                });
                candidates.push(candidate);
            }
            Err(error) => {
                missing.push(format!("{name}: {}", chain(&error)));
                if MODES.contains(name) {
                    refused.get_or_insert(error);
                }
            }
        }
    }
    let own = candidates.iter().any(|one| MODES.contains(&one.name()));
    match refused {
        Some(error) if !own => Err(error),
        _ => Ok((candidates, versions, missing)),
    }
}

/// What a plain user's run says nothing about.
fn beside_the_point(name: &str) -> Option<&'static str> {
    if scratch::is_root() {
        return None;
    }
    match name {
        "shale-passthrough" => Some("passthrough needs root"),
        name if name.starts_with("shale-image") => Some("a plain user's mount ends with its command"),
        _ => None,
    }
}

fn candidate(name: &str, request: &Request) -> Candidate {
    let shale = |passthrough| {
        Candidate::Union(System::Shale {
            program: request.shale_ufs.clone(),
            passthrough,
            options: request.ufs_options.clone(),
        })
    };
    let image = |writable| Candidate::Image {
        program: request.shale.clone(),
        writable,
    };
    match name {
        "overlayfs" => Candidate::Union(System::Overlayfs),
        "fuse-overlayfs" => Candidate::Union(System::FuseOverlayfs {
            program: request.fuse_overlayfs.clone(),
        }),
        "native" => Candidate::Native,
        "shale-passthrough" => shale(true),
        "shale-image" => image(false),
        "shale-image-rw" => image(true),
        _ => shale(false),
    }
}

/// Whether it can be mounted by this user, with this base for an upper.
fn try_mount(candidate: &Candidate, scratch: &Scratch) -> Result<()> {
    let Candidate::Union(system) = candidate else {
        return Ok(());
    };
    let dir = scratch.base().join("try");
    let part = |name: &str| {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).doing("make", &path)?;
        Ok::<_, BenchError>(path)
    };
    let layout = crate::system::Layout {
        lowers: vec![part("lower")?],
        upper: part("upper")?,
        work: part("work")?,
    };
    system.mount(&layout, &scratch.mountpoint())?.end()?;
    std::fs::remove_dir_all(&dir).doing("remove", &dir)
}

/// Bytes for all layers, for their images, and for the largest upper.
fn needed(request: &Request, workloads: &[&dyn Workload]) -> u64 {
    let sizes = &request.sizes;
    let rootfs = request.rootfs.as_deref().map_or(0, unpacked_bytes);
    let small = 8192;
    let bytes = |stack: Stack| match stack {
        Stack::Real if rootfs > 0 => rootfs,
        Stack::Tree | Stack::Real => sizes.tree_entries() as u64 * small,
        Stack::Large => sizes.size,
        Stack::Shared => sizes.shared_size,
        Stack::Sized(bytes) => bytes,
        Stack::Programs => 8 << 20,
        Stack::Deep(layers) => (sizes.names + 2 * layers) as u64 * small,
        Stack::Sources => (sizes.sources + 100) as u64 * small,
        Stack::Inodes => sizes.inodes as u64 * 128,
    };
    let mut stacks: Vec<Stack> = workloads.iter().map(|workload| workload.stack()).collect();
    stacks.sort_unstable();
    stacks.dedup();
    let layers: u64 = stacks.into_iter().map(bytes).sum();
    let upper = |workload: &&dyn Workload| {
        let copied = match workload.change() {
            Change::Alters => bytes(workload.stack()),
            _ => 0,
        };
        copied + workload.extra_bytes(sizes) + (sizes.create + 2 * sizes.files) as u64 * small
    };
    let upper = workloads.iter().map(upper).max().unwrap_or(0);
    let images = request.modes.iter().any(|mode| mode.starts_with("shale-image"));
    let all = layers * (1 + u64::from(images)) + upper;
    all + all / 8 + (384 << 20)
}

/// Inodes of the base: layers, their copies and uppers.
fn inodes(request: &Request) -> u64 {
    let sizes = &request.sizes;
    let tree = 4 * sizes.files + 2 * sizes.inodes + 8 * sizes.names + 2 * sizes.create;
    50_000 + tree as u64 + if request.rootfs.is_some() { 400_000 } else { 0 }
}

/// About what a root file system takes unpacked: an archive may be compressed.
fn unpacked_bytes(path: &Path) -> u64 {
    if path.is_dir() {
        return place::disk_usage(path).unwrap_or(4 << 30);
    }
    let length = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    match path.extension().is_some_and(|extension| extension == "tar") {
        true => length + length / 2,
        false => length * 6,
    }
}

fn check_space(request: &Request, workloads: &[&dyn Workload]) -> Result<()> {
    let stat = statvfs(&request.dir).doing("look at the disk of", &request.dir)?;
    let free = stat.blocks_available() * stat.fragment_size();
    let needed = needed(request, workloads);
    if needed <= free {
        return Ok(());
    }
    Err(BenchError::Space {
        dir: request.dir.clone(),
        needed_mib: needed >> 20,
        free_mib: free >> 20,
    })
}
