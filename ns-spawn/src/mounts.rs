//! The container's /proc, /sys and /dev, and what is hidden in them.

use crate::{
    attributes::{allow_writing, mount_flags},
    cli::Kernel,
    error::{Attempt as _, Error},
    rootfs::{Kind, attach, detached_copy, leave_open, needs_root, old_kernel},
};
use nix::mount::{MsFlags, mount};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{Access, AtFlags, CWD, FileType, Mode, accessat, fstat, mknodat, symlinkat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
    process::fchdir,
};

/// A file system to make: its type, its options, the attributes of its mount, where it goes.
pub(crate) struct Filesystem<'a> {
    pub(crate) kind: &'static str,
    pub(crate) options: &'a [(&'a str, &'a str)],
    pub(crate) attributes: MountAttrFlags,
    pub(crate) target: &'a str,
}

const NOSUID_NOEXEC: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
pub(crate) const CLOSED: MountAttrFlags = NOSUID_NOEXEC.union(MountAttrFlags::MOUNT_ATTR_NODEV);

// Options and attributes are those of the OCI runtime specification's Linux defaults and of Docker, but for
// /dev, which is nodev here: see `DEVICES`.

pub(crate) const PROC: Filesystem<'_> =
    Filesystem { kind: "proc", options: &[], attributes: CLOSED, target: "proc" };

/// sysfs shows the network namespace of the process that mounts it: it has been joined by then.
pub(crate) const SYS: Filesystem<'_> = Filesystem {
    kind: "sysfs",
    options: &[],
    attributes: CLOSED.union(MountAttrFlags::MOUNT_ATTR_RDONLY),
    target: "sys",
};

pub(crate) const DEV: Filesystem<'_> = Filesystem {
    kind: "tmpfs",
    options: &[("mode", "755"), ("size", "65536k")],
    attributes: CLOSED,
    target: "dev",
};

/// What lies below /dev. The names are those of directories that [`populate`] makes.
pub(crate) const BELOW_DEV: [Filesystem<'_>; 3] = [
    Filesystem {
        kind: "devpts",
        options: &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
        attributes: NOSUID_NOEXEC,
        target: "pts",
    },
    Filesystem {
        kind: "tmpfs",
        options: &[("mode", "1777"), ("size", "65536k")],
        attributes: CLOSED,
        target: "shm",
    },
    Filesystem { kind: "mqueue", options: &[], attributes: CLOSED, target: "mqueue" },
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
            .map(leave_open)
            .attempt(attempt)
            .map_err(needs_root)
            .map_err(old_kernel)?;
        for (key, value) in self.options {
            fsconfig_set_string(context, *key, *value).attempt(attempt)?;
        }
        fsconfig_create(context).attempt(attempt)?;
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, self.attributes).attempt(attempt)
    }

    /// Make it and attach it at `target`. The result is the root directory of the new mount.
    pub(crate) fn mount(&self, target: impl AsFd) -> Result<OwnedFd, Error> {
        let mount = self.make()?;
        attach(&mount, target)
            .attempt(|| format!("cannot mount '{}' on '/{}'", self.kind, self.target))?;
        Ok(mount)
    }

    /// Make it and attach it at the directory of its name in the current one, which nobody else can change yet.
    ///
    /// There mount(2) is as safe as the calls above, and one instead of six.
    pub(crate) fn mount_here(&self) -> Result<(), Error> {
        let options = self.options.iter().map(|(key, value)| format!("{key}={value}"));
        let options = options.collect::<Vec<_>>().join(",");
        let flags = mount_flags(self.attributes.bits().into());
        mount(Some(self.kind), self.target, Some(self.kind), flags, Some(options.as_str()))
            .attempt(|| format!("cannot mount '{}' on '/dev/{}'", self.kind, self.target))
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
        let all: Vec<_> = attributes.map(|(_, name)| (*name).to_owned()).chain(options).collect();
        format!("mount -t {0} -o {1} {0} {target}", self.kind, all.join(","))
    }
}

/// devpts without a group for its terminals, for a user namespace that has no other than root's.
pub(crate) const PTS_WITHOUT_GROUP: Filesystem<'_> = Filesystem {
    kind: "devpts",
    options: &[("ptmxmode", "0666"), ("mode", "0600")],
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
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let detach = |(name, (major, minor)): &(&str, (u32, u32))| {
        let attempt = || format!("cannot bind '/dev/{name}'");
        let node = open_tree(CWD, format!("/dev/{name}"), flags)
            .attempt(attempt)
            .map_err(needs_root)
            .map_err(old_kernel)?;
        let stat = fstat(&node).attempt(attempt)?;
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let character = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        if !character || device != (*major, *minor) {
            return Err(Error::new(format!(
                "'/dev/{name}' is not the character device {major}:{minor}"
            )));
        }
        Ok(node)
    };
    DEVICES.iter().map(detach).collect()
}

/// Fill the fresh, still empty /dev.
pub(crate) fn populate(dev: BorrowedFd<'_>, devices: &[OwnedFd]) -> Result<(), Error> {
    for ((name, _), node) in DEVICES.iter().zip(devices) {
        bind_in(dev, name, node).attempt(|| format!("cannot bind '/dev/{name}'"))?;
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
    detached_copy(slave, false)
        .and_then(|copy| bind_in(dev, "console", &copy))
        .attempt(|| "cannot bind '/dev/console'".into())
}

/// Attach `copy` on an empty file made for it in `dev`, which nobody else can change yet.
fn bind_in(dev: BorrowedFd<'_>, name: &str, copy: &OwnedFd) -> rustix::io::Result<()> {
    mknodat(dev, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)?;
    move_mount(copy, "", dev, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// What COMMAND must not see. Docker's list: moby's oci/defaults.go; paths that do not exist are passed over.
///
/// Of each kind the one that most machines have is the last: a copy of the mount that hides is then left for no
/// other, and getting rid of an unused one is slow.
pub(crate) const MASKED_PROC: [(&str, Kind); 10] = [
    ("asound", Kind::Directory),
    ("scsi", Kind::Directory),
    ("acpi", Kind::Directory),
    ("kcore", Kind::File),
    ("keys", Kind::File),
    ("latency_stats", Kind::File),
    ("sched_debug", Kind::File),
    ("timer_list", Kind::File),
    ("timer_stats", Kind::File),
    ("interrupts", Kind::File),
];

/// The same for /sys. For every CPU there is `devices/system/cpu/cpuN/thermal_throttle` besides.
pub(crate) const MASKED_SYS: [(&str, Kind); 2] =
    [("devices/virtual/powercap", Kind::Directory), ("firmware", Kind::Directory)];

/// What COMMAND may only read: same source.
pub(crate) const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Hides paths: files under /dev/null, directories under one empty read-only tmpfs.
pub(crate) struct Masks<'a> {
    file: Cover<'a>,
    directory: Cover<'a>,
}

/// A mount that hides.
struct Cover<'a> {
    /// Where it is attached already: only from there can it be copied.
    attached: Option<BorrowedFd<'a>>,
    /// One that is attached nowhere yet.
    spare: Option<OwnedFd>,
}

impl<'a> Masks<'a> {
    /// `null`: where the host's /dev/null is attached already.
    pub(crate) fn new(null: BorrowedFd<'a>) -> Self {
        Self {
            file: Cover { attached: Some(null), spare: None },
            directory: Cover { attached: None, spare: None },
        }
    }

    /// Hide `path` in `mount`, a /proc or /sys made by us that nobody else can change yet. Gives whether it is there.
    pub(crate) fn hide(
        &mut self,
        mount: BorrowedFd<'_>,
        (path, kind): (&str, Kind),
    ) -> Result<bool, Error> {
        self.cover(kind).lay(path, |cover| {
            move_mount(cover, "", mount, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        })
    }

    /// Hide what is open as `target`, `path` in messages.
    pub(crate) fn hide_at(&mut self, target: impl AsFd, path: &str) -> Result<(), Error> {
        let stat = fstat(&target).attempt(|| format!("cannot mask '{path}'"))?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let kind = if directory { Kind::Directory } else { Kind::File };
        self.cover(kind).lay(path, |cover| attach(cover, &target)).map(drop)
    }

    fn cover(&mut self, kind: Kind) -> &mut Cover<'a> {
        match kind {
            Kind::File => &mut self.file,
            Kind::Directory => &mut self.directory,
        }
    }

    /// Hide every `cpuN/thermal_throttle` in `sys`: it tells what the neighbours compute.
    ///
    /// Either every CPU that is online has it or none. The first one cannot be taken offline.
    pub(crate) fn hide_thermal_throttle(&mut self, sys: BorrowedFd<'_>) -> Result<(), Error> {
        let there = |dir: &str| accessat(sys, dir, Access::EXISTS, AtFlags::empty()).is_ok();
        for cpu in 0.. {
            let dir = format!("devices/system/cpu/cpu{cpu}");
            if cpu > 0 && !there(&dir) {
                break;
            }
            let hidden = self.hide(sys, (&format!("{dir}/thermal_throttle"), Kind::Directory))?;
            if cpu == 0 && !hidden {
                break;
            }
        }
        Ok(())
    }
}

impl Cover<'_> {
    /// Lay one with `attach` on `path`, if that exists. Gives whether it does.
    fn lay(
        &mut self,
        path: &str,
        attach: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Result<bool, Error> {
        let attempt = || format!("cannot mask '{path}'");
        let cover = match (self.spare.take(), self.attached) {
            (Some(spare), _) => spare,
            (None, Some(attached)) => detached_copy(attached, false).attempt(attempt)?,
            (None, None) => EMPTY.make()?,
        };
        match attach(cover.as_fd()) {
            Ok(()) => {
                self.attached = Some(leave_open(cover));
                Ok(true)
            }
            Err(Errno::NOENT) => {
                self.spare = Some(cover); // it serves for the next
                Ok(false)
            }
            Err(err) => Err(err).attempt(attempt),
        }
    }
}

const EMPTY: Filesystem<'_> = Filesystem {
    kind: "tmpfs",
    options: &[("mode", "755")],
    attributes: CLOSED.union(MountAttrFlags::MOUNT_ATTR_RDONLY),
    target: "(masked)",
};

/// Make the paths of [`READ_ONLY_PROC`] read-only in `proc`, a /proc made by us that nobody else can change yet, and
/// all else in it writable.
///
/// It has been mounted read-only, and so are binds of its parts: that is one call less for each than to change them.
pub(crate) fn keep_read_only(proc: BorrowedFd<'_>) -> Result<(), Error> {
    fchdir(proc).attempt(|| "cannot enter '/proc'".into())?;
    for path in READ_ONLY_PROC {
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        match mount(Some(path), path, None::<&str>, bind, None::<&str>) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
            Err(err) => {
                return Err(err).attempt(|| format!("cannot keep '/proc/{path}' read-only"));
            }
        }
    }
    allow_writing(proc).attempt(|| "cannot make '/proc' writable".into())
}
