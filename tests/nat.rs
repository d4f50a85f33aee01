//! A client behind a NAT, in network namespaces: nftables masquerades, without a
//! helper that knows TFTP. An answer from another port than the one that was asked
//! belongs to no connection that the NAT knows, and never gets through.
//!
//! Needs root, ip(8), nft(8) and curl; skipped without.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::*;
use nix::unistd::geteuid;

/// Sets up the network in the server's namespace: `nat` stands between it and `inside`,
/// each in a namespace of its own, kept alive by a process that ends with the server's
/// shell.
const SET_UP: &str = r#"
set -e
ip link set lo up
unshare --net sleep 60 & nat=$!
unshare --net sleep 60 & inside=$!
trap 'kill $nat $inside' EXIT
own=$(readlink /proc/self/ns/net)
for pid in $nat $inside; do
    until [ "$(readlink /proc/$pid/ns/net)" != "$own" ]; do :; done
done
in_nat() { nsenter --target $nat --net "$@"; }
in_side() { nsenter --target $inside --net "$@"; }
ip link add out0 type veth peer name out1 netns $nat
in_nat ip link add in0 type veth peer name in1 netns $inside
ip address add 198.51.100.1/24 dev out0; ip link set out0 up
in_nat ip link set out1 address 02:00:00:00:00:0a
in_nat ip address add 198.51.100.2/24 dev out1; in_nat ip link set out1 up
in_nat ip address add 192.0.2.1/24 dev in0; in_nat ip link set in0 up
in_side ip address add 192.0.2.2/24 dev in1; in_side ip link set in1 up
in_side ip route add default via 192.0.2.1
in_nat sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
in_nat nft -f - <<RULES
table ip nat {
    chain out { type nat hook postrouting priority srcnat; oifname out1 masquerade; }
}
table ip filter {
    chain way {
        type filter hook forward priority filter; policy drop;
        iifname in0 accept
        ct state established,related accept
    }
}
RULES
"$TFTPD" -4 -p 6969 --grace 0 $MODE "$ROOT" 2>"$LOG" & server=$!
trap 'kill $nat $inside $server; wait' EXIT
until grep -q 'listening on' "$LOG"; do kill -0 $server; done
in_side curl -sS --max-time 4 -o "$TAKEN" "tftp://198.51.100.1:6969/file"
in_side curl -sS --max-time 4 -T "$TAKEN" "tftp://198.51.100.1:6969/brought"
"#;

/// Downloads a file through the NAT and uploads it again; returns the script's output.
fn through_nat(mode: &str, dir: &Path) -> Output {
    bounded(30, "unshare")
        .args(["--net", "sh", "-c", SET_UP])
        .env("TFTPD", tftpd())
        .env("MODE", mode)
        .env("ROOT", dir.join("root"))
        .env("LOG", dir.join("log"))
        .env("TAKEN", dir.join("taken"))
        .output()
        .expect("unshare(1)")
}

/// Whether everything that is needed is here; reports what isn't.
fn can_build_networks() -> bool {
    let programs = ["ip", "nft", "curl", "nsenter", "unshare"];
    if !programs.iter().all(|program| require(program).is_some()) {
        return false;
    }
    let masquerade = "nft add table ip t && nft add chain ip t c \
        '{ type nat hook postrouting priority srcnat; }' && nft add rule ip t c masquerade && \
        ip link add v type veth peer name w";
    let tried = Command::new("unshare")
        .args(["--net", "sh", "-c", masquerade])
        .output();
    let works = geteuid().is_root() && tried.is_ok_and(|output| output.status.success());
    if !works {
        skip("takes root, and a kernel that masquerades and has veth");
    }
    works
}

#[test]
fn only_a_single_port_gets_through_a_nat() {
    if !can_build_networks() {
        return;
    }
    // The hardware address is that of the NAT, the server's neighbour.
    std::thread::scope(|scope| {
        for (mode, directory, gets_through) in [
            ("--single-port", "", true),
            (
                "--single-port --per-client-root mac",
                "02-00-00-00-00-0a",
                true,
            ),
            ("", "", false),
        ] {
            scope.spawn(move || assert_gets_through(mode, directory, gets_through));
        }
    });
}

fn assert_gets_through(mode: &str, directory: &str, gets_through: bool) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().join("root");
    let root = root.join(directory);
    std::fs::create_dir_all(&root).expect("a root");
    let file = content(1, 100_000);
    std::fs::write(root.join("file"), &file).expect("a file");
    let output = through_nat(mode, dir.path());
    let text = said(&output);
    assert_eq!(output.status.success(), gets_through, "{mode:?}: {text}");
    if gets_through {
        for came in [dir.path().join("taken"), root.join("brought")] {
            let got = std::fs::read(came).expect("a file");
            assert_same("through the NAT", &got, &file);
        }
    } else {
        // The network did work: the request arrived.
        let log = std::fs::read_to_string(dir.path().join("log")).expect("a log");
        assert!(log.contains("peer=198.51.100.2:"), "{log}");
        assert!(
            text.contains("curl: (28)") || text.contains("curl: (69)"),
            "{text}"
        );
    }
}
