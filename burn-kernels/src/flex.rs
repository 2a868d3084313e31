//! The flex backend's fast versions, from tensors to slices and back, in f32 or through it (`half`); what is of another
//! number type goes to the plain ones.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, TensorData};
use rayon::prelude::*;

use crate::backend::Kernels;
use crate::geometry::Geometry;
use crate::half::{narrow, narrow_slice, widen};
use crate::memory::Buffer;
use crate::norm_cpu::{Line, Pixels};
use crate::number_types::{all_alike, norm_goes};
use crate::sgd::SgdStep;
use crate::{conv_cpu, max_pool_cpu, norm_cpu, option_a_cpu, plain, sgd_cpu};

type Primitive = FloatTensor<Flex>;

/// Values that a thread adds at a time.
const GRAIN: usize = 1 << 15;

/// Whether a convolution goes through f32: images that are alike, and weights like them or in f32.
fn conv_goes<const N: usize>(images: [&Primitive; N], weight: &Primitive) -> bool {
    all_alike(images) && (weight.dtype() == DType::F32 || weight.dtype() == images[0].dtype())
}

/// The values of a tensor that went through [`widen`].
fn values(tensor: &Primitive) -> &[f32] {
    tensor.as_slice().expect("made contiguous, and its type was asked")
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> Primitive {
    Primitive::from_data(TensorData::new(values, shape.to_vec()))
}

fn geometry(x: &Primitive, weight: &Primitive, stride: usize, padding: usize) -> Geometry {
    Geometry::new(x.shape().dims(), weight.shape().dims(), stride, padding)
}

impl Kernels for Flex {
    fn conv2d_forward(x: Primitive, weight: Primitive, stride: usize, padding: usize) -> Primitive {
        if !conv_goes([&x], &weight) {
            return plain::conv2d::<Self>(x, weight, stride, padding);
        }
        conv([x, weight], stride, padding, |_, _| ())
    }

    fn conv2d_input_grad(
        x: Primitive,
        weight: Primitive,
        grad: Primitive,
        stride: usize,
        padding: usize,
    ) -> Primitive {
        if !conv_goes([&x, &grad], &weight) {
            return plain::conv2d_input_grad::<Self>([x, weight, grad], stride, padding);
        }
        let (g, dtype) = (geometry(&x, &weight, stride, padding), x.dtype());
        let [weight, grad] = widen([weight, grad]);
        let x_grad = conv_cpu::input_grad(&g, values(&weight), values(&grad));
        narrow(x_grad, &[g.batch, g.height, g.width, g.channels_in], dtype)
    }

    fn conv2d_weight_grad(
        x: Primitive,
        weight: Primitive,
        grad: Primitive,
        stride: usize,
        padding: usize,
    ) -> Primitive {
        if !conv_goes([&x, &grad], &weight) {
            return plain::conv2d_weight_grad::<Self>([x, weight, grad], stride, padding);
        }
        let (g, dtype) = (geometry(&x, &weight, stride, padding), weight.dtype());
        let [x, grad] = widen([x, grad]);
        let weight_grad = conv_cpu::weight_grad(&g, values(&x), values(&grad));
        narrow(weight_grad, &[g.channels_out, g.channels_in, g.kernel[0], g.kernel[1]], dtype)
    }

    fn norm_forward(
        x: Primitive,
        gamma: Primitive,
        beta: Primitive,
        epsilon: f64,
        relu: bool,
    ) -> (Primitive, Primitive, Primitive) {
        if !norm_goes([&x], [&gamma, &beta]) {
            return plain::norm::<Self>([x, gamma, beta], None, epsilon, relu);
        }
        norm([x, gamma, beta], None, epsilon, relu)
    }

    fn norm_add_forward(
        x: Primitive,
        gamma: Primitive,
        beta: Primitive,
        residual: Primitive,
        epsilon: f64,
        relu: bool,
    ) -> (Primitive, Primitive, Primitive) {
        if !norm_goes([&x, &residual], [&gamma, &beta]) {
            return plain::norm::<Self>([x, gamma, beta], Some(residual), epsilon, relu);
        }
        norm([x, gamma, beta], Some(residual), epsilon, relu)
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
    ) -> (Primitive, Primitive, Primitive) {
        if !norm_goes([&x, &grad], [&gamma, &beta]) {
            let grads = plain::norm_grads::<Self>([x, gamma, mean, variance], output, grad, epsilon, relu);
            return (grads.0, grads.1, grads.2);
        }
        // Where there is no ReLU it is the input itself, which is written over if nobody else has it.
        drop(output);
        let (x, gamma, beta, _) = norm_grads([x, gamma, beta, mean, variance, grad], None, epsilon, relu);
        (x, gamma, beta)
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
    ) -> (Primitive, Primitive, Primitive, Primitive) {
        if !norm_goes([&x, &output, &grad], [&gamma, &beta]) {
            return plain::norm_grads::<Self>([x, gamma, mean, variance], output, grad, epsilon, relu);
        }
        let (output, dtype) = (relu.then_some(output), x.dtype());
        let (x, gamma, beta, grad) =
            norm_grads([x, gamma, beta, mean, variance, grad], output, epsilon, false);
        (x, gamma, beta, round(grad, dtype))
    }

    fn scale_shift(x: Primitive, scale: Primitive, shift: Primitive, relu: bool) -> Primitive {
        if !norm_goes([&x], [&scale, &shift]) {
            return plain::scale_shift::<Self>([x, scale, shift], None, relu);
        }
        scale_shift([x, scale, shift], None, relu)
    }

    fn scale_shift_add(
        x: Primitive,
        scale: Primitive,
        shift: Primitive,
        residual: Primitive,
        relu: bool,
    ) -> Primitive {
        if !norm_goes([&x, &residual], [&scale, &shift]) {
            return plain::scale_shift::<Self>([x, scale, shift], Some(residual), relu);
        }
        scale_shift([x, scale, shift], Some(residual), relu)
    }

    fn conv2d_line(
        x: Primitive,
        weight: Primitive,
        scale: Primitive,
        shift: Primitive,
        stride: usize,
        padding: usize,
        relu: bool,
    ) -> Primitive {
        if !conv_goes([&x], &weight) || !norm_goes([&x], [&scale, &shift]) {
            return plain::conv2d_line::<Self>([x, weight, scale, shift], None, [stride, padding], relu);
        }
        conv_line([x, weight, scale, shift], None, [stride, padding], relu)
    }

    fn conv2d_line_add(
        x: Primitive,
        weight: Primitive,
        scale: Primitive,
        shift: Primitive,
        residual: Primitive,
        stride: usize,
        padding: usize,
        relu: bool,
    ) -> Primitive {
        if !conv_goes([&x], &weight) || !norm_goes([&x, &residual], [&scale, &shift]) {
            return plain::conv2d_line::<Self>(
                [x, weight, scale, shift],
                Some(residual),
                [stride, padding],
                relu,
            );
        }
        conv_line([x, weight, scale, shift], Some(residual), [stride, padding], relu)
    }

    fn max_pool_forward(x: Primitive, size: usize, stride: usize, padding: usize) -> Primitive {
        if !all_alike([&x]) {
            return plain::max_pool::<Self>(x, size, stride, padding);
        }
        let (g, dtype) = (windows(&x, size, stride, padding), x.dtype());
        let [x] = widen([x]);
        let y = max_pool_cpu::forward(&g, values(&x));
        narrow(y, &[g.batch, g.out_height(), g.out_width(), g.channels_out], dtype)
    }

    fn max_pool_grad(x: Primitive, grad: Primitive, size: usize, stride: usize, padding: usize) -> Primitive {
        if !all_alike([&x, &grad]) {
            return plain::max_pool_grad::<Self>(x, grad, size, stride, padding);
        }
        let (g, dtype) = (windows(&x, size, stride, padding), x.dtype());
        let [x, grad] = widen([x, grad]);
        let x_grad = max_pool_cpu::input_grad(&g, values(&x), values(&grad));
        narrow(x_grad, &[g.batch, g.height, g.width, g.channels_in], dtype)
    }

    fn add(a: Primitive, b: Primitive) -> Primitive {
        if !all_alike([&a, &b]) {
            return plain::add::<Self>(a, b);
        }
        let (dtype, [b]) = (a.dtype(), widen([b]));
        let ((), sum) = on_copy(a, |a| {
            let parts = a.par_chunks_mut(GRAIN).zip(values(&b).par_chunks(GRAIN));
            parts.for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a += b));
        });
        round(sum, dtype)
    }

    fn option_a_forward(x: Primitive, channels: usize) -> Primitive {
        if !all_alike([&x]) {
            return plain::option_a::<Self>(x, channels);
        }
        let ([batch, height, width, own], dtype) = (x.shape().dims(), x.dtype());
        let [x] = widen([x]);
        let y = option_a_cpu::forward([height, width, own], channels, values(&x));
        narrow(y, &[batch, height.div_ceil(2), width.div_ceil(2), channels], dtype)
    }

    fn option_a_grad(grad: Primitive, height: usize, width: usize, channels: usize) -> Primitive {
        let image = [height, width, channels];
        if !all_alike([&grad]) {
            return plain::option_a_grad::<Self>(grad, image);
        }
        let ([batch, _, _, own], dtype) = (grad.shape().dims(), grad.dtype());
        let [grad] = widen([grad]);
        let x_grad = option_a_cpu::input_grad(image, own, values(&grad));
        narrow(x_grad, &[batch, height, width, channels], dtype)
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
        let step = SgdStep { lr, momentum, weight_decay, nesterov };
        if [&weight, &gradient, &velocity].iter().any(|tensor| tensor.dtype() != DType::F32) {
            return plain::sgd_step::<Self>(weight, gradient, velocity, step);
        }
        let [weight] = widen([weight]);
        let (((), velocity), weight) = on_copy(gradient, |gradient| {
            on_copy(velocity, |velocity| sgd_cpu::step(values(&weight), gradient, velocity, step))
        });
        (weight, velocity)
    }
}

/// Changes a tensor's f32 values: in place where nobody else holds them.
fn on_copy<R>(tensor: Primitive, change: impl FnOnce(&mut [f32]) -> R) -> (R, Primitive) {
    let [mut tensor] = widen([tensor]);
    let len = tensor.shape().num_elements();
    if let Some(values) = tensor.try_storage_mut::<f32>().filter(|values| values.len() == len) {
        return (change(values), tensor);
    }
    let mut copy = Buffer::of_any(len);
    copy.copy_from_slice(values(&tensor));
    (change(&mut copy), narrow(copy, &tensor.shape(), DType::F32))
}

fn conv(
    [x, weight]: [Primitive; 2],
    stride: usize,
    padding: usize,
    finish: impl Fn(usize, &mut [f32]) + Sync,
) -> Primitive {
    let (g, dtype) = (geometry(&x, &weight, stride, padding), x.dtype());
    let [x, weight] = widen([x, weight]);
    let y = conv_cpu::forward(&g, values(&x), values(&weight), finish);
    narrow(y, &[g.batch, g.out_height(), g.out_width(), g.channels_out], dtype)
}

fn conv_line(
    [x, weight, scale, shift]: [Primitive; 4],
    residual: Option<Primitive>,
    [stride, padding]: [usize; 2],
    relu: bool,
) -> Primitive {
    let [scale, shift] = widen([scale, shift]);
    let line = Line::new(values(&scale), values(&shift), relu);
    let residual = residual.map(|residual| widen([residual]));
    let residual = residual.as_ref().map(|[residual]| values(residual));
    conv([x, weight], stride, padding, |first, y| line.apply(y, residual.map(|residual| &residual[first..])))
}

fn scale_shift([x, scale, shift]: [Primitive; 3], residual: Option<Primitive>, relu: bool) -> Primitive {
    let dtype = x.dtype();
    let [scale, shift] = widen([scale, shift]);
    let line = Line::new(values(&scale), values(&shift), relu);
    let residual = residual.map(|residual| widen([residual]));
    let residual = residual.as_ref().map(|[residual]| values(residual));
    let ((), y) = on_copy(x, |x| line.apply_to_all(x, residual));
    round(y, dtype)
}

/// Those of a pool, as a convolution's.
fn windows(x: &Primitive, size: usize, stride: usize, padding: usize) -> Geometry {
    let shape: [usize; 4] = x.shape().dims();
    let channels = shape[3];
    Geometry::new(shape, [channels, channels, size, size], stride, padding)
}

fn norm(
    [x, gamma, beta]: [Primitive; 3],
    residual: Option<Primitive>,
    epsilon: f64,
    relu: bool,
) -> (Primitive, Primitive, Primitive) {
    let (shape, dtype) = (x.shape().dims::<4>(), x.dtype());
    let pixels = Pixels::new(shape, gamma.shape().num_elements(), beta.shape().num_elements());
    let [x, gamma, beta] = widen([x, gamma, beta]);
    let residual = residual.map(|residual| widen([residual]));
    let (mean, variance) = norm_cpu::statistics(pixels, values(&x));
    let affine = norm_cpu::Affine { mean: &mean, variance: &variance, gamma: values(&gamma), epsilon };
    let residual = residual.as_ref().map(|[residual]| values(residual));
    let y = norm_cpu::forward(pixels, values(&x), affine, values(&beta), residual, relu);
    let channels = [pixels.channels];
    (narrow(y, &shape, dtype), tensor(mean, &channels), tensor(variance, &channels))
}

/// The gradient behind the ReLU comes last, in f32. `output` is that of a ReLU behind a residual; `relu` says that there is
/// one without.
fn norm_grads(
    [x, gamma, beta, mean, variance, grad]: [Primitive; 6],
    output: Option<Primitive>,
    epsilon: f64,
    relu: bool,
) -> (Primitive, Primitive, Primitive, Primitive) {
    let (shape, dtype) = (x.shape(), x.dtype());
    let channels = gamma.shape().num_elements();
    let pixels = Pixels::new(shape.dims(), channels, beta.shape().num_elements());
    let [x, gamma, beta, mean, variance, grad] = widen([x, gamma, beta, mean, variance, grad]);
    let affine =
        norm_cpu::Affine { mean: values(&mean), variance: values(&variance), gamma: values(&gamma), epsilon };
    let (sums, grad) = match output.map(|output| widen([output])) {
        Some([output]) => on_copy(grad, |grad| {
            norm_cpu::mask_and_sum(pixels, values(&x), affine.mean, grad, values(&output))
        }),
        None => (norm_cpu::grad_sums(pixels, values(&x), affine, values(&beta), values(&grad), relu), grad),
    };
    let (gamma_grad, beta_grad) = norm_cpu::parameter_grads(affine, &sums);
    let ((), x_grad) = on_copy(x, |x| {
        norm_cpu::input_grads(pixels, x, affine, values(&beta), values(&grad), &sums, relu);
    });
    (round(x_grad, dtype), tensor(gamma_grad, &[channels]), tensor(beta_grad, &[channels]), grad)
}

/// From f32.
fn round(tensor: Primitive, dtype: DType) -> Primitive {
    if dtype == DType::F32 { tensor } else { narrow_slice(values(&tensor), &tensor.shape(), dtype) }
}
