//! `ps`.

use super::list::Form;
use super::{Global, print};
use crate::error::{Context, Error, Result};
use crate::state::{Container, ContainerId, Status};

/// `ps`.
#[derive(Debug, clap::Args)]
pub struct Ps {
    /// form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    format: Form,
    /// name of the container
    id: ContainerId,
    /// options for the program ps (default: -ef)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

impl Ps {
    /// Prints the processes.
    pub fn run(self, global: &Global) -> Result<i32> {
        let container = global.store().load(&self.id)?;
        let pids = processes(&container)?;
        match self.format {
            Form::Json => print(&format!("{}\n", serde_json::json!(pids)))?,
            Form::Table => print(&self.table(&pids)?)?,
        }
        Ok(0)
    }

    /// The lines of ps about these processes, found by its column PID.
    fn table(&self, pids: &[i32]) -> Result<String> {
        let options = if self.options.is_empty() {
            &["-ef".to_owned()][..]
        } else {
            &self.options
        };
        let output = std::process::Command::new("ps")
            .args(options)
            .output()
            .context(|| "run ps")?;
        if !output.status.success() {
            return Err(Error::invalid(format!(
                "ps: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        let title = lines.next().unwrap_or_default();
        let column = title.split_whitespace().position(|name| name == "PID");
        let column = column.ok_or_else(|| Error::invalid("ps: the options leave out the column PID"))?;
        let ours = |line: &&str| {
            let pid = line
                .split_whitespace()
                .nth(column)
                .and_then(|pid| pid.parse().ok());
            pid.is_some_and(|pid| pids.contains(&pid))
        };
        Ok(std::iter::once(title)
            .chain(lines.filter(ours))
            .fold(String::new(), |text, line| text + line + "\n"))
    }
}

fn processes(container: &Container) -> Result<Vec<i32>> {
    if container.status() == Status::Stopped {
        return Ok(Vec::new());
    }
    if !container.state.cgroup.exists() {
        return Err(Error::invalid(
            "the container has no cgroup, and so its processes are not known",
        ));
    }
    Ok(container
        .state
        .cgroup
        .processes()?
        .into_iter()
        .map(nix::unistd::Pid::as_raw)
        .collect())
}
