//! Merges as they cross the wire: what one would bring, and in what two sides differ.
//!
//! Paths are text here. Bytes of a path that are no UTF-8 are replaced, so that such a file can be
//! shown and named like any other.

use crate::task::DiffStat;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What merging `source` into `target` would bring. Nothing was changed to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MergePreview {
    /// Whether it would go without a conflict.
    pub can_merge: bool,
    /// The files that would conflict, each once; at most two thousand.
    pub conflicted_files: Vec<String>,
    /// The same files, and how they conflict.
    pub conflicts: Vec<MergeConflict>,
    /// The files that would change in the target; at most two thousand.
    pub changed_files: Vec<String>,
    /// Whether files were left out of these lists.
    #[serde(default)]
    pub truncated: bool,
    /// The tree that would come of it; with conflicts it holds their markers.
    pub tree: String,
    /// How much would change in the target, over all files.
    pub stat: DiffStat,
    /// How the two stand to each other.
    pub relation: Relation,
    /// What would be merged, as it was called.
    pub source: String,
    /// Its commit.
    pub source_commit: String,
    /// Into what, as it was called.
    pub target: String,
    /// Its commit.
    pub target_commit: String,
    /// The commit that both share, one of them where there are several.
    pub base_commit: String,
}

/// How the source of a merge stands to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Relation {
    /// They are one commit.
    Identical,
    /// The target has all that the source has.
    AlreadyMerged,
    /// The source has all that the target has: the target only moves forward.
    FastForward,
    /// Each has commits of its own.
    Diverged,
}

/// A file in conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MergeConflict {
    /// The file.
    pub path: String,
    /// In what the sides differ.
    pub kind: ConflictKind,
    /// Which side deleted it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_by: Option<MergeSide>,
}

/// In what the two sides of a merge differ about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ConflictKind {
    /// Both changed the same lines.
    Content,
    /// Both added it, differently.
    AddAdd,
    /// One deleted what the other changed.
    ModifyDelete,
    /// It was renamed in ways that do not go together.
    Rename,
    /// Both changed it, and it has no lines.
    Binary,
    /// Both moved the repository inside.
    Submodule,
    /// A file on one side is a folder on the other.
    FileDirectory,
    /// A file on one side is a link or the like on the other.
    Type,
}

impl ConflictKind {
    /// The kind in words for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Content => "changed by both",
            Self::AddAdd => "added by both",
            Self::ModifyDelete => "deleted by one, changed by the other",
            Self::Rename => "renamed",
            Self::Binary => "binary, changed by both",
            Self::Submodule => "submodule, moved by both",
            Self::FileDirectory => "a file here, a folder there",
            Self::Type => "of another type on each side",
        }
    }
}

/// A side of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MergeSide {
    /// That into which is merged.
    Ours,
    /// That which is merged.
    Theirs,
}

impl MergeSide {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Theirs => "theirs",
        }
    }
}

impl fmt::Display for MergeSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is neither `ours` nor `theirs`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no side of a merge: it is 'ours' or 'theirs'")]
pub struct BadSide(pub String);

impl FromStr for MergeSide {
    type Err = BadSide;

    fn from_str(text: &str) -> Result<Self, BadSide> {
        match text {
            "ours" => Ok(Self::Ours),
            "theirs" => Ok(Self::Theirs),
            _ => Err(BadSide(text.to_owned())),
        }
    }
}

/// Body of `POST /api/v1/tasks/{id}/merge/start`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MergeStartBody {
    /// What to merge into the task's branch: a branch, tag or commit.
    pub source_branch: String,
}

/// Body of `POST /api/v1/tasks/{id}/merge/resolve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MergeResolveBody {
    /// The file in conflict.
    pub file: String,
    /// Whose version to take.
    pub strategy: MergeSide,
}

/// Body of `POST /api/v1/tasks/{id}/merge/commit`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MergeCommitBody {
    /// What the commit says; empty: git's usual words.
    pub message: String,
}

/// Body of `POST /api/v1/tasks/{id}/merge/skip`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MergeSkipBody {
    /// The part to leave out, whole or shortened.
    pub subtask_id: String,
    /// Why.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_is_written_as_the_contract_says() {
        let preview = MergePreview {
            can_merge: false,
            conflicted_files: vec!["a".into()],
            conflicts: vec![MergeConflict {
                path: "a".into(),
                kind: ConflictKind::ModifyDelete,
                deleted_by: Some(MergeSide::Ours),
            }],
            changed_files: vec!["a".into(), "b".into()],
            truncated: false,
            tree: "t".into(),
            stat: DiffStat { files: 2, insertions: 3, deletions: 4 },
            relation: Relation::Diverged,
            source: "work".into(),
            source_commit: "s".into(),
            target: "main".into(),
            target_commit: "c".into(),
            base_commit: "b".into(),
        };
        let text = serde_json::to_string(&preview).unwrap();
        assert_eq!(
            text,
            r#"{"canMerge":false,"conflictedFiles":["a"],"conflicts":[{"path":"a","kind":"modifyDelete","deletedBy":"ours"}],"changedFiles":["a","b"],"truncated":false,"tree":"t","stat":{"files":2,"insertions":3,"deletions":4},"relation":"diverged","source":"work","sourceCommit":"s","target":"main","targetCommit":"c","baseCommit":"b"}"#
        );
        assert_eq!(serde_json::from_str::<MergePreview>(&text).unwrap(), preview);
        assert_eq!("theirs".parse(), Ok(MergeSide::Theirs));
        assert!("mine".parse::<MergeSide>().is_err());
    }
}
