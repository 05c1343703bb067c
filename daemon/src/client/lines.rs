//! A search that is answered line by line.

use super::Query;
use super::http::Client;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::search::{LINES, SearchAnswer, SearchLine};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use std::collections::VecDeque;

/// The lines of an answer, as they come. Dropping it calls the search off.
pub(crate) struct Lines {
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
        let mut lines = Lines { answer, part, whole };
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
            let Some(more) = self.answer.chunk().await.map_err(broken_off)? else {
                return Ok(None);
            };
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
        while let Some(more) = self.answer.chunk().await.map_err(broken_off)? {
            text.extend_from_slice(&more);
        }
        let SearchAnswer { matches, end } = serde_json::from_slice(&text).map_err(unreadable)?;
        self.whole.extend(matches.into_iter().map(SearchLine::Match));
        self.whole.push_back(SearchLine::End(end));
        Ok(())
    }
}

fn broken_off(error: reqwest::Error) -> Fault {
    Fault::new(Code::Unavailable, format!("the answer broke off: {}", error.without_url()))
}

fn unreadable(error: serde_json::Error) -> Fault {
    Fault::new(Code::Incompatible, format!("the relay's answer cannot be read: {error}"))
        .with_hint("hayward status shows the versions of both sides")
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;
    use reqwest::Url;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    /// What is read of an answer of this kind that comes in parts of so many bytes.
    async fn read(kind: &str, body: &str, part: usize) -> Result<Vec<SearchLine>, Fault> {
        // it is there already when another test was first
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\n\r\n");
        let body = body.to_owned();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.set_nodelay(true).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            body.as_bytes().chunks(part).for_each(|part| stream.write_all(part).unwrap());
        });
        let client = Client::new(Place { url, token: String::new() }).unwrap();
        let mut lines = client.lines(&["search"], &[]).await?;
        let mut all = Vec::new();
        while let Some(line) = lines.next().await? {
            all.push(line);
        }
        server.join().unwrap();
        Ok(all)
    }

    #[tokio::test]
    async fn lines_are_read_however_they_are_cut_and_a_whole_answer_as_the_same_lines() {
        let id = "01939d3a-7c00-7000-8000-0000000000a1";
        let found = format!(
            r#"{{"taskId":"{id}","runId":"{id}","line":1,"offset":0,"content":"猫","contextBefore":[],"contextAfter":[]}}"#
        );
        let end = r#""total":2,"truncated":false,"searched":{"runs":1,"bytes":9,"ms":1},"unsearched":[],"unanswered":[],"source":"ring""#;
        let by_lines =
            format!("{{\"match\":{found}}}\n{{\"match\":{found}}}\n{{\"end\":{{{end}}}}}\n");
        let expected = read(LINES, &by_lines, usize::MAX).await.unwrap();
        assert!(
            matches!(&expected[..], [SearchLine::Match(_), SearchLine::Match(one), SearchLine::End(_)] if one.content == "猫")
        );
        for part in [1, 7, 300] {
            assert_eq!(read(LINES, &by_lines, part).await.unwrap(), expected);
        }
        let whole = format!(r#"{{"matches":[{found},{found}],{end}}}"#);
        assert_eq!(read("application/json", &whole, 100).await.unwrap(), expected);
        let other = read("text/html", "<html>", 10).await.unwrap_err();
        assert_eq!(other.code, Code::Incompatible);
    }
}
