//! `--keep-versions`: the last versions stay, whatever happens meanwhile.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Command;

use super::*;
use tftpd::file::Policy;

#[test]
fn the_last_versions_are_kept_and_the_newest_has_the_highest_number() {
    for_each_method(keeping(2, None), |path, root| {
        let mut wanted = vec![];
        for number in 0..12 {
            put(root, "f", format!("content {number}").as_bytes()).unwrap();
            put(root, "f.txt", b"another file").unwrap_or_default();
            wanted.insert(0, format!("content {number}").into_bytes());
            wanted.truncate(3);
            let mut there = files(path);
            there.retain(|name, _| !name.starts_with("f.txt"));
            assert_eq!(there.get("f"), wanted.first());
            for (age, content) in wanted.iter().enumerate().skip(1) {
                let name = format!("f.~{}~", number + 1 - age);
                assert_eq!(there.get(&name), Some(content), "{name}");
            }
            assert_eq!(there.len(), wanted.len());
        }
        assert!(root.open_read(b"f.~11~").is_ok());
    });
}

#[test]
fn versions_are_named_after_the_time_they_were_written() {
    for_each_method(keeping(3, Some("%Y-%m-%dT%H%M%S")), |path, root| {
        let written_at = |seconds| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            let file = fs::File::options()
                .write(true)
                .open(path.join("f"))
                .unwrap();
            file.set_modified(time).unwrap();
        };
        // The nights of 26 and 27 November 2026, two uploads in one second, and one with
        // a clock that is far behind.
        let nights = [1_795_659_300, 1_795_745_700, 1_795_745_700, 86_399];
        for (number, seconds) in (0..).zip(nights) {
            put(root, "f", &[number]).unwrap();
            written_at(seconds);
        }
        put(root, "f", &[4]).unwrap();
        let kept: Vec<_> = files(path).into_iter().collect();
        let wanted = [
            ("f", 4),
            // Replaced last: it is kept, whatever its time.
            ("f.1970-01-01T235959", 3),
            ("f.2026-11-27T021500", 1),
            ("f.2026-11-27T021500-1", 2),
        ];
        let wanted = wanted.map(|(name, byte)| (name.to_owned(), vec![byte]));
        assert_eq!(kept, wanted);
    });
}

#[test]
fn no_upload_takes_the_name_of_a_version() {
    for overwrite in [false, true] {
        let policy = Policy {
            overwrite,
            ..keeping(2, None)
        };
        for_each_method(policy, |path, root| {
            for content in [b"one", b"two"] {
                put(root, "f", content).unwrap();
            }
            for name in ["f.~1~", "f.~9~", "new.~1~"] {
                let refused = message(put(root, name, b"evil"));
                assert_eq!(
                    refused, "Access violation: name of an old version",
                    "{name}"
                );
            }
            assert_eq!(names(path), ["f", "f.~1~"]);
            assert_eq!(fs::read(path.join("f.~1~")).unwrap(), b"one");
            // Only names that the server would give a version are refused.
            put(root, "f.2026-11-27", b"x").unwrap();
            let long = "x".repeat(250);
            let refused = message(put(root, &long, b"x"));
            assert!(refused.contains("too long"), "{refused}");
        });
    }
}

/// Existing entries aren't overwritten, and only files are kept as versions.
#[test]
fn a_version_never_takes_the_place_of_anything() {
    for_each_method(keeping(5, None), |path, root| {
        fs::create_dir(path.join("f.~3~")).unwrap();
        put(root, "f", b"one").unwrap();
        put(root, "f", b"two").unwrap();
        assert_eq!(fs::read(path.join("f.~4~")).unwrap(), b"one");
        fs::create_dir(path.join("d")).unwrap();
        symlink("f", path.join("l")).unwrap();
        for name in ["d", "l"] {
            assert!(put(root, name, b"x").is_err(), "{name}");
        }
        // Nor something that was put there during the upload.
        let upload = begun(root, "late");
        fs::create_dir(path.join("late")).unwrap();
        assert!(upload.commit().is_err());
        assert_eq!(names(path), ["d/", "f", "f.~3~/", "f.~4~", "l", "late/"]);
    });
}

#[test]
fn two_uploads_at_once_are_two_versions() {
    for_each_method(keeping(9, None), |path, root| {
        put(root, "f", b"old").unwrap();
        let (mut one, mut other) = (begun(root, "f"), begun(root, "f"));
        one.write_at(0, b"one!").unwrap();
        other.write_at(0, b"two!").unwrap();
        other.commit().unwrap();
        one.commit().unwrap();
        let contents: Vec<_> = files(path).into_values().collect();
        assert_eq!(contents, [&b"one!"[..], b"old", b"two!"]);
    });
}

/// Looking for versions among so many names takes time, of which each client network gets
/// a share. If there are too many names, the upload is refused.
#[test]
fn among_a_hundred_thousand_names_versions_are_kept_or_the_upload_is_refused() {
    let mut base = None;
    let address = own_address().to_string();
    let args = [&NEVER[..], &["-a", &*address, "--keep-versions", "2"]].concat();
    let server = Server::start_prepared(&args, |dir| {
        // On a file system in memory, where that takes less than a second.
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let memory = memory.unwrap();
        fs::remove_dir(dir.join("root")).unwrap();
        symlink(memory.path(), dir.join("root")).unwrap();
        base = Some(memory);
        Command::new(tftpd())
    });
    let base = base.unwrap();
    let fill = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            fs::File::create(base.path().join(number.to_string())).unwrap();
        }
    };
    fill(0..65_000);
    for content in [b"1", b"2", b"3", b"4"] {
        let client = RawClient::new(&server);
        let (answer, tid) = client.ask_patiently(&wrq("f", &[]));
        assert_eq!(answer, Packet::Ack(0));
        assert_eq!(client.say(&data(1, content), tid), Packet::Ack(1));
    }
    for (name, content) in [("f", b"4"), ("f.~3~", b"3"), ("f.~2~", b"2")] {
        assert_eq!(fs::read(base.path().join(name)).unwrap(), content);
    }
    assert!(!base.path().join("f.~1~").exists());
    // After many uploads at once the network's next one has to wait; other networks don't.
    // If a busy machine spreads these over more than a second, more follow.
    let is_told = |line: &str| line.contains("too much work");
    let patience = std::time::Instant::now() + PATIENCE;
    loop {
        let begun: Vec<_> = (0..8)
            .map(|_| {
                let client = RawClient::new(&server);
                let (_, tid) = client.ask_patiently(&wrq("f", &[]));
                (client, tid)
            })
            .collect();
        for (client, tid) in &begun {
            client.send_to(&data(1, b"4"), *tid);
        }
        for (client, tid) in &begun {
            assert_eq!(client.expect_from(*tid), Packet::Ack(1));
        }
        let client = RawClient::new(&server);
        client.send(&wrq("f", &[]));
        if server.wait_for_log(is_told, millis(500)).is_some() {
            break;
        }
        let is_late = std::time::Instant::now() > patience;
        assert!(!is_late, "none of them has to wait");
    }
    let other = RawClient::at(Ipv4Addr::new(127, 9, 8, 7), server.addr());
    assert_eq!(other.read("f"), Ok(b"4".to_vec()));
    fill(65_000..100_000);
    let client = RawClient::new(&server);
    let (_, tid) = client.ask_patiently(&wrq("f", &[]));
    let Packet::Error(0, text) = client.say(&data(1, b"5"), tid) else {
        panic!("stored");
    };
    assert!(text.contains("Too many files"), "{text}");
    assert_eq!(fs::read(base.path().join("f")).unwrap(), b"4");
}

/// The keys of transfers, and conflicts of names, are the same in these modes.
#[test]
fn netascii_ipv6_and_a_single_port_keep_versions_too() {
    let args = [
        "-a",
        "::1",
        "--single-port",
        "--keep-versions",
        "3",
        "--create-dirs",
    ];
    let server = Server::start_bare(&args);
    let client = || RawClient::new(&server);
    for text in [&b"one\r\n"[..], b"two\r\n"] {
        let request = request(2, b"sub/f", "netascii", &[]);
        client().write_with(&request, text, BLOCK, 1, 0).unwrap();
    }
    let stored = files(&server.root().join("sub"));
    assert_eq!(
        (&*stored["f"], &*stored["f.~1~"]),
        (&b"two\n"[..], &b"one\n"[..])
    );
    assert_eq!(
        fs::metadata(server.root().join("sub/f")).unwrap().nlink(),
        1
    );
}
