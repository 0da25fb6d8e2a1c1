//! Names: a file name that a source takes, made from its pattern, for records that were given without
//! one. Pure.

use crate::intake::Patterns;

/// The number whose digits stand in the first made name.
const FIRST: usize = 1;
/// How many names are tried for one file.
const TRIES_MAX: usize = 64;

/// Returns a name that this source takes and that `taken` does not hold; `None` when none is found.
pub(super) fn name_for(
    source: &str,
    patterns: &[String],
    all: &Patterns,
    taken: impl Fn(&str) -> bool,
) -> Option<String> {
    let numbers = FIRST..FIRST + TRIES_MAX;
    let mut names = numbers.flat_map(|number| {
        patterns.iter().flat_map(move |pattern| {
            // What follows the last `*` is usually an ending that may be left out.
            let ends = ["", "x"].map(|tail| filled(pattern, number, tail));
            let bare = [format!("test-{number}.txt")];
            ends.into_iter().chain(bare)
        })
    });
    names.find(|name| {
        !name.is_empty()
            && all.source_of(name) == Some(source)
            && !name.starts_with('.')
            && !taken(name)
    })
}

/// Returns a pattern with its wildcards filled: the first `*` with a number, others with `tail`.
fn filled(pattern: &str, number: usize, tail: &str) -> String {
    let mut name = String::new();
    let mut rest = pattern.chars().peekable();
    let mut stars = 0;
    let mut skips = 0;
    while let Some(character) = rest.next() {
        match character {
            '*' => {
                while rest.next_if_eq(&'*').is_some() {}
                match name.chars().next_back() {
                    _ if stars > 0 => name.push_str(tail),
                    None => name.push_str(&format!("test-{number}")),
                    Some('-' | '_' | '.') => name.push_str(&number.to_string()),
                    Some(_) => name.push_str(&format!("-{number}")),
                }
                stars += 1;
            }
            '?' => name.push('1'),
            '[' => name.push(in_class(&mut rest)),
            // The first alternative is taken, the others are passed over.
            '{' => skips += 1,
            ',' if skips > 0 => {
                let mut depth = 1;
                for other in rest.by_ref() {
                    match other {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
                skips -= 1;
            }
            '}' if skips > 0 => skips -= 1,
            '\\' => name.extend(rest.next()),
            other => name.push(other),
        }
    }
    name
}

/// Returns a character of a class whose `[` was read.
fn in_class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> char {
    let not = rest.next_if(|next| matches!(next, '!' | '^')).is_some();
    let first = rest.next().unwrap_or('1');
    let mut all = vec![first];
    for other in rest.by_ref() {
        if other == ']' {
            break;
        }
        all.push(other);
    }
    match not {
        false => first,
        true => "1ax-".chars().find(|one| !all.contains(one)).unwrap_or('Q'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    #[track_caller]
    fn check(pattern: &str, expected: Option<&str>) {
        let yaml = format!(
            "pipeline: p\nsources:\n  first: {{ format: text, pattern: \"taken-*\" }}\n  a: {{ format: text, \
             pattern: {pattern} }}\nsinks:\n  o: {{ from: [first, a], files: {{ format: raw }} }}\n"
        );
        let plan = plan::plan(&yaml).unwrap();
        let all = Patterns::new(&plan.sources);
        let name = name_for("a", &plan.sources[1].patterns, &all, |name| name == "test-1.csv");
        assert_eq!(name.as_deref(), expected, "{pattern}");
    }

    #[test]
    fn a_made_name_is_one_that_the_source_takes() {
        check("\"*\"", Some("test-1"));
        check("\"*.jsonl*\"", Some("test-1.jsonl"));
        check("\"*.csv\"", Some("test-2.csv"));
        check("\"day-??.log\"", Some("day-11.log"));
        check("\"sales*.csv\"", Some("sales-1.csv"));
        check("\"sales_*.csv\"", Some("sales_1.csv"));
        check("\"x[!0-9]{a,{b,c}}.csv\"", Some("xaa.csv"));
        check("[\"*auth*.log*\", \"secure*\"]", Some("test-1auth.log"));
        check("\"taken-*\\\\.csv\"", None);
    }
}
