//! The documents are true: each block of commands in them is run, and what it prints is what they show.
//!
//! A block of `console` has commands behind `$ ` with what they print; one of `sh` has commands alone, which must
//! succeed. In what is shown, `…` stands for anything within a line, and on a line of its own for any lines. A block
//! that is not run says why in a comment before it: `<!-- not run: … -->`.

use crate::{
    fixture::debian_rootfs,
    support::{Host, Outcome, outcome, root, tool_path, top},
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process,
    sync::{Mutex, PoisonError},
};
use tempfile::TempDir;

/// Held by tests that use the cgroup `container`: cgroups are the machine's.
pub(crate) static CONTAINER_CGROUP: Mutex<()> = Mutex::new(());

/// The documents with commands, and those that are looked through for blocks without a mark.
const DOCUMENTS: [&str; 11] = [
    "README.md",
    "CONTRIBUTING.md",
    "rootfs-fetch/README.md",
    "netns-setup/README.md",
    "cgroup-apply/README.md",
    "ns-spawn/README.md",
    "docs/lab.md",
    "docs/from-docker.md",
    "docs/from-scripts.md",
    "docs/security.md",
    "docs/architecture.md",
];

/// A fenced block of a document.
struct Block {
    line: usize,
    language: String,
    text: Vec<String>,
    not_run: Option<String>,
}

/// A command, and what it is said to print.
struct Command {
    line: usize,
    words: String,
    shown: Option<Vec<String>>,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = vec![];
    let mut open: Option<Block> = None;
    let mut before = "";
    for (number, line) in document.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                let mark = before
                    .strip_prefix("<!-- not run: ")
                    .and_then(|rest| rest.strip_suffix(" -->"));
                let not_run = mark.map(str::to_owned);
                let language = language.to_owned();
                open = Some(Block { line: number + 1, language, text: vec![], not_run });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.push(line.to_owned()),
            (None, None) => before = line,
        }
    }
    assert!(open.is_none(), "a block without an end");
    blocks
}

impl Block {
    fn has_commands(&self) -> bool {
        ["sh", "bash", "console"].contains(&self.language.as_str())
    }

    fn commands(&self) -> Vec<Command> {
        if self.language != "console" {
            let words = self.text.join("\n");
            return vec![Command { line: self.line, words, shown: None }];
        }
        let mut commands: Vec<Command> = vec![];
        for (number, line) in self.text.iter().enumerate() {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(words), _) => commands.push(Command {
                    line: self.line + number + 1,
                    words: words.to_owned(),
                    shown: Some(vec![]),
                }),
                (None, Some(last)) if last.words.ends_with('\\') => {
                    last.words.push('\n');
                    last.words.push_str(line);
                }
                (None, Some(last)) => last.shown.as_mut().unwrap().push(line.clone()),
                (None, None) => panic!("line {}: output before any command", self.line),
            }
        }
        commands
    }
}

/// Whether `line` is what `pattern` shows, in which `…` stands for anything.
fn line_fits(pattern: &str, line: &str) -> bool {
    match pattern.split_once('…') {
        None => pattern == line,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|tail| {
            let cuts = tail.char_indices().map(|(at, _)| at).chain([tail.len()]);
            cuts.into_iter().any(|at| line_fits(rest, &tail[at..]))
        }),
    }
}

fn fits(patterns: &[String], lines: &[&str]) -> bool {
    match (patterns.first().map(String::as_str), lines.first()) {
        (None, None) => true,
        (Some("…"), _) => {
            (0..=lines.len()).any(|skipped| fits(&patterns[1..], &lines[skipped..]))
        }
        (Some(pattern), Some(line)) => {
            line_fits(pattern, line.trim_end()) && fits(&patterns[1..], &lines[1..])
        }
        _ => false,
    }
}

/// A host on which somebody reads the documents: in /srv, with the tools in PATH and a finished `rootfs`.
fn reader() -> Host {
    let host = Host::new();
    host.sh("mkdir /run/etc && cp --archive /etc/. /run/etc && mount --bind /run/etc /etc")
        .success();
    host.sh("mount -t tmpfs tmpfs /srv && mkdir -p /srv/rootfs /srv/bin /srv/src && echo 'int x;' >/srv/src/x.c")
        .success();
    let upper = "mkdir -p /run/upper /run/work && mount -t overlay overlay -o lowerdir=";
    host.sh(&format!(
        "{upper}{},upperdir=/run/upper,workdir=/run/work /srv/rootfs",
        debian_rootfs().display()
    ))
    .success();
    host
}

/// A directory with the tools, for PATH.
fn tools() -> TempDir {
    let tools = tempfile::tempdir().unwrap();
    for name in ["rootfs-fetch", "netns-setup", "cgroup-apply", "ns-spawn"] {
        symlink(tool_path(name), tools.path().join(name)).unwrap();
    }
    tools
}

/// `words` as a command of bash on that host.
fn bash(host: &Host, tools: &TempDir, words: &str) -> process::Command {
    let mut bash = host.command("bash");
    bash.args(["-c", &format!("cd /srv && exec 2>&1\n{words}")]);
    bash.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.path().display()));
    bash.env_remove("COLUMNS").env("TERM", "dumb");
    bash
}

fn try_out(document: &str) {
    let text = fs::read_to_string(top().join(document)).unwrap();
    let (host, tools) = (reader(), tools());
    for block in blocks(&text).iter().filter(|block| block.has_commands()) {
        if block.not_run.is_some() {
            continue;
        }
        for Command { line, words, shown } in block.commands() {
            // As a reader sees it: both streams, in their order.
            let Outcome { code, stdout, .. } = outcome(&mut bash(&host, &tools, &words));
            let Some(shown) = shown else {
                assert_eq!(code, 0, "{document}:{line}: {words}\n{stdout}");
                continue;
            };
            let lines: Vec<_> = stdout.lines().collect();
            assert!(
                fits(&shown, &lines),
                "{document}:{line}: $ {words}\nshown:\n{}\nprinted:\n{stdout}",
                shown.join("\n")
            );
        }
    }
}

fn run_document(document: &str) {
    let _alone = CONTAINER_CGROUP.lock().unwrap_or_else(PoisonError::into_inner);
    try_out(document);
}

#[test]
fn the_readme_is_true() {
    need!(root());
    run_document("README.md");
}

#[test]
fn the_picture_in_the_readme_is_of_a_real_run() {
    need!(root());
    let _alone = CONTAINER_CGROUP.lock().unwrap_or_else(PoisonError::into_inner);
    let script = top().join("docs/session");
    let drawn = outcome(&mut bash(&reader(), &tools(), script.to_str().unwrap())).success().stdout;
    assert_eq!(drawn, fs::read_to_string(top().join("docs/session.svg")).unwrap());
}

#[test]
fn the_lab_is_true() {
    need!(root());
    run_document("docs/lab.md");
}

#[test]
fn the_way_from_scripts_is_true() {
    need!(root());
    run_document("docs/from-scripts.md");
}

#[test]
fn the_way_from_docker_is_true() {
    need!(root());
    run_document("docs/from-docker.md");
}

#[test]
fn what_is_said_of_security_is_true() {
    need!(root());
    run_document("docs/security.md");
}

#[test]
fn the_pages_of_the_tools_are_true() {
    need!(root());
    for tool in ["rootfs-fetch", "netns-setup", "cgroup-apply", "ns-spawn"] {
        run_document(&format!("{tool}/README.md"));
    }
}

#[test]
fn a_block_that_is_not_run_says_why() {
    for document in DOCUMENTS {
        let text = fs::read_to_string(top().join(document)).unwrap();
        let run = !["CONTRIBUTING.md", "docs/architecture.md"].contains(&document);
        for block in blocks(&text).iter().filter(|block| block.has_commands()) {
            match &block.not_run {
                Some(reason) => assert!(reason.len() > 5, "{document}:{}: no reason", block.line),
                None => assert!(run, "{document}:{}: it is not run, and has no mark", block.line),
            }
        }
    }
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    for document in DOCUMENTS {
        let text = fs::read_to_string(top().join(document)).unwrap();
        let dir = Path::new(document).parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let file = link.0.split('#').next().unwrap();
            if !file.is_empty() && !file.contains("://") {
                assert!(top().join(dir).join(file).exists(), "{document}: {file}");
            }
        }
    }
}

#[test]
fn dots_stand_for_anything() {
    assert!(line_fits("pid …, code …", "pid 12, code 0"));
    assert!(!line_fits("pid …!", "pid 12"));
    let shown = ["a", "…", "z"].map(str::to_owned);
    assert!(fits(&shown, &["a", "z"]) && fits(&shown, &["a", "b", "c", "z"]));
    assert!(!fits(&shown, &["a", "b"]) && !fits(&shown, &["a", "z", "y"]));
}
