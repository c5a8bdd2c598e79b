//! `--filter KEY=VALUE` of the listing and pruning verbs.

/// One `--filter`: key in lower case, both without blanks around them, as Docker reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or("bad format of filter (expected name=value)")?;
        Ok(Self {
            key: key.trim().to_lowercase(),
            value: value.trim().to_owned(),
        })
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// The filters as the library reads them, sorted as Docker lists them.
pub(crate) fn texts(filters: &[Filter]) -> Vec<String> {
    let mut texts: Vec<String> = filters.iter().map(ToString::to_string).collect();
    texts.sort();
    texts
}
