//! Secret: keys that values are hashed with, known to an expression by name only.
//!
//! A key goes into an HMAC and nowhere else: no text, no message and no `Debug` shows it. What tells two
//! keys of one name apart is a fingerprint, an HMAC itself. It says less of a key than the hashed values
//! do that whoever reads the outputs has anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The fewest bytes that a key may have: a shorter one could be guessed from what was hashed with it.
pub const KEY_BYTES_MIN: usize = 16;

/// What a fingerprint is the hash of.
const FINGERPRINT_OF: &str = "tidemill: which key this is";
/// How many bytes of it there are.
const FINGERPRINT_BYTES: usize = 8;

/// A key, ready to hash with.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

impl Secret {
    /// Returns a key of these bytes; nothing if they are fewer than [`KEY_BYTES_MIN`].
    pub fn new(key: &[u8]) -> Option<Self> {
        if key.len() < KEY_BYTES_MIN {
            return None;
        }
        Hmac::new_from_slice(key).ok().map(Self)
    }

    /// Returns the HMAC-SHA256 of a text, in hex.
    pub(super) fn hash(&self, text: &str) -> String {
        hex(&self.0.clone().chain_update(text).finalize().into_bytes())
    }

    /// Returns what tells the key apart from others.
    pub(super) fn fingerprint(&self) -> String {
        hex(&self.0.clone().chain_update(FINGERPRINT_OF).finalize().into_bytes()
            [..FINGERPRINT_BYTES])
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The keys that expressions may name. A name without a key is no mistake of the text: it is remembered
/// ([`Secrets::lacking`]), and each row that needs it is an error.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    given: Arc<Given>,
    lacking: Arc<Mutex<BTreeSet<String>>>,
}

#[derive(Debug)]
enum Given {
    /// By name: a key, or why there is none.
    ByName(BTreeMap<String, Result<Secret, String>>),
    /// Each name has a key, which everybody knows.
    OfTests,
}

impl Default for Given {
    fn default() -> Self {
        Self::ByName(BTreeMap::new())
    }
}

impl Secrets {
    /// Returns these keys. Who names one that cannot be used is told why.
    pub fn new(by_name: BTreeMap<String, Result<Secret, String>>) -> Self {
        Self { given: Arc::new(Given::ByName(by_name)), ..Self::default() }
    }

    /// Returns keys for all names that are the same everywhere: what tests expect depends on no
    /// surroundings.
    pub fn of_tests() -> Self {
        Self { given: Arc::new(Given::OfTests), ..Self::default() }
    }

    /// Returns the same keys, for expressions that have no part in what others lack.
    pub fn anew(&self) -> Self {
        Self { given: Arc::clone(&self.given), ..Self::default() }
    }

    /// Returns the names that expressions had no key for, sorted.
    pub fn lacking(&self) -> Vec<String> {
        let lacking = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
        lacking.iter().cloned().collect()
    }

    /// Returns the key of a name, or why there is none that could be used.
    pub(super) fn key(&self, name: &str) -> Result<Option<Secret>, String> {
        let given = match &*self.given {
            Given::OfTests => Secret::new(format!("the key {name} of tests").as_bytes()).map(Ok),
            Given::ByName(by_name) => by_name.get(name).cloned(),
        };
        if given.is_none() {
            let mut lacking = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
            lacking.insert(name.to_owned());
        }
        given.transpose()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_rfc_4231() {
        let check = |key: &[u8], text: &str, expected: &str| {
            assert_eq!(Secret::new(key).unwrap().hash(text), expected);
        };
        check(
            &[0x0b; 20],
            "Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        );
        check(
            &[0xaa; 131],
            "Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
    }

    #[test]
    fn a_short_key_is_none_and_nothing_shows_one() {
        assert!(Secret::new(&[7; KEY_BYTES_MIN - 1]).is_none());
        let secret = Secret::new(b"not to be seen anywhere").unwrap();
        let by_name = [("PEPPER".to_owned(), Ok(secret.clone()))].into();
        assert_eq!(format!("{secret:?}"), "Secret");
        let shown = format!("{:?}", Secrets::new(by_name));
        assert!(shown.contains("PEPPER") && !shown.contains("not to be seen"), "{shown}");
    }

    #[test]
    fn another_key_has_another_fingerprint() {
        let fingerprint = |key: &[u8]| Secret::new(key).unwrap().fingerprint();
        assert_eq!(fingerprint(&[1; 16]), fingerprint(&[1; 16]));
        assert_ne!(fingerprint(&[1; 16]), fingerprint(&[2; 16]));
        assert_eq!(fingerprint(&[1; 16]).len(), 2 * FINGERPRINT_BYTES);
    }
}
