//! Turns of the status port: what a turn may cost, and that turns go on until an answer is
//! whole.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

use socket2::SockRef;

use super::*;
use crate::session::Session;
use crate::table::Sessions;

/// A status port on Unix sockets, and their paths.
fn status(dir: &Path, listeners: usize) -> (Status, Vec<std::path::PathBuf>) {
    let paths: Vec<_> = (0..listeners)
        .map(|index| dir.join(index.to_string()))
        .collect();
    let streams = paths
        .iter()
        .map(|path| InheritedStream::Unix(UnixListener::bind(path).unwrap()));
    let opened = Status::open(None, false, streams.collect(), clock::now());
    (opened.unwrap().unwrap(), paths)
}

/// A turn in which no time has passed since the start, however slow the machine is.
fn turn(status: &mut Status, sessions: &Sessions<Session>, history: &History) {
    turn_at(status.started(), status, sessions, history);
}

/// Runs turns until there is no more to do.
fn settle(status: &mut Status, sessions: &Sessions<Session>, history: &History) {
    settle_at(status.started(), status, sessions, history);
}

fn settle_at(now: Instant, status: &mut Status, sessions: &Sessions<Session>, history: &History) {
    for turns in 0.. {
        turn_at(now, status, sessions, history);
        if !status.has_work() {
            break;
        }
        assert!(turns < 10_000, "it never sleeps");
    }
}

fn turn_at(now: Instant, status: &mut Status, sessions: &Sessions<Session>, history: &History) {
    status.run(&View {
        now,
        unix_seconds: 0.0,
        started: status.started(),
        addresses: &[],
        sessions,
        history,
        counters: &[],
        is_draining: false,
        receive_drops: None,
    });
}

fn ask(path: &Path, what: &str) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_nonblocking(true).unwrap();
    let request = format!("GET {what} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Lets the last of these readers leave. Closing its socket wouldn't do: a child that
/// another test starts meanwhile has a copy until it runs another program.
fn last_leaves(readers: &mut Vec<UnixStream>) {
    let reader = readers.pop().unwrap();
    reader.shutdown(Shutdown::Both).unwrap();
}

/// Reads what has come; returns how many bytes.
fn take(stream: &mut UnixStream, into: &mut Vec<u8>) -> usize {
    let before = into.len();
    if let Err(error) = stream.read_to_end(into) {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    into.len() - before
}

#[test]
fn an_answer_goes_on_past_thousands_of_empty_places() {
    let dir = tempfile::tempdir().unwrap();
    let (mut status, paths) = status(dir.path(), 1);
    let mut sessions = Sessions::new(100_000, clock::now());
    sessions.reserve(20_000);
    assert!(sessions.places() >= 20_000);
    let mut reader = ask(&paths[0], "/status.json");
    let mut all = Vec::new();
    for turns in 0.. {
        turn(&mut status, &sessions, &History::default());
        take(&mut reader, &mut all);
        if all.ends_with(b"]}\n") {
            break;
        }
        assert!(status.has_work(), "it sleeps, and no event wakes it");
        assert!(turns < 20, "{}", String::from_utf8_lossy(&all));
    }
}

#[test]
fn a_client_that_never_stops_sending_costs_a_bounded_part_of_a_turn() {
    let dir = tempfile::tempdir().unwrap();
    let (mut status, paths) = status(dir.path(), 1);
    let sessions = Sessions::new(10, clock::now());
    let mut talker = ask(&paths[0], "/healthz");
    let mut sent = 0;
    while let Ok(bytes) = talker.write(&[0; 4096]) {
        sent += bytes;
    }
    assert!(sent > 4 * READS * connection::MAX_REQUEST, "{sent}");
    turn(&mut status, &sessions, &History::default());
    turn(&mut status, &sessions, &History::default());
    assert!(status.has_work(), "there is more of it");
    let mut room = 0;
    while let Ok(bytes) = talker.write(&[0; 4096]) {
        room += bytes;
    }
    // The kernel counts what it keeps in its own units.
    let read = 2 * (READS + 1) * connection::MAX_REQUEST;
    assert!(room <= 2 * read, "{room} of {sent} were read in two turns");
}

#[test]
fn a_turn_writes_its_share_and_no_more_however_many_ask() {
    let dir = tempfile::tempdir().unwrap();
    let (mut status, paths) = status(dir.path(), 1);
    let sessions = Sessions::new(10, clock::now());
    let mut history = History::default();
    let long: &str = "x".repeat(3000).leak();
    for _ in 0..50 {
        history.tell(&crate::log::event::Event::LeftOut { of: long, lines: 1 });
    }
    let mut readers: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|index| {
            let what = ["/status.json", "/", "/metrics"][index % 3];
            (ask(&paths[0], what), Vec::new())
        })
        .collect();
    let mut turns = 0;
    let mut ended = 0;
    while ended < readers.len() {
        turn(&mut status, &sessions, &history);
        let read: usize = readers
            .iter_mut()
            .map(|(stream, all)| take(stream, all))
            .sum();
        assert!(read <= TURN_BYTES, "{read} bytes in a turn");
        ended = readers.iter().filter(|(_, all)| is_whole(all)).count();
        turns += 1;
        assert!(turns < 2000, "{ended} of {} have ended", readers.len());
    }
}

/// Whether all of an answer has come.
fn is_whole(all: &[u8]) -> bool {
    let head = str::from_utf8(&all[..all.len().min(300)]).unwrap();
    let length = head.lines().find_map(|it| {
        let length = it.strip_prefix("Content-Length: ")?;
        length.parse::<usize>().ok()
    });
    match length {
        Some(length) => all.len() > length && all[..all.len() - length].ends_with(b"\r\n\r\n"),
        None => all.ends_with(b"]}\n"),
    }
}

#[test]
fn a_crowd_at_one_listener_keeps_nobody_waiting_at_another() {
    let dir = tempfile::tempdir().unwrap();
    let (mut status, paths) = status(dir.path(), 2);
    let sessions = Sessions::new(10, clock::now());
    let _crowd: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(&paths[0]).unwrap())
        .collect();
    let mut reader = ask(&paths[1], "/healthz");
    let mut all = Vec::new();
    for turns in 1..=2 {
        turn(&mut status, &sessions, &History::default());
        assert!(status.open.len() <= turns * ACCEPTED, "transfers wait");
    }
    take(&mut reader, &mut all);
    assert!(
        all.ends_with(b"\r\n\r\nserving\n"),
        "{}",
        String::from_utf8_lossy(&all)
    );
}

#[test]
fn while_all_places_are_taken_by_readers_a_new_one_waits_and_is_not_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let (mut status, paths) = status(dir.path(), 1);
    let sessions = Sessions::new(10, clock::now());
    let mut history = History::default();
    let long: &str = "x".repeat(4000).leak();
    for _ in 0..200 {
        history.tell(&crate::log::event::Event::LeftOut { of: long, lines: 1 });
    }
    let mut readers: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| ask(&paths[0], "/status.json"))
        .collect();
    let start = clock::now();
    // `event`: whether the kernel tells of something, as it does of a new connection.
    let settle = |status: &mut Status, now, event| {
        assert!(status.is_due(now, event), "it sleeps, and nothing wakes it");
        settle_at(now, status, &sessions, &history);
    };
    settle(&mut status, start, true);
    let answer = |status: &mut Status, new: &mut UnixStream, now, event| {
        settle(status, now, event);
        let mut all = Vec::new();
        take(new, &mut all);
        String::from_utf8(all).unwrap()
    };
    let mut new = ask(&paths[0], "/healthz");
    assert_eq!(answer(&mut status, &mut new, start, true), "");
    last_leaves(&mut readers);
    let all = answer(&mut status, &mut new, start, true);
    assert!(all.ends_with("serving\n"), "one has left: {all}");
    drop(new);

    readers.push(ask(&paths[0], "/status.json"));
    settle(&mut status, start, true);
    let mut new = ask(&paths[0], "/healthz");
    assert_eq!(answer(&mut status, &mut new, start, true), "");
    let stuck = start + connection::STUCK + SWEEP;
    let all = answer(&mut status, &mut new, stuck, false);
    assert!(
        all.ends_with("serving\n"),
        "they have stopped reading: {all}"
    );
    assert_eq!(status.open.len(), MAX_CONNECTIONS);
}

/// A status port whose places are all taken by readers of long answers, at `paths[0]`.
fn full_of_readers(status: &mut Status, path: &Path, history: &History) -> Vec<UnixStream> {
    let sessions = Sessions::new(10, clock::now());
    let readers = (0..MAX_CONNECTIONS).map(|_| ask(path, "/status.json"));
    let readers = readers.collect();
    settle(status, &sessions, history);
    assert_eq!(status.open.len(), MAX_CONNECTIONS);
    readers
}

#[test]
fn a_backlog_of_readers_at_one_listener_keeps_a_probe_at_another_waiting_for_two_places() {
    let sessions = Sessions::new(10, clock::now());
    let mut history = History::default();
    let long: &str = "x".repeat(4000).leak();
    for _ in 0..200 {
        history.tell(&crate::log::event::Event::LeftOut { of: long, lines: 1 });
    }
    // Turns in which no place is free change nothing, however many there are.
    for (idle_turns, at) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
        let other = 1 - at;
        let dir = tempfile::tempdir().unwrap();
        let (mut status, paths) = status(dir.path(), 2);
        let mut readers = full_of_readers(&mut status, &paths[at], &history);
        status.first_listener = at;
        let _backlog: Vec<_> = (0..40).map(|_| ask(&paths[at], "/status.json")).collect();
        let mut probe = ask(&paths[other], "/healthz");
        let mut all = Vec::new();
        for _ in 0..2 {
            for _ in 0..idle_turns {
                turn(&mut status, &sessions, &history);
            }
            last_leaves(&mut readers);
            // One turn sees that it has left, and the next may be the first with room.
            for _ in 0..2 {
                turn(&mut status, &sessions, &history);
            }
            take(&mut probe, &mut all);
        }
        let all = String::from_utf8(all).unwrap();
        assert!(all.ends_with("serving\n"), "{idle_turns} {at}: {all:?}");
    }
}

/// Accepting from a socket that was shut down fails forever.
#[test]
fn a_broken_listener_does_not_keep_the_loop_awake() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let same = listener.try_clone().unwrap();
    let streams = vec![InheritedStream::Tcp(listener)];
    let mut status = Status::open(None, false, streams, clock::now())
        .unwrap()
        .unwrap();
    SockRef::from(&same).shutdown(Shutdown::Both).unwrap();
    let sessions = Sessions::new(10, clock::now());
    for _ in 0..3 {
        turn(&mut status, &sessions, &History::default());
        assert!(!status.has_work(), "it would be asked again and again");
    }
    assert!(status.next_deadline().is_some(), "nobody tries again");
}

/// The listener stays open in the process that goes on with it.
#[test]
fn who_stops_accepting_answers_whom_it_has_accepted_and_hears_of_nobody_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (same, address) = (
        listener.try_clone().unwrap(),
        listener.local_addr().unwrap(),
    );
    let streams = vec![InheritedStream::Tcp(listener)];
    let mut status = Status::open(None, false, streams, clock::now())
        .unwrap()
        .unwrap();
    let sessions = Sessions::new(10, clock::now());
    let history = History::default();
    let mut early = TcpStream::connect(address).unwrap();
    settle(&mut status, &sessions, &history);
    assert!(!status.is_idle());
    status.stop_accepting();
    settle(&mut status, &sessions, &history);
    let late = TcpStream::connect(address).unwrap();
    status.take_events();
    assert!(status.events.is_empty(), "{:?}", status.events);
    assert_eq!(same.accept().unwrap().1, late.local_addr().unwrap());
    early
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    settle(&mut status, &sessions, &history);
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("serving\n"), "{answer}");
    early.shutdown(Shutdown::Both).unwrap();
    settle(&mut status, &sessions, &history);
    assert!(status.is_idle());
}

/// Workers are handed what was bound at the address.
#[test]
fn an_inherited_socket_goes_by_the_name_that_it_was_bound_with() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = "boot.example:1".parse().unwrap();
    let streams = vec![InheritedStream::Tcp(listener)];
    let status = Status::open(Some(&address), true, streams, clock::now());
    let status = status.unwrap().unwrap();
    let [listener] = &status.listeners[..] else {
        panic!("nothing else is bound: {status:?}");
    };
    assert!(listener.hosts.include("boot.example:8069"));
    assert!(!listener.hosts.include("evil.example:8069"));
}
