//! Arrival: what must be there before a dropped file is taken: its marker, a manifest that lists it, all
//! files of its set. As written, and as it is used. Derived.

use std::time::Duration;

use regex::Regex;
use tidemill_store::name::stem;

use crate::diagnostic::{Mistakes, quoted};
use crate::spec::read::{self, Entries, Text};
use crate::spec::source::check_globs;
use crate::spec::tree::{Node, Value};

/// The most files of a set.
const SET_FILES_MAX: u32 = 1000;

/// The bounds of `within`.
const WITHIN_BOUNDS: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(30 * 24 * 3600));

/// What must be there before a dropped file of a source is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The file beside it that says that it is whole.
    pub marker: Option<Marker>,
    /// The file that lists it.
    pub manifest: Option<ManifestRule>,
    /// The files that are taken together with it, or not at all.
    pub set: Option<SetRule>,
}

impl Arrival {
    /// Returns whether nothing is waited for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether a file may be refused for what came with it, or for what others are.
    pub fn refuses(&self) -> bool {
        self.manifest.is_some() || self.set.is_some()
    }
}

/// How the marker of a file is called: its name, or what of it stands before the endings, between two
/// texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    before: String,
    after: String,
    of_stem: bool,
}

impl Marker {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (at, word) = match (text.find("{name}"), text.find("{stem}")) {
            (Some(at), None) => (at, "{name}"),
            (None, Some(at)) => (at, "{stem}"),
            (None, None) => return Err("names no file"),
            (Some(_), Some(_)) => return Err("names its file twice"),
        };
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        let rest = [before, after].concat();
        if rest.is_empty() {
            Err("would be the file itself")
        } else if rest.contains(['{', '}']) {
            Err("names its file twice")
        } else if rest.contains(['/', '\\']) || rest.chars().any(char::is_control) {
            Err("is no name of a file beside it")
        } else if before.starts_with('.') {
            Err("begins with a dot: such names are passed over")
        } else {
            Ok(Self { before: before.into(), after: after.into(), of_stem: word == "{stem}" })
        }
    }

    /// Returns the name of the marker of a file.
    pub fn of(&self, file: &str) -> String {
        let inner = if self.of_stem { stem(file) } else { file };
        format!("{}{inner}{}", self.before, self.after)
    }

    /// Returns whether a name is that of some marker.
    pub fn fits(&self, name: &str) -> bool {
        name.len() > self.before.len() + self.after.len()
            && name.starts_with(&self.before)
            && name.ends_with(&self.after)
    }
}

/// Which files are manifests, and what they say of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRule {
    /// A glob over names.
    pub names: String,
    /// Which hashes they hold.
    pub hash: HashKind,
}

/// A hash of the bytes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashKind {
    /// As `sha256sum` writes it.
    #[default]
    Sha256,
    /// As `b3sum` writes it.
    Blake3,
}

impl HashKind {
    /// Returns the word for it.
    pub const fn word(self) -> &'static str {
        match self {
            HashKind::Sha256 => "sha256",
            HashKind::Blake3 => "blake3",
        }
    }
}

/// Which files are taken together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetRule {
    /// Which files belong together.
    pub of: SetOf,
    /// How long the others may take after the first one.
    pub within: Option<Duration>,
    /// What becomes of a set whose others take longer.
    pub then: Overdue,
}

/// Which files belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetOf {
    /// Those that one manifest lists.
    Manifest,
    /// Those whose names are alike.
    Names {
        /// What the names look like.
        pattern: SetPattern,
        /// How many there are.
        count: usize,
    },
}

/// What becomes of a set that is not there in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overdue {
    /// It waits on, and that is told.
    #[default]
    Wait,
    /// What is there of it goes to quarantine.
    Quarantine,
}

/// Names that belong together: equal in what stands between braces.
#[derive(Clone, Debug)]
pub struct SetPattern {
    text: String,
    regex: Regex,
}

impl PartialEq for SetPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SetPattern {}

impl SetPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let mut regex = String::from("^");
        let mut names: Vec<&str> = Vec::new();
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let (part, length) = match character {
                '*' => (".*".to_owned(), 1),
                '?' => (".".to_owned(), 1),
                '/' => return Err("holds a slash; it is matched against names".to_owned()),
                '{' => {
                    let Some((name, _)) = rest[1..].split_once('}') else {
                        return Err("has a brace that is not closed".to_owned());
                    };
                    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic());
                    if !begins || !name.bytes().all(fits) {
                        return Err(format!("calls a part {}", quoted(name)));
                    }
                    if names.contains(&name) {
                        return Err(format!("has two parts called {}", quoted(name)));
                    }
                    names.push(name);
                    (format!("(?<{name}>.+?)"), name.len() + 2)
                }
                other => (regex::escape(other.encode_utf8(&mut [0; 4])), other.len_utf8()),
            };
            regex.push_str(&part);
            rest = &rest[length..];
        }
        regex.push('$');
        let regex = Regex::new(&regex).map_err(|_| "is too long".to_owned())?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// Returns what the set of a file is called: the pattern with what its name has between braces;
    /// `None` if it belongs to none.
    pub fn set_of(&self, file: &str) -> Option<String> {
        let parts = self.regex.captures(file)?;
        let mut label = String::with_capacity(file.len());
        let mut rest = self.text.as_str();
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, behind) = behind.split_once('}')?;
            label.push_str(before);
            label.push_str(parts.name(name)?.as_str());
            rest = behind;
        }
        label.push_str(rest);
        Some(label)
    }
}

/// Takes what a contract says of arrival.
pub(super) fn parse(entries: &mut Entries, mistakes: &mut Mistakes<'_>) -> Arrival {
    let mut arrival = Arrival::default();
    if let Some(node) = entries.take("marker") {
        arrival.marker = marker(node, mistakes);
    }
    if let Some(node) = entries.take("manifest") {
        arrival.manifest = manifest(node, mistakes);
    }
    if let Some(node) = entries.take("set") {
        let at = Text { text: String::new(), place: node.owner, path: node.path.clone() };
        arrival.set = set(node, mistakes);
        let by_manifest = arrival.set.as_ref().is_some_and(|set| set.of == SetOf::Manifest);
        if by_manifest && arrival.manifest.is_none() {
            let message = "a set that a manifest lists needs a `manifest`";
            at.wrong(mistakes, message, Some("for example `manifest: \"*.sha256\"`".to_owned()));
        }
    }
    arrival
}

fn marker(node: Node, mistakes: &mut Mistakes<'_>) -> Option<Marker> {
    let written = read::text(node, "`marker`", mistakes)?;
    match Marker::parse(&written.text) {
        Ok(marker) => Some(marker),
        Err(why) => {
            let message = format!("the marker {} {why}", quoted(&written.text));
            let hint = "for example \"{name}.done\" or \"{stem}.ok\"".to_owned();
            written.wrong(mistakes, message, Some(hint));
            None
        }
    }
}

/// Reads `manifest`: a glob, or a glob and which hashes.
fn manifest(node: Node, mistakes: &mut Mistakes<'_>) -> Option<ManifestRule> {
    let (names, hash) = if matches!(node.value, Value::Map(_)) {
        let mut entries = Entries::open(node, "a manifest", mistakes)?;
        let names = entries.require("names", mistakes);
        let hash = entries.take("hash");
        entries.finish(mistakes);
        (names?, hash)
    } else {
        (node, None)
    };
    let choices = [HashKind::Sha256, HashKind::Blake3].map(|kind| (kind.word(), kind));
    let hash = hash.and_then(|node| read::choice(node, "`hash`", &choices, mistakes));
    let names = read::text(names, "`manifest`", mistakes)?;
    check_globs(std::slice::from_ref(&names), mistakes);
    if matches!(names.text.as_str(), "*" | "**") {
        let message = "every file would be a manifest";
        names.wrong(mistakes, message, Some("for example \"*.sha256\"".to_owned()));
        return None;
    }
    Some(ManifestRule { names: names.text, hash: hash.unwrap_or_default() })
}

fn set(node: Node, mistakes: &mut Mistakes<'_>) -> Option<SetRule> {
    let mut entries = Entries::open(node, "a set", mistakes)?;
    let of = entries.require("of", mistakes);
    let count = entries.take("count");
    let within = entries.take("within");
    let then = entries.take("then");
    let choices = [("wait", Overdue::Wait), ("quarantine", Overdue::Quarantine)];
    let then_at = then.as_ref().map(|node| Text {
        text: String::new(),
        place: node.owner,
        path: node.path.clone(),
    });
    let then = then.and_then(|node| read::choice(node, "`then`", &choices, mistakes));
    let within = within.and_then(|node| read::duration(node, "`within`", WITHIN_BOUNDS, mistakes));
    if let (Some(at), None) = (then_at, within) {
        let message = "`then` says what follows when the time of `within` is over";
        at.wrong(mistakes, message, Some("say `within: 2h` too".to_owned()));
    }
    let count_at = count.as_ref().map(|node| Text {
        text: String::new(),
        place: node.owner,
        path: node.path.clone(),
    });
    let count = count.and_then(|node| {
        read::number(node, "`count`", (2, SET_FILES_MAX), mistakes).map(|count| count as usize)
    });
    let without_count = count_at.is_none();
    if without_count && of.as_ref().is_some_and(|node| !is_manifest(node)) {
        let message = "a set needs `count`: how many files it has".to_owned();
        let hint = "or `of: manifest`: then its manifest says which they are".to_owned();
        entries.wrong(mistakes, message, Some(hint));
    }
    entries.finish(mistakes);
    let of = read::text(of?, "`of`", mistakes)?;
    let of = if of.text == "manifest" {
        if let Some(at) = count_at {
            let message = "a manifest says itself how many files there are";
            at.wrong(mistakes, message, Some("leave out `count`".to_owned()));
        }
        SetOf::Manifest
    } else {
        match SetPattern::parse(&of.text) {
            Ok(pattern) => SetOf::Names { pattern, count: count? },
            Err(why) => {
                let message = format!("`of: {}` {why}", quoted(&of.text));
                let hint = "for example \"sales_{day}_*.csv\": files of one day".to_owned();
                of.wrong(mistakes, message, Some(hint));
                return None;
            }
        }
    };
    Some(SetRule { of, within, then: then.unwrap_or_default() })
}

fn is_manifest(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(text) if text == "manifest")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    fn yaml(contract: &str) -> String {
        format!(
            "pipeline: p\nsources:\n  a: {{ format: text, contract: {{ {contract} }} }}\nsinks:\n  \
             o: {{ from: a, files: {{ format: raw }} }}\n"
        )
    }

    fn arrival(contract: &str) -> Arrival {
        plan::plan(&yaml(contract)).unwrap().sources[0].taking.arrival.clone()
    }

    #[test]
    fn a_marker_is_named_after_its_file() {
        let check = |marker: &str, file: &str, expected: &str| {
            let marker = arrival(&format!("marker: \"{marker}\"")).marker.unwrap();
            assert_eq!(marker.of(file), expected);
            assert!(marker.fits(expected), "{expected}");
            assert!(!marker.fits(file), "{file}");
        };
        check("{name}.done", "a.csv", "a.csv.done");
        check("{stem}.ok", "a.csv.gz", "a.ok");
        check("ready-{name}", "a", "ready-a");
        let marker = Marker::parse("{name}.done").unwrap();
        assert!(!marker.fits(".done"), "it has no file");
    }

    #[test]
    fn files_that_are_alike_between_the_braces_are_of_one_set() {
        let check = |of: &str, file: &str, expected: Option<&str>| {
            let set = arrival(&format!("set: {{ of: \"{of}\", count: 3 }}")).set.unwrap();
            let SetOf::Names { pattern, count: 3 } = set.of else { panic!("{set:?}") };
            assert_eq!(pattern.set_of(file).as_deref(), expected, "{of}: {file}");
        };
        check("sales_{day}_*.csv", "sales_2026-01-02_7.csv", Some("sales_2026-01-02_*.csv"));
        check("sales_{day}_*.csv", "sales_2026-01-02.csv", None);
        check("{shop}-{day}-?.csv", "b-3-x.csv", Some("b-3-?.csv"));
        check("part-*.csv", "part-1.csv", Some("part-*.csv"));
        check("a.{n}", "axb", None);
        check("ü{n}ü", "ü1ü", Some("ü1ü"));
    }

    #[test]
    fn what_a_contract_says_of_arrival_asks_nothing_of_the_content() {
        let plan = plan::plan(&yaml("marker: \"{name}.ok\"")).unwrap();
        assert!(plan.sources[0].contract.is_none());
        let set =
            arrival("manifest: \"*.b3\", set: { of: manifest, within: 2h, then: quarantine }");
        assert_eq!(set.manifest.unwrap().hash, HashKind::Sha256);
        let (of, then) = (SetOf::Manifest, Overdue::Quarantine);
        assert_eq!(set.set, Some(SetRule { of, within: Some(Duration::from_secs(7200)), then }));
        let manifest = arrival("manifest: { names: \"*.b3\", hash: blake3 }").manifest;
        let names = "*.b3".to_owned();
        assert_eq!(manifest, Some(ManifestRule { names, hash: HashKind::Blake3 }));
        // It changes what becomes of a file.
        let hash = |contract: &str| plan::plan(&yaml(contract)).unwrap().hash;
        assert_ne!(
            hash("set: { of: \"{a}-*\", count: 2 }"),
            hash("set: { of: \"{a}-*\", count: 3 }")
        );
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        let check = |contract: &str, said: &str| {
            let mistakes = plan::plan(&yaml(contract)).unwrap_err();
            let all: Vec<String> = mistakes.iter().map(|one| format!("{one:?}")).collect();
            assert!(all.join("\n").contains(said), "{contract}: {all:?}");
        };
        check("marker: done", "names no file");
        check("marker: \"{name}\"", "the file itself");
        check("marker: \"{name}{stem}.x\"", "twice");
        check("marker: \"{name}.{name}\"", "twice");
        check("marker: \"../{name}.ok\"", "no name of a file beside it");
        check("marker: \".{name}\"", "passed over");
        check("manifest: \"*\"", "every file would be a manifest");
        check("manifest: { names: \"a/*\" }", "not its path");
        check("manifest: { names: \"*.md5\", hash: md5 }", "`hash` cannot be");
        check("set: { of: manifest }", "needs a `manifest`");
        check("manifest: \"*.s\", set: { of: manifest, count: 3 }", "leave out `count`");
        check("set: { of: \"a-*\" }", "needs `count`");
        check("set: { of: \"a-*\", count: 1 }", "`count` cannot be");
        check("set: { of: \"a-*\", count: 1001 }", "from 2 to 1000");
        check("set: { of: \"{a}{a}\", count: 2 }", "two parts called");
        check("set: { of: \"{a\", count: 2 }", "not closed");
        check("set: { of: \"{1}\", count: 2 }", "calls a part");
        check("set: { of: \"a/{a}\", count: 2 }", "slash");
        check("set: { of: \"{a}\", count: 2, then: quarantine }", "say `within: 2h` too");
    }
}
