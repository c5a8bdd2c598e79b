//! Images and containers in the shape of `docker inspect`.

use serde_json::{Value, json};

use crate::container::{self, ContainerConfig};
use crate::error::{ImageError, StoreError};
use crate::reference::Reference;
use crate::store::{ContainerRecord, ContainerStatus, ImageDetails, Store};
use crate::time::Timestamp;

/// What kind of thing is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An image.
    Image,
    /// A container.
    Container,
}

/// The description of a container or an image; a container goes first when both have the name.
pub fn inspect(store: &Store, name: &str, kind: Option<Kind>) -> Result<Value, ImageError> {
    if kind != Some(Kind::Image) {
        match store.containers().get(name) {
            Ok(record) => return container(store, &record),
            Err(StoreError::NoSuchContainer(_)) if kind.is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    match store.find_image(name) {
        Ok((id, _)) => Ok(image(store, &store.image_details(&id)?)?),
        Err(StoreError::NoSuchImage(_) | StoreError::Reference(_)) if kind.is_none() => {
            Err(ImageError::Invalid(format!("No such object: {name}")))
        }
        Err(error) => Err(error.into()),
    }
}

fn image(store: &Store, details: &ImageDetails) -> Result<Value, ImageError> {
    let image = &details.image;
    let raw: Value = serde_json::from_str(&image.config_json).unwrap_or_default();
    let text = |key: &str| {
        raw.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let names = store.names_of(&image.id)?;
    let digests = store.repo_digests(&image.id)?;
    let tags = names.iter().filter(|name| name.digest().is_none());
    let comment = raw
        .get("history")
        .and_then(Value::as_array)
        .and_then(|steps| steps.last()?.get("comment")?.as_str().map(str::to_owned))
        .unwrap_or_default();
    let dirs: Vec<String> = details
        .layers
        .iter()
        .rev()
        .map(|(id, _)| store.repository().index(id.as_bytes()).display().to_string())
        .collect();
    let mut driver = serde_json::Map::new();
    if let Some((upper, lower)) = dirs.split_first() {
        driver.insert("UpperDir".to_owned(), json!(upper));
        if !lower.is_empty() {
            driver.insert("LowerDir".to_owned(), json!(lower.join(":")));
        }
    }
    if let Some(base) = &image.base_rootfs {
        driver.insert("BaseRootfs".to_owned(), json!(base.display().to_string()));
    }
    let diff_ids: Vec<String> = details.layers.iter().map(|(id, _)| id.to_string()).collect();
    let mut value = json!({
        "Id": image.id.to_string(),
        "RepoTags": tags.map(Reference::familiar).collect::<Vec<_>>(),
        "RepoDigests": digests.iter().map(Reference::familiar).collect::<Vec<_>>(),
        "Parent": details.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        "Comment": comment,
        "Created": text("created"),
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Config": raw.get("config").cloned().unwrap_or(Value::Null),
        "Architecture": text("architecture"),
        "Os": text("os"),
        "Size": details.size_bytes,
        "VirtualSize": details.size_bytes,
        "GraphDriver": { "Data": driver, "Name": "shale" },
        "RootFS": { "Type": "layers", "Layers": diff_ids },
        "Metadata": { "LastTagTime": "0001-01-01T00:00:00Z" },
    });
    if let Some(variant) = raw.get("variant") {
        value["Variant"] = variant.clone();
    }
    Ok(value)
}

fn container(store: &Store, record: &ContainerRecord) -> Result<Value, ImageError> {
    let config = ContainerConfig::of(record);
    let time = |seconds: Option<i64>| {
        let never = "0001-01-01T00:00:00Z".to_owned();
        seconds.map_or(never, |seconds| Timestamp { seconds, nanos: 0 }.to_rfc3339())
    };
    let running = record.status == ContainerStatus::Running;
    let dir = store.container_dir(&record.id);
    // an image that was removed by force leaves its containers without lower directories
    let lowers = container::lowers(store, record).unwrap_or_default();
    let lowers: Vec<String> = lowers
        .iter()
        .map(|lower| lower.path().display().to_string())
        .collect();
    let words = record.command.split_first();
    let list = |list: &Vec<String>| if list.is_empty() { Value::Null } else { json!(list) };
    let mounts: Vec<Value> = config.binds.iter().map(|bind| mount(bind)).collect();
    Ok(json!({
        "Id": record.id.as_str(),
        "Created": time(Some(record.created_at_s)),
        "Path": words.map(|(first, _)| first.as_str()).unwrap_or_default(),
        "Args": words.map(|(_, rest)| rest).unwrap_or_default(),
        "State": {
            "Status": record.status.as_str(),
            "Running": running,
            "Paused": false,
            "Restarting": false,
            "OOMKilled": false,
            "Dead": false,
            "Pid": record.pid.filter(|_| running).unwrap_or(0),
            "ExitCode": record.exit_code.unwrap_or(0),
            "Error": "",
            "StartedAt": time(record.started_at_s),
            "FinishedAt": time(record.finished_at_s),
        },
        "Image": record.image_id.map(|id| id.to_string()).unwrap_or_default(),
        "ResolvConfPath": dir.join("resolv.conf").display().to_string(),
        "HostnamePath": dir.join("hostname").display().to_string(),
        "HostsPath": dir.join("hosts").display().to_string(),
        "Name": format!("/{}", record.name),
        "RestartCount": 0,
        "Driver": "shale",
        "Platform": "linux",
        "HostConfig": {
            "Binds": list(&config.binds),
            "NetworkMode": config.network,
            "AutoRemove": config.auto_remove,
            "ReadonlyRootfs": config.read_only,
            "Runtime": config.runtime.display().to_string(),
        },
        "GraphDriver": {
            "Name": "shale",
            "Data": {
                "LowerDir": lowers.join(":"),
                "MergedDir": dir.join("merged").display().to_string(),
                "UpperDir": dir.join("upper").display().to_string(),
                "WorkDir": dir.join("work").display().to_string(),
            },
        },
        "Mounts": mounts,
        "Config": {
            "Hostname": config.hostname,
            "User": config.user,
            "Tty": config.tty,
            "OpenStdin": config.open_stdin,
            "Env": config.env,
            "Cmd": list(&config.cmd),
            "Image": record.image_ref,
            "WorkingDir": config.working_dir,
            "Entrypoint": list(&config.entrypoint),
            "Labels": config.labels,
        },
        "NetworkSettings": { "Ports": {}, "Networks": { config.network.clone(): {} } },
        "Rootfs": record.rootfs.as_ref().map(|path| path.display().to_string()),
    }))
}

/// `SOURCE:DESTINATION[:OPTIONS]`, or a destination alone for a tmpfs.
fn mount(bind: &str) -> Value {
    let parts: Vec<&str> = bind.split(':').collect();
    match parts.as_slice() {
        [source, destination, options @ ..] if destination.starts_with('/') => json!({
            "Type": "bind", "Source": source, "Destination": destination, "Mode": options.join(":"),
            "RW": !options.iter().any(|option| option.split(',').any(|word| word == "ro")),
        }),
        [destination, options @ ..] => json!({
            "Type": "tmpfs", "Source": "", "Destination": destination, "Mode": options.join(":"), "RW": true,
        }),
        [] => Value::Null,
    }
}
