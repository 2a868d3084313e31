//! Whether those who came make a job, and if not, why not: all of it at once. Pure.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use serde_json::Value;

use super::message::{Join, printable};

/// Most ranks that a list names one by one.
const NAMED_MAX: usize = 16;

/// Who came, and from where.
pub(super) struct Joined<'a> {
    pub(super) join: &'a Join,
    pub(super) from: SocketAddr,
}

/// Why somebody is no part of this job, whatever else it says: its start of the job is another one.
pub(super) fn other_generation(theirs: u32, ours: u32) -> Option<String> {
    match theirs.cmp(&ours) {
        std::cmp::Ordering::Less => {
            Some(format!("generation {theirs} is over, this job is generation {ours}"))
        }
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => {
            Some(format!("generation {ours} of the job still has the port, generation {theirs} is to come"))
        }
    }
}

/// What keeps `main` and `others` from being a job, however long one waits for more of them. In rank order.
pub(super) fn problems(main: &Join, others: &[Joined<'_>]) -> Vec<String> {
    let mut problems = out_of_range(main, others);
    problems.extend(twice(main, others));
    problems.extend(disagreements(main, others));
    for Joined { join, from } in others {
        let address = join.member.data_addr.ip();
        if address.is_unspecified() || address.is_loopback() && !from.ip().to_canonical().is_loopback() {
            problems.push(format!("{} offers the address {address}, which others cannot reach", who(join)));
        }
    }
    problems
}

/// The ranks that did not come, in order.
pub(super) fn missing(main: &Join, others: &[Joined<'_>]) -> Vec<u32> {
    let mut came = vec![false; main.world_size as usize];
    for rank in others.iter().map(|other| other.join.member.rank).chain([main.member.rank]) {
        if let Some(came) = came.get_mut(rank as usize) {
            *came = true;
        }
    }
    (0..main.world_size).zip(came).filter(|(_, came)| !came).map(|(rank, _)| rank).collect()
}

/// `[5, 9]`, or the first few and how many more.
pub(super) fn list(ranks: &[u32]) -> String {
    let (named, more) = ranks.split_at(ranks.len().min(NAMED_MAX));
    let mut out = format!("{named:?}");
    if !more.is_empty() {
        // A String takes everything.
        let _ = write!(out, " and {} more", more.len());
    }
    out
}

fn who(join: &Join) -> String {
    format!("rank {} on {} (process {})", join.member.rank, join.member.host, join.member.pid)
}

fn out_of_range(main: &Join, others: &[Joined<'_>]) -> Vec<String> {
    let last = main.world_size.saturating_sub(1);
    let is_out = |join: &&Join| join.member.rank > last;
    let out = others.iter().map(|other| other.join).filter(is_out);
    out.map(|join| format!("{} is out of range: the job has ranks 0 to {last}", who(join))).collect()
}

fn twice(main: &Join, others: &[Joined<'_>]) -> Vec<String> {
    let mut by_rank = BTreeMap::<u32, Vec<&Join>>::new();
    for join in [main].into_iter().chain(others.iter().map(|other| other.join)) {
        by_rank.entry(join.member.rank).or_default().push(join);
    }
    let several = by_rank.into_iter().filter(|(_, joins)| joins.len() > 1);
    several
        .map(|(rank, joins)| {
            let places: Vec<_> = joins
                .iter()
                .take(NAMED_MAX)
                .map(|join| format!("process {} on {}", join.member.pid, join.member.host))
                .collect();
            format!("rank {rank} is there {} times: {}", joins.len(), places.join(", "))
        })
        .collect()
}

fn disagreements(main: &Join, others: &[Joined<'_>]) -> Vec<String> {
    let unknown = || "unknown".to_owned();
    let ours = settings(main);
    // By field and by its value: one sentence for all ranks that say the same.
    let mut by_value = BTreeMap::<(String, String), Vec<&Join>>::new();
    for Joined { join, .. } in others {
        let mut theirs = settings(join);
        for field in ours.keys() {
            theirs.entry(field.clone()).or_insert_with(unknown);
        }
        for (field, value) in theirs.into_iter().filter(|(field, value)| ours.get(field) != Some(value)) {
            by_value.entry((field, value)).or_default().push(join);
        }
    }
    let sentence = |((field, theirs), joins): ((String, String), Vec<&Join>)| {
        let ours = ours.get(&field).cloned().unwrap_or_else(unknown);
        let named: Vec<_> = joins.iter().take(NAMED_MAX).map(|join| who(join)).collect();
        let more = joins.len() - named.len();
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("{field} is {theirs} at {}{more}, {ours} at rank 0", named.join(", "))
    };
    by_value.into_iter().map(sentence).collect()
}

/// Everything that has to be alike, in words.
fn settings(join: &Join) -> BTreeMap<String, String> {
    let agreed = join.agreed.iter().map(|(field, value)| {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        (printable(field, 64), printable(&value, 64))
    });
    let more = [
        ("world size".to_owned(), join.world_size.to_string()),
        ("version of burn-dist".to_owned(), join.version.clone()),
    ];
    agreed.chain(more).collect()
}
