//! The documents keep up with the program: the manual pages and completions match the
//! command definitions and `scripts/man/src`, the README's option tables are true, and
//! its commands run.
//!
//! `UPDATE_DOCS=1 cargo test --test docs` rewrites pages and completions.

mod common;
#[path = "docs/manual.rs"]
mod manual;
#[path = "docs/pages.rs"]
mod pages;
#[cfg(feature = "client")]
#[path = "docs/readme.rs"]
mod readme;
#[path = "docs/references.rs"]
mod references;
#[path = "docs/roff.rs"]
mod roff;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::{Arg, Command, CommandFactory};
use common::skip;
use manual::Made;
use pages::{PAGES, Page};

const README: &str = include_str!("../README.md");

/// The programs that were built.
fn programs() -> Vec<Command> {
    vec![
        tftpd::server::cli::Args::command(),
        #[cfg(feature = "client")]
        tftpd::client::cli::Args::command(),
    ]
}

/// Writes the generated files if `UPDATE_DOCS` asks for that; else fails if one differs
/// from the existing file.
#[track_caller]
fn assert_current(all: &[Made]) {
    let mut stale = vec![];
    for made in all {
        let path = manual::root().join(&made.path);
        if fs::read_to_string(&path).is_ok_and(|text| text == made.text) {
            continue;
        }
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &made.text).expect("a place for it");
        } else {
            stale.push(made.path.display().to_string());
        }
    }
    let remedy = "run UPDATE_DOCS=1 cargo test --test docs";
    assert!(stale.is_empty(), "stale: {}; {remedy}", stale.join(", "));
}

#[test]
fn the_manual_pages_are_current() {
    #[cfg(feature = "familiar")]
    assert_current(&[manual::migration()]);
    assert_current(&manual::pages(&programs()));
}

/// What is there and in no list would be packaged, but never made anew or checked.
#[test]
fn every_page_is_listed() {
    let mut listed: Vec<_> = PAGES.iter().map(Page::file).collect();
    let entries = fs::read_dir(manual::root().join("scripts/man")).expect("a directory");
    let entries = entries.map(|it| it.expect("an entry"));
    let files = entries.filter(|it| it.path().is_file());
    let mut there: Vec<_> = files
        .map(|it| it.file_name().into_string().expect("text"))
        .collect();
    listed.sort();
    there.sort();
    assert_eq!(there, listed);
}

#[test]
fn the_completions_are_current() {
    assert_current(&manual::completions(&programs()));
}

#[test]
fn the_manual_pages_have_no_mistakes() {
    let pages = manual::pages(&programs());
    let mut checks = vec![
        ("mandoc", &["-Tlint", "-W", "warning"][..]),
        ("man", &["--warnings", "-l", "-Tutf8", "-Z"]),
    ];
    checks.retain(|(program, _)| {
        let there = manual::is_installed(program);
        if !there {
            assert!(
                std::env::var_os("CI").is_none(),
                "{program} is not installed"
            );
            skip(format_args!("{program} is not installed"));
        }
        there
    });
    let folder = tempfile::tempdir().expect("a directory");
    for made in &pages {
        let file = folder
            .path()
            .join(made.path.file_name().expect("a file's name"));
        fs::write(&file, &made.text).expect("a place for it");
        for (program, words) in &checks {
            let output = Process::new(program).args(*words).arg(&file).output();
            let output = output.expect(program);
            let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
            if *program == "mandoc" {
                said.push_str(&String::from_utf8_lossy(&output.stdout));
            }
            let all_well = output.status.success() && said.is_empty();
            assert!(all_well, "{program}: {}: {said}", made.path.display());
            // The hyphen where a word was broken; those of the text are minus signs.
            let is_broken = String::from_utf8_lossy(&output.stdout).contains("\nChy\n");
            assert!(
                !is_broken,
                "{program}: {}: broken words",
                made.path.display()
            );
        }
    }
}

/// The rows of the README's option table for a program: the cells with the option and
/// with its default.
fn rows(program: &Command) -> Vec<(&'static str, &'static str)> {
    let heading = format!("## Options of `{}`\n", program.get_name());
    let (_, section) = README.split_once(&heading).expect(&heading);
    let section = section.split("\n#").next().unwrap_or_default();
    section
        .lines()
        .filter(|line| line.starts_with("| `-"))
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0], cells[cells.len() - 1])
        })
        .collect()
}

/// The options that a cell names.
fn options<'a>(program: &'a Command, cell: &'a str) -> impl Iterator<Item = &'a Arg> {
    let words = cell.split(['`', ' ', ',', '/', '=', '[']);
    words.filter(|word| word.starts_with('-')).map(|word| {
        let below = program.get_subcommands().flat_map(Command::get_arguments);
        let is_named = |argument: &Arg| match word.strip_prefix("--") {
            Some(long) => argument.get_long() == Some(long),
            None => argument.get_short() == word.chars().nth(1) && word.len() == 2,
        };
        let found = program.get_arguments().chain(below).find(|it| is_named(it));
        found.unwrap_or_else(|| panic!("{} has no {word}", program.get_name()))
    })
}

#[test]
fn the_readmes_option_tables_are_true() {
    for program in programs() {
        let rows = rows(&program);
        assert!(rows.len() > 5, "{}", rows.len());
        for (cell, told) in rows {
            for argument in options(&program, cell) {
                let takes_value = argument.get_action().takes_values();
                if let ([default], true) = (argument.get_default_values(), takes_value) {
                    assert_eq!(Some(told), default.to_str(), "{cell}");
                }
            }
        }
    }
}

#[test]
#[cfg(feature = "client")]
fn the_readmes_commands_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let run = readme::run(README, directory.path());
    assert!(run > 5, "{run}");
    let same = |one: &str, other: &str| {
        let read = |name: &str| fs::read(directory.path().join(name)).expect(name);
        assert_eq!(read(one), read(other), "{one}, {other}");
    };
    same("copy", "greeting");
    same("boot/upload.txt", "boot/hello.txt");
    same("srv/switch1.cfg", "running-config");
    same("out/greeting", "greeting");
}

#[test]
fn the_readme_is_short() {
    let lines = README.lines().count();
    assert!(
        lines <= 250,
        "{lines} lines; the rest belongs into the manual"
    );
}

/// The names of the tests in a source.
fn tests_of(source: &str) -> Vec<&str> {
    let behind = source.split("#[test]").skip(1);
    let names = behind.filter_map(|it| it.split_once("fn ")?.1.split_once('('));
    names.map(|(name, _)| name).collect()
}

/// The texts below a directory, by their paths.
fn texts(directory: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(directory).expect("a directory");
    let paths = entries.map(|it| it.expect("an entry").path());
    paths
        .flat_map(|path| match fs::read_to_string(&path) {
            _ if path.ends_with("target") => vec![],
            _ if path.is_dir() => texts(&path),
            Ok(text) => vec![(path, text)],
            // A picture, say.
            Err(_) => vec![],
        })
        .collect()
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let library = texts(&manual::root().join("src"));
    let library: String = library.into_iter().map(|(_, text)| text).collect();
    let mut named = 0;
    let pages = PAGES.iter().map(|it| (it.file(), manual::source(it)));
    for (page, text) in pages.chain([("README.md".to_owned(), README.to_owned())]) {
        for command in text.split("cargo test --").skip(1) {
            let command = command.split(['`', '\n']).next().unwrap_or_default();
            let mut words = command.split(' ').take_while(|it| *it != "--");
            let source = match words.next() {
                Some("lib") => library.clone(),
                Some("test") => {
                    let file = words.next().unwrap_or_default();
                    let path = manual::root().join(format!("tests/{file}.rs"));
                    fs::read_to_string(path).unwrap_or_else(|_| panic!("{page}: no test {file}"))
                }
                _ => continue,
            };
            if let Some(name) = words.next() {
                let is_there = tests_of(&source).contains(&name);
                assert!(is_there, "{page}: cargo test --{command}: there is none");
                named += 1;
            }
        }
    }
    assert!(named > 20, "{named}");
}

/// How a page is referred to: `tftpd(8)`.
fn reference(page: &Page) -> String {
    format!("{}({})", page.name, page.section)
}

/// The pages, with what can be referred to on each.
fn referred() -> references::Pages {
    let all = PAGES.iter();
    all.map(|it| (reference(it), references::Page::new(&manual::source(it))))
        .collect()
}

#[test]
fn every_reference_to_the_manual_leads_there() {
    let pages = referred();
    let made = manual::root().join("scripts/man");
    // The page that a file is the source of, or a part of.
    let owner = |path: &Path| {
        let file = path.strip_prefix(made.join("src")).ok()?.to_str()?;
        let file = file.strip_suffix(".md")?;
        let is_own = |page: &&Page| {
            [page.file(), format!("{}.options", page.name)].contains(&file.to_owned())
        };
        PAGES.iter().find(is_own).map(reference)
    };
    let folders = ["src", "tests", "scripts", ".ci"];
    let mut all = vec![(PathBuf::from("README.md"), README.to_owned())];
    all.extend(
        folders
            .iter()
            .flat_map(|it| texts(&manual::root().join(it))),
    );
    all.retain(|(path, _)| path.parent() != Some(made.as_path()));
    let (mut count, mut astray) = (0, vec![]);
    for (path, text) in &all {
        for (reference, leads) in references::all(text, owner(path).as_deref(), &pages) {
            count += 1;
            if !leads {
                astray.push(format!("{}: {reference}", path.display()));
            }
        }
    }
    assert!(astray.is_empty(), "{}", astray.join("\n"));
    assert!(count > 40, "{count}");
}

#[test]
fn who_reads_one_page_learns_of_the_others() {
    let pages = referred();
    let also = |page: &Page| {
        let source = manual::source(page);
        let (_, also) = source.split_once("\n# See also\n").expect("the section");
        let found = references::all(also, None, &pages);
        found.iter().map(|(it, _)| it.clone()).collect::<String>()
    };
    let first = &PAGES[0];
    for page in &PAGES[1..] {
        assert!(also(first).contains(&reference(page)), "{}", page.file());
        assert!(also(page).contains(&reference(first)), "{}", page.file());
    }
}
