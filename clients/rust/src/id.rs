//! Id: the client's own name for one submission, made once and sent with each attempt.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// The id of a submission that its client made: a UUID of version 7.
///
/// However often an upload is sent under one id, its file is taken once. A program that must survive
/// its own crash keeps the id beside the file until it has the answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubmissionId([u8; 16]);

/// A text is not the id of a submission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a UUID of version 7, as in 01936c5e-8a52-7cc3-98c4-dc0c0c07398f")]
pub struct NotAnId {
    /// The text.
    pub text: String,
}

impl SubmissionId {
    /// Makes an id that nobody has: from the clock, and from the randomness that the system gives to
    /// hash maps.
    pub fn make() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(since.as_millis()).unwrap_or_default();
        let chance = RandomState::new();
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        bytes[6..8].copy_from_slice(&chance.hash_one(0_u8).to_be_bytes()[..2]);
        bytes[8..].copy_from_slice(&chance.hash_one(1_u8).to_be_bytes());
        bytes[6] = 0x70 | bytes[6] & 0x0f;
        bytes[8] = 0x80 | bytes[8] & 0x3f;
        Self(bytes)
    }
}

impl FromStr for SubmissionId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let wrong = || NotAnId { text: text.chars().take(100).collect() };
        let hex: String = text.chars().filter(|letter| *letter != '-').collect();
        // A sign would be read as well.
        if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let number = u128::from_str_radix(&hex, 16).map_err(|_| wrong())?;
        let id = Self(number.to_be_bytes());
        // Written as it was read, so that hyphens stand where they belong.
        let same = text.eq_ignore_ascii_case(&id.to_string()) || text.eq_ignore_ascii_case(&hex);
        let is_version_7 = id.0[6] >> 4 == 7 && id.0[8] >> 6 == 0b10;
        if hex.len() == 32 && same && is_version_7 { Ok(id) } else { Err(wrong()) }
    }
}

impl fmt::Display for SubmissionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let hyphen = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(out, "{hyphen}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for SubmissionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let shown = text.parse::<SubmissionId>().ok().map(|id| id.to_string());
        assert_eq!(shown.as_deref(), expected, "{text:?}");
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = "01936c5e-8a52-7cc3-98c4-dc0c0c07398f";
        check(id, Some(id));
        check(&id.to_uppercase(), Some(id));
        check(&id.replace('-', ""), Some(id));
        check("", None);
        check("+1936c5e8a527cc398c4dc0c0c07398f", None);
        check("0193-6c5e8a52-7cc3-98c4-dc0c0c07398f", None);
        check("f47ac10b-58cc-4372-a567-0e02b2c3d479", None);
        check(&"0".repeat(33), None);
    }

    #[test]
    fn no_two_ids_are_the_same_and_their_order_is_that_of_time() {
        let made: Vec<SubmissionId> = (0..10_000).map(|_| SubmissionId::make()).collect();
        assert_eq!(made.iter().collect::<BTreeSet<_>>().len(), made.len());
        assert!(made.windows(2).all(|pair| pair[0].0[..6] <= pair[1].0[..6]));
        for id in made {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
