//! Parts of baseline JPEGs, with AVX2: what lies outside of the part is stepped over, code by code, and never becomes a
//! coefficient, let alone a pixel. The pixels are libjpeg's to the last bit (its "slow" transform and "fancy" upsampling, as
//! Pillow and torchvision use them).
//!
//! Not here: which files these are (`Frame`); everything else is decoded by zune-jpeg.
//!
//! # Cost
//!
//! Two thirds of the time are codes: some 16 cycles for each within the part, half of that outside (benches/RESULTS.md).

mod colors;
mod huffman;
mod idct;

use std::ops::Range;

use bytemuck::cast;
use pulp::{NullaryFnOnce, x86::V3};

use self::{
    colors::CoarseRow,
    huffman::{BLOCK, Bits, NATURAL, Table, Wrong},
    idct::Factors,
};
use super::{Frame, START_OF_SCAN, Segment, Segments};
use crate::data::{crop::CropBox, picture::Channels};

/// Larger pictures are not decoded here, for their planes' memory: as much again as that of their pixels.
const MAX_PIXELS: usize = 1 << 25;

/// The side of a block, in samples.
const SIDE: usize = 8;

/// Decodes parts; keeps its memory from one to the next.
#[derive(Debug)]
pub(super) struct Decoder {
    simd: V3,
    factors: [Factors; 4],
    /// For the first coefficients of blocks, and for the others.
    tables: [[Table; 4]; 2],
    components: Vec<Component>,
    data: Vec<u8>,
    planes: [Vec<u8>; 3],
    /// A row of each color difference, spread, and sums on the way.
    rows: [Vec<u8>; 2],
    sums: Vec<i16>,
}

/// What the headers say of luma or a color difference.
#[derive(Debug, Clone, Copy)]
struct Component {
    id: u8,
    /// Its blocks in a unit.
    across: usize,
    down: usize,
    factors: usize,
    dc: usize,
    ac: usize,
}

/// What is decoded: units from some on to before others.
#[derive(Debug, Clone)]
struct Units {
    columns: Range<usize>,
    rows: Range<usize>,
    /// Of the whole picture.
    num_columns: usize,
}

impl Decoder {
    /// `None` on a processor without the instructions.
    pub(super) fn new() -> Option<Self> {
        V3::try_new().map(|simd| Self {
            simd,
            factors: [[0; BLOCK]; 4],
            tables: Default::default(),
            components: Vec::new(),
            data: Vec::new(),
            planes: Default::default(),
            rows: Default::default(),
            sums: Vec::new(),
        })
    }

    /// Takes the headers of a file whose frame is `frame`. Returns where the coded data begin, or `None` for what is not
    /// decoded here.
    pub(super) fn headers(&mut self, file: &[u8], frame: &Frame) -> Option<usize> {
        // So narrow that libjpeg does not interpolate colors.
        let is_narrow = frame.unit.0 > SIDE && frame.width < 2 * SIDE;
        if frame.has_restarts || is_narrow || frame.width * frame.height > MAX_PIXELS {
            return None;
        }
        self.components.clear();
        let (mut has_factors, mut has_tables) = ([false; 4], [[false; 4]; 2]);
        for Segment { marker, start, content } in Segments::of(file) {
            match marker {
                0xDB => self.take_factors(content, &mut has_factors)?,
                0xC4 => self.take_tables(content, &mut has_tables)?,
                0xC0 | 0xC1 => {
                    let (down, across) = (frame.unit.1 / SIDE, frame.unit.0 / SIDE);
                    for &[id, _, factors] in content.get(6..)?.as_chunks().0 {
                        let (across, down) = if self.components.is_empty() { (across, down) } else { (1, 1) };
                        let factors = factors.into();
                        self.components.push(Component { id, across, down, factors, dc: 0, ac: 0 });
                    }
                }
                START_OF_SCAN => {
                    let (components, [0, 63, 0]) = content.get(1..)?.split_last_chunk()? else { return None };
                    let (components, []) = components.as_chunks() else { return None };
                    if components.len() != self.components.len() {
                        return None;
                    }
                    for (component, &[id, tables]) in self.components.iter_mut().zip(components) {
                        if id != component.id {
                            return None;
                        }
                        (component.dc, component.ac) = (usize::from(tables >> 4), usize::from(tables & 15));
                        let is_defined = *has_factors.get(component.factors)?
                            && *has_tables[0].get(component.dc)?
                            && *has_tables[1].get(component.ac)?;
                        if !is_defined {
                            return None;
                        }
                    }
                    return Some(start + content.len());
                }
                _ => {}
            }
        }
        None
    }

    fn take_factors(&mut self, mut content: &[u8], has: &mut [bool; 4]) -> Option<()> {
        while let [kind, rest @ ..] = content {
            let place = usize::from(kind & 15);
            let factors = self.factors.get_mut(place)?;
            let width = if kind >> 4 == 0 { 1 } else { 2 };
            let (numbers, rest) = rest.split_at_checked(width * BLOCK)?;
            for (number, &natural) in numbers.chunks_exact(width).zip(&NATURAL) {
                let number = number.iter().fold(0, |number, &byte| number << 8 | u16::from(byte));
                factors[usize::from(natural)] = i16::try_from(number).ok()?;
            }
            has[place] = true;
            content = rest;
        }
        Some(())
    }

    fn take_tables(&mut self, mut content: &[u8], has: &mut [[bool; 4]; 2]) -> Option<()> {
        while let [kind, rest @ ..] = content {
            let (counts, rest) = rest.split_first_chunk()?;
            let num_symbols = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(num_symbols)?;
            let (class, place) = (usize::from(kind >> 4), usize::from(kind & 15));
            let table = self.tables.get_mut(class)?.get_mut(place)?;
            if !table.set(class == 0, counts, symbols) {
                return None;
            }
            has[class][place] = true;
            content = rest;
        }
        Some(())
    }

    /// Writes `part` of a picture whose headers were taken and whose coded data begin `data`.
    ///
    /// # Errors
    ///
    /// What is wrong with the data, in words, as far as they are looked at: to the part's last row.
    pub(super) fn decode(
        &mut self,
        data: &[u8],
        frame: &Frame,
        part: CropBox,
        pixels: &mut [u8],
    ) -> Result<(), &'static str> {
        let units = Units::around(frame, part);
        let num_units = units.num_columns * (units.rows.end - 1) + units.columns.end;
        // Before memory is taken: a block has a code for its first coefficient and one for its end.
        if data.len() * 4 < num_units * self.components.len() {
            return Err(Wrong::TooShort.reason());
        }
        let size = units.columns.len() * units.rows.len() * SIDE * SIDE;
        for (component, plane) in self.components.iter().zip(&mut self.planes) {
            let num_samples = size * component.across * component.down;
            // Never shorter: what is cut off would be zeroed when it is there again.
            plane.resize(plane.len().max(num_samples), 0);
            if units.columns.len() < units.num_columns || units.rows.start > 0 {
                self.tables[1][component.ac].make_steps();
            }
        }
        self.simd.vectorize(Work { decoder: self, data, frame, units, part, pixels }).map_err(Wrong::reason)
    }

    /// Copies coded data to the next marker without the zeros behind 0xFF.
    #[inline(always)]
    fn unstuff(&mut self, simd: V3, mut data: &[u8]) {
        const STEP: usize = 32;
        self.data.resize(data.len() + STEP, 0);
        let all_ones = simd.avx._mm256_set1_epi8(-1);
        let mut num_bytes = 0;
        while let Some(bytes) = data.first_chunk::<STEP>() {
            self.data[num_bytes..][..STEP].copy_from_slice(bytes);
            let is_ff = simd.avx2._mm256_cmpeq_epi8(cast(*bytes), all_ones);
            let first = simd.avx2._mm256_movemask_epi8(is_ff).trailing_zeros() as usize;
            if first == STEP {
                num_bytes += STEP;
                data = &data[STEP..];
            } else if let Some(0) = data.get(first + 1) {
                num_bytes += first + 1;
                data = &data[first + 2..];
            } else {
                return self.data.truncate(num_bytes + first);
            }
        }
        self.data.truncate(num_bytes);
        let mut rest = data.iter();
        while let Some(&byte) = rest.next() {
            if byte == 0xFF && rest.next() != Some(&0) {
                return;
            }
            self.data.push(byte);
        }
    }

    /// Decodes the units to the planes.
    #[inline(always)]
    fn scan(&mut self, simd: V3, units: &Units) -> Result<(), Wrong> {
        let Self { components, tables: [dc, ac], factors, planes, data, .. } = self;
        let mut bits = Bits::of(data);
        let mut firsts = [0_i32; 3];
        let mut coefficients = [0; 256];
        let (last_row, columns) = (units.rows.end - 1, &units.columns);
        for row in 0..units.rows.end {
            let end = if row == last_row { columns.end } else { units.num_columns };
            for column in 0..end {
                let is_within = row >= units.rows.start && columns.contains(&column);
                for ((component, plane), first) in components.iter().zip(&mut *planes).zip(&mut firsts) {
                    let Component { across, down, .. } = *component;
                    let (dc, ac) = (&dc[component.dc & 3], &ac[component.ac & 3]);
                    for block in 0..across * down {
                        *first = first.wrapping_add(bits.difference(dc)?);
                        if !is_within {
                            bits.step(ac)?;
                            continue;
                        }
                        let (x, y) = (block % across, block / across);
                        let stride = columns.len() * across * SIDE;
                        let y = ((row - units.rows.start) * down + y) * SIDE;
                        let x = ((column - columns.start) * across + x) * SIDE;
                        let into = &mut plane[y * stride + x..];
                        let factors = &factors[component.factors & 3];
                        if bits.block(ac, &mut coefficients)? {
                            coefficients[0] = *first as i16;
                            idct::write(simd, &coefficients, factors, into, stride);
                            coefficients[..BLOCK].fill(0);
                        } else {
                            idct::write_flat(*first as i16, factors, into, stride);
                        }
                    }
                }
            }
            if bits.is_past_the_end() {
                return Err(Wrong::TooShort);
            }
        }
        Ok(())
    }

    /// Makes pixels of the planes.
    #[inline(always)]
    fn write(&mut self, simd: V3, frame: &Frame, units: &Units, part: CropBox, pixels: &mut [u8]) {
        let [luma, planes @ ..] = &self.planes;
        let (left, top) = (units.columns.start * frame.unit.0, units.rows.start * frame.unit.1);
        let stride = units.columns.len() * frame.unit.0;
        let is_grey = frame.channels == Channels::Grey;
        let row_bytes = part.width * frame.channels.count();
        let (is_narrow, is_low) = (frame.unit.0 > SIDE, frame.unit.1 > SIDE);
        // The columns of the color differences that are needed, and the rows that there are.
        let needed = with_neighbors(is_narrow, part.left, part.left + part.width, frame.width);
        let coarse_left = units.columns.start * SIDE;
        let coarse_stride = units.columns.len() * SIDE;
        let coarse_height = frame.height.div_ceil(if is_low { 2 } else { 1 });
        for (y, into) in (part.top..).zip(pixels.chunks_exact_mut(row_bytes)) {
            let luma = &luma[(y - top) * stride + part.left - left..][..part.width];
            if is_grey {
                into.copy_from_slice(luma);
                continue;
            }
            for (plane, spread) in planes.iter().zip(&mut self.rows) {
                let row = |y: usize| {
                    let y = y - units.rows.start * SIDE;
                    &plane[y * coarse_stride + needed.start - coarse_left..][..needed.len()]
                };
                let coarse = if is_low {
                    let (near, is_below) = (y / 2, y % 2 == 1);
                    let far =
                        if is_below { (near + 1).min(coarse_height - 1) } else { near.saturating_sub(1) };
                    CoarseRow { near: row(near), far: Some((row(far), is_below)), is_narrow }
                } else {
                    CoarseRow { near: row(y), far: None, is_narrow }
                };
                colors::spread(coarse, &mut self.sums, spread);
            }
            let skipped = part.left - needed.start * if is_narrow { 2 } else { 1 };
            let [cb, cr] = &self.rows;
            colors::to_rgb(simd, luma, &cb[skipped..][..part.width], &cr[skipped..][..part.width], into);
        }
    }
}

/// What is to be done with AVX2: a closure's body would not be compiled for it, as it is called by way of a plain function.
struct Work<'a> {
    decoder: &'a mut Decoder,
    data: &'a [u8],
    frame: &'a Frame,
    units: Units,
    part: CropBox,
    pixels: &'a mut [u8],
}

impl NullaryFnOnce for Work<'_> {
    type Output = Result<(), Wrong>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        let Self { decoder, data, frame, units, part, pixels } = self;
        let simd = decoder.simd;
        decoder.unstuff(simd, data);
        decoder.scan(simd, &units)?;
        decoder.write(simd, frame, &units, part, pixels);
        Ok(())
    }
}

impl Units {
    /// Those that a part needs.
    fn around(frame: &Frame, part: CropBox) -> Self {
        let of = |unit: usize, start: usize, end: usize, side: usize| {
            let needed = with_neighbors(unit > SIDE, start, end, side);
            needed.start / SIDE..needed.end.div_ceil(SIDE)
        };
        Self {
            columns: of(frame.unit.0, part.left, part.left + part.width, frame.width),
            rows: of(frame.unit.1, part.top, part.top + part.height, frame.height),
            num_columns: frame.width.div_ceil(frame.unit.0),
        }
    }
}

/// The samples of a color difference for the pixels from `start` to before `end` of `side`: where there is one for two
/// pixels, those beside count, too.
fn with_neighbors(is_coarse: bool, start: usize, end: usize, side: usize) -> Range<usize> {
    match is_coarse {
        true => (start / 2).saturating_sub(1)..(end.div_ceil(2) + 1).min(side.div_ceil(2)),
        false => start..end,
    }
}
