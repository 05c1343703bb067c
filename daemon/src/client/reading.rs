//! How far the output of one connection to a terminal is: what its frames show, and what may come
//! next. Pure.

use super::view::Seen;
use bytes::Bytes;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::WatchId;
use hayward_shared::protocol::output::{Body, Frame, HEADER, Shape};

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
    /// Whoever sends a screen says where it ends: it is shown once it is there in full.
    pub(super) marks_ends: bool,
    /// A screen that is not there in full; as much as one terminal holds.
    painted: Option<Vec<Seen>>,
}

/// What a frame brings to be shown.
#[derive(Debug)]
pub(super) enum Taken {
    /// Nothing yet, or nothing new.
    Nothing,
    /// This.
    Next(Seen),
    /// A screen, in full and in this order, of a terminal of this size.
    Whole(Shape, Vec<Seen>),
}

impl Reading {
    /// `first`: how much output is granted with the wish for the view.
    pub(super) fn new(first: u64) -> Self {
        let watch = WatchId::fresh();
        let (marks_ends, painted) = (false, None);
        Self { watch, offset: None, first, granted: 0, shown: 0, marks_ends, painted }
    }

    /// Whether a screen comes that is not there in full.
    pub(super) fn is_painted(&self) -> bool {
        self.painted.is_some()
    }

    /// Whether output came that nobody has shown.
    pub(super) fn lacks(&self) -> bool {
        !self.is_painted() && self.offset.is_some_and(|offset| offset > self.shown)
    }

    /// What a frame shows; nothing where it belongs to another watch, or was shown before.
    ///
    /// # Errors
    /// It cannot be read, or output before it is missing.
    pub(super) fn take(&mut self, bytes: &Bytes) -> Result<Taken, Fault> {
        let frame =
            Frame::decode(bytes).map_err(|bad| Fault::new(Code::Incompatible, bad.to_string()))?;
        if frame.watch != self.watch {
            return Ok(Taken::Nothing);
        }
        Ok(match frame.body {
            Body::Screen(shape) => {
                if self.offset.is_none() {
                    self.granted = frame.offset.saturating_add(self.first);
                }
                (self.offset, self.shown) = (Some(frame.offset), frame.offset);
                if self.marks_ends {
                    self.painted = Some(vec![Seen::Screen(shape)]);
                    return Ok(Taken::Nothing);
                }
                Taken::Next(Seen::Screen(shape))
            }
            Body::Paint(_) => {
                let seen = Seen::Print(bytes.slice(HEADER..));
                match &mut self.painted {
                    Some(painted) => {
                        painted.push(seen);
                        Taken::Nothing
                    }
                    None => Taken::Next(seen),
                }
            }
            Body::Bytes(output) => {
                if self.offset != Some(frame.offset) {
                    return Err(Fault::new(Code::Unavailable, "output is missing"));
                }
                let end = frame.offset + output.len() as u64;
                self.offset = Some(end);
                // what the keeper has shown already is not shown again
                let known = self.shown.saturating_sub(frame.offset);
                let known = usize::try_from(known).unwrap_or(usize::MAX).min(output.len());
                if known == output.len() {
                    return Ok(Taken::Nothing);
                }
                Taken::Next(Seen::Print(bytes.slice(HEADER + known..)))
            }
            Body::Resized(shape) => match self.painted.take() {
                Some(screen) => {
                    // whatever was shown beside it meanwhile, from there on it goes on
                    self.shown = frame.offset;
                    Taken::Whole(shape, screen)
                }
                None => Taken::Next(Seen::Resized(shape)),
            },
            // what it shows by then follows
            Body::Gap { .. } => Taken::Nothing,
            Body::End => Taken::Next(Seen::End),
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

    const SHAPE: Shape = Shape { rows: 24, cols: 80, owner: true };

    fn take(reading: &mut Reading, offset: u64, body: Body<'_>) -> Result<Taken, Fault> {
        reading.take(&Frame { watch: reading.watch, offset, body }.encode().into())
    }

    fn prints(taken: &Taken, wanted: &str) -> bool {
        matches!(taken, Taken::Next(Seen::Print(bytes)) if bytes == wanted)
    }

    #[test]
    fn f32_output_is_taken_in_order_after_a_screen_and_a_hole_is_no_output() {
        let mut reading = Reading::new(WINDOW);
        take(&mut reading, 0, Body::Bytes(b"x")).unwrap_err();
        let seen = take(&mut reading, 100, Body::Screen(SHAPE)).unwrap();
        assert!(matches!(seen, Taken::Next(Seen::Screen(SHAPE))));
        assert!(prints(&take(&mut reading, 100, Body::Paint(b"drawn")).unwrap(), "drawn"));
        assert!(reading.grant().is_none());
        assert!(prints(&take(&mut reading, 100, Body::Bytes(b"abc")).unwrap(), "abc"));
        take(&mut reading, 104, Body::Bytes(b"e")).unwrap_err();
        let gap = take(&mut reading, 103, Body::Gap { until: 900_000 }).unwrap();
        assert!(matches!(gap, Taken::Nothing));
        take(&mut reading, 900_000, Body::Screen(SHAPE)).unwrap();
        assert_eq!(reading.grant(), Some(900_000 + WINDOW));
    }

    #[test]
    fn f32_what_the_keeper_has_shown_the_daemon_does_not_show_again() {
        let mut reading = Reading::new(0);
        take(&mut reading, 100, Body::Screen(SHAPE)).unwrap();
        reading.shown = 106;
        assert_eq!(reading.grant(), Some(100 + WINDOW));
        let known = take(&mut reading, 100, Body::Bytes(b"abcd")).unwrap();
        assert!(matches!(known, Taken::Nothing) && !reading.lacks());
        assert!(prints(&take(&mut reading, 104, Body::Bytes(b"efgh")).unwrap(), "gh"));
        assert!(reading.lacks());
        reading.shown = 108;
        assert!(!reading.lacks());
        assert!(prints(&take(&mut reading, 108, Body::Bytes(b"ij")).unwrap(), "ij"));
    }

    #[test]
    fn f32_a_screen_whose_end_is_marked_is_shown_whole_or_not_at_all() {
        let mut reading = Reading::new(0);
        reading.marks_ends = true;
        for body in [Body::Screen(SHAPE), Body::Paint(b"one"), Body::Paint(b"two")] {
            assert!(matches!(take(&mut reading, 100, body).unwrap(), Taken::Nothing));
            assert!(reading.is_painted());
        }
        // the keeper went on beside it
        reading.shown = 90;
        assert!(!reading.lacks());
        let whole = take(&mut reading, 100, Body::Resized(SHAPE)).unwrap();
        let Taken::Whole(SHAPE, screen) = whole else { panic!("{whole:?}") };
        let [Seen::Screen(_), Seen::Print(one), Seen::Print(two)] = &screen[..] else {
            panic!("{screen:?}")
        };
        assert_eq!((&one[..], &two[..]), (&b"one"[..], &b"two"[..]));
        assert_eq!((reading.shown, reading.is_painted()), (100, false));
        let owner = take(&mut reading, 100, Body::Resized(SHAPE)).unwrap();
        assert!(matches!(owner, Taken::Next(Seen::Resized(_))));
    }
}
