//! The load generator behind `scripts/bench`: measures TFTP servers side by side.
//!
//! `load campaign` runs workloads against every server that is here and writes
//! the report; `load drive` loads a server that is running already; `load losses` plays
//! boot loaders over a lossy network; `load room` boots a room of machines for
//! `scripts/cluster`; `load attack` is the attacker of `scripts/soak`; `load bare` is a
//! loop that does little more than receive and send. Not shipped.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures: more than 52 bits of them mean nothing"
)]

mod abuse;
mod attack;
mod bare;
mod boot;
mod campaign;
mod chart;
mod crowd;
mod figures;
mod fleet;
mod link;
mod losses;
mod pattern;
mod process;
mod report;
mod room;
mod servers;
mod verdict;
mod watcher;
mod workloads;

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use tftpd::host::raise_open_files;
use tftpd::wire::packet::Direction;

use self::attack::AttackArgs;
use self::campaign::Campaign;
use self::figures::{Figures, Metric};
use self::fleet::{Fleet, Plan};
use self::losses::LossesArgs;
use self::pattern::Pattern;
use self::process::{Cores, Insomnia, stay_awake};
use self::report::Setting;
use self::room::RoomArgs;
use self::servers::Programs;

/// Puts load on TFTP servers and measures them.
#[derive(Parser)]
enum Args {
    Campaign(CampaignArgs),
    Drive(DriveArgs),
    Losses(LossesArgs),
    Room(RoomArgs),
    /// Attack servers, and time honest downloads beside it.
    Attack(AttackArgs),
    /// Serve DIR by a bare loop.
    Bare {
        address: SocketAddr,
        root: PathBuf,
        /// Never wait awake
        #[arg(long)]
        asleep: bool,
    },
    /// Keep a core awake as long as the parent lives.
    StayAwake {
        parent: i32,
    },
}

/// Measure every server that is here, and report.
#[derive(clap::Args)]
struct CampaignArgs {
    /// Our server
    #[arg(long)]
    ours: PathBuf,
    /// Another build of our server, to measure beside it instead of the peers
    #[arg(long)]
    against: Option<PathBuf>,
    /// Have somebody watch our server's status port, and measure ours without one beside
    /// it instead of the peers
    #[arg(long, conflicts_with = "against")]
    watched: bool,
    /// Measure our server with `--busy-poll 0` too, instead of the peers
    #[arg(long)]
    asleep: bool,
    /// Where the peers are installed
    #[arg(long)]
    peers: PathBuf,
    /// Empty directory to serve from
    #[arg(long)]
    root: PathBuf,
    /// Where the report goes
    #[arg(long)]
    out: PathBuf,
    /// What the report says about when it was made
    #[arg(long, default_value = "")]
    date: String,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Workloads by name [default: all]
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
}

/// Load a server that is running; the file is made in its root.
#[derive(clap::Args)]
struct DriveArgs {
    server: SocketAddr,
    /// The server's root
    root: PathBuf,
    #[arg(long, default_value_t = 64 << 20)]
    size: u64,
    #[arg(long)]
    put: bool,
    #[arg(long, default_value_t = 1)]
    transfers: usize,
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    #[arg(long)]
    blksize: Option<u16>,
    #[arg(long)]
    windowsize: Option<u16>,
    /// Seconds to ask for
    #[arg(long)]
    timeout: Option<u8>,
    /// Send each block with a call of its own
    #[arg(long)]
    one_by_one: bool,
    /// Packets lost each way, in a thousand
    #[arg(long, default_value_t = 0)]
    loss: u16,
    /// Microseconds before each answer
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// Seconds until it is cut off
    #[arg(long, default_value_t = 60)]
    limit: u64,
}

fn main() -> ExitCode {
    let done = match Args::parse() {
        Args::Campaign(args) => measure(args),
        Args::Drive(args) => drive(&args),
        Args::Losses(args) => losses::run(&args).map_err(Into::into),
        Args::Attack(args) => attack::run(&args).map_err(Into::into),
        Args::Room(args) => room::run(&args).map_err(Into::into),
        Args::StayAwake { parent } => {
            stay_awake(parent);
            Ok(())
        }
        Args::Bare {
            address,
            root,
            asleep,
        } => raise_open_files()
            .and_then(|_| bare::serve(address, &root, !asleep))
            .map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: CampaignArgs) -> Result<(), Box<dyn Error>> {
    raise_open_files()?;
    let workloads = workloads::chosen(&args.workloads, args.watched)?;
    let campaign = Campaign {
        programs: Programs {
            ours: args.ours,
            against: args.against,
            watched: args.watched,
            asleep: args.asleep,
            peers: args.peers,
        },
        cores: Cores::choose()?,
        root: args.root,
        rounds: args.rounds,
        pattern: Pattern::new(),
    };
    let setting = Setting::new(args.date, args.rounds, campaign.cores, &campaign.programs);
    let all = campaign.run(workloads)?;
    let table = report::markdown(&setting, &all);
    fs::create_dir_all(&args.out)?;
    fs::write(args.out.join("bench.md"), &table)?;
    fs::write(args.out.join("bench.json"), report::json(&setting, &all))?;
    if let Some(svg) = chart::svg(&all) {
        fs::write(args.out.join("bench.svg"), svg)?;
    }
    print!("{table}");
    Ok(())
}

fn drive(args: &DriveArgs) -> Result<(), Box<dyn Error>> {
    raise_open_files()?;
    let cores = Cores::choose()?;
    let _awake = Insomnia::on(cores.server, cores.load)?;
    let plan = Plan {
        direction: if args.put {
            Direction::Write
        } else {
            Direction::Read
        },
        size: args.size,
        files: 1,
        transfers: args.transfers,
        at_once: args.at_once,
        blksize: args.blksize,
        windowsize: args.windowsize,
        timeout: args.timeout,
        one_by_one: args.one_by_one,
        loss: args.loss,
        delay: Duration::from_micros(args.delay),
        pace: Duration::ZERO,
        limit: Duration::from_secs(args.limit),
    };
    let pattern = Pattern::new();
    let path = args.root.join(plan.name(0));
    if !args.put {
        pattern.create(&path, 0, plan.size)?;
    }
    let end = clock() + plan.limit;
    let mut tally = Fleet::new(plan, &pattern, args.server)?.run(|_| end)?;
    let mut figures = Figures::default();
    tally.write_into(&mut figures);
    for metric in Metric::ALL {
        let value = figures.get(metric);
        if !value.is_nan() {
            println!("{:<28} {value:.3}", metric.words());
        }
    }
    if !args.put {
        fs::remove_file(path)?;
    }
    tally
        .complaint
        .map_or(Ok(()), |complaint| Err(complaint.into()))
}

/// The only clock of the load.
#[expect(
    clippy::disallowed_methods,
    reason = "the shell tells the core what time it is"
)]
fn clock() -> Instant {
    Instant::now()
}
