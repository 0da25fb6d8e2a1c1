//! Tables: rows are found, scanned and followed while files come, each answer of one epoch, and what
//! is told adds up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tidemill_client::{Cell, Client, Error, TableChange, TableFollow, TableQuestion, TableRow};
use tidemill_tests::process::wait_until;
use tidemill_tests::{Process, Running, Shape, Site, Tree, tree};

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
        Cell::Decimal(digits) => digits.clone(),
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

    refused(find("totals", &[]), "bad_argument", "at least the first column");
    refused(find("orders", &[("item", Cell::Int(1))]), "bad_argument", "\"user\" is missing");
    refused(find("orders", &[("usr", text("x"))]), "bad_argument", "did you mean user?");
    refused(find("orders", &[("amount", text("1"))]), "bad_argument", "is not of the key");
    let item = [("user", text("u09")), ("item", text("many"))];
    refused(find("orders", &item), "bad_argument", "\"many\" is no int");
    refused(find("totls", &[("user", text("x"))]), "no_table", "did you mean totals?");
    refused(find("copies", &[("user", text("x"))]), "no_table", "writes files");
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
        refused(all(TableQuestion { condition, ..question("orders") }, 0), "bad_argument", text);
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
        "bad_argument",
        "did you mean item?",
    );
    let pipeline = Some("shops".to_owned());
    refused(all(TableQuestion { pipeline, ..question("orders") }, 0), "no_pipeline", "shop");
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
        refused(running.ask(ahead).map(drop), "epoch_ahead", "epoch 99 has not come yet");
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

/// The same with changelogs: of rows that change, of rows that only come, and of nothing else.
const LOGGED: &str = "\
pipeline: shop
sources:
  orders:
    format: csv
    pattern: \"*.csv\"
    fields: { user: string, item: int, amount: float, paid: bool, at: timestamp }
operators:
  per_user: { from: orders, aggregate: { by: [user], compute: { orders: count(*), spent: sum(amount) } } }
  paid: { from: per_user, filter: spent > 20 }
sinks:
  totals: { from: per_user, table: { format: csv, key: [user], changelog: true } }
  orders: { from: orders, table: { format: parquet, key: [user, item], changelog: { format: csv } } }
  log: { from: paid, table: { key: [user], snapshot: false, changelog: true } }
";

/// Adds up the changelog of a table whose files are csv; returns its rows, sorted.
fn added_up(out: &Tree, folder: &str) -> Vec<String> {
    let mut rows: BTreeMap<String, i64> = BTreeMap::new();
    let files = out.iter().filter(|(path, _)| path.starts_with(&format!("{folder}/")));
    for (path, bytes) in files {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let epoch: u64 = path[folder.len() + 1..][..12].parse().unwrap();
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("epoch,diff,user,"), "{text}");
        for line in lines {
            let mut parts = line.splitn(3, ',');
            assert_eq!(parts.next(), Some(epoch.to_string().as_str()), "{path}: {line}");
            let diff: i64 = parts.next().unwrap().parse().unwrap();
            assert!(diff == 1 || diff == -1, "{line}");
            let there = rows.entry(parts.next().unwrap().to_owned()).or_insert(0);
            *there += diff;
            assert!((0..=1).contains(there), "{path}: {line}: {there} times");
        }
    }
    rows.into_iter().filter(|(_, times)| *times > 0).map(|(row, _)| row).collect()
}

fn lines(out: &Tree, path: &str) -> Vec<String> {
    let text = String::from_utf8(out[path].clone()).unwrap();
    text.lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn the_changes_of_all_epochs_add_up_to_the_snapshot_on_any_number_of_workers() {
    let mut first: Option<Tree> = None;
    for shape in [Shape::ALONE, Shape::new(1, 2), Shape::new(2, 2)] {
        let site = Site::new(NODE, LOGGED);
        for number in 1..=5 {
            site.put(&format!("{number}.csv"), &orders(number));
        }
        // Nothing changes: no line of it is an order.
        site.put("6.csv", b"user,item,amount,paid,at\n");
        site.once(shape).expect_code(0);
        let out = site.out();
        assert_eq!(added_up(&out, "totals.changes"), lines(&out, "totals/totals.csv"), "{shape}");
        assert_eq!(added_up(&out, "orders.changes").len(), 100, "{shape}");
        let names: Vec<&String> =
            out.keys().filter(|path| path.starts_with("totals.changes/")).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert_eq!(*names[4], "totals.changes/000000000005-5.csv");
        assert!(out.contains_key("orders/orders.parquet"));
        assert!(!out.keys().any(|path| path.starts_with("log/")), "it has no snapshot");
        let log = String::from_utf8(out["log.changes/000000000005-5.csv.jsonl"].clone()).unwrap();
        assert!(log.starts_with(r#"{"epoch":5,"diff":-1,"user":"u"#), "{log}");
        match &first {
            None => first = Some(out),
            Some(first) => assert_eq!(tree::difference(first, &out), None, "{shape}"),
        }
        site.call(&["doctor", "home"]).expect_code(0);
    }
}

#[test]
fn a_changelog_is_written_once_however_often_the_server_is_killed() {
    let undisturbed = Site::new(NODE, LOGGED);
    let disturbed = Site::new(NODE, LOGGED);
    for number in 1..=8 {
        undisturbed.put(&format!("{number}.csv"), &orders(number));
    }
    undisturbed.once(Shape::ALONE).expect_code(0);
    for number in 1..=8_u64 {
        let running = disturbed.start(Shape::new(1, 2));
        disturbed.put(&format!("{number}.csv"), &orders(number));
        // At whatever it is doing: from nothing at all up to everything.
        let upto = running.ask(running.client().pipelines()).unwrap()[0].committed;
        if number % 2 == 0 {
            running.wait_for_finished(number);
        } else if number % 3 == 0 {
            let name = format!("{number}.csv");
            wait_until("it is claimed", || !disturbed.names("unprocessed").contains(&name));
        }
        assert!(upto < number);
        running.kill();
    }
    disturbed.once(Shape::ALONE).expect_code(0);
    let (expected, found) = (undisturbed.out(), disturbed.out());
    assert_eq!(added_up(&found, "totals.changes"), lines(&found, "totals/totals.csv"));
    assert_eq!(tree::difference(&expected, &found), None);
    disturbed.call(&["doctor", "home"]).expect_code(0);
}

#[test]
fn a_follower_goes_on_behind_a_restart_or_is_told_to_begin_anew() {
    let site = Site::new(NODE, ORDERS);
    let mut rows = Rows::new();
    let mut told = Vec::new();
    let running = site.start(Shape::new(1, 2));
    for number in 1..=3 {
        running.wait(running.submit(&format!("{number}.csv"), &orders(number)).id);
    }
    running.ask(async {
        let mut follow = running.client().subscribe(&question("totals"), None).await.unwrap();
        upto(&mut follow, 3, &mut rows, &mut told).await;
    });
    running.kill();
    let running = site.start(Shape::ALONE);
    let totals = question("totals");
    // The command waits for that by itself.
    let follow = ["table", "totals", "--follow", "--json", "--after", "3"];
    let mut follower = site.command(&follow);
    let mut follower = Process::start(follower.args(["--server", &running.address]));
    // Until the table is whole it says so, and nothing else.
    wait_until("the table is whole", || {
        match running.ask(running.client().subscribe(&totals, Some(3))).map(drop) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.word(), Some("rebuilding"), "{error}");
                false
            }
        }
    });
    refused(
        running.ask(running.client().subscribe(&totals, Some(1))).map(drop),
        "epoch_forgotten",
        "take a new snapshot",
    );
    let mut follow = running.ask(running.client().subscribe(&totals, Some(3))).unwrap();
    let sent = running.submit("4.csv", &orders(4));
    running.ask(upto(&mut follow, sent.epoch, &mut rows, &mut told));
    assert_eq!(running.ask(scanned(running.client(), &totals)).unwrap(), (4, rows));
    let changed = follower.line(|line| line.contains("\"epoch\":4"));
    assert!(changed.is_some(), "{}", follower.ended());
    running.stop();
}

#[test]
fn a_table_that_cannot_be_asked_says_why() {
    let site = Site::new(NODE, LOGGED);
    let running = site.start(Shape::ALONE);
    running.wait(running.submit("1.csv", &orders(1)).id);
    refused(
        running.ask(running.client().scan(&question("log"), 0, &[])).map(drop),
        "keeps_no_rows",
        "out/log.changes/",
    );
    let tables = running.ask(running.client().tables(None)).unwrap();
    assert!(tables[2].unavailable.as_ref().unwrap().contains("snapshot: false"), "{tables:?}");
    running.stop();
}
