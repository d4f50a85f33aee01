//! Where the prompt's lines come from: a terminal, with editing, history and
//! completion, or a pipe, as they are. Must not: know what they mean.

use std::io::{self, BufRead, IsTerminal, Write};

use rustyline::completion::{Completer, FilenameCompleter, Pair, unescape};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::commands;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line, without its end.
    Text(Vec<u8>),
    /// The user typed ^C.
    Interrupted,
    /// There are no more lines.
    End,
}

/// The source of lines.
pub(super) enum Lines {
    Terminal(Box<Editor<CommandHelper, DefaultHistory>>),
    /// As they are, from a pipe or without editing.
    Plain,
}

impl Lines {
    /// From standard input, whatever it is.
    pub(super) fn new() -> Self {
        let on_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let config = Config::builder()
            .auto_add_history(true)
            .completion_type(CompletionType::List)
            .build();
        match Editor::with_config(config) {
            Ok(mut editor) if on_terminal => {
                editor.set_helper(Some(CommandHelper(FilenameCompleter::new())));
                Self::Terminal(Box::new(editor))
            }
            _ => Self::Plain,
        }
    }

    /// Asks for a line. Only a person is shown the prompt, and never on a standard output
    /// that may be a file's.
    pub(super) fn next(&mut self, prompt: &str) -> Line {
        match self {
            Self::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => Line::Text(line.into_bytes()),
                Err(ReadlineError::Interrupted) => Line::Interrupted,
                Err(_) => Line::End,
            },
            Self::Plain => {
                if io::stdin().is_terminal() {
                    let _ = io::stderr().write_all(prompt.as_bytes());
                }
                let mut line = Vec::new();
                match io::stdin().lock().read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => Line::End,
                    Ok(_) => Line::Text(line),
                }
            }
        }
    }
}

/// Completes the first word to a command, the others to local files.
pub(super) struct CommandHelper(FilenameCompleter);

impl Completer for CommandHelper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..position];
        let word = before.trim_start();
        if word.contains(char::is_whitespace) {
            let (start, mut names) = self.0.complete(line, position, context)?;
            let is_open = line[..start].matches('"').count() % 2 == 1;
            let is_only = names.len() == 1;
            for name in &mut names {
                let whole = is_only && !name.replacement.ends_with('/');
                name.replacement = in_quotes(&name.replacement, is_open, whole);
            }
            return Ok((start, names));
        }
        let pair = |name: &str| Pair {
            display: name.to_owned(),
            replacement: format!("{name} "),
        };
        let start = before.len() - word.len();
        Ok((start, commands::completions(word).map(pair).collect()))
    }
}

/// A name that was escaped for a shell, in the quotes that the prompt wants where a
/// blank is in it. `is_open`: a quote stands before it; `whole`: nothing else follows.
fn in_quotes(name: &str, is_open: bool, whole: bool) -> String {
    let name = unescape(name, Some('\\'));
    let is_quoted = is_open || name.contains(char::is_whitespace);
    let open = if is_quoted && !is_open { "\"" } else { "" };
    let close = if is_quoted && whole { "\"" } else { "" };
    format!("{open}{name}{close}")
}

impl Hinter for CommandHelper {
    type Hint = String;
}

impl Highlighter for CommandHelper {}
impl Validator for CommandHelper {}
impl Helper for CommandHelper {}
