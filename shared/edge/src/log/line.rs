//! How a line of the log looks.

use super::Format;
use serde_json::Value;
use std::fmt::{Debug, Write};
use tracing::Level;
use tracing::field::{Field, Visit};

/// The most bytes of one value: a line stays one that can be read.
const MAX_VALUE: usize = 8 * 1024;

/// What each line has, which no field may stand in for.
const OWN: [&str; 4] = ["time", "level", "target", "message"];

/// What an event calls its sentence.
const SENTENCE: &str = "message";

/// What a field is called that is named as the sentence is: it must not say what the line says.
const BESIDE_IT: &str = "message_";

/// The fields of an event or a span, in their order; of two with one name the later counts. An event's
/// sentence comes before its fields, and stays.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn set(&mut self, name: &'static str, value: Value) {
        let name = if name == SENTENCE && self.has(SENTENCE) { BESIDE_IT } else { name };
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }

    fn text(&mut self, field: &Field, mut text: String) {
        if text.len() > MAX_VALUE {
            text.truncate(text.floor_char_boundary(MAX_VALUE));
            text.push('…');
        }
        self.set(field.name(), Value::String(text));
    }

    /// Adds those of `other` that it does not have.
    pub(super) fn join(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            let name = if *name == SENTENCE { BESIDE_IT } else { *name };
            if !self.has(name) {
                self.0.push((name, value.clone()));
            }
        }
    }

    /// Whether it has a field of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    /// Adds one.
    pub(super) fn add(&mut self, name: &'static str, text: String) {
        self.set(name, Value::String(text));
    }

    fn message(&self) -> &str {
        let message = self.0.iter().find(|(name, _)| *name == SENTENCE);
        message.and_then(|(_, value)| value.as_str()).unwrap_or_default()
    }

    fn others(&self) -> impl Iterator<Item = &(&'static str, Value)> {
        self.0.iter().filter(|(name, _)| *name != SENTENCE)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            // a string takes all that is written to it
            write!(text, ": {cause}").unwrap_or_default();
            source = cause.source();
        }
        self.text(field, text);
    }
}

/// What is said, of what part of the program, when.
pub(super) struct Said<'a> {
    pub(super) time: &'a str,
    pub(super) level: Level,
    pub(super) target: &'a str,
    pub(super) fields: &'a Fields,
}

/// The line, with its end.
pub(super) fn write(said: &Said<'_>, format: Format, colours: bool) -> String {
    let mut line = match format {
        Format::Text => text(said, colours),
        Format::Json => json(said),
    };
    line.push('\n');
    line
}

fn json(said: &Said<'_>) -> String {
    let level = said.level.as_str().to_ascii_lowercase();
    let own = [said.time, level.as_str(), said.target, said.fields.message()];
    let mut line = String::from("{");
    for (name, value) in OWN.into_iter().zip(own) {
        entry(&mut line, name, &value.into());
    }
    for (name, value) in said.fields.others() {
        match OWN.contains(name) {
            true => entry(&mut line, &format!("{name}_"), value),
            false => entry(&mut line, name, value),
        }
    }
    line.push('}');
    line
}

fn entry(line: &mut String, name: &str, value: &Value) {
    if line.len() > 1 {
        line.push(',');
    }
    // a string takes all that is written to it
    write!(line, "{}:{value}", Value::from(name)).unwrap_or_default();
}

fn text(said: &Said<'_>, colours: bool) -> String {
    let Said { time, level, target, fields } = said;
    let mut line = String::new();
    let (dim, end) = if colours { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    let tone = match *level {
        _ if !colours => "",
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[34m",
    };
    // a string takes all that is written to it
    write!(line, "{dim}{time}{end} {tone}{level:>5}{end} {dim}{target}:{end} ").unwrap_or_default();
    plain(&mut line, fields.message());
    for (name, value) in fields.others() {
        write!(line, " {dim}{name}={end}").unwrap_or_default();
        match value {
            Value::String(text) if is_a_word(text) => line.push_str(text),
            Value::String(text) => write!(line, "{text:?}").unwrap_or_default(),
            other => write!(line, "{other}").unwrap_or_default(),
        }
    }
    line
}

/// Whether it stands for itself without quotes.
fn is_a_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"')
}

/// Appends a text so that it stays within its line and moves no cursor.
fn plain(line: &mut String, text: &str) {
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(all: &[(&'static str, Value)]) -> Fields {
        let mut fields = Fields::default();
        all.iter().for_each(|(name, value)| fields.set(name, value.clone()));
        fields
    }

    fn line(fields: &Fields, format: Format, colours: bool) -> String {
        let time = "2026-01-02T03:04:05.000006Z";
        let said = Said { time, level: Level::WARN, target: "hayward_relay::sweep", fields };
        write(&said, format, colours)
    }

    #[test]
    fn a_line_of_json_is_one_object_whatever_is_in_it() {
        let odd = "two\nlines \"and\" \u{1b}[31m";
        let said = fields(&[("message", odd.into()), ("task", "t".into()), ("level", 7.into())]);
        let line = line(&said, Format::Json, true);
        assert_eq!(line.matches('\n').count(), 1);
        let read: Value = serde_json::from_str(&line).unwrap();
        let time = "2026-01-02T03:04:05.000006Z";
        let whole = json!({
            "time": time, "level": "warn", "target": "hayward_relay::sweep", "message": odd,
            "task": "t", "level_": 7,
        });
        assert_eq!(read, whole);
        assert!(line.starts_with("{\"time\":"), "{line}");
    }

    #[test]
    fn a_line_of_text_is_one_line_and_moves_no_cursor() {
        let said = fields(&[
            ("message", "a\nb\u{1b}[2J".into()),
            ("task", "4be2".into()),
            ("why", "no room\n".into()),
            ("slots", 3.into()),
        ]);
        let text = line(&said, Format::Text, false);
        let told = "2026-01-02T03:04:05.000006Z  WARN hayward_relay::sweep: a\\nb\\u{1b}[2J \
                    task=4be2 why=\"no room\\n\" slots=3\n";
        assert_eq!(text, told);
        assert!(line(&said, Format::Text, true).contains("\x1b[33m WARN\x1b[0m"));
    }

    #[test]
    fn of_fields_with_one_name_the_nearest_counts() {
        let mut said = fields(&[("task", "own".into())]);
        said.join(&fields(&[("task", "of the span".into()), ("run", "r".into())]));
        assert_eq!(said.0, [("task", json!("own")), ("run", json!("r"))]);
    }
}
