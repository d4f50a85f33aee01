//! The hints about why a transfer failed or was slow: for each pattern, the datagrams that
//! cause it; the log and `/status.json` show the same words.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use crate::common::*;
use crate::{json, status_of};

/// Runs a client against a server with `args`; the log line and the JSON must show `hint`.
fn expect(args: &[&str], client: impl FnOnce(&Server) -> RawClient, hint: &str) {
    let server = Server::start(&[args, &["--status", "127.0.0.1:0"]].concat());
    let status = status_of(&server);
    let client = client(&server);
    let peer = format!("peer={} ", client.addr());
    let of_client = |line: &str| {
        let is_end = line.contains(" ended ") || line.contains(" refused ");
        is_end && line.contains(&peer)
    };
    let line = server.wait_for_log(of_client, PATIENCE).expect("a line");
    assert!(
        line.contains("hint=\"") && line.contains(hint),
        "{hint}: {line}"
    );
    let told = json(status)["recent"][0]["hint"].clone();
    let told = told.as_str().expect("a hint");
    assert!(
        line.ends_with(&format!("hint=\"{told}\"")),
        "{told}: {line}"
    );
}

/// Requests a file that is large enough.
fn ask(server: &Server, options: &[(&str, &str)]) -> (RawClient, std::net::SocketAddr) {
    server.file("f", &content(1, 100 * BLOCK));
    let client = RawClient::new(server);
    let (_, tid) = client.ask(&rrq("f", options));
    (client, tid)
}

#[test]
fn hints_no_answer_ever_came_nat_or_firewall() {
    let quick = ["-t", "10", "--retries", "1"];
    let silent = |server: &Server| ask(server, &[]).0;
    expect(
        &quick,
        silent,
        "no answer ever came: does a firewall or NAT",
    );
    let single = [&quick[..], &["--single-port"]].concat();
    expect(
        &single,
        silent,
        "no answer ever came: does a firewall drop what we send?",
    );
}

#[test]
fn hints_fragments_are_lost() {
    let client = |server: &Server| {
        let (client, tid) = ask(server, &[("blksize", "8192")]);
        client.send_to(&ack(0), tid);
        client
    };
    // Enough time for the ACK, even on a busy machine.
    expect(
        &["-t", "200", "--retries", "1"],
        client,
        "are fragments lost? try -B 1428",
    );
}

#[test]
fn hints_the_clients_counter_wraps_rollover() {
    for last in [32_767, 65_535] {
        let client = |server: &Server| {
            server.file("long", &content(1, 65_600 * 8));
            let client = RawClient::new(server);
            let options = [("blksize", "8"), ("windowsize", "64")];
            let (_, tid) = client.ask(&rrq("long", &options));
            let mut acked = 0;
            while acked < last {
                client.send_to(&ack(acked), tid);
                let end = acked.saturating_add(64).min(last);
                while acked < end {
                    if let Some(number) = client.expect().0.data_block() {
                        acked = acked.max(number.min(end));
                    }
                }
            }
            client.send_to(&ack(last), tid);
            client
        };
        expect(
            &["--retries", "0"],
            client,
            "stops where block numbers wrap",
        );
    }
}

#[test]
fn hints_names_directories_and_rights() {
    let refused = |name: &'static str| {
        move |server: &Server| {
            server.file("boot/f", b"x");
            server.file("shut/f", b"x");
            server.file("shut-file", b"x");
            for name in ["shut", "shut-file"] {
                let path = server.root().join(name);
                fs::set_permissions(path, Permissions::from_mode(0o000)).expect("ours");
            }
            let client = RawClient::new(server);
            client.ask(&rrq(name, &[]));
            client
        }
    };
    expect(
        &[],
        refused("BOOT/F"),
        "did you mean boot/f? try --ignore-case",
    );
    expect(
        &[],
        refused("/tftpboot/boot/f"),
        "it is here as boot/f: leave out /tftpboot",
    );
    expect(
        &[],
        refused("srv/tftp/boot/f"),
        "it is here as boot/f: leave out srv/tftp on",
    );
    expect(&[], refused("boot"), "a directory was asked for");
    let user = nix::unistd::geteuid();
    expect(
        &[],
        refused("shut/f"),
        &format!("user {user} may not enter shut (owner {user}, "),
    );
    expect(
        &[],
        refused("shut-file"),
        &format!("user {user} may not read shut-file (owner"),
    );
}

#[test]
fn hints_slow_transfers_lockstep_loss_and_pauses() {
    // Acknowledges 40 blocks, and waits before those for which `is_late` holds.
    let download = |server: &Server, wait: u64, is_late: fn(u16) -> bool| {
        server.file("f", &content(1, 39 * BLOCK + 1));
        let client = RawClient::new(server);
        let (_, tid) = client.ask(&rrq("f", &[]));
        for number in 1..=40 {
            if is_late(number) {
                thread::sleep(millis(wait));
            }
            client.send_to(&ack(number), tid);
            while number < 40 && client.expect().0.data_block() != Some(number + 1) {}
        }
        client
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let far = |server: &Server| download(server, 60, |_| true);
            expect(
                &NEVER,
                far,
                "slow because of the round trip: each block waits ",
            );
        });
        scope.spawn(|| {
            let paused = |server: &Server| download(server, 2300, |number| number == 3);
            expect(&NEVER, paused, "slow because of the client: it paused");
        });
        scope.spawn(|| {
            // Each block comes twice before it is acknowledged, as if the first were lost.
            let lossy = |server: &Server| {
                server.file("f", &content(1, 39 * BLOCK + 1));
                let client = RawClient::new(server);
                let (_, tid) = client.ask(&rrq("f", &[]));
                for number in 1..=40 {
                    if number > 1 {
                        client.expect();
                    }
                    client.expect();
                    client.send_to(&ack(number), tid);
                }
                client
            };
            expect(&["-t", "55"], lossy, "slow because of loss: ");
        });
    });
}

/// When the rules limit the rate, the disk isn't to blame.
#[test]
fn a_paced_transfer_moves_and_waits_for_no_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let rules = dir.path().join("rules.toml");
    fs::write(&rules, "[all]\nrate = 1_000\n").expect("a file");
    let rules = rules.to_str().expect("text");
    let server = Server::start(&["--rules", rules, "--status", "127.0.0.1:0"]);
    let status = status_of(&server);
    let (client, tid) = ask(&server, &[("blksize", "8192")]);
    // The first block takes 8 s.
    client.send_to(&ack(0), tid);
    server.fence();
    assert_eq!(json(status)["sessions"][0]["state"], "moving");
    client.send_to(&error(0, "closed"), tid);
    let line = &server.wait_ended(client.addr(), 1)[0];
    assert!(!line.contains("hint="), "{line}");
}
