//! The files in `scripts/packaging`, which go to other machines: the scripts parse, the
//! command lines are valid, and no server takes uploads unless it is told to.

mod common;
#[path = "docs/pages.rs"]
mod pages;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use common::skip;
use pages::PAGES;
use tftpd::server::cli::Args;

/// A file below `scripts`.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).expect(name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The standard output of a command, which must succeed.
#[track_caller]
fn said(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("it runs");
    assert!(status.success(), "{}{}", text(&stdout), text(&stderr));
    text(&stdout)
}

/// The arguments of a command line of the server, which must be valid.
#[track_caller]
fn understood<'a>(words: impl IntoIterator<Item = &'a str>) -> Args {
    let words: Vec<_> = words.into_iter().collect();
    let all = ["tftpd"].iter().chain(&words).map(Into::into);
    Args::read(all).unwrap_or_else(|error| panic!("{words:?}: {error:?}"))
}

/// Every script, with its shell.
fn scripts() -> Vec<(&'static str, PathBuf)> {
    let mut all = vec![
        ("bash", path("packaging/life-cycle")),
        ("sh", path("packaging/stand-in-systemctl")),
        ("sh", path("packaging/debian/import-tftpd-hpa")),
        ("sh", path("packaging/openwrt/tftpd.init")),
    ];
    for script in ["preinst", "postinst", "prerm", "postrm"] {
        all.push(("sh", path(&format!("packaging/debian/tftpd-rs.{script}"))));
    }
    all
}

#[test]
fn all_scripts_parse() {
    for (shell, script) in scripts() {
        said(Command::new(shell).arg("-n").arg(script));
    }
}

#[test]
fn shellcheck_finds_nothing() {
    if Command::new("shellcheck").arg("-V").output().is_err() {
        return skip("no shellcheck here");
    }
    for (shell, script) in scripts() {
        let name = script.display().to_string();
        // OpenWrt's scripts have a first line of their own, and use "local".
        let shell = if name.contains("openwrt") {
            "dash"
        } else {
            shell
        };
        said(Command::new("shellcheck").args(["-s", shell, &name]));
    }
}

// --- Debian -------------------------------------------------------------------------

/// The variables that a shell reads from a file of settings.
fn settings(file: &Path) -> [String; 3] {
    let script = ". \"$1\"; printf '%s\\n' \"$TFTPD_ACCESS\" \"$TFTPD_OPTIONS\" \"$TFTPD_ROOT\"";
    let all = said(Command::new("sh").args(["-c", script, "sh"]).arg(file));
    let mut lines = all.lines().map(ToOwned::to_owned);
    std::array::from_fn(|_| lines.next().expect("three lines"))
}

#[test]
fn a_fresh_debian_package_refuses_uploads() {
    let settings = settings(&path("packaging/debian/default"));
    let args = understood(settings.iter().flat_map(|it| it.split_whitespace()));
    assert!(args.read_only);
    assert_eq!(args.root.as_deref(), Some(Path::new("/srv/tftp")));
}

#[test]
fn the_units_of_the_debian_package_are_made_from_ours() {
    for unit in ["tftpd.service", "tftpd@.service"] {
        let made = said(
            Command::new("sed")
                .arg("-f")
                .arg(path("packaging/debian/units.sed"))
                .arg(path("systemd").join(unit)),
        );
        for wanted in [
            "ExecStart=/usr/sbin/tftpd ",
            "Environment=TFTPD_ACCESS=--read-only\n",
            "Environment=TFTPD_ROOT=/srv/tftp\n",
            "${TFTPD_ROOT}\n",
            "User=tftp\n",
            "ReadWritePaths=-/srv/tftp\n",
        ] {
            assert!(made.contains(wanted), "{unit} lacks {wanted}: {made}");
        }
        for unwanted in ["/usr/local", "DynamicUser=yes", "User=tftpd\n"] {
            assert!(!made.contains(unwanted), "{unit} has {unwanted}: {made}");
        }
        assert!(made.starts_with("[Unit]\n"), "{made}");
        // A later line would win over what the administrator has written.
        let places = [
            made.rfind("Environment=\"TFTPD_OPTIONS="),
            made.find("EnvironmentFile="),
        ];
        assert!(places[0].is_some() && places[0] < places[1], "{made}");
    }
}

#[test]
fn settings_of_tftpd_hpa_are_taken_over() {
    for (old, new, unit) in [
        (
            "TFTP_USERNAME=tftp\nTFTP_DIRECTORY=/srv/tftp\nTFTP_ADDRESS=:69\nTFTP_OPTIONS=--secure\n",
            ["--read-only", "--grace 30", "/srv/tftp"],
            "",
        ),
        (
            "TFTP_DIRECTORY=/boot\nTFTP_ADDRESS=0.0.0.0:69\nTFTP_OPTIONS=\"-4scvv -B 1428\"\n",
            ["--overwrite", "-4 -v -v -B 1428 --grace 30", "/boot"],
            "[Service]\nUser=tftp\nReadWritePaths=-/boot\n",
        ),
        (
            "TFTP_USERNAME=boot\nTFTP_ADDRESS=192.0.2.1:6969\nTFTP_OPTIONS=\"--create -U 027 \
             --map-file=/etc/tftp.map -T 500000 --refuse blksize -R 5000:5999 -t 900 --permissive\"\n",
            [
                "--overwrite",
                "-a 192.0.2.1:6969 -m /etc/tftp.map -t 500 -r blksize -R 5000:5999 -U 027 --grace 30",
                "/srv/tftp",
            ],
            "[Service]\nUser=boot\nReadWritePaths=-/srv/tftp\n",
        ),
        // The server was installed by hand.
        (
            "# by hand\nTFTP_USERNAME=tftp\nTFTP_DIRECTORY=/srv/tftp\nTFTP_OPTIONS=-c\n",
            ["--overwrite", "--grace 30", "/srv/tftp"],
            "[Service]\nDynamicUser=no\nUser=tftp\nReadWritePaths=-/srv/tftp\n",
        ),
    ] {
        let etc = tempfile::tempdir().expect("a directory");
        if old.contains("by hand") {
            let units = etc.path().join("systemd/system");
            fs::create_dir_all(&units).expect("a directory");
            fs::write(units.join("tftpd.service"), "").expect("written");
        }
        let defaults = etc.path().join("default");
        fs::create_dir(&defaults).expect("a directory");
        fs::write(defaults.join("tftpd-hpa"), old).expect("written");
        fs::write(defaults.join("tftpd"), "before").expect("written");
        said(
            Command::new(path("packaging/debian/import-tftpd-hpa"))
                .arg("--write")
                .env("IMPORT_ETC", etc.path())
                .env("IMPORT_UNITS", etc.path()),
        );
        let made = settings(&defaults.join("tftpd"));
        assert_eq!(made, new, "{old}");
        understood(made.iter().flat_map(|it| it.split_whitespace()));
        let drop_in = etc
            .path()
            .join("systemd/system/tftpd.service.d/tftpd-hpa.conf");
        let drop_in = fs::read_to_string(drop_in).unwrap_or_default();
        assert!(drop_in.ends_with(unit), "{old}: {drop_in}");
        assert_eq!(drop_in.is_empty(), unit.is_empty(), "{old}: {drop_in}");
        let kept = fs::read_to_string(defaults.join("tftpd.before-import")).expect("kept");
        assert_eq!(kept, "before");
    }
}

/// Since tftp-hpa 6.0 the settings are in the units.
#[test]
fn settings_of_tftpd_hpas_units_are_taken_over() {
    let packaged = "Environment=TFTPD_HOME=/var/lib/tftpboot\nEnvironment=TFTPD_OPTS=\nUser=tftp\n";
    for (service, socket, new) in [
        ("", "", ["--read-only", "--grace 30", "/var/lib/tftpboot"]),
        (
            "[Service]\nEnvironment=TFTPD_HOME=/srv/tftp\n\
             Environment=\"TFTPD_OPTS=--create -B mtu -W 8 --jail --max-upload 10 --refuse-all\"\n",
            "[Socket]\nListenDatagram=\nListenDatagram=6969\n",
            [
                "--overwrite",
                "-a :6969 -B 1428 --max-windowsize 8 --refuse-all --max-upload 10 --grace 30",
                "/srv/tftp",
            ],
        ),
        (
            "[Service]\nEnvironment=TFTPD_OPTS=--create\nEnvironment=\"TFTPD_OPTS=-c --ro -S 70\"\n",
            "[Socket]\nListenDatagram=192.0.2.1:69\n",
            [
                "--read-only",
                // Added to the packaged address, which is every address.
                "-a :69 --grace 30",
                "/var/lib/tftpboot",
            ],
        ),
        // An empty value replaces an earlier one, and a limit of 0 bytes means no uploads.
        (
            "Environment=TFTPD_OPTS=--create\nEnvironment=TFTPD_OPTS=\n",
            "ListenDatagram=\nListenDatagram=192.0.2.1:69\nListenDatagram=[::1]:69\n",
            [
                "--read-only",
                "-a 192.0.2.1:69 -a [::1]:69 --grace 30",
                "/var/lib/tftpboot",
            ],
        ),
        (
            "Environment=TFTPD_HOME=/boot \"TFTPD_OPTS=-c --max-upload 0 -a :70 -r cookie\"\n",
            "",
            ["--read-only", "--grace 30", "/boot"],
        ),
        (
            "Environment=\"TFTPD_OPTS=--create --max-size 0\"\nEnvironment=TFTPD_HOME=\"/srv\"\n",
            "ListenDatagram=70\n",
            ["--read-only", "-a :69 -a :70 --grace 30", "/srv"],
        ),
    ] {
        let etc = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let file = etc.path().join(name);
            fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
            fs::write(file, text).expect("written");
        };
        write("units/tftpd-hpa.service", packaged);
        write("units/tftpd-hpa.socket", "[Socket]\nListenDatagram=69\n");
        write("systemd/system/tftpd-hpa.service.d/override.conf", service);
        write("systemd/system/tftpd-hpa.socket.d/override.conf", socket);
        write("default/tftpd-hpa", "TFTP_OPTIONS=--which-is-not-read\n");
        said(
            Command::new(path("packaging/debian/import-tftpd-hpa"))
                .arg("--write")
                .env("IMPORT_ETC", etc.path())
                .env("IMPORT_UNITS", etc.path().join("units")),
        );
        let made = settings(&etc.path().join("default/tftpd"));
        assert_eq!(made, new, "{service}");
        if cfg!(not(feature = "familiar")) && made[1].contains("--refuse-all") {
            skip("this build lacks tftp-hpa's --refuse-all");
            continue;
        }
        understood(made.iter().flat_map(|it| it.split_whitespace()));
    }
}

/// Settings that become another one, or are left out, are reported with the reason.
#[test]
fn settings_of_tftpd_hpa_that_are_left_out_are_reported() {
    let etc = tempfile::tempdir().expect("a directory");
    fs::write(
        etc.path().join("tftpd-hpa.service"),
        "[Service]\nEnvironment=TFTPD_HOME=/srv \"TFTPD_OPTS=-S 70 -a :71 -B mtu -t 900 \
         --window-bytes 65536 --map-steps 9 --normalize=none\"\n",
    )
    .expect("written");
    let output = Command::new(path("packaging/debian/import-tftpd-hpa"))
        .env("IMPORT_ETC", etc.path())
        .env("IMPORT_UNITS", etc.path())
        .output()
        .expect("it runs");
    let told = text(&output.stderr);
    for line in [
        "left out: -S 70; tftpd-hpa.socket has the address",
        "left out: -a :71; tftpd-hpa.socket has the address",
        "-B mtu has become -B 1428",
        "left out: -t 900; systemd takes care of that",
        "left out: --window-bytes 65536; --max-windowsize and -B bound a window",
        "left out: --map-steps 9; the work of rules has a bound",
        "left out: --normalize=none; names are always normalised",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
}

/// The packages put the helpers where the manual says, and the manual names each.
#[test]
fn the_packages_bring_the_helpers_to_where_the_manual_says() {
    let manual = read("man/src/tftpd.8.md");
    let script = read("package");
    let place = "/usr/share/tftpd-rs/helpers";
    assert!(manual.contains(&format!("`{place}`")));
    for line in [
        &format!("put_helpers \"$root/server{place}\""),
        "put_helpers \"$root/helpers\"",
    ] {
        assert!(script.contains(line), "{line}");
    }
    let helpers = fs::read_dir(path("helpers")).expect("a directory");
    for helper in helpers {
        let helper = helper.expect("an entry");
        let name = helper.file_name().into_string().expect("text");
        assert!(manual.contains(&format!("- `{name} ")), "{name}");
        let mode = helper.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{name}");
    }
}

/// The Debian package of each program has its pages of the manual, and the tarball has all.
#[test]
fn the_packages_bring_every_page_of_the_manual() {
    let script = read("package");
    let function = |name: &str| {
        let (_, behind) = script.split_once(&format!("\n{name}() {{\n")).expect(name);
        let (body, _) = behind.split_once("\n}\n").expect("its end");
        format!("{name}() {{\n{body}\n}}\n")
    };
    let functions = function("put_compressed") + &function("put_manual");
    for (program, folder) in [("tftpd", "server"), ("tftp", "client")] {
        let call = format!("put_manual {program} \"$root/{folder}/usr/share/man\"\n");
        assert!(script.contains(&call), "{call}");
        let root = tempfile::tempdir().expect("a directory");
        said(
            Command::new("bash")
                .args(["-euc", &format!("{functions}{call}")])
                .env("root", root.path())
                .current_dir(env!("CARGO_MANIFEST_DIR")),
        );
        let man = root.path().join(folder).join("usr/share/man");
        let of_program = PAGES.iter().filter(|it| it.program == program);
        let mut wanted: Vec<_> = of_program
            .map(|it| man.join(format!("man{}/{}.gz", it.section, it.file())))
            .collect();
        let sections = fs::read_dir(&man).expect("a directory");
        let mut there: Vec<_> = sections
            .flat_map(|it| fs::read_dir(it.expect("an entry").path()).expect("a directory"))
            .map(|it| it.expect("an entry").path())
            .collect();
        wanted.sort();
        there.sort();
        assert_eq!(there, wanted);
    }
    let line = "install -m 644 scripts/man/*.[1-8] \"$root/man\"\n";
    assert!(script.contains(line), "{line}");
}

// --- OpenWrt ------------------------------------------------------------------------

/// Stand-ins for procd and its configuration library, which print the command.
const PROCD: &str = r#"
config_load() { :; }
config_get() { eval "$1=\${CONFIG_$3-$4}"; }
config_get_bool() { config_get "$@"; }
config_foreach() { "$1" main; }
config_list_foreach() { for item in $(eval "echo \${CONFIG_$2-}"); do "$3" "$item"; done; }
procd_open_instance() { :; }
procd_close_instance() { :; }
procd_set_param() { procd_append_param "$@"; }
procd_append_param() {
    [ "$1" = command ] || return 0
    shift
    printf '%s\n' "$@"
}
mkdir() { :; }
"#;

/// The command that the init script gives to procd with these settings.
fn procds_command(settings: &str) -> Vec<String> {
    let init = path("packaging/openwrt/tftpd.init");
    let script = format!(
        "{PROCD}\n{settings}\n. {}\nstart_service",
        init.to_str().expect("a name")
    );
    let all = said(Command::new("sh").args(["-c", &script]));
    all.lines().map(ToOwned::to_owned).collect()
}

#[test]
fn procd_starts_the_server_without_uploads_until_asked() {
    for (settings, read_only, overwrite) in [
        ("CONFIG_enabled=1", true, false),
        ("CONFIG_enabled=1 CONFIG_uploads=nonsense", true, false),
        ("CONFIG_enabled=1 CONFIG_uploads=1", false, false),
        ("CONFIG_enabled=1 CONFIG_uploads=2", false, true),
    ] {
        let command = procds_command(settings);
        assert_eq!(command[0], "/usr/sbin/tftpd");
        let args = understood(command[1..].iter().map(String::as_str));
        assert_eq!(args.read_only, read_only, "{settings}");
        assert_eq!(args.overwrite, overwrite, "{settings}");
        assert!(args.user.is_some());
    }
    assert!(procds_command("CONFIG_enabled=0").is_empty());
    let all = procds_command(
        "CONFIG_enabled=1 CONFIG_port=6969 CONFIG_single_port=1 \
         CONFIG_address='br-lan 192.0.2.1' CONFIG_options=--ignore-case",
    );
    let args = understood(all[1..].iter().map(String::as_str));
    assert_eq!((args.port, args.addresses.len()), (6969, 2));
    assert!(args.single_port && args.ignore_case);
}

#[test]
fn the_settings_of_openwrt_leave_uploads_off() {
    let config = read("packaging/openwrt/tftpd.config");
    assert!(config.contains("\toption uploads '0'\n"), "{config}");
}

// --- containers ---------------------------------------------------------------------

/// The words of the list in brackets after `key`.
#[track_caller]
fn list<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(key))
        .unwrap_or_else(|| panic!("no {key}"));
    let words = line.trim().trim_matches(['[', ']']).split(", ");
    words.map(|word| word.trim_matches('"')).collect()
}

#[test]
fn containers_use_one_port_and_refuse_uploads() {
    if cfg!(not(feature = "status")) {
        return skip("this build lacks --status, which containers use");
    }
    let image = read("packaging/container/Containerfile");
    let entry = list(&image, "ENTRYPOINT");
    assert_eq!(entry[0], "/tftpd");
    let kubernetes = read("packaging/container/kubernetes.yaml");
    for command in [list(&image, "CMD"), list(&kubernetes, "args:")] {
        let args = understood(entry[1..].iter().chain(&command).copied());
        assert!(args.single_port && args.read_only, "{command:?}");
        assert_eq!(args.port, 6969);
    }
}

/// How long the container's server lets transfers finish.
fn grace() -> Duration {
    let image = read("packaging/container/Containerfile");
    understood(list(&image, "ENTRYPOINT")[1..].iter().copied()).grace
}

/// The number after the first `key` in `text`.
#[track_caller]
fn seconds(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|it| it.trim().strip_prefix(key));
    let number = line.expect(key).trim().trim_end_matches('s');
    number.parse().expect("a number")
}

#[test]
fn containers_may_drain_longer_than_the_server_does() {
    let grace = grace();
    for (file, key) in [
        ("kubernetes.yaml", "terminationGracePeriodSeconds: "),
        ("compose.yaml", "stop_grace_period: "),
    ] {
        let text = read(&format!("packaging/container/{file}"));
        let mut taken = grace;
        if text.contains("preStop:") {
            taken += Duration::from_secs(seconds(&text, "seconds:"));
        }
        assert!(Duration::from_secs(seconds(&text, key)) > taken, "{file}");
    }
}

/// A pod that isn't ready loses the flows of transfers that it is still finishing.
#[test]
fn a_draining_pod_stays_ready_until_its_transfers_are_over() {
    let text = read("packaging/container/kubernetes.yaml");
    let (_, probe) = text.split_once("readinessProbe:").expect("a probe");
    let believed = seconds(probe, "periodSeconds:") * seconds(probe, "failureThreshold:");
    assert!(Duration::from_secs(believed) > grace(), "{believed} s");
}

#[cfg(feature = "client")]
#[test]
fn the_probes_of_containers_are_understood() {
    for file in ["kubernetes.yaml", "compose.yaml"] {
        let text = read(&format!("packaging/container/{file}"));
        let probes: Vec<_> = text
            .lines()
            .filter(|line| line.contains("\"probe\""))
            .collect();
        assert!(!probes.is_empty(), "{file}");
        for probe in probes {
            let (key, _) = probe.trim().split_once(' ').expect("a list");
            let words = list(probe, key);
            let words = words.into_iter().skip_while(|&word| word != "/tftp");
            tftpd::client::cli::Args::read(words.map(Into::into))
                .unwrap_or_else(|error| panic!("{file}: {probe}: {error:?}"));
        }
    }
}
