//! The commands of the prompt: their names, what `help` says of them, and how
//! they may be abbreviated. Must not: do anything.

/// What can be typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Connect,
    Mode,
    Put,
    Get,
    Quit,
    Verbose,
    Trace,
    Literal,
    Status,
    Binary,
    Ascii,
    Rexmt,
    Timeout,
    Blksize,
    Windowsize,
    Help,
}

/// Names, in the order in which `help` lists them.
const TABLE: [(&str, Command, &str); 21] = [
    ("connect", Command::Connect, "connect to remote tftp"),
    ("mode", Command::Mode, "set file transfer mode"),
    ("put", Command::Put, "send file"),
    ("get", Command::Get, "receive file"),
    ("quit", Command::Quit, "exit tftp"),
    ("exit", Command::Quit, "exit tftp"),
    ("verbose", Command::Verbose, "toggle verbose mode"),
    ("trace", Command::Trace, "toggle packet tracing"),
    (
        "literal",
        Command::Literal,
        "toggle literal mode, ignore ':' in file name",
    ),
    ("status", Command::Status, "show current status"),
    ("binary", Command::Binary, "set mode to octet"),
    ("octet", Command::Binary, "set mode to octet"),
    ("image", Command::Binary, "set mode to octet"),
    ("ascii", Command::Ascii, "set mode to netascii"),
    ("netascii", Command::Ascii, "set mode to netascii"),
    (
        "rexmt",
        Command::Rexmt,
        "set per-packet retransmission timeout, in seconds",
    ),
    (
        "timeout",
        Command::Timeout,
        "set total retransmission timeout, in seconds",
    ),
    (
        "blksize",
        Command::Blksize,
        "set block size to ask for, in bytes",
    ),
    (
        "windowsize",
        Command::Windowsize,
        "set window to ask for, in blocks",
    ),
    ("?", Command::Help, "print help information"),
    ("help", Command::Help, "print help information"),
];

/// Why a word is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoCommand {
    Ambiguous,
    Invalid,
}

/// The command that `word` stands for: its name, or the beginning of one and no
/// other.
pub(super) fn find(word: &[u8]) -> Result<Command, NoCommand> {
    let starts = |&&(name, ..): &&(&str, Command, &str)| name.as_bytes().starts_with(word);
    if let Some((_, command, _)) = TABLE.iter().find(|(name, ..)| name.as_bytes() == word) {
        return Ok(*command);
    }
    let mut found = TABLE.iter().filter(starts).map(|&(_, command, _)| command);
    match (found.next(), found.next()) {
        (Some(command), None) => Ok(command),
        (Some(_), Some(_)) => Err(NoCommand::Ambiguous),
        (None, _) => Err(NoCommand::Invalid),
    }
}

/// Names that begin with `word`.
pub(super) fn completions(word: &str) -> impl Iterator<Item = &'static str> {
    TABLE
        .iter()
        .map(|&(name, ..)| name)
        .filter(move |name| name.starts_with(word))
}

/// Names and help texts, all of them.
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.iter().map(|&(name, _, text)| (name, text))
}

/// The help text of what `word` stands for.
pub(super) fn help(word: &[u8]) -> Result<&'static str, NoCommand> {
    let command = find(word)?;
    let entry = TABLE.iter().find(|(_, other, _)| *other == command);
    entry.map(|&(.., text)| text).ok_or(NoCommand::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unambiguous_is_enough() {
        for (word, expected) in [
            ("get", Ok(Command::Get)),
            ("g", Ok(Command::Get)),
            ("c", Ok(Command::Connect)),
            ("b", Err(NoCommand::Ambiguous)),
            ("bi", Ok(Command::Binary)),
            ("bl", Ok(Command::Blksize)),
            ("q", Ok(Command::Quit)),
            ("t", Err(NoCommand::Ambiguous)),
            ("ti", Ok(Command::Timeout)),
            ("?", Ok(Command::Help)),
            ("", Err(NoCommand::Ambiguous)),
            ("getx", Err(NoCommand::Invalid)),
            ("GET", Err(NoCommand::Invalid)),
        ] {
            assert_eq!(find(word.as_bytes()), expected, "{word}");
        }
    }
}
