//! Conversations with a sender; `script` explains the notation. All waits start
//! at 500 ms; blocks have 8 bytes in tests of windows.

use std::time::Duration;

use crate::protocol::retry::{RetryPolicy, Wait};
use crate::protocol::script::Role::{Client, Server};
use crate::protocol::script::{ADAPTIVE, FIXED, Script, UNPROVED, feed_every_packet};
use crate::protocol::transfer::Config;

const WINDOWS: &str = "blksize=8 windowsize=4";

/// Bytes of a file that takes `blocks` blocks of 8, the last with 3.
const fn length(blocks: u64) -> u64 {
    blocks * 8 - 5
}

// --- every state, every packet ---------------------------------------------------

#[test]
fn opening_server() {
    feed_every_packet(
        || Script::sender(&FIXED, Server(WINDOWS), length(9)),
        "0 open > OACK blksize=8 windowsize=4 @500",
        &[
            ("ACK 0", "DATA 1-4 @510"),
            ("ERROR 0 x", "nothing Probed closed"),
            ("ERROR 1 x", "nothing PeerError 1 x closed"),
            ("ERROR 8 x", "nothing Probed closed"),
        ],
    );
}

#[test]
fn opening_client() {
    feed_every_packet(
        || Script::sender(&FIXED, Client(WINDOWS), 1200),
        "0 open > WRQ blksize=8 windowsize=4 @500",
        &[
            // RFC 2347: no OACK, so none of the options applies.
            ("ACK 0", "DATA 1 @510"),
            ("OACK", "DATA 1 @510"),
            // RFC 2347: an option that was not asked for.
            ("OACK tsize=1", "ERROR 8 Failed 8 closed"),
            ("ERROR 0 x", "nothing PeerError 0 x closed"),
            ("ERROR 1 x", "nothing PeerError 1 x closed"),
            ("ERROR 8 x", "nothing PeerError 8 x closed"),
        ],
    );
}

#[test]
fn sending() {
    for role in [Server(WINDOWS), Client(WINDOWS)] {
        let open = match role {
            Server(_) => "0 open > OACK blksize=8 windowsize=4 @500\n 1 ACK 0 > DATA 1-4 @501",
            Client(_) => {
                "0 open > WRQ blksize=8 windowsize=4 @500
                 1 OACK blksize=8 windowsize=4 > DATA 1-4 @501"
            }
        };
        // A client that hangs up within the first window was only a probe.
        let probed = |error| match role {
            Server(_) => "nothing Probed closed".to_owned(),
            Client(_) => format!("nothing PeerError {error} x closed"),
        };
        feed_every_packet(
            || Script::sender(&FIXED, role, length(9)),
            open,
            &[
                // The NACK of block 1, later than a quarter of a round trip after it left.
                ("ACK 0", "DATA 1-4 @510"),
                ("ACK 1", "DATA 2-5 @510"),
                ("ACK 2", "DATA 3-6 @510"),
                ("ERROR 0 x", &probed(0)),
                ("ERROR 1 x", "nothing PeerError 1 x closed"),
                ("ERROR 8 x", &probed(8)),
            ],
        );
        feed_every_packet(
            || Script::sender(&FIXED, role, length(90)),
            &format!("{open}\n 2 ACK 4 > DATA 5-8 @502\n 3 ACK 8 > DATA 9-12 @503"),
            &[
                ("ACK 9", "DATA 10-13 @510"),
                ("ERROR 0 x", "nothing PeerError 0 x closed"),
                ("ERROR 1 x", "nothing PeerError 1 x closed"),
                ("ERROR 8 x", "nothing PeerError 8 x closed"),
            ],
        );
    }
}

#[test]
fn pausing_in_a_window() {
    feed_every_packet(
        || Script::sender(&FIXED, Server("blksize=8 windowsize=8"), length(90)),
        "0 open    > OACK blksize=8 windowsize=8 @500
         1 ACK 0   > DATA 1-8   @501
         2 ACK 2   > DATA 3-4   @3
         3 ACK 4   > DATA 5-6   @4
         3 full    > nothing    @4
         4 timeout > nothing    @504
         4 room    > DATA 7-8   @5
         5 ACK 7   > DATA 8-9   @6",
        &[
            ("ACK 9", "DATA 10-11 @11"),
            ("ERROR 0 x", "nothing Probed closed"),
            ("ERROR 1 x", "nothing PeerError 1 x closed"),
            ("ERROR 8 x", "nothing Probed closed"),
        ],
    );
}

#[test]
fn probing_after_silence() {
    let quick = Config {
        retry: RetryPolicy {
            wait: Wait::Fixed(Duration::from_millis(4)),
            retries: 5,
        },
        ..FIXED
    };
    feed_every_packet(
        || Script::sender(&quick, Server(WINDOWS), length(90)),
        "0 open    > OACK blksize=8 windowsize=4 @4
         1 ACK 0   > DATA 1-4 @5
         5 timeout > DATA 4   @13",
        &[
            // The answer to the tail probe: nothing of the window has arrived.
            ("ACK 0", "DATA 1-4 @18"),
            ("ACK 1", "DATA 2-5 @14"),
            ("ACK 2", "DATA 3-6 @14"),
            ("ERROR 0 x", "nothing Probed closed"),
            ("ERROR 1 x", "nothing PeerError 1 x closed"),
            ("ERROR 8 x", "nothing Probed closed"),
        ],
    );
}

#[test]
fn failing() {
    feed_every_packet(
        || Script::sender(&FIXED, Server(""), 1200),
        "0 open  > DATA 1 @500
         1 full  > nothing @500
         2 abort > nothing Failed 0 over",
        &[],
    );
}

#[test]
fn closed() {
    for end in [
        "abort > ERROR 0 Failed 0",
        "ERROR 1 x > nothing PeerError 1 x",
    ] {
        feed_every_packet(
            || Script::sender(&FIXED, Server(""), 1200),
            &format!("0 open > DATA 1 @500\n 1 {end} closed"),
            &[],
        );
    }
}

// --- the way through -----------------------------------------------------------

#[test]
fn lockstep() {
    // RFC 1350 §2: one block, one ACK; a block of less than 512 bytes ends it.
    Script::sender(&FIXED, Server(""), 1200).play(
        "  0 open  > DATA 1       @500
          10 ACK 1 > DATA 2       @510
          20 ACK 2 > DATA 3(176)  @520
          30 ACK 3 > nothing      Completed closed
          99 ACK 3 > nothing      closed",
    );
    Script::sender(&FIXED, Client(""), 600).play(
        "  0 open  > WRQ          @500
          10 ACK 0 > DATA 1       @510
          20 ACK 1 > DATA 2(88)   @520
          30 ACK 2 > nothing      Completed closed",
    );
}

#[test]
fn a_multiple_of_the_block_size_ends_with_an_empty_block() {
    // RFC 1350 §6.
    Script::sender(&FIXED, Server(""), 512).play(
        "  0 open  > DATA 1     @500
          10 ACK 1 > DATA 2(0)  @510
          20 ACK 2 > nothing    Completed closed",
    );
    Script::sender(&FIXED, Server(""), 0).play(
        "  0 open  > DATA 1(0)  @500
          10 ACK 1 > nothing    Completed closed",
    );
    Script::sender(&FIXED, Server(WINDOWS), 32).play(
        "  0 open  > OACK blksize=8 windowsize=4 @500
          10 ACK 0 > DATA 1-4   @510
          20 ACK 4 > DATA 5(0)  @520
          30 ACK 5 > nothing    Completed closed",
    );
}

#[test]
fn windows() {
    // RFC 7440 §4.
    let mut server = Script::sender(&FIXED, Server(WINDOWS), length(10));
    server.play(
        "  0 open   > OACK blksize=8 windowsize=4 @500
          10 ACK 0  > DATA 1-4     @510
          20 ACK 4  > DATA 5-8     @520
          30 ACK 8  > DATA 9-10(3) @530
          40 ACK 10 > nothing      Completed closed",
    );
    assert_eq!(server.retransmits(), 0);
}

#[test]
fn a_window_goes_out_in_as_many_runs_as_the_caller_likes() {
    Script::sender(&FIXED, Client(WINDOWS), length(6))
        .in_runs_of(3)
        .play(
            "  0 open  > WRQ blksize=8 windowsize=4 @500
              10 OACK windowsize=4 blksize=8 > DATA 1-3, DATA 4 @510
              20 ACK 4 > DATA 5-6(3)      @520
              30 ACK 6 > nothing          Completed closed",
        );
}

#[test]
fn a_length_that_only_reading_tells() {
    let mut server = Script::sender_of_text(&FIXED, Server(WINDOWS), length(6));
    server.play(
        "   0 open    > OACK blksize=8 windowsize=4 @500
           10 ACK 0   > DATA 1-4    @510
           20 ACK 4   > DATA 5-6(3) @520
          520 timeout > DATA 6(3)   @1520
          600 ACK 5   > DATA 6(3)   @1100
          700 ACK 6   > nothing     Completed closed",
    );
    assert_eq!(server.retransmits(), 2);
    Script::sender_of_text(&FIXED, Server(""), 512).play(
        "  0 open  > DATA 1     @500
          10 ACK 1 > DATA 2(0)  @510
          20 ACK 2 > nothing    Completed closed",
    );
}

#[test]
fn block_numbers_wrap_to_zero() {
    let mut server = Script::sender(&FIXED, Server("blksize=8 rollover=0"), length(65_538));
    server.play(
        "  0 open      > OACK blksize=8 rollover=0 @500
           1 ACK 0     > DATA 1      @501
           2 to 65534  > DATA 65535  @502
          10 ACK 65535 > DATA 0      @510
          20 ACK 65535 > nothing     @510
          30 ACK 0     > DATA 1      @530
          40 ACK 0     > nothing     @530
          50 ACK 1     > DATA 2(3)   @550
          60 ACK 2     > nothing     Completed closed",
    );
    assert_eq!(server.retransmits(), 0);
}

#[test]
fn block_numbers_wrap_to_one() {
    Script::sender(&FIXED, Server("blksize=8 rollover=1"), length(65_537)).play(
        "  0 open      > OACK blksize=8 rollover=1 @500
           1 ACK 0     > DATA 1      @501
           2 to 65534  > DATA 65535  @502
          10 ACK 0     > nothing     @502
          20 ACK 65535 > DATA 1      @520
          30 ACK 65535 > nothing     @520
          40 ACK 1     > DATA 2(3)   @540
          50 ACK 2     > nothing     Completed closed",
    );
}

#[test]
fn windows_wrap_as_well_and_are_rewound_across_the_wrap() {
    Script::sender(&FIXED, Server(WINDOWS), length(65_541)).play(
        "  0 open      > OACK blksize=8 windowsize=4 @500
           1 ACK 0     > DATA 1-4     @501
           2 to 65532  > DATA 65533-0 @502
          10 ACK 65534 > DATA 65535-2 @510
          20 ACK 0     > DATA 1-4     @520
          30 ACK 4     > DATA 5(3)    @530
          40 ACK 5     > nothing      Completed closed",
    );
}

#[test]
fn an_echo_ends_the_doubling_of_windows_and_a_false_one_costs_a_nack() {
    // The whole window was sent again needlessly: each ACK is of what had gone out before.
    Script::sender(&ADAPTIVE, Server(WINDOWS), length(40)).play(
        "  0 open      > OACK blksize=8 windowsize=4 @1000
          10 ACK 0     > DATA 1-4      @40
          20 ACK 2     > DATA 3-6      @50
          30 ACK 4     > DATA 5-8      @60
          40 ACK 6     > DATA 9-10     @70
          50 ACK 10    > DATA 11-14    @75",
    );
    // Blocks 7 and 8 are in fact lost: block 9 brings the NACK.
    Script::sender(&ADAPTIVE, Server(WINDOWS), length(40)).play(
        "  0 open      > OACK blksize=8 windowsize=4 @1000
          10 ACK 0     > DATA 1-4      @40
          20 ACK 2     > DATA 3-6      @50
          30 ACK 4     > DATA 5-8      @60
          40 ACK 6     > DATA 9-10     @70
          50 ACK 6     > DATA 7-10     @80
          60 ACK 10    > DATA 11-14    @90",
    );
}

#[test]
fn the_largest_window_tells_an_old_ack_from_a_new_one() {
    for rollover in [0, 1] {
        let asked = format!("rollover={rollover} windowsize=65535 blksize=8").leak();
        Script::sender(&FIXED, Server(asked), length(200_000)).play(&format!(
            "  0 open      > OACK rollover={rollover} windowsize=32767 blksize=8 @500
              10 ACK 0     > DATA 1-32767     @510
              11 ACK 0     > nothing          @510
              12 ACK 1001  > DATA 1002-2025   @22
              13 ACK 999   > nothing          @22
              14 ACK 1001  > nothing          @22",
        ));
    }
}

// --- what goes wrong on the way ------------------------------------------------------

#[test]
fn a_duplicate_ack_sends_nothing() {
    // RFC 1123 §4.2.3.1: the Sorcerer's Apprentice.
    Script::sender(&FIXED, Server(""), 2000).play(
        "   0 open    > DATA 1   @500
           10 ACK 1   > DATA 2   @510
          300 ACK 1   > nothing  @510
          301 ACK 0   > nothing  @510
          510 timeout > DATA 2   @1510
          600 ACK 1   > nothing  @1510
          700 ACK 2   > DATA 3   @1200
          701 ACK 2   > nothing  @1200",
    );
}

#[test]
fn an_ack_within_the_window_rewinds_once() {
    // RFC 7440 §4: what follows the block acknowledged was lost.
    let mut server = Script::sender(&FIXED, Server(WINDOWS), length(20));
    server.play(
        "  0 open  > OACK blksize=8 windowsize=4 @500
          10 ACK 0 > DATA 1-4  @510
          20 ACK 2 > DATA 3-6  @520
          21 ACK 2 > nothing   @520
          22 ACK 1 > nothing   @520
          30 ACK 3 > DATA 4-7  @530
          40 ACK 7 > DATA 8-11 @540
          41 ACK 4 > nothing   @540",
    );
    assert_eq!(server.retransmits(), 2 + 3);
}

#[test]
fn a_nack_of_the_window_s_first_block_brings_the_window_once_for_each_base() {
    // U-Boot and barebox name the gap once, EDK2 for each block after it. The negotiated
    // wait holds until then, the measured wait after that.
    for (asked, oack, waits) in [
        (
            "timeout=5 blksize=8 windowsize=4",
            "OACK timeout=5 blksize=8 windowsize=4",
            [5000, 5000, 5000, 25, 25, 21, 21, 21],
        ),
        (WINDOWS, "OACK blksize=8 windowsize=4", [500; 8]),
    ] {
        let mut server = Script::sender(&FIXED, Server(asked), length(90));
        let at = |step: usize, now: u64| now + waits[step];
        server.play(&format!(
            "  0 open   > {oack} @{}
              10 ACK 0  > DATA 1-4  @{}
              20 ACK 4  > DATA 5-8  @{}
              21 ACK 4  > nothing   @{4}
              30 ACK 4  > DATA 5-8  @{3}",
            at(0, 0),
            at(1, 10),
            at(2, 20),
            at(3, 30),
            if waits[2] > 750 { 770 } else { at(2, 20) },
        ));
        for now in 31..50 {
            server.play(&format!("{now} ACK 4 > nothing @{}", at(3, 30)));
        }
        server.play(&format!(
            " 50 ACK 8  > DATA 9-12  @{}
              60 ACK 12 > DATA 13-16 @{}
              70 ACK 12 > DATA 13-16 @{}
              80 ACK 14 > DATA 15-18 @{}",
            at(4, 50),
            at(5, 60),
            at(6, 70),
            at(7, 80)
        ));
        assert_eq!(server.retransmits(), 4 + 4 + 2);
    }
    // Without -t, and as a client.
    Script::sender(&ADAPTIVE, Client(WINDOWS), length(90)).play(
        "  0 open   > WRQ blksize=8 windowsize=4 @1000
          10 OACK blksize=8 windowsize=4 > DATA 1-4 @40
          20 ACK 4  > DATA 5-8  @45
          30 ACK 4  > DATA 5-8  @55
          31 ACK 4  > nothing   @55",
    );
}

/// The round trip was measured at a busy moment, so a NACK may come sooner than it suggests,
/// or at the deadline; and U-Boot sends it only once.
#[test]
fn a_nack_that_may_be_an_echo_shortens_a_negotiated_wait() {
    let mut server = Script::sender(&ADAPTIVE, Server("timeout=5 windowsize=4"), 20_000);
    server.play(
        "    0 open    > OACK timeout=5 windowsize=4 @5000
            40 ACK 0   > DATA 1-4  @5040
            45 ACK 0   > nothing   @790
            46 ACK 0   > nothing   @790
           790 timeout > DATA 1-4  @2290
           800 ACK 4   > DATA 5-8  @5800
          5800 ACK 4   > nothing   @5800
          5800 timeout > DATA 5-8  @7300
          7310 ACK 8   > DATA 9-12 @12310",
    );
    // The window was lost whole, and the tail probe brings the first NACK.
    Script::sender(&ADAPTIVE, Server("timeout=5 windowsize=4"), 20_000).play(
        "    0 open    > OACK timeout=5 windowsize=4 @5000
            40 ACK 0   > DATA 1-4  @5040
          5040 timeout > DATA 4    @13040
          5041 ACK 0   > nothing   @5790
          5790 timeout > DATA 1-4  @7290",
    );
    // On a slower network the measured wait is longer, and holds.
    Script::sender(&ADAPTIVE, Client("timeout=5 windowsize=4"), 20_000).play(
        "    0 open    > WRQ timeout=5 windowsize=4 @1000
           400 OACK timeout=5 windowsize=4 > DATA 1-4 @5400
           410 ACK 0   > nothing @1600",
    );
    // The wait of -t is kept, and so is a short `timeout`.
    for asked in ["windowsize=4", "timeout=1 windowsize=4"] {
        let mut server = Script::sender(&FIXED, Server(asked), 20_000);
        server.step(0, "open");
        server.step(400, "ACK 0");
        let deadline = server.deadline();
        server.step(410, "ACK 0");
        assert_eq!(server.deadline(), deadline, "{asked}");
    }
}

/// Such an ACK may be U-Boot's NACK, which it won't send again.
#[test]
fn an_ack_doubled_before_all_of_a_window_is_out_shortens_a_negotiated_wait_as_well() {
    let windows = Server("timeout=5 blksize=8 windowsize=4");
    Script::sender(&UNPROVED, windows, length(90)).play(
        "  0 open    > OACK timeout=5 blksize=8 windowsize=4 @5000
          10 ACK 0   > DATA 1  @20
          11 ACK 0   > nothing @20
          20 timeout > DATA 1  @770",
    );
    Script::sender(&ADAPTIVE, windows, length(90))
        .in_runs_of(1)
        .play(
            "  0 open   > OACK timeout=5 blksize=8 windowsize=4 @5000
              10 room 1 > nothing  @5000
              10 ACK 0  > DATA 1   @5010
              11 ACK 0  > nothing  @760
              15 room   > DATA 2, DATA 3, DATA 4 @765",
        );
    let mut server = Script::sender(&ADAPTIVE, windows, length(90));
    server.play(
        "  0 open  > OACK timeout=5 blksize=8 windowsize=4 @5000
          10 ACK 0 > DATA 1-4 @5010
          15 full  > nothing  @5010
          20 ACK 4 > nothing  @5010
          21 ACK 4 > nothing  @5010
          22 room  > DATA 5-8 @772",
    );
}

/// Large blocks are lost on the way, but the short one at the end of the file arrives, so EDK2
/// names the gap for each tail probe. There are three early repeats per step forward.
#[test]
fn a_nack_for_each_tail_probe_does_not_keep_early_repeats_coming() {
    for (config, most) in [(&ADAPTIVE, 60), (&UNPROVED, 30)] {
        for first in [1, 60] {
            let options = Server("timeout=5 blksize=8 windowsize=4");
            let mut server = Script::sender(config, options, length(4));
            server.step(0, "open");
            let mut now = first;
            let mut answer = true;
            while server.deadline().is_some() {
                let before = server.blocks_sent();
                if answer {
                    server.step(now, "ACK 0");
                } else {
                    now = server.deadline().unwrap();
                    server.step(now, "timeout");
                }
                answer = server.blocks_sent() > before;
                now += u64::from(answer);
            }
            assert!(now > 30_000, "given up after {now} ms");
            let sent = server.blocks_sent();
            assert!(sent <= most, "{sent} blocks, first answer after {first} ms");
        }
    }
}

#[test]
fn a_nack_after_the_wrap() {
    for (rollover, next) in [(0, "0-3"), (1, "1-4")] {
        let asked = format!("rollover={rollover} blksize=8 windowsize=4").leak();
        let mut server = Script::sender(&FIXED, Server(asked), length(65_600));
        server.play(&format!(
            "  0 open     > OACK rollover={rollover} blksize=8 windowsize=4 @500
              10 ACK 0    > DATA 1-4         @510
              12 to 65532 > DATA 65533-{0}   @512
              20 ACK 65535 > DATA {next}     @520
              30 ACK 65535 > DATA {next}     @530
              31 ACK 65535 > nothing         @530",
            if rollover == 0 { "0" } else { "1" },
        ));
    }
}

#[test]
fn an_ack_doubled_within_the_window_is_no_nack() {
    // EDK2 sends ACK 5 for each of 7 and 8, which were in flight.
    Script::sender(&FIXED, Server(WINDOWS), length(90)).play(
        "  0 open   > OACK blksize=8 windowsize=4 @500
          10 ACK 0  > DATA 1-4  @510
          20 ACK 4  > DATA 5-8  @520
          30 ACK 5  > DATA 6-9  @530
          31 ACK 5  > nothing   @530
          36 ACK 5  > nothing   @530
          40 ACK 5  > DATA 6-9  @540
          41 ACK 5  > nothing   @540",
    );
}

/// RFC 1123 §4.2.3.1 with windows: two copies of a window are acknowledged
/// twice. Were the second answered, everything would go out twice to the end.
#[test]
fn echoes_of_a_window_sent_twice_are_no_nacks() {
    let mut server = Script::sender(&FIXED, Server(WINDOWS), length(400));
    server.play(
        "  0 open   > OACK blksize=8 windowsize=4 @500
          10 ACK 0  > DATA 1-4   @510
          20 ACK 4  > DATA 5-8   @520
          29 ACK 4  > DATA 5-8   @529
          30 ACK 8  > DATA 9-12  @530
          39 ACK 8  > nothing    @530
          40 ACK 12 > DATA 13-16 @540
          50 ACK 16 > DATA 17-20 @550
          60 ACK 16 > DATA 17-20 @560",
    );
    // A tail probe crosses a late ACK, and is acknowledged as well, however late.
    Script::sender(&FIXED, Server(WINDOWS), length(90)).play(
        "  0 open    > OACK blksize=8 windowsize=4 @500
          10 ACK 0   > DATA 1-4   @510
          20 ACK 4   > DATA 5-8   @520
         520 timeout > DATA 8     @1520
         560 ACK 8   > DATA 9-12  @1060
         600 ACK 8   > nothing    @1060
         610 ACK 12  > DATA 13-16 @1110
         620 ACK 12  > DATA 13-16 @1120",
    );
    // The round trip has grown, but every packet is repeated, so it can't be measured.
    let mut server = Script::sender(&ADAPTIVE, Server(WINDOWS), length(4000));
    let mut sent = 0;
    let mut arrivals = std::collections::BTreeMap::from([(10, vec![0])]);
    let mut now = 0;
    let mut expected = 1;
    server.step(0, "open");
    while let Some((at, acks)) = arrivals.pop_first() {
        // Deadlines before the next arrival.
        while server.deadline().is_some_and(|deadline| deadline < at) {
            now = server.deadline().unwrap().max(now);
            let done = server.step(now, "timeout");
            sent += deliver(&done, now, &mut expected, &mut arrivals);
        }
        now = at.max(now);
        for ack in acks {
            let done = server.step(now, &format!("ACK {ack}"));
            sent += deliver(&done, now, &mut expected, &mut arrivals);
        }
    }
    assert!(expected > 4000, "{expected}");
    assert!(sent < 4100, "{sent} blocks for 4000");
}

/// A receiver 30 ms away that acknowledges every copy of a window's last block.
fn deliver(
    done: &str,
    now: u64,
    expected: &mut u64,
    arrivals: &mut std::collections::BTreeMap<u64, Vec<u64>>,
) -> u64 {
    let mut sent = 0;
    for run in done.split("DATA ").skip(1) {
        let run = run.split([' ', ',', '(']).next().unwrap();
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
        sent += last - first + 1;
        if first <= *expected {
            *expected = (*expected).max(last + 1);
        }
        if last % 4 == 0 || last == 4000 {
            arrivals.entry(now + 30).or_default().push(*expected - 1);
        }
    }
    sent
}

/// RFC 2349: a test of whether `timeout` is kept looks at the first packets.
#[test]
fn a_negotiated_timeout_is_kept_exactly_for_the_opening_and_the_first_three_windows() {
    for (options, window) in [("timeout=3", 1), ("timeout=3 windowsize=4", 4)] {
        for answers in 0..=4 {
            let mut server = Script::sender(&ADAPTIVE, Server(options), 30_000);
            server.step(0, "open");
            for answer in 0..answers {
                server.step(10 * (answer + 1), &format!("ACK {}", answer * window));
            }
            let silence = server.deadline().map(|deadline| deadline - 10 * answers);
            let expected = if answers < 4 { 3000..=3000 } else { 20..=100 };
            let is_kept = silence.is_some_and(|silence| expected.contains(&silence));
            assert!(is_kept, "{options}, {answers} answers: {silence:?} ms");
        }
    }
}

#[test]
fn in_lockstep_an_ack_repeated_after_a_second_brings_the_timer_forward_once() {
    Script::sender(&FIXED, Server("timeout=5"), 5000).play(
        "    0 open    > OACK timeout=5 @5000
            10 ACK 0   > DATA 1  @5010
           999 ACK 0   > nothing @5010
          1010 ACK 0   > DATA 1  @6010
          2500 ACK 0   > nothing @6010
          6010 timeout > DATA 1  @14010
          7500 ACK 0   > nothing @14010
          7600 ACK 1   > DATA 2  @12600
          8589 ACK 1   > nothing @12600
          8600 ACK 1   > DATA 2  @13600
          8700 ACK 1   > nothing @13600
          8710 ACK 2   > DATA 3  @13710",
    );
    // The client's second began a little before the DATA left. And block 1 was repeated, so
    // its ACK measures nothing.
    Script::sender(&FIXED, Server("timeout=5"), 5000).play(
        "    0 open    > OACK timeout=5 @5000
            10 ACK 0   > DATA 1  @5010
          1009 ACK 0   > DATA 1  @6009
          1010 ACK 1   > DATA 2  @6010
          2001 ACK 1   > DATA 2  @7001",
    );
    // An ACK that is read at the deadline is left to the timeout, so that the wait doubles.
    Script::sender(&FIXED, Server("timeout=1"), 5000).play(
        "    0 open    > OACK timeout=1 @1000
            10 ACK 0   > DATA 1  @1010
            20 ACK 1   > DATA 2  @1020
          1020 ACK 1   > nothing @1020
          1020 timeout > DATA 2  @3020",
    );
    // A forged one brings an unverified peer nothing.
    Script::sender(&FIXED, Server(""), 5000).play(
        "    0 open  > DATA 1  @500
           500 ACK 0 > nothing @500",
    );
}

#[test]
fn loss_shrinks_what_is_sent_at_once_until_it_is_rare() {
    let options = "blksize=8 windowsize=8";
    Script::sender(&FIXED, Server(options), length(2000)).play(
        "  0 open    > OACK blksize=8 windowsize=8 @500
          10 ACK 0   > DATA 1-8   @510
          20 ACK 2   > DATA 3-4   @30
          30 timeout > DATA 5-6   @40
          40 timeout > DATA 7-8   @50
          50 timeout > DATA 9-10  @550
          60 ACK 10  > DATA 11-12 @70
          70 timeout > DATA 13-14 @80
          80 timeout > DATA 15-16 @90
          90 timeout > DATA 17-18 @590
         100 ACK 18  > DATA 19-20 @110
         110 timeout > DATA 21-22 @120
         120 timeout > DATA 23-24 @130
         130 timeout > DATA 25-26 @630
         140 ACK 26  > DATA 27-28 @150
         150 timeout > DATA 29-30 @160
         160 timeout > DATA 31-32 @170
         170 timeout > DATA 33-34 @670
         180 ACK 34  > DATA 35-36 @190
         190 timeout > DATA 37-38 @200
         200 timeout > DATA 39-40 @210
         210 timeout > DATA 41-42 @710
         220 ACK 42  > DATA 43-46 @230
         230 timeout > DATA 47-50 @730
         240 ACK 50  > DATA 51-58 @740
         250 ACK 58  > DATA 59-66 @750",
    );
}

/// A peer that writes to its flash is silent for a long time, though nothing is lost.
#[test]
fn long_silence_is_one_loss_at_most() {
    let options = "blksize=8 windowsize=64";
    for silences in [2, 4] {
        let mut server = Script::sender(&FIXED, Server(options), length(20_000));
        server.step(0, "open");
        server.step(10, "ACK 0");
        // Bursts of a whole window from here on.
        for window in 1..=4 {
            server.step(10 + 10 * window, &format!("ACK {}", 64 * window));
        }
        let mut now = 50;
        for _ in 0..silences {
            now = server.deadline().expect("a deadline");
            server.step(now, "timeout");
        }
        let done = server.step(now + 10, "ACK 320");
        assert!(done.starts_with("DATA 321-384 "), "{silences}: {done}");
    }
    // Before anything was acknowledged.
    let mut server = Script::sender(&FIXED, Server(options), length(20_000));
    server.step(0, "open");
    server.step(10, "ACK 0");
    for _ in 0..4 {
        let now = server.deadline().expect("an answer is waited for");
        server.step(now, "timeout");
    }
    let now = server.deadline().expect("an answer is waited for");
    let done = server.step(now - 1, "ACK 64");
    assert!(done.starts_with("DATA 65-128 "), "{done}");
}

#[test]
fn the_largest_window_goes_out_whole_again_after_a_loss() {
    let options = "blksize=8 windowsize=32767";
    let mut server = Script::sender(&FIXED, Server(options), 8 * 400_000);
    server.step(0, "open");
    server.step(10, "ACK 0");
    server.step(20, "ACK 2");
    let mut now = 20;
    let mut base = 2_u32;
    for _ in 0..4 {
        // All bursts of the window, each when its pause ends.
        while server
            .deadline()
            .is_some_and(|deadline| deadline < now + 100)
        {
            now = server.deadline().expect("a pause");
            server.step(now, "timeout");
        }
        now += 10;
        base += 32_767;
        server.step(now, &format!("ACK {}", base % 65_536));
    }
    assert!(
        server.deadline() > Some(now + 100),
        "the window is out: no pause"
    );
}

#[test]
fn luck_between_losses_does_not_make_bursts_grow() {
    // Four losses, two blocks apart: forty more blocks are only ten per loss.
    let options = "blksize=8 windowsize=8";
    let mut server = Script::sender(&FIXED, Server(options), length(2000));
    server.play(
        "  0 open    > OACK blksize=8 windowsize=8 @500
          10 ACK 0   > DATA 1-8   @510
          20 ACK 2   > DATA 3-4   @30
          30 timeout > DATA 5-6   @40
          40 ACK 4   > DATA 5-6   @50
          50 timeout > DATA 7-8   @60
          60 ACK 6   > DATA 7-8   @70
          70 timeout > DATA 9-10  @80
          80 ACK 8   > DATA 9-10  @90",
    );
    let mut now = 80;
    for window in 0..5 {
        for burst in 1..4 {
            now += 10;
            let block = 9 + 8 * window + 2 * burst;
            let done = server.step(now, "timeout");
            assert!(
                done.starts_with(&format!("DATA {block}-{} ", block + 1)),
                "{done}"
            );
        }
        now += 10;
        let last = 16 + 8 * window;
        let done = server.step(now, &format!("ACK {last}"));
        assert!(
            done.starts_with(&format!("DATA {}-{} ", last + 1, last + 2)),
            "{done}"
        );
    }
}

#[test]
fn where_a_round_trip_is_short_blocks_go_out_one_at_a_time() {
    // The round trip takes less than a millisecond.
    let options = "blksize=8 windowsize=8";
    Script::sender(&FIXED, Server(options), length(2000)).play(
        "  0 open    > OACK blksize=8 windowsize=8 @500
           0 ACK 0   > DATA 1-8   @500
           0 ACK 2   > DATA 3     @0
           1 timeout > DATA 4     @1
           2 timeout > DATA 5     @2
           2 ACK 3   > DATA 4     @2",
    );
}

#[test]
fn a_nack_that_comes_at_the_end_of_a_pause_comes_before_the_next_burst() {
    let options = "blksize=8 windowsize=8";
    Script::sender(&FIXED, Server(options), length(2000)).play(
        "  0 open    > OACK blksize=8 windowsize=8 @500
          10 ACK 0   > DATA 1-8   @510
          20 ACK 2   > DATA 3-4   @30
          30 timeout > DATA 5-6   @40
          40 ACK 2   > DATA 3-4   @50",
    );
}

#[test]
fn an_ack_after_a_pause_of_a_round_trip_is_a_nack() {
    let options = "blksize=8 windowsize=8";
    // The ACK at 24 ms may answer what was in flight when the base moved.
    Script::sender(&FIXED, Server(options), length(2000)).play(
        "  0 open    > OACK blksize=8 windowsize=8 @500
          10 ACK 0   > DATA 1-8   @510
          20 ACK 2   > DATA 3-4   @30
          24 ACK 2   > nothing    @30
          30 timeout > DATA 5-6   @40
          34 ACK 2   > DATA 3-4   @44
          35 ACK 2   > nothing    @44",
    );
    // This round trip is longer than the longest pause.
    Script::sender(&FIXED, Server(options), length(2000)).play(
        "  0 open    > OACK blksize=8 windowsize=8 @500
         100 ACK 0   > DATA 1-8   @600
         200 ACK 2   > DATA 3-4   @220
         220 timeout > DATA 5-6   @240
         239 ACK 2   > nothing    @240
         240 timeout > DATA 7-8   @260
         259 ACK 2   > nothing    @260",
    );
}

#[test]
fn in_bursts_the_last_block_goes_out_twice_before_the_window() {
    let options = "blksize=8 windowsize=8";
    let lost = "  0 open    > OACK blksize=8 windowsize=8 @500
          10 ACK 0   > DATA 1-8   @510
          20 ACK 2   > DATA 3-4   @30
          30 timeout > DATA 5-6   @40
          40 timeout > DATA 7-8   @50
          50 timeout > DATA 9-10  @550
         550 timeout > DATA 10    @1550
        1550 timeout > DATA 10    @1560";
    // The first probe was lost, or its answer.
    let mut server = Script::sender(&FIXED, Server(options), length(2000));
    server.play(lost);
    server.play("1559 ACK 10  > DATA 11-12 @1569");
    let mut server = Script::sender(&FIXED, Server(options), length(2000));
    server.play(lost);
    server.play("1559 ACK 2   > DATA 3-4   @1569");
    // Neither probe is answered.
    let mut server = Script::sender(&FIXED, Server(options), length(2000));
    server.play(lost);
    server.play(
        "1560 timeout > DATA 3-4   @1570
         1570 timeout > DATA 5-6   @1580
         1580 timeout > DATA 7-8   @1590
         1590 timeout > DATA 9-10  @3590
         3590 timeout > DATA 10    @7590
         7590 timeout > DATA 10    @7600",
    );
    // The window waits for the answer, however long the round trip.
    let mut server = Script::sender(&FIXED, Server(options), length(2000));
    server.play(
        "  0 open    > OACK blksize=8 windowsize=8 @500
         100 ACK 0   > DATA 1-8   @600
         200 ACK 2   > DATA 3-4   @220
         220 timeout > DATA 5-6   @240
         240 timeout > DATA 7-8   @260
         260 timeout > DATA 9-10  @760
         760 timeout > DATA 10    @1760
        1760 timeout > DATA 10    @1860",
    );
}

#[test]
fn a_block_sent_twice_in_bursts_does_not_double_the_rest() {
    // The ACK of a block that had arrived before answers its repeat, a round trip later.
    let options = "blksize=8 windowsize=8";
    Script::sender(&FIXED, Server(options), length(2000)).play(
        "  0 open    > OACK blksize=8 windowsize=8 @500
          10 ACK 0   > DATA 1-8   @510
          20 ACK 2   > DATA 3-4   @30
          30 timeout > DATA 5-6   @40
          40 timeout > DATA 7-8   @50
          50 timeout > DATA 9-10  @550
          60 ACK 10  > DATA 11-12 @70
          70 ACK 11  > DATA 12-13 @80
          80 ACK 12  > DATA 13-14 @90
          90 ACK 13  > DATA 15-16 @100",
    );
}

#[test]
fn no_window_takes_more_than_a_few_pauses() {
    let options = "blksize=8 windowsize=32767";
    Script::sender(&FIXED, Server(options), length(200_000)).play(
        "  0 open    > OACK blksize=8 windowsize=32767 @500
          10 ACK 0   > DATA 1-32767 @510
          20 ACK 1   > DATA 2-1025  @30",
    );
}

#[test]
fn an_ack_late_enough_to_answer_a_later_burst_is_no_echo() {
    let options = "blksize=8 windowsize=8";
    Script::sender(&FIXED, Server(options), length(2000)).play(
        "  0 open    > OACK blksize=8 windowsize=8 @500
          10 ACK 0   > DATA 1-8   @510
          20 ACK 2   > DATA 3-4   @30
          30 timeout > DATA 5-6   @40
          40 timeout > DATA 7-8   @50
          50 timeout > DATA 9-10  @550
          60 ACK 10  > DATA 11-12 @70
          70 ACK 10  > DATA 11-12 @80
          80 timeout > DATA 13-14 @90
          90 ACK 12  > DATA 13-14 @100
         100 timeout > DATA 15-16 @110
         110 ACK 14  > DATA 15-16 @120",
    );
}

#[test]
fn an_ack_of_a_block_not_yet_sent_is_ignored() {
    Script::sender(&FIXED, Server(WINDOWS), length(20)).play(
        "  0 open      > OACK blksize=8 windowsize=4 @500
           5 ACK 1     > nothing   @500
          10 ACK 0     > DATA 1-4  @510
          20 ACK 5     > nothing   @510
          30 ACK 65535 > nothing   @510
          40 ACK 4     > DATA 5-8  @540",
    );
}

#[test]
fn silence_brings_the_last_block_of_the_window_then_the_window() {
    // The tail probe is acknowledged, in whole or up to a gap (RFC 7440 §4).
    let mut server = Script::sender(&FIXED, Server(WINDOWS), length(20));
    server.play(
        "   0 open    > OACK blksize=8 windowsize=4 @500
           10 ACK 0   > DATA 1-4   @510
           20 ACK 2   > DATA 3-6   @520
          519 timeout > nothing    @520
          520 timeout > DATA 6     @1520
          600 ACK 6   > DATA 7-10  @1100
         1100 timeout > DATA 10    @2100
         1110 ACK 8   > DATA 9-12  @1610
         1610 timeout > DATA 12    @2610
         1620 ACK 8   > DATA 9-12  @2620
         1630 ACK 12  > DATA 13-16 @2130",
    );
    assert_eq!(server.retransmits(), 2 + 1 + 1 + 2 + 1 + 4);
    // Nothing arrives: the window goes out, then the tail probe again.
    Script::sender(&FIXED, Server(WINDOWS), length(20)).play(
        "    0 open    > OACK blksize=8 windowsize=4 @500
            10 ACK 0   > DATA 1-4  @510
           510 timeout > DATA 4    @1510
          1510 timeout > DATA 1-4  @3510
          3510 timeout > DATA 4    @7510
          7510 timeout > DATA 1-4  @15510
         15510 timeout > DATA 4    @23510
         23510 timeout > nothing   TimedOut closed",
    );
    // With only one block in flight there is nothing else to send.
    Script::sender(&FIXED, Server(WINDOWS), length(1)).play(
        "    0 open    > OACK blksize=8 windowsize=4 @500
            10 ACK 0   > DATA 1(3) @510
           510 timeout > DATA 1(3) @1510
          1510 timeout > DATA 1(3) @3510",
    );
}

#[test]
fn retries_are_counted_again_with_each_step_forward() {
    // RFC 1123 §4.2.3.2: exponential back-off.
    Script::sender(&FIXED, Server(""), 2000).play(
        "    0 open    > DATA 1  @500
           500 timeout > DATA 1  @1500
          1500 timeout > DATA 1  @3500
          3500 timeout > DATA 1  @7500
          7000 ACK 1   > DATA 2  @7500
          7500 timeout > DATA 2  @8500
          8500 timeout > DATA 2  @10500
         10500 timeout > DATA 2  @14500
         14500 timeout > DATA 2  @22500
         22500 timeout > DATA 2  @30500
         30500 timeout > nothing TimedOut closed",
    );
}

#[test]
fn an_unverified_peer_gets_three_repeats() {
    // Such a request may be forged.
    for (asked, answer) in [("", "DATA 1"), (WINDOWS, "OACK blksize=8 windowsize=4")] {
        Script::sender(&FIXED, Server(asked), 2000).play(&format!(
            "   0 open    > {answer} @500
              500 timeout > {answer} @1500
             1500 timeout > {answer} @3500
             3500 timeout > {answer} @7500
             7500 timeout > nothing TimedOut closed"
        ));
    }
}

#[test]
fn a_client_asks_as_often_as_its_policy_says() {
    Script::sender(&FIXED, Client(""), 2000).play(
        "    0 open    > WRQ @500
           500 timeout > WRQ @1500
          1500 timeout > WRQ @3500
          3500 timeout > WRQ @7500
          7500 timeout > WRQ @15500
         15500 timeout > WRQ @23500
         23500 timeout > nothing TimedOut closed",
    );
}

#[test]
fn a_repeated_request_is_answered_again_unless_it_crossed_the_answer() {
    for (asked, answer) in [("", "DATA 1"), (WINDOWS, "OACK blksize=8 windowsize=4")] {
        Script::sender(&FIXED, Server(asked), 2000).play(&format!(
            "  0 open    > {answer} @500
               9 request > nothing  @500
              99 request > nothing  @500
             100 request > {answer} @600
             199 request > nothing  @600
             200 request > {answer} @700
             300 request > {answer} @800
             400 request > {answer} @900
             500 request > {answer} @1000"
        ));
    }
    // Once the client has answered, it has our answer.
    Script::sender(&FIXED, Server(""), 2000).play(
        "  0 open    > DATA 1  @500
          10 ACK 1   > DATA 2  @510
         100 request > nothing @510",
    );
    Script::sender(&FIXED, Server(WINDOWS), 2000).play(
        "  0 open    > OACK blksize=8 windowsize=4 @500
          10 ACK 0   > DATA 1-4 @510
         100 request > nothing  @510",
    );
}

#[test]
fn repeated_requests_do_not_prolong_the_transfer() {
    // Each is answered, but none counts as progress.
    let mut server = Script::sender(&FIXED, Server(""), 2000);
    server.play("0 open > DATA 1 @500");
    for at in (300..=25_500).step_by(300) {
        let next = (at + 500).min(25_850);
        server.play(&format!("{at} request > DATA 1 @{next}"));
    }
    server.play(
        "25849 timeout > nothing @25850
         25850 timeout > nothing TimedOut closed",
    );
    // Nor do they use up our own timer's repeats.
    Script::sender(&FIXED, Server(""), 2000).play(
        "    0 open    > DATA 1  @500
           400 request > DATA 1  @900
           900 timeout > DATA 1  @1900
          1900 timeout > DATA 1  @3900
          3000 request > DATA 1  @5000
          5000 timeout > DATA 1  @9000
          9000 timeout > nothing TimedOut closed",
    );
}

#[test]
fn the_last_ack_is_missing() {
    // Many clients don't send it; RFC 1350 §6 doesn't insist.
    Script::sender(&FIXED, Server(""), 600).play(
        "    0 open    > DATA 1     @500
            10 ACK 1   > DATA 2(88) @510
           510 timeout > DATA 2(88) @1510
          1510 timeout > DATA 2(88) @3510
          3510 timeout > DATA 2(88) @7510
          7510 timeout > DATA 2(88) @15510
         15510 timeout > DATA 2(88) @23510
         23510 timeout > nothing    LastAckMissing closed",
    );
    // A peer that never answered has not fetched the file.
    Script::sender(&FIXED, Server(""), 5).play(
        "   0 open    > DATA 1(5) @500
          500 timeout > DATA 1(5) @1500
         1500 timeout > DATA 1(5) @3500
         3500 timeout > DATA 1(5) @7500
         7500 timeout > nothing   TimedOut closed",
    );
    // A client can't know that the server has stored the file.
    Script::sender(&FIXED, Client(""), 5).play(
        "    0 open    > WRQ       @500
            10 ACK 0   > DATA 1(5) @510
           510 timeout > DATA 1(5) @1510
          1510 timeout > DATA 1(5) @3510
          3510 timeout > DATA 1(5) @7510
          7510 timeout > DATA 1(5) @15510
         15510 timeout > DATA 1(5) @23510
         23510 timeout > nothing   TimedOut closed",
    );
}

#[test]
fn error_0_behind_the_last_block_is_how_grub_ends() {
    for (error, outcome) in [
        ("ERROR 0 closed", "LastAckMissing"),
        ("ERROR 3 full", "PeerError 3 full"),
    ] {
        Script::sender(&FIXED, Server(""), 600).play(&format!(
            "  0 open    > DATA 1     @500
              10 ACK 1   > DATA 2(88) @510
              20 {error} > nothing    {outcome} closed"
        ));
    }
    // A server that sends this has not stored the file.
    Script::sender(&FIXED, Client(""), 5).play(
        "  0 open           > WRQ       @500
          10 ACK 0          > DATA 1(5) @510
          20 ERROR 0 closed > nothing   PeerError 0 closed closed",
    );
}

#[test]
fn an_abort_sends_one_error_and_awaits_no_answer() {
    // RFC 1350 §7: an ERROR is neither acknowledged nor retransmitted.
    for (role, open) in [
        (Server(""), "DATA 1"),
        (Server("blksize=8"), "OACK blksize=8"),
        (Client(""), "WRQ"),
    ] {
        Script::sender(&FIXED, role, 2000).play(&format!(
            "   0 open    > {open}  @500
               10 abort   > ERROR 0 Failed 0 closed
               20 abort   > nothing closed
              100 request > nothing closed
              500 timeout > nothing closed"
        ));
    }
}

#[test]
fn a_full_socket_is_offered_the_same_again() {
    Script::sender(&FIXED, Server(WINDOWS), length(20)).play(
        "  0 open    > OACK blksize=8 windowsize=4 @500
          10 ACK 0   > DATA 1-4  @510
          20 full    > nothing   @510
          30 ACK 2   > nothing   @510
          40 ACK 4   > nothing   @510
          50 room    > DATA 5-8  @550
          60 full    > nothing   @550
          70 abort   > nothing   Failed 0 over
          80 room    > ERROR 0   closed",
    );
    // A repeat that can't go out has a deadline all the same: a peer that reads nothing
    // must not keep a transfer alive.
    let mut server = Script::sender(&FIXED, Server(WINDOWS), length(20)).in_runs_of(1);
    server.play(
        "   0 open    > OACK blksize=8 windowsize=4 @500
           10 ACK 0   > DATA 1, DATA 2, DATA 3, DATA 4 @510
           20 full    > nothing @510
          510 timeout > nothing @1510
          600 timeout > nothing @1510
          700 room 1  > DATA 4  @1700
          710 ACK 2   > nothing @1700
          720 room 2  > DATA 3, DATA 4 @1220
          730 ACK 4   > nothing @1220
          740 room    > DATA 5, DATA 6, DATA 7, DATA 8 @1240",
    );
    assert_eq!(server.retransmits(), 3);
    // A tail probe that can't go out gives way to a NACK.
    Script::sender(&FIXED, Server(WINDOWS), length(20)).play(
        "   0 open    > OACK blksize=8 windowsize=4 @500
           10 ACK 0   > DATA 1-4  @510
           20 full    > nothing   @510
          510 timeout > nothing   @1510
          520 ACK 0   > nothing   @1510
          530 room    > DATA 1-4  @1530",
    );
    // A packet that never went out can't time out.
    Script::sender(&FIXED, Server(""), 2000).play(
        "  0 full    > nothing
         100 timeout > nothing
         100 request > nothing
         900 room    > DATA 1  @1400",
    );
}

#[test]
fn a_full_socket_in_a_pause_between_bursts_is_no_silence() {
    let options = "blksize=8 windowsize=8";
    let mut server = Script::sender(&FIXED, Server(options), length(2000));
    server.play(
        "  0 open    > OACK blksize=8 windowsize=8 @500
          10 ACK 0   > DATA 1-8   @510
          20 ACK 2   > DATA 3-4   @30
          30 timeout > DATA 5-6   @40",
    );
    let before = server.retransmits();
    server.play(
        "  30 full    > nothing    @40
           40 timeout > nothing    @540
          540 timeout > nothing    @1540
         1540 timeout > nothing    @2540
         1600 room    > DATA 7-8   @1610
         1610 ACK 8   > DATA 9-10  @1620",
    );
    // These two are blocks 7 and 8, which were in flight before.
    assert_eq!(server.retransmits(), before + 2, "nothing was lost");
}

#[test]
fn an_ack_ends_the_pause_between_bursts_though_the_socket_is_full() {
    let options = "blksize=8 windowsize=8";
    Script::sender(&FIXED, Server(options), length(2000)).play(
        "  0 open    > OACK blksize=8 windowsize=8 @500
          10 ACK 0   > DATA 1-8   @510
          20 ACK 2   > DATA 3-4   @30
          30 timeout > DATA 5-6   @40
          31 full    > nothing    @40
          32 ACK 6   > nothing    @532
          40 timeout > nothing    @532
          50 room    > DATA 7-8   @60",
    );
}

/// If the machine slept in the pause, the peer had no time to answer.
#[test]
fn a_pause_that_ends_an_hour_late_is_no_silence() {
    let options = "blksize=8 windowsize=8";
    Script::sender(&FIXED, Server(options), length(2000)).play(
        "      0 open    > OACK blksize=8 windowsize=8 @500
              10 ACK 0   > DATA 1-8   @510
              20 ACK 2   > DATA 3-4   @30
              30 timeout > DATA 5-6   @40
              40 timeout > DATA 7-8   @50
         3600040 timeout > DATA 9-10  @3600540
         3600540 timeout > DATA 10    @3601540
         3600600 ACK 10  > DATA 11-12 @3600610",
    );
    Script::sender(&UNPROVED, Server(WINDOWS), length(90)).play(
        "      0 open    > OACK blksize=8 windowsize=4 @500
              10 ACK 0   > DATA 1     @20
         3600020 timeout > DATA 1     @3600520
         3600520 timeout > DATA 1     @3601520
         3600600 ACK 1   > DATA 2-3   @3600610",
    );
}

// --- a peer that can't be proved ---------------------------------------------------

#[test]
fn for_an_unproved_peer_a_window_opens_with_one_block() {
    // A tail probe a round trip later asks for the ACK, which a receiver sends by itself
    // only for a whole window.
    let mut server = Script::sender(&UNPROVED, Server(WINDOWS), length(90));
    server.play(
        "  0 open    > OACK blksize=8 windowsize=4 @500
          10 ACK 0   > DATA 1     @20
          20 timeout > DATA 1     @520
          30 ACK 1   > DATA 2-3   @40
          40 timeout > DATA 3     @540
          50 ACK 3   > DATA 4-7   @550
          60 ACK 7   > DATA 8-11  @560
          70 ACK 9   > DATA 10-13 @570",
    );
    // The peer names a lost block, and the window goes on.
    Script::sender(&UNPROVED, Server(WINDOWS), length(90)).play(
        "  0 open    > OACK blksize=8 windowsize=4 @500
          10 ACK 0   > DATA 1     @20
          20 timeout > DATA 1     @520
          30 ACK 1   > DATA 2-3   @40
          32 ACK 1   > nothing    @40
          40 timeout > DATA 3     @540
          50 ACK 1   > DATA 2-3   @60
          60 timeout > DATA 3     @560
          70 ACK 3   > DATA 4-7   @570",
    );
    // In lockstep nothing changes, and the end of the file needs no tail probe.
    Script::sender(&UNPROVED, Server(""), 600).play(
        "  0 open  > DATA 1     @500
          10 ACK 1 > DATA 2(88) @510
          20 ACK 2 > nothing    Completed closed",
    );
}

/// A second silence closes the window, however much was acknowledged.
#[test]
fn a_window_to_an_unproved_peer_closes_again_in_a_large_transfer_too() {
    const WINDOW: u64 = 1024;
    let mut server = Script::sender(
        &UNPROVED,
        Server("blksize=8 windowsize=1024"),
        length(100 * WINDOW),
    );
    server.step(0, "open");
    server.step(10, "ACK 0");
    let (mut acknowledged, mut now) = (1, 20);
    while acknowledged < 80 * WINDOW {
        let ack = format!("ACK {}", acknowledged % 65_536);
        let done = server.step(now, &ack);
        assert!(done.starts_with("DATA"), "{ack} > {done}");
        acknowledged += (acknowledged + 1).min(WINDOW);
        now += 10;
    }
    // Each ACK was of all blocks in flight; the last number computed was not sent.
    let first = acknowledged % 65_536 - WINDOW + 1;
    // The base, the base again, and then all that is open: one block.
    for block in [first; 3] {
        let at = server.deadline().expect("a wait");
        let done = server.step(at, "timeout");
        assert!(done.starts_with(&format!("DATA {block} ")), "{done}");
    }
}

/// A packet sent twice measures nothing (Karn). Pauses shorter than a round trip would send
/// the whole window for each block that arrives.
#[test]
fn a_round_trip_that_is_unknown_is_not_taken_for_none() {
    Script::sender(&FIXED, Server("blksize=8 windowsize=16"), length(90)).play(
        "   0 open    > OACK blksize=8 windowsize=16 @500
          500 timeout > OACK blksize=8 windowsize=16 @1500
          530 ACK 0   > DATA 1-16 @1030
          560 ACK 2   > DATA 3-4  @565
          565 timeout > DATA 5-6  @570
          590 ACK 4   > DATA 5-6  @595",
    );
}

/// ACK 0 comes again as soon as an echo would, and was the NACK if silence follows.
#[test]
fn where_no_round_trip_is_known_a_nack_that_comes_soon_waits_for_no_timeout() {
    let opened = |blocks, then: &str| {
        let last = if blocks < 4 { "3(3)" } else { "4" };
        let mut server = Script::sender(&FIXED, Server(WINDOWS), length(blocks));
        server.play(&format!(
            "   0 open    > OACK blksize=8 windowsize=4 @500
              500 timeout > OACK blksize=8 windowsize=4 @1500
              530 ACK 0   > DATA 1-{last} @1030
              {then}"
        ));
    };
    // Once for each base.
    opened(
        90,
        "531 ACK 0   > nothing  @780
         532 ACK 0   > nothing  @780
         780 timeout > DATA 1-4 @1280
         781 ACK 0   > nothing  @1280
         782 ACK 4   > DATA 5-8 @1282
         783 ACK 4   > nothing  @1282",
    );
    opened(
        3,
        "531 ACK 0   > nothing     @780
         780 timeout > DATA 1-3(3) @1280",
    );
    // An echo, on a slow network; and an ACK that comes too late for an echo.
    opened(
        90,
        "531 ACK 0   > nothing  @780
         730 ACK 4   > DATA 5-8 @1230
         731 ACK 4   > nothing  @1230",
    );
    opened(
        90,
        "531 ACK 0   > nothing  @780
         536 ACK 0   > DATA 1-4 @1036",
    );
    // An unproved peer gets nothing sooner; and no deadline becomes later.
    Script::sender(&UNPROVED, Server(WINDOWS), length(90)).play(
        "   0 open    > OACK blksize=8 windowsize=4 @500
          500 timeout > OACK blksize=8 windowsize=4 @1500
          530 ACK 0   > DATA 1  @535
          535 timeout > DATA 1  @1035
          536 ACK 0   > nothing @1035",
    );
    let config = Config {
        retry: RetryPolicy {
            wait: Wait::Fixed(Duration::from_millis(200)),
            ..FIXED.retry
        },
        ..FIXED
    };
    Script::sender(&config, Server(WINDOWS), length(90)).play(
        "   0 open    > OACK blksize=8 windowsize=4 @200
          200 timeout > OACK blksize=8 windowsize=4 @600
          230 ACK 0   > DATA 1-4 @430
          231 ACK 0   > nothing  @430
          430 timeout > DATA 1-4 @830",
    );
}

/// After losses the window goes out in bursts. If a burst ends where the open part of the
/// window ends, the tail probe still comes, and not only after a timeout.
#[test]
fn an_opening_window_that_ends_with_a_burst_is_asked_for() {
    let options = "blksize=8 windowsize=16";
    Script::sender(&UNPROVED, Server(options), length(90)).play(
        "   0 open    > OACK blksize=8 windowsize=16 @500
           10 ACK 0   > DATA 1     @20
           20 ACK 1   > DATA 2-3   @30
           30 ACK 3   > DATA 4-7   @40
           40 ACK 7   > DATA 8-15  @50
           50 ACK 15  > DATA 16-31 @550
           60 ACK 16  > DATA 17-18 @70
           70 timeout > DATA 19-20 @80
           80 timeout > DATA 21-22 @90
           90 timeout > DATA 23-24 @100
          100 timeout > DATA 25-26 @110
          110 timeout > DATA 27-28 @120
          120 timeout > DATA 29-30 @130
          130 timeout > DATA 31-32 @630
          630 timeout > DATA 17    @640
          640 timeout > DATA 17    @1640
         1640 timeout > DATA 17    @3640
         1650 ACK 17  > DATA 18-19 @1660
         1660 timeout > DATA 19    @2160
         1670 ACK 19  > DATA 20-21 @1680
         1680 timeout > DATA 22-23 @1690
         1690 timeout > DATA 23    @2190",
    );
}

/// A client that repeats nothing and ignores repeats, and one that keeps sending ACK 0.
#[test]
fn a_client_that_never_asks_for_its_second_block_is_given_up() {
    Script::sender(&UNPROVED, Server(WINDOWS), length(90)).play(
        "    0 open    > OACK blksize=8 windowsize=4 @500
            10 ACK 0   > DATA 1  @20
            20 timeout > DATA 1  @520
           520 timeout > DATA 1  @1520
          1520 timeout > DATA 1  @3520
          3520 timeout > DATA 1  @7520
          7520 timeout > DATA 1  @15520
         15520 timeout > DATA 1  @23520
         23520 timeout > nothing TimedOut closed",
    );
    let mut server = Script::sender(&UNPROVED, Server(WINDOWS), length(90));
    server.step(0, "open");
    let mut now = 10;
    while let Some(deadline) = server.deadline() {
        assert!(now < 35_000, "the client keeps the transfer alive");
        if deadline <= now {
            server.step(deadline, "timeout");
        } else {
            server.step(now, "ACK 0");
            now += 700;
        }
    }
}

/// Whatever a forger acknowledges, and when: each of its datagrams brings at most the open
/// part of the window and, while that isn't the whole window, one tail probe. Silence brings
/// one block, the first silence that block twice.
#[test]
fn reflection_off_a_shared_port_is_bounded_by_what_was_acknowledged() {
    let all = [
        (4, "windowsize=4"),
        (16, "windowsize=16"),
        (64, "windowsize=64"),
    ];
    for (seed, (windowsize, option)) in (0..300).zip(all.into_iter().cycle()) {
        let mut server = Script::sender(&UNPROVED, Server(option), 512 * 300);
        let mut random: u64 = seed;
        let mut below = |limit: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % limit
        };
        let (mut acknowledged, mut brought, mut twice) = (0, 0, 0);
        let mut now = 0;
        server.step(now, "open");
        while let Some(deadline) = server.deadline() {
            let before = server.blocks_sent();
            let is_silence = server.awaits_an_answer();
            if below(3) == 0 {
                now = now.max(deadline);
                server.step(now, "timeout");
                let sent = server.blocks_sent() - before;
                assert!(!is_silence || sent <= 1, "seed {seed}: {sent} in silence");
                brought += if is_silence { 0 } else { sent };
                twice |= u64::from(is_silence);
            } else {
                now = deadline.min(now + below(700));
                // An ACK of nothing new, of a part, or of everything.
                acknowledged += below(3) * (server.furthest() - acknowledged) / 2;
                server.step(now, &format!("ACK {acknowledged}"));
                brought = server.blocks_sent() - before;
                twice = 0;
            }
            let open = windowsize.min(1 + acknowledged);
            let most = open + u64::from(open < windowsize) + twice;
            assert!(
                brought <= most,
                "seed {seed}: {brought} blocks, {open} open"
            );
        }
    }
}

/// A window that opens slowly closes if silence is followed only by a NACK.
#[test]
fn nacks_in_a_forged_name_do_not_keep_a_window_open() {
    let mut server = Script::sender(&UNPROVED, Server("windowsize=64"), 512 * 300);
    server.step(0, "open");
    let mut now = 1;
    for acknowledged in [0, 1, 3, 7, 15] {
        server.step(now, &format!("ACK {acknowledged}"));
        now += 10;
    }
    let before = server.blocks_sent();
    let mut turns = 0;
    while let Some(deadline) = server.deadline() {
        // A pause's end, a silence and its pause; then a NACK just before the deadline.
        if server.awaits_an_answer() && turns % 2 == 1 {
            now = deadline - 1;
            server.step(now, "ACK 15");
            turns += 1;
        } else {
            turns += u64::from(server.awaits_an_answer());
            now = now.max(deadline);
            server.step(now, "timeout");
        }
    }
    let sent = server.blocks_sent() - before;
    assert!(sent <= 2 * turns, "{sent} blocks in {turns} turns");
}

/// A receiver that has the whole file and dallies answers only the last block.
#[test]
fn the_last_block_asks_for_a_lost_final_ack() {
    Script::sender(&UNPROVED, Server(WINDOWS), 8 * 3 - 5).play(
        "    0 open    > OACK blksize=8 windowsize=4 @500
            10 ACK 0   > DATA 1      @20
            20 ACK 1   > DATA 2-3(3) @520
           520 timeout > DATA 2      @530
           530 timeout > DATA 3(3)   @1530
           540 ACK 3   > nothing     Completed closed",
    );
}

#[test]
fn silence_brings_an_unproved_peer_one_block_and_the_first_one_twice() {
    Script::sender(&UNPROVED, Server(WINDOWS), length(90)).play(
        "    0 open    > OACK blksize=8 windowsize=4 @500
            10 ACK 0   > DATA 1   @20
            20 timeout > DATA 1   @520
            30 ACK 1   > DATA 2-3 @40
            40 timeout > DATA 3   @540
            50 ACK 3   > DATA 4-7 @550
           550 timeout > DATA 4   @560
           560 timeout > DATA 4   @1560
          1560 timeout > DATA 4   @3560
          3560 timeout > DATA 4   @7560
          7560 timeout > DATA 4   @15560
         15560 timeout > DATA 4   @23560
         23560 timeout > nothing  TimedOut closed",
    );
}

#[test]
fn a_forged_ack_of_an_unsent_block_ends_the_transfer_in_silence() {
    for forged in ["ACK 2", "ACK 9", "ACK 1000"] {
        Script::sender(&UNPROVED, Server(WINDOWS), length(90)).play(&format!(
            "  0 open     > OACK blksize=8 windowsize=4 @500
              10 ACK 0    > DATA 1  @20
              15 {forged} > nothing Failed 4 closed"
        ));
    }
    // An old ACK is only late; and on a port of the transfer's own nothing counts as forged.
    Script::sender(&UNPROVED, Server(""), 5000).play(
        "  0 open      > DATA 1   @500
          10 ACK 1     > DATA 2   @510
          20 ACK 65535 > nothing  @510
          30 ACK 2     > DATA 3   @530",
    );
    Script::sender(&FIXED, Server(""), 5000).play(
        "  0 open  > DATA 1   @500
          10 ACK 9 > nothing  @500",
    );
}

/// On a shared port the ACK may belong to the client's transfer before this one.
#[test]
fn a_late_ack_does_not_end_a_transfer_that_nobody_has_answered() {
    Script::sender(&UNPROVED, Server(""), 5000).play(
        "  0 open  > DATA 1   @500
          10 ACK 3 > nothing  @500
          20 ACK 1 > DATA 2   @520
          30 ACK 3 > nothing  Failed 4 closed",
    );
    Script::sender(&UNPROVED, Server(WINDOWS), length(90)).play(
        "  0 open  > OACK blksize=8 windowsize=4 @500
          10 ACK 3 > nothing  @500
          20 ACK 0 > DATA 1   @40",
    );
    // An ACK of block 1, before block 1 has left.
    Script::sender(&UNPROVED, Server(""), 5000).play(
        "  0 full  > nothing
          10 ACK 1 > nothing  Failed 4 closed",
    );
}

// --- options -----------------------------------------------------------------------

#[test]
fn the_client_keeps_to_the_answer() {
    // RFC 2348, 7440: the server may grant less.
    Script::sender(&FIXED, Client("blksize=1024 windowsize=4"), length(20)).play(
        "  0 open                     > WRQ blksize=1024 windowsize=4 @500
          10 OACK blksize=8           > DATA 1   @510
          20 OACK blksize=8           > nothing  @510
          30 ACK 0                    > nothing  @510
          40 ACK 1                    > DATA 2   @540",
    );
    for refused in ["blksize=2048", "windowsize=5", "windowsize=0", "rollover=1"] {
        Script::sender(&FIXED, Client("blksize=1024 windowsize=4"), length(20)).play(&format!(
            "  0 open           > WRQ blksize=1024 windowsize=4 @500
              10 OACK {refused} > ERROR 8  Failed 8 closed
              20 OACK           > nothing  closed"
        ));
    }
}

#[test]
fn an_agreed_timeout_is_kept() {
    // RFC 2349: in seconds; it replaces the configured wait.
    for config in [&FIXED, &ADAPTIVE] {
        Script::sender(config, Server("timeout=3"), 2000).play(
            "   0 open    > OACK timeout=3 @3000
               10 ACK 0   > DATA 1  @3010
               20 ACK 1   > DATA 2  @3020
             3020 timeout > DATA 2  @9020",
        );
        let ask = if config == &FIXED { 500 } else { 1000 };
        Script::sender(config, Client("timeout=3"), 2000).play(&format!(
            "   0 open           > WRQ timeout=3 @{ask}
               10 OACK timeout=3 > DATA 1  @3010
             3010 timeout        > DATA 1  @9010"
        ));
    }
}

#[test]
fn an_adaptive_wait_follows_what_acks_measure() {
    // RFC 6298: the first wait is round trip + 4 × half of it, here 3 × 100 ms.
    Script::sender(&ADAPTIVE, Server(""), 5000).play(
        "   0 open    > DATA 1  @1000
          100 ACK 1   > DATA 2  @400
          400 timeout > DATA 2  @1000
          500 ACK 2   > DATA 3  @1100",
    );
    // In a window only the ACK of the block sent last measures the round trip.
    Script::sender(&ADAPTIVE, Server(WINDOWS), length(20)).play(
        "   0 open    > OACK blksize=8 windowsize=4 @1000
          100 ACK 0   > DATA 1-4  @400
          110 ACK 1   > DATA 2-5  @410",
    );
}
