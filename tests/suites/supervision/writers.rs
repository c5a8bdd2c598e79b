//! Programs that write.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use shale_tests::mount::Backend;

use crate::data::{Dice, content, file_path, fill_files, length_of};
use crate::killer::Killer;
use crate::{RUN, supervised};

/// Does to a file what it does to a vector, and compares.
fn write_and_verify(path: &Path, seed: u64, mut model: Vec<u8>, deadline: Instant) {
    const LENGTH_MAX: u64 = 300_000;
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .expect("open the file")
    };
    let mut file = open();
    let mut dice = Dice(seed);
    let mut steps = 0;
    while Instant::now() < deadline {
        steps += 1;
        match dice.roll(10) {
            0 => {
                let length = dice.roll(LENGTH_MAX);
                file.set_len(length).expect("truncate");
                model.resize(length as usize, 0);
            }
            1 => {
                drop(file);
                file = open();
            }
            2 => file.sync_data().expect("sync"),
            3 => {
                use std::os::unix::fs::PermissionsExt;
                let mode = fs::Permissions::from_mode(0o600 + (steps % 8));
                file.set_permissions(mode).expect("chmod");
            }
            4..=6 => {
                let offset = dice.roll(LENGTH_MAX);
                let data = content(seed + u64::from(steps), dice.roll(60_000) + 1);
                file.write_all_at(&data, offset).expect("write");
                let end = offset as usize + data.len();
                if model.len() < end {
                    model.resize(end, 0);
                }
                model[offset as usize..end].copy_from_slice(&data);
            }
            _ => {
                let offset = dice.roll(LENGTH_MAX).min(model.len() as u64);
                let end = (offset + dice.roll(60_000)).min(model.len() as u64);
                let mut buffer = vec![0; (end - offset) as usize];
                file.read_exact_at(&mut buffer, offset).expect("read");
                assert!(
                    buffer == model[offset as usize..end as usize],
                    "{}: other data at {offset} after {steps} steps",
                    path.display()
                );
            }
        }
        assert_eq!(
            file.metadata().expect("fstat").len(),
            model.len() as u64,
            "length"
        );
    }
    assert!(steps > 50, "only {steps} steps");
    drop(file);
    assert!(fs::read(path).expect("read all") == model, "{}", path.display());
}

fn writers_go_on(backend: Backend) {
    if !backend.is_available_or_skip() {
        return;
    }
    let (mut fixture, supervisor) = supervised(backend, true, &[], fill_files);
    let killer = Killer::start(supervisor);
    let deadline = Instant::now() + RUN;
    let root = fixture.root().to_owned();
    std::thread::scope(|scope| {
        for number in [1, 2] {
            let (path, model) = (file_path(&root, number), content(number, length_of(number)));
            scope.spawn(move || write_and_verify(&path, number, model, deadline));
        }
        let path = root.join("both/new");
        scope.spawn(move || write_and_verify(&path, 99, Vec::new(), deadline));
    });
    killer.finish();
    let before = fs::read(root.join("both/new")).expect("read");
    fixture.remount();
    assert!(
        fs::read(root.join("both/new")).expect("read") == before,
        "after a remount"
    );
}

#[test]
fn writers_with_passthrough_go_on() {
    writers_go_on(Backend::ShalePassthrough);
}

#[test]
fn writers_without_passthrough_go_on() {
    writers_go_on(Backend::ShalePlain);
}

#[test]
fn writers_with_partial_copies_go_on() {
    writers_go_on(Backend::ShalePartial);
}

#[test]
fn writers_over_an_image_go_on() {
    writers_go_on(Backend::ShaleImage);
}
