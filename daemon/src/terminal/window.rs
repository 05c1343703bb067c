//! The blocks of a ring around the one that is looked at: lines that lie in several of them, and
//! lines of others.

use super::clean::last_state;
use super::excerpt::Excerpt;
use super::layout::Layout;
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

/// Excerpts of blocks near each other. Owned by one search.
#[derive(Debug)]
pub(super) struct Window<'a> {
    layout: &'a Layout,
    held: VecDeque<(usize, Arc<Excerpt>)>,
    page: Page,
    shelf: Shelf,
    /// Lines around matches that lie in other blocks, as they say in the end, by their numbers: so
    /// each is put together once, however many matches it is near.
    around: BTreeMap<u64, Option<Vec<u8>>>,
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
    ) -> io::Result<Option<Vec<u8>>> {
        let began = excerpt.extent().behind.line_start;
        let mut line = excerpt.edges().1.to_vec();
        let mut behind = excerpt.extent().end;
        for later in index + 1..self.layout.count() {
            let Some(next) = self.some(later)? else { break };
            let extent = next.extent();
            if extent.start != behind || extent.open.line_start != began {
                // bytes were lost, and the line ends with them
                break;
            }
            if !extent.goes_on() {
                // it begins with that block, or is taken in pieces from there on
                return Ok((began < extent.start).then_some(line));
            }
            line.extend_from_slice(next.edges().0);
            if extent.last > 0 {
                return Ok(Some(line));
            }
            behind = extent.end;
        }
        Ok((!line.is_empty()).then_some(line))
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
    pub(super) fn around(&self, number: u64) -> Option<&[u8]> {
        self.around.get(&number)?.as_deref()
    }

    /// A line by its number, as it says in the end. None when it is not kept.
    fn line(&mut self, number: u64) -> io::Result<Option<Vec<u8>>> {
        let cut = |line: &[u8]| {
            let line = last_state(line);
            line.get(..MOST_AROUND).unwrap_or(line).to_vec()
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
                && let Some(line) = self.last_line(index, &excerpt)?
            {
                return Ok(Some(cut(&line)));
            }
            if line < last {
                if excerpt.line(line).is_none() {
                    let Some(whole) = self.whole(index)? else { return Ok(None) };
                    excerpt = whole;
                }
                return Ok(excerpt.line(line).map(cut));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::RingWriter;
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
        let place = |window: &Window<'_>| window.around(1).unwrap().as_ptr();
        let first = place(&window);
        assert_eq!(window.around(1).unwrap().len(), MOST_AROUND);
        assert_eq!((window.around(2), window.around(3)), (Some(&b"short"[..]), None));
        window.gather(1..4, 1..4, || false).unwrap();
        assert_eq!((place(&window), window.around(3)), (first, Some(&b"last"[..])));
        // what is out of reach is let go of, and nothing is fetched for who wants to stop
        window.gather(2..6, 2..6, || true).unwrap();
        assert_eq!((window.around(1), window.around(3)), (None, Some(&b"last"[..])));
        window.gather(2..6, 2..6, || false).unwrap();
        assert_eq!((window.around(4), window.around(5)), (None, None));
    }
}
