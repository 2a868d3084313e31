//! Strangers at every port while a job forms and while it runs: it neither fails nor waits for them. The time that one
//! who proved nothing may take is longer here than the whole test may: were it ever waited for, it would be seen.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::rendezvous::{
    hello::{CHALLENGE_BYTES, Challenge, HELLO_BYTES, Hello, Purpose, VERDICT_BYTES, Verdict},
    proof::{Key, Side, Transcript},
};

/// Longer than anything here takes if nobody waits for a stranger.
const NEVER: Duration = Duration::from_secs(100);
/// What a job takes at most: it needs milliseconds.
const NORMAL: Duration = Duration::from_secs(30);

fn patient(said: &Said) -> Manner {
    Manner { hello_timeout: NEVER, ..said.manner() }
}

fn call(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(NORMAL)).unwrap();
    stream
}

fn hello(purpose: Purpose) -> Hello {
    Hello { purpose, stream: 0, rank: 2, to: 0, world_size: 3, generation: 3, nonce: [7; 32] }
}

/// Everything that the other side still says; it must end by itself.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut out = Vec::new();
    match stream.read_to_end(&mut out) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
            panic!("it does not end: {error}")
        }
        _ => out,
    }
}

fn challenge(stream: &mut TcpStream, hello: &[u8; HELLO_BYTES]) -> [u8; CHALLENGE_BYTES] {
    stream.write_all(hello).unwrap();
    let mut challenge = [0; CHALLENGE_BYTES];
    stream.read_exact(&mut challenge).unwrap();
    Challenge::decode(&challenge).unwrap();
    challenge
}

fn verdict(stream: &mut TcpStream, proof: &[u8]) -> Verdict {
    stream.write_all(proof).unwrap();
    let mut verdict = [0; VERDICT_BYTES];
    stream.read_exact(&mut verdict).unwrap();
    Verdict::decode(&verdict).unwrap()
}

/// All that need not be awaited, at one port. What it returns is to be kept for as long as they shall be there.
fn crowd(port: u16, purpose: Purpose, num_silent: usize) -> Vec<TcpStream> {
    let silent: Vec<_> = (0..num_silent).map(|_| call(port)).collect();

    // Those who speak something else are sent away at once.
    let client_hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let noise: Vec<u8> = (0..4096_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for words in [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice(), client_hello, &noise, b"B?"] {
        let mut stream = call(port);
        // It may be closed before all is written.
        let _ = stream.write_all(words);
        assert_eq!(rest(stream), b"");
    }

    // Another version learns ours.
    let mut stream = call(port);
    let mut newer = hello(purpose).encode();
    newer[8] = 9;
    let _ = challenge(&mut stream, &newer);
    assert_eq!(rest(stream), b"");

    // Another secret, a proof sent back, and one that was good on another connection.
    let said = hello(purpose).encode();
    let (ours, theirs) = (Key::new(b"known to all"), Key::new(b"guessed"));
    let mut stream = call(port);
    let fresh = challenge(&mut stream, &said);
    let transcript = Transcript { hello: &said, challenge: &fresh, session: &[0; 16] };
    assert_eq!(verdict(&mut stream, &transcript.prove(&theirs, Side::Dialling)), Verdict::NotProved);
    assert_eq!(rest(stream), b"");
    let mut stream = call(port);
    let again = challenge(&mut stream, &said);
    let stale = transcript.prove(&ours, Side::Dialling);
    assert_ne!(again, fresh);
    assert_eq!(verdict(&mut stream, &stale), Verdict::NotProved);
    let mut stream = call(port);
    let fresh = challenge(&mut stream, &said);
    let transcript = Transcript { hello: &said, challenge: &fresh, session: &[0; 16] };
    assert_eq!(verdict(&mut stream, &transcript.prove(&ours, Side::Answering)), Verdict::NotProved);
    silent
}

/// Says the right thing, too slowly, until `over`.
fn dribble(port: u16, over: &AtomicBool) {
    let mut stream = call(port);
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    for byte in hello(Purpose::Control).encode() {
        if over.load(Ordering::Relaxed) || stream.write_all(&[byte]).is_err() {
            return;
        }
        let _ = stream.read(&mut [0; 1]);
    }
}

#[test]
fn a_job_forms_among_strangers() {
    let said = Said::default();
    let (listener, port) = listen();
    let over = AtomicBool::new(false);
    let meetings: Vec<_> = thread::scope(|scope| {
        let start = |rank: u32, listener| {
            let manner = patient(&said);
            scope.spawn(move || meet_in(&identity(rank, 3, port), &config(), listener, &manner).unwrap())
        };
        let main = start(0, Some(listener));
        scope.spawn(|| dribble(port, &over));
        let silent = crowd(port, Purpose::Control, 200);
        let begin = Instant::now();
        let others = [start(1, None), start(2, None)];
        let ranks: Vec<_> = [main].into_iter().chain(others).map(|rank| rank.join().unwrap()).collect();
        assert!(begin.elapsed() < NORMAL);
        over.store(true, Ordering::Relaxed);
        drop(silent);
        ranks
    });
    // Once of a kind, and the secrets are nowhere.
    let lines = said.all();
    for (kind, times) in [("another secret", 1), ("does not speak this protocol", 1), ("version 9", 1)] {
        assert!(lines.matches(kind).count() <= times, "{lines}");
    }
    assert!(lines.contains("it says to be rank 2 but has another secret"), "{lines}");

    // The same at the data ports, while connections are made.
    let ports: Vec<_> = meetings[0].roster.members.iter().map(|member| member.data_addr.port()).collect();
    let silent: Vec<Vec<_>> = ports.iter().map(|port| (0..60).map(|_| call(*port)).collect()).collect();
    let begin = Instant::now();
    thread::scope(|scope| {
        // Rank 2 comes late: until then the others' ports are open.
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let mut gone = Some(gone);
        let ranks: Vec<_> = meetings
            .into_iter()
            .map(|mut meeting| {
                let gone = if meeting.rank.index() == 2 { gone.take() } else { None };
                scope.spawn(move || {
                    let _ = gone.map(|gone| gone.recv());
                    let me = meeting.rank.index() as u32;
                    let wanted: Vec<_> =
                        (0..3).filter(|peer| *peer != me).map(|peer| LinkId { peer, stream: 0 }).collect();
                    let links = meeting.connect_links(&wanted, soon()).unwrap();
                    assert_eq!(links.len(), 2);
                    (meeting, links)
                })
            })
            .collect();
        let more: Vec<_> = ports[..2].iter().map(|port| crowd(*port, Purpose::Data, 140)).collect();
        drop(go);
        let connected: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        assert!(begin.elapsed() < NORMAL);
        // The data ports are closed now, the crowd is gone; and rank 0's own port still turns strangers away.
        for port in &ports {
            assert!(TcpStream::connect(("127.0.0.1", *port)).is_err());
        }
        more.into_iter().flatten().for_each(|stream| assert_eq!(rest(stream), b""));
        drop(crowd(port, Purpose::Control, 50));
        drop(connected);
    });
    drop(silent);
}

#[test]
fn the_oldest_of_too_many_silent_ones_gives_way() {
    let said = Said::default();
    let (listener, port) = listen();
    thread::scope(|scope| {
        let manner = patient(&said);
        let main =
            scope.spawn(move || meet_in(&identity(0, 2, port), &config(), Some(listener), &manner).unwrap());
        let mut silent: Vec<_> = (0..crate::limits::MAX_UNPROVED + 20).map(|_| call(port)).collect();
        // The first ones end although nobody's time is over.
        let rest_of = silent.split_off(20);
        silent.into_iter().for_each(|stream| assert_eq!(rest(stream), b""));
        let begin = Instant::now();
        let manner = patient(&said);
        let other = scope.spawn(move || meet_in(&identity(1, 2, port), &config(), None, &manner).unwrap());
        drop((main.join().unwrap(), other.join().unwrap()));
        assert!(begin.elapsed() < NORMAL);
        drop(rest_of);
    });
}

#[test]
fn silent_ones_are_not_kept_for_long() {
    let said = Said::default();
    let (listener, port) = listen();
    thread::scope(|scope| {
        let manner = Manner { hello_timeout: Duration::from_millis(50), ..said.manner() };
        let main =
            scope.spawn(move || meet_in(&identity(0, 2, port), &config(), Some(listener), &manner).unwrap());
        assert_eq!(rest(call(port)), b"");
        let mut half = call(port);
        half.write_all(&hello(Purpose::Control).encode()[..30]).unwrap();
        assert_eq!(rest(half), b"");
        let manner = said.manner();
        let other = scope.spawn(move || meet_in(&identity(1, 2, port), &config(), None, &manner).unwrap());
        drop((main.join().unwrap(), other.join().unwrap()));
    });
    assert!(said.all().contains("it said nothing in time"), "{}", said.all());
    assert!(said.all().contains("it did not come to an end in time"), "{}", said.all());
}

/// A rank with another secret is told so; the job waits for the right one.
#[test]
fn a_wrong_secret_is_told_to_who_has_it() {
    let said = Said::default();
    let (listener, port) = listen();
    thread::scope(|scope| {
        let main = start(scope, identity(0, 2, port), config(), Some(listener), &said);
        let wrong = Config { trust: Trust::Secret(b"guessed".to_vec()), ..config() };
        let error = start(scope, identity(1, 2, port), wrong, None, &said).join().unwrap().err().unwrap();
        assert!(error.to_string().contains("it has another secret"), "{error}");
        let other = start(scope, identity(1, 2, port), config(), None, &said);
        drop((main.join().unwrap().unwrap(), other.join().unwrap().unwrap()));
    });
    assert_eq!(said.all().matches("has another secret").count(), 1);
}

/// Somebody at rank 0's port who does not have the secret: sends our proof back, or invents one.
#[test]
fn a_false_rank_0_is_found_out() {
    for reflects in [true, false] {
        let (listener, port) = listen();
        let said = Said::default();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut hello, mut proof) = ([0; HELLO_BYTES], [0; 32]);
                stream.read_exact(&mut hello).unwrap();
                stream.write_all(&Challenge { nonce: [1; 32] }.encode()).unwrap();
                stream.read_exact(&mut proof).unwrap();
                let proof = if reflects { proof } else { [0; 32] };
                stream.write_all(&Verdict::Accepted(proof).encode()).unwrap();
                assert_eq!(rest(stream), b"");
            });
            let error =
                start(scope, identity(1, 2, port), config(), None, &said).join().unwrap().err().unwrap();
            assert!(error.to_string().contains("could not prove to have the secret"), "{error}");
        });
    }
}

/// One who has the secret, but announces more than a join message may have.
#[test]
fn no_length_takes_memory() {
    let said = Said::default();
    let (listener, port) = listen();
    thread::scope(|scope| {
        let main = start(scope, identity(0, 2, port), config(), Some(listener), &said);
        let mut stream = call(port);
        let said_hello = hello(Purpose::Control).encode();
        let fresh = challenge(&mut stream, &said_hello);
        let transcript = Transcript { hello: &said_hello, challenge: &fresh, session: &[0; 16] };
        let proof = transcript.prove(&Key::new(b"known to all"), Side::Dialling);
        assert!(matches!(verdict(&mut stream, &proof), Verdict::Accepted(_)));
        stream.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert_eq!(rest(stream), b"");
        let other = start(scope, identity(1, 2, port), config(), None, &said);
        drop((main.join().unwrap().unwrap(), other.join().unwrap().unwrap()));
    });
    assert!(said.all().contains("longer than 65536 bytes"), "{}", said.all());
}

#[test]
fn without_a_secret_only_loopback_is_used() {
    let open = Config { trust: Trust::LoopbackOnly, ..config() };
    let address: SocketAddr = "10.1.2.3:1".parse().unwrap();
    let error = security::check_reach(&open, address.ip()).unwrap_err().to_string();
    for way_out in ["BURN_DIST_SECRET_FILE", "BURN_DIST_TLS_CA", "BURN_DIST_INSECURE=1"] {
        assert!(error.contains(way_out), "{error}");
    }
    // Both sides refuse before a byte goes out: nobody is there, and they do not even try.
    for rank in [0, 1] {
        let identity = Identity { master_addr: "10.1.2.3".to_owned(), ..identity(rank, 2, 9) };
        let begin = Instant::now();
        let result = meet_in(&identity, &open, None, &Said::default().manner());
        assert!(matches!(result, Err(DistError::Config(_) | DistError::Rendezvous(_))));
        if rank == 1 {
            assert!(matches!(result, Err(DistError::Config(_))));
        }
        assert!(begin.elapsed() < NORMAL);
    }
    security::check_reach(&config(), address.ip()).unwrap();
    security::check_reach(&Config { trust: Trust::Insecure, ..open }, address.ip()).unwrap();
}
