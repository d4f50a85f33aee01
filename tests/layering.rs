//! Checks the architecture: which module may import which, what the core may not use, and
//! where `unsafe` is allowed. Reads `src/` as text. A file without a place in the table
//! fails the test, so that the table stays complete.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Each top-level module, its layer, and what it may import besides itself and lower
/// layers.
const MODULES: &[(&str, u8, &[&str])] = &[
    ("wire", 0, &[]),
    ("protocol", 1, &[]),
    ("table", 2, &[]),
    ("net", 3, &[]),
    ("file", 3, &["host::calendar"]),
    ("policy", 3, &["file"]),
    ("log", 3, &["host::calendar", "host::clock"]),
    ("host", 3, &[]),
    ("session", 4, &[]),
    ("helper", 5, &[]),
    ("status", 5, &[]),
    ("server", 5, &["helper", "status"]),
    ("client", 5, &[]),
    ("bin", 6, &[]),
];

/// The layers of the core, which reads no clock, random source, file or socket.
const CORE: std::ops::RangeInclusive<u8> = 0..=2;

/// What the core may not name, as consecutive segments of a path.
const FORBIDDEN_IN_CORE: &[&str] = &[
    "std::fs",
    "fs::File",
    "std::env",
    "std::process",
    "std::thread",
    "std::io::Read",
    "std::io::Write",
    "std::io::Seek",
    "io::Read",
    "io::Write",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "Instant::now",
    "SystemTime",
    "RandomState",
    "HashMap",
    "HashSet",
    "mio",
    "nix",
    "libc",
    "socket2",
    "rand",
    "getrandom",
    "clap",
    "simplelog",
];

/// The files below `src/` that may contain `unsafe`.
const UNSAFE_ALLOWED: &[&str] = &[
    // recvmmsg, recvmsg and sendmsg with reused headers.
    "net/batch.rs",
    // preadv2 and mincore, which nix doesn't have, and renameat2, which it has for glibc.
    "file/syscalls.rs",
];

/// Files below `src/` that are compiled for unit tests only; no rule applies to them.
const TEST_ONLY: &[&str] = &["protocol/script.rs"];

fn is_test_only(path: &Path) -> bool {
    path.ends_with("tests.rs") || TEST_ONLY.iter().any(|test| path.ends_with(test))
}

/// A place in the code that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: PathBuf,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "src/{}:{}: {}",
            self.file.display(),
            self.line,
            self.rule
        )
    }
}

// --- the rules -----------------------------------------------------------------

/// Checks one file; `file` is relative to `src/`.
fn check(file: &Path, source: &str) -> Vec<Violation> {
    let text = Code::new(source);
    let violation = |at: usize, rule: String| Violation {
        file: file.to_owned(),
        line: text.line(at),
        rule,
    };
    let mut found = Vec::new();
    let tokens = text.tokens();
    if !UNSAFE_ALLOWED
        .iter()
        .any(|allowed| file == Path::new(allowed))
    {
        let places = tokens.iter().filter(|token| token.text == "unsafe");
        found.extend(places.map(|token| violation(token.at, "unsafe".to_owned())));
    }
    let module = module_path(file);
    let Some(top) = module.first() else {
        // lib.rs holds the module tree.
        return found;
    };
    let Some((_, layer, extra)) = MODULES.iter().find(|(name, ..)| name == top) else {
        found.push(violation(0, format!("`{top}` has no layer: place it")));
        return found;
    };
    for (at, path) in paths(&tokens) {
        let Some(target) = resolve(&path, &module) else {
            if CORE.contains(layer) {
                let forbidden = FORBIDDEN_IN_CORE.iter().find(|name| names(&path, name));
                let rule = |name| format!("the core names `{name}`");
                found.extend(forbidden.map(|name| violation(at, rule(name))));
            }
            continue;
        };
        if let [parent @ .., last] = &target[..]
            && last == "*"
            && module.starts_with(parent)
        {
            let rule = format!("a glob of `{}` hides what is imported", parent.join("::"));
            found.push(violation(at, rule));
        }
        let below = |(name, other, _): &(&str, u8, _)| name == &target[0] && other < layer;
        let allowed = target[0] == *top
            || MODULES.iter().any(below)
            || extra.iter().any(|name| starts_with(&target, name));
        if !allowed && MODULES.iter().any(|(name, ..)| *name == target[0]) {
            let rule = format!("`{top}` imports `{}`", target.join("::"));
            found.push(violation(at, rule));
        }
    }
    found
}

/// The module of a file: for `wire/packet.rs`, `["wire", "packet"]`.
fn module_path(file: &Path) -> Vec<String> {
    let stem = file.with_extension("");
    let mut path: Vec<_> = stem
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib")) {
        path.pop();
    }
    path
}

/// Where in the crate a path leads, or `None` for paths out of it.
fn resolve(path: &[&str], module: &[String]) -> Option<Vec<String>> {
    let mut target = match *path.first()? {
        "crate" | "tftpd" => Vec::new(),
        "self" => module.to_vec(),
        "super" => module[..module.len().saturating_sub(1)].to_vec(),
        _ => return None,
    };
    for segment in &path[1..] {
        match *segment {
            "super" => drop(target.pop()),
            name => target.push(name.to_owned()),
        }
    }
    (!target.is_empty()).then_some(target)
}

fn starts_with(path: &[String], prefix: &str) -> bool {
    let mut segments = path.iter();
    prefix
        .split("::")
        .all(|part| segments.next().is_some_and(|s| s == part))
}

/// Whether the segments of `name` occur consecutively in `path`.
fn names(path: &[&str], name: &str) -> bool {
    let name: Vec<_> = name.split("::").collect();
    path.windows(name.len()).any(|window| window == name)
}

/// The imports of each file, by its module: the paths after `crate`.
type Imports = BTreeMap<Vec<String>, Vec<Vec<String>>>;

/// The imports of every file from within the crate.
fn imports(sources: &[(PathBuf, String)]) -> Imports {
    let files: BTreeSet<_> = sources.iter().map(|(file, _)| module_path(file)).collect();
    let mut all = Imports::new();
    for (file, source) in sources {
        let module = module_path(file);
        let text = Code::new(source);
        let tokens = text.tokens();
        // A path may also begin with a child of this module.
        let below = |path: &[&str]| {
            let path = path.iter().map(|&segment| segment.to_owned());
            let target: Vec<_> = module.iter().cloned().chain(path).collect();
            let is_child = target.len() > module.len() + 1;
            (is_child && files.contains(&target[..=module.len()])).then_some(target)
        };
        let targets = paths(&tokens)
            .iter()
            .filter_map(|(_, path)| resolve(path, &module).or_else(|| below(path)))
            .collect();
        all.insert(module, targets);
    }
    all
}

/// The file that a path leads to. If a parent only re-exports the item (`pub use`), that
/// is the file with the item.
fn file_of(target: &[String], all: &Imports) -> Option<Vec<String>> {
    let mut module = target.to_vec();
    while !module.is_empty() && !all.contains_key(&module) {
        module.pop();
    }
    let name = target.get(module.len());
    let passed_on = all.get(&module)?.iter().find(|path| {
        let is_child = path.len() > module.len() + 1 && path.starts_with(&module);
        is_child && path.last() == name && path.as_slice() != target
    });
    match passed_on {
        Some(path) => file_of(path, all),
        None => (!module.is_empty()).then_some(module),
    }
}

/// Every circle of files that import one another, listed once, from its first file on.
/// Children may use what their parent itself defines: that is no circle.
fn circles(sources: &[(PathBuf, String)]) -> Vec<String> {
    let all = imports(sources);
    let mut graph = BTreeMap::<_, BTreeSet<_>>::new();
    for (module, paths) in &all {
        let targets = paths.iter().filter_map(|path| file_of(path, &all));
        let targets = targets.filter(|target| !module.starts_with(target));
        graph.insert(module.clone(), targets.collect());
    }
    let mut found = Vec::new();
    for start in graph.keys() {
        // The shortest way back to the start through later files only, so that each
        // circle is found once.
        let mut queue = VecDeque::from([vec![start]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = queue.pop_front() {
            let Some(targets) = way.last().and_then(|module| graph.get(*module)) else {
                continue;
            };
            if targets.contains(start) {
                let names: Vec<_> = way.iter().map(|module| module.join("::")).collect();
                found.push(format!("{} → {}", names.join(" → "), names[0]));
                break;
            }
            let next = targets.iter().filter(|&target| target > start);
            for target in next.filter(|&target| seen.insert(target)) {
                queue.push_back([&way[..], &[target]].concat());
            }
        }
    }
    found
}

/// Rows of the tables above that are no longer needed.
fn dead_rows(sources: &[(PathBuf, String)]) -> Vec<String> {
    let mut dead = Vec::new();
    for (name, _, extra) in MODULES {
        let of_module = |file: &Path| module_path(file).first().is_some_and(|top| top == name);
        let own: Vec<_> = sources.iter().filter(|(file, _)| of_module(file)).collect();
        if own.is_empty() {
            dead.push(format!("`{name}` is no module"));
        }
        for import in *extra {
            let uses = own.iter().any(|(file, source)| {
                let text = Code::new(source);
                let tokens = text.tokens();
                let targets = paths(&tokens);
                let mut targets = targets
                    .iter()
                    .filter_map(|(_, path)| resolve(path, &module_path(file)));
                targets.any(|target| starts_with(&target, import))
            });
            if !uses {
                dead.push(format!("`{name}` doesn't import `{import}`"));
            }
        }
    }
    for file in UNSAFE_ALLOWED {
        let has_unsafe = |source: &str| {
            Code::new(source)
                .tokens()
                .iter()
                .any(|it| it.text == "unsafe")
        };
        if !sources
            .iter()
            .any(|(path, source)| path == Path::new(file) && has_unsafe(source))
        {
            dead.push(format!("{file} has no unsafe"));
        }
    }
    dead
}

// --- reading Rust, just enough -----------------------------------------------------

/// A source text in which comments, literals and unit tests are blanked, so that
/// positions stay the same.
struct Code {
    text: String,
}

/// An identifier or a punctuation mark, and its position.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    at: usize,
    text: &'a str,
}

impl Code {
    fn new(source: &str) -> Self {
        let mut text = blank_comments_and_literals(source);
        // Unit tests are at the end; no rule applies to them.
        for marker in ["mod tests {", "mod tests;"] {
            if let Some(at) = text.find(&format!("#[cfg(test)]\n{marker}")) {
                text.truncate(at);
            }
        }
        Self { text }
    }

    fn line(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    fn tokens(&self) -> Vec<Token<'_>> {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let mut tokens = Vec::new();
        let mut rest = self.text.as_str();
        while let Some(c) = rest.chars().next() {
            let len = match c {
                c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                c => c.len_utf8(),
            };
            let at = self.text.len() - rest.len();
            let (text, after) = rest.split_at(len);
            if !c.is_whitespace() {
                tokens.push(Token { at, text });
            }
            rest = after;
        }
        tokens
    }
}

/// Blanks everything but code, byte by byte, so that line numbers stay the same.
fn blank_comments_and_literals(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let len = not_code(rest);
        let (taken, after) = rest.split_at(len.unwrap_or(c.len_utf8()));
        if len.is_some() {
            let blank = |b| if b == b'\n' { '\n' } else { ' ' };
            text.extend(taken.bytes().map(blank));
        } else {
            text.push_str(taken);
        }
        rest = after;
    }
    text
}

/// The length of the comment or literal at the start of `rest`, if there is one.
fn not_code(rest: &str) -> Option<usize> {
    let until = |open: usize, close: &str| {
        let end = rest[open..].find(close);
        end.map_or(rest.len(), |end| open + end + close.len())
    };
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(until(2, "*/"));
    }
    if let Some(raw) = rest.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            return Some(until(hashes + 2, &format!("\"{}", "#".repeat(hashes))));
        }
    }
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut chars = rest.char_indices().skip(1);
    // A character literal is 'x' or '\…'; anything else is a lifetime.
    if quote == '\'' && !rest.starts_with("'\\") && rest.chars().nth(2) != Some('\'') {
        return None;
    }
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// Every path in the code, with groups (`a::{b, c::d}`) expanded, and the position where
/// it begins.
fn paths<'a>(tokens: &[Token<'a>]) -> Vec<(usize, Vec<&'a str>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = read_tree(tokens, at, &[], &mut found).max(at + 1);
    }
    found
}

/// Reads the path at `at`, after `prefix`; returns where it ends.
fn read_tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    found: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let is_name = |text: &str| text.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let mut path = prefix.to_vec();
    let (start, mut open) = (at, false);
    loop {
        match text(at) {
            "{" if open => {
                at += 1;
                while !matches!(text(at), "}" | "") {
                    at = read_tree(tokens, at, &path, found).max(at + 1);
                }
                return at + 1;
            }
            name if is_name(name) => path.push(name),
            "*" if open => {
                path.push("*");
                at += 1;
                break;
            }
            _ => break,
        }
        at += 1;
        open = text(at) == "::";
        if !open {
            break;
        }
        at += 1;
    }
    if path.len() > prefix.len() {
        found.push((tokens[start].at, path));
    }
    at
}

// --- tests ---------------------------------------------------------------------------

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every source file without tests, relative to `src/`, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files.retain(|path| !is_test_only(path));
    assert!(files.len() >= 5, "where is the code?");
    let read = |path: PathBuf| {
        let source = fs::read_to_string(&path).expect("a source file");
        let file = path.strip_prefix(&src).expect("below src").to_owned();
        (file, source)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn every_import_points_downwards() {
    let violations: Vec<String> = sources()
        .iter()
        .flat_map(|(file, source)| check(file, source))
        .map(|violation| violation.to_string())
        .collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn no_files_import_one_another_in_a_circle() {
    let circles = circles(&sources());
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

#[test]
fn every_row_of_the_tables_is_needed() {
    let dead = dead_rows(&sources());
    assert!(dead.is_empty(), "\n{}", dead.join("\n"));
}

#[test]
fn the_checker_sees_circles() {
    /// Files with their content, and the circles among them.
    type Case = (
        &'static [(&'static str, &'static str)],
        &'static [&'static str],
    );
    let cases: &[Case] = &[
        (
            &[
                ("net/a.rs", "use super::b::B;"),
                ("net/b.rs", "use crate::net::c::{C, D};"),
                ("net/c.rs", "fn f() { super::a::g() }"),
            ],
            &["net::a → net::b → net::c → net::a"],
        ),
        // Through an item that the parent re-exports.
        (
            &[
                (
                    "net/mod.rs",
                    "mod a; pub mod b; pub use a::A; pub use self::b::{B, C};",
                ),
                ("net/a.rs", "use crate::net::B;"),
                ("net/b.rs", "use super::{A, D};"),
            ],
            &["net::a → net::b → net::a"],
        ),
        // Children may use what their parent defines.
        (
            &[
                ("net/mod.rs", "mod a; use self::a::A; const LIMIT: u8 = 1;"),
                ("net/a.rs", "use super::LIMIT;"),
            ],
            &[],
        ),
        // A module declaration is no import.
        (
            &[
                ("net/mod.rs", "mod a; mod b;"),
                ("net/a.rs", "use super::X;"),
            ],
            &[],
        ),
        (
            &[
                ("net/mod.rs", "mod a; use self::a::A;"),
                ("net/a.rs", "use super::b::B;"),
                ("net/b.rs", "use crate::table::T; use std::net::IpAddr;"),
                ("table/mod.rs", "use super::wire::W;"),
            ],
            &[],
        ),
    ];
    for (files, expected) in cases {
        let own = |&(file, source): &(&str, &str)| (PathBuf::from(file), source.to_owned());
        let sources: Vec<_> = files.iter().map(own).collect();
        assert_eq!(circles(&sources), *expected, "{files:?}");
    }
}

#[test]
fn the_checker_sees_what_is_forbidden() {
    for (file, source, rule) in [
        (
            "wire/a.rs",
            "use crate::protocol::transfer::X;",
            "`wire` imports `protocol::transfer::X`",
        ),
        (
            "wire/a.rs",
            "fn f() { super::super::table::g() }",
            "`wire` imports `table::g`",
        ),
        (
            "protocol/a.rs",
            "use crate::{\n  wire::packet,\n  table::{self, T},\n};",
            "`protocol` imports `table::self`",
        ),
        ("file.rs", "use super::net;", "`file` imports `net`"),
        (
            "net/mod.rs",
            "use crate::file::Root;",
            "`net` imports `file::Root`",
        ),
        (
            "table/mod.rs",
            "use crate::server::S;",
            "`table` imports `server::S`",
        ),
        (
            "client/a.rs",
            "use crate::server::S;",
            "`client` imports `server::S`",
        ),
        (
            "wire/mod.rs",
            "use std::{fmt, fs};",
            "the core names `std::fs`",
        ),
        (
            "table/wheel.rs",
            "let t = std::time::Instant::now();",
            "the core names `Instant::now`",
        ),
        (
            "table/wheel.rs",
            "use std::time::{Duration, SystemTime};",
            "the core names `SystemTime`",
        ),
        (
            "table/mod.rs",
            "use std::collections::HashMap;",
            "the core names `HashMap`",
        ),
        (
            "protocol/a.rs",
            "use std::io::{self, Read};",
            "the core names `std::io::Read`",
        ),
        (
            "protocol/a.rs",
            "fn f(w: impl io::Write) {}",
            "the core names `io::Write`",
        ),
        ("protocol/a.rs", "use mio::Poll;", "the core names `mio`"),
        ("net/mod.rs", "unsafe { f() }", "unsafe"),
        (
            "session/mod.rs",
            "use crate::server::Server;",
            "`session` imports `server::Server`",
        ),
        // Siblings, through an item that the parent re-exports.
        (
            "session/a.rs",
            "use super::*;",
            "a glob of `session` hides what is imported",
        ),
        (
            "session/a.rs",
            "use crate::{session::*, wire::packet};",
            "a glob of `session` hides what is imported",
        ),
        ("lib.rs", "unsafe fn f() {}", "unsafe"),
        ("gui.rs", "", "`gui` has no layer: place it"),
    ] {
        let found = check(Path::new(file), source);
        let rules: Vec<_> = found.iter().map(|violation| &violation.rule[..]).collect();
        assert!(rules.contains(&rule), "{file}: {source}: {found:?}");
    }
}

#[test]
fn the_checker_leaves_the_rest_alone() {
    for (file, source) in [
        (
            "wire/a.rs",
            "use crate::wire::packet::P;\nuse super::options::X;",
        ),
        ("wire/a.rs", "use crate::wire::packet::{self, Packet};"),
        ("wire/a.rs", "pub use super::packet::*; fn f() { A::B * c }"),
        (
            "protocol/a.rs",
            "use super::block::B; use crate::wire::options; use std::io;",
        ),
        (
            "table/mod.rs",
            "use crate::{table::wheel::T, protocol::transfer::X};",
        ),
        (
            "server/mod.rs",
            "use crate::{file::Root, wire::packet}; mod cli;",
        ),
        ("bin/tftpd.rs", "use tftpd::server::run;"),
        (
            "table/wheel.rs",
            "// use std::fs;\n/* unsafe */ /// [`std::fs`]\nfn f<'a>(x: &'a str) {}",
        ),
        (
            "table/wheel.rs",
            "const A: &str = \"unsafe std::fs \\\" mio\"; const C: char = '\"';",
        ),
        (
            "table/wheel.rs",
            "const A: &str = r#\"use \"mio\" \"#; const B: u8 = b'\\'';",
        ),
        (
            "table/wheel.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests {\n use std::fs;\n}",
        ),
        ("lib.rs", "#![forbid(unsafe_code)]\npub mod server;"),
        (
            "file/a.rs",
            "use std::fs; use std::io::{Read, Write}; use nix::fcntl;",
        ),
    ] {
        assert_eq!(check(Path::new(file), source), [], "{file}: {source}");
    }
}

#[test]
fn a_violation_names_file_and_line() {
    let source =
        "//! Doc.\n\n/* two\nlines */ const A: &str = \"\n\";\nuse std::{\n    fmt,\n    fs,\n};\n";
    let found = check(Path::new("wire/packet.rs"), source);
    let text: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["src/wire/packet.rs:8: the core names `std::fs`"]);
}
