//! The output lane: sessions' bytes to those who watch, never further than each has granted.
//!
//! A watch reads the ring on disk at its own pace. A slow viewer holds up itself alone: neither
//! the agent nor another viewer, and no memory but one frame.

use crate::keeper::RunFolder;
use crate::link::Link;
use crate::session::{Found, Probed, Session, look};
use crate::task::{RunState, Shop};
use crate::terminal::ring::{Read, RingReader};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{TaskId, WatchId};
use hayward_shared::protocol::output::{Body, Frame, MAX_BODY};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Watches that one daemon serves at once; more are refused.
const MOST: usize = 256;
