//! The same work shared out among more and more clients: each reads its share of the small files and writes files of
//! its own. What does not get faster from one client to two on two processors waits for a lock.

use std::fs;
use std::path::Path;

use super::{Caches, Change, Outcome, Site, Workload};
use crate::data::{Sizes, Stack, content, expect};
use crate::error::{BenchError, Doing, Result};

/// For how many files that are read one is written.
const READS_PER_WRITE: usize = 10;

/// The clients, threads of this process.
pub(super) enum Clients {
    One,
    Two,
    Four,
    Eight,
}

impl Clients {
    fn count(&self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

impl Workload for Clients {
    fn name(&self) -> &'static str {
        match self {
            Self::One => "clients-1",
            Self::Two => "clients-2",
            Self::Four => "clients-4",
            Self::Eight => "clients-8",
        }
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!(
            "read {} small files and write {}, shared out among clients: {}",
            sizes.files,
            sizes.files / READS_PER_WRITE,
            self.count()
        )
    }

    fn stack(&self) -> Stack {
        Stack::Tree
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn change(&self) -> Change {
        Change::Adds
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let clients = self.count();
        let read = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..clients)
                .map(|number| scope.spawn(move || client(site.root, number, clients, site.sizes.files)))
                .collect();
            let mut read = 0;
            for thread in threads {
                let part = thread
                    .join()
                    .map_err(|_| BenchError::Wrong("a client panicked".to_owned()))?;
                read += part?;
            }
            Ok::<_, BenchError>(read)
        })?;
        expect("files read", read, site.sizes.files)?;
        Ok(Outcome::Done)
    }
}

/// Every so many-th file; gives how many were read.
fn client(root: &Path, number: usize, clients: usize, files: usize) -> Result<usize> {
    let own = root.join(format!("client-{number}"));
    fs::create_dir(&own).doing("make", &own)?;
    let text = content(number as u64, 1000);
    let mut read = 0;
    for file in (number..files).step_by(clients) {
        let path = root.join(Sizes::tree_file(file));
        fs::symlink_metadata(&path).doing("stat", &path)?;
        read += usize::from(!fs::read(&path).doing("read", &path)?.is_empty());
        if file % READS_PER_WRITE == 0 {
            let path = own.join(file.to_string());
            fs::write(&path, &text).doing("write", &path)?;
        }
    }
    Ok(read)
}
