//! `login`, `logout` and `search`, as people call them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::common::Shale;
use crate::support::proxy::{Fault, Proxy};
use crate::support::registry::{Registry, Setup, needs};
use crate::support::tokens::{Manner, PASSWORD, REFRESH, Tokens, USER};
use crate::support::{put_image, repository};

/// Runs the program with a home of its own and something on its standard input.
fn run(shale: &Shale, words: &[&str], input: &str) -> Output {
    let path = format!(
        "{}:{}",
        shale.folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    let mut child = shale
        .command(words)
        .env("HOME", shale.folder.path())
        .env("PATH", path)
        .env("CONTAINERS_REGISTRIES_CONF", "/dev/null")
        .env_remove("DOCKER_CONFIG")
        .env_remove("REGISTRY_AUTH_FILE")
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // one that does not read is fine
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn texts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn config(shale: &Shale) -> String {
    fs::read_to_string(shale.path(".docker/config.json")).unwrap_or_default()
}

#[test]
fn a_login_needs_a_registry() {
    let Some(registry) = Registry::start(&Setup::default()) else {
        return;
    };
    let elsewhere = Proxy::start(&registry.address(), |_| Fault::Pass);
    let answers = [
        (
            Fault::Answer(404, Vec::new(), Vec::new()),
            "there is no such thing",
        ),
        (
            Fault::redirect(&format!("http://{}/v2/", elsewhere.address())),
            "this is no registry",
        ),
    ];
    for (answer, told) in answers {
        let proxy = Proxy::start(&registry.address(), move |_| answer.clone());
        let shale = Shale::new();
        let words = ["login", "-u", "me", "--password-stdin", &proxy.address()];
        let (status, out, err) = texts(&run(&shale, &words, "a-secret"));
        assert_eq!((status, out.as_str()), (1, ""), "{err}");
        assert!(err.contains(told) && !err.contains("a-secret"), "{err}");
        assert_eq!(config(&shale), "");
    }
}

#[test]
fn a_login_is_tried_and_kept() {
    if !needs("htpasswd") {
        return;
    }
    let Some(registry) = Registry::start(&Setup::with_user("me", "hunter2")) else {
        return;
    };
    let shale = Shale::new();
    let address = registry.address();
    fs::create_dir(shale.path(".docker")).unwrap();
    fs::write(shale.path(".docker/config.json"), r#"{"psFormat":"x"}"#).unwrap();
    let login = ["login", "-u", "me", "--password-stdin", &address];
    let (status, out, err) = texts(&run(&shale, &login, "wrong-secret\n"));
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(
        err.starts_with("Error: log in to ") && err.contains("unauthorized"),
        "{err}"
    );
    assert!(!err.contains("wrong-secret") && !config(&shale).contains("auths"));
    let (status, out, err) = texts(&run(&shale, &login, "hunter2\n"));
    assert_eq!((status, out.as_str()), (0, "Login Succeeded\n"), "{err}");
    assert!(err.contains("stored unencrypted in"), "{err}");
    // "me:hunter2"
    let text = config(&shale);
    assert!(
        text.contains("bWU6aHVudGVyMg==") && text.contains("psFormat"),
        "{text}"
    );
    let metadata = shale.path(".docker/config.json").metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    // known, so nobody is asked
    let (status, out, err) = texts(&run(&shale, &["login", &address], ""));
    assert_eq!((status, out.as_str()), (0, "Login Succeeded\n"), "{err}");
    assert!(err.contains("existing credentials"), "{err}");
    let (status, out, _) = texts(&run(&shale, &["logout", &address], ""));
    assert_eq!(
        (status, out),
        (0, format!("Removing login credentials for {address}\n"))
    );
    assert!(!config(&shale).contains(&address) && config(&shale).contains("psFormat"));
    let (status, _, err) = texts(&run(&shale, &["login", &address], ""));
    assert_eq!(
        (status, err.as_str()),
        (
            1,
            "Error: Cannot perform an interactive login from a non TTY device\n"
        )
    );
}

#[test]
fn a_password_in_the_command_line_is_warned_of() {
    if !needs("htpasswd") {
        return;
    }
    let Some(registry) = Registry::start(&Setup::with_user("me", "hunter2")) else {
        return;
    };
    let shale = Shale::new();
    let address = registry.address();
    let (status, out, err) = texts(&run(
        &shale,
        &["--debug", "login", "-u", "me", "-p", "hunter2", &address],
        "",
    ));
    assert_eq!((status, out.as_str()), (0, "Login Succeeded\n"), "{err}");
    assert!(
        err.contains("WARNING! Using --password via the CLI is insecure. Use --password-stdin."),
        "{err}"
    );
    assert!(
        !err.contains("hunter2") && !err.contains("bWU6aHVudGVyMg"),
        "{err}"
    );
    let cases: [(&[&str], &str); 4] = [
        (
            &["login", "-u", "me", "-p", "x", "--password-stdin", &address],
            "cannot specify both",
        ),
        (&["login", "--password-stdin", &address], "requires --username"),
        (&["login", "-u", "me", "--password-stdin", &address], "is empty"),
        (
            &["login", "-u", "me", "--password-stdin", "no host"],
            "is no registry",
        ),
    ];
    for (words, part) in cases {
        let (status, _, err) = texts(&run(&shale, words, ""));
        assert!(status == 1 && err.contains(part), "{words:?}: {err}");
    }
    let (_, _, trace) = {
        let mut command = shale.command(["login", &address]);
        command
            .env("HOME", shale.folder.path())
            .env("RUST_LOG", "trace")
            .env_remove("DOCKER_CONFIG");
        texts(&command.stdin(Stdio::null()).output().unwrap())
    };
    assert!(
        !trace.contains("hunter2") && !trace.contains("bWU6aHVudGVyMg"),
        "{trace}"
    );
}

#[test]
fn a_helper_keeps_the_login() {
    if !needs("htpasswd") {
        return;
    }
    let Some(registry) = Registry::start(&Setup::with_user("me", "hunter2")) else {
        return;
    };
    let shale = Shale::new();
    let script = "#!/bin/sh\nfile=${0%/*}/kept\necho \"$1\" >>\"${0%/*}/asked\"\ncase $1 in\nget) cat \"$file\" 2>/dev/null || { echo 'credentials not found in native keychain'; exit 1; } ;;\nstore) cat >\"$file\" ;;\nerase) rm \"$file\" ;;\nesac\n";
    crate::support::program(&shale.path("docker-credential-test"), script);
    fs::create_dir(shale.path(".docker")).unwrap();
    fs::write(shale.path(".docker/config.json"), r#"{"credsStore":"test"}"#).unwrap();
    let address = registry.address();
    let (status, out, err) = texts(&run(
        &shale,
        &["login", "-u", "me", "--password-stdin", &address],
        "hunter2",
    ));
    assert_eq!((status, out.as_str(), err.as_str()), (0, "Login Succeeded\n", ""));
    assert!(
        fs::read_to_string(shale.path("kept"))
            .unwrap()
            .contains("hunter2")
    );
    assert!(!config(&shale).contains("bWU6") && config(&shale).contains(&address));
    let (status, out, err) = texts(&run(&shale, &["login", &address], ""));
    assert_eq!((status, out.as_str()), (0, "Login Succeeded\n"), "{err}");
    let (status, _, err) = texts(&run(&shale, &["logout", &address], ""));
    assert_eq!(status, 0, "{err}");
    assert!(!shale.path("kept").exists() && !config(&shale).contains(&address));
}

#[test]
fn a_token_server_gives_a_token_to_keep() {
    let folder = tempfile::tempdir().unwrap();
    if !needs("openssl") {
        return;
    }
    let tokens = Tokens::start(
        folder.path(),
        Manner {
            expires_s: 300,
            ..Manner::default()
        },
    );
    let setup = Setup {
        tokens: Some((tokens.realm(), tokens.certificate.clone())),
        ..Setup::default()
    };
    let Some(registry) = Registry::start(&setup) else {
        return;
    };
    let shale = Shale::new();
    let address = registry.address();
    let words = ["login", "-u", USER, "--password-stdin", &address];
    let (status, _, err) = texts(&run(&shale, &words, "wrong"));
    assert!(
        status == 1 && err.contains("incorrect username or password"),
        "{err}"
    );
    let (status, out, err) = texts(&run(&shale, &words, PASSWORD));
    assert_eq!((status, out.as_str()), (0, "Login Succeeded\n"), "{err}");
    let text = config(&shale);
    assert!(text.contains(REFRESH) && !text.contains(PASSWORD), "{text}");
    let (status, out, err) = texts(&run(&shale, &["login", &address], ""));
    assert_eq!((status, out.as_str()), (0, "Login Succeeded\n"), "{err}");
}

#[test]
fn a_registry_without_a_search_has_its_list_looked_through() {
    let Some(registry) = Registry::plain() else { return };
    let address = registry.address();
    for name in ["team/tool", "team/other", "tools"] {
        put_image(&repository(&address, name), "1", b"layer");
    }
    let shale = Shale::new();
    let (status, out, err) = texts(&run(&shale, &["search", &format!("{address}/tool")], ""));
    assert_eq!(status, 0, "{err}");
    let names: Vec<_> = out
        .lines()
        .map(|line| line.split_ascii_whitespace().next().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "NAME",
            &format!("{address}/team/tool"),
            &format!("{address}/tools")
        ]
    );
    assert_eq!(
        out.lines()
            .next()
            .unwrap()
            .split_ascii_whitespace()
            .collect::<Vec<_>>(),
        ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    );
    let (_, out, _) = texts(&run(
        &shale,
        &[
            "search",
            "--limit",
            "1",
            "--format",
            "{{.Name}}",
            &format!("{address}/t"),
        ],
        "",
    ));
    assert_eq!(out.lines().count(), 1);
    for (words, part) in [
        (["--limit", "0"], "outside the range"),
        (["-f", "x=y"], "invalid filter"),
        (["-f", "stars=x"], "stars"),
    ] {
        let (status, _, err) = texts(&run(&shale, &[&["search"], &words[..], &["term"]].concat(), ""));
        assert!(status == 1 && err.contains(part), "{err}");
    }
}

#[test]
fn the_old_search_is_asked_first() {
    let Some(registry) = Registry::plain() else { return };
    let body = r#"{"num_results":2,"results":[
        {"name":"few","description":"a\u001b[31m description that is far longer than any table has room for","star_count":2,"is_official":false},
        {"name":"many","description":null,"star_count":900,"is_official":true,"is_automated":true},
        {"name":"odd","description":"","star_count":-7}]}"#;
    let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    let proxy = Proxy::start(&registry.address(), move |head| {
        match head.target.starts_with("/v1/search") {
            true => Fault::Answer(200, headers.clone(), body.as_bytes().to_vec()),
            false => Fault::Pass,
        }
    });
    let address = proxy.address();
    let shale = Shale::new();
    let (status, out, err) = texts(&run(&shale, &["search", &format!("{address}/a b&c")], ""));
    assert_eq!(status, 0, "{err}");
    let lines: Vec<_> = out.lines().map(str::trim_end).collect();
    assert!(
        lines[1].starts_with(&format!("{address}/many")) && lines[1].ends_with("900       [OK]"),
        "{out}"
    );
    assert!(
        lines[2].contains("a [31m description that is far longer than a…   2"),
        "{out}"
    );
    assert!(lines[3].ends_with(" 0"), "{out}");
    assert_eq!(proxy.count("GET", "/v1/search?q=a%20b%26c&n=25"), 1);
    let (_, out, _) = texts(&run(
        &shale,
        &[
            "search",
            "--no-trunc",
            "--filter",
            "stars=3",
            "--format",
            "{{.Name}} {{.StarCount}} {{.IsOfficial}}",
            &format!("{address}/x"),
        ],
        "",
    ));
    assert_eq!(out, format!("{address}/many 900 [OK]\n"));
}

#[test]
fn a_broken_configuration_is_told_with_its_place() {
    let shale = Shale::new();
    let file = shale.path("registries.conf");
    fs::write(&file, "unqualified-search-registries = ['a']\n[[registry]\n").unwrap();
    let mut command = shale.command(["search", "127.0.0.1:1/x"]);
    command.env("CONTAINERS_REGISTRIES_CONF", &file);
    let (status, _, err) = texts(&command.stdin(Stdio::null()).output().unwrap());
    assert_eq!(status, 1);
    assert!(
        err.starts_with(&format!("Error: {}:2: ", file.display())),
        "{err}"
    );
    assert!(Path::new(&file).exists());
}
