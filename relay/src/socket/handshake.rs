//! The first message of a daemon: who may come in, and as what. Pure.

use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::DaemonId;
use hayward_shared::protocol::{
    Authenticate, Authenticated, Capability, DecodeError, FromDaemon, MAX_PREAUTH, OURS,
    PROTOCOL_VERSION, decode, missing, worded,
};

/// What a peer that names the wire's version must be able to do.
const NEEDED: [Capability; 2] = [Capability::Outbox, Capability::Claim];

/// How the relay treats a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manners {
    /// It speaks the seed's protocol alone: no acks, and work is pushed to it.
    pub(crate) plain: bool,
    /// It answers commands with `reply`.
    pub(crate) replies: bool,
    /// It shows terminals.
    pub(crate) terminals: bool,
    /// It sends what a search finds as it finds it, and ends one that is called off.
    pub(crate) streams: bool,
    /// It ends agents by itself before their tasks are handed over.
    pub(crate) fences: bool,
    /// It tells of its background work.
    pub(crate) jobs: bool,
}

/// Reads the first frame: an `authenticate` of a peer that we can serve, or why not.
pub(crate) fn read(text: &str) -> Result<(Authenticate, Manners), Fault> {
    let hello = match decode::<FromDaemon>(text, MAX_PREAUTH) {
        Ok(message) => match message.body {
            FromDaemon::Authenticate(hello) => hello,
            _ => return Err(refusal()),
        },
        Err(DecodeError::TooLarge { .. }) => {
            return Err(Fault::new(Code::TooLarge, "the first message is over 64 KiB"));
        }
        Err(_) => return Err(refusal()),
    };
    let manners = manners(&hello)?;
    Ok((hello, manners))
}

/// The one answer to all that is not a good hello.
pub(crate) fn refusal() -> Fault {
    Fault::new(Code::Unauthorized, "the first message must be a valid authenticate")
}

fn manners(hello: &Authenticate) -> Result<Manners, Fault> {
    let can = |ability| hello.capabilities.contains(&ability);
    let (replies, terminals) = (can(Capability::Replies), can(Capability::Terminals));
    let streams = replies && can(Capability::SearchStreams);
    let (fences, jobs) = (can(Capability::SelfFence), can(Capability::Jobs));
    let of_kind = |plain| Manners { plain, replies, terminals, streams, fences, jobs };
    let Some(version) = hello.protocol_version else {
        return Ok(of_kind(true));
    };
    let lacking = missing(&NEEDED, &hello.capabilities);
    if lacking.is_empty() {
        return Ok(of_kind(false));
    }
    Err(Fault::new(
        Code::Incompatible,
        format!(
            "the daemon {} (protocol {version}) lacks {} that the relay {} (protocol \
             {PROTOCOL_VERSION}) needs",
            hello.version.as_deref().unwrap_or("of unknown version"),
            worded(&lacking),
            env!("CARGO_PKG_VERSION"),
        ),
    ))
}

/// The welcome; a plain peer gets the seed's one field.
pub(crate) fn welcome(daemon: DaemonId, manners: Manners, acked: Option<u64>) -> Authenticated {
    let ours = !manners.plain;
    Authenticated {
        daemon_id: daemon,
        protocol_version: ours.then_some(PROTOCOL_VERSION),
        version: ours.then(|| env!("CARGO_PKG_VERSION").to_owned()),
        capabilities: if ours { OURS.to_vec() } else { Vec::new() },
        acked_seq: acked.filter(|_| ours),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn hello(extra: &Value) -> String {
        let mut base = json!({
            "type": "authenticate", "apiKey": "hwd_x", "hostname": "h", "maxConcurrentTasks": 2,
            "machineId": "01939d3a-7c00-7000-8000-0000deadbeef",
        });
        for (key, value) in extra.as_object().unwrap() {
            base[key] = value.clone();
        }
        base.to_string()
    }

    #[test]
    fn a_plain_peer_is_served_and_one_of_ours_must_offer_what_is_needed() {
        let (_, plain) = read(&hello(&json!({}))).unwrap();
        assert!(plain.plain && !plain.replies);
        let all = json!({"protocolVersion": 1, "capabilities": ["outbox", "claim", "replies"]});
        let (_, ours) = read(&hello(&all)).unwrap();
        assert!(!ours.plain && ours.replies);
        let poor = json!({"protocolVersion": 7, "version": "9.9", "capabilities": ["outbox"]});
        let fault = read(&hello(&poor)).unwrap_err();
        assert_eq!(fault.code, Code::Incompatible);
        for part in ["9.9", "7", "claim", env!("CARGO_PKG_VERSION")] {
            assert!(fault.message.contains(part), "{}", fault.message);
        }
    }

    #[test]
    fn f35_what_is_no_hello_gets_one_answer() {
        let beat = r#"{"type":"heartbeat","activeTasks":[]}"#;
        for text in ["", "{", "[]", r#"{"type":"dance"}"#, beat] {
            assert_eq!(read(text).unwrap_err(), refusal(), "{text}");
        }
        let long = hello(&json!({"hostname": "h".repeat(MAX_PREAUTH)}));
        assert_eq!(read(&long).unwrap_err().code, Code::TooLarge);
    }
}
