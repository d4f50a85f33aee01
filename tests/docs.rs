//! The README keeps up with the command lines: every option stands in its
//! table with the default that `--help` tells, and none stands there that isn't.

use std::collections::BTreeSet;

use clap::{Arg, Command, CommandFactory};

const README: &str = include_str!("../README.md");

/// The two programs, by the heading of their option tables.
fn programs() -> Vec<(&'static str, Command)> {
    vec![
        (
            "### Options of `tftpd`",
            tftpd::server::cli::Args::command(),
        ),
        #[cfg(feature = "client")]
        (
            "### Options of `tftp`\n",
            tftpd::client::cli::Args::command(),
        ),
    ]
}

/// The options of a program and of its subcommands.
fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    let below = command.get_subcommands().flat_map(Command::get_arguments);
    command.get_arguments().chain(below)
}

/// The rows of the option table under `heading`: the options' cell and the
/// default's.
fn rows(heading: &str) -> Vec<(&'static str, &'static str)> {
    let (_, section) = README.split_once(heading).expect(heading);
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

/// The long options that a cell names.
fn long_options(cell: &str) -> impl Iterator<Item = &str> {
    cell.split(['`', ' ', ',', '/', '.', '['])
        .filter_map(|word| word.strip_prefix("--"))
}

#[test]
fn every_option_is_in_the_table_and_no_other() {
    for (heading, command) in programs() {
        let rows = rows(heading);
        let documented: BTreeSet<_> = rows
            .iter()
            .flat_map(|(cell, _)| long_options(cell))
            .collect();
        let known: BTreeSet<_> = arguments(&command).filter_map(Arg::get_long).collect();
        assert!(known.len() > 10, "{known:?}");
        assert_eq!(documented, known);
    }
}

#[test]
fn defaults_are_told_as_they_are() {
    for (heading, command) in programs() {
        for argument in arguments(&command) {
            let (Some(long), [default]) = (argument.get_long(), argument.get_default_values())
            else {
                continue;
            };
            if !argument.get_action().takes_values() {
                continue;
            }
            let row = rows(heading)
                .into_iter()
                .find(|(cell, _)| long_options(cell).any(|name| name == long));
            let (_, told) = row.unwrap_or_else(|| panic!("--{long} is not in the table"));
            assert_eq!(Some(told), default.to_str(), "--{long}");
        }
    }
}
