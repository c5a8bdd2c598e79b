//! Random reads and writes of one block: by fio with the job files of `benches/fio` where it is installed, else by a
//! plain loop. A run uses one of them for all systems, and says which.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::data::{content, split_mix};
use crate::error::{BenchError, Doing, Result};
use crate::images::tools::{self, which};
use crate::workload::Outcome;

const READ_JOB: &str = include_str!("../fio/random-read.fio");
const WRITE_JOB: &str = include_str!("../fio/random-write.fio");
const BLOCK_BYTES: usize = 4096;

/// Who makes them.
#[derive(Debug)]
pub enum RandomIo {
    /// A loop over `pread` or `pwrite`, timed from the opening to the closing of the file.
    BuiltIn,
    /// fio: the sum of its latencies, without its own start and its opening of the file.
    Fio {
        /// The program.
        program: PathBuf,
        /// What it says about its version.
        version: String,
        /// Where the job files lie.
        jobs: PathBuf,
    },
}

impl RandomIo {
    /// fio when it is wanted and installed; its job files are written into `dir`.
    ///
    /// # Errors
    /// When the job files cannot be written.
    pub fn find(fio: bool, dir: &Path) -> Result<Self> {
        let Some(program) = which("fio").filter(|_| fio) else {
            return Ok(Self::BuiltIn);
        };
        let jobs = dir.join("fio");
        fs::create_dir(&jobs).doing("make", &jobs)?;
        for (name, text) in [("read", READ_JOB), ("write", WRITE_JOB)] {
            let path = jobs.join(name);
            fs::write(&path, text).doing("write", &path)?;
        }
        let output = Command::new(&program).arg("--version").output();
        let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Ok(Self::Fio {
            program,
            version: version.unwrap_or_default(),
            jobs,
        })
    }

    /// What to say of it in the report.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::BuiltIn => "built in: fio is not installed or not wanted".to_owned(),
            Self::Fio { version, .. } => version.clone(),
        }
    }

    /// Reads so many blocks of a file.
    pub(crate) fn read(&self, path: &Path, count: usize) -> Result<Outcome> {
        match self {
            Self::Fio { .. } => self.fio("read", path, count),
            Self::BuiltIn => {
                let file = File::open(path).doing("open", path)?;
                let mut block = vec![0; BLOCK_BYTES];
                for offset in offsets(&file, path)?.take(count) {
                    file.read_exact_at(&mut block, offset).doing("read", path)?;
                }
                Ok(Outcome::Done)
            }
        }
    }

    /// Writes so many blocks of a file that exists.
    pub(crate) fn write(&self, path: &Path, count: usize) -> Result<Outcome> {
        match self {
            Self::Fio { .. } => self.fio("write", path, count),
            Self::BuiltIn => self.write_from_open(path, count),
        }
    }

    /// The same with the opening of the file, always by the plain loop.
    pub(crate) fn write_from_open(&self, path: &Path, count: usize) -> Result<Outcome> {
        let file = OpenOptions::new().write(true).open(path).doing("open", path)?;
        let block = content(0, BLOCK_BYTES);
        for offset in offsets(&file, path)?.take(count) {
            file.write_all_at(&block, offset).doing("write", path)?;
        }
        Ok(Outcome::Done)
    }

    fn fio(&self, job: &str, path: &Path, count: usize) -> Result<Outcome> {
        let Self::Fio { program, jobs, .. } = self else {
            return Ok(Outcome::Done);
        };
        let mut command = Command::new(program);
        command.arg("--output-format=json").arg(jobs.join(job));
        command.env("SHALE_BENCH_FILE", path);
        command.env("SHALE_BENCH_COUNT", count.to_string());
        // it keeps a file of its state where it is started
        command.current_dir(jobs).stdin(Stdio::null());
        let ran = tools::run(&mut command)?;
        seconds_of(&ran.stdout, job, count).map(Outcome::Value)
    }
}

/// The sum of all latencies in fio's JSON; an error when it did less than it was told to.
fn seconds_of(text: &str, job: &str, count: usize) -> Result<f64> {
    let wrong = |what: &str| BenchError::Wrong(format!("fio {what}"));
    // warnings come before the JSON
    let json = text.find('{').map_or("", |start| &text[start..]);
    let report: serde_json::Value = serde_json::from_str(json).map_err(|_| wrong("printed no JSON"))?;
    let result = &report["jobs"][0][job];
    let done = result["total_ios"]
        .as_u64()
        .ok_or_else(|| wrong("counted nothing"))?;
    crate::data::expect("blocks", usize::try_from(done).unwrap_or(0), count)?;
    let mean = result["lat_ns"]["mean"]
        .as_f64()
        .ok_or_else(|| wrong("timed nothing"))?;
    Ok(mean * done as f64 / 1e9)
}

/// Block after block of a file, always the same ones for a length.
fn offsets(file: &File, path: &Path) -> Result<impl Iterator<Item = u64>> {
    let blocks = file.metadata().doing("stat", path)?.len() / BLOCK_BYTES as u64;
    if blocks == 0 {
        return Err(BenchError::Wrong(format!(
            "{} is shorter than a block",
            path.display()
        )));
    }
    let mut state = blocks;
    Ok(std::iter::repeat_with(move || {
        split_mix(&mut state) % blocks * BLOCK_BYTES as u64
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_what_fio_says() {
        let json = r#"{"jobs": [{"read": {"total_ios": 4, "lat_ns": {"mean": 500000.0}}}]}"#;
        let text = format!("fio: a warning\n{json}");
        assert!((seconds_of(&text, "read", 4).unwrap() - 0.002).abs() < 1e-12);
        assert!(seconds_of(&text, "read", 5).is_err());
        assert!(seconds_of(&text, "write", 4).is_err());
        assert!(seconds_of("fio: no such file", "read", 4).is_err());
    }

    #[test]
    fn the_plain_loop_stays_within_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, content(1, 3 * BLOCK_BYTES + 7)).unwrap();
        assert_eq!(RandomIo::BuiltIn.read(&path, 20).unwrap(), Outcome::Done);
        RandomIo::BuiltIn.write(&path, 20).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 3 * BLOCK_BYTES as u64 + 7);
        fs::write(&path, "short").unwrap();
        assert!(RandomIo::BuiltIn.read(&path, 1).is_err());
    }

    #[test]
    fn fio_does_what_its_job_says() {
        let dir = tempfile::tempdir().unwrap();
        let fio = RandomIo::find(true, dir.path()).unwrap();
        if matches!(fio, RandomIo::BuiltIn) {
            eprintln!("SKIP fio is not installed");
            return;
        }
        let path = dir.path().join("file");
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        let seconds = |outcome| match outcome {
            Outcome::Value(seconds) => seconds,
            Outcome::Done => panic!("no time"),
        };
        assert!(seconds(fio.read(&path, 50).unwrap()) > 0.0);
        assert!(seconds(fio.write(&path, 50).unwrap()) > 0.0);
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);
        assert!(fs::read(&path).unwrap().iter().any(|byte| *byte != 7));
    }
}
