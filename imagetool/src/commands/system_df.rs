//! `shale system df`.

use imagetool::system::usage::{Usage, usage};
use imagetool::time::{Timestamp, human_duration, human_size, now};
use serde_json::{Value, json};

use super::format::Format;
use super::output;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Sizes are bytes on disk; what several images share is counted once.

Examples:
  shale system df
  shale system df -v
  shale system df --format '{{.Type}}: {{.Size}}'"
)]
pub(super) struct Args {
    /// Show every image, layer, container and kind of file
    #[arg(short, long)]
    verbose: bool,

    /// Output: table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

type Columns = &'static [(&'static str, &'static str)];

const SUMMARY: Columns = &[
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
];
const IMAGES: Columns = &[
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
    ("CONTAINERS", "Containers"),
];
const LAYERS: Columns = &[
    ("LAYER ID", "ID"),
    ("IMAGES", "Images"),
    ("SIZE", "Size"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
];
const CONTAINERS: Columns = &[
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("LOCAL VOLUMES", "LocalVolumes"),
    ("SIZE", "Size"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("NAMES", "Names"),
];
const KINDS: Columns = &[("KIND", "Kind"), ("SIZE", "Size")];

impl Args {
    pub(super) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        imagetool::container::reconcile(&store)?;
        let usage = usage(&store)?;
        let format = Format::parse(self.format.as_deref(), false)?;
        if self.verbose && self.format.as_deref().is_some_and(|format| format != "table") {
            output::line(json!({
                "Images": image_rows(&store, &usage)?,
                "Layers": layer_rows(&usage),
                "Containers": container_rows(&usage),
                "Volumes": [],
                "BuildCache": [],
                "Kinds": kind_rows(&usage),
            }))?;
        } else if self.verbose {
            output::print(&verbose(&store, &usage)?)?;
        } else {
            output::print(&format.render(SUMMARY, summary(&usage).into_iter())?)?;
        }
        Ok(0)
    }
}

/// One row for each type, Docker's four first.
fn summary(usage: &Usage) -> Vec<Value> {
    let row = |kind: &str, total: usize, active: usize, bytes: u64, reclaimable: Option<u64>| {
        let reclaimable = match reclaimable {
            Some(part) if bytes > 0 => format!("{} ({}%)", human_size(part), percent(part, bytes)),
            _ => human_size(reclaimable.unwrap_or(0)),
        };
        json!({
            "Type": kind,
            "TotalCount": total.to_string(),
            "Active": active.to_string(),
            "Size": human_size(bytes),
            "Reclaimable": reclaimable,
        })
    };
    let active = usage.images.iter().filter(|image| image.containers > 0).count();
    let running = |status| status == imagetool::store::ContainerStatus::Running;
    let running = usage
        .containers
        .iter()
        .filter(|container| running(container.record.status))
        .count();
    let (chains, archives) = (usage.chains, usage.archives);
    vec![
        row(
            "Images",
            usage.images.len(),
            active,
            usage.image_bytes() + usage.unused_bytes,
            Some(usage.reclaimable_bytes),
        ),
        row(
            "Containers",
            usage.containers.len(),
            running,
            usage.container_bytes(),
            Some(usage.stopped_bytes()),
        ),
        row("Local Volumes", 0, 0, 0, None),
        row("Build Cache", 0, 0, 0, None),
        row(
            "Mount Cache",
            chains.count + archives.count,
            chains.count,
            chains.bytes + archives.bytes,
            Some(archives.bytes),
        ),
    ]
}

fn percent(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 100 / u128::from(whole.max(1))).unwrap_or(100)
}

fn image_rows(store: &imagetool::store::Store, usage: &Usage) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    for image in &usage.images {
        let details = &image.details;
        let names = store.names_of(&details.image.id)?;
        let shown: Vec<(String, String)> = if names.is_empty() {
            vec![("<none>".to_owned(), "<none>".to_owned())]
        } else {
            let tag = |name: &imagetool::reference::Reference| name.tag().unwrap_or("<none>").to_owned();
            names
                .iter()
                .map(|name| (name.familiar_name(), tag(name)))
                .collect()
        };
        for (repository, tag) in shown {
            rows.push(json!({
                "Repository": repository,
                "Tag": tag,
                "ID": details.image.id.short(),
                "CreatedSince": format!("{} ago", human_duration(now().seconds - details.created_at_s)),
                "CreatedAt": Timestamp { seconds: details.created_at_s, nanos: 0 }.to_table(),
                "Size": human_size(image.shared_bytes + image.unique_bytes),
                "SharedSize": human_size(image.shared_bytes),
                "UniqueSize": human_size(image.unique_bytes),
                "Containers": image.containers.to_string(),
            }));
        }
    }
    Ok(rows)
}

fn layer_rows(usage: &Usage) -> Vec<Value> {
    let row = |layer: &imagetool::system::usage::LayerUsage| {
        json!({
            "ID": layer.diff_id.short(),
            "Digest": layer.diff_id.to_string(),
            "Images": layer.images.to_string(),
            "Size": human_size(layer.shared_bytes + layer.unique_bytes),
            "SharedSize": human_size(layer.shared_bytes),
            "UniqueSize": match &layer.damage {
                None => human_size(layer.unique_bytes),
                Some(_) => "damaged".to_owned(),
            },
        })
    };
    usage.layers.iter().map(row).collect()
}

fn container_rows(usage: &Usage) -> Vec<Value> {
    let row = |container: &imagetool::system::usage::ContainerUsage| {
        let mut row =
            imagetool::container::display::Row::of(&container.record, now().seconds, false).to_json();
        row["Size"] = json!(human_size(container.bytes));
        row["LocalVolumes"] = json!("0");
        row
    };
    usage.containers.iter().map(row).collect()
}

fn kind_rows(usage: &Usage) -> Vec<Value> {
    let kinds = usage.kinds;
    let rows = [
        ("Blobs", kinds.blobs),
        ("Layer indexes", kinds.indexes),
        ("Layer packs", kinds.packs),
        ("Layer recipes", kinds.recipes),
        ("Objects", kinds.objects),
        ("Merged indexes", usage.chains.bytes),
        ("Archive indexes", usage.archives.bytes),
    ];
    let row = |(kind, bytes): (&str, u64)| json!({ "Kind": kind, "Size": human_size(bytes) });
    rows.into_iter().map(row).collect()
}

fn verbose(store: &imagetool::store::Store, usage: &Usage) -> anyhow::Result<String> {
    let table = |columns: Columns, rows: Vec<Value>| Format::Table.render(columns, rows.into_iter());
    let mut text = "Images space usage:\n\n".to_owned();
    text += &table(IMAGES, image_rows(store, usage)?)?;
    text += &format!(
        "\nShared by several images: {}\nNeeded by no image: {}\n",
        human_size(usage.shared_bytes),
        human_size(usage.unused_bytes)
    );
    text += "\nLayers space usage:\n\n";
    text += &table(LAYERS, layer_rows(usage))?;
    text += "\nContainers space usage:\n\n";
    text += &table(CONTAINERS, container_rows(usage))?;
    text += "\nLocal Volumes space usage:\n\n";
    text += &table(
        &[("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size")],
        Vec::new(),
    )?;
    text += "\nBuild cache usage: 0B\n\nStore space usage:\n\n";
    text += &table(KINDS, kind_rows(usage))?;
    Ok(text)
}
