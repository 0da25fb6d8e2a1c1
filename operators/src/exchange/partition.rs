//! Partition: which worker gets which rows. No row is lost or doubled, and a batch that goes to one
//! worker as a whole is passed on untouched.

use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, PrimitiveArray};
use timely::communication::Push;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::progress::Stamp;

use super::key_hash;
use crate::aggregate::KeyEncoder;
use crate::batch::Batch;

/// Returns the pact that sends each row to the worker where its key lives: the hash of the encoded
/// columns at these places, modulo the number of workers.
pub fn by_key(columns: Vec<usize>) -> DistributorPact<impl FnOnce(usize) -> ByKey> {
    DistributorPact(move |peers| ByKey::new(columns, peers))
}

/// Returns the pact that sends each batch as a whole to the worker `route` names, modulo the number
/// of workers.
pub fn whole<F>(route: F) -> DistributorPact<impl FnOnce(usize) -> BatchTo<F>>
where
    F: FnMut(&Batch) -> u64 + 'static,
{
    DistributorPact(move |peers| BatchTo { route, peers })
}

/// Spreads the rows of a batch by the hash of their key columns.
pub struct ByKey {
    columns: Vec<usize>,
    key: Vec<u8>,
    /// The rows for each worker.
    rows: Vec<Vec<u32>>,
}

impl ByKey {
    /// Returns a distributor to `peers` workers by the columns at these places.
    pub fn new(columns: Vec<usize>, peers: usize) -> Self {
        Self { columns, key: Vec::new(), rows: vec![Vec::new(); peers] }
    }

    /// Sorts the rows of a batch by worker.
    fn spread(&mut self, batch: &Batch) {
        let keys: Vec<&ArrayRef> =
            self.columns.iter().map(|column| batch.columns.column(*column)).collect();
        let encoder = KeyEncoder::new(keys);
        let peers = self.rows.len() as u64;
        self.rows.iter_mut().for_each(Vec::clear);
        for row in 0..batch.len() {
            self.key.clear();
            encoder.append(row, &mut self.key);
            let worker = (key_hash(&self.key) % peers) as usize;
            self.rows[worker].push(row as u32);
        }
    }
}

impl Distributor<Batch> for ByKey {
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(
        &mut self,
        container: &mut Batch,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let mut batch = std::mem::take(container);
        assert!(u32::try_from(batch.len()).is_ok(), "a batch has fewer than 2^32 rows");
        self.spread(&batch);
        for (rows, pusher) in self.rows.iter_mut().zip(pushers) {
            if rows.is_empty() {
                continue;
            }
            if rows.len() == batch.len() {
                Message::push_at(&mut batch, stamp.clone(), pusher);
                return;
            }
            let picked = PrimitiveArray::<UInt32Type>::from(std::mem::take(rows));
            let mut part = batch.take(&picked);
            Message::push_at(&mut part, stamp.clone(), pusher);
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, _stamp: &Stamp<T>, _: &mut [P]) {}
}

/// Sends each batch as a whole to one worker.
pub struct BatchTo<F> {
    route: F,
    peers: usize,
}

impl<F> Distributor<Batch> for BatchTo<F>
where
    F: FnMut(&Batch) -> u64,
{
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(
        &mut self,
        container: &mut Batch,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let worker = ((self.route)(container) % self.peers as u64) as usize;
        let mut batch = std::mem::take(container);
        Message::push_at(&mut batch, stamp.clone(), &mut pushers[worker]);
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, _stamp: &Stamp<T>, _: &mut [P]) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use arrow_array::cast::AsArray;
    use proptest::prelude::*;

    use super::super::samples::{any_batch, batch, told};
    use super::*;
    use crate::Time;

    /// Keeps what is pushed to each worker.
    #[derive(Default)]
    struct Kept(Vec<Batch>);

    impl Push<Message<Time, Batch>> for Kept {
        fn push(&mut self, element: &mut Option<Message<Time, Batch>>) {
            self.0.extend(element.take().map(|message| message.data));
        }
    }

    fn partition(
        distributor: &mut impl Distributor<Batch>,
        given: &Batch,
        peers: usize,
    ) -> Vec<Vec<Batch>> {
        let mut pushers: Vec<Kept> = (0..peers).map(|_| Kept::default()).collect();
        distributor.partition(
            &mut given.clone(),
            &std::iter::once(Time::new(1, 0)).collect(),
            &mut pushers,
        );
        pushers.into_iter().map(|kept| kept.0).collect()
    }

    /// Returns the rows of batches, each as one line of text, sorted.
    fn rows(batches: &[Batch]) -> Vec<String> {
        let mut rows: Vec<String> = batches
            .iter()
            .flat_map(|batch| {
                (0..batch.len()).map(|row| {
                    let one = PrimitiveArray::<UInt32Type>::from(vec![row as u32]);
                    told(&batch.take(&one))
                })
            })
            .collect();
        rows.sort();
        rows
    }

    proptest! {
        #[test]
        fn every_row_goes_to_the_worker_of_its_key_and_none_is_lost(
            given in any_batch(),
            peers in 1..7_usize,
        ) {
            let columns: Vec<usize> = (0..given.columns.num_columns()).collect();
            let mut distributor = ByKey::new(columns.clone(), peers);
            let parts = partition(&mut distributor, &given, peers);
            for (worker, batches) in parts.iter().enumerate() {
                for one in batches {
                    prop_assert!(!one.is_empty());
                    let keys: Vec<_> = columns.iter().map(|at| one.columns.column(*at)).collect();
                    let encoder = KeyEncoder::new(keys);
                    for row in 0..one.len() {
                        let mut key = Vec::new();
                        encoder.append(row, &mut key);
                        prop_assert_eq!(key_hash(&key) as usize % peers, worker);
                    }
                }
            }
            prop_assert_eq!(rows(&parts.concat()), rows(&[given]));
        }
    }

    #[test]
    fn spreading_copies_no_text() {
        let row =
            |n: i64| (Some(format!("some long text {n:9}")), Some(n), None, None, None, vec![], 0);
        let given = batch(&(0..100).map(row).collect::<Vec<_>>(), true, false, false);
        let parts = partition(&mut ByKey::new(vec![1], 2), &given, 2).concat();
        assert_eq!(parts.len(), 2);
        let buffer = given.columns.column(0).as_string_view().data_buffers()[0].as_ptr();
        for part in parts {
            assert_eq!(part.columns.column(0).as_string_view().data_buffers()[0].as_ptr(), buffer);
        }
    }

    #[test]
    fn a_whole_batch_goes_to_the_worker_that_is_named() {
        let given = batch(&[(None, None, None, None, None, vec![], 0)], true, true, true);
        let mut distributor = BatchTo { route: |batch: &Batch| batch.origin.chunk, peers: 4 };
        let parts = partition(&mut distributor, &given, 4);
        let places: Vec<usize> = parts.iter().map(Vec::len).collect();
        assert_eq!(places, [0, 0, 0, 1]);
        assert_eq!(told(&parts[3][0]), told(&given));
    }
}
