//! Writes the layers.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::content::small_size;
use super::{MIB, Sizes, content, name};
use crate::error::{BenchError, Doing, Result};
use crate::{interrupt, scratch};

/// Headers that each C file includes.
const HEADERS: usize = 40;
/// Empty files in one directory of the inodes, the directory itself included.
const INODES_PER_DIR: usize = 1000;

pub(super) fn tree(tree: &Path, sizes: &Sizes) -> Result<()> {
    for number in 0..sizes.tree_dirs() {
        let dir = tree.join(Sizes::tree_dir(number));
        fs::create_dir_all(&dir).doing("make", &dir)?;
    }
    for number in 0..sizes.files {
        interrupt::check()?;
        let path = tree.join(Sizes::tree_file(number));
        let content = content(number as u64, small_size(number as u64));
        fs::write(&path, content).doing("write", &path)?;
    }
    Ok(())
}

/// Unpacks an archive, or copies a directory. Device nodes are left out: a plain user cannot make them.
pub(super) fn real(dir: &Path, rootfs: Option<&Path>) -> Result<()> {
    let Some(rootfs) = rootfs else { return Ok(()) };
    fs::create_dir(dir).doing("make", dir)?;
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--numeric-owner", "--same-permissions"]);
    unpack.args(["--exclude=dev/*", "--exclude=./dev/*"]);
    if !scratch::is_root() {
        unpack.arg("--no-same-owner");
    }
    unpack.arg("--directory").arg(dir).arg("--file");
    if !rootfs.is_dir() {
        return scratch::run(unpack.arg(rootfs));
    }
    let mut pack = Command::new("tar");
    pack.args(["--create", "--one-file-system", "--exclude=./dev/*", "--file=-"]);
    pack.arg("--directory").arg(rootfs).arg(".");
    pipe(&mut pack, unpack.arg("-"))
}

/// Runs one program into another.
pub(crate) fn pipe(from: &mut Command, into: &mut Command) -> Result<()> {
    let name = from.get_program().to_string_lossy().into_owned();
    let (reader, writer) = std::io::pipe().doing("make", Path::new("a pipe"))?;
    let child = from.stdout(writer).spawn();
    let mut child = child.map_err(|source| BenchError::Program {
        program: name.clone(),
        source,
    })?;
    // ours would keep the reader waiting for an end
    from.stdout(std::process::Stdio::null());
    let read = scratch::run_fed(into.stdin(reader));
    into.stdin(std::process::Stdio::null());
    let status = child.wait().doing("wait for", Path::new(&name))?;
    read?;
    if status.success() {
        return Ok(());
    }
    Err(BenchError::Failed {
        program: name,
        message: status.to_string(),
    })
}

pub(super) fn large(dir: &Path, length: u64) -> Result<()> {
    fs::create_dir_all(dir).doing("make", dir)?;
    let path = dir.join("file");
    let mut file = BufWriter::with_capacity(MIB, File::create(&path).doing("make", &path)?);
    let mut left = length;
    while left > 0 {
        interrupt::check()?;
        let part = left.min(MIB as u64);
        // seeded by what is left: no two parts are alike
        file.write_all(&content(left, part as usize))
            .doing("write", &path)?;
        left -= part;
    }
    file.flush().doing("write", &path)
}

pub(super) fn programs(dir: &Path) -> Result<()> {
    fs::create_dir(dir).doing("make", dir)?;
    let shell = Path::new("/bin/sh");
    fs::copy(shell, dir.join("sh")).doing("copy", shell)?;
    if let Some(library) = c_library() {
        let name = library.file_name().unwrap_or_default();
        fs::copy(&library, dir.join(name)).doing("copy", &library)?;
    }
    Ok(())
}

/// The C library that this program has loaded; none when it is linked statically.
fn c_library() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().find_map(|line| {
        let path = Path::new(&line[line.find('/')?..]);
        let name = path.file_name()?.to_str()?;
        name.starts_with("libc.so").then(|| path.to_path_buf())
    });
    path.filter(|path| path.exists())
}

/// The same names whatever the number of layers, each in one of them; the directory is in all.
pub(super) fn names(layers: &[PathBuf], names: usize) -> Result<()> {
    for layer in layers {
        let dir = layer.join("d");
        fs::create_dir_all(&dir).doing("make", &dir)?;
    }
    for number in 0..names {
        interrupt::check()?;
        let path = layers[number % layers.len()].join("d").join(name(number));
        fs::write(&path, b"x").doing("write", &path)?;
    }
    Ok(())
}

/// C files that include many headers and do a little arithmetic.
pub(super) fn sources(dir: &Path, files: usize) -> Result<()> {
    fs::create_dir(dir).doing("make", dir)?;
    let mut includes = String::new();
    for header in 0..HEADERS {
        let mut text = format!("#ifndef H{header}\n#define H{header}\n");
        for part in 0..20 {
            let _ = writeln!(
                text,
                "static inline int h{header}_{part}(int x) {{ return x * {part} + {header}; }}"
            );
        }
        text.push_str("#endif\n");
        let path = dir.join(format!("h{header}.h"));
        fs::write(&path, text).doing("write", &path)?;
        let _ = writeln!(includes, "#include \"h{header}.h\"");
    }
    for number in 0..files {
        let mut text = format!("{includes}int f{number}(int x) {{\n");
        for header in 0..HEADERS {
            let _ = writeln!(text, "    x += h{header}_{}(x);", (header + number) % 20);
        }
        text.push_str("    return x;\n}\n");
        if number == 0 {
            text.push_str("int main(void) { return f0(1) == 0; }\n");
        }
        let path = dir.join(format!("c{number}.c"));
        fs::write(&path, text).doing("write", &path)?;
    }
    Ok(())
}

/// So many empty files and directories together.
pub(super) fn inodes(root: &Path, inodes: usize) -> Result<()> {
    fs::create_dir(root).doing("make", root)?;
    let mut dir = PathBuf::new();
    for number in 0..inodes {
        interrupt::check()?;
        if number % INODES_PER_DIR == 0 {
            dir = root.join(format!("d{:04}", number / INODES_PER_DIR));
            fs::create_dir(&dir).doing("make", &dir)?;
        } else {
            let path = dir.join(format!("f{:03}", number % INODES_PER_DIR));
            File::create(&path).doing("make", &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_end_of_a_pipe_can_fail() {
        let cat = || {
            let mut cat = Command::new("cat");
            cat.stdout(std::process::Stdio::null());
            cat
        };
        pipe(Command::new("echo").arg("x"), &mut cat()).unwrap();
        let error = pipe(&mut Command::new("false"), &mut cat()).unwrap_err();
        assert!(error.to_string().contains("`false` failed"), "{error}");
        let error = pipe(&mut Command::new("true"), &mut Command::new("false")).unwrap_err();
        assert!(error.to_string().contains("`false` failed"), "{error}");
    }
}
