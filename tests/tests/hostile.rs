//! Hostile: what nobody should send ends in a reject, in quarantine or is left alone, each with a
//! clear word, and the files beside it are unharmed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use tidemill_client::Phase;
use tidemill_tests::{Ended, Running, Shape, Site, Tree, tree};

const NODE: &str = env!("CARGO_BIN_EXE_node");

const PIPELINE: &str = r#"
pipeline: hostile
sources:
  rows: { format: jsonl, fields: { host: string, n: int } }
operators:
  totals: { from: rows, aggregate: { by: [host], compute: { rows: count(*), total: sum(n) } } }
sinks:
  rows: { from: rows, files: { format: raw } }
  totals: { from: totals, table: { format: csv, key: [host] } }
"#;

/// Lines that are right, before and after what is not.
const GOOD: &[u8] = b"{\"host\":\"a\",\"n\":1}\n{\"host\":\"b\",\"n\":2}\n";

/// What the good files alone give.
const TOTALS: &[u8] = b"host,rows,total\na,2,2\nb,2,4\n";

fn site_with_good_files() -> Site {
    let site = Site::new(NODE, PIPELINE);
    site.put("a-before.jsonl", GOOD);
    site.put("z-after.jsonl", GOOD);
    site
}

/// What the good files give, and `more`.
fn good_out(more: &[(&str, &[u8])]) -> Tree {
    let good: [(&str, &[u8]); 3] = [
        ("rows/a-before.jsonl", GOOD),
        ("rows/z-after.jsonl", GOOD),
        ("totals/totals.csv", TOTALS),
    ];
    good.iter().chain(more).map(|(path, bytes)| (path.to_string(), bytes.to_vec())).collect()
}

/// Puts one bad file between two good ones: it goes to quarantine with a reason that begins so.
#[track_caller]
fn check_quarantined(name: &str, bytes: &[u8], reason: &str) {
    for shape in [Shape::ALONE, Shape::new(2, 2)] {
        let site = site_with_good_files();
        site.put(name, bytes);
        site.once(shape).expect_code(3);
        let found = site.quarantine();
        assert_eq!(found.len(), 1, "{found:?}");
        let expected = format!("{name} {reason}");
        assert!(found[0].starts_with(&expected), "{found:?} does not begin with {expected:?}");
        assert_eq!(fs::read(site.folder("quarantine").join(name)).unwrap(), bytes);
        assert_eq!(tree::difference(&good_out(&[]), &site.out()), None);
    }
}

/// Makes something in `unprocessed/` between two good files: it stays there, and the log says why.
#[track_caller]
fn check_left_alone(name: &[u8], make: impl Fn(&Site, &std::path::Path), why: &str) {
    let site = site_with_good_files();
    let path = site.folder("unprocessed").join(OsStr::from_bytes(name));
    make(&site, &path);
    let ended = site.once(Shape::ALONE);
    ended.expect_code(0).expect_said(why);
    assert!(path.symlink_metadata().is_ok(), "it is gone\n{ended}");
    assert_eq!(tree::difference(&good_out(&[]), &site.out()), None);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_gzip_file_that_is_cut_off_is_quarantined() {
    let whole = gzip(&GOOD.repeat(1_000));
    check_quarantined(
        "cut.jsonl.gz",
        &whole[..whole.len() - 3],
        "bad_format: gzip data is damaged",
    );
    check_quarantined(
        "cut.jsonl.gz",
        &whole[..whole.len() / 2],
        "bad_format: gzip data is damaged",
    );
    check_quarantined("cut.jsonl.gz", &whole[..12], "bad_format: gzip data is damaged");
}

#[test]
fn a_gzip_file_with_a_flipped_bit_is_quarantined() {
    let mut bytes = gzip(&GOOD.repeat(1_000));
    let last = bytes.len() - 6; // in the checksum
    bytes[last] ^= 1;
    check_quarantined("flipped.jsonl.gz", &bytes, "bad_format: gzip data is damaged");
}

#[test]
fn a_gzip_file_with_something_else_behind_it_is_quarantined() {
    let mut bytes = gzip(GOOD);
    bytes.extend_from_slice(b"rubbish");
    check_quarantined("behind.jsonl.gz", &bytes, "bad_format: gzip data is damaged");
}

#[test]
fn a_zstd_file_that_is_cut_off_is_quarantined() {
    let whole = zstd::encode_all(&*GOOD.repeat(1_000), 3).unwrap();
    check_quarantined(
        "cut.jsonl.zst",
        &whole[..whole.len() - 3],
        "bad_format: zstd data is damaged",
    );
}

#[test]
fn a_zstd_file_that_wants_much_memory_is_quarantined() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&GOOD.repeat(100)).unwrap();
    check_quarantined("wide.jsonl.zst", &encoder.finish().unwrap(), "bad_format: zstd data");
}

#[test]
fn a_small_file_that_inflates_without_end_is_quarantined() {
    let zeros = vec![0; 64 << 20];
    check_quarantined("bomb.jsonl.gz", &gzip(&zeros), "bomb: inflates to more than 200 times");
    let packed = zstd::encode_all(&*zeros, 3).unwrap();
    check_quarantined("bomb.jsonl.zst", &packed, "bomb: inflates to more than 200 times");
}

#[test]
fn a_compressed_file_inside_another_is_quarantined() {
    check_quarantined("twice.jsonl.gz", &gzip(&gzip(GOOD)), "packed_twice: gzip inside gzip");
    let inner = zstd::encode_all(GOOD, 3).unwrap();
    check_quarantined("twice.jsonl.gz", &gzip(&inner), "packed_twice: zstd inside gzip");
}

#[test]
fn an_empty_file_is_committed_without_records() {
    let site = site_with_good_files();
    site.put("empty.jsonl", b"");
    site.once(Shape::ALONE).expect_code(0);
    let expected = good_out(&[("rows/empty.jsonl", b"")]);
    assert_eq!(tree::difference(&expected, &site.out()), None);
    assert_eq!(site.names("processed"), ["a-before.jsonl", "empty.jsonl", "z-after.jsonl"]);
}

#[test]
fn a_line_of_100_mib_is_rejected_in_little_memory() {
    for (shape, limit) in [(Shape::ALONE, 200 << 20), (Shape::new(1, 3), 200 << 20)] {
        let site = site_with_good_files();
        let hidden = site.folder("unprocessed").join(".long.tmp");
        File::create(&hidden).unwrap().set_len(100 << 20).unwrap();
        fs::rename(hidden, site.folder("unprocessed").join("long.jsonl")).unwrap();
        let running = site.start(shape);
        running.wait_for_finished(3);
        let peak = running.peak_bytes();
        assert!(peak < limit, "{shape}: it took {} MiB", peak >> 20);
        running.stop();
        let rejects = site.out().remove("rejects/long.jsonl").unwrap();
        let reject: serde_json::Value = serde_json::from_slice(&rejects).unwrap();
        assert_eq!(reject["code"], "too_long");
        assert_eq!((reject["line"].as_u64(), reject["offset"].as_u64()), (Some(1), Some(0)));
        assert_eq!(site.out()["totals/totals.csv"], TOTALS);
    }
}

#[test]
fn deep_json_is_rejected_record_by_record() {
    let deep = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!("{{\"host\":\"a\",\"n\":1,\"x\":{open}{close}}}\n")
    };
    let objects = format!("{}1{}\n", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let (bad, good) = ([deep(10_000), deep(64), objects], [deep(1), deep(63)]);
    let site = site_with_good_files();
    site.put("deep.jsonl", [bad.concat(), good.concat()].concat().as_bytes());
    site.once(Shape::new(1, 3)).expect_code(0);
    let out = site.out();
    assert_eq!(out["rows/deep.jsonl"], good.concat().as_bytes());
    let rejects = std::str::from_utf8(&out["rejects/deep.jsonl"]).unwrap();
    let code =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["code"].clone();
    let codes: Vec<_> = rejects.lines().map(code).collect();
    assert_eq!(codes, ["too_deep"; 3]);
}

#[test]
fn a_header_without_end_is_quarantined() {
    let site = Site::new(
        NODE,
        "pipeline: wide\nsources:\n  rows: { format: csv, fields: { a: int } }\nsinks:\n  rows: { from: rows, files: { format: raw } }\n",
    );
    site.put("good.csv", b"a\n1\n");
    site.put("wide.csv", &b"a,".repeat(2 << 20));
    site.once(Shape::ALONE).expect_code(3);
    let quarantine = site.quarantine();
    assert_eq!(quarantine, ["wide.csv bad_format: header longer than 1048576 bytes"]);
    assert_eq!(site.out(), Tree::from([("rows/good.csv".to_owned(), b"1\n".to_vec())]));
}

#[test]
fn a_pipe_is_left_alone() {
    let make = |_: &Site, path: &std::path::Path| {
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, 0o600.into(), 0).unwrap();
    };
    check_left_alone(b"pipe.jsonl", make, "it is a named pipe");
}

#[test]
fn a_symbolic_link_is_left_alone() {
    let make = |site: &Site, path: &std::path::Path| {
        fs::write(site.path().join("secret"), GOOD).unwrap();
        symlink(site.path().join("secret"), path).unwrap();
    };
    check_left_alone(b"link.jsonl", make, "it is a symbolic link");
    let dangling = |_: &Site, path: &std::path::Path| symlink("/nowhere", path).unwrap();
    check_left_alone(b"link.jsonl", dangling, "it is a symbolic link");
}

#[test]
fn a_directory_is_left_alone() {
    let make = |_: &Site, path: &std::path::Path| {
        fs::create_dir(path).unwrap();
        fs::write(path.join("inside.jsonl"), GOOD).unwrap();
    };
    check_left_alone(b"folder.jsonl", make, "it is a directory");
}

#[test]
fn a_socket_is_left_alone() {
    let make = |_: &Site, path: &std::path::Path| {
        std::os::unix::net::UnixListener::bind(path).unwrap();
    };
    check_left_alone(b"socket.jsonl", make, "it is a socket");
}

#[test]
fn a_misleading_name_is_left_alone() {
    let make = |_: &Site, path: &std::path::Path| fs::write(path, GOOD).unwrap();
    check_left_alone(b"new\nline.jsonl", make, "holds a control character");
    check_left_alone(b"esc\x1b[2Jape.jsonl", make, "holds a control character");
    check_left_alone(b"not-utf8-\xff.jsonl", make, "is not UTF-8");
    check_left_alone("lnosj.\u{202e}exe".as_bytes(), make, "changes the direction");
    check_left_alone(b"back\\slash.jsonl", make, "holds a slash or backslash");
}

#[test]
fn a_name_in_the_log_is_one_line_without_control_characters() {
    let site = site_with_good_files();
    let name = "fake\n2026-01-01T00:00:00Z ERROR all is lost\x1b[31m.jsonl";
    fs::write(site.folder("unprocessed").join(name), GOOD).unwrap();
    let ended = site.once(Shape::ALONE);
    assert!(!ended.stderr.contains('\x1b'), "{ended}");
    assert!(!ended.stderr.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{ended}");
}

#[test]
fn files_that_are_still_being_made_are_left_alone() {
    let names = [".hidden.jsonl", "half.jsonl.tmp", "half.jsonl.part", "~lock.jsonl", "old.jsonl~"];
    let site = site_with_good_files();
    for name in names {
        fs::write(site.folder("unprocessed").join(name), GOOD).unwrap();
    }
    site.once(Shape::ALONE).expect_code(0);
    let mut left = site.names("unprocessed");
    left.sort();
    let mut expected = names.map(str::to_owned);
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(tree::difference(&good_out(&[]), &site.out()), None);
}

#[test]
fn an_unusual_name_is_a_name_like_any_other() {
    let long = format!("{}.jsonl", "x".repeat(249));
    let names =
        ["with space.jsonl", "-rf.jsonl", "100%.jsonl", "$(id).jsonl", "gr\u{fc}n.jsonl", &*long];
    let site = site_with_good_files();
    for name in names {
        site_put_plain(&site, name);
    }
    site.once(Shape::ALONE).expect_code(0);
    let out = site.out();
    let outputs = out.keys().filter(|path| path.starts_with("rows/")).count();
    assert_eq!(outputs, 2 + names.len(), "{:?}", out.keys());
    assert!(
        out.iter().filter(|(path, _)| path.starts_with("rows/")).all(|(_, bytes)| bytes == GOOD)
    );
    assert_eq!(site.names("processed").len(), 2 + names.len());
    assert_eq!(out["totals/totals.csv"], b"host,rows,total\na,8,8\nb,8,16\n");
}

/// Writes in place: a name of 255 bytes has no room for a hidden one.
fn site_put_plain(site: &Site, name: &str) {
    fs::write(site.folder("unprocessed").join(name), GOOD).unwrap();
}

#[test]
fn the_same_name_again_overwrites_nothing() {
    let site = Site::new(NODE, PIPELINE);
    let running = site.start(Shape::ALONE);
    for round in 1..=3_u64 {
        site.put("same.jsonl", format!("{{\"host\":\"a\",\"n\":{round}}}\n").as_bytes());
        running.wait_for_finished(round);
    }
    running.stop();
    let out = site.out();
    let mut rows: Vec<_> =
        out.iter().filter(|(path, _)| path.starts_with("rows/")).map(|(_, bytes)| bytes).collect();
    rows.sort();
    let expected: Vec<Vec<u8>> =
        (1..=3).map(|n| format!("{{\"host\":\"a\",\"n\":{n}}}\n").into_bytes()).collect();
    assert_eq!(rows, expected.iter().collect::<Vec<_>>());
    assert_eq!(out["totals/totals.csv"], b"host,rows,total\na,3,6\n");
    assert_eq!(site.names("processed").len(), 3);
}

#[test]
fn a_file_that_is_written_to_after_it_was_taken_leaves_no_trace() {
    for shape in [Shape::ALONE, Shape::new(2, 2)] {
        let site = site_with_good_files();
        let running = site.start(shape);
        running.wait_for_finished(2);
        // A writer that renames its file into place too early, and goes on writing.
        let mut changes = running.watch();
        let hidden = site.folder("unprocessed").join(".growing.tmp");
        let mut writer = File::create(&hidden).unwrap();
        writer.write_all(&GOOD.repeat(1_000_000)).unwrap();
        fs::rename(&hidden, site.folder("unprocessed").join("growing.jsonl")).unwrap();
        let (stop, stopped) = channel::<()>();
        let done = std::thread::scope(|scope| {
            // It writes until the end, however quickly the file is read.
            scope.spawn(move || {
                let pace = Duration::from_millis(1);
                while stopped.recv_timeout(pace) == Err(RecvTimeoutError::Timeout) {
                    writer.write_all(GOOD).unwrap();
                }
            });
            let accepted = running.ask(changes.next()).unwrap().unwrap();
            let done = running.wait(accepted.id);
            drop(stop);
            done
        });
        assert_eq!(done.phase, Phase::Quarantined);
        assert_eq!(done.reason.unwrap().code, "changed");
        running.stop();
        assert_eq!(tree::difference(&good_out(&[]), &site.out()), None, "{shape}");
        assert_eq!(site.names("quarantine"), ["growing.jsonl", "growing.jsonl.reason.json"]);
    }
}

#[test]
fn an_output_that_somebody_else_put_there_is_not_overwritten() {
    let mut site = site_with_good_files();
    site.announce("a-before.jsonl");
    fs::create_dir_all(site.folder("out/rows")).unwrap();
    fs::write(site.folder("out/rows/a-before.jsonl"), "mine").unwrap();
    site.once(Shape::ALONE).expect_code(0);
    assert_eq!(site.out()["rows/a-before.jsonl"], b"mine");
    assert_eq!(site.out()["totals/totals.csv"], TOTALS);
}

/// A pipeline that does not check: nothing starts, and the mistake is told with its place.
#[track_caller]
fn check_mistake(yaml: &str, said: &[&str]) {
    let site = Site::new(NODE, yaml);
    site.put("a.jsonl", GOOD);
    for ended in [
        site.once(Shape::ALONE),
        site.once(Shape::new(2, 1)),
        site.call(&["check", "pipeline.yaml"]),
    ] {
        ended.expect_code(2);
        said.iter().for_each(|text| drop(ended.expect_said(text).clone()));
    }
    assert_eq!(site.names("unprocessed"), ["a.jsonl"]);
}

#[test]
fn a_pipeline_with_a_cycle_does_not_start() {
    let yaml = "pipeline: p
sources:
  rows: { format: jsonl, fields: { n: int } }
operators:
  one: { from: [rows, two], filter: n > 1 }
  two: { from: one, filter: n > 2 }
sinks:
  out: { from: two, files: { format: raw } }
";
    check_mistake(yaml, &["pipeline.yaml:5:", "one", "two"]);
}

#[test]
fn a_pipeline_with_an_unknown_column_does_not_start() {
    let yaml = "pipeline: p
sources:
  rows: { format: jsonl, fields: { status: int } }
operators:
  one: { from: rows, filter: statsu > 1 }
sinks:
  out: { from: one, files: { format: raw } }
";
    check_mistake(yaml, &["pipeline.yaml:5:30", "statsu", "did you mean", "status"]);
}

#[test]
fn a_pipeline_with_a_type_error_does_not_start() {
    let yaml = "pipeline: p
sources:
  rows: { format: jsonl, fields: { host: string } }
operators:
  one: { from: rows, filter: host + 1 > 2 }
sinks:
  out: { from: one, files: { format: raw } }
";
    check_mistake(yaml, &["pipeline.yaml:5:", "string"]);
}

#[test]
fn all_mistakes_of_a_pipeline_are_told_at_once() {
    let yaml = "pipeline: p
sources:
  rows: { format: jsonll, fields: { host: strin } }
sinks:
  out: { from: row, files: { format: raw } }
";
    check_mistake(yaml, &["pipeline.yaml:3:19", "pipeline.yaml:3:43", "pipeline.yaml:5:16"]);
}

#[test]
fn a_file_that_is_no_yaml_is_told_with_its_place() {
    check_mistake("pipeline: p\nsources: [\n", &["pipeline.yaml:"]);
    check_mistake("pipeline: p\nsources: &a [*a]\n", &["pipeline.yaml:"]);
}

#[test]
fn a_second_process_on_the_same_home_does_not_start() {
    let site = site_with_good_files();
    let running = site.start(Shape::ALONE);
    running.wait_for_finished(2);
    let second = site.once(Shape::ALONE);
    second.expect_code(1).expect_said("is in use by process");
    good_still_work(running, &site);
}

#[test]
fn a_port_that_is_taken_is_told() {
    let site = site_with_good_files();
    let running = site.start(Shape::ALONE);
    let other = site_with_good_files();
    let address = running.address.trim_start_matches("http://").to_owned();
    let ended: Ended =
        other.call(&["run", "pipeline.yaml", "--once", "--home", "home", "--grpc", &address]);
    ended.expect_code(1).expect_said(&address).expect_said("--grpc");
    assert_eq!(other.names("unprocessed").len(), 2, "it took files before it could serve");
    good_still_work(running, &site);
}

fn good_still_work(running: Running<'_>, site: &Site) {
    running.wait_for_finished(2);
    running.stop();
    assert_eq!(tree::difference(&good_out(&[]), &site.out()), None);
}

#[test]
fn a_damaged_journal_is_told_and_left_as_it_is() {
    let site = site_with_good_files();
    site.once(Shape::ALONE).expect_code(0);
    let journal = site.home().join("journal.db");
    let rubbish = b"this is no database, whatever its name says ".repeat(200);
    fs::write(&journal, &rubbish).unwrap();
    site.once(Shape::ALONE).expect_code(65).expect_said("journal");
    assert_eq!(fs::read(&journal).unwrap(), rubbish);
}
