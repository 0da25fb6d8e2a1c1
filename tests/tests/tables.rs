//! Tables: rows are found, scanned and followed while files come, each answer of one epoch, and what
//! is told adds up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tidemill_client::{Cell, Client, Error, TableChange, TableFollow, TableQuestion, TableRow};
use tidemill_tests::{Running, Shape, Site};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const ORDERS: &str = "\
pipeline: shop
sources:
  orders:
    format: csv
    pattern: \"*.csv\"
    fields: { user: string, item: int, amount: float, paid: bool, at: timestamp }
operators:
  per_user: { from: orders, aggregate: { by: [user], compute: { orders: count(*), spent: sum(amount) } } }
sinks:
  totals: { from: per_user, table: { format: csv, key: [user] } }
  orders: { from: orders, table: { format: jsonl, key: [user, item] } }
  copies: { from: orders, files: { format: raw } }
";

/// Orders of file `number`: of some users again, of some for the first time.
fn orders(number: u64) -> Vec<u8> {
    let mut text = "user,item,amount,paid,at\n".to_owned();
    for line in 0..20_u64 {
        let (user, item) = ((number * 7 + line) % 23, number * 100 + line);
        let paid = if line % 3 == 0 { "" } else { "true" };
        let _ =
            writeln!(text, "u{user:02},{item},{}.5,{paid},2026-01-{:02}T00:00:00Z", line, line + 1);
    }
    text.into_bytes()
}

fn question(table: &str) -> TableQuestion {
    TableQuestion::all(table)
}

/// All rows of a table as they are told, by what their cells are.
type Rows = BTreeMap<String, i64>;

fn add(rows: &mut Rows, some: &[TableRow]) {
    for TableRow { cells, times } in some {
        let row = format!("{cells:?}");
        let there = rows.entry(row.clone()).or_insert(0);
        *there += times;
        if *there == 0 {
            rows.remove(&row);
        }
    }
}

async fn scanned(client: &Client, question: &TableQuestion) -> Result<(u64, Rows), Error> {
    let mut scan = client.scan(question, 0, &[]).await?;
    let mut rows = Rows::new();
    while let Some(some) = scan.next().await? {
        add(&mut rows, &some);
    }
    Ok((scan.epoch(), rows))
}

fn texts(rows: &[TableRow]) -> Vec<String> {
    let cell = |cell: &Cell| match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Text(text) => text.clone(),
        Cell::Int(value) => value.to_string(),
        Cell::Float(value) => format!("{value:?}"),
        Cell::Flag(value) => value.to_string(),
        Cell::Timestamp(micros) => format!("{micros}us"),
    };
    rows.iter().map(|row| row.cells.iter().map(cell).collect::<Vec<_>>().join(" ")).collect()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>, word: &str, text: &str) {
    let error = outcome.expect_err("it must be refused");
    assert_eq!(error.word(), Some(word), "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

#[test]
fn rows_are_found_by_their_key_or_the_first_columns_of_it() {
    let site = Site::new(NODE, ORDERS);
    let running = site.start(Shape::ALONE);
    let sent = running.submit("a.csv", &orders(1));
    running.wait(sent.id);
    let key = |parts: &[(&str, Cell)]| -> Vec<(String, Cell)> {
        parts.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect()
    };
    let find = |table: &str, parts: &[(&str, Cell)]| {
        let question = TableQuestion { key: key(parts), ..question(table) };
        running.ask(running.client().lookup(&question))
    };
    let text = |text: &str| Cell::Text(text.to_owned());

    let found = find("totals", &[("user", text("u07"))]).unwrap();
    assert_eq!((found.epoch, found.more), (sent.epoch, false));
    assert_eq!(texts(&found.rows), ["u07 1 0.5"]);
    let found = find("orders", &[("user", text("u09")), ("item", Cell::Int(102))]).unwrap();
    assert_eq!(texts(&found.rows), ["u09 102 2.5 true 1767398400000000us"]);
    // A text is read as the column is, in whichever order the columns are named.
    let found = find("orders", &[("item", text("102")), ("user", text("u09"))]).unwrap();
    assert_eq!(found.rows.len(), 1);
    let found = find("orders", &[("user", text("u09"))]).unwrap();
    assert_eq!(found.rows.len(), 1);
    // The bytes of one text are not the beginning of another's.
    assert!(find("orders", &[("user", text("u0"))]).unwrap().rows.is_empty());
    assert!(find("totals", &[("user", Cell::Null)]).unwrap().rows.is_empty());

    refused(find("totals", &[]), "E-ARGUMENT", "at least the first column");
    refused(find("orders", &[("item", Cell::Int(1))]), "E-ARGUMENT", "\"user\" is missing");
    refused(find("orders", &[("usr", text("x"))]), "E-ARGUMENT", "did you mean user?");
    refused(find("orders", &[("amount", text("1"))]), "E-ARGUMENT", "is not of the key");
    let item = [("user", text("u09")), ("item", text("many"))];
    refused(find("orders", &item), "E-ARGUMENT", "\"many\" is no int");
    refused(find("totls", &[("user", text("x"))]), "E-TABLE", "did you mean totals?");
    refused(find("copies", &[("user", text("x"))]), "E-TABLE", "writes files");
    running.stop();
}

#[test]
fn a_scan_takes_conditions_columns_and_pages() {
    let site = Site::new(NODE, ORDERS);
    let running = site.start(Shape::new(1, 2));
    for number in 1..=3 {
        let sent = running.submit(&format!("{number}.csv"), &orders(number));
        running.wait(sent.id);
    }
    let all = |question: TableQuestion, limit: u64| {
        let client = running.client();
        running.ask(async move {
            let mut scan = client.scan(&question, limit, &[]).await?;
            let mut rows = Vec::new();
            while let Some(some) = scan.next().await? {
                rows.extend(some);
            }
            Ok::<_, Error>((rows, scan.next_page().to_vec()))
        })
    };
    let (rows, next) = all(question("orders"), 0).unwrap();
    assert_eq!((rows.len(), next.len()), (60, 0));
    let shown = texts(&rows);
    assert!(shown.is_sorted_by_key(|row| row[..7].to_owned()), "{shown:?}");

    let narrowed = TableQuestion {
        condition: Some("amount > 17 AND paid IS NULL".into()),
        columns: vec!["item".into(), "user".into()],
        ..question("orders")
    };
    let (rows, _) = all(narrowed, 0).unwrap();
    assert_eq!(texts(&rows), ["118 u02", "218 u09", "318 u16"]);

    // Pages add up to everything, in order.
    let pages = running.ask(async {
        let (mut rows, mut after) = (Vec::new(), Vec::new());
        loop {
            let mut scan = running.client().scan(&question("orders"), 7, &after).await.unwrap();
            while let Some(some) = scan.next().await.unwrap() {
                rows.extend(some);
            }
            after = scan.next_page().to_vec();
            if after.is_empty() {
                return texts(&rows);
            }
        }
    });
    assert_eq!(pages, shown);

    let wrong = |condition: &str, text: &str| {
        let condition = Some(condition.to_owned());
        refused(all(TableQuestion { condition, ..question("orders") }, 0), "E-ARGUMENT", text);
    };
    wrong("amonut > 1", "column 1: there is no column `amonut` (did you mean `amount`?)");
    wrong("amount +", "where: column");
    wrong("amount", "it must be true or false for a row, but is a float");
    wrong("100 / (item - 105) > 0", "of the row user=u12, item=105: division by zero");
    wrong(&format!("{}user = 'a'", "NOT ".repeat(8000)), "it is longer than");
    wrong(&"(".repeat(4000), "where: column");
    let columns = vec!["itm".to_owned()];
    refused(
        all(TableQuestion { columns, ..question("orders") }, 0),
        "E-ARGUMENT",
        "did you mean item?",
    );
    let pipeline = Some("shops".to_owned());
    refused(all(TableQuestion { pipeline, ..question("orders") }, 0), "E-PIPELINE", "shop");
    running.stop();
}

/// Follows until everything up to an epoch was told.
async fn upto(follow: &mut TableFollow, epoch: u64, rows: &mut Rows, told: &mut Vec<TableChange>) {
    loop {
        let change = follow.next().await.unwrap().expect("it goes on");
        add(rows, &change.rows);
        let done = change.complete && change.epoch >= epoch;
        told.push(change);
        if done {
            return;
        }
    }
}

#[test]
fn a_follower_that_comes_back_sees_each_change_once() {
    for shape in [Shape::ALONE, Shape::new(1, 3), Shape::new(2, 2)] {
        let site = Site::new(NODE, ORDERS);
        let running = site.start(shape);
        let mut rows = Rows::new();
        let mut told = Vec::new();
        let mut seen = None;
        for number in 1..=6 {
            let sent = running.submit(&format!("{number}.csv"), &orders(number));
            running.ask(async {
                let mut follow =
                    running.client().subscribe(&question("totals"), seen).await.unwrap();
                upto(&mut follow, sent.epoch, &mut rows, &mut told).await;
            });
            seen = Some(told.last().unwrap().epoch);
            let scan = running.ask(scanned(running.client(), &question("totals"))).unwrap();
            assert_eq!(scan, (sent.epoch, rows.clone()), "{shape}, file {number}");
        }
        assert!(told.iter().skip(1).all(|one| one.epoch == 1 || !one.snapshot), "{told:?}");
        // Of each key first what is taken back.
        for change in told.iter().filter(|one| !one.snapshot) {
            for pair in change.rows.windows(2).filter(|pair| pair[0].cells[0] == pair[1].cells[0]) {
                assert!(pair[0].times < 0 && pair[1].times > 0, "{change:?}");
            }
        }
        let totals = question("totals");
        let ahead = running.client().subscribe(&totals, Some(99));
        refused(running.ask(ahead).map(drop), "E-EPOCH", "epoch 99 has not come yet");
        running.stop();
    }
}

/// Prints what a client command says, as lines.
fn said(running: &Running<'_>, arguments: &[&str]) -> Vec<String> {
    running.call(arguments).expect_code(0).stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_person_reads_tables_with_the_command() {
    let site = Site::new(NODE, ORDERS);
    let running = site.start(Shape::ALONE);
    let sent = running.submit("a.csv", &orders(1));
    running.wait(sent.id);
    let tables = said(&running, &["tables"]);
    assert!(tables[1].starts_with("shop      totals    20"), "{tables:?}");
    let tables = said(&running, &["tables", "--json"]).join("\n");
    assert!(tables.contains(r#""key":["user","item"]"#), "{tables}");
    let rows = said(&running, &["table", "totals", "--key", "user=u07"]);
    assert_eq!(rows, ["user  orders  spent", "u07        1    0.5", "1 rows as of epoch 1"]);
    let rows = said(&running, &["table", "totals", "--limit", "2", "--csv"]);
    assert_eq!(rows, ["user,orders,spent", "u00,1,16.5", "u01,1,17.5"]);
    let rows = said(&running, &["table", "orders", "--where", "item = 100", "--json"]);
    let expected =
        r#"{"user":"u07","item":100,"amount":0.5,"paid":null,"at":"2026-01-01T00:00:00Z"}"#;
    assert_eq!(rows, [expected]);
    let ended = running.call(&["table", "total"]);
    ended.expect_code(1);
    assert!(ended.stderr.contains("did you mean totals?"), "{}", ended.stderr);
    running.stop();
}
