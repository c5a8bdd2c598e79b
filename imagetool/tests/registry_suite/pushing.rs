//! `shale push` to real registries, and what other tools make of it.

use std::process::Command;

use imagetool::commit::{CommitOptions, commit};
use imagetool::digest::Digest;
use imagetool::progress::Progress;
use imagetool::registry::Which;
use imagetool::store::Store;

use crate::common::{Shale, ended, file, keep_container, skip, tar};
use crate::shelf::{Kind, id_of, put, three};
use crate::support::proxy::{Fault, Proxy};
use crate::support::registry::{Registry, needs};
use crate::support::repository;

/// The manifest's bytes under a tag.
fn manifest(address: &str, path: &str, tag: &str) -> Vec<u8> {
    let which = Which::Tag(tag.to_owned());
    repository(address, path).manifest(&which).unwrap().bytes
}

#[test]
fn a_pulled_image_keeps_its_bytes_wherever_it_goes() {
    let (Some(first), Some(second)) = (Registry::plain(), Registry::plain()) else {
        return;
    };
    for (kind, path) in [(Kind::Oci, "oci"), (Kind::Docker, "docker")] {
        let made = three(kind);
        put(&first.address(), path, "1", &made);
        let shale = Shale::new();
        let name = format!("{}/{path}:1", first.address());
        shale.ok(["pull", "-q", &name]);
        let said = shale.ok(["push", &name]);
        assert_eq!(said.matches("Layer already exists").count(), 3, "{said}");
        let end = format!("1: digest: {} size: {}", made.digest(), made.manifest.len());
        assert!(said.ends_with(&end), "{said}");
        // to another repository of the registry, without sending anything; then to another registry
        let other = format!("{}/{path}/copy:2", first.address());
        shale.ok(["tag", &name, &other]);
        let said = shale.ok(["push", &other]);
        assert_eq!(said.matches(&format!("Mounted from {path}")).count(), 3, "{said}");
        let far = format!("{}/far/{path}:3", second.address());
        shale.ok(["tag", &name, &far]);
        let said = shale.ok(["push", &far]);
        assert_eq!(said.matches(": Pushed").count(), 3, "{said}");
        for (address, path, tag) in [
            (first.address(), format!("{path}/copy"), "2"),
            (second.address(), format!("far/{path}"), "3"),
        ] {
            assert_eq!(manifest(&address, &path, tag), made.manifest);
        }
        let clean = Shale::new();
        clean.ok(["pull", "-q", &far]);
        assert_eq!(id_of(&clean, &far), made.id().to_string());
        assert_eq!(shale.ok(["push", "-q", &far]), far);
        shale.ok(["system", "check"]);
    }
}

#[test]
fn an_imported_image_is_compressed_once_and_always_the_same() {
    let (Some(first), Some(second)) = (Registry::plain(), Registry::plain()) else {
        return;
    };
    let archive = tar(&[
        file("etc/hostname", "here"),
        file("large", &"text ".repeat(50_000)),
    ]);
    let (one, two) = (Shale::new(), Shale::new());
    let name = format!("{}/imported:1", first.address());
    let id = one.import(&archive, &name);
    let said = one.ok(["push", &name]);
    assert!(
        said.contains(": Compressing") && said.contains(": Pushed"),
        "{said}"
    );
    let pushed = manifest(&first.address(), "imported", "1");
    // again: nothing is compressed, nothing is sent
    let said = one.ok(["push", &name]);
    assert!(
        said.contains("Layer already exists") && !said.contains("Compressing"),
        "{said}"
    );
    assert_eq!(manifest(&first.address(), "imported", "1"), pushed);
    let digests = one.ok(["inspect", "-f", "{{index .RepoDigests 0}}", &name]);
    assert_eq!(
        digests,
        format!("{}/imported@{}", first.address(), Digest::of(&pushed))
    );
    // in another store, to another registry: the same layer
    let far = format!("{}/imported:1", second.address());
    two.import(&archive, &far);
    two.ok(["push", &far]);
    let layer = |bytes: &[u8]| {
        let parsed: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        parsed["layers"][0].clone()
    };
    assert_eq!(
        layer(&manifest(&second.address(), "imported", "1")),
        layer(&pushed)
    );
    // and back
    let clean = Shale::new();
    clean.ok(["pull", "-q", &name]);
    assert_eq!(id_of(&clean, &name), id);
    one.ok(["system", "check"]);
    one.ok(["rmi", &name]);
    one.assert_empty();
}

/// Commits a file on an image, as if a container had written it.
fn commit_on(shale: &Shale, base: &str, text: &str, name: &str) -> Digest {
    let store = Store::open(&shale.root()).unwrap();
    let (image_id, _) = store.find_image(base).unwrap();
    let record = ended(&format!("of-{}", text.len()), Some((image_id, base)));
    let folder = keep_container(&store, &record);
    std::fs::write(folder.join("upper/committed"), text).unwrap();
    let options = CommitOptions {
        name: Some(name.parse().unwrap()),
        ..CommitOptions::default()
    };
    commit(&store, &record, &options, &Progress::none()).unwrap()
}

#[test]
fn a_commit_sends_its_own_layer_only() {
    let Some(registry) = Registry::plain() else { return };
    let made = three(Kind::Docker);
    put(&registry.address(), "tool", "1", &made);
    let proxy = Proxy::start(&registry.address(), |_| Fault::Pass);
    let shale = Shale::new();
    let base = format!("{}/tool:1", proxy.address());
    shale.ok(["pull", "-q", &base]);
    for (path, how) in [("tool", "Layer already exists"), ("other", "Mounted from tool")] {
        let name = format!("{}/{path}:2", proxy.address());
        let id = commit_on(&shale, &base, &format!("committed for {path}"), &name);
        let before = proxy.count("PUT", "/blobs/uploads/");
        let said = shale.ok(["push", &name]);
        assert_eq!(said.matches(how).count(), 3, "{said}");
        assert_eq!(said.matches(": Pushed").count(), 1, "{said}");
        // the layer and the configuration
        assert_eq!(proxy.count("PUT", "/blobs/uploads/") - before, 2);
        let clean = Shale::new();
        clean.ok(["pull", "-q", &name]);
        assert_eq!(id_of(&clean, &name), id.to_string());
    }
}

#[test]
fn blobs_that_were_dropped_are_made_anew() {
    let (Some(first), Some(second)) = (Registry::plain(), Registry::plain()) else {
        return;
    };
    let made = three(Kind::Oci);
    put(&first.address(), "tool", "1", &made);
    let shale = Shale::new();
    let name = format!("{}/tool:1", first.address());
    shale.ok(["pull", "-q", &name]);
    shale.ok(["system", "prune", "-f", "--blobs"]);
    // where the registry has them, the bytes stay the same
    let near = format!("{}/near:1", first.address());
    shale.ok(["tag", &name, &near]);
    shale.ok(["push", &near]);
    assert_eq!(manifest(&first.address(), "near", "1"), made.manifest);
    let far = format!("{}/far:1", second.address());
    shale.ok(["tag", &name, &far]);
    let said = shale.ok(["push", &far]);
    assert_eq!(said.matches(": Compressing").count(), 3, "{said}");
    let clean = Shale::new();
    clean.ok(["pull", "-q", &far]);
    assert_eq!(id_of(&clean, &far), made.id().to_string());
    shale.ok(["system", "check"]);
}

#[test]
fn what_cannot_be_pushed_is_told() {
    let Some(registry) = Registry::plain() else { return };
    let shale = Shale::new();
    let address = registry.address();
    let error = shale.fails(["push", &format!("{address}/none")]);
    assert!(
        error.contains(&format!(
            "An image does not exist locally with the tag: {address}/none"
        )),
        "{error}"
    );
    shale.import(&tar(&[file("a", "a")]), &format!("{address}/tool:1"));
    shale.ok(["tag", &format!("{address}/tool:1"), &format!("{address}/tool:2")]);
    let error = shale.fails(["push", &format!("{address}/tool@{}", Digest::of(b"x"))]);
    assert!(error.contains("cannot push a digest reference"), "{error}");
    let error = shale.fails(["push", "-a", &format!("{address}/tool:1")]);
    assert!(error.contains("tag can't be used with --all-tags/-a"), "{error}");
    let said = shale.ok(["push", "-a", &format!("{address}/tool")]);
    assert!(
        said.contains("\n1: digest: ") && said.contains("\n2: digest: "),
        "{said}"
    );
    let refusing = Proxy::start(&address, |head| match head.method.as_str() {
        "GET" | "HEAD" => Fault::Pass,
        _ => Fault::status(403),
    });
    let name = format!("{}/new:1", refusing.address());
    shale.ok(["tag", &format!("{address}/tool:1"), &name]);
    let error = shale.fails(["push", &name]);
    assert!(error.contains("push access denied for"), "{error}");
}

fn tool(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn skopeo_and_shale_understand_each_other() {
    let Some(registry) = Registry::plain() else { return };
    if !needs("skopeo") {
        return;
    }
    let address = registry.address();
    let shale = Shale::new();
    let archive = tar(&[file("etc/hostname", "here"), file("data", &"words ".repeat(9000))]);
    let name = format!("{address}/ours:1");
    let id = shale.import(&archive, &name);
    shale.ok(["push", "-q", &name]);
    // theirs is a copy of ours, in Docker's form, pulled back
    let (from, to) = (format!("docker://{name}"), format!("docker://{address}/theirs:1"));
    let flags = [
        "--insecure-policy",
        "copy",
        "-q",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ];
    tool(
        "skopeo",
        &[&flags[..], &["--format", "v2s2", &from, &to]].concat(),
    );
    let theirs = format!("{address}/theirs:1");
    shale.ok(["pull", "-q", &theirs]);
    let parsed: serde_json::Value = serde_json::from_slice(&manifest(&address, "theirs", "1")).unwrap();
    assert_eq!(
        parsed["mediaType"],
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(
        format!("{}", parsed["config"]["digest"].as_str().unwrap()),
        id_of(&shale, &theirs)
    );
    assert_eq!(id_of(&shale, &name), id);
    // and with every layer in another compression
    let to = format!("docker://{address}/zstd:1");
    tool(
        "skopeo",
        &[&flags[..], &["--dest-compress-format", "zstd", &from, &to]].concat(),
    );
    let clean = Shale::new();
    let zstd = format!("{address}/zstd:1");
    clean.ok(["pull", "-q", &zstd]);
    assert_eq!(id_of(&clean, &zstd), id);
    let said = tool(
        "skopeo",
        &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &from],
    );
    assert_eq!(said, Digest::of(&manifest(&address, "ours", "1")).to_string());
}

#[test]
fn podman_and_shale_understand_each_other() {
    let Some(registry) = Registry::plain() else { return };
    if !needs("podman") {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("podman in a store of its own needs root");
    }
    let folder = tempfile::tempdir().unwrap();
    let (root, run) = (folder.path().join("root"), folder.path().join("run"));
    let podman = |words: &[&str]| {
        let (root, run) = (root.to_str().unwrap(), run.to_str().unwrap());
        let own = [
            "--root",
            root,
            "--runroot",
            run,
            "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs",
        ];
        tool("podman", &[&own[..], words].concat())
    };
    let address = registry.address();
    let shale = Shale::new();
    let name = format!("{address}/ours:1");
    let id = shale.import(&tar(&[file("etc/hostname", "here")]), &name);
    shale.ok(["push", "-q", &name]);
    let pulled = podman(&["pull", "-q", "--tls-verify=false", &name]);
    assert_eq!(format!("sha256:{pulled}"), id);
    let theirs = format!("{address}/theirs:1");
    podman(&["tag", &name, &theirs]);
    podman(&["push", "-q", "--tls-verify=false", &theirs]);
    let clean = Shale::new();
    clean.ok(["pull", "-q", &theirs]);
    assert_eq!(id_of(&clean, &theirs), id);
    podman(&["rmi", "-a", "-f"]);
}
