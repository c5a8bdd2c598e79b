//! `shale-ufs`: mounts a union of directories, with the command line of fuse-overlayfs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use ufs::background::{Ready, Side, into_background};
use ufs::fs::Fs;
use ufs::fuse::options::MountOptions;
use ufs::fuse::session::Session;
use ufs::fuse::supervisor::{mount_is_ours, prepare, supervise};

const EXAMPLES: &str = "\
Examples:
  Read-only union of two directories, the first on top:
    shale-ufs -o lowerdir=/srv/top:/srv/base /mnt
  Copy-on-write view of a directory:
    shale-ufs -o lowerdir=/srv/base,upperdir=/tmp/up,workdir=/tmp/work /mnt
  End it:
    umount /mnt
  Make whole what a mount with -o partial has copied up in part, so that others can read the upperdir:
    shale-ufs --seal -o lowerdir=/srv/base,upperdir=/tmp/up,workdir=/tmp/work
  The same in the background, while it is mounted:
    setfattr -n user.shale.seal -v 1 /mnt; getfattr -n user.shale.seal /mnt
  As podman's mount program:
    podman --storage-opt overlay.mount_program=$(command -v shale-ufs) run …";

const OPTIONS: &str = "\
Options for -o, separated by commas (write `\\,` and `\\:` for a comma or colon in a path):
  lowerdir=DIR[:DIR...]   read-only directories, top first
  upperdir=DIR workdir=DIR  where changes go; both on one file system
  ro                      no changes: an upperdir is one more layer
  uidmapping=S:D:N[:...]  show owners D.. as S.. (gidmapping likewise)
  squash_to_root          show all files as root's (squash_to_uid=N, squash_to_gid=N)
  squash_overflow         show owners that the user namespace cannot name as root
  volatile, fsync=0       never sync: for throw-away uppers
  passthrough             let the kernel read and write large files itself, and ask the server at every open: for
                          large files that are read or written at once, or by several mounts
  skip_open=off           ask the server at every open, also where nothing can be passed through
  writeback               let the kernel keep what is written for some seconds, or until the file is closed or
                          synced: for many small writes; that the disk is full then shows at the close
  metacopy=off            copy data up also when only metadata changes
  partial                 copy only the blocks of files up that are written; the upperdir
                          is then to be read through a mount, or sealed first (partial_min=BYTES, nopartial)
  seal=SECONDS            make such copies whole that nobody has written to for so long (5; seal=off: never)
  userxattr               keep marks in user.overlay.* as rootless mounts do
  noacl                   no POSIX ACLs
  repository=DIR          where lowers written @NAME are: indexed layers of a store
  cache=MIB               memory for what is decompressed of archives
  timeout=SECONDS         how long the kernel keeps names and attributes
  threads=N               server threads
  supervise[=off]         start a server that dies again on the same mount (the default in the background)
  allow_other dev suid noexec noatime fsname=NAME   as for mount.fuse
Other options of fuse-overlayfs are accepted and change nothing.";

/// Mount a union of directories with copy-on-write.
#[derive(Debug, Parser)]
#[command(name = "shale-ufs", version, after_help = EXAMPLES, after_long_help = format!("{OPTIONS}\n\n{EXAMPLES}"))]
struct Arguments {
    /// Options, separated by commas; may be given several times (`--help` lists them)
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<OsString>,
    /// Stay in the foreground
    #[arg(short = 'f')]
    foreground: bool,
    /// Stay in the foreground and log every refusal
    #[arg(short = 'd', long = "debug")]
    debug: bool,
    /// Mount nothing, but make all partial copies in the upperdir whole
    #[arg(long)]
    seal: bool,
    /// Where to mount
    #[arg(required_unless_present = "seal", conflicts_with = "seal")]
    mountpoint: Option<PathBuf>,
}

impl Arguments {
    /// Empty only where nothing is mounted.
    fn mountpoint(&self) -> &Path {
        self.mountpoint.as_deref().unwrap_or(Path::new(""))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    init_log(arguments.debug);
    match exit_status(run(&arguments)) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut options = MountOptions::parse(&arguments.options)?;
    for unknown in &options.unknown {
        eprintln!("shale-ufs: warning: option `{unknown}` is not known and has no effect");
    }
    if arguments.seal {
        return seal(&options);
    }
    let side = if arguments.foreground || arguments.debug {
        Side::Server(Ready::nobody_waits())
    } else {
        into_background().context("start the server")?
    };
    match side {
        Side::Caller(verdict) => verdict.map_err(|reason| anyhow::anyhow!("{reason}")),
        Side::Server(ready) => start(&mut options, arguments, ready),
    }
}

/// Serves in this process or, supervised, in a child that is started again when it dies.
fn start(options: &mut MountOptions, arguments: &Arguments, ready: Ready) -> anyhow::Result<()> {
    let in_background = !(arguments.foreground || arguments.debug);
    let wanted = options.supervise.unwrap_or(in_background);
    // A mount by fusermount3 has its device from there.
    if !(wanted && mount_is_ours()) {
        return serve(options, arguments, ready);
    }
    let mountpoint = match prepare(options, arguments.mountpoint()) {
        Ok(Some(mountpoint)) => mountpoint,
        Ok(None) => return serve(options, arguments, ready),
        Err(error) if ready.fail(&error.to_string()) => std::process::exit(1),
        Err(error) => return Err(error.into()),
    };
    let status = supervise(ready, |kept, ready| {
        let served = match Session::mount_kept(options, &mountpoint, kept) {
            Ok(session) => session.serve(|| ready.succeed()).context("serve the mount"),
            Err(error) if ready.fail(&error.to_string()) => return 1,
            Err(error) => Err(error.into()),
        };
        exit_status(served)
    })?;
    std::process::exit(status)
}

/// Seals an upper that is not mounted.
fn seal(options: &MountOptions) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.layout.upper.is_some(),
        "there is nothing to seal without upperdir and workdir"
    );
    let fs = Fs::open(&options.layout, options.ids.clone())?;
    let report = fs.seal_all().context("look through the upperdir")?;
    println!("{} sealed", report.sealed);
    anyhow::ensure!(report.left == 0, "{} files stay partial", report.left);
    Ok(())
}

fn exit_status(result: anyhow::Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("shale-ufs: {error:#}");
            1
        }
    }
}

fn serve(options: &MountOptions, arguments: &Arguments, ready: Ready) -> anyhow::Result<()> {
    let session = match Session::mount(options, arguments.mountpoint()) {
        Ok(session) => session,
        Err(error) if ready.fail(&error.to_string()) => std::process::exit(1),
        Err(error) => return Err(error.into()),
    };
    session.serve(|| ready.succeed()).context("serve the mount")
}

fn init_log(debug: bool) {
    let default = if debug { "debug" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SHALE_LOG").unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
