//! References to pages of the manual and to their sections, in any text: `tftpd(8), STATUS`,
//! and on a page `STATUS` alone.
//!
//! Must not: know what the pages say.

use std::collections::BTreeMap;

/// What a page has that can be referred to.
pub(crate) struct Page {
    /// The titles of its sections, in capitals as they are shown.
    sections: Vec<String>,
    /// What else it has: subsections, in quotation marks, and terms that it defines.
    others: Vec<String>,
}

/// The pages by their names as they are referred to: `tftpd(8)`.
pub(crate) type Pages = BTreeMap<String, Page>;

impl Page {
    /// The page that is made from `source`.
    pub(crate) fn new(source: &str) -> Self {
        let title = |line: &str| match line.strip_prefix("# ") {
            Some(title) => Some(title.to_uppercase()),
            None => line.starts_with("@options").then(|| "OPTIONS".to_owned()),
        };
        let lines: Vec<_> = source.lines().collect();
        let pairs = lines.windows(2);
        let terms = pairs.filter(|pair| pair[1].starts_with(": "));
        let below = lines.iter().filter_map(|it| it.strip_prefix("## "));
        Self {
            sections: lines.iter().filter_map(|it| title(it)).collect(),
            others: below
                .map(|it| format!("\"{it}\""))
                .chain(terms.map(|pair| pair[0].to_owned()))
                .collect(),
        }
    }
}

/// The references in `text`, each with whether it leads anywhere. `own` is the page that
/// the text is on, if it is on one.
pub(crate) fn all(text: &str, own: Option<&str>, pages: &Pages) -> Vec<(String, bool)> {
    let plain = text.replace(['`', '*'], "");
    let is_text = |word: &&str| !["//", "///", "//!", "#"].contains(word);
    let words: Vec<_> = plain.split_whitespace().filter(is_text).collect();
    let is_section = |title: &String| pages.values().any(|it| it.sections.contains(title));
    let mut found = vec![];
    let mut at = 0;
    while at < words.len() {
        let word = words[at];
        at += 1;
        if let Some((name, rest)) = page(word) {
            let title = match rest {
                "," => capitals(&words[at..]),
                _ => vec![],
            };
            at += title.len();
            let title = title.join(" ");
            let page = pages.get(name);
            let leads = page.is_some_and(|it| title.is_empty() || it.sections.contains(&title));
            found.push((format!("{name}, {title}"), leads));
        } else if let Some(own) = own {
            let is_announced = at > 1 && words[at - 2].to_lowercase().ends_with("see");
            let title = match quoted(&words[at - 1..]) {
                title if is_announced && !title.is_empty() => title,
                _ => capitals(&words[at - 1..]),
            };
            at += title.len().saturating_sub(1);
            let title = title.join(" ");
            if !title.is_empty() && (is_announced || is_section(&title)) {
                let page = &pages[own];
                let leads = page.sections.contains(&title) || page.others.contains(&title);
                found.push((title, leads));
            }
        }
    }
    found
}

/// The page of ours that a word names, such as `tftpd(8)`, and the rest of the word.
fn page(word: &str) -> Option<(&str, &str)> {
    let word = word.trim_start_matches(|it: char| !it.is_ascii_alphanumeric());
    let is_name = |it: char| it.is_ascii_lowercase() || ".-".contains(it);
    let (name, behind) = word.split_once('(')?;
    let (section, rest) = behind.split_once(')')?;
    let is_page = name.starts_with("tftp")
        && name.chars().all(is_name)
        && section.len() == 1
        && section.starts_with(|it: char| it.is_ascii_digit());
    is_page.then(|| (&word[..=name.len() + 2], rest))
}

/// The words in capitals that `words` begins with, up to punctuation.
fn capitals<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut found = vec![];
    for word in words {
        let word = if found.is_empty() {
            word.trim_start_matches('(')
        } else {
            word
        };
        let end = word.find(|it: char| !it.is_ascii_uppercase());
        let (capitals, rest) = word.split_at(end.unwrap_or(word.len()));
        let goes_on = |it: char| it.is_alphanumeric() || "-_=(".contains(it);
        // No title begins with a single letter, but there is AS A SERVICE.
        let least = if found.is_empty() { 2 } else { 1 };
        if capitals.len() < least || rest.starts_with(goes_on) {
            break;
        }
        found.push(capitals);
        if !rest.is_empty() {
            break;
        }
    }
    found
}

/// The words in quotation marks that `words` begins with.
fn quoted<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut found = vec![];
    if !words.first().is_some_and(|it| it.starts_with('"')) {
        return found;
    }
    for word in words {
        let end = word.rfind('"').filter(|&at| at > 0);
        found.push(end.map_or(*word, |end| &word[..=end]));
        if end.is_some() {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_nowhere_is_found() {
        let source =
            "# Name\n# Exit a status\n@options tftpd\n# Files\n## A key\nROOT\n: A directory\n";
        // In two parts, so that they aren't taken for references of this file.
        let (own, other) = (concat!("tftpd", "(8)"), concat!("tftpd.map", "(5)"));
        let pages = Pages::from([
            (own.to_owned(), Page::new(source)),
            (other.to_owned(), Page::new("# Letters\n")),
        ]);
        for (text, wanted) in [
            ("see `PAGE`, EXIT A\n/// STATUS", &[true][..]),
            ("see PAGE, OPTIONS.\\n\"", &[true]),
            ("(PAGE), PAGE and PAGE, but", &[true; 3]),
            ("see PAGE, EXIT", &[false]),
            ("see PAGE, LETTERS", &[false]),
            ("see MAP, LETTERS", &[true]),
            ("see MISSING", &[false]),
            ("in.PAGE, a_PAGE, printf(3), PAGE_OF(it)", &[]),
        ] {
            let missing = concat!("tftpd.rule", "(5)");
            let text = text.replace("PAGE_OF", "tftpd");
            let text = text.replace("PAGE", own).replace("MAP", other);
            let text = text.replace("MISSING", missing);
            let found = all(&text, None, &pages);
            let leads: Vec<_> = found.iter().map(|(_, leads)| *leads).collect();
            assert_eq!(leads, wanted, "{text}: {found:?}");
        }
        for (text, wanted) in [
            ("See EXIT A STATUS, FILES, and ROOT", &[true, true][..]),
            ("See ROOT above. The ERROR for ROOT", &[true]),
            ("(see LETTERS)", &[false]),
            ("LETTERS says it", &[false]),
            ("see EXITS", &[false]),
            ("(see \"A key\" below) and \"others\"", &[true]),
            ("see \"Keys\"", &[false]),
        ] {
            let found = all(text, Some(own), &pages);
            let leads: Vec<_> = found.iter().map(|(_, leads)| *leads).collect();
            assert_eq!(leads, wanted, "{text}: {found:?}");
        }
    }
}
