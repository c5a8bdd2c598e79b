//! Platforms of images: which ones a machine, or the caller, can use, and which of them is the best. Pure.
//!
//! ```text
//! wanted                can be used, the best first
//! linux/amd64           amd64, 386
//! linux/amd64/v3        amd64/v3, amd64/v2, amd64, 386
//! linux/arm64           arm64, arm/v8, arm/v7, arm/v6, arm/v5
//! linux/arm/v7          arm/v7, arm/v6, arm/v5
//! ```
//!
//! Names are those of Go (GOOS, GOARCH); other common ones are understood (`x86_64`, `aarch64`). A variant that is not
//! written is `v7` for arm, `v8` for arm64 and `v1` for amd64. Specification: OCI image-spec, image-index.md.

use std::fmt;
use std::str::FromStr;

use crate::manifest::{Descriptor, Index, Platform, host_architecture};

/// A platform somebody wants an image for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    os: String,
    architecture: String,
    /// Empty for the architecture's ordinary one.
    variant: String,
}

/// Why a text names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform: write OS/ARCH or OS/ARCH/VARIANT, as in linux/arm64")]
pub struct PlatformError(String);

/// So many platforms of an index are named in a message.
const OFFERED_MAX: usize = 50;
/// Operating systems that a platform of one word may name.
const SYSTEMS: [&str; 8] = [
    "linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "aix",
];

impl Wanted {
    /// This machine's.
    pub fn host() -> Self {
        Self::normal("linux", host_architecture(), "")
    }

    fn normal(os: &str, architecture: &str, variant: &str) -> Self {
        let (os, architecture, variant) = (
            os.to_ascii_lowercase(),
            architecture.to_ascii_lowercase(),
            variant.to_ascii_lowercase(),
        );
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("amd64" | "x86_64" | "x86-64", "" | "v1") => ("amd64", ""),
            ("amd64" | "x86_64" | "x86-64", variant) => ("amd64", variant),
            ("386" | "i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
            ("arm64" | "aarch64", "" | "8" | "v8") => ("arm64", ""),
            ("arm64" | "aarch64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (other, variant) => (other, variant),
        };
        let (architecture, variant) = (architecture.to_owned(), variant.to_owned());
        Self {
            os: if os == "macos" { "darwin".to_owned() } else { os },
            architecture,
            variant,
        }
    }

    /// The platform that a document of an image states.
    pub fn stated(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Self::normal(os, architecture, variant.unwrap_or_default())
    }

    /// Everything that can be used where this one can, the best first.
    fn usable(&self) -> Vec<Self> {
        let with = |architecture: &str, variant: &str| Self {
            os: self.os.clone(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        };
        // v1, or what comes before the first one that has a name
        let down_from = |variant: &str, last: u32| -> Vec<u32> {
            let number = variant.strip_prefix('v').and_then(|digits| digits.parse().ok());
            number.map_or_else(Vec::new, |number: u32| (last..=number.min(99)).rev().collect())
        };
        let mut all = vec![self.clone()];
        match self.architecture.as_str() {
            "amd64" => {
                let lower = down_from(&self.variant, 2).into_iter().skip(1);
                all.extend(lower.map(|number| with("amd64", &format!("v{number}"))));
                all.extend((!self.variant.is_empty()).then(|| with("amd64", "")));
                all.push(with("386", ""));
            }
            "arm" => {
                let lower = down_from(&self.variant, 5).into_iter().skip(1);
                all.extend(lower.map(|number| with("arm", &format!("v{number}"))));
            }
            "arm64" => {
                let lower = down_from(&self.variant, 9).into_iter().skip(1);
                all.extend(lower.map(|number| with("arm64", &format!("v{number}"))));
                all.extend((!self.variant.is_empty()).then(|| with("arm64", "")));
                all.extend([8, 7, 6, 5].map(|number| with("arm", &format!("v{number}"))));
            }
            _ => {}
        }
        all
    }

    /// How well an image for `other` serves: 0 is best; `None` where it cannot be used.
    pub fn rank(&self, other: &Wanted) -> Option<usize> {
        self.usable().iter().position(|usable| usable == other)
    }

    /// The best entry of an index. Where none states a platform, the only one is taken as it is.
    pub fn pick<'a>(&self, index: &'a Index) -> Option<&'a Descriptor> {
        let rank = |descriptor: &Descriptor| {
            let platform = descriptor.platform.as_ref()?;
            self.rank(&Self::from(platform))
        };
        let ranked = index
            .manifests
            .iter()
            .filter_map(|entry| Some((rank(entry)?, entry)));
        match ranked.min_by_key(|(rank, _)| *rank) {
            Some((_, best)) => Some(best),
            None => match index.manifests.as_slice() {
                [only] if only.platform.is_none() => Some(only),
                _ => None,
            },
        }
    }

    /// The platforms that an index has images for, each once.
    pub fn offered(index: &Index) -> Vec<String> {
        let mut all = Vec::new();
        for platform in index.manifests.iter().filter_map(|entry| entry.platform.as_ref()) {
            // it comes from anybody, and goes to a terminal
            let text = Self::from(platform).to_string().escape_debug().to_string();
            if platform.os != "unknown" && !all.contains(&text) {
                all.push(text);
            }
            if all.len() == OFFERED_MAX {
                all.push("…".to_owned());
                break;
            }
        }
        all
    }
}

impl From<&Platform> for Wanted {
    fn from(platform: &Platform) -> Self {
        Self::stated(&platform.os, &platform.architecture, platform.variant.as_deref())
    }
}

impl FromStr for Wanted {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let word = |word: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            !word.is_empty() && word.bytes().all(fits)
        };
        let words: Vec<&str> = text.split('/').collect();
        if !words.iter().all(|part| word(part)) {
            return Err(PlatformError(text.chars().take(100).collect()));
        }
        match words.as_slice() {
            [os] if SYSTEMS.contains(&os.to_ascii_lowercase().as_str()) => {
                Ok(Self::normal(os, host_architecture(), ""))
            }
            [architecture] => Ok(Self::normal("linux", architecture, "")),
            [os, architecture] => Ok(Self::normal(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::normal(os, architecture, variant)),
            _ => Err(PlatformError(text.chars().take(100).collect())),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_str() {
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::manifest::OCI_MANIFEST;

    fn index(platforms: &[&str]) -> Index {
        let entry = |text: &&str| {
            let words: Vec<&str> = text.split('/').collect();
            let platform = (words.len() > 1).then(|| Platform {
                os: words[0].to_owned(),
                architecture: words[1].to_owned(),
                variant: words.get(2).map(|variant| (*variant).to_owned()),
            });
            Descriptor {
                platform,
                ..Descriptor::new(OCI_MANIFEST, Digest::of(text.as_bytes()), 1)
            }
        };
        Index {
            schema_version: 2,
            media_type: String::new(),
            manifests: platforms.iter().map(entry).collect(),
        }
    }

    #[test]
    fn the_best_one_is_picked() {
        let cases: [(&str, &[&str], Option<usize>); 14] = [
            (
                "linux/amd64",
                &["linux/arm64", "linux/amd64", "unknown/unknown"],
                Some(1),
            ),
            ("linux/amd64", &["linux/386", "linux/amd64"], Some(1)),
            ("linux/amd64", &["linux/386"], Some(0)),
            ("linux/amd64", &["linux/amd64/v3"], None),
            (
                "linux/amd64/v3",
                &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"],
                Some(1),
            ),
            (
                "linux/arm/v7",
                &["linux/arm/v5", "linux/arm/v6", "linux/arm64"],
                Some(1),
            ),
            ("linux/arm", &["linux/arm/v8", "linux/arm/v7"], Some(1)),
            ("linux/arm/v6", &["linux/arm/v7"], None),
            ("linux/arm64", &["linux/arm/v7", "linux/arm64/v8"], Some(1)),
            ("linux/arm64/v9", &["linux/arm64"], Some(0)),
            ("arm64", &["linux/arm/v7"], Some(0)),
            ("linux/s390x", &["linux/amd64"], None),
            ("linux/amd64", &["none"], Some(0)),
            ("windows/amd64", &["linux/amd64", "windows/x86_64"], Some(1)),
        ];
        for (wanted, offered, expected) in cases {
            let index = index(offered);
            let picked = wanted.parse::<Wanted>().unwrap().pick(&index);
            let picked = picked.and_then(|picked| index.manifests.iter().position(|entry| entry == picked));
            assert_eq!(picked, expected, "{wanted} of {offered:?}");
        }
        let shown = Wanted::offered(&index(&[
            "linux/arm",
            "unknown/unknown",
            "linux/aarch64/v8",
            "linux/arm/v7",
        ]));
        assert_eq!(shown, ["linux/arm/v7", "linux/arm64"]);
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in ["", "linux/", "/", "a/b/c/d", "linux/a b", "linux/\u{e9}"] {
            let error = text.parse::<Wanted>().unwrap_err().to_string();
            assert!(error.contains("linux/arm64"), "{error}");
        }
        assert_eq!("linux".parse::<Wanted>().unwrap(), Wanted::host());
        assert_eq!("ARMHF".parse::<Wanted>().unwrap().to_string(), "linux/arm/v7");
    }
}
