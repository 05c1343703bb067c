//! The pages of a ring around the one that is looked at: lines that lie on several of them.

use super::clean::last_state;
use super::layout::Layout;
use super::page::{Page, Shelf};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Pages held at once: the one that is looked at, its neighbours, and the one that comes next.
const HELD: usize = 4;

/// Whether the first line of a page began on the one before it, and belongs there.
pub(super) fn is_continued(layout: &Layout, index: usize, page: &Page) -> bool {
    page.goes_on() && layout.joins(index)
}

/// Pages near each other, by their blocks. Owned by one search.
#[derive(Debug)]
pub(super) struct Window<'a> {
    layout: &'a Layout,
    held: VecDeque<(usize, Arc<Page>)>,
}

impl<'a> Window<'a> {
    /// A window that holds nothing yet.
    pub(super) fn new(layout: &'a Layout) -> Self {
        Self { layout, held: VecDeque::new() }
    }

    /// Takes a page that was read already; one that is not needed any more comes back.
    pub(super) fn hold(&mut self, index: usize, page: Arc<Page>) -> Option<Page> {
        self.held.push_back((index, page));
        let old = if self.held.len() > HELD { self.held.pop_front() } else { None };
        old.and_then(|(_, page)| Arc::into_inner(page))
    }

    /// A page; none when its block was dropped.
    ///
    /// # Errors
    /// The disk failed.
    fn page(&mut self, index: usize) -> io::Result<Option<Arc<Page>>> {
        if let Some((_, page)) = self.held.iter().find(|(one, _)| *one == index) {
            return Ok(Some(Arc::clone(page)));
        }
        let mut page = Page::default();
        if !page.load(self.layout, index, &mut Shelf::default())? {
            return Ok(None);
        }
        let page = Arc::new(page);
        self.hold(index, Arc::clone(&page));
        Ok(Some(page))
    }

    /// The whole of the last line of a page, with what later pages have of it. None when no line is
    /// there: nothing was printed behind the last line feed.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn last_line(&mut self, index: usize, page: &Page) -> io::Result<Option<Vec<u8>>> {
        let began = page.open_behind().line_start;
        let mut line = page.text().get(page.last_begin()..).unwrap_or_default().to_vec();
        let mut behind = page.end();
        for later in index + 1..self.layout.count() {
            let Some(next) = self.page(later)? else { break };
            if next.start() != behind || next.first_offset() != began {
                // bytes were lost, and the line ends with them
                break;
            }
            if !next.goes_on() {
                // it begins with that page, or is taken in pieces from there on
                return Ok((began < next.start()).then_some(line));
            }
            line.extend_from_slice(next.text().get(..next.first_len()).unwrap_or_default());
            if next.last() > 0 {
                return Ok(Some(line));
            }
            behind = next.end();
        }
        Ok((!line.is_empty()).then_some(line))
    }

    /// A line by its number, as it says in the end; looked for on the page at `near` and on from
    /// there towards it. None when it is not kept.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn line(&mut self, near: usize, number: u64) -> io::Result<Option<Vec<u8>>> {
        let mut index = near;
        let mut turned = None;
        loop {
            let Some(page) = self.page(index)? else { return Ok(None) };
            let first = usize::from(is_continued(self.layout, index, &page));
            let back = number < page.number(first);
            if !back && number < page.number(page.last()) {
                let line = usize::try_from(number - page.number(0)).unwrap_or(usize::MAX);
                return Ok(Some(last_state(page.piece(self.layout, line)).to_vec()));
            }
            // one that begins right behind the page is on the next
            if !back
                && number == page.number(page.last())
                && let Some(line) = self.last_line(index, &page)?
            {
                return Ok(Some(last_state(&line).to_vec()));
            }
            let next = if back { index.checked_sub(1) } else { Some(index + 1) };
            match next {
                Some(next) if *turned.get_or_insert(back) == back => index = next,
                _ => return Ok(None),
            }
        }
    }
}
