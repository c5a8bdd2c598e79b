//! Where the programs under test and their peers are found.

use std::path::{Path, PathBuf};

/// A binary of this workspace: `target/{debug,release}` of the running test, its own profile first.
#[must_use]
pub fn workspace_binary(name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(format!("SHALE_TESTS_{}", name.to_uppercase().replace('-', "_"))) {
        return Some(PathBuf::from(path));
    }
    let test = std::env::current_exe().ok()?;
    // target/<profile>/deps/<test>
    let profile = test.parent()?.parent()?;
    let target = profile.parent()?;
    [profile.to_owned(), target.join("debug"), target.join("release")]
        .into_iter()
        .map(|directory| directory.join(name))
        .find(|path| is_executable(path))
}

/// A program of the system, searched in `PATH` and the usual system directories.
#[must_use]
pub fn system_binary(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
