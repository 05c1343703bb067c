//! An attached terminal: the model of the agent's screen, what of it is shown, and what is typed.
//! Reads no clock and writes nothing itself.

use super::keys::Keys;
use super::paint::Canvas;
use super::size_of;
use crate::client::Seen;
use hayward_daemon::terminal::screen::{Screen, Size};
use hayward_shared::protocol::output::Shape;
use std::time::Duration;
use tokio::time::Instant;

/// How long a notice lies over the last row.
const NOTICE: Duration = Duration::from_secs(4);

/// Why the screen may not fit.
const NOT_OWNER: &str = "another viewer decides the size; attach with --take to decide it";

/// A line for the user over the last row.
struct Notice {
    text: String,
    /// Absent: as long as it is so.
    until: Option<Instant>,
    /// It says that there is no connection.
    is_break: bool,
}

/// The state of an attached terminal.
pub(super) struct Show {
    read_only: bool,
    owner: bool,
    agent: Screen,
    canvas: Canvas,
    keys: Keys,
    notice: Option<Notice>,
    /// What is to be drawn.
    changed: Changed,
}

/// How much of what is shown has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changed {
    Nothing,
    /// One row of the agent's screen alone.
    Row(u16),
    Everything,
}

impl Changed {
    /// As much as both together.
    fn and(self, more: Self) -> Self {
        match (self, more) {
            (Self::Nothing, changed) | (changed, Self::Nothing) => changed,
            (Self::Row(row), Self::Row(other)) if row == other => self,
            _ => Self::Everything,
        }
    }
}

impl Show {
    /// An attached terminal on a user's terminal of this size.
    pub(super) fn new(size: Size, read_only: bool, shape: Shape, now: Instant) -> Self {
        let mut show = Self {
            read_only,
            owner: true,
            agent: Screen::new(size),
            canvas: Canvas::new(size),
            keys: Keys::default(),
            notice: None,
            changed: Changed::Everything,
        };
        show.begin(shape, now);
        show
    }

    /// How large the user's terminal is.
    pub(super) fn size(&self) -> Size {
        self.canvas.size()
    }

    /// Takes what comes of the agent's terminal; true when nothing follows.
    pub(super) fn see(&mut self, seen: Seen, now: Instant) -> bool {
        self.changed = self.changed.and(self.change(&seen));
        match seen {
            Seen::Screen(shape) => self.begin(shape, now),
            Seen::Print(bytes) => {
                let breaks = self.agent.breaks();
                self.agent.feed(&bytes);
                if self.agent.breaks() != breaks {
                    self.changed = Changed::Everything;
                }
            }
            Seen::Resized(shape) => {
                if let Some(size) = size_of(shape) {
                    self.agent.resize(size);
                }
                self.own(shape.owner, now);
            }
            Seen::Typed(seq) => self.keys.arrived(seq),
            Seen::Refused(seq, fault) => match seq.map(|seq| self.keys.failed(seq)) {
                Some(Some(lost)) => {
                    self.tell(&format!("not typed, up to {lost} bytes: {fault}"), Some(now));
                }
                Some(None) => {}
                None => self.tell(&fault.to_string(), Some(now)),
            },
            Seen::Lost(fault) => self.tell_break(&format!("connecting again: {fault}"), None),
            Seen::Apart(fault) => {
                let text = format!("the terminal goes on; connecting again: {fault}");
                self.tell_break(&text, Some(now));
            }
            Seen::Moved(how) => self.tell(how, Some(now)),
            Seen::End => return true,
        }
        false
    }

    /// How much of what is shown will change.
    fn change(&self, seen: &Seen) -> Changed {
        match seen {
            // that a key has arrived is nothing to be seen
            Seen::Typed(_) => Changed::Nothing,
            Seen::Print(bytes) => {
                self.agent.only_row(bytes).map_or(Changed::Everything, Changed::Row)
            }
            _ => Changed::Everything,
        }
    }

    /// Takes what came from the keyboard; true when it asks to leave.
    pub(super) fn press(&mut self, bytes: &[u8], now: Instant) -> bool {
        let leaves = self.keys.press(bytes);
        if self.read_only {
            self.keys.drop_all();
            self.tell("read-only: nothing is typed. Ctrl-\\ twice leaves", Some(now));
        }
        leaves
    }

    /// Whether more keys may come.
    pub(super) fn takes_keys(&self) -> bool {
        self.keys.has_room()
    }

    /// What to send to the agent's terminal, if it is time.
    pub(super) fn typed(&mut self) -> Option<(u64, Vec<u8>)> {
        self.keys.next()
    }

    /// The user's terminal has another size.
    pub(super) fn resize(&mut self, size: Size) {
        self.canvas.resize(size);
        self.changed = Changed::Everything;
    }

    /// When to draw: at `earliest` if something changed, when a notice ends, or never.
    pub(super) fn due(&self, earliest: Instant) -> Option<Instant> {
        let ends = self.notice.as_ref().and_then(|notice| notice.until);
        if self.changed == Changed::Nothing { ends } else { Some(earliest) }
    }

    /// What to write to the user's terminal.
    pub(super) fn draw(&mut self, now: Instant) -> Vec<u8> {
        self.notice.take_if(|notice| notice.until.is_some_and(|until| until <= now));
        let only = match std::mem::replace(&mut self.changed, Changed::Nothing) {
            Changed::Row(row) => Some(row),
            Changed::Nothing | Changed::Everything => None,
        };
        let notice = self.notice.as_ref().map(|notice| notice.text.as_str());
        let mut out = self.canvas.draw(&self.agent, notice, only);
        if !self.read_only {
            self.canvas.follow_modes(&self.agent, &mut out);
        }
        out
    }

    fn begin(&mut self, shape: Shape, now: Instant) {
        self.agent = Screen::new(size_of(shape).unwrap_or(self.canvas.size()));
        // whatever was wrong with the connection, it stands
        self.notice.take_if(|notice| notice.is_break);
        self.own(shape.owner, now);
    }

    fn own(&mut self, owner: bool, now: Instant) {
        let before = std::mem::replace(&mut self.owner, owner);
        if before == owner || self.read_only {
            return;
        }
        // the good news is seen anyway, and leaves a line that says something else
        let says_else = |notice: &Notice| notice.text != NOT_OWNER && notice.until > Some(now);
        if !owner {
            self.tell(NOT_OWNER, Some(now));
        } else if !self.notice.as_ref().is_some_and(says_else) {
            self.tell("the terminal has your size now", Some(now));
        }
    }

    fn tell(&mut self, text: &str, from: Option<Instant>) {
        let until = from.map(|from| from + NOTICE);
        self.notice = Some(Notice { text: text.to_owned(), until, is_break: false });
        self.changed = Changed::Everything;
    }

    /// As [`Show::tell`], of a connection that broke: untrue once another stands.
    fn tell_break(&mut self, text: &str, from: Option<Instant>) {
        self.tell(text, from);
        self.notice.iter_mut().for_each(|notice| notice.is_break = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hayward_shared::fault::{Code, Fault};

    #[test]
    fn that_the_way_is_another_stays_told_while_the_size_comes_back_to_who_had_it() {
        let (size, now) = (Size::new(24, 80).unwrap(), Instant::now());
        let shape = |owner| Shape { rows: 24, cols: 80, owner };
        let mut show = Show::new(size, false, shape(true), now);
        let shows = |show: &mut Show, now, text: &str| {
            assert!(String::from_utf8_lossy(&show.draw(now)).contains(text), "no {text}");
        };
        // the seat that the broken connection had is still taken when the next one sits down
        show.see(Seen::Screen(shape(false)), now);
        shows(&mut show, now, "another viewer");
        show.see(Seen::Moved("straight"), now);
        show.see(Seen::Resized(shape(true)), now);
        shows(&mut show, now, "straight");
        let later = now + NOTICE;
        show.see(Seen::Resized(shape(false)), later);
        show.see(Seen::Resized(shape(true)), later);
        shows(&mut show, later, "has your size");
    }

    #[test]
    fn f07_the_last_row_is_the_agents_again_while_the_keeper_goes_on_without_the_daemon() {
        let (size, now) = (Size::new(2, 80).unwrap(), Instant::now());
        let shape = Shape { rows: 2, cols: 80, owner: true };
        let away = || Fault::new(Code::Unavailable, "away");
        let drawn = |show: &mut Show, now| {
            // in full, whatever was drawn before
            show.resize(size);
            String::from_utf8_lossy(&show.draw(now)).into_owned()
        };
        let mut show = Show::new(size, false, shape, now);
        show.see(Seen::Print("first\r\nlast".into()), now);
        show.see(Seen::Apart(away()), now);
        let text = drawn(&mut show, now);
        assert!(text.contains("goes on; connecting again: away") && !text.contains("last"));
        let later = now + NOTICE;
        assert_eq!(show.due(later + NOTICE), Some(later));
        assert!(drawn(&mut show, later).contains("last"));
        // where it does not go on, for as long as that is so
        show.see(Seen::Lost(away()), later);
        let later = later + NOTICE;
        assert!(drawn(&mut show, later).contains("connecting again"));
        for lost in [Seen::Lost(away()), Seen::Apart(away())] {
            show.see(lost, later);
            show.see(Seen::Screen(shape), later);
            assert!(!drawn(&mut show, later).contains("connecting again"));
        }
    }
}
