//! The names of Hayward's branches. Pure: what exists is told, what to make is answered.

use std::fmt;

/// Where our branches live. A user's branch of this very name makes it impossible for git.
pub const PREFIX: &str = "hayward";

/// Where they live when [`PREFIX`] is a branch itself.
const SPARE_PREFIX: &str = "hayward-work";

/// The longest slug: with prefix and short id a name stays under 60 characters.
const MAX_SLUG: usize = 40;

/// How many near names an error lists: more is noise.
const MAX_NEAR: usize = 5;

/// The name that a task's branch would like to have: `hayward/<slug>-<short>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchName {
    leaf: String,
}

/// The name that the branch gets, and why it is not the wanted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The whole name, without `refs/heads/`.
    pub name: String,
    /// The branches that stood in the way; empty when the wanted name was free.
    pub in_the_way: Vec<String>,
}

/// Whether git lets a branch be called that; `main~1` and `a..b` are revisions, not names.
#[must_use]
pub fn is_branch_name(name: &str) -> bool {
    git2::Branch::name_is_valid(name).unwrap_or(false)
}

impl fmt::Display for Choice {
    /// One sentence for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.in_the_way.is_empty() {
            return write!(f, "the branch is '{}'", self.name);
        }
        let others = self.in_the_way.join("', '");
        write!(f, "the branch is '{}', because '{others}' exists", self.name)
    }
}

impl BranchName {
    /// The name for a task called `name` whose short id is `short`.
    #[must_use]
    pub fn for_task(name: &str, short: &str) -> Self {
        Self { leaf: format!("{}-{}", slug(name), slug(short)) }
    }

    /// Its last part alone: `<slug>-<short>`.
    #[must_use]
    pub fn leaf(&self) -> &str {
        &self.leaf
    }

    /// The wanted name in full.
    #[must_use]
    pub fn wanted(&self) -> String {
        format!("{PREFIX}/{}", self.leaf)
    }

    /// The first free name beside the branches that exist.
    ///
    /// Names that differ in case only are one name, as they are on some file systems; a branch
    /// and a folder of branches cannot share a name either.
    #[must_use]
    pub fn choose(&self, existing: &[String]) -> Choice {
        let mut in_the_way = Vec::new();
        let mut note = |clash: &String| {
            if !in_the_way.contains(clash) {
                in_the_way.push(clash.clone());
            }
        };
        let mut prefix = PREFIX.to_owned();
        let mut attempt = 1_u64;
        while let Some(clash) = existing.iter().find(|name| name.eq_ignore_ascii_case(&prefix)) {
            note(clash);
            prefix = match attempt {
                1 => SPARE_PREFIX.to_owned(),
                _ => format!("{SPARE_PREFIX}-{attempt}"),
            };
            attempt += 1;
        }
        let mut name = format!("{prefix}/{}", self.leaf);
        let mut attempt = 2_u64;
        while let Some(clash) = existing.iter().find(|other| clashes(&name, other)) {
            note(clash);
            name = format!("{prefix}/{}-{attempt}", self.leaf);
            attempt += 1;
        }
        Choice { name, in_the_way }
    }
}

/// The task's name as a part of a branch's: lower-case ASCII letters, digits and single dashes,
/// at most 40 characters, `task` when nothing of it can be kept.
#[must_use]
pub fn slug(name: &str) -> String {
    let mut slug = String::new();
    for letter in name.chars().map(|letter| letter.to_ascii_lowercase()) {
        if slug.len() == MAX_SLUG {
            break;
        }
        if letter.is_ascii_alphanumeric() {
            slug.push(letter);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let kept = slug.trim_end_matches('-');
    if kept.is_empty() { "task".to_owned() } else { kept.to_owned() }
}

/// The names that someone who typed `wanted` may have meant, nearest first.
#[must_use]
pub fn near(wanted: &str, names: &[String]) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let allowed = (wanted.chars().count() / 3).max(2);
    let mut scored: Vec<(usize, &String)> = names
        .iter()
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let contained = lower.contains(&wanted) || wanted.contains(&lower);
            let distance = if contained { 0 } else { distance(&wanted, &lower) };
            (distance <= allowed).then_some((distance, name))
        })
        .collect();
    scored.sort();
    scored.into_iter().take(MAX_NEAR).map(|(_, name)| name.clone()).collect()
}

fn clashes(wanted: &str, other: &str) -> bool {
    let (wanted, other) = (wanted.to_ascii_lowercase(), other.to_ascii_lowercase());
    let inside = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
    };
    wanted == other || inside(&wanted, &other) || inside(&other, &wanted)
}

/// How many letters must be changed, added or dropped.
fn distance(one: &str, two: &str) -> usize {
    let two: Vec<char> = two.chars().collect();
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in two.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn slugs_are_short_plain_and_never_empty() {
        assert_eq!(slug("Fix the  Login: now!"), "fix-the-login-now");
        assert_eq!(slug("ÄÖ ☂"), "task");
        assert_eq!(slug(""), "task");
        assert_eq!(slug(&"a ".repeat(99)).len(), 39);
    }

    #[test]
    fn f23_a_free_name_is_found_beside_existing_nested_and_differently_cased_ones() {
        let wanted = BranchName::for_task("Fix", "0badcafe");
        assert_eq!(wanted.choose(&[]).name, "hayward/fix-0badcafe");
        let same = wanted.choose(&names(&["hayward/FIX-0badcafe", "hayward/fix-0badcafe-2/x"]));
        assert_eq!(same.name, "hayward/fix-0badcafe-3");
        assert_eq!(same.in_the_way.len(), 2);
        let prefix = wanted.choose(&names(&["Hayward", "hayward-work"]));
        assert_eq!(prefix.name, "hayward-work-2/fix-0badcafe");
        assert!(prefix.to_string().contains("'Hayward'"));
    }

    #[test]
    fn near_names_are_nearest_first() {
        let all = names(&["main", "feature/login", "release"]);
        assert_eq!(near("mian", &all), ["main"]);
        assert_eq!(near("man", &all), ["main"]);
        assert_eq!(near("login", &all), ["feature/login"]);
    }

    proptest! {
        #[test]
        fn f23_every_chosen_name_is_one_that_git_takes(
            task in ".{0,80}",
            short in "[0-9a-f]{8}",
            existing in proptest::collection::vec("(hayward|HAYWARD)?/?[a-c]{0,2}", 0..6),
        ) {
            let choice = BranchName::for_task(&task, &short).choose(&existing);
            prop_assert!(git2::Branch::name_is_valid(&choice.name).unwrap());
            prop_assert!(!existing.iter().any(|other| clashes(&choice.name, other)));
        }
    }
}
