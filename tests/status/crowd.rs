//! What a crowd on the status port costs transfers, in full numbers: 10,000 sessions,
//! 10,000 connections that never finish a request, malformed and huge requests, and
//! readers that stop in the middle. `cargo test` runs the same on a small scale.
//!
//! A crowd takes processor time from clients and server, wherever it connects. So it also
//! connects to the status port of another process beside the server: its cost there is the
//! machine's, and only the difference is ours.
//!
//! ```sh
//! cargo test --release --test status -- --ignored --nocapture crowd
//! ```
//!
//! Takes about 50 seconds, on a busy machine up to three minutes. Prints a line for each
//! round: without the crowd, with the crowd beside the server, and with it at the server,
//! in turn.

use std::collections::VecDeque;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::common::*;
use crate::{exchange, status_of};

/// The number of sessions listed.
const SESSIONS: u32 = 10_000;

/// The number of connections held open.
const CONNECTIONS: usize = 10_000;

/// The number of readers that stop in the middle: more than the server has places for.
const READERS: usize = 40;

/// The number of clients that download meanwhile, and the length of each round.
const CLIENTS: usize = 4;
const ROUND: Duration = Duration::from_secs(5);

/// The rounds of each kind, and the most until all connections have been made.
const ROUNDS: usize = 3;
const MOST_ROUNDS: usize = 10;

/// How much later than with the crowd beside the server an answer may come with the crowd
/// at the server, at the 99th percentile: a turn of the loop that serves the status port.
const LATER: Duration = Duration::from_millis(1);

/// The memory that the connections may take, and the part that the C library may keep for
/// later connections, in KiB.
const TAKEN: u64 = 8 * 1024;
const LEFT: u64 = 2 * 1024;

/// The results of a round.
struct Round {
    answers: usize,
    median: Duration,
    late: Duration,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            answers,
            median,
            late,
        } = self;
        write!(f, "{answers} answers, median {median:?}, p99 {late:?}")
    }
}

/// Downloads, block by block, for the length of a round.
fn round(server: &Server, file: &[u8]) -> Round {
    let end = Instant::now() + ROUND;
    let client = || {
        let mut waits = Vec::new();
        while Instant::now() < end {
            let client = RawClient::new(server);
            let (_, tid) = client.ask_data(&rrq("f", &[]));
            for block in 1..=file.len() / BLOCK {
                let sent = Instant::now();
                let next = client.say(&ack(block as u16), tid);
                waits.push(sent.elapsed());
                assert_eq!(next.data_block(), Some(block as u16 + 1));
            }
            client.send_to(&ack((file.len() / BLOCK + 1) as u16), tid);
        }
        waits
    };
    let mut waits: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let waits = clients.into_iter().map(|it| it.join().expect("served"));
        waits.flatten().collect()
    });
    waits.sort_unstable();
    Round {
        answers: waits.len(),
        median: waits[waits.len() / 2],
        late: waits[waits.len() * 99 / 100],
    }
}

/// Creates sessions that stall after their second block; their clients have gone.
fn stall(server: &Server) {
    for number in 0..SESSIONS {
        let address = Ipv4Addr::from_bits(0x7f50_0001 + number);
        // With a single port, a server serves no client that uses the server's own port.
        let client = std::iter::repeat_with(|| RawClient::at(address, server.addr()))
            .find(|it| it.addr().port() != server.port())
            .expect("another port");
        let (_, tid) = client.ask_data(&rrq("f", &[]));
        client.send_to(&ack(1), tid);
        client.expect_from(tid);
    }
}

/// What the crowd has done so far.
#[derive(Debug, Default)]
struct Done {
    connections: AtomicUsize,
    mistakes: AtomicUsize,
    stopped: AtomicUsize,
    /// Answers that were read to the end.
    whole: AtomicUsize,
    /// The peak memory of the server.
    most_kib: AtomicU64,
}

/// A round at `server` with a crowd at `status`.
fn crowded_round(server: &Server, file: &[u8], status: SocketAddr, done: &Done) -> Round {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| crowd(status, &is_over, done));
        scope.spawn(|| {
            let ask = format!("GET /status.json HTTP/1.1\r\nHost: {status}\r\n\r\n");
            while !is_over.load(Ordering::Relaxed) {
                if is_whole(status, &ask) {
                    done.whole.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(millis(500));
            }
        });
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let kib = server.status("VmRSS");
                done.most_kib.fetch_max(kib, Ordering::Relaxed);
                thread::sleep(millis(50));
            }
        });
        let round = round(server, file);
        is_over.store(true, Ordering::Relaxed);
        round
    })
}

/// Runs the crowd until `is_over`.
fn crowd(status: SocketAddr, is_over: &AtomicBool, done: &Done) {
    let goes_on = || !is_over.load(Ordering::Relaxed);
    let connect = || TcpStream::connect_timeout(&status, PATIENCE).ok();
    thread::scope(|scope| {
        // Each begins a request and never finishes it.
        scope.spawn(|| {
            let mut open = VecDeque::new();
            while goes_on() {
                if open.len() == CONNECTIONS {
                    open.pop_front();
                }
                if let Some(mut stream) = connect() {
                    let _ = stream.write_all(b"GET /");
                    open.push_back(stream);
                    done.connections.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        scope.spawn(|| {
            let huge = format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(200_000));
            let mistakes = [
                huge.as_bytes(),
                b"\x16\x03\x01\x02\0",
                b"DELETE /\r\n\r\n",
                b"",
            ];
            for mistake in mistakes.iter().cycle().take_while(|_| goes_on()) {
                if let Some(mut stream) = connect() {
                    let _ = stream.write_all(mistake);
                    let _ = stream.set_read_timeout(Some(millis(20)));
                    let _ = stream.read(&mut [0; 500]);
                    done.mistakes.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        scope.spawn(|| {
            let ask = format!("GET /status.json HTTP/1.1\r\nHost: {status}\r\n\r\n");
            let mut open = VecDeque::new();
            while goes_on() {
                if open.len() == READERS {
                    open.pop_front();
                }
                if let Some(mut stream) = connect() {
                    let _ = stream.set_read_timeout(Some(millis(200)));
                    let _ = stream.write_all(ask.as_bytes());
                    if matches!(stream.read(&mut [0; 1000]), Ok(1..)) {
                        done.stopped.fetch_add(1, Ordering::Relaxed);
                    }
                    open.push_back(stream);
                }
                thread::sleep(millis(10));
            }
        });
    });
}

#[test]
#[ignore = "takes 50 seconds or more: see the head of the file"]
fn a_crowd_on_the_status_port_disturbs_no_transfer() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("as far as it goes");
    if most < 12_000 {
        skip("it takes 12,000 descriptors (ulimit -n)");
        return;
    }
    // With a single port, a session takes a file but no socket.
    let args = ["--single-port", "--max-unproved-rate", "0", "-t", "60000"];
    let more = ["--max-sessions", "11000", "--status", "127.0.0.1:0"];
    let server = Server::start(&[&args[..], &more].concat());
    let status = status_of(&server);
    let file = content(1, 200 * BLOCK + 1);
    server.file("f", &file);
    stall(&server);
    let memory = || server.status("VmRSS");
    let before = (server.open_files(), memory());
    println!("{SESSIONS} sessions: {} KiB", before.1);

    // Another process that has nothing else to do.
    let bystander = Server::start(&["--status", "127.0.0.1:0"]);
    let aside = status_of(&bystander);
    let (mut beside, mut crowded) = (Vec::new(), Vec::new());
    let (done, elsewhere) = (Done::default(), Done::default());
    // A crowd that has to wait for its readers connects more slowly.
    for number in 0..MOST_ROUNDS {
        if number >= ROUNDS && done.connections.load(Ordering::Relaxed) >= CONNECTIONS {
            break;
        }
        println!("without: {}", round(&server, &file));
        let control = crowded_round(&server, &file, aside, &elsewhere);
        println!("with the crowd beside: {control}");
        beside.push(control.late);
        let with = crowded_round(&server, &file, status, &done);
        println!("with the crowd: {with}");
        crowded.push(with.late);
    }
    println!("beside: {elsewhere:?}");
    println!("{done:?}");
    assert!(done.connections.into_inner() >= CONNECTIONS);
    assert!(done.mistakes.into_inner() > 100 && done.stopped.into_inner() > 100);
    assert!(done.whole.into_inner() > 0, "nobody was answered");
    // The best round of each kind, to exclude what else the machine did.
    let (beside, crowded) = (beside.iter().min(), crowded.iter().min());
    assert!(
        crowded <= beside.map(|it| *it + LATER).as_ref(),
        "{crowded:?}, not {beside:?}"
    );
    let most = done.most_kib.into_inner();
    assert!(most <= before.1 + TAKEN, "{most} KiB");
    // The last sample of each session's rate is dropped after 10 s.
    let deadline = Instant::now() + PATIENCE;
    while (server.open_files() > before.0 || memory() > before.1 + LEFT)
        && Instant::now() < deadline
    {
        thread::sleep(millis(100));
    }
    let left = (server.open_files(), memory());
    println!("{} KiB are left", left.1);
    assert!(
        left.0 <= before.0 && left.1 <= before.1 + LEFT,
        "{before:?}: {left:?}"
    );
    let all = exchange(
        status,
        format!("GET /status.json HTTP/1.1\r\nHost: {status}\r\n\r\n").as_bytes(),
    );
    let listed = all.matches("\"id\":").count();
    assert_eq!(listed, SESSIONS as usize);
}

/// Whether an answer comes, and is complete.
fn is_whole(status: SocketAddr, ask: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&status, PATIENCE) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.write_all(ask.as_bytes());
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).is_ok() && answer.ends_with(b"]}\n")
}
