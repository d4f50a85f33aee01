//! From the name in a request to the name of a file.
//!
//! The name is brought to its one spelling ([`Name`]) before the map file's rules see
//! it. With `--ignore-case` the file that is there may be spelled in another case: then
//! the rules are asked again, as if the client had asked for that spelling. Must not:
//! know which root it is.

use std::fmt;
use std::net::IpAddr;

use super::map::{MapRefusal, MapRequest, Rules};
use super::work::Work;
use crate::file::{Name, Root, StorageError};
use crate::wire::packet::{Direction, ErrorCode};

/// How often a name may be looked for in another case and go through the rules again.
/// One round is enough, unless rules look at the case of letters.
const MAX_ROUNDS: usize = 4;

/// A name in a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// As the client wrote it.
    pub(super) spelled: &'a [u8],
    pub(super) direction: Direction,
    pub(super) client: IpAddr,
}

/// What became of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) name: Name,
    pub(super) origin: Origin,
    /// The lines of the map file that matched.
    pub(super) lines: Vec<u32>,
}

/// Where a file's name comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is what the client asked for.
    Asked,
    /// It is what is there in another case, or what the client asked for without the
    /// garbage after it.
    Found,
    /// Rules of the map file made it.
    Rules,
}

/// Why a request gets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No file can have that name.
    Name(StorageError),
    /// The map file's rules refuse it.
    Rules(MapRefusal),
    /// This second's work is used up. The request is to be dropped without an answer.
    Overload,
}

const OVERLOAD: &str = "too much work for map rules and look-ups in this second";

impl Refusal {
    /// The code for the ERROR packet.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Name(error) => error.code(),
            Self::Rules(_) => ErrorCode::AccessViolation,
            Self::Overload => ErrorCode::NotDefined,
        }
    }

    /// What the administrator can do about it, for the log.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Name(error) => error.hint(),
            Self::Rules(_) | Self::Overload => None,
        }
    }

    /// The text for the ERROR packet: never a path.
    pub const fn message(&self) -> &'static str {
        match self {
            Self::Name(error) => error.message(),
            Self::Rules(refusal) => refusal.message(),
            Self::Overload => OVERLOAD,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Rules(refusal) => refusal.fmt(f),
            Self::Overload => f.write_str(OVERLOAD),
        }
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        Self::Name(error)
    }
}

/// The name to serve.
///
/// # Errors
/// Why none is served.
pub(super) fn settle(
    asked: &Asked<'_>,
    root: &Root,
    rules: Option<&Rules>,
    work: &mut Work,
) -> Result<Settled, Refusal> {
    let first = root.name(asked.spelled, asked.direction)?;
    let mut name = first;
    for _ in 0..MAX_ROUNDS {
        let (mapped, lines) = map(&name, asked, root, rules, work)?;
        let found = match asked.direction {
            // If nothing is there, opening it will say so.
            Direction::Read if root.ignores_case() => root.find(&mapped).unwrap_or(mapped),
            _ => mapped,
        };
        let respelled = name.respelled(&mapped, &found);
        if found == mapped || respelled == name {
            if found != mapped {
                // Rules made all of it, so nothing of the client's spelling is
                // left to change. They can still refuse the name found.
                map(&found, asked, root, rules, work)?;
            }
            let origin = match () {
                () if mapped != name => Origin::Rules,
                () if found != first || has_garbage(asked.spelled, &first) => Origin::Found,
                () => Origin::Asked,
            };
            return Ok(Settled {
                name: found,
                origin,
                lines,
            });
        }
        name = respelled;
    }
    Err(StorageError::NOT_FOUND.into())
}

/// Whether reading dropped something after the name.
fn has_garbage(spelled: &[u8], name: &Name) -> bool {
    spelled.last() != name.last()
}

/// What the rules make of a name, and by which lines.
fn map(
    name: &Name,
    asked: &Asked<'_>,
    root: &Root,
    rules: Option<&Rules>,
    work: &mut Work,
) -> Result<(Name, Vec<u32>), Refusal> {
    let Some(rules) = rules else {
        return Ok((*name, Vec::new()));
    };
    let request = MapRequest {
        name,
        direction: asked.direction,
        client: asked.client,
    };
    let mapped = rules.apply(&request, |spelled| {
        let name = root.name(spelled, asked.direction);
        name.is_ok_and(|name| root.leads_to_file(&name, asked.direction))
    });
    work.scanned += mapped.scanned;
    let spelled = mapped.result.map_err(Refusal::Rules)?;
    Ok((root.name(&spelled, asked.direction)?, mapped.lines))
}

#[cfg(feature = "map")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Policy;
    use std::fs;
    use std::net::Ipv4Addr;
    use std::path::Path;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    /// The rules that the manual shows.
    fn manuals_rules() -> Rules {
        let manual = include_str!("../../scripts/man/src/tftpd.map.5.md");
        let start = manual.find("# letters   expression").unwrap();
        let end = start + manual[start..].find("\n\n").unwrap();
        Rules::parse(&manual.as_bytes()[start..end]).unwrap()
    }

    fn examples() -> Vec<Rules> {
        let compared = include_bytes!("../../tests/data/map.rules");
        let others: [&[u8]; 4] = [
            b"aP \\.cfg$\n",
            b"~a ^pub/\n",
            b"e ^pub/\na .\n",
            b"a ^secret\nr ^ pub/\nr ^.*$ \\L\\0\n",
        ];
        let mut examples = vec![manuals_rules(), Rules::parse(compared).unwrap()];
        examples.extend(others.map(|rules| Rules::parse(rules).unwrap()));
        examples
    }

    const NAMES: [&str; 12] = [
        "site.key",
        "secret/x",
        "evil.cfg",
        "pub/a.pvt",
        "x.pvt",
        "boot/site.key",
        "pxelinux.cfg/default",
        "bootx64.efi",
        "by-ip/f",
        "1-22",
        "ok/x.htm",
        "hosts/C0000201",
    ];

    fn result(
        spelled: &[u8],
        direction: Direction,
        root: &Root,
        rules: &Rules,
    ) -> Result<Settled, Refusal> {
        let asked = Asked {
            spelled,
            direction,
            client: CLIENT,
        };
        settle(&asked, root, Some(rules), &mut Work::default())
    }

    fn root(path: &Path, ignore_case: bool) -> Root {
        let policy = Policy {
            ignore_case,
            ..Policy::default()
        };
        Root::open(path, policy).unwrap()
    }

    #[test]
    fn no_spelling_gets_around_a_rule_of_any_example() {
        let home = tempfile::tempdir().unwrap();
        let root = root(home.path(), false);
        let own = home.path().to_str().unwrap();
        for (number, rules) in examples().iter().enumerate() {
            for name in NAMES {
                for direction in [Direction::Read, Direction::Write] {
                    let plain = result(name.as_bytes(), direction, &root, rules)
                        .map(|settled| settled.name);
                    for spelled in [
                        format!("/{name}"),
                        format!("./{name}"),
                        format!("//{name}"),
                        format!("x/../{name}"),
                        format!("../{name}"),
                        format!("..\\{name}"),
                        format!(".\\{name}"),
                        format!("x\\..\\{name}"),
                        format!("{own}/{name}"),
                        format!("{own}/./x/../{name}"),
                        name.replace('/', "\\"),
                        name.replace('/', "//"),
                        name.replace('/', "/./"),
                        name.replace('/', "/x/../"),
                    ] {
                        let other = result(spelled.as_bytes(), direction, &root, rules);
                        let other = other.map(|settled| settled.name);
                        assert_eq!(other, plain, "{number} {direction:?} {spelled}");
                    }
                    for garbage in [&b"\x01"[..], b"\xff", b"\xff\xff\r\n"] {
                        let spelled = [name.as_bytes(), garbage].concat();
                        let other = result(&spelled, direction, &root, rules);
                        match direction {
                            Direction::Read => {
                                let other = other.map(|settled| settled.name);
                                assert_eq!(other, plain, "{number} {name}");
                            }
                            Direction::Write => assert!(other.is_err(), "{number} {name}"),
                        }
                    }
                    for behind in ["/", "//", "\\", "/.", "\\.", "/..", "/./", "/\u{1}"] {
                        let spelled = format!("{name}{behind}");
                        let other = result(spelled.as_bytes(), direction, &root, rules);
                        let refused = other.map(|settled| settled.name).unwrap_err();
                        let code = ErrorCode::AccessViolation;
                        assert_eq!(refused.code(), code, "{number} {spelled}");
                    }
                }
            }
        }
    }

    /// `--ignore-case` reaches no file that the rules refuse.
    #[test]
    fn no_case_gets_around_a_rule_of_any_example() {
        let home = tempfile::tempdir().unwrap();
        let plain = root(home.path(), false);
        let other = root(home.path(), true);
        for rules in examples() {
            let mut places = Vec::new();
            for name in NAMES {
                let settled = result(name.as_bytes(), Direction::Read, &plain, &rules);
                let settled = settled.ok().map(|settled| settled.name.to_vec());
                // A refused file lies where it would be served from otherwise.
                let file = settled.clone().unwrap_or(name.as_bytes().to_vec());
                let file = home.path().join(String::from_utf8(file).unwrap());
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, name).unwrap();
                places.push((name, settled));
            }
            for (name, place) in &places {
                for spelled in [
                    name.to_uppercase(),
                    name.replace('e', "E"),
                    name.replace('x', "X"),
                ] {
                    let found = result(spelled.as_bytes(), Direction::Read, &other, &rules);
                    let Ok(found) = found else {
                        continue;
                    };
                    let Ok(content) = fs::read_to_string(
                        home.path()
                            .join(String::from_utf8(found.name.to_vec()).unwrap()),
                    ) else {
                        continue;
                    };
                    let (_, allowed) = places.iter().find(|(it, _)| *it == content).unwrap();
                    assert!(
                        allowed.is_some(),
                        "{spelled} leads to {:?}, {place:?}",
                        found.name
                    );
                }
            }
        }
    }

    #[test]
    fn what_another_case_finds_goes_through_the_rules_again() {
        let home = tempfile::tempdir().unwrap();
        for file in ["site.key", "pub/b.key", "pub/Ok", "Made"] {
            let path = home.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let root = root(home.path(), true);
        for (rules, spelled, name) in [
            ("a \\.key$", "SITE.Key", None),
            (
                "a ^[^/]*\\.key$\nr ^get/ pub/",
                "get/B.KEY",
                Some("pub/b.key"),
            ),
            ("a ^get/.*\\.key$\nr ^get/ pub/", "get/B.KEY", None),
            ("r ^get/ pub/", "get/oK", Some("pub/Ok")),
            ("r ^.*$ \\L\\0", "MADE", Some("Made")),
            ("r ^get/ pub/\na ^pub/b", "get/B.KEY", None),
            // Nothing is left of the client's spelling.
            ("a ^site\\.key$\nr ^alias$ SITE.key", "alias", None),
            ("", "nothing", Some("nothing")),
        ] {
            let rules = Rules::parse(rules.as_bytes()).unwrap();
            let settled = result(spelled.as_bytes(), Direction::Read, &root, &rules);
            let settled = settled.ok().map(|settled| settled.name.to_vec());
            assert_eq!(settled.as_deref(), name.map(str::as_bytes), "{spelled}");
        }
    }

    #[test]
    fn the_origin_of_a_name_is_told() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("File"), "").unwrap();
        let root = root(home.path(), true);
        let rules = Rules::parse(b"r ^x y\ne ^F\n").unwrap();
        for (spelled, origin, lines) in [
            (&b"File"[..], Origin::Asked, &[2][..]),
            (b"/File", Origin::Asked, &[2]),
            (b"file", Origin::Found, &[2]),
            (b"File\xff", Origin::Found, &[2]),
            (b"x", Origin::Rules, &[1]),
            (b"none", Origin::Asked, &[]),
        ] {
            let settled = result(spelled, Direction::Read, &root, &rules).unwrap();
            assert_eq!((settled.origin, &*settled.lines), (origin, lines));
        }
    }
}
