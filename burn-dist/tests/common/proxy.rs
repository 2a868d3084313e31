//! A network that does harm: a relay between one rank and all others, in this process. The rank looks for rank 0 at the
//! relay; the relay passes its words on, but for the address at which it takes data connections: that becomes the
//! relay's own, so that the data goes through it too. No hook in the library: who sits on the wire can do this.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Lengths of the messages that open a connection: hello and proof, challenge and verdict.
const DIALLER: [usize; 2] = [64, 32];
const ANSWERER: [usize; 2] = [48, 33];
const HEADER_BYTES: usize = 64;

/// What is done to the bytes of one direction, behind the opening.
pub(crate) enum Harm {
    None,
    /// So many bytes at a time, with a pause between.
    Pace(usize, Duration),
    /// At that byte.
    At(usize, Strike),
    /// To whole frames, in order: what goes out instead of each.
    Frames(Box<dyn FnMut(Vec<u8>) -> Vec<Vec<u8>> + Send>),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Strike {
    /// A bit of the byte is flipped.
    Flip(u8),
    /// So many bytes come twice.
    Repeat(usize),
    /// Nothing comes any more, and nobody says so.
    Stall,
    /// The connection is reset.
    Reset,
    /// This direction ends.
    HalfClose,
    /// Both directions end.
    Cut,
}

/// Which connections, in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// From the relayed rank to one that dialled it: in a ring, to its next.
    Data,
    /// From the relayed rank to rank 0, and back.
    ControlOut,
    ControlIn,
}

/// A relay. Dropping it ends it, once its connections have ended.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    relay: Arc<Relay>,
    threads: Vec<JoinHandle<()>>,
}

struct Relay {
    master: u16,
    data: SocketAddr,
    /// Where the rank really takes data connections, once it has said so.
    rank: Mutex<Option<SocketAddr>>,
    /// Taken by the first connection that it fits.
    harm: Mutex<Option<(Place, Harm)>>,
    ends: AtomicBool,
}

impl Proxy {
    /// In front of a rank whose job meets at port `master`.
    pub(crate) fn start(master: u16, place: Place, harm: Harm) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (control, data) = (listen(), listen());
        let port = control.local_addr().unwrap().port();
        let relay = Arc::new(Relay {
            master,
            data: data.local_addr().unwrap(),
            rank: Mutex::new(None),
            harm: Mutex::new(Some((place, harm))),
            ends: AtomicBool::new(false),
        });
        let serve = |listener: TcpListener, carry: fn(&Arc<Relay>, TcpStream) -> io::Result<()>| {
            let relay = Arc::clone(&relay);
            thread::spawn(move || {
                let mut carried = Vec::new();
                for stream in listener.incoming().map_while(Result::ok) {
                    if relay.ends.load(Ordering::Relaxed) {
                        break;
                    }
                    let relay = Arc::clone(&relay);
                    // A connection that breaks is what this is for.
                    carried.push(thread::spawn(move || drop(carry(&relay, stream))));
                }
                carried.into_iter().for_each(|thread| thread.join().unwrap());
            })
        };
        let threads = vec![serve(control, Relay::carry_control), serve(data, Relay::carry_data)];
        Self { port, relay, threads }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.relay.ends.store(true, Ordering::Relaxed);
        for address in [SocketAddr::from(([127, 0, 0, 1], self.port)), self.relay.data] {
            let _ = TcpStream::connect(address);
        }
        for thread in self.threads.drain(..) {
            // It has printed what went wrong.
            let _ = thread.join();
        }
    }
}

impl Relay {
    fn carry_control(self: &Arc<Self>, rank: TcpStream) -> io::Result<()> {
        // Rank 0 may not be there yet: then the rank tries again.
        let main = TcpStream::connect(("127.0.0.1", self.master))?;
        open(&rank, &main)?;
        let mut prefix = [0; 4];
        (&rank).read_exact(&mut prefix)?;
        let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
        (&rank).read_exact(&mut body)?;
        let (json, _) = body.split_last_chunk::<4>().unwrap();
        let mut join: serde_json::Value = serde_json::from_slice(json)?;
        let said = join["member"]["data_addr"].as_str().unwrap().parse().unwrap();
        *self.rank.lock().unwrap() = Some(said);
        join["member"]["data_addr"] = self.data.to_string().into();
        let mut body = serde_json::to_vec(&join)?;
        let crc = crc32c(&body);
        body.extend(crc.to_le_bytes());
        (&main).write_all(&(body.len() as u32).to_le_bytes())?;
        (&main).write_all(&body)?;
        self.both(rank, main, [Some(Place::ControlOut), Some(Place::ControlIn)])
    }

    fn carry_data(self: &Arc<Self>, other: TcpStream) -> io::Result<()> {
        let address = self.rank.lock().unwrap().expect("the rank has joined");
        let rank = TcpStream::connect(address)?;
        open(&other, &rank)?;
        self.both(other, rank, [None, Some(Place::Data)])
    }

    /// Carries bytes both ways until both have ended.
    fn both(&self, a: TcpStream, b: TcpStream, places: [Option<Place>; 2]) -> io::Result<()> {
        a.set_nodelay(true)?;
        b.set_nodelay(true)?;
        let harms = {
            let mut harm = self.harm.lock().unwrap();
            places.map(|place| match harm.take_if(|(at, _)| Some(*at) == place) {
                Some((_, harm)) => harm,
                None => Harm::None,
            })
        };
        let [there, back] = harms;
        thread::scope(|scope| {
            scope.spawn(|| carry(&a, &b, there));
            carry(&b, &a, back);
        });
        Ok(())
    }
}

/// The messages with which two strangers become acquainted.
fn open(dialler: &TcpStream, answerer: &TcpStream) -> io::Result<()> {
    for turn in 0..2 {
        pass(dialler, answerer, DIALLER[turn])?;
        pass(answerer, dialler, ANSWERER[turn])?;
    }
    Ok(())
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, count: usize) -> io::Result<()> {
    let mut bytes = [0; 64];
    from.read_exact(&mut bytes[..count])?;
    to.write_all(&bytes[..count])
}

/// Carries one direction to its end, and tells of it.
fn carry(from: &TcpStream, to: &TcpStream, harm: Harm) {
    let _ = match harm {
        Harm::None => carry_bytes(from, to, 1 << 16, Duration::ZERO, None),
        Harm::Pace(piece, pause) => carry_bytes(from, to, piece, pause, None),
        Harm::At(at, strike) => carry_bytes(from, to, 1 << 16, Duration::ZERO, Some((at, strike))),
        Harm::Frames(change) => carry_frames(from, to, change),
    };
    let _ = to.shutdown(Shutdown::Write);
    // What comes now has nowhere to go.
    let _ = from.shutdown(Shutdown::Read);
}

fn carry_bytes(
    mut from: &TcpStream,
    mut to: &TcpStream,
    piece: usize,
    pause: Duration,
    strike: Option<(usize, Strike)>,
) -> io::Result<()> {
    let mut bytes = vec![0; piece];
    let mut carried = 0;
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        let piece = &mut bytes[..count];
        let hit = strike.filter(|(at, _)| (carried..carried + count).contains(at));
        carried += count;
        let Some((at, strike)) = hit else {
            to.write_all(piece)?;
            // The slowness itself.
            thread::sleep(pause);
            continue;
        };
        let at = at - (carried - count);
        match strike {
            Strike::Flip(bit) => {
                piece[at] ^= 1 << bit;
                to.write_all(piece)?;
            }
            Strike::Repeat(length) => {
                to.write_all(piece)?;
                to.write_all(&piece[at..count.min(at + length)])?;
                to.write_all(&piece[at..])?;
            }
            other => {
                to.write_all(&piece[..at])?;
                match other {
                    Strike::Reset => [from, to].into_iter().try_for_each(rustix::net::connect_unspec)?,
                    Strike::Cut => {
                        to.shutdown(Shutdown::Both)?;
                        from.shutdown(Shutdown::Both)?;
                    }
                    Strike::HalfClose => {
                        to.shutdown(Shutdown::Write)?;
                        io::copy(&mut from, &mut io::sink())?;
                    }
                    // The sender is not told: its bytes vanish.
                    _ => drop(io::copy(&mut from, &mut io::sink())?),
                }
                return Ok(());
            }
        }
    }
}

fn carry_frames(
    mut from: &TcpStream,
    mut to: &TcpStream,
    mut change: Box<dyn FnMut(Vec<u8>) -> Vec<Vec<u8>> + Send>,
) -> io::Result<()> {
    loop {
        let mut frame = vec![0; HEADER_BYTES];
        from.read_exact(&mut frame)?;
        let length = u32::from_le_bytes(std::array::from_fn(|at| frame[40 + at])) as usize;
        frame.resize(HEADER_BYTES + length, 0);
        from.read_exact(&mut frame[HEADER_BYTES..])?;
        for frame in change(frame) {
            to.write_all(&frame)?;
        }
    }
}

/// Writes a field of a frame's header, and the checksum that makes it look right.
pub(crate) fn forge(frame: &mut [u8], at: usize, field: &[u8]) {
    frame[at..at + field.len()].copy_from_slice(field);
    let crc = crc32c(&frame[..60]);
    frame[60..64].copy_from_slice(&crc.to_le_bytes());
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}
