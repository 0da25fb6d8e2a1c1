//! Again: publication after a crash, which also mends what a loss of power tore.
//!
//! A part that rides in the journal gets its name before its bytes are synced: one sync for many
//! files comes behind (T1). Power that goes away in between may leave the name with no bytes, some of
//! them, or zeros in their place. The journal still has them all, also those of a part that another
//! was about to take the place of. Never replaces anything else.

use std::io::Write;
use std::path::Path;

use super::{PublishError, check_names, publish, replace, write_new};
use crate::barrier;
use crate::disk::{self, DiskError};
use crate::home::{Folders, Home};
use crate::journal::{Part, PartBody};

/// Makes a committed part visible once more, whole, as [`publish`] does; for recovery only.
///
/// Durable after [`super::sync_published`].
pub fn publish_again(home: &Home, folders: &Folders, part: &Part) -> Result<(), PublishError> {
    check_names(part)?;
    let path = folders.out.join(&part.sink).join(&part.name);
    if barrier::holds("torn-parts") {
        mend(home, &path, part)?;
    }
    publish(home, folders, part)
}

/// Makes whole what a loss of power tore: this part, or one that it takes the place of.
fn mend(home: &Home, path: &Path, part: &Part) -> Result<(), DiskError> {
    let own = match &part.body {
        PartBody::Inline(bytes) => Some(bytes),
        PartBody::Staged(_) | PartBody::Removed => None,
    };
    let before = part.before.iter().filter_map(|version| version.body.as_ref());
    for bytes in own.into_iter().chain(before) {
        if is_torn(path, bytes)? {
            // In `stage/`, so that recovery removes what a crash leaves of it.
            let whole = home.stage_root().join(format!("torn-{}", std::process::id()));
            write_new(&whole, |file| file.write_all(bytes))?;
            replace(&whole, path)?;
            tracing::warn!(path = %path.display(), "a loss of power had torn this output; it is whole again");
            break;
        }
    }
    Ok(())
}

/// Returns whether a file is what is left of these bytes: no longer than they are, and each of its
/// bytes is theirs or zero; but not all of them.
fn is_torn(path: &Path, bytes: &[u8]) -> Result<bool, DiskError> {
    let Some(found) = disk::look(path)? else { return Ok(false) };
    if !found.is_file() || found.len() > bytes.len() as u64 {
        return Ok(false);
    }
    let read = |error| DiskError::new("read", path, error);
    let mut left = Vec::with_capacity(bytes.len());
    let file = disk::open_plain(path).map_err(read)?;
    std::io::Read::read_to_end(&mut &file, &mut left).map_err(read)?;
    let is_ours = left.iter().zip(bytes).all(|(left, whole)| left == whole || *left == 0);
    Ok(left.len() <= bytes.len() && is_ours && left != bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Returns what is in `out/` after recovery found `left` there, if it went well.
    fn mended(left: &[u8]) -> Option<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("home")).unwrap();
        let folders = home.pipeline("p").unwrap();
        let whole = b"one\ntwo\n".to_vec();
        let part = Part::inline(1, "errors", "a.jsonl", whole);
        let path = folders.out.join("errors/a.jsonl");
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, left).unwrap();
        let outcome = publish_again(&home, &folders, &part);
        assert_eq!(fs::read_dir(home.stage_root()).unwrap().count(), 0);
        match outcome {
            Ok(()) => Some(fs::read(path).unwrap()),
            Err(PublishError::Occupied { .. }) => {
                assert_eq!(fs::read(path).unwrap(), left);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn what_a_loss_of_power_tore_is_made_whole() {
        for left in ["", "one", "one\ntwo", "one\ntwo\n", "\0\0\0\0two\n", "one\n\0\0\0\0", "\0"] {
            let whole = mended(left.as_bytes());
            assert_eq!(whole.as_deref(), Some(b"one\ntwo\n".as_slice()), "{left:?}");
        }
    }

    #[test]
    fn what_is_not_left_of_ours_is_not_touched() {
        for left in ["two", "one\ntwo\nthree", "one\ntwo\n\0", "eins\n"] {
            assert_eq!(mended(left.as_bytes()), None, "{left:?}");
        }
    }
}
