//! Lanes: sixteen bytes looked at in one go. Holds nothing.
//!
//! The loops over sixteen bytes have no branch, so the compiler turns each into a few vector
//! instructions; on a processor without them they are still right.

const TOPS: u128 = 0x8080_8080_8080_8080_8080_8080_8080_8080;

/// Returns the sixteen bytes at `at`, if there are so many.
#[inline(always)]
pub(super) fn load(bytes: &[u8], at: usize) -> Option<&[u8; 16]> {
    bytes.get(at..)?.first_chunk::<16>()
}

/// Which of sixteen bytes are of a kind: the top bit of each byte says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lanes(u128);

impl Lanes {
    #[inline(always)]
    fn of(bytes: &[u8; 16], is: impl Fn(u8) -> bool) -> Self {
        let mut found = [0; 16];
        for (found, &byte) in found.iter_mut().zip(bytes) {
            *found = if is(byte) { 0x80 } else { 0 };
        }
        Self(u128::from_le_bytes(found))
    }

    /// Returns where the quotes, backslashes and control characters are.
    #[inline(always)]
    pub(super) fn string_stops(bytes: &[u8; 16]) -> Self {
        Self::of(bytes, |byte| (byte == b'"') | (byte == b'\\') | (byte < 0x20))
    }

    /// Returns where one of two bytes is.
    #[inline(always)]
    pub(super) fn either(bytes: &[u8; 16], one: u8, other: u8) -> Self {
        Self::of(bytes, |byte| (byte == one) | (byte == other))
    }

    /// Returns whether no byte is of the kind.
    #[inline(always)]
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the first position; 16 if there is none.
    #[inline(always)]
    pub(super) fn first(self) -> usize {
        let low = self.0 as u64;
        if low != 0 {
            (low.trailing_zeros() / 8) as usize
        } else {
            8 + (((self.0 >> 64) as u64).trailing_zeros() / 8) as usize
        }
    }

    /// Forgets the first position.
    #[inline(always)]
    pub(super) fn drop_first(&mut self) {
        self.0 &= self.0.wrapping_sub(1);
    }
}

/// Gathers whether a byte above 127 was seen: then there is UTF-8 to check.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct High(u128);

impl High {
    #[inline(always)]
    fn see(&mut self, bytes: &[u8; 16]) {
        self.0 |= u128::from_le_bytes(*bytes);
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
        let stops = Lanes::string_stops(chunk);
        if !stops.is_empty() {
            return at + stops.first();
        }
        at += 16;
    }
    while let Some(&byte) = bytes.get(at) {
        high.0 |= u128::from(byte);
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
                let mut bytes = [b'a'; 16];
                bytes[at] = byte;
                let is = |is: bool| if is { at } else { 16 };
                let stops = byte == b'"' || byte == b'\\' || byte < 0x20;
                assert_eq!(Lanes::string_stops(&bytes).first(), is(stops));
                let mut both = Lanes::either(&bytes, b',', b'\n');
                assert_eq!(both.first(), is(byte == b',' || byte == b'\n'));
                both.drop_first();
                assert!(both.is_empty());
                let mut high = High::default();
                high.see(&bytes);
                assert_eq!(high.is_seen(), byte >= 0x80);
            }
        }
    }
}
