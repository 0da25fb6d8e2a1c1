//! The runner through its command line, with stand-ins for the engine: one that is right, one that
//! is wrong, one that fails. The peers run for real where they are installed.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tidemill_bench::generate::{self, Dataset, Shape};

const BENCH: &str = env!("CARGO_BIN_EXE_tidemill-bench");

/// Obeys `run PIPELINE --home HOME ...` and `submit FILE ...` as far as the runner can see.
///
/// `BENCH limit` does the work; `$1` is the command, `$2` the pipeline file or the file to submit.
const STAND_IN: &str = r#"#!/bin/sh
set -eu
if [ "$1" = submit ]; then
    home=$(cat "$0.home")/j7 name=$(basename "$2")
    cp "$2" "$home/.$name" && mv "$home/.$name" "$home/unprocessed/$name"
    until [ -e "$home/processed/$name" ]; do :; done
    exit 0
fi
job=$(basename "$2" .yaml) home=$4
[ "$3" = --home ] && [ -s "$2" ]
if [ "$job" != j7 ]; then
    exec BENCH limit "$job" "$home/$job/unprocessed" "$home/$job/out"
fi
printf %s "$home" > "$0.home"
mkdir -p "$home/j7/processed" "$home/j7/under"
while :; do
    for file in "$home/j7/unprocessed"/*; do
        [ -e "$file" ] || continue
        mv "$file" "$home/j7/under/"
        BENCH limit j4 "$home/j7/under" "$home/j7/out"
        mv "$home/j7/under"/* "$home/j7/processed/"
    done
done
"#;

/// Runs `tidemill-bench run` over tiny data with a stand-in made of this script.
fn run(script: &str, arguments: &[&str]) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for (dataset, files) in [(Dataset::WeblogJsonl, 3), (Dataset::Small, 16)] {
        let shape = Shape { files, records: 500, ..dataset.full() };
        generate::write(dataset, shape, &data.join(dataset.name())).unwrap();
    }
    let tidemill = folder.path().join("tidemill");
    fs::write(&tidemill, script.replace("BENCH", BENCH)).unwrap();
    fs::set_permissions(&tidemill, fs::Permissions::from_mode(0o755)).unwrap();
    let json = folder.path().join("report.json");
    let mut command = Command::new(BENCH);
    command.arg("run").arg("--data").arg(&data).arg("--tidemill").arg(&tidemill);
    command.arg("--json").arg(&json).args(["--timeout", "60"]).args(arguments);
    let output = command.output().unwrap();
    assert_eq!(entries(&data.join("work")), 0, "the runs are not removed");
    (output, fs::read_to_string(&json).unwrap_or_default())
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[track_caller]
fn check(script: &str, arguments: &[&str], code: i32, expected: &[&str]) {
    let (output, json) = run(script, arguments);
    let markdown = String::from_utf8_lossy(&output.stdout);
    let said = format!("{markdown}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}");
    for text in expected {
        assert!(markdown.contains(text), "{text} is not in\n{said}");
    }
    assert!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["machine"].is_object());
}

#[test]
fn contestants_that_agree_are_measured() {
    let rows = ["| limit | **", "| tidemill | **0.", "| mawk | "];
    check(STAND_IN, &["--jobs", "j1,j2,j4", "--runs", "2"], 0, &rows);
}

#[test]
fn single_files_are_measured_on_a_running_engine() {
    let rows = ["until the last output | 5 | **", "until processed | 5 | **", "submit --wait`"];
    check(STAND_IN, &["--jobs", "j7", "--latency-files", "5"], 0, &rows);
}

#[test]
fn other_output_is_a_failure_with_the_difference() {
    let lying = STAND_IN.replace("exec BENCH", "BENCH").replace(
        "\"$home/$job/out\"\nfi",
        "\"$home/$job/out\"\n    echo extra >> \"$home/$job/out/ok/weblog-01.jsonl\"\n    exit 0\nfi",
    );
    let expected = ["| tidemill | **FAILED**", "ok/weblog-01.jsonl from byte", "| limit | **"];
    check(&lying, &["--jobs", "j2", "--runs", "1"], 1, &expected);
}

#[test]
fn an_exit_code_is_a_failure_with_what_was_said() {
    let broken = "#!/bin/sh\necho the disk is full >&2\nexit 74\n";
    let expected = ["**tidemill FAILED**: it ended with exit code 74", "the disk is full"];
    check(broken, &["--jobs", "j1", "--runs", "1"], 1, &expected);
}

#[test]
fn a_named_binary_that_is_not_there_is_an_error() {
    let output =
        Command::new(BENCH).args(["run", "--tidemill", "/no/such/binary"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("find the tidemill binary"));
}
