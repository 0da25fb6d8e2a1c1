//! Customers, their orders and the items of these, in the manner of TPC-H, as CSV files.
//!
//! It owns three tables that fit each other: file `n` of the items belongs to file `n` of the orders.
//! Money is in whole cents and rates in whole percent, so that every sum has one right answer. A file
//! depends on the seed, its table, its number and its version alone; another version has the same
//! keys with other values, and some rows more or fewer.

use std::io::Write;

use crate::calendar::Civil;
use crate::random::Random;

use super::GeneratedFile;

/// 1992-01-01T00:00:00Z
const FIRST_DAY_UNIX_SECONDS: u64 = 694_224_000;
/// Days on which somebody orders: until 1998-08-02.
const ORDER_DAYS: u64 = 2_406;
const DAY_SECONDS: u64 = 86_400;

/// Orders for each customer, on average.
const ORDERS_A_CUSTOMER: u64 = 10;
/// One row in so many is left out of a version.
const LEFT_OUT: u64 = 50;

const SEGMENTS: [&str; 5] = ["AUTOMOBILE", "BUILDING", "FURNITURE", "HOUSEHOLD", "MACHINERY"];
const PRIORITIES: [&str; 5] = ["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW"];
const MODES: [&str; 7] = ["AIR", "FOB", "MAIL", "RAIL", "REG AIR", "SHIP", "TRUCK"];

/// One of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Who orders: `custkey`, `segment`.
    Customers,
    /// What was ordered when: `orderkey`, `custkey`, `orderdate`, `priority`, `shippriority`.
    Orders,
    /// The lines of orders: quantity, price, dates, and how they were sent.
    Items,
}

impl Table {
    /// Returns the name, with which its files begin.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Customers => "customers",
            Self::Orders => "orders",
            Self::Items => "items",
        }
    }

    /// Returns the columns in the order of the files.
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Customers => &["custkey", "segment"],
            Self::Orders => &["orderkey", "custkey", "orderdate", "priority", "shippriority"],
            Self::Items => &[
                "orderkey",
                "linenumber",
                "quantity",
                "price",
                "discount",
                "tax",
                "returnflag",
                "linestatus",
                "shipdate",
                "commitdate",
                "receiptdate",
                "shipmode",
            ],
        }
    }
}

/// How much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trade {
    /// Everything random follows from it.
    pub seed: u64,
    /// Orders of a file; there are about four times as many items.
    pub orders_a_file: u64,
    /// Files of orders for which customers are there.
    pub files: u64,
}

impl Trade {
    /// Returns one version of one file of a table, both counted from 0.
    pub fn file(self, table: Table, index: u64, version: u64) -> GeneratedFile {
        let stream = (index << 20) | (version << 4) | table as u64;
        let random = &mut Random::new(self.seed, stream);
        let mut content = table.columns().join(",").into_bytes();
        content.push(b'\n');
        let keys = match table {
            Table::Customers => {
                let each = (self.orders_a_file / ORDERS_A_CUSTOMER).max(1);
                index * each..(index + 1) * each
            }
            Table::Orders | Table::Items => {
                index * self.orders_a_file..(index + 1) * self.orders_a_file
            }
        };
        for key in keys {
            if version > 0 && random.below(LEFT_OUT) == 0 {
                continue;
            }
            match table {
                Table::Customers => customer(key + 1, random, &mut content),
                Table::Orders => self.order(key + 1, random, &mut content),
                Table::Items => self.items(key + 1, random, &mut content),
            }
        }
        GeneratedFile { name: format!("{}-{index:03}.csv", table.name()), content }
    }

    fn order(self, key: u64, random: &mut Random, out: &mut Vec<u8>) {
        let each = (self.orders_a_file / ORDERS_A_CUSTOMER).max(1);
        let customer = 1 + random.below(each * self.files);
        let date = Day(self.ordered_on(key));
        let priority = random.pick(&PRIORITIES);
        put(out, format_args!("{key},{customer},{date},{priority},{}\n", random.below(3)));
    }

    /// Returns the day of an order: the same in every version, because items follow from it.
    fn ordered_on(self, key: u64) -> u64 {
        Random::new(self.seed, (1 << 60) | key).below(ORDER_DAYS)
    }

    fn items(self, order: u64, random: &mut Random, out: &mut Vec<u8>) {
        let ordered = self.ordered_on(order);
        for line in 1..=1 + random.below(7) {
            let quantity = 1 + random.below(50);
            let price = quantity * (90_000 + random.below(110_000)) / 100;
            let (discount, tax) = (random.below(11), random.below(9));
            let shipped = ordered + 1 + random.below(121);
            let promised = ordered + 30 + random.below(61);
            let received = shipped + 1 + random.below(30);
            // Before or behind 1995-06-17.
            let flag = if received > 1_263 { "N" } else { *random.pick(&["R", "A"]) };
            let status = if shipped > 1_263 { "O" } else { "F" };
            let mode = random.pick(&MODES);
            put(out, format_args!("{order},{line},{quantity},{price},{discount},{tax},"));
            put(out, format_args!("{flag},{status},{},{},", Day(shipped), Day(promised)));
            put(out, format_args!("{},{mode}\n", Day(received)));
        }
    }
}

fn customer(key: u64, random: &mut Random, out: &mut Vec<u8>) {
    put(out, format_args!("{key},{}\n", random.pick(&SEGMENTS)));
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = out.write_fmt(text);
}

/// A day, counted from the first, as the start of that day.
struct Day(u64);

impl std::fmt::Display for Day {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Civil { year, month, day, .. } =
            Civil::from_unix(FIRST_DAY_UNIX_SECONDS + self.0 * DAY_SECONDS);
        write!(out, "{year:04}-{month:02}-{day:02}T00:00:00Z")
    }
}
