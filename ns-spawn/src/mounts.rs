//! The container's /proc, /sys and /dev, and what is hidden in them.

use crate::{
    attributes::{allow_writing, mount_flags},
    cli::Kernel,
    error::{Attempt as _, Error},
    rootfs::{Kind, attach, attach_in, detached_copy, leave_open, needs_root, old_kernel},
};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{Access, AtFlags, CWD, FileType, Mode, accessat, mknodat, statat, symlinkat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
    process::{chdir, fchdir},
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

    /// Make it and attach it at the directory of its name in `tree`. The result is the root directory of the new mount.
    pub(crate) fn mount_in(&self, tree: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
        let mount = self.make()?;
        attach_in(tree, self.target, &mount)?;
        Ok(mount)
    }

    /// The same, and make it the current directory: for one that nothing else mounts, as mount(2) sets attributes for all.
    ///
    /// That takes a path. Those in `tree` may lead elsewhere by then, '/' of a mount namespace of our own does not; from it `/..`
    /// leads into what was mounted over it last.
    pub(crate) fn mount_and_enter(&self, tree: BorrowedFd<'_>) -> Result<(), Error> {
        let attempt =
            || format!("cannot make a '{}' file system for '/{}'", self.kind, self.target);
        self.mount_on("/").attempt(attempt).map_err(needs_root)?;
        chdir("/..").attempt(attempt)?;
        attach_in(tree, self.target, CWD)
    }

    /// Make it and attach it at the directory of its name in the current one, which nobody else can change yet.
    ///
    /// There mount(2) is as safe as the calls above, and one instead of six.
    pub(crate) fn mount_here(&self) -> Result<(), Error> {
        self.mount_on(self.target)
            .attempt(|| format!("cannot mount '{}' on '/dev/{}'", self.kind, self.target))
    }

    fn mount_on(&self, target: &str) -> nix::Result<()> {
        let options = self.options.iter().map(|(key, value)| format!("{key}={value}"));
        let options = options.collect::<Vec<_>>().join(",");
        let flags = mount_flags(self.attributes.bits().into());
        mount(Some(self.kind), target, Some(self.kind), flags, Some(options.as_str()))
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

/// Fill the fresh, still empty /dev, which is the current directory.
pub(crate) fn populate() -> Result<(), Error> {
    DEVICES.iter().try_for_each(|(name, numbers)| bind_device(name, *numbers))?;
    for (name, target) in LINKS {
        symlinkat(target, CWD, name).attempt(|| format!("cannot make the link '/dev/{name}'"))?;
    }
    for filesystem in &BELOW_DEV {
        rustix::fs::mkdirat(CWD, filesystem.target, Mode::from_raw_mode(0o755))
            .attempt(|| format!("cannot make '/dev/{}'", filesystem.target))?;
    }
    Ok(())
}

/// From the host, and looked at where it then is: a rootfs's own nodes may be anything (CVE-2025-31133).
///
/// The root directory is still the host's, so that its paths lead where they always do; and its mounts are private by now, and
/// so are the copies.
fn bind_device(name: &str, (major, minor): (u32, u32)) -> Result<(), Error> {
    let attempt = || format!("cannot bind '/dev/{name}'");
    mknodat(CWD, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0).attempt(attempt)?;
    let node = format!("/dev/{name}");
    bind(&node, name, MsFlags::empty()).attempt(attempt)?;
    let stat = statat(CWD, name, AtFlags::SYMLINK_NOFOLLOW).attempt(attempt)?;
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let character = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if character && device == (major, minor) {
        Ok(())
    } else {
        Err(Error::new(format!("'/dev/{name}' is not the character device {major}:{minor}")))
    }
}

/// mount(2), `MS_BIND`, of `source` on `target`.
fn bind(source: &str, target: &str, flags: MsFlags) -> nix::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>)
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
/// Of the directories the one that most machines have is the last: getting rid of a mount that hides none is slow. Of the
/// files the last is one that all have: it shows that /dev/null, which hides them, was there.
pub(crate) const MASKED_PROC: Masked<'_> = Masked {
    directories: &["asound", "scsi", "acpi"],
    files: &[
        "kcore",
        "keys",
        "latency_stats",
        "sched_debug",
        "timer_list",
        "timer_stats",
        "interrupts",
    ],
};

/// The same for /sys. For every CPU there is `devices/system/cpu/cpuN/thermal_throttle` besides.
pub(crate) const MASKED_SYS: Masked<'_> =
    Masked { directories: &["devices/virtual/powercap", "firmware"], files: &[] };

/// Paths in one file system that are hidden: directories under an empty read-only tmpfs, files under /dev/null.
pub(crate) struct Masked<'a> {
    directories: &'a [&'a str],
    files: &'a [&'a str],
}

impl Masked<'_> {
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.directories.iter().chain(self.files).copied()
    }
}

/// What COMMAND may only read: same source.
pub(crate) const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Hide [`MASKED_SYS`] in `sys`, made by us, which nobody else can change yet, and every `cpuN/thermal_throttle`: that
/// tells what the neighbours compute. Gives a copy of what hides, to be attached elsewhere.
pub(crate) fn mask_sys(sys: BorrowedFd<'_>) -> Result<Option<BorrowedFd<'static>>, Error> {
    fchdir(sys).attempt(|| "cannot enter '/sys'".into())?;
    let mut cover = Cover::default();
    for path in MASKED_SYS.directories {
        cover.hide(path)?;
    }
    // Either every CPU that is online has it or none. The first one cannot be taken offline.
    let there = |dir: &str| accessat(sys, dir, Access::EXISTS, AtFlags::empty()).is_ok();
    for cpu in 0.. {
        let dir = format!("devices/system/cpu/cpu{cpu}");
        if cpu > 0 && !there(&dir) {
            break;
        }
        if !cover.hide(&format!("{dir}/thermal_throttle"))? && cpu == 0 {
            break;
        }
    }
    let copy = |path: String| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = open_tree(sys, &path, flags).map(leave_open);
        copy.attempt(|| format!("cannot copy the mask of '{path}'"))
    };
    cover.on.map(copy).transpose()
}

/// Hide [`MASKED_PROC`] in /proc, made by us, which nobody else can change yet and which is the current directory. `spare`
/// hides its first directory, if there is one.
pub(crate) fn mask_proc(spare: Option<BorrowedFd<'static>>) -> Result<(), Error> {
    let mut cover = Cover { on: None, spare };
    for path in MASKED_PROC.directories {
        cover.hide(path)?;
    }
    let mut last = false;
    for path in MASKED_PROC.files {
        last = match bind("/dev/null", path, MsFlags::empty()) {
            Ok(()) => true,
            Err(Errno::ENOENT) => false,
            Err(err) => return Err(err).attempt(|| format!("cannot mask '{path}'")),
        };
    }
    if last {
        return Ok(());
    }
    // It was what hides that had to be there.
    accessat(CWD, "/dev/null", Access::EXISTS, AtFlags::empty())
        .attempt(|| "cannot mask files with '/dev/null'".into())
}

/// What hides directories below the current one: a single tmpfs for all.
#[derive(Default)]
struct Cover {
    /// Where it is mounted.
    on: Option<String>,
    /// One that is mounted nowhere yet.
    spare: Option<BorrowedFd<'static>>,
}

impl Cover {
    /// Hide `path`, if that is there. Gives whether it is.
    fn hide(&mut self, path: &str) -> Result<bool, Error> {
        let hidden = match (&self.on, &self.spare) {
            (Some(on), _) => bind(on, path, MsFlags::empty()),
            (None, Some(spare)) => {
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                move_mount(spare, "", CWD, path, flags)
                    .map_err(|err| Errno::from_raw(err.raw_os_error()))
            }
            (None, None) => EMPTY.mount_on(path),
        };
        match hidden {
            Ok(()) => {
                self.on.get_or_insert_with(|| path.to_owned());
                Ok(true)
            }
            Err(Errno::ENOENT) => Ok(false),
            Err(err) => Err(err).attempt(|| format!("cannot mask '{path}'")),
        }
    }
}

/// Hides what the user wants hidden, open as `target`, `path` in messages: a file under the null of `dev`, a directory
/// under an empty read-only tmpfs.
pub(crate) fn mask(target: impl AsFd, path: &str, dev: BorrowedFd<'_>) -> Result<(), Error> {
    let attempt = || format!("cannot mask '{path}'");
    let cover = match Kind::of(&target).attempt(attempt)? {
        Kind::Directory => EMPTY.make()?,
        Kind::File => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            open_tree(dev, "null", flags).attempt(attempt)?
        }
    };
    attach(cover, &target).attempt(attempt)
}

const EMPTY: Filesystem<'_> = Filesystem {
    kind: "tmpfs",
    options: &[("mode", "755")],
    attributes: CLOSED.union(MountAttrFlags::MOUNT_ATTR_RDONLY),
    target: "(masked)",
};

/// Make the paths of [`READ_ONLY_PROC`] read-only in `proc`, a /proc made by us that nobody else can change yet and that is
/// the current directory, and all else in it writable.
///
/// It has been mounted read-only, and so are binds of its parts: that is one call less for each than to change them.
pub(crate) fn keep_read_only(proc: BorrowedFd<'_>) -> Result<(), Error> {
    for path in READ_ONLY_PROC {
        match bind(path, path, MsFlags::MS_REC) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(err) => {
                return Err(err).attempt(|| format!("cannot keep '/proc/{path}' read-only"));
            }
        }
    }
    allow_writing(proc).attempt(|| "cannot make '/proc' writable".into())
}
