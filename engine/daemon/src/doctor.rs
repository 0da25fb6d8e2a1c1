//! Doctor: the command that examines a home. Prints what the store found; decides nothing.

use std::fmt::Write as _;

use tidemill_store::doctor::{self, Diagnosis, DoctorError, Severity};

use crate::flags::DoctorFlags;
use crate::{USAGE, complain, say};

/// `tidemill doctor`
pub fn doctor(flags: &DoctorFlags) -> anyhow::Result<u8> {
    let diagnosis = match doctor::examine(&flags.home, flags.deep) {
        Ok(diagnosis) => diagnosis,
        Err(error @ DoctorError::Missing { .. }) => {
            complain(&format!("error: {error}"));
            return Ok(USAGE);
        }
        Err(error) => return Err(error.into()),
    };
    let code = diagnosis.exit_code();
    if flags.json {
        let mut whole = serde_json::to_value(&diagnosis)?;
        whole["exit"] = code.into();
        say(format!("{}\n", serde_json::to_string_pretty(&whole)?).as_bytes())?;
    } else {
        say(text(&diagnosis).as_bytes())?;
    }
    Ok(code)
}

/// Returns a diagnosis for a person.
fn text(diagnosis: &Diagnosis) -> String {
    let Diagnosis { home, deep, facts, findings } = diagnosis;
    let mut text = format!("{}\n", home.display());
    // Writing to a string cannot fail.
    let mut line = |title: &str, value: String| {
        let _ = writeln!(text, "  {title:<12} {value}");
    };
    let running = facts.running.map_or("nobody".to_owned(), |pid| format!("process {pid}"));
    line("running", running);
    let (schema, generations) = (facts.schema, facts.generations);
    let (journal, log) = (bytes(facts.journal_bytes), bytes(facts.log_bytes));
    line("journal", format!("schema {schema}, {generations} lives, {journal} (log {log})"));
    line("pipelines", facts.pipelines.join(", "));
    let quarantined: u64 = facts.quarantined.values().sum();
    line(
        "files",
        format!(
            "{} committed, {quarantined} quarantined, {} under way, {} waiting, {} duplicates",
            facts.committed, facts.accepted, facts.waiting, facts.duplicates
        ),
    );
    for (code, count) in &facts.quarantined {
        line("", format!("{count} quarantined as {code}"));
    }
    let hashed = if *deep {
        format!("{} hashed", bytes(facts.hashed_bytes))
    } else {
        "nothing hashed (--deep does)".to_owned()
    };
    line("looked at", format!("{} outputs, {} receipts, {hashed}", facts.outputs, facts.receipts));
    if facts.retained_files > 0 {
        let (files, size) = (facts.retained_files, bytes(facts.retained_bytes));
        line("retained", format!("{files} inputs for corrections, {size}"));
    }
    let files = facts.free_files.map_or(String::new(), |files| format!(", {files} more files"));
    line("free", format!("{}{files}", bytes(facts.free_bytes)));
    for finding in findings {
        let place = match finding.pipeline.as_str() {
            "" => String::new(),
            pipeline => format!(" ({pipeline})"),
        };
        let times =
            if finding.count > 1 { format!(", {} times", finding.count) } else { String::new() };
        let _ = writeln!(
            text,
            "\n{} {}: {}{times}{place}",
            finding.severity.word(),
            finding.code,
            finding.what
        );
        for example in &finding.examples {
            let _ = writeln!(text, "    {}", printable(example));
        }
        if finding.count > finding.examples.len() as u64 {
            let _ = writeln!(text, "    ...");
        }
        let _ = writeln!(text, "  means: {}\n  do:    {}", finding.meaning, finding.action);
    }
    let count = |severity| findings.iter().filter(|one| one.severity == severity).count();
    let verdict = match (count(Severity::Damage), count(Severity::Warning)) {
        (0, 0) => "healthy".to_owned(),
        (0, warnings) => format!("{warnings} findings need a person"),
        (damage, warnings) => {
            format!("damaged: {damage} findings, and {warnings} more need a person")
        }
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

/// Returns a text with everything that could mislead a terminal escaped: names come from strangers.
fn printable(text: &str) -> String {
    let harmless = |letter: char| {
        let misleads = matches!(letter,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        !letter.is_control() && !misleads
    };
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if harmless(letter) {
            shown.push(letter);
        } else {
            shown.extend(letter.escape_unicode());
        }
    }
    shown
}

fn bytes(value: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{value} bytes") } else { format!("{scaled:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 40), "5.0 TiB");
    }

    #[test]
    fn names_cannot_write_to_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}"), "a\\u{1b}[2Jb\\u{202e}");
    }
}
