//! Output that waits to be written to one link: bounded, and never in the way of who sends it.
//!
//! A frame counts from when it is added until the socket has taken it. What finds no room is refused,
//! and whoever sent it ends its watch.

use super::READ_AT_ONCE;
use super::pipe::{Ended, TOGETHER};
use bytes::{Bytes, BytesMut};
use hayward_shared::protocol::output::{HEADER, MAX_BODY};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Output that may wait, headers apart: two windows of a viewer of ours, who has at most one of
/// 1 MiB under way for each watch, and what is written together: it counts until all of it is sent,
/// and its reader may have let more come by then.
const BODIES: usize = 2 * 1024 * 1024 + TOGETHER + MAX_BODY;

/// Output frames that may wait: as much even where an agent prints 64 bytes at a time.
const FRAMES: usize = BODIES / 64;

/// Bytes that may wait: some 3 MiB. With the places of small frames in their queues, or the room
/// that larger ones keep beside themselves, a link holds 7 MiB at the most.
const BYTES: usize = BODIES + FRAMES * HEADER;

/// A frame that is smaller is copied: it would keep all that was read together with it.
const COPIED: usize = READ_AT_ONCE / 2;

/// Output that waits. It comes and goes by many frames at once.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: Mutex<Waiting>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Bytes>,
    /// These, and those that were taken and are not sent.
    held: Amount,
}

/// So much output, headers and all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Amount {
    frames: usize,
    bytes: usize,
}

impl Amount {
    /// This and one more frame.
    #[must_use]
    pub(super) fn and(self, frame: &Bytes) -> Self {
        Self { frames: self.frames + 1, bytes: self.bytes + frame.len() }
    }
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds frames as long as there is room; of those that find none, and of all behind, none.
    pub(super) fn add(&self, frames: impl Iterator<Item = Bytes>) -> Result<(), Ended> {
        let added = self.lock().add(frames);
        // also where some found no room: those before them wait to be written
        self.came.notify_one();
        added
    }

    /// Takes all that waits; it counts until [`Self::sent`].
    pub(super) fn take(&self) -> VecDeque<Bytes> {
        std::mem::take(&mut self.lock().frames)
    }

    /// Makes room for as much as the socket has taken.
    pub(super) fn sent(&self, amount: Amount) {
        let held = &mut self.lock().held;
        held.frames -= amount.frames;
        held.bytes -= amount.bytes;
    }

    /// Resolves once there may be frames to take.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }
}

impl Waiting {
    fn add(&mut self, mut frames: impl Iterator<Item = Bytes>) -> Result<(), Ended> {
        let before = self.frames.len();
        let added = frames.try_for_each(|frame| {
            let held = self.held.and(&frame);
            if held.frames > FRAMES || held.bytes > BYTES {
                return Err(Ended);
            }
            self.held = held;
            self.frames.push_back(frame);
            Ok(())
        });
        self.copy_small(before);
        added
    }

    /// Copies the small frames from the one at `first` on, all into one piece of memory.
    fn copy_small(&mut self, first: usize) {
        let is_small = |frame: &&mut Bytes| frame.len() < COPIED;
        let bytes = self.frames.range_mut(first..).filter(is_small).map(|frame| frame.len()).sum();
        let mut copies = BytesMut::with_capacity(bytes);
        for frame in self.frames.range_mut(first..).filter(is_small) {
            copies.extend_from_slice(frame);
            *frame = copies.split().freeze();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::iter::{once, repeat_n};

    #[test]
    fn what_went_in_before_a_refusal_is_told_of_and_makes_room_again() {
        let (backlog, frame) = (Backlog::default(), Bytes::from(vec![0; HEADER + 1]));
        assert!(backlog.add(repeat_n(frame.clone(), FRAMES + 1)).is_err());
        assert!(backlog.came().now_or_never().is_some(), "nobody would write");
        let taken = backlog.take();
        assert_eq!(taken.len(), FRAMES);
        assert!(backlog.add(once(frame.clone())).is_err(), "what is taken is not sent");
        backlog.sent(taken.iter().fold(Amount::default(), Amount::and));
        assert!(backlog.add(once(frame)).is_ok());
    }

    #[test]
    fn a_small_frame_lets_go_of_what_it_was_read_with() {
        let backlog = Backlog::default();
        let read = Bytes::from(vec![7; READ_AT_ONCE]);
        backlog.add([read.slice(..26), read.slice(26..COPIED)].into_iter()).unwrap();
        assert!(read.is_unique());
        assert_eq!(backlog.take(), [read.slice(..26), read.slice(26..COPIED)]);
    }
}
