//! The real binary delivers what was sent: netascii, every size around the block
//! borders, block numbers past 65535.

mod common;

use std::fs;

use common::*;

/// Local text and its form on the wire, with CR LF and CR NUL at block borders too.
fn netascii_cases() -> Vec<(Vec<u8>, Vec<u8>)> {
    let pad = |len: usize, tail: &[u8]| [&vec![b'a'; len], tail].concat();
    let mut cases = vec![
        (b"".to_vec(), b"".to_vec()),
        (b"no end".to_vec(), b"no end".to_vec()),
        (b"line\n".to_vec(), b"line\r\n".to_vec()),
        (b"\n\n".to_vec(), b"\r\n\r\n".to_vec()),
        (b"a\rb".to_vec(), b"a\r\0b".to_vec()),
        (b"a\r\nb".to_vec(), b"a\r\0\r\nb".to_vec()),
        (b"ends in\r".to_vec(), b"ends in\r\0".to_vec()),
        (vec![b'\n'; 3000], b"\r\n".repeat(3000)),
        (vec![b'\r'; 3000], b"\r\0".repeat(3000)),
    ];
    for len in [509, 510, 511, 512, 1021, 1022, 1023, 1024] {
        cases.push((pad(len, b"\n"), pad(len, b"\r\n")));
        cases.push((pad(len, b"\r"), pad(len, b"\r\0")));
        cases.push((pad(len, b"\nx\r"), pad(len, b"\r\nx\r\0")));
    }
    cases
}

#[test]
fn netascii_translates_both_ways() {
    let server = Server::start(&NEVER);
    for (case, (local, wire)) in netascii_cases().into_iter().enumerate() {
        let (down, up) = (format!("down{case}"), format!("up{case}"));
        server.file(&down, &local);
        for (options, block_size) in [(&[][..], BLOCK), (&[("blksize", "9")], 9)] {
            let client = RawClient::new(&server);
            let packet = request(1, down.as_bytes(), "netascii", options);
            let got = client.read_with(&packet, block_size, 1, 0).unwrap();
            assert_same(&down, &got, &wire);
        }
        let packet = request(2, up.as_bytes(), "NetASCII", &[]);
        let client = RawClient::new(&server);
        client.write_with(&packet, &wire, BLOCK, 1, 0).unwrap();
        assert_same(&up, &fs::read(server.root().join(&up)).unwrap(), &local);
    }
}

// --- block numbers ---------------------------------------------------------------------

#[test]
fn block_numbers_roll_over_as_asked() {
    const BLOCKS: usize = 66_000;
    let server = Server::start(&[]);
    let file = content(5, BLOCKS * 8 + 3);
    server.file("f", &file);
    let plain = [("blksize", "8"), ("windowsize", "64")];
    for (case, after_last) in [None, Some("0"), Some("1")].into_iter().enumerate() {
        let mut options = plain.to_vec();
        options.extend(after_last.map(|value| ("rollover", value)));
        let after_last = u16::from(after_last == Some("1"));
        let client = RawClient::new(&server);
        let got = client.read_with(&rrq("f", &options), 8, 64, after_last);
        assert_same("download", &got.unwrap(), &file);
        let name = format!("up{case}");
        let packet = wrq(&name, &options);
        let up = client.write_with(&packet, &file, 8, 64, after_last);
        up.unwrap();
        assert_same(
            "upload",
            &fs::read(server.root().join(&name)).unwrap(),
            &file,
        );
    }
}

#[test]
fn every_size_comes_and_goes_whole() {
    // Block borders are the same in both modes.
    if is_single_port() {
        return;
    }
    let server = Server::start(&[]);
    let client = RawClient::new(&server);
    for block_size in [8, 512, 1428, 65_464] {
        let size_option = block_size.to_string();
        let options = [("blksize", size_option.as_str()), ("windowsize", "3")];
        for blocks in [0, 1, 2, 3, 4, 6, 7] {
            for more in [0, 1, block_size - 1] {
                let file = content(6, blocks * block_size + more);
                let name = format!("f{}-{block_size}", file.len());
                let got = client.write_with(&wrq(&name, &options), &file, block_size, 3, 0);
                got.unwrap_or_else(|e| panic!("{name}: {e:?}"));
                let got = client.read_with(&rrq(&name, &options), block_size, 3, 0);
                assert_same(&name, &got.unwrap(), &file);
                fs::remove_file(server.root().join(&name)).unwrap();
            }
        }
    }
}

// --- files that change -------------------------------------------------------------------

/// If a file is rewritten in place while it is sent, old and new content get mixed: the
/// log reports that.
#[test]
fn a_file_rewritten_while_it_is_sent_is_told_as_changed() {
    let server = Server::start(&NEVER);
    // The same length in both modes.
    let text = |letter| vec![letter; 3 * BLOCK];
    let path = server.file("f", &text(b'a'));
    for (mode, changes) in [
        ("octet", true),
        ("octet", false),
        ("netascii", true),
        ("netascii", false),
    ] {
        let client = RawClient::new(&server);
        let (_, tid) = client.ask_data(&request(1, b"f", mode, &[]));
        if changes {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            std::io::Write::write_all(&mut &file, &text(b'b')).unwrap();
            // So that the time differs, however coarse the file system's clock is.
            let before = file.metadata().unwrap().modified().unwrap();
            file.set_modified(before - millis(1000)).unwrap();
        }
        for block in 1..=3 {
            client.say(&ack(block), tid);
        }
        client.send_to(&ack(4), tid);
        let lines = server.wait_ended(client.addr(), 1);
        let line = lines.last().expect("a line");
        let wanted = if changes { "changed" } else { "completed" };
        assert!(
            line.contains(&format!("outcome={wanted}")),
            "{mode}: {line}"
        );
        assert_eq!(line.contains("WARN"), changes, "{mode}: {line}");
    }
}
