//! The words of other servers' command lines: which of them are accepted, and what to
//! write instead of the others.
//!
//! One table for both, and for the manual, which shows its rows. Must not: give a word
//! a meaning that it doesn't have there.

use std::ffi::OsString;

use crate::wire::options::OptionName;

/// A row of the manual's table, and its words.
#[derive(Debug)]
pub struct Row {
    /// The other server.
    pub with: &'static str,
    /// What is written for the other server.
    pub theirs: &'static str,
    /// What is written here.
    pub ours: &'static str,
    words: &'static [(&'static str, Here)],
}

/// What becomes of a word here.
#[derive(Debug, Clone, Copy)]
enum Here {
    /// These words; it takes no value.
    Flag(&'static [&'static str]),
    /// Nothing: it is dropped, with its value.
    Dropped,
    /// Another word with the same value.
    Renamed(&'static str),
    /// What is made of its value; `None` if the value is wrong.
    Value(fn(&str) -> Option<Vec<String>>),
    /// The same, where the value may be missing; if given, it follows a `=`.
    Optional(fn(Option<&str>) -> Option<Vec<String>>),
    /// It isn't accepted: the message says what to write.
    Told,
}

use Here::{Dropped, Flag, Optional, Renamed, Told, Value};

/// The command line, with our words in place of other servers'.
///
/// # Errors
/// One line: a word that isn't accepted, or a value that makes no sense.
pub(super) fn translate(
    words: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>, String> {
    let words: Vec<_> = words.into_iter().collect();
    let is_daemon = words.iter().any(|word| word == "--daemon");
    let mut words = words.into_iter().peekable();
    let mut translated: Vec<OsString> = words.next().into_iter().collect();
    let (mut only_reads, mut drops_void) = (false, false);
    while let Some(word) = words.next() {
        if word == "--" {
            translated.push(word);
            translated.extend(words);
            break;
        }
        let (name, value) = split(&word);
        let Some((row, here)) = name.and_then(find) else {
            let is_number = |next: &OsString| next.as_encoded_bytes().first() > Some(&b'/');
            if word == "-p" && !words.peek().is_some_and(is_number) {
                return Err(NO_PORT.to_owned());
            }
            translated.push(word);
            continue;
        };
        let name = name.unwrap_or_default();
        only_reads |= row.with == DNSMASQ;
        drops_void |= ["--ro", "--max-size"].contains(&name);
        let here = match here {
            // As a daemon, atftpd never ends by itself.
            Renamed("--idle-exit") if is_daemon => Dropped,
            here => here,
        };
        let mut value = value.map(str::to_owned);
        if matches!(here, Dropped | Renamed(_) | Value(_)) && value.is_none() {
            let next = words.next().and_then(|next| next.into_string().ok());
            value = Some(next.ok_or_else(|| format!("a value is required for {name}"))?);
        }
        let value = value.as_deref();
        let made = match here {
            Flag(made) if value.is_none() => Some(made.iter().map(|&it| it.into()).collect()),
            Dropped => Some(vec![]),
            Renamed(word) => value.map(|value| vec![word.to_owned(), value.to_owned()]),
            Value(make) => value.and_then(make),
            Optional(make) => make(value),
            Flag(_) => None,
            Told => return Err(told(name, None, row)),
        };
        let made = made.ok_or_else(|| told(name, value, row))?;
        translated.extend(made.into_iter().map(OsString::from));
    }
    // dnsmasq takes no uploads, whichever of its words are given.
    if only_reads && !translated.iter().any(|word| word == "--read-only") {
        translated.insert(1, "--read-only".into());
    }
    if drops_void {
        drop_void(&mut translated);
    }
    Ok(translated)
}

/// Drops the settings of uploads that tftp-hpa accepts, without effect, beside
/// read-only.
fn drop_void(words: &mut Vec<OsString>) {
    let end = words.iter().position(|word| word == "--");
    let rest = words.split_off(end.unwrap_or(words.len()));
    if words.iter().any(|word| word == "--read-only") {
        let mut is_value = false;
        words.retain(|word| {
            if std::mem::take(&mut is_value) {
                return false;
            }
            let text = word.to_str().unwrap_or_default();
            is_value = ["--max-upload", "--umask", "-U"].contains(&text);
            let with_value = ["--max-upload=", "--umask=", "-U"];
            !is_value && !with_value.iter().any(|it| text.starts_with(it))
        });
    }
    words.extend(rest);
}

/// A long word's name and its value, or a short one's.
fn split(word: &OsString) -> (Option<&str>, Option<&str>) {
    match word.to_str() {
        Some(long) if long.starts_with("--") => match long.split_once('=') {
            Some((name, value)) => (Some(name), Some(value)),
            None => (Some(long), None),
        },
        Some(short)
            if ["-B", "-S", "-T", "-W", "-r"]
                .iter()
                .any(|it| short.starts_with(it)) =>
        {
            let (name, value) = short.split_at(2);
            let own = Some(value).filter(|it| !it.is_empty());
            (Some(name), own.map(|it| it.strip_prefix('=').unwrap_or(it)))
        }
        _ => (None, None),
    }
}

fn find(name: &str) -> Option<(&'static Row, Here)> {
    ROWS.iter().find_map(|row| {
        let word = row.words.iter().find(|(word, _)| *word == name)?;
        Some((row, word.1))
    })
}

fn told(word: &str, value: Option<&str>, row: &Row) -> String {
    let (with, ours) = (row.with, row.ours.replace('`', ""));
    let advice = if ours == "no equivalent" {
        " and has no equivalent here".to_owned()
    } else if ours.starts_with("leave it out") {
        format!(": {ours}")
    } else if let Some(rest) = ours.strip_prefix("the same") {
        let rest = rest.replacen("; or ", "; write ", 1);
        let value = value.unwrap_or_default();
        format!(", but not with the value {value}{rest}")
    } else {
        format!("; write here: {ours}")
    };
    format!("{word} is a word of {with}{advice}; see tftpd-migration(7)")
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

/// `-t`, from a number of units, `per_second` of which make a second.
fn wait(value: &str, per_second: u64) -> Option<Vec<String>> {
    let number: u64 = value.parse().ok()?;
    let milliseconds = number.checked_mul(1000)? / per_second;
    Some(words(["-t", &format!("{}ms", milliseconds.max(1))]))
}

/// `-B`, unless the kernel is to be asked for the size.
fn block(size: &str) -> Option<Vec<String>> {
    (!size.starts_with("mtu")).then(|| words(["-B", size]))
}

/// `-p`, from a number or the name of TFTP's port.
fn port(service: &str) -> Option<Vec<String>> {
    let port: u16 = if service == "tftp" {
        69
    } else {
        service.parse().ok()?
    };
    Some(words(["-p", &port.to_string()]))
}

/// The largest upload; a size of 0 means no uploads.
fn upload(size: &str) -> Vec<String> {
    match size {
        "0" => words(["--read-only"]),
        size => words(["--max-upload", size]),
    }
}

/// `-r`, unless it is an option that we don't know anyway.
fn refused(option: &str) -> Vec<String> {
    if option.eq_ignore_ascii_case("cookie") {
        return vec![];
    }
    words(["-r", option])
}

/// `-r`, for every option that a client may ask for.
fn all_refused(value: Option<&str>) -> Option<Vec<String>> {
    let all = OptionName::ALL.into_iter();
    let all = || all.flat_map(|option| words(["-r", option.name()]));
    value.is_none().then(|| all().collect())
}

/// No words, if there is no value or it is one of these.
fn one_of(value: Option<&str>, known: &[&str]) -> Option<Vec<String>> {
    value.is_none_or(|it| known.contains(&it)).then(Vec::new)
}

/// `-v`, this many times, but at most twice.
fn verbose(times: u64) -> Vec<String> {
    vec!["-v".to_owned(); times.min(2) as usize]
}

/// `-B`, for packets of `mtu` bytes, including the headers of IP, UDP and TFTP.
fn block_within(mtu: &str) -> Option<Vec<String>> {
    let bytes: u32 = mtu.parse().ok()?;
    Some(words(["-B", &bytes.checked_sub(32)?.to_string()]))
}

/// `--read-only`, and `-a` for each interface.
fn interfaces(names: Option<&str>) -> Vec<String> {
    let listen = names.into_iter().flat_map(|names| names.split(','));
    let listen = listen.flat_map(|name| ["-a", name]);
    let all = ["--read-only"].into_iter().chain(listen);
    all.map(str::to_owned).collect()
}

const fn row(
    with: &'static str,
    theirs: &'static str,
    ours: &'static str,
    words: &'static [(&'static str, Here)],
) -> Row {
    Row {
        with,
        theirs,
        ours,
        words,
    }
}

const HPA: &str = "tftp-hpa";
/// What its later releases brought, windows in 6.0 first.
const HPA7: &str = "tftp-hpa 7";
const ATFTPD: &str = "atftpd";
const DNSMASQ: &str = "dnsmasq";

/// For `-p` without a number.
const NO_PORT: &str = "-p is the port here, such as -p 6969; if you mean tftp-hpa's -p \
    (--permissive), leave it out: the rights of USER decide; see tftpd-migration(7)";

/// All rows, in the manual's order.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    row(HPA, "`in.tftpd -l -s /srv/tftp`",
        "`tftpd -u nobody --read-only /srv/tftp`; it stays in the foreground, and takes `-l` and `-s` too", &[]),
    row(HPA, "`-c`, `-s`, `-l`, `-L` and `--create`, `--secure`, `--listen`, `--foreground`",
        "the same; they have no effect, since this is the default", &[]),
    row(HPA, "without `-c`: only files that exist can be uploaded",
        "`--read-only`, or `--overwrite`, which allows new files as well", &[]),
    row(HPA, "`--permissive`", "the same; it has no effect, the rights of USER decide; `-p` is the port here",
        &[("--permissive", Flag(&[]))]),
    row(HPA, "`-a 192.0.2.1`, `-a 192.0.2.1:69`, `-a [2001:db8::1]:69`, `--address :6969`, `-4`, `-6`",
        "the same", &[]),
    row(HPA, "`-t 900` (`--timeout`), under inetd; since 6 always",
        "`--idle-exit 900`; `-t` is the wait for an answer here", &[]),
    row(HPA, "`-T 500000`, `--retransmit 500000`, microseconds", "the same; or `-t 500`, milliseconds",
        &[("-T", Value(|it| wait(it, 1_000_000))), ("--retransmit", Value(|it| wait(it, 1_000_000)))]),
    row(HPA, "`-B 1428`, `--blocksize 1428`", "the same; or `--max-blksize 1428`; for `mtu` write `-B 1428`, which every Ethernet takes",
        &[("-B", Value(block)), ("--blocksize", Value(block))]),
    row(HPA, "`-r blksize`, `-R 50000:51999`, `-U 022`, `-m FILE`, `-m /dev/null`, `-v`", "the same",
        &[("-r", Value(|it| Some(refused(it)))), ("--refuse", Value(|it| Some(refused(it))))]),
    row(HPA, "`--verbosity 2`", "the same; or `-v`, `-vv`",
        &[("--verbosity", Value(|it| it.parse().ok().map(verbose)))]),
    row(HPA, "`-u tftp`; nobody if left out", "the same; if left out, the user that started it", &[]),
    row(HPA, "`-P FILE`, `--pidfile FILE`", "the same; or `--pid-file FILE`",
        &[("--pidfile", Renamed("-P"))]),
    row(HPA, "several directories, without `-s`",
        "one ROOT, and `--follow-links DIR` for each directory that links in it may lead to", &[]),
    row(HPA, "nothing; the log goes to the syslog", "`--syslog`; under inetd nothing", &[]),
    row(HPA7, "`-j`, `--jail`, `--systemd`",
        "the same; they have no effect, since this is always the case", &[("--systemd", Flag(&[]))]),
    row(HPA7, "`--normalize`, `--normalize=path`", "the same; it has no effect, names are always normalised",
        &[("--normalize", Optional(|it| one_of(it, &["root", "path"])))]),
    row(HPA7, "`--chroot`, `--read-only`, `--max-upload 1000000`, `--syslog`", "the same", &[]),
    row(HPA7, "`-S 6969`, `--service 6969`, `--port 6969`", "the same; or `-p 6969`",
        &[("-S", Value(port)), ("--service", Value(port))]),
    row(HPA7, "`--ro`, `--max-size 1000000`", "the same; or `--read-only`, `--max-upload 1000000`",
        &[("--ro", Flag(&["--read-only"])), ("--max-size", Value(|it| Some(upload(it))))]),
    row(HPA7, "`-W 16`, `--windowsize 16`", "the same; or `--max-windowsize 16`",
        &[("-W", Renamed("--max-windowsize")), ("--windowsize", Renamed("--max-windowsize"))]),
    row(HPA7, "`--window-bytes 65536`",
        "leave it out; `--max-windowsize 16` and `-B 1428` bound a window", &[("--window-bytes", Told)]),
    row(HPA7, "`--reject blksize`, `--refuse-all`, `--reject-all`", "the same; or `-r blksize`, and so on for each option",
        &[("--reject", Value(|it| Some(refused(it)))), ("--refuse-all", Optional(all_refused)), ("--reject-all", Optional(all_refused))]),
    row(HPA7, "`--ports 50000:51999`", "the same; or `-R 50000:51999`", &[("--ports", Renamed("-R"))]),
    row(HPA7, "`--validate`", "leave it out; no name leads out of ROOT", &[("--validate", Told)]),
    row(HPA7, "`--path-prefix /srv --secure /tftp`", "`/srv/tftp`, as one ROOT", &[("--path-prefix", Told)]),
    row(HPA7, "`--map-steps 4096`", "leave it out; the work of rules has a bound, see `tftpd.map`(5)",
        &[("--map-steps", Told)]),
    row(HPA7, "`-m FILE --map-test FILE`", "`--map-test FILE`, with the rules; the names are read from standard input", &[]),
    row(HPA7, "`--stderr`, `--stderr=human`", "the same; or nothing; for programs `--log-format json`",
        &[("--stderr", Optional(|it| one_of(it, &["human"])))]),
    row(HPA7, "`--logfile FILE`", "the same; or `--log-file FILE`", &[]),
    row(HPA7, "`--logformat human`", "the same; or nothing; for programs `--log-format json`",
        &[("--logformat", Value(|it| one_of(Some(it), &["human"])))]),
    row(HPA7, "`--stdout`", "leave it out; the log goes to standard error, and with `2>&1` to standard output",
        &[("--stdout", Told)]),
    row(ATFTPD, "`--daemon`, `--no-fork`, `--prevent-sas`, `--no-multicast`",
        "the same; they have no effect: this is always the case, and it stays in the foreground",
        &[("--daemon", Flag(&[])), ("--no-fork", Flag(&[])), ("--prevent-sas", Flag(&[])), ("--no-multicast", Flag(&[]))]),
    row(ATFTPD, "`--port 6969`, `--bind-address 192.0.2.1`", "the same; or `-p 6969`, `-a 192.0.2.1`",
        &[("--bind-address", Renamed("-a"))]),
    row(ATFTPD, "`--user nobody.nogroup`, `--group nogroup`", "`-u nobody:nogroup`",
        &[("--group", Told)]),
    row(ATFTPD, "`--tftpd-timeout 300`", "the same; or `--idle-exit 300`; with `--daemon` it has no effect",
        &[("--tftpd-timeout", Renamed("--idle-exit"))]),
    row(ATFTPD, "`--retry-timeout 5`, seconds", "the same; or `-t 5000`, milliseconds",
        &[("--retry-timeout", Value(|it| wait(it, 1)))]),
    row(ATFTPD, "`--maxthread 100`", "the same; or `--max-sessions 100`",
        &[("--maxthread", Renamed("--max-sessions"))]),
    row(ATFTPD, "`--no-timeout`", "the same; or `-r timeout -r utimeout`",
        &[("--no-timeout", Flag(&["-r", "timeout", "-r", "utimeout"]))]),
    row(ATFTPD, "`--no-tsize`, `--no-blksize`, `--no-windowsize`",
        "the same; or `-r tsize`, `-r blksize -r blksize2`, `-r windowsize`",
        &[("--no-tsize", Flag(&["-r", "tsize"])), ("--no-blksize", Flag(&["-r", "blksize", "-r", "blksize2"])),
          ("--no-windowsize", Flag(&["-r", "windowsize"]))]),
    row(ATFTPD, "`--logfile FILE`, `--logfile -`, `--pidfile FILE`",
        "the same; or `--log-file FILE`, nothing (standard error), `-P FILE`",
        &[("--logfile", Value(|it| if it == "-" { Some(vec![]) } else { Some(words(["--log-file", it])) }))]),
    row(ATFTPD, "nothing; the log goes to the syslog", "`--syslog`", &[]),
    row(ATFTPD, "`--verbose=7`, `--trace`", "the same; or `-v`, `-vv`",
        &[("--verbose", Optional(|it| it.map_or(Some(7), |it| it.parse().ok()).map(|level: u64| verbose(u64::from(level > 6))))),
          ("--trace", Flag(&["-vv"]))]),
    row(ATFTPD, "`--pcre FILE`, `--pcre-test FILE`",
        "`-m FILE`, `--map-test FILE`, with rules in another language, see `tftpd.map`(5)",
        &[("--pcre", Told), ("--pcre-test", Told)]),
    row(ATFTPD, "`--mcast-ttl 1`, `--mcast-port 1758`, `--mcast-addr 239.255.0.0-255`",
        "the same; they have no effect: each client gets its own packets",
        &[("--mcast-ttl", Dropped), ("--mcast-port", Dropped), ("--mcast-addr", Dropped)]),
    row(ATFTPD, "`--mtftp FILE`, `--no-source-port-checking`", "no equivalent",
        &[("--mtftp", Told), ("--mtftp-port", Told), ("--no-source-port-checking", Told)]),
    row(DNSMASQ, "`--enable-tftp`, `--tftp-root=/srv/tftp`", "the same; or `--read-only /srv/tftp`",
        &[("--enable-tftp", Optional(|it| Some(interfaces(it)))), ("--tftp-root", Value(|it| Some(words(["--read-only", it]))))]),
    row(DNSMASQ, "`--enable-tftp=eth0`", "the same; or `--read-only -a eth0`", &[]),
    row(DNSMASQ, "nothing; links that leave the root are followed", "`--follow-links DIR`", &[]),
    row(DNSMASQ, "`--tftp-secure`",
        "leave it out; what the server's user may read is served here, whoever owns it: run it as one with few rights, such as `-u tftp`",
        &[("--tftp-secure", Told)]),
    row(DNSMASQ, "`--tftp-max=50`", "the same; or `--max-sessions 50`",
        &[("--tftp-max", Renamed("--max-sessions"))]),
    row(DNSMASQ, "`--tftp-mtu=1500`", "the same; or `-B 1468`, the room that leaves for a block",
        &[("--tftp-mtu", Value(block_within))]),
    row(DNSMASQ, "`--tftp-no-blocksize`", "the same; or `-r blksize -r blksize2`",
        &[("--tftp-no-blocksize", Flag(&["-r", "blksize", "-r", "blksize2"]))]),
    row(DNSMASQ, "`--tftp-port-range=50000,51999`", "the same; or `-R 50000:51999`",
        &[("--tftp-port-range", Value(|it| Some(words(["-R", &it.replace(',', ":")]))))]),
    row(DNSMASQ, "`--tftp-lowercase`", "`-m FILE` with the rule `r ^.*$ \\L\\0`",
        &[("--tftp-lowercase", Told)]),
    row(DNSMASQ, "`--quiet-tftp`", "the same; or `-q`", &[("--quiet-tftp", Flag(&["-q"]))]),
    row(DNSMASQ, "`--tftp-no-fail`",
        "leave it out; a ROOT that is missing always ends the start here, with an error that names it",
        &[("--tftp-no-fail", Told)]),
    row(DNSMASQ, "`--tftp-single-port`", "the same; or `--single-port`",
        &[("--tftp-single-port", Flag(&["--single-port"]))]),
    row(DNSMASQ, "`--tftp-unique-root=ip`, `--tftp-unique-root=mac`",
        "the same; or `--per-client-root ip`, `--per-client-root mac`, which is for IPv4 alone",
        &[("--tftp-unique-root", Optional(|it| Some(words(["--per-client-root", it.unwrap_or("ip")]))))]),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> Result<String, String> {
        let words = std::iter::once("tftpd").chain(line.split_whitespace());
        let words = translate(words.map(OsString::from))?;
        let words = words.iter().skip(1).map(|word| word.to_str().unwrap());
        Ok(words.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn words_are_taken_for_what_they_mean_there() {
        for (theirs, ours) in [
            ("-l -s /srv/tftp", "-l -s /srv/tftp"),
            ("--permissive /srv", "/srv"),
            ("-T 500000", "-t 500ms"),
            ("-T500000", "-t 500ms"),
            ("--retransmit=1500000", "-t 1500ms"),
            ("--retransmit 10", "-t 1ms"),
            ("--blocksize 1428 x", "-B 1428 x"),
            ("--verbosity 3", "-v -v"),
            ("--verbosity=0", ""),
            ("--verbose=7", "-v"),
            ("--verbose=5", ""),
            ("--verbose", "-v"),
            (
                "--daemon --maxthread 100 --mcast-ttl 1 /srv",
                "--max-sessions 100 /srv",
            ),
            ("--tftpd-timeout 300 --verbose=5", "--idle-exit 300"),
            ("--tftpd-timeout 300 --daemon", ""),
            ("--logfile - --pidfile x", "-P x"),
            (
                "--enable-tftp --tftp-root=/srv",
                "--read-only --read-only /srv",
            ),
            ("--enable-tftp=eth0,eth1", "--read-only -a eth0 -a eth1"),
            ("--tftp-mtu=1500", "--read-only -B 1468"),
            ("--tftp-port-range=1,2", "--read-only -R 1:2"),
            ("--tftp-unique-root", "--read-only --per-client-root ip"),
            ("-p 69", "-p 69"),
            ("-B1428", "-B 1428"),
            ("-S tftp", "-p 69"),
            ("--service=6969", "-p 6969"),
            ("-W 16 -L", "--max-windowsize 16 -L"),
            ("--systemd --jail /srv", "--jail /srv"),
            ("--normalize=root --normalize /srv", "/srv"),
            (
                "-B=1428 -W=16 -S=6969",
                "-B 1428 --max-windowsize 16 -p 6969",
            ),
            ("-B= x", "-B  x"),
            ("--max-size 0 -U 022 -U077 --umask=0", "--read-only"),
            ("--ro --max-size 9 --umask 022 x", "--read-only x"),
            ("--read-only --max-size 9", "--read-only"),
            ("--max-size 9 -U 022", "--max-upload 9 -U 022"),
            ("--ro -- -U", "--read-only -- -U"),
            ("--reject cookie -r COOKIE -rtsize", "-r tsize"),
            ("--stderr=human --logformat human --stderr", ""),
            ("--ro --max-size 0", "--read-only --read-only"),
            ("--max-size=10", "--max-upload 10"),
            ("--reject tsize --ports 5000:5010", "-r tsize -R 5000:5010"),
            ("-- --permissive", "-- --permissive"),
        ] {
            assert_eq!(translated(theirs).as_deref(), Ok(ours), "{theirs}");
        }
    }

    #[test]
    fn for_the_others_the_word_to_write_is_told() {
        for (theirs, named) in [
            ("--group nogroup", "-u nobody:nogroup"),
            ("--pcre file", "-m FILE"),
            (
                "--tftp-secure",
                "leave it out; what the server's user may read is served",
            ),
            ("--mtftp file", "no equivalent"),
            (
                "--tftp-no-fail",
                "leave it out; a ROOT that is missing always ends",
            ),
            ("--retransmit soon", "milliseconds"),
            ("--trace=1", "not with the value 1; write -v"),
            ("--tftp-mtu=20", "-B"),
            ("--daemon=yes", "foreground"),
            ("--blocksize", "value"),
            ("-B mtu", "-B 1428"),
            ("--blocksize=mtu-32", "-B 1428"),
            ("-S domain", "the value domain; write -p 6969"),
            ("-W", "value"),
            ("--window-bytes 65536", "--max-windowsize 16 and -B 1428"),
            ("--validate", "leave it out"),
            ("--path-prefix=/srv", "/srv/tftp, as one ROOT"),
            ("--map-steps 9", "tftpd.map(5)"),
            ("--stderr=tag", "--log-format json"),
            ("--logformat tag", "--log-format json"),
            ("--stdout=tag", "2>&1"),
            ("--normalize=no", "not with the value no"),
            ("--normalize=none", "names are always normalised"),
            ("--refuse-all=1", "not with the value 1"),
            ("-p -s /srv", "leave it out"),
            ("-p /srv", "leave it out"),
        ] {
            let told = translated(theirs).unwrap_err();
            assert!(told.contains(named), "{theirs}: {told}");
            assert_eq!(told.lines().count(), 1);
        }
    }

    #[test]
    fn refuse_all_names_every_option_there_is() {
        let line = translated("--refuse-all").unwrap();
        for option in OptionName::ALL {
            let all = format!("{line} ");
            assert!(all.contains(&format!("-r {} ", option.name())), "{line}");
        }
    }
}
