//! The schema has exactly the keys and words that `check` asks for: files of all kinds are read, what was asked of
//! each object is remembered, and compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use tidemill_operators::Type;

use crate::plan::plan;
use crate::spec::read::asked;

/// The wrong files of the language: they show keys that right ones need not have.
const WRONG: [&str; 2] =
    [include_str!("../plan/tests/mistakes.txt"), include_str!("../plan/tests/composition.txt")];

/// One file for each object that is rare, so that all of them are met.
const RARE: [&str; 7] = [
    "sources: { s: { format: csv, contract: { header: { lines: 1 }, trailer: { lines: 1 } }, corrections: { days: 3 }, fields: { a: { type: int } } } }\n\
     sinks: { o: { from: s, table: { format: csv, key: [a], changelog: { format: csv } } } }",
    "operators: { w: { from: s, window: { on: t, hopping: { size: 2m, every: 1m } } }, \
     v: { from: s, window: { on: t, session: { gap: 1m, by: [] } } } }",
    "params: { A: { type: int } }\ngroups: { g: { inputs: { in: { columns: {} } } } }\n\
     operators: { x: { group: g, from: s } }",
    "operators: { a: { from: s, sample: { share: 5% } }, b: { from: s, split: { by: [x], into: 2 } }, \
     c: { from: s, weighted: { a: 1, b: 1 } }, d: { from: s, route: { a: b } }, e: { from: s, expect: { a: reject } } }",
    // Tests are read once the pipeline is right.
    "pipeline: p\nsources: { s: { format: text } }\nsinks: { o: { from: s, files: { format: raw } } }\n\
     tests: [{ name: a, given: { s: { file: a, records: x } }, steps: [{ remove: a }, { add: { s: { files: b } } }], \
     expect: { o: { rows: [x], order: exact }, quarantined: [{ name: a, code: bomb }] } }]",
    "sources: { s: { format: text, contract: { manifest: { names: \"*.b3\", hash: blake3 }, set: { of: manifest, within: 1h, then: wait } } } }",
    "retry: { transient: { then: wait } }\nsources: { s: { format: text } }\n\
     sinks: { o: { from: s, files: { format: raw }, retry: { transient: { then: stop } } } }",
];

/// Returns what is asked of objects and values, by how messages call them.
fn asked_of_files() -> BTreeMap<String, BTreeSet<String>> {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios");
    let mut files: Vec<String> = std::fs::read_dir(scenarios)
        .unwrap()
        .filter_map(|folder| {
            std::fs::read_to_string(folder.unwrap().path().join("pipeline.yaml")).ok()
        })
        .collect();
    assert!(files.len() >= 40, "only {} scenarios were found", files.len());
    for cases in WRONG {
        files.extend(cases.split("\n# ").filter_map(|case| {
            let (_, file) = case.split_once('\n')?;
            Some(file.split("\n---").next().unwrap_or_default().to_owned())
        }));
    }
    files.extend(RARE.map(str::to_owned));
    asked::forget();
    for file in &files {
        drop(plan(file));
    }
    asked::all()
}

/// Calls a function with each object of the schema that describes some value.
fn walk<'s>(schema: &'s Value, visit: &mut impl FnMut(&'s Value)) {
    visit(schema);
    match schema {
        Value::Object(entries) => entries.values().for_each(|value| walk(value, visit)),
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        _ => {}
    }
}

fn words(value: &Value) -> BTreeSet<String> {
    let items = value.as_array().into_iter().flatten();
    items.map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_schema_has_the_keys_and_words_that_check_takes() {
    let schema: Value = serde_json::from_str(super::text()).unwrap();
    let mut asked = asked_of_files();
    let mut wrong = String::new();
    let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    walk(&schema, &mut |object| {
        let Some(of) = object["$comment"].as_str().and_then(|text| text.strip_prefix("check: "))
        else {
            return;
        };
        let properties = object["properties"].as_object().unwrap();
        let has: BTreeSet<String> = properties.keys().cloned().collect();
        let mut takes = BTreeSet::new();
        for what in of.split(" + ") {
            match asked.get(&format!("keys of {what}")) {
                Some(keys) => takes.extend(keys.iter().cloned()),
                None => drop(writeln!(wrong, "nothing was asked of {what}: add a file to RARE")),
            }
            described.insert(format!("keys of {what}"), BTreeSet::new());
        }
        for key in takes.difference(&has) {
            let _ = writeln!(wrong, "{of}: `check` takes `{key}`; describe it in schema.json");
        }
        for key in has.difference(&takes) {
            let _ = writeln!(wrong, "{of}: schema.json has `{key}`, which `check` never asks for");
        }
        for (key, value) in properties {
            let found = [value, &value["anyOf"][0], &value["items"]];
            let enumerated =
                found.iter().map(|one| words(&one["enum"])).find(|all| !all.is_empty());
            if let Some(enumerated) = enumerated {
                described.entry(format!("words of `{key}`")).or_default().extend(enumerated);
            }
        }
    });
    for (what, keys) in asked.iter().filter(|(what, _)| what.starts_with("keys of ")) {
        if !described.contains_key(what) {
            let _ = writeln!(
                wrong,
                "schema.json has nothing with \"$comment\": \"check: ...\" for the {what}: {keys:?}"
            );
        }
    }
    // Values that stand for themselves, not behind a key that names them.
    asked.remove("words of the type of a parameter");
    described.insert(
        "words of `corrections`".to_owned(),
        words(&schema["definitions"]["corrections"]["anyOf"][0]["anyOf"][0]["enum"]),
    );
    let rows = &schema["definitions"]["expected"]["anyOf"][2]["properties"]["order"];
    described.insert("words of `order` of rows".to_owned(), words(&rows["allOf"][0]["enum"]));
    let expect = &schema["definitions"]["expect"]["anyOf"][0]["additionalProperties"];
    described
        .insert("words of a condition of `expect`".to_owned(), words(&expect["anyOf"][0]["enum"]));
    for (what, takes) in asked.iter().filter(|(what, _)| what.starts_with("words of ")) {
        if takes.iter().all(|word| word == "true" || word == "false") {
            continue; // a flag
        }
        let has = described.get(what).cloned().unwrap_or_default();
        if has != *takes {
            let _ = writeln!(wrong, "the {what}: `check` takes {takes:?}, schema.json has {has:?}");
        }
    }
    let types: BTreeSet<String> = Type::ALL.iter().map(|one| one.name().to_owned()).collect();
    assert_eq!(words(&schema["definitions"]["type"]["anyOf"][0]["enum"]), types);
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn an_operator_of_the_schema_has_one_of_the_kinds() {
    let schema: Value = serde_json::from_str(super::text()).unwrap();
    let one_of = schema["definitions"]["operator"]["oneOf"].as_array().unwrap();
    let has: BTreeSet<&str> =
        one_of.iter().map(|one| one["required"][0].as_str().unwrap()).collect();
    let kinds = crate::spec::KINDS.iter().copied().chain(["group"]);
    assert_eq!(has, kinds.collect::<BTreeSet<&str>>());
}

#[test]
fn every_key_is_described() {
    let schema: Value = serde_json::from_str(super::text()).unwrap();
    walk(&schema, &mut |object| {
        for (key, value) in object["properties"].as_object().into_iter().flatten() {
            let reference =
                value["$ref"].as_str().and_then(|path| path.strip_prefix("#/definitions/"));
            let behind = reference.map(|name| &schema["definitions"][name]);
            let said = behind.unwrap_or(value)["description"].as_str();
            assert!(said.is_some_and(|text| text.len() > 5), "{key} has no description");
        }
    });
}
