//! The hand-written programs against slow, obvious ones.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::generate::{self, Dataset, Shape};

type Outputs = BTreeMap<String, String>;

/// Runs a job over files in memory and returns every output by its path below OUT.
fn outputs_of(job: LimitJob, inputs: &[(&str, &str)]) -> Result<Outputs> {
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    fs::create_dir(&input)?;
    for (name, content) in inputs {
        fs::write(input.join(name), content)?;
    }
    run(job, &input, &output)?;
    let mut found = Outputs::new();
    for folder in fs::read_dir(&output)? {
        for file in fs::read_dir(folder?.path())? {
            let path = file?.path();
            let name = path.strip_prefix(&output)?.display().to_string();
            found.insert(name, fs::read_to_string(&path)?);
        }
    }
    Ok(found)
}

fn class_by_text(line: &str) -> Class {
    if line.contains("\"status\":5") {
        Class::ServerError
    } else if line.contains("\"status\":4") {
        Class::ClientError
    } else {
        Class::Ok
    }
}

/// Line by line, with the full parser and ordered maps.
fn oracle(job: LimitJob, inputs: &[(&str, &str)]) -> Outputs {
    let mut outputs = Outputs::new();
    let mut table: BTreeMap<(String, i64), (u64, i64, f64)> = BTreeMap::new();
    for (name, content) in inputs {
        for line in content.lines() {
            let class = if job == LimitJob::J1 {
                class_by_text(line)
            } else {
                let record: Value = serde_json::from_str(line).unwrap();
                let (host, status) = (&record["host"], record["status"].as_i64().unwrap());
                let row = table.entry((host.as_str().unwrap().to_owned(), status));
                let row = row.or_insert((0, 0, f64::MIN));
                row.0 += 1;
                row.1 += record["bytes"].as_i64().unwrap();
                row.2 = row.2.max(record["latency_ms"].as_f64().unwrap());
                Class::of(status)
            };
            let output = outputs.entry(format!("{}/{name}", class.name())).or_default();
            output.push_str(line);
            output.push('\n');
        }
    }
    if job != LimitJob::J1 {
        let rows = table.iter().map(|((host, status), (hits, bytes, worst))| {
            format!("{host},{status},{hits},{bytes},{worst}\n")
        });
        let csv = format!("{}\n{}", traffic::HEADER, rows.collect::<String>());
        outputs.insert("traffic/traffic.csv".into(), csv);
    }
    outputs
}

#[track_caller]
fn check(inputs: &[(&str, &str)]) {
    for job in [LimitJob::J1, LimitJob::J2, LimitJob::J4] {
        assert_eq!(outputs_of(job, inputs).unwrap(), oracle(job, inputs), "{job:?}");
    }
}

fn line(host: &str, status: u32, bytes: &str, latency: &str, agent: &str) -> String {
    format!(
        "{{\"ts\":\"2026\",\"host\":\"{host}\",\"status\":{status},\"bytes\":{bytes},\
         \"latency_ms\":{latency},\"ua\":\"{agent}\"}}\n"
    )
}

#[test]
fn oracle_generated_records_come_out_the_same() {
    let generated = |dataset: Dataset, files, records| -> Vec<_> {
        generate::files(dataset, Shape { files, records, ..dataset.full() })
            .map(|file| (file.name, String::from_utf8(file.content).unwrap()))
            .collect()
    };
    for owned in [generated(Dataset::WeblogJsonl, 3, 6_000), generated(Dataset::Small, 60, 0)] {
        let inputs: Vec<_> =
            owned.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
        check(&inputs);
    }
}

#[test]
fn unusual_lines_are_read_by_the_full_parser() {
    let usual = line("web-1", 200, "10", "1.500", "curl");
    for unusual in [
        line("web-1", 503, "10", "2.500", "a \\\"quoted\\\" one"),
        line("web-1", 404, "-10", "0.001", "negative"),
        line("web-1", 200, "10", "1e3", "exponent"),
        line("web-1", 200, "10", "123456789.123456789123", "many digits"),
        line("web-1", 200, "10", "7", "no point"),
        line("a-host-name-longer-than-sixteen-bytes", 200, "999999999999", "1.0", "long host"),
        line("", 200, "0", "0.0", ""),
        line("web-1", 200, "10", "1.5", "ends with a backslash \\\\"),
        "{\"status\":500,\"latency_ms\":9.25,\"bytes\":1,\"host\":\"web-2\"}\n".into(),
        "{ \"status\": 500, \"latency_ms\": 9.25, \"bytes\": 1, \"host\": \"web-2\" }\n".into(),
        "{\"x\":{\"status\":400},\"status\":200,\"latency_ms\":1.0,\"bytes\":1,\"host\":\"w\"}\n"
            .into(),
    ] {
        check(&[("a", &format!("{usual}{unusual}{usual}"))]);
        check(&[("a", &format!("{unusual}{usual}{unusual}")), ("b", &usual)]);
    }
}

#[test]
fn neighbouring_classes_keep_their_order() {
    let of = |statuses: &[u32]| -> String {
        statuses.iter().map(|&status| line("w", status, "1", "1.0", "x")).collect()
    };
    for statuses in [
        &[200][..],
        &[500],
        &[500, 500, 404, 404, 200, 200],
        &[404, 500, 404, 500],
        &[200, 500, 200, 404, 200],
        &[302, 399, 400, 499, 500, 599],
    ] {
        check(&[("a", &of(statuses))]);
    }
}

#[test]
fn a_line_with_both_substrings_goes_to_the_first_class() {
    let both = "{\"a\":{\"status\":4},\"b\":{\"status\":5}}\n";
    let swapped = "{\"a\":{\"status\":5},\"b\":{\"status\":4}}\n";
    let inputs = [("a", [both, swapped, "plain\n", both].concat())];
    let inputs: Vec<_> = inputs.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let outputs = outputs_of(LimitJob::J1, &inputs).unwrap();
    assert_eq!(outputs, oracle(LimitJob::J1, &inputs));
}

#[test]
fn a_missing_last_newline_is_added_and_an_empty_file_gives_nothing() {
    let last = line("w", 500, "1", "1.0", "x");
    check(&[("a", last.trim_end()), ("b", "")]);
}

#[test]
fn lines_longer_than_a_chunk_stay_whole() {
    let long = line("w", 500, "1", "1.0", &"x".repeat(3 << 20));
    let short = line("w", 200, "1", "1.0", "x");
    check(&[("a", &format!("{short}{long}{short}{long}"))]);
}

#[test]
fn a_record_that_is_no_record_stops_the_program_with_its_text() {
    for broken in ["not json\n", "{\"host\":\"w\"}\n", "\n", "{\"host\":\"w\",\"status\":\"x\"}\n"]
    {
        let error = outputs_of(LimitJob::J2, &[("a", broken)]).unwrap_err();
        assert!(format!("{error:#}").contains("read the record"), "{error:#}");
    }
}

#[test]
fn a_folder_without_files_is_refused() {
    let error = outputs_of(LimitJob::J1, &[(".hidden", "x\n")]).unwrap_err();
    assert!(error.to_string().contains("holds no files"));
}
