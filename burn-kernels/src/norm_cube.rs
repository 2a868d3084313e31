//! Batch norm by the batch's own statistics on a GPU, with the addition and ReLU behind it, and its gradients: what is
//! launched, over what (Ioffe and Szegedy 2015, section 3). The kernels are `norm_cube::kernels`.
//!
//! A GPU's batch norm is bound by memory. Forward, images are read twice and written once; backward, images and gradient are
//! read twice and a gradient written once. The ReLU's mask is told from the images where nothing was added, so that
//! the output need not be read.
//!
//! A channel's values are summed in an order that depends on shapes alone.

mod kernels;

use burn::backend::cubecl::dtype_to_storage_type;
use burn::cubecl;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_std::Shape;
use cubecl::ir::ElemType;
use cubecl::prelude::{AddressType, CubeCount, CubeDim, VectorSize};

use self::kernels::Mask;
use crate::cube_tensor::{room, room_like, vector_size};
use crate::grid::{Grid, UNITS};

fn count(grid: Grid) -> CubeCount {
    let [x, y] = grid.cubes.map(|cubes| u32::try_from(cubes).expect("cut into few"));
    CubeCount::Static(x, y, 1)
}

fn dim(grid: Grid) -> CubeDim {
    let [x, y] = grid.cube.map(|units| units as u32);
    CubeDim::new_2d(x, y)
}

/// Images as a matrix of vectors of channels.
#[derive(Debug, Clone, Copy)]
struct Images {
    number: ElemType,
    vector: VectorSize,
    address: AddressType,
    channels: usize,
    pixels: usize,
    grid: Grid,
}

impl Images {
    fn new(x: &CubeTensor) -> Self {
        let [batch, height, width, channels] = x.meta.shape().dims();
        let vector = vector_size(x, channels);
        let pixels = batch * height * width;
        Self {
            number: dtype_to_storage_type(x.dtype),
            vector,
            address: x.required_address_type(),
            channels,
            pixels,
            grid: Grid::new(channels / vector, pixels),
        }
    }

    /// Room for two sums of each channel and part, and how they are added up.
    fn sums(self, like: &CubeTensor) -> (CubeTensor, Grid) {
        let parts = self.grid.cubes[1];
        let sums = room(like, Shape::new([2, parts, self.channels]), DType::F32);
        (sums, Grid::of_sums(self.channels, parts))
    }
}

/// Output, mean, biased variance.
pub(crate) fn forward(
    [x, gamma, beta]: [CubeTensor; 3],
    residual: Option<CubeTensor>,
    epsilon: f64,
    relu: bool,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let [x, gamma, beta] = [x, gamma, beta].map(into_contiguous);
    let residual = residual.map(into_contiguous);
    let client = x.client.clone();
    let images = Images::new(&x);
    let Images { number, vector, address, channels, pixels, grid } = images;
    let (sums, of_sums) = images.sums(&x);
    let (output, mean, variance) = (room_like(&x), room_like(&gamma), room_like(&gamma));
    kernels::sum_distances::launch(
        &client,
        count(grid),
        dim(grid),
        address,
        vector,
        x.clone().into_tensor_arg(),
        sums.clone().into_tensor_arg(),
        grid.columns,
        grid.rows,
        grid.rows_a_part,
        UNITS,
        number,
    );
    kernels::statistics::launch(
        &client,
        count(of_sums),
        dim(of_sums),
        x.clone().into_tensor_arg(),
        sums.into_tensor_arg(),
        mean.clone().into_tensor_arg(),
        variance.clone().into_tensor_arg(),
        channels,
        of_sums.rows,
        pixels as f32,
        UNITS,
        number,
    );
    let add = residual.is_some();
    kernels::normalise::launch(
        &client,
        count(grid),
        dim(grid),
        address,
        vector,
        x.clone().into_tensor_arg(),
        residual.unwrap_or(x).into_tensor_arg(),
        mean.clone().into_tensor_arg(),
        variance.clone().into_tensor_arg(),
        gamma.into_tensor_arg(),
        beta.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        grid.columns,
        grid.rows,
        grid.rows_a_part,
        epsilon as f32,
        add,
        relu,
        number,
    );
    (output, mean, variance)
}

/// What the gradients are computed from.
pub(crate) struct Saved {
    pub(crate) x: CubeTensor,
    pub(crate) gamma: CubeTensor,
    pub(crate) beta: CubeTensor,
    pub(crate) mean: CubeTensor,
    pub(crate) variance: CubeTensor,
    /// Of a norm to which something was added.
    pub(crate) output: Option<CubeTensor>,
    pub(crate) epsilon: f64,
    pub(crate) relu: bool,
}

/// Gradients of x, gamma, beta and what was added.
pub(crate) fn backward(saved: Saved, grad: CubeTensor) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let Saved { x, gamma, beta, mean, variance, output, epsilon, relu } = saved;
    let (mask, is_own) = match (relu, &output) {
        (false, _) => (Mask::All, false),
        (true, None) => (Mask::Recomputed, false),
        (true, Some(_)) => (Mask::Output, true),
    };
    let [x, gamma, beta, mean, variance, grad] = [x, gamma, beta, mean, variance, grad].map(into_contiguous);
    // A kernel takes a tensor also where it does not look at it.
    let output = output.filter(|_| is_own).map_or_else(|| x.clone(), into_contiguous);
    let client = x.client.clone();
    let images = Images::new(&x);
    let Images { number, vector, address, channels, grid, .. } = images;
    let (sums, of_sums) = images.sums(&x);
    let (x_grad, gamma_grad, beta_grad) = (room_like(&x), room_like(&gamma), room_like(&gamma));
    kernels::sum_gradients::launch(
        &client,
        count(grid),
        dim(grid),
        address,
        vector,
        x.clone().into_tensor_arg(),
        output.clone().into_tensor_arg(),
        grad.clone().into_tensor_arg(),
        mean.clone().into_tensor_arg(),
        variance.clone().into_tensor_arg(),
        gamma.clone().into_tensor_arg(),
        beta.clone().into_tensor_arg(),
        sums.clone().into_tensor_arg(),
        grid.columns,
        grid.rows,
        grid.rows_a_part,
        epsilon as f32,
        mask,
        UNITS,
        number,
    );
    kernels::channel_gradients::launch(
        &client,
        count(of_sums),
        dim(of_sums),
        sums.clone().into_tensor_arg(),
        variance.clone().into_tensor_arg(),
        gamma_grad.clone().into_tensor_arg(),
        beta_grad.clone().into_tensor_arg(),
        channels,
        of_sums.rows,
        epsilon as f32,
        UNITS,
    );
    // Without a ReLU the residual's gradient is the output's.
    let residual_grad = if is_own { room_like(&x) } else { grad.clone() };
    kernels::image_gradients::launch(
        &client,
        count(grid),
        dim(grid),
        address,
        vector,
        x.into_tensor_arg(),
        output.into_tensor_arg(),
        grad.into_tensor_arg(),
        mean.into_tensor_arg(),
        variance.into_tensor_arg(),
        gamma.into_tensor_arg(),
        beta.into_tensor_arg(),
        gamma_grad.clone().into_tensor_arg(),
        beta_grad.clone().into_tensor_arg(),
        x_grad.clone().into_tensor_arg(),
        if is_own { residual_grad.clone() } else { sums }.into_tensor_arg(),
        grid.columns,
        grid.rows,
        grid.rows_a_part,
        epsilon as f32,
        mask,
        is_own,
        number,
    );
    (x_grad, gamma_grad, beta_grad, residual_grad)
}
