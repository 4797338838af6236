//! The options: their doc comments are the help.

use crate::{error, generate::Format, verify::Sum};
use clap::{Parser, ValueEnum};
use std::{fmt::Display, path::PathBuf, process::ExitCode, str::FromStr};

/// Make DEST a root file system: the Ubuntu 20.04 base, verified, with sysbench installed
///
/// The base is downloaded, verified, unpacked beside DEST, given its packages by apt in a chroot, and
/// renamed to DEST: DEST is complete or absent, never partial. Where DEST is complete already, only
/// packages that are missing in it are installed. DEST's absolute path is printed.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[command(version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// Ubuntu release to fetch: a series such as 20.04 or jammy, then its newest point release in the
    /// signed list of the server, or a point release such as 20.04.5
    #[arg(long, value_name = "RELEASE", default_value = "20.04", help_heading = "Source")]
    pub(crate) release: String,

    /// Architecture, in Debian's words: amd64, arm64, armhf … [default: the machine's]
    #[arg(long, value_name = "ARCH", help_heading = "Source")]
    pub(crate) arch: Option<String>,

    /// Server of the Ubuntu base, the directory above 'releases'; with --bootstrap, the apt mirror.
    /// Repeat it to name several, tried in turn [default: cdimage.ubuntu.com, then known mirrors; with
    /// --bootstrap, the mirror that the host's own apt uses]
    #[arg(long, value_name = "URL", help_heading = "Source")]
    pub(crate) mirror: Vec<String>,

    /// Take this tarball (.tar, .tar.gz, .tar.xz or .tar.zst, told by content) instead; '-' is standard
    /// input, oci:DIR[:TAG] an image in an OCI layout, docker-archive:FILE[:IMAGE] one that
    /// 'docker save' or 'podman save' has written
    #[arg(long, value_name = "FILE|URL|-|oci:DIR|docker-archive:FILE", conflicts_with_all = ["release", "mirror"], help_heading = "Source")]
    pub(crate) from: Option<PathBuf>,

    /// SHA-256 sum that the tarball must have; a URL needs one, a file and standard input may have one
    #[arg(long, value_name = "HEX", help_heading = "Source")]
    pub(crate) sha256: Option<Sum>,

    /// Keys, as gpg --export writes them, one of which must have signed the server's list of files
    /// [default: Ubuntu's CD image key of 2012, built in]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "bootstrap", "sha256", "insecure"], help_heading = "Source")]
    pub(crate) keyring: Option<PathBuf>,

    /// Build the tree of SUITE (bookworm, focal …) from an apt mirror, by mmdebstrap or debootstrap
    #[arg(long, value_name = "SUITE", conflicts_with_all = ["release", "from", "sha256", "insecure"], help_heading = "Source")]
    pub(crate) bootstrap: Option<String>,

    /// When no server of the tarball can be reached within 15 s, build the tree from the host's own apt
    /// mirror: focal where that mirror has it, else the host's own suite
    #[arg(long, conflicts_with_all = ["from", "bootstrap"], help_heading = "Source")]
    pub(crate) or_bootstrap: bool,

    /// Directory that keeps downloads [default: /var/cache/rootfs-fetch for root, else
    /// rootfs-fetch in the user's cache directory]
    #[arg(long, value_name = "DIR", help_heading = "Download")]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Download nothing: take what is in that directory
    #[arg(long, conflicts_with_all = ["bootstrap", "or_bootstrap"], help_heading = "Download")]
    pub(crate) offline: bool,

    /// Download and verify only, and print the path of the file
    #[arg(long, conflicts_with_all = ["bootstrap", "or_bootstrap", "install", "output", "force", "dest"], help_heading = "Download")]
    pub(crate) download_only: bool,

    /// Give up on a server that sends nothing for so long, or fewer than 1024 bytes a second
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = number(1, u16::MAX), help_heading = "Download")]
    pub(crate) timeout: u16,

    /// Ask servers that do not answer, or break off, again so often, with growing pauses
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Download")]
    pub(crate) retries: u32,

    /// Take no more than this, downloaded or unpacked: bytes, or with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "8G", help_heading = "Download")]
    pub(crate) max_size: Size,

    /// Package to install; repeat it or give a list with commas
    #[arg(
        long,
        value_name = "PKG",
        value_delimiter = ',',
        default_value = "sysbench",
        help_heading = "Packages"
    )]
    pub(crate) install: Vec<String>,

    /// Install no package
    #[arg(long, conflicts_with = "install", help_heading = "Packages")]
    pub(crate) no_install: bool,

    /// Install from this apt mirror, and not from those that the tree names; it keeps its own list
    #[arg(long, value_name = "URL", conflicts_with = "bootstrap", help_heading = "Packages")]
    pub(crate) apt_mirror: Option<String>,

    /// Install what there was at TIME, such as 20240301T030400Z, from snapshot.ubuntu.com or
    /// snapshot.debian.org, or from '/TIME' of --apt-mirror
    #[arg(long, value_name = "TIME", conflicts_with = "bootstrap", help_heading = "Packages")]
    pub(crate) snapshot: Option<String>,

    /// Components of that mirror to install from [default: main, and universe for Ubuntu]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "bootstrap",
        help_heading = "Packages"
    )]
    pub(crate) components: Vec<String>,

    /// Shell command to run on the host when a tree is made, before it gets its name, with its path as
    /// $1; in mount and PID namespaces that end with it. Repeat it for more
    #[arg(long, value_name = "CMD", help_heading = "Packages")]
    pub(crate) hook: Vec<String>,

    /// What DEST is to be
    #[arg(long, value_enum, value_name = "FORM", default_value = "dir")]
    pub(crate) output: Output,

    /// Make the tree anew where DEST is complete already, and exchange the two at the end
    #[arg(long)]
    pub(crate) force: bool,

    /// Take a tarball that nothing verifies
    #[arg(long, conflicts_with = "sha256", help_heading = "Source")]
    pub(crate) insecure: bool,

    /// Print the result as a JSON object; 'manifest' in it is the sum of all that is in the tree
    #[arg(long)]
    pub(crate) json: bool,

    /// Print the steps as shell commands and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print each step as a shell command, on standard error, when it is taken
    #[arg(long)]
    pub(crate) verbose: bool,

    /// Say whether this host can make root file systems; if not, why, and what helps
    #[arg(long, exclusive = true)]
    pub(crate) check: bool,

    /// Print the manual page, or the completions for a shell
    #[arg(long, value_name = "FORMAT", value_enum, exclusive = true)]
    pub(crate) generate: Option<Format>,

    /// Directory to make, or file; '-' with --output tar is standard output
    #[arg(value_name = "DEST", required_unless_present = "download_only")]
    pub(crate) dest: Option<PathBuf>,
}

/// What DEST is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A directory: the tree itself
    Dir,
    /// A tar archive of the tree, with PAX headers, always the same for the same tree
    Tar,
    /// A directory with an image 'latest' in an OCI layout, for podman, skopeo and umoci
    Oci,
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
        let unit: u64 = match &text[digits.len()..] {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            "T" => 1 << 40,
            _ => 0,
        };
        let digits_only = digits.bytes().all(|byte| byte.is_ascii_digit());
        let bytes = digits.parse().ok().and_then(|number: u64| number.checked_mul(unit));
        bytes.filter(|bytes| *bytes > 0 && digits_only).map(Self).ok_or_else(|| {
            format!("'{text}' is no size: 500M is, or 8G, in bytes or with K, M, G or T")
        })
    }
}

const AFTER_HELP: &str = "\
Environment: http_proxy, https_proxy, all_proxy and no_proxy are used and passed to apt;
XDG_CACHE_HOME; with SOURCE_DATE_EPOCH no time in the tree is later, and no log stays, so that two
runs give the same tree.

Exit status: 0 done, or nothing to do; 1 failed, nothing is left; 2 wrong usage;
3 failed, and something is left behind, which the message names.

Examples:
  rootfs-fetch rootfs
  rootfs-fetch --install sysbench,iproute2 rootfs
  rootfs-fetch --from http://server/base.tar.gz --sha256 HEX rootfs
  rootfs-fetch --bootstrap bookworm rootfs
  rootfs-fetch --output oci image && podman pull oci:image";

impl Cli {
    /// The options of this process; what clap has to say about them is said, with the status to end with.
    pub(crate) fn parse_or_usage() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|err| error::usage(&err))
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

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_have_units() {
        let sizes = [("1", 1), ("2K", 2048), ("500M", 500 << 20), ("8G", 8 << 30), ("1T", 1 << 40)];
        for (text, bytes) in sizes {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        for text in ["", "0", "K", "-1", "+1", "1.5G", "8GB", "8g", "99999999T"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
