//! Installs a Debian package in a chroot: dpkg unpacks, syncs, renames, and writes its database.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Ability, Caches, Change, Outcome, Site, Workload, needs};
use crate::data::{Sizes, Stack, content};
use crate::error::{Doing, Result};
use crate::scratch;

/// The installation.
pub(super) struct Package;

impl Workload for Package {
    fn name(&self) -> &'static str {
        "package"
    }

    fn about(&self, sizes: &Sizes) -> String {
        format!(
            "dpkg --install of a package of {} files, in a chroot",
            sizes.package
        )
    }

    fn stack(&self) -> Stack {
        Stack::Real
    }

    fn caches(&self) -> Caches {
        Caches::WarmLayers
    }

    fn change(&self) -> Change {
        Change::Alters
    }

    fn obstacle(&self, ability: Ability) -> Option<String> {
        if !ability.root {
            return Some("a chroot needs root".to_owned());
        }
        if !ability.rootfs {
            return Some("it needs a root file system with dpkg: name one with --rootfs".to_owned());
        }
        needs("dpkg-deb").or_else(|| needs("chroot"))
    }

    fn prepare(&self, site: Site<'_>) -> Result<()> {
        let package = site.data.outside().join("bench.deb");
        if !package.exists() {
            build(&site.data.outside().join("package"), &package, site.sizes.package)?;
        }
        let target = site.root.join("bench.deb");
        fs::copy(&package, &target).doing("write", &target)?;
        Ok(())
    }

    fn run(&self, site: Site<'_>) -> Result<Outcome> {
        let mut dpkg = Command::new("chroot");
        dpkg.arg(site.root).args(["dpkg", "--install", "/bench.deb"]);
        dpkg.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        scratch::run(dpkg.env("DEBIAN_FRONTEND", "noninteractive"))?;
        let list = site.root.join("var/lib/dpkg/info/shale-bench.list");
        fs::metadata(&list).doing("find", &list)?;
        Ok(Outcome::Done)
    }
}

/// A package without scripts.
fn build(tree: &Path, package: &Path, files: usize) -> Result<()> {
    let dir = tree.join("opt/shale-bench");
    for dir in [&tree.join("DEBIAN"), &dir] {
        fs::create_dir_all(dir).doing("make", dir)?;
    }
    let control = "Package: shale-bench\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n\
                   Description: files to install\n";
    let path = tree.join("DEBIAN/control");
    fs::write(&path, control).doing("write", &path)?;
    for number in 0..files {
        let path = dir.join(number.to_string());
        fs::write(&path, content(number as u64, 4000)).doing("write", &path)?;
    }
    let mut deb = Command::new("dpkg-deb");
    deb.args(["--build", "--root-owner-group", "-Znone"]);
    scratch::run(deb.arg(tree).arg(package))
}
