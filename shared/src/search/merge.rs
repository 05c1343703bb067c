//! Matches of several daemons in one order, while they search still. Pure.

use super::{Pages, SearchMatch, SearchPage, weight};
use crate::id::RunId;
use std::cmp::Ordering;
use std::collections::VecDeque;

/// A place in the output of all runs: ids of runs begin with their moment.
type Place = (RunId, u64);

/// Puts the pages of daemons together: gives each match as soon as none that searches still can
/// bring one that goes before it. The pages of one daemon are in the order that was asked for; of
/// equal places, those of the daemon with the lower number go first.
#[derive(Debug)]
pub struct Merge {
    newest_first: bool,
    limit: u64,
    given: u64,
    sources: Vec<Source>,
}

#[derive(Debug, Default)]
struct Source {
    rows: VecDeque<SearchMatch>,
    weight: usize,
    /// Nothing that it brings goes before this place; until it told of any, it may bring anything.
    reached: Option<Place>,
    ended: bool,
}

impl Merge {
    /// Nothing came yet of so many daemons; as many matches are given as the question asks for.
    #[must_use]
    pub fn new(sources: usize, newest_first: bool, limit: u32) -> Self {
        let sources = (0..sources).map(|_| Source::default()).collect();
        Self { newest_first, limit: limit.into(), given: 0, sources }
    }

    /// Takes a page of a daemon, by its number. What is over the limit already is dropped.
    pub fn push(&mut self, source: usize, page: SearchPage) {
        let newest_first = self.newest_first;
        let Some(source) = self.sources.get_mut(source) else { return };
        let begin = |run| (run, if newest_first { u64::MAX } else { 0 });
        let last = page.matches.last().map(place);
        let told = last.into_iter().chain(page.reached.map(begin)).chain(source.reached);
        source.reached = told.max_by(|a, b| order(newest_first, *a, *b));
        if self.given < self.limit {
            source.weight += page.matches.iter().map(weight).sum::<usize>();
            source.rows.extend(page.matches);
        }
    }

    /// A daemon brings nothing more.
    pub fn end(&mut self, source: usize) {
        if let Some(source) = self.sources.get_mut(source) {
            source.ended = true;
        }
    }

    /// Whether more of a daemon may be held: what waits for the others is bounded.
    #[must_use]
    pub fn has_room(&self, source: usize) -> bool {
        self.sources.get(source).is_some_and(|source| source.weight < Pages::MOST)
    }

    /// How many matches were given.
    #[must_use]
    pub fn given(&self) -> u64 {
        self.given
    }

    /// The source whose first match goes before all others that are there.
    fn first(&self) -> Option<usize> {
        let heads = self.sources.iter().enumerate();
        let heads = heads.filter_map(|(index, one)| Some((index, place(one.rows.front()?))));
        heads.min_by(|(_, a), (_, b)| order(self.newest_first, *a, *b)).map(|(index, _)| index)
    }

    /// Whether a source without matches may still bring one that goes before this of `first`.
    fn may_precede(&self, index: usize, first: usize, place: Place) -> bool {
        let Some(one) = self.sources.get(index).filter(|one| one.rows.is_empty() && !one.ended)
        else {
            return false;
        };
        match one.reached.map(|reached| order(self.newest_first, reached, place)) {
            Some(Ordering::Greater) => false,
            Some(Ordering::Equal) => index < first,
            Some(Ordering::Less) | None => true,
        }
    }
}

/// The next match that is known to be the next; none while that is not known, and at the end.
impl Iterator for Merge {
    type Item = SearchMatch;

    fn next(&mut self) -> Option<SearchMatch> {
        if self.given >= self.limit {
            self.sources.iter_mut().for_each(Source::empty);
            return None;
        }
        let first = self.first()?;
        let place = self.sources.get(first)?.rows.front().map(place)?;
        if (0..self.sources.len()).any(|index| self.may_precede(index, first, place)) {
            return None;
        }
        let source = self.sources.get_mut(first)?;
        let found = source.rows.pop_front()?;
        source.weight = source.weight.saturating_sub(weight(&found));
        self.given += 1;
        Some(found)
    }
}

impl Source {
    fn empty(&mut self) {
        self.rows.clear();
        self.weight = 0;
    }
}

fn place(found: &SearchMatch) -> Place {
    (found.run_id, found.line)
}

fn order(newest_first: bool, a: Place, b: Place) -> Ordering {
    if newest_first { b.cmp(&a) } else { a.cmp(&b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TaskId;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use uuid::Uuid;

    fn row(source: usize, (run, line): (u8, u8)) -> SearchMatch {
        SearchMatch {
            task_id: TaskId(Uuid::nil()),
            run_id: RunId(Uuid::from_u128(run.into())),
            daemon_id: None,
            line: line.into(),
            uncounted: false,
            offset: 0,
            content: source.to_string(),
            context_before: Vec::new(),
            context_after: Vec::new(),
            cut: false,
        }
    }

    /// What the daemons find, as it is gathered: one after the other, then sorted.
    fn gathered(sources: &[Vec<SearchMatch>], newest_first: bool) -> Vec<SearchMatch> {
        let mut all: Vec<SearchMatch> = sources.iter().flatten().cloned().collect();
        match newest_first {
            true => all.sort_by_key(|one| Reverse(place(one))),
            false => all.sort_by_key(place),
        }
        all
    }

    proptest! {
        #[test]
        fn f41_any_pages_in_any_order_give_what_is_gathered(
            rows in prop::collection::vec(prop::collection::vec((0u8..6, 1u8..5), 0..12), 1..5),
            steps in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, any::<bool>()), 0..80),
            newest_first: bool,
            limit in 1u32..30,
        ) {
            let sources: Vec<Vec<SearchMatch>> = rows.into_iter().enumerate().map(|(source, rows)| {
                let mut rows: Vec<_> = rows.into_iter().map(|at| row(source, at)).collect();
                rows.sort_by(|a, b| order(newest_first, place(a), place(b)));
                rows
            }).collect();
            let mut expected = gathered(&sources, newest_first);
            expected.truncate(limit as usize);

            let mut merge = Merge::new(sources.len(), newest_first, limit);
            let mut waiting: Vec<VecDeque<SearchMatch>> =
                sources.iter().map(|rows| rows.iter().cloned().collect()).collect();
            let mut got = Vec::new();
            for (source, count, tells) in steps {
                let source = source.index(waiting.len());
                let rows = &mut waiting[source];
                let matches: Vec<_> = rows.drain(..count.min(rows.len())).collect();
                // how far it is, at the most: the run of the next match that it has
                let reached = rows.front().map(|next| next.run_id).filter(|_| tells);
                merge.push(source, SearchPage { matches, reached });
                if waiting[source].is_empty() && tells {
                    merge.end(source);
                }
                got.extend(merge.by_ref());
                prop_assert!(expected.starts_with(&got));
            }
            for (source, rows) in waiting.into_iter().enumerate().rev() {
                merge.push(source, SearchPage { matches: rows.into(), reached: None });
                merge.end(source);
                got.extend(merge.by_ref());
            }
            prop_assert_eq!(merge.given(), got.len() as u64);
            prop_assert_eq!(got, expected);
            prop_assert!((0..sources.len()).all(|source| merge.sources[source].rows.is_empty()));
        }
    }

    #[test]
    fn a_match_waits_only_for_those_that_may_bring_an_earlier_one() {
        let mut merge = Merge::new(2, false, 10);
        let page = |matches, reached: Option<u128>| SearchPage {
            matches,
            reached: reached.map(|run| RunId(Uuid::from_u128(run))),
        };
        merge.push(0, page(vec![row(0, (3, 7))], None));
        assert!(merge.next().is_none());
        merge.push(1, page(Vec::new(), Some(3)));
        assert!(merge.next().is_none());
        merge.push(1, page(Vec::new(), Some(4)));
        assert_eq!(merge.next(), Some(row(0, (3, 7))));
        merge.push(1, page(vec![row(1, (5, 1))], None));
        assert!(merge.next().is_none());
        merge.end(0);
        assert_eq!(merge.next(), Some(row(1, (5, 1))));
    }

    #[test]
    fn what_waits_is_bounded_and_has_room_again_once_it_went() {
        let mut merge = Merge::new(2, true, 10);
        let mut large = row(0, (1, 1));
        large.content = "x".repeat(Pages::MOST);
        merge.push(0, SearchPage { matches: vec![large], reached: None });
        assert!(!merge.has_room(0) && merge.has_room(1));
        merge.end(1);
        assert!(merge.next().is_some() && merge.has_room(0));
    }
}
