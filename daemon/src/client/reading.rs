//! How far the output of one connection to a terminal is: what its frames show, and what may come
//! next. Pure.

use super::viewer::Seen;
use bytes::Bytes;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::WatchId;
use hayward_shared::protocol::output::{Body, Frame, HEADER};

/// Bytes of output that may be under way.
pub(super) const WINDOW: u64 = 512 * 1024;

/// How far the output of one connection is.
pub(super) struct Reading {
    pub(super) watch: WatchId,
    /// None before the first screen.
    pub(super) offset: Option<u64>,
    /// Granted behind the first screen.
    pub(super) first: u64,
    granted: u64,
    /// Behind the last byte that was shown, by whomever.
    pub(super) shown: u64,
    /// A screen comes, and is not there in full.
    pub(super) is_painted: bool,
}

impl Reading {
    /// `first`: how much output is granted with the wish for the view.
    pub(super) fn new(first: u64) -> Self {
        let watch = WatchId::fresh();
        Self { watch, offset: None, first, granted: 0, shown: 0, is_painted: false }
    }

    /// What a frame shows; nothing where it belongs to another watch, or was shown before.
    ///
    /// # Errors
    /// It cannot be read, or output before it is missing.
    pub(super) fn take(&mut self, bytes: &Bytes) -> Result<Option<Seen>, Fault> {
        let frame =
            Frame::decode(bytes).map_err(|bad| Fault::new(Code::Incompatible, bad.to_string()))?;
        if frame.watch != self.watch {
            return Ok(None);
        }
        Ok(match frame.body {
            Body::Screen(shape) => {
                if self.offset.is_none() {
                    self.granted = frame.offset.saturating_add(self.first);
                }
                (self.offset, self.shown) = (Some(frame.offset), frame.offset);
                self.is_painted = true;
                Some(Seen::Screen(shape))
            }
            Body::Paint(_) => Some(Seen::Print(bytes.slice(HEADER..))),
            Body::Bytes(output) => {
                if self.offset != Some(frame.offset) {
                    return Err(Fault::new(Code::Unavailable, "output is missing"));
                }
                let end = frame.offset + output.len() as u64;
                self.offset = Some(end);
                // what the keeper has shown already is not shown again
                let known = self.shown.saturating_sub(frame.offset);
                let known = usize::try_from(known).unwrap_or(usize::MAX).min(output.len());
                (known < output.len()).then(|| Seen::Print(bytes.slice(HEADER + known..)))
            }
            Body::Resized(shape) => Some(Seen::Resized(shape)),
            // what it shows by then follows
            Body::Gap { .. } => None,
            Body::End => Some(Seen::End),
        })
    }

    /// The next grant, once half of the last one is used up.
    pub(super) fn grant(&mut self) -> Option<u64> {
        let offset = self.offset?;
        if self.granted.saturating_sub(offset) > WINDOW / 2 {
            return None;
        }
        self.granted = offset + WINDOW;
        Some(self.granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hayward_shared::protocol::output::Shape;

    fn take(reading: &mut Reading, offset: u64, body: Body<'_>) -> Result<Option<Seen>, Fault> {
        reading.take(&Frame { watch: reading.watch, offset, body }.encode().into())
    }

    #[test]
    fn f32_output_is_taken_in_order_after_a_screen_and_a_hole_is_no_output() {
        let mut reading = Reading::new(WINDOW);
        take(&mut reading, 0, Body::Bytes(b"x")).unwrap_err();
        let shape = Shape { rows: 24, cols: 80, owner: true };
        take(&mut reading, 100, Body::Screen(shape)).unwrap();
        take(&mut reading, 100, Body::Paint(b"drawn")).unwrap();
        assert!(reading.grant().is_none());
        let seen = take(&mut reading, 100, Body::Bytes(b"abc")).unwrap();
        assert!(matches!(seen, Some(Seen::Print(bytes)) if bytes == "abc"));
        take(&mut reading, 104, Body::Bytes(b"e")).unwrap_err();
        assert!(take(&mut reading, 103, Body::Gap { until: 900_000 }).unwrap().is_none());
        take(&mut reading, 900_000, Body::Screen(shape)).unwrap();
        assert_eq!(reading.grant(), Some(900_000 + WINDOW));
    }

    #[test]
    fn f32_what_the_keeper_has_shown_the_daemon_does_not_show_again() {
        let mut reading = Reading::new(0);
        let shape = Shape { rows: 24, cols: 80, owner: true };
        take(&mut reading, 100, Body::Screen(shape)).unwrap();
        assert_eq!((reading.shown, reading.is_painted), (100, true));
        reading.shown = 106;
        assert_eq!(reading.grant(), Some(100 + WINDOW));
        assert!(take(&mut reading, 100, Body::Bytes(b"abcd")).unwrap().is_none());
        let seen = take(&mut reading, 104, Body::Bytes(b"efgh")).unwrap();
        assert!(matches!(seen, Some(Seen::Print(bytes)) if bytes == "gh"));
        let seen = take(&mut reading, 108, Body::Bytes(b"ij")).unwrap();
        assert!(matches!(seen, Some(Seen::Print(bytes)) if bytes == "ij"));
    }
}
