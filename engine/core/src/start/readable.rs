//! Readable: whether a plan can read again what was committed under another one. Reads the beginnings of files.

use tidemill_operators::format::{Parsed, Parser};
use tidemill_store::{AcceptedFile, Folders, Reading};

use crate::ingest::buffers::Buffers;
use crate::ingest::order::FileOrder;
use crate::ingest::piece::{FileFailure, StreamReader};
use crate::ledger::compression_of;
use crate::plan::{Plan, SourcePlan};
use crate::start::earlier::Inputs;

/// Returns the first file that its source cannot read or would read in another way than when it was committed, as
/// far as its beginning tells, and why.
pub(crate) fn unreadable<'f>(
    plan: &Plan,
    read: &'f Inputs,
    folders: &Folders,
) -> Option<(&'f AcceptedFile, String)> {
    let buffers = Buffers::default();
    read.there.iter().filter(|file| !file.is_removal()).find_map(|file| {
        let reading = read.readings.get(&file.id)?;
        Some((file, why(plan, file, *reading, folders, &buffers)?))
    })
}

fn why(
    plan: &Plan,
    file: &AcceptedFile,
    was: Reading,
    folders: &Folders,
    buffers: &Buffers,
) -> Option<String> {
    let source = plan.sources.iter().position(|source| source.name == file.source)?;
    let from = &plan.sources[source];
    let (frame, was_frame) = (from.frame(), was.frame);
    if frame != was_frame {
        return Some(format!(
            "its contract says {} header and {} trailer lines, and {} and {} when it was committed: records \
             would be taken for such lines, or lines for records",
            frame.head, frame.tail, was_frame.head, was_frame.tail
        ));
    }
    let or_at =
        [&folders.processed, &folders.retained].map(|folder| folder.join(&file.stored_name));
    let path = or_at.iter().find(|path| path.exists())?;
    let order = FileOrder {
        epoch: file.epoch,
        submission: file.id,
        rows_of: file.id,
        source,
        path: path.clone(),
        identity: file.identity,
        hash: None,
        compression: compression_of(Some(path)),
        name: file.name.clone(),
        output_name: file.output_name.clone(),
        replay: true,
        old: None,
        removes: false,
        refused: None,
        or_at: or_at.to_vec(),
    };
    match beginning(&order, from, buffers) {
        Err(failure) => Some(failure.to_string()),
        Ok(found) => all_rejected(&found?, was),
    }
}

/// Returns the first records of a file with the number of lines before them; nothing if it has none, or begins with
/// one that is too long: nothing is looked for behind it.
fn beginning(
    order: &FileOrder,
    from: &SourcePlan,
    buffers: &Buffers,
) -> Result<Option<(u32, Parsed)>, FileFailure> {
    let mut stream = StreamReader::open(order, from.inflate_ratio_max, from.frame())?;
    while let Some(chunk) = stream.next_chunk(&from.read, buffers)? {
        if !chunk.range.is_empty() {
            let mut parser = Parser::new(from.read.clone());
            let parsed = parser.parse(&chunk.buffer, chunk.range, stream.header());
            return Ok(Some((chunk.skipped_lines, parsed)));
        }
        if chunk.too_long.is_some() {
            break;
        }
    }
    Ok(None)
}

/// Returns why none of the first records can be read, if that was otherwise when the file was committed.
fn all_rejected((before, parsed): &(u32, Parsed), was: Reading) -> Option<String> {
    let rejected = parsed.rejects.len() as u64;
    let first = parsed.rejects.first()?;
    (rejected == u64::from(parsed.records) && rejected > was.rejected).then(|| {
        format!(
            "line {}: {}: {}; none of its first {rejected} records can be read",
            before + first.line + 1,
            first.code,
            first.message
        )
    })
}
