//! Where the prompt's lines come from: a terminal, with editing, history and
//! completion, or a pipe, as they are. Must not: know what they mean.

use std::io::{self, BufRead, IsTerminal, Write};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
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
    Pipe,
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
            // A prompt without editing is still a prompt.
            _ => Self::Pipe,
        }
    }

    /// Asks for a line. The prompt is shown on a pipe as well: a program may be reading
    /// standard output in place of a terminal.
    pub(super) fn next(&mut self, prompt: &str) -> Line {
        match self {
            Self::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => Line::Text(line.into_bytes()),
                Err(ReadlineError::Interrupted) => Line::Interrupted,
                Err(_) => Line::End,
            },
            Self::Pipe => {
                let mut stdout = io::stdout();
                let _ = stdout.write_all(prompt.as_bytes());
                let _ = stdout.flush();
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
            return self.0.complete(line, position, context);
        }
        let pair = |name: &str| Pair {
            display: name.to_owned(),
            replacement: format!("{name} "),
        };
        let start = before.len() - word.len();
        Ok((start, commands::completions(word).map(pair).collect()))
    }
}

impl Hinter for CommandHelper {
    type Hint = String;
}

impl Highlighter for CommandHelper {}
impl Validator for CommandHelper {}
impl Helper for CommandHelper {}
