//! Dry run: what a correction would change: the outputs, and the rows of tables.
//!
//! Plain values, and the pure functions that make them of what was said of an epoch. Owns what is shown
//! and how much of it; runs nothing and knows no file.

use std::sync::Arc;

use serde::Serialize;
use tidemill_operators::Batch;
use tidemill_operators::format::{Encoder, OutputFormat};
use tidemill_store::Version;

use crate::sink::table::Columns;
use crate::sink::table::net::Net;

/// Outputs that are named, at most; all are counted.
pub const OUTPUTS_MAX: usize = 1000;

/// Keys of a table that are shown, at most; all are counted.
pub const SAMPLE_KEYS_MAX: usize = 20;

/// Bytes of rows that are shown of one table, at most.
const SAMPLE_BYTES_MAX: usize = 64 << 10;

/// Bytes of rows that are shown of all tables together, at most: an answer is one message.
pub const SAMPLE_BYTES_IN_ALL: usize = 1 << 20;

/// What a correction would do. Nothing of it was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DryRun {
    /// The pipeline.
    pub pipeline: String,
    /// The name of the file that would come, or go.
    pub name: String,
    /// The submission that would be replaced or removed; none: the file would be one more.
    pub corrects: Option<u64>,
    /// Whether it would only take that one away.
    pub removes: bool,
    /// Why the file would be set aside, if it would: code and text. Then nothing would change.
    pub failure: Option<(String, String)>,
    /// Records read from the new file.
    pub records: u64,
    /// How many of them were rejected.
    pub rejected: u64,
    /// How many outputs would be new, be replaced, be removed, and stay as they are, by sink.
    pub sinks: Vec<SinkChanges>,
    /// The outputs that would change; at most [`OUTPUTS_MAX`].
    pub outputs: Vec<OutputChange>,
    /// What would change in tables; those in which nothing would are not there.
    pub tables: Vec<TableChanges>,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// How many outputs of a sink would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SinkChanges {
    /// The sink.
    pub sink: String,
    /// Outputs that are not there now.
    pub new: u64,
    /// Outputs that would have other bytes.
    pub replaced: u64,
    /// Outputs that would go.
    pub removed: u64,
    /// Outputs that would be written again with the same bytes.
    pub same: u64,
}

/// An output that would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutputChange {
    /// Its path, relative to the pipeline's `out/`.
    pub path: String,
    /// Its size now, in bytes; none: it is not there.
    pub before: Option<u64>,
    /// Its size then, in bytes; none: it would go.
    pub after: Option<u64>,
}

/// What would change in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableChanges {
    /// The sink.
    pub table: String,
    /// Rows whose key is not there now.
    pub added: u64,
    /// Rows whose key would be gone.
    pub removed: u64,
    /// Rows that would become others of the same key.
    pub changed: u64,
    /// Some of them, in the order of the key.
    pub sample: Vec<RowChange>,
}

/// A row as it is and as it would be, as JSON; at least one is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowChange {
    /// The row that would go.
    pub before: Option<String>,
    /// The row that would come.
    pub after: Option<String>,
}

impl DryRun {
    /// Notes what would become of an output.
    pub(crate) fn output(
        &mut self,
        sink: &str,
        name: &str,
        before: Option<&Version>,
        after: Option<(u64, [u8; 32])>,
    ) {
        let at = match self.sinks.iter().position(|one| one.sink == sink) {
            Some(at) => at,
            None => {
                self.sinks.push(SinkChanges { sink: sink.to_owned(), ..SinkChanges::default() });
                self.sinks.len() - 1
            }
        };
        let counts = &mut self.sinks[at];
        match (before, after) {
            (None, None) => return,
            (Some(before), Some(after)) if (before.bytes, before.hash) == after => {
                counts.same += 1;
                return;
            }
            (Some(_), Some(_)) => counts.replaced += 1,
            (Some(_), None) => counts.removed += 1,
            (None, Some(_)) => counts.new += 1,
        }
        if self.outputs.len() < OUTPUTS_MAX {
            self.outputs.push(OutputChange {
                path: format!("{sink}/{name}"),
                before: before.map(|before| before.bytes),
                after: after.map(|(bytes, _)| bytes),
            });
        }
    }
}

/// The columns of a table, and its name.
#[derive(Clone, Debug)]
pub struct TableShape {
    /// The sink.
    pub(crate) name: String,
    /// Its columns.
    pub(crate) columns: Arc<Columns>,
}

impl TableShape {
    /// Returns what rows change, each once.
    pub(crate) fn net<'b>(&self, rows: impl IntoIterator<Item = &'b Batch>) -> Net {
        self.columns.net(rows)
    }

    /// Returns what would change, for a person; nothing if nothing would. `bytes` is what may still be
    /// shown of all tables, and becomes less.
    pub(crate) fn told(&self, net: &Net, bytes: &mut usize) -> Option<TableChanges> {
        if net.is_empty() {
            return None;
        }
        let mut changes = TableChanges { table: self.name.clone(), ..TableChanges::default() };
        let mut left = SAMPLE_BYTES_MAX.min(*bytes);
        let places = net.by_key();
        for (number, group) in
            places.chunk_by(|one, two| net.key(*one) == net.key(*two)).enumerate()
        {
            let times = |wanted: i64| {
                let of = group.iter().filter(|at| net.diff(**at).signum() == wanted);
                of.map(|at| net.diff(*at).unsigned_abs()).sum::<u64>()
            };
            let (gone, come) = (times(-1), times(1));
            let changed = gone.min(come);
            changes.changed += changed;
            changes.removed += gone - changed;
            changes.added += come - changed;
            if number < SAMPLE_KEYS_MAX {
                changes.sample.extend(self.shown(net, group, &mut left, bytes));
            }
        }
        Some(changes)
    }

    /// Returns the rows of one key, before and after, as far as there is room.
    fn shown(
        &self,
        net: &Net,
        group: &[usize],
        left: &mut usize,
        bytes: &mut usize,
    ) -> Vec<RowChange> {
        let rows: Vec<&[u8]> = group.iter().take(SAMPLE_KEYS_MAX).map(|at| net.row(*at)).collect();
        let columns = self.columns.decode(rows.iter().copied());
        let batch = Batch { columns, ..Batch::default() };
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        Encoder::new(OutputFormat::Jsonl, &self.columns.sorted)
            .encode_each(&batch, &mut text, &mut ends);
        if text.len() > *left {
            // One that is too long to be shown makes no room for later ones either.
            *left = 0;
            return Vec::new();
        }
        *left -= text.len();
        *bytes = bytes.saturating_sub(text.len());
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        let mut start = 0;
        for (at, end) in group.iter().zip(ends) {
            let line = String::from_utf8_lossy(&text[start..end]).trim_end().to_owned();
            start = end;
            if net.diff(*at) < 0 { gone.push(line) } else { come.push(line) }
        }
        let count = gone.len().max(come.len());
        let (mut gone, mut come) = (gone.into_iter(), come.into_iter());
        (0..count).map(|_| RowChange { before: gone.next(), after: come.next() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
    use tidemill_operators::{Column, Schema, Type};

    use super::*;

    fn shape() -> TableShape {
        let columns = vec![Column::new("user", Type::String), Column::new("n", Type::Int)];
        let columns = Columns::new(Schema::new(columns), &["user".to_owned()]);
        TableShape { name: "t".into(), columns: Arc::new(columns) }
    }

    fn batch(rows: &[(&str, i64)], diff: i64) -> Batch {
        let users: ArrayRef = Arc::new(StringViewArray::from_iter_values(rows.iter().map(|r| r.0)));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)));
        let schema = shape().columns.written.arrow();
        let columns = RecordBatch::try_new(schema, vec![users, numbers]).unwrap();
        Batch { columns, diff, ..Batch::default() }
    }

    #[test]
    fn rows_are_told_by_key_before_and_after() {
        let (shape, mut bytes) = (shape(), SAMPLE_BYTES_IN_ALL);
        let gone = batch(&[("a", 1), ("b", 2), ("c", 3)], -1);
        let come = batch(&[("a", 1), ("b", 9), ("d", 4)], 1);
        let told = shape.told(&shape.net([&gone, &come]), &mut bytes).unwrap();
        assert_eq!((told.added, told.removed, told.changed), (1, 1, 1));
        let row = |text: &str| Some(text.to_owned());
        let expected = [
            (row(r#"{"user":"b","n":2}"#), row(r#"{"user":"b","n":9}"#)),
            (row(r#"{"user":"c","n":3}"#), None),
            (None, row(r#"{"user":"d","n":4}"#)),
        ];
        let shown: Vec<_> =
            told.sample.into_iter().map(|change| (change.before, change.after)).collect();
        assert_eq!(shown, expected);
        assert_eq!(shape.told(&shape.net([&gone, &batch(&[], 1)]), &mut 0).unwrap().sample, []);
        let nothing = shape.net([&come, &batch(&[("a", 1), ("b", 9), ("d", 4)], -1)]);
        assert_eq!(shape.told(&nothing, &mut bytes), None);
    }

    #[test]
    fn what_is_shown_is_bounded_and_what_is_counted_is_not() {
        let (shape, mut bytes) = (shape(), SAMPLE_BYTES_IN_ALL);
        let names: Vec<String> = (0..50_000).map(|n| format!("{n:06}")).collect();
        let rows: Vec<(&str, i64)> = names.iter().map(|name| (&**name, 1)).collect();
        let told = shape.told(&shape.net([&batch(&rows, 1)]), &mut bytes).unwrap();
        assert_eq!((told.added, told.sample.len()), (50_000, SAMPLE_KEYS_MAX));
        let long = "x".repeat(SAMPLE_BYTES_MAX);
        let told = shape.told(&shape.net([&batch(&[(&long, 1)], 1)]), &mut bytes).unwrap();
        assert_eq!((told.added, told.sample.len()), (1, 0));
    }

    #[test]
    fn an_output_is_new_replaced_removed_or_the_same() {
        let mut run = DryRun::default();
        let version = |bytes, byte: u8| Version { bytes, hash: [byte; 32], body: None };
        run.output("s", "a", None, Some((1, [1; 32])));
        run.output("s", "b", Some(&version(1, 1)), Some((1, [2; 32])));
        run.output("s", "c", Some(&version(1, 1)), Some((1, [1; 32])));
        run.output("s", "d", Some(&version(1, 1)), None);
        run.output("s", "e", None, None);
        let sink = "s".to_owned();
        assert_eq!(run.sinks, [SinkChanges { sink, new: 1, replaced: 1, removed: 1, same: 1 }]);
        let paths: Vec<&str> = run.outputs.iter().map(|one| &*one.path).collect();
        assert_eq!(paths, ["s/a", "s/b", "s/d"]);
        (0..2000).for_each(|n| run.output("t", &n.to_string(), None, Some((1, [1; 32]))));
        assert_eq!((run.outputs.len(), run.sinks[1].new), (OUTPUTS_MAX, 2000));
    }
}
