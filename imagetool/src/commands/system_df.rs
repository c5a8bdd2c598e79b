//! `shale system df`.

use imagetool::images::ImageRow;
use imagetool::shape::to_escaped_json;
use imagetool::system::usage::{Usage, usage};
use imagetool::time::{human_size, human_size_long, now};
use serde_json::{Value, json};

use super::format::{Format, template_error};
use super::{images, output};
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Sizes are bytes on disk; what several images share is counted once.

Examples:
  shale system df
  shale system df -v
  shale system df -v --format '{{range .Images}}{{.ID}} {{.UniqueSize}}{{println}}{{end}}'
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
        if !self.verbose {
            output::print(&format.render(SUMMARY, &[], summary(&usage).into_iter())?)?;
            return Ok(0);
        }
        let text = match format {
            Format::Json => to_escaped_json(&document(&store, &usage)?) + "\n",
            Format::Template(template) | Format::TableOf(template) => {
                let filled = template.render_row(&document(&store, &usage)?);
                filled.map_err(|error| template_error(&error))? + "\n"
            }
            Format::Table | Format::Ids => verbose(&store, &usage)?,
        };
        output::print(&text)?;
        Ok(0)
    }
}

/// Everything, as `--format` of the long form sees it.
fn document(store: &imagetool::store::Store, usage: &Usage) -> anyhow::Result<Value> {
    let mut containers = container_rows(usage, true);
    for row in containers.iter_mut().filter_map(Value::as_object_mut) {
        row.remove(".Labels");
    }
    Ok(json!({
        "Images": image_rows(store, usage, true)?,
        "Layers": layer_rows(usage),
        "Containers": containers,
        "Volumes": [],
        "BuildCache": [],
        "Kinds": kind_rows(usage),
        // bytes: what one image alone needs, what several share, what none needs
        "Totals": {
            "UniqueBytes": usage.images.iter().map(|image| image.unique_bytes).sum::<u64>(),
            "SharedBytes": usage.shared_bytes,
            "UnusedBytes": usage.unused_bytes,
        },
    }))
}

/// One row for each type, Docker's four first.
fn summary(usage: &Usage) -> Vec<Value> {
    let row = |kind: &str, total: usize, active: usize, bytes: u64, reclaimable: Option<u64>| {
        let reclaimable = match reclaimable {
            Some(part) if bytes > 0 => format!("{} ({}%)", human_size_long(part), percent(part, bytes)),
            _ => human_size_long(reclaimable.unwrap_or(0)),
        };
        json!({
            "Type": kind,
            "TotalCount": total.to_string(),
            "Active": active.to_string(),
            "Size": human_size_long(bytes),
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

/// A row for each image, under the first of its names, so that a column's sizes add up.
fn image_rows(store: &imagetool::store::Store, usage: &Usage, no_trunc: bool) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    for image in &usage.images {
        let details = &image.details;
        let names = store.names_of(&details.image.id)?;
        let name = names.iter().find(|name| name.digest().is_none());
        let row = ImageRow {
            id: details.image.id,
            repository: name.map(imagetool::reference::Reference::familiar_name),
            tag: name.and_then(|name| name.tag()).map(str::to_owned),
            digest: None,
            created_at_s: details.created_at_s,
            size_bytes: image.shared_bytes + image.unique_bytes,
        };
        let mut row = row.to_json(no_trunc);
        row["SharedSize"] = json!(human_size_long(image.shared_bytes));
        row["UniqueSize"] = json!(human_size_long(image.unique_bytes));
        row["Containers"] = json!(image.containers.to_string());
        rows.push(row);
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
            "SharedSize": human_size_long(layer.shared_bytes),
            "UniqueSize": match &layer.damage {
                None => human_size_long(layer.unique_bytes),
                Some(_) => "damaged".to_owned(),
            },
        })
    };
    usage.layers.iter().map(row).collect()
}

fn container_rows(usage: &Usage, no_trunc: bool) -> Vec<Value> {
    let row = |container: &imagetool::system::usage::ContainerUsage| {
        let mut row =
            imagetool::container::display::Row::of(&container.record, now().seconds, no_trunc).to_json();
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
        ("Unfinished downloads", usage.downloads.bytes),
    ];
    let row = |(kind, bytes): (&str, u64)| json!({ "Kind": kind, "Size": human_size(bytes) });
    rows.into_iter().map(row).collect()
}

fn verbose(store: &imagetool::store::Store, usage: &Usage) -> anyhow::Result<String> {
    let table = |columns: Columns, rows: Vec<Value>| {
        Format::Table.render(columns, images::HEADINGS, rows.into_iter())
    };
    let mut text = "Images space usage:\n\n".to_owned();
    text += &table(IMAGES, image_rows(store, usage, false)?)?;
    text += &format!(
        "\nShared by several images: {}\nNeeded by no image: {}\n",
        human_size_long(usage.shared_bytes),
        human_size_long(usage.unused_bytes)
    );
    text += "\nLayers space usage:\n\n";
    text += &table(LAYERS, layer_rows(usage))?;
    text += "\nContainers space usage:\n\n";
    text += &table(CONTAINERS, container_rows(usage, false))?;
    text += "\nLocal Volumes space usage:\n\n";
    text += &table(
        &[("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size")],
        Vec::new(),
    )?;
    text += "\nBuild cache usage: 0B\n\nStore space usage:\n\n";
    text += &table(KINDS, kind_rows(usage))?;
    Ok(text)
}
