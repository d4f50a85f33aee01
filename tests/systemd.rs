//! With a service manager: inherited sockets, notifications, the journal's priorities,
//! and the units of `scripts/systemd`.

mod common;

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;
use nix::sys::signal::Signal;

/// What the manager does between fork and exec: standard input and output become the
/// descriptors 3 and 4, and `LISTEN_PID` names this process.
const HAND_OVER: &str = "exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ exec \"$@\"";

/// The server started by `script`, a piece of shell that ends with `exec "$@"`.
fn behind(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", tftpd()]);
    command
}

fn stdio(socket: impl Into<OwnedFd>) -> Stdio {
    Stdio::from(socket.into())
}

fn udp(ip: impl Into<IpAddr>) -> UdpSocket {
    UdpSocket::bind((ip.into(), 0)).expect("a socket")
}

// --- activation ---------------------------------------------------------------------

/// A server with two inherited sockets, one of them for both address families.
fn activated(args: &[&str]) -> Option<(Server, SocketAddr, u16)> {
    let Ok(both) = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) else {
        skip("no IPv6 here");
        return None;
    };
    let four = udp([127, 0, 0, 1]);
    let (address, port) = (
        four.local_addr().expect("bound"),
        both.local_addr().expect("bound").port(),
    );
    let server = Server::start_handed([stdio(four), stdio(both)], args, |_| {
        let mut command = behind(HAND_OVER);
        command.env("LISTEN_FDS", "2");
        command
    });
    Some((server, address, port))
}

#[test]
fn inherited_sockets_are_served_instead_of_our_own() {
    let Some((server, address, port)) = activated(&["-a", "127.0.0.9", "-t", "60000"]) else {
        return;
    };
    let line = server.wait_for_log(|line| line.contains("listening on"), PATIENCE);
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    assert_eq!(listening(&line.unwrap()), [address, both]);
    let file = content(1, BLOCK + 1);
    server.file("f", &file);
    for asked in [
        address,
        (Ipv6Addr::LOCALHOST, port).into(),
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv4Addr::new(127, 0, 0, 3), port).into(),
    ] {
        let client = RawClient::to(asked);
        let (packet, tid) = client.ask(&rrq("f", &[]));
        assert_eq!((packet.data_block(), tid.ip()), (Some(1), asked.ip()));
        assert_eq!(client.say(&ack(1), tid).data_block(), Some(2), "{asked}");
        client.send_to(&ack(2), tid);
        let (packet, from) = client.ask(&rrq("missing", &[]));
        assert_eq!((packet.error_code(), from), (Some(1), asked));
    }
}

/// A datagram after an error in the socket causes no event of its own.
#[test]
fn a_request_behind_a_receive_error_is_served() {
    let socket = udp(Ipv4Addr::LOCALHOST);
    let address = socket.local_addr().expect("bound");
    let client = RawClient::to(address);
    client.send(&rrq("f", &[]));
    // A connected socket reports an ICMP error at its next call. It keeps what has come.
    socket.connect(own_port()).expect("loopback");
    socket.send(b"x").expect("loopback takes it");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$@\"";
    let server = Server::start_handed([stdio(socket), Stdio::null()], &["-v"], |directory| {
        fs::write(directory.join("root/f"), b"content").expect("a file");
        let mut command = behind(script);
        command.env("LISTEN_FDS", "1");
        command
    });
    let (answer, _) = client.expect();
    let told = server.wait_for_log(|line| line.contains("cannot receive"), PATIENCE);
    assert!(told.is_some(), "there was no error");
    assert_eq!(answer.data_block(), Some(1));
}

#[test]
fn ipv4_clients_of_a_socket_for_both_are_ipv4_clients() {
    let args = ["--deny", "127.0.0.3"];
    let Some((server, _, port)) = activated(&args) else {
        return;
    };
    server.file("f", b"f");
    let asked = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 3), port));
    let denied = RawClient::to(asked);
    // The client's address is the one that it asks.
    assert_eq!(denied.addr().ip(), asked.ip());
    denied.send(&rrq("f", &[]));
    server.assert_quiet(&denied);
    assert!(
        RawClient::to((Ipv4Addr::LOCALHOST, port).into())
            .read("f")
            .is_ok()
    );
}

#[test]
fn sockets_meant_for_another_process_are_left_alone() {
    let server = Server::start_handed(
        [stdio(udp(Ipv4Addr::LOCALHOST)), Stdio::null()],
        &["-a", "127.0.0.1"],
        |_| {
            let mut command = behind("exec 3<&0 </dev/null; LISTEN_PID=1 exec \"$@\"");
            command.env("LISTEN_FDS", "1");
            command
        },
    );
    server.file("f", b"f");
    assert_eq!(RawClient::new(&server).read("f").unwrap(), b"f");
}

/// Asserts status 1 and one line on standard error with these words.
#[track_caller]
fn assert_refused(what: &str, mut command: Command, words: &[&str]) {
    let root = tempfile::tempdir().expect("a directory");
    let output = command
        .args(["-p", "0", "-a", "127.0.0.1"])
        .arg(root.path())
        .output()
        .expect("sh(1)");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {text}");
    assert_eq!(text.lines().count(), 1, "{what}: {text}");
    for word in words {
        assert!(text.contains(word), "{what}: no {word:?} in {text:?}");
    }
}

#[test]
fn sockets_that_cannot_be_served_are_reported_in_one_line() {
    let file = File::open("/dev/null").expect("a file");
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let address = tcp.local_addr().expect("an address");
    let connected = TcpStream::connect(address).expect("a connection");
    let unix = UnixDatagram::unbound().expect("a socket");
    // One that listens would be a status port.
    let of_tcp = if cfg!(feature = "status") {
        "it doesn't listen"
    } else {
        "fd 3 is not a valid udp socket"
    };
    let cases = [
        ("a file", "1", stdio(file), "fd 3 is not a socket"),
        ("TCP", "1", stdio(connected), of_tcp),
        (
            "AF_UNIX",
            "1",
            stdio(unix),
            "fd 3 is not a valid udp socket",
        ),
        ("closed", "3", stdio(udp([127, 0, 0, 1])), "fd 4 is not"),
        ("no number", "two", Stdio::null(), "LISTEN_FDS=two"),
        ("none", "0", Stdio::null(), "LISTEN_FDS=0"),
        ("negative", "-1", Stdio::null(), "LISTEN_FDS=-1"),
        (
            "too many",
            "4000000000",
            Stdio::null(),
            "LISTEN_FDS=4000000000",
        ),
    ];
    for (what, count, input, said) in cases {
        let mut command = behind(HAND_OVER);
        command.env("LISTEN_FDS", count).stdin(input);
        assert_refused(what, command, &["tftpd: ", said]);
    }
}

// --- notification -------------------------------------------------------------------

/// A manager's socket, in `dir` or abstract, and its name for the server.
fn manager(dir: Option<&Path>) -> (UnixDatagram, String) {
    let (address, name) = if let Some(dir) = dir {
        let path = dir.join("notify");
        let name = path.to_str().expect("a plain path").to_owned();
        (UnixAddr::from_pathname(&path).expect("short"), name)
    } else {
        let name = format!("tftpd-test-{}", std::process::id());
        let address = UnixAddr::from_abstract_name(&name).expect("short");
        (address, format!("@{name}"))
    };
    let socket = UnixDatagram::bind_addr(&address).expect("a free name");
    socket.set_read_timeout(Some(PATIENCE)).expect("a duration");
    (socket, name)
}

#[track_caller]
fn told(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let len = uninterrupted(|| manager.recv(&mut buffer)).expect("word from the server");
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

#[test]
fn the_manager_hears_of_the_start_of_life_and_of_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let confined: &[&str] = if nix::unistd::geteuid().is_root() {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        &["-u", "nobody", "--chroot"]
    } else {
        &[]
    };
    for (place, args) in [(Some(dir.path()), confined), (None, &[])] {
        let (socket, name) = manager(place);
        let mut server = Server::start_prepared(&[&["-a", "127.0.0.1"], args].concat(), |_| {
            let mut command = Command::new(tftpd());
            command.env("NOTIFY_SOCKET", &name);
            command.env("WATCHDOG_USEC", "100000");
            command
        });
        let ready = told(&socket);
        let status = format!("READY=1\nSTATUS=listening on {}", server.addr());
        assert!(ready.starts_with(&status), "{name}: {ready}");
        assert_eq!(ready.lines().count(), 2, "{ready}");
        for _ in 0..3 {
            assert_eq!(told(&socket), "WATCHDOG=1", "{name}");
        }
        server.signal(Signal::SIGTERM);
        let end = std::iter::repeat_with(|| told(&socket)).find(|word| word != "WATCHDOG=1");
        let end = end.unwrap_or_default();
        assert!(end.starts_with("STOPPING=1\nSTATUS=stopping; 0"), "{end}");
        assert!(
            server
                .wait_exit(PATIENCE)
                .is_some_and(|status| status.success())
        );
    }
}

#[test]
fn a_watchdog_of_another_process_is_none_of_ours() {
    let dir = tempfile::tempdir().expect("a directory");
    let (socket, name) = manager(Some(dir.path()));
    let server = Server::start_prepared(&["-a", "127.0.0.1"], |_| {
        let mut command = Command::new(tftpd());
        command.env("NOTIFY_SOCKET", &name);
        command
            .env("WATCHDOG_USEC", "2000")
            .env("WATCHDOG_PID", "1");
        command
    });
    assert!(told(&socket).starts_with("READY=1\n"));
    socket
        .set_read_timeout(Some(millis(50)))
        .expect("a duration");
    assert!(socket.recv(&mut [0; 64]).is_err());
    server.fence();
}

#[test]
fn an_unusable_manager_is_reported_in_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_socket, name) = manager(Some(dir.path()));
    for (socket, watchdog, said) in [
        ("/no/such/socket", "", "NOTIFY_SOCKET=/no/such/socket"),
        ("vsock:2:1", "", "NOTIFY_SOCKET=vsock:2:1"),
        ("", "", "NOTIFY_SOCKET="),
        (&name, "soon", "WATCHDOG_USEC=soon"),
        (&name, "0", "WATCHDOG_USEC=0"),
    ] {
        let mut command = Command::new(tftpd());
        command.env("NOTIFY_SOCKET", socket).stdin(Stdio::null());
        if !watchdog.is_empty() {
            command.env("WATCHDOG_USEC", watchdog);
        }
        assert_refused(said, command, &["tftpd: ", said]);
    }
}

// --- the journal --------------------------------------------------------------------

#[test]
fn the_journal_gets_priorities() {
    let journal = "JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec \"$@\"";
    let server = Server::start_prepared(&["-a", "127.0.0.1"], |_| behind(journal));
    let client = RawClient::new(&server);
    client.ask(&rrq("missing", &[]));
    let refused = server.wait_for_log(|line| line.contains("refused"), PATIENCE);
    assert!(refused.unwrap().starts_with("<4>refused peer="));
    let lines = server.log_lines();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("<6>listening on ")),
        "{lines:?}"
    );

    // The variable names another stream.
    let server = Server::start_prepared(&["-a", "127.0.0.1"], |_| {
        let mut command = Command::new(tftpd());
        command.env("JOURNAL_STREAM", "1:1");
        command
    });
    assert!(!server.log_lines()[0].starts_with('<'));
}

// --- the units ----------------------------------------------------------------------

/// The arguments that a unit gives the server if /etc/default/tftpd has these lines,
/// without the root.
fn unit_arguments(unit: &str, defaults: &str) -> Vec<String> {
    let text = fs::read_to_string(unit).expect("a unit");
    let values = |key: &'static str| text.lines().filter_map(move |line| line.strip_prefix(key));
    // The file overrides the unit.
    let mut variables: Vec<_> = defaults.lines().collect();
    variables.extend(values("Environment="));
    let value = |name: &str| {
        let mut found = variables.iter().filter_map(|line| line.split_once('='));
        found
            .find(|it| it.0 == name)
            .map_or("", |it| it.1)
            .to_owned()
    };
    let start = values("ExecStart=").next().expect("a command");
    let words = start.split_whitespace().skip(1);
    let mut arguments = Vec::new();
    for word in words.filter(|word| *word != "${TFTPD_ROOT}") {
        match word.strip_prefix('$') {
            Some(name) => arguments.extend(value(name).split_whitespace().map(str::to_owned)),
            None => arguments.push(word.to_owned()),
        }
    }
    arguments
}

#[test]
fn the_units_are_read_only_until_uploads_are_asked_for() {
    for unit in [
        "scripts/systemd/tftpd.service",
        "scripts/systemd/tftpd@.service",
    ] {
        for (defaults, access) in [
            ("", "read only"),
            ("TFTPD_OPTIONS=-v --port-range 50000:51999", "read only"),
            ("TFTPD_OPTIONS=--read-only", "read only"),
            ("TFTPD_OPTIONS=", "read only"),
            ("TFTPD_ACCESS=--create", "read, create, never overwrite"),
            (
                "TFTPD_ACCESS=\nTFTPD_OPTIONS=-v",
                "read, create, never overwrite",
            ),
            ("TFTPD_ACCESS=--overwrite", "read, create, overwrite"),
        ] {
            let mut arguments = unit_arguments(unit, defaults);
            arguments.extend(["-a".into(), "127.0.0.1".into()]);
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let server = Server::start_bare(&arguments);
            let told = |line: &str| line.contains(&format!(": {access}; at most"));
            let line = server.wait_for_log(told, PATIENCE);
            assert!(
                line.is_some(),
                "{unit}: {defaults}: {:?}",
                server.log_lines()
            );
        }
    }
}

#[test]
fn each_instance_has_a_file_for_options_of_its_own() {
    let unit = fs::read_to_string("scripts/systemd/tftpd@.service").expect("a unit");
    let files: Vec<_> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("EnvironmentFile="))
        .collect();
    // The last one wins.
    assert_eq!(files, ["-/etc/default/tftpd", "-/etc/default/tftpd-%i"]);
}

/// An unmounted ROOT would be served as an empty directory until the next restart.
#[test]
fn the_units_wait_for_the_mount_of_their_root() {
    for name in ["tftpd.service", "tftpd@.service"] {
        let unit = fs::read_to_string(format!("scripts/systemd/{name}")).expect("a unit");
        assert!(unit.contains("\nRequiresMountsFor=/srv/tftp\n"), "{name}");
    }
}

#[test]
fn the_units_are_sound_and_little_exposed() {
    let Some(analyze) = require("systemd-analyze") else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let unit = |name: &str| dir.path().join(name);
    for entry in fs::read_dir("scripts/systemd").expect("the units") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a unit");
        // The path in the unit doesn't exist yet.
        let text = text.replace("/usr/local/bin/tftpd ", &format!("{} ", tftpd()));
        let name = path.file_name().expect("a name").to_str().expect("plain");
        fs::write(unit(&name.replace('@', "@0")), text).expect("a copy");
    }
    let services = [unit("tftpd.service"), unit("tftpd@0.service")];
    let verified = bounded(30, &analyze)
        .arg("verify")
        .args(&services)
        .arg(unit("tftpd.socket"))
        .output()
        .expect("systemd-analyze");
    let text = said(&verified);
    assert!(verified.status.success(), "{text}");
    assert!(!text.contains("tftpd"), "it has remarks: {text}");
    // The threshold is in tenths.
    let exposure = bounded(30, &analyze)
        .args(["security", "--offline=yes", "--threshold=20", "--no-pager"])
        .args(&services)
        .output()
        .expect("systemd-analyze");
    let text = said(&exposure);
    assert!(exposure.status.success(), "{text}");
    assert_eq!(
        text.matches("Overall exposure level for tftpd").count(),
        2,
        "{text}"
    );
    for line in text.lines().filter(|line| line.contains("Overall")) {
        println!("{line}");
    }
}
