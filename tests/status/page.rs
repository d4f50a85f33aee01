//! The status page in a real browser, while 500 clients move, stall and fail.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::browser::Browser;
use crate::common::*;
use crate::status_of;

/// The numbers of clients that go on, stall, give up, or ask for a missing file.
const MOVING: usize = 300;
const STALLED: usize = 100;
const FAILING: usize = 50;
const LOST: usize = 50;

const SIZE: usize = 600 * BLOCK;

/// A client that goes on: each step acknowledges what has come.
struct Mover {
    client: RawClient,
    tid: SocketAddr,
    /// The block after which it is done.
    end: u16,
    last: u16,
}

impl Mover {
    fn step(&mut self) {
        while let Some((packet, _)) = self.client.recv_now() {
            if let Some(number) = packet.data_block() {
                self.last = number;
            }
        }
        if self.last < self.end {
            self.client.send_to(&ack(self.last), self.tid);
        }
    }
}

/// Fills a server with files and starts all the clients.
fn crowd(server: &Server) -> (Vec<Mover>, Vec<RawClient>) {
    let names = [
        "pxelinux.0",
        "boot/vmlinuz-6.1.0-amd64",
        "boot/initrd.img",
        "cisco/c2960.bin",
        "images/openwrt-sysupgrade.bin",
    ];
    for (index, name) in names.iter().enumerate() {
        server.file(name, &content(index as u64, SIZE));
    }
    server.file("short", &content(9, 20 * BLOCK));
    let ask = |index: usize, name: &str, options: &[(&str, &str)]| {
        let client = RawClient::new(server);
        let (_, tid) = client.ask_patiently(&rrq(name, options));
        Mover {
            client,
            tid,
            end: if name == "short" {
                u16::MAX
            } else {
                590 + (index % 5) as u16
            },
            last: 0,
        }
    };
    let tsize = [("tsize", "0"), ("timeout", "60")];
    let upload = RawClient::new(server);
    let (_, tid) = upload.ask_patiently(&wrq("switch7-confg", &[("tsize", "40000")]));
    for number in 1..=50 {
        upload.say(&data(number, &[b'!'; BLOCK]), tid);
    }
    let mut movers: Vec<_> = (0..MOVING)
        .map(|index| {
            ask(
                index,
                if index % 4 == 0 {
                    "short"
                } else {
                    names[index % 5]
                },
                &tsize,
            )
        })
        .collect();
    let mut stalled = vec![upload];
    for index in 0..STALLED {
        let mut mover = ask(index, names[index % 5], &tsize);
        mover.step();
        stalled.push(mover.client);
    }
    const { assert!(FAILING == LOST) };
    for index in 0..FAILING {
        let mut mover = ask(index, names[index % 5], &tsize);
        mover.step();
        let _ = mover.client.expect();
        mover.client.send_to(&error(3, "flash is full"), mover.tid);
        let client = RawClient::new(server);
        let name = format!("BOOT/<b>vmlinuz</b>-{index}");
        client.ask(&rrq(if index % 2 == 0 { "PXELINUX.0" } else { &name }, &[]));
    }
    for name in ["boot", "PXELINUX.0", "tftpboot/cisco/c2960.bin"] {
        RawClient::new(server).ask(&rrq(name, &[]));
    }
    movers.iter_mut().for_each(Mover::step);
    (movers, stalled)
}

/// Writes a screenshot to the directory `STATUS_SCREENSHOTS`, if that is set.
fn shoot(browser: &Browser, name: &str) {
    let Some(folder) = std::env::var_os("STATUS_SCREENSHOTS") else {
        return;
    };
    let text = Path::new(&folder).join(format!("{name}.b64"));
    fs::write(&text, browser.screenshot()).expect("a place for it");
    let image = fs::File::create(text.with_extension("png")).expect("a place for it");
    let decoded = Command::new("base64")
        .arg("-d")
        .arg(&text)
        .stdout(image)
        .status();
    assert!(decoded.expect("base64").success());
}

#[test]
fn the_page_shows_500_transfers_in_a_browser() {
    let mut server = Server::start(&["--status", "127.0.0.1:0", "--grace", "0"]);
    let status = status_of(&server);
    let (browser, (mut movers, stalled)) = thread::scope(|scope| {
        let browser = scope.spawn(Browser::start);
        let crowd = crowd(&server);
        (browser.join().expect("a browser"), crowd)
    });
    let Some(browser) = browser else {
        return;
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                movers.iter_mut().for_each(Mover::step);
                thread::sleep(millis(15));
            }
        });
        let stop_movers = StopOnDrop(&stop);
        browser.open(&format!("http://{status}/"));
        look(&browser, &server);
        drop(stop_movers);
    });
    // The server stops, and another starts on the same port.
    server.signal(Signal::SIGTERM);
    server.wait_exit(PATIENCE).expect("it ends");
    browser.wait_for("!document.getElementById('gone').hidden");
    let _ = browser.console();
    let place = status.to_string();
    let _again = Server::start(&["--status", &place]);
    browser.wait_for("document.getElementById('gone').hidden && state.textContent === 'serving'");
    drop(stalled);
}

/// Stops the clients even if an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn look(browser: &Browser, server: &Server) {
    // The bars move.
    browser.resize(1440, 1600);
    browser.wait_for("document.querySelectorAll('#live li').length === 200");
    browser.run(
        "window.bars = () => [...document.querySelectorAll('#live progress')]
             .reduce((sum, bar) => sum + bar.value, 0);
         window.seen = bars()",
    );
    browser.wait_for("bars() > seen");
    // Ended transfers are listed with their outcome, failures on top with a hint.
    browser.wait_for(
        "[...document.querySelectorAll('#ended .name')].some(it => it.innerText.includes('short'))",
    );
    browser.wait_for("document.querySelectorAll('#failed li').length === 5");
    browser.wait_for(
        "document.querySelector('#failed').getBoundingClientRect().top \
                      < document.querySelector('#live').getBoundingClientRect().top",
    );
    browser.run("document.getElementById('all').click()");
    browser.wait_for(
        "failed.innerText.includes('flash is full') && failed.innerText.includes('did you mean')",
    );
    browser.wait_for("failed.innerText.includes('<b>vmlinuz</b>')");
    browser.run("document.getElementById('all').click()");
    if std::env::var_os("STATUS_SCREENSHOTS").is_some() {
        // Wait until there is a curve.
        thread::sleep(20 * millis(1000));
    }
    browser.resize(1200, 860);
    shoot(browser, "readme");
    for (width, height) in [(1440, 1200), (360, 1400)] {
        browser.resize(width, height);
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            // Wait until curve and bars have adapted.
            browser.wait_for("document.documentElement.scrollWidth <= innerWidth");
            shoot(browser, &format!("{scheme}-{width}"));
        }
    }
    // The filter from the keyboard, by name and by client.
    browser.run(
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: '/', bubbles: true}));
         window.type = text => { document.activeElement.value = text;
             document.activeElement.dispatchEvent(new Event('input')); }",
    );
    assert_eq!(browser.run("return document.activeElement.id"), "filter");
    browser.run("type('C2960')");
    browser.wait_for(
        "[...document.querySelectorAll('li .name')].every(it => it.innerText.includes('c2960'))",
    );
    assert_ne!(browser.run("return live.children.length"), 0);
    let running = server
        .log_lines()
        .into_iter()
        .find(|line| line.contains("file=\"short\""));
    let line = running.expect("one has ended");
    let peer = line
        .split(' ')
        .find_map(|it| it.strip_prefix("peer="))
        .expect("a peer");
    browser.run(&format!("type('{peer}')"));
    browser.wait_for("live.children.length + ended.children.length === 1");
    browser.run("type('')");
    browser.wait_for("live.children.length === 200");
    let console = browser.console();
    assert!(console.is_empty(), "{console:?}");
}
