//! What a section found: Markdown for people, JSON for programs, SVG to look at.

use crate::{
    error::{Attempt as _, Error},
    host::results,
    machine,
    measure::{Missing, Series},
    plot,
    stats::Summary,
};
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
            let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            self.line(&format!("| {} |", cells.join(" | ")));
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
        self.keep(key, json!({ "unit": unit, "candidates": candidates }));
    }

    /// Keep anything else.
    pub(crate) fn keep(&mut self, key: &str, value: Value) {
        self.json.insert(key.into(), value);
    }

    /// Draw a phase's medians with their quartiles.
    pub(crate) fn plot(
        &mut self,
        name: &str,
        caption: &str,
        series: &[Series],
        phase: usize,
    ) -> Result<(), Error> {
        let row = |series: &Series| (series.candidate.name.clone(), series.summary(phase));
        self.draw(name, caption, &series.iter().map(row).collect::<Vec<_>>())
    }

    /// Draw any medians with their quartiles.
    pub(crate) fn draw(
        &mut self,
        name: &str,
        caption: &str,
        rows: &[(String, Summary)],
    ) -> Result<(), Error> {
        let svg = plot::bars(caption, rows)
            .map_err(|err| Error::new(format!("cannot draw '{name}': {err}")))?;
        self.picture(name, caption, svg);
        Ok(())
    }

    /// Draw lines through points.
    pub(crate) fn lines(
        &mut self,
        name: &str,
        caption: &str,
        lines: &[(String, Vec<f64>)],
    ) -> Result<(), Error> {
        let svg = plot::lines(caption, lines)
            .map_err(|err| Error::new(format!("cannot draw '{name}': {err}")))?;
        self.picture(name, caption, svg);
        Ok(())
    }

    fn picture(&mut self, name: &str, caption: &str, svg: String) {
        self.say(&format!("![{caption}](benchmarks/{name}.svg)"));
        self.plots.push((format!("{name}.svg"), svg));
    }

    /// Print the Markdown, and write all three kinds to `target/bench`.
    pub(crate) fn write(self) -> Result<(), Error> {
        let dir = results()?;
        let write = |name: &str, content: &str| {
            let path = dir.join(name);
            let new = dir.join(format!("{name}.new"));
            let written = fs::write(&new, content).and_then(|()| fs::rename(&new, &path));
            written.attempt(|| format!("cannot write '{}'", path.display()))
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

/// A value that may not have been found; an interrupt is not such a case.
pub(crate) fn shown<T: ToString>(value: Result<T, Error>) -> Result<String, Error> {
    match value {
        Ok(value) => Ok(value.to_string()),
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(_) => Ok("–".into()),
    }
}
