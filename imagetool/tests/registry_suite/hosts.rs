//! Whom one speaks to: certificates, insecure registries, mirrors, proxies.

use std::fs;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};

use imagetool::registry::{Options, Registries, Which};

use crate::support::http::Server;
use crate::support::registry::{Registry, Setup, needs};
use crate::support::tls::Authority;
use crate::support::{name, put_image, quick, registries};

fn tag(text: &str) -> Which {
    Which::Tag(text.to_owned())
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
