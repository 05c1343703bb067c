//! Numbers and spans as people read them.

/// An age in its largest unit: `12s`, `5m`, `3h`, `2d`.
pub(crate) fn age(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Time that runs, like a stop watch: `0:42`, `1:02:03`.
pub(crate) fn elapsed(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// How long something took: `12 ms`, `1.2 s`, `2:05`.
pub(crate) fn took(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..100_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => elapsed(i64::try_from(ms).unwrap_or(i64::MAX)),
    }
}

/// A large number in short: `950`, `12.3k`, `4.0M`.
pub(crate) fn short(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{}.{}k", count / 1_000, count % 1_000 / 100),
        _ => format!("{}.{}M", count / 1_000_000, count % 1_000_000 / 100_000),
    }
}

/// Bytes in their largest unit: `950 B`, `12.3 KiB`, `4.0 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", count / unit, count % unit * 10 / unit),
        None => format!("{count} B"),
    }
}

/// A count with its thing: `1 file`, `2 files`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A command line that a POSIX shell reads back as these words.
pub(crate) fn quoted<S: AsRef<str>>(words: &[S]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| quote(word.as_ref())).collect();
    quoted.join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Seconds of a span that a person typed: a number, alone or with `s`, `m`, `h`, `d` or `w`.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no span of time: write 90, 15m, 12h, 30d or 4w");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (age(59_999), age(60_000), age(90_000_000)),
            ("59s".into(), "1m".into(), "1d".into())
        );
        assert_eq!((elapsed(42_000), elapsed(3_723_000)), ("0:42".into(), "1:02:03".into()));
        assert_eq!(
            (took(12), took(1_250), took(125_000)),
            ("12 ms".into(), "1.2 s".into(), "2:05".into())
        );
        assert_eq!(
            (short(950), short(12_345), short(4_000_000)),
            ("950".into(), "12.3k".into(), "4.0M".into())
        );
        assert_eq!((count(1, "file"), count(0, "file")), ("1 file".into(), "0 files".into()));
    }

    #[test]
    fn spans_are_read() {
        assert_eq!(
            (seconds("90"), seconds("15m"), seconds("2w")),
            (Ok(90), Ok(900), Ok(1_209_600))
        );
        for wrong in ["", "0", "x", "1y", "-1", "99999999999999999999d", "1.5h", "d"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_are_quoted_only_where_it_is_needed() {
        assert_eq!(quoted(&["sh", "-c", "echo hi > hi.txt"]), "sh -c 'echo hi > hi.txt'");
        assert_eq!(quoted(&["", "it's", "$x"]), r"'' 'it'\''s' '$x'");
    }

    proptest! {
        #[test]
        fn a_shell_reads_the_words_back(words in prop::collection::vec("[^\\x00]{0,12}", 1..5)) {
            let line = format!("printf '%s\\0' {}", quoted(&words));
            let read = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            let expected: String = words.iter().map(|word| format!("{word}\0")).collect();
            prop_assert_eq!(String::from_utf8(read.stdout).unwrap(), expected);
        }
    }
}
