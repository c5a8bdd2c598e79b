//! A Docker archive of images that share layers, have several names, none, labels, another machine's architecture, an
//! empty history, or no date: the same bytes on each call, so that every engine gives the images the same ids.

use imagetool::digest::Digest;
use serde_json::{Value, json};

use super::{dir, file, tar};

/// The images, by what they are for.
pub struct Images {
    pub archive: Vec<u8>,
    /// `base:1`, `base:latest`; labels `a=1` and `maintainer`.
    pub base: Digest,
    /// `app:2`, `me/app:2`, `me/app:latest`, `localhost:5000/app:2`; on the layer of `base`; labels `a=2`, `b=x`.
    pub app: Digest,
    /// No name; on the layers of `app`, of which it hides `etc/two`.
    pub lost: Digest,
    /// `localhost:5000/tool:x`, for arm64, without a history.
    pub tool: Digest,
    /// `nodate:latest`, without labels.
    pub nodate: Digest,
}

fn config(layers: &[&[u8]], created: &str, config: &Value, history: &[Value]) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    json!({
        "architecture": "amd64", "os": "linux", "created": created, "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
    })
}

/// Makes the archive.
pub fn images() -> Images {
    let one = tar(&[
        dir("bin"),
        file("bin/one", &"1".repeat(50_000)),
        dir("etc"),
        file("etc/passwd", "root"),
    ]);
    let two = tar(&[dir("etc"), file("etc/two", &"two\n".repeat(10_000))]);
    let three = tar(&[
        dir("etc"),
        file("etc/.wh.two", ""),
        file("big", &"3".repeat(300_000)),
    ]);
    let four = tar(&[file("tool", &"x".repeat(70_000))]);
    let first = json!({
        "created": "2024-01-01T00:00:00Z", "comment": "base <&> ok",
        "created_by": "/bin/sh -c #(nop) ADD file:0123456789abcdef0123456789abcdef in / ",
    });
    let command = json!({
        "created": "2024-01-01T00:00:01Z", "created_by": "/bin/sh -c #(nop)  CMD [\"sh\"]", "empty_layer": true,
    });
    let second = json!({
        "created": "2024-06-01T10:20:30.123456789Z", "author": "me",
        "created_by": "/bin/sh -c echo two > /etc/two && a long command that goes on\tand on",
    });
    let third = json!({"created": "2025-03-01T00:00:00Z", "created_by": "|1 X=1 /bin/sh -c rm /etc/two"});
    let base = config(
        &[&one],
        "2024-01-01T00:00:01Z",
        &json!({"Env": ["PATH=/bin", "A=<b>&c"], "Cmd": ["sh"], "Labels": {"a": "1", "maintainer": "me <me@x>"}}),
        &[first.clone(), command.clone()],
    );
    let mut app = config(
        &[&one, &two],
        "2024-06-01T10:20:30.123456789Z",
        &json!({
            "Env": ["PATH=/bin"], "Cmd": ["sh"], "Entrypoint": ["/bin/sh", "-c"], "WorkingDir": "/etc", "User": "1",
            "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "Labels": {"a": "2", "b": "x"},
        }),
        &[first.clone(), command.clone(), second.clone()],
    );
    app["author"] = json!("me");
    let lost = config(
        &[&one, &two, &three],
        "2025-03-01T00:00:00Z",
        &json!({"Cmd": ["sh"], "Labels": null}),
        &[first, command, second, third],
    );
    let mut tool = config(
        &[&four],
        "2025-01-01T00:00:00+01:00",
        &json!({
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1_000_000_000}, "OnBuild": ["RUN x"],
            "StopSignal": "SIGINT", "Shell": ["/bin/bash", "-c"],
        }),
        &[],
    );
    tool["architecture"] = json!("arm64");
    tool["variant"] = json!("v8");
    let steps = [json!({"created_by": "x"}), json!({"created_by": "y"})];
    let nodate = config(&[&two, &four], "0001-01-01T00:00:00Z", &json!({}), &steps);
    let mut entries = Vec::new();
    let mut items = Vec::new();
    let mut add = |config: &Value, layers: &[&Vec<u8>], names: &[&str]| {
        let text = config.to_string();
        let id = Digest::of(text.as_bytes());
        let name = format!("{}.json", id.hex());
        entries.push((name.clone(), text.into_bytes()));
        let mut paths = Vec::new();
        for layer in layers {
            let path = format!("{}/layer.tar", Digest::of(layer).hex());
            if !entries.iter().any(|(known, _)| *known == path) {
                entries.push((path.clone(), (*layer).clone()));
            }
            paths.push(path);
        }
        let names = if names.is_empty() {
            Value::Null
        } else {
            json!(names)
        };
        items.push(json!({"Config": name, "RepoTags": names, "Layers": paths}));
        id
    };
    let base = add(&base, &[&one], &["base:1", "base:latest"]);
    let app_names = ["app:2", "me/app:2", "me/app:latest", "localhost:5000/app:2"];
    let app = add(&app, &[&one, &two], &app_names);
    let lost = add(&lost, &[&one, &two, &three], &[]);
    let tool = add(&tool, &[&four], &["localhost:5000/tool:x"]);
    let nodate = add(&nodate, &[&two, &four], &["nodate:latest"]);
    entries.push(("manifest.json".to_owned(), json!(items).to_string().into_bytes()));
    let members: Vec<super::Entry> = entries
        .into_iter()
        .map(|(name, bytes)| {
            let (mut member, _) = super::entry(name, imagetool::archive::member::Kind::Regular);
            member.size_bytes = bytes.len() as u64;
            (member, bytes)
        })
        .collect();
    Images {
        archive: tar(&members),
        base,
        app,
        lost,
        tool,
        nodate,
    }
}
