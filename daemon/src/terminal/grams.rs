//! Which three bytes stand next to each other in a text, as a set of bits: a text in which not all of
//! a word's three bytes do cannot hold that word. Pure.
//!
//! Large letters count as small ones, so that both are looked for at once. Two different three bytes
//! may share a bit: a set says what may be there, and is sure only of what is not.

/// How many bits a set has: 4 KiB of what agents print set two fifths of them.
const BITS: usize = 1 << WIDTH;
const WIDTH: u32 = 11;

/// The bytes that a set takes where it is written down.
pub(super) const SET: usize = BITS / 8;

/// Spreads three bytes over the bits; what stands in the fourth byte of a word is shifted out.
const SPREAD: u32 = 0x9e_3779 << 8;

/// The bit in which small and large letters differ, for each byte of a word. Of what else it makes
/// equal, little is looked for.
const CASE: u64 = 0x2020_2020_2020_2020;

/// Three bytes, by their bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gram(u16);

impl Gram {
    /// All that stand in `string`.
    pub(super) fn all(string: &[u8]) -> impl Iterator<Item = Self> + '_ {
        string.windows(3).filter_map(|three| {
            let word = three.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
            u16::try_from(place(word | CASE as u32)).ok().map(Self)
        })
    }

    /// Whether it may be in a set that was written down.
    pub(super) fn is_in(self, set: &[u8]) -> bool {
        set.get(usize::from(self.0 / 8)).is_none_or(|bits| bits >> (self.0 % 8) & 1 != 0)
    }
}

/// The bit of the three low bytes of a word whose letters are all alike.
fn place(word: u32) -> usize {
    (word.wrapping_mul(SPREAD) >> (u32::BITS - WIDTH)) as usize
}

/// A set that grows with a text. A byte stands for each bit: storing one waits for nothing.
#[derive(Debug)]
pub(super) struct Grams {
    seen: Box<[u8; BITS]>,
    /// The last two bytes of the text.
    before: [u8; 2],
}

impl Grams {
    /// A set of all that there may be.
    pub(super) fn full() -> Self {
        Self { seen: Box::new([1; BITS]), before: [0; 2] }
    }

    /// Empties it; no text came before the next.
    pub(super) fn clear(&mut self) {
        self.seen.fill(0);
        self.before = [0; 2];
    }

    /// Adds what stands in the text that goes on with `text`.
    pub(super) fn add(&mut self, text: &[u8]) {
        let [a, b] = self.before;
        match *text {
            [] => return,
            [c] => self.add_few(&[a, b, c]),
            [c, d, ..] => self.add_few(&[a, b, c, d]),
        }
        let mut rest = text;
        while let Some(word) = rest.first_chunk::<8>() {
            let word = u64::from_le_bytes(*word) | CASE;
            for at in 0..6 {
                self.seen[place((word >> (8 * at)) as u32)] = 1;
            }
            rest = &rest[6..];
        }
        self.add_few(rest);
        self.before = match *text {
            [.., c, d] => [c, d],
            [c] => [b, c],
            [] => [a, b],
        };
    }

    fn add_few(&mut self, text: &[u8]) {
        Gram::all(text).for_each(|Gram(at)| self.seen[usize::from(at)] = 1);
    }

    /// Writes it down behind `bytes`.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        /// Brings the lowest bit of each byte of a word together in its highest byte.
        const GATHER: u64 = 0x0102_0408_1020_4080;
        bytes.extend(self.seen.as_chunks::<8>().0.iter().map(|eight| {
            let gathered = u64::from_le_bytes(*eight).wrapping_mul(GATHER) >> 56;
            gathered as u8
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(grams: &Grams) -> Vec<u8> {
        let mut bytes = Vec::new();
        grams.write(&mut bytes);
        assert_eq!(bytes.len(), SET);
        bytes
    }

    #[test]
    fn f08_bits_that_are_on_disks_stay_what_they_are() {
        let all: Vec<u16> = Gram::all(b"Needle 7\xc3").map(|Gram(at)| at).collect();
        assert_eq!(all, [1244, 1172, 281, 1933, 1553, 720, 2023]);
    }

    #[test]
    fn a_set_is_sure_of_what_is_not_there() {
        let mut grams = Grams::full();
        assert!(written(&grams).iter().all(|bits| *bits == 0xff));
        grams.clear();
        assert!(written(&grams).iter().all(|bits| *bits == 0));
        grams.add(b"The Needle in the output");
        let set = written(&grams);
        let holds = |word: &[u8]| Gram::all(word).all(|gram| gram.is_in(&set));
        assert!(holds(b"needle") && holds(b"NEEDLE") && holds(b"e o") && holds(b"ab"));
        assert!(!holds(b"needles") && !holds(b"thread") && !holds(b"noodle"));
    }

    proptest! {
        #[test]
        fn f08_any_chunking_gives_the_same_set(
            text in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut grams = Grams::full();
            grams.clear();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            cuts.windows(2).for_each(|pair| grams.add(&text[pair[0]..pair[1]]));
            let set = written(&grams);
            prop_assert!(Gram::all(&text).all(|gram| gram.is_in(&set)));
            let ahead = [&[0, 0], &text[..]].concat();
            let mut wanted: Vec<Gram> = Gram::all(&ahead).collect();
            wanted.sort_unstable();
            wanted.dedup();
            let told: u32 = set.iter().map(|bits| bits.count_ones()).sum();
            prop_assert_eq!(told as usize, if text.is_empty() { 0 } else { wanted.len() });
        }
    }
}
