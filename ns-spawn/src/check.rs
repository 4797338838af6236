//! Whether this host can run containers; if not, why, and what helps.

use crate::{
    error::{Attempt as _, Error},
    userns::ranges_of,
};
use nix::{errno::Errno, libc, unistd::geteuid};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    mount::{FsOpenFlags, fsopen},
    thread::{CapabilitySet, capabilities},
};
use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    /// None: it is there. Else why not, and what helps.
    missing: Option<(String, String)>,
    /// Whether nothing works without it.
    needed: bool,
}

/// Print what was found: 0 if containers can be run, 1 if not.
pub(crate) fn print() -> Result<u8, Error> {
    let findings = look()?;
    let mut text = String::new();
    for Finding { what, missing, needed } in &findings {
        let line = match (missing, needed) {
            (None, _) => format!("yes  {what}\n"),
            (Some((why, help)), true) => format!("NO   {what}: {why}\n     hint: {help}\n"),
            (Some((why, help)), false) => format!("no   {what}: {why}\n     hint: {help}\n"),
        };
        text.push_str(&line);
    }
    io::stdout().write_all(text.as_bytes()).attempt(|| "cannot write to standard output".into())?;
    let able = findings.iter().all(|finding| finding.missing.is_none() || !finding.needed);
    Ok(u8::from(!able))
}

fn look() -> Result<Vec<Finding>, Error> {
    let namespaces = [
        ("mnt", "mount namespaces"),
        ("pid", "PID namespaces"),
        ("uts", "UTS namespaces"),
        ("ipc", "IPC namespaces"),
        ("cgroup", "cgroup namespaces"),
        ("net", "network namespaces"),
    ];
    let mut findings: Vec<_> = namespaces
        .into_iter()
        .map(|(file, what)| {
            let there = Path::new("/proc/self/ns").join(file).exists();
            let missing = (!there).then(|| {
                ("the kernel has none".into(), "use a kernel built with CONFIG_NAMESPACES".into())
            });
            Finding { what, missing, needed: true }
        })
        .collect();
    findings.push(call(
        "openat2 (Linux 5.6)",
        openat2(CWD, "/", OFlags::PATH, Mode::empty(), ResolveFlags::empty()).err(),
    ));
    let refused = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).err();
    findings.push(call(
        "mounting by descriptor (Linux 5.2)",
        refused.filter(|errno| *errno == rustix::io::Errno::NOSYS),
    ));
    let attributes =
        call("mount_setattr (Linux 5.12), for trees of several mounts", mount_setattr());
    findings.push(Finding { needed: false, ..attributes });
    findings.push(filters());
    let (privileges, users) = (privileges(), user_namespaces());
    // Who has none makes a user namespace, and has them in there.
    findings.push(Finding { needed: users.missing.is_some(), ..privileges });
    findings.push(users);
    findings.push(further_users()?);
    findings.push(injection());
    Ok(findings)
}

fn call(what: &'static str, refused: Option<rustix::io::Errno>) -> Finding {
    let missing = refused.map(|errno| {
        let errno = Errno::from_raw(errno.raw_os_error());
        (format!("{} ({errno:?})", errno.desc()), "use Linux 5.12 or later".into())
    });
    Finding { what, missing, needed: true }
}

/// Ask for nothing, of no descriptor: a kernel that has the call says EBADF, or EPERM before it looks.
fn mount_setattr() -> Option<rustix::io::Errno> {
    let nothing = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let refused = crate::sys::set_mount_attributes(rustix::stdio::stdin(), &nothing, false).err();
    (refused == Some(Errno::ENOSYS)).then_some(rustix::io::Errno::NOSYS)
}

fn filters() -> Finding {
    let there = Path::new("/proc/sys/kernel/seccomp/actions_avail").exists();
    let missing = (!there).then(|| {
        (
            "the kernel has none".into(),
            "use a kernel built with CONFIG_SECCOMP_FILTER, or --seccomp none".into(),
        )
    });
    Finding { what: "system call filters (seccomp)", missing, needed: false }
}

fn privileges() -> Finding {
    let permitted = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let missing = (!permitted.contains(CapabilitySet::SYS_ADMIN)).then(|| {
        let uid = geteuid();
        (
            format!("user {uid} has no CAP_SYS_ADMIN"),
            "run as root; without, ns-spawn makes a user namespace".into(),
        )
    });
    Finding { what: "privileges to make namespaces", missing, needed: true }
}

/// Say what keeps ordinary users from making user namespaces, if it is that.
pub(crate) fn explain_userns(error: Error) -> Error {
    match (error.errno(), user_namespaces().missing) {
        (Some(Errno::EPERM | Errno::EACCES | Errno::ENOSPC), Some((why, help))) => {
            error.hint(format!("{why}; what helps: {help}"))
        }
        _ => error,
    }
}

/// Sysctls that keep ordinary users from making user namespaces, and what each is called.
fn user_namespaces() -> Finding {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
    let is = |name: &str, value: &str| read(name).trim() == value;
    let missing = if !Path::new("/proc/self/ns/user").exists() {
        Some(("the kernel has none".into(), "use a kernel built with CONFIG_USER_NS".into()))
    } else if is("kernel/unprivileged_userns_clone", "0") {
        Some((
            "kernel.unprivileged_userns_clone is 0".into(),
            "sysctl kernel.unprivileged_userns_clone=1".into(),
        ))
    } else if is("user/max_user_namespaces", "0") {
        Some((
            "user.max_user_namespaces is 0".into(),
            "sysctl user.max_user_namespaces=10000".into(),
        ))
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        let why = "AppArmor restricts them (kernel.apparmor_restrict_unprivileged_userns is 1)";
        Some((
            why.into(),
            "give ns-spawn an AppArmor profile with 'userns,', or sysctl kernel.apparmor_restrict_unprivileged_userns=0".into(),
        ))
    } else {
        None
    };
    Finding { what: "user namespaces for ordinary users", missing, needed: false }
}

/// Not needed, as root alone does for many commands: whether there are others for the containers of the one who asks, through
/// sudo perhaps.
fn further_users() -> Result<Finding, Error> {
    let through_sudo = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
    let uid = through_sudo.filter(|_| geteuid().is_root()).unwrap_or(geteuid().as_raw());
    Ok(Finding {
        what: "further users for containers without root (subuid)",
        missing: ranges_of(uid)?.err(),
        needed: false,
    })
}

/// Not needed, as ns-spawn gives a pty of its own: told for those who inherit a terminal.
fn injection() -> Finding {
    let legacy = fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").unwrap_or_default();
    let missing = (legacy.trim() == "1")
        .then(|| ("dev.tty.legacy_tiocsti is 1".into(), "sysctl dev.tty.legacy_tiocsti=0".into()));
    Finding { what: "no input injection by TIOCSTI on this host", missing, needed: false }
}
