//! Dry run: what a correction would change is printed, and whoever sits at a terminal is asked.

use std::io::{BufRead, IsTerminal};

use serde_json::{Value, json};
use tidemill_client::{DryRun, Error, OutputChange};

use crate::output::Output;
use crate::{human, json};

/// How a correction is decided on that was only tried.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// Whether it is to be made without a question.
    pub(crate) yes: bool,
    /// Whether a program reads the answer: it is never asked.
    pub(crate) json: bool,
}

/// Prints what would change, and returns whether to make the change. What would be set aside is not
/// offered.
pub(crate) fn show(
    told: &DryRun,
    given: &str,
    asked: Asked,
    output: &mut Output<'_>,
) -> std::io::Result<bool> {
    if asked.json {
        writeln!(output.out, "{}", value(told))?;
    } else {
        text(told, given, output)?;
    }
    output.out.flush()?;
    if told.failure.is_some() {
        return Ok(false);
    }
    if asked.yes || asked.json {
        return Ok(asked.yes);
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(false);
    }
    #[allow(clippy::print_stderr, reason = "a question to whoever sits at the terminal")]
    {
        eprint!("make this change? [y/N] ");
    }
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Prints why a correction was not tried.
pub(crate) fn refused(
    given: &str,
    error: &Error,
    as_json: bool,
    output: &mut Output<'_>,
) -> std::io::Result<()> {
    match as_json {
        true => writeln!(output.out, "{}", json::failure(given, error)),
        false => writeln!(output.out, "{}: {}", human::name(given), json::chain(error)),
    }
}

fn text(told: &DryRun, given: &str, output: &mut Output<'_>) -> std::io::Result<()> {
    let out = &mut *output.out;
    let given = human::name(given);
    let what = match (told.removes, told.corrects) {
        (true, Some(id)) => format!("{given}: {id} would be removed"),
        (_, Some(id)) => format!("{given} in the place of {id}"),
        (_, None) => format!("{given}: there is nothing to replace, it would be one more file"),
    };
    let records = match told.removes {
        true => String::new(),
        false => format!(", {} records, {} rejected", told.records, told.rejected),
    };
    writeln!(out, "{what}{records}; nothing is changed")?;
    if let Some(reason) = &told.failure {
        let (code, text) = (human::name(&reason.code), human::name(&reason.text));
        return writeln!(out, "  it would be set aside  {code}: {text}");
    }
    for sink in &told.sinks {
        let counts = [
            (sink.new, "new"),
            (sink.replaced, "replaced"),
            (sink.removed, "removed"),
            (sink.same, "the same"),
        ];
        writeln!(out, "  {}/  {}", human::name(&sink.sink), counted(&counts))?;
        let folder = format!("{}/", sink.sink);
        let mine = told.outputs.iter().filter(|one| one.path.starts_with(&folder));
        for OutputChange { path, before, after } in mine {
            let size = |bytes: &Option<u64>| match bytes {
                None => "nothing".to_owned(),
                Some(bytes) => format!("{bytes} B"),
            };
            writeln!(out, "    {}  {} -> {}", human::name(path), size(before), size(after))?;
        }
    }
    for table in &told.tables {
        let counts =
            [(table.added, "added"), (table.removed, "removed"), (table.changed, "changed")];
        writeln!(out, "  table {}  {}", human::name(&table.table), counted(&counts))?;
        for (before, after) in &table.sample {
            for (sign, row) in [('-', before), ('+', after)] {
                if let Some(row) = row {
                    writeln!(out, "    {sign} {}", human::name(row))?;
                }
            }
        }
        let rows = (table.added + table.removed + table.changed) as usize;
        if rows > table.sample.len() {
            writeln!(out, "    and {} more", rows - table.sample.len())?;
        }
    }
    Ok(())
}

fn counted(counts: &[(u64, &str)]) -> String {
    let some = counts.iter().filter(|(count, _)| *count > 0);
    some.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn value(told: &DryRun) -> Value {
    // A row is JSON already; one that is not would be ours to see as a text.
    let row = |row: &Option<String>| {
        row.as_ref().map(|row| serde_json::from_str(row).unwrap_or_else(|_| json!(row)))
    };
    let sinks = told.sinks.iter().map(|one| {
        json!({ "sink": one.sink, "new": one.new, "replaced": one.replaced,
                "removed": one.removed, "same": one.same })
    });
    let outputs = told.outputs.iter();
    let outputs =
        outputs.map(|one| json!({ "path": one.path, "before": one.before, "after": one.after }));
    let tables = told.tables.iter().map(|one| {
        let sample = one.sample.iter();
        let sample = sample.map(|(b, a)| json!({ "before": row(b), "after": row(a) }));
        json!({ "table": one.table, "added": one.added, "removed": one.removed,
                "changed": one.changed, "sample": sample.collect::<Vec<_>>() })
    });
    json!({
        "dry_run": true,
        "pipeline": told.pipeline,
        "name": told.name,
        "corrects": told.corrects,
        "removes": told.removes,
        "failure": told.failure.as_ref().map(|reason| json!({
            "code": reason.code,
            "text": reason.text,
        })),
        "records": told.records,
        "rejected": told.rejected,
        "sinks": sinks.collect::<Vec<_>>(),
        "outputs": outputs.collect::<Vec<_>>(),
        "tables": tables.collect::<Vec<_>>(),
        "took_us": told.took.as_micros() as u64,
    })
}
