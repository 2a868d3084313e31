//! Jobs that do not form say everything that is wrong, to everybody; ghosts of other starts are told apart.

use std::net::TcpStream;

use super::*;
use crate::wire::envelope;

/// What all of `ranks` are told; rank 0 first. Everybody must be told the same.
fn told(ranks: Vec<(Identity, Config)>) -> String {
    let said = Said::default();
    let (listener, port) = listen();
    let mut listener = Some(listener);
    let errors: Vec<_> = thread::scope(|scope| {
        let ranks: Vec<_> = ranks
            .into_iter()
            .map(|(identity, config)| {
                let identity = Identity { master_port: port, ..identity };
                start(scope, identity, config, listener.take(), &said)
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap().err().unwrap().to_string()).collect()
    });
    assert!(errors.iter().all(|error| *error == errors[0]), "{errors:#?}");
    errors[0].clone()
}

fn rank(rank: u32, world_size: u32) -> (Identity, Config) {
    (identity(rank, world_size, 0), config())
}

#[test]
fn everything_wrong_is_said_at_once() {
    let mut other_settings = config();
    other_settings.agreed.streams = 7;
    other_settings.agreed.checksum = false;
    let error = told(vec![rank(0, 4), rank(1, 4), (identity(1, 4, 0), other_settings), rank(5, 8)]);
    let pid = std::process::id();
    for part in [
        "rank 5 on",
        "is out of range: the job has ranks 0 to 3",
        "rank 1 is there 2 times: process",
        "streams is 7 at rank 1 on",
        ", 4 at rank 0",
        "checksum is false at rank 1 on",
        "world size is 8 at rank 5 on",
        "of 4 ranks, [2, 3] did not come",
        &format!("(process {pid})"),
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains('\n'));
}

#[test]
fn those_who_do_not_come_are_named_at_the_deadline() {
    let short = Config {
        timeouts: Timeouts { startup: Duration::from_millis(300), ..Timeouts::default() },
        ..config()
    };
    let error = told(vec![(identity(0, 4, 0), short), rank(2, 4)]);
    assert!(error.contains("of 4 ranks, [1, 3] did not come within 300ms"), "{error}");
}

#[test]
fn rank_0_says_whom_it_waits_for() {
    let said = Said::default();
    let (listener, port) = listen();
    thread::scope(|scope| {
        let manner = Manner { report_every: Duration::from_millis(20), ..said.manner() };
        let main =
            scope.spawn(move || meet_in(&identity(0, 4, port), &config(), Some(listener), &manner).unwrap());
        let early = start(scope, identity(2, 4, port), config(), None, &said);
        let deadline = soon();
        while !said.all().contains("waiting for ranks [1, 3]: 2 of 4 have joined") {
            assert!(Instant::now() < deadline, "{}", said.all());
            thread::yield_now();
        }
        let others = [1, 3].map(|rank| start(scope, identity(rank, 4, port), config(), None, &said));
        drop((main.join().unwrap(), early.join().unwrap().unwrap()));
        others.into_iter().for_each(|other| drop(other.join().unwrap().unwrap()));
    });
}

#[test]
fn one_who_goes_away_may_come_again() {
    let said = Said::default();
    let (listener, port) = listen();
    thread::scope(|scope| {
        let main = start(scope, identity(0, 3, port), config(), Some(listener), &said);
        // Joins, and is gone: as a process that was killed.
        let security = security::Security::new(&config()).unwrap();
        let call = dial::Call {
            whom: "rank 0",
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            hello: hello::Hello {
                purpose: hello::Purpose::Control,
                stream: 0,
                rank: 1,
                to: 0,
                world_size: 3,
                generation: 3,
                nonce: [0; 32],
            },
            session: [0; 16],
            security: &security,
            manner: &said.manner(),
        };
        let patience = Patience::until(soon());
        let mut gone = call.make(patience).unwrap().pipe;
        let (data, _) = listen();
        let member = member(&identity(1, 3, port), &data).unwrap();
        let join = message::encode(&message::Join::new(3, 3, member, &config().agreed), 65536).unwrap();
        send(gone.as_mut(), &join, patience).unwrap();
        drop(gone);
        let others = [1, 2].map(|rank| start(scope, identity(rank, 3, port), config(), None, &said));
        let main = main.join().unwrap().unwrap();
        assert_eq!(main.roster.members.len(), 3);
        others.into_iter().for_each(|other| drop(other.join().unwrap().unwrap()));
    });
}

#[test]
fn ghosts_are_told_what_they_are() {
    let said = Said::default();
    let (listener, port) = listen();
    thread::scope(|scope| {
        let main = start(scope, identity(0, 2, port), config(), Some(listener), &said);
        // Before the job has formed, and after.
        let older = || Identity { generation: 2, ..identity(1, 2, port) };
        let refused = |identity: Identity, config: Config| {
            start(scope, identity, config, None, &said).join().unwrap().err().unwrap().to_string()
        };
        assert_eq!(refused(older(), config()), "generation 2 is over, this job is generation 3");
        let other = start(scope, identity(1, 2, port), config(), None, &said);
        let job = [main, other].map(|rank| rank.join().unwrap().unwrap());
        assert_eq!(refused(older(), config()), "generation 2 is over, this job is generation 3");
        let twin = refused(identity(1, 2, port), config());
        assert_eq!(twin, "the job has formed already, without this process as rank 1");
        // The next generation waits for this one to go.
        let newer = Identity { generation: 4, ..identity(1, 2, port) };
        let short = Config {
            timeouts: Timeouts { startup: Duration::from_millis(300), ..Timeouts::default() },
            ..config()
        };
        let error = refused(newer.clone(), short);
        assert!(
            error.contains("generation 3 of the job still has the port, generation 4 is to come"),
            "{error}"
        );
        let newer = start(scope, newer, config(), None, &said);
        drop(job);
        // On the same port, while the old connections are still in TIME_WAIT.
        let main = start(scope, Identity { generation: 4, ..identity(0, 2, port) }, config(), None, &said);
        let job = [main, newer].map(|rank| rank.join().unwrap().unwrap());
        assert_eq!(job[1].roster.generation, 4);
    });
}

#[test]
fn an_old_rank_0_gives_its_port_to_the_next_generation() {
    let said = Said::default();
    let (listener, port) = listen();
    thread::scope(|scope| {
        let old = start(scope, identity(0, 2, port), config(), Some(listener), &said);
        let next = [0, 1].map(|rank| {
            let identity = Identity { generation: 4, ..identity(rank, 2, port) };
            let rank = start(scope, identity, config(), None, &said);
            said.wait_for("where the others look for rank 0: Address already in use");
            rank
        });
        let error = old.join().unwrap().err().unwrap().to_string();
        assert!(error.contains("rank 1 of generation 4 came: this generation, 3, is over"), "{error}");
        next.into_iter().for_each(|rank| drop(rank.join().unwrap().unwrap()));
    });
}

#[test]
fn a_port_is_free_once_the_job_is_over() {
    let said = Said::default();
    let meetings = job(2, &config(), &said);
    assert!(meetings[0].door.is_some() && meetings[1].door.is_none());
    let ControlLinks::Spoke(pipe) = &meetings[1].control else { panic!("rank 1 has one control connection") };
    let port = pipe.shutter().unwrap().0.peer_addr().unwrap().port();
    drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
    drop(meetings);
    drop(TcpListener::bind(("127.0.0.1", port)).unwrap());
}

#[test]
fn a_port_in_use_is_named_at_the_deadline() {
    let (_taken, port) = listen();
    let short = Timeouts { startup: Duration::from_millis(300), ..Timeouts::default() };
    let said = Said::default();
    let result =
        meet_in(&identity(0, 2, port), &Config { timeouts: short, ..config() }, None, &said.manner());
    let error = result.err().unwrap().to_string();
    assert!(error.contains(&format!("cannot listen at 127.0.0.1:{port}")), "{error}");
    assert_eq!(said.all().matches("trying on").count(), 1, "{}", said.all());
}

#[test]
fn those_without_a_connection_are_named() {
    let said = Said::default();
    let mut meetings = job(3, &config(), &said);
    let _absent = meetings.remove(1);
    let deadline = Instant::now() + Duration::from_millis(300);
    let errors = each(meetings, |mut meeting| {
        let me = meeting.rank.index() as u32;
        let wanted: Vec<_> = (0..3)
            .filter(|peer| *peer != me)
            .flat_map(|peer| [0, 1].map(|stream| LinkId { peer, stream }))
            .collect();
        meeting.connect_links(&wanted, deadline).err().unwrap().to_string()
    });
    for error in errors {
        assert!(error.contains("rank 1 on ") && error.contains("2 missing"), "{error}");
        assert!(!error.contains("rank 2 on") && !error.contains("rank 0 on"), "{error}");
    }
}

#[test]
fn a_rank_that_dies_while_connecting_is_named_to_all() {
    let said = Said::default();
    let mut meetings = job(3, &config(), &said);
    drop(meetings.remove(1));
    let begin = Instant::now();
    let errors = each(meetings, |mut meeting| {
        let wanted = [LinkId { peer: 1, stream: 0 }];
        meeting.connect_links(&wanted, soon()).err().unwrap().to_string()
    });
    for error in errors {
        assert!(error.contains("rank 1 on ") && error.contains("went away"), "{error}");
    }
    assert!(begin.elapsed() < Duration::from_secs(30));
}

/// Rank 0 has connected and runs the job already; its verdict reaches one that still connects, behind heartbeats.
#[test]
fn a_verdict_reaches_a_rank_that_still_connects() {
    let said = Said::default();
    let mut meetings = job(3, &config(), &said);
    let mut last = meetings.pop().unwrap();
    let ControlLinks::Hub(mut links) = meetings.remove(0).control else { panic!("rank 0 has all others") };
    let mut say = |json: &str| {
        let frame = envelope::enclose(json.as_bytes(), 1000).unwrap();
        let patience = Patience::until(soon());
        send(links[1].1.as_mut(), &frame, patience).unwrap();
    };
    say(r#"{"Heartbeat":{"now":null,"last_seq":0}}"#);
    let who = r#"[{"rank":1,"host":"b"}]"#;
    say(&format!(r#"{{"Verdict":{{"kind":"died","culprits":{who},"op":null,"detail":"killed"}}}}"#));
    drop(links);
    let error = last.connect_links(&[LinkId { peer: 1, stream: 0 }], soon()).err().unwrap();
    assert_eq!(error.fault().expect("a verdict").to_string(), "rank 1 on b died: killed");
}
