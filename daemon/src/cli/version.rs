//! `hayward version`.

use super::context::Context;
use super::print::tone::Tone;
use crate::exit::{End, Outcome};
use hayward_shared::protocol::PROTOCOL_VERSION;
use serde_json::json;

/// Prints the version. Starts nothing.
pub(crate) fn run(context: &Context) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    if context.out.json() {
        context.out.value(&json!({ "version": version, "protocol": PROTOCOL_VERSION }))?;
    } else {
        context.out.line(Tone::Plain, &format!("hayward {version}"))?;
    }
    Ok(End::Done)
}
