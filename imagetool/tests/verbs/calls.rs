//! How the verbs end: references and ids, removals, archives, wrong calls.

use crate::common::{Shale, dir, file, tar};
use crate::support::{loaded, run};

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
