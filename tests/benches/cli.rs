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
    /// All but 'build', one after the other
    All,
    /// The lab's table: sysbench in containers and on the host
    Table,
    /// Starting and ending a container around /bin/true
    Startup,
    /// The lab's network, up and down
    Network,
    /// A cgroup with three limits: make, enter, remove
    Cgroup,
    /// A tarball of a root file system on a fresh file system
    Unpack,
    /// Many containers alive at once, and many starts at a time
    Scale,
    /// 'make run CMD=true' when everything is in place
    Chain,
    /// Binaries and dependencies
    Sizes,
    /// A release build from nothing
    Build,
    /// Write which functions a start calls: 'make start-order'
    Order,
    /// Write what was measured last to docs/benchmarks.md
    Docs,
}

impl Section {
    /// What 'all' means.
    pub(crate) const ALL: [Self; 8] = [
        Self::Table,
        Self::Startup,
        Self::Network,
        Self::Cgroup,
        Self::Unpack,
        Self::Scale,
        Self::Chain,
        Self::Sizes,
    ];
}
