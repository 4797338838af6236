//! The manual page and the completions, made of the definitions of the options and of the README's examples.
//!
//! This file is the same in all four tools; a test compares them.

use crate::{
    cli::Cli,
    error::{Attempt as _, Error},
};
use clap::{Command, CommandFactory as _, ValueEnum};
use clap_complete::{Shell, generate};
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};
use std::io::{self, Write as _};

/// What can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Manual page, for man(1)
    Man,
    /// Completions for bash
    Bash,
    /// Completions for zsh
    Zsh,
    /// Completions for fish
    Fish,
}

const README: &str = include_str!("../README.md");

/// When this version was made, as CHANGELOG.md says; a test compares them.
const RELEASED: &str = "2026-11-27";

/// Print it on standard output.
pub(crate) fn print(format: Format) -> Result<(), Error> {
    let text = match format {
        Format::Man => page(Cli::command()).attempt(|| "cannot make the manual page".into())?,
        Format::Bash => completions(Shell::Bash),
        Format::Zsh => completions(Shell::Zsh),
        Format::Fish => completions(Shell::Fish),
    };
    io::stdout().write_all(&text).attempt(|| "cannot write to standard output".into())
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut text = vec![];
    generate(shell, &mut Cli::command(), env!("CARGO_PKG_NAME"), &mut text);
    text
}

/// One page, in the order that man-pages(7) gives.
fn page(command: Command) -> io::Result<Vec<u8>> {
    // Verbs have the same --help as the tool.
    let mut command =
        command.disable_help_subcommand(true).mut_subcommands(|verb| verb.disable_help_flag(true));
    command.build();
    let man = Man::new(with_usage(&command))
        .title(command.get_name().to_uppercase())
        .date(RELEASED)
        .manual("Linux containers, taken apart");
    let mut text = vec![];
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    for verb in command.get_subcommands() {
        render_verb(verb, &mut text)?;
    }
    let mut rest = Roff::new();
    render_after_help(&command, &mut rest);
    render_examples(&mut rest);
    text.extend(rest.to_roff().into_bytes());
    Ok(tidy(&String::from_utf8_lossy(&text)).into_bytes())
}

/// With the synopsis of --help: the page's own would list every option.
fn with_usage(command: &Command) -> Command {
    let usage = command.clone().render_usage().to_string();
    command.clone().override_usage(usage.trim_start_matches("Usage: ").to_owned())
}

/// A section for each verb, with its options in subsections.
fn render_verb(verb: &Command, text: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(with_usage(verb));
    let (mut about, mut options) = (vec![], vec![]);
    man.render_synopsis_section(&mut about)?;
    man.render_description_section(&mut about)?;
    man.render_options_section(&mut options)?;
    let title = format!(".SH \"{}\"\n", verb.get_name().to_uppercase());
    let about = String::from_utf8_lossy(&about)
        .replace(".SH SYNOPSIS\n", &title)
        .replace(".SH DESCRIPTION\n", ".PP\n");
    let options = String::from_utf8_lossy(&options).replace(".SH ", ".SS ");
    text.extend((about + &options).into_bytes());
    Ok(())
}

/// "Exit status: 0 done" becomes a section EXIT STATUS.
fn render_after_help(command: &Command, page: &mut Roff) {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let titled = after.split("\n\n").filter_map(|paragraph| paragraph.split_once(':'));
    for (title, text) in titled.filter(|(title, _)| !title.starts_with("Example")) {
        page.control("SH", [title.to_uppercase().as_str()]).text([roman(text.trim())]);
    }
}

/// The section "Examples" of the README: prose, and blocks of commands with what they print.
fn render_examples(page: &mut Roff) {
    let section = README.split("\n## ").find_map(|section| section.strip_prefix("Examples\n"));
    page.control("SH", ["EXAMPLES"]);
    let mut block = false;
    for line in section.unwrap_or_default().lines().filter(|line| !line.starts_with("<!--")) {
        match (line, block) {
            (fence, _) if fence.starts_with("```") => {
                page.control(if block { "EE" } else { "EX" }, []);
                block = !block;
            }
            ("", false) => drop(page.control("PP", [])),
            (line, false) => drop(page.text([roman(line.replace('`', ""))])),
            (line, true) => drop(page.text([roman(line)])),
        }
    }
}

/// What mandoc(1) warns of: empty lines, paragraphs that end where they begin, preambles but the first.
fn tidy(page: &str) -> String {
    let mut lines: Vec<&str> = vec![];
    let mut verbatim = false;
    for line in page.lines() {
        verbatim = line == ".EX" || (verbatim && line != ".EE");
        if line.starts_with(".S") || line == ".EX" {
            while lines.last().is_some_and(|last| [".PP", ".IP"].contains(last)) {
                lines.pop();
            }
        }
        let after = lines.last().copied().unwrap_or_default();
        match line {
            ".PP" if after.starts_with(".S") || after == ".PP" => {}
            "" if !verbatim => lines.push(".IP"),
            line => lines.push(line),
        }
    }
    lines.join("\n") + "\n"
}
