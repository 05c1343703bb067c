//! Limits: how much of a workspace runs at once, how far a task may be split up, and for how long
//! nobody asks a provider that refused. Pure.
//!
//! A claim asks in its own transaction, behind a lock of the workspace where others write too: two
//! claims at once never pass one limit together.

use hayward_shared::task::{Reason, Status};
use hayward_shared::time::Timestamp;
use std::collections::BTreeMap;

/// A tree of tasks goes so deep when nothing is said: parts, and parts of parts.
const DEPTH: u32 = 2;

/// Tasks of one tree when nothing is said: more than a person follows, less than a loop makes.
const TREE: u32 = 100;

/// The first pause after a provider refused: its shortest windows are of seconds.
const FIRST_PAUSE_MS: i64 = 5_000;

/// The longest pause that is not told by the provider: its rate windows are of minutes.
const LONGEST_PAUSE_MS: i64 = 300_000;

/// After a pause one run tries first. When nothing is heard of it for so long, the others follow:
/// it is not refused.
pub(crate) const PROBE_MS: i64 = 60_000;

/// A refusal this long after the last pause is the first of a new row.
const FORGIVEN_MS: i64 = 600_000;

/// A quota that comes back later than this is one that was told wrongly: a month, the longest that
/// is sold, and a day.
pub(crate) const LONGEST_QUOTA_MS: i64 = 32 * 24 * 3_600_000;

/// What each workspace may have at once, and how far its tasks may be split up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Runs of a workspace; none: no bound but the daemons' places.
    pub workspace: Option<u32>,
    /// Runs of an agent in a workspace, by its name.
    pub agents: BTreeMap<String, u32>,
    /// Runs of all agents that ask this provider, by its name.
    pub providers: BTreeMap<String, u32>,
    /// How deep parts of tasks go: 1 lets a task have parts, and those none.
    pub depth: u32,
    /// Tasks of one tree, the first one included.
    pub tree: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            workspace: None,
            agents: BTreeMap::new(),
            providers: BTreeMap::new(),
            depth: DEPTH,
            tree: TREE,
        }
    }
}

/// A limit that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no limit: write workspace=N, agent:NAME=N, provider:NAME=N, depth=N or tree=N, \
     N at least 1"
)]
pub struct NotALimit(String);

impl Limits {
    /// Sets the limit that `text` names, as `agent:claude=4`.
    ///
    /// # Errors
    /// [`NotALimit`]; nothing is set then.
    pub fn set(&mut self, text: &str) -> Result<(), NotALimit> {
        let wrong = || NotALimit(text.to_owned());
        let (what, most) = text.rsplit_once('=').ok_or_else(wrong)?;
        let most = most.parse().ok().filter(|most| *most > 0).ok_or_else(wrong)?;
        match what.split_once(':') {
            Some(("agent", name)) if !name.is_empty() => {
                self.agents.insert(name.to_owned(), most);
            }
            Some(("provider", name)) if !name.is_empty() => {
                self.providers.insert(name.to_owned(), most);
            }
            None if what == "workspace" => self.workspace = Some(most),
            None if what == "depth" => self.depth = most,
            None if what == "tree" => self.tree = most,
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Whether any of them bounds what runs at once.
    pub(crate) fn count(&self) -> bool {
        self.workspace.is_some() || !self.agents.is_empty() || !self.providers.is_empty()
    }
}

/// The runs under way of an agent and its provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnderWay {
    pub(crate) agent: Option<String>,
    pub(crate) provider: Option<String>,
    pub(crate) runs: u32,
}

/// That a provider refused: nobody asks it before `until`, and then one run alone tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) provider: String,
    pub(crate) until: Timestamp,
    /// Refusals in a row.
    pub(crate) strikes: u32,
    /// Whether a run tries it again.
    pub(crate) probed: bool,
}

impl Backoff {
    /// Whether it ends later than any that was noted by a clock that is right. It counts for nothing.
    fn is_mad(&self, now: Timestamp) -> bool {
        self.until.since(now) > LONGEST_QUOTA_MS
    }

    /// Until when it matters at all.
    pub(crate) fn over(&self) -> Timestamp {
        self.until.plus_millis(PROBE_MS)
    }

    /// When somebody may ask next, seen from `now`; none when that is now.
    pub(crate) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let next = if self.probed { self.over() } else { self.until };
        (next > now && !self.is_mad(now)).then_some(next)
    }
}

/// What a refusal makes of what is known of its provider. `told` is when its quota comes back, where
/// that is known; `roll` in 0..1 spreads what starts again.
pub(crate) fn struck(
    known: Option<Backoff>,
    provider: &str,
    told: Option<Timestamp>,
    now: Timestamp,
    roll: f64,
) -> Backoff {
    let told = told.filter(|at| *at > now).map(|at| at.min(now.plus_millis(LONGEST_QUOTA_MS)));
    let known = known.filter(|known| now.since(known.until) < FORGIVEN_MS && !known.is_mad(now));
    let (strikes, until) = match known {
        // a run that was under way when another was refused tells nothing new
        Some(known) if known.until > now => (known.strikes, known.until),
        known => {
            let strikes = known.map_or(1, |known| known.strikes.saturating_add(1));
            let doubled = FIRST_PAUSE_MS << (strikes - 1).min(16);
            let pause = doubled.min(LONGEST_PAUSE_MS);
            // never shorter than half of it: the provider counts whoever comes too early
            #[expect(clippy::cast_possible_truncation, reason = "it is below the longest pause")]
            let spread = (pause as f64 * 0.5 * roll) as i64;
            (strikes, now.plus_millis(pause - spread))
        }
    };
    let until = told.map_or(until, |told| told.max(until));
    Backoff { provider: provider.to_owned(), until, strikes, probed: false }
}

/// Whether a run that ended so was refused by its provider for its rate or quota.
pub(crate) fn is_refusal(status: Status, reason: Option<Reason>) -> bool {
    matches!(status, Status::Deferred | Status::Failed)
        && matches!(reason, Some(Reason::ProviderRateLimited | Reason::Quota))
}

/// What keeps a task from being handed out, to whomever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// The workspace has all the runs that it may.
    Workspace(u32),
    /// This agent has.
    Agent(String, u32),
    /// This provider has.
    Provider(String, u32),
    /// Nobody asks this provider before that moment.
    Backoff(String, Timestamp),
    /// One run tries the provider; the others follow then at the latest.
    Probed(String, Timestamp),
}

/// How a workspace stands against its limits at one moment.
#[derive(Debug)]
pub(crate) struct Gauge<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) under_way: Vec<UnderWay>,
    pub(crate) backoffs: Vec<Backoff>,
    pub(crate) now: Timestamp,
}

impl Gauge<'_> {
    /// What keeps every task from being handed out.
    pub(crate) fn whole(&self) -> Option<Barrier> {
        let most = self.limits.workspace?;
        (self.runs(|_| true) >= most).then_some(Barrier::Workspace(most))
    }

    /// What keeps a run of this agent, which asks this provider, from being handed out.
    pub(crate) fn barrier(&self, agent: Option<&str>, provider: Option<&str>) -> Option<Barrier> {
        let of_agent = || {
            let (agent, most) = self.limits.agents.get_key_value(agent?)?;
            let runs = self.runs(|one| one.agent.as_ref() == Some(agent));
            (runs >= *most).then(|| Barrier::Agent(agent.clone(), *most))
        };
        let of_provider = || {
            let (provider, most) = self.limits.providers.get_key_value(provider?)?;
            let runs = self.runs(|one| one.provider.as_ref() == Some(provider));
            (runs >= *most).then(|| Barrier::Provider(provider.clone(), *most))
        };
        self.whole().or_else(|| self.refused(provider?)).or_else(of_agent).or_else(of_provider)
    }

    fn refused(&self, provider: &str) -> Option<Barrier> {
        let backoff = self.backoffs.iter().find(|one| one.provider == provider)?;
        let next = backoff.next(self.now)?;
        let make = if backoff.probed { Barrier::Probed } else { Barrier::Backoff };
        Some(make(provider.to_owned(), next))
    }

    /// Whether a run of this provider that is handed out now tries it first.
    pub(crate) fn is_probe(&self, provider: &str) -> bool {
        let tries = |one: &Backoff| one.provider == provider && !one.probed;
        let counts = |one: &Backoff| one.over() > self.now && !one.is_mad(self.now);
        self.backoffs.iter().any(|one| tries(one) && counts(one))
    }

    /// Another run tries this provider.
    pub(crate) fn is_probed(&mut self, provider: &str) {
        let of = self.backoffs.iter_mut().filter(|one| one.provider == provider);
        of.for_each(|one| one.probed = true);
    }

    fn runs(&self, of: impl Fn(&UnderWay) -> bool) -> u32 {
        self.under_way.iter().filter(|one| of(one)).map(|one| one.runs).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::tests::at;
    use proptest::prelude::*;

    fn gauge<'a>(limits: &'a Limits, runs: &[(&str, Option<&str>, u32)]) -> Gauge<'a> {
        let under_way = runs
            .iter()
            .map(|(agent, provider, runs)| UnderWay {
                agent: Some((*agent).into()),
                provider: provider.map(str::to_owned),
                runs: *runs,
            })
            .collect();
        Gauge { limits, under_way, backoffs: vec![], now: at(1_000_000) }
    }

    fn limits(texts: &[&str]) -> Limits {
        let mut limits = Limits::default();
        texts.iter().for_each(|text| limits.set(text).unwrap());
        limits
    }

    #[test]
    fn a_limit_is_read_by_its_name_and_nothing_else_is() {
        let all = limits(&["workspace=9", "agent:claude=2", "provider:a=b=3", "depth=1", "tree=7"]);
        assert_eq!((all.workspace, all.depth, all.tree), (Some(9), 1, 7));
        assert_eq!((all.agents["claude"], all.providers["a=b"]), (2, 3));
        assert!(all.count() && !Limits::default().count());
        for wrong in ["", "workspace", "workspace=0", "agent=1", "agent:=1", "depth=-1", "x:y=1"] {
            let error = Limits::default().set(wrong).unwrap_err();
            assert!(error.to_string().contains("agent:NAME=N"), "{error}");
        }
    }

    #[test]
    fn each_limit_holds_back_its_own_and_no_others() {
        let limits = limits(&["workspace=5", "agent:claude=2", "provider:anthropic=3"]);
        let some = Some("anthropic");
        let gauge = gauge(&limits, &[("claude", some, 2), ("mine", some, 1), ("command", None, 1)]);
        assert_eq!(gauge.whole(), None);
        let claude = gauge.barrier(Some("claude"), some);
        assert_eq!(claude, Some(Barrier::Agent("claude".into(), 2)));
        let mine = gauge.barrier(Some("mine"), some);
        assert_eq!(mine, Some(Barrier::Provider("anthropic".into(), 3)));
        assert_eq!(gauge.barrier(Some("command"), None), None);
        assert_eq!(gauge.barrier(None, None), None);
        let gauge = Gauge { limits: &Limits { workspace: Some(4), ..limits.clone() }, ..gauge };
        assert_eq!(gauge.barrier(Some("command"), None), Some(Barrier::Workspace(4)));
    }

    #[test]
    fn f58_refusals_share_one_pause_that_doubles_only_after_it_was_waited_for() {
        let first = struck(None, "p", None, at(0), 0.0);
        assert_eq!((first.until, first.strikes), (at(5_000), 1));
        // three runs that were under way are refused as well
        let again = struck(Some(first.clone()), "p", None, at(4_000), 0.7);
        assert_eq!(again, first);
        let second = struck(Some(Backoff { probed: true, ..again }), "p", None, at(6_000), 0.0);
        assert_eq!((second.until, second.strikes, second.probed), (at(16_000), 2, false));
        let late = struck(Some(second), "p", None, at(16_000 + FORGIVEN_MS), 0.0);
        assert_eq!(late.strikes, 1);
    }

    #[test]
    fn f58_a_quota_that_is_told_is_waited_for_and_a_mad_one_is_not() {
        let told = struck(None, "p", Some(at(7_200_000)), at(0), 0.9);
        assert_eq!(told.until, at(7_200_000));
        // a later refusal that knows nothing of it changes nothing
        assert_eq!(struck(Some(told.clone()), "p", None, at(1_000), 0.0).until, at(7_200_000));
        assert_eq!(struck(Some(told), "p", Some(at(9_000_000)), at(1), 0.0).until, at(9_000_000));
        assert!(struck(None, "p", Some(at(-5)), at(0), 0.0).until > at(0));
        let mad = struck(None, "p", Some(at(i64::MAX)), at(0), 0.0);
        assert_eq!(mad.until, at(LONGEST_QUOTA_MS));
        // one that was stored when nobody looked, or by a clock that was wrong
        let stored = Backoff { until: at(LONGEST_QUOTA_MS + 1), ..mad.clone() };
        assert_eq!((mad.next(at(0)), stored.next(at(0))), (Some(mad.until), None));
        assert_eq!(struck(Some(stored), "p", None, at(0), 0.0).until, at(5_000));
    }

    #[test]
    fn f58_after_a_pause_one_run_tries_and_the_others_follow() {
        let limits = Limits::default();
        let mut gauge = gauge(&limits, &[]);
        gauge.backoffs = vec![struck(None, "p", None, at(0), 0.0)];
        let barrier = |gauge: &Gauge<'_>| gauge.barrier(Some("claude"), Some("p"));
        gauge.now = at(4_999);
        assert_eq!(barrier(&gauge), Some(Barrier::Backoff("p".into(), at(5_000))));
        assert_eq!(gauge.barrier(Some("codex"), Some("q")), None);
        gauge.now = at(5_000);
        assert_eq!(barrier(&gauge), None);
        assert!(gauge.is_probe("p") && !gauge.is_probe("q"));
        gauge.backoffs[0].probed = true;
        assert_eq!(barrier(&gauge), Some(Barrier::Probed("p".into(), at(65_000))));
        assert!(!gauge.is_probe("p"));
        gauge.now = at(65_000);
        assert_eq!(barrier(&gauge), None);
    }

    proptest! {
        #[test]
        fn a_pause_is_within_its_bounds(strikes in 0u32..60, gap in 0i64..FORGIVEN_MS, roll in 0.0f64..1.0) {
            let until = at(1_000);
            let known = (strikes > 0)
                .then(|| Backoff { provider: "p".into(), until, strikes, probed: true });
            let now = until.plus_millis(gap);
            let next = struck(known, "p", None, now, roll);
            let pause = next.until.since(now);
            prop_assert!((FIRST_PAUSE_MS / 2..=LONGEST_PAUSE_MS).contains(&pause), "{pause}");
            prop_assert_eq!(next.strikes, strikes + 1);
        }
    }
}
