//! How messages are put into what the bus carries, and taken out again. Pure.
//!
//! What one relay says under one subject is numbered without holes, so that whoever hears it knows
//! what was lost and what came twice. A message that is larger than the bus takes goes in several
//! parcels, one behind the other.
//!
//! A parcel: version (1 byte), sender (16), number (8, big endian), flags (1), then its bytes.

use bytes::Bytes;
use hayward_shared::id::RelayId;
use uuid::Uuid;

/// The layout of parcels; others are passed over.
const VERSION: u8 = 1;

/// Bytes before the message's own.
pub(super) const HEADER: usize = 1 + 16 + 8 + 1;

/// The parcel begins a message.
const BEGINS: u8 = 1;

/// The parcel ends it.
const ENDS: u8 = 2;

/// The most bytes of a message: a text of a link, 1 MiB, and what its reader may have added to it.
pub(super) const MOST: usize = 4 * 1024 * 1024;

/// One parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) from: RelayId,
    number: u64,
    flags: u8,
    body: Bytes,
}

impl Parcel {
    /// Reads one; none when it is of no layout that is known.
    pub(super) fn read(bytes: &Bytes) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (from, rest) = rest.split_first_chunk::<16>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (flags, _) = rest.split_first()?;
        (*version == VERSION && *flags <= BEGINS | ENDS).then(|| Self {
            from: RelayId(Uuid::from_bytes(*from)),
            number: u64::from_be_bytes(*number),
            flags: *flags,
            body: bytes.slice(HEADER..),
        })
    }
}

/// Puts a message into parcels of at most `most` bytes each; `number` is that of the next one.
pub(super) fn pack(from: RelayId, number: &mut u64, message: &[u8], most: usize) -> Vec<Bytes> {
    let room = most.saturating_sub(HEADER).max(1);
    let count = message.len().div_ceil(room).max(1);
    let mut parts = message.chunks(room);
    (0..count)
        .map(|nth| {
            let body = parts.next().unwrap_or_default();
            let begins = if nth == 0 { BEGINS } else { 0 };
            let ends = if nth + 1 == count { ENDS } else { 0 };
            let mut out = Vec::with_capacity(HEADER + body.len());
            out.push(VERSION);
            out.extend_from_slice(from.0.as_bytes());
            out.extend_from_slice(&number.to_be_bytes());
            out.push(begins | ends);
            out.extend_from_slice(body);
            *number += 1;
            out.into()
        })
        .collect()
}

/// What a parcel brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Something that was said before it did not come, or not whole.
    pub(super) hole: bool,
    /// The message that it ends.
    pub(super) message: Option<Bytes>,
}

/// What one relay says under one subject, put together.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    next: Option<u64>,
    /// The parts of a message that has not ended.
    parts: Option<Vec<u8>>,
}

impl Inbox {
    /// Takes the next parcel. One that came before is passed over.
    pub(super) fn take(&mut self, parcel: Parcel) -> Taken {
        let Parcel { number, flags, body, .. } = parcel;
        let mut hole = false;
        match self.next {
            Some(next) if number < next => return Taken::default(),
            Some(next) => hole = number > next,
            // what was said before anybody listened is missed by nobody
            None => {}
        }
        self.next = Some(number.saturating_add(1));
        if hole {
            self.parts = None;
        }
        if flags == BEGINS | ENDS {
            hole |= self.parts.take().is_some();
            return Taken { hole, message: Some(body) };
        }
        let begun = self.parts.take();
        let mut parts = match (flags & BEGINS != 0, begun) {
            (true, begun) => {
                hole |= begun.is_some();
                Vec::new()
            }
            (false, Some(parts)) => parts,
            (false, None) => return Taken { hole, message: None },
        };
        if parts.len() + body.len() > MOST {
            return Taken { hole: true, message: None };
        }
        parts.extend_from_slice(&body);
        if flags & ENDS == 0 {
            self.parts = Some(parts);
            return Taken { hole, message: None };
        }
        Taken { hole, message: Some(parts.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn relay() -> RelayId {
        RelayId("01939d3a-7c00-7000-8000-0000deadbeef".parse().unwrap())
    }

    fn parcels(messages: &[Vec<u8>], most: usize) -> Vec<Bytes> {
        let mut number = 0;
        messages.iter().flat_map(|message| pack(relay(), &mut number, message, most)).collect()
    }

    fn taken(inbox: &mut Inbox, bytes: &Bytes) -> Taken {
        inbox.take(Parcel::read(bytes).unwrap())
    }

    #[test]
    fn the_bytes_of_a_parcel_are_fixed() {
        let mut number = 258;
        let all = pack(relay(), &mut number, b"abc", HEADER + 2);
        let hex = |bytes: &Bytes| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let head = "0101939d3a7c00700080000000deadbeef";
        assert_eq!(hex(&all[0]), format!("{head}0000000000000102016162"));
        assert_eq!(hex(&all[1]), format!("{head}00000000000001030263"));
        assert_eq!((all.len(), number), (2, 260));
    }

    #[test]
    fn what_is_lost_is_noticed_and_what_comes_twice_is_passed_over() {
        let said = [b"one".to_vec(), b"second".to_vec(), b"x".to_vec(), b"y".to_vec()];
        let all = parcels(&said, HEADER + 3);
        assert_eq!(all.len(), 5);
        let mut inbox = Inbox::default();
        assert_eq!(taken(&mut inbox, &all[0]).message.unwrap(), "one");
        assert_eq!(taken(&mut inbox, &all[0]), Taken::default());
        assert_eq!(taken(&mut inbox, &all[1]), Taken::default());
        // the second half of the second message is lost
        let next = taken(&mut inbox, &all[3]);
        assert_eq!((next.hole, next.message.unwrap()), (true, Bytes::from("x")));
        let last = taken(&mut inbox, &all[4]);
        assert_eq!((last.hole, last.message.unwrap()), (false, Bytes::from("y")));
        // whoever begins to listen within a message hears the next whole one
        let mut late = Inbox::default();
        assert_eq!(taken(&mut late, &all[2]), Taken::default());
        assert_eq!(taken(&mut late, &all[3]).message.unwrap(), "x");
    }

    #[test]
    fn a_message_without_an_end_is_bounded() {
        let body = vec![0; 1024 * 1024];
        let mut inbox = Inbox::default();
        let mut holes = 0;
        for nth in 0..6_u64 {
            let mut bytes = vec![VERSION];
            bytes.extend_from_slice(relay().0.as_bytes());
            bytes.extend_from_slice(&nth.to_be_bytes());
            bytes.push(if nth == 0 { BEGINS } else { 0 });
            bytes.extend_from_slice(&body);
            holes += u32::from(taken(&mut inbox, &bytes.into()).hole);
            assert!(inbox.parts.as_ref().is_none_or(|parts| parts.len() <= MOST));
        }
        assert_eq!(holes, 1);
    }

    proptest! {
        #[test]
        fn all_messages_come_out_as_they_went_in(
            said in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..20),
            room in 1_usize..20,
        ) {
            let mut inbox = Inbox::default();
            let mut heard = Vec::new();
            for bytes in parcels(&said, HEADER + room) {
                let taken = taken(&mut inbox, &bytes);
                prop_assert!(!taken.hole);
                heard.extend(taken.message.map(|message| message.to_vec()));
            }
            prop_assert_eq!(heard, said);
        }

        #[test]
        fn no_bytes_panic(all in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..9)) {
            let mut inbox = Inbox::default();
            for bytes in all {
                if let Some(parcel) = Parcel::read(&bytes.into()) {
                    inbox.take(parcel);
                }
            }
        }
    }
}
