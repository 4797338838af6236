//! docs/benchmarks.md: the page's frame with what was measured last.

use crate::{
    error::{Attempt as _, Error},
    host::{results, top},
    machine,
};
use std::fs;

const FRAME: &str = include_str!("benchmarks.md");

/// Put each section's findings in its place, and its plots beside the page.
pub(crate) fn write() -> Result<(), Error> {
    let (results, docs) = (results()?, top().join("docs"));
    let plots = docs.join("benchmarks");
    fs::create_dir_all(&plots).attempt(|| format!("cannot make '{}'", plots.display()))?;
    let mut page = String::new();
    for line in FRAME.lines() {
        match line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")) {
            Some("versions") => page += &machine::versions(),
            Some(section) => page += &found(&results.join(format!("{section}.md")), section)?,
            None => page += line,
        }
        page.push('\n');
    }
    let path = docs.join("benchmarks.md");
    fs::write(&path, page).attempt(|| format!("cannot write '{}'", path.display()))?;
    let entries =
        fs::read_dir(&results).attempt(|| format!("cannot read '{}'", results.display()))?;
    for plot in entries.flatten().map(|entry| entry.path()) {
        if let (Some("svg"), Some(name)) =
            (plot.extension().and_then(|end| end.to_str()), plot.file_name())
        {
            fs::copy(&plot, plots.join(name))
                .attempt(|| format!("cannot copy '{}'", plot.display()))?;
        }
    }
    Ok(())
}

fn found(path: &std::path::Path, section: &str) -> Result<String, Error> {
    let text = fs::read_to_string(path).attempt(|| {
        format!("cannot read '{}', which 'make bench-{section}' writes", path.display())
    })?;
    Ok(text.trim_end().to_owned())
}
