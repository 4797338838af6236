//! The command line.

use clap::{Parser, ValueEnum};

/// Measure the four tools beside the kernel's own cost and beside other tools
#[derive(Debug, Parser)]
#[command(max_term_width = 80)]
pub(crate) struct Cli {
    /// What to measure
    #[arg(value_enum)]
    pub(crate) section: Section,

    /// How often each candidate runs [default: as many as the section's figures need]
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
}

/// A part that runs alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// Everything that is measured, one after the other
    All,
    /// Starting and ending a container around /bin/true
    Startup,
    /// The lab's network, up and down
    Network,
    /// A cgroup with three limits: make, enter, remove
    Cgroup,
    /// Write what was measured last to docs/benchmarks.md
    Docs,
}

impl Section {
    /// Those that measure.
    pub(crate) const MEASURING: [Self; 3] = [Self::Startup, Self::Network, Self::Cgroup];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Section::All => "all",
            Section::Startup => "startup",
            Section::Network => "network",
            Section::Cgroup => "cgroup",
            Section::Docs => "docs",
        }
    }
}
