//! Meter: what one operator on one worker has done so far. Derived counters, never read by the
//! data path.
//!
//! Written by one worker without locks, read by anyone at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one operator on one worker; cheap to clone, all clones are the same counters.
#[derive(Clone, Debug)]
pub struct Meter {
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    records_in: AtomicU64,
    /// By tag.
    records_out: Vec<AtomicU64>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    rejected: AtomicU64,
    state_entries: AtomicU64,
    state_bytes: AtomicU64,
    bytes_beside: AtomicU64,
}

/// The values of a [`Meter`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// Records taken in.
    pub records_in: u64,
    /// Records given out, over all tags.
    pub records_out: u64,
    /// Bytes taken in, where the operator sees bytes.
    pub bytes_in: u64,
    /// Bytes given out, where the operator sees bytes.
    pub bytes_out: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Entries of state held at this moment.
    pub state_entries: u64,
    /// Bytes of memory that they take, with what is held beside them.
    pub state_bytes: u64,
}

impl Meter {
    /// Returns counters at zero for an operator with so many tags.
    pub fn new(tags: usize) -> Self {
        let records_out = (0..tags).map(|_| AtomicU64::new(0)).collect();
        Self { counters: Arc::new(Counters { records_out, ..Counters::default() }) }
    }

    /// Counts records and bytes taken in.
    pub fn took(&self, records: usize, bytes: usize) {
        self.counters.records_in.fetch_add(records as u64, Ordering::Relaxed);
        self.counters.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts records and bytes given out by a tag.
    pub fn gave(&self, tag: usize, records: usize, bytes: usize) {
        self.counters.records_out[tag].fetch_add(records as u64, Ordering::Relaxed);
        self.counters.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts rejected records.
    pub fn rejected(&self, records: usize) {
        self.counters.rejected.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Says how many entries of state are held now.
    pub fn holds(&self, entries: usize) {
        self.counters.state_entries.store(entries as u64, Ordering::Relaxed);
    }

    /// Says how many bytes of memory the state takes now.
    pub fn holds_bytes(&self, bytes: usize) {
        self.counters.state_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// Says how many bytes of memory are taken by what an operator holds beside its state.
    pub fn holds_beside(&self, bytes: usize) {
        self.counters.bytes_beside.store(bytes as u64, Ordering::Relaxed);
    }

    /// Returns how many records were given out by a tag.
    pub fn given(&self, tag: usize) -> u64 {
        self.counters.records_out.get(tag).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Returns how many tags are counted.
    pub fn tags(&self) -> usize {
        self.counters.records_out.len()
    }

    /// Returns the values now. They are taken one by one, so a record in between may show in one
    /// and not yet in another.
    pub fn read(&self) -> Readings {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Readings {
            records_in: value(&self.counters.records_in),
            records_out: self.counters.records_out.iter().map(value).sum(),
            bytes_in: value(&self.counters.bytes_in),
            bytes_out: value(&self.counters.bytes_out),
            rejected: value(&self.counters.rejected),
            state_entries: value(&self.counters.state_entries),
            state_bytes: value(&self.counters.state_bytes) + value(&self.counters.bytes_beside),
        }
    }
}
