//! Secrets: keys that values are hashed with, given by name to the process that runs, and shown nowhere.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use tidemill_tests::process::Process;
use tidemill_tests::{Shape, Site};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const PIPELINE: &str = "
pipeline: visits
sources:
  rows: { format: csv, fields: { user: string, n: int } }
operators:
  hidden: { from: rows, select: [{ who: \"hmac_sha256(user, 'PEPPER')\" }, n] }
  sums: { from: hidden, aggregate: { by: [who], compute: { total: sum(n) } } }
sinks:
  hidden: { from: hidden, files: { format: csv } }
  sums: { from: sums, table: { format: csv, key: [who] } }
tests:
  - name: a user has one name
    given: { rows: \"user,n\\nann,1\\nann,2\\n\" }
    expect: { sums: [{ total: 3 }], rejects: [] }
";

const VARIABLE: &str = "TIDEMILL_SECRET_PEPPER";
const KEY: &str = "correct horse battery staple";
/// printf ann | openssl dgst -sha256 -hmac 'correct horse battery staple', and of bob.
const ANN: &str = "609632aa70237a357249f04c0bf2c8e2e3c9eed588c8216a91f57c48a974be02";
const BOB: &str = "25c122bbbd27dc254cf7afead08bb1012dcf0a9c9a3f0bb6c2ba1758164743cf";
const OTHER_KEY: &str = "another key of some length";
const OTHER_ANN: &str = "bac18e2f7c8ce74467455dfcdcf615e215328757735c0e208421a4fd32bce94b";

fn site(key: Option<&str>) -> Site {
    let mut site = Site::new(NODE, PIPELINE);
    site.variable(VARIABLE, key);
    site
}

fn table(site: &Site) -> String {
    String::from_utf8(site.out()["sums/sums.csv"].clone()).unwrap()
}

/// Returns the files below a folder in which these bytes stand.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, bytes));
        } else if fs::read(&path).is_ok_and(|all| all.windows(bytes.len()).any(|at| at == bytes)) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn a_column_is_hashed_with_the_key_of_a_name_in_any_shape() {
    for shape in [Shape::ALONE, Shape::new(1, 3), Shape::new(2, 2)] {
        let site = site(Some(KEY));
        site.put("a.csv", b"user,n\nann,1\nbob,2\nann,3\n");
        site.once(shape).expect_code(0);
        assert_eq!(table(&site), format!("who,total\n{BOB},2\n{ANN},4\n"), "{shape}");
    }
}

#[test]
fn a_key_may_be_a_file_and_nothing_of_the_home_shows_it() {
    let mut site = site(None);
    let folder = site.path().join("keys");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("PEPPER"), format!("{KEY}\n")).unwrap();
    site.variable("TIDEMILL_SECRETS", Some(folder.to_str().unwrap()));
    let running = site.start(Shape::ALONE);
    running.wait(running.submit("a.csv", b"user,n\nann,1\n").id);
    let shown = ["file", "stats", "files"].map(|word| {
        let arguments = if word == "file" { vec![word, "1"] } else { vec![word] };
        running.call(&arguments).to_string()
    });
    assert!(shown.iter().all(|text| !text.contains(KEY)), "{shown:?}");
    let ended = running.stop();
    assert!(!ended.to_string().contains(KEY), "{ended}");
    assert!(table(&site).contains(ANN));
    assert_eq!(files_with(&site.home(), KEY.as_bytes()), [""; 0]);
    for word in ["check", "graph"] {
        let said = site.call(&[word, site.yaml().to_str().unwrap()]);
        said.expect_code(0);
        assert!(!said.to_string().contains(KEY), "{said}");
    }
}

#[test]
fn without_its_key_a_pipeline_is_checked_drawn_and_tested_but_not_run() {
    let site = site(None);
    let yaml = site.yaml().display().to_string();
    let checked = site.call(&["check", &yaml]);
    let lacks = "the secret `PEPPER` (line 6, column 60) is not given; set TIDEMILL_SECRET_PEPPER";
    checked.expect_code(0).expect_said(lacks);
    site.call(&["graph", &yaml]).expect_code(0);
    site.call(&["test", &yaml]).expect_code(0);
    site.put("a.csv", b"user,n\nann,1\n");
    for shape in [Shape::ALONE, Shape::new(2, 1)] {
        let ended = site.once(shape);
        assert_ne!(ended.code, Some(0), "{shape}");
        ended.expect_said(lacks);
    }
    assert_eq!(site.names("unprocessed"), ["a.csv"]);

    let mut check = site.command(&["check", &yaml]);
    let refused = Process::start(check.env(VARIABLE, "too short")).ended();
    refused.expect_code(2).expect_said("its value has 9 bytes, and at least 16 are needed");
    refused.expect_said("pipeline.yaml:6:");
}

#[test]
fn another_key_builds_the_state_again() {
    let mut site = site(Some(KEY));
    site.put("a.csv", b"user,n\nann,1\n");
    site.once(Shape::ALONE).expect_code(0);
    site.variable(VARIABLE, Some(OTHER_KEY));
    site.put("b.csv", b"user,n\nann,2\n");
    site.once(Shape::ALONE).expect_code(0);
    assert_eq!(table(&site), format!("who,total\n{OTHER_ANN},3\n"));
}

#[test]
fn a_server_hashes_with_its_own_keys_and_refuses_a_file_whose_key_it_lacks() {
    let site = site(Some(KEY));
    let running = site.start(Shape::ALONE);
    let plain = fs::read_to_string(site.yaml()).unwrap();
    let deployed = |name: &str, from: &str, to: &str| {
        fs::write(site.path().join(name), plain.replace(from, to)).unwrap();
        running.call(&["deploy", site.path().join(name).to_str().unwrap()])
    };
    let refused = deployed("salted.yaml", "'PEPPER'", "'SALT'");
    assert_ne!(refused.code, Some(0), "{refused}");
    assert!(refused.stdout.contains("without the secret SALT"), "{refused}");
    deployed("doubled.yaml", "sum(n)", "sum(n * 2)").expect_code(0);
    running.stop();

    site.put("a.csv", b"user,n\nann,1\n");
    let file = site.path().join("doubled.yaml");
    fs::copy(file, site.yaml()).unwrap();
    site.once(Shape::ALONE).expect_code(0);
    assert_eq!(table(&site), format!("who,total\n{ANN},2\n"));
}
