//! `--per-client-root`: each client sees its own directory, or the common root.

mod common;

use std::os::unix::fs::symlink;

use common::*;

/// A file's content, or the code of the ERROR.
fn read_code(client: &RawClient, name: &str) -> Result<Vec<u8>, u16> {
    client.read(name).map_err(|(code, _)| code)
}

/// Whether a new client may write a file, or the code of the ERROR.
fn write_code(server: &Server, name: &str) -> Result<(), u16> {
    let written = RawClient::new(server).write(name, b"mine");
    written.map_err(|(code, _)| code)
}

#[test]
fn a_client_with_a_directory_of_its_own_sees_nothing_else() {
    let server = Server::start(&["--per-client-root", "ip"]);
    let client = RawClient::new(&server);
    server.file("common", b"all");
    assert_eq!(client.read("common"), Ok(b"all".to_vec()));

    let own = client.addr().ip().to_string();
    server.file(&format!("{own}/mine"), b"mine");
    assert_eq!(client.read("mine"), Ok(b"mine".to_vec()));
    for name in ["common", "../common", "/../common"] {
        assert_eq!(
            client.read(name).map_err(|(code, _)| code),
            Err(1),
            "{name}"
        );
    }
    for name in ["first", "second"] {
        assert_eq!(RawClient::new(&server).write(name, b"up"), Ok(()));
        assert_eq!(
            std::fs::read(server.root().join(&own).join(name)).unwrap(),
            b"up"
        );
    }
}

#[test]
fn anothers_root_is_closed_to_all_others() {
    let server = Server::start(&["--per-client-root", "ip", "--overwrite"]);
    server.file("192.0.2.7/secret", b"theirs");
    server.file("2001:db8::1/secret", b"theirs");
    let before = server.tree();
    let client = RawClient::new(&server);
    for name in [
        "192.0.2.7/secret",
        "x/../192.0.2.7/secret",
        "192.0.2.7\\secret",
        "2001:db8::1/secret",
    ] {
        assert_eq!(read_code(&client, name), Err(2), "{name}");
    }
    for name in ["192.0.2.7/secret", "192.0.2.7/new", "192.0.2.8"] {
        assert_eq!(write_code(&server, name), Err(2), "{name}");
    }
    assert_eq!(server.tree(), before);
}

/// What counts is where a link leads, and not how the name is spelled.
#[test]
fn anothers_root_is_closed_through_links_too() {
    let server = Server::start(&["--per-client-root", "ip", "--overwrite"]);
    server.file("192.0.2.7/secret", b"theirs");
    server.file("pub/f", b"all");
    let link = |target: &str, name: &str| symlink(target, server.root().join(name)).unwrap();
    link(".", "tftpboot");
    link("192.0.2.7", "theirs");
    link("../192.0.2.7/secret", "pub/secret");
    link("/", "top");
    link(server.root().to_str().unwrap(), "absolute");
    let before = server.tree();
    let client = RawClient::new(&server);
    for name in [
        "tftpboot/192.0.2.7/secret",
        "theirs/secret",
        "pub/secret",
        "top/192.0.2.7/secret",
        "absolute/192.0.2.7/secret",
        "tftpboot/pub/secret",
    ] {
        assert_eq!(read_code(&client, name), Err(2), "{name}");
    }
    for name in [
        "tftpboot/192.0.2.7/secret",
        "tftpboot/192.0.2.7/new",
        "theirs/new",
        "absolute/192.0.2.7/new",
        // An upload with this name would become another client's root.
        "tftpboot/192.0.2.8",
        "absolute/192.0.2.8",
    ] {
        assert_eq!(write_code(&server, name), Err(2), "{name}");
    }
    assert_eq!(server.tree(), before);
    assert_eq!(client.read("tftpboot/pub/f"), Ok(b"all".to_vec()));
    assert_eq!(
        RawClient::new(&server).write("tftpboot/pub/new", b"x"),
        Ok(())
    );
}

/// Rules by client lead to the common root too: as ROOT itself, by its path, or by a link.
#[cfg(feature = "rules")]
#[test]
fn anothers_root_is_closed_to_those_whom_rules_lead_to_root() {
    for (roots, further) in [
        (&["img", "."][..], "--no-sandbox"),
        (&["img", "."], "--ignore-case"),
        (&[".", "img"], "--no-sandbox"),
        (&["."], "--ignore-case"),
        (&["tftpboot"], "--no-sandbox"),
        (&["img/top"], "--ignore-case"),
        (&["@"], "--no-sandbox"),
        (&["@/tftpboot"], "--ignore-case"),
    ] {
        let address = own_address().to_string();
        let own = ["--per-client-root", "ip", "--overwrite"];
        let args = [&own[..], &["-a", &address, further]].concat();
        let server = Server::start_prepared(&args, |dir| {
            let root = dir.join("root");
            let listed = format!("{roots:?}").replace('@', root.to_str().expect("UTF-8"));
            let rules = dir.join("rules.toml");
            let section = format!("[all]\nnetworks = \"127.0.0.0/8\"\nroots = {listed}\n");
            std::fs::write(&rules, section).expect("a file");
            std::fs::create_dir(root.join("img")).expect("a directory");
            symlink(".", root.join("tftpboot")).expect("a link");
            symlink("..", root.join("img/top")).expect("a link");
            symlink("192.0.2.7", root.join("theirs")).expect("a link");
            let mut command = std::process::Command::new(tftpd());
            command.arg("--rules").arg(rules);
            command
        });
        server.file("192.0.2.7/secret", b"theirs");
        server.file("2001:db8::1/secret", b"theirs");
        server.file("common", b"all");
        let before = server.tree();
        let client = RawClient::new(&server);
        for name in [
            "192.0.2.7/secret",
            "x/../192.0.2.7\\secret",
            "192.0.2.7/SECRET",
            "2001:DB8:0::1/secret",
        ] {
            assert_eq!(read_code(&client, name), Err(2), "{roots:?} {name}");
        }
        assert!(client.read("theirs/secret").is_err(), "{roots:?}");
        assert_eq!(client.read("common"), Ok(b"all".to_vec()), "{roots:?}");
        // An upload goes to the first, which may have such a name.
        if roots[0] != "img" {
            for name in ["192.0.2.7/secret", "192.0.2.7/new", "192.0.2.8"] {
                assert_eq!(write_code(&server, name), Err(2), "{roots:?} {name}");
            }
        }
        assert_eq!(server.tree(), before);
    }
}

/// Clients' own directories for uploads, too, are closed to all others, also where ROOT
/// holds them, or where they hold ROOT.
#[cfg(feature = "uploads")]
#[test]
fn anothers_uploads_are_closed_whatever_leads_there() {
    for further in [
        &["--no-sandbox"][..],
        &["--ignore-case"],
        &["--create-dirs", "--overwrite"],
        &["--follow-links", "FILES"],
    ] {
        let address = own_address().to_string();
        let args = ["--per-client-root", "ip", "-a", &address];
        let server = Server::start_prepared(&args, |dir| {
            let uploads = dir.join("root/files/up");
            std::fs::create_dir_all(&uploads).expect("a directory");
            let mut command = std::process::Command::new(tftpd());
            command.arg("--upload-root").arg(&uploads);
            for word in further {
                match *word {
                    "FILES" => command.arg(dir.join("root/files")),
                    word => command.arg(word),
                };
            }
            command
        });
        server.file("files/up/192.0.2.7/secret", b"theirs");
        server.file("files/up/2001:db8::1/secret", b"theirs");
        server.file("files/up/pub/192.0.2.7/f", b"all");
        server.file("files/192.0.2.7/f", b"all");
        let link = |target: &str, name: &str| symlink(target, server.root().join(name)).unwrap();
        link("files/up", "link");
        link("files/up/192.0.2.7", "theirs");
        link("up/192.0.2.7/secret", "files/secret");
        let root = server.root();
        link(root.join("files/up").to_str().unwrap(), "absolute");
        link(root.join("files/up/192.0.2.7").to_str().unwrap(), "7");
        let client = RawClient::new(&server);
        // The client has no directory of its own, so its upload is everybody's.
        assert_eq!(write_code(&server, "mine"), Ok(()));
        assert_eq!(client.read("files/up/mine"), Ok(b"mine".to_vec()));
        assert_eq!(client.read("files/up/pub/192.0.2.7/f"), Ok(b"all".to_vec()));
        assert_eq!(client.read("files/192.0.2.7/f"), Ok(b"all".to_vec()));
        for name in [
            "files/up/192.0.2.7/secret",
            "files/x/../up/192.0.2.7/secret",
            "files/up/2001:DB8:0::1/secret",
            "files/up/2001:db8::1/secret",
            "link/192.0.2.7/secret",
            "theirs/secret",
            "files/secret",
            "absolute/192.0.2.7/secret",
            "7/secret",
        ] {
            let read = read_code(&client, name);
            assert!(matches!(read, Err(1 | 2)), "{further:?} {name}: {read:?}");
        }
        assert_eq!(read_code(&client, "files/up/192.0.2.7/secret"), Err(2));
        let told = server.wait_for_log(|line| line.contains("another client's dir"), PATIENCE);
        assert!(told.is_some(), "{:?}", server.log_lines());

        let own = client.addr().ip().to_string();
        server.file(&format!("files/up/{own}/first"), b"up");
        assert_eq!(write_code(&server, "second"), Ok(()));
        assert!(root.join("files/up").join(&own).join("second").is_file());
        // For uploads alone: what it reads are the common files.
        assert_eq!(client.read("files/up/mine"), Ok(b"mine".to_vec()));
    }
}

/// An upload could put something in the place of another client's files.
#[cfg(feature = "uploads")]
#[test]
fn anothers_root_is_closed_to_uploads_around_root() {
    let address = own_address().to_string();
    let args = ["--per-client-root", "ip", "-a", &address, "--overwrite"];
    let server = Server::start_prepared(&args, |dir| {
        let mut command = std::process::Command::new(tftpd());
        command.arg("--upload-root").arg(dir);
        command
    });
    server.file("192.0.2.7/boot", b"theirs");
    let before = server.tree();
    for name in [
        "root/192.0.2.7/boot",
        "root/192.0.2.7/new",
        "root/192.0.2.8",
    ] {
        assert_eq!(write_code(&server, name), Err(2), "{name}");
    }
    assert_eq!(server.tree(), before);
    assert_eq!(write_code(&server, "root/new"), Ok(()));
    assert_eq!(RawClient::new(&server).read("new"), Ok(b"mine".to_vec()));
}

/// What is another's in one directory may be anybody's in the next.
#[cfg(feature = "rules")]
#[test]
fn a_name_that_is_anothers_in_one_directory_is_looked_for_in_the_next() {
    let address = own_address().to_string();
    let server = Server::start_prepared(&["-a", &address, "--per-client-root", "ip"], |dir| {
        let rules = dir.join("rules.toml");
        let section = "[all]\nnetworks = \"127.0.0.0/8\"\nroots = [\".\", \"img\"]\n";
        std::fs::write(&rules, section).expect("a file");
        let mut command = std::process::Command::new(tftpd());
        command.arg("--rules").arg(rules);
        command
    });
    server.file("192.0.2.7/f", b"theirs");
    server.file("img/192.0.2.7/f", b"all");
    server.file("192.0.2.7/secret", b"theirs");
    let client = RawClient::new(&server);
    assert_eq!(client.read("192.0.2.7/f"), Ok(b"all".to_vec()));
    assert_eq!(read_code(&client, "192.0.2.7/secret"), Err(2));
}

/// It isn't served from the common root instead, where its uploads would be
/// everybody's.
#[test]
fn a_client_whose_directory_cannot_be_had_gets_nothing() {
    let server = Server::start(&["--per-client-root", "ip"]);
    server.file("common", b"all");
    let client = RawClient::new(&server);
    let own = server.root().join(client.addr().ip().to_string());
    for target in ["/srv/boards/7", "nowhere", "common"] {
        symlink(target, &own).unwrap();
        assert_eq!(read_code(&client, "common"), Err(2), "{target}");
        assert_eq!(write_code(&server, "new"), Err(2), "{target}");
        std::fs::remove_file(&own).unwrap();
    }
    let line = server.wait_for_log(
        |line| line.contains("a link that leads out of ROOT"),
        PATIENCE,
    );
    assert!(line.is_some(), "{:?}", server.log_lines());
    // A regular file with such a name is no client's root.
    std::fs::write(&own, b"").unwrap();
    assert_eq!(client.read("common"), Ok(b"all".to_vec()));
}

/// The link stays inside ROOT, so the message must not say that it leaves ROOT.
#[test]
fn a_link_out_of_a_clients_own_directory_is_told_as_that() {
    let server = Server::start(&["--per-client-root", "ip"]);
    let client = RawClient::new(&server);
    let own = client.addr().ip().to_string();
    server.file("common/kernel", b"all");
    server.file(&format!("{own}/f"), b"f");
    symlink("../common/kernel", server.root().join(own).join("kernel")).unwrap();
    assert!(client.read("kernel").is_err());
    let told = |line: &str| line.contains("outside this client's directory: bind-mount it, or");
    let line = server.wait_for_log(told, PATIENCE);
    assert!(line.is_some(), "{:?}", server.log_lines());
}

/// Loopback has no hardware address.
#[test]
fn a_client_without_a_hardware_address_sees_the_common_root() {
    let server = Server::start(&["--per-client-root", "mac"]);
    server.file("00-00-00-00-00-00/common", b"no one's");
    server.file("common", b"all");
    assert_eq!(RawClient::new(&server).read("common"), Ok(b"all".to_vec()));
}
