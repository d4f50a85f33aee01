//! What the log answers, over the real binary: JSON lines, repeats, hints.

mod common;

use common::*;

fn is_refusal(line: &str) -> bool {
    line.contains("refused")
}

#[test]
fn json_is_one_object_a_line_whatever_the_name() {
    let server = Server::start(&["--log-format", "json"]);
    let client = RawClient::new(&server);
    let name: Vec<u8> = (1..=255).collect();
    client.ask(&request(1, &name, "octet", &[]));
    let line = server.wait_for_log(is_refusal, PATIENCE).expect("a line");
    let peer = client.addr();
    assert!(line.starts_with("{\"time\":"), "{line}");
    assert!(line.ends_with('}'), "{line}");
    for part in [
        &format!(r#","level":"warn","event":"refused","peer":"{peer}","op":"read","file":"\\x01"#),
        r##" !\\\"#$%&\\'()"##,
        r"\\xfe\\xff",
        r#"","code":1,"reason":"File not found (ENOENT)"}"#,
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(line.bytes().all(|byte| (b' '..0x7f).contains(&byte)));
}

#[test]
fn a_repeated_miss_is_counted() {
    let server = Server::start(&[]);
    for port in 0..25 {
        // From a new port each time, as firmware does.
        let client = RawClient::new(&server);
        let (packet, _) = client.ask(&rrq("missing", &[]));
        assert_eq!(packet.error_code(), Some(1), "{port}");
    }
    RawClient::new(&server).ask(&rrq("another", &[]));
    let another = |line: &str| line.contains("another");
    server.wait_for_log(another, PATIENCE).expect("a line");
    let lines = server.log_lines();
    let lines: Vec<_> = lines.iter().filter(|line| is_refusal(line)).collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(!lines[0].contains("times="), "{lines:#?}");
    assert!(lines[1].ends_with(" times=10"), "{lines:#?}");
}

#[test]
fn a_name_in_another_case_is_told() {
    let server = Server::start(&[]);
    server.file("boot/bcd", b"x");
    let client = RawClient::new(&server);
    client.ask(&rrq("Boot/BCD", &[]));
    let line = server.wait_for_log(is_refusal, PATIENCE).expect("a line");
    let hint = r#" hint="did you mean boot/bcd? try --ignore-case""#;
    assert!(line.ends_with(hint), "{line}");
}

#[test]
fn an_upload_that_is_shorter_than_announced_is_told() {
    let server = Server::start(&[]);
    let client = RawClient::new(&server);
    for (mode, name, hint) in [
        ("octet", "short", true),
        ("octet", "whole", false),
        ("netascii", "text", false),
    ] {
        let announced = if name == "whole" { "3" } else { "600" };
        let options = [("tsize", announced)];
        let (_, tid) = client.ask(&request(2, name.as_bytes(), mode, &options));
        client.say(&data(1, b"end"), tid);
        let ended = |line: &str| line.contains("ended") && line.contains(name);
        let line = server.wait_for_log(ended, PATIENCE).expect("a line");
        let told =
            line.ends_with(r#" hint="less came than the client announced: compare the files""#);
        assert_eq!(told, hint, "{line}");
    }
}
