//! Options of other servers: the manual's table says what to write here, and each
//! of its rows is tried, on both sides.

mod common;

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};

use common::*;
use tftpd::server::cli::Args;

const TABLES: &str = include_str!("../scripts/man/src/migration.md");

/// One row: whose options, which, and what they are here.
struct Row {
    with: &'static str,
    theirs: &'static str,
    ours: &'static str,
}

fn rows() -> Vec<Row> {
    let heading = "# From other servers\n";
    let (_, section) = TABLES.split_once(heading).expect(heading);
    let section = section.split("\n#").next().unwrap_or_default();
    let row = |line: &'static str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [with, theirs, ours] = cells[..] else {
            panic!("not three cells: {line}");
        };
        Row { with, theirs, ours }
    };
    section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| with"))
        .map(row)
        .collect()
}

/// The command lines in a cell, `FILE` made a file's name.
fn command_lines<'a>(cell: &'a str, file: &'a Path) -> impl Iterator<Item = Vec<String>> + 'a {
    let code = cell.split('`').skip(1).step_by(2);
    code.filter(|code| code.starts_with('-')).map(move |code| {
        let file = file.to_str().expect("a plain path");
        code.replace("FILE", file)
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    })
}

/// A map file that does as dnsmasq's `--tftp-lowercase`.
fn map_file(dir: &Path) -> std::path::PathBuf {
    let file = dir.join("map");
    std::fs::write(&file, "r ^.*$ \\L\\0\n").expect("a file");
    file
}

#[test]
fn what_is_to_be_written_here_is_understood() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = map_file(dir.path());
    let mut tried = 0;
    for row in rows() {
        let cell = if row.ours.starts_with("the same") {
            row.theirs
        } else {
            row.ours
        };
        // Behind a semicolon stands what it doesn't mean, or another way to write it.
        let cell = cell.split("; ").next().unwrap_or_default();
        let other = row.ours.strip_prefix("the same; or ").unwrap_or_default();
        let other = other.split("; ").next().unwrap_or_default();
        for mut words in command_lines(cell, &file).chain(command_lines(other, &file)) {
            if row.ours.starts_with("the same") && is_explanation(&row, &words) {
                continue;
            }
            words.insert(0, "tftpd".into());
            let read = Args::read(words.iter().map(OsString::from));
            assert!(read.is_ok(), "{} {words:?}: {read:?}", row.with);
            tried += 1;
        }
    }
    assert!(tried > 40, "{tried}");
}

/// Whether these words are a long name in parentheses, behind the short one.
fn is_explanation(row: &Row, words: &[String]) -> bool {
    row.theirs.contains(&format!("(`{}`)", words.join(" ")))
}

/// Has another server read a command line and do nothing else.
fn try_theirs(with: &str, words: &[String]) -> Option<Output> {
    let (program, quit): (_, &[&str]) = match with {
        "tftp-hpa" | "tftp-hpa 7" => ("in.tftpd", &["-V"]),
        "atftpd" => ("atftpd", &["--version"]),
        "dnsmasq" => ("dnsmasq", &["--test", "--conf-file=/dev/null"]),
        other => panic!("who is {other}?"),
    };
    let program = peer_program(program)?;
    // An older release doesn't know what a later one brought.
    let version = || {
        bounded(10, &program)
            .arg("-V")
            .output()
            .expect("timeout(1)")
    };
    if with == "tftp-hpa 7" {
        let version = said(&version());
        let (_, rest) = version.split_once("tftp-hpa ").unwrap_or_default();
        let major = rest.split('.').next().and_then(|it| it.parse().ok());
        if major.is_none_or(|major: u32| major < 7) {
            skip("in.tftpd is older than tftp-hpa 7");
            return None;
        }
    }
    Some(
        bounded(10, program)
            .args(words)
            .args(quit)
            .output()
            .expect("timeout(1)"),
    )
}

/// Whether it took the options; in.tftpd says so, but ends well all the same.
fn took(output: &Output) -> bool {
    output.status.success() && !said(output).contains("unrecognized option")
}

#[test]
fn what_was_written_there_was_understood_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = map_file(dir.path());
    for with in ["tftp-hpa", "atftpd", "dnsmasq"] {
        if let Some(output) = try_theirs(with, &["--no-such-option".to_owned()]) {
            assert!(!took(&output), "{with} takes anything");
        }
    }
    for row in rows() {
        for words in command_lines(row.theirs, &file) {
            // Its test reads names from a terminal, and crashes without.
            if is_explanation(&row, &words) || words[0] == "--pcre-test" {
                continue;
            }
            if let Some(output) = try_theirs(row.with, &words) {
                let text = said(&output);
                assert!(took(&output), "{} {words:?}: {text}", row.with);
            }
        }
    }
}

/// Who writes another server's words reads ours, as the manual has them.
#[test]
fn another_servers_option_is_answered_with_ours() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = map_file(dir.path());
    let mut told = 0;
    for row in rows() {
        let ours = command_lines(row.ours, &file).flatten();
        let ours: Vec<_> = ours.filter(|word| word.starts_with('-')).collect();
        for words in command_lines(row.theirs, &file) {
            let option = words[0].split('=').next().unwrap_or_default();
            let all = ["tftpd"]
                .into_iter()
                .chain(words.iter().map(String::as_str));
            let Err(error) = Args::read(all.map(OsString::from)) else {
                // It is taken as it is.
                told += 1;
                continue;
            };
            let is_told = error.text.contains("unexpected") || error.text.contains("is a word of");
            if !option.starts_with("--") || !is_told {
                continue;
            }
            let text = error.text;
            assert!(text.contains("see tftpd(8)"), "{option}: {text}");
            let named = ours.is_empty() || ours.iter().any(|ours| text.contains(ours));
            assert!(named, "{option}: {text}, where {ours:?} are ours");
            told += 1;
        }
    }
    assert!(told > 30, "{told}");
    let error = Args::read(["tftpd", "/srv/tftp", "/srv/more"].map(OsString::from));
    let text = error.expect_err("two directories").text;
    assert!(text.contains("one ROOT"), "{text}");
}

#[test]
fn the_familiar_flags_change_nothing() {
    for flags in [
        &["-c", "-s", "-l"][..],
        &["-L"],
        &["--create", "--secure", "--listen", "--foreground"],
        &["-csL"],
    ] {
        let server = Server::start(flags);
        let plain = Server::start(&[]);
        let access = |server: &Server| {
            let line = server.wait_for_log(|line| line.contains("listening on"), PATIENCE);
            line.and_then(|line| Some(line.rsplit_once("root: ")?.1.to_owned()))
        };
        assert!(access(&server).is_some());
        assert_eq!(access(&server), access(&plain), "{flags:?}");
        server.file("f", b"old");
        let client = RawClient::new(&server);
        let (packet, _) = client.ask(&wrq("new", &[]));
        assert_eq!(packet, Packet::Ack(0), "{flags:?}");
        let (packet, _) = RawClient::new(&server).ask(&wrq("f", &[]));
        assert_eq!(packet.error_code(), Some(6), "{flags:?}");
    }
}

/// What Debian's packages start their servers with, and systems that ship dnsmasq.
#[test]
fn command_lines_of_other_servers_serve() {
    for words in [
        "--listen --user root --address :0 --secure --permissive --verbosity 1 -m /dev/null",
        "--daemon --tftpd-timeout 300 --retry-timeout 5 --mcast-port 1758 --mcast-ttl 1 \
         --mcast-addr 239.239.239.0-255 --maxthread 100 --verbose=5 --bind-address 127.0.0.1",
        "--enable-tftp=lo --tftp-max=50 --tftp-mtu=1500 --tftp-no-blocksize",
    ] {
        let words: Vec<_> = words.split_whitespace().collect();
        if words.contains(&"root") && !nix::unistd::geteuid().is_root() {
            skip("only root may start it as root");
            continue;
        }
        let server = Server::start_bare(&words);
        server.file("f", b"content");
        let client = RawClient::to((std::net::Ipv4Addr::LOCALHOST, server.port()).into());
        let (packet, _) = client.ask(&rrq("f", &[("blksize", "1468")]));
        let is_oack = matches!(packet, Packet::Oack(_));
        assert_eq!(
            is_oack,
            !words.contains(&"--tftp-no-blocksize"),
            "{words:?}"
        );
    }
}

#[test]
fn lower_case_is_a_rule() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = map_file(dir.path());
    let script = "printf '%s\\n' Boot/PXELINUX.0 | \"$0\" --map-test \"$1\"";
    let output = Command::new("sh")
        .args(["-c", script, tftpd()])
        .arg(&file)
        .output()
        .expect("sh(1)");
    let text = said(&output);
    assert!(text.contains("-> \"boot/pxelinux.0\""), "{text}");
}
