//! Which of many ends was the first cause: pure, over what is known when all ranks have ended.
//!
//! When one rank fails, the others fail of it: they lose the connection and say so, or are ended by the launcher. By
//! time alone a rank that noticed may come before the one whose death it noticed, so what they say counts as well.

use std::time::Instant;

use rustix::process::Signal;

/// The exit status of a program that stopped because its user asked, its state saved.
pub(super) const STOPPED: i32 = 130;
/// The exit status of a program that could not follow its words: another start would not help.
pub(super) const USAGE: i32 = 2;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Status(i32),
    Signal(i32),
    /// The system did not say.
    Unknown,
}

impl How {
    /// Neither done nor stopped as asked.
    pub(super) fn is_failure(self) -> bool {
        !matches!(self, Self::Status(0 | STOPPED))
    }

    /// The status that a shell would give.
    pub(super) fn exit_status(self) -> u8 {
        match self {
            Self::Status(status) => u8::try_from(status).unwrap_or(1),
            Self::Signal(signal) => u8::try_from(signal).ok().and_then(|n| n.checked_add(128)).unwrap_or(1),
            Self::Unknown => 1,
        }
    }

    pub(super) fn describe(self) -> String {
        match self {
            Self::Status(status) => format!("exited with status {status}"),
            Self::Signal(signal) => match signal_name(signal) {
                Some(name) => format!("was killed by {name} ({signal})"),
                None => format!("was killed by signal {signal}"),
            },
            Self::Unknown => "ended, and the system did not say how".into(),
        }
    }
}

fn signal_name(raw: i32) -> Option<&'static str> {
    let names = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::SYS, "SIGSYS"),
    ];
    names.into_iter().find_map(|(signal, name)| (signal.as_raw() == raw).then_some(name))
}

/// The end of a rank.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) rank: u32,
    pub(super) at: Instant,
    pub(super) how: How,
    /// Whether it died by a signal that the launcher had sent.
    pub(super) by_us: bool,
    /// The last line of its standard error that begins with `error:`.
    pub(super) error: Option<String>,
}

impl Ended {
    /// Who, where, how, and in its own words why.
    pub(super) fn describe(&self, host: &str) -> String {
        let (rank, how) = (self.rank, self.how.describe());
        match &self.error {
            Some(error) => format!("rank {rank} on {host} {how}: {error}"),
            None => format!("rank {rank} on {host} {how}"),
        }
    }

    /// Whether it says that another rank, and not it, is to blame.
    fn blames_another(&self) -> bool {
        let named = |error: &String| {
            let ranks: Vec<u32> = ranks_named(error).collect();
            !ranks.is_empty() && !ranks.contains(&self.rank)
        };
        matches!(self.how, How::Status(_)) && self.error.as_ref().is_some_and(named)
    }
}

/// The numbers that follow the word `rank`.
fn ranks_named(text: &str) -> impl Iterator<Item = u32> {
    text.split("rank ").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    })
}

/// The earliest failure that is nobody else's doing; else the earliest that blames another rank, which is then not
/// of this machine or still ran; else the earliest that the launcher itself ended. `None` if nobody failed.
pub(super) fn first_cause(ends: &[Ended]) -> Option<&Ended> {
    let failures = ends.iter().filter(|end| end.how.is_failure());
    failures.min_by_key(|end| {
        let remoteness = match end {
            _ if end.by_us => 2,
            _ if end.blames_another() => 1,
            _ => 0,
        };
        (remoteness, end.at)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Ranks in the order of their ends.
    fn ends(of: &[(u32, How, bool, &str)]) -> Vec<Ended> {
        let start = Instant::now();
        let end = |(at, &(rank, how, by_us, error)): (usize, &(u32, How, bool, &str))| {
            let error = (!error.is_empty()).then(|| format!("error: {error}"));
            Ended { rank, at: start + Duration::from_millis(at as u64), how, by_us, error }
        };
        of.iter().enumerate().map(end).collect()
    }

    #[track_caller]
    fn cause_is(expected: Option<u32>, of: &[(u32, How, bool, &str)]) {
        let mut ends = ends(of);
        assert_eq!(first_cause(&ends).map(|end| end.rank), expected);
        ends.reverse();
        assert_eq!(first_cause(&ends).map(|end| end.rank), expected, "the order in the list is nothing");
    }

    const KILLED: How = How::Signal(9);
    const TERMINATED: How = How::Signal(15);
    const FAILED: How = How::Status(1);

    #[test]
    fn who_is_done_or_stopped_is_no_cause() {
        cause_is(None, &[]);
        cause_is(None, &[(0, How::Status(0), false, ""), (1, How::Status(130), false, "")]);
    }

    #[test]
    fn the_first_by_time_is_the_cause() {
        cause_is(Some(2), &[(2, FAILED, false, "no picture"), (0, FAILED, false, "no picture")]);
        cause_is(
            Some(3),
            &[(1, How::Status(0), false, ""), (3, How::Unknown, false, ""), (0, FAILED, false, "")],
        );
    }

    #[test]
    fn who_noticed_comes_after_whom_it_noticed() {
        cause_is(
            Some(2),
            &[(0, FAILED, false, "rank 2 on a died"), (2, KILLED, false, ""), (1, TERMINATED, true, "")],
        );
        cause_is(
            Some(1),
            &[(0, FAILED, false, "rank 1 on a failed"), (1, FAILED, false, "cannot read x.jpg")],
        );
        // Its own name in its own words is no alibi.
        cause_is(
            Some(1),
            &[(1, FAILED, false, "rank 0 on a, rank 1 on b called"), (0, FAILED, false, "bad")],
        );
        cause_is(Some(1), &[(1, FAILED, false, "rank 1 on a: the loss is NaN"), (0, FAILED, false, "bad")]);
    }

    #[test]
    fn a_rank_of_another_machine_is_told_by_the_first_that_noticed() {
        cause_is(Some(1), &[(1, FAILED, false, "rank 9 on b died"), (0, FAILED, false, "rank 9 on b died")]);
    }

    #[test]
    fn what_the_launcher_ended_is_the_last_to_blame() {
        // A stopped process: the others say so, and it dies of our signal.
        cause_is(Some(0), &[(1, KILLED, true, ""), (0, FAILED, false, "rank 1 on a fell silent")]);
        cause_is(Some(1), &[(1, TERMINATED, true, ""), (0, KILLED, true, "")]);
    }

    #[test]
    fn ends_are_told_in_one_line_with_a_shells_status() {
        let all = ends(&[(2, KILLED, false, ""), (1, FAILED, false, "bad"), (0, How::Signal(40), false, "")]);
        let told: Vec<_> = all.iter().map(|end| end.describe("node7")).collect();
        assert_eq!(told[0], "rank 2 on node7 was killed by SIGKILL (9)");
        assert_eq!(told[1], "rank 1 on node7 exited with status 1: error: bad");
        assert_eq!(told[2], "rank 0 on node7 was killed by signal 40");
        assert_eq!(all.iter().map(|end| end.how.exit_status()).collect::<Vec<_>>(), [137, 1, 168]);
    }
}
