//! Table: the current contents of a collection, and its snapshot file.
//!
//! Lives in process 0, behind the commit: rows are applied only when their epoch is committed, so a
//! snapshot never shows half an epoch. Derived state: it is rebuilt by reading the committed files
//! again. One entry per row of the table.
//!
//! The snapshot is `out/<sink>/<sink>.csv` (or `.jsonl`), sorted by the key columns, then by the
//! others; NULL comes first. Beside it lies `<file>.about.json`, which says up to which epoch the
//! snapshot speaks, how many rows it has and its hash.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_row::{OwnedRow, RowConverter, SortField};
use serde::Serialize;
use tidemill_operators::format::{Encoder, OutputFormat};
use tidemill_operators::{Batch, Schema};

/// Rows encoded at a time when a snapshot is written.
const ROWS_AT_ONCE: usize = 8192;

/// The rows of one table.
pub struct Table {
    format: OutputFormat,
    schema: Schema,
    /// Key columns first, so that rows sort by the key.
    sorted: Schema,
    converter: RowConverter,
    rows: BTreeMap<OwnedRow, i64>,
    epoch: u64,
    changed: bool,
}

/// What a snapshot says about itself.
#[derive(Debug, Serialize)]
pub struct About {
    /// The last epoch whose rows are in it.
    pub epoch: u64,
    /// How many rows it has.
    pub rows: u64,
    /// BLAKE3 of its bytes, in hex.
    pub blake3: String,
}

impl Table {
    /// Returns an empty table.
    ///
    /// # Panics
    /// If a key column is not in the schema; the plan guarantees that it is.
    pub fn new(format: OutputFormat, schema: Schema, key: &[String]) -> Self {
        let is_key = |name: &str| key.iter().any(|column| column == name);
        let mut columns: Vec<_> = key
            .iter()
            .map(|name| schema.column(name).expect("the plan checked the key").clone())
            .collect();
        columns.extend(schema.columns().iter().filter(|column| !is_key(&column.name)).cloned());
        let sorted = Schema::new(columns);
        let fields =
            sorted.columns().iter().map(|column| SortField::new(column.kind.arrow())).collect();
        let converter = RowConverter::new(fields).expect("every type of ours can be sorted");
        Self { format, schema, sorted, converter, rows: BTreeMap::new(), epoch: 0, changed: true }
    }

    /// Returns the name of the snapshot file of a sink.
    pub fn file_name(sink: &str, format: &OutputFormat) -> String {
        match format {
            OutputFormat::Csv { .. } => format!("{sink}.csv"),
            _ => format!("{sink}.jsonl"),
        }
    }

    /// Adds and takes back the rows of one committed epoch.
    pub fn apply(&mut self, epoch: u64, batches: &[Batch]) {
        for batch in batches {
            let columns = batch.pick(&self.sorted);
            let rows = self
                .converter
                .convert_columns(columns.columns())
                .expect("the columns have the types of the schema");
            for row in &rows {
                let count = self.rows.entry(row.owned()).or_insert(0);
                *count += batch.diff;
                if *count == 0 {
                    self.rows.remove(&row.owned());
                }
                self.changed = true;
            }
        }
        self.changed |= epoch > self.epoch;
        self.epoch = self.epoch.max(epoch);
    }

    /// Returns whether the last snapshot is out of date.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Returns the number of different rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the snapshot and what it says about itself.
    pub fn snapshot(&mut self) -> (Vec<u8>, About) {
        let mut encoder = Encoder::new(self.format.clone(), &self.schema);
        let mut bytes = Vec::new();
        encoder.preamble(&mut bytes);
        let mut count = 0;
        let mut pending: Vec<&OwnedRow> = Vec::with_capacity(ROWS_AT_ONCE);
        for (row, times) in &self.rows {
            for _ in 0..*times {
                pending.push(row);
                count += 1;
                if pending.len() == ROWS_AT_ONCE {
                    encoder.encode(&self.decode(&pending), &mut bytes);
                    pending.clear();
                }
            }
        }
        if !pending.is_empty() {
            encoder.encode(&self.decode(&pending), &mut bytes);
        }
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        self.changed = false;
        (bytes, About { epoch: self.epoch, rows: count, blake3 })
    }

    fn decode(&self, rows: &[&OwnedRow]) -> Batch {
        let columns = self
            .converter
            .convert_rows(rows.iter().map(|row| row.row()))
            .expect("the rows were encoded by this converter");
        let sorted = RecordBatch::try_new(self.sorted.arrow(), columns)
            .expect("the converter gives back the types it was given");
        let batch = Batch { columns: sorted, ..Batch::default() };
        Batch { columns: batch.pick(&self.schema), ..Batch::default() }
    }
}
