//! `--create-dirs`: directories come with the first data and go with an upload that fails.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::*;
use tftpd::file::{Policy, UploadRules};

fn making_dirs() -> Policy {
    rules(UploadRules {
        create_dirs: true,
        ..UploadRules::NONE
    })
}

#[test]
fn directories_are_made_with_the_first_data_and_not_before() {
    for umask in [None, Some(0o027)] {
        let policy = Policy {
            umask,
            ..making_dirs()
        };
        for_each_method(policy, |path, root| {
            fs::create_dir(path.join("there")).unwrap();
            let asked = root.create(b"there/a/b/f", Some(4)).unwrap();
            assert_eq!(names(path), ["there/"]);
            drop(asked);
            put(root, "there/a/b/f", b"x").unwrap();
            put(root, "c/../d//e/g", b"y").unwrap();
            let wanted = [
                "d/",
                "d/e/",
                "d/e/g",
                "there/",
                "there/a/",
                "there/a/b/",
                "there/a/b/f",
            ];
            assert_eq!(names(path), wanted);
            let mode = |name| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
            fs::create_dir(path.join("usual")).unwrap();
            let wanted = umask.map_or(mode("usual"), |umask| 0o777 & !umask);
            assert_eq!((mode("there/a"), mode("d/e")), (wanted, wanted));
            assert!(put(root, "there/a", b"z").is_err(), "it is a directory");
            assert!(put(root, "d/e/g/f", b"z").is_err(), "it is a file");
            let deep = "x/".repeat(65) + "f";
            assert!(put(root, &deep, b"z").is_err(), "too deep");
        });
    }
}

#[test]
fn no_directory_is_made_through_a_link_that_leads_out() {
    for_each_method(making_dirs(), |path, root| {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(path.join("inside")).unwrap();
        symlink(outside.path(), path.join("out")).unwrap();
        symlink("nowhere", path.join("dangling")).unwrap();
        symlink("inside", path.join("in")).unwrap();
        for name in [
            "out/a/f",
            "out/f",
            "dangling/a/f",
            "dangling/f",
            "in/../out/a/f",
        ] {
            let refused = root.create(name.as_bytes(), None).map(drop);
            assert!(refused.is_err(), "{name}");
        }
        // A link that appears before the first data.
        let mut late = root.create(b"late/a/f", None).unwrap();
        symlink(outside.path(), path.join("late")).unwrap();
        assert!(late.write_at(0, b"x").is_err());
        drop(late);
        put(root, "in/a/f", b"x").unwrap();
        assert_eq!(names(outside.path()), [""; 0]);
        let wanted = [
            "dangling",
            "in",
            "inside/",
            "inside/a/",
            "inside/a/f",
            "late",
            "out",
        ];
        assert_eq!(names(path), wanted);
    });
}

/// What is left when uploads end in this order: `+` committed, `-` aborted.
#[test]
fn empty_directories_of_aborted_uploads_are_removed_whoever_shares_them() {
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&["a/b/f"], &["-0"], &[]),
        (&["a/b/f", "a/b/g"], &["-0", "-1"], &[]),
        (&["a/b/f", "a/b/g"], &["-1", "-0"], &[]),
        (&["a/b/f", "a/b/g"], &["-0", "+1"], &["a/", "a/b/", "a/b/g"]),
        (&["a/b/f", "a/b/g"], &["+0", "-1"], &["a/", "a/b/", "a/b/f"]),
        (&["a/b/f", "a/g"], &["-0", "+1"], &["a/", "a/g"]),
        (&["a/b/f", "a/g"], &["-1", "-0"], &[]),
        (&["a/f", "a/b/g"], &["-0", "-1"], &[]),
        (&["a/f", "a/b/g"], &["+0", "-1"], &["a/", "a/f"]),
        (&["a/f", "a/b/g", "a/b/c/h"], &["-2", "-0", "-1"], &[]),
        (
            &["a/f", "a/b/g", "a/c/h"],
            &["-2", "-0", "+1"],
            &["a/", "a/b/", "a/b/g"],
        ),
    ];
    for_each_method(making_dirs(), |path, root| {
        fs::create_dir(path.join("there")).unwrap();
        for (uploads, ends, left) in cases {
            let begun = uploads
                .iter()
                .map(|name| Some(begun(root, &format!("there/{name}"))));
            let mut begun: Vec<_> = begun.collect();
            for end in *ends {
                let number: usize = end[1..].parse().unwrap();
                let upload = begun[number].take().unwrap();
                if end.starts_with('+') {
                    upload.commit().unwrap();
                }
            }
            assert_eq!(names(&path.join("there")), *left, "{uploads:?} {ends:?}");
            fs::remove_dir_all(path.join("there")).unwrap();
            fs::create_dir(path.join("there")).unwrap();
        }
        // What somebody else puts there, or had there before, stays.
        let upload = begun(root, "there/x/f");
        fs::write(path.join("there/x/theirs"), "").unwrap();
        drop(upload);
        drop(begun(root, "there/f"));
        assert_eq!(names(path), ["there/", "there/x/", "there/x/theirs"]);
    });
}

/// The lowest directory can't be made, because its name is too long.
#[test]
fn directories_of_uploads_that_can_not_be_made_whole_are_removed() {
    for_each_method(making_dirs(), |path, root| {
        let name = format!("a/b/{}/f", "x".repeat(256));
        let mut upload = root.create(name.as_bytes(), None).unwrap();
        assert!(upload.write_at(0, b"x").is_err());
        drop(upload);
        assert_eq!(names(path), [""; 0]);
    });
}

/// Otherwise a read of `Boot/BCD` would be served from the upload's directory.
#[test]
fn with_ignore_case_no_directory_is_made_beside_one_in_another_case() {
    let policy = Policy {
        ignore_case: true,
        ..making_dirs()
    };
    for_each_method(policy, |path, root| {
        fs::create_dir_all(path.join("boot/Fonts")).unwrap();
        fs::write(path.join("boot/BCD"), b"the administrator's").unwrap();
        for name in ["Boot/a", "Boot/BCD", "BOOT/x/y", "boot/fonts/a"] {
            assert!(put(root, name, b"x").is_err(), "{name}");
        }
        put(root, "boot/other/f", b"x").unwrap();
        let wanted = [
            "boot/",
            "boot/BCD",
            "boot/Fonts/",
            "boot/other/",
            "boot/other/f",
        ];
        assert_eq!(names(path), wanted);
    });
}

/// Directories with such names would push versions out.
#[test]
fn no_directory_is_named_like_a_version_and_none_counts_as_one() {
    let policy = rules(UploadRules {
        create_dirs: true,
        ..keeping(1, None).uploads
    });
    for_each_method(policy, |path, root| {
        for name in ["f.~900~/x", "a/f.~1~/x", "f.~900~/a/x"] {
            assert_eq!(
                message(root.create(name.as_bytes(), None)),
                "Access violation: name of an old version",
                "{name}"
            );
        }
        fs::create_dir(path.join("f.~900~")).unwrap();
        fs::create_dir(path.join("f.~901~")).unwrap();
        fs::write(path.join("f.~18446744073709551615~"), "theirs").unwrap();
        for content in ["one", "two", "three"] {
            put(root, "f", content.as_bytes()).unwrap();
        }
        let there = files(path);
        assert_eq!(there["f"], b"three");
        assert_eq!(there["f.~903~"], b"two");
        assert_eq!(there.len(), 3, "{there:?}");
    });
}

#[test]
fn nobody_makes_the_directory_of_another_client() {
    let server = Server::start(&["--create-dirs", "--per-client-root", "ip"]);
    let client = RawClient::new(&server);
    for name in ["192.0.2.1/f", "192.0.2.1/a/f", "a/../192.0.2.1/f"] {
        let refused = client.write(name, b"x").unwrap_err();
        assert_eq!(refused.0, 2, "{name}: {refused:?}");
    }
    RawClient::new(&server)
        .write("a/192.0.2.1/f", b"x")
        .unwrap();
    assert_eq!(
        server.tree().into_keys().collect::<Vec<_>>(),
        [Path::new("a/192.0.2.1/f")]
    );
}
