//! Tables: lists them, shows rows of one, and follows its changes.

use anyhow::{Context as _, bail};
use serde_json::json;
use tidemill_client::{
    Cell, Client, Column, Error, TableChange, TableFollow, TableInfo, TableQuestion, TableRow,
};

use crate::command::{TableRows, Tables};
use crate::output::Output;
use crate::table::{Cell as Shown, Side, Table};
use crate::{cells, human};

/// Rows that are shown as text unless more are asked for.
const TEXT_ROWS: u64 = 100;

/// Runs `tables`.
pub(crate) async fn list(command: Tables, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let tables = client.tables(command.pipeline.as_deref()).await?;
    if command.common.json {
        for table in &tables {
            writeln!(output.out, "{}", info(table))?;
        }
        return Ok(0);
    }
    let mut shown = Table::new(&[
        ("PIPELINE", Side::Left),
        ("TABLE", Side::Left),
        ("ROWS", Side::Right),
        ("MEMORY", Side::Right),
        ("EPOCH", Side::Right),
        ("KEY", Side::Left),
        ("COLUMNS", Side::Left),
    ]);
    for table in &tables {
        let names = |columns: &[Column]| {
            columns.iter().map(|one| human::name(&one.name)).collect::<Vec<_>>().join(", ")
        };
        let (key, rest) = table.columns.split_at(table.key.min(table.columns.len()));
        let columns = match &table.unavailable {
            Some(reason) => human::name(reason),
            None => names(rest),
        };
        shown.row(vec![
            human::name(&table.pipeline).into(),
            human::name(&table.name).into(),
            human::count(table.rows).into(),
            human::bytes(table.bytes + table.history_bytes).into(),
            table.epoch.to_string().into(),
            names(key).into(),
            columns.into(),
        ]);
    }
    output.out.write_all(shown.text(output.colours).as_bytes())?;
    Ok(0)
}

fn info(table: &TableInfo) -> serde_json::Value {
    let column = |column: &Column| json!({ "name": column.name, "type": column.kind });
    json!({
        "pipeline": table.pipeline,
        "table": table.name,
        "columns": table.columns.iter().map(column).collect::<Vec<_>>(),
        "key": table.columns.iter().take(table.key).map(|one| &one.name).collect::<Vec<_>>(),
        "rows": table.rows,
        "bytes": table.bytes,
        "history_bytes": table.history_bytes,
        "epoch": table.epoch,
        "unavailable": table.unavailable,
    })
}

/// Runs `table`.
pub(crate) async fn rows(command: TableRows, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let question = TableQuestion {
        pipeline: command.pipeline.clone(),
        table: command.table.clone(),
        condition: command.condition.clone(),
        columns: command.columns.clone(),
        key: key(&command, &client).await?,
    };
    let form = match (command.common.json, command.csv) {
        (true, _) => Form::Json,
        (_, true) => Form::Csv,
        _ => Form::Text,
    };
    match command.follow {
        true => follow(&client, &question, command.after, form, output).await,
        false => scan(&client, &question, command.limit, form, output).await,
    }
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    Csv,
}

/// Reads the key as it was typed; the server knows the types of the columns.
async fn key(command: &TableRows, client: &Client) -> anyhow::Result<Vec<(String, Cell)>> {
    let mut key = Vec::with_capacity(command.key.len());
    let mut tables = None;
    for part in &command.key {
        let Some((column, value)) = part.split_once('=') else {
            bail!("--key {part}: write COLUMN=VALUE");
        };
        let cell = if value.is_empty() {
            if tables.is_none() {
                tables = Some(client.tables(command.pipeline.as_deref()).await?);
            }
            let tables = tables.iter().flatten().filter(|table| table.name == command.table);
            let mut columns = tables.flat_map(|table| &table.columns);
            match columns.find(|one| one.name == column).map(|one| one.kind.as_str()) {
                Some("string") | None => Cell::Text(String::new()),
                Some(_) => Cell::Null,
            }
        } else {
            Cell::Text(value.to_owned())
        };
        key.push((column.to_owned(), cell));
    }
    Ok(key)
}

async fn scan(
    client: &Client,
    question: &TableQuestion,
    limit: Option<u64>,
    form: Form,
    output: &mut Output<'_>,
) -> anyhow::Result<u8> {
    let limit = limit.unwrap_or(if form == Form::Text { TEXT_ROWS } else { 0 });
    let mut scan = client.scan(question, limit, &[]).await?;
    let columns = scan.columns().to_vec();
    if form == Form::Csv {
        write!(output.out, "{}", head(&[], &columns))?;
    }
    let mut shown = Table::new(&sides(&columns));
    let mut count: u64 = 0;
    while let Some(rows) = scan.next().await.context("the rows before this are not all")? {
        for TableRow { cells, times } in &rows {
            for _ in 0..*times {
                count += 1;
                match form {
                    Form::Json => writeln!(output.out, "{}", cells::json(&columns, cells))?,
                    Form::Csv => write!(output.out, "{}", cells::csv(cells.iter()))?,
                    Form::Text => shown.row(texts(cells)),
                }
            }
        }
    }
    if form == Form::Text {
        output.out.write_all(shown.text(output.colours).as_bytes())?;
        let more = if scan.next_page().is_empty() { "" } else { "; --limit shows more" };
        let (count, epoch) = (human::count(count), scan.epoch());
        writeln!(output.out, "{count} rows as of epoch {epoch}{more}")?;
    }
    Ok(0)
}

fn sides(columns: &[Column]) -> Vec<(String, Side)> {
    let side = |column: &Column| match column.kind.as_str() {
        "int" | "float" => Side::Right,
        _ => Side::Left,
    };
    columns.iter().map(|column| (human::name(&column.name), side(column))).collect()
}

fn texts(cells: &[Cell]) -> Vec<Shown> {
    cells.iter().map(|cell| cells::text(cell).into()).collect()
}

fn head(before: &[&str], columns: &[Column]) -> String {
    let names = columns.iter().map(|column| cells::csv_text(&column.name));
    let all: Vec<String> = before.iter().map(|name| (*name).to_owned()).chain(names).collect();
    format!("{}\n", all.join(","))
}

/// How long a follower waits before it asks again for a table that is being rebuilt.
const REBUILDING_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

/// Prints rows and changes until it is interrupted, or the server says why it ends.
async fn follow(
    client: &Client,
    question: &TableQuestion,
    mut seen: Option<u64>,
    form: Form,
    output: &mut Output<'_>,
) -> anyhow::Result<u8> {
    let mut stream = subscribe(client, question, seen).await?;
    let columns = stream.columns().to_vec();
    if form == Form::Csv {
        write!(output.out, "{}", head(&["epoch", "diff"], &columns))?;
    }
    // Changes of an epoch of which not all have come: they are printed together, or not at all.
    let mut waiting: Vec<TableRow> = Vec::new();
    loop {
        let TableChange { epoch, snapshot, rows, complete } = match stream.next().await {
            Ok(Some(change)) => change,
            Ok(None) => bail!("the server has ended the stream"),
            Err(error) => {
                waiting.clear();
                stream = again(client, question, seen, error).await?;
                continue;
            }
        };
        waiting.extend(rows);
        if snapshot || complete {
            for row in waiting.drain(..) {
                print(form, epoch, &columns, &row, output)?;
            }
        }
        if complete {
            if form == Form::Text {
                writeln!(output.out, "-- epoch {epoch}")?;
            }
            seen = Some(epoch);
            output.out.flush()?;
        }
    }
}

/// Goes on behind what was seen, if the connection was lost behind the rows of the beginning.
async fn again(
    client: &Client,
    question: &TableQuestion,
    seen: Option<u64>,
    error: Error,
) -> anyhow::Result<TableFollow> {
    let lost = match &error {
        Error::Server { word, .. } => match word.as_deref() {
            None => true,
            Some(word) => matches!(word, "draining" | "starting" | "rebuilding"),
        },
        _ => false,
    };
    if !lost || seen.is_none() {
        return Err(error.into());
    }
    subscribe(client, question, seen).await
}

/// Begins to follow, and waits for that while a start rebuilds the table.
async fn subscribe(
    client: &Client,
    question: &TableQuestion,
    seen: Option<u64>,
) -> anyhow::Result<TableFollow> {
    loop {
        match client.subscribe(question, seen).await {
            Err(error) if error.word() == Some("rebuilding") => {
                // As long as the server says so: it has said how many files are left.
                tokio::time::sleep(REBUILDING_PAUSE).await;
            }
            answer => return Ok(answer?),
        }
    }
}

fn print(
    form: Form,
    epoch: u64,
    columns: &[Column],
    row: &TableRow,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let diff: i64 = if row.times < 0 { -1 } else { 1 };
    for _ in 0..row.times.unsigned_abs() {
        match form {
            Form::Json => {
                let row = cells::json(columns, &row.cells);
                writeln!(output.out, "{{\"epoch\":{epoch},\"diff\":{diff},\"row\":{row}}}")?;
            }
            Form::Csv => {
                let line = cells::csv(row.cells.iter());
                write!(output.out, "{epoch},{diff},{line}")?;
            }
            Form::Text => {
                let sign = if diff < 0 { '-' } else { '+' };
                let pairs = columns.iter().zip(&row.cells);
                let cells = pairs.map(|(column, cell)| {
                    format!("{}={}", human::name(&column.name), cells::text(cell))
                });
                writeln!(output.out, "{sign} {}", cells.collect::<Vec<_>>().join("  "))?;
            }
        }
    }
    Ok(())
}
