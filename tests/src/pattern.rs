//! Bytes that anyone who knows the seed can say beforehand.

/// `count` bytes of printable text in lines of 64, the same for the same seed.
#[must_use]
pub fn lines(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |place: usize| {
        if place % 64 == 63 {
            return b'\n';
        }
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // 94 printable characters from '!'
        b'!' + u8::try_from(state % 94).unwrap_or_default()
    };
    (0..count).map(&mut next).collect()
}

/// What breaks naive readers: CJK, joined emoji, colours, titles, a cut sequence, bytes that are
/// no UTF-8, NUL.
pub const ODD: &[u8] = b"\xe6\xbc\xa2\xe5\xad\x97 \xed\x95\x9c\xea\xb8\x80 \
\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7 e\xcc\x81\n\
\x1b[1;31mred\x1b[0m \x1b]0;a title\x07 \x1b[38;2;1;2;3mdeep\x1b[m\n\
\xff\xfe\xc3( \x00 \xe6\xbc\n\x1b[2K\rback\x08\x08 \x1b(B\x1b[?25l\x1b[?25h\n";
