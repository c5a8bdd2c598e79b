//! Patterns as Go's `path.Match` has them. Pure.
//!
//! ```text
//! *   anything but a slash          [a-z]  [^a-z]   one of these, none of these
//! ?   one sign but a slash          \x              x itself
//! ```

use std::str::FromStr;

/// A text that is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct PatternError;

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Star,
    Any,
    Sign(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let mut signs = text.chars();
        let mut parts = Vec::new();
        while let Some(sign) = signs.next() {
            parts.push(match sign {
                '*' => Part::Star,
                '?' => Part::Any,
                '\\' => Part::Sign(signs.next().ok_or(PatternError)?),
                '[' => class(&mut signs)?,
                _ => Part::Sign(sign),
            });
        }
        Ok(Self { parts })
    }
}

fn class(signs: &mut std::str::Chars<'_>) -> Result<Part, PatternError> {
    let negated = signs.as_str().starts_with('^');
    if negated {
        signs.next();
    }
    let mut ranges = Vec::new();
    let sign = |signs: &mut std::str::Chars<'_>| match signs.next() {
        None | Some('-' | ']') => Err(PatternError),
        Some('\\') => signs.next().ok_or(PatternError),
        Some(sign) => Ok(sign),
    };
    loop {
        if signs.as_str().starts_with(']') && !ranges.is_empty() {
            signs.next();
            return Ok(Part::Class { negated, ranges });
        }
        let first = sign(signs)?;
        let mut last = first;
        if signs.as_str().starts_with('-') {
            signs.next();
            last = sign(signs)?;
        }
        ranges.push((first, last));
    }
}

impl Pattern {
    /// Whether it matches all of a text.
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        // one row of the table "pattern prefix matches text prefix" at a time: no backtracking
        let mut fits = vec![false; text.len() + 1];
        fits[0] = true;
        for part in &self.parts {
            let mut next = vec![false; text.len() + 1];
            next[0] = fits[0] && *part == Part::Star;
            for (at, sign) in text.iter().enumerate() {
                next[at + 1] = match part {
                    Part::Star => fits[at + 1] || (next[at] && *sign != '/'),
                    Part::Any => fits[at] && *sign != '/',
                    Part::Sign(own) => fits[at] && own == sign,
                    Part::Class { negated, ranges } => {
                        let within = ranges.iter().any(|(first, last)| (first..=last).contains(&sign));
                        fits[at] && within != *negated
                    }
                };
            }
            fits = next;
        }
        fits[text.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns() {
        let yes = [
            ("deb*", "debian"),
            ("*", "a"),
            ("a?c:*", "abc:1"),
            ("*/x", "me/x"),
            ("debian", "debian"),
            ("**", ""),
            ("b[a-c]se", "base"),
            ("[^x]", "a"),
            ("a\\*", "a*"),
            ("[\\]]", "]"),
        ];
        let no = [
            ("deb*", "me/debian"),
            ("*", "a/b"),
            ("a?c", "ac"),
            ("debian", "debian:12"),
            ("", "a"),
            ("[^a]", "a"),
            ("[b-d]", "a"),
        ];
        let matches = |(pattern, text): &(&str, &str)| pattern.parse::<Pattern>().unwrap().matches(text);
        assert!(yes.iter().all(matches));
        assert!(!no.iter().any(matches));
        for wrong in ["[", "[]", "[a", "[a-", "[-a]", "\\", "[a-]"] {
            assert_eq!(wrong.parse::<Pattern>(), Err(PatternError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in "[a\\[\\]^*?\\\\/é-]{0,12}", text in "[a/é]{0,8}") {
            if let Ok(pattern) = pattern.parse::<Pattern>() {
                let _ = pattern.matches(&text);
            }
        }
    }
}
