//! The container's /proc, /sys and /dev, and what is hidden in them.

use crate::{
    attributes::restrict,
    cli::Kernel,
    error::{Attempt as _, Error},
    rootfs::{attach, detached_copy, needs_root, old_kernel},
};
use nix::libc;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, FileType, Mode, OFlags, fstat, openat, symlinkat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};

/// A file system to make: its type, its options, the attributes of its mount, where it goes.
pub(crate) struct Filesystem<'a> {
    pub(crate) kind: &'static str,
    pub(crate) options: &'a [(&'a str, &'a str)],
    pub(crate) flags: &'static [&'static str],
    pub(crate) attributes: MountAttrFlags,
    pub(crate) target: &'a str,
}

const NOSUID_NOEXEC: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
pub(crate) const CLOSED: MountAttrFlags = NOSUID_NOEXEC.union(MountAttrFlags::MOUNT_ATTR_NODEV);

// Options and attributes are those of the OCI runtime specification's Linux defaults and of Docker, but for
// /dev, which is nodev here: see `DEVICES`.

pub(crate) const PROC: Filesystem<'_> =
    Filesystem { kind: "proc", options: &[], flags: &[], attributes: CLOSED, target: "proc" };

/// sysfs shows the network namespace of the process that mounts it: it has been joined by then.
pub(crate) const SYS: Filesystem<'_> = Filesystem {
    kind: "sysfs",
    options: &[],
    flags: &[],
    attributes: CLOSED.union(MountAttrFlags::MOUNT_ATTR_RDONLY),
    target: "sys",
};

pub(crate) const DEV: Filesystem<'_> = Filesystem {
    kind: "tmpfs",
    options: &[("mode", "755"), ("size", "65536k")],
    flags: &[],
    attributes: CLOSED,
    target: "dev",
};

/// What lies below /dev. The names are those of directories that [`populate`] makes.
pub(crate) const BELOW_DEV: [Filesystem<'_>; 3] = [
    Filesystem {
        kind: "devpts",
        options: &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
        flags: &["newinstance"],
        attributes: NOSUID_NOEXEC,
        target: "pts",
    },
    Filesystem {
        kind: "tmpfs",
        options: &[("mode", "1777"), ("size", "65536k")],
        flags: &[],
        attributes: CLOSED,
        target: "shm",
    },
    Filesystem { kind: "mqueue", options: &[], flags: &[], attributes: CLOSED, target: "mqueue" },
];

impl Filesystem<'_> {
    /// The same, to be written or only read.
    pub(crate) fn with_mode(self, mode: Kernel) -> Self {
        let mut attributes = self.attributes;
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, mode == Kernel::Ro);
        Self { attributes, ..self }
    }

    /// Make it, attached nowhere yet.
    pub(crate) fn make(&self) -> Result<OwnedFd, Error> {
        let attempt =
            || format!("cannot make a '{}' file system for '/{}'", self.kind, self.target);
        let context = fsopen(self.kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .attempt(attempt)
            .map_err(needs_root)
            .map_err(old_kernel)?;
        for (key, value) in self.options {
            fsconfig_set_string(&context, *key, *value).attempt(attempt)?;
        }
        for key in self.flags {
            fsconfig_set_flag(&context, *key).attempt(attempt)?;
        }
        fsconfig_create(&context).attempt(attempt)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, self.attributes).attempt(attempt)
    }

    /// Make it and attach it at `target`. The result is the root directory of the new mount.
    pub(crate) fn mount(&self, target: impl AsFd) -> Result<OwnedFd, Error> {
        let mount = self.make()?;
        attach(&mount, target)
            .attempt(|| format!("cannot mount '{}' on '/{}'", self.kind, self.target))?;
        Ok(mount)
    }

    /// Make it and attach it at the directory of its name in `parent`, a mount that nobody else can change yet.
    pub(crate) fn mount_in(&self, parent: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
        let mount = self.make()?;
        move_mount(&mount, "", parent, self.target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .attempt(|| format!("cannot mount '{}' on '{}'", self.kind, self.target))?;
        Ok(mount)
    }

    /// mount(8)'s options for it.
    pub(crate) fn shell(&self, target: &str) -> String {
        let options = self.options.iter().map(|(key, value)| format!("{key}={value}"));
        let named = [
            (MountAttrFlags::MOUNT_ATTR_RDONLY, "ro"),
            (MountAttrFlags::MOUNT_ATTR_NOSUID, "nosuid"),
            (MountAttrFlags::MOUNT_ATTR_NODEV, "nodev"),
            (MountAttrFlags::MOUNT_ATTR_NOEXEC, "noexec"),
        ];
        let attributes = named.iter().filter(|(flag, _)| self.attributes.contains(*flag));
        let all: Vec<_> = attributes
            .map(|(_, name)| (*name).to_owned())
            .chain(self.flags.iter().map(|flag| (*flag).to_owned()))
            .chain(options)
            .collect();
        format!("mount -t {0} -o {1} {0} {target}", self.kind, all.join(","))
    }
}

/// devpts without a group for its terminals, for a user namespace that has no other than root's.
pub(crate) const PTS_WITHOUT_GROUP: Filesystem<'_> = Filesystem {
    kind: "devpts",
    options: &[("ptmxmode", "0666"), ("mode", "0600")],
    flags: &["newinstance"],
    attributes: NOSUID_NOEXEC,
    target: "pts",
};

/// The device nodes every container has: names in /dev and device numbers (devices.txt of the kernel).
///
/// Each is bound from the host onto a file of a /dev that is itself nodev, as every mount in the container
/// is. So a node that COMMAND makes with `CAP_MKNOD` cannot be opened, and no device cgroup is needed.
pub(crate) const DEVICES: [(&str, (u32, u32)); 6] = [
    ("null", (1, 3)),
    ("zero", (1, 5)),
    ("full", (1, 7)),
    ("random", (1, 8)),
    ("urandom", (1, 9)),
    ("tty", (5, 0)),
];

/// The links that every /dev has.
pub(crate) const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Detached copies of the host's device nodes, in the order of [`DEVICES`].
///
/// From the host, and checked: a rootfs's own nodes may be anything (CVE-2025-31133).
pub(crate) fn detach_devices() -> Result<Vec<OwnedFd>, Error> {
    let detach = |(name, (major, minor)): &(&str, (u32, u32))| {
        let attempt = || format!("cannot bind '/dev/{name}'");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = openat(CWD, format!("/dev/{name}"), flags, Mode::empty()).attempt(attempt)?;
        let stat = fstat(&node).attempt(attempt)?;
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let character = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        if !character || device != (*major, *minor) {
            return Err(Error::new(format!(
                "'/dev/{name}' is not the character device {major}:{minor}"
            )));
        }
        detached_copy(&node, false).attempt(attempt).map_err(needs_root).map_err(old_kernel)
    };
    DEVICES.iter().map(detach).collect()
}

/// Fill the fresh, still empty /dev.
pub(crate) fn populate(dev: BorrowedFd<'_>, devices: &[OwnedFd]) -> Result<(), Error> {
    for ((name, _), node) in DEVICES.iter().zip(devices) {
        let target = place(dev, name)?;
        attach(node, target).attempt(|| format!("cannot bind '/dev/{name}'"))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name).attempt(|| format!("cannot make the link '/dev/{name}'"))?;
    }
    for filesystem in &BELOW_DEV {
        rustix::fs::mkdirat(dev, filesystem.target, Mode::from_raw_mode(0o755))
            .attempt(|| format!("cannot make '/dev/{}'", filesystem.target))?;
    }
    Ok(())
}

/// Bind the terminal `slave`, by its descriptor, on /dev/console (CVE-2025-52565 did it by a path).
pub(crate) fn bind_console(dev: BorrowedFd<'_>, slave: impl AsFd) -> Result<(), Error> {
    let attempt = || "cannot bind '/dev/console'".to_owned();
    let copy = detached_copy(slave, false).attempt(attempt)?;
    attach(copy, place(dev, "console")?).attempt(attempt)
}

/// Make an empty file to bind on.
fn place(dev: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Error> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dev, name, flags, Mode::from_raw_mode(0o644))
        .attempt(|| format!("cannot make '/dev/{name}'"))
}

/// What COMMAND must not see. Docker's list: moby's oci/defaults.go; paths that do not exist are passed over.
pub(crate) const MASKED_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];

/// The same for /sys. For every CPU there is `devices/system/cpu/cpuN/thermal_throttle` besides.
pub(crate) const MASKED_SYS: [&str; 2] = ["devices/virtual/powercap", "firmware"];

/// What COMMAND may only read: same source.
pub(crate) const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Hides paths: files under /dev/null, directories under one empty read-only tmpfs.
pub(crate) struct Masks<'a> {
    null: BorrowedFd<'a>,
    empty: Option<OwnedFd>,
}

impl<'a> Masks<'a> {
    /// `null`: where the host's /dev/null is attached already.
    pub(crate) fn new(null: BorrowedFd<'a>) -> Self {
        Self { null, empty: None }
    }

    /// Hide `path` in `mount`, a /proc or /sys made by us that nobody else can change yet.
    pub(crate) fn hide(&mut self, mount: BorrowedFd<'_>, path: &str) -> Result<(), Error> {
        let attempt = || format!("cannot mask '{path}'");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = match openat(mount, path, flags, Mode::empty()) {
            Ok(target) => target,
            Err(Errno::NOENT) => return Ok(()),
            Err(err) => return Err(err).attempt(attempt),
        };
        self.hide_at(target, path)
    }

    /// Hide what is open as `target`, `path` in messages.
    pub(crate) fn hide_at(&mut self, target: OwnedFd, path: &str) -> Result<(), Error> {
        let attempt = || format!("cannot mask '{path}'");
        let stat = fstat(&target).attempt(attempt)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let copy = detached_copy(self.null, false).attempt(attempt)?;
            return attach(copy, target).attempt(attempt);
        }
        if let Some(empty) = &self.empty {
            return attach(detached_copy(empty, false).attempt(attempt)?, target).attempt(attempt);
        }
        self.empty = Some(EMPTY.mount(target)?);
        Ok(())
    }

    /// Hide every `cpuN/thermal_throttle` in `sys`: it tells what the neighbours compute.
    pub(crate) fn hide_thermal_throttle(&mut self, sys: BorrowedFd<'_>) -> Result<(), Error> {
        let mut cpu = 0;
        loop {
            let dir = format!("devices/system/cpu/cpu{cpu}");
            match rustix::fs::accessat(
                sys,
                &dir,
                rustix::fs::Access::EXISTS,
                rustix::fs::AtFlags::empty(),
            ) {
                Ok(()) => self.hide(sys, &format!("{dir}/thermal_throttle"))?,
                Err(_) => return Ok(()),
            }
            cpu += 1;
        }
    }
}

const EMPTY: Filesystem<'_> = Filesystem {
    kind: "tmpfs",
    options: &[("mode", "755"), ("size", "0")],
    flags: &[],
    attributes: CLOSED.union(MountAttrFlags::MOUNT_ATTR_RDONLY),
    target: "(masked)",
};

/// Make `path` in `mount`, a /proc made by us that nobody else can change yet, read-only.
pub(crate) fn make_read_only(mount: BorrowedFd<'_>, path: &str) -> Result<(), Error> {
    let attempt = || format!("cannot make '/proc/{path}' read-only");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let copy = match open_tree(mount, path, flags) {
        Ok(copy) => copy,
        Err(Errno::NOENT) => return Ok(()),
        Err(err) => return Err(err).attempt(attempt),
    };
    move_mount(&copy, "", mount, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).attempt(attempt)?;
    restrict(&copy, libc::MOUNT_ATTR_RDONLY).attempt(attempt)
}
