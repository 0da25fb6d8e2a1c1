//! Parquet: columns to a Parquet file, for whoever loads a table elsewhere. The same rows give the same
//! bytes, as long as the version of the writer is the same.
//!
//! Holds the rows of one row group while it is written. Texts are UTF-8 byte arrays, timestamps are
//! microseconds in UTC, decimals have their own type, and every column may hold NULL; pages are compressed with Snappy.

use std::io::{self, Write};

use arrow_array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::types::Schema;

/// Rows in one row group.
const GROUP_ROWS: usize = 128 << 10;

/// Writes batches as one Parquet file.
pub struct ParquetFile<W: Write + Send> {
    schema: Schema,
    writer: ArrowWriter<W>,
}

impl<W: Write + Send> ParquetFile<W> {
    /// Begins a file with the columns of `schema`, in its order.
    pub fn begin(schema: &Schema, out: W) -> io::Result<Self> {
        let properties = WriterProperties::builder()
            .set_created_by("tidemill".to_owned())
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            // What is in a column is said by Parquet's own types; not every reader knows Arrow's views.
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(out, schema.arrow(), options);
        Ok(Self { schema: schema.clone(), writer: writer.map_err(refused)? })
    }

    /// Appends rows, which have the columns of the schema in its order.
    pub fn append(&mut self, rows: &RecordBatch) -> io::Result<()> {
        debug_assert_eq!(rows.schema(), self.schema.arrow(), "the rows are of this file");
        self.writer.write(rows).map_err(refused)
    }

    /// Ends the file.
    pub fn end(self) -> io::Result<()> {
        self.writer.close().map(drop).map_err(refused)
    }
}

/// Returns what the disk said, if it is the disk that refused.
fn refused(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(cause) => io::Error::other(cause),
        },
        other => io::Error::other(other),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
    use arrow_array::{
        Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, StringViewArray,
        TimestampMicrosecondArray,
    };
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::types::{Column, Type};

    fn rows() -> (Schema, RecordBatch) {
        let schema = Schema::new(Type::ALL.map(|kind| Column::new(kind.name(), kind)).to_vec());
        let times = TimestampMicrosecondArray::from(vec![Some(1_500_000), None, Some(-1)]);
        let most = 10_i128.pow(38) - 1;
        let decimals = Decimal128Array::from(vec![Some(most), None, Some(-most)]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from(vec![
                Some("a"),
                None,
                Some("a longer text than views hold"),
            ])),
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(7)])),
            Arc::new(Float64Array::from(vec![Some(0.1), None, Some(f64::INFINITY)])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            Arc::new(times.with_data_type(Type::Timestamp.arrow())),
            Arc::new(decimals.with_data_type(schema.columns()[5].kind.arrow())),
        ];
        let batch = RecordBatch::try_new(schema.arrow(), columns).unwrap();
        (schema, batch)
    }

    fn written(batches: &[RecordBatch], schema: &Schema) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut file = ParquetFile::begin(schema, &mut bytes).unwrap();
        batches.iter().for_each(|batch| file.append(batch).unwrap());
        file.end().unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (schema, rows) = rows();
        let bytes = bytes::Bytes::from(written(&[rows.clone(), rows.clone()], &schema));
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        let read: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        let count: usize = read.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(count, 6);
        let read = &read[0];
        let texts = arrow_text(read.column(0));
        assert_eq!(
            &texts[..3],
            [Some("a".into()), None, Some("a longer text than views hold".into())]
        );
        let ints = read.column(1).as_primitive::<Int64Type>();
        assert_eq!((ints.value(0), ints.is_null(1), ints.value(2)), (i64::MIN, true, 7));
        let floats = read.column(2).as_primitive::<Float64Type>();
        assert_eq!((floats.value(0), floats.value(2)), (0.1, f64::INFINITY));
        assert!(read.column(3).as_boolean().value(0));
        let times = read.column(4).as_primitive::<TimestampMicrosecondType>();
        assert_eq!((times.value(0), times.value(2)), (1_500_000, -1));
        assert_eq!(read.schema().field(4).data_type(), &Type::Timestamp.arrow());
        let decimals = read.column(5).as_primitive::<Decimal128Type>();
        assert_eq!(
            (decimals.value(0), decimals.value(2)),
            (10_i128.pow(38) - 1, 1 - 10_i128.pow(38))
        );
        assert_eq!(read.schema().field(5).data_type(), &schema.columns()[5].kind.arrow());
    }

    fn arrow_text(column: &ArrayRef) -> Vec<Option<String>> {
        column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
    }

    #[test]
    fn the_same_rows_give_the_same_bytes() {
        let (schema, rows) = rows();
        let all = || written(&[rows.clone(), rows.slice(1, 2)], &schema);
        assert_eq!(all(), all());
        assert_eq!(written(&[], &schema), written(&[], &schema));
    }

    #[test]
    fn a_disk_that_refuses_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (schema, rows) = rows();
        let outcome = ParquetFile::begin(&schema, Full).and_then(|mut file| {
            file.append(&rows)?;
            file.end()
        });
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
