//! What a machine does to its programs, by the seed: a kernel without buffers,
//! sockets that are full for seconds, no descriptor left, a clock that leaps by
//! minutes, disks that fail, fill up or hesitate.
//!
//! The promises: bytes equal or both ends ended with a reason, bounded sends,
//! all slots free at the end. And where nothing but the machine was in the way,
//! and not for longer than a transfer's patience, every file arrives.

use nix::errno::Errno;
use tftpd::file::StorageError;

use super::*;

/// Whom a spell strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

/// What is missing for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// `ENOBUFS`: what is sent is lost.
    Buffers,
    /// `EAGAIN`: what is sent stays with the sender.
    Room,
    /// `EMFILE`: no request is admitted.
    Descriptors,
}

/// A time of want.
#[derive(Clone, Copy, Debug)]
struct Spell {
    want: Want,
    side: Side,
    from: Duration,
    until: Duration,
}

/// What becomes of a datagram that is handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Taken,
    Lost,
    /// Not taken; there is room again at that time.
    Refused(Duration),
}

/// Everything that goes wrong beneath both ends.
pub(super) struct Faults {
    random: Random,
    spells: Vec<Spell>,
    leaps_left: u32,
    /// Requests shed for want of a descriptor.
    pub(super) shed: u64,
    lost: u64,
    refused: u64,
}

impl Faults {
    pub(super) const NONE: Self = Self {
        random: Random(0),
        spells: Vec::new(),
        leaps_left: 0,
        shed: 0,
        lost: 0,
        refused: 0,
    };

    /// Up to three spells, together shorter than the least patience there is,
    /// that with a peer that has yet to answer (three repeats); and a few leaps
    /// of the clock. A leap costs both ends one of their tries, so `within_patience`
    /// there are two of them at most, or spells, and not the one upon the other.
    fn any(mut random: Random, within_patience: bool) -> Self {
        let spell = |random: &mut Random| {
            let from = Duration::from_micros(random.choose(&[0, 300, 2_000, 1_000_000]));
            let length = random.choose(&[1, 50, 900, 2_000]);
            Spell {
                want: random.choose(&[Want::Buffers, Want::Room, Want::Descriptors]),
                side: random.choose(&[Side::Server, Side::Client]),
                from: from + Duration::from_micros(random.below(1_000)),
                until: from + Duration::from_millis(1 + length),
            }
        };
        let spells: Vec<_> = (0..random.below(4)).map(|_| spell(&mut random)).collect();
        let most_leaps = match (within_patience, spells.is_empty()) {
            (false, _) => u32::MAX,
            (true, true) => 2,
            (true, false) => 0,
        };
        let leaps = random.choose(&[0, 0, 1, 4]);
        Self {
            spells,
            leaps_left: leaps.min(most_leaps),
            random,
            ..Self::NONE
        }
    }

    /// The spell of this kind that `side` is in.
    fn spell(&self, now: Duration, side: Side, want: Want) -> Option<&Spell> {
        let strikes = |spell: &&Spell| {
            (spell.side, spell.want) == (side, want) && (spell.from..spell.until).contains(&now)
        };
        self.spells.iter().find(strikes)
    }

    /// What the kernel does with a datagram from `own`.
    pub(super) fn send(&mut self, now: Duration, own: SocketAddr) -> Fate {
        let side = if own.ip() == SERVER {
            Side::Server
        } else {
            Side::Client
        };
        if let Some(spell) = self.spell(now, side, Want::Room) {
            let until = spell.until;
            self.refused += 1;
            return Fate::Refused(until);
        }
        if self.spell(now, side, Want::Buffers).is_some() {
            self.lost += 1;
            return Fate::Lost;
        }
        Fate::Taken
    }

    /// Whether the server may open one more file and socket.
    pub(super) fn admits(&mut self, now: Duration) -> bool {
        let admits = self.spell(now, Side::Server, Want::Descriptors).is_none();
        self.shed += u64::from(!admits);
        admits
    }

    /// How far the clock leaps now, if it does: up to half an hour.
    pub(super) fn leap(&mut self) -> Option<Duration> {
        if self.leaps_left == 0 || !self.random.percent(3) {
            return None;
        }
        self.leaps_left -= 1;
        Some(Duration::from_secs(60 + self.random.below(1740)))
    }
}

/// What the peer is told of `errno`: storage's own words.
pub(super) fn failure(errno: Errno) -> Failure {
    StorageError::from(errno).into()
}

// --- tests -----------------------------------------------------------------------------

/// Whether the file is where it was to go, whoever knows it.
fn is_delivered(world: &World, client: usize) -> bool {
    match world.wishes[client].direction {
        Direction::Read => world.clients[client].file.committed,
        Direction::Write => world.served[client].iter().any(|(_, file)| file.committed),
    }
}

/// What a seed's faults came to.
#[derive(Default)]
struct Tally {
    shed: u64,
    lost: u64,
    refused: u64,
    leapt: Duration,
}

fn run_seed(seed: u64) -> Tally {
    let mut random = Random(!seed);
    let rough = Weather {
        loss: random.choose(&[1, 5]),
        duplication: random.choose(&[0, 10]),
        jitter: Duration::from_millis(random.choose(&[0, 30])),
        ..FAIR
    };
    let weather = random.choose(&[FAIR, FAIR, rough]);
    let count = 1 + random.below(6);
    let mut wishes: Vec<_> = (0..count).map(|_| any_wish(&mut random, false)).collect();
    for wish in &mut wishes {
        for trouble in [&mut wish.server_trouble, &mut wish.client_trouble] {
            *trouble = random.choose(&[Trouble::None, Trouble::Hesitates]);
        }
    }
    let server_wait = any_wait(&mut random);
    let mut world = World::new(random.next(), weather, server_wait, wishes);
    world.network.faults = Faults::any(random, weather.loss == 0);
    world.run();
    world.judge();
    world.assert_sends_are_bounded();
    if weather.loss == 0 {
        for client in 0..world.clients.len() {
            let outcome = &world.clients[client].outcome;
            assert!(is_delivered(&world, client), "client {client}: {outcome:?}");
        }
    }
    let faults = &world.network.faults;
    Tally {
        shed: faults.shed,
        lost: faults.lost,
        refused: faults.refused,
        leapt: world.clock.leapt,
    }
}

#[test]
fn faults_of_the_machine_cost_time_and_no_file() {
    let seeds = match setting("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("SIM_SEEDS").unwrap_or(150),
    };
    let all = seeds.end - seeds.start > 100;
    let mut tally = Tally::default();
    for seed in seeds {
        let one = with_seed(seed, || run_seed(seed));
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
    assert!(!all || (shed > 0 && lost > 0 && refused > 0 && leapt > LIFETIME));
}

/// A single transfer in fair weather where one file gives trouble.
fn troubled(direction: Direction, windowsize: u16, troubles: [Trouble; 2]) -> World {
    let offer = Offer {
        windowsize: Some(windowsize),
        ..Offer::default()
    };
    let [server_trouble, client_trouble] = troubles;
    let wish = Wish {
        direction,
        size: 40 * 512 + 100,
        offer,
        server_trouble,
        client_trouble,
        wait: Wait::Adaptive,
    };
    let mut world = World::new(7, FAIR, Wait::Adaptive, vec![wish]);
    world.run();
    world.judge();
    world
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
        let wanted = failure(errno);
        assert_eq!(wanted.code, code, "{errno}");
        let places = [0, 511, 512, 5000, 40 * 512].map(|at| Trouble::Fails { at, errno });
        for trouble in places.into_iter().chain([Trouble::CommitFails(errno)]) {
            for direction in [Direction::Read, Direction::Write] {
                for windowsize in [1, 4, 64] {
                    for strikes_server in [true, false] {
                        let what = format!("{direction:?} {windowsize} {trouble:?}");
                        let writes = strikes_server == (direction == Direction::Write);
                        if !writes && matches!(trouble, Trouble::CommitFails(_)) {
                            continue;
                        }
                        let mut troubles = [Trouble::None, trouble];
                        if strikes_server {
                            troubles.reverse();
                        }
                        let world = troubled(direction, windowsize, troubles);
                        let client = &world.clients[0];
                        let [(session, file)] = &world.served[0][..] else {
                            panic!("{what}: more than one session");
                        };
                        let (stricken, other) = if strikes_server {
                            (session.as_ref(), client.outcome.as_ref())
                        } else {
                            (client.outcome.as_ref(), session.as_ref())
                        };
                        assert_eq!(stricken, Some(&Outcome::Failed(wanted)), "{what}");
                        let told = matches!(other,
                            Some(Outcome::PeerError { code: told, message })
                            if *told == code && **message == *wanted.message.as_bytes());
                        // An ERROR instead of the last ACK is how GRUB says goodbye;
                        // within the first window it ends a probe.
                        let may_be_done = direction == Direction::Read && !strikes_server;
                        let quiet_end = [Some(&Outcome::LastAckMissing), Some(&Outcome::Probed)];
                        let done = may_be_done && quiet_end.contains(&other);
                        assert!(told || done, "{what}: the other end: {other:?}");
                        assert!(!is_delivered(&world, 0), "{what}");
                        assert!(!file.committed && !client.file.committed, "{what}");
                        // As far as it went, a repetition for each end at most.
                        assert!(world.network.sent <= 2 * 43 + 4, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_disk_that_hesitates_changes_nothing_that_is_sent() {
    for direction in [Direction::Read, Direction::Write] {
        for windowsize in [1, 4, 64] {
            let [quick, slow] = [Trouble::None, Trouble::Hesitates].map(|trouble| {
                let world = troubled(direction, windowsize, [trouble; 2]);
                assert!(world.is_all_complete(), "{direction:?} {windowsize}");
                world.network.sent
            });
            assert_eq!(quick, slow, "{direction:?} {windowsize}");
        }
    }
}
