//! How near the changes of two worktrees are, by lines of one common base. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hayward_shared::git::{Lines, Severity};

use super::touched::TouchedFile;

/// At most so many untouched lines lie between adjacent changes (SEEDS D3.2).
const ADJACENT: u32 = 5;

/// A file that both sides changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The file, from the repository's top.
    pub path: PathBuf,
    /// How near the changes are.
    pub severity: Severity,
    /// Whether merging the two as they are would conflict in this file, wherever it went.
    pub conflict: bool,
    /// Where one side or the other renamed it to.
    pub renamed_to: Vec<PathBuf>,
}

/// The files that both sides change, by path. Both are told against the same base, sorted by path;
/// lines of different bases must not come here. Whether they conflict is not known yet: false.
#[must_use]
pub fn clashes(ours: &[TouchedFile], theirs: &[TouchedFile]) -> Vec<Clash> {
    let clash = |path: &PathBuf, severity| Clash {
        path: path.clone(),
        severity,
        conflict: false,
        renamed_to: Vec::new(),
    };
    let mut all: Vec<Clash> = ours
        .iter()
        .filter_map(|one| {
            let at = theirs.binary_search_by(|two| two.path.cmp(&one.path)).ok()?;
            let two = &theirs[at];
            let renamed_to = one.renamed_to.iter().chain(&two.renamed_to).cloned().collect();
            Some(Clash { renamed_to, ..clash(&one.path, severity(one, two)) })
        })
        .collect();
    // a file where the other has a folder
    for (files, others) in [(ours, theirs), (theirs, ours)] {
        let folders: BTreeSet<_> = others
            .iter()
            .filter(|file| !file.is_gone())
            .flat_map(|file| file.path.ancestors().skip(1))
            .collect();
        let blocked = files.iter().filter(|file| !file.is_gone());
        let blocked = blocked.filter(|file| folders.contains(file.path.as_path()));
        for file in blocked {
            match all.iter_mut().find(|clash| clash.path == file.path) {
                Some(clash) => clash.severity = Severity::SameLine,
                None => all.push(clash(&file.path, Severity::SameLine)),
            }
        }
    }
    all.sort_unstable_by(|one, two| one.path.cmp(&two.path));
    all
}

/// How near two changes of one file are.
fn severity(one: &TouchedFile, two: &TouchedFile) -> Severity {
    if one.is_new() && two.is_new() || one.is_gone() != two.is_gone() {
        return Severity::SameLine;
    }
    let (Some(ours), Some(theirs)) = (&one.hunks, &two.hunks) else {
        return Severity::DifferentArea;
    };
    ours.iter()
        .flat_map(|one| theirs.iter().map(|two| nearness(one.old, two.old)))
        .max()
        .unwrap_or(Severity::DifferentArea)
}

/// How near two stretches of lines are. A place between lines is the same as the lines on either
/// side of it: a merge cannot tell which comes first.
#[must_use]
pub fn nearness(one: Lines, two: Lines) -> Severity {
    let (first, second) = if one <= two { (one, two) } else { (two, one) };
    let touch = if is_place(first) || is_place(second) {
        second.start <= first.end.saturating_add(1)
    } else {
        second.start <= first.end
    };
    if touch {
        return Severity::SameLine;
    }
    match second.start.saturating_sub(first.end.saturating_add(1)) {
        0..=ADJACENT => Severity::AdjacentLine,
        _ => Severity::DifferentArea,
    }
}

fn is_place(lines: Lines) -> bool {
    lines.end < lines.start
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(start: u32, count: u32) -> Lines {
        Lines { start, end: start + count - 1 }
    }

    #[test]
    fn gaps_are_counted_in_untouched_lines() {
        assert_eq!(nearness(lines(1, 3), lines(3, 1)), Severity::SameLine);
        assert_eq!(nearness(lines(1, 3), lines(4, 1)), Severity::AdjacentLine);
        assert_eq!(nearness(lines(1, 3), lines(9, 1)), Severity::AdjacentLine);
        assert_eq!(nearness(lines(1, 3), lines(10, 1)), Severity::DifferentArea);
    }

    #[test]
    fn a_place_touches_the_lines_beside_it_and_itself() {
        let place = lines(5, 0);
        assert_eq!(nearness(place, place), Severity::SameLine);
        assert_eq!(nearness(place, lines(4, 1)), Severity::SameLine);
        assert_eq!(nearness(place, lines(5, 1)), Severity::SameLine);
        assert_eq!(nearness(place, lines(6, 0)), Severity::AdjacentLine);
        assert_eq!(nearness(place, lines(6, 1)), Severity::AdjacentLine);
        assert_eq!(nearness(place, lines(3, 1)), Severity::AdjacentLine);
    }

    proptest! {
        #[test]
        fn it_is_the_same_from_both_sides_and_falls_with_distance(
            a in 1_u32..60, n in 0_u32..5, b in 1_u32..60, m in 0_u32..5,
        ) {
            let (one, two) = (lines(a, n), lines(b, m));
            prop_assert_eq!(nearness(one, two), nearness(two, one));
            let apart = if a >= b { lines(a + 1, n) } else { lines(a.saturating_sub(1).max(1), n) };
            if a != b && (n > 0 && m > 0) {
                prop_assert!(nearness(apart, two) <= nearness(one, two) || a == 1);
            }
        }
    }
}
