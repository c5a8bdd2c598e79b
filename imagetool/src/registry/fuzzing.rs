//! What fuzz targets need of the readers of a registry's headers.

use super::answer::Pages;
use super::url::Url;
use super::{Asked, challenge};

/// Reads any text as the header of a challenge, of a link and of a location.
///
/// # Panics
/// When what was understood is wrong: a link that leads to another host, a URL that is another one when it is read back.
pub fn read_headers(text: &str) {
    for challenge in challenge::parse(text) {
        assert!(!challenge.scheme.bytes().any(|byte| byte.is_ascii_uppercase()));
        let _ = challenge.get("realm");
    }
    let Ok(base) = Url::parse("https://registry.example:5000/v2/a/tags/list?n=2") else {
        return;
    };
    let asked = Asked::of_registry("registry.example:5000", "list tags");
    if let Ok(Some(next)) = Pages::new(&base).next(&base, Some(text), 1, &asked) {
        assert_eq!(next.origin, base.origin);
    }
    for url in [Url::parse(text), base.join(text)].into_iter().flatten() {
        assert!(url.target.starts_with('/') && url.target.is_ascii());
        assert_eq!(Url::parse(&url.in_full()), Ok(url));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_read(text in r#"((https?|Bearer|Basic)?[ -~]{0,40}(:|//|<|>|"|=|,|;|rel=next|\[|é)?){0,4}"#) {
            super::read_headers(&text);
        }
    }
}
