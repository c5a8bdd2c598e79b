//! The command line: global options, the verbs and their dispatch.
//!
//! A verb is one file in `commands/` with an `Args` struct (clap) and `execute(self, &Context) -> anyhow::Result<u8>`:
//! `Ok` holds the exit status, an error is printed as `Error: …` with exit status 1.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::commands;

const EXAMPLES: &str = "Examples:
  shale run --name demo --rootfs / sh -c 'echo hello > /etc/greeting'   on a view of this machine
  shale diff demo                                                       what that changed
  shale commit -m 'a greeting' demo greeter                             keep it as an image
  shale run --rm greeter cat /etc/greeting

Each command has examples of its own: shale COMMAND --help";

/// Where help lists what all verbs take.
const GLOBAL: &str = "Global options";

/// Container images as file systems: import one, run it, change it, keep the change.
#[derive(Debug, Parser)]
#[command(
    name = "shale",
    version,
    arg_required_else_help = true,
    propagate_version = false,
    after_help = EXAMPLES
)]
pub(crate) struct Cli {
    /// Directory of the store [default: $SHALE_ROOT, else /var/lib/shale, ~/.local/share/shale for a plain user]
    // The variable is not clap's to read: it would count as an argument that was given.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = GLOBAL,
        display_order = 1000
    )]
    root: Option<PathBuf>,

    /// Log what is done to standard error (RUST_LOG refines it)
    #[arg(long, global = true, help_heading = GLOBAL, display_order = 1000)]
    debug: bool,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // one value per process
pub(crate) enum Verb {
    /// Run a command in a new container
    Run(commands::run::Args),
    /// List containers
    Ps(commands::ps::Args),
    /// Remove containers
    Rm(commands::rm::Args),
    /// Show what a container changed, or how two images differ
    Diff(commands::diff::Args),
    /// Mount an image, a container, an archive or directories; list mounts
    Mount(commands::mount::Args),
    /// Unmount what `mount` mounted
    Umount(commands::umount::Args),
    /// Show what file system servers were asked, and how long they took
    Stats(commands::stats::Args),
    /// Fill in the files that a container has copied up in part
    Seal(commands::seal::Args),
    /// Show which layer of an image a file comes from
    Which(commands::which::Args),
    /// List images
    Images(commands::images::Args),
    /// Make an image of a root file system archive
    Import(commands::import::Args),
    /// Load images from an archive or layout
    Load(commands::load::Args),
    /// Download an image from a registry
    Pull(commands::pull::Args),
    /// Upload an image to a registry
    Push(commands::push::Args),
    /// Make an image of what a container changed
    Commit(commands::commit::Args),
    /// Write a container's file system to an archive
    Export(commands::export::Args),
    /// Describe images and containers
    Inspect(commands::inspect::Args),
    /// Save images to an archive
    Save(commands::save::Args),
    /// Give an image another name
    Tag(commands::tag::Args),
    /// Remove images
    Rmi(commands::rmi::Args),
    /// Show the steps that made an image
    History(commands::history::Args),
    /// Work on images: the verbs above, and prune
    Image(commands::image::Args),
    /// Look after the store: sizes, removal of what is unused, checks
    System(commands::system::Args),
    /// Measure file systems on this machine: shale beside overlayfs, fuse-overlayfs and a plain directory
    Bench(Box<commands::bench::Args>),
    /// Log in to a registry
    Login(commands::login::Args),
    /// Forget the credentials of a registry
    Logout(commands::logout::Args),
    /// Look for images at a registry
    Search(commands::search::Args),
    /// Show the program's version
    Version(commands::version::Args),
    /// Write a completion script for a shell
    Completion(commands::completion::Args),
    /// Write manual pages
    Man(commands::man::Args),
}

/// What every verb is given.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The store's directory.
    pub(crate) root: PathBuf,
}

impl Context {
    /// Opens the store.
    pub(crate) fn store(&self) -> anyhow::Result<imagetool::store::Store> {
        imagetool::store::Store::open(&self.root).with_context(|| {
            format!(
                "open the store {} (--root DIR selects another)",
                self.root.display()
            )
        })
    }
}

impl Verb {
    /// Whether the verb works on the store, or mounts, and so needs a user namespace when a plain user calls it.
    fn needs_store(&self) -> bool {
        if let Verb::Bench(args) = self {
            return args.needs_mounts();
        }
        !matches!(
            self,
            Verb::Login(_)
                | Verb::Logout(_)
                | Verb::Search(_)
                | Verb::Version(_)
                | Verb::Completion(_)
                | Verb::Man(_)
        )
    }
}

impl Cli {
    /// Sends log events to standard error: warnings, or everything with `--debug`.
    pub(crate) fn start_log(&self) {
        let default = if self.debug { "debug" } else { "warn" };
        let filter = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_target(false)
            .without_time()
            .with_ansi(imagetool::terminal::use_colour())
            .try_init();
    }

    /// Runs the verb; gives the exit status.
    pub(crate) fn execute(self) -> anyhow::Result<u8> {
        if self.verb.needs_store() {
            imagetool::rootless::enter_user_namespace().context("enter a user namespace")?;
        }
        let named = || std::env::var_os("SHALE_ROOT").filter(|value| !value.is_empty());
        let root = match self.root.or_else(|| named().map(PathBuf::from)) {
            Some(root) => std::path::absolute(&root).with_context(|| format!("store {}", root.display()))?,
            None => default_root()?,
        };
        let context = Context { root };
        match self.verb {
            Verb::Run(args) => args.execute(&context),
            Verb::Ps(args) => args.execute(&context),
            Verb::Rm(args) => args.execute(&context),
            Verb::Diff(args) => args.execute(&context),
            Verb::Mount(args) => args.execute(&context),
            Verb::Umount(args) => args.execute(&context),
            Verb::Stats(args) => args.execute(&context),
            Verb::Seal(args) => args.execute(&context),
            Verb::Which(args) => args.execute(&context),
            Verb::Images(args) => args.execute(&context),
            Verb::Import(args) => args.execute(&context),
            Verb::Load(args) => args.execute(&context),
            Verb::Pull(args) => args.execute(&context),
            Verb::Push(args) => args.execute(&context),
            Verb::Commit(args) => args.execute(&context),
            Verb::Export(args) => args.execute(&context),
            Verb::Inspect(args) => args.execute(&context),
            Verb::Save(args) => args.execute(&context),
            Verb::Tag(args) => args.execute(&context),
            Verb::Rmi(args) => args.execute(&context),
            Verb::History(args) => args.execute(&context),
            Verb::Image(args) => args.execute(&context),
            Verb::System(args) => args.execute(&context),
            Verb::Bench(args) => args.execute(&context),
            Verb::Login(args) => args.execute(),
            Verb::Logout(args) => args.execute(),
            Verb::Search(args) => args.execute(),
            Verb::Version(args) => args.execute(&context),
            Verb::Completion(args) => args.execute(&context),
            Verb::Man(args) => args.execute(&context),
        }
    }
}

/// The store's place when nobody names one. Inside the user namespace of a plain user the user is root as well:
/// that is told by the namespace's mapping.
fn default_root() -> anyhow::Result<PathBuf> {
    if nix::unistd::geteuid().is_root() && imagetool::namespace::is_initial_user_namespace() {
        return Ok(PathBuf::from("/var/lib/shale"));
    }
    let data = std::env::var_os("XDG_DATA_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let data = data
        .or_else(home)
        .context("neither XDG_DATA_HOME nor HOME is set: name the store with --root DIR")?;
    Ok(data.join("shale"))
}

/// Docker's commands that shale does not have yet. `container` and the like group others.
const NOT_YET: &str = "attach build builder buildx compose container context cp create events exec info \
    kill logs manifest network pause plugin port prune rename restart start stop top \
    unpause update volume wait";

/// What to say to who calls a command of Docker's that is still to come; `None` for all other mistakes.
pub(crate) fn not_yet(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue};
    let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    NOT_YET
        .split(' ')
        .any(|known| known == verb)
        .then(|| format!("shale: '{verb}' is not there yet.\n'shale --help' lists the commands that are."))
}

/// The exit status of a malformed command line, as Docker's: 0 for help, 125 for an option that is wrong and for all of
/// `run`, else 1.
pub(crate) fn usage_status(error: &clap::Error) -> u8 {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        return 0;
    }
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let is_value = |at: usize| at > 0 && words[at - 1] == "--root";
    let verb = (0..words.len())
        .find(|at| !words[*at].starts_with('-') && !is_value(*at))
        .map(|at| words[at].as_str());
    let about_option = match error.get(ContextKind::InvalidArg) {
        // these two are the engine's to judge, in Docker
        Some(ContextValue::String(argument)) => {
            argument.starts_with('-') && !argument.starts_with("--change") && !argument.starts_with("--type")
        }
        // required arguments
        _ => false,
    };
    if verb == Some("run") || about_option {
        125
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Example"), "{}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        super::Cli::command().get_subcommands().for_each(check);
    }

    #[test]
    fn commands_that_are_still_to_come_are_known() {
        let told = |verb| super::not_yet(&super::Cli::try_parse_from(["shale", verb]).unwrap_err());
        assert!(told("exec").is_some_and(|text| text.starts_with("shale: 'exec' is not there yet")));
        assert_eq!(told("frobnicate"), None);
        let here = super::Cli::command();
        let both = here
            .get_subcommands()
            .find(|verb| super::NOT_YET.split(' ').any(|known| known == verb.get_name()));
        assert!(both.is_none(), "{both:?}");
    }
}
