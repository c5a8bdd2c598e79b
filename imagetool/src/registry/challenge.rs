//! `WWW-Authenticate`: how a registry wants to be asked (RFC 9110, section 11.6.1). Pure.
//!
//! ```text
//! Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull", Basic realm="x"
//! ```

/// One of the ways a registry offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// `basic`, `bearer`: in lower case.
    pub(super) scheme: String,
    /// Names in lower case, values unquoted.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Parses all challenges of one header. What makes no sense is skipped up to the next comma.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    for part in split_outside_quotes(header) {
        let part = part.trim();
        let (words, value) = match find_equals(part) {
            Some(at) => (part[..at].trim(), Some(part[at + 1..].trim())),
            None => (part, None),
        };
        let (scheme, name) = match (words.split_once([' ', '\t']), value) {
            (Some((scheme, name)), _) => (Some(scheme), Some(name.trim())),
            (None, Some(_)) => (None, Some(words)),
            (None, None) => (Some(words), None),
        };
        if let Some(scheme) = scheme.filter(|scheme| is_token(scheme)) {
            challenges.push(Challenge {
                scheme: scheme.to_ascii_lowercase(),
                parameters: Vec::new(),
            });
        }
        if let (Some(challenge), Some(name), Some(value)) = (challenges.last_mut(), name, value)
            && is_token(name)
        {
            challenge
                .parameters
                .push((name.to_ascii_lowercase(), unquote(value)));
        }
    }
    challenges
}

fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

/// The parts between commas that stand in no quoted string.
fn split_outside_quotes(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The equals sign that ends a name; one in the padding of a `token68` is none.
fn find_equals(part: &str) -> Option<usize> {
    let at = part.find('=')?;
    let rest = part[at..].trim_start_matches('=').trim();
    (!rest.is_empty()).then_some(at)
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else {
        return value.to_owned();
    };
    let (mut out, mut escaped) = (String::new(), false);
    for c in inner.chars() {
        match c {
            _ if escaped => {
                out.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => break,
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(header: &str) -> Vec<String> {
        let line = |challenge: &Challenge| {
            let mut text = challenge.scheme.clone();
            for (key, value) in &challenge.parameters {
                text += &format!(" [{key}|{value}]");
            }
            text
        };
        parse(header).iter().map(line).collect()
    }

    #[test]
    fn challenges_are_told_apart() {
        let cases: [(&str, &[&str]); 8] = [
            (
                r#"Bearer realm="https://a/token",service="s",scope="repository:a/b:pull,push""#,
                &["bearer [realm|https://a/token] [service|s] [scope|repository:a/b:pull,push]"],
            ),
            (
                r#"Basic realm="a \"b\", c", BEARER Realm=x , service = "y""#,
                &[r#"basic [realm|a "b", c]"#, "bearer [realm|x] [service|y]"],
            ),
            ("Negotiate, Basic realm=x", &["negotiate", "basic [realm|x]"]),
            (
                "Negotiate YWJj==, Basic realm=x",
                &["negotiate", "basic [realm|x]"],
            ),
            ("Basic", &["basic"]),
            ("realm=x", &[]),
            (r#"Bearer realm="open"#, &["bearer [realm|open]"]),
            (",,, ;", &[]),
        ];
        for (header, expected) in cases {
            assert_eq!(shown(header), expected, "{header}");
        }
        assert_eq!(parse("Basic realm=x")[0].get("realm"), Some("x"));
        assert_eq!(parse("Basic realm=x")[0].get("service"), None);
    }

    proptest! {
        #[test]
        fn no_header_panics(text in "\\PC{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_quoted_value_comes_back(value in "[ -~]{0,20}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let challenges = parse(&format!("Bearer realm=\"{quoted}\", service=\"x\""));
            prop_assert_eq!(challenges[0].get("realm"), Some(value.as_str()));
            prop_assert_eq!(challenges[0].get("service"), Some("x"));
        }
    }
}
