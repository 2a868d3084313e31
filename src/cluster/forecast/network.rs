//! The time of one all-reduce, by the two ways that gradients go: one ring through all ranks, or rings inside the
//! machines and between them. Costs of Patarasuk and Yuan 2009; see `burn-dist`'s `collective` for the algorithms.

use serde::Deserialize;

use super::{ForecastError, kind::in_range};

/// What is between ranks, and how gradients go over it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Which way gradients go.
    pub algorithm: Algorithm,
    /// Gigabits a second that an all-reduce gets out of a machine's network, each way.
    pub gbit_per_s: f64,
    /// Connections from a machine to the next one.
    pub streams: u32,
    /// Gigabits a second that one connection may carry.
    pub stream_gbit_per_s: f64,
    /// Microseconds of a hop between machines.
    pub latency_us: f64,
    /// Gigabytes a second that a rank sends to its neighbour inside the machine, each way.
    pub local_gb_per_s: f64,
    /// Microseconds of a hop inside a machine.
    pub local_latency_us: f64,
    /// Bytes of a gradient's value on the way: 4, or 2 in half precision.
    pub value_bytes: u32,
    /// Bytes of the first bucket, and of the last.
    pub first_bucket_bytes: u64,
    /// Bytes of every other one.
    pub bucket_bytes: u64,
}

/// Which way gradients go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// One ring through all ranks, machine by machine: NCCL's of 2018.
    Ring,
    /// Rings inside each machine and, for each shard, between the machines: this program's.
    Hierarchical,
}

impl Network {
    /// Seconds until `bytes` are summed over all ranks.
    pub(super) fn all_reduce_s(&self, bytes: f64, machines: u32, ranks: u32) -> f64 {
        let (m, h) = (f64::from(ranks), f64::from(machines));
        let streams = f64::from(self.streams) * self.stream_gbit_per_s;
        let out_bytes_per_s = self.gbit_per_s.min(streams) * 1e9 / 8.0;
        let local_bytes_per_s = self.local_gb_per_s * 1e9;
        let (hop_s, local_hop_s) = (self.latency_us * 1e-6, self.local_latency_us * 1e-6);
        let ring = |n: f64| 2.0 * (n - 1.0) / n * bytes;
        let local_s = ring(m) / local_bytes_per_s + 2.0 * (m - 1.0) * local_hop_s;
        if machines == 1 {
            return local_s;
        }
        match self.algorithm {
            // A chunk visits every rank twice, and leaves a machine once a visit.
            Algorithm::Ring => {
                let hops = h * hop_s + (m * h - 1.0 - h) * local_hop_s;
                ring(m * h) / out_bytes_per_s.min(local_bytes_per_s) + 2.0 * hops
            }
            // The levels work at the same time, block by block: the slower one is what takes the time.
            Algorithm::Hierarchical => {
                let out_s = ring(h) / out_bytes_per_s;
                let local_transfer_s = ring(m) / local_bytes_per_s;
                out_s.max(local_transfer_s) + 2.0 * (h - 1.0) * hop_s + 2.0 * (m - 1.0) * local_hop_s
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), ForecastError> {
        for (key, value, from, to) in [
            ("network.gbit_per_s", self.gbit_per_s, 1e-3, 1e6),
            ("network.streams", self.streams.into(), 1.0, 4096.0),
            ("network.stream_gbit_per_s", self.stream_gbit_per_s, 1e-3, 1e6),
            ("network.latency_us", self.latency_us, 0.0, 1e6),
            ("network.local_gb_per_s", self.local_gb_per_s, 1e-3, 1e6),
            ("network.local_latency_us", self.local_latency_us, 0.0, 1e6),
            ("network.value_bytes", self.value_bytes.into(), 1.0, 8.0),
            ("network.first_bucket_bytes", self.first_bucket_bytes as f64, 1.0, 1e12),
            ("network.bucket_bytes", self.bucket_bytes as f64, 1.0, 1e12),
        ] {
            in_range(key, value, from, to)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(algorithm: Algorithm) -> Network {
        Network {
            algorithm,
            gbit_per_s: 8.0,
            streams: 4,
            stream_gbit_per_s: 10.0,
            latency_us: 50.0,
            local_gb_per_s: 100.0,
            local_latency_us: 5.0,
            value_bytes: 4,
            first_bucket_bytes: 1 << 20,
            bucket_bytes: 25 << 20,
        }
    }

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-9 * expected.abs().max(1.0), "{got} {expected}");
    }

    #[test]
    fn one_rank_sends_nothing() {
        for algorithm in [Algorithm::Ring, Algorithm::Hierarchical] {
            assert_eq!(network(algorithm).all_reduce_s(1e9, 1, 1), 0.0);
        }
    }

    #[test]
    fn two_levels_cost_what_one_rank_a_machine_would_send() {
        // 4 machines at 1 GB/s: 2 * 3/4 GB; 2 * 3 hops of 50 us outside, 2 * 7 of 5 us inside.
        close(network(Algorithm::Hierarchical).all_reduce_s(1e9, 4, 8), 1.5 + 300e-6 + 70e-6);
        // Where the inside is the slower one, that is what it takes.
        let slow = Network { local_gb_per_s: 0.5, ..network(Algorithm::Hierarchical) };
        close(slow.all_reduce_s(1e9, 4, 8), 3.5 + 300e-6 + 70e-6);
    }

    #[test]
    fn a_ring_pays_for_every_rank() {
        close(network(Algorithm::Ring).all_reduce_s(1e9, 4, 8), 2.0 * 31.0 / 32.0 + 400e-6 + 270e-6);
    }

    #[test]
    fn connections_bound_what_the_network_could() {
        let few = Network { streams: 2, stream_gbit_per_s: 2.0, latency_us: 0.0, ..network(Algorithm::Ring) };
        let one = Network { local_latency_us: 0.0, ..few };
        close(one.all_reduce_s(1e9, 2, 1), 2.0);
    }
}
