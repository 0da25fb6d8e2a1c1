//! Around the journal: who runs here, whether the folders can be trusted, how much room there is, and
//! what lies in the folders that hold nothing for long.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::Round;
use super::finding::Code;
use crate::disk;

/// Room on the file system below which a person is told, in bytes, or one percent of it if that is
/// less: where a server that was told nothing else takes no more files in.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// Files that may still be made, below which a person is told.
const FREE_FILES_MIN: u64 = 10_000;

/// The folders of a pipeline.
const FOLDERS: [&str; 5] = ["unprocessed", "underprocess", "processed", "quarantine", "out"];

const WRITABLE_BY_ALL: u32 = 0o002;
const STICKY: u32 = 0o1000;
const READABLE_BY_OTHERS: u32 = 0o044;

/// How deep a folder that should hold files is walked.
const DEPTH_MAX: usize = 8;
/// How often the list of locks is looked at.
const LOOKS: usize = 5;

impl Round<'_> {
    /// Looks at everything but the journal and the files that it knows.
    pub(super) fn look_around(&mut self) {
        self.facts.running = holder(&self.home.join("LOCK"));
        self.check_room();
        self.check_mode();
        self.check_folders();
        let stage = self.weigh("stage");
        let spool = self.weigh("spool");
        self.facts.stage_bytes = stage.1;
        self.facts.spool_bytes = spool.1;
        // While somebody works here, that is what these folders are for.
        if self.facts.running.is_none() {
            for (code, (files, bytes)) in [(Code::Staged, stage), (Code::Spooled, spool)] {
                if files > 0 {
                    self.find(code, "", &format!("{files} files, {bytes} bytes"));
                }
            }
        }
        let (files, bytes) = self.weigh("ckpt");
        self.facts.checkpoint_bytes = bytes;
        if files > 0 {
            self.find(Code::Checkpoints, "", &format!("{files} files, {bytes} bytes"));
        }
    }

    fn check_room(&mut self) {
        let room = match rustix::fs::statvfs(self.home) {
            Ok(room) => room,
            Err(errno) => return self.unreadable(self.home, &errno.into()),
        };
        self.facts.free_bytes = room.f_bavail.saturating_mul(room.f_frsize);
        // Some file systems do not count files.
        self.facts.free_files = (room.f_files > 0).then_some(room.f_favail);
        let all_bytes = room.f_blocks.saturating_mul(room.f_frsize);
        if self.facts.free_bytes < FREE_BYTES_MIN.min(all_bytes / 100) {
            self.find(Code::Space, "", &format!("{} bytes are left", self.facts.free_bytes));
        }
        if let Some(files) = self.facts.free_files.filter(|files| *files < FREE_FILES_MIN) {
            self.find(Code::Space, "", &format!("{files} more files can be made"));
        }
    }

    fn check_mode(&mut self) {
        let journal = self.home.join("journal.db");
        if let Ok(Some(found)) = disk::look(&journal)
            && found.permissions().mode() & READABLE_BY_OTHERS != 0
            // A private home keeps others out, whatever the file says.
            && disk::look(self.home).is_ok_and(|home| home.is_none_or(is_open_to_others))
        {
            let mode = found.permissions().mode() & 0o7777;
            self.find(Code::Readable, "", &format!("journal.db has mode {mode:o}"));
        }
    }

    fn check_folders(&mut self) {
        let Ok(Some(root)) = disk::look(self.home) else { return };
        self.check_folder("", self.home, root.dev());
        for name in ["stage", "spool"] {
            self.check_folder("", &self.home.join(name), root.dev());
        }
        let entries = match std::fs::read_dir(self.home) {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(self.home, &error),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            // A pipeline is known by its folders, whether it is in the journal or not.
            if !FOLDERS.iter().any(|folder| path.join(folder).symlink_metadata().is_ok()) {
                continue;
            }
            self.check_folder(&name, &path, root.dev());
            let (files, bytes) = self.weigh(&format!("{name}/retained"));
            self.facts.retained_files += files;
            self.facts.retained_bytes += bytes;
            for folder in FOLDERS {
                self.check_folder(&name, &path.join(folder), root.dev());
            }
        }
    }

    fn check_folder(&mut self, pipeline: &str, path: &Path, device: u64) {
        let found = match disk::look(path) {
            Ok(found) => found,
            Err(error) => return self.unreadable(path, &error.source),
        };
        let subject = self.shown(path);
        let subject = if subject.is_empty() { ".".to_owned() } else { subject };
        let Some(found) = found else {
            return self.find(Code::NotAFolder, pipeline, &format!("{subject} is missing"));
        };
        if !found.is_dir() {
            return self.find(Code::NotAFolder, pipeline, &format!("{subject} is no folder"));
        }
        if found.dev() != device {
            self.find(Code::Split, pipeline, &subject);
        }
        let mode = found.permissions().mode();
        if mode & WRITABLE_BY_ALL != 0 && mode & STICKY == 0 {
            self.find(Code::Open, pipeline, &format!("{subject} has mode {:o}", mode & 0o7777));
        }
    }

    /// Returns how many files lie below a folder of the home, and their bytes.
    fn weigh(&mut self, folder: &str) -> (u64, u64) {
        let mut total = (0, 0);
        let mut ahead = vec![(self.home.join(folder), 0)];
        while let Some((path, depth)) = ahead.pop() {
            let entries = match std::fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) => {
                    let gone = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
                    if !gone.contains(&error.kind()) {
                        self.unreadable(&path, &error);
                    }
                    continue;
                }
            };
            for entry in entries.flatten() {
                match disk::look(&entry.path()) {
                    Ok(Some(found)) if found.is_dir() && depth < DEPTH_MAX => {
                        ahead.push((entry.path(), depth + 1));
                    }
                    Ok(Some(found)) if found.is_file() => {
                        total = (total.0 + 1, total.1 + found.len());
                    }
                    _ => {}
                }
            }
        }
        total
    }
}

fn is_open_to_others(found: Metadata) -> bool {
    found.permissions().mode() & 0o055 != 0
}

/// Returns the process that holds the lock of a home, as the kernel tells. Takes no lock itself: a
/// server that starts in this moment would find the home in use. The kernel gives its list piece by
/// piece, and a lock that others give back meanwhile can push a line out of what is given: what is not
/// found is looked for again.
fn holder(lock: &Path) -> Option<u32> {
    let inode = std::fs::symlink_metadata(lock).ok()?.ino();
    (0..LOOKS).find_map(|_| holder_in(&std::fs::read_to_string("/proc/locks").ok()?, inode))
}

/// Finds the holder of a lock in the kernel's list: `1: FLOCK ADVISORY WRITE 4321 fe:00:1234 0 EOF`.
/// The device is not compared: some file systems tell the kernel another one than they tell us.
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "FLOCK")?;
        // One that waits for the lock has an arrow before it.
        if words.get(1) == Some(&"->") {
            return None;
        }
        let of: u64 = words.get(at + 4)?.rsplit(':').next()?.parse().ok()?;
        let process = words.get(at + 3)?.parse().ok();
        process.filter(|_| of == inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_who_holds_a_lock() {
        let locks = "1: POSIX  ADVISORY  READ 5 fe:00:1234 128 128
2: FLOCK  ADVISORY  WRITE 4321 fe:00:1234 0 EOF
2: -> FLOCK  ADVISORY  WRITE 99 fe:00:777 0 EOF
3: FLOCK  ADVISORY  WRITE 98 fe:00:12345 0 EOF
";
        assert_eq!(holder_in(locks, 1234), Some(4321));
        assert_eq!(holder_in(locks, 12345), Some(98));
        assert_eq!(holder_in(locks, 777), None);
        assert_eq!(holder_in("nonsense\n\nFLOCK", 1), None);
    }
}
