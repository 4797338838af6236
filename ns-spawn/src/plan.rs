//! The checked request: everything looked at and opened, nothing changed.

use crate::{
    cli::{Cli, Shared},
    command::Command,
    error::{Attempt as _, Error},
    identity::Identity,
    init::Step,
    netns::Netns,
    rootfs::Rootfs,
    terminal::Terminal,
};
use nix::sched::CloneFlags;
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// What will be done.
pub(crate) struct Plan {
    pub(crate) rootfs: Rootfs,
    pub(crate) netns: Option<Netns>,
    pub(crate) namespaces: CloneFlags,
    pub(crate) hostname: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) command: Command,
    pub(crate) terminal: Terminal,
    pub(crate) verbose: bool,
}

/// The longest hostname: `__NEW_UTS_LEN` in linux/utsname.h, sethostname(2).
const HOSTNAME_BYTES: usize = 64;

impl Plan {
    pub(crate) fn new(cli: Cli) -> Result<Self, Error> {
        let rootfs = Rootfs::open(&cli.root)?;
        let netns = cli.netns.as_deref().map(Netns::open).transpose()?;
        if netns.is_some() && cli.share.contains(&Shared::Net) {
            return Err(Error::new("--netns and --share net exclude each other"));
        }
        check_hostname(&cli.hostname)?;
        if !cli.workdir.is_absolute() {
            let shown = cli.workdir.display();
            return Err(Error::new(format!("working directory '{shown}' does not begin with '/'")));
        }
        let identity = Identity::look_up(&cli.user, &rootfs)?;
        let root = rootfs.shown().to_string();
        let command = Command::new(cli.command, &cli.env, identity, cli.workdir, root)?;
        let namespaces = namespaces(&cli.share, netns.is_some());
        let terminal = Terminal::choose(cli.console)?;
        let steps = steps(namespaces, netns.is_some(), cli.read_only);
        Ok(Self {
            rootfs,
            netns,
            namespaces,
            hostname: cli.hostname,
            steps,
            command,
            terminal,
            verbose: cli.verbose,
        })
    }

    /// Print it on standard output as a shell script that does the same.
    pub(crate) fn print(&self) -> Result<ExitCode, Error> {
        let mut script = format!("{} <<'EOF'\n", self.start_line());
        let steps = self.steps.iter().flat_map(|step| step.shell(self));
        for line in steps.chain(self.command_lines()) {
            script.push_str(&line);
            script.push('\n');
        }
        script.push_str("EOF\n");
        io::stdout()
            .write_all(script.as_bytes())
            .attempt(|| "cannot write to standard output".into())?;
        Ok(ExitCode::SUCCESS)
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
        format!("{join}unshare {flags} --propagation private --fork --kill-child sh -e")
    }

    /// The commands that become COMMAND.
    pub(crate) fn command_lines(&self) -> Vec<String> {
        let user = &self.command.identity;
        let words: Vec<_> = self.command.shell_words().iter().map(|word| quote(word)).collect();
        vec![
            format!("# terminal: {}", self.terminal.shown()),
            format!("cd {}", quote(&self.command.workdir.to_string_lossy())),
            format!(
                "exec setpriv --bounding-set {CAPABILITIES} --inh-caps -all --clear-groups --reuid {} \
                 --regid {} --no-new-privs {}",
                user.uid,
                user.gid,
                words.join(" ")
            ),
        ]
    }
}

/// setpriv(1)'s words for [`crate::security::DOCKER`].
const CAPABILITIES: &str = "-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,\
                            +setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write";

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

/// The order matters: the network namespace before /sys, which shows it; everything that needs the host's
/// paths before the switch.
fn steps(namespaces: CloneFlags, joins: bool, read_only: bool) -> Vec<Step> {
    let own_net = namespaces.contains(CloneFlags::CLONE_NEWNET);
    let own_uts = namespaces.contains(CloneFlags::CLONE_NEWUTS);
    [
        (joins, Step::JoinNetns),
        (own_net, Step::RaiseLoopback),
        (true, Step::MakePrivate),
        (true, Step::AttachRoot),
        (joins, Step::BindEtcFiles),
        (read_only, Step::MakeReadOnly),
        (true, Step::MountProc),
        (true, Step::MountSys),
        (true, Step::MountDev),
        (true, Step::MaskPaths),
        (own_uts, Step::SetHostname),
        (true, Step::SwitchRoot),
    ]
    .into_iter()
    .filter_map(|(wanted, step)| wanted.then_some(step))
    .collect()
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
        let steps = steps(namespaces(&[], true), true, false);
        let at = |wanted| steps.iter().position(|step| *step == wanted);
        assert!(at(Step::JoinNetns) < at(Step::MountSys));
        assert_eq!(at(Step::RaiseLoopback), None);
    }
}
