//! Snapshot: the file in `out/` that shows the rows of a table, and the one that describes it. Replaces both
//! whole, one after the other, or takes them away; never decides when.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tidemill_store::{Folders, failpoint, replace_file};

use super::Published;

/// Bytes of a snapshot that are written at once.
const WRITE_BYTES: usize = 256 << 10;

/// Takes the snapshot of a table away that is shown only while it has rows.
pub(super) fn remove(folders: &Folders, published: &mut Published) -> io::Result<()> {
    let file = folders.out.join(&published.sink).join(&published.file_name);
    for path in [about(&file), file] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    published.table.pass_over();
    Ok(())
}

/// Returns what a snapshot is described by.
fn about(snapshot: &Path) -> PathBuf {
    let mut name = snapshot.as_os_str().to_owned();
    name.push(".about.json");
    name.into()
}

/// Replaces the snapshot of a table, and what it is described by.
pub(super) fn write(folders: &Folders, published: &mut Published) -> io::Result<()> {
    let folder = folders.out.join(&published.sink);
    failpoint::reach("snapshot-begin")?;
    std::fs::create_dir_all(&folder)?;
    let snapshot = folder.join(&published.file_name);
    let mut told = None;
    replace_file(&snapshot, |file| {
        let mut file = io::BufWriter::with_capacity(WRITE_BYTES, file);
        told = Some(published.table.snapshot(&mut file)?);
        file.flush()
    })?;
    failpoint::reach("snapshot-placed")?;
    let told = serde_json::to_vec(&told)?;
    replace_file(&about(&snapshot), |file| {
        file.write_all(&told)?;
        file.write_all(b"\n")
    })?;
    failpoint::reach("snapshot-told")
}
