//! `/status.json` as text: a table for a terminal, or a line for each session and for
//! each that ended. Must not: let through what moves a cursor.

use std::fmt::Write as _;

use super::value::Value;

/// The most failures above the table.
const FAILURES: usize = 5;

/// Fields that stand between quotes, as in the log.
const QUOTED: [&str; 7] = [
    "file",
    "served",
    "reason",
    "message",
    "hint",
    "directory",
    "missed",
];

/// A line for each session, then one for each that ended or was refused, the latest last.
pub(super) fn lines(status: &Value) -> String {
    let mut out = String::from("status");
    for name in [
        "state",
        "version",
        "uptime",
        "session_limit",
        "bytes_sent",
        "bytes_received",
    ] {
        put_field(&mut out, name, status.get(name));
    }
    for (name, value) in status.get("counters").fields() {
        put_field(&mut out, name, value);
    }
    out.push('\n');
    for session in status.get("sessions").list() {
        out.push_str("session");
        put_fields(&mut out, session, &["id"]);
    }
    for recent in status.get("recent").list().iter().rev() {
        out.push_str(&clean(recent.get("event").text()));
        put_fields(&mut out, recent, &["event", "level"]);
    }
    out
}

fn put_fields(out: &mut String, object: &Value, but: &[&str]) {
    for (name, value) in object.fields() {
        if !but.contains(&&**name) {
            put_field(out, name, value);
        }
    }
    out.push('\n');
}

fn put_field(out: &mut String, name: &str, value: &Value) {
    let quote = if QUOTED.contains(&name) { "\"" } else { "" };
    let _ = match value {
        Value::Number(number) => write!(out, " {}={number}", clean(name)),
        Value::Text(text) => write!(out, " {}={quote}{}{quote}", clean(name), clean(text)),
        _ => Ok(()),
    };
}

/// A text without anything that a terminal would obey.
fn clean(text: &str) -> String {
    let harmless = |it: char| if it.is_control() { '\u{fffd}' } else { it };
    text.chars().map(harmless).collect()
}

/// The table: at least one row shorter than the terminal, for the cursor.
pub(super) fn table(status: &Value, rows: usize, columns: usize) -> String {
    let mut out = String::new();
    put_row(&mut out, &summary(status), columns);
    // Rows for the summary, a blank, the head, the number left out, and the cursor.
    let mut left = rows.saturating_sub(5);
    left -= put_failures(&mut out, status, left / 2, columns);
    out.push('\n');
    let head = ["", "FILE", "CLIENT", "DONE", "RATE", "LEFT", "STATE"];
    put_row(&mut out, &row(columns, head), columns);
    let sessions = status.get("sessions").list();
    for session in sessions.iter().take(left) {
        put_row(&mut out, &session_row(session, columns), columns);
    }
    if sessions.len() > left {
        let more = format!("  and {} more", sessions.len() - left);
        put_row(&mut out, &more, columns);
    }
    // A small terminal may not even have room for those.
    out.split_inclusive('\n')
        .take(rows.saturating_sub(1))
        .collect()
}

/// One line about all sessions together.
fn summary(status: &Value) -> String {
    let sessions = status.get("sessions").list();
    let is_live = |it: &&Value| it.get("state").text() != "dallying";
    let live = sessions.iter().filter(is_live).count();
    let rates = sessions.iter().filter_map(|it| it.get("rate").number());
    // An empty sum would be -0.
    let rate = rates.fold(0.0, |sum, rate| sum + rate);
    let number = |value: &Value| value.number().unwrap_or(0.0);
    format!(
        "tftpd {}, up for {}: {live} under way at {}/s, {} completed, {} failed or refused",
        status.get("state").text(),
        duration(number(status.get("uptime"))),
        amount(rate),
        number(status.get("counters").get("completed")),
        number(status.get("failed_or_refused")),
    )
}

/// Direction, name, client, part that is done, rate, time left, and state.
fn row(columns: usize, cells: [&str; 7]) -> String {
    let [op, file, client, done, rate, left, state] = cells;
    // Client, figures and state take 72 columns; the name has the rest.
    let width = columns.saturating_sub(72).max(12);
    let file = fitted(file, width);
    format!("{op:1} {file:width$}  {client:21}  {done:>5}  {rate:>10}  {left:>6}  {state}")
}

fn session_row(session: &Value, columns: usize) -> String {
    let text = |name| session.get(name).text();
    let number = |name| session.get(name).number();
    let (bytes, rate) = (
        number("bytes").unwrap_or(0.0),
        number("rate").unwrap_or(0.0),
    );
    let total = number("size").filter(|size| *size > 0.0);
    let done = match total {
        Some(total) => format!("{:.0} %", bytes / total * 100.0),
        None => amount(bytes),
    };
    let left = total.filter(|_| rate > 0.0);
    let left = left.map(|total| duration((total - bytes).max(0.0) / rate));
    let op = if text("op") == "write" { "↑" } else { "↓" };
    row(
        columns,
        [
            op,
            text("file"),
            text("peer"),
            &done,
            &format!("{}/s", amount(rate)),
            &left.unwrap_or_default(),
            &text("state").replace('_', " "),
        ],
    )
}

/// The latest failures, each with what to do about it, in at most `rows` rows; returns how
/// many rows they took.
fn put_failures(out: &mut String, status: &Value, rows: usize, columns: usize) -> usize {
    let is_good = |it: &Value| {
        let outcome = it.get("outcome").text();
        matches!(outcome, "completed" | "changed" | "probed")
    };
    let mut taken = 0;
    let recent = status.get("recent").list().iter();
    for failure in recent.filter(|it| !is_good(it)).take(FAILURES) {
        let text = |name| failure.get(name).text();
        let what = if text("event") == "ended" {
            text("outcome")
        } else {
            text("event")
        };
        let file = if text("file").is_empty() {
            text("missed")
        } else {
            text("file")
        };
        let why = if text("reason").is_empty() {
            text("message")
        } else {
            text("reason")
        };
        let colon = if why.is_empty() { "" } else { ": " };
        let what = what.replace('_', " ");
        let has_hint = !text("hint").is_empty();
        if taken + 1 + usize::from(has_hint) > rows {
            break;
        }
        put_row(
            out,
            &format!("! {what} {file} ({}){colon}{why}", text("peer")),
            columns,
        );
        if has_hint {
            put_row(out, &format!("  → {}", text("hint")), columns);
        }
        taken += 1 + usize::from(has_hint);
    }
    taken
}

fn put_row(out: &mut String, row: &str, columns: usize) {
    out.push_str(clean(&fitted(row, columns)).trim_end());
    out.push('\n');
}

/// A text, cut to `most` characters if it is longer.
fn fitted(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Bytes, as people read them.
fn amount(bytes: f64) -> String {
    let mut bytes = bytes;
    for unit in ["B", "kB", "MB", "GB"] {
        if bytes < 999.5 {
            let digits = usize::from(unit != "B" && bytes < 99.5);
            return format!("{bytes:.digits$} {unit}");
        }
        bytes /= 1000.0;
    }
    format!("{bytes:.1} TB")
}

/// Seconds, as people read them.
fn duration(seconds: f64) -> String {
    match seconds {
        ..99.5 => format!("{seconds:.0} s"),
        ..5400.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = r#"{"state":"serving","uptime":7300.5,"session_limit":9,
        "failed_or_refused":2,
        "counters":{"completed":3,"refused":1},
        "sessions":[{"id":"1","peer":"192.0.2.1:7","op":"read","file":"boot/a","bytes":500,
            "size":1000,"rate":2000,"round_trip":null,"state":"waiting_for_client"},
          {"id":"2","peer":"192.0.2.2:7","op":"write","file":"b","bytes":5,"size":null,
            "rate":0,"state":"opening"}],
        "recent":[{"time":1,"level":"warn","event":"refused","peer":"192.0.2.3:9","op":"read",
            "file":"C\u001b[2J","reason":"File not found","hint":"did you mean c?"},
          {"event":"ended","peer":"192.0.2.4:9","file":"d","outcome":"completed"}]}"#;

    #[test]
    fn a_pipe_gets_lines_and_no_control_characters() {
        let lines = lines(&Value::parse(STATUS).unwrap());
        assert_eq!(
            lines.lines().collect::<Vec<_>>(),
            [
                "status state=serving uptime=7300.5 session_limit=9 completed=3 refused=1",
                "session peer=192.0.2.1:7 op=read file=\"boot/a\" bytes=500 size=1000 rate=2000 \
                 state=waiting_for_client",
                "session peer=192.0.2.2:7 op=write file=\"b\" bytes=5 rate=0 state=opening",
                "ended peer=192.0.2.4:9 file=\"d\" outcome=completed",
                "refused time=1 peer=192.0.2.3:9 op=read file=\"C\u{fffd}[2J\" \
                 reason=\"File not found\" hint=\"did you mean c?\"",
            ]
        );
    }

    #[test]
    fn a_terminal_gets_a_table_of_its_size() {
        let status = Value::parse(STATUS).unwrap();
        for (rows, columns) in [(24, 100), (6, 40), (0, 0)] {
            let table = table(&status, rows, columns);
            let widest = table.lines().map(|it| it.chars().count()).max();
            assert!(widest <= Some(columns.max(1)), "{table}");
            assert!(!table.contains('\x1b'), "{table}");
        }
        let table = table(&status, 24, 100);
        assert!(
            table.contains("2 under way at 2.0 kB/s, 3 completed, 2 failed"),
            "{table}"
        );
        assert!(
            table.contains("! refused C\u{fffd}[2J (192.0.2.3:9): File not found"),
            "{table}"
        );
        assert!(table.contains("→ did you mean c?"), "{table}");
        // A longer table would scroll its own head away.
        let crowd = |count: usize, failed: usize| {
            let session = r#"{"peer":"192.0.2.1:7","op":"read","file":"boot/a","bytes":5}"#;
            let refused = r#"{"event":"refused","file":"a","hint":"look"}"#;
            let (sessions, recent) = (vec![session; count], vec![refused; failed]);
            let text = format!(
                r#"{{"sessions":[{}],"recent":[{}]}}"#,
                sessions.join(","),
                recent.join(",")
            );
            Value::parse(&text).unwrap()
        };
        for rows in 0..30 {
            for (sessions, failures) in [(0, 0), (2, 9), (100, 0), (100, 9)] {
                let table = super::table(&crowd(sessions, failures), rows, 80);
                let most = rows.saturating_sub(1);
                assert!(table.lines().count() <= most, "{rows} rows: {table}");
            }
        }
        let row = table.lines().find(|line| line.contains("boot/a")).unwrap();
        assert!(
            row.contains(" 50 % ") && row.ends_with("waiting for client"),
            "{row}"
        );
    }
}
