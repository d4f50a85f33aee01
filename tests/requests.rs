//! The wire layer and the requests of real clients: every captured request is parsed,
//! written back byte for byte, and answered as designed; then the oddities known from
//! the field; then arbitrary bytes.

#![allow(clippy::unwrap_used, reason = "a helper that panics fails the test")]

use std::iter;

use proptest::prelude::*;
use tftpd::wire::escape::escape;
use tftpd::wire::options::{
    Limits, MAX_BLKSIZE, MAX_IN_FLIGHT, MIN_BLKSIZE, Negotiated, Offer, OptionName, RawOptions,
    Rollover, accept, negotiate,
};
use tftpd::wire::packet::{
    BlockNumber, Direction, MAX_REQUEST_LEN, Packet, ParseError, Request, emit_request,
};

/// The size in bytes of the file that these tests read.
const FILE_SIZE: u64 = 1_000_003;

/// One line of `data/requests.tsv`.
struct Captured {
    client: &'static str,
    datagram: Vec<u8>,
    words: &'static str,
}

fn captured() -> Vec<Captured> {
    include_str!("data/requests.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let columns: Vec<_> = line.split('\t').collect();
            let [client, _port, payload, words] = columns[..] else {
                panic!("four columns: {line}");
            };
            Captured {
                client,
                datagram: from_hex(payload),
                words,
            }
        })
        .collect()
}

fn from_hex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "{digits}");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// The strings written as words; `""` is the empty one.
fn strings(words: &str) -> Vec<&str> {
    words
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| if word == "\"\"" { "" } else { word })
        .collect()
}

/// Names and values from alternating strings.
fn pairs<'a>(strings: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    let (pairs, odd) = strings.as_chunks::<2>();
    assert!(odd.is_empty(), "{strings:?}");
    pairs.iter().map(|&[name, value]| (name, value)).collect()
}

fn text_pairs(options: RawOptions<'_>) -> Vec<(&str, &str)> {
    options
        .pairs()
        .map(|(name, value)| {
            (
                str::from_utf8(name).unwrap(),
                str::from_utf8(value).unwrap(),
            )
        })
        .collect()
}

fn request(datagram: &[u8]) -> Request<'_> {
    match Packet::parse(datagram) {
        Ok(Packet::Request(request)) => request,
        other => panic!("no request: {other:?}: {}", escape(datagram)),
    }
}

/// The options of an OACK of `len` bytes in `buffer`; none if `len` is 0.
fn oack(buffer: &[u8], len: usize) -> RawOptions<'_> {
    match Packet::parse(&buffer[..len]) {
        Ok(Packet::Oack(options)) => options,
        Err(ParseError::TooShort) if len == 0 => RawOptions::default(),
        other => panic!("no OACK: {other:?}"),
    }
}

/// The OACK to a request as `name value name value`; empty if there is none.
fn answer(datagram: &[u8], file_size: Option<u64>) -> String {
    let mut buffer = [0; 512];
    let (_, len) = negotiate(
        &request(datagram),
        &Limits::default(),
        file_size,
        &mut buffer,
    );
    text_pairs(oack(&buffer, len))
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn every_captured_request_reads_as_its_words_and_writes_back() {
    let all = captured();
    assert_eq!(all.len(), 102);
    for Captured {
        client,
        datagram,
        words,
    } in &all
    {
        let strings = strings(words);
        let request = request(datagram);
        let direction = match datagram[1] {
            1 => Direction::Read,
            _ => Direction::Write,
        };
        assert_eq!(request.direction, direction, "{client}: {words}");
        assert_eq!(request.filename, strings[0].as_bytes(), "{client}: {words}");
        assert_eq!(request.mode.name(), strings[1], "{client}: {words}");
        assert_eq!(text_pairs(request.options), pairs(&strings[2..]));

        let mut packet = [0; MAX_REQUEST_LEN];
        let len = emit_request(
            request.direction,
            request.filename,
            request.mode,
            text_pairs(request.options),
            &mut packet,
        );
        assert_eq!(len, Ok(datagram.len()), "{client}: {words}");
        assert_eq!(packet[..datagram.len()], datagram[..], "{client}: {words}");
    }
}

/// The answer to at least one request of each client: client, request, OACK.
#[rustfmt::skip]
const ANSWERS: &[(&str, &str, &str)] = &[
    ("atftp 0.8.0", "big.bin octet tsize 0 timeout 1 blksize 1428 windowsize 8",
        "tsize 1000003 timeout 1 blksize 1428 windowsize 8"),
    ("atftp 0.8.0", "mid.bin octet", ""),
    ("atftp 0.8.0", "big.bin octet blksize 1428 multicast \"\"", "blksize 1428"),
    ("atftp 0.8.0", "atftp-up-64 octet tsize 2000003 timeout 1 blksize 1428 windowsize 8",
        "tsize 2000003 timeout 1 blksize 1428 windowsize 8"),
    ("busybox 1.35 tftp", "big.bin octet blksize 65464 tsize 0", "blksize 65464 tsize 1000003"),
    ("busybox 1.35 tftp", "bb-up-82 octet tsize 0", "tsize 0"),
    ("curl 7.88", "big.bin octet tsize 0 blksize 65464 timeout 6",
        "tsize 1000003 blksize 65464 timeout 6"),
    ("curl 7.88", "b1024.bin octet tsize 0 blksize 8 timeout 6",
        "tsize 1000003 blksize 8 timeout 6"),
    ("curl 7.88", "text.txt netascii tsize 0 blksize 512 timeout 3", "blksize 512 timeout 3"),
    ("curl 7.88", "curl-up-21 octet tsize 0 blksize 512 timeout 6",
        "tsize 0 blksize 512 timeout 6"),
    ("Erlang tftp", "big.bin octet timeout 2 tsize 0 blksize 1428",
        "timeout 2 tsize 1000003 blksize 1428"),
    ("Go pin/tftp v3", "big.bin octet blksize 1428 tsize 0", "blksize 1428 tsize 1000003"),
    ("Go pin/tftp v3", "text.txt netascii", ""),
    ("tftp-hpa 5.2", "b512.bin octet", ""),
    ("npm tftp", "one.bin octet blksize 1468 timeout 1000 windowsize 4 rollover 0 tsize 0",
        "blksize 1468 windowsize 4 rollover 0 tsize 1000003"),
    ("npm tftp",
        "npm-up-115 octet blksize 1468 timeout 1000 windowsize 4 rollover 0 tsize 2000003",
        "blksize 1468 windowsize 4 rollover 0 tsize 2000003"),
    ("Perl Net::TFTP", "mid.bin octet blksize 1428", "blksize 1428"),
    ("ptftp", "mid.bin octet blksize 1400 windowsize 8 tsize 0",
        "blksize 1400 windowsize 8 tsize 1000003"),
    ("PyPI tftp", "mid.bin octet blksize 1428 tsize 0 timeout 1 windowsize 65535",
        "blksize 1428 tsize 1000003 timeout 1 windowsize 64"),
    ("rs-tftpd 1.0 client", "big.bin octet blksize 1428 tsize 0 windowsize 16 timeout 5",
        "blksize 1428 tsize 1000003 windowsize 16 timeout 5"),
    ("tftpy", "big.bin octet blksize 1428 tsize 0", "blksize 1428 tsize 1000003"),
    ("iPXE PXE stack, then GRUB 2.06 over UNDI",
        "/grub/i386-pc/normal.mod octet blksize 1024 tsize 0", "blksize 1024 tsize 1000003"),
    ("busybox 1.35 tftp in a netbooted Linux", "linux-up octet blksize 1428 tsize 8400953",
        "blksize 1428 tsize 8400953"),
    ("iPXE 1.0.0+git20190125 (BIOS)", "boot.ipxe octet blksize 1432 tsize 0",
        "blksize 1432 tsize 1000003"),
    ("iPXE 1.0.0+git20190125 (BIOS, virtio)", "boot.ipxe octet blksize 1432 tsize 0",
        "blksize 1432 tsize 1000003"),
    ("lPXELINUX 6.04 (lwIP)", "lpx/ldlinux.c32 octet tsize 0 blksize 1408",
        "tsize 1000003 blksize 1408"),
    ("PXELINUX 6.04", "ldlinux.c32 octet tsize 0 blksize 1408", "tsize 1000003 blksize 1408"),
    ("U-Boot 2023.01 (arm)", "big.bin octet timeout 1 blksize 512 windowsize 32",
        "timeout 1 blksize 512 windowsize 32"),
    ("U-Boot 2023.01 (arm64)", "big.bin octet timeout 1 blksize 1468", "timeout 1 blksize 1468"),
    ("UEFI OVMF (EDK2 MTFTP), then GRUB 2.06 EFI",
        "grub/x86_64-efi/core.efi octet tsize 0 blksize 1468 windowsize 4",
        "tsize 1000003 blksize 1468 windowsize 4"),
    ("UEFI OVMF (EDK2 MTFTP), then GRUB 2.06 EFI",
        "grub/x86_64-efi/core.efi octet blksize 1468 windowsize 4", "blksize 1468 windowsize 4"),
];

#[test]
fn captured_requests_get_the_answers_of_the_design() {
    let all = captured();
    for (client, words, expected) in ANSWERS {
        let line = all
            .iter()
            .find(|line| line.client == *client && line.words == *words)
            .unwrap_or_else(|| panic!("{client} never sent {words}"));
        let answered = answer(&line.datagram, Some(FILE_SIZE));
        assert_eq!(answered, *expected, "{client}: {words}");
    }
    for Captured { client, .. } in &all {
        assert!(ANSWERS.iter().any(|row| row.0 == *client), "{client}");
    }
}

/// What holds for every answer: it is a subset of the request in the same order and
/// spelling, and the client has to accept each value.
fn check_answer(request: &Request<'_>, oack: RawOptions<'_>) {
    let mut asked = request.options.pairs();
    for (name, told) in oack.pairs() {
        assert!(
            asked
                .by_ref()
                .any(|(spelling, value)| spelling == name && honours(request, name, value, told)),
            "not asked for, or not in order: {}={}",
            escape(name),
            escape(told)
        );
    }
}

/// Whether `told` is a valid answer to the option `name` requested with `value`: sizes no
/// larger, a timeout or rollover equal.
fn honours(request: &Request<'_>, name: &[u8], value: &[u8], told: &[u8]) -> bool {
    // More digits than fit are a number above every maximum.
    let number = |digits: &[u8]| {
        let text = str::from_utf8(digits).ok()?;
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(u128::MAX))
    };
    let (Some(asked), Some(told)) = (number(value), number(told)) else {
        return false;
    };
    match OptionName::from_wire(name) {
        Some(OptionName::Blksize | OptionName::Windowsize) => told <= asked,
        Some(OptionName::Blksize2) => told <= asked && told.is_power_of_two(),
        Some(OptionName::Timeout | OptionName::Utimeout | OptionName::Rollover) => told == asked,
        Some(OptionName::Tsize) => match request.direction {
            Direction::Read => told == FILE_SIZE.into(),
            Direction::Write => told == asked,
        },
        None => false,
    }
}

fn check_agreed(agreed: &Negotiated) {
    assert!((MIN_BLKSIZE..=MAX_BLKSIZE).contains(&agreed.blksize));
    assert!((1..=MAX_IN_FLIGHT).contains(&agreed.windowsize));
    assert_ne!(agreed.timeout, Some(std::time::Duration::ZERO));
}

fn narrow_limits() -> Limits {
    Limits {
        max_blksize: 1000,
        max_windowsize: 3,
        ..Limits::default()
    }
}

/// The offer that produces the same request.
fn offer(request: &Request<'_>) -> Offer {
    let mut offer = Offer::default();
    for (name, value) in text_pairs(request.options) {
        match OptionName::from_wire(name.as_bytes()) {
            Some(OptionName::Blksize) => offer.blksize = value.parse().ok(),
            Some(OptionName::Windowsize) => offer.windowsize = value.parse().ok(),
            Some(OptionName::Timeout) => offer.timeout = value.parse().ok(),
            Some(OptionName::Tsize) => offer.tsize = value.parse().ok(),
            Some(OptionName::Rollover) => {
                offer.rollover = Some(match value {
                    "0" => Rollover::ToZero,
                    _ => Rollover::ToOne,
                });
            }
            Some(OptionName::Blksize2 | OptionName::Utimeout) => {
                panic!("no client here sends {name}")
            }
            None => offer.extra.push((name.into(), value.into())),
        }
    }
    offer
}

#[test]
fn both_ends_agree_on_every_captured_request() {
    for Captured {
        client,
        datagram,
        words,
    } in captured()
    {
        let request = request(&datagram);
        for limits in [Limits::default(), narrow_limits()] {
            let mut buffer = [0; 512];
            let (served, len) = negotiate(&request, &limits, Some(FILE_SIZE), &mut buffer);
            let oack = oack(&buffer, len);
            check_answer(&request, oack);
            check_agreed(&served);

            let accepted = accept(&offer(&request), oack);
            let told = text_pairs(oack)
                .iter()
                .find(|(name, _)| *name == "tsize")
                .map(|(_, size)| size.parse().unwrap());
            let expected = Negotiated {
                tsize: told,
                ..served
            };
            assert_eq!(accepted, Ok(expected), "{client}: {words}");
        }
    }
}

#[test]
fn field_notes_are_answered_as_the_design_says() {
    let mut padded_with_nuls = b"\0\x01vmunix\0octet\0".to_vec();
    padded_with_nuls.resize(516, 0);
    let mut padded_with_garbage = b"\0\x01vmunix\0octet\0".to_vec();
    padded_with_garbage.resize(516, 0xa5);
    for (who, datagram, expected) in [
        ("HP PA-RISC pads with NULs", &padded_with_nuls[..], ""),
        ("OpenFirmware pads with garbage", &padded_with_garbage, ""),
        (
            "padding after the options",
            b"\0\x01f\0octet\0blksize\x001024\0\0\0\0",
            "blksize 1024",
        ),
        (
            "the final NUL is missing",
            b"\0\x01f\0octet\0tsize\x000\0blksize\x001024",
            "tsize 1000003 blksize 1024",
        ),
        (
            "an odd option string",
            b"\0\x01f\0octet\0blksize\x001024\0tsize\0",
            "blksize 1024",
        ),
        (
            "U-Boot asks for multicast with an empty value",
            b"\0\x01f\0octet\0timeout\x005\0tsize\x000\0multicast\0\0blksize\x001468\0",
            "timeout 5 tsize 1000003 blksize 1468",
        ),
        (
            "an empty value of an option we know",
            b"\0\x01f\0octet\0blksize\0\0windowsize\x004\0",
            "windowsize 4",
        ),
        (
            "U-Boot compares names with case",
            b"\0\x01f\0octet\0BlkSize\x001468\0TSIZE\x000\0",
            "BlkSize 1468 TSIZE 1000003",
        ),
        (
            "EDK2 probes for the size first",
            b"\0\x01f\0octet\0tsize\x000\0",
            "tsize 1000003",
        ),
        (
            "npm's timeout is in milliseconds",
            b"\0\x01f\0octet\0timeout\x001000\0",
            "",
        ),
        (
            "the Windows boot manager has an option of its own",
            b"\0\x01\\Boot\\BCD\0octet\0tsize\x000\0blksize\x001456\0windowsize\x004\0msftwindow\x0031416\0",
            "tsize 1000003 blksize 1456 windowsize 4",
        ),
        (
            "tftp-hpa's and atftpd's extensions",
            b"\0\x01f\0octet\0utimeout\x00500000\0blksize2\x001468\0",
            "utimeout 500000 blksize2 1024",
        ),
        (
            "a repeated option",
            b"\0\x01f\0octet\0blksize\x001024\0BLKSIZE\x00512\0",
            "blksize 1024",
        ),
        (
            "a mode in mixed case",
            b"\0\x01f\0NetASCII\0tsize\x000\0blksize\x00512\0",
            "blksize 512",
        ),
    ] {
        assert_eq!(answer(datagram, Some(FILE_SIZE)), expected, "{who}");
    }
}

/// RFC 2349 would have `tsize=0` answered with the size, 0. curl up to 7.88 takes a size
/// of 0 in an OACK for an error and gives up, so the option is left out, as RFC 2347
/// allows. If nothing else was asked for, there is no OACK, and the empty DATA 1 says
/// enough.
#[test]
fn the_size_of_an_empty_file_is_left_out_for_curl() {
    let datagram = b"\0\x01zero\0octet\0tsize\x000\0blksize\x00512\0timeout\x006\0";
    assert_eq!(answer(datagram, Some(0)), "blksize 512 timeout 6");
    assert_eq!(answer(b"\0\x01zero\0octet\0tsize\x000\0", Some(0)), "");
}

#[test]
fn names_are_kept_as_the_bytes_that_came() {
    for (datagram, filename) in [
        (
            &b"\0\x01boot.bin\xff\xff\0octet\0"[..],
            &b"boot.bin\xff\xff"[..],
        ),
        (b"\0\x01\\Boot\\BCD\0octet\0", b"\\Boot\\BCD"),
        (b"\0\x01//a/../b c\0octet\0", b"//a/../b c"),
    ] {
        assert_eq!(request(datagram).filename, filename);
    }
}

#[test]
fn the_windows_boot_managers_long_ack_is_an_ack() {
    assert_eq!(
        Packet::parse(b"\0\x04\0\x07\0"),
        Ok(Packet::Ack(BlockNumber(7)))
    );
}

#[test]
fn mail_is_refused_with_a_text() {
    let error = Packet::parse(b"\0\x02root\0mail\0").unwrap_err();
    assert_eq!(error, ParseError::MailMode);
    assert!(error.reply().is_some_and(|text| text.contains("octet")));
}

/// Passes arbitrary bytes through the whole layer and checks the invariants.
fn survive(datagram: &[u8], limits: Limits, room: usize) {
    let offer = Offer {
        blksize: Some(1428),
        windowsize: Some(8),
        timeout: Some(2),
        tsize: Some(0),
        rollover: Some(Rollover::ToOne),
        extra: vec![("x".into(), "y".into())],
    };
    let judge = |options| {
        if let Ok(agreed) = accept(&offer, options) {
            check_agreed(&agreed);
            assert!(agreed.blksize <= 1428 && agreed.windowsize <= 8);
        }
    };
    match Packet::parse(datagram) {
        Ok(Packet::Request(request)) => {
            assert!(!request.filename.is_empty() && !request.filename.contains(&0));
            let mut buffer = vec![0; room];
            let (agreed, len) = negotiate(&request, &limits, Some(FILE_SIZE), &mut buffer);
            let options = oack(&buffer, len);
            assert_eq!(
                len == 0,
                agreed == Negotiated::default() && options.pairs().next().is_none()
            );
            check_answer(&request, options);
            check_agreed(&agreed);
            judge(request.options);
        }
        Ok(Packet::Oack(options)) => judge(options),
        Ok(_) => {}
        Err(error) => {
            let is_request = matches!(datagram, [0, 1 | 2, ..]);
            assert_eq!(error.reply().is_some(), is_request);
        }
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    (MIN_BLKSIZE..=MAX_BLKSIZE, 1u16.., any::<bool>()).prop_map(
        |(max_blksize, max_windowsize, refuse)| {
            let mut limits = Limits {
                max_blksize,
                max_windowsize,
                ..Limits::default()
            };
            if refuse {
                limits.refused.insert(OptionName::Blksize);
            }
            limits
        },
    )
}

/// Requests and OACKs made of known words in any order.
fn worded() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        "[0-9]{0,7}",
        "[0-9]{18,40}",
        any::<u16>().prop_map(|n| n.to_string())
    ];
    let name = prop_oneof![
        prop::sample::select(OptionName::ALL.to_vec()).prop_map(|option| option.name().to_string()),
        prop::sample::select(OptionName::ALL.to_vec())
            .prop_map(|option| option.name().to_uppercase()),
        "[a-z]{0,3}",
    ];
    let front = prop::sample::select(vec!["\0\x01f\0octet\0", "\0\x02f\0netascii\0", "\0\x06"]);
    (front, prop::collection::vec((name, number), 0..9)).prop_map(|(front, options)| {
        let options = options
            .iter()
            .flat_map(|(name, value)| [name, "\0", value, "\0"]);
        iter::once(front)
            .chain(options)
            .collect::<String>()
            .into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_upset_the_layer(
        opcode in 0u8..8,
        body: Vec<u8>,
        whole: Vec<u8>,
        limits in limits(),
        room in 0usize..200,
    ) {
        survive(&whole, limits, room);
        survive(&[&[0, opcode][..], &body].concat(), limits, room);
    }

    #[test]
    fn no_options_upset_the_layer(datagram in worded(), limits in limits(), room in 0usize..200) {
        survive(&datagram, limits, room);
    }

    #[test]
    fn no_mutation_of_a_real_request_upsets_the_layer(
        line: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut: prop::sample::Index,
        tail: Vec<u8>,
        limits in limits(),
    ) {
        let all = captured();
        let mut datagram = all[line.index(all.len())].datagram.clone();
        for (at, byte) in changes {
            let at = at.index(datagram.len());
            datagram[at] = byte;
        }
        survive(&datagram, limits, 512);
        survive(&[&datagram[..], &tail].concat(), limits, 512);
        datagram.truncate(cut.index(datagram.len() + 1));
        survive(&datagram, limits, 512);
    }
}
