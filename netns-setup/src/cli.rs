//! The options. Their doc comments are the help.

use crate::{error, generate::Format};
use clap::{Args, Parser, Subcommand};
use std::{
    ffi::OsString, fmt::Display, net::IpAddr, path::PathBuf, process::ExitCode, str::FromStr,
};

/// Make a named network namespace and the veth pair that leads to it
///
/// The namespace appears as /run/netns/NAME, where ip(8) finds it too. Whatever
/// is right already stays as it is, so a second run changes nothing.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 80, after_help = AFTER_HELP, override_usage = USAGE)]
#[command(arg_required_else_help = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// Print the manual page, or the completions for a shell
    #[arg(long, value_name = "FORMAT", value_enum, exclusive = true)]
    pub(crate) generate: Option<Format>,

    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[command(defer = true)] // builds the options of the given verb alone; doc comments on them would become its help
pub(crate) enum Verb {
    /// Make or repair the network of NAME, and print the path of its namespace
    Up(Up),
    /// Remove all that 'up' made for NAME
    Down(Down),
    /// Show what is there
    Status(Status),
    /// Compare what 'up' with the same options would make with what is there
    ///
    /// Prints one line for each difference; exits with 0 when there is none, with
    /// 1 when there is one.
    Check(Network),
    /// Run COMMAND in the namespace NAME
    ///
    /// Like 'ip netns exec': with a /sys that shows the namespace's links, and with
    /// the files of /etc/netns/NAME in place of those in /etc.
    #[command(after_help = EXEC_STATUS)]
    Exec(Exec),
    /// Remove what is left of networks whose namespace is gone, and print their names
    ///
    /// That is: names in /run/netns with nothing behind them, links, rules and files
    /// of ours.
    Gc(Gc),
}

// The options of `up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Go on although the host uses the subnet or an address already
    #[arg(long)]
    pub(crate) force: bool,

    /// Print the network as JSON, and whether it was changed, instead of the path
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) trial: Trial,

    #[command(flatten)]
    pub(crate) network: Network,
}

// The network that is wanted.
#[derive(Debug, Clone, Args)]
pub(crate) struct Network {
    /// Name of the host end of the veth pair
    #[arg(long, value_name = "LINK", default_value = "veth_host", help_heading = "Links")]
    pub(crate) host_link: String,

    /// Name of the container end of the veth pair
    #[arg(long, value_name = "LINK", default_value = "veth_container", help_heading = "Links")]
    pub(crate) container_link: String,

    /// Address of the host end (repeat for more, IPv4 or IPv6)
    #[arg(
        long,
        value_name = "ADDRESS/PREFIX",
        default_value = "192.168.10.1/24",
        help_heading = "Addresses and routes"
    )]
    pub(crate) host_addr: Vec<String>,

    /// Address of the container end (repeat for more, IPv4 or IPv6)
    #[arg(
        long,
        value_name = "ADDRESS/PREFIX",
        default_value = "192.168.10.2/24",
        help_heading = "Addresses and routes"
    )]
    pub(crate) container_addr: Vec<String>,

    /// Make the host end a port of this bridge, which has the host addresses then
    /// and is made when it is missing: several containers in one subnet
    #[arg(long, value_name = "LINK", help_heading = "Links")]
    pub(crate) bridge: Option<String>,

    /// Where the default route leads (repeat for IPv4 and IPv6) [default: the
    /// first host address]
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = address,
        conflicts_with = "no_default_route",
        help_heading = "Addresses and routes"
    )]
    pub(crate) gateway: Vec<IpAddr>,

    /// Add no default route
    #[arg(long, help_heading = "Addresses and routes")]
    pub(crate) no_default_route: bool,

    /// MTU of both ends [default: that of the host's default route, else 1500]
    #[arg(long, value_name = "BYTES", value_parser = number(68, 65_535_u32), help_heading = "Links")]
    pub(crate) mtu: Option<u32>,

    /// MAC address of the host end [default: made from NAME]
    #[arg(long, value_name = "MAC", help_heading = "Links")]
    pub(crate) host_mac: Option<String>,

    /// MAC address of the container end [default: made from NAME]
    #[arg(long, value_name = "MAC", help_heading = "Links")]
    pub(crate) container_mac: Option<String>,

    /// Let the container reach what the host reaches (IPv4, by an nft masquerade
    /// rule for its subnet)
    #[arg(long, help_heading = "Reach")]
    pub(crate) nat: bool,

    /// Lead a port of the host to one of the container (repeat for more; IPv4)
    #[arg(long, value_name = "[IP:]HOST:CONTAINER[/udp]", help_heading = "Reach")]
    pub(crate) publish: Vec<String>,

    /// Let the traffic through iptables' FORWARD chain where its policy is DROP, as
    /// Docker sets it: by rules in DOCKER-USER, else in FORWARD
    #[arg(long, help_heading = "Reach")]
    pub(crate) forward_accept: bool,

    /// Resolver for /etc/netns/NAME/resolv.conf: an address (repeat for more),
    /// 'host' for the host's own (loopback ones left out), or 'none'
    #[arg(
        long,
        value_name = "host|none|ADDRESS",
        default_value = "host",
        help_heading = "Addresses and routes"
    )]
    pub(crate) dns: Vec<String>,

    /// Take NAME and the network from the JSON in FILE ('-': standard input), as
    /// 'status --json' prints it, instead of from the options
    #[arg(long, value_name = "FILE", conflicts_with_all = DESCRIBED)]
    pub(crate) from: Option<PathBuf>,

    /// Name of the network namespace
    #[arg(default_value = DEFAULT_NAME)]
    pub(crate) name: String,
}

/// What is in the JSON that `--from` reads.
const DESCRIBED: [&str; 15] = [
    "host_link",
    "container_link",
    "host_addr",
    "container_addr",
    "bridge",
    "gateway",
    "no_default_route",
    "mtu",
    "host_mac",
    "container_mac",
    "nat",
    "publish",
    "forward_accept",
    "dns",
    "name",
];

// How to go about it.
#[derive(Debug, Args)]
pub(crate) struct Trial {
    /// Print the steps as shell commands and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print each step as it is taken
    #[arg(long)]
    pub(crate) verbose: bool,
}

// The options of `down`.
#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Do not wait for the links: take the name from the namespace, with which they go
    ///
    /// They go when its last process has ended.
    #[arg(long)]
    pub(crate) no_wait: bool,

    #[command(flatten)]
    pub(crate) trial: Trial,

    /// Name of the network namespace
    #[arg(default_value = DEFAULT_NAME)]
    pub(crate) name: String,
}

// The options of `exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Name of the network namespace
    pub(crate) name: String,

    /// Command to run there, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}

// The options of `gc`.
#[derive(Debug, Args)]
pub(crate) struct Gc {
    #[command(flatten)]
    pub(crate) trial: Trial,
}

// The options of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show every network that 'up' made
    #[arg(long, conflicts_with = "name")]
    pub(crate) all: bool,

    /// Print JSON: one object, or with --all an array of them
    #[arg(long)]
    pub(crate) json: bool,

    /// Name of the network namespace
    #[arg(default_value = DEFAULT_NAME)]
    pub(crate) name: String,
}

const EXEC_STATUS: &str = "\
Exit status: COMMAND's own; 125 if netns-setup failed, 126 if COMMAND cannot be
run, 127 if it is not found.";

const DEFAULT_NAME: &str = "container_network_ns";

const USAGE: &str = "\
netns-setup <COMMAND>
       netns-setup --generate <FORMAT>";

const AFTER_HELP: &str = "\
Exit status: 0 done, or nothing to do; 1 failed and nothing is left of it, or
'check' found a difference; 2 wrong usage; 3 failed and something is left
behind, which is named. 'exec': COMMAND's own; 125 if netns-setup failed, 126 if
COMMAND cannot be run, 127 if it is not found.

Example: ns-spawn --netns \"$(netns-setup up --nat)\" --root rootfs";

impl Cli {
    pub(crate) fn parse_or_usage() -> Result<Self, ExitCode> {
        let runs_command = std::env::args_os().nth(1).is_some_and(|verb| verb == "exec");
        Self::try_parse().map_err(|err| error::usage(&err, runs_command))
    }
}

/// A number that is taken, as the kernel has it; what is not one is told which are.
fn number<T>(low: T, high: T) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: Copy + Display + FromStr + PartialOrd,
{
    move |text| match text.parse() {
        Ok(number) if low <= number && number <= high => Ok(number),
        _ => Err(format!("allowed are {low} to {high}")),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "an IP address is expected, as 192.168.10.1".into())
}
