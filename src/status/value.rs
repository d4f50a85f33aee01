//! JSON as `tftpd status` reads it: just enough for `/status.json`. Must not: recurse
//! deeper than `DEPTH`.

use std::iter::Peekable;
use std::str::Chars;

/// The deepest nesting that is read.
const DEPTH: usize = 8;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// `null`, `true` or `false`: these aren't told apart.
    Nothing,
    Number(f64),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Value {
    /// Reads a whole text; `None` if it is no JSON.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader(text.chars().peekable());
        let value = reader.value(DEPTH)?;
        reader.skip_space();
        reader.0.next().is_none().then_some(value)
    }

    /// A field of an object.
    pub(super) fn get(&self, name: &str) -> &Self {
        let Self::Object(fields) = self else {
            return &Self::Nothing;
        };
        let found = fields.iter().find(|(key, _)| key == name);
        found.map_or(&Self::Nothing, |(_, value)| value)
    }

    /// The fields of an object.
    pub(super) fn fields(&self) -> &[(String, Self)] {
        match self {
            Self::Object(fields) => fields,
            _ => &[],
        }
    }

    /// The values of a list.
    pub(super) fn list(&self) -> &[Self] {
        match self {
            Self::List(values) => values,
            _ => &[],
        }
    }

    /// The text; empty for any other value.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            _ => "",
        }
    }

    /// The number; `None` for any other value.
    pub(super) const fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }
}

struct Reader<'a>(Peekable<Chars<'a>>);

impl Reader<'_> {
    fn skip_space(&mut self) {
        let is_space = |it: &char| matches!(it, ' ' | '\t' | '\n' | '\r');
        while self.0.next_if(is_space).is_some() {}
    }

    /// Skips spaces, and takes the next character if it is the one `expected`.
    fn takes(&mut self, expected: char) -> bool {
        self.skip_space();
        self.0.next_if_eq(&expected).is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        self.skip_space();
        Some(match self.0.peek()? {
            '"' => Value::Text(self.text()?),
            '[' => Value::List(self.items(']', |reader| reader.value(depth))?),
            '{' => Value::Object(self.items('}', |reader| {
                reader.skip_space();
                let name = reader.text()?;
                let colon = reader.takes(':');
                colon
                    .then(|| reader.value(depth))
                    .flatten()
                    .map(|value| (name, value))
            })?),
            _ => self.word()?,
        })
    }

    /// Items between brackets, separated by commas.
    fn items<T>(
        &mut self,
        end: char,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.0.next();
        let mut items = Vec::new();
        if self.takes(end) {
            return Some(items);
        }
        loop {
            items.push(item(self)?);
            if self.takes(end) {
                return Some(items);
            }
            if !self.takes(',') {
                return None;
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        if self.0.next() != Some('"') {
            return None;
        }
        let mut text = String::new();
        loop {
            match self.0.next()? {
                '"' => return Some(text),
                '\\' => match self.0.next()? {
                    'u' => {
                        let digits: String = self.0.by_ref().take(4).collect();
                        let number = u32::from_str_radix(&digits, 16).ok()?;
                        text.push(char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    other if other.is_control() => return None,
                    other => text.push(other),
                },
                // RFC 8259 §7: these must be escaped.
                '\0'..' ' => return None,
                // These needn't be, but a terminal might take a command from such a text.
                other if other.is_control() => text.push(char::REPLACEMENT_CHARACTER),
                other => text.push(other),
            }
        }
    }

    /// A number, `null`, `true` or `false`.
    fn word(&mut self) -> Option<Value> {
        let mut word = String::new();
        let belongs = |it: &char| it.is_ascii_alphanumeric() || "+-.".contains(*it);
        while let Some(character) = self.0.next_if(belongs) {
            word.push(character);
        }
        match &*word {
            "null" | "true" | "false" => Some(Value::Nothing),
            number => number.parse().ok().map(Value::Number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_writes_is_read() {
        let text = r#" {"a":[1,-2.5e1,null],"b":{"c":"x\"\\\u0007é"},"d":[],"e":{}} "#;
        let value = Value::parse(text).unwrap();
        let numbers: Vec<_> = value.get("a").list().iter().map(Value::number).collect();
        assert_eq!(numbers, [Some(1.0), Some(-25.0), None]);
        assert_eq!(value.get("b").get("c").text(), "x\"\\\u{7}é");
        assert_eq!(value.get("none").get("of these").text(), "");
        assert_eq!(value.fields().len(), 4);
    }

    /// RFC 8259 §7 has U+007F to U+009F stand in a string as they are.
    #[test]
    fn a_control_character_that_may_stand_in_a_text_is_replaced() {
        let text = "{\"a\u{9b}\":\"\u{7f}b\u{85}\u{9f}\u{a0}\"}";
        let value = Value::parse(text).unwrap();
        let replaced = "\u{fffd}b\u{fffd}\u{fffd}\u{a0}";
        assert_eq!(value.get("a\u{fffd}").text(), replaced);
    }

    #[test]
    fn anything_else_is_nothing() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "{",
            "[1,]",
            "[1 2]",
            "{\"a\" 1}",
            "\"a",
            "\"\\u12",
            "nul",
            "1 2",
            // RFC 8259 §7: control characters below U+0020 must be escaped in a string.
            "\"\x1b]0;x\x07\"",
            "\"a\nb\"",
            "{\"a\u{1f}\":1}",
            "\x0c1",
            &deep,
        ] {
            assert_eq!(Value::parse(text), None, "{text:.20}");
        }
    }
}
