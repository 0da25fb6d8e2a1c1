//! Group: which samples are files of one source, what it is called and which names it takes. Pure.

use std::collections::HashSet;

use globset::{Glob, GlobMatcher};

use super::shape::{Kind, Look};
use super::{Sampled, shown_name};
use crate::testing::sample::Sample;

/// The endings of packed files.
const PACKED: [&str; 2] = [".gz", ".zst"];
/// The longest name of a source that is made here, in characters.
const NAME_MAX: usize = 40;

/// The files of one source.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) patterns: Vec<String>,
    pub(super) files: Vec<String>,
    /// What the first of them looks like.
    pub(super) look: Look,
    pub(super) notes: Vec<String>,
}

/// Puts samples of the same shape together.
pub(super) fn group(looks: Vec<(&Sampled, Look)>) -> Vec<Group> {
    let mut alike: Vec<Vec<(&Sampled, Look)>> = Vec::new();
    for (file, look) in looks {
        let fits = |group: &&mut Vec<(&Sampled, Look)>| {
            group.first().is_some_and(|(first, other)| {
                is_alike(other, &look)
                    && (has_columns(&look) || stem(&first.name) == stem(&file.name))
            })
        };
        match alike.iter_mut().find(fits) {
            Some(group) => group.push((file, look)),
            None => alike.push(vec![(file, look)]),
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    let mut taken = HashSet::new();
    for members in alike {
        let names: Vec<String> = members.iter().map(|(file, _)| file.name.clone()).collect();
        let packed = members.iter().any(|(file, _)| is_packed(&file.sample, &file.name));
        let (begin, end) = around(&names);
        let mut name = source_name(&begin, &end);
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{}_{number}", source_name(&begin, &end));
            number += 1;
        }
        let pattern = format!("{}*{}{}", glob(&begin), glob(&end), if packed { "*" } else { "" });
        let notes = members.iter().flat_map(|(file, look)| {
            let several = names.len() > 1;
            look.notes.iter().map(move |note| match several {
                true => format!("{}: {note}", shown_name(&file.name)),
                false => note.clone(),
            })
        });
        let notes = notes.collect();
        let files = names.iter().map(|name| shown_name(name)).collect();
        let Some((_, look)) = members.into_iter().next() else { continue };
        groups.push(Group { name, patterns: vec![pattern], files, look, notes });
    }
    keep_apart(&mut groups);
    groups
}

/// Gives a source the very names of its samples where its pattern would take those of another.
fn keep_apart(groups: &mut [Group]) {
    let takes = |patterns: &[String], name: &str| {
        let matchers = patterns.iter().filter_map(|one| Glob::new(one).ok());
        matchers.map(|glob| glob.compile_matcher()).any(|one: GlobMatcher| one.is_match(name))
    };
    for at in 0..groups.len() {
        let others: Vec<String> = groups
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at)
            .flat_map(|(_, group)| group.files.clone())
            .collect();
        let group = &mut groups[at];
        let misses = group.files.iter().any(|name| !takes(&group.patterns, name));
        if misses || others.iter().any(|name| takes(&group.patterns, name)) {
            group.patterns = group.files.iter().map(|name| glob(name)).collect();
            group.notes.push("its pattern is the names of the samples: widen it".to_owned());
        }
    }
}

fn has_columns(look: &Look) -> bool {
    matches!(look.kind, Kind::Jsonl | Kind::Csv(_))
}

/// Returns whether two files could be of one source.
fn is_alike(one: &Look, other: &Look) -> bool {
    match (&one.kind, &other.kind) {
        (Kind::Jsonl, Kind::Jsonl) => {
            let names = |look: &Look| -> HashSet<String> {
                look.columns.iter().map(|column| column.name.clone()).collect()
            };
            let (one, other) = (names(one), names(other));
            one.intersection(&other).count() * 2 >= one.union(&other).count()
        }
        (Kind::Csv(left), Kind::Csv(right)) => {
            let kinds = |look: &Look| look.columns.iter().map(|one| one.kind).collect::<Vec<_>>();
            left == right && kinds(one) == kinds(other)
        }
        (one, other) => one == other,
    }
}

fn is_packed(sample: &Sample, name: &str) -> bool {
    sample.compression != crate::ingest::inflate::Compression::None
        || PACKED.iter().any(|ending| name.ends_with(ending))
}

/// Returns a name without what packs it.
pub(super) fn unpacked(name: &str) -> &str {
    PACKED.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

/// Returns the part of a name before its digits and its ending.
fn stem(name: &str) -> &str {
    let end = name.find(|one: char| one.is_ascii_digit() || one == '.').unwrap_or(name.len());
    name[..end].trim_end_matches(['-', '_'])
}

/// Returns what all names begin and end with; what is in between differs from file to file.
fn around(names: &[String]) -> (String, String) {
    let names: Vec<&str> = names.iter().map(|name| unpacked(name)).collect();
    let first = names.first().copied().unwrap_or_default();
    if names.len() == 1 {
        let (stem, ending) = split(first);
        let is_date = |one: char| one.is_ascii_digit() || "-_T.".contains(one);
        return match stem.find(|one: char| one.is_ascii_digit()) {
            Some(from) => {
                let last = stem.rfind(|one: char| one.is_ascii_digit()).unwrap_or(from) + 1;
                // Digits in the middle of words are no counter.
                match stem[from..last].chars().all(is_date) {
                    true => (stem[..from].to_owned(), format!("{}{ending}", &stem[last..])),
                    false => (stem[..from].to_owned(), ending.to_owned()),
                }
            }
            None => (stem.to_owned(), ending.to_owned()),
        };
    }
    let begin = names.iter().fold(first, |common, name| {
        let same = common.char_indices().zip(name.chars());
        let end = same.take_while(|((_, one), other)| one == other).last();
        &common[..end.map_or(0, |((at, one), _)| at + one.len_utf8())]
    });
    let begin = begin.trim_end_matches(|one: char| one.is_ascii_digit());
    let tails: Vec<&str> = names.iter().map(|name| &name[begin.len()..]).collect();
    let first = tails.first().copied().unwrap_or_default();
    let end = tails.iter().fold(first, |common, name| {
        let same = common.char_indices().rev().zip(name.chars().rev());
        let begin = same.take_while(|((_, one), other)| one == other).last();
        &common[begin.map_or(common.len(), |((at, _), _)| at)..]
    });
    let end = end.trim_start_matches(|one: char| one.is_ascii_digit());
    (begin.to_owned(), end.to_owned())
}

fn split(name: &str) -> (&str, &str) {
    match name.rfind('.').filter(|at| *at > 0) {
        Some(at) => name.split_at(at),
        None => (name, ""),
    }
}

fn source_name(begin: &str, end: &str) -> String {
    let clean = |text: &str| -> String {
        let kept = text.chars().map(|one| match one {
            one if one.is_ascii_alphanumeric() => one.to_ascii_lowercase(),
            _ => '_',
        });
        let name: String = kept.take(NAME_MAX).collect();
        name.trim_matches('_').to_owned()
    };
    let name = [clean(begin), clean(end.trim_start_matches('.'))];
    let name = name.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| "input".to_owned());
    // What is taken as a name among sinks and tags is confusing for a source.
    if matches!(name.as_str(), "rejects" | "errors") { format!("{name}_in") } else { name }
}

/// Returns text as a pattern that matches it; what a pattern could read as something else is any
/// character.
fn glob(text: &str) -> String {
    text.chars().map(|one| if "*?[]{}\\!,".contains(one) { '?' } else { one }).collect()
}
