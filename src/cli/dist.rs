//! `sprint dist`: how fast ranks reach each other, whether they do, and where they parted when a job has failed.

use std::{
    env,
    ffi::OsString,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use burn_dist::{
    Agreed, Algorithm, Communicator,
    flight::{FlightRecord, parting},
    measure,
};
use clap::{Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::launch::stopped_by_signal;
use crate::{
    cluster::{Launch, Layout},
    error::{Error, Result},
};

/// A rank's flight record holds 2,000 operations of a few hundred bytes.
const MAX_RECORD_BYTES: u64 = 16 << 20;
/// What a way there and back carries to measure a rate.
const BULK_BYTES: usize = 8 << 20;

/// Look at the connections between ranks: their speed, their reach, their last operations.
///
/// `bench` and `check` use the ranks of the launcher that started them (sprint launch, torchrun, srun, mpirun), or
/// else start --nproc of their own on this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Dist,
}

#[derive(Debug, Subcommand)]
enum Dist {
    /// Time all-reduces of several sizes
    Bench(Bench),
    /// Time a byte and a bulk of bytes between every two ranks
    Check(Check),
    /// Find the first operation that ranks did not call alike, from the records they wrote when a job failed
    Doctor(Doctor),
}

#[derive(Debug, clap::Args)]
struct Bench {
    /// Ranks to start on this machine, where no launcher did
    #[arg(long, value_name = "N", default_value_t = 2)]
    nproc: u32,
    /// How many numbers of 32 bits to sum, one all-reduce each
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_values_t = [256, 65_536, 1_048_576, 25_600_000])]
    counts: Vec<usize>,
    /// Which way to go
    #[arg(long, value_enum, default_value = "auto")]
    algorithm: Way,
    /// How often each is timed
    #[arg(long, value_name = "N", default_value_t = 21)]
    repeat: usize,
    /// Write the figures to a file as well
    #[arg(long, value_name = "FILE", overrides_with = "json")]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// Ranks to start on this machine, where no launcher did
    #[arg(long, value_name = "N", default_value_t = 2)]
    nproc: u32,
    /// Write the figures to a file as well
    #[arg(long, value_name = "FILE", overrides_with = "json")]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Doctor {
    /// The files flight-RANK.json of all ranks; BURN_DIST_FLIGHT_DIR says where ranks write them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    Auto,
    Ring,
    Doubling,
    Hierarchical,
}

impl From<Way> for Algorithm {
    fn from(way: Way) -> Self {
        match way {
            Way::Auto => Self::Auto,
            Way::Ring => Self::Ring,
            Way::Doubling => Self::Doubling,
            Way::Hierarchical => Self::Hierarchical,
        }
    }
}

pub(super) fn dist(args: Args) -> Result<()> {
    match args.command {
        Dist::Bench(bench) => {
            let Bench { nproc, counts, algorithm, repeat, json } = bench;
            let agreed = |agreed| Agreed { algorithm: algorithm.into(), ..agreed };
            among_ranks(nproc, json, agreed, |comm| all_reduces(comm, algorithm, &counts, repeat))
        }
        Dist::Check(Check { nproc, json }) => {
            among_ranks(nproc, json, |agreed| Agreed { full_mesh: true, ..agreed }, pairs)
        }
        Dist::Doctor(Doctor { files }) => doctor(&files),
    }
}

/// Figures that are a table for a person and a file for a program.
trait Figures: Serialize + for<'a> Deserialize<'a> {
    fn table(&self) -> String;
}

/// Carries `work` out on the ranks that a launcher started, or on `nproc` that are started here; rank 0's figures are
/// shown and written to `json`.
fn among_ranks<F: Figures>(
    nproc: u32,
    json: Option<PathBuf>,
    agreed: impl FnOnce(Agreed) -> Agreed,
    work: impl FnOnce(&Communicator) -> Result<F>,
) -> Result<()> {
    let builder = Communicator::builder().from_env()?;
    if !builder.was_launched() && nproc > 1 {
        return launch::<F>(nproc, json);
    }
    let settings = agreed(builder.settings().agreed.clone());
    let comm = builder.agreed(settings).connect()?;
    let figures = work(&comm)?;
    if comm.rank().is_main() {
        match json {
            Some(path) => write_json(&path, &figures)?,
            None => print!("{}", figures.table()),
        }
    }
    Ok(())
}

/// Starts this very command on ranks of this machine, and shows what they found.
fn launch<F: Figures>(nproc: u32, json: Option<PathBuf>) -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("create a folder in", &env::temp_dir()))?;
    let found = folder.path().join("figures.json");
    let mut words: Vec<OsString> = env::args_os().skip(1).collect();
    // Said last, so that it is what counts.
    words.extend(["--json".into(), found.clone().into()]);
    let program = env::current_exe().map_err(Error::io("find", Path::new("this program")))?;
    let launch = Launch::new(Layout::new(nproc, 1, 0, None)?, program, words);
    if stopped_by_signal(&launch)? {
        return Err(Error::Stopped("all ranks stopped".into()));
    }
    let text = fs::read(&found).map_err(Error::io("read", &found))?;
    let figures: F = serde_json::from_slice(&text).map_err(Error::run)?;
    print!("{}", figures.table());
    json.map_or(Ok(()), |path| write_json(&path, &figures))
}

fn write_json(path: &Path, figures: &impl Serialize) -> Result<()> {
    let json = serde_json::to_vec_pretty(figures).map_err(Error::run)?;
    Ok(crate::record::write_atomic(path, &json)?)
}

/// What `dist bench` found.
#[derive(Debug, Serialize, Deserialize)]
struct AllReduces {
    world_size: usize,
    algorithm: String,
    rows: Vec<AllReduce>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AllReduce {
    count: usize,
    bytes: usize,
    median_s: f64,
    min_s: f64,
    max_s: f64,
    /// Bytes of the buffer a second.
    algbw_gb_per_s: f64,
    /// Bytes that each rank must send a second.
    busbw_gb_per_s: f64,
    /// Of one core, while the all-reduce ran, barriers included; mean over the ranks.
    cpu_percent: f64,
}

fn all_reduces(comm: &Communicator, way: Way, counts: &[usize], repeat: usize) -> Result<AllReduces> {
    let world_size = comm.rank().world_size().count();
    let mut rows = Vec::new();
    for &count in counts {
        let timing = measure::all_reduce(comm, count, repeat)?;
        let mut cpu = [timing.cores];
        comm.all_reduce(&mut cpu, burn_dist::ReduceOp::Mean)?;
        let (median, (min, max)) = (timing.median(), timing.range());
        let bytes = count * size_of::<f32>();
        let algbw = bytes as f64 / median / 1e9;
        rows.push(AllReduce {
            count,
            bytes,
            median_s: median,
            min_s: min,
            max_s: max,
            algbw_gb_per_s: algbw,
            busbw_gb_per_s: algbw * 2.0 * (world_size - 1) as f64 / world_size as f64,
            cpu_percent: 100.0 * cpu[0],
        });
    }
    let algorithm = way.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    Ok(AllReduces { world_size, algorithm, rows })
}

impl Figures for AllReduces {
    fn table(&self) -> String {
        let mut table = format!(
            "{} ranks, sum of 32-bit numbers, {} algorithm; times: median (shortest to longest)\n{:>12} {:>10} {:>32} {:>12} {:>12} {:>6}\n",
            self.world_size,
            self.algorithm,
            "numbers",
            "bytes",
            "time, ms",
            "algbw, GB/s",
            "busbw, GB/s",
            "cpu, %"
        );
        for row in &self.rows {
            let ms = |seconds: f64| format!("{:.3}", seconds * 1e3);
            let time = format!("{} ({} to {})", ms(row.median_s), ms(row.min_s), ms(row.max_s));
            table += &format!(
                "{:>12} {:>10} {time:>32} {:>12.3} {:>12.3} {:>6.0}\n",
                row.count, row.bytes, row.algbw_gb_per_s, row.busbw_gb_per_s, row.cpu_percent
            );
        }
        table
    }
}

/// What `dist check` found.
#[derive(Debug, Serialize, Deserialize)]
struct Pairs {
    members: Vec<Member>,
    pairs: Vec<Pair>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Member {
    rank: u32,
    host: String,
    address: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Pair {
    from: usize,
    to: usize,
    shared_memory: bool,
    /// Half the way there and back of one byte.
    latency_s: f64,
    /// One way.
    gb_per_s: f64,
}

fn pairs(comm: &Communicator) -> Result<Pairs> {
    let world_size = comm.rank().world_size().count();
    let mut all = Vec::new();
    for from in 0..world_size {
        for to in from + 1..world_size {
            let small = measure::round_trip(comm, from, to, 1, 101)?;
            let large = measure::round_trip(comm, from, to, BULK_BYTES, 11)?;
            // Only `from` has seen both directions.
            let mut seen = [small.median(), large.median()];
            comm.broadcast(&mut seen, from)?;
            let [small, large] = seen;
            let members = comm.members();
            let shared_memory = members[from].host_id == members[to].host_id;
            let gb_per_s = 2.0 * BULK_BYTES as f64 / large / 1e9;
            all.push(Pair { from, to, shared_memory, latency_s: small / 2.0, gb_per_s });
        }
    }
    let member = |member: &burn_dist::Member| Member {
        rank: member.rank,
        host: member.host.clone(),
        address: member.data_addr.ip().to_string(),
    };
    Ok(Pairs { members: comm.members().iter().map(member).collect(), pairs: all })
}

impl Figures for Pairs {
    fn table(&self) -> String {
        let mut table = String::new();
        for member in &self.members {
            table += &format!("rank {} on {}, address {}\n", member.rank, member.host, member.address);
        }
        table += &format!("{:>12} {:>14} {:>12}\n", "ranks", "latency, us", "one way, GB/s");
        for pair in &self.pairs {
            let way = if pair.shared_memory { "  (same machine)" } else { "" };
            let ranks = format!("{} - {}", pair.from, pair.to);
            table += &format!("{ranks:>12} {:>14.1} {:>12.3}{way}\n", pair.latency_s * 1e6, pair.gb_per_s);
        }
        table
    }
}

fn doctor(files: &[PathBuf]) -> Result<()> {
    let records = files.iter().map(|path| read_record(path)).collect::<Result<Vec<_>>>()?;
    for record in &records {
        match record.operations.last() {
            Some(last) => {
                let state = if last.end_us.is_some() { "through" } else { "under way" };
                println!("rank {}: last {}, {state}", record.rank, last.name);
            }
            None => println!("rank {}: no operation", record.rank),
        }
    }
    if let Some(fault) = records.iter().find_map(|record| record.fault.as_ref()) {
        println!("the job ended: {fault}");
    }
    match parting(&records) {
        Some(parting) => println!("the ranks parted at {parting}"),
        None => println!("no operation that all {} records remember was called otherwise", records.len()),
    }
    Ok(())
}

fn read_record(path: &Path) -> Result<FlightRecord> {
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(Error::io("read", path))?;
    file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut text).map_err(Error::io("read", path))?;
    if text.len() as u64 > MAX_RECORD_BYTES {
        return Err(Error::run(format!(
            "{} is longer than {MAX_RECORD_BYTES} bytes: no flight record is",
            path.display()
        )));
    }
    serde_json::from_slice(&text)
        .map_err(|error| Error::run(format!("{} is no flight record: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Command, Words};

    #[test]
    fn the_last_json_counts() {
        let words = ["sprint", "dist", "bench", "--json", "a", "--nproc", "2", "--json=b", "--json", "c"];
        let words = Words::try_parse_from(words).unwrap();
        let Some(Command::Dist(Args { command: Dist::Bench(bench) })) = words.command else {
            panic!("{words:?}")
        };
        assert_eq!(bench.json, Some("c".into()));
    }
}
