//! Jobs on networks of their own: three machines, each a network namespace, on one bridge. A cable is cut, a route leads
//! nowhere, a link is slow or takes small packets only. Needs root and `ip`; without them each test says that it was
//! skipped.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use burn_dist::FaultKind::Silent;
use common::{End, Launch, Process, SLACK, rank};

#[test]
#[ignore = "a rank, started by the other tests"]
fn worker() {
    rank::run();
}

const WORLD_SIZE: u32 = 3;

/// Three machines and what connects them; gone when it is dropped.
struct Network {
    /// Of all names; different for each network of each process.
    tag: String,
    /// The third number of its addresses.
    subnet: u32,
}

fn ip(words: &str) -> Result<(), String> {
    run("ip", words)
}

fn run(program: &str, words: &str) -> Result<(), String> {
    let output = Command::new(program).args(words.split_whitespace()).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Network {
    /// `None`, and why, where the system does not allow it.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let network = Self { tag: format!("{:x}{count:x}", std::process::id()), subnet: 1 + count };
        match network.build() {
            Ok(()) => Some(network),
            Err(why) => {
                eprintln!("SKIP: no network namespaces here: {why}");
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let Self { tag, .. } = self;
        // The bridge has a namespace of its own: this machine's network is left alone.
        ip(&format!("netns add bd{tag}b"))?;
        ip(&format!("-n bd{tag}b link add sw type bridge"))?;
        ip(&format!("-n bd{tag}b link set sw up"))?;
        for rank in 0..WORLD_SIZE {
            let (name, address) = (self.name(rank), self.address(rank));
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n bd{tag}b link add v{rank} type veth peer name eth0 netns {name}"))?;
            ip(&format!("-n bd{tag}b link set v{rank} master sw up"))?;
            ip(&format!("-n {name} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set eth0 up"))?;
        }
        Ok(())
    }

    fn name(&self, rank: u32) -> String {
        format!("bd{}r{rank}", self.tag)
    }

    fn address(&self, rank: u32) -> String {
        format!("10.83.{}.{}", self.subnet, rank + 1)
    }

    fn launch(&self) -> Launch {
        let launch = Launch::new(WORLD_SIZE)
            .var("BURN_DIST_SECRET", "known to all")
            .var("BURN_DIST_STARTUP_TIMEOUT_S", 30);
        Launch { master: self.address(0), ..launch }
    }

    fn start(&self, launch: &Launch, rank: u32, script: &str) -> Process {
        launch.start_under(&["ip", "netns", "exec", &self.name(rank)], rank, script)
    }

    fn start_all(&self, launch: &Launch, script: &str) -> Vec<Process> {
        (0..WORLD_SIZE).map(|rank| self.start(launch, rank, script)).collect()
    }

    fn cut(&self, rank: u32) {
        ip(&format!("-n bd{}b link set v{rank} down", self.tag)).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let names = (0..WORLD_SIZE).map(|rank| self.name(rank)).chain([format!("bd{}b", self.tag)]);
        for name in names {
            // What was not made cannot be deleted.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn end_all(ranks: Vec<Process>) -> Vec<End> {
    ranks.into_iter().map(Process::end).collect()
}

/// All operations, between machines, with what a network may do to packets.
#[test]
fn results_are_right_whatever_fits_into_a_packet() {
    let Some(network) = Network::new() else { return };
    for mtu in [1500, 576] {
        for rank in 0..WORLD_SIZE {
            ip(&format!("-n {} link set eth0 mtu {mtu}", network.name(rank))).unwrap();
        }
        let script = "reduce:10 reduce:3000000 broadcast:100000 gather:1000 scatter:100001 vote barrier";
        for end in end_all(network.start_all(&network.launch(), script)) {
            end.assert_done();
        }
    }
}

/// Nobody sends a FIN: only silence tells.
#[test]
fn a_cut_cable_is_named_within_ten_seconds() {
    let Some(network) = Network::new() else { return };
    for (culprit, moment) in [(2, "reduces:2000000"), (0, "reduces:100")] {
        let script = format!("reduce:1000000 say:now {moment}");
        let mut ranks = network.start_all(&network.launch(), &script);
        for rank in &mut ranks {
            rank.await_line("@now");
        }
        network.cut(culprit);
        let happened = Instant::now();
        let ends = end_all(ranks);
        for end in &ends {
            let took = end.at - happened;
            // Eight seconds are waiting; the rest is for a busy machine.
            assert!(took < Duration::from_secs(10) + Duration::from_secs(2) * SLACK, "{took:?}: {end:#?}");
            // Who is cut off sees that of rank 0; rank 0, that of the first that it misses.
            let named = match (culprit, end.rank) {
                (0, 0) => end.fault().culprits[0].rank,
                (0, _) => 0,
                (culprit, rank) if rank == culprit => 0,
                (culprit, _) => culprit,
            };
            end.assert_fault(Silent, &[named]);
        }
        ip(&format!("-n bd{}b link set v{culprit} up", network.tag)).unwrap();
    }
}

#[test]
fn a_route_that_leads_nowhere_is_silence() {
    let Some(network) = Network::new() else { return };
    let mut ranks =
        network.start_all(&network.launch().clocks(200, 3000), "reduce:1000000 say:now reduces:1000");
    for rank in &mut ranks {
        rank.await_line("@now");
    }
    // What rank 2 sends vanishes; it still hears the others.
    for peer in [0, 1] {
        ip(&format!("-n {} route add blackhole {}/32", network.name(2), network.address(peer))).unwrap();
    }
    let happened = Instant::now();
    for end in end_all(ranks) {
        assert!(end.at - happened < Duration::from_secs(5) * SLACK, "{end:#?}");
        match end.rank {
            2 => assert_eq!(end.fault().kind, Silent, "{end:#?}"),
            _ => drop(end.assert_fault(Silent, &[2])),
        }
    }
}

/// Ten times slower than it should be, and longer than silence may last: nobody is blamed.
#[test]
fn a_slow_link_is_no_fault() {
    let Some(network) = Network::new() else { return };
    for (program, words) in [
        (
            "tc",
            format!(
                "-n {} qdisc add dev eth0 root tbf rate 16mbit burst 16kb latency 200ms",
                network.name(1)
            ),
        ),
        (
            "tc",
            format!("-n bd{}b qdisc add dev v1 root tbf rate 16mbit burst 16kb latency 200ms", network.tag),
        ),
    ] {
        if let Err(why) = run(program, &words) {
            eprintln!("SKIP: no link can be made slow here: {why}");
            return;
        }
    }
    let launch = network.launch().clocks(200, 3000).var(rank::STALL_MS, 1000);
    let begin = Instant::now();
    let ends = end_all(network.start_all(&launch, "reduce:3000000 barrier"));
    // 8 MB went out and 8 came in: the link was slow indeed.
    assert!(begin.elapsed() > Duration::from_secs(4), "{:?}", begin.elapsed());
    for end in ends {
        end.assert_done();
        // All are in the operation, so nobody is missing.
        assert!(!end.said.iter().any(|line| line.contains("has waited")), "{end:#?}");
    }
}

/// An address that leads nowhere from elsewhere is refused at once, and the others are listed.
#[test]
fn an_address_that_others_cannot_reach_is_refused_with_those_there_are() {
    let Some(network) = Network::new() else { return };
    let launch = network.launch().var("BURN_DIST_STARTUP_TIMEOUT_S", 10);
    let main = network.start(&launch, 0, "barrier");
    let wrong = network.start(&launch.clone().var("BURN_DIST_IFNAME", "=lo"), 1, "barrier").end();
    let expected = format!("eth0 {}", network.address(1));
    assert!(wrong.error().contains("lo") && wrong.error().contains(&expected), "{wrong:#?}");
    drop(main);
}

/// A secret keeps others of the same network out, and no secret keeps a job from being there at all.
#[test]
fn without_a_secret_nothing_is_said_on_a_network() {
    let Some(network) = Network::new() else { return };
    let launch = Launch { master: network.address(0), ..Launch::new(WORLD_SIZE) };
    for end in end_all(network.start_all(&launch, "barrier")) {
        assert!(end.error().contains("BURN_DIST_SECRET_FILE"), "{end:#?}");
    }
}
