//! The control plane over loopback: every rank is told the same.

use std::{
    net::{Shutdown, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    time::Instant,
};

use super::*;
use crate::{
    error::FaultKind,
    rank::WorldSize,
    rendezvous::Member,
    transport::{Pipe, tcp::TcpPipe},
};

/// More than anything here takes: reached only by what hangs.
const FOREVER: Duration = Duration::from_secs(30);

pub(super) fn roster(num_ranks: u32) -> Roster {
    let member = |rank| Member {
        rank,
        host: format!("node{rank}"),
        host_id: u64::from(rank),
        pid: 1000 + rank,
        data_addr: ([127, 0, 0, 1], 1).into(),
    };
    Roster { generation: 0, session: [0; 16], members: (0..num_ranks).map(member).collect() }
}

fn patient() -> Timeouts {
    Timeouts {
        heartbeat: Duration::from_millis(20),
        silence: FOREVER,
        stall_report: FOREVER,
        ..Timeouts::default()
    }
}

fn impatient() -> Timeouts {
    Timeouts { silence: Duration::from_millis(300), ..patient() }
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

fn pipe(stream: TcpStream) -> Box<dyn Pipe> {
    Box::new(TcpPipe::new(stream).unwrap())
}

/// A rank with everything its data path would have.
struct Node {
    control: Control,
    flight: Arc<FlightRecorder>,
    faults: Receiver<Fault>,
    stalls: Receiver<Stall>,
}

impl Node {
    fn start(rank: u32, num_ranks: u32, links: ControlLinks, timeouts: Timeouts) -> Self {
        let rank = Rank::new(rank, WorldSize::new(num_ranks).unwrap()).unwrap();
        let flight = Arc::new(FlightRecorder::new(Instant::now()));
        let ((told, faults), (waits, stalls)) = (channel(), channel());
        let on_fault = Box::new(move |fault: &Fault| drop(told.send(fault.clone())));
        let on_stall = Box::new(move |stall: &Stall| drop(waits.send(stall.clone())));
        let roster = Arc::new(roster(num_ranks));
        let control =
            Control::start(rank, roster, links, timeouts, flight.clone(), on_fault, on_stall).unwrap();
        Self { control, flight, faults, stalls }
    }

    /// Is called an operation, and inside it until `end`.
    fn begin(&self, seq: u64, fingerprint: u64) {
        let what = if fingerprint == 1 { "all-reduce (mean) of 64 f32, bucket 2" } else { "barrier" };
        self.flight.begin(OpName { seq, what: what.into() }, fingerprint, 256);
    }

    fn verdict(&self) -> Fault {
        let told = self.faults.recv_timeout(FOREVER).expect("a verdict");
        assert_eq!(*self.control.fault().unwrap(), told);
        told
    }
}

/// A job of which some ranks are only sockets, held by the test.
struct Job {
    nodes: Vec<Node>,
    /// The other end of a rank's connection that rank 0 holds; of all ranks.
    spokes: Vec<TcpStream>,
}

impl Job {
    fn start(num_ranks: u32, timeouts: Timeouts) -> Self {
        Self::without(num_ranks, timeouts, &[])
    }

    fn without(num_ranks: u32, timeouts: Timeouts, absent: &[u32]) -> Self {
        let (spokes, hub): (Vec<_>, Vec<_>) = (1..num_ranks).map(|_| connection()).unzip();
        let hub = (1..).zip(hub.into_iter().map(pipe)).collect();
        let mut nodes = vec![Node::start(0, num_ranks, ControlLinks::Hub(hub), timeouts)];
        for (rank, spoke) in (1..).zip(&spokes).filter(|(rank, _)| !absent.contains(rank)) {
            let links = ControlLinks::Spoke(pipe(spoke.try_clone().unwrap()));
            nodes.push(Node::start(rank, num_ranks, links, timeouts));
        }
        Self { nodes, spokes }
    }

    /// As if the process had been killed: the system closes what it had.
    fn kill(&self, rank: usize) {
        self.spokes[rank - 1].shutdown(Shutdown::Both).unwrap();
    }

    fn begin_all(&self, seq: u64) {
        self.nodes.iter().for_each(|node| node.begin(seq, 1));
    }
}

fn culprits(fault: &Fault) -> Vec<u32> {
    fault.culprits.iter().map(|who| who.rank).collect()
}

/// Asserts that the verdict is the same for all of `nodes`, and returns it.
fn agreed<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Fault {
    let mut verdicts = nodes.into_iter().map(Node::verdict);
    let first = verdicts.next().unwrap();
    verdicts.for_each(|other| assert_eq!(other, first));
    first
}

#[test]
fn a_death_is_told_to_all_with_its_operation() {
    let job = Job::start(4, patient());
    job.begin_all(7);
    job.kill(2);
    let fault = agreed(job.nodes.iter().enumerate().filter(|(rank, _)| *rank != 2).map(|(_, node)| node));
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Died, vec![2]));
    assert_eq!(fault.op.unwrap().seq, 7);
}

#[test]
fn a_normal_end_in_any_order_is_no_fault() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
        let job = Job::start(3, patient());
        job.begin_all(1);
        job.nodes.iter().for_each(|node| node.flight.end());
        let start = Instant::now();
        for rank in order {
            job.nodes[rank].control.leave(Farewell::Done);
        }
        for node in &job.nodes {
            assert_eq!(node.control.fault(), None, "{order:?}");
        }
        assert!(start.elapsed() < FOREVER);
    }
}

#[test]
fn a_suspicion_waits_for_the_verdict() {
    let job = Job::start(3, patient());
    job.begin_all(3);
    let fault = job.nodes[1].control.suspect(Suspicion::LinkBroke { peer: 2, seq: 3, why: "reset".into() });
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::LinkLost, vec![1, 2]));
    assert!(fault.detail.contains("reset"), "{fault}");
    assert_eq!(agreed(&job.nodes), *fault);
}
