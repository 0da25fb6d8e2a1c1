//! Retire: an input that was replaced or removed leaves `processed/` for `retained/`, and goes away
//! when no start can need it any more.
//!
//! Every step may be repeated: what is already where it belongs is left there, and what is nowhere
//! was taken by somebody. The moves are durable after [`crate::sync_published`].

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::disk::{self, DiskError};
use crate::failpoint;
use crate::home::Folders;

/// Moves an input from `processed/` to `retained/`. One that is nowhere is fine: nothing of it is
/// wanted but what a start may need, and a start that needs it says so.
pub fn retire(folders: &Folders, stored_name: &str) -> io::Result<()> {
    let source = folders.processed.join(stored_name);
    let target = folders.retained.join(stored_name);
    failpoint::reach("retire-begin")?;
    create(&folders.retained)?;
    if disk::look(&target)?.is_some() {
        // Kept there when it was committed: a second name of the same file.
        remove(&source)?;
    } else {
        match disk::rename_new(&source, &target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    failpoint::reach("retire-moved")
}

/// Gives an input in `processed/` a second name in `retained/`, so that its bytes stay when somebody
/// empties `processed/`. One that is nowhere is fine.
pub fn retain(folders: &Folders, stored_name: &str) -> io::Result<()> {
    let source = folders.processed.join(stored_name);
    let target = folders.retained.join(stored_name);
    create(&folders.retained)?;
    match std::fs::hard_link(&source, &target) {
        Err(error)
            if !matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) =>
        {
            return Err(DiskError::new("link", &target, error).into());
        }
        _ => {}
    }
    failpoint::reach("retain-linked")
}

/// Deletes an input from `retained/`. Already gone is fine.
pub fn discard(folders: &Folders, stored_name: &str) -> io::Result<()> {
    remove(&folders.retained.join(stored_name))?;
    failpoint::reach("retained-discarded")
}

fn remove(path: &Path) -> Result<(), DiskError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DiskError::new("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Makes the folder when it is first needed, for its owner alone.
fn create(folder: &Path) -> Result<(), DiskError> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(DiskError::new("create", folder, error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use std::fs;

    fn given() -> (tempfile::TempDir, Folders) {
        let folder = tempfile::tempdir().unwrap();
        let folders = Home::open(folder.path()).unwrap().pipeline("p").unwrap();
        fs::write(folders.processed.join("a.csv"), "a").unwrap();
        (folder, folders)
    }

    #[test]
    fn a_corrected_input_leaves_processed_once_however_often_it_is_asked() {
        let (_folder, folders) = given();
        for _ in 0..3 {
            retire(&folders, "a.csv").unwrap();
            assert!(!folders.processed.join("a.csv").exists());
            assert_eq!(fs::read(folders.retained.join("a.csv")).unwrap(), b"a");
        }
        for _ in 0..2 {
            discard(&folders, "a.csv").unwrap();
            assert_eq!(fs::read_dir(&folders.retained).unwrap().count(), 0);
        }
        // Nothing is left to move.
        retire(&folders, "a.csv").unwrap();
    }

    #[test]
    fn an_input_that_was_retained_before_leaves_processed_too() {
        let (_folder, folders) = given();
        retain(&folders, "a.csv").unwrap();
        retain(&folders, "a.csv").unwrap();
        assert_eq!(fs::read(folders.processed.join("a.csv")).unwrap(), b"a");
        fs::remove_file(folders.processed.join("a.csv")).unwrap();
        assert_eq!(fs::read(folders.retained.join("a.csv")).unwrap(), b"a");
        fs::write(folders.processed.join("a.csv"), "a").unwrap();
        retire(&folders, "a.csv").unwrap();
        assert!(!folders.processed.join("a.csv").exists());
        assert_eq!(fs::read(folders.retained.join("a.csv")).unwrap(), b"a");
    }
}
