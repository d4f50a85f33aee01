//! A status port for each worker (`--workers`): it shows what that worker does, and nobody
//! who asks there notices that one process follows another.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// A server with as many workers as ports, all ready.
fn start_workers(count: u16, args: &[&str]) -> (Server, Vec<SocketAddr>) {
    let first = own_port();
    let nth = |it| SocketAddr::new(first.ip(), first.port() + it);
    let (workers, status) = (count.to_string(), first.to_string());
    let server = Server::start(&[&["--workers", &workers, "--status", &status], args].concat());
    wait_up(&server, 1);
    (server, (0..count).map(nth).collect())
}

/// Waits until all processes have been ready for the nth time.
#[track_caller]
fn wait_up(server: &Server, nth: usize) {
    wait_lines(server, "serving with ", nth);
}

#[track_caller]
fn wait_lines(server: &Server, text: &str, count: usize) {
    let seen = server.wait_for_lines(text, count);
    assert!(seen, "{count} times {text:?}: {:#?}", server.log_lines());
}

/// The process that was ready last as this worker.
fn process(server: &Server, worker: usize) -> Pid {
    let start = format!("worker {worker}: process ");
    let ready = |line: &String| {
        let pid = line.split_once(&start)?.1.strip_suffix(" is ready")?;
        pid.parse().ok().map(Pid::from_raw)
    };
    let lines = server.log_lines();
    lines.iter().rev().find_map(ready).expect("a process")
}

fn metrics(status: SocketAddr) -> String {
    get(status, "/metrics")
}

/// When the process that answers was started.
fn started(status: SocketAddr) -> f64 {
    metric(&metrics(status), "process_start_time_seconds")
}

/// Reads what comes until the other end closes.
fn rest(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

const ASK_HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: anything\r\n\r\n";
const ASK_METRICS: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn each_worker_shows_its_own_transfers_on_a_port_of_its_own() {
    let (server, ports) = start_workers(2, &[]);
    server.file("f", &content(1, 3 * BLOCK));
    for _ in 0..16 {
        let client = RawClient::new(&server);
        client.read("f").expect("a file");
        server.wait_ended(client.addr(), 1);
    }
    let lines = server.log_lines();
    for (worker, &status) in (1..).zip(&ports) {
        let writer = format!(" tftpd[{}] ", process(&server, worker));
        let own: Vec<_> = lines.iter().filter(|it| it.contains(&writer)).collect();
        let place = format!("status on http://{status}/");
        assert!(own.iter().any(|it| it.ends_with(&place)), "{lines:#?}");
        let ended = own.iter().filter(|it| it.contains(" ended ")).count();
        // The kernel spreads the clients.
        assert!((1..16).contains(&ended), "{lines:#?}");
        let completed = "tftpd_transfers_total{direction=\"read\",outcome=\"completed\"}";
        assert_eq!(metric(&metrics(status), completed) as usize, ended);
        assert_eq!(get(status, "/healthz"), "serving\n");
    }
}

/// Ends the threads that look at it, even if the test fails meanwhile.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn upgrades_under_load_refuse_no_scrape() {
    let (server, ports) = start_workers(2, &[]);
    let file = content(2, 2 * BLOCK + 9);
    server.file("f", &file);
    let begun: Vec<_> = ports.iter().map(|&it| started(it)).collect();
    let (is_over, scrapes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = server.addr();
    thread::scope(|scope| {
        let over = Over(&is_over);
        let mut threads = Vec::new();
        for status in ports.iter().copied() {
            let (is_over, scrapes) = (&is_over, &scrapes);
            threads.push(scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(metrics(status).contains("tftpd_sessions "));
                    assert_eq!(get(status, "/healthz"), "serving\n");
                    scrapes.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        threads.push(scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let got = RawClient::to(address).read("f").expect("a file");
                assert_same("a download", &got, &file);
            }
        }));
        for nth in 2..=4 {
            let before = scrapes.load(Ordering::Relaxed);
            server.signal(Signal::SIGUSR2);
            wait_up(&server, nth);
            let deadline = Instant::now() + PATIENCE;
            while scrapes.load(Ordering::Relaxed) < before + 20 && Instant::now() < deadline {
                thread::yield_now();
            }
        }
        drop(over);
        let failed = threads.into_iter().filter_map(|it| it.join().err()).count();
        assert_eq!(failed, 0, "a scrape or a download has failed");
    });
    let scrapes = scrapes.into_inner();
    assert!(scrapes >= 60, "{scrapes} scrapes");
    for (status, begun) in ports.into_iter().zip(begun) {
        assert!(started(status) > begun, "an old process answers");
    }
}

#[test]
fn while_an_old_process_finishes_its_transfers_the_new_one_answers() {
    let (server, ports) = start_workers(1, &NEVER);
    let status = ports[0];
    server.file("f", &content(3, BLOCK + 1));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    let text = metrics(status);
    let begun = metric(&text, "process_start_time_seconds");
    assert_eq!(metric(&text, "tftpd_sessions") as usize, 1);
    server.signal(Signal::SIGUSR2);
    wait_up(&server, 2);
    wait_lines(&server, "another process takes over", 1);
    for _ in 0..50 {
        let text = metrics(status);
        assert!(metric(&text, "process_start_time_seconds") > begun);
        assert_eq!(metric(&text, "tftpd_sessions") as usize, 0);
        assert_eq!(metric(&text, "tftpd_draining") as usize, 0);
    }
    assert_eq!(client.say(&ack(1), tid).data_block(), Some(2));
    client.send_to(&ack(2), tid);
    wait_lines(&server, "has finished", 1);
    assert_eq!(get(status, "/healthz"), "serving\n");
}

#[test]
fn a_process_that_is_replaced_answers_whom_it_has_accepted() {
    let (server, ports) = start_workers(1, &[]);
    let begun = started(ports[0]);
    let connected = Instant::now();
    let mut early = TcpStream::connect(ports[0]).expect("a connection");
    // It has its turn after the one before.
    assert_eq!(get(ports[0], "/healthz"), "serving\n");
    server.signal(Signal::SIGUSR2);
    wait_lines(&server, "another process takes over", 1);
    // It waits 5 s for a request.
    if connected.elapsed() < Duration::from_secs(4) {
        early.write_all(ASK_METRICS).expect("it is read");
        let answer = rest(&mut early);
        let by = metric(&answer, "process_start_time_seconds");
        assert!(by <= begun, "{by}, not {begun}");
    }
    wait_lines(&server, "has finished", 1);
}

#[test]
fn who_asks_where_a_worker_was_killed_waits_for_the_next() {
    let (server, ports) = start_workers(2, &[]);
    let begun: Vec<_> = ports.iter().map(|&it| started(it)).collect();
    let victim = process(&server, 2);
    kill(victim, Signal::SIGKILL).expect("it lives");
    wait_lines(&server, &format!("process {victim} has ended"), 1);
    assert!(started(ports[1]) > begun[1], "a new process");
    assert!(started(ports[0]) <= begun[0], "the old one");
}

#[test]
fn the_port_of_a_worker_that_has_ended_is_closed_while_another_drains() {
    let args = [&["--grace", "20"][..], &NEVER].concat();
    let (mut server, ports) = start_workers(2, &args);
    server.file("f", &content(4, BLOCK + 1));
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_data(&rrq("f", &[]));
    let is_busy = |&it: &SocketAddr| metric(&metrics(it), "tftpd_sessions") > 0.0;
    let (busy, idle): (Vec<_>, Vec<_>) = ports.into_iter().partition(is_busy);
    server.signal(Signal::SIGTERM);
    wait_lines(&server, "stopping; ", 2);
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(idle[0]).is_ok() {
        assert!(Instant::now() < deadline, "nobody answers there any more");
        thread::yield_now();
    }
    let answer = exchange(busy[0], ASK_HEALTH);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(client.say(&ack(1), tid).data_block(), Some(2));
    client.send_to(&ack(2), tid);
    assert!(server.wait_exit(PATIENCE).is_some_and(|it| it.success()));
    assert!(TcpStream::connect(busy[0]).is_err());
}

#[test]
fn with_port_0_each_worker_has_one_for_as_long_as_the_server_runs() {
    let server = Server::start(&["--workers", "2", "--status", "127.0.0.1:0"]);
    wait_up(&server, 1);
    server.signal(Signal::SIGUSR2);
    wait_up(&server, 2);
    let lines = server.log_lines();
    let place = |line: &String| {
        let (_, place) = line.split_once("status on http://")?;
        place.trim_end_matches('/').parse().ok()
    };
    let told: Vec<SocketAddr> = lines.iter().filter_map(place).collect();
    let ports: BTreeSet<_> = told.iter().collect();
    assert_eq!((told.len(), ports.len()), (4, 2), "{lines:#?}");
    for port in ports {
        assert_eq!(get(*port, "/healthz"), "serving\n");
    }
}

#[test]
fn a_port_or_a_socket_that_is_taken_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = own_port();
    let second = SocketAddr::new(first.ip(), first.port() + 1);
    let _taken = TcpListener::bind(second).expect("a free port");
    let path = dir.path().join("status");
    let other = dir.path().join("status.2");
    let _also = UnixListener::bind(&other).expect("a free name");
    for (given, taken) in [
        (first.to_string(), second.to_string()),
        (path.display().to_string(), other.display().to_string()),
    ] {
        let output = bounded(10, tftpd())
            .args(["--workers", "2", "-p", "0", "-a", "127.0.0.1", "--status"])
            .arg(&given)
            .arg(dir.path())
            .output()
            .expect("timeout(1)");
        let told = String::from_utf8_lossy(&output.stderr);
        let is_one = told.lines().count() == 1;
        assert!(output.status.code() == Some(1) && is_one, "{told}");
        assert!(told.contains(&format!("listen on {taken} for")), "{told}");
        assert!(told.contains("stop the server that has it"), "{told}");
    }
    // What was there before that is put away again.
    assert!(!path.exists() && other.exists());
}

#[test]
fn sockets_of_workers_are_the_users_and_are_removed_at_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let paths = ["status", "status.2"].map(|it| dir.path().join(it));
    // A server that was killed has left this behind.
    drop(UnixListener::bind(&paths[1]).expect("a socket"));
    let place = paths[0].to_str().expect("text");
    let is_root = nix::unistd::geteuid().is_root();
    let as_other: &[&str] = if is_root {
        &["-u", "12345:54321", "--chroot"]
    } else {
        &[]
    };
    let args = [&["--workers", "2", "--status", place], as_other].concat();
    let mut server = Server::start(&args);
    wait_up(&server, 1);
    for nth in [2, 3] {
        for path in &paths {
            let mut stream = UnixStream::connect(path).expect("a connection");
            stream.write_all(ASK_HEALTH).expect("it is read");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert!(answer.ends_with("\r\n\r\nserving\n"), "{answer}");
            let socket = path.symlink_metadata().expect("it is there");
            let owner = (socket.uid(), socket.gid());
            assert!(!is_root || owner == (12345, 54321), "{owner:?}");
        }
        server.signal(Signal::SIGUSR2);
        wait_up(&server, nth);
    }
    server.signal(Signal::SIGTERM);
    server.wait_exit(PATIENCE).expect("it ends");
    assert!(!paths.iter().any(|it| it.exists()));
}
