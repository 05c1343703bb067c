//! What a message or a line of a log goes back to: the request of a client, and the trace it is part of.
//!
//! Both are words about work, never part of it: nothing is decided by them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The most characters of a request's name.
pub const MAX_NAME: usize = 64;

/// What a client calls its request: 1 to [`MAX_NAME`] letters and digits of ASCII, dots, dashes and
/// underscores, so that it can stand in a header, a log and a search for it. Two requests may have the
/// same name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestName {
    bytes: [u8; MAX_NAME],
    len: u8,
}

/// The text is no name of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request's name has 1 to {MAX_NAME} letters, digits, dots, dashes or underscores")]
pub struct BadName;

impl RequestName {
    /// A name that no other request has: a UUID.
    #[must_use]
    pub fn fresh() -> Self {
        let mut bytes = [0; MAX_NAME];
        let text = Uuid::now_v7().hyphenated().encode_lower(&mut bytes).len();
        Self { bytes, len: u8::try_from(text).unwrap_or(u8::MAX) }
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl FromStr for RequestName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let len = u8::try_from(text.len()).map_err(|_| BadName)?;
        let mut bytes = [0; MAX_NAME];
        let place = bytes.get_mut(..text.len()).ok_or(BadName)?;
        if text.is_empty() || !text.bytes().all(is_plain) {
            return Err(BadName);
        }
        place.copy_from_slice(text.as_bytes());
        Ok(Self { bytes, len })
    }
}

impl fmt::Display for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestName({self})")
    }
}

/// A place in a trace, as the header `traceparent` of the W3C writes it in version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    flags: u8,
}

/// The text is no `traceparent` of version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a traceparent is 00, 32, 16 and 2 lower-case hex digits with dashes between them")]
pub struct BadParent;

impl TraceParent {
    /// The place of these [parts](Self::parts); none where its trace or its span is 0, which name nothing.
    #[must_use]
    pub fn of((trace, span, flags): (u128, u64, u8)) -> Option<Self> {
        (trace != 0 && span != 0).then_some(Self { trace, span, flags })
    }

    /// The trace, the span in it, and its flags.
    #[must_use]
    pub fn parts(self) -> (u128, u64, u8) {
        (self.trace, self.span, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = BadParent;

    fn from_str(text: &str) -> Result<Self, BadParent> {
        let is_hex = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f' | b'-');
        let mut parts = text.split('-');
        let [Some("00"), Some(trace), Some(span), Some(flags), None] =
            std::array::from_fn(|_| parts.next())
        else {
            return Err(BadParent);
        };
        let fits = (trace.len(), span.len(), flags.len()) == (32, 16, 2);
        if !fits || !text.bytes().all(is_hex) {
            return Err(BadParent);
        }
        let trace = u128::from_str_radix(trace, 16).map_err(|_| BadParent)?;
        let span = u64::from_str_radix(span, 16).map_err(|_| BadParent)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| BadParent)?;
        Self::of((trace, span, flags)).ok_or(BadParent)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

macro_rules! as_text {
    ($($name:ident),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}

as_text!(RequestName, TraceParent);

/// What can be read of a field that means nothing to the work: one that cannot be read is passed
/// over, as an unknown field is.
///
/// # Errors
/// When the message itself is malformed.
pub fn if_readable<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_short_and_plain() {
        let longest = "a".repeat(MAX_NAME);
        for text in ["a", "4711", "Build_7.retry-2", longest.as_str()] {
            assert_eq!(text.parse::<RequestName>().unwrap().to_string(), text);
        }
        let too_long = "a".repeat(MAX_NAME + 1);
        let far_too_long = "a".repeat(70_000);
        for text in ["", " ", "a b", "a\nb", "ä", "\u{1b}[31m", "a=b", &too_long, &far_too_long] {
            assert!(text.parse::<RequestName>().is_err(), "{text:?}");
        }
        let fresh = RequestName::fresh();
        assert_eq!((fresh.as_str().len(), fresh == RequestName::fresh()), (36, false));
        assert_eq!(fresh.as_str().parse(), Ok(fresh));
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_writes_it() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(text.parse::<TraceParent>().unwrap().to_string(), text);
        for bad in [
            "",
            "00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-00",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-000f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_as_it_was(text in "\\PC{0,80}") {
            if let Ok(name) = text.parse::<RequestName>() {
                prop_assert_eq!(name.as_str(), &text);
            }
            if let Ok(parent) = text.parse::<TraceParent>() {
                prop_assert_eq!(TraceParent::of(parent.parts()), Some(parent));
                prop_assert_eq!(parent.to_string(), text);
            }
        }
    }
}
