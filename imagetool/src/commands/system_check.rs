//! `shale system check`.

use imagetool::progress::Progress;
use imagetool::system::check::{Depth, Outcome, check, repair};

use super::output;
use crate::cli::Context;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The exit status is 0 when all is well, 1 when something is (still) wrong.

Examples:
  shale system check
  shale system check --quick
  shale system check --repair"
)]
pub(super) struct Args {
    /// Do not read contents: names, sizes, indexes and rows only
    #[arg(long, conflicts_with = "repair")]
    quick: bool,

    /// Put right what can be
    #[arg(long)]
    repair: bool,
}

impl Args {
    pub(super) fn execute(self, context: &Context) -> anyhow::Result<u8> {
        let store = context.store()?;
        let depth = if self.quick { Depth::Quick } else { Depth::Full };
        let progress = Progress::new(false);
        let report = check(&store, depth, &progress)?;
        for finding in &report.findings {
            output::line(finding)?;
        }
        let mut wrong = report.findings.len();
        if self.repair && wrong > 0 {
            let outcomes = repair(&store, &report.findings)?;
            for (finding, outcome) in report.findings.iter().zip(&outcomes) {
                match outcome {
                    Outcome::Repaired(how) => output::line(format!("repaired: {}: {how}", finding.subject))?,
                    Outcome::Left(advice) => {
                        output::line(format!("not repaired: {}: {advice}", finding.subject))?;
                    }
                }
            }
            let after = check(&store, depth, &progress)?;
            let is_new = |finding: &&imagetool::system::check::Finding| !report.findings.contains(finding);
            for finding in after.findings.iter().filter(is_new) {
                output::line(finding)?;
            }
            wrong = after.findings.len();
        }
        let checked = report.checked;
        let outcome = match wrong {
            0 => "all is well".to_owned(),
            1 => "1 thing is wrong".to_owned(),
            wrong => format!("{wrong} things are wrong"),
        };
        output::line(format!(
            "checked {} images, {} layers, {} objects, {} blobs, {} caches: {outcome}",
            checked.images, checked.layers, checked.objects, checked.blobs, checked.caches
        ))?;
        if wrong > 0 && !self.repair {
            output::line("to put right what can be: shale system check --repair")?;
        }
        Ok(u8::from(wrong > 0))
    }
}
