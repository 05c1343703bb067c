//! Ids as people type them.

use hayward_shared::fault::Fault;
use hayward_shared::id::Fragment;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// What a person typed for an id. What cannot be one names nothing, as an id that is not there
/// names nothing: both are "not found".
#[derive(Clone, Debug)]
pub(crate) struct Typed(String);

impl FromStr for Typed {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Typed {
    /// The part of an id that it is; `what` says of which kind of thing.
    pub(crate) fn fragment(&self, what: &str) -> Result<Fragment, Fault> {
        self.0.parse().map_err(|bad: hayward_shared::id::BadFragment| {
            Fault::not_found(what, format!("'{}'", self.0)).with_hint(bad.to_string())
        })
    }

    /// The part of a task's id that it is, as text.
    pub(crate) fn task(&self) -> Result<String, Fault> {
        self.fragment("task").map(|fragment| fragment.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_an_id_is_not_found() {
        let typed = |text: &str| text.parse::<Typed>().unwrap();
        assert_eq!(typed("dead-BEEF").task().unwrap(), "deadbeef");
        for wrong in ["", "abc", "nope", "../../etc"] {
            let fault = typed(wrong).task().unwrap_err();
            assert_eq!((fault.code.exit(), fault.hint.is_some()), (3, true), "{wrong}");
        }
    }
}
