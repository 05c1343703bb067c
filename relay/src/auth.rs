//! Who calls, and what they may do. Secrets are seen once; the store holds their SHA-256 alone.

use hayward_shared::api::{Role, TokenKind};
use hayward_shared::event::{Actor, ActorKind};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{TaskId, TokenId, UserId, WorkspaceId};
use hayward_shared::time::Timestamp;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// Random bytes of a secret: 256 bits cannot be guessed, so one fast hash protects them.
const SECRET_BYTES: usize = 32;

/// A token's secret. Printing it for people takes a deliberate [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A new secret of this kind.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub(crate) fn fresh(kind: TokenKind) -> Result<Self, getrandom::Error> {
        let mut bytes = [0u8; SECRET_BYTES];
        getrandom::fill(&mut bytes)?;
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self(format!("{}{hex}", kind.prefix())))
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What the store keeps of it.
    pub(crate) fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What the store keeps of a secret.
pub(crate) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Whom a token speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A person.
    User(UserId),
    /// The agent of one task.
    Task(TaskId),
    /// A daemon; good for its socket alone.
    Daemon,
}

/// A token as the store has it, with the role that its user has now.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) id: TokenId,
    pub(crate) workspace: WorkspaceId,
    pub(crate) who: Who,
    /// The lesser of the token's role and its user's; absent when the user is no member any more.
    pub(crate) role: Option<Role>,
    pub(crate) hash: Vec<u8>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) revoked_at: Option<Timestamp>,
    pub(crate) last_used_at: Option<Timestamp>,
}

impl Credential {
    /// The caller behind this credential, if it is good at `now` and `hash` is its own.
    pub(crate) fn admit(&self, hash: &[u8; 32], now: Timestamp) -> Option<Caller> {
        let same = bool::from(self.hash.as_slice().ct_eq(hash.as_slice()));
        let fresh = self.expires_at.is_none_or(|end| now < end);
        if !same || !fresh || self.revoked_at.is_some() {
            return None;
        }
        let (workspace, token, who) = (self.workspace, self.id, self.who);
        self.role.map(|role| Caller { workspace, token, who, role })
    }
}

/// Someone whose token was good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) workspace: WorkspaceId,
    pub(crate) token: TokenId,
    pub(crate) who: Who,
    pub(crate) role: Role,
}

impl Caller {
    /// Whether they may read all of the workspace.
    pub(crate) fn reads(&self) -> Result<(), Fault> {
        self.user_with(Role::Viewer).map(drop)
    }

    /// Whether they may make tasks and command them.
    pub(crate) fn commands(&self) -> Result<(), Fault> {
        self.user_with(Role::Member).map(drop)
    }

    /// Whether they may manage users and tokens; the user they are.
    pub(crate) fn manages(&self) -> Result<UserId, Fault> {
        self.user_with(Role::Owner)
    }

    /// Whether they may at least look at some tasks; which ones is asked for each.
    pub(crate) fn reads_tasks(&self) -> Result<(), Fault> {
        match self.who {
            Who::User(_) | Who::Task(_) => Ok(()),
            Who::Daemon => Err(forbidden("a daemon's token is good for its socket alone")),
        }
    }

    fn user_with(&self, least: Role) -> Result<UserId, Fault> {
        match self.who {
            Who::User(user) if self.role >= least => Ok(user),
            Who::User(_) => Err(forbidden(&format!("that takes the role {}", role_name(least)))),
            Who::Task(_) => Err(forbidden("an agent's token reads its own task and its parts")),
            Who::Daemon => Err(forbidden("a daemon's token is good for its socket alone")),
        }
    }

    /// How events name them.
    pub(crate) fn actor(&self) -> Actor {
        match self.who {
            Who::User(user) => Actor { kind: ActorKind::User, id: user.to_string() },
            Who::Task(task) => Actor { kind: ActorKind::Agent, id: task.to_string() },
            Who::Daemon => Actor { kind: ActorKind::Daemon, id: String::new() },
        }
    }
}

fn forbidden(why: &str) -> Fault {
    Fault::new(Code::Forbidden, why)
}

/// The answer to every credential that is not good: one text, whatever is wrong with it.
pub(crate) fn unauthorized() -> Fault {
    Fault::new(Code::Unauthorized, "no valid token was given")
        .with_hint("send 'Authorization: Bearer <token>'")
}

/// A role's name on the wire and in tables.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Member => "member",
        Role::Owner => "owner",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(who: Who, role: Role) -> Caller {
        Caller { workspace: WorkspaceId::fresh(), token: TokenId::fresh(), who, role }
    }

    #[test]
    fn each_role_includes_the_ones_below() {
        let user = Who::User(UserId::fresh());
        let table = [(Role::Viewer, 1), (Role::Member, 2), (Role::Owner, 3)];
        for (role, allowed) in table {
            let c = caller(user, role);
            let may = [c.reads().is_ok(), c.commands().is_ok(), c.manages().is_ok()];
            assert_eq!(may.iter().filter(|m| **m).count(), allowed, "{role:?}");
        }
    }

    #[test]
    fn no_role_lets_an_agent_or_a_daemon_command() {
        for who in [Who::Task(TaskId::fresh()), Who::Daemon] {
            let c = caller(who, Role::Owner);
            assert!(c.reads().is_err() && c.commands().is_err() && c.manages().is_err());
        }
        assert!(caller(Who::Daemon, Role::Owner).reads_tasks().is_err());
    }

    #[test]
    fn a_secret_is_random_prefixed_and_never_printed() {
        let a = Secret::fresh(TokenKind::User).unwrap();
        let b = Secret::fresh(TokenKind::User).unwrap();
        assert_ne!(a, b);
        assert!(a.expose().starts_with("hwu_") && a.expose().len() == 4 + 64);
        assert_eq!(format!("{a:?}"), "Secret(…)");
    }

    #[test]
    fn expired_revoked_and_ownerless_tokens_admit_nobody() {
        let now = Timestamp::from_millis(1_000);
        let secret = Secret::fresh(TokenKind::User).unwrap();
        let good = Credential {
            id: TokenId::fresh(),
            workspace: WorkspaceId::fresh(),
            who: Who::User(UserId::fresh()),
            role: Some(Role::Owner),
            hash: secret.hash().to_vec(),
            expires_at: Some(now.plus_millis(1)),
            revoked_at: None,
            last_used_at: None,
        };
        assert!(good.admit(&secret.hash(), now).is_some());
        assert!(good.admit(&secret.hash(), now.plus_millis(1)).is_none());
        assert!(good.admit(&[0; 32], now).is_none());
        assert!(
            Credential { revoked_at: Some(now), ..good.clone() }
                .admit(&secret.hash(), now)
                .is_none()
        );
        assert!(Credential { role: None, ..good }.admit(&secret.hash(), now).is_none());
    }
}
