//! Options of other clients: those of tftp-hpa's (from version 6 on) that are spelled
//! differently here, and what to say about some that don't exist here.
//! Must not: give an option a meaning that it doesn't have there.

use std::ffi::OsString;

use crate::host::usage::Remedy;

/// What stands for an option of tftp-hpa's here.
#[derive(Debug, Clone, Copy)]
enum Here {
    /// These words. The option takes no value.
    Words(&'static [&'static str]),
    /// This word, with the same number.
    Number(&'static str),
    /// `-v`, unless its number is 0.
    Verbosity,
    /// Nothing; this is what the error message says about it.
    Told(&'static str),
}

use Here::{Number, Told, Verbosity, Words};

#[rustfmt::skip]
const WORDS: &[(&[&str], Here)] = &[
    (&["-a", "--ascii", "--netascii", "--text"], Words(&["-m", "netascii"])),
    (&["-b", "--binary", "--octet"], Words(&["-m", "octet"])),
    (&["-N"], Words(&["--no-options"])),
    (&["-B", "--blocksize"], Number("--blksize")),
    (&["-W", "-w", "--windowsize"], Number("--windowsize")),
    (&["--verbosity"], Verbosity),
    (&["-T", "--no-tsize"], Told("no equivalent; --no-options asks for no option at all")),
    (&["-U", "--unsafe"], Told("no equivalent; answers from another address are never taken")),
];

const TABLE: &str = "for words of other clients see tftp(1), COMING FROM ANOTHER CLIENT";
const LOCAL_LAST: &str = "name the local file last, as in tftp get URL LOCAL";

/// What to do about options of atftp, busybox, curl and Windows' client that don't exist
/// here, each with the whole message that it follows.
#[rustfmt::skip]
pub(super) const REMEDIES: &[Remedy] = &[
    ("unexpected argument '-o' found", LOCAL_LAST),
    ("unexpected argument '--output' found", LOCAL_LAST),
    ("unexpected argument '-g' found", TABLE),
    ("unexpected argument '--get' found", TABLE),
    ("unexpected argument '-p' found", TABLE),
    ("unexpected argument '--put' found", TABLE),
    ("unexpected argument '-r' found", TABLE),
    ("unexpected argument '--remote-file' found", TABLE),
    ("unexpected argument '--local-file' found", TABLE),
    ("unexpected argument '-i' found", TABLE),
    ("unexpected argument '-O' found", TABLE),
    ("unexpected argument '--remote-name' found", TABLE),
    ("unexpected argument '--upload-file' found", TABLE),
    ("unexpected argument '--tftp-blksize' found", TABLE),
    ("unexpected argument '--tftp-no-options' found", TABLE),
    ("unexpected argument '-s' found", TABLE),
    ("unexpected argument '--silent' found", TABLE),
];

/// The command line in our words.
///
/// # Errors
/// One line about an option that doesn't exist here, or a value that makes no sense.
pub(super) fn translate(
    words: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>, String> {
    let mut words = words.into_iter();
    let mut translated: Vec<OsString> = words.next().into_iter().collect();
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default();
        if text == "--" || is_command(text) {
            let is_long = text == "--command";
            translated.push(if is_long { "-c".into() } else { word });
            translated.extend(words);
            break;
        }
        let Some((name, here, value)) = find(text) else {
            translated.push(word);
            continue;
        };
        let mut value = value.map(str::to_owned);
        if matches!(here, Number(_) | Verbosity) && value.is_none() {
            let next = words.next().and_then(|next| next.into_string().ok());
            value = Some(next.ok_or_else(|| format!("a value is required for {name}"))?);
        }
        match (here, value.as_deref()) {
            (Words(ours), None) => translated.extend(ours.iter().map(OsString::from)),
            (Number("--blksize"), Some(mtu)) if mtu.starts_with("mtu") => {
                return Err(format!(
                    "{name} {mtu} is a word of tftp-hpa; write here: --blksize 1428, the \
                     default, which every Ethernet takes; see tftp(1)"
                ));
            }
            (Number(ours), Some(number)) => {
                translated.extend([ours, number].map(OsString::from));
            }
            (Verbosity, Some("0")) => {}
            (Verbosity, Some(level)) if level.parse::<u32>().is_ok() => {
                translated.push("-v".into());
            }
            (Told(text), _) => {
                return Err(format!(
                    "{name} is a word of tftp-hpa and has {text}; see tftp(1)"
                ));
            }
            _ => return Err(format!("{text}: {name} of tftp-hpa takes no such value")),
        }
    }
    Ok(translated)
}

/// Whether a command of the prompt follows this word: `-c`, alone or as the last of
/// several letters.
fn is_command(word: &str) -> bool {
    let is_short = word.starts_with('-') && !word.starts_with("--");
    word == "--command" || is_short && word.ends_with('c')
}

/// The option that a word names, what that is here, and the value written in the same
/// word.
fn find(word: &str) -> Option<(&'static str, Here, Option<&str>)> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) if word.starts_with("--") => (name, Some(value)),
        _ => (word, None),
    };
    WORDS.iter().find_map(|&(names, here)| {
        let whole = names.iter().find(|it| **it == name);
        let split =
            |it: &&&str| matches!(here, Number(_)) && it.len() == 2 && word.starts_with(**it);
        match (whole, names.iter().find(split)) {
            (Some(name), _) => Some((*name, here, value)),
            (None, Some(name)) => {
                let value = &word[2..];
                Some((*name, here, value.strip_prefix('=').or(Some(value))))
            }
            (None, None) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> Result<String, String> {
        let words = std::iter::once("tftp").chain(line.split_whitespace());
        let words = translate(words.map(OsString::from))?;
        let words = words.iter().skip(1).map(|word| word.to_str().unwrap());
        Ok(words.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn options_are_translated() {
        for (theirs, ours) in [
            ("-a h", "-m netascii h"),
            ("--octet h", "-m octet h"),
            ("-B 1024 -W8 h", "--blksize 1024 --windowsize 8 h"),
            ("--blocksize=512 -w 4 h", "--blksize 512 --windowsize 4 h"),
            ("--windowsize 4 h", "--windowsize 4 h"),
            (
                "-B=1428 -W=16 -w=4 h",
                "--blksize 1428 --windowsize 16 --windowsize 4 h",
            ),
            ("-N --verbosity 2 h", "--no-options -v h"),
            ("--verbosity=0 h", "h"),
            ("h -c put -a -b", "h -c put -a -b"),
            ("h -vc put -a", "h -vc put -a"),
            ("h --command get -N", "h -c get -N"),
            ("get -- -a", "get -- -a"),
            ("-4 -R 5000:5010 h", "-4 -R 5000:5010 h"),
        ] {
            assert_eq!(translated(theirs).as_deref(), Ok(ours), "{theirs}");
        }
    }

    #[test]
    fn for_options_that_do_not_exist_here_the_message_says_what_to_do() {
        for (theirs, named) in [
            ("-B mtu h", "--blksize 1428"),
            ("--blocksize=mtu-32 h", "--blksize 1428"),
            ("-T h", "--no-options"),
            ("--unsafe h", "another address"),
            ("--verbosity much", "no such value"),
            ("--text=yes h", "no such value"),
            ("-W", "required"),
        ] {
            let told = translated(theirs).unwrap_err();
            assert!(told.contains(named), "{theirs}: {told}");
            assert_eq!(told.lines().count(), 1);
        }
    }
}
