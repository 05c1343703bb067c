//! Matches for people, as they come.

use crate::cli::print::Output;
use crate::cli::print::escape::lines;
use crate::cli::print::tone::Tone;
use hayward_shared::fault::Fault;
use hayward_shared::search::SearchMatch;

/// Prints matches with the lines around them.
pub(super) struct Rows {
    out: Output,
    /// Whether lines around matches are shown: then a match waits for the next one, which may be
    /// one of them.
    around: bool,
    printed: Option<SearchMatch>,
    waiting: Option<SearchMatch>,
    count: u64,
}

impl Rows {
    /// None was printed yet.
    pub(super) fn new(out: Output, around: bool) -> Self {
        Self { out, around, printed: None, waiting: None, count: 0 }
    }

    /// The next match, in the order in which they are shown.
    pub(super) fn take(&mut self, found: SearchMatch) -> Result<(), Fault> {
        self.count += 1;
        if let Some(waiting) = self.waiting.take() {
            self.print(&waiting, Some(&found))?;
            self.printed = Some(waiting);
        }
        if self.around {
            self.waiting = Some(found);
        } else {
            self.print(&found, None)?;
            self.printed = Some(found);
        }
        Ok(())
    }

    /// There are no more; how many there were.
    pub(super) fn end(mut self) -> Result<u64, Fault> {
        if let Some(waiting) = self.waiting.take() {
            self.print(&waiting, None)?;
        }
        Ok(self.count)
    }

    /// A match with the lines around it, but for those that its neighbours show.
    fn print(&self, found: &SearchMatch, next: Option<&SearchMatch>) -> Result<(), Fault> {
        let same = |other: &&SearchMatch| other.run_id == found.run_id;
        let (last, next) = (self.printed.as_ref().filter(same), next.filter(same));
        let span = |one: &SearchMatch| {
            let first = one.line.saturating_sub(one.context_before.len() as u64);
            first..=one.line + one.context_after.len() as u64
        };
        let own = span(found);
        if last.is_none() {
            let text = format!("task {} · run {}", found.task_id.short(), found.run_id.short());
            self.out.line(Tone::Strong, &text)?;
        } else if let Some(last) = last.map(span)
            && self.around
            && (*own.start() > last.end() + 1 || *own.end() + 1 < *last.start())
        {
            self.out.line(Tone::Dim, "--")?;
        }
        // the match before shows its lines, the one after is a line of its own
        let free = |number: &u64| {
            last.is_none_or(|last| !span(last).contains(number))
                && next.is_none_or(|next| next.line != *number)
        };
        let row = |number: u64, mark: char, text: &str, tone: Tone| {
            // counted from the oldest line that is kept, for want of better
            let number = format!("{}{number}", if found.uncounted { "~" } else { "" });
            self.out.line(tone, &format!("{number:>7}{mark} {}", lines(text).join(" ")))
        };
        for (number, text) in (*own.start()..).zip(&found.context_before) {
            if free(&number) {
                row(number, '-', text, Tone::Dim)?;
            }
        }
        row(found.line, ':', &found.content, Tone::Plain)?;
        for (number, text) in (found.line + 1..).zip(&found.context_after) {
            if free(&number) && next.is_none_or(|next| next.line < found.line || number < next.line)
            {
                row(number, '-', text, Tone::Dim)?;
            }
        }
        Ok(())
    }
}
