//! The update of SGD on a GPU, in one pass over memory: three numbers in, two out.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

use crate::cube_tensor::{room_like, vector_size};
use crate::sgd::SgdStep;

#[cube(launch, address_type = "dynamic")]
fn update<F: Float, N: Size>(
    weight: &Tensor<Vector<F, N>>,
    gradient: &Tensor<Vector<F, N>>,
    velocity: &Tensor<Vector<F, N>>,
    new_weight: &mut Tensor<Vector<F, N>>,
    new_velocity: &mut Tensor<Vector<F, N>>,
    len: usize,
    lr: InputScalar,
    momentum: InputScalar,
    decay: InputScalar,
    #[comptime] nesterov: bool,
    #[define(F)] _number: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place < len {
        let momentum = Vector::<F, N>::new(momentum.get::<F>());
        let weight = weight[place];
        let gradient = gradient[place] + weight * Vector::new(decay.get::<F>());
        let velocity = velocity[place] * momentum + gradient;
        let mut direction = velocity;
        if comptime!(nesterov) {
            direction = gradient + velocity * momentum;
        }
        new_weight[place] = weight - direction * Vector::new(lr.get::<F>());
        new_velocity[place] = velocity;
    }
}

/// New weights and velocity.
pub(crate) fn step([weight, gradient, velocity]: [CubeTensor; 3], step: SgdStep) -> (CubeTensor, CubeTensor) {
    let [weight, gradient, velocity] = [weight, gradient, velocity].map(into_contiguous);
    let number = dtype_to_storage_type(weight.dtype);
    let len = weight.meta.num_elements();
    let vector = vector_size(&weight, len);
    let (client, vectors) = (weight.client.clone(), len / vector);
    let (new_weight, new_velocity) = (room_like(&weight), room_like(&velocity));
    let dim = CubeDim::new(&client, vectors);
    let [lr, momentum, decay] =
        [step.lr, step.momentum, step.weight_decay].map(|factor| InputScalar::new(factor, number));
    update::launch(
        &client,
        calculate_cube_count_elemwise(&client, vectors, dim),
        dim,
        weight.required_address_type(),
        vector,
        weight.into_tensor_arg(),
        gradient.into_tensor_arg(),
        velocity.into_tensor_arg(),
        new_weight.clone().into_tensor_arg(),
        new_velocity.clone().into_tensor_arg(),
        vectors,
        lr,
        momentum,
        decay,
        step.nesterov,
        number,
    );
    (new_weight, new_velocity)
}
