//! A night in which fifty switches save their configurations.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;
use nix::sys::signal::Signal;

const SWITCHES: usize = 50;

/// The configuration that a switch saves in a night.
fn running_config(switch: usize, night: u64) -> Vec<u8> {
    content(night << 32 | switch as u64, 700 + 13 * switch)
}

fn config_name(switch: usize) -> String {
    format!("switch{switch}.cfg")
}

/// All switches save their configuration at once. Those for which `breaks_off` is true
/// send two blocks and then nothing; returns their clients.
fn night(server: &Server, night: u64, breaks_off: impl Fn(usize) -> bool) -> Vec<RawClient> {
    let clients = (0..SWITCHES).map(|_| RawClient::new(server));
    let mut broken_off = vec![];
    for (switch, client) in clients.enumerate() {
        let (name, config) = (config_name(switch), running_config(switch, night));
        if breaks_off(switch) {
            let (_, tid) = client.ask_patiently(&wrq(&name, &[]));
            let answer = client.say(&data(1, &config[..BLOCK]), tid);
            assert_eq!(answer, Packet::Ack(1), "{name}");
            broken_off.push(client);
        } else {
            client.write(&name, &config).expect(&name);
        }
    }
    broken_off
}

/// Each switch has the configurations of these nights, the newest first, and no others.
fn assert_nights(server: &Server, nights: &[u64]) {
    let there = files(&server.root());
    for switch in 0..SWITCHES {
        let name = config_name(switch);
        let versions = there
            .iter()
            .filter(|(it, _)| it.starts_with(&format!("{name}.~")));
        let current = there.get(&name).into_iter();
        // Names of equal length sort by version number.
        let kept: Vec<_> = current.chain(versions.map(|it| it.1).rev()).collect();
        let wanted: Vec<_> = nights
            .iter()
            .map(|&it| running_config(switch, it))
            .collect();
        assert!(
            kept == wanted.iter().collect::<Vec<_>>(),
            "{name}: {:?}",
            there.keys()
        );
    }
    assert_eq!(there.len(), SWITCHES * nights.len());
}

#[test]
fn a_night_of_fifty_switches_that_breaks_off_loses_nothing() {
    let args = [&NEVER[..], &["--keep-versions", "2"]].concat();
    let mut server = Server::start(&args);
    assert!(night(&server, 1, |_| false).is_empty());
    assert_nights(&server, &[1]);
    // In the second night half of them break off, and try again.
    for client in night(&server, 2, |switch| switch % 2 == 0) {
        drop(client);
    }
    let retried = |switch| switch % 2 == 0;
    for switch in (0..SWITCHES).filter(|&switch| retried(switch)) {
        let config = running_config(switch, 2);
        RawClient::new(&server)
            .write(&config_name(switch), &config)
            .unwrap();
    }
    assert_nights(&server, &[2, 1]);
    // In the third night the server dies halfway, and another takes its place.
    let _broken_off = night(&server, 3, |switch| switch >= 20);
    server.signal(Signal::SIGKILL);
    assert!(server.wait_exit(PATIENCE).is_some());
    let next = after(&server, &args);
    for switch in 20..SWITCHES {
        let config = running_config(switch, 3);
        RawClient::new(&next)
            .write(&config_name(switch), &config)
            .unwrap();
    }
    assert_nights(&server, &[3, 2, 1]);
    // Versions can be read like any other file.
    let oldest = RawClient::new(&next).read("switch7.cfg.~1~");
    assert_same("switch7.cfg.~1~", &oldest.unwrap(), &running_config(7, 1));
}

/// A server on the root of another that has ended.
fn after(gone: &Server, args: &[&str]) -> Server {
    let address = own_address().to_string();
    let args = [&["-a", &address], args].concat();
    Server::start_prepared(&args, |dir| {
        let root = dir.join("root");
        fs::remove_dir(&root).expect("an empty directory");
        symlink(gone.root(), root).expect("a link to it");
        Command::new(tftpd())
    })
}
