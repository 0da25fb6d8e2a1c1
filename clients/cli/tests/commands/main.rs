//! The commands as they are typed, and what they print.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod canned;

use std::io::{self, Write};

use clap::Parser;
use tidemill_cli::{ClientCommand, Output, execute};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: ClientCommand,
}

async fn run(out: &mut (dyn Write + Send), line: &[&str]) -> anyhow::Result<u8> {
    let address = canned::start().await;
    let mut words = vec!["tidemill"];
    words.extend(line);
    words.extend(["--server", &address]);
    let command = Line::try_parse_from(words)?.command;
    execute(command, &mut Output { out, colours: false, progress: false }).await
}

/// Runs a command and compares its exit code and what it prints.
async fn check(line: &[&str], code: u8, expected: &str) {
    let mut out = Vec::new();
    assert_eq!(run(&mut out, line).await.unwrap(), code, "{line:?}");
    let printed = String::from_utf8(out).unwrap();
    assert_eq!(printed, expected, "{line:?} printed:\n{printed}");
}

#[tokio::test]
async fn files_is_a_table_newest_first_over_all_pages() {
    check(&["files"], 0, include_str!("expected/files.txt")).await;
    check(&["files", "--limit", "1"], 0, include_str!("expected/files-1.txt")).await;
    check(&["files", "--json"], 0, include_str!("expected/files.jsonl")).await;
}

#[tokio::test]
async fn file_shows_every_fact_on_a_line() {
    check(&["file", "1"], 0, include_str!("expected/file-committed.txt")).await;
    check(&["file", "2"], 0, include_str!("expected/file-quarantined.txt")).await;
    check(&["file", "3"], 0, include_str!("expected/file-reading.txt")).await;
    check(&["file", "2", "--json"], 0, include_str!("expected/file.json")).await;
    let error = run(&mut Vec::new(), &["file", "9"]).await.unwrap_err();
    assert_eq!(error.to_string(), "no submission has that id");
}

#[tokio::test]
async fn stats_are_summed_unless_workers_are_asked_for() {
    check(&["stats"], 0, include_str!("expected/stats.txt")).await;
    check(&["stats", "--workers"], 0, include_str!("expected/stats-workers.txt")).await;
    check(&["stats", "--json"], 0, include_str!("expected/stats.json")).await;
    check(&["stats", "--workers", "--json"], 0, include_str!("expected/stats-workers.json")).await;
}

#[tokio::test]
async fn retry_tells_the_new_submission_or_why_there_is_none() {
    check(&["retry", "1"], 0, "1 bad.jsonl: retried as 11\n").await;
    let refused = "2: submission 2 was tried again as 7\n";
    check(&["retry", "2"], 1, refused).await;
    check(&["retry", "--all"], 1, refused).await;
    check(&["retry", "--all", "--code", "other"], 0, "nothing in quarantine matches\n").await;
}

#[tokio::test]
async fn remove_tells_the_removal_or_why_there_is_none() {
    check(&["remove", "1"], 0, "9  1  removes 1  reading\n").await;
    // What looks like a number may be a name.
    check(&["remove", "--by-name", "2"], 0, "9  2  removes 2  reading\n").await;
    check(&["remove", "3"], 1, "3: it was removed before, by 9\n").await;
    let both = "9  1  removes 1  reading\nother.csv: it was removed before, by 9\n";
    check(&["remove", "1", "other.csv"], 1, both).await;
}

#[tokio::test]
async fn latency_is_a_row_for_each_stage() {
    check(&["latency"], 0, include_str!("expected/latency.txt")).await;
    check(&["latency", "--json"], 0, include_str!("expected/latency.json")).await;
}

#[tokio::test]
async fn submit_prints_a_line_for_each_file_and_says_by_its_code_what_became_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, b"12345").unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (good, bad) = (path("good.jsonl"), path("bad.gz"));
    check(&["submit", &good], 0, "1  good.jsonl  accepted\n").await;
    check(&["submit", &bad], 0, "2  bad.gz  accepted\n").await;
    check(&["submit", &bad, "--name", "x"], 0, "1  x  accepted\n").await;
    check(&["submit", &good, "--wait"], 0, "1  good.jsonl  committed\n").await;
    let quarantined = "2  bad.gz  quarantined  bad_format: not gzip\n";
    check(&["submit", &bad, "--wait"], 3, quarantined).await;
    let json = include_str!("expected/submit.jsonl");
    check(&["submit", &bad, "--wait", "--json"], 3, json).await;

    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    check(&["submit", &missing], 1, "").await;
    let mut out = Vec::new();
    let line = ["submit", &missing, &bad, &good, "--wait", "--parallel", "2"];
    assert_eq!(run(&mut out, &line).await.unwrap(), 1, "a failure says more than a quarantine");
    let printed = String::from_utf8(out).unwrap();
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["1  good.jsonl  committed", quarantined.trim_end()]);

    let error = run(&mut Vec::new(), &["submit", &good, &bad, "--name", "x"]).await.unwrap_err();
    assert_eq!(error.to_string(), "--name is for one file; 2 were given");
}

#[tokio::test]
async fn a_reader_that_stops_reading_ends_a_command_in_peace() {
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    for line in [&["files"][..], &["file", "1"], &["stats", "--watch"], &["latency", "--json"]] {
        assert_eq!(run(&mut Closed, line).await.unwrap(), 0, "{line:?}");
    }
}

#[test]
fn help_names_the_server_and_what_it_may_be_set_by() {
    let help = match Line::try_parse_from(["tidemill", "files", "--help"]) {
        Err(help) => help.to_string(),
        Ok(_) => unreachable!("help is not a command"),
    };
    assert!(help.contains("TIDEMILL_SERVER"), "{help}");
    assert!(help.contains("http://127.0.0.1:7171"), "{help}");
}
