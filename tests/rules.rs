//! `--rules`: which clients they apply to and what they do; and `--rules-test`.

#![allow(clippy::disallowed_methods, reason = "a test stands outside the loops")]

mod common;

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::Signal;

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/rules.toml");
const TABLE: &str = include_str!("data/rules.tsv");

/// A line of the table.
struct Row<'a> {
    client: &'a str,
    name: &'a str,
    section: &'a str,
    /// The path that is served, or the code of the ERROR.
    read: Result<&'a str, u16>,
    write: Result<&'a str, u16>,
}

fn rows() -> impl Iterator<Item = Row<'static>> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let words: Vec<_> = line.split('\t').collect();
        let place = |it: &'static str| it.parse().map_or(Ok(it), Err);
        Row {
            client: words[0],
            name: words[1],
            section: words[2],
            read: place(words[3]),
            write: place(words[4]),
        }
    })
}

/// Creates all files in the table; each contains its own path.
fn fill(root: &Path) {
    let others = ["phones/g.key", "switches/secret/x", "own/127.0.1.7/x"];
    let read = rows().filter_map(|row| row.read.ok());
    for file in read.chain(others) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, file).expect("a file");
    }
}

fn rules_test(args: &[&str], lines: &str) -> Output {
    let mut child = Command::new(tftpd())
        .arg("--rules-test")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tftpd starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    // It may have ended before it has read the lines.
    let _ = pipe.write_all(lines.as_bytes());
    drop(pipe);
    child.wait_with_output().expect("a child of ours")
}

/// A server with these rules, in a file next to its root.
fn start(rules: &str, args: &[&str]) -> Server {
    let address = own_address().to_string();
    let all: Vec<_> = ["-a", &address].iter().chain(args).copied().collect();
    Server::start_prepared(&all, |dir| {
        let file = dir.join("rules.toml");
        fs::write(&file, rules.replace('@', dir.to_str().expect("UTF-8"))).expect("a file");
        let mut command = Command::new(tftpd());
        command.arg("--rules").arg(file);
        command
    })
}

fn client(server: &Server, address: &str) -> RawClient {
    RawClient::at(
        address.parse::<Ipv4Addr>().expect("an address"),
        server.addr(),
    )
}

#[test]
fn rules_test_answers_the_table_of_clients_and_names() {
    let root = tempfile::tempdir().unwrap();
    fill(root.path());
    assert!(rows().count() >= 100);
    let lines = rows().map(|row| format!("{} {}\n", row.client, row.name));
    let lines = lines.collect::<Vec<_>>().concat();
    let path = root.path().to_str().unwrap();
    let output = rules_test(&[RULES, path], &lines);
    assert!(output.status.success(), "{}", said(&output));
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told.lines().count(), rows().count());
    for (row, line) in rows().zip(told.lines()) {
        let section = match row.section {
            "-" => ": no section;".to_owned(),
            name => format!(": section {name};"),
        };
        assert!(line.contains(&section), "{section} {line}");
        for (word, wanted) in [("read", row.read), ("write", row.write)] {
            let wanted = match wanted {
                Ok(file) => {
                    let name = row.name.trim_start_matches("../");
                    let way = file.strip_suffix(name).unwrap().trim_end_matches('/');
                    let root = root.path().join(way);
                    let root = root.to_str().unwrap().trim_end_matches('/').to_owned();
                    format!("; {word} \"{name}\" in {root}")
                }
                Err(1) => format!("; {word} refused: File not found"),
                Err(_) => format!("; {word} refused: Access violation"),
            };
            assert!(line.contains(&wanted), "{wanted}: {line}");
        }
    }
}

#[test]
fn the_server_keeps_to_the_table_of_clients_and_names() {
    let server = start(&fs::read_to_string(RULES).unwrap(), &["--overwrite"]);
    fill(&server.root());
    // Rows with hardware addresses and interfaces can't be tried here.
    let loopback = rows().filter(|row| row.client.parse::<Ipv4Addr>().is_ok());
    let mut count = 0;
    for row in loopback {
        let client = || client(&server, row.client);
        let context = format!("{} {}", row.client, row.name);
        // Some clients get every datagram twice.
        let read = client().read(row.name).map_err(|(code, _)| code);
        assert_eq!(read, row.read.map(|it| it.as_bytes().to_vec()), "{context}");
        let writer = client();
        let (answer, tid) = writer.ask_patiently(&wrq(row.name, &[]));
        let has_directory = |file| server.root().join(file).parent().unwrap().is_dir();
        match row.write {
            Ok(file) if has_directory(file) => assert_eq!(answer, Packet::Ack(0), "{context}"),
            Ok(_) => assert_eq!(answer.error_code(), Some(1), "{context}: {answer:?}"),
            Err(code) => assert_eq!(answer.error_code(), Some(code), "{context}: {answer:?}"),
        }
        writer.send_to(&error(0, "enough"), tid);
        count += 1;
    }
    assert_eq!(count, 70);
}

#[test]
fn a_section_bounds_options_mode_and_port() {
    let rules = "[bounded]
networks = '127.0.1.0/24'
max-blksize = 1024
max-windowsize = 4
refuse = ['tsize']
octet = true
single-port = true
";
    let server = start(rules, &NEVER);
    server.file("f", b"a\nb");
    let asked = [("blksize", "1428"), ("windowsize", "16"), ("tsize", "0")];
    let pairs = |pairs: &[(&str, &str)]| {
        let owned = pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        Packet::Oack(owned.collect())
    };
    let request = request(1, b"f", "netascii", &asked);
    let bounded = client(&server, "127.0.1.1");
    let (oack, tid) = bounded.ask(&request);
    assert_eq!(oack, pairs(&[("blksize", "1024"), ("windowsize", "4")]));
    assert_eq!(tid, server.addr(), "the listening port");
    assert_eq!(bounded.say(&ack(0), tid), Packet::Data(1, b"a\nb".to_vec()));
    bounded.send_to(&ack(1), tid);
    assert!(server.wait_ended(bounded.addr(), 1)[0].contains("outcome=completed"));
    // The same for uploads, and strangers get an ERROR.
    let upload = client(&server, "127.0.1.2");
    let (answer, tid) = upload.ask(&wrq("new", &[("blksize", "1024")]));
    assert_eq!(answer, pairs(&[("blksize", "1024")]));
    assert_eq!(tid, server.addr());
    let stranger = client(&server, "127.0.1.3");
    assert_eq!(stranger.ask(&data(1, b"x")).0.error_code(), Some(5));
    assert_eq!(upload.say(&data(1, &[7; 1024]), tid), Packet::Ack(1));
    assert_eq!(upload.say(&data(2, b""), tid), Packet::Ack(2));
    assert_eq!(fs::read(server.root().join("new")).unwrap(), [7; 1024]);

    let other = client(&server, "127.0.2.1");
    let (oack, tid) = other.ask(&request);
    assert_eq!(oack, pairs(&[("blksize", "1428"), ("windowsize", "16")]));
    assert_ne!(tid, server.addr());
    assert_eq!(other.say(&ack(0), tid), Packet::Data(1, b"a\r\nb".to_vec()));
}

#[test]
fn a_paced_transfer_takes_its_time_and_datagrams_are_doubled() {
    let rules = "[slow]
networks = '127.0.1.0/24'
rate = 100_000
[doubled]
networks = '127.0.2.0/24'
send-twice = true
";
    let server = start(rules, &[]);
    let file = content(5, 60_000);
    server.file("f", &file);
    for (block, window) in [(512, 1), (1428, 16)] {
        let (blksize, windowsize) = (block.to_string(), window.to_string());
        let options = [("blksize", &*blksize), ("windowsize", &*windowsize)];
        // The server never takes its own pauses for silence. On a busy machine it may
        // take a pause of 20 ms for silence, but not in every attempt.
        let sends_once = || {
            let slow = client(&server, "127.0.1.1");
            let began = Instant::now();
            let got = slow.read_with(&rrq("f", &options), block, window, 0);
            assert_same("paced", &got.unwrap(), &file);
            let took = began.elapsed();
            // It takes 0.6 s, less the initial credit of 10,000 bytes.
            assert!(took >= millis(480), "{window}: {took:?}");
            let line = &server.wait_ended(slow.addr(), 1)[0];
            line.contains("retransmits=0")
        };
        let is_ever_quiet = (0..10).any(|_| sends_once());
        assert!(is_ever_quiet, "{window}: what was paced is sent twice");
    }
    let doubled = client(&server, "127.0.2.1");
    let (first, tid) = doubled.ask(&rrq("f", &[("blksize", "1000"), ("windowsize", "2")]));
    assert!(matches!(first, Packet::Oack(_)), "{first:?}");
    assert_eq!(doubled.expect_from(tid), first);
    doubled.send_to(&ack(0), tid);
    let blocks: Vec<_> = (0..4)
        .map(|_| doubled.expect_from(tid).data_block())
        .collect();
    assert_eq!(blocks, [1, 1, 2, 2].map(Some));
}

#[test]
fn an_error_without_a_transfer_is_doubled_too() {
    let rules = "[doubled]
networks = '127.0.2.0/24'
read = '!secret'
send-twice = true
";
    for args in [&[][..], &["--single-port"]] {
        let server = start(rules, &[&NEVER, args].concat());
        server.file("secret", b"x");
        let mut requests = vec![
            (rrq("missing", &[]), 1),
            (rrq("secret", &[]), 2),
            (wrq("secret", &[]), 6),
            (rrq("missing/", &[]), 2),
            (rrq("", &[]), 4),
        ];
        if !args.is_empty() {
            requests.push((data(1, b"x"), 5));
        }
        for (request, code) in requests {
            let doubled = client(&server, "127.0.2.1");
            let (first, tid) = doubled.ask(&request);
            assert_eq!(first.error_code(), Some(code), "{args:?}");
            assert_eq!(doubled.expect_from(tid), first, "{args:?}");
            let other = client(&server, "127.0.1.1");
            other.ask(&request);
            server.assert_quiet(&other);
        }
    }
}

/// Uploads `file` with this window size, without retransmits; returns how long that
/// took.
fn upload(server: &Server, address: &str, file: &[u8], window: usize) -> Duration {
    let writer = client(server, address);
    let name = format!("{address}-{window}");
    let (answer, tid) = writer.ask(&wrq(&name, &[("windowsize", &window.to_string())]));
    assert!(matches!(answer, Packet::Oack(_)), "{answer:?}");
    assert_eq!(tid == server.addr(), address == "127.0.3.1");
    let began = Instant::now();
    let blocks: Vec<_> = (1..).zip(file.chunks(512)).collect();
    for blocks in blocks.chunks(window) {
        for (number, block) in blocks {
            writer.send_to(&data(*number, block), tid);
        }
        let last = blocks.last().map(|(number, _)| *number);
        let answer = writer.expect_from(tid);
        assert_eq!(Some(answer), last.map(Packet::Ack), "{name}");
    }
    let took = began.elapsed();
    let stored = fs::read(server.root().join(&name)).expect("an upload");
    assert_same(&name, &stored, file);
    let line = &server.wait_ended(writer.addr(), 1)[0];
    assert!(line.contains("retransmits=0"), "{line}");
    took
}

#[test]
fn an_upload_is_paced_by_held_acks_and_one_without_a_rule_is_not() {
    let rules = "[slow]
networks = '127.0.1.0/24'
rate = 100_000
[single]
networks = '127.0.3.0/24'
rate = 100_000
single-port = true
";
    let server = start(rules, &[]);
    let file = content(5, 60_000);
    std::thread::scope(|scope| {
        for (address, window) in [("127.0.1.1", 1), ("127.0.1.1", 8), ("127.0.3.1", 8)] {
            let (server, file) = (&server, &file);
            scope.spawn(move || {
                // It takes 0.6 s, less the initial credit of 10,000 bytes, and the last
                // wait.
                let took = upload(server, address, file, window);
                assert!(took >= millis(450), "{address} {window}: {took:?}");
            });
        }
    });
    // At that rate it would take ten seconds.
    let took = upload(&server, "127.0.2.1", &content(6, 1_000_000), 8);
    assert!(took < millis(7_000), "{took:?}");
}

#[test]
fn a_section_limits_the_sessions_of_clients_that_have_answered() {
    let rules = "[few]
networks = '127.0.1.0/24'
max-sessions = 2
";
    let server = start(rules, &NEVER);
    server.file("f", &[1; 5000]);
    let begin = |address| {
        let client = client(&server, address);
        let (_, tid) = client.ask_data(&rrq("f", &[]));
        (client, tid)
    };
    // Three begin; the third is one too many once it has answered.
    let started = ["127.0.1.1", "127.0.1.2", "127.0.1.3"].map(begin);
    let [(first, to), (second, there), (third, place)] = &started;
    assert_eq!(first.say(&ack(1), *to).data_block(), Some(2));
    assert_eq!(second.say(&ack(1), *there).data_block(), Some(2));
    assert_eq!(third.say(&ack(1), *place).data_block(), Some(2));
    let turned_away = third.expect_from(*place);
    assert_eq!(turned_away.error_code(), Some(0), "{turned_away:?}");
    // A new client is dropped; clients outside the section don't count; and rereading the
    // rules makes no room.
    server.signal(Signal::SIGHUP);
    let told = |line: &str| line.contains("read the rules file again");
    assert!(server.wait_for_log(told, PATIENCE).is_some());
    let fourth = client(&server, "127.0.1.4");
    fourth.send(&rrq("f", &[]));
    server.assert_quiet(&fourth);
    let other = client(&server, "127.0.2.1");
    other.ask_data(&rrq("f", &[]));
    // When one ends, there is room.
    first.send_to(&error(0, "enough"), *to);
    server.wait_ended(first.addr(), 1);
    fourth.ask_data(&rrq("f", &[]));
}

/// A complete upload only waits in case its last ACK was lost.
#[test]
fn a_section_counts_no_upload_that_is_complete() {
    let rules = "[few]
networks = '127.0.1.0/24'
max-sessions = 2
";
    let server = start(rules, &NEVER);
    let begin = |nth: u16| {
        let writer = client(&server, &format!("127.0.1.{nth}"));
        let (answer, tid) = writer.ask(&wrq(&format!("up{nth}"), &[]));
        assert_eq!(answer, Packet::Ack(0), "{nth}");
        (writer, tid)
    };
    for nth in 1..=5 {
        let (writer, tid) = begin(nth);
        assert_eq!(writer.say(&data(1, b"x"), tid), Packet::Ack(1), "{nth}");
    }
    // Those that aren't complete count.
    let running = [6, 7].map(|nth| {
        let (writer, tid) = begin(nth);
        let answer = writer.say(&data(1, &[1; BLOCK]), tid);
        assert_eq!(answer, Packet::Ack(1), "{nth}");
        (writer, tid)
    });
    let third = client(&server, "127.0.1.8");
    third.send(&wrq("up8", &[]));
    server.assert_quiet(&third);
    let (first, tid) = &running[0];
    assert_eq!(first.say(&data(2, b""), *tid), Packet::Ack(2));
    assert_eq!(third.ask(&wrq("up8", &[])).0, Packet::Ack(0));
}

#[test]
fn in_a_full_section_what_lacks_only_its_last_ack_gives_way_to_its_clients_next() {
    let rules = "[one]
networks = '127.0.1.0/24'
max-sessions = 1
";
    let server = start(rules, &NEVER);
    server.file("f", &[1; BLOCK + 1]);
    server.file("long", &[1; 3 * BLOCK]);
    let fetch = |name| {
        let rom = client(&server, "127.0.1.1");
        let (_, tid) = rom.ask_data(&rrq(name, &[]));
        assert_eq!(rom.say(&ack(1), tid).data_block(), Some(2));
        rom
    };
    let first = fetch("f");
    // Another client can't know that the first has its file.
    let other = client(&server, "127.0.1.2");
    other.send(&rrq("f", &[]));
    server.assert_quiet(&other);
    let second = fetch("f");
    let _long = fetch("long");
    for rom in [first, second] {
        let line = &server.wait_ended(rom.addr(), 1)[0];
        assert!(
            line.contains("outcome=completed last_ack=missing"),
            "{line}"
        );
    }
    // What isn't sent yet doesn't give way.
    let next = client(&server, "127.0.1.1");
    next.send(&rrq("f", &[]));
    server.assert_quiet(&next);
}

/// A board that is reset asks again from the same port.
#[test]
fn in_a_full_section_a_client_may_replace_its_own_transfer() {
    let rules = "[one]
networks = '127.0.1.0/24'
max-sessions = 1
";
    let server = start(rules, &NEVER);
    server.file("f", &[1; 3 * BLOCK]);
    server.file("g", b"g");
    let board = client(&server, "127.0.1.1");
    let (_, tid) = board.ask_data(&rrq("f", &[]));
    assert_eq!(board.say(&ack(1), tid).data_block(), Some(2));
    let (answer, _) = board.ask_patiently(&rrq("g", &[]));
    assert_eq!(answer, Packet::Data(1, b"g".to_vec()));
    let line = &server.wait_ended(board.addr(), 1)[0];
    assert!(line.contains("outcome=replaced"), "{line}");
}

#[test]
fn a_refusal_by_a_section_says_so_in_the_log() {
    let server = start("[all]\nread = '!secret'\n", &[]);
    server.file("secret", &[1]);
    let (answer, _) = client(&server, "127.0.1.1").ask(&rrq("secret", &[]));
    assert_eq!(answer.error_code(), Some(2), "{answer:?}");
    let told = |line: &str| line.contains("refused ") && line.contains("--rules-test");
    assert!(server.wait_for_log(told, PATIENCE).is_some());
}

#[test]
fn a_section_whose_roots_are_missing_because_root_was_replaced_says_so() {
    let server = start("[all]\nroots = 'own'\n", &[]);
    let root = server.root();
    fs::create_dir(root.join("own")).unwrap();
    fs::rename(&root, server.outside().join("old")).unwrap();
    fs::remove_dir(server.outside().join("old/own")).unwrap();
    fs::create_dir_all(root.join("own")).unwrap();
    client(&server, "127.0.1.1").ask(&rrq("f", &[]));
    let told = |line: &str| line.contains("no directory for this client");
    let line = server.wait_for_log(told, PATIENCE).expect("a line");
    assert!(line.contains("was replaced or mounted over"), "{line}");
}

#[test]
fn a_section_none_of_whose_roots_is_there_says_so() {
    let rules = "[all]\nroots = ['own/%i', 'other']\n";
    let server = start(rules, &[]);
    for request in [rrq("f", &[]), wrq("f", &[])] {
        let (answer, _) = client(&server, "127.0.1.1").ask(&request);
        assert_eq!(answer.error_code(), Some(1), "{answer:?}");
    }
    for op in ["op=read", "op=write"] {
        let told = |line: &str| line.contains(op) && line.contains("none of the roots");
        assert!(server.wait_for_log(told, PATIENCE).is_some(), "{op}");
    }
    let file = server.root().join("rules");
    fs::write(&file, rules).unwrap();
    let root = server.root();
    let output = rules_test(
        &[file.to_str().unwrap(), root.to_str().unwrap()],
        "127.0.1.1 f\n",
    );
    let wanted =
        "read refused: File not found: no directory for this client: \"own/127.0.1.1\", \"other\"";
    assert!(said(&output).contains(wanted), "{}", said(&output));
}

#[test]
fn directories_outside_root_are_served_and_sighup_reads_the_rules_again() {
    let rules = "[a]
networks = '127.0.1.0/24'
roots = ['@/class', 'own/%i']
";
    let dir = tempfile::tempdir().unwrap();
    let class = dir.path().join("class");
    fs::create_dir(&class).unwrap();
    fs::write(class.join("f"), "class").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", class.join("out")).unwrap();
    let here = dir.path().to_str().unwrap();
    let file = dir.path().join("rules.toml");
    let write = |rules: &str| fs::write(&file, rules.replace('@', here)).unwrap();
    write(rules);
    let server = Server::start(&["--rules", file.to_str().unwrap()]);
    server.file("f", b"common");
    server.file("own/127.0.1.1/mine", b"mine");
    let read = |name: &str| {
        let read = client(&server, "127.0.1.1").read(name);
        read.map_err(|(code, _)| code)
    };
    assert_eq!(read("f"), Ok(b"class".to_vec()));
    assert_eq!(read("mine"), Ok(b"mine".to_vec()));
    assert_eq!(read(&format!("{here}/class/f")), Ok(b"class".to_vec()));
    for name in ["out", "../rules.toml", "/../../etc/passwd"] {
        assert_eq!(read(name), Err(1), "{name}");
    }
    assert_eq!(client(&server, "127.0.1.1").write("up", b"up"), Ok(()));
    assert_eq!(fs::read(class.join("up")).unwrap(), b"up");
    // Now the client's own directory comes first; the broken rules after that change
    // nothing.
    let told = |wanted: &str| {
        let line = server.wait_for_log(|line| line.contains(wanted), PATIENCE);
        assert!(line.is_some(), "{wanted}: {:#?}", server.log_lines());
    };
    write("[b]\nroots = ['own/%i', '@/class', '.']\n");
    server.signal(Signal::SIGHUP);
    told("read the rules file again: 1 section of");
    fs::write(server.root().join("own/127.0.1.1/f"), "own").unwrap();
    assert_eq!(read("f"), Ok(b"own".to_vec()));
    for (broken, said) in [
        ("[b]\nroots = [\n", "line 2"),
        (
            "[b]\ncolour = 1\n",
            "line 2, column 1: there is no setting colour",
        ),
        (
            "[b]\nroots = '/usr'\n",
            "the new directory /usr needs a restart",
        ),
        ("[b]\nsingle-port = true\n", "needs a restart"),
        ("[b]\noctet = true", "ends in the middle of a line"),
        ("", "is empty"),
    ] {
        write(broken);
        server.signal(Signal::SIGHUP);
        told(said);
        assert_eq!(read("f"), Ok(b"own".to_vec()), "{broken}");
    }
    told("going on with the old rules");
}

/// Ports of their own can't be had below `--single-port`.
#[test]
fn a_section_without_a_single_port_is_refused_on_reload_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.toml");
    fs::write(&file, "[a]\nsingle-port = true\n").unwrap();
    let server = Server::start(&["--single-port", "--rules", file.to_str().unwrap()]);
    fs::write(&file, "[a]\nsingle-port = false\n").unwrap();
    server.signal(Signal::SIGHUP);
    let is_told = |line: &str| {
        line.contains("section a: single-port = false")
            && line.ends_with("going on with the old rules")
    };
    let line = server.wait_for_log(is_told, PATIENCE);
    assert!(line.is_some(), "{:#?}", server.log_lines());
}

/// `--rules-test` shows where an upload goes, and follows links, as the server does.
#[test]
fn rules_test_knows_where_uploads_go_and_what_links_may_lead_to() {
    let dir = tempfile::tempdir().unwrap();
    let [root, uploads, linked] = ["root", "uploads", "linked"].map(|it| dir.path().join(it));
    for directory in [&root, &uploads, &linked] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(linked.join("f"), "linked").unwrap();
    std::os::unix::fs::symlink(linked.join("f"), root.join("f")).unwrap();
    let [root, uploads, linked] = [root, uploads, linked].map(|it| it.display().to_string());
    let args = [
        RULES,
        "--upload-root",
        &uploads,
        "--follow-links",
        &linked,
        &root,
    ];
    let output = rules_test(&args, "203.0.113.9 f\n");
    let told = String::from_utf8(output.stdout).unwrap();
    let wanted = format!("no section; read \"f\" in {root}; write \"f\" in {uploads}");
    assert!(told.contains(&wanted), "{told}");
}

#[test]
fn rules_that_cannot_be_used_end_the_start_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.toml");
    let uploads = dir.path().join("box");
    fs::create_dir_all(uploads.join("sub")).unwrap();
    let in_box = |name| format!("[a]\nroots = '{}'", uploads.join(name).display());
    let write_only = ["--write-only", "--upload-root", uploads.to_str().unwrap()];
    let closed = ["/box", "nobody may read", "--write-only"];
    for (rules, args, words) in [
        (
            "[a]\nrate = 1",
            &[][..],
            &["line 2, column 8", "rules.toml", "rate: expected"][..],
        ),
        (
            "[a]\nrate = \"1M\"\nmax-blksize = 4",
            &[],
            &[
                "line 2, column 8",
                "\"1M\"",
                "line 3, column 15",
                "from 8 to 65464, not 4",
            ],
        ),
        (
            "[a]\nroots = '/no/such'",
            &[],
            &["/no/such", "no such directory"],
        ),
        ("[a]\nroots = '/usr'", &["--chroot"], &["/usr", "--chroot"]),
        (
            "[a]\noctet = true\n[b]\nsingle-port = false",
            &["--single-port"],
            &["section b: single-port = false", "; leave out the option"],
        ),
        (&in_box(""), &write_only, &closed),
        (&in_box("sub"), &write_only, &closed),
    ] {
        fs::write(&file, format!("{rules}\n")).unwrap();
        let path = file.to_str().unwrap();
        let output = bounded(10, tftpd())
            .args(["-p", "0", "--rules", path])
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(told.lines().count(), 1, "{told}");
        for word in words {
            assert!(told.contains(word), "no `{word}` in {told}");
        }
    }
    let long = format!("127.0.0.1 {}", "x".repeat(3000));
    for (line, wrong) in [
        ("nobody f", "nobody is no IP address"),
        ("127.0.0.1", "no name behind the client"),
        ("", "no client"),
        ("127.0.0.1,52:54:00 f", "52:54:00 is no hardware address"),
        (&long, "more than 2048 bytes"),
    ] {
        let output = rules_test(&[RULES], &format!("127.0.0.1 f\n{line}\n"));
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        // The lines before it have been answered.
        assert!(
            output.stdout.starts_with(b"127.0.0.1 \"f\""),
            "{}",
            said(&output)
        );
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            told.contains("line 2 of the input") && told.contains(wrong),
            "{told}"
        );
    }
}
