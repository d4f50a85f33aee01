//! Any request, any limits: the server grants no more than its limits and the request
//! allow, and the client that sent the request accepts the answer. Any OACK: the client
//! accepts only what it asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tftpd::wire::options::{
    Limits, MAX_BLKSIZE, MAX_IN_FLIGHT, MIN_BLKSIZE, Negotiated, Offer, OptionName, OptionSet,
    RawOptions, Rollover, accept, negotiate,
};
use tftpd::wire::packet::{Direction, Packet, Request};

fuzz_target!(|input: &[u8]| {
    // First the limits, the file's size and the room for the OACK; then the packet.
    let Some((head, datagram)) = input.split_first_chunk::<8>() else {
        return;
    };
    let [blksize, window, refused, size, room, asked @ ..] = *head;
    let mut limits = Limits {
        max_blksize: MIN_BLKSIZE + u16::from(blksize) * 256,
        max_windowsize: 1 + u16::from(window) * 257 / 2,
        refused: OptionSet::default(),
    };
    for (bit, option) in OptionName::ALL.into_iter().enumerate() {
        if refused & (1 << bit) != 0 {
            limits.refused.insert(option);
        }
    }
    let size = (size != 0).then_some(u64::from(size) << 32 | u64::from(room));
    match Packet::parse(datagram) {
        Ok(Packet::Request(request)) => grant(&request, &limits, size, usize::from(room) * 2),
        Ok(Packet::Oack(oack)) => confirm(asked, oack),
        _ => {}
    }
});

fn grant(request: &Request<'_>, limits: &Limits, size: Option<u64>, room: usize) {
    let mut oack = vec![0; room];
    let (agreed, len) = negotiate(request, limits, size, &mut oack);
    assert_bounds(&agreed);
    // Without the option, blksize is 512.
    assert!(agreed.blksize <= limits.max_blksize || agreed.blksize == 512);
    assert!(agreed.windowsize <= limits.max_windowsize);
    if len == 0 {
        assert_eq!(agreed, Negotiated::default());
        return;
    }
    let Ok(Packet::Oack(answer)) = Packet::parse(&oack[..len]) else {
        panic!("no OACK: {:?}", &oack[..len]);
    };
    let mut asked = request.options.pairs();
    let mut count = 0;
    for (name, value) in answer.pairs() {
        // In the request's order and spelling, and only what was requested.
        let told = number(value).expect("a number");
        let (_, wanted) = asked
            .find(|(spelling, wanted)| {
                *spelling == name && is_answer(name, number(wanted), told, request.direction)
            })
            .expect("an option that was asked for");
        let option = OptionName::from_wire(name).expect("an option that we know");
        assert!(!limits.refused.contains(option), "{option:?} {wanted:?}");
        count += 1;
    }
    assert!(count > 0, "an empty OACK");
}

/// Whether `told` may answer `asked`.
fn is_answer(name: &[u8], asked: Option<u128>, told: u128, direction: Direction) -> bool {
    let Some(asked) = asked else { return false };
    match OptionName::from_wire(name) {
        Some(OptionName::Blksize | OptionName::Blksize2 | OptionName::Windowsize) => told <= asked,
        Some(OptionName::Tsize) => direction == Direction::Read || told == asked,
        _ => told == asked,
    }
}

/// A client whose offer is made from the bytes `asked` gets this OACK.
fn confirm(asked: [u8; 3], oack: RawOptions<'_>) {
    let [flags, size, window] = asked;
    let wants = |bit: u8| flags & (1 << bit) != 0;
    let offer = Offer {
        blksize: wants(0).then_some(MIN_BLKSIZE + u16::from(size) * 256),
        windowsize: wants(1).then_some(1 + u16::from(window) * 257 / 2),
        timeout: wants(2).then_some(size.max(1)),
        tsize: wants(3).then_some(0),
        rollover: wants(4).then_some(if wants(5) {
            Rollover::ToOne
        } else {
            Rollover::ToZero
        }),
        extra: Vec::new(),
    };
    match accept(&offer, oack) {
        Ok(agreed) => {
            assert_bounds(&agreed);
            // Without the option, blksize is 512.
            assert!(agreed.blksize <= offer.blksize.unwrap_or(512).max(512));
            assert!(agreed.windowsize <= offer.windowsize.unwrap_or(1));
            assert!(agreed.timeout.is_none() || offer.timeout.is_some());
            assert!(agreed.tsize.is_none() || offer.tsize.is_some());
            assert_eq!(agreed == Negotiated::default(), says_nothing(&agreed));
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control)),
    }
}

fn says_nothing(agreed: &Negotiated) -> bool {
    agreed.blksize == 512
        && agreed.windowsize == 1
        && agreed.timeout.is_none()
        && agreed.tsize.is_none()
        && agreed.rollover == Rollover::ToZero
}

fn assert_bounds(agreed: &Negotiated) {
    assert!(
        (MIN_BLKSIZE..=MAX_BLKSIZE).contains(&agreed.blksize),
        "{agreed:?}"
    );
    assert!(
        (1..=MAX_IN_FLIGHT).contains(&agreed.windowsize),
        "{agreed:?}"
    );
    let seconds = agreed.timeout.map(|timeout| timeout.as_secs_f64());
    assert!(
        seconds.is_none_or(|s| (0.01..=255.0).contains(&s)),
        "{agreed:?}"
    );
}

fn number(text: &[u8]) -> Option<u128> {
    str::from_utf8(text).ok()?.parse().ok()
}
