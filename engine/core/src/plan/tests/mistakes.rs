//! Every mistake of `mistakes.txt` and of `newcomer.txt` is reported as it stands there: all of a file at
//! once, each with line, column, message and hint.
//!
//! `newcomer.txt` holds what people get wrong in their first hour, `mistakes.txt` everything else. A case
//! is `# what it is about`, the pipeline file, a line `---`, and one line `line:column message / hint` for
//! each mistake, in order. They show the language from its wrong side; adding a case needs no Rust.

use std::fmt::Write as _;

use crate::plan::plan;

const MISTAKES: &str = include_str!("mistakes.txt");
const NEWCOMER: &str = include_str!("newcomer.txt");

struct Case {
    title: String,
    yaml: String,
    expected: String,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut in_expected = true;
    for line in text.lines() {
        if in_expected && line.starts_with("# ") {
            cases.push(Case { title: line.into(), yaml: String::new(), expected: String::new() });
            in_expected = false;
        } else if line == "---" {
            in_expected = true;
        } else if let Some(case) = cases.last_mut() {
            let text = if in_expected { &mut case.expected } else { &mut case.yaml };
            if !(in_expected && line.is_empty()) {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    cases
}

fn found(yaml: &str) -> String {
    let mut out = String::new();
    for mistake in plan(yaml).err().unwrap_or_default() {
        let hint = mistake.hint.map(|hint| format!(" / {hint}")).unwrap_or_default();
        let _ = writeln!(out, "{}:{} {}{hint}", mistake.line, mistake.column, mistake.message);
    }
    out
}

#[track_caller]
fn check(text: &str) {
    let cases = cases(text);
    assert!(cases.len() >= 60, "only {} cases: were some lost?", cases.len());
    let mut wrong = String::new();
    for case in cases {
        let found = found(&case.yaml);
        if found != case.expected {
            let _ = writeln!(wrong, "{}\nexpected\n{}found\n{found}", case.title, case.expected);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn each_mistake_is_reported_with_its_place_and_a_hint() {
    check(MISTAKES);
}

#[test]
fn what_goes_wrong_in_the_first_hour_is_told_with_its_place_and_the_fix() {
    check(NEWCOMER);
}

#[test]
fn a_mistake_says_where_it_stands_in_the_structure() {
    let yaml = "pipeline: p\nsources: { s: { format: text } }\n\
                operators: { r: { from: s, route: { a: line, b: else } } }\n\
                sinks: { o: { from: [r.a, r.b], files: { format: raw } } }\n";
    let mistakes = plan(yaml).unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert_eq!(mistakes[0].path, "operators.r.route.a");
}

#[test]
fn a_hostile_file_is_refused_quickly() {
    let check = |yaml: &str| assert!(!found(yaml).is_empty());
    check("");
    check("\u{0}");
    check("- a\n- b\n");
    check(&"[".repeat(100_000));
    check(&"{a: ".repeat(100_000));
    check(&" ".repeat(2 * 1024 * 1024));
    check(&format!("pipeline: {}\n", "x".repeat(1_000_000)));
    // Ten anchors, each nine times the one before: a billion values.
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let _ = writeln!(
            bomb,
            "a{level}: &a{level} [{}]",
            vec![format!("*a{}", level - 1); 9].join(", ")
        );
    }
    check(&bomb);
    check("a: &a [*a]\n");
    let keys: String = (0..40_000).map(|at| format!("k{at}: 1\n")).collect();
    check(&keys);
    // Each part is allowed, all together would be gigabytes.
    let wide: String = (0..20_000).map(|at| format!("    k{at}: int\n")).collect();
    check(&format!(
        "pipeline: p\nsources:\n  s:\n   format: jsonl\n   fields:\n{wide}sinks: {{ o: {{ from: s, files: {{ format: csv }} }} }}\n"
    ));
    // Everything reads everything.
    let names: Vec<String> = (0..400).map(|at| format!("o{at}")).collect();
    let all = names.join(", ");
    let circles: String = names
        .iter()
        .map(|name| format!("  {name}: {{ from: [s, {all}], max_rounds: 9, filter: tru }}\n"))
        .collect();
    check(&format!(
        "pipeline: p\nsources: {{ s: {{ format: text }} }}\noperators:\n{circles}sinks: {{ o: {{ from: o1, files: {{ format: raw }} }} }}\n"
    ));
    let many: String =
        (0..5_000).map(|at| format!("  o{at}: {{ from: s{at}, filter: tru }}\n")).collect();
    check(&format!(
        "pipeline: p\nsources: {{ s: {{ format: text }} }}\noperators:\n{many}sinks: {{ o: {{ from: s, files: {{ format: raw }} }} }}\n"
    ));
}

#[test]
fn a_file_cut_anywhere_is_answered() {
    let yaml = crate::plan::tests::AUTH_GUARD;
    // A step that shares no factor with anything in the file, so that every kind of cut is met.
    for end in (0..yaml.len()).step_by(7).filter(|end| yaml.is_char_boundary(*end)) {
        let part = &yaml[..end];
        if let Err(mistakes) = plan(part) {
            for mistake in mistakes {
                let _ = mistake.render("pipeline.yaml", part);
            }
        }
    }
}
