//! Known attacks on such servers, each as a script: they seed the fuzzer, and are played
//! before random scripts.

/// The bytes of one shot: how long to wait, who, what kind of datagram, two values.
pub(crate) type Shot = [u8; 5];

/// The first bytes of a script: how transfers get their ports, and the weather; clients;
/// sessions; ports of a range.
pub(crate) type Head = [u8; 4];

pub(crate) const OWN_PORTS: u8 = 0;
pub(crate) const RANGE: u8 = 1;
pub(crate) const SINGLE_PORT: u8 = 2;
const MODES: [u8; 3] = [OWN_PORTS, RANGE, SINGLE_PORT];

/// For the byte about clients: three of them, and few sessions for each address.
const CLIENT_LIMIT: u8 = 0x22;

// Kinds of datagrams, as `forger` makes them.
pub(crate) const RRQ: u8 = 0;
pub(crate) const RRQ_WITH_OPTIONS: u8 = 1;
pub(crate) const WRQ: u8 = 2;
const WRQ_WITH_OPTIONS: u8 = 3;
const ODD_NAME: u8 = 4;
pub(crate) const ACK_OF_LAST: u8 = 5;
/// Of the window's base; or of a block not sent yet or any block, by the last value.
pub(crate) const ACK: u8 = 8;
const DATA: u8 = 9;
pub(crate) const DATA_AGAIN: u8 = 11;
const ERROR: u8 = 12;
const OACK: u8 = 13;
const GARBAGE: u8 = 14;
const SAME_REQUEST: u8 = 15;
/// Added to a kind: in the name of an honest client with a running transfer.
const HONEST: u8 = 0xe0;

/// As the last value: sent to the listen port, instead of a transfer's.
const TO_ALL: u8 = 0x80;
/// As the last values of a request: blksize 1428, windowsize 64, and a file of 59,049
/// bytes.
const WIDE: [u8; 2] = [0xf3, 0xf3];
/// The same with a `timeout` of 255 s.
const PATIENT: [u8; 2] = [0xff, 0xf3];

pub(crate) const AT_ONCE: u8 = 0;
pub(crate) const AFTER_5_MS: u8 = 0xa5;
const AFTER_100_MS: u8 = 0xc5;
const AFTER_2_S: u8 = 0xe5;

/// Its address has the port of a server.
const OTHER_SERVER: u8 = 1;
/// Other ports on the honest clients' machine.
const NEIGHBOURS: [u8; 6] = [2, 3, 4, 5, 6, 7];

pub(crate) fn script(head: Head, shots: impl IntoIterator<Item = Shot>) -> Vec<u8> {
    head.into_iter()
        .chain(shots.into_iter().flatten())
        .collect()
}

/// The same shots in each mode.
fn everywhere(shots: &[Shot]) -> Vec<Vec<u8>> {
    let head = |mode| [mode, 1, 40, 0];
    MODES
        .map(|mode| script(head(mode), shots.iter().copied()))
        .into()
}

/// This many shots; each one's number gives its sender.
fn volley(count: u16, shot: impl Fn(u16) -> Shot) -> Vec<Shot> {
    (0..count).map(shot).collect()
}

/// One of the addresses from which nobody answers.
const fn somebody(number: u16) -> u8 {
    8 + (number % 16) as u8
}

/// An attack and its name: one script for each mode in which it matters.
pub(crate) type Attack = (&'static str, fn() -> Vec<Vec<u8>>);

pub(crate) const ALL: &[Attack] = &[
    ("other spellings of a name that a rule refuses", || {
        everywhere(&volley(28, |nth| {
            let extra = if nth < 14 { 0 } else { 8 };
            [AT_ONCE, somebody(nth), ODD_NAME, nth as u8 % 14, extra]
        }))
    }),
    ("a port range is used up", || {
        let shots = volley(300, |nth| [0x65, somebody(nth), RRQ, nth as u8, 9]);
        vec![script([RANGE, 2, 50, 0], shots)]
    }),
    ("answers to neighbours that don't exist", || {
        everywhere(&volley(400, |nth| {
            [
                0x61,
                somebody(nth),
                [RRQ, ODD_NAME][usize::from(nth % 2)],
                0,
                0,
            ]
        }))
    }),
    ("misses in the names of many", || {
        everywhere(&volley(500, |nth| [0x6f, somebody(nth), ODD_NAME, 0, 0]))
    }),
    ("each ACK as its block is sent", || {
        let open = [AT_ONCE, 8, RRQ_WITH_OPTIONS, WIDE[0], WIDE[1]];
        let first = [AFTER_5_MS, 8, ACK, 0, TO_ALL];
        let acks = volley(60, |_| [AFTER_5_MS, 8, ACK_OF_LAST, 0, TO_ALL]);
        everywhere(&[vec![open, first], acks].concat())
    }),
    ("ACKs of blocks that weren't sent yet", || {
        everywhere(&volley(80, |nth| match nth % 4 {
            0 => [AFTER_5_MS, 8, RRQ_WITH_OPTIONS, WIDE[0], WIDE[1]],
            1 => [AFTER_5_MS, 8, ACK, 0, TO_ALL],
            2 => [AFTER_5_MS, 8, ACK_OF_LAST, 0, TO_ALL],
            _ => [AT_ONCE, 8, ACK, nth as u8, TO_ALL | (1 + nth as u8 / 4 % 2)],
        }))
    }),
    ("an upload in an allowed name, on guessed ports", || {
        let open = volley(12, |nth| [AT_ONCE, somebody(nth), WRQ, 0, 0]);
        let spray = volley(200, |nth| [0x65, somebody(nth), DATA, 7, 4]);
        let closing = volley(12, |nth| [AFTER_5_MS, somebody(nth), DATA, 1, TO_ALL | 4]);
        everywhere(&[open, spray, closing].concat())
    }),
    ("two servers that serve each other", || {
        everywhere(&volley(40, |nth| {
            let kind = [RRQ, DATA, WRQ, ACK_OF_LAST, OACK][usize::from(nth % 5)];
            [AFTER_5_MS, OTHER_SERVER, kind, 40, 200]
        }))
    }),
    ("requests that would end a running download", || {
        let kind = |nth| HONEST | [ODD_NAME, RRQ, WRQ, RRQ_WITH_OPTIONS][usize::from(nth % 4)];
        everywhere(&volley(60, |nth| [0x72, nth as u8, kind(nth), 0, 0]))
    }),
    ("a line of the log for each datagram", || {
        everywhere(&volley(400, |nth| match nth % 4 {
            0 => [0x61, somebody(nth / 4), RRQ, 20, 20],
            1 => [AT_ONCE, somebody(nth / 4), ACK_OF_LAST, 0, TO_ALL],
            2 => [AT_ONCE, somebody(nth / 4), ERROR, 0, TO_ALL],
            _ => [AT_ONCE, somebody(nth / 4), GARBAGE, nth as u8, 20],
        }))
    }),
    ("a timeout of 255 s, and a block again each second", || {
        let read = [AT_ONCE, 8, RRQ_WITH_OPTIONS, PATIENT[0], PATIENT[1]];
        let answer = [AFTER_5_MS, 8, ACK, 0, TO_ALL];
        let write = [AT_ONCE, 9, WRQ_WITH_OPTIONS, 0x0c, 0];
        let first = [AFTER_5_MS, 9, DATA, 0, TO_ALL];
        let again = volley(50, |_| [AFTER_2_S, 9, DATA_AGAIN, 0, TO_ALL]);
        everywhere(&[vec![read, answer, write, first], again].concat())
    }),
    ("more requests than descriptors", || {
        let shots = volley(600, |nth| [0x61, somebody(nth), RRQ, nth as u8, 3]);
        MODES
            .map(|mode| script([mode, 2, 0, 0], shots.clone()))
            .into()
    }),
    ("uploads that never come", || {
        everywhere(&volley(300, |nth| [0x65, somebody(nth), WRQ, 0, 0]))
    }),
    ("all sessions that a client may have, in its name", || {
        let neighbour = |nth| NEIGHBOURS[usize::from(nth) % NEIGHBOURS.len()];
        let shots = volley(120, |nth| [0x6a, neighbour(nth), RRQ, 60, 60]);
        MODES
            .map(|mode| script([mode, CLIENT_LIMIT, 40, 0], shots.clone()))
            .into()
    }),
    ("one's refusals among another's", || {
        let quiet = |nth: u16| nth.is_multiple_of(50);
        everywhere(&volley(400, |nth| {
            let who = if quiet(nth) { 9 } else { 8 };
            [0x62, who, ODD_NAME, nth as u8, 8 * (nth % 2) as u8]
        }))
    }),
    ("long names for the rules of a map file", || {
        everywhere(&volley(300, |nth| [0x61, somebody(nth), ODD_NAME, 13, 3]))
    }),
    ("uploads to their last block, and again", || {
        everywhere(&volley(80, |nth| match nth % 5 {
            0 => [AFTER_5_MS, 8, WRQ, 0, 0],
            1 | 2 => [AFTER_5_MS, 8, DATA, 0, TO_ALL],
            3 => [AFTER_5_MS, 8, DATA, 1, TO_ALL | 4],
            _ => [AFTER_5_MS, 8, DATA_AGAIN, 1, TO_ALL],
        }))
    }),
    ("announcements of a gigabyte", || {
        everywhere(&volley(60, |nth| match nth % 3 {
            0 => [AFTER_5_MS, somebody(nth / 3), WRQ_WITH_OPTIONS, 0x0c, 12],
            1 => [AFTER_5_MS, somebody(nth / 3), DATA, 9, TO_ALL | 4],
            _ => [AFTER_100_MS, somebody(nth / 3), DATA_AGAIN, 0, TO_ALL],
        }))
    }),
    ("datagrams of another process's transfers", || {
        everywhere(&volley(250, |nth| {
            let kind = [ACK, DATA, DATA_AGAIN, OACK, ACK_OF_LAST, ERROR][usize::from(nth % 6)];
            [0x61, somebody(nth), kind, nth as u8, TO_ALL | 3]
        }))
    }),
    ("windows that fill the shared send buffer", || {
        let open = |nth| [AT_ONCE, somebody(nth), RRQ_WITH_OPTIONS, WIDE[0], WIDE[1]];
        let acks = volley(300, |nth| [0x61, somebody(nth), ACK_OF_LAST, 0, TO_ALL]);
        everywhere(&[volley(16, open), acks].concat())
    }),
    ("misses of one sender", || {
        everywhere(&volley(500, |_| [0x61, 8, ODD_NAME, 0, 0]))
    }),
    ("a request again and again", || {
        let open = [AT_ONCE, 8, RRQ, 90, 90];
        let again = volley(100, |nth| [0xa0 | (nth % 32) as u8, 8, SAME_REQUEST, 0, 0]);
        everywhere(&[vec![open], again].concat())
    }),
    ("nonsense to the ports of others' transfers", || {
        let open = volley(8, |nth| [AT_ONCE, somebody(nth), RRQ, 99, 99]);
        let kind = |nth| [ACK_OF_LAST, DATA, GARBAGE, OACK][usize::from(nth % 4)];
        let nonsense = volley(400, |nth| [0x61, somebody(8 + nth % 8), kind(nth), 1, 1]);
        everywhere(&[open, nonsense].concat())
    }),
];
