//! The output lane: binary frames with an agent's bytes, for one viewer each.
//!
//! `kind u8 · watch id 16 B · offset u64 big-endian · body`. Frames of a watch come in the order
//! of their offsets; each begins where the one before ended.

use crate::id::WatchId;
use uuid::Uuid;

/// Bytes before the body.
pub const HEADER: usize = 1 + 16 + 8;

/// The most bytes of a body: small enough that a state message never waits long behind one.
pub const MAX_BODY: usize = 64 * 1024;

/// One frame of the output lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Whose it is.
    pub watch: WatchId,
    /// The absolute offset at which it begins.
    pub offset: u64,
    /// What it says.
    pub body: Body<'a>,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// The agent's bytes, at most [`MAX_BODY`].
    Bytes(&'a [u8]),
    /// The bytes from the frame's offset up to this one are no longer held.
    Gap {
        /// Where what is held begins.
        until: u64,
    },
    /// Nothing follows: the session ended, or a viewer that does not follow has seen all.
    End,
    /// The terminal is this large, and empty: what was shown of it before counts no more. Frames
    /// that draw it follow; then the output goes on at this frame's offset.
    Screen(Shape),
    /// Bytes that draw the terminal and are no output: the offset stays. At most [`MAX_BODY`].
    Paint(&'a [u8]),
    /// From this offset on the terminal is this large.
    Resized(Shape),
}

/// How large a terminal is, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its height in characters.
    pub rows: u16,
    /// Its width in characters.
    pub cols: u16,
    /// Whether the viewer that is told so decides it.
    pub owner: bool,
}

impl Shape {
    fn encode(self) -> [u8; 5] {
        let ([r0, r1], [c0, c1]) = (self.rows.to_be_bytes(), self.cols.to_be_bytes());
        [r0, r1, c0, c1, u8::from(self.owner)]
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let [r0, r1, c0, c1, owner @ 0..=1] = *body else { return None };
        let (rows, cols) = (u16::from_be_bytes([r0, r1]), u16::from_be_bytes([c0, c1]));
        Some(Self { rows, cols, owner: owner == 1 })
    }
}

const BYTES: u8 = 1;
const GAP: u8 = 2;
const END: u8 = 3;
const SCREEN: u8 = 4;
const PAINT: u8 = 5;
const RESIZED: u8 = 6;

/// A binary message that is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadFrame {
    /// Shorter than its header, or a body of the wrong size.
    #[error("an output frame of {0} bytes does not have the size of its kind")]
    Size(usize),
    /// A kind that this version does not know.
    #[error("an output frame of unknown kind {0}")]
    Kind(u8),
}

impl<'a> Frame<'a> {
    /// The bytes of this frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body): (u8, &[u8]) = match &self.body {
            Body::Bytes(bytes) => (BYTES, bytes),
            Body::Gap { until } => (GAP, &until.to_be_bytes()),
            Body::End => (END, &[]),
            Body::Screen(shape) => (SCREEN, &shape.encode()),
            Body::Paint(bytes) => (PAINT, bytes),
            Body::Resized(shape) => (RESIZED, &shape.encode()),
        };
        let mut out = Vec::with_capacity(HEADER + body.len());
        out.push(kind);
        out.extend_from_slice(self.watch.0.as_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`BadFrame`] when it is none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BadFrame> {
        let size = BadFrame::Size(bytes.len());
        let (kind, rest) = bytes.split_first().ok_or(size)?;
        let (watch, rest) = rest.split_first_chunk::<16>().ok_or(size)?;
        let (offset, body) = rest.split_first_chunk::<8>().ok_or(size)?;
        let body = match *kind {
            BYTES if body.len() <= MAX_BODY && !body.is_empty() => Body::Bytes(body),
            GAP => Body::Gap { until: u64::from_be_bytes(body.try_into().map_err(|_| size)?) },
            END if body.is_empty() => Body::End,
            SCREEN => Body::Screen(Shape::decode(body).ok_or(size)?),
            PAINT if body.len() <= MAX_BODY && !body.is_empty() => Body::Paint(body),
            RESIZED => Body::Resized(Shape::decode(body).ok_or(size)?),
            BYTES | END | PAINT => return Err(size),
            other => return Err(BadFrame::Kind(other)),
        };
        Ok(Self {
            watch: WatchId(Uuid::from_bytes(*watch)),
            offset: u64::from_be_bytes(*offset),
            body,
        })
    }
}

/// Whose frame it is, without reading the rest: how the relay routes.
#[must_use]
pub fn watch_of(bytes: &[u8]) -> Option<WatchId> {
    let id = bytes.get(1..17)?;
    Uuid::from_slice(id).ok().map(WatchId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn watch() -> WatchId {
        "01939d3a-7c00-7000-8000-0000deadbeef".parse().unwrap()
    }

    #[test]
    fn the_bytes_of_each_kind_are_fixed() {
        let hex = |body| {
            let bytes = Frame { watch: watch(), offset: 258, body }.encode();
            bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        let head = "01939d3a7c00700080000000deadbeef0000000000000102";
        assert_eq!(hex(Body::Bytes(b"hi")), format!("01{head}6869"));
        assert_eq!(hex(Body::Gap { until: 512 }), format!("02{head}0000000000000200"));
        assert_eq!(hex(Body::End), format!("03{head}"));
        let shape = Shape { rows: 24, cols: 258, owner: true };
        assert_eq!(hex(Body::Screen(shape)), format!("04{head}0018010201"));
        assert_eq!(hex(Body::Paint(b"hi")), format!("05{head}6869"));
        let shape = Shape { owner: false, ..shape };
        assert_eq!(hex(Body::Resized(shape)), format!("06{head}0018010200"));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let good = Frame { watch: watch(), offset: 0, body: Body::Bytes(b"x") }.encode();
        for cut in 0..good.len() {
            assert!(Frame::decode(&good[..cut]).is_err(), "{cut}");
        }
        let mut other = good.clone();
        other[0] = 9;
        assert_eq!(Frame::decode(&other), Err(BadFrame::Kind(9)));
        let long = Frame { watch: watch(), offset: 0, body: Body::Bytes(&[0; MAX_BODY + 1]) };
        assert!(Frame::decode(&long.encode()).is_err());
        let shape = Shape { rows: 1, cols: 1, owner: false };
        for body in [Body::Screen(shape), Body::Resized(shape), Body::Paint(b"x")] {
            let good = Frame { watch: watch(), offset: 9, body }.encode();
            assert_eq!(Frame::decode(&good).map(|frame| frame.body), Ok(body));
            for cut in 0..good.len() {
                assert!(Frame::decode(&good[..cut]).is_err(), "{cut} of {body:?}");
            }
            let odd = [&good[..HEADER], &[0, 1, 0, 1, 2]].concat();
            assert!(body == Body::Paint(b"x") || Frame::decode(&odd).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive(offset: u64, bytes in proptest::collection::vec(any::<u8>(), 1..400)) {
            let frame = Frame { watch: watch(), offset, body: Body::Bytes(&bytes) };
            let wire = frame.encode();
            prop_assert_eq!(Frame::decode(&wire).unwrap(), frame);
            prop_assert_eq!(watch_of(&wire), Some(watch()));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            drop(Frame::decode(&bytes));
        }
    }
}
