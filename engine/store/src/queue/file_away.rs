//! File away: a finished input goes to `processed/`, or to `quarantine/` with its reason.
//!
//! Both moves may be repeated: what is already where it belongs is left there. They are durable
//! after [`crate::sync_published`].

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::{self, DiskError};
use crate::failpoint;
use crate::home::Folders;
use crate::journal::{AcceptedFile, Outcome, Verdict};
use crate::name::REASON_ENDING;
use crate::publish;
use crate::queue::Identity;

/// Why a file is in `quarantine/`: the content of its `.reason.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A stable word that programs may compare.
    pub code: String,
    /// What happened, for a person.
    pub text: String,
    /// The pipeline that refused it.
    pub pipeline: String,
    /// The source that read it.
    pub source: String,
    /// The name under which it came.
    pub name: String,
    /// The number of the submission.
    pub submission: u64,
    /// Its epoch.
    pub epoch: u64,
    /// The plan that refused it, in hex; absent if it is not known any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plan_hash: Option<String>,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes, in hex; absent if it was refused before all of them were read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hash: Option<String>,
    /// How many records were read before it was refused.
    pub records: u64,
    /// How many of them were rejected.
    pub rejected: u64,
    /// When it was refused, in microseconds since 1970.
    pub finished_at_us: i64,
}

impl Reason {
    /// Returns the reason why a file was quarantined, as the journal knows it.
    pub fn of(file: &AcceptedFile, outcome: &Outcome, plan_hash: Option<String>) -> Reason {
        let (code, text) = match &outcome.verdict {
            Verdict::Quarantined { code, detail } => (code.clone(), detail.clone()),
            Verdict::Committed { .. } | Verdict::Postponed(_) => Default::default(),
        };
        let hash = outcome.hash.or(file.hash);
        Reason {
            code,
            text,
            pipeline: file.pipeline.clone(),
            source: file.source.clone(),
            name: file.name.clone(),
            submission: file.id,
            epoch: file.epoch,
            plan_hash,
            bytes: file.identity.bytes,
            hash: hash.map(|hash| blake3::Hash::from_bytes(hash).to_hex().to_string()),
            records: outcome.records,
            rejected: outcome.rejected,
            finished_at_us: outcome.finished_at_us,
        }
    }
}

/// Moves a file from `underprocess/` to `processed/<stored_name>`. Already there is fine.
///
/// Neither here nor there is [`io::ErrorKind::NotFound`]: somebody took it out of our folders.
pub fn finish(folders: &Folders, claimed_name: &str, stored_name: &str) -> io::Result<()> {
    let source = folders.underprocess.join(claimed_name);
    let target = folders.processed.join(stored_name);
    failpoint::reach("input-move-begin")?;
    match move_once(&source, &target)? {
        Moved::There => failpoint::reach("input-moved"),
        Moved::Nowhere => {
            let error = io::Error::new(io::ErrorKind::NotFound, "the input is in neither folder");
            Err(DiskError::new("file away", &source, error).into())
        }
    }
}

/// Writes `quarantine/<stored_name>.reason.json`, then moves the file there. Already there is fine.
///
/// So is a file that is nowhere: that it is missing may be the very reason.
pub fn quarantine(
    folders: &Folders,
    claimed_name: &str,
    stored_name: &str,
    reason: &Reason,
) -> io::Result<()> {
    let path = folders.quarantine.join(format!("{stored_name}{REASON_ENDING}"));
    let mut text = serde_json::to_vec_pretty(reason).map_err(io::Error::from)?;
    text.push(b'\n');
    failpoint::reach("reason-begin")?;
    publish::put_file(&path, &text)?;
    failpoint::reach("reason-placed")?;
    let target = folders.quarantine.join(stored_name);
    move_once(&folders.underprocess.join(claimed_name), &target)?;
    failpoint::reach("quarantine-moved")
}

/// A file in `quarantine/`, as [`quarantined`] finds it.
#[derive(Debug)]
pub struct SetAside {
    /// Which file it is and how it looks now: a person may have mended it.
    pub identity: Identity,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
}

/// Looks at a file in `quarantine/` that is to be tried again, and makes its bytes durable (A1).
///
/// [`io::ErrorKind::NotFound`]: somebody took it out.
pub fn quarantined(folders: &Folders, stored_name: &str) -> io::Result<SetAside> {
    let path = folders.quarantine.join(stored_name);
    let file = super::open_plain(&path)?;
    disk::sync_file(&file, &path)?;
    let hash = disk::hash_of(&file).map_err(|error| DiskError::new("hash", &path, error))?;
    let identity = Identity::of(&file)?;
    Ok(SetAside { identity, hash })
}

/// Moves a file that is tried again from `quarantine/` to `underprocess/<claimed_name>` and removes
/// its reason. Already done is fine; so is a file that is nowhere, which its reader will tell.
///
/// Durable on return: nothing later would notice that the move was lost.
pub fn take_back(folders: &Folders, stored_name: &str, claimed_name: &str) -> io::Result<()> {
    let target = folders.underprocess.join(claimed_name);
    failpoint::reach("retry-accepted")?;
    move_once(&folders.quarantine.join(stored_name), &target)?;
    failpoint::reach("retry-moved")?;
    let reason = folders.quarantine.join(format!("{stored_name}{REASON_ENDING}"));
    match std::fs::remove_file(&reason) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(DiskError::new("remove", &reason, error).into());
        }
        _ => {}
    }
    disk::sync_folder(&folders.underprocess)?;
    disk::sync_folder(&folders.quarantine)?;
    Ok(())
}

enum Moved {
    There,
    Nowhere,
}

fn move_once(source: &Path, target: &Path) -> Result<Moved, DiskError> {
    match disk::rename_new(source, target) {
        Ok(()) => Ok(Moved::There),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(if disk::look(target)?.is_some() { Moved::There } else { Moved::Nowhere })
        }
        Err(error) => Err(error),
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
        fs::write(folders.underprocess.join("7-a.csv"), "a").unwrap();
        (folder, folders)
    }

    #[test]
    fn a_finished_input_is_moved_once_however_often_it_is_asked() {
        let (_folder, folders) = given();
        for _ in 0..3 {
            finish(&folders, "7-a.csv", "a.csv").unwrap();
            assert_eq!(fs::read(folders.processed.join("a.csv")).unwrap(), b"a");
        }
    }

    #[test]
    fn a_file_in_processed_is_never_replaced() {
        let (_folder, folders) = given();
        fs::write(folders.processed.join("a.csv"), "foreign").unwrap();
        let error = finish(&folders, "7-a.csv", "a.csv").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(folders.processed.join("a.csv")).unwrap(), b"foreign");
        assert_eq!(fs::read(folders.underprocess.join("7-a.csv")).unwrap(), b"a");
    }

    #[test]
    fn an_input_that_somebody_took_away_is_told() {
        let (_folder, folders) = given();
        let error = finish(&folders, "8-b.csv", "b.csv").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("8-b.csv"), "{error}");
    }

    #[test]
    fn a_quarantined_file_lies_beside_its_reason() {
        let (_folder, folders) = given();
        let reason = Reason { code: "bad_format".into(), text: "no".into(), ..Reason::default() };
        for _ in 0..3 {
            quarantine(&folders, "7-a.csv", "a~2.csv", &reason).unwrap();
            assert_eq!(fs::read(folders.quarantine.join("a~2.csv")).unwrap(), b"a");
            let text = fs::read(folders.quarantine.join("a~2.csv.reason.json")).unwrap();
            assert_eq!(serde_json::from_slice::<Reason>(&text).unwrap(), reason);
        }
        assert_eq!(fs::read_dir(&folders.quarantine).unwrap().count(), 2);
    }

    #[test]
    fn a_file_is_taken_back_once_however_often_it_is_asked() {
        let (_folder, folders) = given();
        quarantine(&folders, "7-a.csv", "a.csv", &Reason::default()).unwrap();
        fs::write(folders.quarantine.join("a.csv"), "mended").unwrap();
        let found = quarantined(&folders, "a.csv").unwrap();
        assert_eq!(found.hash, *blake3::hash(b"mended").as_bytes());
        assert_eq!(found.identity.bytes, 6);
        for _ in 0..3 {
            take_back(&folders, "a.csv", "9-a.csv").unwrap();
            assert_eq!(fs::read(folders.underprocess.join("9-a.csv")).unwrap(), b"mended");
            assert_eq!(fs::read_dir(&folders.quarantine).unwrap().count(), 0);
        }
        assert_eq!(quarantined(&folders, "a.csv").unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(folders.quarantine.join("b")).unwrap();
        assert!(quarantined(&folders, "b").is_err());
    }

    #[test]
    fn a_missing_file_can_be_quarantined() {
        let (_folder, folders) = given();
        quarantine(&folders, "8-b", "b", &Reason::default()).unwrap();
        assert!(folders.quarantine.join("b.reason.json").exists());
    }
}
