//! Manifest: a dropped file that lists others with their hashes, as `sha256sum` and `b3sum` write it, and
//! whether a file is the one that is listed.
//!
//! Owns nothing; reads a manifest or a claimed file once, bounded, on the thread of the intake.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};

use sha2::{Digest, Sha256};
use tidemill_store::name::check_name;
use tidemill_store::queue;

use crate::plan::HashKind;

/// The longest manifest that is read, in bytes.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// The most files that one lists.
const FILES_MAX: usize = 10_000;

/// How much of a file is read at once to hash it.
const READ_BYTES: usize = 1 << 20;

/// What a manifest says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its hash.
    pub(super) hash: [u8; 32],
    /// Its size in bytes, if that is said.
    pub(super) bytes: Option<u64>,
}

/// Reads a manifest to its end.
pub(super) fn read(file: &File) -> io::Result<Result<BTreeMap<String, Entry>, String>> {
    let mut bytes = Vec::new();
    file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Ok(Err(format!("it is longer than {} MiB", MANIFEST_BYTES_MAX >> 20)));
    }
    Ok(match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text),
        Err(_) => Err("it is not UTF-8".to_owned()),
    })
}

/// Takes a manifest apart: `HASH  NAME` in each line, or `HASH *NAME`; then, behind a tab,
/// `bytes=NUMBER`. Blank lines and those that begin with `#` say nothing.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, Entry>, String> {
    let mut entries = BTreeMap::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| format!("its line {} {why}", number + 1);
        let (name, entry) = entry(line).map_err(|why| wrong(&why))?;
        if entries.len() >= FILES_MAX {
            return Err(format!("it lists more than {FILES_MAX} files"));
        }
        if entries.insert(name.to_owned(), entry).is_some() {
            return Err(wrong(&format!("lists {name:?} a second time")));
        }
    }
    if entries.is_empty() { Err("it lists no file".to_owned()) } else { Ok(entries) }
}

fn entry(line: &str) -> Result<(&str, Entry), String> {
    let form = || "is not `HASH  NAME`, as sha256sum and b3sum write it".to_owned();
    let (hex, rest) = line.split_once([' ', '\t']).ok_or_else(form)?;
    let hash = hash_of(hex).ok_or_else(|| "does not begin with 64 hex digits".to_owned())?;
    let rest = rest.strip_prefix([' ', '*']).unwrap_or(rest);
    let mut parts = rest.split('\t');
    let name = parts.next().unwrap_or_default();
    let name = name.strip_prefix("./").unwrap_or(name);
    check_name(name.as_ref()).map_err(|error| format!("lists a file that cannot be: {error}"))?;
    let mut bytes = None;
    for part in parts {
        match part.split_once('=').map(|(key, value)| (key.trim(), value.trim().parse())) {
            Some(("bytes", Ok(number))) => bytes = Some(number),
            _ => return Err(format!("says {part:?}; behind a tab it can say bytes=NUMBER")),
        }
    }
    Ok((name, Entry { hash, bytes }))
}

fn hash_of(hex: &str) -> Option<[u8; 32]> {
    // Upper case is written by some tools.
    blake3::Hash::from_hex(hex.to_ascii_lowercase()).ok().map(Into::into)
}

/// Says how a claimed file is not the one that is listed, if it is not; else returns its BLAKE3 if it
/// became known. Reads all of it.
pub(super) fn compare(
    file: &File,
    bytes: u64,
    expected: &Entry,
    kind: HashKind,
) -> io::Result<Result<Option<[u8; 32]>, String>> {
    if let Some(said) = expected.bytes.filter(|said| *said != bytes) {
        return Ok(Err(format!("says that it has {said} bytes; it has {bytes}")));
    }
    let (found, known) = match kind {
        HashKind::Blake3 => {
            let hash = queue::hash(file)?;
            (hash, Some(hash))
        }
        HashKind::Sha256 => (sha256(file)?, None),
    };
    if found == expected.hash {
        return Ok(Ok(known));
    }
    let hex = crate::board::hex;
    let word = kind.word();
    Ok(Err(format!("says {word} {}; its bytes have {}", hex(&expected.hash), hex(&found))))
}

fn sha256(mut file: &File) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    file.rewind()?;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    file.rewind()?;
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names and sizes that are listed, or what is wrong.
    #[track_caller]
    fn check(text: &str, expected: Result<&[(&str, Option<u64>)], &str>) {
        let text = text.replace("HASH", &"0f".repeat(32));
        let found = parse(&text);
        let found = found.as_ref().map_err(String::as_str).map(|entries| {
            let entries = entries.iter().map(|(name, entry)| (name.as_str(), entry.bytes));
            entries.collect::<Vec<_>>()
        });
        assert_eq!(found, expected.map(<[_]>::to_vec), "{text}");
    }

    #[test]
    fn a_manifest_is_what_sha256sum_and_b3sum_write() {
        check("HASH  a.csv\nHASH *b c.csv\r\n", Ok(&[("a.csv", None), ("b c.csv", None)]));
        check("# of today\n\nHASH  ./a.csv\tbytes=17\n", Ok(&[("a.csv", Some(17))]));
        check("\u{feff}HASH a", Ok(&[("a", None)]));
        check("", Err("it lists no file"));
        check("HASH", Err("its line 1 is not `HASH  NAME`, as sha256sum and b3sum write it"));
        check("\nabc  a.csv", Err("its line 2 does not begin with 64 hex digits"));
        check("HASH  a\nHASH  a", Err("its line 2 lists \"a\" a second time"));
        check(
            "HASH  a\trows=1",
            Err("its line 1 says \"rows=1\"; behind a tab it can say bytes=NUMBER"),
        );
        check(
            "HASH  a\tbytes=many",
            Err("its line 1 says \"bytes=many\"; behind a tab it can say bytes=NUMBER"),
        );
        for name in ["../a", "x/a", ".a", "a\u{202e}b", "\\a"] {
            let error = parse(&format!("{}  {name}", "0f".repeat(32))).unwrap_err();
            assert!(error.starts_with("its line 1 lists a file that cannot be"), "{error}");
        }
        let many: String = (0..=FILES_MAX).map(|n| format!("HASH  {n}\n")).collect();
        check(&many, Err("it lists more than 10000 files"));
    }

    #[test]
    fn a_file_is_the_listed_one_by_size_and_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let check =
            |bytes: &[u8], said: Option<u64>, kind, hash: &str, expected: Result<bool, &str>| {
                std::fs::write(&path, bytes).unwrap();
                let file = File::open(&path).unwrap();
                let entry = Entry { hash: hash_of(hash).unwrap(), bytes: said };
                let found = compare(&file, bytes.len() as u64, &entry, kind).unwrap();
                let found = found.as_ref().map(Option::is_some).map_err(String::as_str);
                assert_eq!(found, expected);
            };
        // As the tools print them.
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let blake3 = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        check(b"abc", None, HashKind::Sha256, sha256, Ok(false));
        check(b"abc", Some(3), HashKind::Sha256, &sha256.to_uppercase(), Ok(false));
        check(b"abc", None, HashKind::Blake3, blake3, Ok(true));
        let size = "says that it has 4 bytes; it has 3";
        check(b"abc", Some(4), HashKind::Sha256, sha256, Err(size));
        let other = format!("says sha256 {blake3}; its bytes have {sha256}");
        check(b"abc", None, HashKind::Sha256, blake3, Err(&other));
        let big = vec![b'a'; 1_000_000];
        let million = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        check(&big, None, HashKind::Sha256, million, Ok(false));
    }
}
