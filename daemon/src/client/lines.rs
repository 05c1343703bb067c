//! A search that is answered line by line.

use super::Query;
use super::http::Client;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::search::{LINES, SearchAnswer, SearchLine};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use std::collections::VecDeque;

/// The lines of an answer, as they come. Dropping it calls the search off.
pub(crate) struct Lines {
    client: Client,
    answer: reqwest::Response,
    /// The beginning of a line whose end has not come.
    part: Vec<u8>,
    /// Lines that came whole.
    whole: VecDeque<SearchLine>,
}

impl Client {
    /// `GET` of a search, answered as it goes on. One who does not know how answers at once, which
    /// is read as lines too.
    pub(crate) async fn lines(&self, path: &[&str], query: &Query) -> Result<Lines, Fault> {
        let answer = self.begin(self.ask(path, query).header(ACCEPT, LINES)).await?;
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let by_lines = kind.is_some_and(|kind| kind.starts_with(LINES));
        let (part, whole) = (Vec::new(), VecDeque::new());
        let mut lines = Lines { client: self.clone(), answer, part, whole };
        if !by_lines {
            lines.take_all().await?;
        }
        Ok(lines)
    }
}

impl Lines {
    /// The next line; none behind the last one. May be dropped while it waits: nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Option<SearchLine>, Fault> {
        while self.whole.is_empty() {
            let more =
                self.answer.chunk().await.map_err(|error| self.client.unreachable(&error))?;
            let Some(more) = more else { return Ok(None) };
            self.part.extend_from_slice(&more);
            let Some(end) = self.part.iter().rposition(|byte| *byte == b'\n') else { continue };
            let rest = self.part.split_off(end + 1);
            for line in self.part.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                self.whole.push_back(serde_json::from_slice(line).map_err(unreadable)?);
            }
            self.part = rest;
        }
        Ok(self.whole.pop_front())
    }

    /// The lines of an answer that came as one.
    async fn take_all(&mut self) -> Result<(), Fault> {
        let mut text = Vec::new();
        while let Some(more) =
            self.answer.chunk().await.map_err(|error| self.client.unreachable(&error))?
        {
            text.extend_from_slice(&more);
        }
        let SearchAnswer { matches, end } = serde_json::from_slice(&text).map_err(unreadable)?;
        self.whole.extend(matches.into_iter().map(SearchLine::Match));
        self.whole.push_back(SearchLine::End(end));
        Ok(())
    }
}

fn unreadable(error: serde_json::Error) -> Fault {
    Fault::new(Code::Incompatible, format!("the relay's answer cannot be read: {error}"))
        .with_hint("hayward status shows the versions of both sides")
}
