//! The curves of a run as a picture: loss, accuracy and learning rate over epochs, a dashed line where a phase starts.
//!
//! One function draws on any backend of plotters: bitmap for `curve.png`, SVG for the report. Only its primitives are
//! used; axes and legends are set by hand, so that the panels share one x axis and nothing covers a curve.

use std::io::Cursor;
use std::sync::OnceLock;

use image::{ImageFormat, RgbImage};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::RecordError;
use super::metrics::Row;
use super::series::{Axis, Curves, Panel, Point, Series};

/// The picture is laid out in units of this many dots: enough that steps of a dot do not show.
const SCALE: i32 = 3;
const TOP: i32 = 34;
const BOTTOM: i32 = 52;
const LEFT: i32 = 64;
const RIGHT: i32 = 20;
/// Above a panel's frame, for its name.
const HEADER: i32 = 34;

/// What depends on how wide the picture is.
struct Layout {
    width: i32,
    /// Above the frame of a panel with a legend.
    panel_header: i32,
    /// From the middle of a panel's name to that of its legend.
    legend_drop: i32,
    /// Of the legend's piece of line, and between two entries.
    legend_line: i32,
    legend_gap: i32,
    num_marks: u32,
}

const WIDE: Layout = Layout {
    width: 1000,
    panel_header: HEADER,
    legend_drop: 0,
    legend_line: 24,
    legend_gap: 22,
    num_marks: 10,
};

/// For a phone held upright: its 390 px, and letters that can be read there.
const NARROW: Layout =
    Layout { width: 400, panel_header: 52, legend_drop: 21, legend_line: 14, legend_gap: 14, num_marks: 6 };

const TEXT: RGBColor = RGBColor(52, 60, 74);
const FAINT: RGBColor = RGBColor(120, 128, 140);
const GRID: RGBColor = RGBColor(228, 231, 236);
const FRAME: RGBColor = RGBColor(172, 179, 190);

/// The family under which the embedded font is registered; an SVG names it too, and there the reader's own is taken.
const FONT: &str = "sans-serif";

/// The bitmap backend sets text too high by this part of its size: what it takes for the middle leaves room for
/// accents. SVG readers do not.
const BITMAP_TEXT_DROP: f64 = 0.18;

/// Draws a run's curves as a PNG.
///
/// # Errors
/// [`RecordError::Drawing`].
///
/// # Cost
/// Under 30 MB while drawing; the rows are thinned out first, so time does not grow with them much.
pub fn curve_png(rows: &[Row]) -> Result<Vec<u8>, RecordError> {
    let curves = Curves::new(rows, WIDE.num_marks);
    let (width, height) = (WIDE.width * SCALE, WIDE.height(&curves) * SCALE);
    let mut dots = vec![255; (width * height * 3) as usize];
    let backend = BitMapBackend::with_buffer(&mut dots, (width as u32, height as u32));
    draw(&backend.into_drawing_area(), &WIDE, &curves, BITMAP_TEXT_DROP)?;
    let picture = halve(&dots, width as usize, height as usize);
    let picture = RgbImage::from_raw(width as u32 / 2, height as u32 / 2, picture)
        .expect("halve returns three bytes a pixel of half the width and height");
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png).map_err(drawing)?;
    Ok(png.into_inner())
}

/// Draws a run's curves as an SVG element without background, to be put into a page.
///
/// # Errors
/// [`RecordError::Drawing`].
pub fn curve_svg(rows: &[Row]) -> Result<String, RecordError> {
    svg(rows, &WIDE)
}

/// The same for a page as narrow as a phone.
pub(super) fn curve_svg_narrow(rows: &[Row]) -> Result<String, RecordError> {
    svg(rows, &NARROW)
}

fn svg(rows: &[Row], layout: &Layout) -> Result<String, RecordError> {
    let curves = Curves::new(rows, layout.num_marks);
    let size = ((layout.width * SCALE) as u32, (layout.height(&curves) * SCALE) as u32);
    let mut svg = String::new();
    draw(&SVGBackend::with_string(&mut svg, size).into_drawing_area(), layout, &curves, 0.0)?;
    // Without its own width and height, the element takes those of the page.
    let sized = format!("<svg width=\"{}\" height=\"{}\" ", size.0, size.1);
    Ok(svg.replacen(&sized, "<svg role=\"img\" aria-label=\"curves of the run\" ", 1))
}

fn drawing(error: impl std::fmt::Display) -> RecordError {
    RecordError::Drawing { reason: error.to_string() }
}

/// Means of two by two dots: the backend's thick lines have hard edges.
fn halve(dots: &[u8], width: usize, height: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(dots.len() / 4);
    for y in 0..height / 2 {
        for x in 0..width / 2 {
            for channel in 0..3 {
                let dot = |dy, dx| u16::from(dots[((2 * y + dy) * width + 2 * x + dx) * 3 + channel]);
                out.push(((dot(0, 0) + dot(0, 1) + dot(1, 0) + dot(1, 1) + 2) / 4) as u8);
            }
        }
    }
    out
}

impl Layout {
    fn height(&self, curves: &Curves) -> i32 {
        let panels = curves.panels.iter().map(|panel| self.panel_height(panel));
        TOP + BOTTOM + panels.sum::<i32>().max(160)
    }

    fn panel_height(&self, panel: &Panel) -> i32 {
        match panel.y.name {
            "learning rate" => HEADER + 130,
            "image size" | "data wait a step" => HEADER + 90,
            _ => self.panel_header + 250,
        }
    }

    /// In dots.
    fn x_of(&self, axis: &Axis, value: f64) -> i32 {
        let width = f64::from((self.width - LEFT - RIGHT) * SCALE);
        LEFT * SCALE + (axis.fraction(value) * width).round() as i32
    }
}

/// Draws the whole picture on `area`, which must be as wide and high as the layout says, times [`SCALE`].
fn draw<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    layout: &Layout,
    curves: &Curves,
    text_drop: f64,
) -> Result<(), RecordError> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let registered = REGISTERED.get_or_init(|| {
        let font = include_bytes!("../../assets/Roboto-subset.ttf");
        plotters::style::register_font(FONT, FontStyle::Normal, font).is_ok()
    });
    if !registered {
        return Err(drawing("the embedded font is damaged"));
    }
    let canvas = Canvas { area, layout, text_drop };
    if curves.panels.is_empty() {
        let center = (layout.width / 2, layout.height(curves) / 2);
        canvas.text("nothing to draw: no step has been recorded yet", center, 18, FAINT, HPos::Center)?;
        return area.present().map_err(drawing);
    }
    let mut top = TOP;
    for panel in &curves.panels {
        let bottom = top + layout.panel_height(panel);
        let header = if has_legend(panel) { layout.panel_header } else { HEADER };
        let frame = Frame { top: top + header, bottom };
        canvas.panel(panel, &frame, curves)?;
        top = bottom;
    }
    canvas.phase_words(curves)?;
    for (value, label) in &curves.x.ticks {
        canvas.text(label, (layout.x_of(&curves.x, *value) / SCALE, top + 15), 15, TEXT, HPos::Center)?;
    }
    let middle = (LEFT + layout.width - RIGHT) / 2;
    canvas.text(curves.x.name, (middle, top + 38), 16, TEXT, HPos::Center)?;
    area.present().map_err(drawing)
}

/// A panel's top and bottom edge.
struct Frame {
    top: i32,
    bottom: i32,
}

impl Frame {
    /// In dots.
    fn y_of(&self, axis: &Axis, value: f64) -> i32 {
        let height = f64::from((self.bottom - self.top) * SCALE);
        self.bottom * SCALE - (axis.fraction(value) * height).round() as i32
    }
}

/// A panel of one curve has its name.
fn has_legend(panel: &Panel) -> bool {
    panel.series.len() > 1 || panel.series.iter().any(|series| series.name != panel.y.name)
}

struct Canvas<'a, DB: DrawingBackend> {
    area: &'a DrawingArea<DB, Shift>,
    layout: &'a Layout,
    text_drop: f64,
}

impl<DB: DrawingBackend> Canvas<'_, DB> {
    fn panel(&self, panel: &Panel, frame: &Frame, curves: &Curves) -> Result<(), RecordError> {
        let layout = self.layout;
        let (left, right) = (LEFT * SCALE, (layout.width - RIGHT) * SCALE);
        for (value, label) in &panel.y.ticks {
            let y = frame.y_of(&panel.y, *value);
            self.line(&[(left, y), (right, y)], GRID.stroke_width(SCALE as u32))?;
            self.text(label, (LEFT - 8, y / SCALE), 15, TEXT, HPos::Right)?;
        }
        for (value, _) in &curves.x.ticks {
            let x = layout.x_of(&curves.x, *value);
            self.line(&[(x, frame.top * SCALE), (x, frame.bottom * SCALE)], GRID.stroke_width(SCALE as u32))?;
        }
        for (start, _) in curves.phases.iter().skip(1) {
            self.dashes(layout.x_of(&curves.x, *start), frame)?;
        }
        for series in &panel.series {
            self.series(series, &|x| layout.x_of(&curves.x, x), &|y| frame.y_of(&panel.y, y))?;
        }
        let axes = [(left, frame.top * SCALE), (left, frame.bottom * SCALE), (right, frame.bottom * SCALE)];
        self.line(&axes, FRAME.stroke_width(SCALE as u32))?;
        if !has_legend(panel) {
            return self.text(panel.y.name, (LEFT, frame.top - 15), 18, TEXT, HPos::Left);
        }
        let legend = frame.top - 15;
        self.text(panel.y.name, (LEFT, legend - layout.legend_drop), 18, TEXT, HPos::Left)?;
        self.legend(panel, legend)
    }

    fn series(
        &self,
        series: &Series,
        x_of: &dyn Fn(f64) -> i32,
        y_of: &dyn Fn(f64) -> i32,
    ) -> Result<(), RecordError> {
        let color = RGBColor(series.color.0, series.color.1, series.color.2);
        for run in series.points.split(Option::is_none) {
            let run: Vec<Point> = run.iter().flatten().copied().collect();
            if run.iter().any(|point| point.low < point.high) {
                let highs = run.iter().map(|point| (x_of(point.x), y_of(point.high)));
                let lows = run.iter().rev().map(|point| (x_of(point.x), y_of(point.low)));
                let band: Vec<_> = highs.chain(lows).collect();
                self.area.draw(&Polygon::new(band, color.mix(0.16))).map_err(drawing)?;
            }
            let line: Vec<_> = run.iter().map(|point| (x_of(point.x), y_of(point.mean))).collect();
            match &line[..] {
                [] => continue,
                [only] => self.dot(*only, 3, color)?,
                _ => self.line(&line, color.stroke_width(2 * SCALE as u32))?,
            }
            if series.marked {
                line.iter().try_for_each(|point| self.dot(*point, 3, color))?;
            }
        }
        Ok(())
    }

    /// The series' names with a piece of their lines, from the right edge leftwards, last series rightmost.
    fn legend(&self, panel: &Panel, y: i32) -> Result<(), RecordError> {
        let (length, gap) = (self.layout.legend_line, self.layout.legend_gap);
        let mut right = self.layout.width - RIGHT;
        for series in panel.series.iter().rev() {
            let color = RGBColor(series.color.0, series.color.1, series.color.2);
            self.text(series.name, (right, y), 15, TEXT, HPos::Right)?;
            let line_end = right - self.text_width(series.name, 15)? - 8;
            let piece = [(line_end - length, y), (line_end, y)].map(|(x, y)| (x * SCALE, y * SCALE));
            self.line(&piece, color.stroke_width(3 * SCALE as u32))?;
            right = line_end - length - gap;
        }
        Ok(())
    }

    /// What each phase is, above the first panel, in as many words as there is room for before the next one.
    fn phase_words(&self, curves: &Curves) -> Result<(), RecordError> {
        let x_of = |x: f64| self.layout.x_of(&curves.x, x) / SCALE;
        let ends = curves.phases.iter().skip(1).map(|(start, _)| x_of(*start));
        for ((start, words), end) in curves.phases.iter().zip(ends.chain([self.layout.width - RIGHT])) {
            let start = x_of(*start);
            for words in words {
                if start + self.text_width(words, 14)? + 6 <= end {
                    self.text(words, (start, TOP / 2 + 4), 14, FAINT, HPos::Left)?;
                    break;
                }
            }
        }
        Ok(())
    }

    fn dashes(&self, x: i32, frame: &Frame) -> Result<(), RecordError> {
        let (dash, gap) = (5 * SCALE as usize, 4 * SCALE as usize);
        for y in (frame.top * SCALE..frame.bottom * SCALE).step_by(dash + gap) {
            let end = (y + dash as i32).min(frame.bottom * SCALE);
            self.line(&[(x, y), (x, end)], FAINT.stroke_width(SCALE as u32))?;
        }
        Ok(())
    }

    fn line(&self, dots: &[(i32, i32)], style: ShapeStyle) -> Result<(), RecordError> {
        self.area.draw(&PathElement::new(dots.to_vec(), style)).map_err(drawing)
    }

    fn dot(&self, center: (i32, i32), radius: i32, color: RGBColor) -> Result<(), RecordError> {
        self.area.draw(&Circle::new(center, radius * SCALE, color.filled())).map_err(drawing)
    }

    /// Writes `text` with its middle height at `at`, in units of the layout.
    fn text(
        &self,
        text: &str,
        at: (i32, i32),
        size: i32,
        color: RGBColor,
        side: HPos,
    ) -> Result<(), RecordError> {
        let style = (FONT, size * SCALE).into_font().color(&color).pos(Pos::new(side, VPos::Center));
        let drop = (f64::from(size * SCALE) * self.text_drop) as i32;
        self.area.draw_text(text, &style, (at.0 * SCALE, at.1 * SCALE + drop)).map_err(drawing)
    }

    fn text_width(&self, text: &str, size: i32) -> Result<i32, RecordError> {
        let style = (FONT, size * SCALE).into_font().into_text_style(self.area);
        let (width, _) = self.area.estimate_text_size(text, &style).map_err(drawing)?;
        Ok(width as i32 / SCALE)
    }
}
