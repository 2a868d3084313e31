//! An all-reduce among processes. Started by a launcher (`torchrun`, `srun`, `mpirun`, `sprint launch`) it is one of the
//! ranks; started alone it plays the launcher itself, with four ranks on this machine.

use std::{env, net::TcpListener, process::Command};

use burn_dist::{Communicator, ReduceOp};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if env::var_os("BURN_DIST_RANK").is_none() && env::args().nth(1).as_deref() != Some("rank") {
        return launch(4);
    }
    let comm = Communicator::builder().from_env()?.connect()?;
    let rank = comm.rank();

    // A million numbers: rank 0 has zeros, rank 1 ones, ...
    let mut numbers = vec![rank.index() as f32; 1_000_000];
    comm.all_reduce(&mut numbers, ReduceOp::Mean)?;

    println!("rank {rank}: the mean is {}", numbers[0]);
    Ok(())
}

fn launch(num_ranks: usize) -> Result<(), Box<dyn std::error::Error>> {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let start = |rank: usize| {
        Command::new(env::current_exe()?)
            .arg("rank")
            .env("BURN_DIST_RANK", rank.to_string())
            .env("BURN_DIST_WORLD_SIZE", num_ranks.to_string())
            .env("BURN_DIST_MASTER_ADDR", "127.0.0.1")
            .env("BURN_DIST_MASTER_PORT", port.to_string())
            .spawn()
    };
    let ranks = (0..num_ranks).map(start).collect::<Result<Vec<_>, _>>()?;
    for mut rank in ranks {
        if !rank.wait()?.success() {
            return Err("a rank failed; its line above says why".into());
        }
    }
    Ok(())
}
