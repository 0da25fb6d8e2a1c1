//! What is included, given and grouped makes the plan of the file that was written flat, and every mistake in it
//! is reported where it stands.
//!
//! `composition.txt` holds the wrong ones: `# what it is about`, the pipeline file, each included file behind
//! `--- NAME`, a line `---`, and a line `[FILE:]line:column message / hint (within)` for each mistake, in order.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::plan::{
    Alone, GivenValue, IncludedFile, Plan, Refusal, Secrets, Surroundings, describe, plan, plan_in,
};

const CASES: &str = include_str!("composition.txt");

/// Files in memory, one variable of the environment and some values.
#[derive(Default)]
struct Shelf {
    files: BTreeMap<String, String>,
    given: BTreeMap<String, String>,
}

impl Surroundings for Shelf {
    fn file(&self) -> Option<(String, String)> {
        Some(("p.yaml".to_owned(), "p.yaml".to_owned()))
    }

    fn include(&self, path: &str, _: Option<&str>) -> Result<IncludedFile, Refusal> {
        let text = match path {
            "p.yaml" => String::new(),
            _ => self.files.get(path).ok_or_else(|| Refusal::new("no such file", None))?.clone(),
        };
        Ok(IncludedFile { id: path.to_owned(), name: path.to_owned(), text })
    }

    fn environment(&self, name: &str) -> Result<String, Refusal> {
        match name {
            "REGION" => Ok("north".to_owned()),
            _ => Err(Refusal::new(format!("the environment has no variable `{name}`"), None)),
        }
    }

    fn parameter(&self, name: &str) -> Option<GivenValue> {
        let value = self.given.get(name)?.clone();
        Some(GivenValue { value, origin: "--param".to_owned() })
    }

    fn secrets(&self) -> Secrets {
        Secrets::default()
    }
}

impl Shelf {
    fn with(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Self { files: files.collect(), given: BTreeMap::new() }
    }

    fn given(mut self, name: &str, value: &str) -> Self {
        self.given.insert(name.to_owned(), value.to_owned());
        self
    }

    #[track_caller]
    fn plan(&self, yaml: &str) -> Plan {
        match plan_in(yaml, self) {
            Ok(plan) => plan,
            Err(mistakes) => {
                let shown = mistakes.iter().map(|mistake| mistake.render("p.yaml", yaml));
                panic!("{}", shown.collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

/// Checks that a file is the same as one that was written flat, and that its flat text is too.
#[track_caller]
fn check(shelf: &Shelf, yaml: &str, flat: &str) {
    let (composed, expected) = (shelf.plan(yaml), super::good(flat));
    assert_eq!(format!("{:#?}", describe(&composed)), format!("{:#?}", describe(&expected)));
    assert_eq!(composed.hash, expected.hash);
    let again = match plan(&composed.yaml) {
        Ok(again) => again,
        Err(mistakes) => panic!("{mistakes:?}\n{}", composed.yaml),
    };
    assert_eq!(again.hash, expected.hash, "{}", composed.yaml);
    assert_eq!(again.yaml, composed.yaml, "what is flat stays as it is");
}

const FLAT: &str = "
pipeline: p
sources: { s: { format: csv, fields: { n: int, word: string } } }
operators:
  big: { from: s, filter: n > 5 }
sinks: { o: { from: big, files: { format: csv } } }
";

#[test]
fn an_included_file_is_as_if_it_stood_there() {
    let shelf = Shelf::with(&[
        ("sources.yaml", "sources: { s: { format: csv, fields: { n: int, word: string } } }"),
        ("rest.yaml", "include: sources.yaml\noperators: { big: { from: s, filter: n > 5 } }"),
    ]);
    let sinks = "sinks: { o: { from: big, files: { format: csv } } }\n";
    check(&shelf, &format!("pipeline: p\ninclude: [rest.yaml]\n{sinks}"), FLAT);
    // Two ways lead to one file; the order of the list does not matter for what is found.
    check(&shelf, &format!("pipeline: p\ninclude: [sources.yaml, rest.yaml]\n{sinks}"), FLAT);
}

#[test]
fn a_parameter_is_its_value() {
    let yaml = "
pipeline: ${NAME}
params:
  NAME: { type: string, default: p }
  LEAST: { type: int, default: 5 }
  FORMAT: string
sources: { s: { format: '${FORMAT}', fields: { n: int, word: string } } }
operators: { big: { from: s, filter: 'n > ${LEAST}' } }
sinks: { o: { from: big, files: { format: '${FORMAT}' } } }
";
    check(&Shelf::default().given("FORMAT", "csv"), yaml, FLAT);
    let other = Shelf::default().given("FORMAT", "csv").given("LEAST", "6").plan(yaml);
    assert_ne!(other.hash, super::good(FLAT).hash, "another value is another plan");
}

#[test]
fn a_condition_that_stands_as_a_key_takes_parameters() {
    let yaml = "
pipeline: p
params: { LEAST: { type: int, default: 5 } }
sources:
  s: { format: csv, expect: { 'n > ${LEAST}': fail_file, \"word <> '$${LEAST}'\": reject }, fields: { n: int, word: string } }
sinks: { o: { from: s, files: { format: csv } } }
";
    let flat = "
pipeline: p
sources:
  s: { format: csv, expect: { n > 5: fail_file, \"word <> '$${LEAST}'\": reject }, fields: { n: int, word: string } }
sinks: { o: { from: s, files: { format: csv } } }
";
    check(&Shelf::default(), yaml, flat);
}

#[test]
fn a_default_that_refers_to_nothing_may_look_like_a_reference() {
    let yaml = "
pipeline: p
params: { WORD: { type: string, default: 'a $${B} c $$${D}' } }
sources: { s: { format: csv, fields: { word: string, '$${n}': int } } }
operators: { big: { from: s, filter: \"word = '${WORD}'\" } }
sinks: { o: { from: big, files: { format: csv } } }
";
    let flat = yaml
        .replace("params: { WORD: { type: string, default: 'a $${B} c $$${D}' } }\n", "")
        .replace("'${WORD}'", "'a $${B} c $$${D}'");
    check(&Shelf::default(), yaml, &flat);
}

#[test]
fn a_value_is_never_read_as_yaml() {
    let yaml = "
pipeline: p
params: { WORD: string }
sources: { s: { format: csv, fields: { n: int, word: string } } }
operators: { big: { from: s, filter: \"word = '${WORD}' and word <> '$${WORD}' and word <> '${env:REGION}'\" } }
sinks: { o: { from: big, files: { format: csv } } }
";
    let word = "x\" }\n  evil: { from: s, filter: true } # ${WORD} ${env:HOME} \u{85}\u{2028}\\";
    let flat = "
pipeline: p
sources: { s: { format: csv, fields: { n: int, word: string } } }
operators: { big: { from: s, filter: \"word = 'x\\\" }\\n  evil: { from: s, filter: true } # $${WORD} $${env:HOME} \\u0085\\u2028\\\\' and word <> '$${WORD}' and word <> 'north'\" } }
sinks: { o: { from: big, files: { format: csv } } }
";
    check(&Shelf::default().given("WORD", word), yaml, flat);
}

const GROUP: &str = "
groups:
  halves:
    params: { MIDDLE: { type: int, default: 10 } }
    inputs: { in: { columns: { n: int } } }
    operators:
      positive: { from: in, filter: n >= 0 }
      split: { from: positive, route: { low: 'n < ${MIDDLE}', high: else } }
    outputs: { low: split.low, high: [split.high], all: positive }
";

#[test]
fn a_group_becomes_its_operators() {
    let shelf = Shelf::with(&[("groups.yaml", GROUP)]);
    let yaml = "
pipeline: p
include: groups.yaml
sources: { s: { format: csv, fields: { n: int, word: string } } }
operators:
  x: { group: halves, from: s, drop: all }
  y: { group: halves, from: { in: [x.low, x.high] }, with: { MIDDLE: 3 }, drop: [low] }
sinks:
  o: { from: [y.high, y.all], files: { format: csv } }
  bad: { from: y.errors, files: { format: jsonl } }
";
    let flat = "
pipeline: p
sources: { s: { format: csv, fields: { n: int, word: string } } }
operators:
  x/positive: { from: s, filter: n >= 0 }
  x/split: { from: x/positive, route: { low: n < 10, high: else } }
  y/positive: { from: [x/split.low, x/split.high], filter: n >= 0 }
  y/split: { from: y/positive, drop: [low], route: { low: n < 3, high: else } }
sinks:
  o: { from: [y/split.high, y/positive], files: { format: csv } }
  bad: { from: [y/positive.errors, y/split.errors], files: { format: jsonl } }
";
    check(&shelf, yaml, flat);
}

#[test]
fn a_group_may_use_groups() {
    let yaml = format!(
        "pipeline: p{GROUP}
  outer:
    params: {{ AT: int }}
    inputs: [left, right]
    operators:
      inner: {{ group: halves, from: left, with: {{ MIDDLE: '${{AT}}' }}, drop: [high, all] }}
      both: {{ from: inner.low, join: {{ with: right, on: [n] }} }}
    outputs: {{ out: both, through: right }}
sources:
  s: {{ format: csv, pattern: 's*', fields: {{ n: int }} }}
  t: {{ format: csv, pattern: 't*', fields: {{ n: int, name: string }} }}
operators:
  o: {{ group: outer, from: {{ left: s, right: t }}, with: {{ AT: 7 }}, drop: through }}
sinks: {{ out: {{ from: o.out, files: {{ format: csv }} }} }}
"
    );
    let flat = "
pipeline: p
sources:
  s: { format: csv, pattern: 's*', fields: { n: int } }
  t: { format: csv, pattern: 't*', fields: { n: int, name: string } }
operators:
  o/inner/positive: { from: s, filter: n >= 0 }
  o/inner/split: { from: o/inner/positive, route: { low: n < 7, high: else }, drop: [high] }
  o/both: { from: o/inner/split.low, join: { with: t, on: [n] } }
sinks: { out: { from: o/both, files: { format: csv } } }
";
    check(&Shelf::default(), &yaml, flat);
}

#[test]
fn what_only_leads_to_a_dropped_output_is_left_out() {
    let yaml = "
pipeline: p
groups:
  g:
    inputs: [in]
    operators:
      a: { from: in, filter: n > 1 }
      b: { from: in, filter: n > 2 }
      c: { from: b, filter: n > 3 }
    outputs: { a: a, c: c }
sources: { s: { format: csv, fields: { n: int } } }
operators: { x: { group: g, from: s, drop: c } }
sinks:
  o: { from: x.a, files: { format: csv } }
  bad: { from: x.errors, files: { format: csv } }
";
    let flat = "
pipeline: p
sources: { s: { format: csv, fields: { n: int } } }
operators: { x/a: { from: s, filter: n > 1 } }
sinks:
  o: { from: x/a, files: { format: csv } }
  bad: { from: x/a.errors, files: { format: csv } }
";
    check(&Shelf::default(), yaml, flat);
}

#[test]
fn a_group_that_nobody_uses_is_checked_as_far_as_it_is_known() {
    let check = |operator: &str, expected: &[&str]| {
        let yaml = format!(
            "groups:\n  g:\n    params: {{ LEAST: int, WAY: string }}\n    inputs: [in]\n    \
             operators: {{ a: {{ from: in, {operator} }} }}\n    outputs: {{ out: a }}\n{FLAT}"
        );
        let mistakes = plan_in(&yaml, &Shelf::default()).err().unwrap_or_default();
        let all: Vec<String> = mistakes
            .iter()
            .map(|mistake| format!("{}:{} {}", mistake.line, mistake.column, mistake.message))
            .collect();
        assert_eq!(all.len(), expected.len(), "{operator}: {all:?}");
        for (said, expected) in all.iter().zip(expected) {
            assert!(said.starts_with("5:") && said.contains(expected), "{operator}: {said}");
        }
    };
    check("filter: n > 1", &[]);
    // What columns there are is not known, and neither is what the parameters are.
    check("filter: anything = 'x'", &[]);
    check("filter: \"n > ${LEAST}\"", &[]);
    check("top: { by: [k], order: [\"n ${WAY}\"], k: \"${LEAST}\" }", &[]);
    check("aggregate: { by: [k], compute: { all: count(*) } }", &[]);
    check("state: { key: [k], initial: s, transitions: [{ from: s, when: n > 1, emit: s }] }", &[]);
    check("fliter: n > 1", &["fliter"]);
    check("fliter: \"n > ${LEAST}\"", &["fliter"]);
    check("filter: n >", &["expression"]);
    check("select: [{ a: n + }, { b: n * }]", &["expression", "expression"]);
    check("top: { by: [k], order: [n], k: none }", &["none"]);
}

#[test]
fn a_text_that_somebody_sent_reads_nothing() {
    for (yaml, said) in [
        ("include: /etc/passwd\n", "no files are included here"),
        ("x: ${env:HOME}\n", "the environment is not read here"),
    ] {
        let mistakes = plan_in(&format!("{yaml}{FLAT}"), &Alone::default()).unwrap_err();
        let all = mistakes.iter().map(|mistake| mistake.message.clone()).collect::<Vec<_>>();
        assert!(all.iter().any(|message| message.contains(said)), "{all:?}");
    }
}

#[test]
fn groups_and_includes_that_multiply_are_refused_quickly() {
    let found = |yaml: &str, shelf: &Shelf| {
        let mistakes = plan_in(yaml, shelf).err().unwrap_or_default();
        mistakes.into_iter().map(|mistake| mistake.message).collect::<Vec<_>>().join("\n")
    };
    // Ten operators, each ten groups of ten groups ...
    let mut groups = String::from(
        "groups:\n  g0: { inputs: [in], operators: { a: { from: in, filter: n > 1 } }, outputs: { out: a } }\n",
    );
    for level in 1..8 {
        let below = level - 1;
        let uses: Vec<String> =
            (0..10).map(|at| format!("u{at}: {{ group: g{below}, from: in }}")).collect();
        let outs: Vec<String> = (0..10).map(|at| format!("u{at}.out")).collect();
        let _ = writeln!(
            groups,
            "  g{level}: {{ inputs: [in], operators: {{ {} }}, outputs: {{ out: [{}] }} }}",
            uses.join(", "),
            outs.join(", ")
        );
    }
    let yaml = format!(
        "pipeline: p\n{groups}sources: {{ s: {{ format: csv, fields: {{ n: int }} }} }}\n\
         operators: {{ x: {{ group: g7, from: s }} }}\nsinks: {{ o: {{ from: x, files: {{ format: csv }} }} }}\n"
    );
    let said = found(&yaml, &Shelf::default());
    assert!(said.contains("groups become more than 1000 operators"), "{said}");

    // A value of values of values.
    let copies = "${A}".repeat(50);
    let mut groups = String::from(
        "groups:\n  g0: { params: { A: string }, inputs: [in], operators: { a: { from: in, filter: \"word = '${A}'\" } }, outputs: { out: a } }\n",
    );
    for level in 1..8 {
        let below = level - 1;
        let _ = writeln!(
            groups,
            "  g{level}: {{ params: {{ A: string }}, inputs: [in], operators: {{ u: {{ group: g{below}, from: in, with: {{ A: '{copies}' }} }} }}, outputs: {{ out: u.out }} }}"
        );
    }
    let yaml = format!(
        "pipeline: p\n{groups}sources: {{ s: {{ format: csv, fields: {{ word: string }} }} }}\n\
         operators: {{ x: {{ group: g7, from: s, with: {{ A: aaaaaaaa }} }} }}\n\
         sinks: {{ o: {{ from: x, files: {{ format: csv }} }} }}\n"
    );
    let said = found(&yaml, &Shelf::default());
    assert!(said.contains("with its parameters the value is too long"), "{said}");

    // Each passes on twice what it gets.
    let mut uses = String::from("  x0: { group: twice, from: { a: s, b: s }, drop: c }\n");
    for at in 1..60 {
        let below = at - 1;
        let _ = writeln!(
            uses,
            "  x{at}: {{ group: twice, from: {{ a: x{below}.out, b: x{below}.out }}, drop: c }}"
        );
    }
    let yaml = format!(
        "pipeline: p\ngroups: {{ twice: {{ inputs: [a, b], operators: {{ c: {{ from: a, filter: n > 1 }} }}, \
         outputs: {{ out: [a, b], c: c }} }} }}\nsources: {{ s: {{ format: csv, fields: {{ n: int }} }} }}\n\
         operators:\n{uses}sinks: {{ o: {{ from: x59.out, files: {{ format: csv }} }} }}\n"
    );
    let said = found(&yaml, &Shelf::default());
    assert!(said.contains("stand for more than 20000 ports"), "{said}");

    let names: Vec<String> = (0..100).map(|at| format!("f{at}.yaml")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "{}")).collect();
    let yaml = format!("include: [{}]\n{FLAT}", names.join(", "));
    let said = found(&yaml, &Shelf::with(&files));
    assert!(said.contains("a pipeline has more than 64 files"), "{said}");

    let texts: Vec<String> = (0..12).map(|at| format!("include: f{}.yaml\n", at + 1)).collect();
    let files: Vec<(&str, &str)> =
        names.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let said = found(&format!("include: f0.yaml\n{FLAT}"), &Shelf::with(&files));
    assert!(said.contains("files include each other more than 8 deep"), "{said}");

    let big = format!("# {}\n", "x".repeat(1000 * 1000));
    let files: Vec<(&str, &str)> =
        names.iter().take(5).map(|name| (name.as_str(), big.as_str())).collect();
    let said =
        found(&format!("include: [{}]\n{FLAT}", names[..5].join(", ")), &Shelf::with(&files));
    assert!(said.contains("bytes together"), "{said}");
}

struct Case {
    title: String,
    files: Vec<(String, String)>,
    expected: String,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut in_expected = true;
    for line in CASES.lines() {
        if in_expected && line.starts_with("# ") {
            let files = vec![("p.yaml".to_owned(), String::new())];
            cases.push(Case { title: line.into(), files, expected: String::new() });
            in_expected = false;
        } else if line == "---" {
            in_expected = true;
        } else if let Some(case) = cases.last_mut() {
            if let Some(name) = line.strip_prefix("--- ") {
                case.files.push((name.to_owned(), String::new()));
            } else if !in_expected && let Some((_, text)) = case.files.last_mut() {
                let _ = writeln!(text, "{line}");
            } else if !line.is_empty() {
                let _ = writeln!(case.expected, "{line}");
            }
        }
    }
    cases
}

fn found(case: &Case) -> String {
    let files: Vec<(&str, &str)> =
        case.files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let shelf = Shelf::with(&files).given("GIVEN", "many");
    let yaml = files[0].1;
    let mut out = String::new();
    for mistake in plan_in(yaml, &shelf).err().unwrap_or_default() {
        let shown = mistake.render("p.yaml", yaml);
        assert!(shown.contains('^'), "the line is shown: {shown}");
        let file = mistake.file.map(|file| format!("{file}:")).unwrap_or_default();
        let hint = mistake.hint.map(|hint| format!(" / {hint}")).unwrap_or_default();
        let within = mistake.within.map(|within| format!(" ({within})")).unwrap_or_default();
        let (line, column, message) = (mistake.line, mistake.column, mistake.message);
        let _ = writeln!(out, "{file}{line}:{column} {message}{hint}{within}");
    }
    out
}

#[test]
fn each_mistake_is_reported_in_its_file_with_its_place_and_a_hint() {
    let cases = cases();
    assert!(cases.len() >= 28, "only {} cases", cases.len());
    let mut wrong = String::new();
    for case in cases {
        let found = found(&case);
        if found != case.expected {
            let _ = writeln!(wrong, "{}\nexpected\n{}found\n{found}", case.title, case.expected);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
