//! A store on loopback: files of a folder over HTTP with ranges, which can be told to answer badly, dies and comes back
//! at the same address.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its own part of this")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Serve,
    /// With a status and no object.
    Status(u16),
    /// So many bytes of the body, and then the connection ends.
    Truncate(usize),
    /// With one bit of that byte turned.
    Damage(usize),
    /// As an object that has taken its place, which another tag shows.
    Replaced,
    /// Nothing comes any more, on a connection that stays.
    Stall,
}

/// Decides by the object's path and how often it was asked for before.
type Rule = Box<dyn Fn(&str, usize) -> Answer + Send + Sync>;

struct Shared {
    folder: PathBuf,
    rule: Mutex<Rule>,
    /// Paths, with the byte at which the wanted range begins.
    requests: Mutex<Vec<(String, usize)>>,
    connections: Mutex<Vec<TcpStream>>,
    is_dead: AtomicBool,
}

pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the files of `folder`.
    pub fn start(folder: &Path) -> Self {
        let shared = Arc::new(Shared {
            folder: folder.into(),
            rule: Mutex::new(Box::new(|_, _| Answer::Serve)),
            requests: Mutex::default(),
            connections: Mutex::default(),
            is_dead: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listening = Some(listen(listener, shared.clone()));
        Self { shared, address, listening }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, answers by `rule`.
    pub fn answer(&self, rule: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// How often an object was asked for.
    pub fn num_requests(&self, path: &str) -> usize {
        self.shared.requests.lock().unwrap().iter().filter(|(asked, _)| asked == path).count()
    }

    /// The bytes at which the requests for an object began.
    pub fn starts(&self, path: &str) -> Vec<usize> {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|(asked, _)| asked == path).map(|(_, start)| *start).collect()
    }

    /// Dies, if it has not; connections end, and nobody listens at its address.
    pub fn kill(&mut self) {
        self.shared.die();
        // Wakes the thread that waits for a connection; it may be gone already.
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            listening.join().unwrap();
        }
    }

    /// Comes back at the same address and serves.
    pub fn restart(&mut self) {
        self.kill();
        self.answer(|_, _| Answer::Serve);
        self.shared.is_dead.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind(self.address).unwrap();
        self.listening = Some(listen(listener, self.shared.clone()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn listen(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    thread::spawn(move || {
        for stream in listener.incoming() {
            if shared.is_dead.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            shared.connections.lock().unwrap().push(stream.try_clone().unwrap());
            let shared = shared.clone();
            // Ends with its connection.
            thread::spawn(move || while shared.one(&stream).is_some() {});
        }
    })
}

impl Shared {
    fn die(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// One request; `None` ends the connection.
    fn one(&self, stream: &TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next()?.ok()?;
        let path = first.split(' ').nth(1)?.trim_start_matches('/').to_owned();
        let mut start = 0;
        loop {
            let line = lines.next()?.ok()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(range) = line.strip_prefix("range: bytes=") {
                start = range.split('-').next()?.parse().ok()?;
            }
        }
        if self.is_dead.load(Ordering::SeqCst) {
            return None;
        }
        let num_before = {
            let mut requests = self.requests.lock().unwrap();
            let num_before = requests.iter().filter(|(asked, _)| *asked == path).count();
            requests.push((path.clone(), start));
            num_before
        };
        let answer = (self.rule.lock().unwrap())(&path, num_before);
        let object = fs::read(self.folder.join(&path));
        match (answer, object) {
            (Answer::Stall, _) => {
                // Until the other side has enough of it, or this one dies.
                let _ = BufReader::new(stream).read_line(&mut String::new());
                None
            }
            (Answer::Status(status), _) => self.send(stream, &format!("{status} Status"), "", "", b"", 0),
            (_, Err(_)) => self.send(stream, "404 Not Found", "", "", b"", 0),
            (answer, Ok(mut object)) => {
                let total = object.len();
                if let Answer::Damage(at) = answer {
                    object[at] ^= 1;
                }
                let body = &object[start..];
                let cut =
                    if let Answer::Truncate(length) = answer { length.min(body.len()) } else { body.len() };
                let range = format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1);
                let (status, range) =
                    if start > 0 { ("206 Partial Content", range.as_str()) } else { ("200 OK", "") };
                let tag = if answer == Answer::Replaced { "two" } else { "one" };
                self.send(stream, status, tag, range, &body[..cut], body.len())?;
                (cut == body.len()).then_some(())
            }
        }
    }

    fn send(
        &self,
        mut stream: &TcpStream,
        status: &str,
        tag: &str,
        headers: &str,
        body: &[u8],
        length: usize,
    ) -> Option<()> {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"{tag}\"\r\n\
             Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        if body.len() < length {
            let _ = stream.shutdown(Shutdown::Both);
        }
        Some(())
    }
}
