//! Who looks at a terminal, and whose size counts. Pure.

use crate::terminal::screen::Size;
use hayward_shared::id::WatchId;

#[derive(Debug)]
struct Seat {
    viewer: WatchId,
    size: Size,
    read_only: bool,
}

/// The viewers of one terminal, in the order in which they came. The first that may type owns the
/// size until it leaves or another takes it; then it is the turn of the next one. Without an
/// owner the terminal keeps the size it has.
#[derive(Debug, Default)]
pub(super) struct Viewers {
    seats: Vec<Seat>,
    owner: Option<WatchId>,
}

impl Viewers {
    /// Someone comes.
    pub(super) fn join(&mut self, viewer: WatchId, size: Size, read_only: bool) {
        self.seats.push(Seat { viewer, size, read_only });
        self.elect();
    }

    /// Someone goes.
    pub(super) fn leave(&mut self, viewer: WatchId) {
        self.seats.retain(|seat| seat.viewer != viewer);
        self.elect();
    }

    /// Someone has another size.
    pub(super) fn resize(&mut self, viewer: WatchId, size: Size) {
        if let Some(seat) = self.seats.iter_mut().find(|seat| seat.viewer == viewer) {
            seat.size = size;
        }
    }

    /// Someone wants to own the size; false for who only looks.
    pub(super) fn take(&mut self, viewer: WatchId) -> bool {
        let may = self.seats.iter().any(|seat| seat.viewer == viewer && !seat.read_only);
        if may {
            self.owner = Some(viewer);
        }
        may
    }

    /// Whose size counts.
    pub(super) fn owner(&self) -> Option<WatchId> {
        self.owner
    }

    /// The size that counts.
    pub(super) fn wanted(&self) -> Option<Size> {
        self.seats.iter().find(|seat| Some(seat.viewer) == self.owner).map(|seat| seat.size)
    }

    fn elect(&mut self) {
        let stays = self.seats.iter().any(|seat| Some(seat.viewer) == self.owner);
        if !stays {
            self.owner = self.seats.iter().find(|seat| !seat.read_only).map(|seat| seat.viewer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(rows: u16, cols: u16) -> Size {
        Size::new(rows, cols).unwrap()
    }

    #[test]
    fn f09_the_first_that_may_type_owns_the_size_and_then_the_next() {
        let mut viewers = Viewers::default();
        let [reader, first, second] = [WatchId::fresh(), WatchId::fresh(), WatchId::fresh()];
        viewers.join(reader, size(10, 10), true);
        assert_eq!((viewers.owner(), viewers.wanted()), (None, None));
        viewers.join(first, size(50, 200), false);
        viewers.join(second, size(5, 20), false);
        assert_eq!(viewers.wanted(), Some(size(50, 200)));
        viewers.resize(second, size(6, 20));
        assert_eq!(viewers.wanted(), Some(size(50, 200)));
        viewers.leave(first);
        assert_eq!(viewers.wanted(), Some(size(6, 20)));
        viewers.leave(second);
        assert_eq!((viewers.owner(), viewers.wanted()), (None, None));
    }

    #[test]
    fn f09_another_takes_it_but_none_that_only_looks() {
        let mut viewers = Viewers::default();
        let [reader, first, second] = [WatchId::fresh(), WatchId::fresh(), WatchId::fresh()];
        viewers.join(first, size(50, 200), false);
        viewers.join(second, size(5, 20), false);
        viewers.join(reader, size(10, 10), true);
        assert!(viewers.take(second) && !viewers.take(reader) && !viewers.take(WatchId::fresh()));
        assert_eq!((viewers.owner(), viewers.wanted()), (Some(second), Some(size(5, 20))));
    }
}
