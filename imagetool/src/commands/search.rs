//! `shale search`.

use anyhow::{Context as _, bail};
use imagetool::registry::Found;
use serde_json::{Value, json};

use super::format::{Columns, Format};
use super::output;
use super::registry_options::RegistryArgs;

/// The longest description in a table.
const DESCRIPTION_LIMIT: usize = 45;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shale search --filter is-official=true debian
  shale search registry.example:5000/tool
  shale search --format '{{.Name}} {{.StarCount}}' debian")]
pub(crate) struct Args {
    /// Filter: stars=NUMBER, is-official=BOOL, is-automated=BOOL
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,

    /// Output: table or a Go template (.Name .Description .StarCount .IsOfficial .IsAutomated)
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// The most results, 1 to 100
    #[arg(long, value_name = "NUMBER", default_value_t = 25)]
    limit: i64,

    /// Show descriptions in full
    #[arg(long)]
    no_trunc: bool,

    #[command(flatten)]
    registry: RegistryArgs,

    /// What to look for at Docker Hub, or at the registry HOST
    #[arg(value_name = "[HOST/]TERM")]
    term: String,
}

/// Headings of fields that are in no column.
const HEADINGS: Columns<'_> = &[("AUTOMATED", "IsAutomated")];

/// What a result must be.
#[derive(Default)]
struct Filter {
    stars: u64,
    is_official: Option<bool>,
    is_automated: Option<bool>,
}

impl Filter {
    fn parse(texts: &[String]) -> anyhow::Result<Self> {
        let mut filter = Self::default();
        for text in texts {
            let Some((key, value)) = text.split_once('=') else {
                bail!("invalid filter {text:?}: write KEY=VALUE");
            };
            let boolean = || match value {
                "true" | "1" => Ok(Some(true)),
                "false" | "0" => Ok(Some(false)),
                _ => bail!("invalid filter '{key}={value}': it is true or false"),
            };
            match key {
                "stars" => {
                    filter.stars = value
                        .parse()
                        .with_context(|| format!("invalid filter 'stars={value}'"))?;
                }
                "is-official" => filter.is_official = boolean()?,
                "is-automated" => filter.is_automated = boolean()?,
                _ => bail!("invalid filter '{key}': know stars, is-official, is-automated"),
            }
        }
        Ok(filter)
    }

    fn fits(&self, found: &Found) -> bool {
        found.stars >= self.stars
            && self.is_official.is_none_or(|wanted| wanted == found.is_official)
            && self
                .is_automated
                .is_none_or(|wanted| wanted == found.is_automated)
    }
}

impl Args {
    pub(crate) fn execute(self) -> anyhow::Result<u8> {
        if !(1..=100).contains(&self.limit) {
            bail!("limit {} is outside the range of [1, 100]", self.limit);
        }
        let filter = Filter::parse(&self.filter)?;
        let format = Format::parse(self.format.as_deref(), false)?;
        let limit = usize::try_from(self.limit)?;
        let mut found = self.registry.registries()?.search(&self.term, limit)?;
        found.retain(|found| filter.fits(found));
        found.sort_by_key(|found| std::cmp::Reverse(found.stars));
        let columns = [
            ("NAME", "Name"),
            ("DESCRIPTION", "Description"),
            ("STARS", "StarCount"),
            ("OFFICIAL", "IsOfficial"),
        ];
        let rows = found
            .iter()
            .map(|found| self.row(found, matches!(format, Format::Json)));
        output::print(&format.render(&columns, HEADINGS, rows)?)?;
        Ok(0)
    }

    fn row(&self, found: &Found, json: bool) -> Value {
        let mark = |yes| match (yes, json) {
            (true, false) => "[OK]",
            (false, false) => "",
            (true, true) => "true",
            (false, true) => "false",
        };
        let mut description = found.description.clone();
        if !self.no_trunc && description.chars().count() > DESCRIPTION_LIMIT {
            description = description.chars().take(DESCRIPTION_LIMIT - 1).collect();
            description.push('…');
        }
        json!({
            "Name": found.name,
            "Description": description,
            "StarCount": found.stars.to_string(),
            "IsOfficial": mark(found.is_official),
            "IsAutomated": mark(found.is_automated),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_filtered() {
        let found = Found {
            name: "a".to_owned(),
            description: String::new(),
            stars: 5,
            is_official: true,
            is_automated: false,
        };
        let fits = |text: &str| Filter::parse(&[text.to_owned()]).unwrap().fits(&found);
        assert!(fits("stars=5") && fits("is-official=true") && fits("is-automated=0"));
        assert!(!fits("stars=6") && !fits("is-official=false"));
        for wrong in ["stars", "stars=x", "is-official=maybe", "colour=red"] {
            assert!(Filter::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
