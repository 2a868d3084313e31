//! What the ranks print, as one: each line whole, with the rank before it, however many print at once.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    sync::{Arc, Mutex, PoisonError},
};

/// Bytes of a line that are passed on together. Of a longer one each such part counts as a line.
const MAX_LINE_BYTES: usize = 64 << 10;
/// A line that begins so is a program's last word on why it failed.
const ERROR: &[u8] = b"error:";
/// Bytes of such a line that are kept.
const MAX_ERROR_BYTES: usize = 2 << 10;

/// Where lines go, one writer at a time.
pub type Sink = Arc<Mutex<dyn Write + Send>>;

/// Where the ranks' standard output and standard error go. The launcher's own words go to the latter.
#[derive(Clone)]
pub struct Streams {
    /// For standard output.
    pub out: Sink,
    /// For standard error.
    pub err: Sink,
}

impl Streams {
    /// This process' own.
    pub fn standard() -> Self {
        Self { out: Arc::new(Mutex::new(io::stdout())), err: Arc::new(Mutex::new(io::stderr())) }
    }

    /// A line of the launcher's own.
    pub(super) fn tell(&self, line: &str) {
        write(&self.err, format!("launch: {line}\n").as_bytes());
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streams")
    }
}

/// A closed terminal or a full disk is no reason to stop a run, or to stop emptying a rank's pipe.
fn write(sink: &Sink, line: &[u8]) {
    let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = sink.write_all(line).and_then(|()| sink.flush());
}

/// Passes on each line of `pipe`, with `prefix` before it, until the pipe is closed. Returns the last line that begins
/// with `error:`.
pub(super) fn relay(pipe: impl Read, prefix: &str, sink: &Sink) -> Option<String> {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    let mut error = None;
    loop {
        line.clear();
        line.extend(prefix.as_bytes());
        match (&mut pipe).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line) {
            Ok(0) => return error,
            Ok(_) => {}
            // The pipe's own failure: there is no more to be had from it.
            Err(_) => return error,
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let text = &line[prefix.len()..];
        if text.starts_with(ERROR) {
            let kept = &text[..text.len().min(MAX_ERROR_BYTES)];
            error = Some(String::from_utf8_lossy(kept).trim_end().to_owned());
        }
        write(sink, &line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relayed(input: &[u8], prefix: &str) -> (Vec<u8>, Option<String>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink: Sink = written.clone();
        let error = relay(input, prefix, &sink);
        let written = written.lock().unwrap().clone();
        (written, error)
    }

    #[test]
    fn each_line_has_the_prefix_and_the_last_its_end() {
        let (written, error) = relayed(b"one\n\nthree\xff\r\nfour", "[7] ");
        assert_eq!(written, b"[7] one\n[7] \n[7] three\xff\r\n[7] four\n");
        assert_eq!(error, None);
        assert_eq!(relayed(b"", "[7] "), (vec![], None));
        assert_eq!(relayed(b"as it is\n", ""), (b"as it is\n".to_vec(), None));
    }

    #[test]
    fn a_line_without_end_is_passed_on_in_parts() {
        let (written, _) = relayed(&vec![b'x'; 2 * MAX_LINE_BYTES + 1], "[0] ");
        let lengths: Vec<_> = written.split(|byte| *byte == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lengths, [4 + MAX_LINE_BYTES, 4 + MAX_LINE_BYTES, 5, 0]);
    }

    #[test]
    fn the_last_error_is_remembered_up_to_a_length() {
        let (_, error) = relayed(b"error: first\nerror: second\nan error: no\n", "[1] ");
        assert_eq!(error.as_deref(), Some("error: second"));
        let (_, error) = relayed(&[b"error: ".as_slice(), &vec![b'x'; 1 << 20]].concat(), "");
        assert_eq!(error.unwrap().len(), MAX_ERROR_BYTES);
    }
}
