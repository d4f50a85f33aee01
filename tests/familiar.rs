//! Options of other servers: the manual's table shows what to write for them, and each
//! row is tried with both servers.

mod common;

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};

use common::*;
use tftpd::server::cli::Args;

const TABLES: &str = include_str!("../scripts/man/src/migration.md");

/// One row: the other server, its option, and what to write for ours.
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

/// The command lines in a cell, with `FILE` replaced by a file's name.
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

/// A map file that does the same as dnsmasq's `--tftp-lowercase`.
fn map_file(dir: &Path) -> std::path::PathBuf {
    let file = dir.join("map");
    std::fs::write(&file, "r ^.*$ \\L\\0\n").expect("a file");
    file
}

#[test]
fn what_the_table_says_to_write_is_understood() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = map_file(dir.path());
    let mut tried = 0;
    for row in rows() {
        let cell = if row.ours.starts_with("the same") {
            row.theirs
        } else {
            row.ours
        };
        // After a semicolon follows what it doesn't mean, or another way to write it.
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

/// Whether these words are a long name in parentheses that explains a short one.
fn is_explanation(row: &Row, words: &[String]) -> bool {
    row.theirs.contains(&format!("(`{}`)", words.join(" ")))
}

/// Makes another server only parse a command line.
fn try_theirs(with: &str, words: &[String]) -> Option<Output> {
    let (program, quit): (_, &[&str]) = match with {
        "tftp-hpa" | "tftp-hpa 7" => ("in.tftpd", &["-V"]),
        "atftpd" => ("atftpd", &["--version"]),
        "dnsmasq" => ("dnsmasq", &["--test", "--conf-file=/dev/null"]),
        other => panic!("who is {other}?"),
    };
    let program = peer_program(program)?;
    // An older release doesn't know the options of a later one.
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

/// Whether the server took the options; in.tftpd complains but still exits with 0.
fn took(output: &Output) -> bool {
    output.status.success() && !said(output).contains("unrecognized option")
}

#[test]
fn what_the_table_replaces_is_understood_by_the_other_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = map_file(dir.path());
    for with in ["tftp-hpa", "atftpd", "dnsmasq"] {
        if let Some(output) = try_theirs(with, &["--no-such-option".to_owned()]) {
            assert!(!took(&output), "{with} takes anything");
        }
    }
    for row in rows() {
        for words in command_lines(row.theirs, &file) {
            // `--pcre-test` reads names from a terminal, and crashes without one.
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

/// Whoever writes another server's option is shown ours, as in the manual.
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
                // Our server takes the same option.
                told += 1;
                continue;
            };
            let is_told = error.text.contains("unexpected") || error.text.contains("is a word of");
            if !option.starts_with("--") || !is_told {
                continue;
            }
            let text = error.text;
            assert!(text.contains("see tftpd-migration(7)"), "{option}: {text}");
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

/// The command lines in Debian's packages, and in systems that ship dnsmasq.
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
