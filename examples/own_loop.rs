//! burn-resnet as a library: a training loop of one's own, with Burn's optimizer and loss and none of burn-sprint.
//!
//! The pictures are noise, so what the network learns is these 32 by heart.

use std::error::Error;

use burn::{
    module::Module,
    nn::loss::CrossEntropyLossConfig,
    optim::{GradientsParams, SgdConfig, momentum::MomentumConfig},
    tensor::{Device, Distribution, Int, Tensor},
};
use burn_resnet::{
    Depth, ResNetConfig,
    weights::{self, HeadPolicy, WeightsFile},
};

fn main() -> Result<(), Box<dyn Error>> {
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    plain.seed(1);

    let config = ResNetConfig::new(Depth::D8, 10)?;
    let mut model = config.init(1, &device);
    // Burn's momentum is dampened by 0.1 unless told otherwise; PyTorch's is not.
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let loss = CrossEntropyLossConfig::new().init(&device);

    let images = Tensor::<4>::random([32, 3, 32, 32], Distribution::Normal(0.0, 1.0), &device);
    let targets = Tensor::<1, Int>::arange(0..32, &device).remainder_scalar(10);
    for step in 1..=8 {
        let loss = loss.forward(model.forward(images.clone()), targets.clone());
        println!("step {step}: loss {:.4}", loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(0.5, model, gradients);
    }

    // A file that torchvision's names fit, read back for a task of 3 classes: the body stays, the head is new.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("resnet8.safetensors");
    weights::save(&path, &model.valid(), &Default::default())?;
    let mut tuned = config.with_num_classes(3)?.init(2, &plain);
    WeightsFile::open(&path)?.load_into(&mut tuned, HeadPolicy::Reinit)?;
    println!("fine-tuning starts with {} parameters", tuned.config().num_params());
    Ok(())
}
