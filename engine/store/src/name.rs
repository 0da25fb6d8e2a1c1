//! Name: what a file may be called, and what we call it.
//!
//! Pure functions over text; never looks at a disk. A name that a person gave is data: it is
//! checked here once, kept as it is for people, and made harmless wherever it becomes part of a
//! path that we choose.

use std::ffi::OsStr;

/// The longest name that is taken, in bytes; the limit of most file systems.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest name that we give, in bytes: leaves room for `.reason.json` and a format's ending.
pub const STORED_BYTES_MAX: usize = 200;

/// The longest slug, in bytes.
pub const SLUG_BYTES_MAX: usize = 100;

/// The ending of the file that says why a file is in `quarantine/`.
pub const REASON_ENDING: &str = ".reason.json";

/// What a quarantined submission is called in the journal once it was tried again, after its number
/// and a slash: its names are those of the new one.
pub(crate) const RETRIED: &str = "retried";

/// The endings that sinks append to names which do not have them.
pub const FORMAT_ENDINGS: [&str; 2] = [".csv", ".jsonl"];

/// The endings of the snapshots of tables.
pub const SNAPSHOT_ENDINGS: [&str; 3] = [".csv", ".jsonl", ".parquet"];

/// The ending of the folder of a table's changelog: that of a sink cannot have it, so none is taken for
/// one. What lies there is a history, and is not taken back with the file that made it.
pub const CHANGES_ENDING: &str = ".changes";

/// Endings at which the stem of a name ends.
const DATA_EXTENSIONS: [&str; 18] = [
    "jsonl", "ndjson", "json", "csv", "tsv", "psv", "txt", "text", "log", "dat", "data", "xml",
    "gz", "zst", "bz2", "xz", "parquet", "avro",
];

/// A name that is not taken, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name {shown} {reason}")]
pub struct NameError {
    /// The name with everything that could mislead a terminal escaped.
    pub shown: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Checks that a name may be the name of an input file.
///
/// It is UTF-8, at most [`NAME_BYTES_MAX`] long, no path, not hidden, and without characters that
/// show a person something else than what is there.
pub fn check_name(name: &OsStr) -> Result<&str, NameError> {
    let refuse = |reason| NameError { shown: escaped(&name.to_string_lossy()), reason };
    let Some(text) = name.to_str() else {
        return Err(refuse("is not UTF-8"));
    };
    if text.is_empty() {
        return Err(refuse("is empty"));
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(refuse("is longer than 255 bytes"));
    }
    if text.contains(['/', '\\']) {
        return Err(refuse("holds a slash or backslash"));
    }
    if text.starts_with('.') {
        return Err(refuse("begins with a dot"));
    }
    if text.chars().any(char::is_control) {
        return Err(refuse("holds a control character"));
    }
    if text.chars().any(misleads) {
        return Err(refuse("holds a character that changes the direction of text or is invisible"));
    }
    Ok(text)
}

/// Returns whether a character reorders or hides the text around it.
fn misleads(character: char) -> bool {
    matches!(character,
        '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Returns a name in quotes, with control, reordering and invisible characters escaped.
fn escaped(text: &str) -> String {
    let mut shown = String::from("\"");
    for character in text.chars().take(NAME_BYTES_MAX) {
        if misleads(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.extend(character.escape_debug());
        }
    }
    shown.push('"');
    shown
}

/// Returns what of a name can stand in a path without harm: `[A-Za-z0-9._-]`, at most
/// [`SLUG_BYTES_MAX`] bytes, no leading dot or hyphen; `file` if nothing is left.
pub fn slug(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let mut slug: String = name.chars().map(plain).collect();
    slug = slug.trim_start_matches(['.', '-']).replace("..", "._");
    slug.truncate(SLUG_BYTES_MAX);
    if slug.is_empty() { "file".into() } else { slug }
}

/// Returns what of a name stands before its first data extension: `a.jsonl.gz` is `a`.
pub fn stem(name: &str) -> &str {
    split_stem(name).0
}

/// Returns a name cut in two before its first data extension: `a.jsonl.gz` is `a` and `.jsonl.gz`.
fn split_stem(name: &str) -> (&str, &str) {
    const EXTENSION_BYTES_MAX: usize = 40;
    let mut dots = name.match_indices('.').map(|(at, _)| at).filter(|&at| at > 0);
    let is_data = |&at: &usize| {
        let rest = &name[at + 1..];
        let word = rest.split('.').next().unwrap_or(rest).to_ascii_lowercase();
        DATA_EXTENSIONS.contains(&word.as_str())
    };
    let at = dots.clone().find(is_data).or_else(|| dots.next_back()).unwrap_or(name.len());
    // An "extension" of that length is not one; it would leave no room for the stem.
    let at = if name.len() - at > EXTENSION_BYTES_MAX { name.len() } else { at };
    name.split_at(at)
}

/// Returns the `n`th name for files that come as `name`: the name itself for 1, then `a~2.jsonl`,
/// `a~3.jsonl`. The stem is cut so that it fits [`STORED_BYTES_MAX`].
pub fn variant(name: &str, n: u64) -> String {
    let (stem, ending) = split_stem(name);
    let mark = if n <= 1 { String::new() } else { format!("~{n}") };
    let room = STORED_BYTES_MAX.saturating_sub(ending.len() + mark.len());
    let mut cut = stem.len().min(room);
    while !stem.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{mark}{ending}", &stem[..cut])
}

/// Returns the stem of the outputs of a file: its stored name without a final `.gz` or `.zst`.
pub fn output_name(stored_name: &str) -> &str {
    let name = stored_name.strip_suffix(".gz").or_else(|| stored_name.strip_suffix(".zst"));
    name.filter(|name| !name.is_empty()).unwrap_or(stored_name)
}

/// Returns every stored name that no other file may have beside `stored_name`, itself first.
pub(crate) fn stored_rivals(stored_name: &str) -> Vec<String> {
    let mut rivals = vec![stored_name.to_string(), format!("{stored_name}{REASON_ENDING}")];
    rivals.extend(stored_name.strip_suffix(REASON_ENDING).map(str::to_string));
    rivals
}

/// Returns every output name that no other file may have beside `output_name`, itself first.
pub(crate) fn output_rivals(output_name: &str) -> Vec<String> {
    let mut rivals = vec![output_name.to_string()];
    for ending in FORMAT_ENDINGS {
        rivals.push(format!("{output_name}{ending}"));
        rivals.extend(output_name.strip_suffix(ending).map(str::to_string));
    }
    rivals
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_name_is_taken_only_if_it_can_harm_nobody() {
        #[track_caller]
        fn check(name: impl AsRef<[u8]>, expected: Result<(), &str>) {
            let result = check_name(OsStr::from_bytes(name.as_ref()));
            assert_eq!(result.map(|_| ()).map_err(|error| error.reason), expected);
        }
        check("a.jsonl", Ok(()));
        check("Bericht März (2).csv", Ok(()));
        check("~a", Ok(()));
        check("-rf", Ok(()));
        check("x".repeat(255), Ok(()));
        check("x".repeat(256), Err("is longer than 255 bytes"));
        check("", Err("is empty"));
        check(".", Err("begins with a dot"));
        check("..", Err("begins with a dot"));
        check(".hidden", Err("begins with a dot"));
        check("a/b", Err("holds a slash or backslash"));
        check("..\\b", Err("holds a slash or backslash"));
        check("a\0b", Err("holds a control character"));
        check("a\nb", Err("holds a control character"));
        check("a\u{1b}[2Jb", Err("holds a control character"));
        check("a\u{85}b", Err("holds a control character"));
        check(
            "a\u{202e}lsc.exe",
            Err("holds a character that changes the direction of text or is invisible"),
        );
        check(b"a\xff", Err("is not UTF-8"));
    }

    #[test]
    fn a_refused_name_is_shown_escaped() {
        let error = check_name(OsStr::new("two\nlines\u{202e}")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the name \"two\\nlines\\u{202e}\" holds a control character"
        );
    }

    #[test]
    fn a_slug_has_no_character_that_means_anything() {
        for (name, expected) in [
            ("a.jsonl", "a.jsonl"),
            ("--help", "help"),
            ("...a", "a"),
            ("a b/ü.csv", "a_b__.csv"),
            ("a..b", "a._b"),
            ("..", "file"),
            ("", "file"),
        ] {
            assert_eq!(slug(name), expected, "{name}");
        }
        assert_eq!(slug(&"é".repeat(300)).len(), SLUG_BYTES_MAX);
    }

    #[test]
    fn a_variant_keeps_the_endings() {
        for (name, n, expected) in [
            ("a.jsonl", 1, "a.jsonl"),
            ("a.jsonl", 2, "a~2.jsonl"),
            ("a.jsonl.gz", 2, "a~2.jsonl.gz"),
            ("2026.11.22.csv", 3, "2026.11.22~3.csv"),
            ("access.log.1", 2, "access~2.log.1"),
            ("a.b.weird", 2, "a.b~2.weird"),
            ("plain", 10, "plain~10"),
            ("a.", 2, "a~2."),
        ] {
            assert_eq!(variant(name, n), expected, "{name}");
        }
    }

    #[test]
    fn a_long_name_is_cut_at_a_character_and_keeps_its_ending() {
        let name = format!("{}.jsonl.gz", "ü".repeat(120));
        for n in [1, 2, 1_000_000] {
            let variant = variant(&name, n);
            assert!(variant.len() <= STORED_BYTES_MAX && variant.ends_with(".jsonl.gz"));
        }
        assert!(variant(&format!("a.{}", "x".repeat(250)), 2).ends_with("~2"));
    }

    #[test]
    fn an_output_is_named_after_the_inflated_file() {
        for (stored, expected) in
            [("a.jsonl.gz", "a.jsonl"), ("a.zst", "a"), ("a~2.csv", "a~2.csv"), (".gz", ".gz")]
        {
            assert_eq!(output_name(stored), expected);
        }
    }
}
