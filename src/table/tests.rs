use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::eviction::{LOOK_AGAIN, UNVERIFIED_OF_CLIENT};
use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Probe {
    deadline: Option<Instant>,
    over: bool,
    lacks_last_ack: bool,
    unverified_since: Option<Instant>,
    quiet_since: Option<Instant>,
    light: bool,
    /// Descriptors that it holds beside its socket.
    files: usize,
}

impl Tracked for Probe {
    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn lacks_last_ack(&self) -> bool {
        self.lacks_last_ack
    }

    fn unverified_since(&self) -> Option<Instant> {
        self.unverified_since
    }

    fn descriptors(&self) -> usize {
        usize::from(!is_light(self)) + self.files
    }

    fn frees_descriptor(&self) -> bool {
        !self.light
    }

    fn quiet_since(&self) -> Option<Instant> {
        self.quiet_since
    }

    fn round_trip(&self) -> Option<Duration> {
        None
    }
}

fn due(deadline: Instant) -> Probe {
    Probe {
        deadline: Some(deadline),
        ..Probe::default()
    }
}

fn unverified(since: Instant) -> Probe {
    Probe {
        unverified_since: Some(since),
        ..Probe::default()
    }
}

/// Its peer has owed its first answer since then, and it holds no descriptor.
fn light(since: Instant) -> Probe {
    Probe {
        light: true,
        ..unverified(since)
    }
}

/// Its peer has answered, and has been silent since then.
fn quiet(since: Instant) -> Probe {
    Probe {
        quiet_since: Some(since),
        ..Probe::default()
    }
}

#[allow(clippy::disallowed_methods, reason = "an Instant has no other source")]
fn origin() -> Instant {
    Instant::now()
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Port 1069 of 192.0.2.`host`, towards 127.0.0.`local`.
fn endpoint(host: u8, local: u8) -> Endpoint {
    Endpoint {
        peer: (Ipv4Addr::new(192, 0, 2, host), 1069).into(),
        local: Ipv4Addr::new(127, 0, 0, local).into(),
    }
}

/// The endpoint of client `number`: more clients than there are hosts in a network.
fn numbered(number: u32) -> Endpoint {
    Endpoint {
        peer: (Ipv4Addr::from_bits(number), 1069).into(),
        local: Ipv4Addr::LOCALHOST.into(),
    }
}

const READ: &[u8] = b"\0\x01pxelinux.0\0octet\0";
const OTHER: &[u8] = b"\0\x01pxelinux.1\0octet\0";

fn change(table: &mut Sessions<Probe>, key: SessionKey, change: impl FnOnce(&mut Probe)) {
    change(table.get_mut(key).unwrap());
    table.rearm(key);
}

fn set_deadline(table: &mut Sessions<Probe>, key: SessionKey, deadline: Instant) {
    change(table, key, |it| it.deadline = Some(deadline));
}

#[test]
fn fingerprints_follow_from_the_bytes_alone() {
    assert_eq!(Fingerprint::of(READ), Fingerprint::of(&[READ].concat()));
    assert_ne!(Fingerprint::of(READ), Fingerprint::of(OTHER));
    assert_ne!(Fingerprint::of(b""), Fingerprint::of(b"\0"));
}

#[test]
fn tokens_carry_keys_and_spare_the_reserved() {
    let last = (MAX_SESSIONS - 1) as u32;
    for (index, generation) in [(0, 0), (1, 0), (0, 1), (7, u32::MAX), (last, u32::MAX)] {
        let key = SessionKey { generation, index };
        let told = SessionKey::from_token(key.to_token());
        assert_eq!(told.index, index);
        // On 32 bits a token has room for a part of the generation.
        assert!(
            told.is_of(generation) && !told.is_of(generation.wrapping_add(1)),
            "{key:?}"
        );
        assert!(!RESERVED.contains(&key.to_token()), "{key:?}");
    }
    let beyond = SessionKey {
        index: last + 1,
        generation: u32::MAX,
    };
    assert!(RESERVED.contains(&beyond.to_token()));

    let table = Sessions::<Probe>::new(usize::MAX, origin());
    assert_eq!(table.limit(), MAX_LIMIT);
    for token in RESERVED {
        assert_eq!(table.get(SessionKey::from_token(token)), None);
        assert_eq!(table.key_of_token(token), None);
    }
}

#[test]
fn requests_are_new_repeated_replacing_or_too_many() {
    use Admission::{Full, Moving, New, Repeated, Replaces, StartsOver};

    let (read, other, now) = (Fingerprint::of(READ), Fingerprint::of(OTHER), origin());
    let mut table = Sessions::new(2, now);
    let ask = |table: &Sessions<_>, from, asks| table.admit(&from, asks, now + millis(1000), 0);
    assert_eq!(ask(&table, endpoint(1, 1), read), New);
    let first = table.insert(endpoint(1, 1), read, Probe::default());
    assert_eq!(table.key_of_token(first.to_token()), Some(first));
    assert_eq!(ask(&table, endpoint(1, 2), read), New, "our other address");
    assert_eq!(ask(&table, endpoint(2, 1), read), New, "another client");
    let second = table.insert(endpoint(1, 2), read, Probe::default());

    for (from, over, quiet_since, asks, expected) in [
        (endpoint(1, 1), false, None, read, Repeated(first)),
        (endpoint(1, 2), false, None, read, Repeated(second)),
        (endpoint(1, 1), false, None, other, Moving(first)),
        (endpoint(1, 1), false, Some(now), other, Replaces(first)),
        (endpoint(1, 1), false, Some(now), read, StartsOver(first)),
        (endpoint(1, 1), true, None, read, Replaces(first)),
        (endpoint(1, 1), true, None, other, Replaces(first)),
        (endpoint(2, 1), false, Some(now), read, Full),
    ] {
        let session = table.get_mut(first).unwrap();
        (session.over, session.quiet_since) = (over, quiet_since);
        table.rearm(first);
        assert_eq!(ask(&table, from, asks), expected);
    }

    table.remove(second);
    assert_eq!(ask(&table, endpoint(2, 1), read), New);
    assert_eq!(ask(&table, endpoint(1, 2), read), New);
}

/// Every session that is evicted for one random number or another.
fn evicted(table: &Sessions<Probe>, from: Endpoint, now: Instant) -> Vec<SessionKey> {
    let mut keys: Vec<_> = (0..64)
        .filter_map(
            |random| match table.admit(&from, Fingerprint::of(READ), now, random) {
                Admission::Evicts(key) => Some(key),
                Admission::Full | Admission::Crowded => None,
                other => panic!("{other:?}"),
            },
        )
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[test]
fn eviction_takes_the_dallying_first_then_the_unverified_then_the_silent() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(6, origin);
    let silent = table.insert(endpoint(1, 1), read, quiet(origin + millis(1)));
    let silent_longest = table.insert(endpoint(2, 1), read, quiet(origin));
    let moving = table.insert(endpoint(3, 1), read, Probe::default());
    let waiting = [4, 5].map(|host| table.insert(endpoint(host, 1), read, unverified(origin)));
    let dallying = table.insert(endpoint(6, 1), read, Probe::default());
    change(&mut table, dallying, |it| it.over = true);
    let late = origin + SILENCE;
    let too_early = origin + SILENCE.saturating_sub(millis(1));
    let ask = |table: &Sessions<_>, at| evicted(table, endpoint(9, 1), at);

    assert_eq!(ask(&table, origin), [dallying]);
    change(&mut table, dallying, |it| it.over = false);

    assert_eq!(ask(&table, origin), [], "nobody is overdue yet");
    assert_eq!(
        ask(&table, origin + UNVERIFIED_GRACE.saturating_sub(millis(1))),
        []
    );
    assert_eq!(ask(&table, origin + UNVERIFIED_GRACE), waiting, "at random");
    assert_eq!(ask(&table, late), waiting);
    for key in waiting {
        change(&mut table, key, |it| it.unverified_since = None);
    }

    assert_eq!(ask(&table, too_early), []);
    assert_eq!(ask(&table, late), [silent_longest]);
    table.get_mut(silent_longest).unwrap().quiet_since = None;
    assert_eq!(ask(&table, late), []);
    assert_eq!(ask(&table, late + millis(1)), [silent]);
    table.get_mut(silent).unwrap().quiet_since = None;
    // Sessions that move are never evicted.
    assert_eq!(ask(&table, late + late.duration_since(origin)), []);
    table.remove(moving);
    assert_eq!(
        table.admit(&endpoint(9, 1), read, origin, 0),
        Admission::New
    );
}

/// No request of a flood may cost a look at hundreds of sessions.
#[test]
fn eviction_of_the_silent_is_tried_once_a_millisecond() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(1, origin);
    let key = table.insert(endpoint(1, 1), read, Probe::default());
    let late = origin + SILENCE;
    let ask = |table: &Sessions<_>, at| table.admit(&endpoint(2, 1), read, at, 0);
    assert_eq!(ask(&table, late), Admission::Full);
    change(&mut table, key, |it| it.quiet_since = Some(origin));
    assert_eq!(ask(&table, late), Admission::Full);
    assert_eq!(ask(&table, late + LOOK_AGAIN), Admission::Evicts(key));
    assert_eq!(ask(&table, late + LOOK_AGAIN), Admission::Evicts(key));
}

/// Where clients have a limit, counts are kept as sessions come, change and go.
#[test]
fn a_client_with_very_many_sessions_is_counted_and_not_looked_through() {
    let (read, now) = (Fingerprint::of(READ), origin());
    let many = 20_000;
    let mut table = Sessions::new(usize::MAX, now).with_client_limit(many);
    let from = |port: u16| Endpoint {
        peer: (Ipv4Addr::LOCALHOST, port).into(),
        local: Ipv4Addr::LOCALHOST.into(),
    };
    let keys: Vec<_> = (0..many as u16)
        .map(|port| {
            assert_eq!(table.admit(&from(port), read, now, 0), Admission::New);
            table.insert(from(port), read, Probe::default())
        })
        .collect();
    let ask = |table: &Sessions<_>| table.admit(&from(u16::MAX), read, now, 0);
    assert_eq!(ask(&table), Admission::Crowded);
    change(&mut table, keys[7], |it| it.over = true);
    assert_eq!(ask(&table), Admission::New);
    change(&mut table, keys[7], |it| it.over = false);
    assert_eq!(ask(&table), Admission::Crowded);
    for key in keys {
        table.remove(key);
    }
    assert_eq!(
        table.by_client.map(|it| it.of(client_of(&from(1)))),
        Some(Counts::default())
    );
}

#[test]
fn the_unverified_take_a_part_of_the_table() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(usize::MAX, origin);
    let from = numbered;
    let ask = |table: &Sessions<_>, number, at| table.admit(&from(number), read, at, 7);
    for number in 1..=MAX_UNVERIFIED as u32 {
        assert_eq!(ask(&table, number, origin), Admission::New);
        table.insert(from(number), read, unverified(origin));
    }
    let eighth = SessionKey {
        generation: 7,
        index: 7,
    };
    let late = origin + UNVERIFIED_GRACE;
    assert_eq!(ask(&table, 0, origin), Admission::Full);
    assert_eq!(ask(&table, 0, late), Admission::Evicts(eighth));
    table.remove(eighth);
    assert_eq!(ask(&table, 0, origin), Admission::New);
    table.check_invariants();
}

/// Where a port is needed, a session that has none isn't ended for it.
#[test]
fn eviction_takes_one_that_has_what_is_needed() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let late = origin + SILENCE;
    let probes = [
        Probe {
            over: true,
            ..Probe::default()
        },
        unverified(origin),
        quiet(origin),
    ];
    for probe in probes {
        let mut table = Sessions::new(4, origin);
        let [_, _, key] = [1, 2, 3].map(|host| {
            let deadline = (host == 3).then_some(late);
            table.insert(endpoint(host, 1), read, Probe { deadline, ..probe })
        });
        let has = |probe: &Probe| probe.deadline.is_some();
        for random in 0..9 {
            assert_eq!(table.gives_way_among(late, random, has), Some(key));
            assert_eq!(table.gives_way_among(late, random, |_| false), None);
        }
    }
}

/// In a flood of forged requests the unverified sessions hold a part of the slots, and
/// the light ones hold nothing.
#[test]
fn light_sessions_take_no_slot_until_their_peer_answers() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(8, origin).with_light_sessions(100);
    let from = numbered;
    let late = origin + UNVERIFIED_GRACE;
    let ask = |table: &Sessions<_>, number| table.admit(&from(number), read, late, 0);
    let light = light(origin);
    // A quarter of eight.
    for number in 1..=2 {
        assert!(!table.is_short());
        table.insert(from(number), read, unverified(origin));
    }
    assert!(table.is_short());
    let first = table.insert(from(3), read, light);
    for number in 4..=100 {
        assert_eq!(ask(&table, number), Admission::New);
        table.insert(from(number), read, light);
    }
    // Verified ones have the other slots.
    for number in 101..=106 {
        assert_eq!(ask(&table, number), Admission::New);
        table.insert(from(number), read, Probe::default());
    }
    let unverified: Vec<_> = [0, 1].map(|index| (index, index)).into();
    let key = |(generation, index)| SessionKey { generation, index };
    let held: Vec<_> = unverified.into_iter().map(key).collect();
    assert_eq!(
        evicted(&table, from(200), late),
        held,
        "with a slot to give"
    );
    // The peer of a light one answers: a session that holds a descriptor has to make
    // room.
    assert!(!table.is_overfull());
    change(&mut table, first, |it| *it = Probe::default());
    assert!(table.is_overfull());
    assert_eq!(table.gives_way(late, 0), Some(held[0]));
    table.remove(held[0]);
    assert!(!table.is_overfull() && !table.is_short());
    table.check_invariants();
}

/// Each upload holds three descriptors.
#[test]
fn reads_are_light_once_unanswered_uploads_hold_a_quarter_of_the_descriptors() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(40, origin).with_light_sessions(1000);
    let upload = Probe {
        files: 2,
        ..unverified(origin)
    };
    let keys = [1, 2, 3, 4].map(|host| {
        assert!(!table.is_short());
        table.insert(endpoint(host, 1), read, upload)
    });
    assert!(table.is_short());
    // One peer has answered.
    *table.get_mut(keys[0]).expect("it is there") = Probe {
        unverified_since: None,
        ..upload
    };
    table.rearm(keys[0]);
    assert!(!table.is_short());
    table.check_invariants();
}

/// A flood of write requests, whose sessions are never light, takes every slot, and
/// nobody gives way while none of them is overdue.
#[test]
fn slots_full_of_forged_uploads_leave_room_for_light_sessions() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(4, origin).with_light_sessions(4);
    let uploads =
        [1, 2, 3, 4].map(|host| table.insert(endpoint(host, 1), read, unverified(origin)));
    assert_eq!(
        table.admit(&endpoint(9, 1), read, origin, 0),
        Admission::Full
    );
    assert!(table.has_light_room());
    let light = light(origin);
    table.insert(endpoint(9, 1), read, light);
    assert!(!table.is_overfull());
    // A peer that answers doesn't wait until they are overdue.
    assert_eq!(table.gives_way(origin, 2), None);
    let given = table.gives_way_to_verified(origin, 2);
    assert_eq!(given, Some(uploads[2]));
    // Where all of them are real there is no room.
    for key in uploads {
        change(&mut table, key, |it| it.unverified_since = None);
    }
    assert!(!table.has_light_room());
}

/// What a first answer means for the session and for others; a read is admitted where
/// an upload isn't.
#[test]
fn a_first_answer_is_crowded_evicts_or_stays() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(4, origin).with_light_sessions(4);
    let uploads =
        [1, 2, 3, 4].map(|host| table.insert(endpoint(host, 1), read, unverified(origin)));
    let from = endpoint(9, 1);
    assert_eq!(table.admit(&from, read, origin, 0), Admission::Full);
    assert_eq!(table.admit_read(&from, read, origin, 0), Admission::New);
    let first = table.insert(from, read, light(origin));
    *table.get_mut(first).unwrap() = Probe::default();
    let after = table.after_turn(first, true, || origin, || 2);
    assert_eq!(after, AfterTurn::Evicts(uploads[2]));
    table.remove(uploads[2]);
    let after = table.after_turn(first, false, || origin, || 2);
    assert_eq!(after, AfterTurn::Stays);

    let mut table = Sessions::new(4, origin).with_client_limit(1);
    for (local, expected) in [(1, AfterTurn::Stays), (2, AfterTurn::Crowded)] {
        let key = table.insert(endpoint(1, local), read, unverified(origin));
        assert_eq!(
            table.after_turn(key, true, || origin, || 0),
            AfterTurn::Stays
        );
        table.get_mut(key).unwrap().unverified_since = None;
        assert_eq!(table.after_turn(key, true, || origin, || 0), expected);
    }
}

/// A limit holds for all sessions; light ones give way too where it is reached.
#[test]
fn a_limit_of_sessions_holds_for_light_ones_too() {
    use Admission::{Evicts, Full, New};

    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(4, origin)
        .with_light_sessions(4)
        .with_limit(4);
    let light = light(origin);
    table.insert(endpoint(1, 1), read, unverified(origin));
    assert!(table.is_short());
    let others = [2, 3, 4].map(|host| {
        assert_eq!(table.admit(&endpoint(host, 1), read, origin, 0), New);
        table.insert(endpoint(host, 1), read, light)
    });
    let ask = |table: &Sessions<_>, now| table.admit(&endpoint(9, 1), read, now, 1);
    let late = origin + UNVERIFIED_GRACE;
    assert_eq!(ask(&table, origin), Full);
    assert!(!table.has_light_room());
    assert_eq!(ask(&table, late), Evicts(others[1]));
    // Where all of them are real there is no room.
    for key in others {
        change(&mut table, key, |it| *it = Probe::default());
    }
    assert!(!table.is_overfull());
    assert_eq!(ask(&table, origin), Full);
}

/// A limit that stands for descriptors doesn't apply to sessions that hold none.
#[test]
fn light_sessions_come_on_top_of_a_limit_of_descriptors() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(4, origin)
        .with_light_sessions(4)
        .with_limit(4)
        .with_light_on_top();
    let ask = |table: &Sessions<_>| table.admit_read(&endpoint(99, 1), read, origin, 0);
    for host in 1..=4 {
        table.insert(endpoint(host, 1), read, unverified(origin));
    }
    // Nobody is overdue yet.
    for host in 5..=50 {
        assert_eq!(ask(&table), Admission::New, "{host}");
        table.insert(endpoint(host, 1), read, light(origin));
    }
    let upload = table.admit(&endpoint(99, 1), read, origin, 0);
    assert_eq!(upload, Admission::Full);
}

/// A flood of light sessions leaves many free places in the slab, and the sessions that
/// outlive it come after those.
#[test]
fn eviction_finds_the_longest_silent_after_a_flood_of_light_sessions() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(2, origin).with_light_sessions(2);
    let light = light(origin);
    let hosts = || (1..=250).flat_map(|host| (2..=5).map(move |local| endpoint(host, local)));
    let flood: Vec<_> = hosts().map(|at| table.insert(at, read, light)).collect();
    table.insert(endpoint(1, 1), read, quiet(origin + millis(1)));
    let longest = table.insert(endpoint(2, 1), read, quiet(origin));
    let (in_time, late) = (origin + SILENCE / 2, origin + SILENCE);
    for is_over in [false, true] {
        for random in [0, 1, 4711, u32::MAX] {
            assert_eq!(table.gives_way(in_time, random), None);
            assert_eq!(table.gives_way(late, random), Some(longest), "{is_over}");
        }
        for &key in &flood {
            table.remove(key);
        }
    }
    table.check_invariants();
}

#[test]
fn a_light_session_that_is_silent_has_no_slot_to_give() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(1, origin).with_light_sessions(1);
    table.insert(endpoint(1, 1), read, Probe::default());
    let light = Probe {
        light: true,
        quiet_since: Some(origin),
        ..unverified(origin)
    };
    table.insert(endpoint(2, 1), read, light);
    assert_eq!(table.gives_way(origin + SILENCE, 0), None);
}

/// However many light sessions there are, a new one may take the place of any of them.
#[test]
fn eviction_among_light_sessions_is_at_random() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(8, origin).with_light_sessions(8);
    let from = numbered;
    for number in 1..=MAX_UNVERIFIED as u32 {
        let light = light(origin);
        table.insert(from(number), read, light);
    }
    assert_eq!(table.admit(&from(0), read, origin, 0), Admission::Full);
    let late = origin + UNVERIFIED_GRACE;
    let mut keys: Vec<_> = (0..100)
        .map(|draw| table.admit(&from(0), read, late, draw * 163))
        .collect();
    keys.dedup();
    assert!(keys.len() > 50, "{}", keys.len());
    assert!(keys.iter().all(|it| matches!(it, Admission::Evicts(_))));
}

/// The flood has used up what unverified sessions may have, and none of them holds a
/// slot: eviction takes one of them, and `is_overfull` the slot of a session that is
/// over.
#[test]
fn eviction_finds_the_finished_where_all_the_unverified_are_light() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(8, origin).with_light_sessions(8);
    let from = numbered;
    for number in 1..=MAX_UNVERIFIED as u32 {
        let light = light(origin);
        table.insert(from(number), read, light);
    }
    let held: Vec<_> = (0..8)
        .map(|number| table.insert(from(1 << 20 | number), read, Probe::default()))
        .collect();
    let late = origin + UNVERIFIED_GRACE;
    assert_eq!(table.admit(&from(0), read, late, 0), Admission::Full);
    for &key in &held {
        change(&mut table, key, |it| it.over = true);
    }
    assert_eq!(table.admit(&from(0), read, origin, 0), Admission::Full);
    let Admission::Evicts(key) = table.admit(&from(0), read, late, 0) else {
        panic!("full, though eight sessions are over");
    };
    assert!(table.get(key).unwrap().light);
    table.remove(key);
    table.insert(from(0), read, unverified(late));
    assert!(table.is_overfull());
    assert_eq!(table.gives_way(late, 0), Some(held[0]));
    table.remove(held[0]);
    table.check_invariants();
}

#[test]
fn a_client_limit_holds_and_unverified_sessions_do_not_count() {
    use Admission::{Crowded, Moving, New, Repeated};

    let (read, other, now) = (Fingerprint::of(READ), Fingerprint::of(OTHER), origin());
    for (ip, own, neighbours) in [
        ("192.0.2.7", "192.0.2.7", ["192.0.2.6", "192.0.2.8"]),
        (
            "255.255.255.255",
            "255.255.255.255",
            ["255.255.255.254", "::1"],
        ),
        // One IPv6 host has a /64.
        (
            "2001:db8::7",
            "2001:db8::ffff:0:0:1",
            ["2001:db8:0:1::7", "::7"],
        ),
        ("ffff::ffff", "ffff::1", ["ffff:0:0:1::ffff", "192.0.2.7"]),
    ] {
        let from = |ip: &str, port, local: &str| Endpoint {
            peer: (ip.parse::<IpAddr>().unwrap(), port).into(),
            local: local.parse().unwrap(),
        };
        let mut table = Sessions::new(9, now).with_client_limit(2);
        let first = table.insert(from(ip, 0, "0.0.0.0"), read, Probe::default());
        let ask = |table: &Sessions<_>, asks| table.admit(&from(own, 7, "::1"), asks, now, 1);
        assert_eq!(ask(&table, read), New, "{ip}");
        let last = table.insert(from(ip, u16::MAX, "ffff::"), read, unverified(now));
        // It may be a forgery: it doesn't count.
        assert_eq!(ask(&table, read), New, "{ip}");
        let too_many = table.insert(from(own, 8, "::1"), read, unverified(now));
        for (key, is_crowded) in [(last, false), (too_many, true)] {
            change(&mut table, key, |it| it.unverified_since = None);
            assert_eq!(table.is_crowded(key), is_crowded, "{ip}");
            assert_eq!(ask(&table, read), Crowded, "{ip}");
        }
        table.remove(too_many);
        // A request for a session that it has already isn't one more.
        let again = |asks| table.admit(&from(ip, 0, "0.0.0.0"), asks, now, 1);
        assert_eq!(again(read), Repeated(first), "{ip}");
        assert_eq!(again(other), Moving(first), "{ip}");
        for neighbour in neighbours {
            let endpoint = from(neighbour, 0, "127.0.0.1");
            assert_eq!(table.admit(&endpoint, read, now, 1), New, "{neighbour}");
        }
        change(&mut table, last, |it| it.over = true);
        assert_eq!(ask(&table, read), New, "{ip}: one is over");
    }
}

/// A client that has sent its next request doesn't wait for the one before. It counts on
/// until the client has proved that it is there, so that no forger ends it.
#[test]
fn what_lacks_only_its_last_ack_gives_way_to_its_clients_next() {
    let (read, now) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(9, now).with_client_limit(2);
    let from = |port: u16| Endpoint {
        peer: (Ipv4Addr::LOCALHOST, port).into(),
        local: Ipv4Addr::LOCALHOST.into(),
    };
    let ask = |table: &Sessions<_>| table.admit(&from(9), read, now, 1);
    let sent = |after| Probe {
        lacks_last_ack: true,
        ..quiet(now + millis(after))
    };
    let (running, first, last) = (quiet(now), sent(1), sent(2));
    let keys = [(1, first), (2, last)].map(|(port, it)| table.insert(from(port), read, it));
    assert_eq!(ask(&table), Admission::New);
    let next = [3, 4, 5].map(|port| table.insert(from(port), read, unverified(now)));
    let [proved, second, third] = next.map(|key| {
        change(&mut table, key, |it| *it = running);
        let after = table.after_turn(key, true, || now, || 1);
        if let AfterTurn::Concludes(key) = after {
            table.remove(key);
        }
        after
    });
    assert_eq!(proved, AfterTurn::Concludes(keys[0]), "the longest");
    assert_eq!(second, AfterTurn::Concludes(keys[1]));
    assert_eq!(third, AfterTurn::Crowded);
    assert_eq!(ask(&table), Admission::Crowded);
    // Another client's doesn't help, nor what isn't quiet, nor the new one itself.
    let other = Endpoint {
        peer: (Ipv4Addr::BROADCAST, 1).into(),
        ..from(1)
    };
    table.insert(other, read, first);
    change(&mut table, next[0], |it| {
        (it.lacks_last_ack, it.quiet_since) = (true, None);
    });
    assert_eq!(ask(&table), Admission::Crowded);
    change(&mut table, next[2], |it| *it = first);
    let after = table.after_turn(next[2], true, || now, || 1);
    assert_eq!(after, AfterTurn::Crowded);
}

/// Forged requests in a client's name don't lock it out, nor do they end transfers that
/// it hasn't had time to answer. They are bounded: a new one takes the place of
/// another.
#[test]
fn eviction_within_one_client_is_rare_at_random_and_late() {
    let (read, origin) = (Fingerprint::of(READ), origin());
    let mut table = Sessions::new(usize::MAX, origin).with_client_limit(2);
    let from = |port: u16| Endpoint {
        peer: (Ipv4Addr::LOCALHOST, port).into(),
        local: Ipv4Addr::LOCALHOST.into(),
    };
    let late = origin + UNVERIFIED_GRACE;
    for port in 1..=UNVERIFIED_OF_CLIENT as u16 {
        let admission = table.admit(&from(port), read, late, port.into());
        assert_eq!(admission, Admission::New, "{port}");
        table.insert(from(port), read, unverified(origin));
    }
    let ask = |at, random| table.admit(&from(u16::MAX), read, at, random);
    assert_eq!(ask(origin, 0), Admission::Crowded);
    let mut given: Vec<_> = (0..100_u32)
        .map(|draw| ask(late, draw.wrapping_mul(0x9e37_79b9)))
        .collect();
    assert!(given.iter().all(|it| matches!(it, Admission::Evicts(_))));
    given.dedup();
    assert_eq!(given.len(), 100, "at random");
    let other = Endpoint {
        peer: (Ipv4Addr::BROADCAST, 1).into(),
        ..from(1)
    };
    assert_eq!(table.admit(&other, read, origin, 0), Admission::New);
}

#[test]
fn a_stale_key_reaches_nothing() {
    let origin = origin();
    let read = Fingerprint::of(READ);
    let mut table = Sessions::new(1, origin);
    let stale = table.insert(endpoint(1, 1), read, due(origin + millis(5)));
    assert!(table.remove(stale).is_some());
    assert_eq!(table.next_deadline(), None, "its deadline went with it");

    let key = table.insert(endpoint(2, 1), read, due(origin + millis(9)));
    assert_eq!(stale.index, key.index, "the slot is used again");
    table.rearm(stale);
    assert_eq!(table.get(stale), None);
    assert_eq!(table.get_mut(stale), None);
    assert_eq!(table.endpoint(stale), None);
    assert_eq!(table.remove(stale), None);
    assert_eq!(table.get(key), Some(&due(origin + millis(9))));
    assert_eq!(table.endpoint(key), Some(&endpoint(2, 1)));
    assert_eq!(table.iter().map(|(key, _)| key).collect::<Vec<_>>(), [key]);
}

#[test]
fn a_deadline_that_moves_on_costs_the_wheel_nothing() {
    let origin = origin();
    let mut table = Sessions::new(1, origin);
    let timeout = millis(500);
    let key = table.insert(endpoint(1, 1), Fingerprint::of(READ), due(origin + timeout));
    let before = table.wheel_ops();
    // An ACK every 10 µs for 400 ms.
    for ack in 1..=40_000 {
        let now = origin + Duration::from_micros(10 * ack);
        set_deadline(&mut table, key, now + timeout);
    }
    assert_eq!(table.wheel_ops(), before);

    // The entry fires at 500 ms and is put off to the deadline at 900 ms.
    assert_eq!(table.pop_due(origin + millis(500)), None);
    assert_eq!(table.wheel_ops(), before + 2);
    assert_eq!(table.pop_due(origin + millis(899)), None);
    assert_eq!(table.pop_due(origin + millis(900)), Some(key));
}

#[test]
fn an_earlier_deadline_is_heeded_and_a_withdrawn_one_forgotten() {
    let origin = origin();
    let mut table = Sessions::new(1, origin);
    let key = table.insert(endpoint(1, 1), Fingerprint::of(READ), Probe::default());
    assert_eq!(table.next_deadline(), None);

    set_deadline(&mut table, key, origin + millis(800));
    set_deadline(&mut table, key, origin + millis(20));
    assert_eq!(table.pop_due(origin + millis(19)), None);
    assert_eq!(table.pop_due(origin + millis(20)), Some(key));

    set_deadline(&mut table, key, origin + millis(50));
    change(&mut table, key, |it| it.deadline = None);
    assert_eq!(table.pop_due(origin + millis(60)), None);
    assert_eq!(table.next_deadline(), None);
}

#[test]
fn a_deadline_in_the_past_ends_the_pass_and_is_due_in_the_next() {
    let origin = origin();
    let mut table = Sessions::new(3, origin);
    let keys =
        [1, 2, 3].map(|host| table.insert(endpoint(host, 1), Fingerprint::of(READ), due(origin)));
    for pass in 1..=5 {
        let now = origin + millis(pass);
        let mut told = Vec::new();
        while let Some(key) = table.pop_due(now) {
            told.push(key);
            assert!(told.len() <= keys.len(), "the pass does not end");
            set_deadline(&mut table, key, origin);
        }
        assert_eq!(told, keys, "pass {pass}");
        assert!(table.next_deadline() > Some(now), "a busy loop");
    }
}

#[test]
fn time_does_not_go_backwards() {
    let origin = origin();
    let mut table = Sessions::new(1, origin);
    assert_eq!(table.pop_due(origin + millis(50)), None);
    let deadline = due(origin + millis(40));
    let key = table.insert(endpoint(1, 1), Fingerprint::of(READ), deadline);
    assert_eq!(table.pop_due(origin + millis(30)), None);
    assert!(table.next_deadline() > Some(origin + millis(50)));
    set_deadline(&mut table, key, origin + millis(40));
    assert_eq!(table.pop_due(origin + millis(51)), Some(key));
}

#[test]
#[should_panic(expected = "would oversleep")]
fn a_forgotten_rearm_is_noticed() {
    let origin = origin();
    let mut table = Sessions::new(1, origin);
    let key = table.insert(endpoint(1, 1), Fingerprint::of(READ), Probe::default());
    table.get_mut(key).unwrap().deadline = Some(origin + millis(5));
    table.check_invariants();
}

#[test]
#[should_panic(expected = "has a session already")]
fn one_endpoint_has_one_session() {
    let mut table = Sessions::new(2, origin());
    table.insert(endpoint(1, 1), Fingerprint::of(READ), Probe::default());
    table.insert(endpoint(1, 1), Fingerprint::of(OTHER), Probe::default());
}

#[test]
#[should_panic(expected = "table is full")]
fn the_capacity_holds() {
    let mut table = Sessions::new(0, origin());
    table.insert(endpoint(1, 1), Fingerprint::of(READ), Probe::default());
}

#[derive(Debug, Clone, Copy)]
enum Op {
    /// A request from an endpoint, and the deadline of the session if it is admitted.
    Request(u8, bool, Wait),
    /// The n-th session moves its deadline.
    Wait(usize, Wait),
    /// The n-th session is over.
    Over(usize),
    /// The n-th session is answered for the first time.
    Answer(usize),
    Remove(usize),
    /// Time passes, in microseconds; each session that comes due then waits again, or
    /// is removed.
    Advance(u64, Option<Wait>),
    /// Time passes until `next_deadline`; those due wait again.
    Follow(Wait),
}

/// A deadline in microseconds from now, in either direction, or none.
type Wait = Option<i64>;

fn wait() -> impl Strategy<Value = Wait> {
    prop_oneof![
        1 => Just(None),
        8 => (-5_000_i64..20_000).prop_map(Some),
        2 => (-5_000_i64..20_000_000).prop_map(Some),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0_u8..10, any::<bool>(), wait()).prop_map(|(e, f, w)| Op::Request(e, f, w)),
        6 => (any::<usize>(), wait()).prop_map(|(nth, wait)| Op::Wait(nth, wait)),
        1 => any::<usize>().prop_map(Op::Over),
        3 => any::<usize>().prop_map(Op::Answer),
        2 => any::<usize>().prop_map(Op::Remove),
        4 => (0_u64..30_000, prop::option::weighted(0.8, wait()))
            .prop_map(|(by, then)| Op::Advance(by, then)),
        1 => (0_u64..30_000_000, Just(None)).prop_map(|(by, then)| Op::Advance(by, then)),
        3 => wait().prop_map(Op::Follow),
    ]
}

const CAPACITY: usize = 6;

const fn is_light(probe: &Probe) -> bool {
    probe.light && probe.unverified_since.is_some() && !probe.over
}

/// The table beside a plain list of what was put into it.
struct Model {
    table: Sessions<Probe>,
    live: Vec<(SessionKey, Endpoint, Fingerprint, Probe)>,
    gone: Vec<SessionKey>,
    now: Instant,
    random: u32,
}

impl Model {
    fn new() -> Self {
        let origin = origin();
        Self {
            table: Sessions::new(CAPACITY, origin).with_light_sessions(CAPACITY),
            live: Vec::new(),
            gone: Vec::new(),
            // Room for deadlines in the past.
            now: origin + millis(10),
            random: 1,
        }
    }

    fn deadline(&self, wait: Wait) -> Option<Instant> {
        let wait = wait?;
        let span = Duration::from_micros(wait.unsigned_abs());
        if wait < 0 {
            self.now.checked_sub(span)
        } else {
            self.now.checked_add(span)
        }
    }

    fn nth(&self, nth: usize) -> Option<usize> {
        nth.checked_rem(self.live.len())
    }

    fn wait(&mut self, at: usize, wait: Wait) {
        let deadline = self.deadline(wait);
        let (key, .., probe) = &mut self.live[at];
        probe.deadline = deadline;
        self.table.get_mut(*key).unwrap().deadline = deadline;
        self.table.rearm(*key);
    }

    fn remove(&mut self, at: usize) {
        let (key, .., probe) = self.live.swap_remove(at);
        assert_eq!(self.table.remove(key), Some(probe));
        self.gone.push(key);
    }

    fn request(&mut self, host: u8, same: bool, wait: Wait) {
        let from = endpoint(host / 2, host % 2);
        let asks = Fingerprint::of(if same { READ } else { OTHER });
        let at = self.live.iter().position(|(_, e, ..)| *e == from);
        let random = self.random;
        self.random = random.wrapping_mul(747_796_405).wrapping_add(1);
        let admission = self.table.admit(&from, asks, self.now, random);
        match (at.map(|at| self.live[at]), admission) {
            (Some((key, _, f, probe)), Admission::Repeated(k)) => {
                assert!(k == key && f == asks && !probe.over);
                return;
            }
            (Some((key, _, f, probe)), Admission::Moving(k)) => {
                assert!(k == key && f != asks && !probe.over);
                return;
            }
            (Some((key, _, _, probe)), Admission::Replaces(k)) => {
                assert!(k == key && probe.over);
                self.remove(at.unwrap());
            }
            (None, Admission::New) => assert!(self.held() < CAPACITY),
            (None, Admission::Evicts(key)) => {
                assert_eq!(self.held(), CAPACITY);
                let at = self.live.iter().position(|(k, ..)| *k == key).unwrap();
                let probe = self.live[at].3;
                assert!(probe.over || (self.is_overdue(&probe) && !self.any_over()));
                self.remove(at);
            }
            (None, Admission::Full) if self.table.has_light_room() => {}
            (None, Admission::Full) => {
                assert_eq!(self.held(), CAPACITY);
                let overdue = self.live.iter().any(|(.., probe)| self.is_overdue(probe));
                assert!(!self.any_over() && !overdue);
                return;
            }
            other => panic!("{other:?}"),
        }
        let probe = Probe {
            deadline: self.deadline(wait),
            over: false,
            unverified_since: Some(self.now),
            light: self.table.is_short(),
            ..Probe::default()
        };
        let key = self.table.insert(from, asks, probe);
        self.live.push((key, from, asks, probe));
    }

    /// How many sessions hold a descriptor.
    fn held(&self) -> usize {
        let held = self.live.iter().filter(|(.., probe)| !is_light(probe));
        held.count()
    }

    /// Where a session that was light now holds one descriptor too many, another
    /// session goes, or this one.
    fn relieve(&mut self, key: SessionKey) {
        assert_eq!(self.table.is_overfull(), self.held() > CAPACITY);
        if self.table.is_overfull() {
            let gives_way = self.table.gives_way_to_verified(self.now, self.random);
            let goes = gives_way.unwrap_or(key);
            let at = self.live.iter().position(|(k, ..)| *k == goes).unwrap();
            let probe = self.live[at].3;
            let is_unverified = probe.unverified_since.is_some() && !probe.light;
            assert!(probe.over || is_unverified || goes == key);
            self.remove(at);
        }
    }

    fn any_over(&self) -> bool {
        self.live.iter().any(|(.., probe)| probe.over)
    }

    fn is_overdue(&self, probe: &Probe) -> bool {
        let since = probe.unverified_since;
        let since = since.filter(|_| !probe.over && !probe.light);
        since.is_some_and(|since| since + UNVERIFIED_GRACE <= self.now)
    }

    /// Pops the sessions that are due, which then wait again or are removed.
    fn advance(&mut self, to: Instant, then: Option<Wait>) {
        let before = self.now;
        self.now = before.max(to);
        let mut told = Vec::new();
        while let Some(key) = self.table.pop_due(self.now) {
            assert!(!told.contains(&key), "{key:?} twice");
            told.push(key);
            let at = self.live.iter().position(|(k, ..)| *k == key).unwrap();
            assert!(self.live[at].3.deadline <= Some(self.now), "{key:?} early");
            match then {
                Some(wait) => self.wait(at, wait),
                None => self.remove(at),
            }
        }
        // A session that wasn't popped is late by less than a tick, counted from when
        // it began to wait if its deadline lay in the past then.
        for (key, .., probe) in &self.live {
            let on_time = probe
                .deadline
                .is_none_or(|at| at.max(before) + millis(1) > self.now);
            assert!(on_time || told.contains(key), "{key:?} late");
        }
        assert!(self.table.next_deadline().is_none_or(|at| at > self.now));
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Request(host, same, wait) => self.request(host, same, wait),
            Op::Wait(nth, wait) => {
                if let Some(at) = self.nth(nth) {
                    self.wait(at, wait);
                }
            }
            Op::Over(nth) => {
                if let Some(at) = self.nth(nth) {
                    let (key, .., probe) = &mut self.live[at];
                    probe.over = true;
                    let key = *key;
                    self.table.get_mut(key).unwrap().over = true;
                    self.table.rearm(key);
                    self.relieve(key);
                }
            }
            Op::Answer(nth) => {
                if let Some(at) = self.nth(nth) {
                    let (key, .., probe) = &mut self.live[at];
                    probe.unverified_since = None;
                    let key = *key;
                    self.table.get_mut(key).unwrap().unverified_since = None;
                    self.table.rearm(key);
                    self.relieve(key);
                }
            }
            Op::Remove(nth) => {
                if let Some(at) = self.nth(nth) {
                    self.remove(at);
                }
            }
            Op::Advance(by, then) => self.advance(self.now + Duration::from_micros(by), then),
            Op::Follow(wait) => {
                if let Some(hint) = self.table.next_deadline() {
                    self.advance(hint, Some(wait));
                }
            }
        }
    }

    fn compare(&self) {
        assert_eq!(self.table.len(), self.live.len());
        assert_eq!(self.table.iter().count(), self.live.len());
        for (key, endpoint, _, probe) in &self.live {
            assert_eq!(self.table.get(*key), Some(probe));
            assert_eq!(self.table.endpoint(*key), Some(endpoint));
        }
        for key in &self.gone {
            assert_eq!(self.table.get(*key), None);
        }
        let earliest = self
            .live
            .iter()
            .filter_map(|(.., probe)| probe.deadline)
            .min();
        if let Some(earliest) = earliest {
            let latest = earliest.max(self.now) + millis(1);
            assert!(
                self.table
                    .next_deadline()
                    .is_some_and(|hint| hint <= latest)
            );
        }
        self.table.check_invariants();
    }
}

proptest! {
    #[test]
    fn agrees_with_a_plain_list(ops in prop::collection::vec(op(), 1..150)) {
        let mut model = Model::new();
        for op in ops {
            model.run(op);
            model.compare();
        }
    }
}
