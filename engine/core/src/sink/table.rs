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
use tidemill_operators::aggregate::{RowError, RowReader, put_number};
use tidemill_operators::exchange::key_hash;
use tidemill_operators::format::{Encoder, OutputFormat};
use tidemill_operators::shards::{BLOCK_BYTES, SHARDS, ShardSet, shard_of};
use tidemill_operators::{Batch, Schema};

/// The number of the encoding of rows in checkpoints, which is that of `arrow-row` 60: another version
/// may encode them otherwise, and then this must be another number.
pub const ROW_FORMAT: u32 = 60;

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
    /// The shards that changed since the last checkpoint.
    unkept: ShardSet,
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
        let (rows, unkept) = (BTreeMap::new(), ShardSet::NONE);
        Self { format, schema, sorted, converter, rows, epoch: 0, changed: true, unkept }
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
                self.unkept.insert(shard_of(key_hash(row.as_ref())));
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

    /// Gives out the rows of the shards that changed since the last checkpoint, or of all; returns
    /// which those are. The rows of a shard come in order: `give` gets how many there are, and their
    /// bytes.
    pub fn keep(&mut self, full: bool, mut give: impl FnMut(u8, u32, Vec<u8>)) {
        let shards = self.unkept(full);
        let mut blocks: Vec<(Vec<u8>, u32)> = vec![(Vec::new(), 0); SHARDS];
        for (row, times) in &self.rows {
            let bytes = row.as_ref();
            let shard = shard_of(key_hash(bytes));
            if !shards.contains(shard) {
                continue;
            }
            let (block, count) = &mut blocks[usize::from(shard)];
            put_number(bytes.len() as u64, block);
            block.extend_from_slice(bytes);
            // As two's complement: a row can be taken back before it is given.
            put_number(times.cast_unsigned(), block);
            *count += 1;
            if block.len() >= BLOCK_BYTES {
                give(shard, std::mem::take(count), std::mem::take(block));
            }
        }
        for (shard, (block, count)) in blocks.into_iter().enumerate() {
            if count > 0 {
                give(shard as u8, count, block);
            }
        }
        self.unkept = ShardSet::NONE;
    }

    /// Returns the shards that [`Table::keep`] would give out.
    pub fn unkept(&self, full: bool) -> ShardSet {
        if full { ShardSet::ALL } else { self.unkept }
    }

    /// Puts back rows that [`Table::keep`] gave out, as of this epoch. The bytes must be those that a
    /// table of the same columns gave: what else they are is found only as far as it can be.
    pub fn restore(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), RowError> {
        let parser = self.converter.parser();
        let mut reader = RowReader::new(bytes);
        while !reader.is_at_end() {
            let row = reader.bytes()?;
            let times = reader.number()?.cast_signed();
            if times == 0 {
                return Err(reader.error("a row that is not there"));
            }
            if self.rows.insert(parser.parse(row).owned(), times).is_some() {
                return Err(reader.error("a row comes twice"));
            }
        }
        self.epoch = epoch;
        Ok(())
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
