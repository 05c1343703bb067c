//! What is typed: where it asks to leave, and what waits to be sent. Pure.

/// Twice: leave. Once, then another key: both are typed.
const LEAVE: u8 = 0x1c;

/// How much is sent at once; the next part waits for the answer to this one.
const PART: usize = 32 * 1024;

/// How much may wait to be sent before the user's terminal has to wait.
const MOST_WAITING: usize = 1 << 20;

/// Keys on their way.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// The first half of what asks to leave came.
    half: bool,
    waiting: Vec<u8>,
    /// What is under way, and how much that is.
    sent: Option<(u64, usize)>,
    last: u64,
}

impl Keys {
    /// Takes what came from the keyboard; true when it asks to leave.
    pub(super) fn press(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            match (std::mem::take(&mut self.half), *byte) {
                (true, LEAVE) => return true,
                (false, LEAVE) => self.half = true,
                (half, byte) => {
                    self.waiting.extend(half.then_some(LEAVE));
                    self.waiting.push(byte);
                }
            }
        }
        false
    }

    /// Whether more may come from the keyboard.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MOST_WAITING
    }

    /// What to send now, and its number; the answer is told by [`Keys::arrived`] or
    /// [`Keys::failed`].
    pub(super) fn next(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.sent.is_some() || self.waiting.is_empty() {
            return None;
        }
        let part: Vec<u8> = self.waiting.drain(..self.waiting.len().min(PART)).collect();
        self.last += 1;
        self.sent = Some((self.last, part.len()));
        Some((self.last, part))
    }

    /// What has this number arrived.
    pub(super) fn arrived(&mut self, seq: u64) {
        if self.sent.is_some_and(|(sent, _)| sent == seq) {
            self.sent = None;
        }
    }

    /// What has this number did not arrive whole. What was typed behind it makes no sense by
    /// itself and is dropped too: how many bytes that is together; none where it is not known.
    pub(super) fn failed(&mut self, seq: u64) -> Option<usize> {
        let (_, len) = self.sent.take_if(|(sent, _)| *sent == seq)?;
        Some(len + std::mem::take(&mut self.waiting).len())
    }

    /// Forgets what was typed; for who only looks.
    pub(super) fn drop_all(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_leaves_and_once_is_typed_with_the_next_key() {
        let mut keys = Keys::default();
        assert!(!keys.press(b"a\x1c"));
        assert_eq!(keys.next(), Some((1, b"a".to_vec())));
        assert!(!keys.press(b"b"));
        keys.arrived(1);
        assert_eq!(keys.next(), Some((2, b"\x1cb".to_vec())));
        assert!(!keys.press(b"\x1c"));
        assert!(keys.press(b"\x1c"));
    }

    #[test]
    fn f07_a_large_paste_goes_in_parts_one_after_the_other_and_whole() {
        let mut keys = Keys::default();
        let paste: Vec<u8> = (0..100 * 1024u32).map(|n| (n % 251) as u8).collect();
        let paste: Vec<u8> = paste.into_iter().filter(|byte| *byte != LEAVE).collect();
        for part in paste.chunks(7000) {
            assert!(!keys.press(part));
        }
        let mut sent = Vec::new();
        while let Some((seq, part)) = keys.next() {
            assert!(part.len() <= PART && keys.next().is_none());
            sent.extend(part);
            keys.arrived(seq);
        }
        assert_eq!(sent, paste);
    }

    #[test]
    fn f07_what_failed_takes_along_what_was_typed_behind_it_and_says_how_much() {
        let mut keys = Keys::default();
        keys.press(b"one");
        keys.next().unwrap();
        keys.press(b"two!");
        assert_eq!(keys.failed(9), None);
        assert_eq!(keys.failed(1), Some(7));
        assert_eq!(keys.next(), None);
        keys.press(b"three");
        assert_eq!(keys.next(), Some((2, b"three".to_vec())));
        keys.press(&vec![b'x'; MOST_WAITING]);
        assert!(!keys.has_room());
    }
}
