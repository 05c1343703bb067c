//! What happened in a world, in order: for the checker as facts, for people and for comparing as
//! lines in which ids are names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// A machine: 0 is the relay's, the others are the daemons'.
pub type Host = usize;

/// The relay's machine.
pub const RELAY: Host = 0;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A machine was given a fault, or it ended.
    Fault(String),
    /// A daemon said this to the relay.
    Told(Host, String),
    /// Bytes of a daemon reached the relay.
    Heard(Host),
    /// The relay said this to a daemon.
    Answered(Host, String),
    /// An agent began to work for a run: machine, task, run.
    Born(Host, String, String),
    /// It ended.
    Died(Host, String, String),
    /// The relay took a user's cancel of a task.
    Cancelled(String),
    /// A user saw a task: id, status, daemon's id.
    Seen(String, String, String),
}

/// One fact, and when.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Milliseconds since the world began.
    pub at: u64,
    pub fact: Fact,
}

/// The book of a world. Clones share it.
#[derive(Clone, Debug)]
pub struct History {
    origin: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<Entry>,
    names: BTreeMap<String, String>,
}

impl History {
    pub fn new() -> Self {
        Self { origin: Instant::now(), inner: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the world began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn note(&self, fact: Fact) {
        let at = self.now();
        self.lock().entries.push(Entry { at, fact });
    }

    pub fn fault(&self, text: impl Into<String>) {
        self.note(Fact::Fault(text.into()));
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    /// The lines; two runs of a seed have the same ones.
    pub fn lines(&self) -> Vec<String> {
        let Inner { entries, names } = &mut *self.lock();
        let told = entries.iter().filter(|entry| !matches!(entry.fact, Fact::Heard(_)));
        told.map(|Entry { at, fact }| name_ids(&format!("{at:>7} {fact:?}"), names)).collect()
    }

    /// A text with names for ids, as the lines have them.
    pub fn named(&self, text: &str) -> String {
        name_ids(text, &mut self.lock().names)
    }
}

/// Ids and secrets are of the real world's randomness: each becomes the name of its first use.
fn name_ids(text: &str, names: &mut BTreeMap<String, String>) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let len = id_length(&bytes[at..]).or_else(|| secret_length(&bytes[at..]));
        let Some(len) = len else {
            let next = (at + 1..=bytes.len()).find(|n| text.is_char_boundary(*n));
            let next = next.unwrap_or(bytes.len());
            out.push_str(&text[at..next]);
            at = next;
            continue;
        };
        let known = names.len();
        let name = names.entry(text[at..at + len].to_owned());
        out.push_str(name.or_insert_with(|| format!("#{known}")));
        at += len;
    }
    out
}

/// The length of an id that `bytes` begin with.
fn id_length(bytes: &[u8]) -> Option<usize> {
    let id = bytes.get(..36)?;
    let dashes = [8, 13, 18, 23];
    let fits = |(n, byte): (usize, &u8)| {
        if dashes.contains(&n) { *byte == b'-' } else { byte.is_ascii_hexdigit() }
    };
    id.iter().enumerate().all(fits).then_some(36)
}

/// The length of a secret that `bytes` begin with.
fn secret_length(bytes: &[u8]) -> Option<usize> {
    let kind = bytes.get(..4)?;
    if !kind.starts_with(b"hw") || kind[3] != b'_' {
        return None;
    }
    let rest = bytes[4..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_');
    Some(4 + rest.count()).filter(|len| *len > 20)
}
