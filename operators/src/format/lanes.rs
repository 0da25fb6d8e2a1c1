//! Lanes: sixteen bytes looked at in one go, without a branch. Holds nothing.

use wide::u8x16;

/// Returns the sixteen bytes at `at`, if there are so many.
#[inline(always)]
pub(super) fn load(bytes: &[u8], at: usize) -> Option<&[u8; 16]> {
    bytes.get(at..)?.first_chunk::<16>()
}

/// Returns a bit for each quote, backslash and control character.
#[inline(always)]
fn stops(bytes: u8x16) -> u32 {
    let is_control = bytes.min(u8x16::splat(0x1f)).simd_eq(bytes);
    (equals(bytes, b'"') | equals(bytes, b'\\') | is_control).to_bitmask()
}

#[inline(always)]
fn equals(bytes: u8x16, wanted: u8) -> u8x16 {
    bytes.simd_eq(u8x16::splat(wanted))
}

/// Which of sixteen bytes are one of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lanes(u32);

impl Lanes {
    /// Returns where the two bytes are.
    #[inline(always)]
    pub(super) fn either(bytes: &[u8; 16], one: u8, other: u8) -> Self {
        let bytes = u8x16::new(*bytes);
        Self((equals(bytes, one) | equals(bytes, other)).to_bitmask())
    }

    /// Returns whether there is none.
    #[inline(always)]
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the first position; 32 if there is none.
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
pub(super) struct High(u32);

impl High {
    #[inline(always)]
    fn see(&mut self, bytes: u8x16) {
        // The mask is made of the top bits.
        self.0 |= bytes.to_bitmask();
    }

    /// Says that there is something to check without having looked.
    pub(super) fn suspect(&mut self) {
        self.0 = 1;
    }

    /// Returns whether there was such a byte, or maybe was.
    #[inline(always)]
    pub(super) fn is_seen(self) -> bool {
        self.0 != 0
    }
}

/// Returns where the next quote, backslash or control character stands, or the end of the bytes.
#[inline(always)]
pub(super) fn string_stop(bytes: &[u8], mut at: usize, high: &mut High) -> usize {
    while let Some(chunk) = load(bytes, at) {
        let chunk = u8x16::new(*chunk);
        high.see(chunk);
        let stops = stops(chunk);
        if stops != 0 {
            return at + stops.trailing_zeros() as usize;
        }
        at += 16;
    }
    while let Some(&byte) = bytes.get(at) {
        high.0 |= u32::from(byte >> 7);
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
