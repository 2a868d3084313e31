//! The control plane over loopback: every rank is told the same.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    time::Instant,
};

use super::{message::Message, *};
use crate::{
    error::FaultKind,
    rank::WorldSize,
    rendezvous::Member,
    transport::{Pipe, tcp::TcpPipe},
    wire::envelope,
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

/// Patient enough for a busy machine to let those who are alive say so.
fn impatient() -> Timeouts {
    Timeouts { silence: Duration::from_secs(3), ..patient() }
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

fn say(mut to: &TcpStream, message: &Message) {
    to.write_all(&message.frame()).unwrap();
}

/// The next message that came to a rank without a control thread; `None` at the end.
fn hear(mut from: &TcpStream) -> Option<Message> {
    from.set_read_timeout(Some(FOREVER)).unwrap();
    let mut length = [0; 4];
    from.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut body).unwrap();
    Some(serde_json::from_slice(envelope::open(&body).unwrap()).unwrap())
}

/// Ranks 1 to 3 of a job whose rank 0 is held by the test, and that.
fn without_main(timeouts: Timeouts) -> (Vec<Node>, Vec<TcpStream>) {
    let start = |rank| {
        let (spoke, hub) = connection();
        (Node::start(rank, 4, ControlLinks::Spoke(pipe(spoke)), timeouts), hub)
    };
    (1..4).map(start).unzip()
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
    let fault = agreed([0, 1, 3].map(|rank| &job.nodes[rank]));
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Died, vec![2]));
    assert_eq!(fault.op.unwrap().seq, 7);
}

#[test]
fn silence_is_told_to_all_and_the_silent_one_finds_it_when_it_wakes() {
    let mut job = Job::without(4, impatient(), &[2]);
    say(&job.spokes[1], &Message::Heartbeat(Default::default()));
    job.begin_all(7);
    let fault = agreed(&job.nodes);
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Silent, vec![2]));
    assert!(fault.detail.contains("no heartbeat for 3s"), "{fault}");
    job.nodes.clear();
    // The whole job is gone by now. What rank 2 says is not heard by anybody; what it reads ends with the verdict.
    let last = std::iter::from_fn(|| hear(&job.spokes[1])).last();
    assert_eq!(last, Some(Message::Verdict(fault)));
}

#[test]
fn a_failure_is_told_to_all_as_what_it_is_whoever_has_it() {
    for rank in [0, 2] {
        for (farewell, kind) in [
            (Farewell::Failed("disk\nfull".into()), FaultKind::Failed),
            (Farewell::Panicked("disk\nfull".into()), FaultKind::Panicked),
        ] {
            let job = Job::start(3, patient());
            job.begin_all(1);
            job.nodes[rank].control.leave(farewell);
            let fault = agreed(&job.nodes);
            assert_eq!(
                (fault.kind, culprits(&fault), &*fault.detail),
                (kind, vec![rank as u32], "disk full")
            );
        }
    }
}

#[test]
fn a_panic_that_drops_the_communicator_is_told_to_all() {
    let mut job = Job::start(3, patient());
    let node = job.nodes.remove(1);
    let panicked = thread::spawn(move || {
        let _node = node;
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    let fault = agreed(&job.nodes);
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Panicked, vec![1]));
}

#[test]
fn a_broken_connection_between_two_who_live_is_told_to_all() {
    let job = Job::start(3, patient());
    job.begin_all(3);
    let fault = job.nodes[1].control.suspect(Suspicion::LinkBroke { peer: 2, seq: 3, why: "reset".into() });
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::LinkLost, vec![1, 2]));
    assert!(fault.detail.contains("reset"), "{fault}");
    assert_eq!(agreed(&job.nodes), *fault);
}

#[test]
fn a_death_is_told_to_those_who_saw_only_their_connections_break() {
    let job = Job::start(4, patient());
    job.begin_all(3);
    let suspicion = || Suspicion::LinkBroke { peer: 2, seq: 3, why: "reset".into() };
    thread::scope(|scope| {
        let waiting = [0, 1, 3].map(|rank| &job.nodes[rank].control);
        let waiting = waiting.map(|control| scope.spawn(move || control.suspect(suspicion())));
        job.kill(2);
        for verdict in waiting {
            let fault = verdict.join().unwrap();
            assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Died, vec![2]));
        }
    });
}

#[test]
fn damaged_bytes_are_told_to_all() {
    let job = Job::start(3, patient());
    job.begin_all(3);
    let fault = job.nodes[0].control.suspect(Suspicion::Corrupt { peer: 1, seq: 3, why: "crc".into() });
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Corrupt, vec![1]));
    assert_eq!(agreed(&job.nodes), *fault);
}

#[test]
fn a_disagreement_is_told_to_all_with_what_each_called() {
    let expected = "ranks 0, 1, 3: all-reduce (mean) of 64 f32, bucket 2; rank 2: barrier";
    for reported in [true, false] {
        let job = Job::start(4, patient());
        for (rank, node) in job.nodes.iter().enumerate() {
            node.begin(5, if rank == 2 { 2 } else { 1 });
        }
        if reported {
            let (peer, seq, peer_seq) = (2, 5, 5);
            let (fingerprint, peer_fingerprint) = (1, 2);
            let frame = Suspicion::Mismatch { peer, seq, fingerprint, peer_seq, peer_fingerprint };
            job.nodes[3].control.suspect(frame);
        }
        let fault = agreed(&job.nodes);
        assert_eq!((fault.kind, culprits(&fault), &*fault.detail), (FaultKind::Mismatch, vec![2], expected));
    }
}

#[test]
fn who_misses_the_deadline_is_told_to_all() {
    let job = Job::start(4, patient());
    job.begin_all(4);
    job.nodes.iter().for_each(|node| node.flight.end());
    job.nodes[..3].iter().for_each(|node| node.begin(5, 1));
    let fault =
        job.nodes[1].control.suspect(Suspicion::Deadline { seq: 5, waiting_for: vec![0], received: 2 });
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Stalled, vec![3]));
    assert!(fault.detail.ends_with("rank 3 is in no operation, its last was 4"), "{fault}");
    assert_eq!(agreed(&job.nodes), *fault);
}

#[test]
fn who_leaves_early_is_told_to_the_others() {
    let job = Job::start(3, patient());
    job.begin_all(1);
    job.nodes.iter().for_each(|node| node.flight.end());
    job.nodes[1].control.leave(Farewell::Done);
    assert_eq!(job.nodes[0].control.fault(), None);
    job.nodes[2].begin(2, 1);
    let fault = agreed([&job.nodes[0], &job.nodes[2]]);
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Left, vec![1]));
    assert_eq!(job.nodes[1].control.fault(), None);
    job.kill(1);
}

#[test]
fn a_wait_is_reported_on_all_ranks_and_is_no_fault() {
    let job = Job::start(3, Timeouts { stall_report: Duration::from_millis(100), ..patient() });
    job.nodes[..2].iter().for_each(|node| node.begin(1, 1));
    for node in &job.nodes {
        for _ in 0..2 {
            let stall = node.stalls.recv_timeout(FOREVER).unwrap();
            assert_eq!((stall.op.seq, stall.missing), (1, vec![fault::who(&roster(3), 2)]));
            assert!(stall.waited >= Duration::from_millis(100));
            assert_eq!(stall.standings, "rank 2 has called no operation yet");
        }
    }
    for node in &job.nodes {
        assert_eq!(node.control.fault(), None);
    }
    job.nodes[2].begin(1, 1);
    job.nodes.iter().for_each(|node| node.flight.end());
}

#[test]
fn a_normal_end_in_any_order_is_no_fault() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut job = Job::start(3, patient());
        job.begin_all(1);
        job.nodes.iter().for_each(|node| node.flight.end());
        for rank in order {
            job.nodes[rank].control.leave(Farewell::Done);
        }
        // Nobody waited for a time limit.
        assert!(job.nodes.iter().all(|node| node.control.mailbox.is_over()));
        job.nodes.drain(..).for_each(|node| assert_eq!(node.control.fault(), None, "{order:?}"));
    }
}

#[test]
fn a_job_of_one_ends() {
    let job = Job::start(1, patient());
    job.begin_all(1);
    job.nodes[0].control.leave(Farewell::Done);
    job.nodes[0].control.leave(Farewell::Done);
    assert_eq!(job.nodes[0].control.fault(), None);
}

#[test]
fn rank_0_stays_while_others_are_in_its_last_operation() {
    let job = Job::start(3, patient());
    job.begin_all(1);
    job.nodes[0].flight.end();
    thread::scope(|scope| {
        let control = &job.nodes[0].control;
        let leaving = scope.spawn(|| control.leave(Farewell::Done));
        job.nodes[2].control.leave(Farewell::Failed("disk full".into()));
        let fault = agreed(&job.nodes);
        assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Failed, vec![2]));
        leaving.join().unwrap();
    });
}

#[test]
fn once_rank_0_has_left_the_others_judge_alone() {
    let job = Job::start(4, patient());
    job.begin_all(1);
    job.nodes.iter().for_each(|node| node.flight.end());
    job.nodes[0].control.leave(Farewell::Done);
    assert_eq!(job.nodes[1].control.fault(), None);
    // Two go on as if rank 0 were there; one ends.
    job.nodes[1..3].iter().for_each(|node| node.begin(2, 1));
    let fault = agreed([&job.nodes[1], &job.nodes[2]]);
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Left, vec![0]));
    let fault = job.nodes[3].control.suspect(Suspicion::LinkBroke { peer: 2, seq: 1, why: "reset".into() });
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::LinkLost, vec![3, 2]));
}

#[test]
fn a_report_that_rank_0_did_not_answer_before_it_left_is_decided_all_the_same() {
    let (nodes, hub) = without_main(patient());
    nodes[0].begin(6, 1);
    say(&hub[0], &Message::Left { last_seq: 6 });
    thread::scope(|scope| {
        let control = &nodes[0].control;
        let why = "reset".to_string();
        let waiting = scope.spawn(move || control.suspect(Suspicion::LinkBroke { peer: 2, seq: 6, why }));
        let reported =
            std::iter::from_fn(|| hear(&hub[0])).any(|message| matches!(message, Message::Suspect(_)));
        assert!(reported);
        hub[0].shutdown(Shutdown::Both).unwrap();
        let fault = waiting.join().unwrap();
        assert_eq!((fault.kind, culprits(&fault)), (FaultKind::LinkLost, vec![1, 2]));
    });
}

#[test]
fn the_death_of_rank_0_is_seen_alike_by_all() {
    let (nodes, hub) = without_main(patient());
    nodes.iter().for_each(|node| node.begin(6, 1));
    drop(hub);
    let fault = agreed(&nodes);
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Died, vec![0]));
    assert_eq!(fault.op.unwrap().seq, 6);
}

#[test]
fn the_silence_of_rank_0_is_seen_alike_by_all_and_by_itself_when_it_wakes() {
    let (nodes, hub) = without_main(impatient());
    hub.iter().for_each(|connection| say(connection, &Message::Heartbeat(Default::default())));
    nodes.iter().for_each(|node| node.begin(6, 1));
    let waiting = nodes[1].control.suspect(Suspicion::LinkBroke { peer: 0, seq: 6, why: "reset".into() });
    let fault = agreed(&nodes);
    assert_eq!(*waiting, fault);
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Silent, vec![0]));
    for connection in &hub {
        let last = std::iter::from_fn(|| hear(connection)).last();
        assert_eq!(last, Some(Message::Verdict(fault.clone())));
    }
    // That is what the real one makes of it.
    let job = Job::without(4, patient(), &[3]);
    say(&job.spokes[2], &Message::Verdict(fault.clone()));
    assert_eq!(agreed(&job.nodes), fault);
    job.kill(3);
}

#[test]
fn heartbeats_go_both_ways_and_say_where_a_rank_stands() {
    let (nodes, hub) = without_main(patient());
    nodes[0].begin(6, 1);
    let stands =
        |message: &Message| matches!(message, Message::Heartbeat(standing) if standing.now.is_some());
    assert_eq!(std::iter::from_fn(|| hear(&hub[0])).filter(stands).take(5).count(), 5);
    let job = Job::without(2, patient(), &[1]);
    job.begin_all(6);
    assert_eq!(std::iter::from_fn(|| hear(&job.spokes[0])).filter(stands).take(5).count(), 5);
    job.kill(1);
}

#[test]
fn nonsense_is_bounded_and_its_sender_named() {
    let oversize = [&((message::MAX_REPORT_BYTES + 1) as u32).to_le_bytes()[..], b"{"].concat();
    let garbage = [&4u32.to_le_bytes()[..], b"nuts"].concat();
    let not_his = Message::Query { seq: 1 }.frame().to_vec();
    let slander =
        Message::Suspect(Suspicion::LinkBroke { peer: 99, seq: 1, why: String::new() }).frame().to_vec();
    for bytes in [oversize, garbage, not_his, slander, b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let job = Job::without(4, patient(), &[2]);
        (&job.spokes[1]).write_all(&bytes).unwrap();
        let fault = agreed(&job.nodes);
        assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Corrupt, vec![2]), "{fault}");
        job.kill(2);
    }
}

#[test]
fn a_flood_is_bounded_and_its_sender_named() {
    let job = Job::without(4, patient(), &[2]);
    let frames: Vec<u8> = (0..1000).flat_map(|_| Message::Heard.frame().to_vec()).collect();
    // Until the hub has had enough and hangs up.
    let flood = |mut to: &TcpStream| while to.write_all(&frames).is_ok() {};
    thread::scope(|scope| {
        let connection = &job.spokes[1];
        scope.spawn(move || flood(connection));
        let fault = agreed(&job.nodes);
        assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Failed, vec![2]));
        assert!(fault.detail.contains("more than 1000 control messages"), "{fault}");
    });
}

#[test]
fn sixty_four_ranks_are_told_the_same() {
    let job = Job::start(64, Timeouts { heartbeat: Duration::from_millis(200), ..patient() });
    job.begin_all(1);
    let broke = |rank: u32| Suspicion::LinkBroke { peer: (rank + 1) % 64, seq: 1, why: "reset".into() };
    thread::scope(|scope| {
        // All report at once; one of them is the cause.
        let others = job.nodes.iter().map(|node| &node.control).zip(0..).filter(|(_, rank)| *rank != 40);
        let waiting: Vec<_> =
            others.map(|(control, rank)| scope.spawn(move || control.suspect(broke(rank)))).collect();
        job.nodes[40].control.leave(Farewell::Failed("disk full".into()));
        for verdict in waiting {
            verdict.join().unwrap();
        }
    });
    let fault = agreed(&job.nodes);
    assert_eq!((fault.kind, culprits(&fault)), (FaultKind::Failed, vec![40]));
}
