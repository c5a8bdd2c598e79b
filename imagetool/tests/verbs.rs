//! The verbs about images as a Docker user calls them: options, columns, formats, filters, texts and exit statuses.

mod common;

use common::images::{Images, images};
use common::{Shale, dir, file, tar};
use imagetool::store::Store;
use imagetool::system::usage::usage;
use serde_json::Value;

fn loaded() -> (Shale, Images) {
    let (shale, images) = (Shale::new(), images());
    std::fs::write(shale.path("images.tar"), &images.archive).unwrap();
    shale.ok(["load", "-q", "-i", shale.path("images.tar").to_str().unwrap()]);
    (shale, images)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Status, standard output and error of a command.
fn run(shale: &Shale, words: &[&str]) -> (i32, String, String) {
    let output = shale.run(words);
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn images_are_listed_as_by_docker() {
    let (shale, images) = loaded();
    let (_, table, _) = run(&shale, &["images", "base"]);
    let short = images.base.short();
    let expected = format!(
        "REPOSITORY   TAG       IMAGE ID       CREATED       SIZE\n\
         base         1         {short}   2 years ago   50kB\nbase         latest    {short}   2 years ago   50kB\n"
    );
    let age = |table: &str| table.contains("2 years ago") || table.contains("3 years ago");
    assert!(age(&table), "{table}");
    assert_eq!(table.replace("3 years", "2 years"), expected);
    let format =
        "{{.Repository}}:{{.Tag}} {{.Digest}} {{.Size}} {{.VirtualSize}} {{.SharedSize}} {{.Containers}}";
    assert_eq!(
        shale.ok(["images", "--format", format, "localhost:5000/tool"]),
        "localhost:5000/tool:x <none> 70kB 70kB N/A N/A"
    );
    let (_, nodate, _) = run(&shale, &["images", "nodate"]);
    assert!(nodate.contains("   N/A       110kB\n"), "{nodate}");
    assert_eq!(
        shale.ok([
            "images",
            "--format",
            "[{{.CreatedSince}}] {{.CreatedAt}}",
            "nodate"
        ]),
        "[] 0001-01-01 00:00:00 +0000 UTC"
    );
    // one line for each name, the newest image first
    let ids = shale.ok(["images", "-q", "--no-trunc"]);
    let expected: Vec<String> = [
        &images.lost,
        &images.tool,
        &images.app,
        &images.app,
        &images.app,
        &images.app,
        &images.base,
        &images.base,
        &images.nodate,
    ]
    .map(ToString::to_string)
    .into();
    assert_eq!(ids, expected.join("\n"));
    assert_eq!(shale.ok(["image", "ls", "-q", "--no-trunc"]), ids);
    assert_eq!(shale.ok(["image", "list", "-aq", "--no-trunc"]), ids);
}

#[test]
fn filters_select_images() {
    let (shale, _) = loaded();
    let names = |words: &[&str]| {
        let format = ["images", "--format", "{{.Repository}}:{{.Tag}}"];
        let found = shale.ok(format.iter().chain(words));
        found.lines().collect::<Vec<_>>().join(" ")
    };
    let app = "app:2 me/app:2 me/app:latest localhost:5000/app:2";
    let cases: [(&[&str], &str); 26] = [
        (&["app"], "app:2"),
        (&["app:2"], "app:2"),
        (&["app:3"], ""),
        (&["docker.io/library/app"], "app:2"),
        (&["me/*"], "me/app:2 me/app:latest"),
        (&["me/*:l*"], "me/app:latest"),
        (&["Base"], ""),
        (&["a:b:c"], ""),
        (&["-f", "reference=*app"], "app:2"),
        (&["-f", "reference=b[a-c]se:?"], "base:1"),
        (
            &["-f", "reference=me/*:2", "-f", "reference=base"],
            "me/app:2 base:1 base:latest",
        ),
        (
            &["-f", "reference=localhost:5000/tool:x"],
            "localhost:5000/tool:x",
        ),
        (&["-f", "dangling=true"], "<none>:<none>"),
        (&["-f", "dangling=true", "base"], ""),
        (&["-f", "dangling=0", "-f", "label=a=1"], "base:1 base:latest"),
        (&["-f", "label=b"], app),
        (&["-f", "label = b"], app),
        (&["-f", "label=a", "-f", "label=b=x"], app),
        (&["-f", "label=a=1", "-f", "label=a=2"], ""),
        (&["-f", "label="], ""),
        (&["-f", "before=app:2"], "base:1 base:latest nodate:latest"),
        (&["-f", "before=base:1", "-f", "before=app:2"], "nodate:latest"),
        (&["-f", "since=app:2"], "<none>:<none> localhost:5000/tool:x"),
        (&["-f", "until=2024-01-02"], "base:1 base:latest nodate:latest"),
        (&["-f", "until=24h", "base:1"], "base:1"),
        (&["-f", "since=base:1", "-f", "before=localhost:5000/tool:x"], app),
    ];
    for (words, expected) in cases {
        assert_eq!(names(words), expected, "{words:?}");
    }
}

#[test]
fn wrong_calls_end_as_dockers() {
    let (shale, _) = loaded();
    let cases: [(&[&str], i32, &str); 27] = [
        (&["images", "--bogus"], 125, "unexpected argument '--bogus'"),
        (&["images", "-f", "bogus"], 125, "expected name=value"),
        (&["images", "-f"], 125, "--filter"),
        (&["images", "-f", "bogus=1"], 1, "invalid filter 'bogus'"),
        (&["images", "-f", "dangling=x"], 1, "invalid filter 'dangling=x'"),
        (&["images", "-f", "until=soon"], 1, "invalid filter 'until=soon'"),
        (
            &["images", "-f", "before=nope"],
            1,
            "Error: No such image: nope:latest",
        ),
        (&["images", "["], 1, "Error: syntax error in pattern"),
        (&["images", "a", "b"], 1, "unexpected argument 'b'"),
        (
            &["images", "--format", "{{.ID"],
            1,
            "Error: template parsing error: template: :1: unclosed action",
        ),
        (
            &["images", "--format", "{{.Foo}}"],
            1,
            "template parsing error: template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo",
        ),
        (
            &["inspect", "-f", "{{.Id", "base"],
            64,
            "template parsing error: template: :1: unclosed action",
        ),
        (
            &["image", "inspect", "-f", "{{nope}}", "base"],
            64,
            "function \"nope\" not defined",
        ),
        (
            &["version", "-f", "{{.X"],
            64,
            "template: version:1: unclosed action",
        ),
        (&["system", "info", "-f", "{{.X"], 64, "template: :1: unclosed"),
        (&["history"], 1, "<IMAGE>"),
        (&["history", "--human=x", "base"], 125, "true or false"),
        (&["history", "nope"], 1, "Error: No such image: nope:latest"),
        (
            &["tag", "base", "New"],
            1,
            "\"New\" is not a valid repository/tag",
        ),
        (
            &["tag", "base", "sha256"],
            1,
            "refusing to create an ambiguous tag",
        ),
        (&["tag", "nope", "x"], 1, "No such image: nope:latest"),
        (&["image", "prune", "--filter", "x"], 125, "expected name=value"),
        (&["ps", "-f", "x"], 125, "expected name=value"),
        (&["ps", "-f", "bogus=1"], 1, "invalid filter 'bogus'"),
        (&["inspect", "--type", "bogus", "x"], 1, "bogus"),
        (&["import", "-c", "RUN x", "-"], 1, "RUN is not one of"),
        (&["import", "/dev/null", "New"], 1, "invalid reference format"),
    ];
    for (words, status, part) in cases {
        let (found, out, errors) = run(&shale, words);
        assert_eq!(found, status, "{words:?} {errors}");
        assert!(errors.contains(part), "{words:?} {errors}");
        assert_eq!(out.trim(), "", "{words:?}");
    }
    assert_eq!(run(&shale, &["image"]).0, 0);
    assert_eq!(run(&shale, &["images", "nope"]).0, 0);
}

#[test]
fn a_history_reads_as_dockers() {
    let (shale, images) = loaded();
    let (_, table, _) = run(&shale, &["history", "-H=false", "app:2"]);
    let expected = format!(
        "IMAGE          CREATED AT             CREATED BY                                      SIZE      COMMENT\n\
         {}   2024-06-01T10:20:30Z   /bin/sh -c echo two > /etc/two && a long com…   40000     \n\
         <missing>      2024-01-01T00:00:01Z   /bin/sh -c #(nop)  CMD [\"sh\"]                   0         \n\
         <missing>      2024-01-01T00:00:00Z   /bin/sh -c #(nop) ADD file:0123456789abcdef0…   50004     base <&> ok\n",
        images.app.short()
    );
    assert_eq!(table, expected);
    assert_eq!(
        shale.ok(["history", "-q", "--no-trunc", "app:2"]),
        format!("{}\n<missing>\n<missing>", images.app)
    );
    assert_eq!(
        shale
            .ok([
                "image",
                "history",
                "--format",
                "{{.CreatedBy}}",
                "--no-trunc",
                "me/app"
            ])
            .lines()
            .next(),
        Some("/bin/sh -c echo two > /etc/two && a long command that goes on and on")
    );
    assert_eq!(
        shale.ok([
            "history",
            "--format",
            "{{.CreatedSince}} {{.CreatedAt}} {{.Size}}",
            "nodate"
        ]),
        "N/A 0001-01-01T00:00:00Z 70kB\nN/A 0001-01-01T00:00:00Z 40kB"
    );
    let heading = shale.ok([
        "history",
        "--format",
        "table {{.ID}}\\t{{.CreatedAt}}\\t{{upper .CreatedSince}}",
        "base",
    ]);
    assert!(
        heading.starts_with("IMAGE          CREATED AT             CREATED\n"),
        "{heading}"
    );
    let row = shale.ok(["history", "--format", "json", "base"]);
    assert!(row.contains(r#""Comment":"base \u003c\u0026\u003e ok""#), "{row}");
}

#[test]
fn inspect_shows_what_is_found_and_tells_what_is_not() {
    let (shale, images) = loaded();
    let (status, out, errors) = run(&shale, &["inspect", "-f", "{{.Id}}", "base", "nope", "app:2"]);
    assert_eq!((status, errors.as_str()), (1, "Error: No such object: nope\n"));
    assert_eq!(out, format!("{}\n{}\n", images.base, images.app));
    let (status, out, errors) = run(&shale, &["image", "inspect", "nope"]);
    assert_eq!(
        (status, out.as_str(), errors.as_str()),
        (1, "[]\n", "Error: No such image: nope:latest\n")
    );
    // a template that fails prints an empty line, as in Docker
    let (status, out, errors) = run(&shale, &["inspect", "-f", "{{.Config.Nope}}", "base"]);
    assert_eq!((status, out.as_str()), (1, "\n"));
    assert_eq!(
        errors,
        "Error: template parsing error: template: :1:9: executing \"\" at <.Config.Nope>: map has no entry for key \
         \"Nope\"\n"
    );
    let pretty = shale.ok(["image", "inspect", "localhost:5000/tool:x"]);
    let keys: Vec<&str> = pretty
        .lines()
        .filter_map(|line| line.strip_prefix("        \"")?.split('"').next())
        .collect();
    let expected = "Id RepoTags RepoDigests Parent Comment Created DockerVersion Author Config Architecture Variant Os \
                    Size VirtualSize GraphDriver RootFS Metadata";
    assert_eq!(keys.join(" "), expected);
    let same: Value = serde_json::from_str(&pretty).unwrap();
    let short: Value =
        serde_json::from_str(&shale.ok(["inspect", "-f", "json", "localhost:5000/tool:x"])).unwrap();
    assert_eq!(same, short);
    assert_eq!(
        shale.ok([
            "inspect",
            "-f",
            "{{.Config.Entrypoint}} {{.Config.Labels.a}} {{.Config.User}}|{{.RepoDigests}} {{json .Config.Volumes}}",
            "base"
        ]),
        "[] 1 |[] null"
    );
}

#[test]
fn references_and_ids_are_found_as_by_docker() {
    let (shale, images) = loaded();
    let (id, hex) = (images.tool.to_string(), images.tool.hex());
    let found = |name: &str| shale.ok(["image", "inspect", "-f", "{{.Id}}", name]);
    let prefix = format!("sha256:{}", &hex[..6]);
    for name in [
        "localhost:5000/tool:x",
        &id,
        &hex,
        &hex[..12],
        &hex[..6],
        prefix.as_str(),
    ] {
        assert_eq!(found(name), id, "{name}");
    }
    assert_eq!(found("base"), images.base.to_string());
    assert_eq!(found("docker.io/library/base:1"), images.base.to_string());
    // a name goes before an id that begins so
    shale.ok(["tag", "base", &hex[..6]]);
    assert_eq!(found(&hex[..6]), images.base.to_string());
    for name in 0..17 {
        shale.import(&tar(&[file("f", &name.to_string())]), &format!("i:{name}"));
    }
    let ids = shale.ok(["images", "-q"]);
    let first = |id: &str| id.chars().next().unwrap();
    let double = ids
        .lines()
        .find(|id| ids.lines().filter(|other| first(other) == first(id)).count() > 1);
    let digit = first(double.unwrap()).to_string();
    let errors = shale.fails(["image", "inspect", &digit]);
    assert!(errors.contains("ambiguous"), "{errors}");
    for name in ["nope@sha256:12", "No"] {
        let errors = shale.fails(["image", "inspect", name]);
        assert!(errors.contains("invalid reference format"), "{errors}");
    }
}

#[test]
fn removals_end_as_dockers() {
    let (shale, images) = loaded();
    shale.ok(["tag", "base:1", "new:x"]);
    let (status, out, errors) = run(&shale, &["rmi", "nope", "new:x", "neither"]);
    assert_eq!((status, out.as_str()), (1, "Untagged: new:x\n"));
    assert_eq!(
        errors,
        "Error: No such image: nope:latest\nError: No such image: neither:latest\n"
    );
    let (status, _, errors) = run(&shale, &["rmi", "-f", "nope"]);
    assert_eq!(
        (status, errors.as_str()),
        (0, "Error: No such image: nope:latest\n")
    );
    let short = images.app.short();
    assert_eq!(
        shale.fails(["image", "rm", &short]),
        format!(
            "Error: conflict: unable to delete {short} (must be forced) - image is referenced in multiple \
             repositories\n"
        )
    );
    let lines = shale.ok(["image", "remove", "-f", &short]);
    let untagged = lines
        .lines()
        .filter(|line| line.starts_with("Untagged: "))
        .count();
    assert_eq!(untagged, 4, "{lines}");
    assert!(lines.contains(&format!("Deleted: {}", images.app)), "{lines}");
    // its layers live on in the image without a name
    assert_eq!(lines.matches("Deleted: ").count(), 1, "{lines}");
    assert_eq!(
        shale
            .ok(["image", "prune", "-f"])
            .lines()
            .filter(|line| line.starts_with("deleted: "))
            .count(),
        2,
        "the image and the layer that it alone had"
    );
}

#[test]
fn several_images_are_saved_and_loaded() {
    let (shale, images) = loaded();
    let path = shale.path("some.tar");
    let path = path.to_str().unwrap();
    shale.ok([
        "image",
        "save",
        "-o",
        path,
        "base",
        "me/app",
        &images.tool.short(),
    ]);
    let other = Shale::new();
    let told = other.ok(["image", "load", "-i", path]);
    let mut lines: Vec<&str> = told.lines().collect();
    lines.sort_unstable();
    let tool = format!("Loaded image ID: {}", images.tool);
    let expected = [
        tool.as_str(),
        "Loaded image: base:latest",
        "Loaded image: me/app:latest",
    ];
    // a repository's name stands for all of its tags
    let more = ["Loaded image: base:1", "Loaded image: me/app:2"];
    assert!(
        expected.iter().chain(&more).all(|line| lines.contains(line)),
        "{told}"
    );
    assert_eq!(
        other.ok(["image", "inspect", "-f", "{{.Id}}", "base:latest"]),
        images.base.to_string()
    );
    let missing = shale.path("missing.tar");
    shale.fails(["save", "-o", missing.to_str().unwrap(), "base", "nope"]);
    assert!(!missing.exists());
}

#[test]
fn an_import_is_for_the_machines_it_is_said_to_be_for() {
    let shale = Shale::new();
    std::fs::write(shale.path("root.tar"), tar(&[dir("d")])).unwrap();
    let path = shale.path("root.tar");
    for (platform, expected) in [
        ("linux/arm64", "arm64/"),
        ("linux/arm/v7", "arm/v7"),
        ("x86_64", "amd64/"),
    ] {
        let words = [
            "image",
            "import",
            "-q",
            "--platform",
            platform,
            "-m",
            "why",
            path.to_str().unwrap(),
            "x",
        ];
        shale.ok(words);
        let found = shale.ok([
            "inspect",
            "-f",
            "{{.Architecture}}/{{.Variant}} {{.Comment}}",
            "x",
        ]);
        assert_eq!(found, format!("{expected} why"));
    }
    let (status, ..) = run(
        &shale,
        &["import", "--platform", "windows/amd64", path.to_str().unwrap()],
    );
    assert_eq!(status, 125);
}

/// Bytes on disk of all files below a folder of the store, those with several names once.
fn taken(shale: &Shale, folder: &str) -> u64 {
    imagetool::system::disk::of_tree(&shale.root().join(folder)).unwrap()
}

/// … of its directories alone, which belong to nobody.
fn directories(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = path.metadata().unwrap().blocks() * 512;
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            bytes += directories(&entry.path());
        }
    }
    bytes
}

#[test]
fn sizes_add_up_to_what_the_store_takes() {
    let (shale, _) = loaded();
    let store = Store::open(&shale.root()).unwrap();
    let usage = usage(&store).unwrap();
    let unique: u64 = usage.images.iter().map(|image| image.unique_bytes).sum();
    let sum = unique + usage.shared_bytes + usage.unused_bytes;
    let disk: u64 = ["blobs", "layers", "objects"]
        .iter()
        .map(|folder| taken(&shale, folder))
        .sum();
    // the folders themselves belong to no image; a layer's own does
    let layer_folders: u64 = std::fs::read_dir(shale.root().join("layers"))
        .unwrap()
        .map(|entry| directories(&entry.unwrap().path()))
        .sum();
    let folders: u64 = ["blobs", "layers", "objects"]
        .iter()
        .map(|folder| directories(&shale.root().join(folder)))
        .sum();
    assert_eq!(sum, disk - folders + layer_folders);
    assert!(usage.shared_bytes > 0 && unique > 0);
    assert_eq!(usage.unused_bytes, 0);
    let told: Value = serde_json::from_str(&shale.ok(["system", "df", "-v", "--format", "json"])).unwrap();
    assert_eq!(told["Totals"]["SharedBytes"], usage.shared_bytes);
    assert_eq!(told["Totals"]["UniqueBytes"], unique);
    assert_eq!(
        told["Images"].as_array().unwrap().len(),
        5,
        "one row for each image"
    );
    let rows = shale.ok([
        "system",
        "df",
        "-v",
        "--format",
        "{{range .Images}}{{.Repository}};{{end}}",
    ]);
    assert_eq!(rows, "<none>;localhost:5000/tool;app;base;nodate;");
}

#[test]
fn what_later_layers_hide_is_shown() {
    let (shale, images) = loaded();
    let format = "{{.Files}} {{.SizeBytes}} {{.HiddenFiles}} {{.HiddenBytes}}";
    assert_eq!(
        shale.ok(["image", "du", "--format", format, &images.lost.short()]),
        "1 300000 0 0\n1 40000 1 40000\n2 50004 0 0"
    );
    assert_eq!(
        shale.ok(["image", "du", "--format", format, "app:2"]),
        "1 40000 0 0\n2 50004 0 0"
    );
    let table = shale.ok(["image", "du", &images.lost.short()]);
    let heading = "LAYER          SIZE      HIDDEN    CREATED BY\n";
    assert!(
        table.starts_with(heading) && table.contains("   40kB      40kB      /bin/sh -c echo"),
        "{table}"
    );
    // an opaque directory, and a file where a directory was
    let low = tar(&[
        dir("d"),
        file("d/a", "aaa"),
        file("d/b", "bb"),
        dir("e"),
        file("e/f", "f"),
        file("keep", "k"),
    ]);
    let high = tar(&[
        dir("d"),
        file("d/.wh..wh..opq", ""),
        file("d/b", "new"),
        file("e", "file"),
    ]);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [
            imagetool::digest::Digest::of(&low).to_string(), imagetool::digest::Digest::of(&high).to_string()]},
    })
    .to_string();
    let manifest = r#"[{"Config": "c.json", "RepoTags": ["opaque:1"], "Layers": ["1.tar", "2.tar"]}]"#;
    let raw = |name: &str, bytes: &[u8]| {
        let (mut member, _) = file(name, "");
        member.size_bytes = bytes.len() as u64;
        (member, bytes.to_vec())
    };
    let archive = tar(&[
        raw("1.tar", &low),
        raw("2.tar", &high),
        file("c.json", &config),
        file("manifest.json", manifest),
    ]);
    assert!(shale.feed(["load", "-q"], &archive).status.success());
    assert_eq!(
        shale.ok(["image", "du", "--format", format, "opaque:1"]),
        "2 7 0 0\n4 7 3 6"
    );
}

#[test]
fn help_completion_and_manual_pages_know_the_verbs() {
    let shale = Shale::new();
    let script = shale.ok(["completion", "bash"]);
    for word in ["--platform", "--digests", "--no-trunc", "inspect"] {
        assert!(script.contains(word), "{word}");
    }
    let pages = shale.path("man");
    shale.ok(["man", pages.to_str().unwrap()]);
    for page in [
        "shale-images.1",
        "shale-image-inspect.1",
        "shale-image-du.1",
        "shale-system-df.1",
    ] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains("Example"), "{page}");
    }
}
