//! A hundred thousand machines boot at once from one session table: a simulation with
//! a seed and a clock of its own, so that each seed gives the same run every time.
//!
//! Each machine looks for a configuration that doesn't exist, asks for a file's size,
//! fetches that file and then another, each from a new port, as PXELINUX, UEFI and GRUB
//! do. Some are switched off in the middle, some are reset. The table is the real one;
//! the simulated server takes datagrams one by one from a queue, and datagrams that come
//! while the queue is full are lost, as in a socket's buffer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tftpd::host::clock;
use tftpd::table::{
    Admission, AfterTurn, Endpoint, Fingerprint, MAX_UNVERIFIED, SILENCE, SessionKey, Sessions,
    Tracked,
};

use super::held;

/// Microseconds.
type Micros = u64;

const SECOND: Micros = 1_000_000;

/// The time that a datagram costs the server.
const COST: Micros = 5;

/// A machine asks again after this time.
const PATIENCE: Micros = SECOND;

/// A session's first timeout; it doubles each time in a row.
const WAIT: Micros = 4 * SECOND;

/// Timeouts before a session ends: three until its peer has first answered.
const WAITS: u32 = 3;

/// Windows per file; here each counts as one block.
const BLOCKS: [u8; 2] = [3, 2];

/// Missing names that a kind of machine asks for: UEFI none, PXELINUX several.
const SEARCHES: [u8; 4] = [0, 0, 1, 4];

/// Bytes per session for the table itself (slab, lists, wheel and tree), with the spare
/// room of vectors that have grown.
const BESIDE: usize = 190;

/// The parameters of a crowd.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    machines: u32,
    /// The most sessions at once.
    limit: usize,
    /// All machines are switched on within this time.
    start: Micros,
    /// Datagrams that the receive buffer holds.
    queue: Micros,
    seed: u64,
}

/// The results of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    most_sessions: usize,
    most_unverified: usize,
    lost: u64,
    full: u64,
    repeated: u64,
    started_over: u64,
    evicted: u64,
    timed_out: u64,
    /// When the median machine, and the last, had booted.
    booted: [Micros; 2],
    /// The longest time between two steps of a machine that had a session.
    longest_pause: Micros,
    wheel_ops: u64,
}

/// A `SplitMix64` generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What a machine does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Looks for a configuration, with this many names left.
    Search(u8),
    /// Asks for the size of the first file.
    Probe,
    /// Fetches this one of the two files.
    File(usize),
    Booted,
    Off,
}

#[derive(Debug, Clone, Copy)]
struct Machine {
    stage: Stage,
    /// The port of its current request.
    port: u16,
    /// The block that it acknowledges next; `None` if it sends a request.
    acknowledges: Option<u8>,
    /// When its session last moved.
    moved: Micros,
    /// The block of the first file at which it is switched off or, if true, reset.
    fails_at: Option<(u8, bool)>,
}

/// A transfer as the table sees it.
#[derive(Debug)]
struct Boot {
    machine: u32,
    blocks: u8,
    last: u8,
    waits: u32,
    deadline: Instant,
    started: Instant,
    quiet_since: Instant,
    is_verified: bool,
}

impl Tracked for Boot {
    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    fn is_over(&self) -> bool {
        self.blocks == self.last
    }

    fn lacks_last_ack(&self) -> bool {
        false
    }

    fn unverified_since(&self) -> Option<Instant> {
        (!self.is_verified).then_some(self.started)
    }

    fn descriptors(&self) -> usize {
        // Its port and its file are shared.
        0
    }

    fn frees_descriptor(&self) -> bool {
        false
    }

    fn quiet_since(&self) -> Option<Instant> {
        Some(self.quiet_since)
    }

    fn round_trip(&self) -> Option<Duration> {
        None
    }
}

/// The machines, the network and the server.
struct World {
    origin: Instant,
    random: Random,
    machines: Vec<Machine>,
    /// What is on its way to the server: when it arrives, and from which machine. Each
    /// machine has at most one datagram there, and waits for its answer.
    arriving: BinaryHeap<Reverse<(Micros, u32)>>,
    table: Sessions<Boot>,
    queue: Micros,
    /// The server is busy until then.
    busy_until: Micros,
    unverified: usize,
    booted: Vec<Micros>,
    told: Told,
}

impl World {
    fn new(crowd: Crowd) -> Self {
        let origin = clock::now();
        let mut random = Random(crowd.seed);
        let mut arriving = BinaryHeap::with_capacity(crowd.machines as usize + 1);
        let machines: Vec<_> = (0..crowd.machines)
            .map(|number| {
                arriving.push(Reverse((random.below(crowd.start), number)));
                let search = SEARCHES[random.below(4) as usize];
                let fails = random.below(100);
                let block = 1 + random.below(3) as u8;
                Machine {
                    stage: if search == 0 {
                        Stage::Probe
                    } else {
                        Stage::Search(search)
                    },
                    port: 2000,
                    acknowledges: None,
                    moved: 0,
                    fails_at: (fails < 3).then_some((block, fails == 0)),
                }
            })
            .collect();
        Self {
            origin,
            random,
            booted: Vec::with_capacity(machines.len()),
            machines,
            arriving,
            table: Sessions::new(usize::MAX, origin).with_limit(crowd.limit),
            queue: crowd.queue,
            busy_until: 0,
            unverified: 0,
            told: Told::default(),
        }
    }

    fn instant(&self, at: Micros) -> Instant {
        self.origin + Duration::from_micros(at)
    }

    /// Runs until all machines are done.
    fn run(mut self) -> (Told, Sessions<Boot>) {
        loop {
            let arrival = self.arriving.peek().map(|Reverse((at, _))| *at);
            let due = self.table.next_deadline();
            let due = due.map(|at| (at - self.origin).as_micros() as Micros);
            let Some(next) = [arrival, due].into_iter().flatten().min() else {
                break;
            };
            if arrival == Some(next)
                && let Some(Reverse((at, machine))) = self.arriving.pop()
            {
                self.arrive(at, machine);
            }
            self.run_deadlines(next.max(self.busy_until));
        }
        self.booted.sort_unstable();
        let median = self.booted.get(self.booted.len() / 2);
        let ends = [median, self.booted.last()];
        self.told.booted = ends.map(|it| it.copied().unwrap_or_default());
        self.told.wheel_ops = self.table.wheel_ops();
        (self.told, self.table)
    }

    /// A datagram comes to the server's socket.
    fn arrive(&mut self, at: Micros, machine: u32) {
        if self.machines[machine as usize].stage == Stage::Off {
            return;
        }
        let begins = self.busy_until.max(at);
        if begins - at > self.queue * COST {
            self.told.lost += 1;
            return self.ask_again(at, machine);
        }
        self.busy_until = begins + COST;
        let now = self.busy_until;
        if self.machines[machine as usize].acknowledges.is_some() {
            self.acknowledge(now, machine);
        } else {
            self.request(now, machine);
        }
        self.told.most_sessions = self.told.most_sessions.max(self.table.len());
        self.told.most_unverified = self.told.most_unverified.max(self.unverified);
    }

    /// The machine's datagram, or the answer, was lost.
    fn ask_again(&mut self, at: Micros, machine: u32) {
        self.arriving.push(Reverse((at + PATIENCE, machine)));
    }

    /// The machine gets an answer, and sends its next datagram a round trip later. A window
    /// takes longer, because all machines share the wire.
    fn answer(&mut self, at: Micros, machine: u32) {
        let acknowledges = self.machines[machine as usize].acknowledges;
        let takes = if acknowledges > Some(0) {
            SECOND + self.random.below(2 * SECOND)
        } else {
            200 + self.random.below(800)
        };
        self.arriving.push(Reverse((at + takes, machine)));
    }

    fn endpoint(&self, machine: u32) -> Endpoint {
        Endpoint {
            peer: (
                Ipv4Addr::from_bits(0x0a00_0000 | machine),
                self.machines[machine as usize].port,
            )
                .into(),
            local: Ipv4Addr::LOCALHOST.into(),
        }
    }

    fn request(&mut self, at: Micros, machine: u32) {
        let (now, endpoint) = (self.instant(at), self.endpoint(machine));
        let stage = self.machines[machine as usize].stage;
        let last = match stage {
            Stage::Search(_) => 0,
            Stage::Probe => u8::MAX,
            Stage::File(file) => BLOCKS[file],
            Stage::Booted | Stage::Off => unreachable!("it asks for nothing"),
        };
        let fingerprint = Fingerprint::of(&[last]);
        let random = self.random.next() as u32;
        match self.table.admit_read(&endpoint, fingerprint, now, random) {
            Admission::New => {}
            Admission::Evicts(key) => self.evict(key, now),
            Admission::StartsOver(key) | Admission::Replaces(key) => {
                self.told.started_over += 1;
                self.remove(key);
            }
            Admission::Repeated(_) => {
                self.told.repeated += 1;
                self.step(at, machine, Some(0));
                return;
            }
            Admission::Full => {
                self.told.full += 1;
                return self.ask_again(at, machine);
            }
            other @ (Admission::Moving(_) | Admission::Crowded) => panic!("{other:?}"),
        }
        if let Stage::Search(left) = stage {
            // ERROR 1: the file doesn't exist.
            let it = &mut self.machines[machine as usize];
            it.port += 1;
            it.stage = match left {
                1 => Stage::Probe,
                left => Stage::Search(left - 1),
            };
            return self.answer(at, machine);
        }
        let session = Boot {
            machine,
            blocks: 0,
            last,
            waits: WAITS - 1,
            deadline: self.instant(at + WAIT),
            started: now,
            quiet_since: now,
            is_verified: false,
        };
        self.table.insert(endpoint, fingerprint, session);
        self.unverified += 1;
        self.machines[machine as usize].moved = at;
        self.step(at, machine, Some(0));
    }

    /// The machine reacts to an answer by acknowledging this block.
    fn step(&mut self, at: Micros, machine: u32, acknowledges: Option<u8>) {
        self.machines[machine as usize].acknowledges = acknowledges;
        self.answer(at, machine);
    }

    fn acknowledge(&mut self, at: Micros, machine: u32) {
        let (now, endpoint) = (self.instant(at), self.endpoint(machine));
        let Some(key) = self.table.key_of(&endpoint) else {
            // Its session was evicted, or has ended: it starts over.
            self.machines[machine as usize].acknowledges = None;
            self.machines[machine as usize].port += 1;
            return self.ask_again(at, machine);
        };
        let it = &mut self.machines[machine as usize];
        self.told.longest_pause = self.told.longest_pause.max(at - it.moved);
        it.moved = at;
        let block = it.acknowledges.unwrap_or_default();
        if it.stage == Stage::Probe {
            // ERROR 8: the machine wanted the size only.
            (it.stage, it.acknowledges) = (Stage::File(0), None);
            it.port += 1;
            self.remove(key);
            return self.answer(at, machine);
        }
        if let (Stage::File(0), Some((fails_at, is_reset))) = (it.stage, it.fails_at)
            && block == fails_at
        {
            it.fails_at = None;
            if is_reset {
                // Its boot ROM asks again from the same port.
                it.acknowledges = None;
                return self.ask_again(at + PATIENCE, machine);
            }
            it.stage = Stage::Off;
            return;
        }
        let Some(session) = self.table.get_mut(key) else {
            return;
        };
        let was_unverified = !session.is_verified;
        session.is_verified = true;
        session.blocks = block;
        session.waits = WAITS;
        session.quiet_since = now;
        session.deadline = now + Duration::from_micros(WAIT);
        let is_over = session.is_over();
        self.unverified -= usize::from(was_unverified);
        let after = self.table.after_turn(key, was_unverified, || now, || 0);
        assert_eq!(after, AfterTurn::Stays);
        if !is_over {
            return self.step(at, machine, Some(block + 1));
        }
        self.remove(key);
        let it = &mut self.machines[machine as usize];
        it.acknowledges = None;
        it.port += 1;
        if it.stage == Stage::File(0) {
            it.stage = Stage::File(1);
            self.answer(at, machine);
        } else {
            it.stage = Stage::Booted;
            self.booted.push(at);
        }
    }

    /// Evicts a session, which must not have moved lately.
    fn evict(&mut self, key: SessionKey, now: Instant) {
        let session = self.table.get(key).expect("an evicted session");
        let quiet = now - session.quiet_since;
        assert!(!session.is_verified || quiet >= SILENCE, "{session:?}");
        self.told.evicted += 1;
        self.remove(key);
    }

    fn remove(&mut self, key: SessionKey) {
        let session = self.table.remove(key).expect("a session");
        self.unverified -= usize::from(!session.is_verified);
    }

    fn run_deadlines(&mut self, at: Micros) {
        let now = self.instant(at);
        while let Some(key) = self.table.pop_due(now) {
            let session = self.table.get_mut(key).expect("one that is due");
            assert!(session.deadline <= now, "early");
            if session.waits == 0 {
                self.told.timed_out += 1;
                let machine = session.machine;
                let stage = self.machines[machine as usize].stage;
                assert_eq!(stage, Stage::Off, "given up though it is there");
                self.remove(key);
                continue;
            }
            session.waits -= 1;
            session.deadline = now + Duration::from_micros(WAIT << (WAITS - session.waits));
            self.table.rearm(key);
        }
    }
}

/// Together they ask for about as much as the server can do.
#[test]
fn a_hundred_thousand_machines_boot_at_once_and_nobody_starves() {
    let crowd = Crowd {
        machines: 100_000,
        limit: 100_000,
        start: 4 * SECOND,
        // 16 MiB.
        queue: 20_000,
        seed: 17,
    };
    let world = World::new(crowd);
    let (before, _) = held();
    let (told, table) = world.run();
    let (_, most) = held();
    assert_eq!(table.len(), 0, "all slots are free");
    assert_eq!(table.next_deadline(), None, "nothing waits");
    assert!(told.most_sessions > 95_000, "{told:?}");
    assert!(told.most_unverified <= MAX_UNVERIFIED, "{told:?}");
    assert_eq!((told.lost, told.full, told.evicted), (0, 0, 0), "{told:?}");
    // One machine in a hundred is reset, two are switched off.
    assert!(told.started_over > 500, "{told:?}");
    assert!(told.timed_out > 1500, "{told:?}");
    let [median, last] = told.booted;
    assert!(last < 3 * median, "{told:?}");
    // A window takes three seconds at most.
    assert!(told.longest_pause < 4 * SECOND, "{told:?}");
    // Moving a deadline costs no wheel operation; firing costs two.
    let transfers = 3 * u64::from(crowd.machines);
    assert!(told.wheel_ops < 8 * transfers, "{told:?}");
    let each = (most - before).cast_unsigned() / told.most_sessions;
    println!(
        "{} bytes a session in the table of transfers",
        each.saturating_sub(size_of::<Boot>())
    );
    assert!(each <= 4 * size_of::<Boot>() / 3 + BESIDE, "{each}");
}

/// There is room for four machines of five: the fifth waits for a slot and gets one.
/// What is lost in a full buffer is sent again.
#[test]
fn a_full_table_and_a_full_buffer_let_everyone_boot_in_the_end() {
    let crowd = Crowd {
        machines: 5_000,
        limit: 4_000,
        start: SECOND / 100,
        queue: 500,
        seed: 4711,
    };
    let (told, table) = World::new(crowd).run();
    assert_eq!((table.len(), told.most_sessions), (0, crowd.limit));
    assert!(told.full > 1_000 && told.lost > 1_000, "{told:?}");
    assert!(told.longest_pause < 6 * SECOND, "{told:?}");
    assert!(told.booted[1] < 60 * SECOND, "{told:?}");
    let (again, _) = World::new(crowd).run();
    assert_eq!(told, again, "a seed is a run");
}
