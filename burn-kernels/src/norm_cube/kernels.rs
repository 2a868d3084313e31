//! The passes over memory, as each thread of a GPU runs them. What they compute and when they are launched is `norm_cube`'s.
//!
//! Images are a matrix, a row a pixel, a column a vector of channels. A cube of threads takes a block of columns and a part
//! of the rows: a thread stays in its column and goes down the part in steps of as many rows as the cube has, so that
//! neighbours read neighbouring memory and a channel's parameters are loaded once.

use burn::cubecl;
use cubecl::prelude::*;

/// What of a gradient a ReLU let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Mask {
    /// There is no ReLU.
    All,
    /// Told from the output that is computed again.
    Recomputed,
    /// Told from the output, which something was added to.
    Output,
}

/// What a thread goes over.
#[derive(CubeType)]
struct Walk {
    column: usize,
    /// Whether there is such a column.
    is_inside: bool,
    pixel: usize,
    end: usize,
    step: usize,
}

/// The thread's.
#[cube]
fn column() -> usize {
    (CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X) as usize
}

#[cube]
fn walk(columns: usize, pixels: usize, per_part: usize) -> Walk {
    let column = column();
    let begin = CUBE_POS_Y as usize * per_part;
    let end = clamp_max(begin + per_part, pixels);
    Walk {
        column,
        is_inside: column < columns,
        pixel: begin + UNIT_POS_Y as usize,
        end,
        step: CUBE_DIM_Y as usize,
    }
}

/// The sum over the rows of a cube, each lane its own; row 0 has it.
#[cube]
fn over_rows<N: Size>(value: Vector<f32, N>, #[comptime] units: usize) -> Vector<f32, N> {
    let mut values = Shared::<[Vector<f32, N>]>::new_slice(units);
    values[UNIT_POS as usize] = value;
    sync_cube();
    let mut rows = CUBE_DIM_Y / 2;
    while rows > 0 {
        if UNIT_POS_Y < rows {
            let other = values[(UNIT_POS + rows * CUBE_DIM_X) as usize];
            values[UNIT_POS as usize] += other;
        }
        sync_cube();
        rows /= 2;
    }
    values[UNIT_POS as usize]
}

/// Writes a cube's two sums: `[2, parts, columns]`.
#[cube]
fn write_sums<N: Size>(
    sums: &mut Tensor<Vector<f32, N>>,
    first: Vector<f32, N>,
    second: Vector<f32, N>,
    columns: usize,
    #[comptime] units: usize,
) {
    let first = over_rows::<N>(first, units);
    let second = over_rows::<N>(second, units);
    let column = column();
    if UNIT_POS_Y == 0 && column < columns {
        let part = CUBE_POS_Y as usize;
        let parts = CUBE_COUNT_Y as usize;
        sums[part * columns + column] = first;
        sums[(parts + part) * columns + column] = second;
    }
}

/// Sums of distances from the first pixel's value, which is about as far from the mean as others are, and of their squares:
/// with it, small variances survive large means.
#[cube(launch, address_type = "dynamic")]
pub(super) fn sum_distances<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    sums: &mut Tensor<Vector<f32, N>>,
    columns: usize,
    pixels: usize,
    per_part: usize,
    #[comptime] units: usize,
    #[define(F)] _number: ElemType,
) {
    let mut walk = walk(columns, pixels, per_part);
    let mut first = Vector::<f32, N>::new(0.0);
    let mut second = Vector::<f32, N>::new(0.0);
    if walk.is_inside {
        let origin = Vector::<f32, N>::cast_from(x[walk.column]);
        while walk.pixel < walk.end {
            let distance = Vector::<f32, N>::cast_from(x[walk.pixel * columns + walk.column]) - origin;
            first += distance;
            second += distance * distance;
            walk.pixel += walk.step;
        }
    }
    write_sums::<N>(sums, first, second, columns, units);
}

/// A channel's two sums over all parts; row 0 has them.
#[cube]
fn total(sums: &Tensor<f32>, channels: usize, parts: usize, #[comptime] units: usize) -> (f32, f32) {
    let mut walk = walk(channels, parts, parts);
    let mut first = 0.0f32;
    let mut second = 0.0f32;
    if walk.is_inside {
        while walk.pixel < walk.end {
            first += sums[walk.pixel * channels + walk.column];
            second += sums[(parts + walk.pixel) * channels + walk.column];
            walk.pixel += walk.step;
        }
    }
    let first = over_rows::<Const<1>>(Vector::new(first), units);
    let second = over_rows::<Const<1>>(Vector::new(second), units);
    (first.extract(0usize), second.extract(0usize))
}

/// Mean and biased variance of each channel, out of [`sum_distances`].
#[cube(launch)]
pub(super) fn statistics<F: Float>(
    x: &Tensor<F>,
    sums: &Tensor<f32>,
    mean: &mut Tensor<f32>,
    variance: &mut Tensor<f32>,
    channels: usize,
    parts: usize,
    pixels: f32,
    #[comptime] units: usize,
    #[define(F)] _number: ElemType,
) {
    let (first, second) = total(sums, channels, parts, units);
    let channel = column();
    if UNIT_POS_Y == 0 && channel < channels {
        let distance = first / pixels;
        let square = second / pixels - distance * distance;
        mean[channel] = f32::cast_from(x[channel]) + distance;
        // NaN stays.
        variance[channel] = select(square < 0.0, 0.0, square);
    }
}

/// What normalises a column.
#[derive(CubeType, Clone, Copy)]
struct Affine<N: Size> {
    mean: Vector<f32, N>,
    inverse_deviation: Vector<f32, N>,
    gamma: Vector<f32, N>,
    beta: Vector<f32, N>,
}

#[cube]
fn affine<N: Size>(
    mean: &Tensor<Vector<f32, N>>,
    variance: &Tensor<Vector<f32, N>>,
    gamma: &Tensor<Vector<f32, N>>,
    beta: &Tensor<Vector<f32, N>>,
    epsilon: f32,
    column: usize,
) -> Affine<N> {
    Affine::<N> {
        mean: mean[column],
        inverse_deviation: (variance[column] + Vector::new(epsilon)).inverse_sqrt(),
        gamma: gamma[column],
        beta: beta[column],
    }
}

#[cube]
fn normal<N: Size>(affine: &Affine<N>, x: Vector<f32, N>) -> Vector<f32, N> {
    (x - affine.mean) * (affine.gamma * affine.inverse_deviation) + affine.beta
}

/// Normalises, adds the residual if `add`, applies ReLU if `relu`.
#[cube(launch, address_type = "dynamic")]
pub(super) fn normalise<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    residual: &Tensor<Vector<F, N>>,
    mean: &Tensor<Vector<f32, N>>,
    variance: &Tensor<Vector<f32, N>>,
    gamma: &Tensor<Vector<f32, N>>,
    beta: &Tensor<Vector<f32, N>>,
    output: &mut Tensor<Vector<F, N>>,
    columns: usize,
    pixels: usize,
    per_part: usize,
    epsilon: f32,
    #[comptime] add: bool,
    #[comptime] relu: bool,
    #[define(F)] _number: ElemType,
) {
    let mut walk = walk(columns, pixels, per_part);
    if walk.is_inside {
        let affine = affine::<N>(mean, variance, gamma, beta, epsilon, walk.column);
        while walk.pixel < walk.end {
            let place = walk.pixel * columns + walk.column;
            let mut y = normal::<N>(&affine, Vector::cast_from(x[place]));
            if comptime!(add) {
                y += Vector::cast_from(residual[place]);
            }
            if comptime!(relu) {
                let zero = Vector::<f32, N>::new(0.0);
                // A maximum would turn NaN into 0.
                y = select_many(y.less_than(&zero), zero, y);
            }
            output[place] = Vector::cast_from(y);
            walk.pixel += walk.step;
        }
    }
}

/// What of the gradient at a place the ReLU let through.
#[cube]
fn masked<F: Float, N: Size>(
    grad: &Tensor<Vector<F, N>>,
    output: &Tensor<Vector<F, N>>,
    place: usize,
    x: Vector<f32, N>,
    affine: &Affine<N>,
    #[comptime] mask: Mask,
) -> Vector<f32, N> {
    let grad = Vector::<f32, N>::cast_from(grad[place]);
    let zero = Vector::<f32, N>::new(0.0);
    match comptime!(mask) {
        Mask::All => grad,
        Mask::Recomputed => select_many(normal::<N>(affine, x).greater_than(&zero), grad, zero),
        Mask::Output => {
            let output = Vector::<f32, N>::cast_from(output[place]);
            select_many(output.greater_than(&zero), grad, zero)
        }
    }
}

/// Sums of the gradient and of its products with `x - mean`.
#[cube(launch, address_type = "dynamic")]
pub(super) fn sum_gradients<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    output: &Tensor<Vector<F, N>>,
    grad: &Tensor<Vector<F, N>>,
    mean: &Tensor<Vector<f32, N>>,
    variance: &Tensor<Vector<f32, N>>,
    gamma: &Tensor<Vector<f32, N>>,
    beta: &Tensor<Vector<f32, N>>,
    sums: &mut Tensor<Vector<f32, N>>,
    columns: usize,
    pixels: usize,
    per_part: usize,
    epsilon: f32,
    #[comptime] mask: Mask,
    #[comptime] units: usize,
    #[define(F)] _number: ElemType,
) {
    let mut walk = walk(columns, pixels, per_part);
    let mut first = Vector::<f32, N>::new(0.0);
    let mut second = Vector::<f32, N>::new(0.0);
    if walk.is_inside {
        let affine = affine::<N>(mean, variance, gamma, beta, epsilon, walk.column);
        while walk.pixel < walk.end {
            let place = walk.pixel * columns + walk.column;
            let x = Vector::<f32, N>::cast_from(x[place]);
            let grad = masked::<F, N>(grad, output, place, x, &affine, mask);
            first += grad;
            second += grad * (x - affine.mean);
            walk.pixel += walk.step;
        }
    }
    write_sums::<N>(sums, first, second, columns, units);
}

/// Gradients of gamma and beta, out of [`sum_gradients`].
#[cube(launch)]
pub(super) fn channel_gradients(
    sums: &Tensor<f32>,
    variance: &Tensor<f32>,
    gamma_grad: &mut Tensor<f32>,
    beta_grad: &mut Tensor<f32>,
    channels: usize,
    parts: usize,
    epsilon: f32,
    #[comptime] units: usize,
) {
    let (first, second) = total(sums, channels, parts, units);
    let channel = column();
    if UNIT_POS_Y == 0 && channel < channels {
        gamma_grad[channel] = second * (variance[channel] + epsilon).inverse_sqrt();
        beta_grad[channel] = first;
    }
}

/// Gradient of the images, and, if `add`, of the residual: what the ReLU let through.
#[cube(launch, address_type = "dynamic")]
pub(super) fn image_gradients<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    output: &Tensor<Vector<F, N>>,
    grad: &Tensor<Vector<F, N>>,
    mean: &Tensor<Vector<f32, N>>,
    variance: &Tensor<Vector<f32, N>>,
    gamma: &Tensor<Vector<f32, N>>,
    beta: &Tensor<Vector<f32, N>>,
    gamma_grad: &Tensor<Vector<f32, N>>,
    beta_grad: &Tensor<Vector<f32, N>>,
    x_grad: &mut Tensor<Vector<F, N>>,
    residual_grad: &mut Tensor<Vector<F, N>>,
    columns: usize,
    pixels: usize,
    per_part: usize,
    epsilon: f32,
    #[comptime] mask: Mask,
    #[comptime] add: bool,
    #[define(F)] _number: ElemType,
) {
    let mut walk = walk(columns, pixels, per_part);
    if walk.is_inside {
        let affine = affine::<N>(mean, variance, gamma, beta, epsilon, walk.column);
        let share = Vector::<f32, N>::new(1.0 / f32::cast_from(pixels));
        let mean_grad = beta_grad[walk.column] * share;
        let slope = gamma_grad[walk.column] * share * affine.inverse_deviation;
        let scale = affine.gamma * affine.inverse_deviation;
        while walk.pixel < walk.end {
            let place = walk.pixel * columns + walk.column;
            let x = Vector::<f32, N>::cast_from(x[place]);
            let grad = masked::<F, N>(grad, output, place, x, &affine, mask);
            x_grad[place] = Vector::cast_from((grad - mean_grad - (x - affine.mean) * slope) * scale);
            if comptime!(add) {
                residual_grad[place] = Vector::cast_from(grad);
            }
            walk.pixel += walk.step;
        }
    }
}
