//! The table of J2: hits, bytes and the worst latency of each (host, status).
//!
//! It owns a table per thread and the canonical CSV of all of them: sorted by host, then status.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::hash::{BuildHasherDefault, Hasher};

/// The first line of the table.
pub(super) const HEADER: &str = "host,status,hits,bytes,worst_ms";

/// What is known of one key.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Totals {
    hits: u64,
    bytes: i128,
    worst_ms: f64,
}

impl Totals {
    #[inline]
    fn of(bytes: i64, latency_ms: f64) -> Self {
        Self { hits: 1, bytes: i128::from(bytes), worst_ms: latency_ms }
    }
}

/// The table of one thread.
#[derive(Default)]
pub(super) struct Traffic {
    /// Hosts of at most 15 bytes: the bytes and their number in one word.
    short: HashMap<(u128, i64), Totals, BuildHasherDefault<WordHasher>>,
    long: HashMap<(Vec<u8>, i64), Totals>,
}

impl Traffic {
    /// Counts one record.
    pub(super) fn count(&mut self, host: &[u8], status: i64, bytes: i64, latency_ms: f64) {
        let mut word = [0_u8; 16];
        let len = host.len().min(word.len());
        word[..len].copy_from_slice(&host[..len]);
        match short_key(u128::from_le_bytes(word), host.len()) {
            Some(key) => self.count_short(key, status, bytes, latency_ms),
            None => {
                let one = Totals::of(bytes, latency_ms);
                merge(self.long.entry((host.to_vec(), status)).or_insert(NOTHING), one);
            }
        }
    }

    /// Counts one record whose host fits a [`short_key`].
    #[inline]
    pub(super) fn count_short(&mut self, key: u128, status: i64, bytes: i64, latency_ms: f64) {
        let one = Totals::of(bytes, latency_ms);
        merge(self.short.entry((key, status)).or_insert(NOTHING), one);
    }

    /// Adds the table of another thread.
    pub(super) fn add(&mut self, other: Self) {
        for (key, totals) in other.short {
            merge(self.short.entry(key).or_insert(NOTHING), totals);
        }
        for (key, totals) in other.long {
            merge(self.long.entry(key).or_insert(NOTHING), totals);
        }
    }

    /// Returns the whole table as CSV.
    pub(super) fn to_csv(&self) -> String {
        let mut rows = BTreeMap::new();
        for ((key, status), totals) in &self.short {
            let bytes = key.to_le_bytes();
            rows.insert((bytes[..usize::from(bytes[15])].to_vec(), *status), *totals);
        }
        rows.extend(self.long.iter().map(|(key, totals)| (key.clone(), *totals)));
        let mut csv = format!("{HEADER}\n");
        for ((host, status), Totals { hits, bytes, worst_ms }) in rows {
            append_text(&mut csv, &String::from_utf8_lossy(&host));
            // Writing into a string cannot fail, so there is no error to pass on.
            let _ = writeln!(csv, ",{status},{hits},{bytes},{worst_ms}");
        }
        csv
    }
}

const NOTHING: Totals = Totals { hits: 0, bytes: 0, worst_ms: f64::NEG_INFINITY };

#[inline]
fn merge(into: &mut Totals, other: Totals) {
    into.hits += other.hits;
    into.bytes += other.bytes;
    into.worst_ms = into.worst_ms.max(other.worst_ms);
}

/// Packs a host of at most 15 bytes, the first of `word`, with its length into one word.
#[inline]
pub(super) fn short_key(word: u128, len: usize) -> Option<u128> {
    let bytes = (1_u128 << (8 * len.min(15))) - 1;
    (len <= 15).then_some((word & bytes) | (len as u128) << 120)
}

fn append_text(csv: &mut String, text: &str) {
    if text.contains([',', '"', '\n', '\r']) {
        csv.push('"');
        csv.push_str(&text.replace('"', "\"\""));
        csv.push('"');
    } else {
        csv.push_str(text);
    }
}

/// Mixes whole words by multiplication; the keys are few and not hostile.
#[derive(Default)]
struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(25) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    #[inline]
    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }

    #[inline]
    fn write_i64(&mut self, word: i64) {
        self.write_u64(word as u64);
    }
}
