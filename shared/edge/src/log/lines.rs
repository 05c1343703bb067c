//! Events to lines, with the fields of the spans that they are in.

use super::line::{Fields, Said, write};
use super::{Format, daemon_of};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Writes each event as a line.
pub(super) struct Lines {
    format: Format,
    colours: bool,
    to: fn(&str),
}

impl Lines {
    pub(super) fn new(format: Format, colours: bool, to: fn(&str)) -> Self {
        Self { format, colours, to }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().replace(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.join(outer);
            }
        }
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        if !fields.has("daemon")
            && let Some(daemon) = daemon_of(target)
        {
            fields.add("daemon", daemon);
        }
        let mut time = String::new();
        // without a time it is still worth saying
        SystemTime.format_time(&mut Writer::new(&mut time)).unwrap_or_default();
        let said = Said { time: &time, level, target, fields: &fields };
        (self.to)(&write(&said, self.format, self.colours));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::cell::RefCell;
    use tracing::{error_span, field, info, warn};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{EnvFilter, Registry};

    thread_local! {
        static SAID: RefCell<Vec<Value>> = const { RefCell::new(Vec::new()) };
    }

    fn hear(line: &str) {
        let read = serde_json::from_str(line).unwrap();
        SAID.with_borrow_mut(|said| said.push(read));
    }

    fn heard(filter: &str, work: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::new(Format::Json, false, hear).with_filter(EnvFilter::new(filter));
        tracing::subscriber::with_default(Registry::default().with(lines), work);
        SAID.take()
    }

    #[test]
    fn a_line_bears_the_ids_of_all_the_spans_it_is_in() {
        let said = heard("info", || {
            let request = error_span!("request", request = "r-1", task = field::Empty);
            let _request = request.enter();
            info!("before");
            request.record("task", "t-1");
            let _run = error_span!("run", run = "n-1").entered();
            warn!(slots = 2, task = "t-2", "within");
        });
        let ids = |line: &Value| {
            ["request", "task", "run"].map(|id| line[id].as_str().unwrap_or("-").to_owned())
        };
        assert_eq!(
            said.iter().map(ids).collect::<Vec<_>>(),
            [["r-1", "-", "-"], ["r-1", "t-2", "n-1"]]
        );
        assert_eq!((&said[1]["slots"], &said[1]["message"]), (&2.into(), &"within".into()));
    }

    #[test]
    fn a_quiet_log_keeps_the_ids_of_what_it_says() {
        let said = heard("warn", || {
            let _run = error_span!("run", run = "n-1").entered();
            info!("not heard");
            warn!("heard");
        });
        assert_eq!(said.len(), 1);
        assert_eq!(said[0]["run"], "n-1");
    }

    #[test]
    fn no_field_says_what_the_line_says() {
        let said = heard("info", || {
            let _span = error_span!("link", message = "of the span").entered();
            let message = "nothing happened".to_owned();
            warn!(code = 7, message, "a peer complains");
            warn!("within");
        });
        let told = |line: &Value| [line["message"].clone(), line["message_"].clone()];
        assert_eq!(told(&said[0]), ["a peer complains", "nothing happened"]);
        assert_eq!(told(&said[1]), ["within", "of the span"]);
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open it")]
        struct Outer(#[source] std::io::Error);
        let said = heard("info", || {
            let error = Outer(std::io::Error::other("the disk is gone"));
            warn!(error = &error as &dyn std::error::Error, "left");
        });
        assert_eq!(said[0]["error"], "cannot open it: the disk is gone");
    }
}
