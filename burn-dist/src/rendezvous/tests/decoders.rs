//! What comes from outside, mutated: an answer or an error, never a panic, never memory by its word. And what keeps
//! ranks from being a job, case by case.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::BorrowedFd,
};

use super::*;
use crate::{
    rendezvous::{
        gather::Joined,
        hello::{BadHello, CHALLENGE_BYTES, Challenge, HELLO_BYTES, Hello, PROTOCOL, Purpose, Verdict},
        message::{Answer, Join, MAX_JOIN_BYTES},
        proof::{Key, Side, Transcript},
        reception::Expecting,
        stranger::{Next, Stranger},
    },
    transport::{Shutter, simulated::Dice},
    wire::envelope,
};

/// A few bytes changed, cut out, doubled or added.
fn mutate(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..1 + dice.below(4) {
        let at = dice.below(out.len().max(1));
        match dice.below(5) {
            0 if !out.is_empty() => out[at] ^= 1 << dice.below(8),
            1 if !out.is_empty() => out[at] = dice.below(256) as u8,
            2 => out.truncate(at),
            3 => {
                let tail = out[at.min(out.len())..].to_vec();
                out.extend(tail);
            }
            _ => out.insert(at.min(out.len()), b"[]{}\":,\\-9e"[dice.below(11)]),
        }
    }
    out
}

fn hello() -> Hello {
    Hello {
        purpose: Purpose::Control,
        stream: 513,
        rank: 0x0102_0304,
        to: 5,
        world_size: 1 << 31,
        generation: 9,
        nonce: std::array::from_fn(|at| at as u8),
    }
}

fn join(rank: u32, host: &str) -> Join {
    let member = Member {
        rank,
        host: host.to_owned(),
        host_id: u64::MAX - 1,
        pid: 40_u32.wrapping_add(rank),
        data_addr: "10.0.0.7:99".parse().unwrap(),
    };
    Join::new(4, 3, member, &config().agreed)
}

fn from() -> SocketAddr {
    "10.0.0.7:5000".parse().unwrap()
}

#[test]
fn first_messages_come_back() {
    assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
    let data = Hello { purpose: Purpose::Data, ..hello() };
    assert_eq!(Hello::decode(&data.encode()), Ok(data));
    let challenge = Challenge { nonce: [3; 32] };
    assert_eq!(Challenge::decode(&challenge.encode()), Ok(challenge));
    for verdict in [Verdict::Accepted([7; 32]), Verdict::NotProved] {
        assert_eq!(Verdict::decode(&verdict.encode()), Ok(verdict));
    }
    let mut newer = hello().encode();
    newer[8] += 1;
    assert_eq!(Hello::decode(&newer), Err(BadHello::Version(PROTOCOL + 1)));
}

/// A bit of a hello that is flipped is refused, or it is another hello: nothing is ignored.
#[test]
fn every_bit_of_a_hello_counts() {
    for bit in 0..HELLO_BYTES * 8 {
        let mut bytes = hello().encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(decoded) = Hello::decode(&bytes) {
            assert_ne!(decoded, hello(), "bit {bit}");
            assert_eq!(decoded.encode(), bytes, "bit {bit}");
        }
    }
}

/// A proof holds for its words, its side and its secret alone.
#[test]
fn a_proof_is_good_once() {
    let (hello, challenge, session) = (hello().encode(), Challenge { nonce: [1; 32] }.encode(), [2; 16]);
    let transcript = Transcript { hello: &hello, challenge: &challenge, session: &session };
    let key = Key::new(b"k");
    let proof = transcript.prove(&key, Side::Dialling);
    assert!(transcript.verify(&key, Side::Dialling, &proof));
    assert!(!transcript.verify(&key, Side::Answering, &proof));
    assert!(!transcript.verify(&Key::new(b"l"), Side::Dialling, &proof));
    assert!(!transcript.verify(&key, Side::Dialling, &proof[..31]));
    for bit in 0..(HELLO_BYTES + CHALLENGE_BYTES + 16) * 8 {
        let (mut hello, mut challenge, mut session) = (hello, challenge, session);
        let byte = bit / 8;
        let all = hello.iter_mut().chain(&mut challenge).chain(&mut session);
        *all.into_iter().nth(byte).unwrap() ^= 1 << (bit % 8);
        let other = Transcript { hello: &hello, challenge: &challenge, session: &session };
        assert!(!other.verify(&key, Side::Dialling, &proof), "bit {bit}");
    }
}

#[test]
fn mutated_messages_are_no_trouble() {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let join_text = serde_json::to_vec(&join(1, "a\u{1b}[31m")).unwrap();
    assert_eq!(Join::decode(&join_text).unwrap().member.host, "a?[31m");
    let roster = Roster { generation: 1, session: [1; 16], members: vec![join(0, "a").member] };
    let answers = [Answer::Formed(roster), Answer::Refused { reason: "no".to_owned(), again: true }];
    let answers = answers.map(|answer| serde_json::to_vec(&answer).unwrap());
    let (mut num_good, mut num_bad) = (0, 0);
    for _ in 0..20_000 {
        match Join::decode(&mutate(&join_text, &mut dice)) {
            Ok(join) => {
                num_good += 1;
                assert!(join.member.host.len() <= 255 && !join.member.host.contains(char::is_control));
                let all = [Joined { join: &join, from: from() }];
                let main = self::join(0, "main");
                assert!(gather::problems(&main, &all).iter().all(|line| !line.contains('\n')));
                assert!(gather::missing(&main, &all).len() <= 3);
            }
            Err(_) => num_bad += 1,
        }
        for answer in &answers {
            let _ = message::decode::<Answer>(&mutate(answer, &mut dice));
        }
    }
    assert!(num_good > 100 && num_bad > 100, "{num_good} {num_bad}");
    // As deep as it gets.
    assert!(Join::decode(&b"[".repeat(MAX_JOIN_BYTES)).is_err());
    for length in [MAX_JOIN_BYTES as u32 + 1, u32::MAX, 1 << 31] {
        assert_eq!(envelope::body_length(length.to_le_bytes(), MAX_JOIN_BYTES), None);
    }
    assert_eq!(envelope::body_length([0, 0, 1, 0], MAX_JOIN_BYTES), Some(MAX_JOIN_BYTES));
}

/// A connection that brings given bytes in pieces, and takes a few at a time.
struct Played<'a> {
    brings: VecDeque<u8>,
    took: Vec<u8>,
    dice: &'a mut Dice,
}

impl Pipe for Played<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let num = self.dice.below(40).min(into.len()).min(self.brings.len());
        if num == 0 {
            return if self.brings.is_empty() { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        into.iter_mut().zip(self.brings.drain(..num)).for_each(|(into, byte)| *into = byte);
        Ok(num)
    }

    fn write(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let num = self.dice.below(30).min(from[0].len());
        if num == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.took.extend(&from[0][..num]);
        Ok(num)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn shutter(&self) -> Option<Shutter> {
        None
    }
}

/// Whole conversations with mutated words: nobody gets further than the proof, which nobody can know beforehand.
#[test]
fn no_stranger_talks_its_way_in() {
    let mut dice = Dice(88_172_645_463_325_252);
    let security = security::Security::new(&config()).unwrap();
    let expecting = Expecting { purpose: Purpose::Control, session: [0; 16] };
    let mut words = hello().encode().to_vec();
    words.extend([0; 32]);
    words.extend(message::encode(&join(1, "a"), MAX_JOIN_BYTES).unwrap());
    let mut num_challenged = 0;
    for round in 0..5_000 {
        let words = if round == 0 { words.clone() } else { mutate(&words, &mut dice) };
        let mut stranger = Stranger::new();
        let mut pipe = Played { brings: words.into(), took: Vec::new(), dice: &mut dice };
        let complaint = loop {
            match stranger.go_on(&mut pipe, &security, &expecting) {
                Ok(Next::Waits { .. }) => assert!(!stranger.has_proved()),
                Ok(Next::Arrived(..)) => panic!("let in without a proof"),
                Err(complaint) => break complaint,
            }
        };
        num_challenged += usize::from(pipe.took.len() >= CHALLENGE_BYTES);
        assert!(pipe.took.len() <= CHALLENGE_BYTES + 33, "{complaint}");
    }
    assert!(num_challenged > 1000, "{num_challenged}");
}

#[test]
fn every_disagreement_is_one_sentence() {
    let main = join(0, "main");
    let mut others: Vec<_> = (1..4).map(|rank| join(rank, "b")).collect();
    let check = |others: &[Join]| {
        let joined: Vec<_> = others.iter().map(|join| Joined { join, from: from() }).collect();
        (gather::problems(&main, &joined), gather::missing(&main, &joined))
    };
    assert_eq!(check(&others), (vec![], vec![]));
    others[0].version = "0.0.9".to_owned();
    others[1].agreed.insert("wire".to_owned(), "f16".into());
    others[2].agreed.insert("wire".to_owned(), "f16".into());
    others[2].agreed.insert("new\nfield".to_owned(), 1.into());
    others[2].agreed.remove("streams");
    others[0].member.data_addr = "127.0.0.1:9".parse().unwrap();
    let (problems, missing) = check(&others);
    assert_eq!(
        problems,
        [
            "new?field is 1 at rank 3 on b (process 43), unknown at rank 0".to_owned(),
            "streams is unknown at rank 3 on b (process 43), 1 at rank 0".to_owned(),
            format!(
                "version of burn-dist is 0.0.9 at rank 1 on b (process 41), {} at rank 0",
                env!("CARGO_PKG_VERSION")
            ),
            "wire is f16 at rank 2 on b (process 42), rank 3 on b (process 43), f32 at rank 0".to_owned(),
            "rank 1 on b (process 41) offers the address 127.0.0.1, which others cannot reach".to_owned(),
        ]
    );
    assert!(missing.is_empty());
    // A second rank 0, and ranks that are there twice or outside, leave others missing.
    let (problems, missing) = check(&[join(0, "c"), join(2, "d"), join(2, "e"), join(u32::MAX, "f")]);
    assert_eq!(
        problems,
        [
            "rank 4294967295 on f (process 39) is out of range: the job has ranks 0 to 3",
            "rank 0 is there 2 times: process 40 on main, process 40 on c",
            "rank 2 is there 2 times: process 42 on d, process 42 on e",
        ]
    );
    assert_eq!(missing, [1, 3]);
    assert_eq!(
        gather::list(&(0..20).collect::<Vec<_>>()),
        "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] and 4 more"
    );
}
