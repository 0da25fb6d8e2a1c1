//! Oracle: slow, obvious programs that say what the example pipelines must write.
//!
//! One thread, plain maps, one line after the other, and no code of the engine: what they and the
//! engine agree on is right by two different ways. They know two pipelines only, and only records
//! that are valid JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::tree::Tree;

/// Returns what `examples/access-logs` writes for these files.
pub fn access_logs(files: &Tree) -> Tree {
    let mut out = Tree::new();
    let mut traffic: BTreeMap<(Option<String>, Option<i64>), Traffic> = BTreeMap::new();
    for (name, bytes) in files {
        let errors = out.entry(format!("errors/{name}")).or_default();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let record: Value = serde_json::from_slice(line).unwrap();
            let status = record["status"].as_i64();
            if status.is_some_and(|status| status >= 500) {
                errors.extend_from_slice(line);
                continue;
            }
            let host = record["host"].as_str().map(str::to_owned);
            let row = traffic.entry((host, status)).or_default();
            row.hits += 1;
            if let Some(bytes) = record["bytes"].as_i64() {
                row.bytes = Some(row.bytes.unwrap_or_default() + i128::from(bytes));
            }
            if let Some(latency) = record["latency_ms"].as_f64() {
                row.worst_ms = Some(row.worst_ms.map_or(latency, |worst| worst.max(latency)));
            }
        }
    }
    let mut csv = "host,status,hits,bytes,worst_ms\n".to_owned();
    for ((host, status), row) in &traffic {
        let cells = [
            text(host.as_deref()),
            word(status.as_ref()),
            row.hits.to_string(),
            word(row.bytes.as_ref()),
            row.worst_ms.map(|worst| format!("{worst:?}")).unwrap_or_default(),
        ];
        csv += &cells.join(",");
        csv.push('\n');
    }
    out.insert("traffic/traffic.csv".into(), csv.into_bytes());
    out
}

#[derive(Default)]
struct Traffic {
    hits: u64,
    bytes: Option<i128>,
    worst_ms: Option<f64>,
}

/// Returns what `examples/auth-guard` writes for these files.
pub fn auth_guard(files: &Tree) -> Tree {
    const INVALID: &str = "Failed password for invalid user ";
    const FAILED: &str = "Failed password for ";
    let mut out = Tree::new();
    let mut addresses: BTreeMap<String, (u64, i64)> = BTreeMap::new();
    let mut names: BTreeMap<String, u64> = BTreeMap::new();
    for (name, bytes) in files {
        let mut offset = 0;
        for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let text = std::str::from_utf8(line).unwrap().trim_end_matches(['\n', '\r']);
            let invalid = has_in_order(text, ["sshd[", "]: Failed password for invalid user "]);
            if invalid || has_in_order(text, ["sshd[", "]: Failed password for "]) {
                out.entry(format!("offences/{name}")).or_default().extend_from_slice(line);
                let before = if invalid { INVALID } else { FAILED };
                if let Some((user, address, port)) = login(text, before) {
                    let row = addresses.entry(address).or_insert((0, i64::MAX));
                    *row = (row.0 + 1, row.1.min(port));
                    if invalid {
                        *names.entry(user).or_default() += 1;
                    }
                } else {
                    let reject = json!({
                        "file": name, "line": number + 1, "offset": offset,
                        "operator": if invalid { "invalid_login" } else { "failed_login" },
                        "round": 0, "code": "no_match", "message": "column line does not match the pattern",
                        "raw": text,
                    });
                    let path = format!("rejects/{name}.jsonl");
                    out.entry(path).or_default().extend(format!("{reject}\n").into_bytes());
                }
            }
            offset += line.len();
        }
    }
    let mut csv = "ip,attempts,lowest_port\n".to_owned();
    for (address, (attempts, port)) in &addresses {
        let _ = writeln!(csv, "{},{attempts},{port}", text(Some(address)));
    }
    out.insert("addresses/addresses.csv".into(), csv.into_bytes());
    let mut csv = "user,attempts\n".to_owned();
    for (user, attempts) in &names {
        let _ = writeln!(csv, "{},{attempts}", text(Some(user)));
    }
    out.insert("invalid_names/invalid_names.csv".into(), csv.into_bytes());
    out
}

/// Returns whether the two texts stand in `line`, the second somewhere behind the first.
fn has_in_order(line: &str, [first, second]: [&str; 2]) -> bool {
    line.split_once(first).is_some_and(|(_, rest)| rest.contains(second))
}

/// Finds user, address and port behind `before`: the user reaches as far as it can.
fn login(line: &str, before: &str) -> Option<(String, String, i64)> {
    for (start, _) in line.match_indices(before) {
        let rest = &line[start + before.len()..];
        for (at, from) in rest.rmatch_indices(" from ") {
            let behind = &rest[at + from.len()..];
            let is_address = |c: char| c.is_ascii_hexdigit() || c == '.' || c == ':';
            let Some((address, behind)) = behind.split_once(" port ") else { continue };
            let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
            if !address.is_empty() && address.chars().all(is_address) && !digits.is_empty() {
                return Some((rest[..at].to_owned(), address.to_owned(), digits.parse().unwrap()));
            }
        }
    }
    None
}

/// Writes a text as a CSV cell; NULL and the empty text differ.
fn text(value: Option<&str>) -> String {
    let Some(value) = value else { return String::new() };
    let plain = !value.is_empty()
        && !value.contains([',', '"', '\n', '\r'])
        && !value.starts_with(' ')
        && !value.ends_with(' ');
    if plain { value.to_owned() } else { format!("\"{}\"", value.replace('"', "\"\"")) }
}

fn word<T: std::fmt::Display>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> Tree {
        Tree::from([("a".to_owned(), text.as_bytes().to_vec())])
    }

    #[track_caller]
    fn check(out: &Tree, path: &str, expected: &str) {
        let found = out.get(path).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(found.as_deref(), Some(expected), "{path}");
    }

    #[test]
    fn access_logs_are_split_and_summed() {
        let out = access_logs(&files(
            "{\"host\":\"b\",\"status\":200,\"bytes\":1,\"latency_ms\":2}\n{\"status\":500}\n{\"host\":\"b\",\"status\":200}",
        ));
        check(&out, "errors/a", "{\"status\":500}\n");
        check(&out, "traffic/traffic.csv", "host,status,hits,bytes,worst_ms\nb,200,2,1,2.0\n");
    }

    #[test]
    fn a_user_may_be_called_like_the_text_around_it() {
        let line = "x sshd[1]: Failed password for invalid user a from b from 1.2.3.4 port 5 ssh2\n\
                    x sshd[2]: Failed password for invalid user nobody\n";
        let out = auth_guard(&files(line));
        check(&out, "invalid_names/invalid_names.csv", "user,attempts\na from b,1\n");
        check(&out, "addresses/addresses.csv", "ip,attempts,lowest_port\n1.2.3.4,1,5\n");
        check(&out, "offences/a", line);
    }
}
