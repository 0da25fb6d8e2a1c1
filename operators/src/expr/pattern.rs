//! Pattern: LIKE and regular expressions, compiled once when the expression is compiled.
//!
//! A LIKE pattern without surprises becomes a comparison, a prefix, a suffix or a substring search;
//! everything else becomes an automaton of the `regex` crate, whose time is linear in the text
//! whatever the pattern, so no pattern and no text can make a worker hang.

use std::ops::Range;

use arrow_array::{Array, StringViewArray};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder};
use memchr::arch::all::packedpair::HeuristicFrequencyRank;
use memchr::memmem::{Finder, FinderBuilder};
use regex::{Regex, RegexBuilder};

use crate::expr::compare::pack_views;
use crate::expr::text::{TEXT_BYTES_MAX, TooLong};
use crate::expr::vector::{Live, Words};

/// The size of a compiled regular expression, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A question that a text answers with yes or no.
#[derive(Debug)]
pub(super) enum Pattern {
    Anything,
    Equal(String),
    Prefix(String),
    Suffix(String),
    Contains(Box<Finder<'static>>),
    Regex(Regex),
}

/// `regexp_extract`: the text of one group of the first match.
#[derive(Debug)]
pub(super) struct Extractor {
    pub(super) regex: Regex,
    pub(super) group: usize,
}

/// `regexp_replace`: the first match, or all of them.
#[derive(Debug)]
pub(super) struct Replacer {
    pub(super) regex: Regex,
    pub(super) parts: Vec<Part>,
    pub(super) all: bool,
}

/// A piece of a replacement text.
#[derive(Debug)]
pub(super) enum Part {
    Literal(String),
    Group(usize),
}

enum Piece {
    Many,
    One,
    Char(char),
}

impl Pattern {
    /// Compiles a LIKE pattern.
    pub(super) fn like(
        pattern: &str,
        escape: Option<char>,
        ignore_case: bool,
    ) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut chars = pattern.chars();
        while let Some(next) = chars.next() {
            pieces.push(match next {
                next if Some(next) == escape => match chars.next() {
                    Some(escaped) => Piece::Char(escaped),
                    None => return Err("the LIKE pattern ends with its escape character".into()),
                },
                '%' => Piece::Many,
                '_' => Piece::One,
                other => Piece::Char(other),
            });
        }
        if !ignore_case && let Some(simple) = simple(&pieces) {
            return Ok(simple);
        }
        let mut text = String::from("^");
        let mut buffer = [0; 4];
        for piece in &pieces {
            match piece {
                Piece::Many => text.push_str(".*"),
                Piece::One => text.push('.'),
                Piece::Char(char) => text.push_str(&regex::escape(char.encode_utf8(&mut buffer))),
            }
        }
        text.push('$');
        build(RegexBuilder::new(&text).dot_matches_new_line(true).case_insensitive(ignore_case))
            .map(Pattern::Regex)
    }

    /// Compiles a regular expression that may match anywhere.
    pub(super) fn regex(pattern: &str, flags: &str) -> Result<Self, String> {
        regex(pattern, flags, "").map(|(regex, _)| Pattern::Regex(regex))
    }

    /// Answers for one text.
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Anything => true,
            Pattern::Equal(other) => text == other,
            Pattern::Prefix(prefix) => text.starts_with(prefix),
            Pattern::Suffix(suffix) => text.ends_with(suffix),
            Pattern::Contains(finder) => finder.find(text.as_bytes()).is_some(),
            Pattern::Regex(regex) => regex.is_match(text),
        }
    }

    /// Answers for a column; rows that are not live answer anything.
    pub(super) fn column(&self, rows: usize, words: Words<'_>, live: Live<'_>) -> BooleanBuffer {
        match (self, words) {
            (_, Words::One(text)) => {
                if self.matches(text) {
                    BooleanBuffer::new_set(rows)
                } else {
                    BooleanBuffer::new_unset(rows)
                }
            }
            (Pattern::Anything, _) => BooleanBuffer::new_set(rows),
            (Pattern::Prefix(prefix), Words::Many(array)) => prefixed(array, prefix),
            (Pattern::Contains(finder), Words::Many(array)) => {
                contained(array, finder).unwrap_or_else(|| self.row_by_row(rows, words, live))
            }
            (_, words) => self.row_by_row(rows, words, live),
        }
    }

    fn row_by_row(&self, rows: usize, words: Words<'_>, live: Live<'_>) -> BooleanBuffer {
        BooleanBuffer::collect_bool(rows, |row| live.has(row) && self.matches(words.get(row)))
    }
}

/// Asks which texts hold a word, in one search over all of them, if they stand one behind the other
/// in one block, as the lines of a chunk do. `None` if they do not.
fn contained(array: &StringViewArray, finder: &Finder<'_>) -> Option<BooleanBuffer> {
    let views = array.views();
    let (block, range) = dense(views)?;
    let block = array.data_buffers().get(block)?.as_slice();
    let length = finder.needle().len();
    let mut bits = BooleanBufferBuilder::new(views.len());
    bits.append_n(views.len(), false);
    // A short text stands in its view.
    for (row, _) in views.iter().enumerate().filter(|(_, view)| place(**view).is_none()) {
        bits.set_bit(row, finder.find(array.value(row).as_bytes()).is_some());
    }
    let mut places =
        views.iter().enumerate().filter_map(|(row, view)| place(*view).map(|at| (row, at.1)));
    let mut next = places.next();
    let mut at = range.start;
    'words: while let Some(found) = block.get(at..range.end).and_then(|rest| finder.find(rest)) {
        let start = at + found;
        // The first text that does not end before the word does.
        let (row, text) = loop {
            match next {
                Some((row, ref text)) if text.end >= start + length => break (row, text.clone()),
                Some(_) => next = places.next(),
                None => break 'words,
            }
        };
        if text.start <= start {
            bits.set_bit(row, true);
            at = text.end;
            next = places.next();
        } else {
            // It begins before this text, and does not end in the one before.
            at = text.start;
        }
    }
    Some(bits.finish())
}

/// Returns the block in which all longer texts stand, and from where to where, if they are in order
/// and most of that is theirs.
fn dense(views: &[u128]) -> Option<(usize, Range<usize>)> {
    let mut places = views.iter().filter_map(|view| place(*view));
    let (block, first) = places.next()?;
    let (mut end, mut bytes) = (first.end, first.len());
    for (other, text) in places {
        if other != block || text.start < end {
            return None;
        }
        bytes += text.len();
        end = text.end;
    }
    (end - first.start <= bytes * 2).then_some((block, first.start..end))
}

/// Returns where a text stands: its block and its place there; `None` if it stands in the view.
fn place(view: u128) -> Option<(usize, Range<usize>)> {
    let length = view as u32 as usize;
    let start = (view >> 96) as usize;
    (length > 12).then_some(((view >> 64) as u32 as usize, start..start + length))
}

/// How often bytes are found in records: what marks their fields is everywhere in them, so that a
/// search must not look out for it.
struct InRecords;

impl HeuristicFrequencyRank for InRecords {
    fn rank(&self, byte: u8) -> u8 {
        match byte {
            b' ' | b'"' | b',' | b':' | b'\n' => 255,
            b'a' | b'e' | b'i' | b'n' | b'o' | b'r' | b's' | b't' => 240,
            b'-' | b'.' | b'/' | b';' | b'=' | b'_' | b'{' | b'}' => 230,
            b'a'..=b'z' => 200,
            b'0'..=b'9' => 190,
            b'A'..=b'Z' => 150,
            _ => 60,
        }
    }
}

/// Asks for a prefix: the first four bytes of each text stand in its view, after the length.
fn prefixed(array: &StringViewArray, prefix: &str) -> BooleanBuffer {
    let head = &prefix.as_bytes()[..prefix.len().min(4)];
    let mut wanted = [0u8; 4];
    let mut mask = [0u8; 4];
    wanted[..head.len()].copy_from_slice(head);
    mask[..head.len()].fill(0xff);
    let (wanted, mask) = (u32::from_le_bytes(wanted), u32::from_le_bytes(mask));
    let length = prefix.len() as u32;
    let near =
        pack_views(array, |view| view as u32 >= length && (view >> 32) as u32 & mask == wanted);
    if prefix.len() <= 4 {
        return near;
    }
    BooleanBuffer::collect_bool(array.len(), |row| {
        near.value(row) && array.value(row).starts_with(prefix)
    })
}

/// Recognises `abc`, `abc%`, `%abc`, `%abc%` and `%`.
fn simple(pieces: &[Piece]) -> Option<Pattern> {
    let leading = pieces.iter().take_while(|piece| matches!(piece, Piece::Many)).count();
    let rest = &pieces[leading..];
    if rest.is_empty() && leading > 0 {
        return Some(Pattern::Anything);
    }
    let trailing = rest.iter().rev().take_while(|piece| matches!(piece, Piece::Many)).count();
    let mut text = String::new();
    for piece in &rest[..rest.len() - trailing] {
        match piece {
            Piece::Char(char) => text.push(*char),
            Piece::One | Piece::Many => return None,
        }
    }
    Some(match (leading > 0, trailing > 0) {
        (false, false) => Pattern::Equal(text),
        (false, true) => Pattern::Prefix(text),
        (true, false) => Pattern::Suffix(text),
        (true, true) => Pattern::Contains(Box::new(
            FinderBuilder::new().build_forward_with_ranker_owned(InRecords, text.into_bytes()),
        )),
    })
}

impl Extractor {
    pub(super) fn new(pattern: &str, group: usize) -> Result<Self, String> {
        let (regex, _) = regex(pattern, "", "")?;
        let groups = regex.captures_len() - 1;
        if group > groups {
            return Err(format!("the pattern has {groups} groups, there is no group {group}"));
        }
        Ok(Self { regex, group })
    }

    pub(super) fn extract<'t>(&self, text: &'t str) -> Option<&'t str> {
        if self.group == 0 {
            return self.regex.find(text).map(|found| found.as_str());
        }
        Some(self.regex.captures(text)?.get(self.group)?.as_str())
    }
}

impl Replacer {
    /// Compiles a replacement in which `\1` to `\9` are groups, `\&` is the match and `\\` is `\`.
    pub(super) fn new(pattern: &str, replacement: &str, flags: &str) -> Result<Self, String> {
        let (regex, all) = regex(pattern, flags, "g")?;
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = replacement.chars();
        while let Some(next) = chars.next() {
            if next != '\\' {
                literal.push(next);
                continue;
            }
            let group = match chars.next() {
                Some('&') => 0,
                Some(digit @ '1'..='9') => digit as usize - '0' as usize,
                Some(other) => {
                    literal.push(other);
                    continue;
                }
                None => return Err("the replacement ends with a single backslash".into()),
            };
            if group >= regex.captures_len() {
                let groups = regex.captures_len() - 1;
                return Err(format!("the pattern has {groups} groups, there is no \\{group}"));
            }
            parts.push(Part::Literal(std::mem::take(&mut literal)));
            parts.push(Part::Group(group));
        }
        parts.push(Part::Literal(literal));
        Ok(Self { regex, parts, all })
    }

    pub(super) fn replace(&self, text: &str) -> Result<String, TooLong> {
        let mut out = String::new();
        let mut end = 0;
        let limit = if self.all { usize::MAX } else { 1 };
        for found in self.regex.captures_iter(text).take(limit) {
            let Some(whole) = found.get(0) else { continue };
            out.push_str(&text[end..whole.start()]);
            for part in &self.parts {
                out.push_str(match part {
                    Part::Literal(literal) => literal,
                    Part::Group(group) => found.get(*group).map_or("", |group| group.as_str()),
                });
            }
            end = whole.end();
            if out.len() > TEXT_BYTES_MAX {
                return Err(TooLong);
            }
        }
        out.push_str(&text[end..]);
        if out.len() > TEXT_BYTES_MAX { Err(TooLong) } else { Ok(out) }
    }
}

/// Compiles a regular expression; the flag `g` is returned beside it where `more` allows it.
fn regex(pattern: &str, flags: &str, more: &str) -> Result<(Regex, bool), String> {
    let mut builder = RegexBuilder::new(pattern);
    let mut all = false;
    for flag in flags.chars() {
        match flag {
            'i' => builder.case_insensitive(true),
            's' => builder.dot_matches_new_line(true),
            'm' => builder.multi_line(true),
            'x' => builder.ignore_whitespace(true),
            'g' if more == "g" => {
                all = true;
                &mut builder
            }
            other => {
                return Err(format!("there is no flag `{other}`, only i, s, m, x{}", {
                    if more.is_empty() { "" } else { " and g" }
                }));
            }
        };
    }
    Ok((build(&mut builder)?, all))
}

fn build(builder: &mut RegexBuilder) -> Result<Regex, String> {
    builder.size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).nest_limit(64);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => {
            format!("the pattern needs more than {limit} bytes when compiled")
        }
        // The library draws a picture over several lines; its last line says what is wrong.
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or(&text);
            format!("bad regular expression: {}", last.trim_start_matches("error: "))
        }
    })
}

#[cfg(test)]
mod tests {
    use arrow_array::{Array, UInt32Array};
    use arrow_select::take::take;
    use proptest::prelude::*;

    use super::*;

    fn contains(word: &str) -> Pattern {
        let pattern = Pattern::like(&format!("%{word}%"), None, false);
        pattern.expect("a word between percent signs is a pattern")
    }

    #[track_caller]
    fn check(array: &StringViewArray, word: &str) {
        let pattern = contains(word);
        let Pattern::Contains(finder) = &pattern else { panic!("{word} is searched") };
        let expected: Vec<bool> =
            array.iter().map(|text| pattern.matches(text.unwrap_or(""))).collect();
        if let Some(bits) = contained(array, finder) {
            assert_eq!(bits.iter().collect::<Vec<bool>>(), expected, "{word} in {array:?}");
        }
        let bits =
            pattern.column(array.len(), Words::Many(array), Live { active: None, nulls: None });
        assert_eq!(bits.iter().collect::<Vec<bool>>(), expected, "{word} in {array:?}");
    }

    proptest! {
        #[test]
        fn oracle_a_search_over_a_block_finds_what_each_text_holds(
            texts in proptest::collection::vec("[ab]{0,30}", 1..20),
            word in "[ab]{1,4}",
            picked in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
        ) {
            let array: StringViewArray = texts.iter().map(|text| Some(text.as_str())).collect();
            check(&array, &word);
            // Some of them, in any order: there are gaps, and what stands in a gap is nobody's.
            let mut rows: Vec<u32> = picked.iter().map(|at| at.index(texts.len()) as u32).collect();
            for _ in 0..2 {
                let some = take(&array, &UInt32Array::from(rows.clone()), None).expect("they are there");
                let some = some.as_any().downcast_ref::<StringViewArray>().expect("texts stay texts");
                check(some, &word);
                rows.sort_unstable();
                rows.dedup();
            }
        }
    }

    #[test]
    fn lines_of_one_block_are_searched_at_once() {
        let array: StringViewArray =
            ["a line that is long", "another long line", "no"].into_iter().map(Some).collect();
        let Pattern::Contains(finder) = contains("long") else { panic!("it is searched") };
        let bits = contained(&array, &finder).map(|bits| bits.iter().collect::<Vec<bool>>());
        assert_eq!(bits, Some(vec![true, true, false]));
        // A word that begins in one text and ends in the next is in neither.
        let Pattern::Contains(finder) = contains("longano") else { panic!("it is searched") };
        let bits = contained(&array, &finder).map(|bits| bits.iter().collect::<Vec<bool>>());
        assert_eq!(bits, Some(vec![false, false, false]));
    }
}
