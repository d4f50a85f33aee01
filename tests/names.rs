//! Names and other odd bytes in requests to the real binary: read leniently, confined
//! strictly, logged harmlessly.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::*;
use nix::unistd::geteuid;

#[test]
fn names_are_read_leniently() {
    let server = Server::start(&NEVER);
    server.file("hello.txt", b"hello");
    server.file("sub/dir/nested.bin", b"nested");
    server.file("with space", b"space");
    symlink("hello.txt", server.root().join("link")).unwrap();
    let root = server.root().canonicalize().unwrap();
    let root = root.to_str().unwrap();
    let prefixed = format!("{root}/sub/dir/nested.bin");
    let cases: [(&[u8], &[u8]); 13] = [
        (b"hello.txt", b"hello"),
        (b"/hello.txt", b"hello"),
        (b"//hello.txt", b"hello"),
        (b"./hello.txt", b"hello"),
        (b"\\hello.txt", b"hello"),
        (b"sub\\dir\\nested.bin", b"nested"),
        (b"\\sub\\dir/nested.bin", b"nested"),
        (b"sub/../hello.txt", b"hello"),
        (b"link", b"hello"),
        (b"with space", b"space"),
        (b"hello.txt\xff", b"hello"),
        (b"hello.txt\xff\xff\xff", b"hello"),
        (prefixed.as_bytes(), b"nested"),
    ];
    for (name, wanted) in cases {
        let client = RawClient::new(&server);
        let (payload, _) = client.ask_data(&request(1, name, "octet", &[]));
        assert_eq!(payload, wanted, "{}", String::from_utf8_lossy(name));
    }
    // Names are bytes, not text.
    let odd = OsStr::from_bytes(b"odd\xfename");
    fs::write(server.root().join(odd), b"odd").unwrap();
    let (payload, _) = RawClient::new(&server).ask_data(&request(1, b"odd\xfename", "octet", &[]));
    assert_eq!(payload, b"odd");
}

#[test]
fn a_name_that_ends_in_a_slash_is_a_directory() {
    let server = Server::start(&["--overwrite"]);
    server.file("file", b"file");
    server.file("dir/file", b"nested");
    let before = server.tree();
    for name in [
        "file/",
        "file\\",
        "file/.",
        "dir/file//",
        "dir/",
        "file/\u{1}",
    ] {
        let (packet, _) = RawClient::new(&server).ask(&rrq(name, &[]));
        assert_eq!(packet.error_code(), Some(2), "{name}");
    }
    for name in ["new/", "new\\", "new/.", "file/", "dir/new//"] {
        let written = RawClient::new(&server).write(name, b"x");
        assert_eq!(written.map_err(|(code, _)| code), Err(2), "{name}");
    }
    assert_eq!(server.tree(), before);
}

/// Some clients' requests for `pxelinux.0` have garbage after the name.
#[test]
fn no_upload_shadows_another_file_by_an_odd_name() {
    let server = Server::start(&["--overwrite"]);
    server.file("pxelinux.0", b"good");
    let before = server.tree();
    for name in [&b"pxelinux.0\xff"[..], b"pxelinux.0\x01", b"a\x1b[31mb"] {
        let (packet, _) = RawClient::new(&server).ask(&request(2, name, "octet", &[]));
        assert_eq!(packet.error_code(), Some(2), "{}", name.escape_ascii());
    }
    assert_eq!(server.tree(), before);
}

#[test]
fn an_absolute_link_into_the_root_is_followed() {
    let server = Server::start(&NEVER);
    let file = server.file("sub/f", b"inside");
    symlink(file, server.root().join("link")).unwrap();
    symlink(server.root().join("sub"), server.root().join("dir")).unwrap();
    symlink(server.outside(), server.root().join("out")).unwrap();
    for name in ["link", "dir/f"] {
        let (payload, _) = RawClient::new(&server).ask_data(&rrq(name, &[]));
        assert_eq!(payload, b"inside", "{name}");
    }
    fs::write(server.outside().join("secret"), b"secret").unwrap();
    let (packet, _) = RawClient::new(&server).ask(&rrq("out/secret", &[]));
    assert_eq!(packet.error_code(), Some(1));
}

#[test]
fn an_upload_into_a_missing_directory_says_so() {
    let server = Server::start(&NEVER);
    let (packet, _) = RawClient::new(&server).ask(&wrq("missing-dir/x", &[]));
    assert_eq!(packet, Packet::Error(1, "No such directory".into()));
    let hint = |line: &str| line.contains("uploads make no directories");
    server.wait_for_log(hint, PATIENCE).expect("a hint");
}

#[test]
fn requests_are_read_leniently() {
    let server = Server::start(&NEVER);
    server.file("f", &content(4, 2000));
    let mut padded = rrq("f", &[]);
    padded.resize(516, 0);
    let mut garbage = rrq("f", &[]);
    garbage.resize(516, 0xa5);
    let no_options = [
        ("OCTET", request(1, b"f", "OCTET", &[])),
        ("OcTeT", request(1, b"f", "OcTeT", &[])),
        ("no final NUL", b"\0\x01f\0octet".to_vec()),
        ("NULs behind (PA-RISC)", padded),
        ("garbage behind (PA-RISC)", garbage),
        ("an odd option", b"\0\x01f\0octet\0blksize\0".to_vec()),
    ];
    for (what, packet) in no_options {
        let (payload, _) = RawClient::new(&server).ask_data(&packet);
        assert_eq!(payload, content(4, BLOCK), "{what}");
    }
    let mut padded = rrq("f", &[("blksize", "1024")]);
    padded.resize(516, 0);
    let mut cut = rrq("f", &[("blksize", "1024")]);
    cut.pop();
    let mut odd = rrq("f", &[("blksize", "1024")]);
    odd.extend(b"tsize\0");
    let one_option = [
        ("NULs behind", padded),
        ("no final NUL", cut),
        ("an odd option behind", odd),
    ];
    for (what, packet) in one_option {
        let (packet, _) = RawClient::new(&server).ask(&packet);
        let wanted = vec![("blksize".into(), "1024".into())];
        assert_eq!(packet, Packet::Oack(wanted), "{what}");
    }
}

#[test]
fn nothing_outside_the_root_is_reached() {
    let server = Server::start(&["--overwrite"]);
    let secret = server.outside().join("secret");
    fs::write(&secret, b"secret").unwrap();
    server.file("sub/f", b"inside");
    let absolute = secret.to_str().unwrap();
    let root = server.root();
    let root = root.to_str().unwrap();
    symlink(&secret, server.root().join("absolute-link")).unwrap();
    symlink("../secret", server.root().join("relative-link")).unwrap();
    symlink("..", server.root().join("up")).unwrap();
    symlink("/proc/self/root", server.root().join("proc")).unwrap();
    symlink("loop", server.root().join("loop")).unwrap();
    let names = [
        "../secret",
        "/../secret",
        "sub/../../secret",
        "..\\secret",
        "\\..\\secret",
        "./.././secret",
        "sub/..\\..\\secret",
        "absolute-link",
        "relative-link",
        "up/secret",
        "proc/etc/passwd",
        "loop",
        absolute,
        "/etc/passwd",
        "/proc/self/environ",
        &format!("{root}/../secret"),
        &format!("{root}-other/secret"),
        &format!("{root}/{root}/../secret"),
    ];
    let before = server.tree();
    for name in names {
        let client = RawClient::new(&server);
        let (packet, _) = client.ask(&rrq(name, &[("tsize", "0")]));
        let refused = matches!(packet, Packet::Error(1 | 2, _));
        assert!(refused, "{name}: {packet:?}");
    }
    for name in ["../secret", "up/secret", "/../../secret", absolute] {
        // It may be refused or written below the root: either is right.
        let _ = RawClient::new(&server).write(name, b"overwritten");
        assert_eq!(fs::read(&secret).unwrap(), b"secret", "{name}");
    }
    for kept in before.keys().filter(|path| !path.ends_with("secret")) {
        assert_eq!(server.tree().get(kept), before.get(kept), "{kept:?}");
    }
    assert_eq!(fs::read_dir(server.outside()).unwrap().count(), 2);
}

/// Names come from the network, and must not control our terminal.
#[test]
fn no_control_character_of_a_name_reaches_the_log() {
    let server = Server::start(&["-v", "-v", "-v"]);
    let evil = "evil\x1b[31m\x1b]0;title\x07\r\n2024 INFO forged=1\x7f\u{9b}0m";
    let client = RawClient::new(&server);
    client.ask(&rrq(evil, &[]));
    let (_, tid) = client.ask(&wrq("new", &[(evil, evil)]));
    client.send_to(&error(0, evil), tid);
    server.wait_ended(client.addr(), 1);
    let lines = server.log_lines();
    let told = lines.iter().any(|line| line.contains("evil"));
    assert!(told, "the name is not in the log");
    for line in lines {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.starts_with("2024 INFO forged"), "{line:?}");
    }
}

/// A name, and the content to be read or the ERROR's code.
type Case<'a> = (&'a [u8], Result<&'a [u8], u16>);

#[test]
fn case_is_ignored_where_nothing_has_that_name() {
    let server = Server::start(&["--ignore-case"]);
    server.file("Boot/BCD", b"bcd");
    server.file("boot.INI", b"small");
    server.file("BOOT.ini", b"large");
    server.file("Exact", b"upper");
    server.file("exact", b"lower");
    symlink("../outside", server.root().join("Out")).unwrap();
    fs::create_dir_all(server.outside().join("outside")).unwrap();
    fs::write(server.outside().join("outside/Secret"), "secret").unwrap();
    let cases: [Case<'_>; 9] = [
        (b"\\boot\\bcd", Ok(b"bcd")),
        (b"BOOT/Bcd\xff\xff", Ok(b"bcd")),
        // The first of several in byte order.
        (b"Boot.Ini", Ok(b"large")),
        (b"exact", Ok(b"lower")),
        (b"Exact", Ok(b"upper")),
        (b"boot", Err(2)),
        (b"nothing", Err(1)),
        (b"out/secret", Err(1)),
        (b"../OUTSIDE/secret", Err(1)),
    ];
    for (name, wanted) in cases {
        let (packet, _) = RawClient::new(&server).ask(&request(1, name, "octet", &[]));
        let what = String::from_utf8_lossy(name);
        match wanted {
            Ok(wanted) => assert_eq!(packet, Packet::Data(1, wanted.to_vec()), "{what}"),
            Err(code) => assert_eq!(packet.error_code(), Some(code), "{what}"),
        }
    }
    let both = r#"asked for "BOOT/Bcd\xff\xff", which is served as "Boot/BCD""#;
    let line = server.wait_for_log(|line| line.contains(both), PATIENCE);
    assert!(line.is_some(), "{:#?}", server.log_lines());
    // No upload takes the place of a file that clients get by this name.
    for name in ["EXACT", "Boot/bcd", "boot.ini"] {
        let written = RawClient::new(&server).write(name, b"new");
        assert_eq!(written.map_err(|(code, _)| code), Err(6), "{name}");
        assert!(!server.root().join(name).exists());
    }
    assert_eq!(RawClient::new(&server).write("Boot/New", b"new"), Ok(()));
}

#[test]
fn case_counts_otherwise() {
    let server = Server::start(&NEVER);
    server.file("Boot/BCD", b"bcd");
    let (packet, _) = RawClient::new(&server).ask(&rrq("boot/bcd", &[]));
    assert_eq!(packet.error_code(), Some(1));
}

/// ROOT is opened once: what its path leads to later isn't served.
#[test]
fn a_root_that_was_replaced_is_told_where_a_file_is_missing() {
    type Replace = fn(&Path);
    let replacements: [(&str, Replace); 4] = [
        ("nothing", |_| {}),
        ("another directory", |dir| {
            fs::rename(dir.join("root"), dir.join("old")).unwrap();
            fs::create_dir(dir.join("root")).unwrap();
        }),
        ("gone", |dir| {
            fs::rename(dir.join("root"), dir.join("old")).unwrap();
        }),
        ("a link elsewhere", |dir| {
            fs::remove_file(dir.join("root")).unwrap();
            symlink("other", dir.join("root")).unwrap();
        }),
    ];
    for (what, replace) in replacements {
        for args in [&[][..], &["--chroot"]] {
            if !args.is_empty() && !geteuid().is_root() {
                skip("only root can have a root of its own");
                continue;
            }
            let server = Server::start_prepared(&[args, &["-a", "127.0.0.1"]].concat(), |dir| {
                if what.contains("link") {
                    fs::rename(dir.join("root"), dir.join("real")).unwrap();
                    fs::create_dir(dir.join("other")).unwrap();
                    symlink("real", dir.join("root")).unwrap();
                }
                Command::new(tftpd())
            });
            replace(server.outside());
            for name in ["missing", "sub/missing"] {
                RawClient::new(&server).ask(&rrq(name, &[]));
                let line = server.wait_for_log(|line| line.contains(name), PATIENCE);
                let line = line.expect("a line");
                let path = server.root();
                let hint = format!(
                    "hint=\"{} was replaced or mounted over since the start: restart the server\"",
                    path.display()
                );
                // In a chroot the path leads nowhere, which means nothing.
                let is_told = what != "nothing" && args.is_empty();
                assert_eq!(line.contains(&hint), is_told, "{what} {args:?}: {line}");
                assert_eq!(
                    line.contains("replaced"),
                    is_told,
                    "{what} {args:?}: {line}"
                );
            }
        }
    }
}

#[test]
#[cfg(feature = "uploads")]
fn a_directory_for_uploads_that_was_replaced_is_told_where_an_upload_finds_no_place() {
    let server = Server::start_prepared(&["-a", "127.0.0.1", "--upload-root", "up"], |dir| {
        fs::create_dir(dir.join("up")).unwrap();
        let mut command = Command::new(tftpd());
        command.current_dir(dir);
        command
    });
    let up = server.outside().join("up");
    fs::rename(&up, server.outside().join("old")).unwrap();
    fs::create_dir_all(up.join("sub")).unwrap();
    RawClient::new(&server).ask(&wrq("sub/new", &[]));
    let line = server.wait_for_log(|line| line.contains("op=write"), PATIENCE);
    let hint = format!("hint=\"{} was replaced or mounted over", up.display());
    assert!(
        line.as_ref().is_some_and(|it| it.contains(&hint)),
        "{line:?}"
    );
}
