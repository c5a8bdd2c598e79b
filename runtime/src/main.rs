//! The program `shale-runtime`, with the command line of runc.

use clap::Parser;
use runtime::commands::{Command, Global};
use runtime::log::Format;

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
    if let Err(error) = runtime::log::start(cli.global.log.as_ref(), cli.global.log_format, cli.global.debug)
    {
        eprintln!("shale-runtime: {error}");
        std::process::exit(1);
    }
    let result = cli.command.run(&cli.global);
    if let Err(error) = &result {
        tracing::error!("{error}");
        if cli.global.log.is_some() {
            eprintln!("shale-runtime: {error}");
        }
    }
    // An engine takes the whole of a JSON log for the error.
    if result.is_ok() || cli.global.log_format == Format::Text {
        runtime::log::flush();
    }
    std::process::exit(result.unwrap_or_else(|error| error.exit_status()));
}
