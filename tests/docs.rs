//! The README keeps up with the command line: every option stands in its table
//! with the default that `--help` tells, and none stands there that isn't.

use std::collections::BTreeSet;

use clap::CommandFactory;
use tftpd::server::cli::Args;

const README: &str = include_str!("../README.md");

/// The rows of the option table: the options' cell and the default's.
fn rows() -> Vec<(&'static str, &'static str)> {
    README
        .lines()
        .filter(|line| line.starts_with("| `-"))
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0], cells[cells.len() - 1])
        })
        .collect()
}

/// The long options that a cell names.
fn long_options(cell: &str) -> impl Iterator<Item = &str> {
    cell.split(['`', ' ', ',', '/', '.'])
        .filter_map(|word| word.strip_prefix("--"))
}

#[test]
fn every_option_is_in_the_table_and_no_other() {
    let documented: BTreeSet<_> = rows()
        .iter()
        .flat_map(|(cell, _)| long_options(cell))
        .collect();
    let command = Args::command();
    let known: BTreeSet<_> = command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .collect();
    assert!(known.len() > 10, "{known:?}");
    assert_eq!(documented, known);
}

#[test]
fn defaults_are_told_as_they_are() {
    let command = Args::command();
    for argument in command.get_arguments() {
        let (Some(long), [default]) = (argument.get_long(), argument.get_default_values()) else {
            continue;
        };
        if !argument.get_action().takes_values() {
            continue;
        }
        let row = rows()
            .into_iter()
            .find(|(cell, _)| long_options(cell).any(|name| name == long));
        let (_, told) = row.unwrap_or_else(|| panic!("--{long} is not in the table"));
        assert_eq!(Some(told), default.to_str(), "--{long}");
    }
}

#[test]
fn the_test_command_is_what_the_gate_runs() {
    let gate = include_str!("../.ci/run");
    assert!(README.contains("\n    cargo test\n"));
    assert!(gate.lines().any(|line| line.trim() == "cargo test"));
}
