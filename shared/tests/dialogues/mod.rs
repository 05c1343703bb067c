//! A dialogue that an older daemon and an older relay had, and who its placeholders are.
//!
//! A test plays one side of it to the present other side: it says what was said, and waits for all
//! that was answered. What the present side says besides is passed over, as the older peer does.

use hayward_shared::id::TaskId;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is of its day or its machine: only what kind of value it is must be the same.
const OF_ITS_DAY: [&str; 17] = [
    "ackedSeq",
    "at",
    "bytes",
    "freeBytes",
    "hostname",
    "labels",
    "lookedAt",
    "maxConcurrentTasks",
    "ms",
    "nextSeq",
    "pid",
    "runtimes",
    "seq",
    "sizeBytes",
    "time",
    "version",
    "why",
];

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its number in the file, from 1.
    pub number: usize,
    /// `daemon`, `relay`, `frame` (of the daemon's output lane), `user` (a request), `answer` (to
    /// it), `viewer` (a client's socket) or `link`.
    pub who: String,
    /// What is said.
    pub says: Value,
}

/// The dialogue of the last version that users have.
pub fn last() -> Vec<Line> {
    let read = |(number, line): (usize, &str)| {
        let (who, says) = line.split_once(' ').unwrap();
        Line { number: number + 1, who: who.to_owned(), says: serde_json::from_str(says).unwrap() }
    };
    include_str!("f1479ed.txt").lines().enumerate().map(read).collect()
}

/// The types of messages that version knew, `toDaemon` or `fromDaemon`.
pub fn known(family: &str) -> Vec<String> {
    let mut known: Value = serde_json::from_str(include_str!("f1479ed.json")).unwrap();
    serde_json::from_value(known[family].take()).unwrap()
}

/// Whether that version knew this one.
pub fn was_known(family: &str, kind: &str) -> bool {
    known(family).iter().any(|one| one == kind)
}

/// Who the placeholders `<name-1>` of a dialogue are this time.
#[derive(Clone, Debug, Default)]
pub struct Cast(BTreeMap<String, String>);

impl Cast {
    /// Says who one is.
    pub fn set(&mut self, name: &str, is: impl Into<String>) {
        self.0.insert(name.to_owned(), is.into());
    }

    /// Who one is.
    pub fn is(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("nobody is {name}"))
    }

    /// A line as it is said this time. Who is named first here gets a name of its kind.
    pub fn speak(&mut self, line: &Value) -> Value {
        match line {
            Value::String(text) => {
                for name in names(text) {
                    let fresh = fresh(name, self.0.len());
                    self.0.entry(name.to_owned()).or_insert(fresh);
                }
                self.told(text).into()
            }
            Value::Array(all) => all.iter().map(|one| self.speak(one)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(key, one)| (key.clone(), self.speak(one))).collect()
            }
            other => other.clone(),
        }
    }

    /// Whether `heard` says all that the line does; then whoever it names first is known.
    pub fn hears(&mut self, line: &Value, heard: &Value) -> bool {
        let before = self.0.clone();
        let fits = self.fits("", line, heard);
        if !fits {
            self.0 = before;
        }
        fits
    }

    fn fits(&mut self, key: &str, line: &Value, heard: &Value) -> bool {
        if OF_ITS_DAY.contains(&key) {
            return line.is_null() || std::mem::discriminant(line) == std::mem::discriminant(heard);
        }
        match (line, heard) {
            (Value::String(line), Value::String(heard)) => self.names(line, heard),
            // who can do more can do this
            (Value::Array(line), Value::Array(heard)) if key == "capabilities" => {
                line.iter().all(|one| heard.contains(one))
            }
            (Value::Array(line), Value::Array(heard)) => {
                line.len() == heard.len()
                    && line.iter().zip(heard).all(|(line, heard)| self.fits("", line, heard))
            }
            (Value::Object(line), Value::Object(heard)) => {
                // words for people beside what they tell of
                let is_worded = |key: &str| key == "message" && line.contains_key("success");
                line.iter()
                    .filter(|(key, _)| !is_worded(key))
                    .all(|(key, line)| self.fits(key, line, heard.get(key).unwrap_or(&Value::Null)))
            }
            (line, heard) => line == heard,
        }
    }

    fn names(&mut self, line: &str, heard: &str) -> bool {
        let told = self.told(line);
        match names(&told).first() {
            None => told == heard,
            Some(name) if *name == told => {
                let is_new = !self.0.values().any(|known| known == heard);
                self.0.insert(told, heard.to_owned());
                is_new
            }
            // words around someone who was not named before
            Some(_) => true,
        }
    }

    fn told(&self, text: &str) -> String {
        let mut told = text.to_owned();
        for name in names(text) {
            if let Some(is) = self.0.get(name) {
                told = told.replace(name, is);
            }
        }
        told
    }
}

/// The placeholders in a text.
fn names(text: &str) -> Vec<&str> {
    let starts = text.match_indices('<').filter_map(|(at, _)| {
        let end = at + text[at..].find('>')? + 1;
        let name = &text[at + 1..end - 1];
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (!name.is_empty() && name.chars().all(plain)).then_some(&text[at..end])
    });
    starts.collect()
}

/// A name for someone of whom only the placeholder is known.
fn fresh(name: &str, nth: usize) -> String {
    match name.trim_matches(['<', '>']).split('-').next().unwrap_or_default() {
        "commit" | "base" => format!("{nth:040x}"),
        "branch" => format!("hayward/made-{nth}"),
        "path" | "repository" => format!("/made/{nth}"),
        _ => TaskId::fresh().to_string(),
    }
}
