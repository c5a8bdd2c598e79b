//! One short file for each command: options, a call into the engine, output.

pub mod create;
pub mod delete;
pub mod events;
pub mod exec;
pub mod features;
pub mod kill;
pub mod list;
pub mod pause;
pub mod ps;
pub mod run;
pub mod spec;
pub mod start;
pub mod state;
pub mod update;

use std::path::PathBuf;

use crate::error::Result;
use crate::log;
use crate::state::Store;

/// Options before the command, as runc has them.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// directory that remembers containers
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// file for the log (default: standard error)
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// form of the log
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: log::Format,
    /// log what is done in detail
    #[arg(long)]
    pub debug: bool,
    /// linux.cgroupsPath is slice:prefix:name, as systemd wants it
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// accepted for runc's sake: missing rights are always found out
    #[arg(long, value_name = "true|false|auto", hide = true)]
    pub rootless: Option<String>,
    /// accepted for runc's sake
    #[arg(long, value_name = "PROGRAM", hide = true)]
    pub criu: Option<PathBuf>,
}

impl Global {
    /// Where containers are remembered.
    pub fn store(&self) -> Store {
        Store::new(self.root.clone())
    }
}

/// All commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// make a container, up to the point where `start` runs its command
    Create(create::Create),
    /// end what a container left and forget it
    Delete(delete::Delete),
    /// print what a container uses
    Events(events::Events),
    /// run another command in a container
    Exec(Box<exec::Exec>),
    /// print what this runtime can do, as JSON
    Features,
    /// send a signal to a container
    Kill(kill::Kill),
    /// list containers
    List(list::List),
    /// stop all processes of a container for a while
    Pause(pause::Pause),
    /// list the processes of a container
    Ps(ps::Ps),
    /// let a paused container go on
    Resume(pause::Pause),
    /// make a container, run its command, and delete it
    Run(run::Run),
    /// write a configuration to start from
    Spec(spec::Spec),
    /// run the command of a created container
    Start(start::Start),
    /// print the state of a container as JSON
    State(state::State),
    /// change the limits of a container
    Update(update::Update),
}

impl Command {
    /// Whether the command deals with a container's processes, so that the runtime must be out of their reach.
    fn touches_processes(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Run(_) | Self::Exec(_))
    }

    /// Runs the command; the number is the exit status.
    pub fn run(self, global: &Global) -> Result<i32> {
        if self.touches_processes() {
            crate::protect::ensure()?;
        }
        match self {
            Self::Create(command) => command.run(global),
            Self::Delete(command) => command.run(global),
            Self::Events(command) => command.run(global),
            Self::Exec(command) => command.run(global),
            Self::Features => features::run(),
            Self::Kill(command) => command.run(global),
            Self::List(command) => command.run(global),
            Self::Pause(command) => command.run(global, true),
            Self::Ps(command) => command.run(global),
            Self::Resume(command) => command.run(global, false),
            Self::Run(command) => command.run(global),
            Self::Spec(command) => command.run(),
            Self::Start(command) => command.run(global),
            Self::State(command) => command.run(global),
            Self::Update(command) => command.run(global),
        }
    }
}

/// Writes to standard output; that nobody reads is an error like any other.
fn print(text: &str) -> Result<()> {
    use crate::error::Context;
    use std::io::Write;
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .context(|| "write to standard output")
}
