//! Diagnostic: one mistake in a pipeline file, with its place and what to do about it. Derived; owns
//! how a mistake is shown to a person, never what counts as one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use tidemill_operators::expr::Secrets;

/// The widest part of a source line that is shown, in characters.
const SHOWN_CHARACTERS_MAX: usize = 120;

/// One mistake in a pipeline file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The line, counted from 1.
    pub line: u32,
    /// The character in the line, counted from 1.
    pub column: u32,
    /// How many characters it spans, on its first line; at least 1.
    pub length: u32,
    /// Where in the structure: `operators.by_class.route.ok`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that can be said.
    pub hint: Option<String>,
    /// The included file in which it stands; `None`: the pipeline file itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// For what stands in a group: which group it is, and where it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    /// The line as it stands in an included file.
    #[serde(skip)]
    pub(crate) excerpt: Option<String>,
}

impl Diagnostic {
    /// Returns the text of a file; or what can be shown of it, and the mistake that it is not UTF-8.
    ///
    /// # Errors
    ///
    /// When it is not UTF-8.
    pub fn text_of(bytes: Vec<u8>) -> Result<String, (String, Box<Self>)> {
        String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let (line, column) = line_and_column(&shown, valid);
            let diagnostic = Self {
                line,
                column,
                length: 1,
                path: String::new(),
                message: "this byte is no UTF-8".to_owned(),
                hint: Some(
                    "save the file as UTF-8; an editor may have used Latin-1 or UTF-16".to_owned(),
                ),
                file: None,
                within: None,
                excerpt: None,
            };
            (shown, Box::new(diagnostic))
        })
    }

    /// Returns the mistake as people read it: `file:line:column: error: message`, the line itself with
    /// the place underlined, and the hint.
    ///
    /// `file` is the pipeline file and `yaml` its text; of a file that it includes, the mistake knows name and
    /// line itself. Control characters in it are shown as `\u{fffd}`, so that
    /// a hostile file cannot write to the reader's terminal.
    pub fn render(&self, file: &str, yaml: &str) -> String {
        let mut out = format!(
            "{}:{}:{}: error: {}\n",
            visible(self.file.as_deref().unwrap_or(file)),
            self.line,
            self.column,
            visible(&self.message)
        );
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let line = match &self.file {
            Some(_) => self.excerpt.as_deref(),
            None => yaml.lines().nth(self.line.saturating_sub(1) as usize),
        };
        if let Some(source) = line {
            let at = self.column.saturating_sub(1) as usize;
            let (shown, at) = window(source, at);
            let room = shown.chars().count().saturating_sub(at).max(1);
            let carets = "^".repeat((self.length.max(1) as usize).min(room));
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{margin} |\n{number} | {shown}");
            let _ = writeln!(out, "{margin} | {}{carets}", " ".repeat(at));
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(out, "{margin} = hint: {}", visible(hint));
        }
        if let Some(within) = &self.within {
            let _ = writeln!(out, "{margin} = {}", visible(within));
        }
        out
    }
}

/// Returns the part of a line around a character that is worth showing, and where the character
/// stands in it.
fn window(source: &str, at: usize) -> (String, usize) {
    let characters: Vec<char> = source.chars().map(visible_character).collect();
    if characters.len() <= SHOWN_CHARACTERS_MAX {
        return (characters.into_iter().collect(), at);
    }
    let first = at.saturating_sub(SHOWN_CHARACTERS_MAX / 3).min(characters.len());
    let last = (first + SHOWN_CHARACTERS_MAX).min(characters.len());
    (characters.get(first..last).unwrap_or_default().iter().collect(), at - first)
}

fn visible(text: &str) -> String {
    text.chars().map(visible_character).collect()
}

fn visible_character(character: char) -> char {
    match character {
        '\t' => ' ',
        character if character.is_control() => '\u{fffd}',
        character => character,
    }
}

/// Where a piece of a file stands: its bytes, counted through all files of the pipeline as if they were one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// Gathers mistakes while a file is read and checked, so that all of them are reported at once.
///
/// It holds the text of the pipeline file and, behind it, those of the files that it includes: so a place is
/// one number for all who pass it on, and only this type knows to which file it belongs. It goes wherever a part
/// of the file is checked, and so do the keys that expressions may name.
pub(crate) struct Mistakes<'a> {
    yaml: Cow<'a, str>,
    /// What the expressions of the file may hash with.
    pub(crate) secrets: Secrets,
    name: Option<String>,
    included: Vec<Part>,
    /// The keys that are not given, with the place of the first expression that names each.
    lacks: Vec<(String, String)>,
    /// What is said of a mistake in an instance of a group, by the name of the instance.
    instances: BTreeMap<String, String>,
    found: Vec<(usize, Diagnostic)>,
}

/// An included file, in the text of all files.
struct Part {
    name: String,
    start: usize,
}

impl<'a> Mistakes<'a> {
    pub(crate) fn new(yaml: &'a str) -> Self {
        Self {
            yaml: Cow::Borrowed(yaml),
            secrets: Secrets::default(),
            lacks: Vec::new(),
            name: None,
            included: Vec::new(),
            instances: BTreeMap::new(),
            found: Vec::new(),
        }
    }

    /// Returns the text of all files, one behind the other.
    pub(crate) fn yaml(&self) -> &str {
        &self.yaml
    }

    /// Says how the pipeline file is called where a mistake names a second place.
    pub(crate) fn call(&mut self, name: &str) {
        self.name = Some(name.to_owned());
    }

    /// Adds the text of an included file and returns where it stands.
    pub(crate) fn attach(&mut self, name: &str, text: &str) -> Range<usize> {
        let all = self.yaml.to_mut();
        // The last line of a file must not run on into the next one.
        all.push('\n');
        let start = all.len();
        all.push_str(text);
        let end = all.len();
        self.included.push(Part { name: name.to_owned(), start });
        start..end
    }

    /// Says what is added to mistakes in an instance of a group.
    pub(crate) fn call_instance(&mut self, instance: &str, what: String) {
        self.instances.insert(instance.to_owned(), what);
    }

    /// Returns the name of an operator as it was written: in a group, without that of the instance.
    pub(crate) fn as_written<'n>(&self, operator: &'n str) -> &'n str {
        match operator.rsplit_once('/') {
            Some((instance, inner)) if self.instances.contains_key(instance) => inner,
            _ => operator,
        }
    }

    /// Returns a place as `file:line:column`.
    pub(crate) fn shown(&self, place: Place) -> String {
        let (file, text, start) = self.file_of(place);
        let (line, column) = line_and_column(text, start);
        match file.or(self.name.as_deref()) {
            Some(name) => format!("{name}:{line}:{column}"),
            None => format!("line {line}, column {column}"),
        }
    }

    /// Returns whether two places stand in one file.
    pub(crate) fn same_file(&self, left: Place, right: Place) -> bool {
        self.part_of(left) == self.part_of(right)
    }

    /// Returns the number of included files that begin up to a place: 0 is the pipeline file.
    fn part_of(&self, place: Place) -> usize {
        self.included.partition_point(|part| part.start <= place.start)
    }

    /// Returns the name of the included file of a place, the text of its file, and the place in it.
    fn file_of(&self, place: Place) -> (Option<&str>, &str, usize) {
        let at = self.part_of(place);
        let part = at.checked_sub(1).and_then(|at| self.included.get(at));
        let start = part.map_or(0, |part| part.start);
        let end = self.included.get(at).map_or(self.yaml.len(), |next| next.start - 1);
        let text = self.yaml.get(start..end).unwrap_or_default();
        let name = part.map(|part| part.name.as_str());
        (name, text, floor_boundary(text, place.start - start.min(place.start)))
    }

    /// Notes a mistake.
    pub(crate) fn add(
        &mut self,
        place: Place,
        path: &str,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        // Each mistake costs a scan of the file: a file made of nothing but mistakes must end too.
        if self.is_full() {
            return;
        }
        let (file, text, start) = self.file_of(place);
        let end = floor_boundary(text, start.saturating_add(place.len));
        let covered = text.get(start..end).unwrap_or_default();
        let covered = covered.lines().next().unwrap_or_default();
        let (line, column) = line_and_column(text, start);
        let excerpt = file.and_then(|_| text.lines().nth(line.saturating_sub(1) as usize));
        let diagnostic = Diagnostic {
            line,
            column,
            length: count(covered.trim_end()).max(1),
            path: path.to_owned(),
            message: message.into(),
            hint: hint.into(),
            file: file.map(str::to_owned),
            within: self.within(path),
            excerpt: excerpt.map(str::to_owned),
        };
        self.found.push((place.start, diagnostic));
    }

    /// Returns what is said of the instance of a group in which a path leads.
    fn within(&self, path: &str) -> Option<String> {
        let operator = path.strip_prefix("operators.")?.split('.').next()?;
        let (instance, _) = operator.rsplit_once('/')?;
        self.instances.get(instance).cloned()
    }

    /// Returns whether no further mistake is noted.
    fn is_full(&self) -> bool {
        self.found.len() >= MISTAKES_MAX
    }

    /// Returns a hint that names the nearest of the right names, or all of them when none is near.
    pub(crate) fn nearest_hint<'n>(
        &self,
        wrong: &str,
        right: impl IntoIterator<Item = &'n str>,
        what: &str,
    ) -> Option<String> {
        if self.is_full() {
            return None; // Comparing names is the dearest part of a mistake.
        }
        let right: Vec<&str> = right.into_iter().collect();
        if right.is_empty() {
            return None;
        }
        Some(match nearest(wrong, right.iter().copied()) {
            Some(name) => format!("did you mean {}?", quoted(name)),
            None => format!("{what}: {}", listed(right)),
        })
    }

    /// Notes the place of what keys are newly lacking, behind an expression that was compiled.
    pub(crate) fn note_lacks(&mut self, place: Place, text: &str) {
        for name in self.secrets.lacking() {
            if self.lacks.iter().all(|(known, _)| *known != name) {
                let at = text.find(&format!("'{name}'")).unwrap_or_default();
                let place = place_in(&self.yaml, place, text, at..at + name.len() + 2);
                let shown = self.shown(place);
                self.lacks.push((name, shown));
            }
        }
    }

    /// Returns the keys that are not given, with the place of the first expression that names each.
    pub(crate) fn lacks(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.lacks)
    }

    /// Returns how many were found.
    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    /// Returns whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Forgets those behind the first `count` that stand in one of some places.
    pub(crate) fn forget_since(&mut self, count: usize, places: &[Place]) {
        let mut at = 0;
        self.found.retain(|(start, _)| {
            at += 1;
            let is_in = |place: &Place| (place.start..=place.start + place.len).contains(start);
            at <= count || !places.iter().any(is_in)
        });
    }

    /// Returns all mistakes by place, each once.
    pub(crate) fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|(start, _)| *start);
        let mut sorted: Vec<Diagnostic> = self.found.into_iter().map(|(_, found)| found).collect();
        sorted.dedup();
        sorted
    }
}

/// How many mistakes are reported at most.
const MISTAKES_MAX: usize = 200;

/// Returns the line and the character of a byte, both from 1.
pub(crate) fn line_and_column(text: &str, at: usize) -> (u32, u32) {
    let before = text.get(..at).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = u32::try_from(before.matches('\n').count()).unwrap_or(u32::MAX - 1);
    (1 + line, 1 + count(before.get(line_start..).unwrap_or_default()))
}

fn count(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX - 1)
}

fn floor_boundary(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at.min(text.len()))
}

/// Returns the text between backquotes, shortened when it is too long to be shown.
pub(crate) fn quoted(name: &str) -> String {
    const SHOWN_MAX: usize = 60;
    match name.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("`{}...`", name.get(..end).unwrap_or_default()),
        None => format!("`{name}`"),
    }
}

/// Returns names as a list for people: `` `a`, `b` and `c` ``.
pub(crate) fn listed<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    const LISTED_MAX: usize = 20;
    let names: Vec<&str> = names.into_iter().collect();
    let shown: Vec<String> = names.iter().take(LISTED_MAX).map(|name| quoted(name)).collect();
    match shown.split_last() {
        None => "none".to_owned(),
        Some(_) if names.len() > LISTED_MAX => {
            format!("{} and {} more", shown.join(", "), names.len() - LISTED_MAX)
        }
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// Returns the name that was probably meant, if one is near enough.
pub(crate) fn nearest<'n>(
    wrong: &str,
    right: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    const COMPARED_BYTES_MAX: usize = 80;
    if wrong.len() > COMPARED_BYTES_MAX {
        return None;
    }
    let wrong = wrong.to_lowercase();
    right
        .into_iter()
        .filter(|name| name.len() <= COMPARED_BYTES_MAX)
        .map(|name| (strsim::jaro_winkler(&wrong, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0).then(right.1.cmp(left.1)))
        .map(|(_, name)| name)
}

/// Returns the place of a part of a scalar's text: exact while the text stands in the file as it
/// is, the start of the scalar otherwise (block scalars, escapes).
pub(crate) fn place_in(yaml: &str, scalar: Place, text: &str, part: Range<usize>) -> Place {
    let written = yaml.get(scalar.start..).unwrap_or_default();
    let opening = usize::from(written.starts_with(['"', '\'']));
    if !written.get(opening..).unwrap_or_default().starts_with(text) {
        return Place { start: scalar.start, len: 1 };
    }
    Place { start: scalar.start + opening + part.start, len: part.len().max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32, column: u32, length: u32) -> Diagnostic {
        Diagnostic {
            line,
            column,
            length,
            path: "a.b".into(),
            message: "wrong".into(),
            hint: Some("do this".into()),
            file: None,
            within: None,
            excerpt: None,
        }
    }

    #[test]
    fn a_text_that_is_no_utf8_says_where() {
        assert_eq!(Diagnostic::text_of("ä\n".into()), Ok("ä\n".to_owned()));
        let (shown, mistake) = Diagnostic::text_of(b"one\n\xc3\xa4 # \xe9\n".to_vec()).unwrap_err();
        assert_eq!(
            mistake.render("p.yaml", &shown),
            "p.yaml:2:5: error: this byte is no UTF-8\n  |\n2 | ä # \u{fffd}\n  |     ^\n  \
             = hint: save the file as UTF-8; an editor may have used Latin-1 or UTF-16\n"
        );
    }

    #[test]
    fn a_mistake_is_shown_with_its_line_and_underlined() {
        let yaml = "one\nkey: values\n";
        assert_eq!(
            at(2, 6, 6).render("p.yaml", yaml),
            "p.yaml:2:6: error: wrong\n  |\n2 | key: values\n  |      ^^^^^^\n  = hint: do this\n"
        );
    }

    #[test]
    fn control_characters_of_a_hostile_file_are_not_printed() {
        let shown = at(1, 1, 3).render("p.yaml", "a\u{1b}[2J");
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let yaml = format!("{}x{}", "a".repeat(5_000), "b".repeat(5_000));
        let shown = at(1, 5_001, 1).render("p.yaml", &yaml);
        assert!(shown.len() < 400, "{shown}");
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[2].find('x'), lines[3].find('^'));
    }

    #[test]
    fn a_place_outside_the_file_is_still_shown() {
        assert_eq!(
            at(9, 1, 1).render("p.yaml", "one"),
            "p.yaml:9:1: error: wrong\n  = hint: do this\n"
        );
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        assert_eq!(nearest("stauts", ["host", "status"]), Some("status"));
        assert_eq!(nearest("zebra", ["host", "status"]), None);
    }
}
