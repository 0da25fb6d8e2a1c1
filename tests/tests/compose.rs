//! Compose: what a pipeline file may include, which values it is given and from where, and what editors are told
//! of it, through the command line.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_tests::process::{Ended, Process};
use tidemill_tests::{Shape, Site, scenario, schema, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const SINKS: &str = "sinks: { o: { from: s, files: { format: csv } } }\n";
const SOURCES: &str = "sources: { s: { format: csv, fields: { n: int } } }\n";

/// A folder with files.
struct Desk {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl Desk {
    fn new(files: &[(&str, &str)]) -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap(), variables: Vec::new() };
        for (name, text) in files {
            let path = desk.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        desk
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn call(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(NODE);
        command.args(arguments).current_dir(self.folder.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEMILL_") {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Process::start(&mut command).ended()
    }

    /// Checks that a command refuses a file and says all of these texts.
    #[track_caller]
    fn refuses(&self, arguments: &[&str], said: &[&str]) {
        let ended = self.call(arguments);
        ended.expect_code(2);
        for text in said {
            ended.expect_said(text);
        }
    }
}

fn pipeline(more: &str, sections: &str) -> String {
    format!("pipeline: p\n{more}\n{sections}")
}

#[test]
fn an_include_stays_below_the_folder_unless_its_path_is_absolute() {
    let desk = Desk::new(&[
        ("outside.yaml", SOURCES),
        ("in/p.yaml", &pipeline("include: ../outside.yaml", SINKS)),
        ("in/link.yaml", &pipeline("include: linked.yaml", SINKS)),
        ("in/deep.yaml", &pipeline("include: parts/up.yaml", SINKS)),
        ("in/parts/up.yaml", "include: ../sources.yaml\n"),
        ("in/sources.yaml", SOURCES),
    ]);
    std::os::unix::fs::symlink("../outside.yaml", desk.path("in/linked.yaml")).unwrap();
    let refused = &["it is not below", "give its absolute path"];
    desk.refuses(
        &["check", "in/p.yaml"],
        &[&["in/p.yaml:2:10: error"], refused.as_slice()].concat(),
    );
    desk.refuses(&["check", "in/link.yaml"], refused);
    desk.call(&["check", "in/deep.yaml"]).expect_code(0);
    let absolute = desk.path("outside.yaml");
    let absolute = format!("include: {}", absolute.display());
    fs::write(desk.path("in/absolute.yaml"), pipeline(&absolute, SINKS)).unwrap();
    desk.call(&["check", "in/absolute.yaml"]).expect_code(0);
}

#[test]
fn only_plain_files_of_text_are_included() {
    let desk = Desk::new(&[
        ("pipe.yaml", &pipeline("include: fifo", SINKS)),
        ("folder.yaml", &pipeline("include: parts", SINKS)),
        ("bytes.yaml", &pipeline("include: bytes", SINKS)),
        ("big.yaml", &pipeline("include: big", SINKS)),
        ("none.yaml", &pipeline("include: none", SINKS)),
        ("parts/x", ""),
    ]);
    assert!(Command::new("mkfifo").arg(desk.path("fifo")).status().unwrap().success());
    fs::write(desk.path("bytes"), b"\xff\xfe").unwrap();
    fs::write(desk.path("big"), vec![b'#'; 2 << 20]).unwrap();
    desk.refuses(&["check", "pipe.yaml"], &["it is not a plain file"]);
    desk.refuses(&["check", "folder.yaml"], &["it is not a plain file"]);
    desk.refuses(&["check", "bytes.yaml"], &["it is not UTF-8"]);
    desk.refuses(&["check", "big.yaml"], &["it has more than 1048576 bytes"]);
    desk.refuses(&["check", "none.yaml"], &["`none` cannot be included", "it is looked for in"]);
}

#[test]
fn a_mistake_in_an_included_file_is_shown_with_its_line() {
    let desk = Desk::new(&[
        ("p.yaml", &pipeline("include: parts/s.yaml", SINKS)),
        ("parts/s.yaml", "# here\nsources: { s: { format: csw, fields: { n: int } } }\n"),
    ]);
    let shown = "parts/s.yaml:2:25: error: `format` cannot be `csw`\n  |\n2 | sources: { s: { format: csw, ";
    desk.refuses(&["check", "p.yaml"], &[shown, "did you mean `csv`?"]);
    let json = desk.call(&["check", "--json", "p.yaml"]).json();
    assert_eq!(json[0]["mistakes"][0]["file"], "parts/s.yaml", "{json}");
}

const PARAMS: &str = "params: { LEAST: { type: int, default: 1 } }
sources: { s: { format: csv, fields: { n: int } } }
operators: { o: { from: s, filter: \"n > ${LEAST}\" } }
sinks: { o: { from: o, files: { format: csv } } }";

#[test]
fn a_value_comes_from_flag_environment_file_or_default_in_this_order() {
    let check = |desk: &Desk, flags: &[&str], expected: &str| {
        let flat = desk.call(&[&["check", "--flat", "p.yaml"], flags].concat());
        flat.expect_code(0);
        assert!(flat.stdout.contains(&format!("\"n > {expected}\"")), "{flat}");
    };
    let files = [("p.yaml", pipeline("", PARAMS)), ("v.yaml", "LEAST: 2\n".to_owned())];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let desk = Desk::new(&files);
    check(&desk, &[], "1");
    check(&desk, &["--params", "v.yaml"], "2");
    let desk = desk.variable("TIDEMILL_PARAM_LEAST", "3");
    check(&desk, &["--params", "v.yaml"], "3");
    check(&desk, &["--params", "v.yaml", "--param", "LEAST=4"], "4");
    desk.refuses(
        &["check", "p.yaml", "--param", "LEAST=x=y"],
        &["`x=y` is not an int: --param gives"],
    );
    desk.refuses(
        &["check", "p.yaml", "--param", "LAEST=4"],
        &["there is no parameter `LAEST`; did you mean `LEAST`?"],
    );
    for more in [["--param", "LAEST=4"].as_slice(), &["--param", "LAEST=4", "--json"]] {
        let refused = desk.call(&[&["check", "p.yaml"], more].concat());
        assert_eq!(refused.stdout, "", "nothing is called ok: {refused}");
    }
    desk.refuses(&["check", "p.yaml", "--param", "LEAST"], &["write --param NAME=VALUE"]);
    desk.refuses(
        &["check", "p.yaml", "--param", "LEAST=1", "--param", "LEAST=2"],
        &["given twice"],
    );
    desk.refuses(
        &["run", "--once", "p.yaml", "--param", "MOST=4"],
        &["there is no parameter `MOST`"],
    );
    fs::write(desk.path("w.yaml"), "# mine\nMOST: 2\n").unwrap();
    desk.refuses(
        &["graph", "p.yaml", "--params", "w.yaml"],
        &["w.yaml:2: there is no parameter `MOST`"],
    );
    fs::write(desk.path("w.yaml"), "LEAST: [2]\n").unwrap();
    desk.refuses(&["check", "p.yaml", "--params", "w.yaml"], &["w.yaml:1:8: error"]);
}

#[test]
fn the_plan_depends_on_what_is_said_and_not_on_where() {
    let hash = |desk: &Desk, file: &str| -> String {
        let json = desk.call(&["check", "--json", file]).json();
        json[0]["plan_hash"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned()
    };
    let desk = Desk::new(&[
        ("a/p.yaml", &pipeline("include: parts/s.yaml", SINKS)),
        ("a/parts/s.yaml", SOURCES),
        ("b/q.yaml", &pipeline("include: other.yaml", SINKS)),
        ("b/other.yaml", &format!("# elsewhere\n{SOURCES}")),
        ("flat.yaml", &pipeline(SOURCES, SINKS)),
        ("named.yaml", &format!("pipeline: '${{env:NAMED}}'\n{SOURCES}{SINKS}")),
    ]);
    let desk = desk.variable("NAMED", "p");
    let expected = hash(&desk, "flat.yaml");
    for file in ["a/p.yaml", "b/q.yaml", "named.yaml"] {
        assert_eq!(hash(&desk, file), expected, "{file}");
        let flat = desk.call(&["check", "--flat", file]);
        assert!(!flat.stdout.contains(".yaml"), "no path is left: {flat}");
        fs::write(desk.path("again.yaml"), &flat.stdout).unwrap();
        assert_eq!(hash(&desk, "again.yaml"), expected, "{file}\n{flat}");
    }
}

#[test]
fn the_group_of_the_documents_checks() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("docs/pipeline-file.md")).unwrap();
    let block = text.split("```yaml\n").find(|block| block.starts_with("groups:")).unwrap();
    let block = block.split("```").next().unwrap();
    let desk = Desk::new(&[("p.yaml", &format!("pipeline: p\n{block}"))]);
    desk.call(&["check", "p.yaml"]).expect_code(0);
    let drawn = desk.call(&["graph", "p.yaml"]);
    assert!(drawn.stdout.contains("subgraph g0 [\"home\"]"), "{drawn}");
}

#[test]
fn a_group_has_tests_of_its_own_in_a_file_that_includes_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("docs/pipeline-file.md")).unwrap();
    let block = |begin: &str| {
        let found = text.split("```yaml\n").find(|block| block.starts_with(begin)).unwrap();
        found.split("```").next().unwrap().to_owned()
    };
    let (uses, tests) = (block("groups:"), block("pipeline: by-size\n"));
    let group = uses.split("sources:").next().unwrap();
    let desk = Desk::new(&[("by_size.yaml", group), ("by_size.test.yaml", &tests)]);
    let tested = desk.call(&["test", "by_size.test.yaml"]);
    tested.expect_code(0);
    assert!(tested.stdout.contains("the least amount is big"), "{tested}");
    // One that is broken is seen.
    let broken = group.replace("amount >= ${LEAST}", "amount > ${LEAST}");
    fs::write(desk.path("by_size.yaml"), broken).unwrap();
    desk.call(&["test", "by_size.test.yaml"]).expect_code(1);
}

const RUNNING: &str = "\
pipeline: sums
sources:
  rows: { format: csv, fields: { k: string, n: int } }
operators:
  sums: { from: rows, aggregate: { by: [k], compute: { total: sum(n) } } }
sinks:
  sums: { from: sums, table: { format: csv, key: [k] } }
";

const INCLUDING: &str = "\
pipeline: sums
include: [more.yaml]
params: { FACTOR: int }
operators:
  sums: { from: rows, aggregate: { by: [k], compute: { total: \"sum(n * ${FACTOR})\" } } }
sinks:
  sums: { from: sums, table: { format: csv, key: [k] } }
";

/// What a file includes, and what its parameters are given, is known only where it lies.
#[test]
fn mistakes_in_a_file_that_includes_another_are_told_as_check_tells_them() {
    let site = Site::new(NODE, RUNNING);
    let running = site.start(Shape::ALONE);
    let more = "sources: { rows: { format: csv, fields: { k: string, n: int } } }\n";
    fs::write(site.path().join("more.yaml"), more).unwrap();
    let next = site.path().join("next.yaml");
    let deploy = ["deploy", "next.yaml", "--param", "FACTOR=2"];
    for (right, wrong, place) in [
        ("sum(n", "sum(m", ":5:"),
        ("more.yaml", "gone.yaml", ":2:"),
        ("from: sums,", "from: sumz,", ":7:"),
    ] {
        fs::write(&next, INCLUDING.replace(right, wrong)).unwrap();
        let said = site.call(&["check", "next.yaml", "--param", "FACTOR=2"]);
        let mistake = said.expect_code(2).stderr.split("\n\n").next().unwrap();
        assert!(mistake.contains(&format!("next.yaml{place}")), "{said}");
        for more in [&[][..], &["--dry-run"]] {
            let said = running.call(&[&deploy, more].concat());
            let expected = format!("next.yaml: not deployed: 1 mistake\n{mistake}\n");
            assert_eq!(said.expect_code(2).stdout, expected);
        }
        let said = running.call(&[&deploy[..], &["--json"]].concat());
        assert_eq!(said.expect_code(2).json()["error"]["code"], "bad_pipeline_file");
    }
    // None of several takes over without the others.
    fs::write(site.path().join("twice.yaml"), RUNNING.replace("sum(n)", "sum(n * 2)")).unwrap();
    running.call(&["deploy", "twice.yaml", "next.yaml", "--param", "FACTOR=2"]).expect_code(2);
    assert_eq!(running.ask(running.client().stats(None)).unwrap().generation, 1);
    fs::write(&next, INCLUDING).unwrap();
    running.call(&deploy).expect_code(0);
    running.stop();
}

fn the_schema() -> Value {
    let ended = Process::start(Command::new(NODE).arg("schema")).ended();
    ended.expect_code(0);
    ended.json()
}

fn document(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

#[test]
fn every_pipeline_file_of_the_repository_fits_the_schema() {
    let schema = the_schema();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut count = 0;
    let mut check = |name: &str, yaml: &str| {
        let misfits = schema::misfits(&schema, &document(yaml));
        assert!(misfits.is_empty(), "{name}: {misfits:#?}\n{yaml}");
        count += 1;
    };
    let mut folders = scenario::folders();
    folders.extend([root.join("examples"), root.join("bench/pipelines")]);
    for folder in folders {
        for (name, bytes) in tree::read(&folder) {
            let is_yaml = name.ends_with(".yaml") && !name.ends_with("params.yaml");
            if is_yaml && !name.starts_with("expected/") {
                check(&name, &String::from_utf8(bytes).unwrap());
            }
        }
    }
    // Blocks of the documents that are whole sections.
    for (name, bytes) in tree::read(&root.join("docs")) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for block in text.split("```yaml\n").skip(1).filter(|_| name.ends_with(".md")) {
            let block = block.split("```").next().unwrap();
            let sections =
                ["pipeline: ", "sources:", "operators:", "groups:", "params:", "include:"];
            let is_whole = sections.iter().any(|section| block.starts_with(section));
            if is_whole && !block.contains("...") {
                check(&name, block);
            }
        }
    }
    assert!(count > 60, "only {count} files");
}

#[test]
fn what_is_wrong_does_not_fit_the_schema() {
    let schema = the_schema();
    let good = "pipeline: p
sources: { s: { format: csv, fields: { n: int, t: timestamp } } }
operators: { o: { from: s, filter: n > 1 } }
sinks: { k: { from: o, files: { format: csv } } }
";
    assert_eq!(schema::misfits(&schema, &document(good)), Vec::<String>::new());
    for (from, to, at) in [
        ("pipeline: p\n", "pipeline: [p]\n", "/pipeline"),
        ("sinks:", "sink:", ": there is no sink"),
        ("sinks: { k: { from: o, files: { format: csv } } }\n", "", "fits none"),
        ("format: csv, fields", "fields", "/sources/s: \"format\" is missing"),
        ("format: csv, fields", "format: cvs, fields", "/sources/s/format"),
        ("n: int", "n: integer", "/sources/s/fields/n"),
        ("n: int", "n: 'decimal(12;2)'", "/sources/s/fields/n"),
        ("n: int", "n: { type: int, pat: x }", "/sources/s/fields/n"),
        ("format: csv, fields", "format: csv, header: perhaps, fields", "/sources/s/header"),
        (
            "format: csv, fields",
            "format: csv, max_record: 5 miles, fields",
            "/sources/s/max_record",
        ),
        ("format: csv, fields", "format: csv, priority: high, fields", "/sources/s/priority"),
        (
            "format: csv, fields",
            "format: csv, fields: [n], feilds",
            "/sources/s: there is no feilds",
        ),
        ("from: s, filter: n > 1", "filter: n > 1", "/operators/o: \"from\" is missing"),
        ("from: s, filter: n > 1", "from: s", "0 choices fit"),
        ("filter: n > 1", "filter: n > 1, select: [n]", "2 choices fit"),
        ("filter: n > 1", "filtr: n > 1", "/operators/o: there is no filtr"),
        ("filter: n > 1", "route: {}", "/operators/o/route: 0 keys"),
        ("filter: n > 1", "window: { on: t, tumbling: 5 }", "/operators/o/window/tumbling"),
        ("filter: n > 1", "top: { k: few, order: n }", "/operators/o/top/k"),
        ("filter: n > 1", "join: { with: s, on: [n], kind: outer }", "/operators/o/join/kind"),
        (
            "filter: n > 1",
            "state: { key: [n], initial: a, transitions: [] }",
            "transitions: 0 items",
        ),
        ("files: { format: csv }", "files: { format: parquet }", "/sinks/k/files/format"),
        (
            "files: { format: csv }",
            "files: { format: csv }, table: { format: csv, key: [n] }",
            "2 choices fit",
        ),
        ("files: { format: csv }", "table: { format: csv }", "\"key\" is missing"),
        ("operators:", "params: { 1st: int }\noperators:", "/params/1st"),
        ("operators:", "params: { A: { type: integer } }\noperators:", "/params/A"),
        ("operators:", "groups: { g: { inputs: [in] } }\noperators:", "/groups/g"),
        ("{ o: {", "{ 'o o': {", "/operators/o o"),
    ] {
        let yaml = good.replacen(from, to, 1);
        assert_ne!(yaml, good, "{from}");
        let misfits = schema::misfits(&schema, &document(&yaml));
        assert!(misfits.iter().any(|misfit| misfit.contains(at)), "{to}: {misfits:?}");
    }
}
