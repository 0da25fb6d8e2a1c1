//! Told: what failed in a machine, as rejects of the file that made it fail.
//!
//! | input  | rows with what failed on them; those taken back are no news                           |
//! | output | one reject each, on no line: the record may stand in an earlier file                  |
//! | state  | none                                                                                 |
//! | errors | none                                                                                 |

use arrow_array::Array;
use arrow_array::cast::AsArray;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;
use timely::dataflow::{Stream, StreamVec};

use super::TROUBLE;
use crate::batch::{Batch, Origin};
use crate::flow::reject_row;
use crate::reject::{EpochRejects, Reject, RejectCode};
use crate::tally::Tally;
use crate::time::Time;

/// Builds what turns rows that tell of a trouble into rejects. `operator` is the name they carry.
pub fn told<'s>(
    name: &str,
    operator: &str,
    troubles: Stream<'s, Time, Batch>,
    tally: Tally,
) -> StreamVec<'s, Time, EpochRejects> {
    let (title, operator) = (format!("Tell {name}"), operator.to_owned());
    type Builder = CapacityContainerBuilder<Vec<EpochRejects>>;
    troubles.unary::<Builder, _, _, _>(Pipeline, &title, move |_, _| {
        move |input, output| {
            input.for_each_stamp(|stamp, batches| {
                let Some(epoch) = stamp.least().map(|time| time.epoch) else { return };
                for batch in batches.filter(|batch| batch.diff > 0) {
                    let rejects: Vec<Reject> =
                        (0..batch.len()).map(|row| reject(&operator, batch, row)).collect();
                    tally.reported(epoch, rejects.len());
                    let origin = Origin { submission: epoch, chunk: Time::END, offset: 0 };
                    output.session(&stamp).give(EpochRejects { epoch, origin, rejects });
                }
            });
        }
    })
}

fn reject(operator: &str, batch: &Batch, row: usize) -> Reject {
    let column = batch.columns.column_by_name(TROUBLE).map(|column| column.as_string_view());
    let what = column.filter(|column| column.is_valid(row)).map_or("", |column| column.value(row));
    let told = reject_row(operator, batch, row, RejectCode::Expression, String::new());
    let at = batch.origin.offset + u64::from(told.offset);
    let reason = match batch.positions {
        Some(_) => format!("file {}, byte {at}: {what}", batch.origin.submission),
        None => what.to_owned(),
    };
    Reject { line: 0, offset: 0, reason, ..told }
}
