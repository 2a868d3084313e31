//! The dialling side: reaches another rank, proves itself and has the other prove itself.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::{
    Manner,
    hello::{BadHello, CHALLENGE_BYTES, Challenge, Hello, PROTOCOL, VERDICT_BYTES, Verdict},
    proof::{Side, Transcript, random},
    security::Security,
};
use crate::{
    error::DistError,
    transport::{
        Pipe,
        talk::{Patience, receive, send},
    },
};

/// How long one attempt to reach an address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Waits between attempts: doubled from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Why a call did not get through.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt may.
    Passing(String),
    /// None will.
    Lasting(DistError),
}

/// Whom to call, as whom.
pub(super) struct Call<'a> {
    /// In words, for messages: `rank 0`.
    pub(super) whom: &'a str,
    pub(super) address: SocketAddr,
    /// Its nonce is drawn anew.
    pub(super) hello: Hello,
    pub(super) session: [u8; 16],
    pub(super) security: &'a Security,
    pub(super) manner: &'a Manner,
}

/// A connection whose other side is proved, and the address that this side has on it.
pub(super) struct Connected {
    pub(super) pipe: Box<dyn Pipe>,
    pub(super) local: SocketAddr,
}

impl Call<'_> {
    /// Calls once.
    pub(super) fn make(&self, patience: Patience<'_>) -> Result<Connected, Failure> {
        let Self { address, security, manner, session, .. } = self;
        let limit = patience.left().min(CONNECT_TIMEOUT);
        if limit.is_zero() {
            return Err(self.passing("there was no time left"));
        }
        let stream = TcpStream::connect_timeout(address, limit).map_err(|error| self.passing(error))?;
        let local = stream.local_addr().map_err(|error| self.passing(error))?;
        // Nobody listens, and the system gave this side the very port that it called (RFC 9293, simultaneous open).
        if local == *address {
            return Err(self.passing("connection refused"));
        }
        let mut pipe = security.dial(stream).map_err(|error| self.passing(error))?;
        let pipe_ref = pipe.as_mut();

        let hello = Hello { nonce: random().map_err(Failure::Lasting)?, ..self.hello }.encode();
        let soon = patience.at_most(manner.hello_timeout);
        let mut challenge = [0; CHALLENGE_BYTES];
        send(pipe_ref, &hello, soon).map_err(|error| self.broke(error))?;
        // Somebody else may say less than we expect, and go: a web server, a side that uses TLS.
        let (beginning, rest) = challenge.split_at_mut(2);
        receive(pipe_ref, beginning, soon).map_err(|error| self.broke(error))?;
        Hello::check_beginning(beginning).map_err(|bad| self.lasting(stranger(bad)))?;
        receive(pipe_ref, rest, soon).map_err(|error| self.broke(error))?;
        Challenge::decode(&challenge).map_err(|bad| self.lasting(stranger(bad)))?;

        let transcript = Transcript { hello: &hello, challenge: &challenge, session };
        let mut verdict = [0; VERDICT_BYTES];
        send(pipe_ref, &transcript.prove(&security.key, Side::Dialling), soon)
            .map_err(|error| self.broke(error))?;
        // From here on the other side may count on this connection: only its end, not impatience, gives it up.
        receive(pipe_ref, &mut verdict, patience).map_err(|error| self.broke(error))?;
        match Verdict::decode(&verdict) {
            Ok(Verdict::Accepted(proof)) if transcript.verify(&security.key, Side::Answering, &proof) => {
                Ok(Connected { pipe, local })
            }
            Ok(Verdict::Accepted(_)) => Err(self.lasting("it could not prove to have the secret of this job")),
            Ok(Verdict::NotProved) => Err(self.lasting(
                "it did not accept our proof: it has another secret, or belongs to another job; give all ranks the \
                 same secret",
            )),
            Err(bad) => Err(self.lasting(stranger(bad))),
        }
    }

    fn passing(&self, why: impl std::fmt::Display) -> Failure {
        Failure::Passing(format!("{} at {}: {why}", self.whom, self.address))
    }

    fn lasting(&self, why: impl std::fmt::Display) -> Failure {
        Failure::Lasting(DistError::rendezvous(format!("{} at {}: {why}", self.whom, self.address)))
    }

    fn broke(&self, error: io::Error) -> Failure {
        match error.kind() {
            // What TLS says about the other side does not change by itself.
            io::ErrorKind::InvalidData => self.lasting(error),
            io::ErrorKind::UnexpectedEof => self.passing("it closed the connection"),
            io::ErrorKind::TimedOut => self.passing("it did not answer in time"),
            _ => self.passing(error),
        }
    }
}

fn stranger(bad: BadHello) -> String {
    match bad {
        BadHello::Version(theirs) => {
            format!(
                "it speaks version {theirs} of the protocol, this rank speaks {PROTOCOL}: run one program on all ranks"
            )
        }
        bad => format!("{bad}: something else listens there, or only one side uses TLS"),
    }
}

/// How long to wait before attempt `tries`: doubling, and up to half of it by chance, so that a thousand ranks do not
/// come at the same moment.
pub(super) fn back_off(tries: u32) -> Duration {
    let (first, last) = BACK_OFF;
    let wait = first.saturating_mul(1_u32.checked_shl(tries).unwrap_or(u32::MAX)).min(last);
    // Without random bytes all come at once, which is no reason to stop.
    let chance = random::<1>().map_or(0, |[byte]| u32::from(byte));
    wait / 2 + wait / 2 * chance / 255
}
