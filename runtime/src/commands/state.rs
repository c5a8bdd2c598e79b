//! `state` (runtime.md, "Query State").

use serde_json::{Map, Value, json};

use super::{Global, print};
use crate::error::Result;
use crate::spec::OCI_VERSION;
use crate::state::{Container, ContainerId, Status};

/// `state`.
#[derive(Debug, clap::Args)]
pub struct State {
    /// name of the container
    id: ContainerId,
}

impl State {
    /// Prints the state.
    pub fn run(self, global: &Global) -> Result<i32> {
        let container = global.store().load(&self.id)?;
        print(&format!(
            "{}\n",
            serde_json::to_string_pretty(&describe(&container))?
        ))?;
        Ok(0)
    }
}

/// The state of the specification, and what runc adds to it.
pub(super) fn describe(container: &Container) -> Value {
    let state = &container.state;
    let status = container.status();
    let mut fields = Map::new();
    fields.insert("ociVersion".into(), json!(OCI_VERSION));
    fields.insert("id".into(), json!(state.id));
    fields.insert(
        "pid".into(),
        json!(if status == Status::Stopped { 0 } else { state.pid }),
    );
    fields.insert("status".into(), json!(status.to_string()));
    fields.insert("bundle".into(), json!(state.bundle));
    fields.insert("rootfs".into(), json!(state.rootfs));
    fields.insert("created".into(), json!(state.created));
    if !state.spec.annotations.is_empty() {
        fields.insert("annotations".into(), json!(state.spec.annotations));
    }
    fields.insert("owner".into(), json!(owner(state.owner_uid)));
    Value::Object(fields)
}

/// The name of a user, where it has one; empty for root, as runc has it.
pub(super) fn owner(uid: u32) -> String {
    if uid == 0 {
        return String::new();
    }
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    text.lines().find_map(name).unwrap_or_else(|| format!("#{uid}"))
}
