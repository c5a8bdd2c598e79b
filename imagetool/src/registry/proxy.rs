//! Proxies from the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, in lower case too. Pure.
//!
//! The rules are those of Go's programs, Docker's among them: a name in `NO_PROXY` covers its subdomains, one with a
//! leading dot only these; addresses, networks (`10.0.0.0/8`) and ports can be named; `*` covers everything; this
//! machine is never reached through a proxy.

use std::net::IpAddr;

use super::environment::Environment;
use super::url::{Origin, Scheme, split_port};

/// Which proxy leads to which origin.
#[derive(Clone, Default)]
pub(super) struct Proxies {
    https: Option<String>,
    http: Option<String>,
    direct: Vec<Direct>,
}

/// An entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Direct {
    All,
    Network(IpAddr, u8),
    Host {
        name: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    pub(super) fn from(environment: &Environment) -> Self {
        let either = |name: &str| {
            let value = environment.get(name);
            value.or_else(|| environment.get(&name.to_ascii_lowercase()))
        };
        let proxy = |name| either(name).or_else(|| either("ALL_PROXY")).map(str::to_owned);
        let direct = either("NO_PROXY").unwrap_or_default().split(',');
        Self {
            https: proxy("HTTPS_PROXY"),
            http: proxy("HTTP_PROXY"),
            direct: direct.filter_map(Direct::parse).collect(),
        }
    }

    /// The proxy for an origin.
    pub(super) fn for_origin(&self, origin: &Origin) -> Option<&str> {
        let proxy = match origin.scheme {
            Scheme::Http => self.http.as_deref(),
            Scheme::Https => self.https.as_deref(),
        }?;
        let direct = is_loopback(&origin.host) || self.direct.iter().any(|entry| entry.covers(origin));
        (!direct).then_some(proxy)
    }
}

impl std::fmt::Debug for Proxies {
    // a proxy's URL may have a password
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies").finish_non_exhaustive()
    }
}

impl Direct {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = text.split_once('/') {
            return Some(Self::Network(address.parse().ok()?, bits.parse().ok()?));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Network(address, 128));
        }
        let (name, port) = split_port(&text).ok()?;
        let parent = name.strip_prefix("*.").or_else(|| name.strip_prefix('.'));
        (!name.is_empty()).then(|| Self::Host {
            name: parent.unwrap_or(name).to_owned(),
            itself: parent.is_none(),
            port,
        })
    }

    fn covers(&self, origin: &Origin) -> bool {
        match self {
            Self::All => true,
            Self::Network(network, bits) => {
                address(&origin.host).is_some_and(|address| same_network(address, *network, *bits))
            }
            Self::Host { name, itself, port } => {
                let below = origin
                    .host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.ends_with('.'));
                port.is_none_or(|port| port == origin.port) && (below || (*itself && origin.host == *name))
            }
        }
    }
}

fn same_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let wide = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let ((left, length), (right, other)) = (wide(address), wide(network));
    length == other && (bits == 0 || (left ^ right) >> (128 - bits.min(length)) == 0)
}

/// The address a host is, when it is one.
fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether a host is this machine: `localhost`, 127.0.0.0/8, `::1`.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || address(host).is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through<'a>(proxies: &'a Proxies, url: &str) -> Option<&'a str> {
        proxies.for_origin(&super::super::url::Url::parse(url).unwrap().origin)
    }

    #[test]
    fn some_hosts_are_reached_without() {
        let environment = Environment::of(
            std::path::Path::new("/nowhere"),
            [
                ("HTTPS_PROXY", "http://secure:1"),
                ("http_proxy", "http://plain:2"),
                (
                    "no_proxy",
                    "corp.example, .sub.example,10.0.0.0/8,[fd00::1]:80, fd00::/16,one:5000",
                ),
            ],
        );
        let proxies = Proxies::from(&environment);
        let cases = [
            ("https://a.example/", Some("http://secure:1")),
            ("http://a.example/", Some("http://plain:2")),
            ("https://corp.example/", None),
            ("https://x.corp.example/", None),
            ("https://xcorp.example/", Some("http://secure:1")),
            ("https://sub.example/", Some("http://secure:1")),
            ("https://a.sub.example/", None),
            ("https://10.1.2.3/", None),
            ("https://11.1.2.3/", Some("http://secure:1")),
            ("https://[fd00::2]/", None),
            ("https://one:5000/", None),
            ("https://one/", Some("http://secure:1")),
            ("http://127.0.0.9:5000/", None),
            ("http://localhost/", None),
            ("http://[::1]/", None),
        ];
        for (url, proxy) in cases {
            assert_eq!(through(&proxies, url), proxy, "{url}");
        }
        assert!(!format!("{proxies:?}").contains("secure"));
        let all = [("ALL_PROXY", "http://p"), ("NO_PROXY", "*")];
        let none = Proxies::from(&Environment::of(std::path::Path::new("/"), all));
        assert_eq!(through(&none, "https://a/"), None);
    }
}
