//! SQL: the answers of pipelines are those of an independent engine, SQLite, to the last digit; and
//! so they are after files were added, replaced and removed.
//!
//! The questions are in the manner of TPC-H; money is in whole cents. The long run:
//! `TIDEMILL_SQL_ORDERS=250000 cargo test --release -p tidemill-tests --test sql -- --nocapture`
//! (about four items an order).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the long run is for people, who see what it takes")]

use std::collections::BTreeMap;
use std::time::Instant;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, params_from_iter};
use tidemill_bench::generate::trade::{Table, Trade};
use tidemill_client::{Replaces, SubmitOptions, Which};
use tidemill_tests::{Running, Shape, Site};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Orders of the short run: about 60,000 items.
const ORDERS: u64 = 15_000;

/// Files of orders, and as many of items, before anything changes.
const FILES: u64 = 10;

const PIPELINE: &str = "\
pipeline: trade
sources:
  items:
    format: csv
    pattern: \"items-*\"
    fields: { orderkey: int, linenumber: int, quantity: int, price: int, discount: int, tax: int, returnflag: string, linestatus: string, shipdate: timestamp, commitdate: timestamp, receiptdate: timestamp, shipmode: string }
  orders: { format: csv, pattern: \"orders-*\", fields: { orderkey: int, custkey: int, orderdate: timestamp, priority: string, shippriority: int } }
  customers: { format: csv, pattern: \"customers-*\", fields: { custkey: int, segment: string } }
operators:
  shipped: { from: items, filter: \"shipdate <= TIMESTAMP '1998-09-02T00:00:00Z'\" }
  q1:
    from: shipped
    aggregate:
      by: [returnflag, linestatus]
      compute:
        sum_qty: sum(quantity)
        sum_base_price: sum(price)
        sum_disc_price: sum(price * (100 - discount))
        sum_charge: sum(price * (100 - discount) * (100 + tax))
        avg_qty: avg(quantity)
        avg_price: avg(price)
        avg_disc: avg(discount)
        count_order: count(*)
  cheap: { from: items, filter: \"shipdate >= TIMESTAMP '1994-01-01T00:00:00Z' AND shipdate < TIMESTAMP '1995-01-01T00:00:00Z' AND discount BETWEEN 5 AND 7 AND quantity < 24\" }
  q6: { from: cheap, aggregate: { by: [], compute: { revenue: sum(price * discount), items: count(*) } } }
  builders: { from: customers, filter: \"segment = 'BUILDING'\" }
  before: { from: orders, filter: \"orderdate < TIMESTAMP '1995-03-15T00:00:00Z'\" }
  theirs: { from: before, join: { with: builders, on: [custkey], kind: semi } }
  behind: { from: items, filter: \"shipdate > TIMESTAMP '1995-03-15T00:00:00Z'\" }
  open: { from: behind, join: { with: theirs, on: [orderkey], take: [orderdate, shippriority] } }
  revenues: { from: open, aggregate: { by: [orderkey, orderdate, shippriority], compute: { revenue: sum(price * (100 - discount)) } } }
  q3: { from: revenues, top: { k: 10, order: [revenue desc, orderdate, orderkey] } }
  quarter: { from: orders, filter: \"orderdate >= TIMESTAMP '1993-07-01T00:00:00Z' AND orderdate < TIMESTAMP '1993-10-01T00:00:00Z'\" }
  late: { from: items, filter: commitdate < receiptdate }
  delayed: { from: quarter, join: { with: late, on: [orderkey], kind: semi } }
  q4: { from: delayed, aggregate: { by: [priority], compute: { orders: count(*) } } }
  shipping: { from: late, filter: \"shipmode IN ('MAIL', 'SHIP') AND shipdate < commitdate AND extract(year FROM receiptdate) = 1994\" }
  ranked: { from: shipping, join: { with: orders, on: [orderkey], take: [priority] } }
  q12:
    from: ranked
    aggregate:
      by: [shipmode]
      compute:
        high: \"sum(CASE WHEN priority IN ('1-URGENT', '2-HIGH') THEN 1 ELSE 0 END)\"
        low: \"sum(CASE WHEN priority IN ('1-URGENT', '2-HIGH') THEN 0 ELSE 1 END)\"
sinks:
  q3: { from: q3, table: { format: csv, key: [revenue, orderdate, orderkey], publish_every: 1h } }
  q4: { from: q4, table: { format: csv, key: [priority], publish_every: 1h } }
  q12: { from: q12, table: { format: csv, key: [shipmode], publish_every: 1h } }
  q1: { from: q1, table: { format: csv, key: [returnflag, linestatus], publish_every: 1h } }
  q6: { from: q6, table: { format: csv, key: [revenue], publish_every: 1h } }
";

const TABLES: [Table; 3] = [Table::Customers, Table::Orders, Table::Items];

/// Each question by its sink, as SQL.
const QUESTIONS: [(&str, &str); 5] = [
    (
        "q3",
        "SELECT orderkey, orderdate, shippriority, revenue FROM (
           SELECT i.orderkey, o.orderdate, o.shippriority,
             sum(i.price * (100 - i.discount)) AS revenue
           FROM customers c JOIN orders o ON o.custkey = c.custkey
             JOIN items i ON i.orderkey = o.orderkey
           WHERE c.segment = 'BUILDING' AND o.orderdate < '1995-03-15T00:00:00Z'
             AND i.shipdate > '1995-03-15T00:00:00Z'
           GROUP BY 1, 2, 3 ORDER BY revenue DESC, 2, 1 LIMIT 10)
         ORDER BY revenue, orderdate, orderkey",
    ),
    (
        "q4",
        "SELECT priority, count(*) FROM orders o
         WHERE orderdate >= '1993-07-01T00:00:00Z' AND orderdate < '1993-10-01T00:00:00Z'
           AND EXISTS (SELECT 1 FROM items i
             WHERE i.orderkey = o.orderkey AND i.commitdate < i.receiptdate)
         GROUP BY 1 ORDER BY 1",
    ),
    (
        "q12",
        "SELECT shipmode, sum(priority IN ('1-URGENT', '2-HIGH')),
           sum(priority NOT IN ('1-URGENT', '2-HIGH'))
         FROM items i JOIN orders o ON o.orderkey = i.orderkey
         WHERE shipmode IN ('MAIL', 'SHIP') AND commitdate < receiptdate AND shipdate < commitdate
           AND receiptdate >= '1994-01-01' AND receiptdate < '1995-01-01'
         GROUP BY 1 ORDER BY 1",
    ),
    (
        "q1",
        "SELECT returnflag, linestatus, sum(quantity), sum(price), sum(price * (100 - discount)),
           sum(price * (100 - discount) * (100 + tax)), avg(quantity), avg(price),
           avg(discount), count(*)
         FROM items WHERE shipdate <= '1998-09-02T00:00:00Z'
         GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    (
        "q6",
        "SELECT sum(price * discount), count(*) FROM items
         WHERE shipdate >= '1994-01-01' AND shipdate < '1995-01-01' AND discount BETWEEN 5 AND 7
           AND quantity < 24",
    ),
];

/// A site and a database that are given the same files.
struct Both<'s> {
    running: Running<'s>,
    sql: Connection,
    trade: Trade,
}

impl<'s> Both<'s> {
    fn new(site: &'s Site, trade: Trade) -> Self {
        let sql = Connection::open_in_memory().unwrap();
        for table in TABLES {
            let columns = table.columns().join(", ");
            let (name, key) = (table.name(), table.columns()[0]);
            let create = format!("CREATE TABLE {name} ({columns}, file)");
            let index = format!("CREATE INDEX {name}_key ON {name} ({key})");
            sql.execute_batch(&format!("{create}; {index}")).unwrap();
        }
        Self { running: site.start(Shape::new(1, 2)), sql, trade }
    }

    /// Gives a file to both, in place of the one of its name.
    fn put(&self, table: Table, index: u64, version: u64) {
        let file = self.trade.file(table, index, version);
        let options = SubmitOptions { replaces: Replaces::SameName, ..SubmitOptions::default() };
        let client = self.running.client();
        let sent = client.submit_bytes_with(&file.name, file.content.clone(), options);
        self.running.ask(sent).unwrap();
        self.delete(table, &file.name);
        self.insert(table, &file.name, &file.content);
    }

    /// Takes a file away from both.
    fn remove(&self, table: Table, index: u64) {
        let name = self.trade.file(table, index, 0).name;
        let which = Which::Name { pipeline: None, name: name.clone() };
        self.running.ask(self.running.client().remove(which)).unwrap();
        self.delete(table, &name);
    }

    fn delete(&self, table: Table, name: &str) {
        let delete = format!("DELETE FROM {} WHERE file = ?", table.name());
        self.sql.execute(&delete, [name]).unwrap();
    }

    fn insert(&self, table: Table, name: &str, content: &[u8]) {
        let marks = vec!["?"; table.columns().len() + 1].join(", ");
        let insert = format!("INSERT INTO {} VALUES ({marks})", table.name());
        self.sql.execute_batch("BEGIN").unwrap();
        let mut insert = self.sql.prepare(&insert).unwrap();
        for line in std::str::from_utf8(content).unwrap().lines().skip(1) {
            // Whole numbers become numbers, everything else stays text.
            let cells = line.split(',').map(|cell| match cell.parse::<i64>() {
                Ok(number) => rusqlite::types::Value::Integer(number),
                Err(_) => rusqlite::types::Value::Text(cell.to_owned()),
            });
            let file = rusqlite::types::Value::Text(name.to_owned());
            insert.execute(params_from_iter(cells.chain([file]))).unwrap();
        }
        self.sql.execute_batch("COMMIT").unwrap();
    }

    /// Asks the database all questions.
    fn expected(&self) -> BTreeMap<&'static str, Vec<Vec<Cell>>> {
        let answer = |sql: &str| {
            let mut statement = self.sql.prepare(sql).unwrap();
            let columns = statement.column_count();
            let mut rows = statement.query([]).unwrap();
            let mut all = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                let cells = (0..columns).map(|at| Cell::of(row.get_ref(at).unwrap()));
                all.push(cells.collect());
            }
            all
        };
        QUESTIONS.iter().map(|(name, sql)| (*name, answer(sql))).collect()
    }
}

/// A value of the database.
#[derive(Debug)]
enum Cell {
    Null,
    Whole(i64),
    Real(f64),
    Text(String),
}

impl Cell {
    fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Integer(number) => Self::Whole(number),
            ValueRef::Real(number) => Self::Real(number),
            ValueRef::Text(text) => Self::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Null | ValueRef::Blob(_) => Self::Null,
        }
    }

    /// Returns whether this is what a CSV file says, to the last digit.
    fn is(&self, text: &str) -> bool {
        match self {
            Self::Null => text.is_empty(),
            Self::Whole(number) => text == number.to_string(),
            Self::Real(number) => {
                text.parse().is_ok_and(|found: f64| found.to_bits() == number.to_bits())
            }
            Self::Text(expected) => text == expected,
        }
    }
}

/// Compares every table with the answer of the database.
#[track_caller]
fn compare(site: &Site, expected: &BTreeMap<&str, Vec<Vec<Cell>>>, moment: &str) {
    let out = site.out();
    for (name, rows) in expected {
        let found = std::str::from_utf8(&out[&format!("{name}/{name}.csv")]).unwrap();
        let found: Vec<Vec<&str>> =
            found.lines().skip(1).map(|line| line.split(',').collect()).collect();
        assert!(!rows.is_empty(), "{name}, {moment}: the question has no answer");
        assert_eq!(found.len(), rows.len(), "{name}, {moment}: rows\n{found:?}\n{rows:?}");
        for (row, expected) in found.iter().zip(rows) {
            let same = row.len() == expected.len()
                && expected.iter().zip(row).all(|(cell, text)| cell.is(text));
            assert!(same, "{name}, {moment}: {row:?}, but SQLite says {expected:?}");
        }
    }
}

#[test]
fn questions_are_answered_as_by_sqlite_also_after_corrections() {
    let orders = std::env::var("TIDEMILL_SQL_ORDERS").map_or(ORDERS, |text| text.parse().unwrap());
    let trade = Trade { seed: 1, orders_a_file: orders / FILES, files: FILES };
    let site = Site::new(NODE, PIPELINE);
    let began = Instant::now();
    let both = Both::new(&site, trade);
    for index in 0..FILES {
        // Whichever side comes first.
        let mut tables = TABLES;
        tables.rotate_left(index as usize % TABLES.len());
        tables.iter().for_each(|table| both.put(*table, index, 0));
    }
    let mut sent = FILES * TABLES.len() as u64;
    both.running.wait_for_finished(sent);
    let expected = both.expected();
    both.running.stop();
    compare(&site, &expected, "all added");
    println!("{orders} orders, all added: {:.1?}", began.elapsed());

    let began = Instant::now();
    let both = Both { running: site.start(Shape::new(1, 3)), sql: both.sql, trade };
    for table in TABLES {
        both.put(table, 2, 1);
        both.remove(table, 5);
        both.put(table, FILES, 0);
    }
    both.put(Table::Items, 2, 2);
    both.remove(Table::Orders, 0);
    both.remove(Table::Items, 7);
    sent += 3 * TABLES.len() as u64 + 3;
    both.running.wait_for_finished(sent);
    let expected = both.expected();
    both.running.stop();
    compare(&site, &expected, "refreshed");
    println!("refreshed: {:.1?}", began.elapsed());
}
