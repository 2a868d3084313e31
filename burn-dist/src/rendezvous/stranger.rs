//! What one connection has said so far, on the answering side: hello, proof, join. Takes exactly as many bytes as the
//! next message has, so that what follows the last one stays with the connection.

use std::io::{self, IoSlice};

use super::{
    complaint::Complaint,
    hello::{BadHello, CHALLENGE_BYTES, Challenge, HELLO_BYTES, Hello, Purpose, Verdict},
    message::MAX_JOIN_BYTES,
    proof::{MAC_BYTES, Side, Transcript, random},
    reception::Expecting,
    security::Security,
};
use crate::{
    transport::{Pipe, poll::is_for_later},
    wire::envelope,
};

/// Somebody at the other end of a connection.
pub(super) struct Stranger {
    stage: Stage,
    /// The message that comes; as long as it has to be.
    inbox: Vec<u8>,
    filled: usize,
    outbox: Vec<u8>,
}

enum Stage {
    Hello,
    Proof {
        hello: Hello,
        said: [u8; HELLO_BYTES],
        challenge: [u8; CHALLENGE_BYTES],
    },
    JoinLength(Hello),
    Join(Hello),
    /// Nothing more comes from it; the last words go out.
    Admitted(Hello),
    Refused(Complaint),
}

/// How it stands.
pub(super) enum Next {
    /// More has to come, or to go.
    Waits { proved_now: bool },
    /// It said all that it has to.
    Arrived(Hello, Vec<u8>),
}

impl Stranger {
    pub(super) fn new() -> Self {
        Self { stage: Stage::Hello, inbox: vec![0; HELLO_BYTES], filled: 0, outbox: Vec::new() }
    }

    /// Whether something is to be said to it.
    pub(super) fn has_words(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether it knows the secret.
    pub(super) fn has_proved(&self) -> bool {
        matches!(self.stage, Stage::JoinLength(_) | Stage::Join(_) | Stage::Admitted(_))
    }

    /// What to say of it when its time is over.
    pub(super) fn late(&self) -> Complaint {
        match &self.stage {
            Stage::Hello if self.filled == 0 => Complaint::Silent,
            Stage::Refused(complaint) => complaint.clone(),
            _ => Complaint::Slow,
        }
    }

    /// Says and takes what is possible without waiting.
    pub(super) fn go_on(
        &mut self,
        pipe: &mut dyn Pipe,
        security: &Security,
        expecting: &Expecting,
    ) -> Result<Next, Complaint> {
        let proved_before = self.has_proved();
        loop {
            let waits = !self.say(pipe)?;
            match &self.stage {
                _ if waits => break,
                Stage::Admitted(hello) => return Ok(Next::Arrived(*hello, std::mem::take(&mut self.inbox))),
                Stage::Refused(complaint) => return Err(complaint.clone()),
                _ => {}
            }
            if !self.fill(pipe)? {
                break;
            }
            self.take(security, expecting)?;
        }
        Ok(Next::Waits { proved_now: self.has_proved() && !proved_before })
    }

    /// Whether everything has been said.
    fn say(&mut self, pipe: &mut dyn Pipe) -> Result<bool, Complaint> {
        while !self.outbox.is_empty() {
            match pipe.write(&[IoSlice::new(&self.outbox)]) {
                Ok(0) => return Err(Complaint::Closed),
                Ok(written) => drop(self.outbox.drain(..written)),
                Err(error) if is_for_later(&error) => return Ok(false),
                Err(error) => return Err(broken(&error)),
            }
        }
        match pipe.flush() {
            Ok(()) => Ok(true),
            // The handshake of TLS needs reading too; only last words have to be out before anything else.
            Err(error) if is_for_later(&error) => {
                Ok(!matches!(self.stage, Stage::Admitted(_) | Stage::Refused(_)))
            }
            Err(error) => Err(broken(&error)),
        }
    }

    /// Whether the next message is there.
    fn fill(&mut self, pipe: &mut dyn Pipe) -> Result<bool, Complaint> {
        while self.filled < self.inbox.len() {
            match pipe.read(&mut self.inbox[self.filled..]) {
                Ok(0) => return Err(Complaint::Closed),
                Ok(read) => self.filled += read,
                Err(error) if is_for_later(&error) => return Ok(false),
                Err(error) => return Err(broken(&error)),
            }
            // Somebody who does not speak this protocol is told by its first bytes.
            if matches!(self.stage, Stage::Hello) {
                Hello::check_beginning(&self.inbox[..self.filled]).map_err(Complaint::Stranger)?;
            }
        }
        Ok(true)
    }

    /// Deals with a message that is complete.
    fn take(&mut self, security: &Security, expecting: &Expecting) -> Result<(), Complaint> {
        match std::mem::replace(&mut self.stage, Stage::Hello) {
            Stage::Hello => {
                let Ok(said) = <[u8; HELLO_BYTES]>::try_from(self.inbox.as_slice()) else {
                    return Err(Complaint::Stranger(BadHello::Field));
                };
                let nonce = random().map_err(|error| Complaint::Broken(error.to_string()))?;
                let challenge = Challenge { nonce }.encode();
                self.outbox = challenge.to_vec();
                match Hello::decode(&said) {
                    Ok(hello) if hello.purpose == expecting.purpose => {
                        self.stage = Stage::Proof { hello, said, challenge };
                        self.expect(MAC_BYTES);
                    }
                    Ok(_) => return Err(Complaint::Stranger(BadHello::Field)),
                    // It learns our version from the challenge.
                    Err(bad @ BadHello::Version(_)) => self.stage = Stage::Refused(Complaint::Stranger(bad)),
                    Err(bad) => return Err(Complaint::Stranger(bad)),
                }
            }
            Stage::Proof { hello, said, challenge } => {
                let transcript =
                    Transcript { hello: &said, challenge: &challenge, session: &expecting.session };
                if transcript.verify(&security.key, Side::Dialling, &self.inbox) {
                    let proof = transcript.prove(&security.key, Side::Answering);
                    self.outbox = Verdict::Accepted(proof).encode().to_vec();
                    match hello.purpose {
                        Purpose::Control => {
                            self.stage = Stage::JoinLength(hello);
                            self.expect(4);
                        }
                        Purpose::Data => {
                            self.stage = Stage::Admitted(hello);
                            self.expect(0);
                        }
                    }
                } else {
                    self.outbox = Verdict::NotProved.encode().to_vec();
                    self.stage = Stage::Refused(Complaint::NotProved { rank: hello.rank });
                }
            }
            Stage::JoinLength(hello) => {
                let prefix = <[u8; 4]>::try_from(self.inbox.as_slice()).unwrap_or([u8::MAX; 4]);
                let length = envelope::body_length(prefix, MAX_JOIN_BYTES).ok_or_else(|| {
                    Complaint::Broken(format!("a join message longer than {MAX_JOIN_BYTES} bytes"))
                })?;
                self.stage = Stage::Join(hello);
                self.expect(length);
            }
            Stage::Join(hello) => {
                let broken = |why| Complaint::Broken(format!("of rank {}: {why}", hello.rank));
                self.inbox = envelope::open(&self.inbox).map_err(broken)?.to_vec();
                self.stage = Stage::Admitted(hello);
            }
            Stage::Admitted(hello) => self.stage = Stage::Admitted(hello),
            Stage::Refused(complaint) => self.stage = Stage::Refused(complaint),
        }
        Ok(())
    }

    fn expect(&mut self, bytes: usize) {
        self.inbox = vec![0; bytes];
        self.filled = 0;
    }
}

fn broken(error: &io::Error) -> Complaint {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Complaint::Closed
        }
        _ => Complaint::Broken(error.to_string()),
    }
}
