//! What a section found: Markdown for people, JSON for programs, SVG to look at.

use crate::{
    error::{Attempt as _, Error},
    host::results,
    machine,
    measure::{Missing, Series},
    stats::Summary,
};
use plotters::prelude::{
    BLACK, ChartBuilder, Color as _, IntoDrawingArea as _, IntoLogRange as _, PathElement,
    RGBColor, Rectangle, SVGBackend, ShapeStyle, Text, TextStyle,
};
use plotters::style::IntoFont as _;
use serde_json::{Map, Value, json};
use std::{
    fs,
    io::{self, Write as _},
};

/// A section's findings.
pub(crate) struct Report {
    name: &'static str,
    markdown: String,
    json: Map<String, Value>,
    plots: Vec<(String, String)>,
}

impl Report {
    pub(crate) fn new(name: &'static str, title: &str, rounds: usize) -> Self {
        let (machine, load) = (machine::describe(), machine::load());
        let mut json = Map::new();
        json.insert("section".into(), name.into());
        json.insert("machine".into(), machine.clone().into());
        json.insert("load".into(), load.clone().into());
        json.insert("rounds".into(), rounds.into());
        let markdown =
            format!("### {title}\n\n{rounds} rounds on {machine}; load {load} before it.\n");
        Self { name, markdown, json, plots: vec![] }
    }

    /// Add a paragraph.
    pub(crate) fn say(&mut self, text: &str) {
        self.line("");
        self.line(text);
    }

    /// Add a table.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        self.line("");
        self.line(&format!("| {} |", head.join(" | ")));
        self.line(&format!("|{}", "---|".repeat(head.len())));
        for row in rows {
            self.line(&format!("| {} |", row.join(" | ")));
        }
    }

    fn line(&mut self, text: &str) {
        self.markdown += text;
        self.markdown.push('\n');
    }

    /// Name the candidates that were not measured, and why.
    pub(crate) fn missing(&mut self, missing: &[Missing]) {
        if missing.is_empty() {
            return;
        }
        let lines = missing.iter().map(|Missing { name, reason }| format!("\n- {name}: {reason}"));
        let text = format!("Not measured:\n{}", lines.collect::<String>());
        self.say(&text);
    }

    /// Keep the samples of all rounds.
    pub(crate) fn samples(&mut self, key: &str, unit: &str, series: &[Series]) {
        let candidates = series.iter().map(|series| {
            json!({ "name": series.candidate.name, "rounds": series.rounds, "phases": series.phases })
        });
        let candidates: Vec<Value> = candidates.collect();
        self.json.insert(key.into(), json!({ "unit": unit, "candidates": candidates }));
    }

    /// Draw a phase's medians with their quartiles, on a logarithmic axis.
    pub(crate) fn plot(
        &mut self,
        name: &str,
        caption: &str,
        series: &[Series],
        phase: usize,
    ) -> Result<(), Error> {
        let rows =
            series.iter().map(|series| (series.candidate.name.clone(), series.summary(phase)));
        let svg = bars(caption, &rows.collect::<Vec<_>>())
            .map_err(|err| Error::new(format!("cannot draw '{name}': {err}")))?;
        self.say(&format!("![{caption}](benchmarks/{name}.svg)"));
        self.plots.push((format!("{name}.svg"), svg));
        Ok(())
    }

    /// Print the Markdown, and write all three kinds to `target/bench`.
    pub(crate) fn write(self) -> Result<(), Error> {
        let dir = results()?;
        let write = |name: &str, content: &str| {
            let path = dir.join(name);
            fs::write(&path, content).attempt(|| format!("cannot write '{}'", path.display()))
        };
        write(&format!("{}.md", self.name), &self.markdown)?;
        write(&format!("{}.json", self.name), &format!("{:#}\n", Value::Object(self.json)))?;
        for (name, svg) in &self.plots {
            write(name, svg)?;
        }
        writeln!(io::stdout(), "{}", self.markdown).attempt(|| "cannot write the report".into())
    }
}

/// Milliseconds, or another unit, to three digits.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A value that may be absent.
pub(crate) fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

const OURS: RGBColor = RGBColor(0, 114, 178);
const OTHERS: RGBColor = RGBColor(170, 170, 170);

/// One bar for each row: its length is the median; the line over it goes from the first quartile to the third.
#[expect(clippy::cast_precision_loss, reason = "some twenty rows")]
fn bars(caption: &str, rows: &[(String, Summary)]) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    let height = 90 + 26 * u32::try_from(rows.len())?;
    let least = rows.iter().map(|(_, summary)| summary.p25).fold(f64::INFINITY, f64::min) / 2.0;
    let most = rows.iter().map(|(_, summary)| summary.p75).fold(0.0, f64::max) * 2.0;
    {
        let area = SVGBackend::with_string(&mut svg, (860, height)).into_drawing_area();
        area.fill(&plotters::prelude::WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(caption, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(28)
            .margin_left(290)
            .build_cartesian_2d((least..most).log_scale(), (rows.len() as f64)..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_label_formatter(&|value| digits(*value))
            .draw()?;
        for (at, (name, summary)) in rows.iter().enumerate() {
            let (top, middle, bottom) = (at as f64 + 0.2, at as f64 + 0.5, at as f64 + 0.8);
            let ours = ["ns-spawn", "netns-setup", "cgroup-apply", "rootfs-fetch", "make"];
            let colour = if ours.iter().any(|tool| name.starts_with(tool)) { OURS } else { OTHERS };
            chart.draw_series([Rectangle::new(
                [(least, top), (summary.median, bottom)],
                colour.filled(),
            )])?;
            let line = ShapeStyle::from(&BLACK).stroke_width(1);
            chart.draw_series([PathElement::new(
                [(summary.p25, middle), (summary.p75, middle)],
                line,
            )])?;
            let value = format!(" {}", digits(summary.median));
            let style = TextStyle::from(("sans-serif", 12).into_font());
            chart.draw_series([Text::new(value, (summary.p75, at as f64 + 0.3), style.clone())])?;
            let y = i32::try_from(at)? * (i32::try_from(height)? - 82) / i32::try_from(rows.len())?
                + 46;
            area.draw(&Text::new(name.clone(), (14, y), style))?;
        }
        area.present()?;
    }
    Ok(svg)
}
