//! The rules file: read at the start and on SIGHUP. The directories that it names are all
//! opened before rights are given up.
//!
//! Must not: answer a request.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use log::{error, info, warn};

use super::ClientRules;
use super::parse::parse;
use crate::file::{Directory, Root, RootError};
use crate::policy::client_root::Neighbours;
use crate::policy::text_file::TextFile;
use crate::policy::work::Work;

/// What is opened for the rules before rights are given up.
#[derive(Debug)]
pub struct RulesFile {
    file: TextFile,
    rules: ClientRules,
    /// The open directories outside ROOT, with their absolute paths.
    directories: Vec<(PathBuf, Directory)>,
    neighbours: Option<Neighbours>,
    /// All transfers use the listening ports, whatever the rules say.
    all_share: bool,
}

/// The rules that hold now.
#[derive(Debug)]
pub struct LiveRules {
    file: TextFile,
    pub(crate) rules: ClientRules,
    /// The directories outside ROOT that were named at the start.
    opened: Vec<(PathBuf, Root)>,
    /// For each directory of the rules, its place in `opened`.
    order: Vec<usize>,
    neighbours: Option<Neighbours>,
    /// As in [`RulesFile`].
    all_share: bool,
    /// Whether the listening ports can carry transfers.
    single_port: bool,
}

impl RulesFile {
    /// Reads the rules and opens what they name; `all_share` tells whether all transfers
    /// use the listening ports.
    ///
    /// # Errors
    /// One line that names the file and the place in it, or the directory that can't be
    /// opened.
    pub fn open(path: &Path, all_share: bool) -> Result<Self, String> {
        let (file, text) = TextFile::open("rules file", path)?;
        let rules = read(&file, &text, all_share)?;
        // Rules that are read later may need it, and it can't be opened then.
        let neighbours = match Neighbours::open() {
            Ok(neighbours) => Some(neighbours),
            Err(error) if rules.needs_hardware() => {
                return Err(format!(
                    "{error}; or leave hardware addresses out of the rules"
                ));
            }
            Err(_) => None,
        };
        let open = |path: &PathBuf| Directory::open(path).map(|it| (path.clone(), it));
        let directories: Result<_, RootError> = rules.roots.iter().map(open).collect();
        Ok(Self {
            directories: directories.map_err(|error| error.to_string())?,
            file,
            rules,
            neighbours,
            all_share,
        })
    }

    /// Prepares for a server that will see nothing but ROOT.
    ///
    /// # Errors
    /// One line: the rules name a directory outside ROOT, or the file's own can't be
    /// opened.
    pub fn prepare_for_chroot(&mut self) -> Result<(), String> {
        if let Some((path, _)) = self.directories.first() {
            return Err(format!(
                "the rules name the directory {}, which --chroot shuts out; name it without its \
                 first /, below ROOT",
                path.display()
            ));
        }
        self.file.keep_directory()
    }

    /// The file's directory, if it was kept.
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.file.directory()
    }

    /// The directories outside ROOT.
    pub fn directories(&self) -> impl Iterator<Item = (&Path, BorrowedFd<'_>)> {
        let directories = self.directories.iter();
        directories.map(|(path, directory)| (&**path, directory.as_fd()))
    }

    /// Whether some transfers use the listening ports.
    pub fn has_single_port(&self) -> bool {
        self.rules.has_single_port()
    }

    /// Begins to serve by the rules, beside the `common` root.
    ///
    /// # Errors
    /// A directory that can't be searched with the rights that are left.
    pub fn serve(self, common: &Root) -> Result<LiveRules, RootError> {
        let serve = |(path, directory)| Ok((path, common.beside(directory)?));
        let opened: Result<Vec<_>, RootError> = self.directories.into_iter().map(serve).collect();
        let opened = opened?;
        Ok(LiveRules {
            order: (0..opened.len()).collect(),
            single_port: self.rules.has_single_port(),
            file: self.file,
            rules: self.rules,
            opened,
            neighbours: self.neighbours,
            all_share: self.all_share,
        })
    }
}

impl LiveRules {
    /// The directory outside ROOT that the rules have under this number.
    pub(crate) fn root(&self, number: usize) -> Option<&Root> {
        let place = self.order.get(number)?;
        self.opened.get(*place).map(|(_, root)| root)
    }

    /// Whether some transfers use the listening ports.
    pub fn has_single_port(&self) -> bool {
        self.rules.has_single_port()
    }

    /// The hardware address of a client, if it is on a network of this machine.
    pub(crate) fn hardware(
        &self,
        now: Instant,
        client: IpAddr,
        work: &mut Work,
    ) -> Option<[u8; 6]> {
        let IpAddr::V4(client) = client.to_canonical() else {
            return None;
        };
        self.neighbours.as_ref()?.find(now, client, work)
    }

    /// Reads the file again. The old rules stay if that fails, and the log says so.
    pub(crate) fn reload(&mut self) {
        match self.read_again() {
            Ok((mut rules, order)) => {
                rules.go_on_from(&self.rules);
                self.rules = rules;
                self.order = order;
                info!("read the rules file again: {self}");
                self.tell_lacking();
            }
            Err(error) => error!("{error}; going on with the old rules"),
        }
    }

    fn read_again(&self) -> Result<(ClientRules, Vec<usize>), String> {
        let text = self.file.read_again()?;
        let rules = read(&self.file, &text, self.all_share)?;
        let shown = self.file.path().display();
        let needs_restart = |what: &str| format!("rules file {shown}: {what} needs a restart");
        if rules.needs_hardware() && self.neighbours.is_none() {
            return Err(needs_restart("the first hardware address"));
        }
        if rules.has_single_port() && !self.single_port {
            return Err(needs_restart("the first single-port"));
        }
        let place = |path: &PathBuf| {
            let known = self.opened.iter().position(|(it, _)| it == path);
            known.ok_or_else(|| needs_restart(&format!("the new directory {}", path.display())))
        };
        let order: Result<_, String> = rules.roots.iter().map(place).collect();
        Ok((rules, order?))
    }

    /// Logs which interfaces aren't there: their sections hold for nobody.
    pub fn tell_lacking(&self) {
        let sections = self.rules.sections.iter();
        let interfaces = sections.flat_map(|it| &it.members.interfaces);
        for lacking in interfaces.filter(|it| it.index.is_none()) {
            let name = &lacking.name;
            warn!("there is no interface {name} now: send SIGHUP once there is");
        }
    }
}

/// As the log shows it.
impl fmt::Display for LiveRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.file.path().display();
        match self.rules.sections.len() {
            1 => write!(f, "1 section of {path}"),
            count => write!(f, "{count} sections of {path}"),
        }
    }
}

fn read(file: &TextFile, text: &[u8], all_share: bool) -> Result<ClientRules, String> {
    let shown = file.path().display();
    let rules = parse(text).map_err(|error| format!("rules file {shown}, {error}"))?;
    match rules.without_single_port() {
        Some(section) if all_share => Err(format!(
            "rules file {shown}: section {}: single-port = false can't be had with --single-port; \
             leave out the option, and write single-port = true in the other sections",
            section.name
        )),
        _ => Ok(rules),
    }
}
