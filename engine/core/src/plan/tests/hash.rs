//! The hash of a plan changes with what the pipeline does, and with nothing else.

use super::{ACCESS_LOGS, AUTH_GUARD, good};

#[track_caller]
fn check_same(left: &str, right: &str) {
    assert_eq!(good(left).hash, good(right).hash);
}

#[track_caller]
fn check_different(left: &str, right: &str) {
    assert_ne!(good(left).hash, good(right).hash);
}

/// Returns a pipeline file without its tests, which speak of what is changed here.
fn untested(yaml: &str) -> &str {
    yaml.split("\ntests:").next().unwrap_or(yaml)
}

#[test]
fn comments_and_spacing_do_not_count() {
    let without: String = ACCESS_LOGS
        .lines()
        .map(|line| line.split('#').next().unwrap().trim_end())
        .filter(|line| !line.is_empty())
        .fold(String::new(), |text, line| text + line + "\n");
    check_same(ACCESS_LOGS, &without);
    check_same(ACCESS_LOGS, &ACCESS_LOGS.replace("status >= 500", "status  >=500"));
    check_same(ACCESS_LOGS, &ACCESS_LOGS.replace("status >= 500", "\"status >= 500\""));
    check_same(ACCESS_LOGS, &ACCESS_LOGS.replace("[host, status]", "[ host , status ]"));
}

#[test]
fn a_default_written_out_does_not_count() {
    let written = ACCESS_LOGS.replace("{ format: raw }", "{ format: raw, empty: write }");
    check_same(ACCESS_LOGS, &written);
}

#[test]
fn a_column_that_nobody_reads_does_not_count() {
    let logs = untested(ACCESS_LOGS);
    check_same(logs, &logs.replace("ts: timestamp", "unread: string"));
}

#[test]
fn tests_do_not_count() {
    assert_ne!(ACCESS_LOGS, untested(ACCESS_LOGS));
    check_same(ACCESS_LOGS, untested(ACCESS_LOGS));
}

#[test]
fn meaning_counts() {
    let (logs, guard) = (untested(ACCESS_LOGS), untested(AUTH_GUARD));
    for (old, new) in [
        ("pipeline: access-logs", "pipeline: other"),
        ("status >= 500", "status >= 501"),
        ("sum(bytes)", "avg(bytes)"),
        ("format: raw", "format: csv"),
        ("key: [host, status]", "key: [status, host]"),
        ("hits: count(*)", "requests: count(*)"),
        ("\"*.jsonl*\"", "\"*.json\""),
        ("format: csv, key", "format: csv, publish_every: 2s, key"),
        ("bytes: int", "bytes: float"),
    ] {
        assert!(logs.contains(old), "{old}");
        check_different(logs, &logs.replace(old, new));
    }
    check_different(guard, &guard.replace("empty: skip", "empty: write"));
    check_different(guard, &guard.replace("port (?<port>", "port  (?<port>"));
    check_different(logs, guard);
}

#[test]
fn what_orders_rows_counts() {
    const TOP: &str = "pipeline: p\nsources: { s: { format: csv, fields: { a: string, b: int } } }\n\
        operators: { x: { from: s, top: { k: 3, by: [a], order: [b desc], rank: r } } }\n\
        sinks: { o: { from: x, table: { format: csv, key: [a, r] } } }\n";
    check_same(TOP, &TOP.replace("b desc", "b  DESC nulls last"));
    for (old, new) in [
        ("k: 3", "k: 4"),
        ("b desc", "b"),
        ("b desc", "b desc nulls first"),
        ("b desc", "a desc"),
        (
            ", rank: r } } }\nsinks: { o: { from: x, table: { format: csv, key: [a, r]",
            " } } }\nsinks: { o: { from: x, table: { format: csv, key: [a, b]",
        ),
    ] {
        assert!(TOP.contains(old), "{old}");
        check_different(TOP, &TOP.replace(old, new));
    }
    let first = TOP
        .replace("top: { k: 3, by: [a], order: [b desc], rank: r }", "dedupe: { by: [a] }")
        .replace("key: [a, r]", "key: [a]");
    check_different(&first, &first.replace("{ by: [a] }", "{ by: [a], keep: last }"));
    check_same(&first, &first.replace("{ by: [a] }", "{ by: [a], keep: first }"));
}

#[test]
fn the_hash_of_the_example_stays_the_same_between_versions() {
    // A home remembers it: if this changes without need, every running pipeline seems changed. It did when
    // rejected records got the columns `round` and `message`.
    assert_eq!(
        good(ACCESS_LOGS).hash,
        "b967484932a03b3d59b6e00be7bb70a78519f97156ba541d766c00a022eab76b"
    );
}
