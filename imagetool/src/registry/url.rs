//! URLs of registries: `http[s]://host[:port]/path?query`, resolved against each other (RFC 3986, section 5). Pure.

use std::fmt;
use std::net::Ipv6Addr;

/// With or without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// Whom credentials belong to: they are sent to no other origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    /// In lower case; an IPv6 address in brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    /// Of `HOST[:PORT]`.
    pub(super) fn new(scheme: Scheme, authority: &str) -> Result<Self, String> {
        let (host, port) = split_port(authority)?;
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_host = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
            None => !host.is_empty() && host.chars().all(valid),
        };
        if !is_host {
            return Err(format!("{authority:?} is no host"));
        }
        Ok(Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port: port.unwrap_or(scheme.default_port()),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if self.port != self.scheme.default_port() {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

/// Splits `HOST[:PORT]`; brackets stay on the host.
pub(super) fn split_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    let colon = match authority.rfind(']') {
        Some(bracket) => authority[bracket..].find(':').map(|at| at + bracket),
        None => authority.rfind(':'),
    };
    let Some(colon) = colon else {
        return Ok((authority, None));
    };
    let port = authority[colon + 1..]
        .parse()
        .map_err(|_| format!("the port of {authority:?} is no number"))?;
    Ok((&authority[..colon], Some(port)))
}

/// A URL without user information and fragment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Url {
    pub(super) origin: Origin,
    /// Path and query; begins with a slash.
    pub(super) target: String,
}

impl Url {
    /// Parses an absolute URL.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        let (scheme, rest) = if lower.starts_with("https://") {
            (Scheme::Https, &text[8..])
        } else if lower.starts_with("http://") {
            (Scheme::Http, &text[7..])
        } else {
            return Err(format!("{:?} is no http or https URL", shorten(text)));
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err("a URL with a user name in it is refused".to_owned());
        }
        Self::at(Origin::new(scheme, authority)?, target)
    }

    /// A path and query at an origin.
    pub(super) fn at(origin: Origin, target: &str) -> Result<Self, String> {
        let target = target.split('#').next().unwrap_or_default();
        if let Some(bad) = target
            .chars()
            .find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>' | '\\'))
        {
            return Err(format!("the URL {:?} has {bad:?} in it", shorten(target)));
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self {
            origin,
            target: format!("{slash}{target}"),
        })
    }

    /// What `reference` (a `Location`, a link) means where this URL was asked.
    pub(super) fn join(&self, reference: &str) -> Result<Self, String> {
        let reference = reference.trim();
        let scheme = reference.split(['/', '?', '#']).next().unwrap_or_default();
        if reference.is_empty() {
            Err("the address is empty".to_owned())
        } else if scheme.contains(':') {
            Self::parse(reference)
        } else if reference.starts_with("//") {
            Self::parse(&format!("{}:{reference}", self.origin.scheme))
        } else if reference.starts_with('/') {
            Self::at(self.origin.clone(), reference)
        } else {
            let path = self.target.split('?').next().unwrap_or_default();
            let base = match reference.starts_with('?') {
                true => path,
                false => &path[..path.rfind('/').map_or(0, |at| at + 1)],
            };
            Self::at(self.origin.clone(), &format!("{base}{reference}"))
        }
    }

    /// The same URL with one more parameter in its query.
    #[must_use]
    pub(super) fn with(&self, key: &str, value: &str) -> Self {
        let mark = if self.target.contains('?') { '&' } else { '?' };
        Self {
            origin: self.origin.clone(),
            target: format!("{}{mark}{}={}", self.target, encode(key), encode(value)),
        }
    }

    /// In full, secrets in the query included: for the request only.
    pub(super) fn in_full(&self) -> String {
        format!("{}{}", self.origin, self.target)
    }
}

/// Without the query: signed URLs carry their rights there.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{}{path}", self.origin)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Percent-encodes all but the unreserved characters.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn shorten(text: &str) -> String {
    text.split('?')
        .next()
        .unwrap_or_default()
        .chars()
        .take(100)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_resolved() {
        let base = Url::parse("https://Registry.example:5000/v2/a/blobs/uploads/?x=1").unwrap();
        let cases = [
            ("/v2/b?y=2", "https://registry.example:5000/v2/b?y=2"),
            ("http://other/z#f", "http://other/z"),
            ("HTTPS://other:443", "https://other/"),
            ("//other:80/z", "https://other:80/z"),
            (
                "next?a",
                "https://registry.example:5000/v2/a/blobs/uploads/next?a",
            ),
            ("?n=1", "https://registry.example:5000/v2/a/blobs/uploads/?n=1"),
            ("http://[::1]:5000/x", "http://[::1]:5000/x"),
            ("http://[::1]/x", "http://[::1]/x"),
        ];
        for (reference, whole) in cases {
            assert_eq!(base.join(reference).unwrap().in_full(), whole, "{reference}");
        }
        for wrong in [
            "",
            "ftp://x/",
            "file:///etc/passwd",
            "http://",
            "http://u:p@h/",
            "http://h:x/",
            "http://[",
            "http://[x]/",
            "http://::1/",
            "/a b",
            "/\u{7}",
            "http://h:99999/",
        ] {
            assert!(base.join(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_has_no_query() {
        let url = Url::parse("https://h/p?signature=secret")
            .unwrap()
            .with("digest", "sha256:1/2");
        assert_eq!(
            url.in_full(),
            "https://h/p?signature=secret&digest=sha256%3A1%2F2"
        );
        assert_eq!(format!("{url} {url:?}"), "https://h/p https://h/p");
    }

    proptest! {
        #[test]
        fn no_address_panics(text in "\\PC{0,60}") {
            if let Ok(url) = Url::parse("http://h/a/b").unwrap().join(&text) {
                prop_assert_eq!(Url::parse(&url.in_full()).unwrap(), url);
            }
        }
    }
}
