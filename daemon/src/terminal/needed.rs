//! What stands in every line that a pattern matches, told from the pattern alone. Pure.

use super::grams::Gram;
use regex_syntax::hir::{Class, Hir, HirKind};
use std::collections::BTreeSet;

/// Strings that are told apart where a pattern allows for several, before they count as too many:
/// a word in letters alike, some of which have two forms beyond ASCII.
const MOST_STRINGS: usize = 16;

/// How long strings are that are put together, and how many three bytes of one are looked for: far
/// more than it takes to be rare.
const LONGEST: usize = 64;

/// Three bytes that are looked for in all: more than people type, and looked up in little time
/// against what they save.
const MOST: usize = 512;

/// What every line that matches holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Needed {
    /// Nothing is known of it.
    Anything,
    /// These three bytes each.
    Grams(Vec<Gram>),
    /// All of these.
    All(Vec<Needed>),
    /// One of these at least.
    One(Vec<Needed>),
}

impl Needed {
    /// What every line holds that `pattern` matches.
    pub(super) fn of(pattern: &Hir) -> Self {
        let needed = of(pattern);
        if needed.weight() > MOST { Self::Anything } else { needed }
    }

    /// Whether a text with this set may hold such a line.
    pub(super) fn may_be_in(&self, set: &[u8]) -> bool {
        match self {
            Self::Anything => true,
            Self::Grams(grams) => grams.iter().all(|gram| gram.is_in(set)),
            Self::All(parts) => parts.iter().all(|part| part.may_be_in(set)),
            Self::One(parts) => parts.iter().any(|part| part.may_be_in(set)),
        }
    }

    fn all(mut parts: Vec<Self>) -> Self {
        parts.retain(|part| *part != Self::Anything);
        match parts.len() {
            0 => Self::Anything,
            1 => parts.remove(0),
            _ => Self::All(parts),
        }
    }

    fn one(mut parts: Vec<Self>) -> Self {
        if parts.is_empty() || parts.contains(&Self::Anything) {
            return Self::Anything;
        }
        if parts.len() == 1 { parts.remove(0) } else { Self::One(parts) }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Anything => 0,
            Self::Grams(grams) => grams.len(),
            Self::All(parts) | Self::One(parts) => parts.iter().map(Self::weight).sum(),
        }
    }
}

fn of(pattern: &Hir) -> Needed {
    // or each of many groups in each other would be gone through anew
    if let HirKind::Capture(group) = pattern.kind() {
        return of(&group.sub);
    }
    if let Some(ways) = strings(pattern) {
        return one_of(&ways);
    }
    match pattern.kind() {
        HirKind::Literal(literal) => grams(&literal.0),
        HirKind::Alternation(ways) => Needed::one(ways.iter().map(of).collect()),
        HirKind::Repetition(again) if again.min > 0 => of(&again.sub),
        HirKind::Concat(parts) => row(parts),
        _ => Needed::Anything,
    }
}

/// What patterns that follow each other need: where each can be few strings only, these join with
/// those before.
fn row(parts: &[Hir]) -> Needed {
    let (mut needed, mut run) = (Vec::new(), Strings::from([Vec::new()]));
    for part in parts {
        match strings(part) {
            Some(ways) if is_nothing(&ways) => {}
            Some(ways) => match join(&run, &ways) {
                Some(joined) => run = joined,
                None => needed.push(one_of(&std::mem::replace(&mut run, ways))),
            },
            None => {
                needed.push(one_of(&std::mem::replace(&mut run, Strings::from([Vec::new()]))));
                needed.push(of(part));
            }
        }
    }
    needed.push(one_of(&run));
    Needed::all(needed)
}

/// Strings, letters of ASCII small.
type Strings = BTreeSet<Vec<u8>>;

/// That one of these is there.
fn one_of(ways: &Strings) -> Needed {
    Needed::one(ways.iter().map(|way| grams(way)).collect())
}

fn grams(string: &[u8]) -> Needed {
    let mut grams: Vec<Gram> = Gram::all(string).take(LONGEST).collect();
    grams.sort_unstable();
    grams.dedup();
    if grams.is_empty() { Needed::Anything } else { Needed::Grams(grams) }
}

/// All that a pattern matches, where that is few strings and short ones.
fn strings(pattern: &Hir) -> Option<Strings> {
    let nothing = || Strings::from([Vec::new()]);
    match pattern.kind() {
        HirKind::Empty | HirKind::Look(_) => Some(nothing()),
        HirKind::Literal(literal) => few(Strings::from([literal.0.to_ascii_lowercase()])),
        HirKind::Class(class) => letters(class),
        HirKind::Repetition(again) if Some(again.min) == again.max && again.min <= 16 => {
            let ways = strings(&again.sub)?;
            (0..again.min).try_fold(nothing(), |run, _| join(&run, &ways))
        }
        HirKind::Repetition(_) => None,
        HirKind::Capture(group) => strings(&group.sub),
        HirKind::Concat(parts) => parts.iter().try_fold(nothing(), |run, part| {
            let ways = strings(part)?;
            if is_nothing(&ways) { Some(run) } else { join(&run, &ways) }
        }),
        HirKind::Alternation(ways) => {
            let all = ways.iter().try_fold(Strings::new(), |mut all, way| {
                all.append(&mut strings(way)?);
                few(all)
            });
            all.filter(|all| !all.is_empty())
        }
    }
}

/// The characters of a class, each as the bytes of its text.
fn letters(class: &Class) -> Option<Strings> {
    let mut all = Strings::new();
    match class {
        Class::Unicode(class) => {
            let count: usize = class.iter().map(|range| range.len()).sum();
            if count > 2 * MOST_STRINGS {
                return None;
            }
            for letter in class.iter().flat_map(|range| range.start()..=range.end()) {
                let letter = letter.to_ascii_lowercase();
                all.insert(letter.encode_utf8(&mut [0; 4]).as_bytes().to_vec());
            }
        }
        Class::Bytes(class) => {
            let bytes = class.iter().flat_map(|range| range.start()..=range.end());
            all.extend(bytes.map(|byte| vec![byte.to_ascii_lowercase()]));
        }
    }
    // nothing matches an empty one: whatever is said of it is true
    few(all).filter(|all| !all.is_empty())
}

/// Whether it is the empty string alone.
fn is_nothing(ways: &Strings) -> bool {
    ways.len() == 1 && ways.contains(&b""[..])
}

/// Each of these followed by each of those.
fn join(run: &Strings, ways: &Strings) -> Option<Strings> {
    if run.len() * ways.len() > MOST_STRINGS {
        return None;
    }
    let joined = run.iter().flat_map(|one| ways.iter().map(|way| [&one[..], way].concat()));
    few(joined.collect())
}

fn few(all: Strings) -> Option<Strings> {
    let short = all.len() <= MOST_STRINGS && all.iter().all(|one| one.len() <= LONGEST);
    short.then_some(all)
}

#[cfg(test)]
mod tests {
    use super::super::grams::{Grams, SET};
    use super::super::pattern::tests::{lines, patterns};
    use super::super::pattern::{Pattern, Reading};
    use super::*;
    use proptest::prelude::*;

    fn set(text: &[u8]) -> Vec<u8> {
        let (mut grams, mut set) = (Grams::full(), Vec::with_capacity(SET));
        grams.clear();
        grams.add(text);
        grams.write(&mut set);
        set
    }

    fn needed(pattern: &str, ignore_case: bool) -> Needed {
        Pattern::new(pattern, Reading { literal: false, ignore_case }).unwrap().needed().clone()
    }

    #[test]
    fn what_lines_must_hold_is_told_from_the_pattern() {
        let text = set(b"2 errors in line 40: a deadlock; the Task is taken by a worker");
        let holds = |pattern: &str| needed(pattern, false).may_be_in(&text);
        let alike = |pattern: &str| needed(pattern, true).may_be_in(&text);
        assert!(holds(r"error.*line \d+") && !holds(r"error.*file \d+"));
        assert!(holds("panicked|deadlock|segfault") && !holds("panicked|misspelt|segfault"));
        assert!(holds("dead(lock)+;") && !holds("(x|yy)(dread)+"));
        assert!(holds(r"\bdead(ly|lock)\b") && !holds(r"dead(ly|loss)"));
        assert!(holds("[rst]ask") && !holds("m[aei]sk"));
        assert!(alike("DEADLOCK") && alike("tASK IS") && !alike("task was"));
        assert!(holds("(dead){1}lock") && !holds("(de){2}"));
        for pattern in ["(a+)+$", "^$", ".*", "ab|panicked", "(panicked)?", r"\w+", "[a-z]{9}"] {
            assert_eq!(needed(pattern, false), Needed::Anything, "{pattern}");
        }
    }

    #[test]
    fn f41_what_is_looked_for_is_bounded() {
        let long = needed(&"so long a word ".repeat(500), false);
        assert!((1..=LONGEST).contains(&long.weight()), "{}", long.weight());
        assert!(needed(&"so long a word ".repeat(40), true).weight() <= MOST);
        let many: Vec<String> = (0..1000).map(|number| format!("word{number}")).collect();
        assert_eq!(needed(&many.join("|"), false), Needed::Anything);
        let deep = format!("{}abc{}", "(x".repeat(40), "y)".repeat(40));
        assert!(needed(&deep, false).weight() <= MOST);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn f08_no_line_that_matches_is_excluded(
            pattern in patterns(),
            ignore_case in any::<bool>(),
            literal in prop::bool::weighted(0.1),
            lines in lines(),
        ) {
            let Ok(pattern) = Pattern::new(&pattern, Reading { literal, ignore_case }) else {
                return Ok(());
            };
            for line in lines.split(|byte| *byte == b'\n') {
                if pattern.matches(line) {
                    prop_assert!(pattern.needed().may_be_in(&set(line)));
                }
            }
        }
    }
}
