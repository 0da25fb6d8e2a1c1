//! First pipelines: what `tidemill new` writes from samples checks, holds its own tests and runs; what is
//! no sample gets a clear answer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// A csv file of each kind of column.
const SALES: &str = "day,item,quantity,price,member_id\n\
    2026-01-02T10:00:00Z,tea,2,12.5,007\n\
    2026-01-02T10:05:00Z,\"pot, blue\",1,30,\n\
    2026-01-02T11:00:00Z,tea,4,12.25,012\n";

fn call(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } =
        Command::new(NODE).current_dir(folder).args(arguments).output().unwrap();
    let printed = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (status.code().unwrap(), printed)
}

fn folder_with(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// Drafts from files, checks, tests and runs what was drafted on the same files; returns it.
#[track_caller]
fn check(files: &[(&str, &[u8])], sinks: &[&str]) -> String {
    let folder = folder_with(files);
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let (code, printed) = call(folder.path(), &[&["new"], &names[..]].concat());
    assert_eq!(code, 0, "{printed}");
    let yaml = fs::read_to_string(folder.path().join("pipeline.yaml")).unwrap();
    for command in ["check", "test"] {
        let (code, printed) = call(folder.path(), &[command, "pipeline.yaml"]);
        assert_eq!(code, 0, "{command}: {printed}\n{yaml}");
    }
    let name = yaml.lines().find_map(|line| line.strip_prefix("pipeline: ")).unwrap();
    let home = folder.path().join("tidemill-home").join(name);
    fs::create_dir_all(home.join("unprocessed")).unwrap();
    for name in &names {
        fs::copy(folder.path().join(name), home.join("unprocessed").join(name)).unwrap();
    }
    let run =
        ["run", "pipeline.yaml", "--once", "--quiet", "10ms", "-w", "1", "--grpc", "127.0.0.1:0"];
    let (code, printed) = call(folder.path(), &run);
    assert_eq!(code, 0, "{printed}\n{yaml}");
    for sink in sinks {
        let listed = fs::read_dir(home.join("out").join(sink)).map(Iterator::count);
        assert!(listed.is_ok_and(|count| count > 0), "{sink} is empty\n{yaml}");
    }
    yaml
}

#[test]
fn a_pipeline_from_a_csv_file_is_as_it_was_promised() {
    let yaml = check(&[("sales-2026-01.csv", SALES.as_bytes())], &["sales_good", "sales_by_item"]);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/new-sales.yaml");
    assert_eq!(yaml, fs::read_to_string(golden).unwrap(), "{yaml}");
}

#[test]
fn an_object_that_is_sometimes_missing_is_none_of_the_columns() {
    let users =
        b"{\"id\":1,\"user\":{\"name\":\"ann\",\"at\":{\"x\":1}}}\n{\"id\":2,\"user\":null}\n\
        {\"id\":3,\"user\":{}}\n{\"id\":4,\"user\":{\"name\":\"bob\",\"at\":null}}\n";
    let yaml = check(&[("users.jsonl", users)], &["users_good"]);
    assert!(yaml.contains("user_name: { type: string, path: \"user.name\" }"), "{yaml}");
    assert!(yaml.contains("user_at_x: { type: int, path: \"user.at.x\" }"), "{yaml}");
    assert!(!yaml.contains("always empty") && !yaml.contains(" user: "), "{yaml}");
    assert!(!yaml.contains("rejects:"), "{yaml}");
}

#[test]
fn every_kind_of_sample_gives_a_pipeline_that_runs() {
    let gz = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let events = b"{\"at\":\"2026-01-01T00:00:00Z\",\"user\":{\"id\":7},\"kind\":\"in\",\"v\":1.5}\n{\"at\":null,\"user\":{\"id\":8},\"kind\":\"in\",\"v\":2}\n";
    let zst = zstd::encode_all(&b"203.0.113.9 - - [10/Oct/2026:13:55:36 +0000] \"GET /a HTTP/1.1\" 200 2326\n203.0.113.9 - - [10/Oct/2026:13:55:36 +0000] \"GET /a HTTP/1.1\" 404 -\n"[..], 3).unwrap();
    let yaml = check(
        &[
            ("events-1.jsonl.gz", &gz(events)),
            ("access.log.zst", &zst),
            ("rates.csv", b"code;rate\nEUR;1.5\nUSD;1\nEUR;x\n"),
            ("notes.txt", b"all is well\nan ERROR came\n"),
        ],
        &["events_good", "events_by_kind", "access_good", "rates_good", "notes_kind_error"],
    );
    assert!(yaml.contains("rate: string"), "{yaml}");
    assert!(yaml.contains("pattern: \"events-*.jsonl*\""), "{yaml}");
}

#[test]
fn what_looks_like_a_parameter_is_text_in_a_draft() {
    let text = "who,said,${n}\nann,${HOME} and $${x,1\nann,$,2\nbob,${,3\n";
    let yaml = check(&[("said.csv", text.as_bytes())], &["said_good"]);
    assert!(yaml.contains("said: \"$${HOME} and $$${x\""), "{yaml}");
}

#[test]
fn a_draft_without_a_test_says_why_and_what_to_do() {
    let long = "so long ".repeat(10_000);
    let folder = folder_with(&[("log.txt", long.as_bytes())]);
    let (code, printed) = call(folder.path(), &["new", "log.txt"]);
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("no test, since no first record of the samples can"), "{printed}");
    assert!(printed.contains("  tidemill check pipeline.yaml\n"), "{printed}");
}

#[test]
fn records_that_are_rejected_are_expected_so() {
    let lines = "{\"a\":1,\"b\":\"x\"}\nno json\n{\"a\":2,\"b\":\"x\"}\n";
    let yaml = check(&[("in.jsonl", lines.as_bytes())], &["in_good", "rejects"]);
    assert!(yaml.contains("- { line: 2, operator: \"in\", code: \"syntax\" }"), "{yaml}");
}

#[test]
fn nothing_is_overwritten() {
    let folder = folder_with(&[("a.csv", b"a,b\n1,2\n"), ("pipeline.yaml", b"mine")]);
    let (code, printed) = call(folder.path(), &["new", "a.csv"]);
    assert_eq!(code, 2);
    assert_eq!(
        printed,
        "error: pipeline.yaml is there already, and is left as it is; write elsewhere with --out FILE\n"
    );
    assert_eq!(fs::read(folder.path().join("pipeline.yaml")).unwrap(), b"mine");
    let (code, printed) =
        call(folder.path(), &["new", "a.csv", "--out", "b.yaml", "--name", "b", "--json"]);
    assert_eq!(code, 0, "{printed}");
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&report["pipeline"], &report["tests"]), (&"b".into(), &1.into()));
    let (code, printed) =
        call(folder.path(), &["new", "a.csv", "--out", "c.yaml", "--name", "a b"]);
    assert_eq!(code, 2, "{printed}");
    assert!(!folder.path().join("c.yaml").exists());
}

#[test]
fn what_is_no_sample_is_refused_and_nothing_is_written() {
    let folder =
        folder_with(&[("empty.csv", b""), ("a.zip", b"PK\x03\x04xx"), ("good.csv", b"a,b\n1,2\n")]);
    let at = |name: &str| folder.path().join(name);
    // A file of 1 GiB that takes no room: only its beginning is read.
    let big = fs::File::create(at("big.txt")).unwrap();
    big.set_len(1 << 30).unwrap();
    fs::write(at("long.txt"), "x".repeat(3 << 20)).unwrap();
    fs::create_dir(at("folder")).unwrap();
    let gz = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let cut = gz(&b"a,b\n1,2\n".repeat(1_000));
    fs::write(at("cut.gz"), &cut[..cut.len() / 2]).unwrap();
    let refused = |name: &str, reason: &str| {
        let (code, printed) = call(folder.path(), &["new", "good.csv", name]);
        assert_eq!(code, 2, "{printed}");
        assert!(printed.starts_with(&format!("error: {name}: {reason}")), "{printed}");
    };
    refused("empty.csv", "it is empty");
    refused("a.zip", "it is a zip archive");
    refused("big.txt", "it is binary");
    refused("long.txt", "its first 1048576 bytes have no line end");
    refused("folder", "it is no plain file");
    refused("nowhere", "read: No such file");
    refused("cut.gz", "gzip data is damaged or cut off");
    assert!(!at("pipeline.yaml").exists());
}
