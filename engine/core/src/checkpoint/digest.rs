//! Digest: whether a committed file that is read again gives what it gave before.
//!
//! Sinks do not write outputs of such a file, they only add up what they would have written. If that
//! is not what was committed, the state that is being rebuilt from the file is not to be trusted
//! either: something is not a function of its inputs, or an input was changed without a trace.

use tidemill_store::name::CHANGES_ENDING;
use tidemill_store::{Committed, PartRow};

use crate::sink::body::Prepared;
use crate::sink::parts::PreparedPart;

/// A file that gave something else when it was read again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "nondeterministic: {file} (epoch {epoch}) was read again and gives other outputs than were \
     committed: {difference}. What was committed stands. If the file in processed/ is not what was \
     taken in, put that back; else this is a mistake of tidemill, please report it. To go on without \
     its rows, move it out of processed/ and start with --forget-missing"
)]
pub struct Nondeterministic {
    /// The name of the file in `processed/`.
    pub file: String,
    /// Its epoch.
    pub epoch: u64,
    /// What differs: the sink, and both hashes.
    pub difference: String,
}

/// Returns what differs between what was committed and what came out now; nothing if nothing does.
/// `sinks` are the names of the sinks by their place in the plan.
pub fn difference(committed: &Committed, now: &[PreparedPart], sinks: &[String]) -> Option<String> {
    let sink_of = |part: &PreparedPart| sinks.get(part.sink).map_or("?", String::as_str);
    let now: Vec<&PreparedPart> =
        now.iter().filter(|part| !matches!(part.body, Prepared::Same)).collect();
    let is =
        |row: &PartRow, part: &PreparedPart| row.sink == sink_of(part) && row.name == part.name;
    // What a changelog says follows from the way to a state, and that may be another one now: files
    // that were corrected since are left out.
    for row in committed.parts.iter().filter(|row| !row.sink.ends_with(CHANGES_ENDING)) {
        let Some(part) = now.iter().find(|part| is(row, part)) else {
            return Some(format!("sink {}: {} does not come out any more", row.sink, row.name));
        };
        let is_removed = matches!(part.body, Prepared::Removed);
        if is_removed != row.removed {
            let words = |removed| if removed { "removed" } else { "written" };
            let (was, is) = (words(row.removed), words(is_removed));
            return Some(format!("sink {}: {} was {was}; now it is {is}", row.sink, row.name));
        }
        if part.hash != row.hash || part.bytes != row.bytes {
            let hex = crate::board::hex;
            return Some(format!(
                "sink {}: {} had {} bytes, BLAKE3 {}; now it has {} bytes, BLAKE3 {}",
                row.sink,
                row.name,
                row.bytes,
                hex(&row.hash),
                part.bytes,
                hex(&part.hash)
            ));
        }
    }
    let new = now.iter().find(|part| !committed.parts.iter().any(|row| is(row, part)))?;
    Some(format!("sink {}: {} comes out, and did not before", sink_of(new), new.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(sink: usize, name: &str, bytes: u64, hash: u8) -> PreparedPart {
        let (hash, body) = ([hash; 32], Prepared::Digest);
        PreparedPart { epoch: 1, sink, of: 1, name: name.into(), rows: 1, bytes, hash, body }
    }

    #[track_caller]
    fn check(committed: &[(&str, &str, u64, u8)], now: &[PreparedPart], expected: Option<&str>) {
        let row = |(sink, name, bytes, hash): &(&str, &str, u64, u8)| PartRow {
            sink: (*sink).into(),
            name: (*name).into(),
            of: 1,
            bytes: *bytes,
            hash: [*hash; 32],
            removed: *hash == 0,
            superseded_by: None,
        };
        let committed = Committed {
            parts: committed.iter().map(row).collect(),
            plan_hash: String::new(),
            binary_version: String::new(),
        };
        let found = difference(&committed, now, &["a".into(), "b".into()]);
        match (found, expected) {
            (None, None) => {}
            (Some(found), Some(expected)) if found.contains(expected) => {}
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }

    #[test]
    fn the_same_outputs_in_any_order_are_the_same() {
        check(&[], &[], None);
        let committed = [("a", "x", 3, 1), ("b", "x", 4, 2)];
        check(&committed, &[part(1, "x", 4, 2), part(0, "x", 3, 1)], None);
    }

    #[test]
    fn any_other_output_is_a_difference() {
        let committed = [("a", "x", 3, 1), ("b", "x", 4, 2)];
        check(&committed, &[part(0, "x", 3, 1)], Some("sink b: x does not come out"));
        let (one, two) = (part(0, "x", 3, 1), part(1, "x", 4, 2));
        check(
            &committed,
            &[one.clone(), part(1, "x", 4, 9)],
            Some("now it has 4 bytes, BLAKE3 0909"),
        );
        check(&committed, &[one.clone(), part(1, "x", 5, 2)], Some("sink b: x had 4 bytes"));
        check(&committed, &[one, two, part(1, "y", 0, 0)], Some("sink b: y comes out"));
        let removed = PreparedPart { body: Prepared::Removed, ..part(0, "x", 0, 0) };
        check(&[("a", "x", 0, 0)], std::slice::from_ref(&removed), None);
        check(&[("a", "x", 3, 1)], &[removed], Some("sink a: x was written; now it is removed"));
        check(&[("a", "x", 0, 0)], &[part(0, "x", 3, 1)], Some("x was removed; now it is written"));
    }
}
