use super::*;
use proptest::prelude::*;

fn size(rows: u16, cols: u16) -> Size {
    Size::new(rows, cols).unwrap()
}

fn after(size: Size, bytes: &[u8]) -> Screen {
    let mut screen = Screen::new(size);
    screen.feed(bytes);
    screen
}

/// All that can be seen of a screen, also of the one behind it.
fn seen(screen: &Screen) -> (String, Option<(u16, u16)>, Vec<u8>) {
    (screen.terminal.screen().contents_formatted(), screen.cursor(), screen.snapshot())
}

fn answers(bytes: &[u8]) -> Vec<String> {
    let queries = Screen::new(size(24, 80)).feed(bytes);
    queries.into_iter().map(|query| String::from_utf8(query.answer).unwrap()).collect()
}

#[test]
fn f09_sizes_that_no_terminal_has_are_none() {
    for (rows, cols) in [(0, 0), (0, 80), (24, 0), (65535, 65535), (1001, 1), (1, 1001)] {
        assert_eq!(Size::new(rows, cols), None, "{rows} by {cols}");
    }
    assert!(Size::new(1, 1).is_some() && Size::new(1000, 1000).is_some());
}

#[test]
fn f10_each_query_has_its_answer() {
    assert_eq!(answers(b"\x1b[5n"), ["\x1b[0n"]);
    assert_eq!(answers(b"ab\r\n\x1b[6ncd\x1b[?6n"), ["\x1b[2;1R", "\x1b[?2;3R"]);
    assert_eq!(answers(b"\x1b[c\x1b[0c"), ["\x1b[?62;22c", "\x1b[?62;22c"]);
    assert_eq!(answers(b"\x1b[>c"), ["\x1b[>1;277;0c"]);
    assert!(answers(b"\x1b[>q")[0].starts_with("\x1bP>|hayward "));
    assert_eq!(answers(b"\x1b[18t"), ["\x1b[8;24;80t"]);
    assert_eq!(answers(b"\x1b]11;?\x07"), ["\x1b]11;rgb:0000/0000/0000\x1b\\"]);
    assert_eq!(answers(b"\x1b]10;?\x1b\\"), ["\x1b]10;rgb:ffff/ffff/ffff\x1b\\"]);
    assert_eq!(answers(b"\x1b[?2004$p"), ["\x1b[?2004;2$y"]);
    assert_eq!(
        answers(b"\x1b[?2004h\x1b[?2004$p\x1b[?9999$p"),
        ["\x1b[?2004;1$y", "\x1b[?9999;0$y"]
    );
    assert_eq!(answers(b"\x1bP$q q\x1b\\\x1bP+q544e\x1b\\"), ["\x1bP0$r\x1b\\", "\x1bP0+r\x1b\\"]);
    // silence says that there is no such protocol
    assert_eq!(answers(b"\x1b[?u"), Vec::<String>::new());
    // an answer that is echoed, and what only looks alike, asks nothing
    assert_eq!(answers(b"\x1b[?62;22c\x1b[2;1R\x1b[1;6n\x1b]11;red\x07"), Vec::<String>::new());
}

#[test]
fn a_query_says_where_it_stands() {
    let mut screen = Screen::new(size(5, 20));
    screen.feed(b"abc\x1b[");
    let queries = screen.feed(b"6nz\x1b[5n");
    let places: Vec<_> = queries.iter().map(|query| (query.end, query.len)).collect();
    assert_eq!(places, [(2, 4), (7, 4)]);
}

#[test]
fn a_full_screen_program_is_followed() {
    let mut screen =
        after(size(4, 10), b"$ less\r\n\x1b[?1049h\x1b[H\x1b[2Jline 1\r\nline 2\x1b[?1h\x1b=");
    assert_eq!(screen.text(), "line 1\nline 2");
    assert!(screen.modes().contains("\x1b[?1h"));
    screen.feed(b"\x1b[?1049l");
    assert_eq!(screen.text(), "$ less");
}

#[test]
fn line_drawing_and_sequences_of_others_are_understood() {
    assert_eq!(after(size(2, 20), b"\x1b(0lqk\x1b(Bq").text(), "┌─┐q");
    assert_eq!(after(size(2, 20), b"\x1b)0q\x0eq\x0fq").text(), "q─q");
    assert_eq!(after(size(3, 20), b"ab\x1bDc\x1bEd").text(), "ab\n  c\nd");
    assert_eq!(after(size(2, 20), b"ab\x1b[s\x1b[2;1Hx\x1b[uc").text(), "abc\nx");
    assert_eq!(after(size(2, 20), b"0123456789\x1b[Zx").text(), "01234567x9");
    assert_eq!(after(size(2, 20), b"x\x1b[65535b").text().len(), 21);
}

#[test]
fn the_state_behind_what_is_seen_is_in_the_snapshot() {
    let hidden: [&[u8]; 11] = [
        b"shell\x1b[31m\x1b7\x1b[?1049hvim\x1b[2;3H",
        b"\x1b[2;4r\x1b[4;1Hlast\n",
        b"\x1b[2;4r\x1b[?6h\x1b[2;2H",
        b"\x1b[2;3r\x1b[?6h\x1b[5d",
        b"\x1b[2;4r\x1b[?6h\x1b[2;2H\x1b7\x1b[?6l",
        b"a\x1b7\x1b[3;3H",
        b"0123456789",
        "012345678猫".as_bytes(),
        b"\x1b(0",
        b"\x1b)0\x0e",
        b"\x1b[1;3",
    ];
    let probes: [&[u8]; 6] =
        [b"X", b"\r\n\n\n\n\nX", b"\x1b8X", b"\x1b[HX", b"\x1b[?1049lX", b"q\x1b[99Bq"];
    for before in hidden {
        for probe in probes {
            let mut screen = after(size(5, 10), before);
            let mut copy = after(size(5, 10), &screen.snapshot());
            screen.feed(probe);
            copy.feed(probe);
            let name = String::from_utf8_lossy(before).into_owned();
            assert_eq!(screen.text(), copy.text(), "{name:?} then {probe:?}");
            assert_eq!(screen.cursor(), copy.cursor(), "{name:?} then {probe:?}");
        }
    }
}

#[test]
fn f08_a_resize_keeps_the_top_and_invents_no_rows() {
    let mut screen = after(size(3, 10), b"1\r\n2\r\n3\r\n4\r\n5");
    let mut copy = after(size(3, 10), &screen.snapshot());
    for screen in [&mut screen, &mut copy] {
        screen.resize(size(5, 10));
    }
    assert_eq!(screen.text(), "3\n4\n5");
    assert_eq!((screen.text(), screen.cursor()), (copy.text(), copy.cursor()));
}

#[test]
fn f08_a_resize_before_an_editor_leaves_the_shell_behind_it_as_it_was() {
    let mut screen = after(size(3, 10), b"1\r\n2\r\n3\r\n4\r\n5\x1b[?1049hvim");
    let mut copy = after(size(3, 10), &screen.snapshot());
    for screen in [&mut screen, &mut copy] {
        screen.resize(size(5, 10));
        screen.feed(b"\x1b[?1049l");
        assert_eq!((screen.text(), screen.cursor()), ("3\n4\n5".to_owned(), Some((2, 1))));
    }
}

#[test]
fn a_region_that_is_the_whole_screen_is_none() {
    for whole in ["", "1;24", "0;24", ";", ";24", "1", "0;0", "1;99", "0"] {
        assert!(is_all(whole.as_bytes(), 24), "{whole}");
    }
    for part in ["2", "1;23", "2;24", ";5", "1;24;1", "x", "1;99999", "?1", "1:24"] {
        assert!(!is_all(part.as_bytes(), 24), "{part}");
    }
}

/// What programs and hostile programs print.
fn output() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0u32..12, Just(65535), Just(4_294_967_295)];
    let control = (
        number.clone(),
        number,
        prop::sample::select(b"ABCDEFGHJKLMPSTXZ@abdefghlmnrstu".to_vec()),
    )
        .prop_map(|(a, b, last)| [format!("\x1b[{a};{b}").as_bytes(), &[last]].concat());
    let mode = (
        prop::sample::select(vec![1, 6, 7, 25, 47, 1000, 1006, 1047, 1048, 1049, 2004]),
        any::<bool>(),
    )
        .prop_map(|(mode, on)| format!("\x1b[?{mode}{}", if on { 'h' } else { 'l' }).into_bytes());
    let text = prop::sample::select(vec![
        "a",
        "bc def",
        "猫",
        "👩‍👩‍👧",
        "e\u{301}",
        "❤\u{fe0f}",
        "\r\n",
        "\n",
        "\r",
        "\t",
        "\x08",
        "\x1bM",
        "\x1bD",
        "\x1b7",
        "\x1b8",
        "\x1b(0",
        "\x1b(B",
        "\x1b[7m",
        "\x1b[41m",
        "\x1b[m",
        "\x1b[",
        "\x1bc",
        "\x1b]0;t",
        "\x07",
        "\x1bP",
        "\x1b\\",
        "\x1b[2;3r",
        "\x1b[r",
        "\x1b[K",
        "\x1b[J",
        "0123456789",
    ])
    .prop_map(|text| text.as_bytes().to_vec());
    let piece = prop_oneof![
        4 => text,
        3 => control,
        2 => mode,
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    prop::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn f08_any_chunking_gives_the_same_screen_and_queries(
        bytes in output(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let (mut whole, mut parts) = (Screen::new(size(5, 10)), Screen::new(size(5, 10)));
        let expected = whole.feed(&bytes);
        let mut queries = Vec::new();
        for pair in at.windows(2) {
            let asked = parts.feed(&bytes[pair[0]..pair[1]]);
            queries.extend(asked.into_iter().map(|query| (query.end + pair[0], query.answer)));
        }
        let expected: Vec<_> = expected.into_iter().map(|query| (query.end, query.answer)).collect();
        prop_assert_eq!(queries, expected);
        prop_assert_eq!(seen(&whole), seen(&parts));
    }

    #[test]
    fn f09_nothing_hostile_breaks_it(
        bytes in output(),
        more in output(),
        (rows, cols) in (1u16..7, 1u16..14),
        (new_rows, new_cols) in (1u16..9, 1u16..14),
    ) {
        let mut screen = Screen::new(size(rows, cols));
        screen.feed(&bytes);
        screen.resize(size(new_rows, new_cols));
        screen.feed(&more);
        let copy = after(screen.size(), &screen.snapshot());
        prop_assert_eq!(screen.size(), size(new_rows, new_cols));
        prop_assert_eq!((screen.breaks(), copy.breaks()), (0, 0));
    }

    #[test]
    fn a_snapshot_shows_the_same(bytes in output()) {
        let screen = after(size(5, 10), &bytes);
        let copy = after(size(5, 10), &screen.snapshot());
        prop_assert_eq!(copy.text(), screen.text());
        prop_assert_eq!(copy.cursor(), screen.cursor());
        prop_assert_eq!(copy.modes(), screen.modes());
    }
}

fn busy_output() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => "[a-z猫é ]{0,30}".prop_map(|text| format!("{text}\r\n")),
        2 => "[a-z]{40,200}".prop_map(|text| format!("{text}\n")),
        3 => (0u8..50, "[a-z]{0,9}")
            .prop_map(|(colour, text)| format!("\x1b[{colour}m{text}\x1b[1mB\r\n")),
        2 => "[0-9]{1,9}".prop_map(|text| format!("{text}%\r\x1b[K\x1b[0m\tdone\x08\r\n")),
        1 => prop::sample::select(vec![
            "\x1b[2;3r", "\x1b[r", "\x1b[A", "\x1b[?1049h", "\x1b[?1049l", "\x1b(0", "\x1b(B",
            "\x0e", "\x0f", "\x1b7", "\x1b8", "\x1b[J", "\x1b[H", "\x1b[6n", "\x1bc", "\x07",
            "\x1b[?6h", "\x1b[?6l", "\x1b[3;2Hx", "\x1b]0;title\x07", "\x1b[31", "猫",
        ])
        .prop_map(str::to_owned),
    ];
    let part = (line, prop_oneof![4 => 1usize..4, 1 => 100usize..400])
        .prop_map(|(line, times)| line.repeat(times));
    prop::collection::vec(part, 1..20).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn what_is_passed_over_changes_nothing(
        output in busy_output(),
        rows in 1u16..8,
        cols in 2u16..40,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut whole = Screen::new(size(rows, cols));
        let asked = whole.print_all(&output);
        let mut skimmed = Screen::new(size(rows, cols));
        let (first, rest) = output.split_at(cut.index(output.len()));
        let mut told = skimmed.feed(first);
        let more = skimmed.feed(rest).into_iter();
        told.extend(more.map(|it| Query { end: first.len() + it.end, ..it }));
        prop_assert_eq!(told, asked);
        prop_assert_eq!(seen(&skimmed), seen(&whole));
    }
}
