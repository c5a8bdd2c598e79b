//! `shale system`: looking after the store.

use anyhow::Context as _;
use clap::Subcommand;
use imagetool::system::filter::PruneFilter;
use imagetool::system::prune::{
    Images, Pruned, prune_blobs, prune_caches, prune_containers, prune_downloads, prune_images,
};
use imagetool::time::human_size_long;

use super::filter::{Filter, texts};
use super::image::removals;
use super::{ask, output};
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale system df -v
  shale system prune
  shale system check")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Verify everything the store holds
    Check(super::system_check::Args),
    /// Show what the store takes on disk
    Df(super::system_df::Args),
    /// Show where the store is, what its machine offers, and what is mounted
    Info(super::system_info::Args),
    /// Remove what nothing uses: stopped containers, images, caches
    Prune(Prune),
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        match self.verb {
            Verb::Check(args) => args.execute(context),
            Verb::Df(args) => args.execute(context),
            Verb::Info(args) => args.execute(context),
            Verb::Prune(args) => args.execute(context),
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale system prune
  shale system prune -a -f --filter until=24h
  shale system prune --blobs        also drop compressed copies of layers; save makes new, plain ones")]
struct Prune {
    /// Remove all images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,

    /// Do not ask
    #[arg(short, long)]
    force: bool,

    /// Accepted for Docker's sake: there are no volumes yet
    #[arg(long)]
    volumes: bool,

    /// Also drop the compressed copies of layers; save writes plain ones in their place, under another manifest digest
    #[arg(long)]
    blobs: bool,

    /// Only some: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "FILTER")]
    filter: Vec<Filter>,
}

impl Prune {
    fn warning(&self) -> String {
        let images = match self.all {
            true => "all images without at least one container associated to them",
            false => "all dangling images",
        };
        let mut text = format!(
            "WARNING! This will remove:\n  - all stopped containers\n  - {images}\n  - unused caches\n"
        );
        if self.blobs {
            text += "  - the compressed copies of all layers\n";
        }
        if !self.filter.is_empty() {
            text += "\n  Items to be pruned will be filtered with:\n";
            for filter in texts(&self.filter) {
                text += &format!("  - {filter}\n");
            }
        }
        text
    }

    fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let filter = PruneFilter::parse(&texts(&self.filter)).map_err(anyhow::Error::msg)?;
        if !self.force && !ask::confirmed(&self.warning())? {
            return Ok(0);
        }
        if self.volumes {
            eprintln!("warning: --volumes does nothing: there are no volumes yet");
        }
        let store = context.store()?;
        let mut pruned = Pruned::default();
        let outcome = self.prune(&store, &filter, &mut pruned);
        let mut text = String::new();
        if !pruned.containers.is_empty() {
            text += "Deleted Containers:\n";
            for id in &pruned.containers {
                text += &format!("{id}\n");
            }
            text.push('\n');
        }
        text += &removals(&pruned.images);
        output::print(&text)?;
        outcome?;
        output::line(format!(
            "Total reclaimed space: {}",
            human_size_long(pruned.freed_bytes)
        ))?;
        Ok(0)
    }

    fn prune(
        &self,
        store: &imagetool::store::Store,
        filter: &PruneFilter,
        pruned: &mut Pruned,
    ) -> anyhow::Result<()> {
        prune_containers(store, filter, pruned).context("remove stopped containers")?;
        let which = if self.all {
            Images::Unused
        } else {
            Images::Dangling
        };
        prune_images(store, which, filter, pruned).context("remove unused images")?;
        if self.blobs {
            prune_blobs(store, pruned).context("drop compressed layers")?;
        }
        prune_downloads(store, pruned).context("remove unfinished downloads")?;
        prune_caches(store, pruned).context("remove unused caches")
    }
}
