//! Table rate: what a row of a table costs in memory, and how fast tables change and are written.
//!
//! `cargo run --release -p tidemill-engine --example table_rate -- ROWS` fills a table with so many rows
//! (a text, an int, a float, an instant), then changes random rows in epochs of 1000, and writes snapshots.
#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use std::io;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use tidemill_engine::sink::table::Table;
use tidemill_operators::format::{OutputFormat, TableFormat};
use tidemill_operators::{Batch, Column, Schema, Type};

/// Rows given at a time while the table is filled.
const FILL: u64 = 50_000;

/// Rows changed in one epoch: each is taken back and given anew.
const CHANGED: u64 = 500;

fn schema() -> Schema {
    Schema::new(vec![
        Column::new("user", Type::String),
        Column::new("orders", Type::Int),
        Column::new("spent", Type::Float),
        Column::new("last", Type::Timestamp),
    ])
}

fn batch(users: &[u64], version: u64, diff: i64) -> Batch {
    let names: Vec<String> = users.iter().map(|user| format!("user-{user:09}")).collect();
    let number = |user: &u64| (user % 97 + version).cast_signed();
    let times: TimestampMicrosecondArray =
        users.iter().map(|user| Some(1_700_000_000_000_000 + number(user))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(names.iter().map(|name| Some(name.as_str())).collect::<StringViewArray>()),
        Arc::new(users.iter().map(number).collect::<Int64Array>()),
        Arc::new(users.iter().map(|user| number(user) as f64 / 4.0).collect::<Float64Array>()),
        Arc::new(times.with_data_type(Type::Timestamp.arrow())),
    ];
    let columns = RecordBatch::try_new(schema().arrow(), columns).expect("columns of one length");
    Batch { columns, diff, ..Batch::default() }
}

/// Returns how much memory the process has, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or_default() << 10
}

fn main() {
    let rows: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let format = TableFormat::Rows(OutputFormat::Csv { delimiter: b',', header: true });
    let mut table = Table::new(format, schema(), &["user".to_owned()]);
    table.open(0);
    let before = resident();
    let began = Instant::now();
    let mut epoch = 0;
    for from in (0..rows).step_by(FILL as usize) {
        epoch += 1;
        // Scattered over all keys, as aggregates give them.
        let users: Vec<u64> = (from..(from + FILL).min(rows))
            .map(|at| at.wrapping_mul(2_654_435_761) % rows)
            .collect();
        table.apply(epoch, [&batch(&users, 0, 1)]);
    }
    let took = began.elapsed().as_secs_f64();
    println!("{} rows: filled in {took:.2} s, {:.0} rows/s", table.len(), rows as f64 / took);
    let history = tidemill_engine::sink::table::HISTORY_BYTES_MAX as u64;
    let bytes = resident().saturating_sub(before).saturating_sub(history);
    println!("memory: {:.1} bytes a row, besides the history", bytes as f64 / rows as f64);

    let rounds = 200;
    let mut versions = vec![0_u64; rows as usize];
    let mut seed = 7_u64;
    let began = Instant::now();
    for _ in 0..rounds {
        epoch += 1;
        let mut batches = Vec::with_capacity(2 * CHANGED as usize);
        let mut users: Vec<u64> = (0..CHANGED)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
                (seed >> 33) % rows
            })
            .collect();
        users.sort_unstable();
        users.dedup();
        for version in 0..=rounds {
            let some: Vec<u64> =
                users.iter().copied().filter(|user| versions[*user as usize] == version).collect();
            if !some.is_empty() {
                batches.push(batch(&some, version, -1));
                batches.push(batch(&some, version + 1, 1));
            }
        }
        users.iter().for_each(|user| versions[*user as usize] += 1);
        table.apply(epoch, &batches);
    }
    let took = began.elapsed().as_secs_f64();
    let changes = (rounds * CHANGED * 2) as f64;
    println!("changes: {:.0} rows/s, in epochs of {}", changes / took, CHANGED * 2);

    let began = Instant::now();
    let about = table.snapshot(&mut io::sink()).expect("nothing refuses");
    println!("snapshot as csv: {:.2} s for {} rows", began.elapsed().as_secs_f64(), about.rows);
}
