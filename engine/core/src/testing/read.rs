//! Read: the `tests:` of a pipeline file, checked against the pipeline they belong to. Derived; notes
//! every mistake with its place.

use std::collections::HashSet;
use std::path::PathBuf;

use tidemill_store::name::{CHANGES_ENDING, check_name};

use super::seen::{Seen, cell};
use super::{
    At, AuthorTest, Content, Expectation, Expected, ExpectedRow, GivenFile, Order, Quarantine,
    Step, Target, names, records,
};
use crate::diagnostic::{Mistakes, Place, quoted};
use crate::engine::tables::Cell;
use crate::intake::Patterns;
use crate::plan::Plan;
use crate::sink::changes;
use crate::spec::PipelineSpec;
use crate::spec::read::{self, Entries, Text};
use crate::spec::tree::{Node, Value};

/// Reads the tests of a pipeline that has no mistake itself.
pub(crate) fn check(
    node: Node,
    spec: &PipelineSpec,
    plan: &Plan,
    mistakes: &mut Mistakes<'_>,
) -> Vec<AuthorTest> {
    let Value::List(items) = node.value else {
        let message = format!("`tests` is a list of tests, not {}", node.value.what());
        let hint = "each begins with `- name: ...`".to_owned();
        mistakes.add(node.owner, &node.path, message, hint);
        return Vec::new();
    };
    let with =
        With { spec, plan, patterns: Patterns::new(&plan.sources), lines: Lines::of(mistakes) };
    let mut seen = HashSet::new();
    let mut tests = Vec::new();
    for item in items {
        let Some((test, name)) = with.test(item, mistakes) else { continue };
        if !seen.insert(test.name.clone()) {
            let message = format!("another test is called {}", quoted(&test.name));
            name.wrong(mistakes, message, None);
        }
        tests.push(test);
    }
    tests
}

/// Where lines begin, so that a place is found without reading the file again.
struct Lines {
    yaml: String,
    starts: Vec<usize>,
}

impl Lines {
    fn of(mistakes: &Mistakes<'_>) -> Self {
        // Tests stand in the pipeline file itself, which is the first one.
        let yaml = mistakes.yaml().to_owned();
        let ends = yaml.match_indices('\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(ends).collect();
        Self { yaml, starts }
    }

    fn at(&self, place: Place) -> At {
        let start = self.yaml.floor_char_boundary(place.start.min(self.yaml.len()));
        let line = self.starts.partition_point(|begin| *begin <= start).max(1);
        let begin = self.starts.get(line - 1).copied().unwrap_or(start);
        let before = self.yaml.get(begin..start).unwrap_or_default().chars().count();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        At { line: number(line), column: number(before + 1) }
    }
}

/// What tests are checked against.
struct With<'s> {
    spec: &'s PipelineSpec,
    plan: &'s Plan,
    patterns: Patterns,
    lines: Lines,
}

impl With<'_> {
    fn test(&self, node: Node, mistakes: &mut Mistakes<'_>) -> Option<(AuthorTest, Text)> {
        let at = self.lines.at(node.place);
        let mut entries = Entries::open(node, "a test", mistakes)?;
        let name = entries.require("name", mistakes);
        let name = name.and_then(|node| read::text(node, "the name of a test", mistakes));
        if let Some(name) = name.as_ref().filter(|name| name.text.trim().is_empty()) {
            name.wrong(mistakes, "the name of a test is empty", None);
        }
        let mut used = HashSet::new();
        let mut steps = Vec::new();
        let given = entries.take("given");
        let then = entries.take("steps");
        let expect = entries.require("expect", mistakes);
        if given.is_none() && then.is_none() {
            let hint = "`given: { SOURCE: { records: ... } }` says which files come".to_owned();
            entries.wrong(mistakes, "a test needs `given` or `steps`".to_owned(), Some(hint));
        }
        entries.finish(mistakes);
        if let Some(node) = given {
            steps.push(Step::Add(self.files(node, &mut used, false, mistakes)));
        }
        if let Some(node) = then {
            self.steps(node, &mut used, &mut steps, mistakes);
        }
        let mut test = AuthorTest {
            name: name.as_ref()?.text.clone(),
            at,
            steps,
            expect: Vec::new(),
            rejects: None,
            quarantined: Vec::new(),
        };
        if let Some(node) = expect {
            self.expect(node, &used, &mut test, mistakes);
        }
        Some((test, name?))
    }

    fn steps(
        &self,
        node: Node,
        used: &mut HashSet<String>,
        steps: &mut Vec<Step>,
        mistakes: &mut Mistakes<'_>,
    ) {
        const HINT: &str =
            "each is one of `- add: {...}`, `- replace: {...}` and `- remove: [NAME]`";
        let Value::List(items) = node.value else {
            let message = format!("`steps` is a list, not {}", node.value.what());
            mistakes.add(node.owner, &node.path, message, Some(HINT.to_owned()));
            return;
        };
        for item in items {
            let Some(mut entries) = Entries::open(item, "a step", mistakes) else { continue };
            let [add, replace, remove] =
                ["add", "replace", "remove"].map(|verb| entries.take(verb));
            let verbs = [&add, &replace, &remove].iter().filter(|verb| verb.is_some()).count();
            if verbs != 1 && entries.rest().next().is_none() {
                let message = format!("a step does one thing, this one {verbs}");
                entries.wrong(mistakes, message, Some(HINT.to_owned()));
            }
            entries.finish(mistakes);
            if let Some(node) = add {
                steps.push(Step::Add(self.files(node, used, false, mistakes)));
            }
            if let Some(node) = replace {
                steps.push(Step::Replace(self.files(node, used, true, mistakes)));
            }
            if let Some(node) = remove
                && let Some(names) = read::texts(node, "`remove`", mistakes)
            {
                for name in names.iter().filter(|name| !used.contains(&name.text)) {
                    let message =
                        format!("no file called {} has come before this step", quoted(&name.text));
                    let all = used.iter().map(String::as_str);
                    let hint = mistakes.nearest_hint(&name.text, all, "there came");
                    name.wrong(mistakes, message, hint);
                }
                let names = names.into_iter().map(|name| (self.lines.at(name.place), name.text));
                steps.push(Step::Remove(names.map(|(at, name)| (name, at)).collect()));
            }
        }
    }

    /// Reads `{ SOURCE: GIVEN, ... }`.
    fn files(
        &self,
        node: Node,
        used: &mut HashSet<String>,
        named: bool,
        mistakes: &mut Mistakes<'_>,
    ) -> Vec<GivenFile> {
        let mut files = Vec::new();
        for (key, node) in read::map(node, "what comes", mistakes).unwrap_or_default() {
            let known = self.plan.sources.iter().position(|source| source.name == key.name);
            let Some(source) = known else {
                let message = format!("no source is called {}", quoted(&key.name));
                let all = self.plan.sources.iter().map(|source| source.name.as_str());
                let hint = mistakes.nearest_hint(&key.name, all, "there are");
                mistakes.add(key.place, &node.path, message, hint);
                continue;
            };
            match node.value {
                Value::List(items) => {
                    for item in items {
                        self.given(item, source, used, named, &mut files, mistakes);
                    }
                }
                _ => self.given(node, source, used, named, &mut files, mistakes),
            }
        }
        files
    }

    /// Reads `{ records: ..., file: NAME }`, `{ files: [PATH, ...] }`, or the text of a file.
    fn given(
        &self,
        node: Node,
        source: usize,
        used: &mut HashSet<String>,
        named: bool,
        files: &mut Vec<GivenFile>,
        mistakes: &mut Mistakes<'_>,
    ) {
        let at = self.lines.at(node.place);
        let here = Text { text: String::new(), place: node.place, path: node.path.clone() };
        let source = &self.plan.sources[source].name;
        let Some(spec) = self.spec.sources.iter().find(|one| one.name.text == *source) else {
            return;
        };
        let (records, file, paths) = match node.value {
            Value::Scalar(_) => (Some(node), None, None),
            _ => {
                let Some(mut entries) = Entries::open(node, "what a source gets", mistakes) else {
                    return;
                };
                let taken = ["records", "file", "files"].map(|key| entries.take(key));
                let [records, file, paths] = taken;
                let one = records.is_some() != paths.is_some();
                if !one && entries.rest().next().is_none() {
                    let hint = "write `records: TEXT or LIST` (and `file: NAME`, if the name matters) or \
                                `files: [PATH, ...]`";
                    let message = "a source gets either `records` or `files`".to_owned();
                    entries.wrong(mistakes, message, Some(hint.to_owned()));
                } else if let (Some(file), true) = (&file, paths.is_some()) {
                    let message =
                        "files that are read have the names they have; `file` names `records`";
                    mistakes.add(file.owner, &file.path, message, None);
                }
                entries.finish(mistakes);
                (records, file, paths)
            }
        };
        if let Some(paths) = paths {
            for path in read::texts(paths, "`files`", mistakes).unwrap_or_default() {
                let name = path.text.rsplit('/').next().unwrap_or_default().to_owned();
                let at = self.lines.at(path.place);
                self.check_taken(&Text { text: name.clone(), ..path.clone() }, source, mistakes);
                used.insert(name.clone());
                let content = Content::File(PathBuf::from(&path.text));
                files.push(GivenFile { source: source.clone(), name, content, at });
            }
        }
        let Some(records) = records else { return };
        let name = match file {
            Some(node) => {
                let Some(name) = read::text(node, "`file`, the name of a file,", mistakes) else {
                    return;
                };
                self.check_taken(&name, source, mistakes);
                name.text
            }
            None if named => {
                let hint = "`file: NAME` says which file these records replace".to_owned();
                here.wrong(mistakes, "what is replaced has a name", hint);
                return;
            }
            None => {
                let globs = &self.plan.sources.iter().find(|one| one.name == *source);
                let globs = globs.map(|one| one.patterns.as_slice()).unwrap_or_default();
                let made = names::name_for(source, globs, &self.patterns, |one| used.contains(one));
                let Some(made) = made else {
                    let message = format!(
                        "no name was found that source {} takes: say which one the file has",
                        quoted(source)
                    );
                    here.wrong(mistakes, message, "write `file: NAME`".to_owned());
                    return;
                };
                made
            }
        };
        used.insert(name.clone());
        if let Some(bytes) = records::bytes(records, spec, mistakes) {
            let content = Content::Bytes(bytes);
            files.push(GivenFile { source: source.clone(), name, content, at });
        }
    }

    /// Notes when a file of this name would not get to a source.
    fn check_taken(&self, name: &Text, source: &str, mistakes: &mut Mistakes<'_>) {
        if let Err(error) = check_name(name.text.as_ref()) {
            name.wrong(mistakes, error.to_string(), None);
            return;
        }
        let takes = self.patterns.source_of(&name.text);
        if takes == Some(source) {
            return;
        }
        let message = match takes {
            Some(other) => {
                format!("a file called {} goes to source {}", quoted(&name.text), quoted(other))
            }
            None => format!("no source takes a file called {}", quoted(&name.text)),
        };
        let wanted = self.plan.sources.iter().find(|one| one.name == source);
        let patterns = wanted.map(|one| one.patterns.join(", ")).unwrap_or_default();
        name.wrong(mistakes, message, format!("{source} takes: {patterns}"));
    }

    fn expect(
        &self,
        node: Node,
        used: &HashSet<String>,
        test: &mut AuthorTest,
        mistakes: &mut Mistakes<'_>,
    ) {
        let owner = (node.owner, node.path.clone());
        let Some(entries) = read::map(node, "`expect`", mistakes) else { return };
        if entries.is_empty() {
            let hint = "name a sink and what must be in it".to_owned();
            mistakes.add(owner.0, &owner.1, "a test that expects nothing cannot fail", hint);
        }
        for (key, node) in entries {
            let at = self.lines.at(key.place);
            let Some(target) = self.target(&key.name) else {
                if key.name == QUARANTINED {
                    self.quarantined(node, used, test, mistakes);
                    continue;
                }
                let message = format!("no sink is called {}", quoted(&key.name));
                let names = self.target_names();
                let all = names.iter().map(String::as_str);
                let hint = mistakes.nearest_hint(&key.name, all, "there are");
                mistakes.add(key.place, &node.path, message, hint);
                continue;
            };
            let seen = Seen::of(self.plan, target);
            if seen.is_kept_nowhere {
                let message = format!("{} keeps no rows", quoted(&key.name));
                let hint = format!("expect its changelog: `{}{CHANGES_ENDING}`", key.name);
                mistakes.add(key.place, &node.path, message, hint);
                continue;
            }
            let Some(expected) = self.expected(node, &seen, mistakes) else { continue };
            let name = key.name;
            let is_rejects = name == REJECTS;
            let one = Expectation { name, target, at, expected };
            if is_rejects {
                test.rejects = Some(one);
            } else {
                test.expect.push(one);
            }
        }
    }

    fn target(&self, name: &str) -> Option<Target> {
        let sinks = &self.plan.sinks;
        let found = sinks.iter().position(|sink| sink.name == name).map(Target::Sink);
        found.or_else(|| {
            let table = name.strip_suffix(CHANGES_ENDING)?;
            let mut logs = self.plan.changelogs();
            logs.find(|(at, _)| sinks[*at].name == table).map(|(at, _)| Target::Changes(at))
        })
    }

    fn target_names(&self) -> Vec<String> {
        let sinks = self.plan.sinks.iter().map(|sink| sink.name.clone());
        let logs = self.plan.changelogs().map(|(at, _)| changes::folder(&self.plan.sinks[at].name));
        sinks.chain(logs).chain([QUARANTINED.to_owned()]).collect()
    }

    fn quarantined(
        &self,
        node: Node,
        used: &HashSet<String>,
        test: &mut AuthorTest,
        mistakes: &mut Mistakes<'_>,
    ) {
        let items = match node.value {
            Value::List(items) => items,
            Value::Null => Vec::new(),
            _ => vec![node],
        };
        for item in items {
            let (name, code) = match item.value {
                Value::Map(_) => {
                    let Some(mut entries) = Entries::open(item, "a file in quarantine", mistakes)
                    else {
                        continue;
                    };
                    let name = entries.require("name", mistakes);
                    let code = entries.take("code");
                    entries.finish(mistakes);
                    let code = code.and_then(|node| read::text(node, "`code`", mistakes));
                    (name.and_then(|node| read::text(node, "`name`", mistakes)), code)
                }
                _ => (read::text(item, "the name of a file", mistakes), None),
            };
            let Some(name) = name else { continue };
            if !used.contains(&name.text) {
                let message = format!("no file called {} comes in this test", quoted(&name.text));
                let all = used.iter().map(String::as_str);
                let hint = mistakes.nearest_hint(&name.text, all, "there come");
                name.wrong(mistakes, message, hint);
            }
            let at = self.lines.at(name.place);
            let code = code.map(|code| code.text);
            test.quarantined.push(Quarantine { name: name.text, code, at });
        }
    }

    /// Reads what must be in a sink: its text, its rows, or a map that says more.
    fn expected(&self, node: Node, seen: &Seen, mistakes: &mut Mistakes<'_>) -> Option<Expected> {
        match node.value {
            Value::Scalar(_) => self.text(node, seen, mistakes),
            Value::List(_) => self.rows(node, seen, seen.order, mistakes),
            Value::Null => {
                let hint = "`[]` says that it must be empty".to_owned();
                mistakes.add(node.owner, &node.path, "nothing is said of this sink", hint);
                None
            }
            Value::Map(_) => {
                let mut entries = Entries::open(node, "what is expected of a sink", mistakes)?;
                let [rows, text, file] = ["rows", "text", "file"].map(|key| entries.take(key));
                let order = entries.take("order");
                let ways = [&rows, &text, &file].iter().filter(|way| way.is_some()).count();
                if ways != 1 && entries.rest().next().is_none() {
                    let message = "say what is expected in one way: `rows`, `text` or `file`";
                    entries.wrong(mistakes, message.to_owned(), None);
                }
                entries.finish(mistakes);
                let words = [("exact", Order::Exact), ("unordered", Order::Unordered)];
                if let (Some(order), None) = (&order, &rows) {
                    let message = "`order` is said of `rows`; lines are compared in their order";
                    mistakes.add(order.owner, &order.path, message, None);
                    return None;
                }
                let order = match order {
                    Some(node) => read::choice(node, "`order`", &words, mistakes)?,
                    None => seen.order,
                };
                match (rows, text, file) {
                    (Some(rows), None, None) => self.rows(rows, seen, order, mistakes),
                    (None, Some(text), None) => self.text(text, seen, mistakes),
                    (None, None, Some(file)) => {
                        self.check_text(&file, seen, mistakes)?;
                        let path = read::text(file, "`file`", mistakes)?;
                        Some(Expected::File(PathBuf::from(path.text)))
                    }
                    _ => None,
                }
            }
        }
    }

    fn check_text(&self, node: &Node, seen: &Seen, mistakes: &mut Mistakes<'_>) -> Option<()> {
        if !seen.is_parquet {
            return Some(());
        }
        let hint = "expect its `rows`".to_owned();
        mistakes.add(node.place, &node.path, "a parquet file has no lines", hint);
        None
    }

    fn text(&self, node: Node, seen: &Seen, mistakes: &mut Mistakes<'_>) -> Option<Expected> {
        self.check_text(&node, seen, mistakes)?;
        let text = read::text(node, "`text`", mistakes)?;
        let at = self.lines.at(text.place);
        // A block scalar begins with its first line, behind the `|`.
        let is_block = self
            .lines
            .yaml
            .get(text.place.start..)
            .is_some_and(|rest| rest.starts_with(['|', '>']));
        let first = at.line + u32::from(is_block);
        let column = if is_block { 1 } else { at.column };
        let line = |(number, line): (usize, &str)| {
            let line_at = if text.text.contains('\n') { first + number as u32 } else { at.line };
            (At { line: line_at, column }, line.to_owned())
        };
        Some(Expected::Text(text.text.lines().enumerate().map(line).collect()))
    }

    fn rows(
        &self,
        node: Node,
        seen: &Seen,
        order: Order,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Expected> {
        let Value::List(items) = node.value else {
            let message = format!("`rows` is a list, not {}", node.value.what());
            mistakes.add(node.owner, &node.path, message, None);
            return None;
        };
        let all = seen.schema.columns();
        let mut named = vec![items.is_empty(); all.len()];
        let mut rows: Vec<(At, Vec<Option<Cell>>)> = Vec::new();
        let mut right = true;
        for item in items {
            let at = self.lines.at(item.place);
            let mut cells: Vec<Option<Cell>> = vec![None; all.len()];
            match item.value {
                Value::Map(_) if !seen.is_raw => {
                    for (key, node) in read::map(item, "a row", mistakes).unwrap_or_default() {
                        let Some(place) = seen.schema.position(&key.name) else {
                            let message = format!("there is no column {}", quoted(&key.name));
                            let names = all.iter().map(|column| column.name.as_str());
                            let hint = mistakes.nearest_hint(&key.name, names, "there are");
                            mistakes.add(key.place, &node.path, message, hint);
                            right = false;
                            continue;
                        };
                        named[place] = true;
                        cells[place] = cell(node, &all[place], mistakes);
                        right &= cells[place].is_some();
                    }
                }
                Value::List(items) if !seen.is_raw => {
                    if items.len() != all.len() {
                        let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
                        let message = format!(
                            "a row without names has all {} columns, not {}",
                            all.len(),
                            items.len()
                        );
                        let hint = format!("they are: {}", names.join(", "));
                        mistakes.add(item.place, &item.path, message, hint);
                        right = false;
                        continue;
                    }
                    for (place, node) in items.into_iter().enumerate() {
                        named[place] = true;
                        cells[place] = cell(node, &all[place], mistakes);
                        right &= cells[place].is_some();
                    }
                }
                Value::Scalar(line) if seen.is_raw => {
                    named[0] = true;
                    cells[0] = Some(Cell::String(line));
                }
                other => {
                    let message = if seen.is_raw {
                        format!("a record of this sink is a line, not {}", other.what())
                    } else {
                        format!("a row is a map of columns and values, not {}", other.what())
                    };
                    mistakes.add(item.place, &item.path, message, None);
                    right = false;
                }
            }
            rows.push((at, cells));
        }
        if !right {
            return None;
        }
        let keep = |cells: Vec<Option<Cell>>| {
            let kept = cells.into_iter().zip(&named).filter(|(_, named)| **named);
            kept.map(|(cell, _)| cell.unwrap_or(Cell::Null)).collect()
        };
        let rows = rows.into_iter().map(|(at, cells)| ExpectedRow { at, cells: keep(cells) });
        let rows = rows.collect();
        let columns = all.iter().zip(&named).filter(|(_, named)| **named);
        let columns = columns.map(|(column, _)| column.clone()).collect();
        Some(Expected::Rows { columns, rows, order })
    }
}

/// The key for files in quarantine.
const QUARANTINED: &str = "quarantined";
/// The built-in sink of rejected records.
const REJECTS: &str = "rejects";
