//! How many columns text takes on a terminal.

use std::borrow::Cow;

/// Characters that take no column of their own: they join the one before.
const JOINING: [(u32, u32); 12] = [
    (0x0300, 0x036f),
    (0x0483, 0x0489),
    (0x0591, 0x05bd),
    (0x0610, 0x061a),
    (0x064b, 0x065f),
    (0x0900, 0x0902),
    (0x0e34, 0x0e3a),
    (0x1ab0, 0x1aff),
    (0x1dc0, 0x1dff),
    (0x200b, 0x200f),
    (0x20d0, 0x20ff),
    (0xfe00, 0xfe0f),
];

/// Characters that take two columns: East Asian wide ones and pictures.
const WIDE: [(u32, u32); 13] = [
    (0x1100, 0x115f),
    (0x231a, 0x231b),
    (0x23e9, 0x23ec),
    (0x2e80, 0x303e),
    (0x3041, 0x33ff),
    (0x3400, 0x4dbf),
    (0x4e00, 0xa4cf),
    (0xa960, 0xa97f),
    (0xac00, 0xd7a3),
    (0xf900, 0xfaff),
    (0xfe30, 0xfe6f),
    (0xff00, 0xff60),
    (0x1f300, 0x1faff),
];

/// Columns of one character.
fn columns(c: char) -> usize {
    let point = c as u32;
    let within = |ranges: &[(u32, u32)]| {
        ranges.iter().any(|(first, last)| (*first..=*last).contains(&point))
    };
    match point {
        0x20..0x7f => 1,
        _ if c.is_control() || within(&JOINING) => 0,
        0x20000..0x3fffe => 2,
        _ if within(&WIDE) => 2,
        _ => 1,
    }
}

/// Columns of a text without control characters.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// The text, cut to at most `most` columns; what was cut off is marked by `…`.
pub(crate) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if width(text) <= most {
        return Cow::Borrowed(text);
    }
    let room = most.saturating_sub(1);
    let mut used = 0;
    let kept = text.chars().take_while(|c| {
        used += columns(*c);
        used <= room
    });
    let mut short: String = kept.collect();
    if most > 0 {
        short.push('…');
    }
    Cow::Owned(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wide_and_joining_characters_are_counted() {
        assert_eq!(width("naïve"), 5);
        assert_eq!(width("nai\u{308}ve"), 5);
        assert_eq!(width("日本"), 4);
        assert_eq!(width("🦀"), 2);
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(cut("abcd", 0), "");
    }

    proptest! {
        #[test]
        fn a_cut_text_fits(text in "\\PC*", most in 0usize..40) {
            prop_assert!(width(&cut(&text, most)) <= most);
        }
    }
}
