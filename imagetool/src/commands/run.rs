//! `shale run`.

use std::io::IsTerminal;
use std::path::PathBuf;

use imagetool::container::ContainerError;
use imagetool::container::run::{Options, run};
use imagetool::error::StoreError;
use imagetool::pull::{PullOptions, pull};
use imagetool::reference::Reference;
use imagetool::store::Store;
use imagetool::transfer::{Board, Lines};

use super::registry_options::RegistryArgs;
use crate::cli::Context;

const EXAMPLES: &str = "Examples:
  shale run --rootfs / sh -c 'echo changed > /etc/motd'   on a copy-on-write view of this machine
  shale run -it --rm debian:12 bash                       a shell in an image
  shale run -v \"$PWD\":/src -w /src gcc:13 make            build what lies here

The exit status is the command's own, 125 when shale failed, 126 when the command cannot be run, 127 when it is not \
found, 128+N when signal N ended it.";

/// Docker's options that a caller may well give and that are still to come, and why each does not work.
const NOT_YET: [(&[&str], &str); 4] = [
    (&["-d", "--detach"], "detached containers are not there yet"),
    (
        &["-p", "--publish", "-P", "--publish-all"],
        "there are no networks but host and none yet: with --network host, ports need no publishing",
    ),
    (&["--mount"], "write it as -v HOST-PATH:PATH[:ro]"),
    (
        &["-m", "--memory", "--cpus", "--pids-limit"],
        "limits are not there yet",
    ),
];

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, disable_help_flag = true)]
pub(crate) struct Args {
    /// Keep standard input open for the command
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Remove the container when the command ends
    #[arg(long)]
    rm: bool,
    /// Name the container
    #[arg(long)]
    name: Option<String>,
    /// Set a variable; without a value, take it from the environment of shale
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set the variables of a file, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Start the command in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Show a directory or file of the host in the container
    #[arg(short, long, value_name = "HOST-PATH:PATH[:ro]")]
    volume: Vec<String>,
    /// Mount a memory file system
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Let the command change nothing in the root file system
    #[arg(long)]
    read_only: bool,
    /// Run this program instead of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// The container's hostname [default: the host's with --network host, else the container's id]
    #[arg(short = 'h', long)]
    hostname: Option<String>,
    /// The network: host or none. There is no bridge yet, so that host is the default for now
    #[arg(long, visible_alias = "net", default_value = "host")]
    network: String,
    /// Give a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Give all capabilities and take all walls but the namespaces away
    #[arg(long)]
    privileged: bool,
    /// Run on a copy-on-write view of this directory instead of an image: / is this machine
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// The OCI runtime, by name or path
    #[arg(long, value_name = "RUNTIME", default_value = "shale-runtime")]
    runtime: String,
    /// When to download the image: always, missing or never
    #[arg(long, value_name = "POLICY", default_value = "missing", value_parser = ["always", "missing", "never"])]
    pull: String,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Write the container's id to a new file
    #[arg(long, value_name = "FILE")]
    cidfile: Option<PathBuf>,
    /// Attach a label
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Limit a resource
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// seccomp=unconfined, seccomp=FILE, no-new-privileges, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// The signal that asks the command to end [default: the image's, or SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: (),
    /// The image (unless --rootfs is given), the command and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE [COMMAND] [ARG]"
    )]
    words: Vec<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        if self.interactive && self.tty && !std::io::stdin().is_terminal() {
            eprintln!("the input device is not a TTY");
            return Ok(1);
        }
        if let Some(word) = self.words.first().filter(|word| word.starts_with('-')) {
            eprintln!("shale: {}\nSee 'shale run --help'.", unknown_flag(word));
            return Ok(125);
        }
        let (policy, registry) = (self.pull.clone(), self.registry.clone());
        let Some(options) = self.into_options() else {
            eprintln!("shale: name an image, or a directory with --rootfs.\nSee 'shale run --help'.");
            return Ok(125);
        };
        let status = context.store().and_then(|store| {
            if options.rootfs.is_none() {
                fetch(&store, &registry, &policy, &options.image)?;
            }
            Ok(run(&store, &options)?)
        });
        status.or_else(|error| {
            let known = error.downcast_ref::<ContainerError>();
            if !known.is_some_and(ContainerError::is_told) {
                eprintln!("shale: {error:#}");
            }
            Ok(known.map_or(125, ContainerError::status))
        })
    }

    /// The words after the options are the image and the command; with `--rootfs`, the command alone.
    fn into_options(self) -> Option<Options> {
        let mut words = self.words.into_iter();
        let image = if self.rootfs.is_some() {
            String::new()
        } else {
            words.next()?
        };
        Some(Options {
            image,
            command: words.collect(),
            rootfs: self.rootfs,
            interactive: self.interactive,
            tty: self.tty,
            remove: self.rm,
            name: self.name,
            env: self.env,
            env_files: self.env_file,
            working_dir: self.workdir,
            user: self.user,
            volumes: self.volume,
            tmpfs: self.tmpfs,
            read_only: self.read_only,
            entrypoint: self.entrypoint,
            hostname: self.hostname,
            network: self.network,
            cap_add: self.cap_add,
            cap_drop: self.cap_drop,
            privileged: self.privileged,
            runtime: Some(self.runtime),
            cidfile: self.cidfile,
            labels: self.label,
            ulimits: self.ulimit,
            security_options: self.security_opt,
            stop_signal: self.stop_signal,
        })
    }
}

/// Downloads the image where the policy says so. What Docker tells of it goes to standard error: the output is the
/// command's.
fn fetch(store: &Store, registry: &RegistryArgs, policy: &str, image: &str) -> anyhow::Result<()> {
    let is_here = match store.find_image(image) {
        Ok(_) => true,
        Err(StoreError::NoSuchImage(_)) => false,
        Err(error) => return Err(error.into()),
    };
    if policy == "never" || (is_here && policy != "always") {
        return Ok(());
    }
    // an id is no name: whether there is such an image is told later
    let Ok(name) = image.parse::<Reference>() else {
        return Ok(());
    };
    if !is_here {
        eprintln!("Unable to find image '{}' locally", name.clone().or_latest());
    }
    let board = Board::new(Lines::Error);
    let name = name.or_latest();
    pull(
        store,
        &registry.registries()?,
        &name,
        &PullOptions::default(),
        &board,
    )?;
    Ok(())
}

/// What to say of an option that there is not: the first word after the known ones, as nothing to run begins like it.
fn unknown_flag(word: &str) -> String {
    let flag = word.split_once('=').map_or(word, |(flag, _)| flag);
    // -dit is three flags, -p80:80 one and its value
    let mut names = vec![flag.to_owned()];
    if !flag.starts_with("--") {
        names.extend(flag.chars().skip(1).map(|letter| format!("-{letter}")));
    }
    let reason = NOT_YET
        .iter()
        .find(|(flags, _)| flags.iter().any(|flag| names.iter().any(|name| name == flag)))
        .map(|(_, reason)| format!(": {reason}"));
    format!("unknown flag: {flag}{}", reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::unknown_flag;

    #[test]
    fn unknown_flags_are_named() {
        assert_eq!(unknown_flag("--bogus=1"), "unknown flag: --bogus");
        assert_eq!(
            unknown_flag("-d"),
            "unknown flag: -d: detached containers are not there yet"
        );
        assert!(unknown_flag("-dit").ends_with("detached containers are not there yet"));
        assert!(unknown_flag("-p80:80").contains("publishing"));
        assert_eq!(unknown_flag("--d"), "unknown flag: --d");
    }
}
