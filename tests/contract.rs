//! What all four promise alike. No code is shared between them: this is what holds them together.

use crate::support::{Outcome, run};

const TOOLS: [&str; 4] = ["rootfs-fetch", "netns-setup", "cgroup-apply", "ns-spawn"];

/// A call of each tool that is refused for its words, and the status of that.
const WRONG_USAGE: [(&str, &[&str], i32); 5] = [
    ("rootfs-fetch", &["--bogus", "x"], 2),
    ("netns-setup", &["up", "--bogus"], 2),
    ("cgroup-apply", &["create", "--bogus"], 2),
    ("cgroup-apply", &["run", "--bogus", "--", "true"], 125),
    ("ns-spawn", &["--bogus"], 125),
];

/// A network of documentation's (RFC 5737), which no machine is in.
const HOST: &str = "--host-addr=198.51.100.1/24";
const CONTAINER: &str = "--container-addr=198.51.100.2/24";

/// A call of each tool that prints its plan, anywhere and as anybody: also where 'make container' has made its network.
const DRY_RUNS: [(&str, &[&str]); 5] = [
    ("rootfs-fetch", &["--dry-run", "/nosuch-rootfs"]),
    ("netns-setup", &["up", "--dry-run", "--host-link", "contract", HOST, CONTAINER, "contract"]),
    ("cgroup-apply", &["create", "--dry-run", "--pids-max", "5", "contract"]),
    ("cgroup-apply", &["run", "--dry-run", "contract", "--", "true"]),
    ("ns-spawn", &["--dry-run", "--root", "/", "--", "true"]),
];

#[test]
fn help_and_version_go_to_stdout_with_status_0() {
    for tool in TOOLS {
        let Outcome { code, stdout, stderr } = run(tool, &["--help"]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{tool}");
        assert!(stdout.contains(&format!("Usage: {tool}")), "{tool}: {stdout}");
        assert!(stdout.contains("Exit status"), "{tool}: {stdout}");
        let widest = stdout.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 100, "{tool}: {widest} columns");
        let Outcome { code, stdout, stderr } = run(tool, &["--version"]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{tool}");
        assert_eq!(stdout, format!("{tool} {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn wrong_usage_is_said_under_the_tools_name() {
    for (tool, args, expected) in WRONG_USAGE {
        let Outcome { code, stdout, stderr } = run(tool, args);
        assert_eq!((code, stdout.as_str()), (expected, ""), "{tool} {args:?}");
        assert!(
            stderr.starts_with(&format!("{tool}: unexpected argument '--bogus' found\n")),
            "{tool}: {stderr}"
        );
    }
}

#[test]
fn a_wrong_value_is_told_what_is_allowed() {
    let join = &["--join", "x", "--", "true"];
    let cases: &[(&str, &[&str], &str)] = &[
        ("ns-spawn", &["--nice", "30", "--root", "/"], "allowed are -20 to 19"),
        ("ns-spawn", &["--oom-score-adj", "x", "--root", "/"], "allowed are -1000 to 1000"),
        ("ns-spawn", &["--kill-after", "x", "--root", "/"], "allowed are 0 to 1000000000"),
        ("ns-spawn", &["--pass-fd", "x", "--root", "/"], "allowed are 0 to 2147483647"),
        ("ns-spawn", join, "allowed are 0 to 4194304"),
        ("ns-spawn", &["--console", "x", "--root", "/"], "auto, pty, inherit, none"),
        ("ns-spawn", &["--seccomp", "x", "--root", "/"], "'default', 'none' or a profile in JSON"),
        ("ns-spawn", &["--rlimit", "x=1", "--root", "/"], "the kernel has as, core, cpu, data"),
        ("netns-setup", &["up", "--mtu", "x"], "allowed are 68 to 65535"),
        ("netns-setup", &["up", "--gateway", "x"], "an IP address is expected"),
        (
            "netns-setup",
            &["up", "--host-link", "a/b"],
            "letters, digits, '.', '_' and '-' are allowed",
        ),
        ("netns-setup", &["up", "--publish", "x"], "as in 8080:80, 192.0.2.1:8080:80 or 53:53/udp"),
        (
            "cgroup-apply",
            &["create", "--pids-max", "-1", "x"],
            "allowed are 0 to 4194304, and 'max'",
        ),
        (
            "cgroup-apply",
            &["create", "--memory-max", "-1", "x"],
            "allowed are bytes, a number with K",
        ),
        ("cgroup-apply", &["create", "--cpu-weight", "0", "x"], "allowed are 1 to 10000"),
        (
            "cgroup-apply",
            &["create", "--cpu-max", "x", "x"],
            "allowed are CPUs ('1.5'), a share ('50%')",
        ),
        ("rootfs-fetch", &["--timeout", "0", "x"], "allowed are 1 to 65535"),
        ("rootfs-fetch", &["--sha256", "x", "x"], "64 hexadecimal digits"),
        ("rootfs-fetch", &["--mirror", "ftp://x", "x"], "http:// and https:// are"),
        ("rootfs-fetch", &["--output", "x", "x"], "dir, tar, oci"),
    ];
    for (tool, args, allowed) in cases {
        let seen = run(tool, args);
        assert!([2, 125, 1].contains(&seen.code) && seen.stdout.is_empty(), "{args:?}: {seen:?}");
        assert!(seen.stderr.starts_with(&format!("{tool}: ")), "{args:?}: {seen:?}");
        assert!(seen.stderr.contains(allowed), "{args:?}: {seen:?}");
    }
}

#[test]
fn a_dry_run_prints_shell_commands_and_changes_nothing() {
    for (tool, args) in DRY_RUNS {
        let Outcome { code, stdout, stderr } = run(tool, args);
        assert_eq!((code, stderr.as_str()), (0, ""), "{tool}: {stdout}");
        let mut check = std::process::Command::new("sh");
        crate::support::outcome_with_input(check.arg("-n"), stdout.as_bytes()).success();
        assert!(!stdout.is_empty(), "{tool}");
    }
    for made in ["/nosuch-rootfs", "/run/netns/contract", "/sys/fs/cgroup/pids/contract"] {
        assert!(!std::path::Path::new(made).exists(), "{made}");
    }
}

#[test]
fn a_stdout_that_cannot_be_written_is_a_failure() {
    for (tool, args) in DRY_RUNS {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = crate::support::tool(tool);
        let output = command.args(args).stdout(full).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{tool}");
        let expected = "cannot write to standard output: No space left on device (ENOSPC)\n";
        assert_eq!(stderr, format!("{tool}: {expected}"));
    }
}
