//! Who one is, and whom one speaks to: passwords, tokens, certificates.

use std::fs;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;

use imagetool::registry::{Options, Registries, Repository, Upload, Which};

use crate::support::http::Server;
use crate::support::proxy::{Fault, Proxy};
use crate::support::registry::{Registry, Setup, needs};
use crate::support::tls::Authority;
use crate::support::tokens::{Manner, PASSWORD, REFRESH, Tokens, USER};
use crate::support::{name, noise, opener, put_blob, put_image, quick, read, registries};

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

/// A name of this machine that nobody takes for its loopback, though it leads there; so certificates count.
fn own_name() -> Option<(String, String)> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()?
        .trim()
        .to_owned();
    let addresses = (name.as_str(), 0).to_socket_addrs().ok()?;
    let address = addresses
        .map(|address| address.ip())
        .find(|ip| ip.is_ipv4() && ip.is_loopback())?;
    (name != "localhost").then(|| (name, address.to_string()))
}

const NO_NAME: &str = "this machine's name does not lead to its loopback";

#[test]
fn loopback_needs_no_certificate_and_speaks_tls_first() {
    let folder = tempfile::tempdir().unwrap();
    if !needs("openssl") {
        return;
    }
    let authority = Authority::new(folder.path(), "authority");
    let setup = Setup {
        tls: Some(authority.sign("server")),
        ..Setup::default()
    };
    let Some(registry) = Registry::start(&setup) else {
        return;
    };
    let repository = crate::support::repository(&registry.address(), "a");
    let (digest, _) = put_image(&repository, "1", b"layer");
    assert_eq!(repository.manifest(&tag("1")).unwrap().digest, digest);
}

#[test]
fn elsewhere_a_certificate_counts() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let Some((host, listen)) = own_name().filter(|_| needs("openssl")) else {
        crate::common::skip(NO_NAME);
        return;
    };
    let authority = Authority::new(root, "authority");
    let setup = Setup {
        tls: Some(authority.sign_for("server", &format!("DNS:{host}"))),
        listen: Some(listen.clone()),
        ..Setup::default()
    };
    let Some(registry) = Registry::start(&setup) else {
        return;
    };
    let address = registry.address().replace(&listen, &host);
    let ask = |options: &Options| {
        let environment = imagetool::registry::Environment::of(root, [("HOME", root.to_str().unwrap())]);
        let registries = Registries::new(options, &environment).unwrap();
        registries
            .destination(&name(&address, "a"))
            .unwrap()
            .manifest_digest(&tag("1"))
    };
    let unknown = ask(&quick()).unwrap_err();
    let text = unknown.to_string();
    assert!(
        !unknown.is_transient()
            && text.contains("/etc/docker/certs.d/")
            && text.contains("--insecure-registry"),
        "{text}"
    );
    let allowed = Options {
        insecure: vec![address.clone()],
        ..quick()
    };
    assert_eq!(ask(&allowed).unwrap(), None);
    let named = Options {
        cert_dir: Some(root.join("named")),
        ..quick()
    };
    for place in [
        "etc/docker/certs.d",
        "etc/containers/certs.d",
        ".config/containers/certs.d",
    ] {
        let place = root.join(place).join(&address);
        fs::create_dir_all(&place).unwrap();
        fs::copy(&authority.pair.certificate, place.join("ca.crt")).unwrap();
        assert_eq!(ask(&quick()).unwrap(), None, "{}", place.display());
        fs::write(place.join("ca.crt"), "garbage").unwrap();
        let error = ask(&quick()).unwrap_err().to_string();
        assert!(error.contains("ca.crt"), "{error}");
        fs::remove_dir_all(&place).unwrap();
    }
    fs::create_dir_all(root.join("named")).unwrap();
    fs::copy(&authority.pair.certificate, root.join("named/ca.crt")).unwrap();
    assert_eq!(ask(&named).unwrap(), None);
    // a client's certificate that does not go with its key
    let client = authority.sign("client");
    fs::copy(&client.certificate, root.join("named/client.cert")).unwrap();
    let missing = ask(&named).unwrap_err().to_string();
    assert!(missing.contains("client.key"), "{missing}");
    fs::copy(&client.key, root.join("named/client.key")).unwrap();
    assert_eq!(ask(&named).unwrap(), None);
    fs::copy(&authority.pair.key, root.join("named/client.key")).unwrap();
    let other = ask(&named).unwrap_err().to_string();
    assert!(other.contains("does not go with"), "{other}");
}

#[test]
fn plain_http_elsewhere_must_be_allowed() {
    let Some((host, listen)) = own_name() else {
        crate::common::skip(NO_NAME);
        return;
    };
    let setup = Setup {
        listen: Some(listen.clone()),
        ..Setup::default()
    };
    let Some(registry) = Registry::start(&setup) else {
        return;
    };
    let address = registry.address().replace(&listen, &host);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let ask = |registries: &Registries| {
        registries
            .destination(&name(&address, "a"))
            .unwrap()
            .manifest_digest(&tag("1"))
    };
    let refused = ask(&registries(root, &[])).unwrap_err().to_string();
    assert!(
        refused.contains("does not speak TLS") && refused.contains("--insecure-registry"),
        "{refused}"
    );
    fs::create_dir_all(root.join("etc/containers")).unwrap();
    let file = root.join("etc/containers/registries.conf");
    fs::write(
        &file,
        format!("[[registry]]\nlocation = '{address}'\ninsecure = true"),
    )
    .unwrap();
    assert_eq!(ask(&registries(root, &[])).unwrap(), None);
}

#[test]
fn mirrors_come_first_and_pushes_go_to_the_registry() {
    let (Some(mirror), Some(origin)) = (Registry::plain(), Registry::plain()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("etc/containers")).unwrap();
    let text = format!(
        "[[registry]]\nprefix = 'docker.io/team'\nlocation = '{}/upstream'\n[[registry.mirror]]\nlocation = '{}'",
        origin.address(),
        mirror.address()
    );
    fs::write(root.join("etc/containers/registries.conf"), text).unwrap();
    let registries = registries(root, &[]);
    let tool = "team/tool".parse().unwrap();
    let (digest, _) = put_image(&registries.destination(&tool).unwrap(), "1", b"layer");
    let sources = registries.sources(&tool).unwrap();
    let places: Vec<_> = sources
        .iter()
        .map(|source| format!("{}/{}", source.endpoint(), source.name()))
        .collect();
    assert_eq!(
        places,
        [
            format!("{}/tool", mirror.address()),
            format!("{}/upstream/tool", origin.address())
        ]
    );
    assert_eq!(sources[0].manifest_digest(&tag("1")).unwrap(), None);
    assert_eq!(sources[1].manifest_digest(&tag("1")).unwrap(), Some(digest));
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

#[test]
fn a_proxy_of_the_environment_leads_there() {
    let Some((host, listen)) = own_name() else {
        crate::common::skip(NO_NAME);
        return;
    };
    let setup = Setup {
        listen: Some(listen.clone()),
        ..Setup::default()
    };
    let Some(registry) = Registry::start(&setup) else {
        return;
    };
    let address = registry.address().replace(&listen, &host);
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = asked.clone();
    let proxy = Server::start(move |client, head| {
        kept.lock().unwrap().push(head.clone());
        let mut server = TcpStream::connect(&head.target)?;
        client.get_mut().write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        let (mut from, mut to) = (server.try_clone()?, client.get_ref().try_clone()?);
        let back = std::thread::spawn(move || io::copy(&mut from, &mut to));
        io::copy(client, &mut server)?;
        server.shutdown(std::net::Shutdown::Both)?;
        let _ = back.join();
        Ok(())
    });
    let folder = tempfile::tempdir().unwrap();
    let through = format!("http://user:hunter2@{}", proxy.address());
    let ask = |variables: &[(&str, &str)]| {
        let environment = imagetool::registry::Environment::of(folder.path(), variables.iter().copied());
        let options = Options {
            insecure: vec![address.clone()],
            ..quick()
        };
        let registries = Registries::new(&options, &environment).unwrap();
        assert!(!format!("{registries:?}").contains("hunter2"));
        registries
            .destination(&name(&address, "a"))
            .unwrap()
            .manifest_digest(&tag("1"))
    };
    assert_eq!(
        ask(&[("http_proxy", &through), ("HTTPS_PROXY", &through)]).unwrap(),
        None
    );
    let seen = asked.lock().unwrap().clone();
    assert!(
        seen.iter()
            .all(|head| head.method == "CONNECT" && head.target == address),
        "{seen:?}"
    );
    assert!(!seen.is_empty() && seen[0].header("proxy-authorization").is_some());
    assert_eq!(
        ask(&[("HTTP_PROXY", &through), ("NO_PROXY", &host)]).unwrap(),
        None
    );
    assert_eq!(asked.lock().unwrap().len(), seen.len());
}
