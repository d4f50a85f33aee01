//! Conversations with a receiver; `script` explains the notation. All waits
//! start at 500 ms, dallying takes a second, and blocks have 8 bytes in tests of windows.

use crate::protocol::script::Role::{Client, Server};
use crate::protocol::script::{ADAPTIVE, FIXED, Script, UNPROVED, feed_every_packet};

const WINDOWS: &str = "blksize=8 windowsize=4";

// --- every state, every packet ---------------------------------------------------

#[test]
fn opening_server() {
    feed_every_packet(
        || Script::receiver(&FIXED, Server("")),
        "0 open > ACK 0 @500",
        &[
            ("DATA 1", "wrote 512, ACK 1 @510"),
            (
                "DATA 1(3)",
                "wrote 3, committed, ACK 1 @1010 Completed over",
            ),
            ("DATA 1(600)", "ERROR 4 Failed 4 closed"),
            ("ERROR 0 x", "nothing PeerError 0 x closed"),
            ("ERROR 1 x", "nothing PeerError 1 x closed"),
            ("ERROR 8 x", "nothing PeerError 8 x closed"),
        ],
    );
    feed_every_packet(
        || Script::receiver(&FIXED, Server(WINDOWS)),
        "0 open > OACK blksize=8 windowsize=4 @500",
        &[
            ("DATA 1", "wrote 8 @510"),
            // A peer that sends DATA has received our OACK: block 1 is missing.
            ("DATA 2", "ACK 0 @510"),
            ("DATA 3", "ACK 0 @510"),
            (
                "DATA 1(3)",
                "wrote 3, committed, ACK 1 @1010 Completed over",
            ),
            ("DATA 1(600)", "ERROR 4 Failed 4 closed"),
            ("ERROR 0 x", "nothing PeerError 0 x closed"),
            ("ERROR 1 x", "nothing PeerError 1 x closed"),
            ("ERROR 8 x", "nothing Probed closed"),
        ],
    );
}

#[test]
fn opening_client() {
    feed_every_packet(
        || Script::receiver(&FIXED, Client(WINDOWS)),
        "0 open > RRQ blksize=8 windowsize=4 @500",
        &[
            // RFC 2347: no OACK, so none of the options applies.
            ("DATA 1", "wrote 512, ACK 1 @510"),
            (
                "DATA 1(3)",
                "wrote 3, committed, ACK 1 @1010 Completed over",
            ),
            ("DATA 1(600)", "ERROR 4 Failed 4 closed"),
            ("OACK", "ACK 0 @510"),
            // RFC 2347: an option that was not asked for.
            ("OACK tsize=1", "ERROR 8 Failed 8 closed"),
            ("ERROR 0 x", "nothing PeerError 0 x closed"),
            ("ERROR 1 x", "nothing PeerError 1 x closed"),
            ("ERROR 8 x", "nothing PeerError 8 x closed"),
        ],
    );
}

#[test]
fn receiving() {
    for (role, open) in [
        (Server(""), "0 open > ACK 0 @500"),
        (Client(""), "0 open > RRQ @500"),
    ] {
        feed_every_packet(
            || Script::receiver(&FIXED, role),
            &format!("{open}\n 1 DATA 1 > wrote 512, ACK 1 @501"),
            &[
                ("DATA 1", "ACK 1 @510"),
                ("DATA 1(3)", "ACK 1 @510"),
                ("DATA 2", "wrote 512, ACK 2 @510"),
                ("DATA 1(600)", "ERROR 4 Failed 4 closed"),
                ("ERROR 0 x", "nothing PeerError 0 x closed"),
                ("ERROR 1 x", "nothing PeerError 1 x closed"),
                ("ERROR 8 x", "nothing PeerError 8 x closed"),
            ],
        );
    }
    feed_every_packet(
        || Script::receiver(&FIXED, Server(WINDOWS)),
        "0 open   > OACK blksize=8 windowsize=4 @500
         1 DATA 1 > wrote 8 @501",
        &[
            // A tail probe: the sender asks how far we are.
            ("DATA 1", "ACK 1 @510"),
            ("DATA 1(3)", "ACK 1 @510"),
            ("DATA 2", "wrote 8 @510"),
            ("DATA 3", "ACK 1 @510"),
            ("DATA 1(600)", "ERROR 4 Failed 4 closed"),
            ("ERROR 0 x", "nothing PeerError 0 x closed"),
            ("ERROR 1 x", "nothing PeerError 1 x closed"),
            ("ERROR 8 x", "nothing PeerError 8 x closed"),
        ],
    );
}

#[test]
fn receiving_before_block_1() {
    feed_every_packet(
        || Script::receiver(&FIXED, Client("blksize=8")),
        "0 open           > RRQ blksize=8 @500
         1 OACK blksize=8 > ACK 0 @501",
        &[
            ("DATA 1", "wrote 8, ACK 1 @510"),
            (
                "DATA 1(3)",
                "wrote 3, committed, ACK 1 @1010 Completed over",
            ),
            ("DATA 1(600)", "ERROR 4 Failed 4 closed"),
            // The server didn't get our ACK 0.
            ("OACK", "ACK 0 @510"),
            ("OACK tsize=1", "ACK 0 @510"),
            ("ERROR 0 x", "nothing PeerError 0 x closed"),
            ("ERROR 1 x", "nothing PeerError 1 x closed"),
            ("ERROR 8 x", "nothing PeerError 8 x closed"),
        ],
    );
}

#[test]
fn dallying() {
    feed_every_packet(
        || Script::receiver(&FIXED, Server("")),
        "0 open      > ACK 0 @500
         1 DATA 1    > wrote 512, ACK 1 @501
         2 DATA 2(0) > wrote 0, committed, ACK 2 @1002 Completed over",
        &[
            ("DATA 2", "ACK 2 @1002 over"),
            ("ERROR 0 x", "nothing closed"),
            ("ERROR 1 x", "nothing closed"),
            ("ERROR 8 x", "nothing closed"),
        ],
    );
}

#[test]
fn failing() {
    feed_every_packet(
        || Script::receiver(&FIXED, Server("")),
        "0 open  > ACK 0 @500
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
            || Script::receiver(&FIXED, Server("")),
            &format!("0 open > ACK 0 @500\n 1 {end} closed"),
            &[],
        );
    }
}

// --- the way through -----------------------------------------------------------

#[test]
fn lockstep() {
    // RFC 1350 §2: one block, one ACK; a block of less than 512 bytes ends it.
    let mut server = Script::receiver(&FIXED, Server(""));
    server.play(
        "   0 open      > ACK 0 @500
           10 DATA 1    > wrote 512, ACK 1 @510
           20 DATA 2    > wrote 512, ACK 2 @520
           30 DATA 3(7) > wrote 7, committed, ACK 3 @1030 Completed over
         1029 timeout   > nothing @1030 over
         1030 timeout   > nothing closed",
    );
    assert_eq!(server.retransmits(), 0);
    Script::receiver(&FIXED, Client("")).play(
        "   0 open      > RRQ @500
           10 DATA 1    > wrote 512, ACK 1 @510
           20 DATA 2(0) > wrote 0, committed, ACK 2 @1020 Completed over
         1020 timeout   > nothing closed",
    );
}

#[test]
fn windows() {
    // RFC 7440 §4: an ACK for each full window and for the last block.
    let mut client = Script::receiver(&FIXED, Client(WINDOWS));
    client.play(
        "  0 open      > RRQ blksize=8 windowsize=4 @500
          10 OACK blksize=8 windowsize=4 > ACK 0 @510
          20 DATA 1    > wrote 8         @520
          30 DATA 2    > wrote 8         @530
          40 DATA 3    > wrote 8         @540
          50 DATA 4    > wrote 8, ACK 4  @550
          60 DATA 5    > wrote 8         @560
          70 DATA 6(1) > wrote 1, committed, ACK 6 @1070 Completed over",
    );
    assert_eq!(client.retransmits(), 0);
}

#[test]
fn block_numbers_wrap_to_zero() {
    Script::receiver(&FIXED, Server("blksize=8")).play(
        "  0 open       > OACK blksize=8 @500
           1 to 65535   > wrote 8, ACK 65535 @501
          10 DATA 65535 > ACK 65535          @510
          20 DATA 0     > wrote 8, ACK 0     @520
          30 DATA 0     > ACK 0              @530
          40 DATA 1(3)  > wrote 3, committed, ACK 1 @1040 Completed over
          50 DATA 1(3)  > ACK 1              @1040 over",
    );
}

#[test]
fn block_numbers_wrap_to_one() {
    Script::receiver(&FIXED, Server("blksize=8 rollover=1")).play(
        "  0 open       > OACK blksize=8 rollover=1 @500
           1 to 65535   > wrote 8, ACK 65535 @501
          10 DATA 0     > nothing            @501
          20 DATA 1     > wrote 8, ACK 1     @520
          30 DATA 65535 > nothing            @520
          40 DATA 2(3)  > wrote 3, committed, ACK 2 @1040 Completed over",
    );
}

#[test]
fn windows_wrap_as_well() {
    Script::receiver(&FIXED, Server(WINDOWS)).play(
        "  0 open       > OACK blksize=8 windowsize=4 @500
           1 to 65534   > wrote 8         @501
          10 DATA 0     > ACK 65534       @510
          20 DATA 65535 > wrote 8         @520
          30 DATA 0     > wrote 8         @530
          40 DATA 1     > wrote 8         @540
          50 DATA 2     > wrote 8, ACK 2  @550
          60 DATA 0     > nothing         @550",
    );
}

// --- what goes wrong on the way ------------------------------------------------------

#[test]
fn a_gap_is_reported_once() {
    // RFC 7440 §4: the ACK of the last block in order, and at once.
    let mut server = Script::receiver(&FIXED, Server("blksize=8 windowsize=5"));
    server.play(
        "  0 open   > OACK blksize=8 windowsize=5 @500
          10 DATA 1 > wrote 8         @510
          20 DATA 2 > wrote 8         @520
          30 DATA 4 > ACK 2           @530
          35 DATA 5 > nothing         @530
          36 DATA 4 > nothing         @530
          50 DATA 3 > wrote 8         @550
          60 DATA 5 > ACK 3           @560
          70 DATA 4 > wrote 8         @570
          80 DATA 5 > wrote 8         @580
          81 DATA 6 > wrote 8         @581
          82 DATA 7 > wrote 8         @582
          83 DATA 8 > wrote 8, ACK 8  @583",
    );
    assert_eq!(server.retransmits(), 2);
}

#[test]
fn a_lost_nack_is_sent_again_while_the_window_goes_on() {
    // Two round trips later: by then its answer would have come.
    Script::receiver(&FIXED, Server("blksize=8 windowsize=16")).play(
        "  0 open    > OACK blksize=8 windowsize=16 @500
           4 DATA 1  > wrote 8         @504
           5 DATA 3  > ACK 1           @505
           9 DATA 4  > nothing         @505
          12 DATA 5  > nothing         @505
          13 DATA 6  > ACK 1           @513
          14 DATA 7  > nothing         @513
          30 DATA 8  > nothing         @513",
    );
    // Blocks that come before the NACK has left are no sign that it was lost.
    Script::receiver(&FIXED, Server("blksize=8 windowsize=16")).play(
        "  0 open    > OACK blksize=8 windowsize=16 @500
           4 DATA 1  > wrote 8         @504
          20 full    > nothing         @504
          20 DATA 3  > nothing         @504
          20 DATA 4  > nothing         @504
          20 room    > ACK 1           @520
          24 DATA 5  > nothing         @520
          28 DATA 6  > ACK 1           @528",
    );
}

#[test]
fn a_gap_is_reported_again_once_the_window_comes_again_without_its_base() {
    // As soon as an answer to the NACK can come: after a round trip.
    Script::receiver(&FIXED, Server("blksize=8 windowsize=5")).play(
        "  0 open   > OACK blksize=8 windowsize=5 @500
           4 DATA 1 > wrote 8         @504
           5 DATA 3 > ACK 1           @505
           6 DATA 4 > nothing         @505
           9 DATA 3 > ACK 1           @509
          10 DATA 4 > nothing         @509
          13 DATA 2 > wrote 8         @513",
    );
    // But not so soon that the network may have doubled the packet.
    Script::receiver(&FIXED, Server("blksize=8 windowsize=5")).play(
        "  0 open   > OACK blksize=8 windowsize=5 @500
           1 DATA 1 > wrote 8         @501
           2 DATA 3 > ACK 1           @502
           4 DATA 3 > nothing         @502
           5 DATA 3 > ACK 1           @505",
    );
}

#[test]
fn blocks_beyond_the_window_are_ignored() {
    Script::receiver(&FIXED, Server(WINDOWS)).play(
        "  0 open   > OACK blksize=8 windowsize=4 @500
          10 DATA 1 > wrote 8   @510
          20 DATA 6 > nothing   @510
          30 DATA 5 > ACK 1     @530",
    );
}

#[test]
fn a_lost_ack_is_repeated() {
    let mut server = Script::receiver(&FIXED, Server(""));
    server.play(
        "    0 open    > ACK 0 @500
           500 timeout > ACK 0 @1500
          1000 DATA 1  > wrote 512, ACK 1 @1500
          1100 DATA 1  > ACK 1 @1600
          1600 timeout > ACK 1 @2600
          1700 DATA 2  > wrote 512, ACK 2 @2200
          1800 DATA 1  > nothing @2200",
    );
    assert_eq!(server.retransmits(), 3);

    // The sender repeats a window that we have completely.
    Script::receiver(&FIXED, Server("blksize=8 windowsize=2")).play(
        "  0 open   > OACK blksize=8 windowsize=2 @500
          10 DATA 1 > wrote 8        @510
          20 DATA 2 > wrote 8, ACK 2 @520
          30 DATA 1 > nothing        @520
          40 DATA 2 > ACK 2          @540",
    );
}

#[test]
fn a_block_doubled_within_a_window_is_ignored() {
    Script::receiver(&FIXED, Server(WINDOWS)).play(
        "  0 open   > OACK blksize=8 windowsize=4 @500
          10 DATA 1 > wrote 8         @510
          20 DATA 2 > wrote 8         @520
          22 DATA 2 > nothing         @520
          40 DATA 1 > nothing         @520",
    );
}

#[test]
fn a_tail_probe_within_a_window_is_acknowledged() {
    // A sender whose window isn't fully open asks how far we are.
    Script::receiver(&FIXED, Server(WINDOWS)).play(
        "  0 open   > OACK blksize=8 windowsize=4 @500
          10 DATA 1 > wrote 8         @510
          15 DATA 1 > ACK 1           @515
          20 DATA 2 > wrote 8         @520
          21 DATA 3 > wrote 8         @521
          26 DATA 3 > ACK 3           @526
          30 DATA 4 > wrote 8         @530
          31 DATA 5 > wrote 8         @531
          32 DATA 6 > wrote 8         @532
          33 DATA 7 > wrote 8, ACK 7  @533",
    );
}

#[test]
fn a_silent_sender_is_reminded_of_the_last_block_in_order() {
    Script::receiver(&FIXED, Server(WINDOWS)).play(
        "    0 open    > OACK blksize=8 windowsize=4 @500
            10 DATA 1  > wrote 8  @510
            20 DATA 2  > wrote 8  @520
           520 timeout > ACK 2    @1520
          1520 timeout > ACK 2    @3520
          3520 timeout > ACK 2    @7520
          7520 timeout > ACK 2    @15520
         15520 timeout > ACK 2    @23520
         23520 timeout > nothing  TimedOut closed",
    );
}

#[test]
fn an_unverified_peer_gets_three_repeats() {
    // Such a request may be forged.
    for (asked, answer) in [("", "ACK 0"), ("blksize=8", "OACK blksize=8")] {
        Script::receiver(&FIXED, Server(asked)).play(&format!(
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
    Script::receiver(&FIXED, Client("")).play(
        "    0 open    > RRQ @500
           500 timeout > RRQ @1500
          1500 timeout > RRQ @3500
          3500 timeout > RRQ @7500
          7500 timeout > RRQ @15500
         15500 timeout > RRQ @23500
         23500 timeout > nothing TimedOut closed",
    );
}

#[test]
fn a_repeated_request_is_answered_again_unless_it_crossed_the_answer() {
    for (asked, answer) in [("", "ACK 0"), ("blksize=8", "OACK blksize=8")] {
        Script::receiver(&FIXED, Server(asked)).play(&format!(
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
    Script::receiver(&FIXED, Server("")).play(
        "  0 open    > ACK 0 @500
          10 DATA 1  > wrote 512, ACK 1 @510
         100 request > nothing @510",
    );
}

#[test]
fn repeated_requests_do_not_prolong_the_transfer() {
    // Each is answered, but none counts as progress.
    let mut server = Script::receiver(&FIXED, Server(""));
    server.play("0 open > ACK 0 @500");
    for at in (300..=25_500).step_by(300) {
        let next = (at + 500).min(25_850);
        server.play(&format!("{at} request > ACK 0 @{next}"));
    }
    server.play(
        "25849 timeout > nothing @25850
         25850 timeout > nothing TimedOut closed",
    );
    // Nor do they use up our own timer's repeats.
    Script::receiver(&FIXED, Server("")).play(
        "    0 open    > ACK 0   @500
           400 request > ACK 0   @900
           900 timeout > ACK 0   @1900
          1900 timeout > ACK 0   @3900
          3000 request > ACK 0   @5000
          5000 timeout > ACK 0   @9000
          9000 timeout > nothing TimedOut closed",
    );
}

#[test]
fn repeats_do_not_prolong_dallying() {
    // RFC 1350 §6: wait for a while after the final ACK, to repeat it.
    let mut server = Script::receiver(&FIXED, Server(""));
    server.play(
        "   0 open      > ACK 0 @500
           10 DATA 1(3) > wrote 3, committed, ACK 1 @1010 Completed over
          500 DATA 1(3) > ACK 1   @1010 over
          501 DATA 1(3) > ACK 1   @1010 over
          502 DATA 2(3) > nothing @1010 over
          503 request   > nothing @1010 over
          504 abort     > nothing @1010 over
         1010 timeout   > nothing closed",
    );
    assert_eq!(server.retransmits(), 2);
    // At least as long as the peer waits before it repeats its last block.
    Script::receiver(&FIXED, Server("timeout=3")).play(
        "  0 open      > OACK timeout=3 @3000
          10 DATA 1(3) > wrote 3, committed, ACK 1 @3010 Completed over",
    );
}

/// Blocks in the middle of a window don't count as answers, however many there are.
#[test]
fn a_negotiated_timeout_is_kept_exactly_for_the_opening_and_the_first_three_acks() {
    for (options, window) in [("timeout=3", 1), ("timeout=3 windowsize=4", 4)] {
        for answers in 0..=4 {
            let mut server = Script::receiver(&ADAPTIVE, Server(options));
            server.step(0, "open");
            for block in 1..=answers * window {
                server.step(10 * block, &format!("DATA {block}"));
            }
            let silence = server
                .deadline()
                .map(|deadline| deadline - 10 * answers * window);
            // The ACK floor: the sender has a timer of its own.
            let expected = if answers < 4 { 3000 } else { 500 };
            assert_eq!(silence, Some(expected), "{options}, {answers} answers");
        }
    }
}

#[test]
fn a_gap_is_reported_again_though_the_socket_was_full() {
    let mut server = Script::receiver(&FIXED, Server("blksize=8 windowsize=8"));
    server.play(
        "  0 open   > OACK blksize=8 windowsize=8 @500
           1 DATA 1 > wrote 8 @501
           2 full   > nothing @501
           3 DATA 3 > nothing @501
          20 DATA 3 > nothing @501
          21 room   > ACK 1   @521
          40 DATA 4 > ACK 1   @540
          90 DATA 5 > nothing @540",
    );
}

/// A server opens its window like this for an unproved client. No packet was lost, so the
/// client, which dallies longer after a loss, must not count a retransmit.
#[test]
fn an_ack_that_answers_a_tail_probe_is_no_retransmit() {
    let mut client = Script::receiver(&FIXED, Client(WINDOWS));
    client.play(
        "  0 open                          > RRQ blksize=8 windowsize=4 @500
           1 OACK blksize=8 windowsize=4   > ACK 0 @501
           2 DATA 1                        > wrote 8 @502
           8 DATA 1                        > ACK 1 @508
           9 DATA 2                        > wrote 8 @509
          10 DATA 3                        > wrote 8 @510
          16 DATA 3                        > ACK 3 @516",
    );
    assert_eq!(client.retransmits(), 0);
    // Of this window the ACK was lost, of the next one a block.
    client.play(
        "  23 DATA 3 > ACK 3 @523
           24 DATA 5 > ACK 3 @524",
    );
    assert_eq!(client.retransmits(), 2);
}

#[test]
fn dallying_begins_when_the_final_ack_was_sent() {
    // The socket stays full for longer than one wait.
    let mut server = Script::receiver(&FIXED, Server(""));
    server.play(
        "   0 open      > ACK 0   @500
            5 full      > nothing @500
           10 DATA 1(3) > wrote 3, committed @510 Completed over
          510 timeout   > nothing @1510 over
         1510 timeout   > nothing @2510 over
         1600 room      > ACK 1   @2600 over
         2000 DATA 1(3) > ACK 1   @2600 over
         2600 timeout   > nothing closed",
    );
    assert_eq!(server.retransmits(), 1);
    // A due repeat is sent before the transfer is closed.
    Script::receiver(&FIXED, Server("")).play(
        "   0 open      > ACK 0   @500
           10 DATA 1(3) > wrote 3, committed, ACK 1 @1010 Completed over
           20 full      > nothing @1010 over
          900 DATA 1(3) > nothing @1010 over
         1010 timeout   > nothing @2010 over
         1100 room      > ACK 1   @2100 over
         2100 timeout   > nothing closed",
    );
    // If the socket stays full, the transfer is given up.
    let mut server = Script::receiver(&FIXED, Server(""));
    server.play(
        "    0 open      > ACK 0   @500
             5 full      > nothing @500
            10 DATA 1(3) > wrote 3, committed @510 Completed over
           510 timeout   > nothing @1510 over",
    );
    for second in 1..=25 {
        let now = second * 1000 + 510;
        let next = (now + 1000).min(25_860);
        server.play(&format!("{now} timeout > nothing @{next} over"));
    }
    server.play("25860 timeout > nothing closed");
}

#[test]
fn a_block_larger_than_agreed_ends_the_transfer() {
    Script::receiver(&FIXED, Server("blksize=8")).play(
        "  0 open      > OACK blksize=8 @500
          10 DATA 1    > wrote 8, ACK 1 @510
          20 DATA 2(9) > ERROR 4 Failed 4 closed
          30 DATA 2    > nothing closed",
    );
    Script::receiver(&FIXED, Client("blksize=1024")).play(
        "  0 open        > RRQ blksize=1024 @500
          10 DATA 1(513) > ERROR 4 Failed 4 closed",
    );
}

/// On a shared port the block may belong to the client's transfer before this one.
#[test]
fn a_late_block_of_another_size_does_not_end_a_transfer() {
    Script::receiver(&UNPROVED, Server("")).play(
        "  0 open         > ACK 0 @500
          10 DATA 3(1024) > nothing @500
          20 DATA 1       > wrote 512, ACK 1 @520
          30 DATA 3(1024) > nothing @520
          40 DATA 2(1024) > ERROR 4 Failed 4 closed",
    );
    Script::receiver(&FIXED, Server("")).play(
        "  0 open         > ACK 0 @500
          10 DATA 3(1024) > ERROR 4 Failed 4 closed",
    );
    Script::receiver(&UNPROVED, Server(WINDOWS)).play(
        "  0 open      > OACK blksize=8 windowsize=4 @500
          10 DATA 5(9) > nothing @500
          20 DATA 4(9) > ERROR 4 Failed 4 closed",
    );
}

#[test]
fn what_cannot_be_stored_ends_the_transfer_with_one_error() {
    Script::receiver(&FIXED, Server("")).play(
        "   0 open      > ACK 0 @500
           10 DATA 1    > wrote 512, ACK 1 @510
           20 disk full > nothing @510
           30 DATA 2    > ERROR 3 Failed 3 closed
           40 DATA 2    > nothing closed
          530 timeout   > nothing closed",
    );
    // No final ACK before the file has its final name.
    Script::receiver(&FIXED, Server("")).play(
        "  0 open       > ACK 0 @500
          10 disk stuck > nothing @500
          20 DATA 1(3)  > wrote 3, ERROR 6 Failed 6 closed
          30 DATA 1(3)  > nothing closed",
    );
}

#[test]
fn an_abort_sends_one_error_and_awaits_no_answer() {
    // RFC 1350 §7: an ERROR is neither acknowledged nor retransmitted.
    for (role, open) in [
        (Server(""), "ACK 0"),
        (Server("blksize=8"), "OACK blksize=8"),
        (Client(""), "RRQ"),
    ] {
        Script::receiver(&FIXED, role).play(&format!(
            "   0 open    > {open}  @500
               10 abort   > ERROR 0 Failed 0 closed
               20 abort   > nothing closed
              100 request > nothing closed
              500 timeout > nothing closed"
        ));
    }
}

#[test]
fn a_full_socket_is_offered_the_latest_ack() {
    Script::receiver(&FIXED, Server("blksize=8 windowsize=2")).play(
        "  0 open   > OACK blksize=8 windowsize=2 @500
          10 full   > nothing         @500
          20 DATA 1 > wrote 8         @520
          30 DATA 2 > wrote 8         @530
          40 DATA 3 > wrote 8         @540
          50 room   > ACK 3           @550
          60 DATA 4 > wrote 8         @560
          70 DATA 5 > wrote 8, ACK 5  @570",
    );
}

// --- options -----------------------------------------------------------------------

#[test]
fn the_client_keeps_to_the_answer() {
    // RFC 2348, 7440: the server may grant less.
    Script::receiver(&FIXED, Client("blksize=1024 windowsize=4")).play(
        "  0 open           > RRQ blksize=1024 windowsize=4 @500
          10 OACK blksize=8 > ACK 0 @510
          20 OACK blksize=8 > ACK 0 @520
          30 DATA 1         > wrote 8, ACK 1 @530
          40 OACK blksize=8 > nothing @530",
    );
    for refused in ["blksize=2048", "windowsize=5", "windowsize=0", "rollover=1"] {
        Script::receiver(&FIXED, Client("blksize=1024 windowsize=4")).play(&format!(
            "  0 open           > RRQ blksize=1024 windowsize=4 @500
              10 OACK {refused} > ERROR 8 Failed 8 closed
              20 OACK           > nothing closed"
        ));
    }
}

#[test]
fn an_agreed_timeout_is_kept() {
    // RFC 2349: in seconds; it replaces the configured wait.
    Script::receiver(&ADAPTIVE, Client("timeout=3")).play(
        "   0 open           > RRQ timeout=3 @1000
           10 OACK timeout=3 > ACK 0 @3010
         3010 timeout        > ACK 0 @9010
         3020 DATA 1         > wrote 512, ACK 1 @6020",
    );
}

#[test]
fn an_adaptive_wait_follows_what_blocks_measure() {
    // RFC 6298: the first wait is round trip + 4 × half of it, here 3 × 100 ms.
    Script::receiver(&ADAPTIVE, Server("")).play(
        "   0 open    > ACK 0 @1000
          100 DATA 1  > wrote 512, ACK 1 @600
          200 DATA 2  > wrote 512, ACK 2 @700
          700 timeout > ACK 2 @1700
          750 DATA 3  > wrote 512, ACK 3 @1750
         1750 timeout > ACK 3 @3750",
    );
    Script::receiver(&ADAPTIVE, Client("blksize=8")).play(
        "    0 open           > RRQ blksize=8 @1000
          1000 timeout        > RRQ blksize=8 @3000
          1100 OACK blksize=8 > ACK 0 @2100",
    );
    Script::receiver(&ADAPTIVE, Client("blksize=8")).play(
        "   0 open           > RRQ blksize=8 @1000
          100 OACK blksize=8 > ACK 0 @600",
    );
    // Blocks within a window come sooner after each other than an answer would: they measure
    // nothing.
    Script::receiver(&ADAPTIVE, Server("windowsize=3")).play(
        "   0 open    > OACK windowsize=3 @1000
          100 DATA 1  > wrote 512        @600
          101 DATA 2  > wrote 512        @601
          102 DATA 3  > wrote 512, ACK 3 @602",
    );
}
