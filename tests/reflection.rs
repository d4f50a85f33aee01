//! Reflection and amplification: what forged datagrams bring the address in whose name
//! they are sent, measured with the real server as bytes back per byte forged, with
//! `--port-range` and `--single-port` and without. The manual's table
//! (`scripts/man/src/exposure.md`) has a row for each case and the bound that holds here.
//!
//! `cargo test --test reflection -- --nocapture` prints what was measured.
#![allow(
    clippy::disallowed_methods,
    reason = "a test stands outside: it measures time"
)]

mod common;

use std::net::UdpSocket;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::Signal;

/// How transfers get their ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Own,
    Few,
    /// A range wide enough to count as ports of their own.
    Wide,
    Single,
}

use Mode::{Few, Own, Single, Wide};

/// The ports of a narrow range: few, so that each can be tried.
const FEW_PORTS: u16 = 8;
const WIDE_RANGE: u16 = 1024;

/// Blocks of 1428 bytes in the file that is read.
const BLOCKS: usize = 4000;

/// Created once, because that takes a while.
static FILE: OnceLock<Vec<u8>> = OnceLock::new();

/// The part of its bound that a row must reach: no bound is looser than it need be.
const REACHED: f64 = 0.75;

/// After this long without a datagram, the answer is complete.
const SILENCE: Duration = millis(300);

/// A forger and its victim, the address in whose name it sends. The victim receives
/// and never answers by itself.
struct Forger<'s> {
    server: &'s Server,
    /// The server's port range, if it has one.
    ports: Range<u16>,
    victim: RawClient,
    forged: (usize, usize),
    back: (usize, usize),
    /// The highest block that came.
    highest: u16,
}

impl<'s> Forger<'s> {
    fn new(server: &'s Server) -> Self {
        let victim = RawClient::new(server);
        Self {
            server,
            ports: 0..0,
            victim,
            forged: (0, 0),
            back: (0, 0),
            highest: 0,
        }
    }

    /// Sends to the listening port, which everybody knows.
    fn send(&mut self, datagram: &[u8]) {
        self.send_to(datagram, self.server.port());
    }

    fn send_to(&mut self, datagram: &[u8], port: u16) {
        let mut to = self.server.addr();
        to.set_port(port);
        self.victim.send_to(datagram, to);
        self.forged = (self.forged.0 + 1, self.forged.1 + datagram.len());
    }

    /// Takes the next datagram; false if none comes within `wait`.
    fn take(&mut self, wait: Duration) -> bool {
        let Some((packet, _)) = self.victim.recv(wait) else {
            return false;
        };
        let len = match packet {
            Packet::Data(block, payload) => {
                self.highest = self.highest.max(block);
                4 + payload.len()
            }
            Packet::Ack(_) => 4,
            Packet::Error(_, text) => 5 + text.len(),
            Packet::Oack(options) => {
                let lens = options
                    .iter()
                    .map(|(name, value)| name.len() + value.len() + 2);
                2 + lens.sum::<usize>()
            }
            Packet::Other(bytes) => bytes.len(),
        };
        self.back = (self.back.0 + 1, self.back.1 + len);
        true
    }

    /// Receives until nothing more comes.
    fn take_all(&mut self) {
        while self.take(millis(30)) {}
    }

    /// Acknowledges like somebody who knows when each block is sent: each window once all
    /// of it has come, however long the machine takes. The first window has one block, and
    /// each acknowledged block makes the window one larger.
    fn acknowledge_all(&mut self, last: u16) {
        let (mut base, mut open) = (0, 1);
        while base < last {
            let end = last.min(base + open.min(WINDOW));
            while self.highest < end {
                if !self.take(PATIENCE) {
                    return;
                }
            }
            self.send(&ack(end));
            (base, open) = (end, open + (end - base));
        }
    }

    /// Sends to the port of another client's transfer.
    fn send_to_another(&mut self, datagrams: &[&[u8]]) {
        let (_, other) = RawClient::new(self.server).ask(&rrq("f", &[]));
        for datagram in datagrams {
            self.send_to(datagram, other.port());
        }
    }

    /// Receives until the server has no transfer left.
    fn wait_for_end(&mut self) {
        let deadline = Instant::now() + 4 * PATIENCE;
        self.server.fence();
        while sessions(self.server) > 0 {
            self.take_all();
            assert!(Instant::now() < deadline, "it never ends");
        }
    }

    /// Receives until nothing more is sent, and returns the totals.
    fn finish(mut self) -> Measured {
        self.wait_for_end();
        self.server.fence();
        self.take_all();
        let Self { forged, back, .. } = self;
        Measured { forged, back }
    }
}

/// The number of transfers that aren't over, from the server's counters.
fn sessions(server: &Server) -> u64 {
    let told = |lines: &[String]| lines.iter().filter(|it| it.contains("counters ")).count();
    let before = told(&server.log_lines());
    server.signal(Signal::SIGUSR1);
    server.wait_for_log(|_| false, millis(20));
    let lines = server.log_lines();
    if told(&lines) == before {
        return u64::MAX;
    }
    let line = lines.iter().rev().find(|line| line.contains("counters "));
    let mut words = line.into_iter().flat_map(|line| line.split(' '));
    let count = words.find_map(|word| word.strip_prefix("sessions="));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Datagrams and bytes, forged and back.
#[derive(Debug)]
struct Measured {
    forged: (usize, usize),
    back: (usize, usize),
}

impl Measured {
    fn factor(&self) -> f64 {
        f64::from(self.back.1 as u32) / f64::from(self.forged.1.max(1) as u32)
    }
}

const WINDOW: u16 = 64;
const WINDOWS: [(&str, &str); 2] = [("blksize", "1428"), ("windowsize", "64")];

/// Forged datagrams for a row of the manual's table.
struct Case {
    row: &'static str,
    modes: &'static [Mode],
    forge: fn(&mut Forger<'_>),
}

const ALL: &[Mode] = &[Own, Few, Single];

const CASES: &[Case] = &[
    Case {
        row: "RRQ without options",
        modes: ALL,
        forge: |forger| forger.send(&rrq("f", &[])),
    },
    Case {
        row: "WRQ without options",
        modes: ALL,
        forge: |forger| forger.send(&wrq("n", &[])),
    },
    Case {
        row: "RRQ or WRQ with options",
        modes: ALL,
        // The size has 13 digits.
        forge: |forger| forger.send(&rrq("h", &[("tsize", "0")])),
    },
    Case {
        row: "RRQ or WRQ with options",
        modes: ALL,
        forge: |forger| forger.send(&wrq("n", &[("blksize", "65464")])),
    },
    Case {
        row: "RRQ or WRQ that is refused",
        modes: ALL,
        forge: |forger| forger.send(&rrq("d", &[])),
    },
    Case {
        row: "RRQ or WRQ that is refused",
        modes: ALL,
        forge: |forger| {
            forger.send(&rrq("m", &[]));
            forger.take_all();
            forger.send(&wrq("f", &[]));
        },
    },
    Case {
        row: "RRQ, again and again",
        modes: ALL,
        forge: |forger| {
            forger.send(&rrq("f", &[]));
            forger.wait_for_end();
            forger.send(&rrq("f", &[]));
        },
    },
    Case {
        row: "RRQ, again and again",
        modes: ALL,
        forge: |forger| {
            for _ in 0..60 {
                forger.send(&rrq("f", &[]));
                forger.take(millis(5));
            }
        },
    },
    Case {
        row: "malformed",
        modes: ALL,
        forge: |forger| forger.send(&[0, 1]),
    },
    Case {
        row: "malformed",
        modes: ALL,
        forge: |forger| {
            forger.send(b"\0\x02f\0");
            forger.send(&[]);
            forger.send(&[0]);
            forger.send(&[0, 9, 1, 2]);
        },
    },
    Case {
        row: "ACK, OACK or ERROR of no transfer",
        modes: ALL,
        forge: |forger| {
            for block in [0, 1, 2, 65_535] {
                forger.send(&ack(block));
            }
            forger.send(b"\0\x06blksize\x00512\0");
            forger.send(&error(0, ""));
        },
    },
    Case {
        row: "DATA of no transfer",
        modes: &[Own, Few],
        forge: |forger| forger.send(&data(1, b"")),
    },
    Case {
        row: "DATA of no transfer, with `--single-port`",
        modes: &[Single],
        forge: |forger| forger.send(&data(1, b"")),
    },
    Case {
        row: "DATA of no transfer, with `--single-port`",
        modes: &[Single],
        forge: |forger| {
            for block in 0..300 {
                forger.send(&data(block, b""));
            }
        },
    },
    Case {
        row: "anything but an ERROR, to the port of another's transfer",
        modes: &[Own, Few],
        forge: |forger| forger.send_to_another(&[&[9]]),
    },
    Case {
        row: "anything but an ERROR, to the port of another's transfer",
        modes: &[Own, Few],
        forge: |forger| forger.send_to_another(&[&ack(1), &data(1, b""), &error(0, "")]),
    },
    Case {
        row: "RRQ, ACKs, DATA and ERRORs to the listen port",
        modes: &[Own, Few],
        forge: |forger| {
            forger.send(&rrq("f", &[]));
            forger.send(&ack(1));
        },
    },
    Case {
        row: "RRQ, ACKs, DATA and ERRORs to the listen port",
        modes: &[Own, Few],
        forge: |forger| {
            forger.send(&rrq("f", &[]));
            for block in 0..20 {
                forger.send(&ack(block));
                forger.send(&data(block, b""));
                forger.send(&error(0, ""));
            }
        },
    },
    Case {
        row: "RRQ, ACK of a block not sent, with `--single-port`",
        modes: &[Single],
        forge: |forger| {
            forger.send(&rrq("f", &[]));
            forger.take(SILENCE);
            forger.send(&ack(2));
        },
    },
    Case {
        row: "RRQ, ACK, ACK of a block not sent, with `--single-port`",
        modes: &[Single],
        forge: |forger| {
            forger.send(&rrq("f", &[]));
            forger.take(SILENCE);
            forger.send(&ack(1));
            forger.take(SILENCE);
            forger.send(&ack(3));
        },
    },
    Case {
        row: "RRQ, ERROR, with `--single-port`",
        modes: &[Single],
        forge: |forger| {
            for _ in 0..20 {
                forger.send(&rrq("f", &[]));
                forger.send(&error(0, ""));
            }
        },
    },
    Case {
        row: "RRQ, one ACK, with `--single-port`, or the same again and again",
        modes: &[Single],
        forge: |forger| {
            forger.send(&rrq("f", &[("blksize", "65464")]));
            forger.take(SILENCE);
            forger.send(&ack(0));
        },
    },
    Case {
        row: "RRQ, one ACK, with `--single-port`, or the same again and again",
        modes: &[Single],
        forge: |forger| {
            forger.send(&rrq("f", &[("blksize", "65464")]));
            for _ in 0..200 {
                forger.send(&ack(0));
                forger.take(millis(5));
            }
        },
    },
    Case {
        row: "WRQ, DATA, with `--single-port`",
        modes: &[Single],
        forge: |forger| {
            forger.send(&wrq("n", &[("blksize", "8")]));
            // The answer and all its retransmits.
            while forger.back.0 < 4 && forger.take(PATIENCE) {}
            forger.send(&data(1, b"12345678"));
        },
    },
    Case {
        row: "WRQ, DATA, with `--single-port`",
        modes: &[Single],
        forge: |forger| {
            forger.send(&wrq("n", &[("blksize", "8")]));
            for block in [1, 1, 2, 2, 2, 4, 3, 9, 4, 4] {
                forger.send(&data(block, b"12345678"));
                forger.take(millis(20));
            }
            // The last block, and then the same again.
            for _ in 0..20 {
                forger.send(&data(5, b""));
            }
            // Ends the dallying.
            forger.send(&error(0, ""));
        },
    },
    Case {
        row: "RRQ, each ACK as its block was sent, with `--single-port`",
        modes: &[Single],
        forge: |forger| {
            forger.send(&rrq("f", &WINDOWS));
            forger.take(SILENCE);
            forger.send(&ack(0));
            forger.acknowledge_all(BLOCKS as u16);
        },
    },
    Case {
        row: "RRQ, an ACK to each of N ports, with `-R`",
        modes: &[Few],
        forge: |forger| {
            forger.send(&rrq("f", &[("blksize", "65464")]));
            forger.take(SILENCE);
            for port in forger.ports.clone() {
                forger.send_to(&ack(0), port);
            }
        },
    },
    Case {
        row: "RRQ, an ACK to each of 1024 ports, with `-R`",
        modes: &[Wide],
        forge: |forger| {
            forger.send(&rrq("f", &WINDOWS));
            forger.take(SILENCE);
            for port in forger.ports.clone() {
                forger.send_to(&ack(0), port);
            }
        },
    },
];

/// A range of free ports, below the ephemeral ports. Each call returns another one:
/// servers with the same range would take each other's ports, and be hit by each other's
/// forgers.
fn range(count: u16) -> Range<u16> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 400) as u16 * 8;
    loop {
        let first = base + GIVEN.fetch_add(count, Ordering::Relaxed);
        assert!(first < 32_768 - count, "no range is free");
        let mut ports = first..first + count;
        if ports.all(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok()) {
            return first..first + count;
        }
    }
}

/// The range in the syntax of `-R`.
fn option(ports: &Range<u16>) -> String {
    format!("{}:{}", ports.start, ports.end - 1)
}

/// The bound of each row of the manual's table: the number at the start of its last
/// column.
fn bounds() -> Vec<(String, f64)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/man/src/exposure.md");
    let text = std::fs::read_to_string(path).expect("the table");
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let cells = rows.map(|row| {
        row.trim_matches(['|', ' '])
            .split(" | ")
            .collect::<Vec<_>>()
    });
    cells
        .filter_map(|cells| {
            let [name, .., factor] = &cells[..] else {
                return None;
            };
            let number = factor.split(' ').next()?.replace(',', "");
            Some(((*name).to_owned(), number.parse().ok()?))
        })
        .collect()
}

#[test]
fn own_ports_reflect_what_the_manual_says() {
    measure(Own);
}

#[test]
fn a_range_reflects_what_the_manual_says() {
    measure(Few);
}

#[test]
fn a_wide_range_reflects_what_the_manual_says() {
    measure(Wide);
}

#[test]
fn a_single_port_reflects_what_the_manual_says() {
    measure(Single);
}

fn measure(mode: Mode) {
    let bounds = bounds();
    for case in CASES {
        let is_there = bounds.iter().any(|(row, _)| row == case.row);
        assert!(is_there, "the manual has no row \"{}\"", case.row);
    }
    // Most of the time goes into waiting, so several rows are measured at once.
    let wrong: Vec<String> = thread::scope(|scope| {
        let parts: Vec<_> = (0..PARTS)
            .map(|part| {
                let rows = bounds.iter().skip(part).step_by(PARTS);
                let wrong = move |(row, bound): &(String, f64)| measure_row(mode, row, *bound);
                scope.spawn(move || rows.filter_map(wrong).collect::<Vec<_>>())
            })
            .collect();
        let done = parts.into_iter().map(|it| it.join().expect("measured"));
        done.flatten().collect()
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The number of rows measured at once.
const PARTS: usize = 3;

/// Returns what is wrong with the row.
fn measure_row(mode: Mode, row: &str, bound: f64) -> Option<String> {
    // It may also be measured in a test of its own.
    let is_measured = include_str!("reflection.rs").contains(&format!("\"{row}\""));
    assert!(is_measured, "nothing measures the row \"{row}\"");
    let cases = CASES.iter().filter(|case| case.row == row);
    let cases = cases.filter(|case| case.modes.contains(&mode));
    let most = thread::scope(|scope| {
        let factors: Vec<_> = cases
            .map(|case| scope.spawn(move || measure_case(mode, case)))
            .collect();
        let factors = factors.into_iter().map(|it| it.join().expect("measured"));
        factors.reduce(f64::max)
    });
    let most = most?;
    let is_right = (REACHED * bound..=bound).contains(&most);
    (!is_right).then(|| format!("{row}: {most:.1}, not {bound}"))
}

/// The options that say how soon the server repeats what isn't answered.
fn timers(row: &str) -> &'static [&'static str] {
    // Nothing may be repeated before the forger goes on, even on the slowest machine.
    let is_prompt = [
        "RRQ, ERROR,",
        "RRQ, ACK, ACK of a block not sent,",
        "RRQ, each ACK",
    ];
    // After an answer the wait follows the round trip, and quick repeats aren't counted:
    // there are twice as many as with `-t`.
    let is_answered = ["RRQ, one ACK", "RRQ, an ACK to each", "WRQ, DATA,"];
    let begins = |with: &[&str]| with.iter().any(|it| row.starts_with(it));
    if begins(&is_prompt) {
        &["-t", "5000"]
    } else if begins(&is_answered) {
        &[]
    } else {
        // As many repeats as by default, but sooner.
        &["-t", "20"]
    }
}

/// Returns bytes back per byte forged.
fn measure_case(mode: Mode, case: &Case) -> f64 {
    let ports = match mode {
        Own | Single => 0..0,
        Few => range(FEW_PORTS),
        Wide => range(WIDE_RANGE),
    };
    let range = (!ports.is_empty()).then(|| option(&ports));
    let mut args = vec!["-v"];
    args.extend(timers(case.row));
    if let Some(range) = &range {
        args.extend(["-R", range]);
    }
    if mode == Single {
        args.push("--single-port");
    }
    let server = Server::start(&args);
    server.file("f", FILE.get_or_init(|| content(1, BLOCKS * 1428 - 1)));
    server.file("d/f", b"");
    let huge = std::fs::File::create(server.root().join("h")).expect("a file");
    huge.set_len(8 << 40).expect("a hole");
    let mut forger = Forger::new(&server);
    forger.ports = ports;
    (case.forge)(&mut forger);
    let measured = forger.finish();
    let factor = measured.factor();
    println!("{mode:?}: {}: {measured:?}: {factor:.1}", case.row);
    factor
}

/// The bytes per second that unproved clients of one network are sent.
const UNPROVED_RATE: usize = 128 * 1024;

/// The largest blksize.
const LARGEST: usize = 65_464;

/// A forger that doesn't see what is sent, but knows when to expect it, acknowledges block
/// after block of several transfers.
#[test]
fn reflection_by_guessed_acks_is_bounded() {
    let rate = UNPROVED_RATE.to_string();
    let server = Server::start(&["--single-port", "--max-unproved-rate", &rate]);
    server.file("f", &content(1, 40 * LARGEST));
    let options = [("blksize", "65464")];
    let victims: Vec<_> = (0..16).map(|_| RawClient::new(&server)).collect();
    let begin = Instant::now();
    let mut back = 0;
    for victim in &victims {
        victim.send(&rrq("f", &options));
    }
    // An ACK counts only some time after its block: the forger waits that long, so that
    // it isn't found out too often.
    for block in 0..20 {
        while begin.elapsed() < millis(100) * (u32::from(block) + 1) {
            let came = victims.iter().filter_map(RawClient::recv_len_now);
            back += came.sum::<usize>();
            std::thread::yield_now();
        }
        // The second ACK finds its transfer paused, and must not wake it.
        for victim in victims.iter().chain(&victims) {
            victim.send(&ack(block));
        }
    }
    server.fence();
    for victim in &victims {
        back += std::iter::from_fn(|| victim.recv_len_now()).sum::<usize>();
    }
    let seconds = begin.elapsed().as_secs() as usize + 1;
    println!("{back} bytes back in {seconds} s");
    // The initial credit, and a block larger than what is left of it.
    assert!(
        back <= UNPROVED_RATE * (seconds + 1) + 2 * LARGEST,
        "{back}"
    );
    assert!(back > LARGEST, "{back}: nothing was measured");
}

/// A client that sees what is sent is soon exempt from the limit.
#[test]
fn a_client_that_answers_at_once_is_not_held_to_the_unproved_rate() {
    let rate = UNPROVED_RATE.to_string();
    let range = option(&range(FEW_PORTS));
    let lockstep = [("blksize", "8192")];
    for mode in [&["--single-port"][..], &["-R", &range]] {
        let server = Server::start(&[mode, &["--max-unproved-rate", &rate]].concat());
        let file = content(2, 64 * UNPROVED_RATE);
        server.file("f", &file);
        for (options, block_size, window) in [(&lockstep[..], 8192, 1), (&WINDOWS, 1428, 64)] {
            let begin = Instant::now();
            let client = RawClient::new(&server);
            let got = client.read_with(&rrq("f", options), block_size, window, 0);
            assert_same("f", &got.expect("a file"), &file);
            // At the unproved rate it would take a minute.
            let took = begin.elapsed();
            println!("{mode:?}, {options:?}: {took:?}");
            assert!(took < Duration::from_secs(30), "{mode:?}: {took:?}");
        }
    }
}

/// All kinds of datagrams in any order, to the listening port.
#[test]
fn datagrams_forged_in_any_order_reflect_no_more_than_the_worst_row() {
    let range = option(&range(FEW_PORTS));
    // With a single port an ACK may be right by chance, and bring a window of four.
    let modes: [(&[&str], f64); 3] = [
        (&[], 206.4),
        (&["-R", &range], 206.4),
        (&["--single-port"], 516.0),
    ];
    for (mode, bound) in modes {
        let server = Server::start(&[&["-t", "20"], mode].concat());
        server.file("f", &content(1, 100 * BLOCK));
        for seed in 1..=4_u32 {
            let mut forger = Forger::new(&server);
            let mut state = seed;
            for _ in 0..60 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let block = (state >> 8 & 3) as u16;
                let datagram = match state >> 24 & 7 {
                    0 => rrq("f", &[]),
                    1 => rrq("f", &[("windowsize", "4")]),
                    2 => wrq(&format!("n{seed}"), &[]),
                    3 => ack(block),
                    4 => data(block, b"x"),
                    5 => error(block, ""),
                    6 => rrq("missing", &[]),
                    _ => vec![0, block as u8],
                };
                forger.send(&datagram);
                if (state >> 16).is_multiple_of(4) {
                    forger.take(millis(u64::from(state >> 12 & 15)));
                }
            }
            // Ends the dallying.
            forger.send(&error(0, ""));
            let measured = forger.finish();
            let factor = measured.factor();
            println!("{mode:?}, seed {seed}: {measured:?}: {factor:.1}");
            assert!(factor <= bound, "{mode:?}, seed {seed}: {factor}");
        }
    }
}
