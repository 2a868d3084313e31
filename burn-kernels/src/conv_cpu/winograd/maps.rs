//! The linear maps between pixels, kernels and points, of a line of values each; a square goes through twice. Lavin and Gray
//! 2015, section 4, for the points 0, r, -r, 1/r, -1/r and infinity with r the root of one half.

use pulp::Simd;

use super::{KERNEL, TILE, WINDOW};

/// r and 1/r.
const ROOT: f32 = core::f32::consts::FRAC_1_SQRT_2;
const INVERSE: f32 = core::f32::consts::SQRT_2;

/// A linear map of a line of `N` values to one of `P`.
pub(super) trait Map<const N: usize, const P: usize> {
    fn line<S: Simd>(simd: S, line: [S::f32s; N]) -> [S::f32s; P];

    /// Of all columns, then of all rows.
    #[inline(always)]
    fn square<S: Simd>(simd: S, from: [[S::f32s; N]; N]) -> [[S::f32s; P]; P] {
        let mut half = [[simd.splat_f32s(0.0); N]; P];
        for column in 0..N {
            let mut line = [simd.splat_f32s(0.0); N];
            for row in 0..N {
                line[row] = from[row][column];
            }
            let line = Self::line(simd, line);
            for row in 0..P {
                half[row][column] = line[row];
            }
        }
        let mut to = [[simd.splat_f32s(0.0); P]; P];
        for row in 0..P {
            to[row] = Self::line(simd, half[row]);
        }
        to
    }
}

/// A window to the points.
pub(super) struct Window;

impl Map<WINDOW, WINDOW> for Window {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [a, b, c, d, e, f]: [S::f32s; WINDOW]) -> [S::f32s; WINDOW] {
        let minus = |factor: f32| simd.splat_f32s(-factor);
        let both = |even, odd, factor: f32| {
            [simd.splat_f32s(factor), minus(factor)].map(
                #[inline(always)]
                |factor| simd.mul_add_e_f32s(odd, factor, even),
            )
        };
        let first = simd.add_f32s(simd.mul_add_e_f32s(c, minus(2.5), a), e);
        let last = simd.add_f32s(simd.mul_add_e_f32s(d, minus(2.5), b), f);
        let near = [simd.mul_add_e_f32s(c, minus(2.0), e), simd.mul_add_e_f32s(b, minus(2.0), d)];
        let far = [simd.mul_add_e_f32s(c, minus(0.5), e), simd.mul_add_e_f32s(b, minus(0.5), d)];
        let [p, q] = both(near[0], near[1], ROOT);
        let [r, s] = both(far[0], far[1], INVERSE);
        [first, p, q, r, s, last]
    }
}

/// A kernel to the points.
pub(super) struct Kernel;

impl Map<KERNEL, WINDOW> for Kernel {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [a, b, c]: [S::f32s; KERNEL]) -> [S::f32s; WINDOW] {
        let times = |value, factor: f32| simd.mul_f32s(value, simd.splat_f32s(factor));
        let near = times(simd.mul_add_e_f32s(c, simd.splat_f32s(0.5), a), -1.0 / 1.5);
        let far = times(simd.mul_add_e_f32s(c, simd.splat_f32s(2.0), a), 1.0 / 6.0);
        let (near_odd, far_odd) = (times(b, -ROOT / 1.5), times(b, INVERSE / 6.0));
        [
            a,
            simd.add_f32s(near, near_odd),
            simd.sub_f32s(near, near_odd),
            simd.add_f32s(far, far_odd),
            simd.sub_f32s(far, far_odd),
            c,
        ]
    }
}

/// The points to a tile.
pub(super) struct Tile;

impl Map<WINDOW, TILE> for Tile {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [a, b, c, d, e, f]: [S::f32s; WINDOW]) -> [S::f32s; TILE] {
        let sum = |near, far, [p, q]: [f32; 2]| {
            simd.mul_add_e_f32s(near, simd.splat_f32s(p), simd.mul_f32s(far, simd.splat_f32s(q)))
        };
        let (near, far) = (simd.add_f32s(b, c), simd.add_f32s(d, e));
        let (near_odd, far_odd) = (simd.sub_f32s(b, c), simd.sub_f32s(d, e));
        [
            simd.add_f32s(simd.add_f32s(a, near), far),
            sum(near_odd, far_odd, [ROOT, INVERSE]),
            sum(near, far, [0.5, 2.0]),
            simd.add_f32s(sum(near_odd, far_odd, [ROOT / 2.0, INVERSE * 2.0]), f),
        ]
    }
}

/// The gradient of a tile to that of the points.
pub(super) struct TileGrad;

impl Map<TILE, WINDOW> for TileGrad {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; TILE]) -> [S::f32s; WINDOW] {
        let at = |square: f32, root: f32| {
            let even = simd.mul_add_e_f32s(c, simd.splat_f32s(square), a);
            let odd = simd.mul_add_e_f32s(d, simd.splat_f32s(square), b);
            [root, -root].map(
                #[inline(always)]
                |root| simd.mul_add_e_f32s(odd, simd.splat_f32s(root), even),
            )
        };
        let [p, q] = at(0.5, ROOT);
        let [r, s] = at(2.0, INVERSE);
        [a, p, q, r, s, d]
    }
}

/// The gradient of the points to that of a kernel.
pub(super) struct KernelGrad;

impl Map<WINDOW, KERNEL> for KernelGrad {
    #[inline(always)]
    fn line<S: Simd>(simd: S, [a, b, c, d, e, f]: [S::f32s; WINDOW]) -> [S::f32s; KERNEL] {
        let sum = |near, far, [p, q]: [f32; 2], more| {
            simd.mul_add_e_f32s(near, simd.splat_f32s(p), simd.mul_add_e_f32s(far, simd.splat_f32s(q), more))
        };
        let (near, far) = (simd.add_f32s(b, c), simd.add_f32s(d, e));
        let (near_odd, far_odd) = (simd.sub_f32s(b, c), simd.sub_f32s(d, e));
        [
            sum(near, far, [-1.0 / 1.5, 1.0 / 6.0], a),
            sum(near_odd, far_odd, [-ROOT / 1.5, INVERSE / 6.0], simd.splat_f32s(0.0)),
            sum(near, far, [-0.5 / 1.5, 2.0 / 6.0], f),
        ]
    }
}
