//! The relay's HTTP interface: requests, answers and faults.

use super::finder::Place;
use crate::exit::chain;
use hayward_daemon::home::Home;
use hayward_daemon::line;
use hayward_shared::fault::{Code, Fault, FaultBody};
use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

/// A relay that does not take the connection by then is away.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest answer: the relay itself waits up to 10 s for a daemon.
const ANSWER: Duration = Duration::from_secs(30);

/// The longest answer where much is done for it: a push may last a quarter of an hour.
const PATIENT: Duration = Duration::from_secs(17 * 60);

/// Rows that are asked for at once: the most that the relay gives.
const PAGE: &str = "200";

/// Speaks to one relay as one user.
#[derive(Clone)]
pub(crate) struct Client {
    place: Place,
    http: reqwest::Client,
    /// Keeps the way to a socket good.
    _folder: Option<Arc<File>>,
}

/// An answer as it came, so that programs see also what this version does not know, and as read.
#[derive(Clone, Debug)]
pub(crate) struct Doc<T> {
    /// As it came.
    pub(crate) raw: Value,
    /// As read.
    pub(crate) body: T,
}

impl<T: DeserializeOwned> Doc<T> {
    /// Reads an answer.
    pub(crate) fn read(raw: Value) -> Result<Self, Fault> {
        Ok(Self { body: read(&raw)?, raw })
    }
}

/// Reads a part of an answer.
pub(crate) fn read<T: DeserializeOwned>(raw: &Value) -> Result<T, Fault> {
    T::deserialize(raw).map_err(|error| {
        Fault::new(Code::Incompatible, format!("the relay's answer cannot be read: {error}"))
            .with_hint("hayward status shows the versions of both sides")
    })
}

/// The array under this name in an answer; none when it is not there.
pub(crate) fn array(answer: &mut Value, name: &str) -> Vec<Value> {
    match answer.get_mut(name).map(Value::take) {
        Some(Value::Array(rows)) => rows,
        _ => Vec::new(),
    }
}

/// Words of a query: name and value.
pub(crate) type Query = [(&'static str, String)];

impl Client {
    /// A client of this relay. Connects only when it is asked something.
    pub(crate) fn new(place: Place) -> Result<Self, Fault> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            // the WebSocket knows no proxy, so neither does this
            .no_proxy()
            .user_agent(concat!("hayward/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Fault::new(Code::Failed, chain(&error)))?;
        Ok(Self { place, http, _folder: None })
    }

    /// A client of the daemon that runs on this state folder, by its own socket.
    pub(crate) fn of_daemon(home: &Home) -> Result<Self, Fault> {
        let failed = |text: String| Fault::new(Code::Unavailable, text);
        let (socket, folder) = line::short(&home.socket()).map_err(|e| failed(e.to_string()))?;
        let http = reqwest::Client::builder().timeout(ANSWER).unix_socket(socket).build();
        let http = http.map_err(|error| failed(chain(&error)))?;
        let url = Url::parse("http://daemon/").map_err(|error| failed(error.to_string()))?;
        let place = Place { url, token: String::new() };
        Ok(Self { place, http, _folder: folder.map(Arc::new) })
    }

    /// `GET`.
    pub(crate) async fn get(&self, path: &[&str], query: &Query) -> Result<Value, Fault> {
        self.send(self.ask(path, query)).await
    }

    /// A `GET` that was not sent yet.
    pub(super) fn ask(&self, path: &[&str], query: &Query) -> reqwest::RequestBuilder {
        self.http.request(Method::GET, self.address(path, query))
    }

    /// `POST` with a body, or with none.
    pub(crate) async fn post<B: Serialize + Sync>(
        &self,
        path: &[&str],
        body: Option<&B>,
    ) -> Result<Value, Fault> {
        let request = self.http.request(Method::POST, self.address(path, &[]));
        self.send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// `POST` of a new thing under a key that makes a repeated request harmless.
    pub(crate) async fn post_once<B: Serialize + Sync>(
        &self,
        path: &[&str],
        key: &str,
        body: &B,
    ) -> Result<Value, Fault> {
        let request = self.http.request(Method::POST, self.address(path, &[]));
        self.send(request.header("Idempotency-Key", key).json(body)).await
    }

    /// `GET` of a list that relays of an older version do not have; `what` it lists.
    pub(crate) async fn get_newer(
        &self,
        what: &str,
        path: &[&str],
        query: &Query,
    ) -> Result<Value, Fault> {
        match self.get(path, query).await {
            // a list may be empty, but it is always there
            Err(fault) if fault.code == Code::NotFound => Err(self.too_old(what).await),
            answer => answer,
        }
    }

    async fn too_old(&self, what: &str) -> Fault {
        let health = self.get(&["health"], &[]).await.unwrap_or_default();
        let theirs = health.get("version").and_then(Value::as_str);
        let text = format!(
            "the relay {} lacks {what} that this hayward {} asks for",
            theirs.unwrap_or("of unknown version"),
            env!("CARGO_PKG_VERSION"),
        );
        Fault::new(Code::Incompatible, text).with_hint("upgrade the relay")
    }

    /// `GET` of something that takes its time to know.
    pub(crate) async fn get_patiently(&self, path: &[&str], query: &Query) -> Result<Value, Fault> {
        let request = self.http.request(Method::GET, self.address(path, query));
        self.send(request.timeout(PATIENT)).await
    }

    /// `POST` of something that takes its time: an answer is waited for as long as the relay waits.
    pub(crate) async fn post_patiently<B: Serialize + Sync>(
        &self,
        path: &[&str],
        body: &B,
    ) -> Result<Value, Fault> {
        let request = self.http.request(Method::POST, self.address(path, &[]));
        self.send(request.timeout(PATIENT).json(body)).await
    }

    /// `PATCH`.
    pub(crate) async fn patch<B: Serialize + Sync>(
        &self,
        path: &[&str],
        body: &B,
    ) -> Result<Value, Fault> {
        self.send(self.http.request(Method::PATCH, self.address(path, &[])).json(body)).await
    }

    /// `DELETE`.
    pub(crate) async fn delete(&self, path: &[&str]) -> Result<Value, Fault> {
        self.send(self.http.request(Method::DELETE, self.address(path, &[]))).await
    }

    /// All rows of a list, through all its pages.
    pub(crate) async fn all(
        &self,
        path: &[&str],
        query: &Query,
        name: &str,
    ) -> Result<Vec<Value>, Fault> {
        let mut rows = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut words = query.to_vec();
            words.push(("limit", PAGE.to_owned()));
            words.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let mut page = self.get(path, &words).await?;
            rows.append(&mut array(&mut page, name));
            match page.get("nextCursor").and_then(Value::as_str) {
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok(rows),
            }
        }
    }

    fn address(&self, path: &[&str], query: &Query) -> Url {
        let mut url = self.place.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Sends a request; its answer, whose body has not come yet, unless it is refused.
    pub(super) async fn begin(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, Fault> {
        let request = request.bearer_auth(&self.place.token);
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        Err(refusal(status.as_u16(), &body))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, Fault> {
        let answer = self.begin(request).await?;
        let body = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|_| {
            let url = self.place.shown();
            Fault::new(Code::Incompatible, format!("what answers at {url} is no relay of Hayward"))
        })
    }

    pub(super) fn unreachable(&self, error: &reqwest::Error) -> Fault {
        let url = self.place.shown();
        let why = match (error.is_timeout(), std::error::Error::source(error)) {
            (true, _) => "it does not answer in time".to_owned(),
            (false, Some(cause)) => innermost(cause),
            (false, None) => error.to_string(),
        };
        Fault::new(Code::Unavailable, format!("cannot reach the relay at {url}: {why}"))
            .with_hint("is it running? start it with hayward up, or name another with --relay")
    }
}

/// The last cause: the one that the system told.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// The fault that an answer carries; one of its status where it carries none.
fn refusal(status: u16, body: &[u8]) -> Fault {
    let fault = serde_json::from_slice::<FaultBody>(body).map_or_else(
        |_| Fault::new(by_status(status), format!("the relay answered with status {status}")),
        |body| body.error,
    );
    let hint = match fault.code {
        // the relay's own hint is for those who speak HTTP themselves
        Code::Unauthorized => {
            "check --token, HAYWARD_TOKEN or the file 'token' of the state folder"
        }
        _ if fault.hint.is_some() => return fault,
        Code::DaemonOffline => "hayward status shows which daemons are online",
        _ => return fault,
    };
    fault.with_hint(hint)
}

fn by_status(status: u16) -> Code {
    match status {
        400 => Code::Invalid,
        401 => Code::Unauthorized,
        403 => Code::Forbidden,
        404 => Code::NotFound,
        409 => Code::Conflict,
        410 => Code::Gone,
        413 => Code::TooLarge,
        429 => Code::RateLimited,
        502..=504 => Code::Unavailable,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Client {
        drop(rustls::crypto::ring::default_provider().install_default());
        Client::new(Place { url: url.parse().unwrap(), token: "t".into() }).unwrap()
    }

    #[test]
    fn addresses_are_escaped_and_keep_the_path_of_the_relay() {
        let address = client("https://a.example/relay/")
            .address(&["api", "v1", "tasks", "../x"], &[("label", "a=b c".into())]);
        let expected = "https://a.example/relay/api/v1/tasks/..%2Fx?label=a%3Db+c";
        assert_eq!(address.as_str(), expected);
        let address = client("http://127.0.0.1:1").address(&["health"], &[]);
        assert_eq!(address.as_str(), "http://127.0.0.1:1/health");
    }

    #[test]
    fn a_refusal_is_the_fault_of_the_body_else_one_of_its_status() {
        let body = br#"{"error":{"code":"not_found","message":"no task beef","retryable":false}}"#;
        assert_eq!(refusal(404, body).message, "no task beef");
        assert_eq!(refusal(503, b"<html>").code, Code::Unavailable);
        assert!(refusal(401, b"").hint.is_some());
    }

    #[tokio::test]
    async fn a_relay_that_is_away_is_unreachable() {
        let fault = client("http://127.0.0.1:1").get(&["health"], &[]).await.unwrap_err();
        assert_eq!(fault.code, Code::Unavailable);
        assert!(fault.message.contains("refused"), "{}", fault.message);
    }
}
