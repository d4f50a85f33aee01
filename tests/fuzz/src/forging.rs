//! Anything at all in anybody's name: the input is a script of forged datagrams,
//! played to the simulated server in any mode (`tests/simulation/forging.rs`). What
//! an address gets that never answered stays below what is promised, and honest
//! clients beside it finish.
#![no_main]

#[allow(dead_code)]
#[path = "../../simulation/faults.rs"]
mod faults;
#[allow(dead_code)]
#[path = "../../simulation/files.rs"]
mod files;
#[path = "../../simulation/forging.rs"]
mod forging;
#[allow(dead_code)]
#[path = "../../simulation/network.rs"]
mod network;
#[allow(dead_code)]
#[path = "../../simulation/port.rs"]
mod port;
#[allow(dead_code)]
#[path = "../../simulation/weather.rs"]
mod weather;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    forging::play(input);
});
