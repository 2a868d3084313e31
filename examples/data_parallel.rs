//! A Burn model of one's own, trained by several processes as by one. The lines marked `// +` are all that the loop of
//! one process does not have.
//!
//! Started by a launcher (`sprint launch`, torchrun, srun) every process is a rank; started alone it shows the same with
//! two ranks on threads of this process.

use std::{error::Error, thread};

use burn::{
    module::Module,
    nn::{Linear, LinearConfig, loss::CrossEntropyLossConfig},
    optim::{GradientsParams, SgdConfig},
    tensor::{Device, Int, Tensor, TensorData, activation::tanh},
};
use burn_dist::{Communicator, Config, DataParallel, DataParallelConfig, Rank, WorldSize};

/// Two layers that tell points inside a circle from those outside.
#[derive(Module, Debug)]
struct Mlp {
    hidden: Linear,
    output: Linear,
}

impl Mlp {
    fn new(device: &Device) -> Self {
        Self { hidden: LinearConfig::new(2, 16).init(device), output: LinearConfig::new(16, 2).init(device) }
    }

    fn forward(&self, points: Tensor<2>) -> Tensor<2> {
        self.output.forward(tanh(self.hidden.forward(points)))
    }
}

/// This rank's part of a batch of 64 points.
fn batch(step: usize, rank: Rank, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let (mut points, mut classes) = (Vec::new(), Vec::new());
    for at in (rank.index()..64).step_by(rank.world_size().count()) {
        // A low-discrepancy sequence (Roberts 2018, "R2") over the square from -1 to 1.
        let n = (64 * step + at) as f64;
        let [x, y] = [0.754_877_666, 0.569_840_291].map(|step| (n * step).fract() * 2.0 - 1.0);
        points.extend([x as f32, y as f32]);
        classes.push(i32::from(x * x + y * y < 0.6));
    }
    let points = TensorData::new(points, [classes.len(), 2]);
    (Tensor::from_data(points, device), Tensor::from_data(classes.as_slice(), device))
}

fn train(comm: Communicator) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let device = Device::flex().autodiff();
    let rank = comm.rank(); // +
    let (mut ddp, mut model) = DataParallel::new(comm, Mlp::new(&device), DataParallelConfig::default())?; // +
    let mut optimizer = SgdConfig::new().init();
    let loss = CrossEntropyLossConfig::new().init(&device);
    for step in 0..300 {
        let (points, classes) = batch(step, rank, &device);
        let loss = loss.forward(model.forward(points), classes);
        if rank.is_main() && step % 50 == 0 {
            println!("step {step}: loss {:.4}", loss.clone().into_scalar::<f32>());
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let gradients = ddp.average(gradients, &model)?; // +
        model = optimizer.step(1.0, model, gradients);
    }
    let hash = ddp.verify_same(&model)?; // +
    println!("rank {rank}: parameters {hash:016x}");
    Ok(hash)
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let comm = Communicator::builder().from_env()?.connect()?;
    if comm.rank().world_size() != WorldSize::ONE {
        return train(comm).map(drop);
    }
    let two = WorldSize::new(2).ok_or("2 is not 0")?;
    let ranks: Vec<_> = Communicator::local_mesh(two, &Config::default())?
        .into_iter()
        .map(|comm| thread::spawn(move || train(comm)))
        .collect();
    for rank in ranks {
        rank.join().map_err(|_| "a rank panicked")??;
    }
    Ok(())
}
