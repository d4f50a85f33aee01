//! Any bytes as a datagram: parsing never panics, and a parsed packet keeps its meaning
//! when we write and parse it again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tftpd::wire::packet::{Packet, Request, emit_ack, emit_data_header, emit_error, emit_request};

fuzz_target!(|datagram: &[u8]| {
    let Ok(packet) = Packet::parse(datagram) else {
        return;
    };
    // A packet is logged in one line.
    let shown = packet.to_string();
    assert!(!shown.chars().any(char::is_control), "{shown:?}");

    match packet {
        Packet::Request(request) => request_comes_back(&request),
        Packet::Data { block, payload } => {
            let emitted = [&emit_data_header(block), payload].concat();
            assert_eq!(emitted, datagram);
        }
        Packet::Ack(block) => assert_eq!(emit_ack(block), datagram[..4]),
        Packet::Error { code, message } => {
            // Our messages are text, and short.
            let Ok(text) = str::from_utf8(message) else {
                return;
            };
            let mut emitted = [0; 512];
            let len = emit_error(code, text, &mut emitted);
            let again = Packet::parse(&emitted[..len]);
            assert!(matches!(again, Ok(Packet::Error { code: c, message: m })
                    if c == code && (m == message || message.starts_with(m) && m.len() > 250)));
        }
        Packet::Oack(_) => {}
    }
});

fn request_comes_back(request: &Request<'_>) {
    // Option names and values may be any bytes; what we send is text.
    let options: Option<Vec<_>> = request
        .options
        .pairs()
        .map(|(name, value)| Some((str::from_utf8(name).ok()?, str::from_utf8(value).ok()?)))
        .collect();
    let Some(options) = options else { return };
    // Writing adds a missing NUL.
    let mut emitted = vec![0; 2048];
    let Ok(len) = emit_request(
        request.direction,
        request.filename,
        request.mode,
        options.iter().copied(),
        &mut emitted,
    ) else {
        return;
    };
    let Ok(Packet::Request(again)) = Packet::parse(&emitted[..len]) else {
        panic!("{request:?} doesn't come back");
    };
    assert_eq!(again.direction, request.direction);
    assert_eq!(again.filename, request.filename);
    assert_eq!(again.mode, request.mode);
    assert!(again.options.pairs().eq(request.options.pairs()));
}
