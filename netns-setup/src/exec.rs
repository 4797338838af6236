//! `exec`: run a command in the namespace, as `ip netns exec` does, with its status passed through.

use crate::{
    address::netns_name,
    cli, dns,
    error::{Attempt as _, Error},
    netns::{self, Named},
};
use nix::{
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::stat::Mode,
};
use std::{
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Command, ExitCode},
};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Become the command. Returns only when that fails.
pub(crate) fn exec(exec: &cli::Exec) -> Result<ExitCode, Error> {
    enter(&exec.name).map_err(Error::before_command)?;
    let mut words = exec.command.iter();
    let program = words.next().cloned().unwrap_or_default();
    let cause = Command::new(&program).args(words).exec();
    Err(Error::command(&program, cause))
}

fn enter(name: &str) -> Result<(), Error> {
    let name = netns_name(name)?;
    let Named::Netns(netns) = netns::look(&name)? else {
        return Err(Error::new(format!("network namespace '{name}' does not exist"))
            .hint(format!("'netns-setup up {name}' makes it")));
    };
    let attempt = || format!("cannot enter network namespace '{name}'");
    // This process has one thread, and becomes the command: it need not come back.
    setns(netns, CloneFlags::CLONE_NEWNET).attempt(attempt).map_err(netns::needs)?;
    unshare(CloneFlags::CLONE_NEWNS).attempt(attempt).map_err(netns::needs)?;
    // What is mounted below must not appear on the host: systemd makes "/" shared.
    mount_on(None, Path::new("/"), None, MsFlags::MS_SLAVE | MsFlags::MS_REC)?;
    mount_sys()?;
    bind_files(&name)
}

/// Mount /sys anew: it shows the links of the namespace in which it was mounted. The cgroups, which were
/// mounted below it, stay where they were.
fn mount_sys() -> Result<(), Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let cgroups: Option<OwnedFd> = open(CGROUPS, flags, Mode::empty()).ok();
    let sysfs = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_on(Some(Path::new("sysfs")), Path::new("/sys"), Some("sysfs"), sysfs)?;
    let Some(cgroups) = cgroups else { return Ok(()) };
    let source = format!("/proc/self/fd/{}", cgroups.as_raw_fd());
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount_on(Some(Path::new(&source)), Path::new(CGROUPS), None, bind)
}

/// Bind each file in /etc/netns/NAME on the one in /etc, see ip-netns(8).
fn bind_files(name: &str) -> Result<(), Error> {
    let dir = dns::dir(name);
    for file in netns::entries(&dir.to_string_lossy())? {
        let target = Path::new("/etc").join(&file);
        // ip-netns(8) goes on without it too: there is nothing to bind it on.
        if target.exists() {
            mount_on(Some(&dir.join(&file)), &target, None, MsFlags::MS_BIND)?;
        }
    }
    Ok(())
}

fn mount_on(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
) -> Result<(), Error> {
    mount(source, target, kind, flags, None::<&str>)
        .attempt(|| format!("cannot mount on '{}'", target.display()))
        .map_err(netns::needs)
}
