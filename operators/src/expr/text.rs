//! Text: functions over strings, row by row. Positions and lengths count characters (code points),
//! starting at 1, as in SQL.
//!
//! Texts that grow are bounded: a value of more than [`TEXT_BYTES_MAX`] is an error of its row, so
//! that nested `replace` calls cannot eat the memory.

use std::borrow::Cow;

use arrow_array::StringViewArray;
use arrow_array::builder::StringViewBuilder;

use crate::expr::evaluate::Run;
use crate::expr::vector::Live;

/// The longest text that an expression makes, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 1 << 20;

/// A text would be longer than [`TEXT_BYTES_MAX`].
#[derive(Debug)]
pub(super) struct TooLong;

impl From<TooLong> for String {
    fn from(_: TooLong) -> Self {
        format!("the result is longer than {TEXT_BYTES_MAX} bytes")
    }
}

/// Makes a text column; rows that are not live, that fail or that give `None` are NULL.
pub(super) fn build<'t>(
    run: &mut Run<'_>,
    live: Live<'_>,
    mut f: impl FnMut(usize) -> Result<Option<Cow<'t, str>>, String>,
) -> StringViewArray {
    let mut builder = StringViewBuilder::with_capacity(run.rows);
    for row in 0..run.rows {
        if !live.has(row) {
            builder.append_null();
            continue;
        }
        match f(row) {
            Ok(Some(text)) => builder.append_value(text),
            Ok(None) => builder.append_null(),
            Err(message) => {
                run.fail(row, message);
                builder.append_null();
            }
        }
    }
    builder.finish()
}

/// Cuts characters of `set` off the ends.
pub(super) fn trim<'t>(text: &'t str, set: &str, left: bool, right: bool) -> &'t str {
    let text = if left { text.trim_start_matches(|char| set.contains(char)) } else { text };
    if right { text.trim_end_matches(|char| set.contains(char)) } else { text }
}

/// Counts characters.
pub(super) fn length(text: &str) -> i64 {
    if text.is_ascii() { text.len() as i64 } else { text.chars().count() as i64 }
}

/// Returns the characters from position `from`, at most `count` of them; a start before the text
/// uses up the count, as in PostgreSQL.
pub(super) fn substring(text: &str, from: i64, count: Option<i64>) -> Result<&str, String> {
    let end = match count {
        Some(count) if count < 0 => return Err("substr: the count is negative".into()),
        Some(count) => from.saturating_add(count),
        None => i64::MAX,
    };
    let start = byte_at(text, from.max(1) - 1);
    Ok(&text[start..byte_at(text, end.max(1) - 1).max(start)])
}

/// Returns the first `count` characters, or all but the last `-count`.
pub(super) fn left(text: &str, count: i64) -> &str {
    let count = if count < 0 { length(text).saturating_add(count).max(0) } else { count };
    &text[..byte_at(text, count)]
}

/// Returns the last `count` characters, or all but the first `-count`.
pub(super) fn right(text: &str, count: i64) -> &str {
    let skip = if count < 0 { count.saturating_neg() } else { (length(text) - count).max(0) };
    &text[byte_at(text, skip)..]
}

/// Returns the byte at which a character (counted from 0) begins, or the end of the text.
fn byte_at(text: &str, char: i64) -> usize {
    let char = usize::try_from(char).unwrap_or(usize::MAX);
    if text.is_ascii() {
        return char.min(text.len());
    }
    text.char_indices().nth(char).map_or(text.len(), |(at, _)| at)
}

/// Returns the position of the first occurrence, or 0.
pub(super) fn position(text: &str, wanted: &str) -> i64 {
    text.find(wanted).map_or(0, |at| length(&text[..at]) + 1)
}

/// Returns one of the fields between delimiters, counted from 1, or from the end if negative.
pub(super) fn split_part<'t>(
    text: &'t str,
    delimiter: &str,
    field: i64,
) -> Result<&'t str, String> {
    let from_end = usize::try_from(field.unsigned_abs().saturating_sub(1)).unwrap_or(usize::MAX);
    if field == 0 {
        return Err("split_part: fields are counted from 1, there is no field 0".into());
    }
    if delimiter.is_empty() {
        return Ok(if from_end == 0 { text } else { "" });
    }
    let part = if field > 0 {
        text.split(delimiter).nth(from_end)
    } else {
        text.rsplit(delimiter).nth(from_end)
    };
    Ok(part.unwrap_or(""))
}

/// Replaces every occurrence; an empty `wanted` replaces nothing.
pub(super) fn replace<'t>(text: &'t str, wanted: &str, by: &str) -> Result<Cow<'t, str>, TooLong> {
    if wanted.is_empty() || !text.contains(wanted) {
        return Ok(Cow::Borrowed(text));
    }
    if by.len() > wanted.len() {
        let grown = text.matches(wanted).count().saturating_mul(by.len() - wanted.len());
        if text.len().saturating_add(grown) > TEXT_BYTES_MAX {
            return Err(TooLong);
        }
    }
    Ok(Cow::Owned(text.replace(wanted, by)))
}

/// Returns text for a message: quoted, cut after 40 characters.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{:?}...", &text[..at]),
        None => format!("{text:?}"),
    }
}
