//! Frame: the lines of a file that are no records, before the first of them and behind the last. Derived.
//!
//! Owns where they begin and end, for files that are cut and for streams of unknown length. Never says
//! whether they are right: the contract does.

use memchr::{memchr, memrchr};

use crate::contract::Framed;

/// The longest header or trailer that is looked for, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Where some lines end (a header) or begin (a trailer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edge {
    /// Here.
    At(usize),
    /// More bytes are needed to tell.
    More,
    /// There are not so many lines, or they are too long: the reason.
    Missing(String),
}

/// Returns where the first `lines` lines end. `whole`: no more bytes come.
pub fn head_end(bytes: &[u8], lines: u32, whole: bool) -> Edge {
    let mut end = 0;
    for number in 1..=lines {
        match memchr(b'\n', &bytes[end..]) {
            Some(found) => end += found + 1,
            None if bytes.len() > FRAME_BYTES_MAX => return Edge::Missing(too_long()),
            None if !whole => return Edge::More,
            None if number == lines && end < bytes.len() => end = bytes.len(),
            None => return Edge::Missing(too_few(lines)),
        }
        if end > FRAME_BYTES_MAX {
            return Edge::Missing(too_long());
        }
    }
    Edge::At(end)
}

/// Returns where the last `lines` lines begin; blank ones at the very end are passed over. `whole`:
/// nothing stands before these bytes.
pub fn tail_start(bytes: &[u8], lines: u32, whole: bool) -> Edge {
    let mut start = text_end(bytes);
    if start == 0 && lines > 0 {
        return if whole { Edge::Missing(too_few(lines)) } else { Edge::More };
    }
    for number in 1..=lines {
        let begin = match memrchr(b'\n', &bytes[..start]) {
            Some(found) => found + 1,
            None if whole => 0,
            None => return Edge::More,
        };
        if bytes.len() - begin > FRAME_BYTES_MAX {
            return Edge::Missing(too_long());
        }
        if number == lines {
            return Edge::At(begin);
        }
        if begin == 0 {
            return if whole { Edge::Missing(too_few(lines)) } else { Edge::More };
        }
        // The line end belongs to the line before.
        start = begin - 1;
    }
    Edge::At(bytes.len())
}

/// Returns how many bytes of a stream that goes on may be handed on, so that what becomes its last
/// `lines` lines is not among them, as far as they are no longer than [`FRAME_BYTES_MAX`].
pub fn may_pass(bytes: &[u8], lines: u32) -> usize {
    let held = (1..=lines).rev().find_map(|lines| match tail_start(bytes, lines, false) {
        Edge::At(start) => Some(start),
        // So far they are short; the others may come.
        Edge::More if bytes.len() <= FRAME_BYTES_MAX => Some(0),
        Edge::More | Edge::Missing(_) => None,
    });
    held.unwrap_or(bytes.len())
}

/// Returns lines as the contract reads them.
pub fn framed(is_head: bool, lines: &[u8]) -> Framed {
    let text = match std::str::from_utf8(&lines[..text_end(lines)]) {
        Ok(text) => Ok(text.replace("\r\n", "\n")),
        Err(_) => Err("it is not UTF-8".to_owned()),
    };
    Framed { is_head, text }
}

/// Returns that there are no such lines.
pub fn missing(is_head: bool, why: String) -> Framed {
    Framed { is_head, text: Err(why) }
}

/// Returns where the blank lines at the end begin.
fn text_end(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1)
}

fn too_few(lines: u32) -> String {
    match lines {
        1 => "no line is left for it".to_owned(),
        lines => format!("fewer than {lines} lines are left for it"),
    }
}

/// Returns the reason why lines are not found in the bytes that are looked at.
pub fn too_long() -> String {
    format!("it is longer than {FRAME_BYTES_MAX} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_ends_behind_its_last_line() {
        let check = |bytes: &str, lines, whole, expected: Option<usize>| {
            let found = match head_end(bytes.as_bytes(), lines, whole) {
                Edge::At(end) => Some(end),
                Edge::More => None,
                Edge::Missing(_) => Some(usize::MAX),
            };
            assert_eq!(found, expected, "{bytes:?} {lines}");
        };
        check("a\nb\n", 0, true, Some(0));
        check("a\nb\n", 1, true, Some(2));
        check("a\r\nb", 1, false, Some(3));
        check("a\nb", 2, false, None);
        check("a\nb", 2, true, Some(3));
        check("a\n", 2, true, Some(usize::MAX));
        check("", 1, true, Some(usize::MAX));
    }

    #[test]
    fn a_trailer_begins_before_the_last_lines_that_are_not_blank() {
        let check = |bytes: &str, lines, whole, expected: Option<usize>| {
            let found = match tail_start(bytes.as_bytes(), lines, whole) {
                Edge::At(start) => Some(start),
                Edge::More => None,
                Edge::Missing(_) => Some(usize::MAX),
            };
            assert_eq!(found, expected, "{bytes:?} {lines}");
        };
        check("a\nb\nc", 1, false, Some(4));
        check("a\nb\nc\n", 1, false, Some(4));
        check("a\r\nb\r\nc\r\n\r\n\n", 1, false, Some(6));
        check("a\nb\nc\n", 2, false, Some(2));
        check("a\nb\nc\n", 3, true, Some(0));
        check("a\nb\nc\n", 3, false, None);
        check("a\n", 2, true, Some(usize::MAX));
        check("\n\n", 1, true, Some(usize::MAX));
        check("", 1, true, Some(usize::MAX));
    }

    #[test]
    fn a_stream_holds_back_what_may_be_its_trailer() {
        // However it is cut, and however long its lines are, the last lines are never handed on.
        let long = "x".repeat(FRAME_BYTES_MAX + 5);
        for text in ["1\n2\nT1\nT2\n", "1\nT1\nT2", "T1\nT2\n\n", &format!("{long}\nT1\nT2\n")] {
            let bytes = text.as_bytes();
            let cuts = (0..bytes.len()).filter(|cut| bytes.len() - cut < 20 || *cut < 20);
            let Edge::At(expected) = tail_start(bytes, 2, true) else { panic!("{text:?}") };
            for cut in cuts {
                assert!(may_pass(&bytes[..cut], 2) <= expected, "cut at {cut}");
            }
        }
        assert_eq!(may_pass(long.as_bytes(), 2), long.len(), "a bound on what is held");
    }
}
