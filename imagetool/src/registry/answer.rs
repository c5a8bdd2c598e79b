//! Answers that are no success, as errors; answers of several pages.
//!
//! The body of an error should be `{"errors":[{"code","message","detail"}]}` (distribution-spec, "Error Codes"); of
//! anything else a line is shown, when it is text.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;

use super::error::{Asked, RegistryError, clean};
use super::transport::Answer;
use super::url::Url;

/// So much of an error's body is read.
const ERROR_LIMIT: u64 = 64 << 10;
/// The largest page of a list.
pub(super) const PAGE_LIMIT: u64 = 16 << 20;
/// More pages than any list has.
const PAGES_LIMIT: usize = 10_000;
/// More names than any list is read for.
const NAMES_LIMIT: usize = 1_000_000;

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<OneError>,
    // token servers
    #[serde(default)]
    details: Option<String>,
    #[serde(default)]
    error_description: Option<String>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// The error an answer is.
pub(super) fn failure(answer: Answer, asked: &Asked) -> RegistryError {
    let status = answer.status;
    let retry_after = answer
        .header("retry-after")
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    let is_text = answer
        .header("content-type")
        .is_none_or(|kind| kind.contains("json") || kind.contains("text/plain"));
    // an error without a readable body is still that error
    let body = answer.read(ERROR_LIMIT, asked).unwrap_or_default();
    let (code, message) = understand(&body, is_text, status);
    let asked = Box::new(asked.clone());
    match status {
        401 | 403 => RegistryError::Denied { asked, message },
        _ => RegistryError::Status {
            asked,
            status,
            code,
            message,
            retry_after,
        },
    }
}

/// The code and the text of an error's body.
fn understand(body: &[u8], is_text: bool, status: u16) -> (String, String) {
    let (mut code, mut message) = (String::new(), String::new());
    if let Ok(parsed) = serde_json::from_slice::<Errors>(body) {
        if let Some(first) = parsed.errors.into_iter().next() {
            code = clean(&first.code.unwrap_or_default());
            message = clean(&first.message.unwrap_or_default());
        } else {
            let text = parsed.details.or(parsed.error_description);
            message = clean(&text.unwrap_or_default());
        }
    } else if is_text && let Ok(text) = std::str::from_utf8(body) {
        message = clean(text.lines().next().unwrap_or_default());
    }
    let known = code.to_ascii_lowercase().replace('_', " ");
    if message.is_empty() {
        message = match known.as_str() {
            "" => meaning(status).to_owned(),
            known => known.to_owned(),
        };
    } else if !known.is_empty() && known != message.to_ascii_lowercase() {
        message = format!("{known}: {message}");
    }
    (code, message)
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "the registry does not understand the request",
        401 => "credentials are missing or were refused",
        403 => "this is not allowed",
        404 => "there is no such thing",
        405 => "the registry does not do this",
        413 => "this is too large for the registry",
        429 => "the registry is asked too often",
        500 => "the registry failed",
        502..=504 => "the registry cannot be reached behind its front",
        _ => "the registry's answer is not understood",
    }
}

/// Follows the pages of a list (`Link: <…>; rel="next"`, RFC 8288), and stops where they go in a circle or on for ever.
pub(super) struct Pages {
    seen: HashSet<String>,
    names: usize,
}

impl Pages {
    pub(super) fn new(first: &Url) -> Self {
        Self {
            seen: HashSet::from([first.in_full()]),
            names: 0,
        }
    }

    /// Where the next page is, after one with `count` names.
    pub(super) fn next(
        &mut self,
        url: &Url,
        link: Option<&str>,
        count: usize,
        asked: &Asked,
    ) -> Result<Option<Url>, RegistryError> {
        self.names += count;
        let Some(address) = link.and_then(next_link) else {
            return Ok(None);
        };
        let next = url
            .join(address)
            .map_err(|problem| asked.wrong(format!("the link to the next page is wrong: {problem}")))?;
        if next.origin != url.origin {
            return Err(asked.wrong(format!("the next page is at another host: {next}")));
        }
        if !self.seen.insert(next.in_full()) {
            return Err(asked.wrong(format!("the pages go in a circle, back to {next}")));
        }
        if self.seen.len() > PAGES_LIMIT || self.names > NAMES_LIMIT {
            return Err(asked.wrong(format!("the list does not end after {} names", self.names)));
        }
        Ok(Some(next))
    }
}

/// The address of the link with `rel="next"`.
fn next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let start = rest.find('<')?;
        let end = rest[start..].find('>')? + start;
        let parameters = rest[end + 1..].split('<').next().unwrap_or_default();
        let is_next = parameters.split([';', ',']).any(|parameter| {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            key.trim().eq_ignore_ascii_case("rel")
                && value
                    .trim()
                    .trim_matches('"')
                    .split_ascii_whitespace()
                    .any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(&rest[start + 1..end]);
        }
        rest = &rest[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn errors_are_read_or_worded() {
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(5000));
        let cases = [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#,
                404,
                "manifest unknown",
            ),
            (
                r#"{"errors":[{"code":"DENIED","message":"requested access"}]}"#,
                403,
                "denied: requested access",
            ),
            (r#"{"errors":[]}"#, 500, "the registry failed"),
            (r#"{"errors":null}"#, 500, "{\"errors\":null}"),
            (r#"{"errors":[{"code":7}]}"#, 500, "{\"errors\":[{\"code\":7}]}"),
            (
                r#"{"details":"incorrect username or password"}"#,
                401,
                "incorrect username or password",
            ),
            ("\u{1b}[2Jgone\nmore", 404, "[2Jgone"),
            ("", 418, "the registry's answer is not understood"),
            (&long, 500, &("x".repeat(300) + "…")),
        ];
        for (body, status, expected) in cases {
            assert_eq!(understand(body.as_bytes(), true, status).1, expected, "{body}");
        }
        assert_eq!(understand(b"<html>", false, 404).1, "there is no such thing");
        assert_eq!(understand(&[0xff, 0], true, 404).1, "there is no such thing");
    }

    #[test]
    fn links_are_followed_and_end() {
        let cases = [
            (
                r#"</v2/_catalog?last=a>; rel="next""#,
                Some("/v2/_catalog?last=a"),
            ),
            (r#"<a>; rel=prev, <b>; title="x"; rel=next"#, Some("b")),
            (r#"<a>; rel="up next""#, Some("a")),
            ("<a>; rel=last", None),
            ("<a", None),
            ("", None),
        ];
        for (header, expected) in cases {
            assert_eq!(next_link(header), expected, "{header}");
        }
        let asked = Asked::of_registry("h", "list");
        let first = Url::parse("http://h/v2/t").unwrap();
        let mut pages = Pages::new(&first);
        let next = |pages: &mut Pages, url: &Url, link: &str| pages.next(url, Some(link), 1, &asked);
        let second = next(&mut pages, &first, "<?n=2>; rel=next").unwrap().unwrap();
        assert_eq!(second.in_full(), "http://h/v2/t?n=2");
        let circle = next(&mut pages, &second, "</v2/t>; rel=next").unwrap_err();
        assert!(circle.to_string().contains("circle"), "{circle}");
        let other = next(&mut pages, &second, "<http://evil/>; rel=next").unwrap_err();
        assert!(other.to_string().contains("another host"), "{other}");
        let mut url = second;
        let endless = (0..).find_map(|n| match next(&mut pages, &url, &format!("<?p={n}>; rel=next")) {
            Ok(Some(next)) => {
                url = next;
                None
            }
            other => Some(other),
        });
        assert!(endless.unwrap().unwrap_err().to_string().contains("does not end"));
    }

    proptest! {
        #[test]
        fn no_answer_panics(text in "\\PC{0,100}") {
            let _ = next_link(&text);
            let _ = understand(text.as_bytes(), true, 500);
        }
    }
}
