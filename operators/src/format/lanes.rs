//! Lanes: sixteen bytes looked at in one go, as two words of eight. Holds nothing.
//!
//! Arithmetic on whole words, as in "Hacker's Delight" (H. Warren, section 6-1): safe, the same on
//! every processor, and without a branch.

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// Returns the sixteen bytes at `at`, if there are so many.
#[inline(always)]
pub(super) fn load(bytes: &[u8], at: usize) -> Option<&[u8; 16]> {
    bytes.get(at..)?.first_chunk::<16>()
}

#[inline(always)]
fn words(bytes: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*bytes);
    (both as u64, (both >> 64) as u64)
}

/// Returns the top bit of the first quote, backslash or control character; bits above it mean
/// nothing.
#[inline(always)]
fn first_stop(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let is_quote = quote.wrapping_sub(ONES) & !quote;
    let is_backslash = backslash.wrapping_sub(ONES) & !backslash;
    let is_control = word.wrapping_sub(ONES * 0x20) & !word;
    (is_quote | is_backslash | is_control) & TOPS
}

/// Returns the top bit of each byte that is `wanted`, and no other bit.
#[inline(always)]
fn equals(word: u64, wanted: u8) -> u64 {
    let other = word ^ (ONES * wanted as u64);
    !(((other & !TOPS) + !TOPS) | other) & TOPS
}

/// Returns a bit for each byte whose top bit is set: the product brings them into one byte.
#[inline(always)]
fn gathered(tops: u64) -> u64 {
    (tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Which of sixteen bytes are one of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lanes(u64);

impl Lanes {
    /// Returns where the two bytes are.
    #[inline(always)]
    pub(super) fn either(bytes: &[u8; 16], one: u8, other: u8) -> Self {
        let (low, high) = words(bytes);
        let low = equals(low, one) | equals(low, other);
        let high = equals(high, one) | equals(high, other);
        Self(gathered(low) | (gathered(high) << 8))
    }

    /// Returns whether there is none.
    #[inline(always)]
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the first position; 64 if there is none.
    #[inline(always)]
    pub(super) fn first(self) -> usize {
        self.0.trailing_zeros() as usize
    }

    /// Forgets the first position.
    #[inline(always)]
    pub(super) fn drop_first(&mut self) {
        self.0 &= self.0.wrapping_sub(1);
    }
}

/// Gathers whether a byte above 127 was seen: then there is UTF-8 to check.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct High(u64);

impl High {
    #[inline(always)]
    fn see(&mut self, bytes: &[u8; 16]) {
        let (low, high) = words(bytes);
        self.0 |= low | high;
    }

    /// Says that there is something to check without having looked.
    pub(super) fn suspect(&mut self) {
        self.0 |= TOPS;
    }

    /// Returns whether there was such a byte, or maybe was.
    #[inline(always)]
    pub(super) fn is_seen(self) -> bool {
        self.0 & TOPS != 0
    }
}

/// Returns where the next quote, backslash or control character stands, or the end of the bytes.
#[inline(always)]
pub(super) fn string_stop(bytes: &[u8], mut at: usize, high: &mut High) -> usize {
    while let Some(chunk) = load(bytes, at) {
        high.see(chunk);
        let (low, rest) = words(chunk);
        let (low, rest) = (first_stop(low), first_stop(rest));
        if low | rest != 0 {
            // Gathered, because a branch on the half would be a coin toss.
            return at + (gathered(low) | (gathered(rest) << 8)).trailing_zeros() as usize;
        }
        at += 16;
    }
    while let Some(&byte) = bytes.get(at) {
        high.0 |= u64::from(byte);
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_see_what_a_loop_sees() {
        for byte in 0..=255u8 {
            for at in 0..16 {
                let mut bytes = [b'a'; 20];
                bytes[at] = byte;
                let mut high = High::default();
                let stops = byte == b'"' || byte == b'\\' || byte < 0x20;
                let stop = string_stop(&bytes, 0, &mut high);
                assert_eq!(stop, if stops { at } else { bytes.len() });
                assert_eq!(high.is_seen(), byte >= 0x80);
                let mut other = [byte; 16];
                other[at] = b',';
                let mut both = Lanes::either(&other, b',', b'\n');
                for (at, byte) in other.iter().enumerate() {
                    if *byte == b',' || *byte == b'\n' {
                        assert_eq!(both.first(), at);
                        both.drop_first();
                    }
                }
                assert!(both.is_empty());
            }
        }
    }
}
