//! The same commands to Docker's client with an engine of the test's own, and to `shale`: what they print and how they
//! end must be the same, but for what `docs/docker-differences.md` lists.
//!
//! Runs as root where `docker` and `dockerd` are installed; the engine has its data, its socket and its process id in a
//! temporary directory, no network, and ends with the test.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::images::{Images, images};
use crate::common::{Shale, dir, file, skip, tar};

/// How long the engine may take to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine; it ends when this is dropped.
struct Engine {
    child: Child,
    folder: tempfile::TempDir,
}

impl Engine {
    /// Starts one; `None`, with the reason told, where that cannot be.
    fn start() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip("an engine of its own needs root");
            return None;
        }
        let is_there = |program: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path)
                .chain([PathBuf::from("/usr/sbin")])
                .any(|folder| folder.join(program).is_file())
        };
        if !is_there("docker") || !is_there("dockerd") {
            skip("docker and dockerd are not both installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let log = fs::File::create(at("log")).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new("dockerd")
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .args(["--bridge", "none", "--iptables=false", "--storage-driver", "vfs"])
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("-p")
            .arg(at("pid"))
            .arg("-H")
            .arg(format!("unix://{}", at("s").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut engine = Self { child, folder };
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = engine.child.try_wait().unwrap() {
                skip(&format!(
                    "dockerd does not start here: {status}: {}",
                    engine.last_words()
                ));
                return None;
            }
            if engine.run(&["version"]).status.success() {
                return Some(engine);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        skip(&format!("dockerd does not answer: {}", engine.last_words()));
        None
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new("docker")
            .env("HOME", self.folder.path())
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_HOST")
            .env("TZ", "UTC")
            .arg("-H")
            .arg(format!("unix://{}", self.folder.path().join("s").display()))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = kill(pid, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A line of an error without what says whose it is.
fn bare(line: &str) -> &str {
    ["Error response from daemon: ", "Error: "]
        .iter()
        .find_map(|prefix| line.strip_prefix(prefix))
        .unwrap_or(line)
}

struct Both {
    engine: Engine,
    shale: Shale,
}

impl Both {
    fn run(&self, words: &[&str]) -> (Output, Output) {
        let mut ours = self.shale.command(words);
        let ours = ours.env("TZ", "UTC").stdin(Stdio::null()).output().unwrap();
        (self.engine.run(words), ours)
    }

    /// Status and standard output are the same. Docker lists the repositories of one image in any order.
    fn same(&self, words: &[&str]) {
        let (theirs, ours) = self.run(words);
        let sorted = |output: &Output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let told = format!(
            "{words:?}\n{}{}",
            String::from_utf8_lossy(&theirs.stderr),
            String::from_utf8_lossy(&ours.stderr)
        );
        assert_eq!(sorted(&theirs), sorted(&ours), "{told}");
        assert_eq!(theirs.status.code(), ours.status.code(), "{told}");
    }

    /// … and so is the standard error, but for whose it is.
    fn same_errors(&self, words: &[&str]) {
        self.same(words);
        let (theirs, ours) = self.run(words);
        let text = |output: &Output| {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            text.lines().map(bare).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(text(&theirs), text(&ours), "{words:?}");
    }

    /// Only the status is: the text is one of ours.
    fn same_status(&self, words: &[&str]) {
        let (theirs, ours) = self.run(words);
        let told = String::from_utf8_lossy(&ours.stderr).into_owned();
        assert_eq!(theirs.status.code(), ours.status.code(), "{words:?} {told}");
        assert_eq!(theirs.stdout, ours.stdout, "{words:?}");
    }
}

fn load(both: &Both, archive: &Path) {
    let path = archive.to_str().unwrap();
    for output in [
        both.engine.run(&["load", "-q", "-i", path]),
        both.shale.run(["load", "-q", "-i", path]),
    ] {
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// One engine for all: starting it takes longer than everything else.
#[test]
fn the_verbs_print_and_end_as_dockers() {
    let Some(engine) = Engine::start() else {
        return;
    };
    let both = Both {
        engine,
        shale: Shale::new(),
    };
    let images = images();
    let archive = both.shale.path("images.tar");
    fs::write(&archive, &images.archive).unwrap();
    load(&both, &archive);
    listings(&both, &images);
    histories(&both, &images);
    inspections(&both);
    wrong_calls(&both);
    archives(&both);
    // last: these change what is there
    names_and_removals(&both, &images);
    prunes(&both);
}

fn listings(both: &Both, images: &Images) {
    let lost = images.lost.short();
    let calls: &[&[&str]] = &[
        &["images"],
        &["images", "-a"],
        &["images", "-q"],
        &["images", "--no-trunc"],
        &["images", "--digests"],
        &["image", "ls", "-aq", "--no-trunc"],
        &["image", "list", "base"],
        &["images", "me/*"],
        &["images", "app:2"],
        &["images", "Base"],
        &["images", "nope"],
        &["images", "-f", "dangling=true"],
        &["images", "-f", "dangling=false"],
        &["images", "-f", "dangling=true", "base"],
        &["images", "-f", "label=a"],
        &["images", "-f", "label=a=1"],
        &["images", "-f", "label = a", "-f", "label=b=x"],
        &["images", "-f", "label="],
        &["images", "-f", "before=app:2"],
        &["images", "-f", "since=base:1", "-f", &format!("before={lost}")],
        &["images", "-f", "reference=*app"],
        &["images", "-f", "reference=b[a-c]se"],
        &["images", "-f", "reference=*/*/*:x"],
        &["images", "--format", "table"],
        &["images", "--format", "json"],
        &["images", "--format", "{{json .}}"],
        &["images", "--format", "{{.ID}}\\t{{.Tag}}\\n", "base"],
        &[
            "images",
            "--format",
            "{{.Repository}} {{.Tag}} {{.Digest}} {{.CreatedSince}} {{.CreatedAt}} {{.Size}} {{.VirtualSize}} \
             {{.SharedSize}} {{.UniqueSize}} {{.Containers}}",
        ],
        &[
            "images",
            "--format",
            "table {{.ID}} {{.CreatedAt}} {{.CreatedSince}}\\t{{.Digest}}\\t{{.UniqueSize}}",
        ],
        &[
            "images",
            "--format",
            "table{{upper .ID}}\\t{{len .Tag}}\\t{{printf \"%.3s\" .Repository}}",
            "base",
        ],
        &["images", "--format", "table {{json .}}", "base:1"],
        &[
            "images",
            "--format",
            "{{title .Tag}}{{pad .Tag 2 3}}|{{truncate .ID 2}}{{split .ID \"a\"}}{{join (split .ID \"a\") \",\"}}",
        ],
        &["images", "-q", "--format", "table {{.Tag}}", "base"],
        &["images", "-q", "--format", "table", "base"],
    ];
    calls.iter().for_each(|words| both.same_errors(words));
}

fn histories(both: &Both, images: &Images) {
    for image in ["base", "app:2", &images.lost.short(), "nodate"] {
        for options in [
            &[][..],
            &["-q"],
            &["--no-trunc"],
            &["-q", "--no-trunc"],
            &["-H"],
            &["-H=false"],
            &["--human=0"],
            &["--format", "json"],
            &["--format", "{{json .}}"],
            &[
                "--format",
                "{{.ID}} {{.CreatedAt}} {{.CreatedSince}} {{.Comment}} {{.Size}}",
            ],
            &[
                "--format",
                "table {{.ID}}\\t{{.CreatedSince}}\\t{{.CreatedAt}}\\t{{.CreatedBy}}",
            ],
        ] {
            both.same_errors(&[&["history"], options, &[image]].concat());
        }
    }
    both.same_errors(&["history", "nope"]);
    both.same_errors(&["image", "history", "--format", "{{.ID", "base"]);
}

fn inspections(both: &Both) {
    let templates = [
        "{{.Id}}",
        "{{json .RootFS}} {{json .RepoTags}} {{.RepoDigests}}",
        "{{.Created}} {{.Os}}/{{.Architecture}} {{.Variant}}|{{.Author}}|{{.Comment}}|{{.Parent}}|{{.DockerVersion}}",
        "{{.Config.Env}} {{.Config.Cmd}} {{.Config.Entrypoint}} {{.Config.User}}|{{.Config.WorkingDir}}",
        "{{.Config.Labels}} {{.Config.Volumes}} {{.Config.ExposedPorts}} {{.Config.OnBuild}} {{.Config.Healthcheck}}",
        "{{json .Config.Labels}} {{json .Config.Volumes}} {{json .Config.Entrypoint}} {{json .Config.Env}}",
        "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}{{range .Config.Env}}{{println .}}{{end}}",
        "{{if .Config.Cmd}}{{join .Config.Cmd \" \"}}{{else}}none{{end}} {{len .RootFS.Layers}} {{index .RepoTags 0}}",
        "{{with .Config.Labels}}{{index . \"a\"}}{{.nope}}{{end}} {{- /* c */ -}} {{ .Os | upper | printf \"%q\" }}",
        "{{slice .Id 7 19}} {{eq .Os \"linux\"}} {{and .Os .Parent}} {{or .Parent .Os}} {{not .Parent}} {{print 1 2 \"a\"}}",
        "{{.Nope}}",
        "{{.Config.Nope}}",
        "{{index .RepoTags \"a\"}}",
        "{{.Id",
        "{{nope .Id}}",
        "{{if .Id}}x",
        "{{.Id}}{{end}}",
        "{{\"x}}",
        "{{.Id}",
        "{{3-}}",
        "{{$z}}",
        "{{}}",
        "a\n{{(.Id}}",
    ];
    for image in ["base", "app:2", "nodate"] {
        for template in templates {
            both.same_errors(&["inspect", "-f", template, image]);
            both.same_errors(&["image", "inspect", "-f", template, image]);
        }
    }
    both.same_errors(&["inspect", "-f", "{{.Id}}", "base", "nope", "app:2"]);
    both.same_errors(&["inspect", "nope"]);
    both.same_errors(&["inspect", "--type", "container", "base"]);
    both.same(&["image", "inspect", "nope"]);
    both.same(&["image", "inspect", "-f", "{{.Id}}", "nope", "base"]);
}

fn wrong_calls(both: &Both) {
    let calls: &[&[&str]] = &[
        &["images", "--bogus"],
        &["images", "-f", "bogus"],
        &["images", "-f", "bogus=1"],
        &["images", "-f", "label!=a"],
        &["images", "-f", "dangling=x"],
        &["images", "-f", "before=nope"],
        &["images", "["],
        &["images", "a", "b"],
        &["images", "--format", "{{.Foo}}"],
        &["history"],
        &["history", "a", "b"],
        &["history", "--human=x", "base"],
        &["history", "Base"],
        &["inspect"],
        &["inspect", "-f"],
        &["inspect", "--type", "bogus", "base"],
        &["image"],
        &["image", "bogus"],
        &["tag", "base"],
        &["tag", "base", "New"],
        &["tag", "base", "a b"],
        &["tag", "nope", "x"],
        &["tag", "base", "sha256"],
        &["rmi"],
        &["rmi", "Base"],
        &["save"],
        &["save", "nope"],
        &["save", "-o", "/nowhere/x.tar", "base"],
        &["load", "x"],
        &["load", "-i", "/nowhere"],
        &["load"],
        &["import"],
        &["import", "/nowhere"],
        &["import", "-c", "RUN x", "/dev/null"],
        &["image", "prune", "x"],
        &["image", "prune", "--filter", "x"],
        &["image", "prune", "-f", "--filter", "x=y"],
        &["image", "prune", "-f", "--filter", "until=x"],
        &["system", "df", "x"],
        &["system", "df", "--format", "{{.Foo}}"],
        &["ps", "x"],
        &["ps", "-f", "x"],
        &["ps", "-f", "x=y"],
        &["ps", "--format", "{{.ID"],
        &["version", "--format", "{{.X"],
        &["system", "info", "--format", "{{.X"],
    ];
    calls.iter().for_each(|words| both.same_status(words));
}

/// What each saves the other loads, with the same ids.
fn archives(both: &Both) {
    let root = both.shale.path("root.tar");
    fs::write(&root, tar(&[dir("d"), file("d/f", "x")])).unwrap();
    let root = root.to_str().unwrap();
    let words = [
        "import",
        "-m",
        "why",
        "-c",
        "CMD [\"x\"]",
        "-c",
        "ENV A=b",
        root,
        "imported:1",
    ];
    for output in [both.engine.run(&words), both.shale.run(words)] {
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("sha256:"));
        assert!(output.status.success());
    }
    let template = "{{.Comment}} {{json .Config.Cmd}} {{.Config.Env}} {{.RootFS}} {{.Os}}";
    let template = template.replace("{{.RootFS}}", "{{json .RootFS}}");
    both.same_errors(&["inspect", "-f", &template, "imported:1"]);
    both.same(&["rmi", "-f", "nope"]);
    both.engine.run(&["rmi", "imported:1"]);
    both.shale.run(["rmi", "imported:1"]);
    let path = both.shale.path("saved.tar");
    let path = path.to_str().unwrap();
    for ours in [true, false] {
        let words = ["save", "-o", path, "base", "me/app:2"];
        let saved = match ours {
            true => both.shale.run(words),
            false => both.engine.run(&words),
        };
        assert!(saved.status.success());
        let (theirs, own) = both.run(&["load", "-i", path]);
        assert!(theirs.status.success() && own.status.success());
        both.same_errors(&["images", "--no-trunc"]);
    }
    both.same(&["load", "-q", "-i", path]);
}

fn names_and_removals(both: &Both, images: &Images) {
    let (base, app) = (images.base.short(), images.app.short());
    let calls: &[&[&str]] = &[
        &["tag", "base:1", "new:x"],
        &["tag", &images.lost.hex()[..7], "prefixed"],
        &["tag", "base:1", &format!("new@{}", images.lost)],
        &["images"],
        &["rmi", "nope", "new:x", "neither"],
        &["rmi", "-f", "nope"],
        &["rmi", &base],
        &["rmi", "--no-prune", "app:2"],
        &["image", "rm", "me/app:2"],
        &["rmi", "-f", &app],
        &["rmi", "base"],
        &["images", "-a"],
    ];
    calls.iter().for_each(|words| both.same_errors_once(words));
}

impl Both {
    /// As [`Both::same_errors`], for what cannot be done twice.
    fn same_errors_once(&self, words: &[&str]) {
        let (theirs, ours) = self.run(words);
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let mut lines: Vec<String> = text.lines().map(|line| bare(line).to_owned()).collect();
            lines.sort();
            lines
        };
        assert_eq!(text(&theirs.stdout), text(&ours.stdout), "{words:?}");
        assert_eq!(text(&theirs.stderr), text(&ours.stderr), "{words:?}");
        assert_eq!(theirs.status.code(), ours.status.code(), "{words:?}");
    }
}

fn prunes(both: &Both) {
    // nobody answers: nothing is removed
    both.same_errors(&["image", "prune"]);
    both.same_errors(&["image", "prune", "-a"]);
    both.same_errors(&["image", "prune", "-a", "-f", "--filter", "label=b=nothing"]);
    both.same_status(&["image", "prune", "-f", "--filter", "color=red"]);
    for words in [&["image", "prune", "-a", "-f"][..], &["images", "-a"]] {
        let (theirs, ours) = both.run(words);
        assert_eq!(theirs.status.code(), ours.status.code());
        let untagged = |output: &Output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| !line.starts_with("deleted: ") && !line.starts_with("Total "))
                .map(str::to_owned)
                .collect();
            lines.sort();
            lines
        };
        assert_eq!(untagged(&theirs), untagged(&ours));
    }
    both.same_errors(&["image", "prune", "-f"]);
    both.same_errors(&["images"]);
}
