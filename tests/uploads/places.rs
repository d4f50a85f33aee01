//! `--upload-root` and `--write-only`: where uploads go, and what is told of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use super::*;
use tftpd::file::UploadRules;

/// A server whose uploads go to a directory below its root, or outside of it.
fn with_upload_root(below: bool, args: &[&str]) -> (Server, PathBuf) {
    let address = own_address().to_string();
    let place = if below { "root/uploads" } else { "uploads" };
    let server = Server::start_prepared(&["-a", &address], |base| {
        fs::create_dir(base.join(place)).unwrap();
        let mut command = Command::new(tftpd());
        command
            .arg("--upload-root")
            .arg(base.join(place))
            .args(args);
        command
    });
    let uploads = server.outside().join(place);
    (server, uploads)
}

#[test]
fn uploads_go_to_their_own_directory() {
    for below in [false, true] {
        for args in [
            &[][..],
            &["--no-sandbox"],
            &["--keep-versions", "1", "--create-dirs"],
        ] {
            let (server, uploads) = with_upload_root(below, args);
            server.file("boot", b"boot file");
            let client = || RawClient::new(&server);
            client().write("boot", b"an upload").unwrap();
            client()
                .write(&format!("{}/other", uploads.display()), b"x")
                .unwrap();
            assert_same("boot", &client().read("boot").unwrap(), b"boot file");
            assert_same(
                "boot",
                &fs::read(uploads.join("boot")).unwrap(),
                b"an upload",
            );
            assert!(uploads.join("other").is_file());
            assert_eq!(client().read("uploads/boot").is_ok(), below, "{args:?}");
            let again = client().write("boot", b"again");
            assert_eq!(again.is_ok(), args.len() == 3, "{args:?}");
            if !args.contains(&"--create-dirs") {
                // The directory isn't part of the name; the log says where uploads go.
                assert_eq!(client().write("uploads/x", b"x").unwrap_err().0, 1);
                let place = format!("uploads go below {}", uploads.display());
                let told = |line: &str| line.contains("hint=") && line.contains(&place);
                assert!(server.wait_for_log(told, PATIENCE).is_some(), "{args:?}");
            }
            let line = server.wait_for_log(|line| line.contains("listening on"), PATIENCE);
            assert!(line.unwrap().contains("uploads go to"), "{args:?}");
        }
    }
}

#[test]
fn a_drop_box_tells_nothing_of_what_is_in_it() {
    let (server, uploads) = with_upload_root(true, &["--write-only"]);
    server.file("boot", b"boot file");
    symlink(&uploads, server.root().join("link")).unwrap();
    symlink(uploads.join("f"), server.root().join("file")).unwrap();
    fs::create_dir(uploads.join("d")).unwrap();
    let client = || RawClient::new(&server);
    for content in [b"one", b"two", b"six"] {
        client().write("f", content).unwrap();
    }
    // A directory, too, is a name that is taken.
    client().write("d", b"dir").unwrap();
    let stored = files(&uploads);
    let wanted = [
        ("d.~1~", b"dir"),
        ("f", b"one"),
        ("f.~1~", b"two"),
        ("f.~2~", b"six"),
    ];
    let wanted = wanted.map(|(name, content)| (name.to_owned(), content.to_vec()));
    assert_eq!(stored, BTreeMap::from(wanted));
    assert_same("boot", &client().read("boot").unwrap(), b"boot file");
    let there = client().read("uploads/f").unwrap_err();
    assert_eq!(there.0, 2);
    for name in [
        "uploads/none",
        "uploads/d/f",
        "link/f",
        "link/none",
        "uploads/../uploads/f",
    ] {
        assert_eq!(client().read(name), Err(there.clone()), "{name}");
    }
    assert!(client().read("file").is_err());
    let has_hint = |line: &str| {
        line.contains("file=\"uploads/f\"") && line.contains("hint=\"--write-only: nobody reads")
    };
    assert!(server.wait_for_log(has_hint, PATIENCE).is_some());
}

/// The answer is the same whether the name is taken or not.
#[test]
fn in_a_drop_box_names_that_are_too_long_or_those_of_versions_are_refused() {
    for format in [None, Some("%s")] {
        let mut policy = rules(UploadRules {
            write_only: true,
            ..UploadRules::NONE
        });
        if format.is_some() {
            policy.uploads.versions = keeping(1, format).uploads.versions;
        }
        for_each_method(policy, |path, root| {
            let long = "x".repeat(200);
            fs::write(path.join(&long), "taken").unwrap();
            for name in [&*long, &"y".repeat(200), &"z".repeat(256)] {
                assert_eq!(
                    message(root.create(name.as_bytes(), None)),
                    "Access violation: name too long to keep versions"
                );
            }
            for name in ["f.~1~", "f.~18446744073709551615~"] {
                assert_eq!(
                    message(root.create(name.as_bytes(), None)),
                    "Access violation: name of an old version"
                );
            }
        });
    }
}

#[test]
fn in_a_drop_box_each_upload_gets_a_name_of_its_own() {
    let policy = rules(UploadRules {
        write_only: true,
        ..UploadRules::NONE
    });
    for_each_method(policy, |path, root| {
        // Some versions are missing, and one has a strange number.
        for number in [1, 2, 3, 4, 7, u64::MAX] {
            fs::write(path.join(format!("f.~{number}~")), "theirs").unwrap();
        }
        for content in 0..20 {
            put(root, "f", format!("{content}").as_bytes()).unwrap();
        }
        let there = files(path).into_values();
        let mut ours: Vec<_> = there.filter(|it| it != b"theirs").collect();
        ours.sort();
        ours.dedup();
        assert_eq!((ours.len(), names(path).len()), (20, 26));
    });
}

/// Otherwise an upload to a file's name plus `/f` would show whether the file exists.
#[test]
fn a_drop_box_makes_no_directories() {
    let root = tempfile::tempdir().unwrap();
    let output = bounded(10, tftpd())
        .args(["--write-only", "--create-dirs"])
        .arg(root.path())
        .output()
        .expect("timeout(1)");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--create-dirs"), "{}", said(&output));
}

#[test]
fn a_drop_box_without_a_directory_of_its_own_is_never_read() {
    for args in [
        &["--write-only"][..],
        &["--write-only", "--keep-versions", "1"],
    ] {
        let server = Server::start(args);
        server.file("f", b"old");
        let client = || RawClient::new(&server);
        let there = client().read("f").unwrap_err();
        assert_eq!((there.0, client().read("none")), (2, Err(there)));
        client().write("f", b"new").unwrap();
        let contents = files(&server.root());
        let newest = if args.len() == 1 { "f.~1~" } else { "f" };
        assert_eq!((contents.len(), &*contents[newest]), (2, &b"new"[..]));
    }
}

#[test]
fn a_drop_box_is_not_read_where_the_root_is_in_it() {
    let mut cases = vec![(".", &[][..]), ("root", &[])];
    if nix::unistd::geteuid().is_root() {
        // With a chroot, the path of the root leads elsewhere.
        cases.push(("root", &["--chroot"]));
    } else {
        skip("only root may chroot");
    }
    for (above, options) in cases {
        let address = own_address().to_string();
        let args = [&["-a", &address, "--write-only"], options].concat();
        let server = Server::start_prepared(&args, |base| {
            let mut command = Command::new(tftpd());
            command.arg("--upload-root").arg(base.join(above));
            command
        });
        RawClient::new(&server).write("f", b"secret").unwrap();
        server.file("f", b"secret");
        assert_eq!(
            RawClient::new(&server).read("f").unwrap_err().0,
            2,
            "{above} {options:?}"
        );
    }
}

#[test]
fn an_unusable_upload_directory_is_reported_in_one_line() {
    let base = tempfile::tempdir().unwrap();
    let place = base.path().to_str().unwrap();
    let mut cases = vec![
        (
            vec!["--upload-root", "/missing"],
            "cannot take uploads to /missing",
        ),
        (
            vec![
                "--upload-root",
                place,
                "--write-only",
                "--follow-links",
                place,
            ],
            "cannot follow links to",
        ),
    ];
    if nix::unistd::geteuid().is_root() {
        cases.push((
            vec!["--upload-root", "/etc"],
            "cannot take uploads to /etc as root",
        ));
        cases.push((vec!["--upload-root", place, "--chroot"], "outside ROOT"));
    } else {
        skip("only root may write to /etc, or chroot");
    }
    let root = tempfile::tempdir().unwrap();
    for (words, named) in cases {
        let output = bounded(10, tftpd())
            .args(["-p", "0", "-a", "127.0.0.1"])
            .args(&words)
            .arg(root.path())
            .output()
            .expect("timeout(1)");
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {text}");
        assert!(text.contains(named), "{words:?}: {text}");
    }
}
