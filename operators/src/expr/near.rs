//! Near: the known name that is most like a mistyped one. Pure.

/// The longest name that is compared; beyond it nobody mistypes, and the cost is quadratic.
const NAME_CHARS_MAX: usize = 64;

/// Returns the candidate closest to `name`, if one is close enough to be meant.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let name: Vec<char> = name.chars().flat_map(char::to_lowercase).collect();
    if name.len() > NAME_CHARS_MAX {
        return None;
    }
    let limit = (name.len() / 3).max(1);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
            let distance = distance(&name, &letters)?;
            (distance <= limit).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Returns the candidate that has the longest beginning in common with `name`, of those alike the first;
/// nothing if that is shorter than a word.
pub(super) fn begins_like<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    const LETTERS_MIN: usize = 5;
    let common = |candidate: &str| {
        name.bytes().zip(candidate.bytes()).take_while(|(one, other)| one == other).count()
    };
    let counted = candidates.into_iter().map(|candidate| (common(candidate), candidate));
    let best = counted.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.filter(|(common, _)| *common >= LETTERS_MIN).map(|(_, candidate)| candidate)
}

/// Counts inserted, deleted, replaced and swapped letters (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> Option<usize> {
    if b.len() > NAME_CHARS_MAX || a.len().abs_diff(b.len()) > NAME_CHARS_MAX / 2 {
        return None;
    }
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let names = ["status", "host", "latency_ms"];
        assert_eq!(nearest("statsu", names), Some("status"));
        assert_eq!(nearest("HOST", names), Some("host"));
        assert_eq!(nearest("latency", names), None);
        assert_eq!(nearest("latencyms", names), Some("latency_ms"));
        assert_eq!(nearest("zzz", names), None);
        let functions = ["lower", "regexp_like", "regexp_replace"];
        assert_eq!(begins_like("lowercase", functions), Some("lower"));
        assert_eq!(begins_like("regexp_match", functions), Some("regexp_like"));
        assert_eq!(begins_like("regr", functions), None);
    }
}
