//! Table: the current contents of a collection, its snapshot file, and who may read it meanwhile.
//!
//! Lives in process 0, behind the commit: rows are applied only when their epoch is committed, so
//! neither a snapshot nor an answer ever shows half an epoch. Derived state: it is restored from a
//! checkpoint, or rebuilt by reading the committed files again. One entry per different row: its
//! encoded bytes and about five.
//!
//! The snapshot is `out/<sink>/<sink>.csv` (or `.jsonl`, `.parquet`), sorted by the key columns, then by the
//! others; NULL comes first. Beside it lies `<file>.about.json`, which says up to which epoch the
//! snapshot speaks, how many rows it has and its hash.
//!
//! Map: `leaf` and `tree` (the rows, in versions), `net` (what an epoch changes), `shared` (who
//! changes and who reads), `snapshot` (the file).

use std::io::{self, Write};
use std::ops::Bound;
use std::sync::Arc;

use arrow_array::RecordBatch;
use tidemill_operators::aggregate::{RowError, RowReader, put_number};
use tidemill_operators::exchange::key_hash;
use tidemill_operators::format::{OutputFormat, TableFormat};
use tidemill_operators::key;
use tidemill_operators::shards::{BLOCK_BYTES, SHARDS, ShardSet, shard_of};
use tidemill_operators::{Batch, Schema};

mod leaf;
pub(crate) mod net;
pub(crate) mod shared;
pub(crate) mod snapshot;
mod tree;

pub use shared::HISTORY_BYTES_MAX;
pub use snapshot::About;

use net::Net;
use shared::Shared;

/// The number of the encoding of rows in checkpoints: that of keys, which never changes.
pub const ROW_FORMAT: u32 = 1;

/// Bytes of restored rows that are put in at a time.
const RESTORED_AT_ONCE: usize = 32 << 20;

/// The columns of a table.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    /// In the order in which they are written.
    pub(crate) written: Schema,
    /// In the order in which rows sort: the key first.
    pub(crate) sorted: Schema,
    /// How many of these are the key.
    pub(crate) key: usize,
}

impl Columns {
    /// Returns the columns of a table with this key.
    ///
    /// # Panics
    /// If a key column is not in the schema; the plan guarantees that it is.
    pub(crate) fn new(written: Schema, key: &[String]) -> Self {
        let is_key = |name: &str| key.iter().any(|column| column == name);
        let mut columns: Vec<_> = key
            .iter()
            .map(|name| written.column(name).expect("the plan checked the key").clone())
            .collect();
        columns.extend(written.columns().iter().filter(|column| !is_key(&column.name)).cloned());
        Self { written, sorted: Schema::new(columns), key: key.len() }
    }

    /// Returns what batches change, each row once, in order.
    pub(crate) fn net<'b>(&self, batches: impl IntoIterator<Item = &'b Batch>) -> Net {
        let mut net = Net::default();
        batches.into_iter().for_each(|batch| net.add(batch, &self.sorted, self.key));
        net.consolidate()
    }

    /// Returns encoded rows as columns, the key first.
    pub(crate) fn decode<'r>(&self, rows: impl ExactSizeIterator<Item = &'r [u8]>) -> RecordBatch {
        let count = rows.len();
        if self.sorted.columns().is_empty() {
            return tidemill_operators::batch::rows_without_columns(count);
        }
        let columns = key::decode_columns(rows, self.sorted.columns())
            .expect("the rows were encoded of these columns, or checked when they were restored");
        RecordBatch::try_new(self.sorted.arrow(), columns)
            .expect("the decoder gives the types of the columns")
    }
}

/// The rows of one table, as the publisher changes them.
pub struct Table {
    format: TableFormat,
    columns: Arc<Columns>,
    shared: Arc<Shared>,
    changed: bool,
    /// The shards that changed since the last checkpoint.
    unkept: ShardSet,
    /// Restored rows that are not put in yet.
    restored: Net,
}

impl Table {
    /// Returns an empty table.
    ///
    /// # Panics
    /// If a key column is not in the schema; the plan guarantees that it is.
    pub fn new(format: TableFormat, schema: Schema, key: &[String]) -> Self {
        Self {
            format,
            columns: Arc::new(Columns::new(schema, key)),
            shared: Arc::default(),
            changed: true,
            unkept: ShardSet::NONE,
            restored: Net::default(),
        }
    }

    /// Returns the name of the snapshot file of a sink.
    pub fn file_name(sink: &str, format: &TableFormat) -> String {
        match format {
            TableFormat::Rows(OutputFormat::Csv { .. }) => format!("{sink}.csv"),
            TableFormat::Rows(_) => format!("{sink}.jsonl"),
            TableFormat::Parquet => format!("{sink}.parquet"),
        }
    }

    /// Returns its columns.
    pub(crate) fn columns(&self) -> Arc<Columns> {
        Arc::clone(&self.columns)
    }

    /// Returns where it is read.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Adds and takes back the rows of one committed epoch.
    pub fn apply<'b>(&mut self, epoch: u64, batches: impl IntoIterator<Item = &'b Batch>) {
        let net = self.columns.net(batches);
        for at in 0..net.len() {
            self.unkept.insert(shard_of(key_hash(net.row(at))));
        }
        let upto = self.shared.any_view().epoch;
        self.changed |= !net.is_empty() || epoch > upto;
        self.shared.apply(epoch, net);
    }

    /// Everything of earlier lives is there, up to this epoch: from now on it may be read.
    pub fn open(&mut self, epoch: u64) {
        self.changed |= epoch > self.shared.any_view().epoch;
        self.shared.open(epoch);
    }

    /// Gives out the rows of the shards that changed since the last checkpoint, or of all; returns
    /// which those are. The rows of a shard come in order: `give` gets how many there are, and their
    /// bytes.
    pub fn keep(&mut self, full: bool, mut give: impl FnMut(u8, u32, Vec<u8>)) {
        let shards = self.unkept(full);
        let mut blocks: Vec<(Vec<u8>, u32)> = vec![(Vec::new(), 0); SHARDS];
        for (bytes, times) in self.shared.any_view().range(Bound::Unbounded) {
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

    /// Puts back rows that [`Table::keep`] gave out, as of this epoch; [`Table::restored`] ends it.
    /// Bytes that no table of these columns gave are refused.
    pub fn restore(&mut self, epoch: u64, bytes: &[u8]) -> Result<(), RowError> {
        let mut reader = RowReader::new(bytes);
        while !reader.is_at_end() {
            let row = reader.bytes()?;
            let times = reader.number()?.cast_signed();
            if times == 0 {
                return Err(reader.error("a row that is not there"));
            }
            if key::check(row, self.columns.sorted.columns()).is_err() {
                return Err(reader.error("a row of other columns"));
            }
            self.restored.push(row, times);
        }
        if self.restored.weight() >= RESTORED_AT_ONCE {
            return self.restored(epoch);
        }
        Ok(())
    }

    /// Every row of a checkpoint was given back.
    pub fn restored(&mut self, epoch: u64) -> Result<(), RowError> {
        if !self.shared.restore(epoch, std::mem::take(&mut self.restored)) {
            return Err(RowReader::new(&[]).error("a row comes twice"));
        }
        Ok(())
    }

    /// Returns whether the last snapshot is out of date.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Says that the snapshot needs not be written as the table is now.
    pub fn pass_over(&mut self) {
        self.changed = false;
    }

    /// Returns the number of different rows.
    pub fn len(&self) -> usize {
        self.shared.any_view().len()
    }

    /// Returns whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the snapshot; returns what it says about itself.
    pub fn snapshot(&mut self, out: &mut (dyn Write + Send)) -> io::Result<About> {
        let about = snapshot::write(&self.shared.any_view(), &self.columns, &self.format, out)?;
        self.changed = false;
        Ok(about)
    }
}
