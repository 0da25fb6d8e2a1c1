//! What each port of a plan carries.

use super::{ACCESS_LOGS, AUTH_GUARD, good};
use crate::plan::{NodeId, OperatorKind, Plan, Port, SinkKind};

/// One line a port: `node.tag: columns`, with `+raw` and `+at` (positions), `unused` when dropped.
fn ports(plan: &Plan) -> Vec<String> {
    let show = |name: &str, port: &Port| {
        let mut shown =
            if port.tag.is_empty() { format!("{name}:") } else { format!("{name}.{}:", port.tag) };
        for column in port.shape.schema.columns() {
            shown.push_str(&format!(" {}", column.name));
        }
        for (set, word) in
            [(port.shape.raw, " +raw"), (port.shape.positions, " +at"), (!port.used, " unused")]
        {
            shown.push_str(if set { word } else { "" });
        }
        shown
    };
    let sources = plan.sources.iter().map(|source| show(&source.name, &source.output));
    let operators = plan
        .operators
        .iter()
        .flat_map(|operator| operator.outputs.iter().map(|port| show(&operator.name, port)));
    sources.chain(operators).collect()
}

#[track_caller]
fn check(yaml: &str, expected: &[&str]) {
    let plan = good(yaml);
    assert_eq!(ports(&plan), expected);
    for source in &plan.sources {
        assert_eq!(source.read.schema(), source.output.shape.schema);
        assert_eq!(source.read.raw, source.output.shape.raw);
        assert_eq!(source.read.positions, source.output.shape.positions);
    }
}

/// A pipeline over one jsonl source `s` with the columns a to e.
fn with(operators: &str, sinks: &str) -> String {
    format!(
        "pipeline: p\nsources: {{ s: {{ format: jsonl, fields: {{ a: int, b: int, c: string, d: string, \
         e: timestamp }} }} }}\noperators:\n{operators}\nsinks:\n{sinks}\n"
    )
}

#[test]
fn the_example_reads_only_what_it_uses() {
    check(
        ACCESS_LOGS,
        &[
            "logs: host status bytes latency_ms +raw",
            "by_class.server_error: +raw",
            "by_class.client_error: host status bytes latency_ms",
            "by_class.ok: host status bytes latency_ms",
            "traffic: host status hits bytes worst_ms",
        ],
    );
}

#[test]
fn lines_that_may_not_match_travel_with_their_raw_record() {
    check(
        AUTH_GUARD,
        &[
            "auth: line +raw +at",
            "kind.invalid_user: line +raw +at",
            "kind.failed: line +raw +at",
            "kind.rest: unused",
            "invalid_login: user ip port",
            "failed_login: ip port",
            "by_address: ip attempts lowest_port",
            "by_name: user attempts",
        ],
    );
}

#[test]
fn a_raw_sink_needs_no_column() {
    check(
        "pipeline: p\nsources: { s: { format: text } }\nsinks: { o: { from: s, files: { format: raw } } }",
        &["s: +raw"],
    );
}

#[test]
fn columns_keep_the_order_of_the_source() {
    check(
        &with(
            "  x: { from: s, select: { d: d, a: a } }",
            "  o: { from: x, files: { format: csv } }",
        ),
        &["s: a d", "x: d a"],
    );
}

#[test]
fn a_column_that_is_computed_and_not_read_is_not_computed() {
    let yaml = with(
        "  x: { from: s, select: { u: upper(c), v: upper(d) } }\n  y: { from: x, select: [u] }",
        "  o: { from: y, files: { format: csv } }",
    );
    check(&yaml, &["s: c", "x: u", "y: u"]);
    let OperatorKind::Select { columns } = &good(&yaml).operators[0].kind else { panic!("select") };
    assert_eq!(columns.len(), 1);
}

#[test]
fn what_can_reject_a_record_is_computed_even_if_nobody_reads_it() {
    let yaml = with(
        "  x: { from: s, select: { u: c, v: a / b } }\n  y: { from: x, select: [u] }",
        "  o: { from: y, files: { format: csv } }",
    );
    check(&yaml, &["s: a b c +raw +at", "x: u", "y: u"]);
}

#[test]
fn records_that_come_together_carry_their_positions() {
    check(
        &with(
            "  r: { from: s, route: { x: a > 1, y: else } }",
            "  o: { from: [r.x, r.y], files: { format: raw } }",
        ),
        &["s: a +raw +at", "r.x: +raw +at", "r.y: +raw +at"],
    );
    check(
        &with(
            "  r: { from: s, route: { x: a > 1, y: else } }\n  f: { from: [r.x, r.y], filter: b > 1 }",
            "  o: { from: f, files: { format: raw } }",
        ),
        &["s: a b +raw +at", "r.x: b +raw +at", "r.y: b +raw +at", "f: +raw +at"],
    );
}

#[test]
fn behind_an_aggregate_there_is_no_raw_record() {
    check(
        &with(
            "  g: { from: s, aggregate: { by: [c], compute: { n: sum(a) } } }\n  \
             x: { from: g, select: { c: c, k: 100 / n } }",
            "  o: { from: x, table: { format: csv, key: [c] } }",
        ),
        &[
            "s: a c",
            "g: c n",
            "x: c k",
            // Told as rows, which are corrected with their files.
            "x.errors: file line offset operator round code message raw",
        ],
    );
}

#[test]
fn rows_of_a_key_carry_what_is_read_and_their_place() {
    check(
        &with(
            "  d: { from: s, dedupe: { by: [c], order: [a] } }",
            "  o: { from: d, table: { format: csv, key: [c] } }",
        ),
        &["s: a b c d e +at", "d: a b c d e"],
    );
    check(
        &with(
            "  t: { from: s, top: { k: 3, by: [c], order: [a desc], rank: n } }\n  \
             x: { from: t, select: [c, n] }",
            "  o: { from: x, table: { format: csv, key: [c] } }",
        ),
        &["s: a c +at", "t: c n", "x: c n"],
    );
}

#[test]
fn behind_an_aggregate_rows_of_a_key_have_no_place() {
    check(
        &with(
            "  g: { from: s, aggregate: { by: [c], compute: { n: sum(a) } } }\n  \
             t: { from: g, top: { k: 3, order: [n desc] } }",
            "  o: { from: t, table: { format: csv, key: [c] } }",
        ),
        &["s: a c", "g: c n", "t: c n"],
    );
}

#[test]
fn duplicates_that_nobody_reads_are_no_port() {
    let both = "  d: { from: s, dedupe: { by: [c] } }";
    let one = good(&with(both, "  o: { from: d, table: { format: csv, key: [c] } }"));
    assert_eq!(one.operators[0].outputs.len(), 1);
    let two = "  o: { from: d, table: { format: csv, key: [c] } }\n  \
               q: { from: d.duplicates, table: { format: csv, key: [c, a] } }";
    assert_eq!(good(&with(both, two)).operators[0].outputs.len(), 2);
}

#[test]
fn counting_reads_no_column() {
    check(
        &with(
            "  g: { from: s, aggregate: { by: [], compute: { n: count(*) } } }",
            "  o: { from: g, table: { format: csv, key: [] } }",
        ),
        &["s:", "g: n"],
    );
}

#[test]
fn lines_that_do_not_match_can_be_read() {
    let yaml = with(
        "  p: { from: s, parse: { column: c, regex: '(?<u>.)(?<v>.)' } }",
        "  o: { from: p, files: { format: csv } }\n  q: { from: p.unmatched, files: { format: raw } }",
    );
    check(&yaml, &["s: a b c d e +raw", "p: a b c d e u v", "p.unmatched: +raw"]);
}

#[test]
fn rejected_records_that_nobody_reads_go_to_rejects() {
    let yaml = with(
        "  f: { from: s, filter: a / b > 1 }",
        "  o: { from: f, files: { format: raw } }\n  bad: { from: s.errors, files: { format: jsonl } }",
    );
    let plan = good(&yaml);
    let last = plan.sinks.last().unwrap();
    assert_eq!((last.name.as_str(), &last.kind), ("rejects", &SinkKind::Rejects));
    assert_eq!(last.errors_of, [NodeId::Operator(0)]);
    assert_eq!(plan.sinks[1].errors_of, [NodeId::Source(0)]);
    assert!(plan.sources[0].errors_used && !plan.operators[0].errors_used);
}

#[test]
fn operators_come_after_what_they_read_whatever_the_file_says() {
    let plan = good(&with(
        "  z: { from: y, filter: a > 1 }\n  y: { from: x, filter: a > 2 }\n  x: { from: s, filter: a > 3 }",
        "  o: { from: z, files: { format: raw } }",
    ));
    let names: Vec<&str> = plan.operators.iter().map(|operator| operator.name.as_str()).collect();
    assert_eq!(names, ["x", "y", "z"]);
    assert_eq!(plan.node_name(plan.operators[2].inputs[0].from.node), "y");
}

#[test]
fn csv_settings_reach_the_reader() {
    let plan = good(
        "pipeline: p\nsources:\n  a: { format: csv, header: false, columns: [x, y, z], delimiter: tab, \
         multiline: true, fields: { n: { type: int, path: z } }, max_record: 64KiB, pattern: [\"a*\", \
         \"b*\"] }\n  b: { format: csv, header: false, fields: { u: int, v: int } }\nsinks:\n  o: { from: a, \
         files: { format: csv } }\n  q: { from: b, files: { format: csv, header: false, delimiter: \";\" } }\n",
    );
    let (a, b) = (&plan.sources[0], &plan.sources[1]);
    assert_eq!(a.read.names, ["x", "y", "z"]);
    assert_eq!(a.read.fields[0].path, ["z"]);
    assert_eq!((a.read.record_bytes_max, a.splittable), (64 * 1024, false));
    assert_eq!(a.patterns, ["a*", "b*"]);
    assert_eq!(b.read.names, ["u", "v"]);
    assert!(b.splittable);
}

#[test]
fn a_json_path_leads_into_nested_objects() {
    let plan = good(
        "pipeline: p\nsources: { s: { format: jsonl, fields: { id: { type: int, path: user.id }, a.b: int } } }\n\
         sinks: { o: { from: s, files: { format: csv } } }\n",
    );
    assert_eq!(plan.sources[0].read.fields[0].path, ["user", "id"]);
    assert_eq!(plan.sources[0].read.fields[1].path, ["a.b"]);
}

#[test]
fn each_side_of_a_join_carries_its_key_and_what_is_taken() {
    let sources = "pipeline: p
sources:
  s: { format: jsonl, pattern: \"s*\", fields: { a: int, b: int, c: string, d: string } }
  t: { format: jsonl, fields: { id: int, x: int, y: int, z: string } }
";
    check(
        &format!(
            "{sources}operators:
  j: {{ from: s, join: {{ with: t, on: {{ a: id }}, take: {{ more: x, rest: y }} }} }}
  k: {{ from: j, select: [b, more] }}
sinks:
  o: {{ from: k, table: {{ format: csv, key: [b] }} }}
"
        ),
        &["s: a b", "t: id x", "j: b more", "k: b more"],
    );
    check(
        &format!(
            "{sources}operators:
  j: {{ from: s, join: {{ with: t, on: {{ a: id }}, kind: anti }} }}
sinks:
  o: {{ from: j, table: {{ format: csv, key: [c] }} }}
"
        ),
        &["s: a b c d", "t: id", "j: a b c d"],
    );
}

#[test]
fn a_join_of_a_stream_with_itself_carries_what_both_sides_need() {
    check(
        &with(
            "  j: { from: s, join: { with: s, on: { a: b }, take: { other: c } } }
  k: { from: j, select: [d, other] }",
            "  o: { from: k, table: { format: csv, key: [d] } }",
        ),
        &["s: a b c d", "j: d other", "k: d other"],
    );
}
