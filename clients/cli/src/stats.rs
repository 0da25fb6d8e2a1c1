//! Stats: what each operator does, summed over the workers or one row for each.

use std::time::Duration;

use serde_json::json;
use tidemill_client::{Client, Frontier, Operator};
use tokio::time::MissedTickBehavior;

use crate::command::Stats;
use crate::output::Output;
use crate::table::{Cell, Side, Table};
use crate::{human, json};

/// How often `--watch` prints.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Puts the cursor to the top and clears the screen.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Runs `stats`.
pub(crate) async fn run(command: Stats, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let client = Client::connect(&command.common.server).await?;
    let mut tick = tokio::time::interval(WATCH_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let stats = client.stats(command.pipeline.as_deref()).await?;
        let (generation, mut rows) = (stats.generation, stats.operators);
        if !command.workers {
            rows = summed(rows);
        }
        let conditions = client.conditions().await?;
        if command.common.json {
            let operators: Vec<_> =
                rows.iter().map(|row| json::operator(row, command.workers)).collect();
            writeln!(
                output.out,
                "{}",
                json!({
                    "generation": generation,
                    "operators": operators,
                    "conditions": conditions.iter().map(json::condition).collect::<Vec<_>>(),
                })
            )?;
        } else {
            let clear = if command.watch && output.colours { CLEAR } else { "" };
            let text = table(&rows, command.workers).text(output.colours);
            // A reader that is not a terminal sees a free line between two tables.
            let gap = if command.watch && !output.colours { "\n" } else { "" };
            let waits = human::conditions(&conditions);
            write!(output.out, "{clear}{waits}{text}{gap}")?;
        }
        output.out.flush()?;
        if !command.watch {
            return Ok(0);
        }
    }
}

/// Adds up the rows of each operator, in the order in which operators first appear.
fn summed(rows: Vec<Operator>) -> Vec<Operator> {
    let mut sums: Vec<Operator> = Vec::new();
    for row in rows {
        let same = |sum: &&mut Operator| {
            sum.pipeline == row.pipeline && sum.operator == row.operator && sum.kind == row.kind
        };
        match sums.iter_mut().find(same) {
            Some(sum) => add(sum, &row),
            None => sums.push(row),
        }
    }
    sums
}

fn add(sum: &mut Operator, row: &Operator) {
    let counts = [
        (&mut sum.records_in, row.records_in),
        (&mut sum.records_out, row.records_out),
        (&mut sum.bytes_in, row.bytes_in),
        (&mut sum.bytes_out, row.bytes_out),
        (&mut sum.rejected, row.rejected),
        (&mut sum.elapsed_ns, row.elapsed_ns),
        (&mut sum.activations, row.activations),
        (&mut sum.state_entries, row.state_entries),
        (&mut sum.state_bytes, row.state_bytes),
        (&mut sum.retained_bytes, row.retained_bytes),
    ];
    for (sum, value) in counts {
        *sum = sum.saturating_add(value);
    }
    // The same on each row, but the rows may have been looked at one after the other.
    sum.backlog = sum.backlog.max(row.backlog);
    // The one furthest behind; a worker that can see no more input holds nobody back.
    sum.frontier = match (sum.frontier, row.frontier) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
}

fn table(rows: &[Operator], per_worker: bool) -> Table {
    let mut head = vec![("PIPELINE", Side::Left), ("OPERATOR", Side::Left), ("KIND", Side::Left)];
    if per_worker {
        head.push(("WORKER", Side::Right));
    }
    head.extend([
        ("IN", Side::Right),
        ("OUT", Side::Right),
        ("REJECTED", Side::Right),
        ("BYTES IN", Side::Right),
        ("BYTES OUT", Side::Right),
        ("TIME", Side::Right),
        ("BACKLOG", Side::Right),
        ("STATE", Side::Right),
        ("MEMORY", Side::Right),
        ("FRONTIER", Side::Right),
    ]);
    // Only where something is: most pipelines keep nothing for corrections.
    let retains = rows.iter().any(|row| row.retained_bytes > 0);
    if retains {
        head.push(("RETAINED", Side::Right));
    }
    let mut table = Table::new(&head);
    for row in rows {
        let mut cells: Vec<Cell> = vec![
            human::name(&row.pipeline).into(),
            human::name(&row.operator).into(),
            human::name(&row.kind).into(),
        ];
        if per_worker {
            cells.push(row.worker.to_string().into());
        }
        let frontier = row.frontier.map_or("-".to_owned(), |time: Frontier| time.to_string());
        cells.extend([
            human::count(row.records_in).into(),
            human::count(row.records_out).into(),
            human::count(row.rejected).into(),
            human::bytes(row.bytes_in).into(),
            human::bytes(row.bytes_out).into(),
            human::duration(Duration::from_nanos(row.elapsed_ns)).into(),
            human::count(row.backlog).into(),
            human::count(row.state_entries).into(),
            human::bytes(row.state_bytes).into(),
            frontier.into(),
        ]);
        if retains {
            cells.push(human::bytes(row.retained_bytes).into());
        }
        table.row(cells);
    }
    table
}
