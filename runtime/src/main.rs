//! The program `shale-runtime`, with the command line of runc.

use clap::Parser;
use runtime::commands::{Command, Global};

#[derive(Debug, Parser)]
#[command(name = "shale-runtime", version = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0"), about = "A small OCI runtime")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

fn main() {
    let cli = Cli::parse();
    if let Err(error) = runtime::log::start(cli.global.log.as_ref(), cli.global.log_format, cli.global.debug) {
        eprintln!("shale-runtime: {error}");
        std::process::exit(1);
    }
    let to_file = cli.global.log.is_some();
    let status = cli.command.run(&cli.global).unwrap_or_else(|error| {
        tracing::error!("{error}");
        if to_file {
            eprintln!("shale-runtime: {error}");
        }
        error.exit_status()
    });
    std::process::exit(status);
}
