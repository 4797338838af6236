//! What is looked up: --help, manual pages, completions.

use crate::support::{Outcome, installed, outcome, outcome_with_input, run, tool, top};
use std::{env, fs, process::Command};

const TOOLS: [&str; 4] = ["rootfs-fetch", "netns-setup", "cgroup-apply", "ns-spawn"];

/// Compare `actual` with the file `name` in tests/expected, or with `UPDATE_EXPECTED=1` write it there.
#[track_caller]
fn is_expected(name: &str, actual: &str) {
    let path = top().join("tests/expected").join(name);
    if env::var_os("UPDATE_EXPECTED").is_some_and(|value| value == "1") {
        fs::write(&path, actual).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{name}: 'make expected' writes it anew, if it is right");
}

/// The help of a tool, or of one of its verbs, as a reader without a terminal has it.
fn help(name: &str, words: &[&str]) -> String {
    let Outcome { code, stdout, stderr } =
        outcome(tool(name).args(words).arg("--help").env_remove("COLUMNS"));
    assert_eq!((code, stderr.as_str()), (0, ""), "{name} {words:?}");
    stdout
}

/// The verbs that the help of a tool lists.
fn verbs(help: &str) -> Vec<&str> {
    let list = help.split_once("Commands:\n").map_or("", |(_, list)| list);
    list.lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split(' ').next())
        .filter(|verb| *verb != "help")
        .collect()
}

#[test]
fn help_is_as_expected() {
    for name in TOOLS {
        let of_tool = help(name, &[]);
        let of_verb = |verb| format!("\n$ {name} {verb} --help\n{}", help(name, &[verb]));
        let of_verbs: String = verbs(&of_tool).into_iter().map(of_verb).collect();
        let text = format!("$ {name} --help\n{of_tool}{of_verbs}");
        let wide = text.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "{name}");
        is_expected(&format!("{name}-help.txt"), &text);
    }
}

#[test]
fn all_options_are_in_the_manual_page_and_it_has_no_faults() {
    need!(installed("mandoc"));
    for name in TOOLS {
        let page = run(name, &["--generate", "man"]).success().stdout;
        let lint = ["-T", "lint", "-W", "warning"];
        let faults = outcome_with_input(Command::new("mandoc").args(lint), page.as_bytes());
        assert_eq!((faults.code, faults.stdout.as_str()), (0, ""), "{name}: {}", faults.stderr);
        let show = ["-T", "utf8", "-O", "width=100"];
        let shown = outcome_with_input(Command::new("mandoc").args(show), page.as_bytes());
        let shown = without_overstrikes(&shown.success().stdout);
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES"] {
            assert!(shown.lines().any(|line| line == section), "{name}: no {section}\n{shown}");
        }
        let of_tool = help(name, &[]);
        for verb in verbs(&of_tool) {
            assert!(shown.lines().any(|line| line == verb.to_uppercase()), "{name} {verb}");
        }
        let helps = verbs(&of_tool).into_iter().map(|verb| help(name, &[verb])).collect::<String>();
        for text in of_tool.lines().chain(helps.lines()) {
            let text = text.trim_start();
            let long = text.split_once(", ").filter(|(short, _)| short.len() == 2);
            let option = long.map_or(text, |(_, long)| long).split([' ', '[', '=']).next().unwrap();
            if option.starts_with("--") && option.len() > 2 {
                assert!(shown.contains(option), "{name}: {option} is not in the manual page");
            }
        }
    }
}

/// Bold and underlined letters, which a terminal's printer strikes twice, once.
fn without_overstrikes(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.chars() {
        if letter == '\x08' {
            plain.pop();
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[test]
fn completions_load_in_bash() {
    need!(installed("bash"));
    for name in TOOLS {
        let line = format!(
            "source <({} --generate bash) && complete -p {name} && COMP_WORDS=({name} --ver) COMP_CWORD=1 && \
             \"$(complete -p {name} | sed 's/.*-F \\([^ ]*\\).*/\\1/')\" {name} --ver {name} && echo \"${{COMPREPLY[@]}}\"",
            crate::support::tool_path(name).display()
        );
        let completed = outcome(Command::new("bash").args(["--norc", "-c", &line])).success();
        assert!(completed.stdout.ends_with("--version\n"), "{name}: {completed:?}");
        assert_eq!(completed.stderr, "", "{name}");
    }
}

#[test]
fn completions_load_in_zsh() {
    need!(installed("zsh"));
    let dir = tempfile::tempdir().unwrap();
    for name in TOOLS {
        let file = dir.path().join(format!("_{name}"));
        fs::write(file, run(name, &["--generate", "zsh"]).success().stdout).unwrap();
        let line = format!(
            "fpath=({} $fpath); autoload -U compinit; compinit -D -u; print $_comps[{name}]; \
             autoload +X _{name} && whence -w _{name}",
            dir.path().display()
        );
        let loaded = outcome(Command::new("zsh").args(["-f", "-c", &line])).success();
        assert_eq!(loaded.stdout, format!("_{name}\n_{name}: function\n"), "{name}: {loaded:?}");
        assert_eq!(loaded.stderr, "", "{name}");
    }
}

#[test]
fn completions_load_in_fish() {
    need!(installed("fish"));
    let home = tempfile::tempdir().unwrap();
    for name in TOOLS {
        let script = run(name, &["--generate", "fish"]).success().stdout;
        let line = format!("source; complete --do-complete '{name} --ver'");
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c", &line]).env("HOME", home.path());
        let completed = outcome_with_input(&mut fish, script.as_bytes()).success();
        assert!(completed.stdout.starts_with("--ver"), "{name}: {completed:?}");
        assert_eq!(completed.stderr, "", "{name}");
    }
}

#[test]
fn what_is_generated_stands_alone() {
    for name in TOOLS {
        let refused = run(name, &["--generate", "html"]);
        assert!(refused.stderr.contains("[possible values: man, bash, zsh, fish]"), "{refused:?}");
        let refused = run(name, &["--generate", "man", "x"]);
        assert_ne!((refused.code, refused.stdout.len()), (0, 0), "{name}: {refused:?}");
    }
}

#[test]
fn the_manual_is_made_alike_in_all_four() {
    let source = |name: &str| fs::read_to_string(top().join(name).join("src/generate.rs")).unwrap();
    for name in TOOLS {
        assert_eq!(source(name), source("ns-spawn"), "{name}");
    }
    let changes = fs::read_to_string(top().join("CHANGELOG.md")).unwrap();
    let release = concat!("## [", env!("CARGO_PKG_VERSION"), "] - ");
    let date = changes.lines().find_map(|line| line.strip_prefix(release));
    let date = date.expect("this version in CHANGELOG.md");
    assert!(source("ns-spawn").contains(&format!("RELEASED: &str = \"{date}\"")), "{date}");
}

#[test]
fn a_mistyped_option_gets_a_suggestion() {
    let calls: [(&str, &[&str], &str); 4] = [
        ("rootfs-fetch", &["--instal", "x"], "--install"),
        ("netns-setup", &["up", "--host-lnk"], "--host-link"),
        ("cgroup-apply", &["create", "--pids-mx"], "--pids-max"),
        ("ns-spawn", &["--hostnam"], "--hostname"),
    ];
    for (name, words, meant) in calls {
        let refused = run(name, words);
        let tip = format!("tip: a similar argument exists: '{meant}'");
        assert!(refused.stderr.contains(&tip), "{name}: {refused:?}");
    }
}

#[test]
fn colour_is_for_terminals_only() {
    for name in TOOLS {
        for stream in [run(name, &["--help"]).stdout, run(name, &["--bogus"]).stderr] {
            assert!(!stream.contains('\x1b'), "{name}: {stream}");
        }
    }
    for (no_color, coloured) in [("", true), ("1", false)] {
        let mut command = tool("ns-spawn");
        command.arg("--help").env("TERM", "xterm").env("NO_COLOR", no_color);
        let mut pty = crate::pty::Pty::start(&command, 50, 100);
        let shown = pty.see("Exit status");
        assert_eq!(shown.contains("\x1b["), coloured, "NO_COLOR={no_color:?}");
    }
}
