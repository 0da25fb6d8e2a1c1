//! Escapes in JSON strings: their grammar, and what they stand for. Holds nothing.

use super::super::lanes::{self, High};

/// Returns where the closing quote of a string stands, from inside the string; `None` when the
/// string does not end or holds an escape that does not exist.
#[inline(never)]
pub(super) fn text_end(chunk: &[u8], mut at: usize, high: &mut High) -> Option<usize> {
    loop {
        match *chunk.get(at)? {
            b'"' => return Some(at),
            b'\\' => at = escape_end(chunk, at)?,
            control if control < 0x20 => return None,
            _ => {}
        }
        at = lanes::string_stop(chunk, at, high);
    }
}

fn escape_end(chunk: &[u8], at: usize) -> Option<usize> {
    match *chunk.get(at + 1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 2),
        b'u' => hex(chunk, at + 2).map(|_| at + 6),
        _ => None,
    }
}

fn hex(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0, |value, &digit| Some(value * 16 + char::from(digit).to_digit(16)?))
}

/// Appends what an escaped text stands for; returns `false` for half a surrogate pair, which is
/// grammar but no text.
pub(super) fn unescape(escaped: &[u8], out: &mut Vec<u8>) -> bool {
    let mut rest = escaped;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let Some(&letter) = rest.get(at + 1) else { return false };
        let mut end = at + 2;
        match letter {
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let Some((character, after)) = unicode(rest, end) else { return false };
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                end = after;
            }
            other => out.push(other),
        }
        rest = &rest[end..];
    }
    out.extend_from_slice(rest);
    true
}

fn unicode(bytes: &[u8], at: usize) -> Option<(char, usize)> {
    let first = hex(bytes, at)?;
    let after = at + 4;
    if let Some(character) = char::from_u32(first) {
        return Some((character, after));
    }
    let second =
        if bytes.get(after..after + 2) == Some(b"\\u") { hex(bytes, after + 2)? } else { 0 };
    let pair = (0xd800..0xdc00).contains(&first) && (0xdc00..0xe000).contains(&second);
    let code = pair.then(|| 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))?;
    Some((char::from_u32(code)?, after + 6))
}
