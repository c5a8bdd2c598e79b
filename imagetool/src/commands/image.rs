//! `shale image`: the verbs about images, gathered as in Docker, and `image prune`.

use anyhow::Context as _;
use clap::Subcommand;
use imagetool::store::Removal;
use imagetool::system::filter::PruneFilter;
use imagetool::system::prune::{Images, Pruned, prune_images};
use imagetool::time::human_size_long;

use super::filter::{Filter, texts};
use super::{ask, history, image_du, images, import, inspect, load, output, pull, push, rmi, save, tag};
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale image ls -f dangling=true
  shale image inspect debian:12
  shale image prune -a")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what of an image's layers is hidden by later ones
    Du(image_du::Args),
    /// Show the steps that made an image
    History(history::Args),
    /// Make an image of a root file system archive
    Import(import::Args),
    /// Describe images
    Inspect(inspect::ImageArgs),
    /// Load images from an archive or layout
    Load(load::Args),
    /// List images
    #[command(visible_alias = "list")]
    Ls(images::Args),
    /// Remove unused images
    Prune(Prune),
    /// Download an image from a registry
    Pull(pull::Args),
    /// Upload an image to a registry
    Push(push::Args),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(rmi::Args),
    /// Save images to an archive
    Save(save::Args),
    /// Give an image another name
    Tag(tag::Args),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale image prune
  shale image prune -a -f --filter until=24h")]
struct Prune {
    /// Remove all images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,

    /// Do not ask
    #[arg(short, long)]
    force: bool,

    /// Only some: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "FILTER")]
    filter: Vec<Filter>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        match self.verb {
            Verb::Du(args) => args.execute(context),
            Verb::History(args) => args.execute(context),
            Verb::Import(args) => args.execute(context),
            Verb::Inspect(args) => args.execute(context),
            Verb::Load(args) => args.execute(context),
            Verb::Ls(args) => args.execute(context),
            Verb::Prune(args) => args.execute(context),
            Verb::Pull(args) => args.execute(context),
            Verb::Push(args) => args.execute(context),
            Verb::Rm(args) => args.execute(context),
            Verb::Save(args) => args.execute(context),
            Verb::Tag(args) => args.execute(context),
        }
    }
}

impl Prune {
    fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let filter = PruneFilter::parse(&texts(&self.filter)).map_err(anyhow::Error::msg)?;
        let warning = match self.all {
            true => "WARNING! This will remove all images without at least one container associated to them.",
            false => "WARNING! This will remove all dangling images.",
        };
        if !self.force && !ask::confirmed(warning)? {
            return Ok(0);
        }
        let store = context.store()?;
        let which = if self.all {
            Images::Unused
        } else {
            Images::Dangling
        };
        let mut pruned = Pruned::default();
        let outcome = prune_images(&store, which, &filter, &mut pruned);
        output::print(&removals(&pruned.images))?;
        outcome.context("remove unused images")?;
        output::line(format!(
            "Total reclaimed space: {}",
            human_size_long(pruned.freed_bytes)
        ))?;
        Ok(0)
    }
}

/// The list of what is gone, in Docker's words.
pub(super) fn removals(images: &[Removal]) -> String {
    if images.is_empty() {
        return String::new();
    }
    let mut text = "Deleted Images:\n".to_owned();
    for line in images {
        match line {
            Removal::Untagged(name) => text += &format!("untagged: {name}\n"),
            Removal::Deleted(digest) => text += &format!("deleted: {digest}\n"),
        }
    }
    text.push('\n');
    text
}
