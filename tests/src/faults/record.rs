//! Record: the calls that a process made on its disk, as the library in front of it wrote them down.
//!
//! Reads what `faults/disk.c` writes, and adds marks of its own: what somebody outside has heard.

use std::fs;
use std::io::Write;
use std::path::Path;

const MAGIC: u32 = 0x6d6c_6474;
const HEADER: usize = 48;
const MARK: u32 = 100;

/// One call that took effect, or a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was done.
    pub what: What,
    /// The number of the file it was done to, as the file system counts.
    pub inode: u64,
    /// When the file was last written, in nanoseconds since 1970; 0 if this did not change it.
    pub modified_ns: i64,
    /// When, in microseconds since 1970; 0 for a mark.
    pub when_us: u64,
    /// Where, absolute; before a rename.
    pub path: String,
}

/// What a call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A new file.
    Create,
    /// A new folder.
    MakeFolder,
    /// Bytes at an offset.
    Write {
        /// Where in the file.
        at: usize,
        /// What.
        bytes: Vec<u8>,
    },
    /// Another length.
    Resize(usize),
    /// Another name, absolute.
    Rename(String),
    /// One more name, absolute.
    Link(String),
    /// A name less.
    Unlink,
    /// A file or a folder was made durable.
    Sync,
    /// Everything was made durable.
    SyncAll,
    /// A sync failed and lost what it should have made durable; of the whole disk or one file.
    SyncLost {
        /// Whether it was to sync the whole disk.
        all: bool,
    },
    /// A call that was made to fail.
    Failed,
    /// Nothing that stays.
    Look,
    /// Somebody outside has heard this.
    Mark(String),
}

impl What {
    /// Returns whether the disk is another one afterwards.
    pub fn changes(&self) -> bool {
        !matches!(self, What::Look | What::Failed | What::Mark(_))
    }
}

/// Reads a record; a last entry that was not written whole is left out.
pub fn read(path: &Path) -> Vec<Entry> {
    let bytes = fs::read(path).unwrap_or_default();
    let mut entries = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((entry, behind)) = take(rest) {
        entries.push(entry);
        rest = behind;
    }
    entries
}

fn take(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
    assert_eq!(word(0), MAGIC, "this is no record of calls");
    let (path, rest) = rest.split_at_checked(word(40) as usize)?;
    let (more, rest) = rest.split_at_checked(word(44) as usize)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let at = long(32) as usize;
    let what = match word(4) {
        1 => What::Create,
        2 => What::MakeFolder,
        3 => What::Write { at, bytes: more.to_vec() },
        4 => What::Resize(at),
        5 => What::Rename(text(more)),
        6 => What::Link(text(more)),
        7 => What::Unlink,
        8 => What::Sync,
        9 => What::SyncAll,
        10 => What::SyncLost { all: at != 0 },
        11 => What::Look,
        12 => What::Failed,
        MARK => What::Mark(text(more)),
        other => panic!("the record has an entry of kind {other}"),
    };
    let (inode, when_us, modified_ns) = (long(8), long(16), long(24).cast_signed());
    Some((Entry { what, inode, modified_ns, when_us, path: text(path) }, rest))
}

/// Writes down that somebody outside has heard something, behind all that happened before.
pub fn mark(log: &Path, heard: &str) {
    let mut entry = Vec::with_capacity(HEADER + heard.len());
    entry.extend(MAGIC.to_le_bytes());
    entry.extend(MARK.to_le_bytes());
    entry.extend([0; 32]);
    entry.extend(0_u32.to_le_bytes());
    entry.extend((heard.len() as u32).to_le_bytes());
    entry.extend(heard.as_bytes());
    // In one call, so that it stands whole between the entries of the library.
    fs::OpenOptions::new().append(true).open(log).unwrap().write_all(&entry).unwrap();
}
