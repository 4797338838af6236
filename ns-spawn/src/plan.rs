//! The checked request: everything looked at and opened, nothing changed.

use crate::{
    cli::{Cli, Dev, Kernel, Shared},
    command::Command,
    error::{Attempt as _, Error},
    init::Step,
    netns::Netns,
    overlay::Overlay,
    rootfs::{Rootfs, needs_root},
    terminal::Terminal,
    userns::Userns,
    volumes::Volume,
};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
};
use std::{
    io::{self, Write as _},
    path::Path,
};

/// What will be done.
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Plan {
    pub(crate) rootfs: Rootfs,
    pub(crate) netns: Option<Netns>,
    pub(crate) namespaces: CloneFlags,
    pub(crate) clocks: Option<Clocks>,
    pub(crate) hostname: String,
    pub(crate) overlay: Option<Overlay>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) privileged: bool,
    pub(crate) proc: Kernel,
    pub(crate) sys: Kernel,
    pub(crate) steps: Vec<Step>,
    pub(crate) command: Command,
    pub(crate) terminal: Terminal,
    pub(crate) as_pid_1: bool,
    /// In a new user namespace.
    pub(crate) userns: bool,
    /// In one in which only root exists.
    pub(crate) one_id: bool,
    pub(crate) verbose: bool,
}

/// The longest hostname: `__NEW_UTS_LEN` in linux/utsname.h, sethostname(2).
const HOSTNAME_BYTES: usize = 64;

impl Plan {
    pub(crate) fn new(cli: &Cli, root: &Path, userns: Option<&Userns>) -> Result<Self, Error> {
        let rootfs = Rootfs::open(root)?;
        let netns = cli.netns.as_deref().map(Netns::open).transpose()?;
        if netns.is_some() && cli.share.contains(&Shared::Net) {
            return Err(Error::new("--netns and --share net exclude each other"));
        }
        if cli.dev == Dev::None && !cli.mask.is_empty() {
            return Err(Error::new(
                "--mask takes a /dev of the container's own: files go under its null",
            ));
        }
        check_hostname(&cli.hostname)?;
        let mut namespaces = namespaces(&cli.share, netns.is_some());
        namespaces.set(CloneFlags::CLONE_NEWUSER, userns.is_some());
        let overlay =
            cli.overlay.as_ref().map(|upper| Overlay::open(upper.as_deref())).transpose()?;
        Ok(Self {
            namespaces,
            clocks: cli.time.as_deref().map(Clocks::read).transpose()?,
            hostname: cli.hostname.clone(),
            volumes: Volume::open_all(cli)?,
            privileged: cli.privileged,
            proc: cli.proc,
            sys: if cli.privileged && cli.sys == Kernel::Ro { Kernel::Rw } else { cli.sys },
            steps: steps(cli, namespaces),
            command: Command::new(cli, &rootfs, userns)?,
            terminal: Terminal::choose(cli.console, cli.dev == Dev::Own)?,
            as_pid_1: cli.as_pid_1,
            userns: userns.is_some(),
            one_id: userns.is_some_and(Userns::has_one_id),
            verbose: cli.verbose,
            rootfs,
            netns,
            overlay,
        })
    }

    /// Print it on standard output as a shell script that does the same.
    pub(crate) fn print(&self) -> Result<u8, Error> {
        let steps = self.steps.iter().flat_map(|step| step.shell(self));
        print_script(&self.start_line(), steps.chain(self.command_lines()))
    }

    /// The command that makes the namespaces and takes the rest from its standard input.
    pub(crate) fn start_line(&self) -> String {
        let names = [
            (CloneFlags::CLONE_NEWNS, "--mount"),
            (CloneFlags::CLONE_NEWPID, "--pid"),
            (CloneFlags::CLONE_NEWUTS, "--uts"),
            (CloneFlags::CLONE_NEWIPC, "--ipc"),
            (CloneFlags::CLONE_NEWCGROUP, "--cgroup"),
            (CloneFlags::CLONE_NEWNET, "--net"),
            (
                CloneFlags::CLONE_NEWUSER,
                if self.one_id { "--map-root-user" } else { "--map-root-user --map-auto" },
            ),
        ];
        let flags: Vec<_> = names
            .iter()
            .filter(|(flag, _)| self.namespaces.contains(*flag))
            .map(|(_, name)| *name)
            .collect();
        let join = self
            .netns
            .as_ref()
            .map(|netns| format!("nsenter --net={} ", quote(&netns.path.to_string_lossy())))
            .unwrap_or_default();
        let flags = flags.join(" ");
        let clocks = self.clocks.map(|Clocks { monotonic, boottime }| {
            format!(" --time --monotonic {monotonic} --boottime {boottime}")
        });
        let clocks = clocks.unwrap_or_default();
        format!("{join}unshare {flags}{clocks} --propagation private --fork --kill-child sh -e")
    }

    /// The commands that become COMMAND.
    pub(crate) fn command_lines(&self) -> Vec<String> {
        let terminal = format!("# terminal: {}", self.terminal.shown());
        std::iter::once(terminal).chain(self.command.shell()).collect()
    }
}

/// How far the clocks of a time namespace are ahead, in seconds: `time_namespaces(7)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clocks {
    monotonic: i64,
    boottime: i64,
}

impl Clocks {
    fn read(text: &str) -> Result<Self, Error> {
        let number = |part: &str| part.parse::<i64>().ok();
        let (monotonic, boottime) = text.split_once(',').unwrap_or((text, text));
        match (number(monotonic), number(boottime)) {
            (Some(monotonic), Some(boottime)) => Ok(Self { monotonic, boottime }),
            _ => Err(Error::new(format!(
                "'{text}' is no time: it has the form MONOTONIC[,BOOTTIME], in seconds"
            ))),
        }
    }

    /// Have a time namespace with them made for this process's children.
    pub(crate) fn set(self) -> Result<(), Error> {
        let attempt = || "cannot create the time namespace".to_owned();
        // CLONE_NEWTIME: nix has no name for it.
        unshare(CloneFlags::from_bits_retain(0x80)).attempt(attempt).map_err(needs_root)?;
        let Self { monotonic, boottime } = self;
        std::fs::write(
            "/proc/self/timens_offsets",
            format!("monotonic {monotonic} 0\nboottime {boottime} 0\n"),
        )
        .attempt(attempt)
        .map_err(|err| err.hint_on(Errno::ERANGE, "the clocks cannot be set before zero"))
    }
}

fn check_hostname(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > HOSTNAME_BYTES || name.contains('\0') {
        let length = name.len();
        return Err(Error::new(format!(
            "hostname '{name}' has {length} bytes; the kernel allows 1 to {HOSTNAME_BYTES}"
        )));
    }
    Ok(())
}

fn namespaces(share: &[Shared], joins: bool) -> CloneFlags {
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    flags.set(CloneFlags::CLONE_NEWNET, !joins);
    for kind in share {
        flags.remove(match kind {
            Shared::Net => CloneFlags::CLONE_NEWNET,
            Shared::Uts => CloneFlags::CLONE_NEWUTS,
            Shared::Ipc => CloneFlags::CLONE_NEWIPC,
            Shared::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        });
    }
    flags
}

/// The order matters: the network namespace before /sys, which shows it; what the user wants mounted after /dev,
/// which may be part of its path; everything that needs the host's paths before the switch.
fn steps(cli: &Cli, namespaces: CloneFlags) -> Vec<Step> {
    let joins = cli.netns.is_some();
    let own_net = namespaces.contains(CloneFlags::CLONE_NEWNET);
    let own_uts = namespaces.contains(CloneFlags::CLONE_NEWUTS);
    let own_dev = cli.dev == Dev::Own;
    let has_volumes =
        [cli.bind.len(), cli.ro_bind.len(), cli.device.len(), cli.tmpfs.len(), cli.mask.len()];
    [
        (joins, Step::JoinNetns),
        (own_net, Step::RaiseLoopback),
        (true, Step::MakePrivate),
        (true, Step::AttachRoot),
        (cli.overlay.is_some(), Step::LayOverlay),
        (joins, Step::BindEtcFiles),
        (cli.read_only, Step::MakeReadOnly),
        (cli.proc != Kernel::None, Step::MountProc),
        (cli.sys != Kernel::None, Step::MountSys),
        (own_dev, Step::MountDev),
        (own_uts && own_dev, Step::NameHost),
        (has_volumes.iter().any(|number| *number > 0), Step::MountVolumes),
        (own_dev && !cli.no_mask && !cli.privileged, Step::MaskPaths),
        (own_uts, Step::SetHostname),
        (true, Step::SwitchRoot),
    ]
    .into_iter()
    .filter_map(|(wanted, step)| wanted.then_some(step))
    .collect()
}

/// Print a script: `shell`, a shell in other namespaces, that reads `lines`.
pub(crate) fn print_script(shell: &str, lines: impl Iterator<Item = String>) -> Result<u8, Error> {
    let lines: String = lines.map(|line| line + "\n").collect();
    io::stdout()
        .write_all(format!("{shell} <<'EOF'\n{lines}EOF\n").as_bytes())
        .attempt(|| "cannot write to standard output".into())?;
    Ok(0)
}

/// `word` as a shell reads it back.
pub(crate) fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(quote("a/b.c=1"), "a/b.c=1");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }

    #[test]
    fn hostnames_that_the_kernel_refuses_are_refused() {
        assert!(check_hostname(&"x".repeat(64)).is_ok());
        assert!(check_hostname(&"x".repeat(65)).is_err());
        assert!(check_hostname("").is_err());
    }

    #[test]
    fn a_joined_network_namespace_is_entered_before_sys_is_mounted() {
        let cli = Cli::try_parse_from(["ns-spawn", "--root", "/", "--netns", "x"]).unwrap();
        let steps = steps(&cli, namespaces(&[], true));
        let at = |wanted| steps.iter().position(|step| *step == wanted);
        assert!(at(Step::JoinNetns) < at(Step::MountSys));
        assert_eq!(at(Step::RaiseLoopback), None);
    }
}
