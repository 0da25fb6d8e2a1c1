//! Disk: a small file system of its own for a home, to be filled up. Needs the right to mount.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many tests were left out in this process because nothing may be mounted.
static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In memory.
    Tmpfs,
    /// In a file, through a loop device: with blocks, a journal and delayed allocation.
    Ext4,
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mounts an empty file system of so many MiB over a folder. Nothing if that is not allowed
    /// here: then it says so, loudly, and the test is to end.
    pub fn mount(kind: Kind, mib: u64, folder: &Path, image: &Path) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let done = match kind {
            Kind::Tmpfs => run(Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=700"), "tidemill-test"])
                .arg(folder)),
            Kind::Ext4 => File::create(image)
                .and_then(|file| file.set_len(mib << 20))
                .map_err(|error| error.to_string())
                .and_then(|()| {
                    run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image))
                })
                .and_then(|()| {
                    run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(folder))
                }),
        };
        match done {
            Ok(()) => {
                let disk = Self { folder: folder.to_owned() };
                let found = disk.folder.join("lost+found");
                if found.exists() {
                    fs::remove_dir(found).unwrap();
                }
                Some(disk)
            }
            Err(why) => {
                let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
                eprintln!("SKIPPED ({count} in this process): {kind:?} cannot be mounted: {why}");
                None
            }
        }
    }

    /// Returns how many bytes are free.
    pub fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.folder).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Fills it up until about so many bytes are free.
    pub fn fill(&self, free: u64) {
        let mut ballast =
            OpenOptions::new().create(true).append(true).open(self.ballast()).unwrap();
        let block = [7; 4096];
        while self.free() > free {
            if ballast.write_all(&block).and_then(|()| ballast.flush()).is_err() {
                break;
            }
            // A file system that allocates late knows only then what is free.
            if self.free() <= free + (1 << 20) {
                let _ = ballast.sync_data();
            }
        }
        let _ = ballast.sync_all();
    }

    /// Takes away what [`Disk::fill`] put there.
    pub fn clear(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that was killed may still be on its way out.
        let _ = run(Command::new("umount").arg("-l").arg(&self.folder));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
