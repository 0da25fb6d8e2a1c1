//! State: the input files that a sink knows, each with the rows of its output as they are now. Derived;
//! it comes back from a checkpoint, or by reading the inputs again.
//!
//! One entry for each input file whose records can come here, and one for each row of its output. Cut
//! into shards by submission. A file is replaced when it changes, never changed in place: whoever
//! walks over the state keeps seeing it as it was.

use std::collections::BTreeMap;
use std::rc::Rc;

use tidemill_operators::aggregate::{RowError, RowReader, put_number};
use tidemill_operators::exchange::key_hash;
use tidemill_operators::shards::{ShardSet, shard_of};

use crate::sink::shelf::rows::{Changes, NotThere, Rows, Senseless};

/// How many bytes of a file's rows make one row of a checkpoint.
const PIECE_BYTES: usize = 256 << 10;

/// Memory that one file takes besides its name and rows, about, in bytes.
const FILE_BYTES: usize = 160;

/// An input file and the rows of its output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// What its outputs are named after.
    pub stem: String,
    /// Whether it has an output now.
    pub is_written: bool,
    /// The rows.
    pub rows: Rows,
}

impl File {
    fn weight(&self) -> usize {
        FILE_BYTES + self.stem.len() + self.rows.bytes().len()
    }
}

/// Returns the shard that a submission lives in.
pub fn shard_of_submission(submission: u64) -> u8 {
    shard_of(key_hash(&submission.to_le_bytes()))
}

/// The input files of one worker's shards.
#[derive(Default)]
pub struct State {
    shards: BTreeMap<u8, BTreeMap<u64, Rc<File>>>,
    /// The shards that changed since the last checkpoint.
    changed: ShardSet,
    rows: u64,
    bytes: usize,
    files: usize,
    /// Files of a checkpoint of which not all pieces have come.
    restoring: BTreeMap<u64, Vec<u8>>,
}

impl State {
    /// Returns a file.
    pub fn get(&self, submission: u64) -> Option<&Rc<File>> {
        self.shards.get(&shard_of_submission(submission))?.get(&submission)
    }

    /// Puts a file there, in the place of what was known of it.
    pub fn put(&mut self, submission: u64, file: File) -> Rc<File> {
        self.remove(submission);
        let shard = shard_of_submission(submission);
        self.bytes += file.weight();
        self.rows += file.rows.len();
        self.files += 1;
        let file = Rc::new(file);
        self.shards.entry(shard).or_default().insert(submission, Rc::clone(&file));
        self.changed.insert(shard);
        file
    }

    /// Forgets a file: there is no such version of it any more.
    pub fn remove(&mut self, submission: u64) -> Option<Rc<File>> {
        let shard = shard_of_submission(submission);
        let file = self.shards.get_mut(&shard)?.remove(&submission)?;
        self.changed.insert(shard);
        self.bytes -= file.weight();
        self.rows -= file.rows.len();
        self.files -= 1;
        Some(file)
    }

    /// Changes the rows of a file; returns it as it is then, or nothing if its rows are the same.
    pub fn change(
        &mut self,
        submission: u64,
        changes: &mut Changes,
    ) -> Result<Option<Rc<File>>, Trouble> {
        let Some(file) = self.get(submission) else { return Err(Trouble::Unknown { submission }) };
        let changed = file.rows.changed(changes);
        let source = |source| Trouble::Row { submission, stem: file.stem.clone(), source };
        let Some(rows) = changed.map_err(source)? else { return Ok(None) };
        let file = File { stem: file.stem.clone(), is_written: file.is_written, rows };
        Ok(Some(self.put(submission, file)))
    }

    /// Says whether a file has an output now.
    pub fn wrote(&mut self, submission: u64, is_written: bool) {
        let Some(file) = self.get(submission).filter(|file| file.is_written != is_written) else {
            return;
        };
        let file = File { is_written, ..File::clone(file) };
        self.put(submission, file);
    }

    /// Returns how many rows are kept.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns about how many bytes of memory the state takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many input files are known.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Returns the shards that changed since this was asked last, or `all` if there are any given, and
    /// the files in them as they are now.
    pub fn take_changed(&mut self, all: Option<ShardSet>) -> (ShardSet, Vec<(u64, Rc<File>)>) {
        let changed = std::mem::replace(&mut self.changed, ShardSet::NONE);
        let shards = all.unwrap_or(changed);
        let of_shard = shards.iter().filter_map(|shard| self.shards.get(&shard));
        let files = of_shard.flatten().map(|(submission, file)| (*submission, Rc::clone(file)));
        (shards, files.collect())
    }

    /// Takes up a piece of a file that a checkpoint kept. The pieces of a file come in order.
    pub fn restore(&mut self, piece: Piece) -> Result<(), Trouble> {
        let Piece { submission, stem, is_written, bytes, is_last } = piece;
        let mut whole = self.restoring.remove(&submission).unwrap_or_default();
        whole.extend_from_slice(&bytes);
        if !is_last {
            self.restoring.insert(submission, whole);
            return Ok(());
        }
        let source = |source| Trouble::Damaged { submission, source };
        let rows = Rows::from_bytes(whole).map_err(source)?;
        let changed = self.changed;
        self.put(submission, File { stem, is_written, rows });
        self.changed = changed;
        Ok(())
    }

    /// Checks that everything that was begun to be restored is whole.
    pub fn restored(&mut self) -> Result<(), Trouble> {
        match self.restoring.first_key_value() {
            None => Ok(()),
            Some((submission, _)) => Err(Trouble::Cut { submission: *submission }),
        }
    }
}

/// Why the state of a sink cannot go on: a mistake of ours, or a damaged checkpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Rows come of a file that was never announced.
    #[error("rows come of submission {submission}, which is not known")]
    Unknown {
        /// The submission.
        submission: u64,
    },
    /// A row goes that is not there.
    #[error("the output of {stem} (submission {submission})")]
    Row {
        /// The submission.
        submission: u64,
        /// What its outputs are named after.
        stem: String,
        /// Which row.
        source: NotThere,
    },
    /// A checkpoint holds what is no row.
    #[error("the output of submission {submission} in the checkpoint")]
    Damaged {
        /// The submission.
        submission: u64,
        /// Where.
        source: Senseless,
    },
    /// A checkpoint ends in the middle of an output.
    #[error("the output of submission {submission} in the checkpoint is cut off")]
    Cut {
        /// The submission.
        submission: u64,
    },
}

/// A row of a checkpoint: a file, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The submission.
    pub submission: u64,
    /// What its outputs are named after.
    pub stem: String,
    /// Whether it has an output.
    pub is_written: bool,
    /// Encoded rows, cut anywhere.
    pub bytes: Vec<u8>,
    /// Whether it is the last piece of the file.
    pub is_last: bool,
}

/// Appends the piece of a file that begins at a byte of its rows; returns where the next one begins,
/// or nothing after the last.
pub fn encode_piece(submission: u64, file: &File, from: usize, out: &mut Vec<u8>) -> Option<usize> {
    let rows = file.rows.bytes();
    let end = rows.len().min(from + PIECE_BYTES);
    let is_last = end == rows.len();
    put_number(submission, out);
    out.push(u8::from(file.is_written) | u8::from(is_last) << 1);
    for bytes in [file.stem.as_bytes(), &rows[from..end]] {
        put_number(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
    (!is_last).then_some(end)
}

/// Reads the pieces of one block of a checkpoint.
pub fn decode_pieces(bytes: &[u8]) -> Result<Vec<(Piece, ())>, RowError> {
    let mut reader = RowReader::new(bytes);
    let mut pieces = Vec::new();
    while !reader.is_at_end() {
        let submission = reader.number()?;
        let flags = reader.number()?;
        if flags > 3 {
            return Err(reader.error("a file that is marked in no way we know"));
        }
        let stem = std::str::from_utf8(reader.bytes()?).map(str::to_owned);
        let stem = stem.map_err(|_| reader.error("a name that is no text"))?;
        let bytes = reader.bytes()?.to_vec();
        let (is_written, is_last) = (flags & 1 == 1, flags & 2 == 2);
        pieces.push((Piece { submission, stem, is_written, bytes, is_last }, ()));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(rows: &[(u64, &str, i64)]) -> Changes {
        let mut changes = Changes::default();
        for (position, row, diff) in rows {
            changes.push((0, *position), |_| {}, row.as_bytes(), *diff);
        }
        changes
    }

    fn file(stem: &str) -> File {
        File { stem: stem.into(), ..File::default() }
    }

    #[test]
    fn a_state_comes_back_from_its_pieces_on_any_number_of_workers() {
        let mut state = State::default();
        for submission in 0..300 {
            state.put(submission, file(&format!("f{submission}")));
            let row = "x".repeat(1000 * submission as usize % 70_000);
            let rows: Vec<_> = (0..12).map(|n| (n, row.as_str(), 1)).collect();
            state.change(submission, &mut changes(&rows)).unwrap();
            state.wrote(submission, submission % 3 > 0);
        }
        let (shards, files) = state.take_changed(None);
        assert_eq!(files.len(), 300);
        let mut bytes = Vec::new();
        for (submission, file) in &files {
            let mut at = Some(0);
            while let Some(from) = at {
                at = encode_piece(*submission, file, from, &mut bytes);
            }
        }
        let pieces = decode_pieces(&bytes).unwrap();
        assert!(pieces.len() > 300, "some have several pieces");
        let (mut all, mut seen) = (0, ShardSet::NONE);
        for worker in 0..3 {
            let mine = ShardSet::of_worker(worker, 3);
            let mut restored = State::default();
            for (piece, ()) in &pieces {
                if mine.contains(shard_of_submission(piece.submission)) {
                    restored.restore(piece.clone()).unwrap();
                }
            }
            restored.restored().unwrap();
            assert_eq!(restored.take_changed(None).1, []);
            let (_, found) = restored.take_changed(Some(mine));
            for (submission, file) in &found {
                assert_eq!(Some(file), state.get(*submission));
                seen.insert(shard_of_submission(*submission));
            }
            all += found.len();
        }
        assert_eq!((all, seen), (300, shards));
    }

    #[test]
    fn what_is_kept_is_counted() {
        let mut state = State::default();
        state.put(1, file("a"));
        state.change(1, &mut changes(&[(0, "one", 2), (1, "two", 1)])).unwrap();
        assert_eq!((state.files(), state.rows()), (1, 3));
        assert_eq!(state.change(1, &mut changes(&[(0, "one", 1), (0, "one", -1)])), Ok(None));
        state.change(1, &mut changes(&[(0, "one", -2)])).unwrap();
        assert_eq!((state.files(), state.rows()), (1, 1));
        let with_rows = state.bytes();
        state.put(1, file("a"));
        assert!(state.bytes() < with_rows);
        state.remove(1);
        assert_eq!((state.files(), state.rows(), state.bytes()), (0, 0, 0));
        let unknown = Err(Trouble::Unknown { submission: 1 });
        assert_eq!(state.change(1, &mut changes(&[(0, "one", 1)])), unknown);
    }

    #[test]
    fn a_damaged_piece_is_told() {
        let mut state = State::default();
        let piece = Piece {
            submission: 7,
            stem: "a".into(),
            is_written: true,
            bytes: vec![0, 1],
            is_last: false,
        };
        state.restore(piece.clone()).unwrap();
        assert_eq!(state.restored(), Err(Trouble::Cut { submission: 7 }));
        let error = state.restore(Piece { is_last: true, ..piece }).unwrap_err();
        assert!(matches!(error, Trouble::Damaged { submission: 7, .. }), "{error}");
        assert!(decode_pieces(&[1, 9, 0, 0]).is_err());
        assert!(decode_pieces(&[1, 1, 1, 0xff, 0]).is_err());
        assert!(decode_pieces(&[1]).is_err());
    }
}
