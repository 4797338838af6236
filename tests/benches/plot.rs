//! Findings as pictures: SVG, whose text the reader's own fonts draw.

use crate::{report::digits, stats::Summary};
use plotters::{
    chart::ChartBuilder,
    coord::{
        Shift,
        combinators::IntoLogRange as _,
        ranged1d::{AsRangedCoord, ValueFormatter},
    },
    drawing::{DrawingArea, IntoDrawingArea as _},
    element::{PathElement, Rectangle, Text},
    prelude::SVGBackend,
    series::LineSeries,
    style::{BLACK, Color as _, IntoFont as _, RGBColor, ShapeStyle, TextStyle, WHITE},
};
use std::error::Error;

/// Told apart by the colour-blind too (Okabe and Ito).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(230, 159, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];
const OTHERS: RGBColor = RGBColor(170, 170, 170);
const OURS: [&str; 6] =
    ["ns-spawn", "netns-setup", "cgroup-apply", "rootfs-fetch", "make", "my container"];

const WIDTH: u32 = 860;
const NAMES: u32 = 300;

/// A row to draw.
type Row = (String, Summary);

/// One bar for each row: its length is the median; the line over it goes from the first quartile to the third. The axis is
/// logarithmic if the longest would hide the shortest.
pub(crate) fn bars(caption: &str, rows: &[Row]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    let height = 90 + 26 * u32::try_from(rows.len())?;
    let least = rows.iter().map(|(_, summary)| summary.p25).fold(f64::INFINITY, f64::min);
    let most = rows.iter().map(|(_, summary)| summary.p75).fold(0.0, f64::max);
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        if most > 8.0 * least {
            draw_bars(&area, caption, rows, (least / 2.0..most * 2.0).log_scale(), least / 2.0)?;
        } else {
            draw_bars(&area, caption, rows, 0.0..most * 1.2, 0.0)?;
        }
        area.present()?;
    }
    Ok(svg)
}

#[expect(clippy::cast_precision_loss, reason = "some thirty rows")]
fn draw_bars<X>(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    caption: &str,
    rows: &[Row],
    axis: X,
    origin: f64,
) -> Result<(), Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 16))
        .margin(12)
        .margin_left(NAMES)
        .x_label_area_size(28)
        .build_cartesian_2d(axis, (rows.len() as f64)..0.0)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().disable_y_axis().x_label_formatter(&|value| digits(*value)).draw()?;
    let style = TextStyle::from(("sans-serif", 12).into_font());
    for (at, (name, summary)) in rows.iter().enumerate() {
        let (top, middle, bottom) = (at as f64 + 0.2, at as f64 + 0.5, at as f64 + 0.8);
        let ours = OURS.iter().any(|tool| name.starts_with(tool));
        let colour = if ours { COLOURS[0] } else { OTHERS };
        let bar = [(origin, top), (summary.median, bottom)];
        chart.draw_series([Rectangle::new(bar, colour.filled())])?;
        let spread = [(summary.p25, middle), (summary.p75, middle)];
        chart.draw_series([PathElement::new(spread, ShapeStyle::from(&BLACK))])?;
        let (x, y) = chart.backend_coord(&(summary.p75.max(summary.median), middle));
        area.draw(&Text::new(digits(summary.median), (x + 5, y - 7), style.clone()))?;
        area.draw(&Text::new(name.clone(), (14, y - 7), style.clone()))?;
    }
    Ok(())
}

/// A line for each row, through its values at 1, 2, 3 and so on.
#[expect(clippy::cast_precision_loss, reason = "some hundred points")]
pub(crate) fn lines(caption: &str, rows: &[(String, Vec<f64>)]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    let values = || rows.iter().flat_map(|(_, values)| values);
    let (most, longest) = (
        values().copied().fold(0.0, f64::max),
        rows.iter().map(|(_, values)| values.len()).max().unwrap_or(1),
    );
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, 420)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(caption, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(28)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..longest as f64, 0.0..most * 1.1)?;
        chart.configure_mesh().x_label_formatter(&|at| format!("{at:.0}")).draw()?;
        for ((name, values), colour) in rows.iter().zip(COLOURS.iter().cycle()) {
            let points = values.iter().enumerate().map(|(at, value)| (at as f64 + 1.0, *value));
            chart
                .draw_series(LineSeries::new(points, colour))?
                .label(name.clone())
                .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], *colour));
        }
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
        area.present()?;
    }
    Ok(svg)
}
