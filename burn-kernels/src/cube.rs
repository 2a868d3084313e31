//! Burn's GPU backends, which are one to it, and what they get of this crate's own: batch norm and SGD. The rest is
//! Burn's.
//!
//! Between a tensor and its GPU stands Burn's fusion, to which an operation of our own is a closed box. So one that cannot
//! run is told by its number types before it enters the box: outside, Burn fuses its parts.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Cube, TensorMetadata, backend_extension};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;

use crate::backend::Kernels;
use crate::norm::norm_is_burns;
use crate::norm_cube::{Saved, backward, forward};
use crate::number_types::norm_goes;
use crate::sgd::SgdStep;
use crate::{plain, sgd_cube};

type Primitive = FloatTensor<Cube>;
type Three<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);
type Four<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

/// Whether a norm is ours: of such number types and not empty, unless Burn's was asked for.
fn norm_is_ours<const N: usize>(images: [&Primitive; N], gamma: &Primitive) -> bool {
    norm_goes(images, [gamma]) && images[0].shape().num_elements() > 0 && !norm_is_burns()
}

impl Kernels for Cube {
    fn norm_forward(
        x: Primitive,
        gamma: Primitive,
        beta: Primitive,
        epsilon: f64,
        relu: bool,
    ) -> Three<Self> {
        if !norm_is_ours([&x], &gamma) {
            return plain::norm::<Self>([x, gamma, beta], None, epsilon, relu);
        }
        Self::own_norm(x, gamma, beta, epsilon, relu)
    }

    fn norm_add_forward(
        x: Primitive,
        gamma: Primitive,
        beta: Primitive,
        residual: Primitive,
        epsilon: f64,
        relu: bool,
    ) -> Three<Self> {
        if !norm_is_ours([&x, &residual], &gamma) {
            return plain::norm::<Self>([x, gamma, beta], Some(residual), epsilon, relu);
        }
        Self::own_norm_add(x, gamma, beta, residual, epsilon, relu)
    }

    fn norm_grads(
        x: Primitive,
        gamma: Primitive,
        beta: Primitive,
        mean: Primitive,
        variance: Primitive,
        output: Primitive,
        grad: Primitive,
        epsilon: f64,
        relu: bool,
    ) -> Three<Self> {
        if !norm_is_ours([&x, &grad], &gamma) {
            let (x, gamma, beta, _) =
                plain::norm_grads::<Self>([x, gamma, mean, variance], output, grad, epsilon, relu);
            return (x, gamma, beta);
        }
        Self::own_norm_grads(x, gamma, beta, mean, variance, grad, epsilon, relu)
    }

    fn norm_add_grads(
        x: Primitive,
        gamma: Primitive,
        beta: Primitive,
        mean: Primitive,
        variance: Primitive,
        output: Primitive,
        grad: Primitive,
        epsilon: f64,
        relu: bool,
    ) -> Four<Self> {
        if !norm_is_ours([&x, &grad], &gamma) {
            return plain::norm_grads::<Self>([x, gamma, mean, variance], output, grad, epsilon, relu);
        }
        Self::own_norm_add_grads(x, gamma, beta, mean, variance, output, grad, epsilon, relu)
    }

    fn sgd_step(
        weight: Primitive,
        gradient: Primitive,
        velocity: Primitive,
        lr: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
    ) -> (Primitive, Primitive) {
        let is_empty = weight.shape().num_elements() == 0;
        if is_empty || [&weight, &gradient, &velocity].iter().any(|tensor| tensor.dtype() != DType::F32) {
            let step = SgdStep { lr, momentum, weight_decay, nesterov };
            return plain::sgd_step::<Self>(weight, gradient, velocity, step);
        }
        Self::own_sgd_step(weight, gradient, velocity, lr, momentum, weight_decay, nesterov)
    }
}

/// What runs inside the box. `Dispatch` gets it too, and nobody calls it there.
#[backend_extension(Cube, Fusion)]
#[allow(clippy::too_many_arguments, reason = "a backend extension passes tensors one by one")]
pub(crate) trait Own: Backend {
    #[fusion(meta = |x, gamma, _beta, _epsilon, _relu| (x.clone(), gamma.clone(), gamma.clone()))]
    fn own_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |x, gamma, _beta, _residual, _epsilon, _relu| (x.clone(), gamma.clone(), gamma.clone()))]
    fn own_norm_add(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |x, gamma, _beta, _mean, _variance, _grad, _epsilon, _relu| {
        (x.clone(), gamma.clone(), gamma.clone())
    })]
    fn own_norm_grads(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |x, gamma, _beta, _mean, _variance, _output, _grad, _epsilon, _relu| {
        (x.clone(), gamma.clone(), gamma.clone(), x.clone())
    })]
    fn own_norm_add_grads(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |weight, _gradient, velocity, _lr, _momentum, _decay, _nesterov| {
        (weight.clone(), velocity.clone())
    })]
    fn own_sgd_step(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        lr: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl Own for CubeBackend {
    fn own_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> Three<Self> {
        forward([x, gamma, beta], None, epsilon, relu)
    }

    fn own_norm_add(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> Three<Self> {
        forward([x, gamma, beta], Some(residual), epsilon, relu)
    }

    fn own_norm_grads(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> Three<Self> {
        let saved = Saved { x, gamma, beta, mean, variance, output: None, epsilon, relu };
        let (x, gamma, beta, _) = backward(saved, grad);
        (x, gamma, beta)
    }

    fn own_norm_add_grads(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        output: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> Four<Self> {
        backward(Saved { x, gamma, beta, mean, variance, output: Some(output), epsilon, relu }, grad)
    }
    fn own_sgd_step(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        lr: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let step = SgdStep { lr, momentum, weight_decay, nesterov };
        sgd_cube::step([weight, gradient, velocity], step)
    }
}
