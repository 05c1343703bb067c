//! How texts get to a daemon: into its link, or over the bus to the relay that has the link.

use crate::bus;
use crate::socket::pipe::{Ended, Outlet};

#[derive(Clone, Debug)]
pub(super) enum Way {
    /// The daemon is linked here.
    Here(Outlet),
    /// To another relay.
    Afar(bus::Way),
}

impl Way {
    pub(super) fn is_afar(&self) -> bool {
        matches!(self, Self::Afar(_))
    }

    /// Sends a text; waits for room.
    pub(super) async fn text(&self, text: String) -> Result<(), Ended> {
        match self {
            Self::Here(outlet) => outlet.text(text).await,
            Self::Afar(way) => way.text(text).await,
        }
    }

    /// Sends a text if there is room at once.
    pub(super) fn try_text(&self, text: String) -> Result<(), Ended> {
        match self {
            Self::Here(outlet) => outlet.try_text(text),
            Self::Afar(way) => way.try_text(text),
        }
    }

    /// Asks a link of this relay to end; one of another relay is not ours to end.
    pub(super) fn end(&self) {
        if let Self::Here(outlet) = self {
            outlet.end();
        }
    }
}
