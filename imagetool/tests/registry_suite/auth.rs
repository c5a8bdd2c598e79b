//! Who one is: passwords, tokens, helpers, and where they go.

use std::fs;
use std::path::Path;

use imagetool::registry::{Repository, Upload, Which};

use crate::support::proxy::{Fault, Proxy};
use crate::support::registry::{Registry, Setup, needs};
use crate::support::tls::Authority;
use crate::support::tokens::{Manner, PASSWORD, REFRESH, Tokens, USER};
use crate::support::{name, noise, opener, put_blob, put_image, read, registries};

/// The home directory of someone who is logged in with `entry` in `auths`.
fn home(folder: &Path, address: &str, entry: &str) -> String {
    let path = folder.join(".docker");
    fs::create_dir_all(&path).unwrap();
    fs::write(
        path.join("config.json"),
        format!(r#"{{"auths":{{"{address}":{entry}}}}}"#),
    )
    .unwrap();
    folder.to_str().unwrap().to_owned()
}

fn password(user: &str, password: &str) -> String {
    format!(r#"{{"username":"{user}","password":"{password}"}}"#)
}

/// A repository, and the home directory of who uses it: credentials are looked up when they are needed.
struct Mine {
    repository: Repository,
    _home: tempfile::TempDir,
}

impl std::ops::Deref for Mine {
    type Target = Repository;

    fn deref(&self) -> &Repository {
        &self.repository
    }
}

/// A repository for someone with `entry` as credentials.
fn repository(address: &str, path: &str, entry: Option<&str>) -> Mine {
    let folder = tempfile::tempdir().unwrap();
    let home = match entry {
        Some(entry) => home(folder.path(), address, entry),
        None => folder.path().to_str().unwrap().to_owned(),
    };
    let registries = registries(folder.path(), &[("HOME", &home)]);
    Mine {
        repository: registries.destination(&name(address, path)).unwrap(),
        _home: folder,
    }
}

fn tag(text: &str) -> Which {
    Which::Tag(text.to_owned())
}

#[test]
fn a_password_is_sent_where_it_is_asked_for() {
    if !needs("htpasswd") {
        return;
    }
    let Some(registry) = Registry::start(&Setup::with_user("me", "hunter2")) else {
        return;
    };
    let address = registry.address();
    let with = |entry: Option<&str>| repository(&address, "a/b", entry);
    let mine = with(Some(&password("me", "hunter2")));
    let (digest, _) = put_image(&mine, "1", b"layer");
    assert_eq!(mine.manifest(&tag("1")).unwrap().digest, digest);
    let nobody = with(None).manifest(&tag("1")).unwrap_err();
    assert!(nobody.is_unauthorized() && !nobody.is_transient());
    let text = nobody.to_string();
    assert!(
        text.contains("it may need a login") && text.contains(&format!("shale login {address}")),
        "{text}"
    );
    let wrong = with(Some(&password("me", "wrong-secret")))
        .manifest(&tag("1"))
        .unwrap_err();
    assert!(wrong.is_unauthorized());
    let text = format!("{wrong} {wrong:?}");
    assert!(
        text.contains("were refused") && !text.contains("wrong-secret"),
        "{text}"
    );
}

#[test]
fn a_password_goes_to_no_other_host() {
    if !needs("htpasswd") {
        return;
    }
    let Some(registry) = Registry::start(&Setup::with_user("me", "hunter2")) else {
        return;
    };
    let mine = repository(&registry.address(), "a", Some(&password("me", "hunter2")));
    let bytes = noise(10_000);
    let digest = put_blob(&mine, &bytes, Upload::Whole);
    // as with object storage: the blob itself is elsewhere, where nobody asks for a password
    let storage = Registry::plain().unwrap();
    put_blob(
        &crate::support::repository(&storage.address(), "a"),
        &bytes,
        Upload::Whole,
    );
    let elsewhere = Proxy::start(&storage.address(), |_| Fault::Pass);
    let there = format!("http://{}", elsewhere.address());
    let front = Proxy::start(&registry.address(), move |head| {
        match head.method == "GET" && head.target.contains("/blobs/sha256") {
            true => Fault::redirect(&format!("{there}{}", head.target)),
            false => Fault::Pass,
        }
    });
    let through = repository(&front.address(), "a", Some(&password("me", "hunter2")));
    assert_eq!(read(&through, &digest, 10).unwrap(), bytes[10..]);
    let seen = elsewhere.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(seen[0].header("range"), Some("bytes=10-"));
    let asked = front.seen();
    assert!(asked.iter().any(|head| head.header("authorization").is_some()));
}

#[test]
fn a_password_does_not_come_back_with_a_redirect() {
    if !needs("htpasswd") {
        return;
    }
    let Some(registry) = Registry::start(&Setup::with_user("me", "hunter2")) else {
        return;
    };
    let front = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let back = front.clone();
    // the other host sends the client back, to a place of its choice
    let elsewhere = Proxy::start(&registry.address(), move |_| {
        Fault::redirect(&format!("http://{}/v2/secret/manifests/x", back.get().unwrap()))
    });
    let there = elsewhere.address();
    let proxy = Proxy::start(&registry.address(), move |head| {
        match head.target.contains("/a/") {
            true => Fault::redirect(&format!("http://{there}/")),
            false => Fault::Pass,
        }
    });
    front.set(proxy.address()).unwrap();
    let through = repository(&proxy.address(), "a", Some(&password("me", "hunter2")));
    assert!(through.manifest(&tag("1")).unwrap_err().is_unauthorized());
    for head in proxy.seen().iter().filter(|head| head.target.contains("secret")) {
        assert_eq!(head.header("authorization"), None);
    }
}

fn with_tokens(folder: &Path, manner: Manner) -> Option<(Registry, Tokens)> {
    if !needs("openssl") {
        return None;
    }
    let tokens = Tokens::start(folder, manner);
    let setup = Setup {
        tokens: Some((tokens.realm(), tokens.certificate.clone())),
        ..Setup::default()
    };
    Some((Registry::start(&setup)?, tokens))
}

#[test]
fn tokens_are_asked_for_per_repository_and_action() {
    let folder = tempfile::tempdir().unwrap();
    let manner = Manner {
        anonymous_pull: true,
        expires_s: 300,
        ..Manner::default()
    };
    let Some((registry, tokens)) = with_tokens(folder.path(), manner) else {
        return;
    };
    let address = registry.address();
    let mine = repository(&address, "team/tool", Some(&password(USER, PASSWORD)));
    let (digest, _) = put_image(&mine, "1", b"layer");
    let scopes = |from: usize| {
        let seen = tokens.seen().split_off(from);
        let scope = |asked: &crate::support::tokens::Asked| {
            let (_, query) = asked.head.target.split_once('?').unwrap();
            let pairs = query.split('&').filter(|pair| pair.starts_with("scope="));
            pairs
                .collect::<Vec<_>>()
                .join("&")
                .replace("%3A", ":")
                .replace("%2F", "/")
                .replace("%2C", ",")
        };
        seen.iter().map(scope).collect::<Vec<_>>()
    };
    // one token for the whole push
    assert_eq!(scopes(0), ["scope=repository:team/tool:pull,push"]);
    assert_eq!(mine.manifest(&tag("1")).unwrap().digest, digest);
    assert_eq!(scopes(1), ["scope=repository:team/tool:pull"]);
    let blob = imagetool::digest::Digest::of(b"layer");
    let other = repository(&address, "other", Some(&password(USER, PASSWORD)));
    other.mount_blob(&blob, "team/tool").unwrap();
    assert_eq!(
        scopes(2),
        ["scope=repository:other:pull,push&scope=repository:team/tool:pull"]
    );
    let first = &tokens.seen()[0].head;
    assert_eq!(
        (first.query("service"), first.query("account")),
        (Some("test-registry"), Some(USER))
    );
    // everyone may pull, not push
    let nobody = repository(&address, "team/tool", None);
    assert_eq!(nobody.manifest(&tag("1")).unwrap().digest, digest);
    let denied = nobody
        .put_manifest(&tag("2"), "application/json", b"{}")
        .unwrap_err();
    assert!(denied.is_unauthorized(), "{denied}");
    let wrong = repository(&address, "team/tool", Some(&password(USER, "wrong-secret")));
    let refused = wrong.manifest(&tag("1")).unwrap_err();
    let text = format!("{refused} {refused:?}");
    assert!(
        refused.is_unauthorized() && text.contains("incorrect username or password"),
        "{text}"
    );
    assert!(!text.contains("wrong-secret"), "{text}");
}

#[test]
fn an_expired_or_refused_token_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    // good for a second, of which a half counts
    let manner = Manner {
        expires_s: 1,
        ..Manner::default()
    };
    let Some((registry, tokens)) = with_tokens(folder.path(), manner) else {
        return;
    };
    let mine = repository(&registry.address(), "a", Some(&password(USER, PASSWORD)));
    put_image(&mine, "1", b"layer");
    let before = tokens.seen().len();
    std::thread::sleep(std::time::Duration::from_millis(600));
    mine.manifest(&tag("1")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(600));
    mine.manifest(&tag("1")).unwrap();
    assert_eq!(tokens.seen().len(), before + 2);

    let folder = tempfile::tempdir().unwrap();
    let manner = Manner {
        expires_s: 300,
        worthless: 1,
        ..Manner::default()
    };
    let Some((registry, tokens)) = with_tokens(folder.path(), manner) else {
        return;
    };
    let mine = repository(&registry.address(), "a", Some(&password(USER, PASSWORD)));
    put_image(&mine, "1", b"layer");
    assert_eq!(tokens.seen().len(), 2);
}

#[test]
fn an_identity_token_is_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    let manner = Manner {
        expires_s: 300,
        ..Manner::default()
    };
    let Some((registry, tokens)) = with_tokens(folder.path(), manner) else {
        return;
    };
    let entry = format!(r#"{{"auth":"bWU6","identitytoken":"{REFRESH}"}}"#);
    let mine = repository(&registry.address(), "a", Some(&entry));
    put_image(&mine, "1", b"layer");
    let asked = &tokens.seen()[0];
    assert_eq!(
        (asked.head.method.as_str(), asked.head.header("authorization")),
        ("POST", None)
    );
    assert!(
        asked.form.contains("grant_type=refresh_token")
            && asked.form.contains("scope=repository%3Aa%3Apull%2Cpush")
    );
}

#[test]
fn a_token_without_tls_is_not_asked_for_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    if !needs("openssl") {
        return;
    }
    let authority = Authority::new(folder.path(), "authority");
    let tokens = Tokens::start(folder.path(), Manner::default());
    let setup = Setup {
        tokens: Some((tokens.realm(), tokens.certificate.clone())),
        tls: Some(authority.sign("server")),
        ..Setup::default()
    };
    let Some(registry) = Registry::start(&setup) else {
        return;
    };
    let mine = repository(&registry.address(), "a", Some(&password(USER, PASSWORD)));
    let error = mine.manifest(&tag("1")).unwrap_err().to_string();
    assert!(error.contains("plain HTTP"), "{error}");
    assert!(tokens.seen().is_empty());
}

#[test]
fn a_helper_gives_what_it_keeps() {
    if !needs("htpasswd") {
        return;
    }
    let Some(registry) = Registry::start(&Setup::with_user("me", "hunter2")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let helper = root.join("docker-credential-test");
    let script = "#!/bin/sh\n[ \"$1\" = get ] && { read -r server; echo \"$server\" >>\"${0%/*}/asked\"; echo '{\"Username\":\"me\",\"Secret\":\"hunter2\"}'; }\n";
    crate::support::program(&helper, script);
    fs::create_dir(root.join(".docker")).unwrap();
    let text = format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, registry.address());
    fs::write(root.join(".docker/config.json"), text).unwrap();
    let path = format!("{}:{}", root.display(), std::env::var("PATH").unwrap());
    let registries = registries(root, &[("HOME", root.to_str().unwrap()), ("PATH", &path)]);
    let repository = registries.destination(&name(&registry.address(), "a")).unwrap();
    repository
        .upload_blob(
            &imagetool::digest::Digest::of(b"x"),
            1,
            &opener(b"x"),
            Upload::Whole,
        )
        .unwrap();
    let asked = fs::read_to_string(root.join("asked")).unwrap();
    assert_eq!(asked, format!("{}\n", registry.address()));
}
