//! The rows of `shale history`: one per step of an image, the newest first.

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::error::ImageError;
use crate::store::Store;
use crate::time::{Timestamp, human_duration, human_size, now};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// The image that this step made, when it is known here.
    pub id: Option<Digest>,
    /// When.
    pub created: Option<Timestamp>,
    /// By what.
    pub created_by: String,
    /// Size of the layer it added.
    pub size_bytes: u64,
    /// Commit message.
    pub comment: String,
}

/// The steps of an image, the newest first.
pub fn rows(store: &Store, name_or_id: &str) -> Result<Vec<HistoryRow>, ImageError> {
    let (id, _) = store.find_image(name_or_id)?;
    let details = store.image_details(&id)?;
    let mut sizes = Vec::new();
    for (diff_id, _) in &details.layers {
        sizes.push(store.layer_size(diff_id)?.unwrap_or(0));
    }
    let history = details.image.config.history().clone().unwrap_or_default();
    let mut rows = Vec::new();
    let mut sizes = sizes.into_iter();
    for step in &history {
        let empty = step.empty_layer().unwrap_or(false);
        rows.push(HistoryRow {
            id: None,
            created: step.created().as_deref().and_then(Timestamp::parse_rfc3339),
            created_by: step.created_by().clone().unwrap_or_default(),
            size_bytes: if empty { 0 } else { sizes.next().unwrap_or(0) },
            comment: step.comment().clone().unwrap_or_default(),
        });
    }
    // layers that the history forgot
    let rest = sizes.map(|size_bytes| HistoryRow {
        id: None,
        created: None,
        created_by: String::new(),
        size_bytes,
        comment: String::new(),
    });
    rows.extend(rest);
    if rows.is_empty() {
        rows.push(HistoryRow {
            id: None,
            created: None,
            created_by: String::new(),
            size_bytes: 0,
            comment: String::new(),
        });
    }
    mark_ids(store, id, &mut rows)?;
    rows.reverse();
    Ok(rows)
}

/// Notes the image of the last step, and its ancestors' where they are known here.
fn mark_ids(store: &Store, id: Digest, rows: &mut [HistoryRow]) -> Result<(), ImageError> {
    let mut next = Some(id);
    while let Some(id) = next {
        let Ok(details) = store.image_details(&id) else {
            break;
        };
        let steps = details.image.config.history().as_ref().map_or(0, Vec::len).max(1);
        if let Some(row) = rows.get_mut(steps - 1)
            && row.id.is_none()
        {
            row.id = Some(id);
        }
        next = details.parent;
    }
    Ok(())
}

impl HistoryRow {
    /// The row as `--format` sees it.
    pub fn to_json(&self, no_trunc: bool, human: bool) -> Value {
        let created = self.created.map_or(Timestamp::ZERO_S, |time| time.seconds);
        let at = Timestamp {
            seconds: created,
            nanos: 0,
        }
        .to_rfc3339();
        let id = self
            .id
            .map(|id| if no_trunc { id.to_string() } else { id.short() });
        let mut by = self.created_by.replace('\t', " ");
        if !no_trunc && by.chars().count() > 45 {
            by = by.chars().take(44).chain(['…']).collect();
        }
        let since = match human {
            false => at.clone(),
            true if created < 0 => "N/A".to_owned(),
            true => format!("{} ago", human_duration(now().seconds - created)),
        };
        json!({
            "ID": id.unwrap_or_else(|| "<missing>".to_owned()),
            "CreatedSince": since,
            "CreatedAt": at,
            "CreatedBy": by,
            "Size": if human { human_size(self.size_bytes) } else { self.size_bytes.to_string() },
            "Comment": self.comment,
        })
    }
}
