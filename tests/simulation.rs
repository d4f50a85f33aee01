//! Whole networks in one thread: the shipped session, table and protocol at both
//! ends, over a network that loses, duplicates, delays, reorders and forges
//! datagrams, between kernels whose sockets get full and files that come late, on
//! a simulated clock. Only the loops and the kernels are stand-ins.
//!
//! Everything follows from a seed. `cargo test --test simulation` runs some
//! thousands; `SIM_SEEDS=100000` runs more, `SIM_SEED=42` replays one. A failure
//! prints its seed.

#[path = "simulation/faults.rs"]
mod faults;
#[allow(
    dead_code,
    reason = "shared with the forged world, whose files are closed"
)]
#[path = "simulation/files.rs"]
mod files;
#[path = "simulation/judge.rs"]
mod judge;
#[path = "simulation/kept_back.rs"]
mod kept_back;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/peers.rs"]
mod peers;
#[allow(
    dead_code,
    reason = "shared with the forged world, where ports are shared"
)]
#[path = "simulation/port.rs"]
mod port;
#[path = "simulation/scenario.rs"]
mod scenario;
#[allow(
    dead_code,
    reason = "shared with the forged world, where ports are shared"
)]
#[path = "simulation/server.rs"]
mod server;
#[path = "simulation/turn.rs"]
mod turn;
#[path = "simulation/weather.rs"]
mod weather;

use std::ops::Range;
use std::time::Duration;

use nix::errno::Errno;
use tftpd::file::StorageError;
use tftpd::protocol::retry::Wait;
use tftpd::protocol::transfer::{Failure, Outcome};
use tftpd::wire::options::{Offer, Rollover};
use tftpd::wire::packet::{Direction, ErrorCode, Mode};

use faults::Faults;
use files::Trouble;
use network::{CLIENT, SERVER};
use scenario::{Record, Wish, World};
use weather::{FAIR, Kernels, Random, Weather};

// --- seeds ---------------------------------------------------------------------------

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// The seeds to run: `standard` in number, unless the environment says otherwise. Returns
/// one of two halves, since there are two tests for two processors.
fn seeds(half: u64, standard: u64) -> Range<u64> {
    match setting("SIM_SEED") {
        Some(seed) if half == 0 => seed..seed + 1,
        Some(_) => 0..0,
        None => {
            let count = setting("SIM_SEEDS").unwrap_or(standard);
            count * half / 2..count * (half + 1) / 2
        }
    }
}

/// Runs `body` and names the seed if it fails.
fn with_seed<T>(seed: u64, body: impl FnOnce() -> T) -> T {
    struct Name(u64);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!(
                    "seed {0} failed; replay with SIM_SEED={0} cargo test --test simulation",
                    self.0
                );
            }
        }
    }
    let _name = Name(seed);
    body()
}

// --- any network -----------------------------------------------------------------------

fn any_wait(random: &mut Random) -> Wait {
    random.choose(&[Wait::Adaptive, Wait::Fixed(Duration::from_millis(500))])
}

fn any_wish(random: &mut Random) -> Wish {
    let blksize = random.choose(&[None, Some(8), Some(512), Some(1428), Some(65_464)]);
    let largest = 40 * u64::from(blksize.unwrap_or(512)).min(4000);
    let size = match random.below(5) {
        0 => 0,
        // An exact multiple of the block size: the last block is empty.
        1 => usize::from(blksize.unwrap_or(512).min(4000)) * random.below(20) as usize,
        _ => random.below(largest) as usize,
    };
    let direction = random.choose(&[Direction::Read, Direction::Write]);
    let mode = random.choose(&[Mode::Octet, Mode::Octet, Mode::Octet, Mode::Netascii]);
    let size = match mode {
        Mode::Octet => size,
        // Converting text is slow in debug builds.
        Mode::Netascii => size.min(6000),
    };
    let offer = Offer {
        blksize,
        windowsize: random.choose(&[None, Some(1), Some(2), Some(7), Some(64)]),
        timeout: random.choose(&[None, None, Some(1), Some(3)]),
        tsize: match mode {
            Mode::Octet => random.choose(&[None, Some(size as u64)]),
            Mode::Netascii => None,
        },
        rollover: random.choose(&[None, None, Some(Rollover::ToZero), Some(Rollover::ToOne)]),
        extra: Vec::new(),
    };
    Wish {
        direction,
        mode,
        file: 0,
        size,
        offer,
        server_trouble: Trouble::None,
        client_trouble: Trouble::None,
        wait: any_wait(random),
    }
}

/// The wishes of `count` clients: all different, or the same for several, as when a room
/// of machines boots.
fn any_wishes(random: &mut Random, count: usize) -> Vec<Wish> {
    let room = random.choose(&[1, 1, 1, 2, 4]);
    let wish_for = |file| Wish {
        file,
        ..any_wish(random)
    };
    let rooms: Vec<_> = (0..count.div_ceil(room)).map(wish_for).collect();
    (0..count)
        .map(|client| rooms[client / room].clone())
        .collect()
}

/// A fault that makes every transfer fail, or none.
fn any_failure(random: &mut Random, size: usize) -> Trouble {
    let at = random.below(size as u64 + 1) as usize;
    match random.below(8) {
        1 => Trouble::Fails {
            at,
            errno: Errno::ENOSPC,
        },
        2 => Trouble::CommitFails(Errno::ENOSPC),
        3 => Trouble::Shrinks { to: at },
        _ => Trouble::None,
    }
}

/// A fault that costs time, or none.
fn any_delay(random: &mut Random) -> Trouble {
    random.choose(&[
        Trouble::None,
        Trouble::Hesitates,
        Trouble::Late(Duration::from_millis(5)),
        Trouble::Late(Duration::from_millis(400)),
    ])
}

/// The most datagrams that the weather costs each client, beyond three times the
/// needed number.
fn extra(weather: &Weather) -> u64 {
    let lost = match weather.loss {
        0 => 10,
        1 => 20,
        5 => 40,
        _ => 150,
    };
    // A window that comes out of order is sent again from each gap.
    let disordered = match weather.jitter.as_millis() {
        0 => 0,
        1 => 150,
        _ => 500,
    };
    lost + disordered
}

/// Runs the world of a seed to its end; returns the trace.
fn run_seed(seed: u64) -> u64 {
    let mut random = Random(seed);
    let weather = Weather::any(&mut random);
    let kernels = Kernels::any(&mut random);
    let fails = random.percent(30);
    let count = 1 + random.below(8) as usize;
    let mut wishes = any_wishes(&mut random, count);
    for wish in &mut wishes {
        let size = wish.size;
        for trouble in [&mut wish.server_trouble, &mut wish.client_trouble] {
            *trouble = if fails {
                any_failure(&mut random, size)
            } else {
                any_delay(&mut random)
            };
        }
    }
    let server_wait = any_wait(&mut random);
    let mut world = World::new(random.next(), weather, kernels, server_wait, wishes);
    world.run();
    world.judge();
    world.assert_sends_are_bounded(extra(&weather));
    if weather.delivers() && !fails {
        world.assert_all_told();
    }
    world.net.with(|network| network.trace)
}

#[test]
fn every_transfer_ends_whole_or_with_a_reason() {
    for seed in seeds(0, 2400) {
        with_seed(seed, || run_seed(seed));
    }
}

#[test]
fn every_transfer_ends_whole_or_with_a_reason_other_half() {
    for seed in seeds(1, 2400) {
        with_seed(seed, || run_seed(seed));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1000..1020 {
        let traces = with_seed(seed, || [run_seed(seed), run_seed(seed)]);
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
    assert_ne!(run_seed(1000), run_seed(1001));
}

// --- faults of the machines ------------------------------------------------------------

/// How often a seed's faults had an effect.
#[derive(Default)]
struct Tally {
    shed: u64,
    lost: u64,
    refused: u64,
    leapt: Duration,
}

fn run_faulty_seed(seed: u64) -> Tally {
    let mut random = Random(!seed);
    let rough = Weather {
        loss: random.choose(&[1, 5]),
        duplication: random.choose(&[0, 10]),
        jitter: Duration::from_millis(random.choose(&[0, 30])),
        ..FAIR
    };
    let weather = random.choose(&[FAIR, FAIR, rough]);
    let kernels = Kernels::any(&mut random);
    let count = 1 + random.below(6) as usize;
    let mut wishes = any_wishes(&mut random, count);
    for wish in &mut wishes {
        for trouble in [&mut wish.server_trouble, &mut wish.client_trouble] {
            *trouble = random.choose(&[Trouble::None, Trouble::Hesitates]);
        }
    }
    let server_wait = any_wait(&mut random);
    let mut world = World::new(random.next(), weather, kernels, server_wait, wishes);
    let faults = Faults::any(random, weather.delivers());
    world.net.with(|network| network.faults = faults);
    world.run();
    world.judge();
    world.assert_sends_are_bounded(extra(&rough));
    if weather.delivers() {
        world.assert_all_told();
    }
    world.net.with(|network| Tally {
        shed: network.faults.shed,
        lost: network.faults.lost,
        refused: network.faults.refused,
        leapt: world.leapt,
    })
}

#[test]
fn faults_of_the_machine_cost_time_and_no_file() {
    let mut tally = Tally::default();
    let seeds = seeds(0, 1000);
    let all = seeds.end - seeds.start > 100;
    for seed in seeds {
        let one = with_seed(seed, || run_faulty_seed(seed));
        tally.shed += one.shed;
        tally.lost += one.lost;
        tally.refused += one.refused;
        tally.leapt += one.leapt;
    }
    let Tally {
        shed,
        lost,
        refused,
        leapt,
    } = tally;
    eprintln!("{shed} requests shed, {lost} sends lost, {refused} refused, {leapt:?} leapt");
    let hour = Duration::from_secs(3600);
    assert!(!all || (shed > 0 && lost > 0 && refused > 0 && leapt > hour));
}

/// A last block that came twice waits in the batch for its session's next turn: that owes
/// nothing yet.
#[test]
fn what_lies_in_a_batch_is_not_owed_an_ack() {
    run_faulty_seed(3653);
}

// --- one transfer ----------------------------------------------------------------------

/// All combinations of the kernels' properties.
fn all_kernels() -> impl Iterator<Item = Kernels> {
    (0..8).map(|bits| Kernels {
        single_port: bits & 1 != 0,
        coalesces: bits & 2 != 0,
        offloads: bits & 4 != 0,
        fullness: 0,
    })
}

/// A single transfer in fair weather, run and judged.
fn transfer(
    direction: Direction,
    size: usize,
    offer: Offer,
    kernels: Kernels,
    [server_trouble, client_trouble]: [Trouble; 2],
) -> World {
    let mut world = alone(direction, size, offer, kernels);
    world.wishes[0].server_trouble = server_trouble;
    world.wishes[0].client_trouble = client_trouble;
    world.run();
    world.judge();
    world
}

/// A network in fair weather with one client, before its run.
fn alone(direction: Direction, size: usize, offer: Offer, kernels: Kernels) -> World {
    let wish = Wish {
        file: 0,
        direction,
        mode: Mode::Octet,
        size,
        offer,
        server_trouble: Trouble::None,
        client_trouble: Trouble::None,
        wait: Wait::Adaptive,
    };
    World::new(7, FAIR, kernels, Wait::Adaptive, vec![wish])
}

/// The number of datagrams sent in fair weather, and of the client's retransmits.
fn fair(direction: Direction, size: usize, offer: Offer, kernels: Kernels) -> (u64, u64) {
    let world = transfer(direction, size, offer, kernels, [Trouble::None; 2]);
    world.assert_all_told();
    (world.sent(), world.clients[0].record.retransmits)
}

fn windows(windowsize: u16) -> Offer {
    Offer {
        windowsize: Some(windowsize),
        ..Offer::default()
    }
}

#[test]
fn in_fair_weather_nothing_is_sent_twice() {
    let windowed = |blksize, windowsize| Offer {
        blksize: Some(blksize),
        windowsize: Some(windowsize),
        ..Offer::default()
    };
    for kernels in all_kernels() {
        for direction in [Direction::Read, Direction::Write] {
            let what = format!("{direction:?} {kernels:?}");
            // The request, ten blocks and their ACKs; for an upload also ACK 0.
            let upload = u64::from(direction == Direction::Write);
            let plain = fair(direction, 9 * 512 + 1, Offer::default(), kernels);
            assert_eq!(plain, (1 + 10 + 10 + upload, 0), "{what}");
            // The request, the OACK, a read's ACK 0, ten blocks, ACKs of 4, 8 and 10.
            let (sent, repeats) = fair(direction, 9 * 100 + 1, windowed(100, 4), kernels);
            let needed = 2 + (1 - upload) + 10 + 3;
            if kernels.single_port && direction == Direction::Read {
                // The window opens with one block and doubles: twice the server has to ask
                // where the client is.
                assert!((needed..=needed + 6).contains(&sent), "{what}: {sent}");
                assert!(repeats <= 2, "{what}");
                continue;
            }
            assert_eq!(sent, needed, "{what}");
            assert_eq!(repeats, 0, "{what}");
        }
    }
}

/// Any transfers, several at once.
#[test]
fn in_fair_weather_exactly_what_is_needed_is_sent() {
    for seed in seeds(0, 1000) {
        with_seed(seed, || {
            let mut random = Random(seed);
            let count = 1 + random.below(8) as usize;
            let wishes = any_wishes(&mut random, count);
            let opens_slowly = |wish: &Wish| wish.direction == Direction::Read && wish.window() > 1;
            let mut kernels = Kernels {
                fullness: 0,
                ..Kernels::any(&mut random)
            };
            kernels.single_port &= !wishes.iter().any(opens_slowly);
            let server_wait = any_wait(&mut random);
            let mut world = World::new(random.next(), FAIR, kernels, server_wait, wishes);
            world.run();
            world.judge();
            world.assert_all_told();
            world.assert_sends_are_exact();
        });
    }
}

#[test]
fn block_numbers_roll_over_in_both_directions() {
    let size = 8 * 65_600 + 3;
    for direction in [Direction::Read, Direction::Write] {
        for rollover in [Rollover::ToZero, Rollover::ToOne] {
            let offer = Offer {
                blksize: Some(8),
                rollover: Some(rollover),
                ..windows(64)
            };
            let kernels = Kernels {
                offloads: true,
                coalesces: true,
                ..Kernels::default()
            };
            let (_, repeats) = fair(direction, size, offer, kernels);
            assert_eq!(repeats, 0, "{direction:?} {rollover:?}");
        }
    }
}

#[test]
fn a_disk_that_hesitates_changes_nothing_that_is_sent() {
    for direction in [Direction::Read, Direction::Write] {
        for windowsize in [1, 4, 64] {
            let [quick, slow] = [Trouble::None, Trouble::Hesitates].map(|trouble| {
                let offer = windows(windowsize);
                let kernels = Kernels::default();
                let world = transfer(direction, 40 * 512 + 100, offer, kernels, [trouble; 2]);
                world.assert_all_told();
                world.sent()
            });
            assert_eq!(quick, slow, "{direction:?} {windowsize}");
        }
    }
}

#[test]
fn a_file_that_only_a_blocking_read_brings_arrives() {
    for direction in [Direction::Read, Direction::Write] {
        let size = 3 * 512 + 100;
        let kernels = Kernels::default();
        let world = transfer(direction, size, windows(1), kernels, [Trouble::Never; 2]);
        world.assert_all_told();
    }
}

/// A negotiated timeout of five seconds is no reason to wait that long: the receiver
/// reports the gap, even if only by an ACK of the window's base.
#[test]
fn a_loss_in_a_window_costs_a_nack_and_not_a_timeout() {
    const WINDOW: u64 = 4;
    for kernels in all_kernels() {
        for (direction, to) in [(Direction::Read, CLIENT), (Direction::Write, SERVER)] {
            // On a shared port the window opens with one block: loss of its end isn't
            // reported.
            if kernels.single_port && direction == Direction::Read {
                continue;
            }
            for block in (1..=4 * WINDOW).filter(|block| !block.is_multiple_of(WINDOW)) {
                let offer = Offer {
                    timeout: Some(5),
                    ..windows(WINDOW as u16)
                };
                let mut world = alone(direction, 8 * 4 * 512, offer, kernels);
                // Before the blocks comes the OACK or, to a server, the request.
                let loses = Some((to, 1 + block));
                world.net.with(|network| network.loses = loses);
                world.run();
                world.judge();
                world.assert_all_told();
                let took = world.clients[0].record.ended;
                let what = format!("{direction:?}, DATA {block} lost, {kernels:?}");
                assert!(took < Duration::from_millis(500), "{what}: {took:?}");
                assert!(
                    world.sent() <= world.datagrams_needed() + 2 * WINDOW,
                    "{what}"
                );
            }
        }
    }
}

/// Whether the file has been stored at its destination.
fn is_stored(world: &World) -> bool {
    world.clients[0].record.is_committed() || world.served[0].iter().any(Record::is_committed)
}

#[test]
fn a_disk_that_fails_is_told_to_the_other_end_with_its_code() {
    let cases = [
        (Errno::EIO, ErrorCode::NotDefined),
        (Errno::ENOSPC, ErrorCode::DiskFull),
        (Errno::EDQUOT, ErrorCode::DiskFull),
        (Errno::EFBIG, ErrorCode::DiskFull),
        (Errno::EROFS, ErrorCode::AccessViolation),
    ];
    for (errno, code) in cases {
        let wanted = Failure::from(StorageError::from(errno));
        assert_eq!(wanted.code, code, "{errno}");
        let places = [0, 511, 512, 5000, 40 * 512].map(|at| Trouble::Fails { at, errno });
        for trouble in places.into_iter().chain([Trouble::CommitFails(errno)]) {
            for direction in [Direction::Read, Direction::Write] {
                for windowsize in [1, 4, 64] {
                    for strikes_server in [true, false] {
                        fail(direction, windowsize, trouble, strikes_server, wanted);
                    }
                }
            }
        }
    }
}

/// Runs a transfer in which one end's file fails: the other end must be told `wanted`.
fn fail(
    direction: Direction,
    windowsize: u16,
    trouble: Trouble,
    strikes_server: bool,
    wanted: Failure,
) {
    let what = format!("{direction:?} {windowsize} {trouble:?}");
    let writes = strikes_server == (direction == Direction::Write);
    if !writes && matches!(trouble, Trouble::CommitFails(_)) {
        return;
    }
    let mut troubles = [Trouble::None, trouble];
    if strikes_server {
        troubles.reverse();
    }
    let (offer, kernels) = (windows(windowsize), Kernels::default());
    let world = transfer(direction, 40 * 512 + 100, offer, kernels, troubles);
    let client = &world.clients[0].record;
    let [session] = &world.served[0][..] else {
        panic!("{what}: more than one session");
    };
    let (stricken, other) = if strikes_server {
        (session.outcome.as_ref(), client.outcome.as_ref())
    } else {
        (client.outcome.as_ref(), session.outcome.as_ref())
    };
    assert_eq!(stricken, Some(&Outcome::Failed(wanted)), "{what}");
    let told = matches!(other,
        Some(Outcome::PeerError { code, message })
        if *code == wanted.code && **message == *wanted.message.as_bytes());
    // GRUB ends a transfer with an ERROR instead of the last ACK; the Raspberry Pi
    // asks for a size and sends one in the first window.
    let may_be_done = direction == Direction::Read && !strikes_server;
    let done = may_be_done && matches!(other, Some(Outcome::LastAckMissing | Outcome::Probed));
    assert!(told || done, "{what}: the other end: {other:?}");
    assert!(!is_stored(&world), "{what}");
    // The blocks up to the failure, and at most one retransmit from each end.
    assert!(world.sent() <= 2 * 43 + 4, "{what}: {}", world.sent());
}
