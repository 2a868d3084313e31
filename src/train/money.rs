//! What a run has cost so far: its machines, times its clock, times the price of its plan. The clock goes on after a
//! resume, and so does the money.

use std::collections::HashSet;

use burn_dist::Communicator;

use crate::{config::Plan, record::Moment};

/// The machines that the ranks of a job are on.
pub fn num_machines(comm: &Communicator) -> u32 {
    let hosts: HashSet<u64> = comm.members().iter().map(|member| member.host_id).collect();
    hosts.len().max(1) as u32
}

/// US dollars for an hour of all machines of a job, on demand; `None` if the plan has no price.
pub fn cost_per_hour(plan: &Plan, comm: &Communicator) -> Option<f64> {
    Some(plan.price.as_ref()?.of(num_machines(comm), 3600.0).on_demand_usd)
}

/// What a run has cost by a moment, at a price for an hour of all machines.
pub(super) fn cost_usd(cost_per_hour: Option<f64>, at: Moment) -> Option<f64> {
    cost_per_hour.map(|usd| usd * at.elapsed_s / 3600.0)
}
