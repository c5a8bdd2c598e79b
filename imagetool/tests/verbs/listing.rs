//! What the verbs print: listings, histories, descriptions.

use serde_json::Value;

use crate::support::{loaded, run};

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
