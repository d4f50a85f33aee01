//! The manual pages and shell completions, generated from the command definitions and
//! the sources in `scripts/man/src`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::pages::{PAGES, Page};
use super::roff;

/// A generated file: its path and its content.
pub(crate) struct Made {
    /// Relative to the project's root.
    pub(crate) path: PathBuf,
    /// What the file should contain.
    pub(crate) text: String,
}

/// The manual pages of these programs.
pub(crate) fn pages(programs: &[Command]) -> Vec<Made> {
    let documented = |page: &&Page| programs.iter().any(|it| it.get_name() == page.program);
    let made = |page: &Page| Made {
        path: Path::new("scripts/man").join(page.file()),
        text: assemble(page, programs),
    };
    PAGES.iter().filter(documented).map(made).collect()
}

/// What a page is made from.
pub(crate) fn source(page: &Page) -> String {
    read(&root().join(format!("scripts/man/src/{}.md", page.file())))
}

/// The migration table, from the table by which the program recognizes other servers'
/// options. The section about clients after it is kept.
#[cfg(feature = "familiar")]
pub(crate) fn migration() -> Made {
    let path = Path::new("scripts/man/src/migration.md");
    let there = read(&root().join(path));
    let (_, clients) = there.split_once("# From other clients\n").expect("clients");
    let mut text =
        String::from("# From other servers\n\n| with | you wrote | write here |\n|---|---|---|\n");
    for row in tftpd::server::familiar::ROWS {
        let _ = writeln!(text, "| {} | {} | {} |", row.with, row.theirs, row.ours);
    }
    let _ = write!(text, "\n# From other clients\n{clients}");
    Made {
        path: path.to_owned(),
        text,
    }
}

/// The completions of these programs for bash, zsh and fish.
pub(crate) fn completions(programs: &[Command]) -> Vec<Made> {
    let mut all = vec![];
    for program in programs {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let name = program.get_name().to_owned();
            let mut text = vec![];
            clap_complete::generate(shell, &mut program.clone(), &name, &mut text);
            all.push(Made {
                path: Path::new("scripts/completions").join(match shell {
                    Shell::Bash => name,
                    Shell::Zsh => format!("_{name}"),
                    other => format!("{name}.{other}"),
                }),
                text: String::from_utf8(text).expect("a script is text"),
            });
        }
    }
    all
}

/// The project's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page from its source, in which lines that begin with `@` insert other text:
/// `@title DATE` the head; `@options PROGRAM…` the options, from the command line's own
/// help and `PROGRAM.options.md`; `@table FILE NUMBER COLUMN…` columns of a table in
/// another file; `@head FILE` the text before that file's first table, and `@tail FILE`
/// what is behind its last.
fn assemble(page: &Page, programs: &[Command]) -> String {
    let folder = root().join("scripts/man/src");
    let file = page.file();
    let mut text = format!(
        "'\\\" t\n.\\\" Made by `UPDATE_DOCS=1 cargo test --test docs` from scripts/man/src/{file}.md.\n"
    );
    let mut markdown = String::new();
    for line in source(page).lines() {
        if let Some(more) = beside_tables(&folder, line) {
            markdown.push_str(&more);
            continue;
        }
        let Some(directive) = line.strip_prefix('@') else {
            markdown.push_str(line);
            markdown.push('\n');
            continue;
        };
        text.push_str(&roff::from_markdown(&std::mem::take(&mut markdown)));
        let words: Vec<_> = directive.split(' ').collect();
        match words[..] {
            ["title", date] => {
                let (name, section) = (page.name, page.section);
                let version = env!("CARGO_PKG_VERSION");
                // No words or options broken at a hyphen, which is set up with the title;
                // and no justified lines.
                text.push_str(".nr HY 0\n");
                let _ = writeln!(text, ".TH {name} {section} {date} \"tftpd {version}\"");
                text.push_str(".ad l\n");
            }
            ["options", name] => {
                let program = programs.iter().find(|it| it.get_name() == name);
                let notes = read(&folder.join(format!("{name}.options.md")));
                text.push_str(&options(program.expect(name), &notes));
            }
            ["table", file, number, ref columns @ ..] => {
                let number: usize = number.parse().expect("a table's number");
                let columns: Vec<_> = columns.iter().map(|it| it.parse().expect(it)).collect();
                chosen_columns(&mut text, &read(&folder.join(file)), number, &columns);
            }
            _ => panic!("{file}: what is @{directive}?"),
        }
    }
    text.push_str(&roff::from_markdown(&markdown));
    text
}

/// The text that `line` inserts if it is `@head FILE` or `@tail FILE`.
fn beside_tables(folder: &Path, line: &str) -> Option<String> {
    let (word, file) = line.split_once(' ')?;
    let text = || read(&folder.join(file));
    match word {
        "@head" => text().split("\n|").next().map(|it| format!("{it}\n")),
        "@tail" => text().rsplit("|\n").next().map(str::to_owned),
        _ => None,
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// These columns of the table with this number; both are counted from 1.
fn chosen_columns(page: &mut String, text: &str, number: usize, columns: &[usize]) {
    let lines: Vec<_> = text.lines().collect();
    let mut tables = lines
        .split(|line| !line.starts_with('|'))
        .filter(|lines| !lines.is_empty());
    let rows = roff::rows(tables.nth(number - 1).expect("a table of that number"));
    let choose = |row: &Vec<_>| columns.iter().map(|&it| row[it - 1]).collect();
    roff::table(page, &rows.iter().map(choose).collect::<Vec<_>>());
}

/// The options of a program and its subcommands, each with its help followed by its
/// note.
fn options(program: &Command, notes: &str) -> String {
    let mut program = program.clone();
    program.build();
    let below = program.get_subcommands().flat_map(Command::get_arguments);
    let mut command = Command::new("manual")
        .version("")
        .disable_help_flag(true)
        .disable_version_flag(true);
    for (order, argument) in program.get_arguments().chain(below).enumerate() {
        let known = |it: &Arg| it.get_id() == argument.get_id();
        if argument.is_positional()
            || argument.get_id() == "help"
            || command.get_arguments().any(known)
        {
            continue;
        }
        let help = argument.get_long_help().or(argument.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        let help: Vec<_> = help.split_whitespace().collect();
        let help = format!("{}{NOTE}{}", help.join(" "), name(argument));
        let argument = argument.clone().display_order(order).global(false);
        let takes_value = argument.get_action().takes_values();
        command = command.arg(argument.long_help(help).hide_possible_values(takes_value));
    }
    for heading in notes.lines().filter_map(|line| line.strip_prefix("# ")) {
        let known = command.get_arguments().any(|it| name(it) == heading);
        assert!(known, "{} has no option {heading}", program.get_name());
    }
    let mut text = vec![];
    let rendered = Man::new(command).render_options_section(&mut text);
    rendered.expect("memory takes it all");
    polished(&String::from_utf8(text).expect("a page is text"), notes)
}

/// Marks the place for an option's note, between its help and its name.
const NOTE: &str = " @note ";

/// An argument's name as in the notes: `--long`, `-s` or `VALUE`.
fn name(argument: &Arg) -> String {
    match (argument.get_long(), argument.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (_, Some(short)) => format!("-{short}"),
        _ => argument.get_id().to_string().to_uppercase(),
    }
}

/// The options section as clap makes it, with its sections turned into subsections and
/// the notes inserted.
fn polished(text: &str, notes: &str) -> String {
    let mut page = String::from(".SH OPTIONS\n");
    for line in text.lines().filter(|&line| line != ".SH OPTIONS") {
        if let Some(title) = line.strip_prefix(".SH ") {
            let title = title.trim_matches('"').to_lowercase();
            let (first, rest) = title.split_at(1);
            let _ = writeln!(page, ".SS \"{}{rest}\"", first.to_uppercase());
        } else if let Some((help, name)) = line.split_once(NOTE) {
            let (help, default) = match help.split_once(" [default:") {
                Some((help, default)) => (help, format!("[default:{default}\n")),
                None => (help, String::new()),
            };
            let _ = writeln!(page, "{}.", help.trim_end_matches('.'));
            page.push_str(&note(notes, &name.replace("\\-", "-")));
            page.push_str(&default);
        } else {
            let _ = writeln!(page, "{line}");
        }
    }
    page
}

/// The note about an option, as macros.
fn note(notes: &str, name: &str) -> String {
    let head = format!("# {name}\n");
    let note = notes.split_once(&head).map_or("", |(_, behind)| behind);
    let note = note.split("\n# ").next().unwrap_or_default().trim();
    let line = |line: &str| match line {
        "" => ".IP\n".to_owned(),
        text => roff::inline(text) + "\n",
    };
    note.lines().map(line).collect()
}

/// Whether a program is installed.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}
