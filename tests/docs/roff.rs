//! Manual pages from their sources: translates a small part of Markdown into man(7)
//! macros.
//!
//! Supports headings, paragraphs, lists, tables, indented examples, `code`, **bold**,
//! *italics*, and definitions: a line, and below it one that begins with a colon.
//!
//! Must not: know what the pages say.

use std::fmt::Write as _;

/// The width that a table may take, in characters.
const WIDTH: usize = 69;

/// A column no wider than this is never wrapped.
const NARROW: usize = 14;

/// Turns Markdown into man(7) macros.
pub(crate) fn from_markdown(text: &str) -> String {
    let mut page = String::new();
    let lines: Vec<_> = text.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        let rest = &lines[at..];
        let length = |belongs: fn(&str) -> bool| rest.iter().take_while(|it| belongs(it)).count();
        let line = rest[0];
        at += if line.is_empty() {
            1
        } else if let Some(title) = line.strip_prefix("## ") {
            let _ = writeln!(page, ".SS {}", quoted(title));
            1
        } else if let Some(title) = line.strip_prefix("# ") {
            let _ = writeln!(page, ".SH {}", quoted(&title.to_uppercase()));
            1
        } else if line.starts_with('|') {
            let length = length(|it| it.starts_with('|'));
            table(&mut page, &rows(&rest[..length]));
            length
        } else if line.starts_with("    ") {
            let mut length = length(|it| it.is_empty() || it.starts_with("    "));
            while rest[length - 1].is_empty() {
                length -= 1;
            }
            example(&mut page, &rest[..length]);
            length
        } else if let Some(first) = line.strip_prefix("- ") {
            let more = rest[1..].iter().take_while(|it| it.starts_with("  "));
            let more: Vec<_> = more.map(|it| it.trim_start()).collect();
            page.push_str(".IP \\(bu 2\n");
            let _ = writeln!(page, "{}", inline(first));
            for line in &more {
                if is_command(line) {
                    page.push_str(".br\n");
                }
                let _ = writeln!(page, "{}", inline(line));
            }
            1 + more.len()
        } else if rest.get(1).is_some_and(|it| it.starts_with(": ")) {
            let more = rest[1..].iter().take_while(|it| is_definition(it));
            let more: Vec<_> = more.map(|it| it[2..].trim_start()).collect();
            let _ = writeln!(page, ".TP\n{}", inline(line));
            for line in &more {
                let _ = writeln!(page, "{}", inline(line));
            }
            1 + more.len()
        } else {
            let length = length(is_text);
            if !is_headed(&page) {
                page.push_str(".PP\n");
            }
            for line in &rest[..length] {
                let _ = writeln!(page, "{}", inline(line));
            }
            length
        };
    }
    page
}

/// Whether the last line is a heading, after which a paragraph begins anyway.
fn is_headed(page: &str) -> bool {
    let last = page.lines().last().unwrap_or_default();
    last.starts_with(".SH ") || last.starts_with(".SS ")
}

fn is_text(line: &str) -> bool {
    !line.is_empty()
        && !["|", "#", "- ", "    "]
            .iter()
            .any(|it| line.starts_with(it))
}

/// Whether a line is one command, to be copied as it stands.
fn is_command(line: &str) -> bool {
    let inner = line.strip_prefix('`').and_then(|it| it.strip_suffix('`'));
    inner.is_some_and(|it| it.contains(' ') && !it.contains('`'))
}

fn is_definition(line: &str) -> bool {
    line.starts_with(": ") || line.starts_with("  ")
}

/// The cells of a table's rows, the head first, without the rule below the head.
pub(crate) fn rows<'a>(lines: &[&'a str]) -> Vec<Vec<&'a str>> {
    let is_rule = |line: &&&str| line.chars().all(|it| "|-: ".contains(it));
    let cells = |line: &&'a str| {
        let mut cells = vec![];
        let mut rest = line.trim().trim_start_matches('|');
        while let Some(end) = cell_end(rest) {
            cells.push(rest[..end].trim());
            rest = &rest[end + 1..];
        }
        cells
    };
    lines.iter().filter(|it| !is_rule(it)).map(cells).collect()
}

/// Where the first cell of `row` ends: at a bar without a backslash.
fn cell_end(row: &str) -> Option<usize> {
    let bytes = row.as_bytes();
    (0..bytes.len()).find(|&at| bytes[at] == b'|' && (at == 0 || bytes[at - 1] != b'\\'))
}

/// A table for tbl(1), which mandoc(1) understands as well.
pub(crate) fn table(page: &mut String, rows: &[Vec<&str>]) {
    let widths = widths(rows);
    let format = |width: &Option<_>| width.map_or("l".into(), |it| format!("lw({it}n)"));
    let head = vec!["lb"; widths.len()].join(" ");
    let body = widths.iter().map(format).collect::<Vec<_>>().join(" ");
    if !is_headed(page) {
        page.push_str(".PP\n");
    }
    let _ = writeln!(page, ".TS\nallbox tab(\t);\n{head}\n{body}.");
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let cell = inline(&cell.replace("\\|", "|"));
            let before = if column == 0 { "" } else { "\t" };
            let _ = match widths[column] {
                Some(_) => write!(page, "{before}T{{\n{cell}\nT}}"),
                None => write!(page, "{before}{}", cell.trim_start_matches("\\&")),
            };
        }
        page.push('\n');
    }
    page.push_str(".TE\n");
}

/// The width at which each column is wrapped; `None` for columns that keep their own
/// width.
fn widths(rows: &[Vec<&str>]) -> Vec<Option<usize>> {
    let columns = 0..rows[0].len();
    let longest = |column: usize, of: fn(&str) -> usize| {
        let all = rows.iter().map(|row| of(row[column]));
        all.max().unwrap_or(0)
    };
    let wanted: Vec<_> = columns.clone().map(|it| longest(it, shown)).collect();
    let room = WIDTH - 3 * columns.len();
    if wanted.iter().sum::<usize>() <= room {
        return vec![None; columns.len()];
    }
    let least: Vec<_> = columns
        .clone()
        .map(|it| longest(it, longest_word))
        .collect();
    let more = |column: usize| wanted[column] - least[column];
    let is_fixed = |column: usize| wanted[column] <= NARROW;
    let mut left = room;
    for column in columns.clone() {
        let takes = if is_fixed(column) {
            wanted[column]
        } else {
            least[column]
        };
        left = left
            .checked_sub(takes)
            .unwrap_or_else(|| panic!("too wide: {:?}", rows[0]));
    }
    let all: usize = columns.clone().filter(|&it| !is_fixed(it)).map(more).sum();
    let width = |column| (!is_fixed(column)).then(|| least[column] + left * more(column) / all);
    columns.map(width).collect()
}

fn longest_word(cell: &str) -> usize {
    cell.split(' ').map(shown).max().unwrap_or(0)
}

/// The number of characters of a cell that are shown.
fn shown(cell: &str) -> usize {
    cell.chars().filter(|it| !"`*\\".contains(*it)).count()
}

fn example(page: &mut String, lines: &[&str]) {
    if !is_headed(page) {
        page.push_str(".PP\n");
    }
    page.push_str(".RS 4\n.EX\n");
    for line in lines {
        let _ = writeln!(page, "{}", literal(line.get(4..).unwrap_or_default()));
    }
    page.push_str(".EE\n.RE\n");
}

/// A macro's argument.
fn quoted(title: &str) -> String {
    let title = inline(title);
    if title.contains(' ') {
        format!("\"{title}\"")
    } else {
        title
    }
}

/// A line that is printed exactly as it is.
fn literal(line: &str) -> String {
    guarded(line.chars().map(escaped).collect())
}

/// A line of text with its `code`, **bold** and *italics*.
pub(crate) fn inline(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(['`', '*']) {
        text.extend(rest[..at].chars().map(escaped));
        let mark = ["`", "**", "*"]
            .into_iter()
            .find(|it| rest[at..].starts_with(it));
        let mark = mark.unwrap_or_default();
        let inside = &rest[at + mark.len()..];
        let font = if mark == "*" { "\\fI" } else { "\\fB" };
        let Some(end) = inside.find(mark) else {
            panic!("`{mark}` is never closed: {line}");
        };
        text.push_str(font);
        text.extend(inside[..end].chars().map(escaped));
        text.push_str("\\fR");
        rest = &inside[end + mark.len()..];
    }
    text.extend(rest.chars().map(escaped));
    guarded(text)
}

/// Protects a line that begins like a macro.
fn guarded(text: String) -> String {
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

/// A character, escaped for roff.
fn escaped(character: char) -> String {
    match character {
        '\\' => "\\e".into(),
        '-' => "\\-".into(),
        '\'' => "\\(aq".into(),
        '`' => "\\(ga".into(),
        '^' => "\\(ha".into(),
        '~' => "\\(ti".into(),
        '\u{2013}' => "\\(en".into(),
        '\u{2026}' => "...".into(),
        '\u{d7}' => "\\(mu".into(),
        '\u{f7}' => "\\(di".into(),
        '\u{2265}' => "\\(>=".into(),
        '\u{2264}' => "\\(<=".into(),
        '\u{b5}' => "\\(mc".into(),
        '\u{2192}' => "\\(->".into(),
        plain if plain.is_ascii() => plain.into(),
        other => panic!("{other} has no escape"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_has_its_macro() {
        for (markdown, man) in [
            ("# Exit status", ".SH \"EXIT STATUS\"\n"),
            ("## Map files", ".SS \"Map files\"\n"),
            ("one `-v`\ntwo", ".PP\none \\fB\\-v\\fR\ntwo\n"),
            ("- one\n  two", ".IP \\(bu 2\none\ntwo\n"),
            (
                "- one\n  `two three`",
                ".IP \\(bu 2\none\n.br\n\\fBtwo three\\fR\n",
            ),
            (
                "`0`\n: stopped\n  early",
                ".TP\n\\fB0\\fR\nstopped\nearly\n",
            ),
            (
                "    $ a\n\n    .b\n\nc",
                ".PP\n.RS 4\n.EX\n$ a\n\n\\&.b\n.EE\n.RE\n.PP\nc\n",
            ),
            ("*a* **b** 'c'", ".PP\n\\fIa\\fR \\fBb\\fR \\(aqc\\(aq\n"),
            (
                "| a | b |\n|---|---|\n| 1 | `x\\|y` |",
                ".PP\n.TS\nallbox tab(\t);\nlb lb\nl l.\na\tb\n1\t\\fBx|y\\fR\n.TE\n",
            ),
        ] {
            assert_eq!(from_markdown(markdown), man, "{markdown}");
        }
    }
}
