//! The commands of the prompt: their names, what `help` says of them, and how
//! they may be abbreviated. Must not: do anything.

/// What can be typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Connect,
    Mode,
    Put,
    Get,
    Mput,
    Mget,
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

/// A row of the table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    name: &'static str,
    command: Command,
    /// What may follow the name.
    arguments: &'static str,
    text: &'static str,
}

const fn entry(
    name: &'static str,
    command: Command,
    arguments: &'static str,
    text: &'static str,
) -> Entry {
    Entry {
        name,
        command,
        arguments,
        text,
    }
}

/// Names, in the order in which `help` lists them.
static TABLE: [Entry; 24] = [
    entry(
        "connect",
        Command::Connect,
        "HOST [PORT]",
        "connect to remote tftp",
    ),
    entry(
        "mode",
        Command::Mode,
        "[octet | binary | image | netascii | ascii]",
        "set file transfer mode",
    ),
    entry(
        "put",
        Command::Put,
        "LOCAL [REMOTE] | put LOCAL... DIRECTORY/ (REMOTE: FILE, HOST:FILE or a URL)",
        "send file",
    ),
    entry(
        "get",
        Command::Get,
        "REMOTE [LOCAL] | get REMOTE REMOTE REMOTE... (REMOTE: FILE, HOST:FILE or a URL)",
        "receive file",
    ),
    entry(
        "mput",
        Command::Mput,
        "LOCAL... DIRECTORY",
        "send files to a directory",
    ),
    entry(
        "mget",
        Command::Mget,
        "REMOTE... DIRECTORY, which exists",
        "receive files to a directory",
    ),
    entry("quit", Command::Quit, "", "exit tftp"),
    entry("exit", Command::Quit, "", "exit tftp"),
    entry("verbose", Command::Verbose, "", "toggle verbose mode"),
    entry("trace", Command::Trace, "", "toggle packet tracing"),
    entry(
        "literal",
        Command::Literal,
        "",
        "toggle literal mode, ignore ':' in file name",
    ),
    entry("status", Command::Status, "", "show current status"),
    entry("binary", Command::Binary, "", "set mode to octet"),
    entry("octet", Command::Binary, "", "set mode to octet"),
    entry("image", Command::Binary, "", "set mode to octet"),
    entry("ascii", Command::Ascii, "", "set mode to netascii"),
    entry("netascii", Command::Ascii, "", "set mode to netascii"),
    entry(
        "rexmt",
        Command::Rexmt,
        "SECONDS (0.001 to 255)",
        "set per-packet retransmission timeout, in seconds",
    ),
    entry(
        "timeout",
        Command::Timeout,
        "SECONDS (0.001 to 255)",
        "set total retransmission timeout, in seconds",
    ),
    entry(
        "blksize",
        Command::Blksize,
        "BYTES (8 to 65464)",
        "set block size to ask for, in bytes",
    ),
    entry(
        "blocksize",
        Command::Blksize,
        "BYTES (8 to 65464)",
        "set block size to ask for, in bytes",
    ),
    entry(
        "windowsize",
        Command::Windowsize,
        "BLOCKS (1 to 65535)",
        "set window to ask for, in blocks",
    ),
    entry("?", Command::Help, "[COMMAND]...", "print help information"),
    entry(
        "help",
        Command::Help,
        "[COMMAND]...",
        "print help information",
    ),
];

/// Why a word is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoCommand {
    Ambiguous,
    Invalid,
}

/// The command that `word` stands for: the name of a command, or a beginning that only
/// names of that command have.
pub(super) fn find(word: &[u8]) -> Result<Command, NoCommand> {
    find_entry(word).map(|entry| entry.command)
}

fn find_entry(word: &[u8]) -> Result<&'static Entry, NoCommand> {
    if let Some(entry) = TABLE.iter().find(|it| it.name.as_bytes() == word) {
        return Ok(entry);
    }
    // Scripts use `m`, which was unambiguous before mget and mput came.
    let word = if word == b"m" { b"mode" } else { word };
    let mut found = TABLE
        .iter()
        .filter(|it| it.name.as_bytes().starts_with(word));
    let entry = found.next().ok_or(NoCommand::Invalid)?;
    // Two names of the same command aren't ambiguous.
    if found.any(|it| it.command != entry.command) {
        return Err(NoCommand::Ambiguous);
    }
    Ok(entry)
}

/// Names that begin with `word`.
pub(super) fn completions(word: &str) -> impl Iterator<Item = &'static str> {
    let names = TABLE.iter().map(|it| it.name);
    names.filter(move |name| name.starts_with(word))
}

/// All names with their help texts.
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.iter().map(|it| (it.name, it.text))
}

/// What the command does and how it is used, in two lines.
pub(super) fn help(word: &[u8]) -> Result<String, NoCommand> {
    let entry = find_entry(word)?;
    Ok(format!("{}\n{}", entry.text, entry.usage()))
}

/// How the command is used, in one line.
pub(super) fn usage(command: Command) -> String {
    let entry = TABLE.iter().find(|it| it.command == command);
    entry.map_or_else(String::new, Entry::usage)
}

impl Entry {
    fn usage(&self) -> String {
        let usage = format!("usage: {} {}", self.name, self.arguments);
        usage.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unambiguous_beginning_is_enough() {
        for (word, expected) in [
            ("get", Ok(Command::Get)),
            ("g", Ok(Command::Get)),
            ("c", Ok(Command::Connect)),
            ("b", Err(NoCommand::Ambiguous)),
            ("bi", Ok(Command::Binary)),
            ("bl", Ok(Command::Blksize)),
            ("q", Ok(Command::Quit)),
            ("m", Ok(Command::Mode)),
            ("mp", Ok(Command::Mput)),
            ("mg", Ok(Command::Mget)),
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
