//! A user of the relay's HTTP interface. What is not answered is asked again.

use super::history::{Fact, History};
use super::network::{Net, USER};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

/// A user waits this long for an answer.
const PATIENCE: Duration = Duration::from_secs(12);

/// And this long before the next try.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct User {
    pub net: Net,
    pub history: History,
    pub token: String,
}

impl User {
    /// One request; none when it was not answered.
    pub async fn try_ask(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> Option<(u16, Value)> {
        timeout(PATIENCE, self.exchange(method, path, key, body)).await.ok().flatten()
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> Option<(u16, Value)> {
        let mut wire = self.net.dial(USER).await.ok()?;
        let key = key.map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
        let (token, len) = (&self.token, body.len());
        let request = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\
             authorization: Bearer {token}\r\ncontent-type: application/json\r\n{key}\
             content-length: {len}\r\n\r\n{body}"
        );
        wire.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        wire.read_to_end(&mut answer).await.ok()?;
        let text = String::from_utf8(answer).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
    }

    /// The same, until there is an answer that says no failure of the relay's own.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> (u16, Value) {
        loop {
            match self.try_ask(method, path, key, body).await {
                Some((status, answer)) if status < 500 => return (status, answer),
                _ => sleep(AGAIN).await,
            }
        }
    }

    /// Orders a task under an id of the user's own, so that asking twice makes one.
    pub async fn order(&self, id: &str, body: &str) {
        let (status, answer) = self.ask("POST", "/tasks", Some(id), body).await;
        assert!(matches!(status, 200 | 201), "a task was refused: {status} {answer}");
    }

    /// Cancels a task; it may have ended already.
    pub async fn cancel(&self, id: &str) {
        let (status, _) = self.ask("POST", &format!("/tasks/{id}/cancel"), None, "").await;
        if status == 200 {
            self.history.note(Fact::Cancelled(id.to_owned()));
        }
    }

    /// The tasks as the relay has them now; none when it does not answer.
    pub async fn look(&self) -> Option<Vec<Value>> {
        let (status, mut answer) = self.try_ask("GET", "/tasks?limit=100", None, "").await?;
        let tasks = answer.get_mut("tasks").map(Value::take)?;
        serde_json::from_value::<Vec<Value>>(tasks).ok().filter(|_| status == 200)
    }

    /// All events of a task.
    pub async fn events(&self, id: &str) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let since = all.len().checked_sub(1).map(|last| format!("&since={last}"));
            let path = format!("/tasks/{id}/events?limit=100{}", since.unwrap_or_default());
            let (_, mut answer) = self.ask("GET", &path, None, "").await;
            let page = answer.get_mut("events").map(Value::take).unwrap_or_default();
            let page: Vec<Value> = serde_json::from_value(page).unwrap_or_default();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }
}
