//! Anything at all in anybody's name: the input is a script of forged datagrams, played to
//! the simulated server in any mode (`tests/simulation/forging`). An address that never
//! answered gets no more than promised, and honest clients beside it finish.
#![no_main]

#[allow(dead_code)]
#[path = "../../simulation/faults.rs"]
mod faults;
#[allow(dead_code)]
#[path = "../../simulation/files.rs"]
mod files;
#[path = "../../simulation/forging/mod.rs"]
mod forging;
#[allow(dead_code)]
#[path = "../../simulation/network.rs"]
mod network;
#[allow(dead_code)]
#[path = "../../simulation/port.rs"]
mod port;
#[path = "../../simulation/server.rs"]
mod server;
#[allow(dead_code)]
#[path = "../../simulation/weather.rs"]
mod weather;

use libfuzzer_sys::fuzz_target;

/// Writes the known attacks, each script to a file, if `FORGING_SEEDS` names a directory.
fn write_seeds() {
    let Some(directory) = std::env::var_os("FORGING_SEEDS") else {
        return;
    };
    for (attack, scripts) in forging::seeds::ALL {
        for (number, script) in scripts().iter().enumerate() {
            let name = format!("{}-{number}", attack.replace([' ', ',', '\''], "-"));
            let file = std::path::Path::new(&directory).join(name);
            std::fs::write(file, script).expect("a directory to write to");
        }
    }
}

fuzz_target!(
    init: write_seeds(),
    |input: &[u8]| {
        forging::play(input);
    }
);
