//! What old versions of a file are called: `name.~7~`, or `name.` and a time.
//!
//! Times are UTC: a static program has no table of time zones, and a clock that is
//! set back once a year would mix up the versions of two hours. Must not: touch a
//! file.

use std::io::Write as _;

use crate::host::calendar;

/// How a version is named after the time when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionFormat(&'static str);

/// What versions are ordered by: the oldest first.
pub(super) type Order = [u64; 8];

/// Bytes of the longest suffix.
const MAX_SUFFIX: usize = 64;

/// Bytes of the suffix that are left for a number after the time.
const COUNT_DIGITS: usize = 8;

/// The last second of the year 9999.
const LATEST: u64 = 253_402_300_799;

/// The longest name that the file system takes, in bytes.
const NAME_MAX: usize = 255;

/// The letters after `%`: each with its place in [`Order`], and how many digits it is
/// written with (0: as many as it takes).
const FIELDS: [(u8, usize, usize); 7] = [
    (b's', 0, 0),
    (b'Y', 1, 4),
    (b'm', 2, 2),
    (b'd', 3, 2),
    (b'H', 4, 2),
    (b'M', 5, 2),
    (b'S', 6, 2),
];

/// Where [`Order`] has the number of a version among those of the same time.
const COUNT: usize = 7;

impl VersionFormat {
    /// A format in a few words of strftime(3): `%Y %m %d %H %M %S %s %%`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut fields = [false; FIELDS.len()];
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => match letters.next() {
                    Some('%') => {}
                    Some(other) => match field_of(other) {
                        Some((place, _)) => fields[place] = true,
                        None => {
                            return Err(format!(
                                "%{other} is not known; %Y %m %d %H %M %S %s and %% are"
                            ));
                        }
                    },
                    None => return Err("a % stands at its end; write %% for a %".to_owned()),
                },
                '/' | '\\' => return Err(format!("{letter} separates directories")),
                letter if letter.is_control() => {
                    return Err("control characters are not allowed".to_owned());
                }
                _ => {}
            }
        }
        if !fields.contains(&true) {
            return Err("there is no time in it, such as %Y-%m-%dT%H%M%S".to_owned());
        }
        let [seconds, calendar @ ..] = fields;
        if !seconds && !calendar.is_sorted_by_key(|is_there| !is_there) {
            return Err(
                "versions would be out of order: it takes %s, or %Y and, without a gap, %m %d %H \
                 %M %S"
                    .to_owned(),
            );
        }
        let format = Self(String::leak(text.to_owned()));
        let mut written = Vec::new();
        format.write(LATEST, &mut written);
        if written.len() > MAX_SUFFIX - COUNT_DIGITS {
            return Err("it makes names too long".to_owned());
        }
        Ok(format)
    }

    /// Writes the suffix for a file written at `seconds` since 1970.
    fn write(self, seconds: u64, out: &mut Vec<u8>) {
        let time = civil(seconds);
        let mut bytes = self.0.bytes();
        while let Some(byte) = bytes.next() {
            let field = (byte == b'%').then(|| bytes.next()).flatten();
            match field.and_then(|letter| field_of(letter.into())) {
                Some((place, digits)) => {
                    let _ = write!(out, "{:0digits$}", time[place]);
                }
                // A byte of its own, or the second one of `%%`.
                None => out.push(field.unwrap_or(byte)),
            }
        }
    }

    /// The time that `text` shows, and what follows it.
    fn read(self, text: &[u8]) -> Option<(Order, &[u8])> {
        let mut order = Order::default();
        let mut rest = text;
        let mut bytes = self.0.bytes();
        while let Some(byte) = bytes.next() {
            let field = (byte == b'%').then(|| bytes.next()).flatten();
            match field.and_then(|letter| field_of(letter.into())) {
                Some((place, digits)) => {
                    let found = rest.iter().take_while(|it| it.is_ascii_digit()).count();
                    let len = if digits == 0 { found } else { digits };
                    (order[place], rest) = (number(rest.get(..len)?)?, &rest[len..]);
                }
                None => rest = rest.strip_prefix(&[field.unwrap_or(byte)])?,
            }
        }
        Some((order, rest))
    }
}

fn field_of(letter: char) -> Option<(usize, usize)> {
    let found = FIELDS.iter().find(|(it, ..)| char::from(*it) == letter)?;
    Some((found.1, found.2))
}

/// The name of a version of the file `name`: with the number `count`, or, with a
/// `format`, with the time `seconds` since 1970 and, if `count` isn't 0, that number.
pub(super) fn version(
    name: &[u8],
    format: Option<VersionFormat>,
    seconds: u64,
    count: u64,
) -> Vec<u8> {
    let mut version = [name, b"."].concat();
    let _ = match format {
        None => write!(version, "~{count}~"),
        Some(format) => {
            format.write(seconds, &mut version);
            match count {
                0 => Ok(()),
                _ => write!(version, "-{count}"),
            }
        }
    };
    version
}

/// Whether any version of `name` is too long for a file's name.
pub(super) fn is_too_long(name: &[u8]) -> bool {
    name.len() + 1 + MAX_SUFFIX > NAME_MAX
}

/// Where the version `of_name` of the file `name` stands among its versions; `None` if
/// `of_name` isn't a version of that file.
pub(super) fn order(name: &[u8], of_name: &[u8], format: Option<VersionFormat>) -> Option<Order> {
    let suffix = of_name.strip_prefix(name)?.strip_prefix(b".")?;
    order_of_suffix(suffix, format)
}

/// Whether `name` looks like a version of some file.
pub(super) fn is_version(name: &[u8], format: Option<VersionFormat>) -> bool {
    let mut dots = name.iter().enumerate().filter(|(_, it)| **it == b'.');
    dots.any(|(dot, _)| dot > 0 && order_of_suffix(&name[dot + 1..], format).is_some())
}

/// A version's number: among all versions, or among those of the same time.
pub(super) fn count_of(order: &Order) -> u64 {
    order[COUNT]
}

/// Whether both are versions of the same time.
pub(super) fn same_time(one: &Order, other: &Order) -> bool {
    one[..COUNT] == other[..COUNT]
}

fn order_of_suffix(suffix: &[u8], format: Option<VersionFormat>) -> Option<Order> {
    let Some(format) = format else {
        let digits = suffix.strip_prefix(b"~")?.strip_suffix(b"~")?;
        let mut order = Order::default();
        order[COUNT] = number(digits)?;
        return Some(order);
    };
    let (mut order, rest) = format.read(suffix)?;
    if !rest.is_empty() {
        order[COUNT] = number(rest.strip_prefix(b"-")?)?;
    }
    Some(order)
}

fn number(digits: &[u8]) -> Option<u64> {
    // No sign, which `parse` would take.
    let is_number = digits.iter().all(u8::is_ascii_digit);
    let digits = str::from_utf8(digits).ok().filter(|_| is_number)?;
    digits.parse().ok()
}

/// The seconds since 1970, year, month, day, hour, minute and second of a time, in UTC.
/// Times after the year 9999 get that year's last day.
fn civil(seconds: u64) -> Order {
    let (year, month, day) = calendar::date(seconds.min(LATEST) / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    [seconds, year, month, day, hour, minute, second, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(text: &str) -> Option<VersionFormat> {
        VersionFormat::parse(text).ok()
    }

    #[test]
    fn times_are_written_as_date_writes_them() {
        // date -u -d @SECONDS +FORMAT
        for (seconds, text) in [
            (0, "f.1970-01-01T000000"),
            (951_782_399, "f.2000-02-28T235959"),
            (951_782_400, "f.2000-02-29T000000"),
            (1_078_099_199, "f.2004-02-29T235959"),
            (1_735_689_599, "f.2024-12-31T235959"),
            (1_795_745_700, "f.2026-11-27T021500"),
            (4_107_542_400, "f.2100-03-01T000000"),
        ] {
            let named = version(b"f", format("%Y-%m-%dT%H%M%S"), seconds, 0);
            assert_eq!(named.escape_ascii().to_string(), text);
        }
        let named = version(b"f", format("%s at 100%%"), 12, 3);
        assert_eq!(named, b"f.12 at 100%-3");
    }

    #[test]
    fn a_version_is_known_by_its_name() {
        for (text, name, is_one) in [
            (None, "f.~1~", true),
            (None, "a.b.~123~", true),
            (None, "f.~~", false),
            (None, "f.~+1~", false),
            (None, "f.~1", false),
            (None, "~1~", false),
            (None, ".~1~", false),
            (None, "f.~99999999999999999999~", false),
            (Some("%Y-%m-%d"), "f.2026-11-27", true),
            (Some("%Y-%m-%d"), "a.b.2026-11-27-12", true),
            (Some("%Y-%m-%d"), "f.2026-11-27-", false),
            (Some("%Y-%m-%d"), "f.2026-11-2", false),
            (Some("%Y-%m-%d"), "f.2026-11-27x", false),
            (Some("%Y-%m-%d"), "f.~1~", false),
            (Some("v.%s%%"), "f.v.17%", true),
            (Some("v.%s%%"), "f.v.%", false),
        ] {
            let format = text.and_then(format);
            assert_eq!(
                is_version(name.as_bytes(), format),
                is_one,
                "{text:?} {name}"
            );
        }
    }

    #[test]
    fn versions_are_ordered_by_time_however_it_is_written() {
        let text = format("%d.%m.%Y");
        let of = |name: &str| order(b"f", name.as_bytes(), text).unwrap();
        assert!(of("f.31.01.2026") < of("f.01.02.2026"));
        assert!(of("f.01.02.2026") < of("f.01.02.2026-1"));
        assert!(of("f.01.02.2026-9") < of("f.01.02.2026-10"));
        assert_eq!(order(b"f", b"g.01.02.2026", text), None);
        assert_eq!(order(b"f", b"f.old.01.02.2026", text), None);
    }

    #[test]
    fn what_is_wrong_with_a_format_is_told() {
        for (text, named) in [
            ("%Q", "%Q"),
            ("%Y%", "%%"),
            ("old", "%Y"),
            ("", "%Y"),
            ("%Y/%m", "/"),
            ("%Y\n", "control"),
            ("%s%s%s%s%s", "too long"),
            // December's would be newer than next January's.
            ("%m-%d", "%Y"),
            ("%H%M%S", "%Y"),
            ("%Y-%d", "%m"),
            ("%Y-%m-%dT%M", "%H"),
        ] {
            let told = VersionFormat::parse(text).unwrap_err();
            assert!(told.contains(named), "{text}: {told}");
        }
    }

    #[test]
    fn the_new_year_and_midnight_come_after_what_was_before() {
        const NEW_YEAR: u64 = 1_735_689_600;
        for text in ["%Y", "%d.%m.%Y", "%H%d%m%Y", "%s", "%m-%d %s"] {
            let format = format(text);
            assert!(format.is_some(), "{text}");
            let order = |seconds| {
                let named = version(b"f", format, seconds, 0);
                order(b"f", &named, format).unwrap()
            };
            assert!(order(NEW_YEAR - 1) < order(NEW_YEAR), "{text}");
            assert!(order(NEW_YEAR) <= order(NEW_YEAR + 1), "{text}");
        }
    }

    /// What is written can be read again.
    #[test]
    fn every_name_is_a_version() {
        for text in [
            "%Y-%m-%dT%H%M%S",
            "%s",
            "%%%d%m%Y~",
            "%Y%Y%Y%Y%Y%Y%Y%Y%Y%Y%Y%Y",
        ] {
            for seconds in [0, 1_795_745_700, u64::MAX] {
                let format = format(text);
                for count in [0, 9, u64::MAX] {
                    let named = version(b"f", format, seconds, count);
                    let order = order(b"f", &named, format);
                    assert!(order.is_some(), "{text} {seconds}");
                }
            }
        }
    }
}
