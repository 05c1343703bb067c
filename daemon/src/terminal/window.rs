//! The blocks of a ring around the one that is looked at: lines that lie in several of them, and
//! lines of others.

use super::clean::last_state;
use super::excerpt::Excerpt;
use super::index::Open;
use super::layout::{Begins, Layout};
use super::page::{Extent, Page, Shelf};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Blocks held at once: the one that is looked at, its neighbours, and the one that comes next.
const HELD: usize = 4;

/// What is told of a line around a match, in bytes: a byte more than an answer holds whole.
const MOST_AROUND: usize = hayward_shared::search::MAX_CONTENT + 1;

/// Whether the first line of a block began in the one before it, and belongs there.
pub(super) fn is_continued(layout: &Layout, index: usize, extent: &Extent) -> bool {
    extent.goes_on() && layout.joins(index)
}

/// Whether the first line of a block may begin before all that belongs to it: its beginning was
/// dropped, lost, or is a piece of its own.
pub(super) fn is_headless(layout: &Layout, index: usize, extent: &Extent) -> bool {
    let begins_before = extent.open.line_start < extent.start;
    let is_unknown = extent.begins == Begins::Blindly || (index > 0 && !layout.joins(index));
    (begins_before || is_unknown) && !is_continued(layout, index, extent)
}

/// A line that was put together, or one that a reader is told of: its text, and whether that is all
/// of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<T> {
    pub(super) text: T,
    pub(super) whole: bool,
}

/// Excerpts of blocks near each other. Owned by one search.
#[derive(Debug)]
pub(super) struct Window<'a> {
    layout: &'a Layout,
    held: VecDeque<(usize, Arc<Excerpt>)>,
    page: Page,
    shelf: Shelf,
    /// Lines around matches that lie in other blocks, as they say in the end, by their numbers: so
    /// each is put together once, however many matches it is near.
    around: BTreeMap<u64, Option<Line<Vec<u8>>>>,
}

impl<'a> Window<'a> {
    /// A window that holds nothing yet.
    pub(super) fn new(layout: &'a Layout) -> Self {
        let (page, shelf) = (Page::default(), Shelf::default());
        Self { layout, held: VecDeque::new(), page, shelf, around: BTreeMap::new() }
    }

    /// Takes an excerpt that was made already.
    pub(super) fn hold(&mut self, index: usize, excerpt: Arc<Excerpt>) {
        self.held.retain(|(one, _)| *one != index);
        self.held.push_back((index, excerpt));
        if self.held.len() > HELD {
            self.held.pop_front();
        }
    }

    /// Some lines of a block, its edges among them; none when it was dropped.
    fn some(&mut self, index: usize) -> io::Result<Option<Arc<Excerpt>>> {
        match self.held.iter().find(|(one, _)| *one == index) {
            Some((_, excerpt)) => Ok(Some(Arc::clone(excerpt))),
            None => self.whole(index),
        }
    }

    /// All lines of a block; none when it was dropped.
    fn whole(&mut self, index: usize) -> io::Result<Option<Arc<Excerpt>>> {
        if !self.page.load(self.layout, index, &mut self.shelf)? {
            return Ok(None);
        }
        let excerpt = Arc::new(Excerpt::whole(&self.page));
        self.hold(index, Arc::clone(&excerpt));
        Ok(Some(excerpt))
    }

    /// The whole of the last line of a block, with what later ones have of it. None when no line is
    /// there: nothing was printed behind the last line feed.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn last_line(
        &mut self,
        index: usize,
        excerpt: &Excerpt,
    ) -> io::Result<Option<Line<Vec<u8>>>> {
        let Extent { end, behind: Open { line_start: began, .. }, last, .. } = *excerpt.extent();
        let mut text = excerpt.edges().1.to_vec();
        let mut whole = last > 0 || !is_headless(self.layout, index, excerpt.extent());
        let mut behind = end;
        for later in index + 1..self.layout.count() {
            let Some(next) = self.some(later)? else {
                // dropped meanwhile
                whole = false;
                break;
            };
            let extent = next.extent();
            if extent.start != behind || extent.open.line_start != began {
                // bytes were lost, and the line ends with them
                whole = false;
                break;
            }
            if !extent.goes_on() {
                // it begins with that block, or is taken in pieces from there on
                return Ok((began < extent.start).then_some(Line { text, whole: false }));
            }
            text.extend_from_slice(next.edges().0);
            if extent.last > 0 {
                return Ok(Some(Line { text, whole }));
            }
            behind = extent.end;
        }
        Ok((!text.is_empty()).then_some(Line { text, whole }))
    }

    /// Puts lines of other blocks together for [`Window::around`], and lets go of those before and
    /// behind `reach`. `stop` is asked before each.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn gather(
        &mut self,
        reach: Range<u64>,
        lines: impl Iterator<Item = u64>,
        mut stop: impl FnMut() -> bool,
    ) -> io::Result<()> {
        self.around.retain(|number, _| reach.contains(number));
        for number in lines {
            if !self.around.contains_key(&number) && !stop() {
                let line = self.line(number)?;
                self.around.insert(number, line);
            }
        }
        Ok(())
    }

    /// A line that was gathered, if it is kept; cut when it is very long.
    pub(super) fn around(&self, number: u64) -> Option<Line<&[u8]>> {
        let Line { text, whole } = self.around.get(&number)?.as_ref()?;
        Some(Line { text, whole: *whole })
    }

    /// A line by its number, as it says in the end. None when it is not kept.
    fn line(&mut self, number: u64) -> io::Result<Option<Line<Vec<u8>>>> {
        let cut = |text: &[u8], whole| {
            let text = last_state(text);
            Line { text: text.get(..MOST_AROUND).unwrap_or(text).to_vec(), whole }
        };
        let Some(index) = self.layout.block_of(number) else { return Ok(None) };
        // one that begins right behind a block is the next one's
        for index in index..self.layout.count().min(index + 2) {
            let Some(mut excerpt) = self.some(index)? else { return Ok(None) };
            let extent = excerpt.extent();
            let Some(line) = number.checked_sub(extent.open.line) else { return Ok(None) };
            let line = usize::try_from(line).unwrap_or(usize::MAX);
            let last = extent.last;
            if line == last
                && let Some(Line { text, whole }) = self.last_line(index, &excerpt)?
            {
                return Ok(Some(cut(&text, whole)));
            }
            if line < last {
                if excerpt.line(line).is_none() {
                    let Some(whole) = self.whole(index)? else { return Ok(None) };
                    excerpt = whole;
                }
                let whole = line > 0 || !is_headless(self.layout, index, excerpt.extent());
                return Ok(excerpt.line(line).map(|text| cut(text, whole)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::RingWriter;
    use super::super::segment::{self, segments};
    use super::*;

    #[test]
    fn a_line_near_many_matches_is_put_together_once_and_cut_when_it_is_very_long() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::open(dir.path(), 64 << 20).unwrap();
        writer.append(&[&vec![b'x'; 3 << 20][..], b"\nshort\nlast\n"].concat()).unwrap();
        writer.settle();
        let layout = Layout::read(dir.path()).unwrap();
        let mut window = Window::new(&layout);
        window.gather(1..4, 1..3, || false).unwrap();
        let told = |window: &Window<'_>, number| {
            window.around(number).map(|line| (line.text.to_vec(), line.whole))
        };
        let place = |window: &Window<'_>| window.around(1).unwrap().text.as_ptr();
        let first = place(&window);
        assert_eq!(window.around(1).unwrap().text.len(), MOST_AROUND);
        let line = |text: &[u8]| Some((text.to_vec(), true));
        assert_eq!((told(&window, 2), told(&window, 3)), (line(b"short"), None));
        window.gather(1..4, 1..4, || false).unwrap();
        assert_eq!((place(&window), told(&window, 3)), (first, line(b"last")));
        // what is out of reach is let go of, and nothing is fetched for who wants to stop
        window.gather(2..6, 2..6, || true).unwrap();
        assert_eq!((told(&window, 1), told(&window, 3)), (None, line(b"last")));
        window.gather(2..6, 2..6, || false).unwrap();
        assert_eq!((window.around(4), window.around(5)), (None, None));
    }

    #[test]
    fn f12_a_line_whose_end_is_dropped_meanwhile_is_none_that_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::open(dir.path(), 1 << 20).unwrap();
        writer.append(&[b"short\n", &vec![b'x'; 100 << 10][..], b"\nlast\n"].concat()).unwrap();
        writer.settle();
        let layout = Layout::read(dir.path()).unwrap();
        let begins = layout.block_of(2).unwrap();
        let kept = segments(dir.path()).unwrap();
        for whole in [true, false] {
            let mut window = Window::new(&layout);
            let excerpt = window.some(begins).unwrap().unwrap();
            let line = window.last_line(begins, &excerpt).unwrap().unwrap();
            assert_eq!((line.whole, line.text.len() == 100 << 10), (whole, whole));
            assert!(line.text.iter().all(|byte| *byte == b'x'));
            window.gather(1..3, 2..3, || false).unwrap();
            assert_eq!(window.around(2).unwrap().whole, whole);
            segment::remove_whole(dir.path(), kept[1].start).unwrap();
        }
    }
}
