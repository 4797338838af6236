//! Where the controllers live: the cgroup hierarchies of this host, v1, v2 or both.
//!
//! cgroups(7); Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.

use crate::error::{Attempt as _, Error};
use std::{
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Component, Path, PathBuf},
};

/// The version of a hierarchy's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) version: Version,
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// The directory below which cgroups are made: the mount, or without root the caller's own cgroup.
    pub(crate) base: PathBuf,
    /// The controllers that it has to offer there.
    pub(crate) controllers: Vec<String>,
}

/// All mounted hierarchies that have a controller, and the v2 one even without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) hierarchies: Vec<Hierarchy>,
}

impl Tree {
    /// Look at the host whose root directory is `root`: another one than `/` in tests.
    pub(crate) fn read(root: &Path, privileged: bool) -> Result<Self, Error> {
        let mounts = read(&root.join("proc/self/mountinfo"))?;
        let memberships = read(&root.join("proc/self/cgroup"))?;
        let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
        let hierarchies = memberships.lines().filter_map(|line| {
            let (controllers, own) = line.split_once(':')?.1.split_once(':')?;
            let mount = mounts.iter().find(|mount| mount.is_of(controllers))?;
            let at = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
            let base = if privileged { at.clone() } else { mount.locate(&at, own) };
            let (version, controllers) = if controllers.is_empty() {
                (
                    Version::V2,
                    fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default(),
                )
            } else {
                (Version::V1, controllers.replace(',', " "))
            };
            let controllers = controllers.split_whitespace().map(str::to_owned).collect();
            Some(Hierarchy { version, mount: at, base, controllers })
        });
        let tree = Self { hierarchies: hierarchies.collect() };
        if tree.hierarchies.is_empty() {
            return Err(Error::new("no cgroup hierarchy is mounted")
                .hint("'mount -t cgroup2 cgroup2 /sys/fs/cgroup' mounts the one of version 2"));
        }
        Ok(tree)
    }

    /// The v2 hierarchy, if it is mounted.
    pub(crate) fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2)
    }

    /// "v1", "v2" or "hybrid", as systemd calls them.
    pub(crate) fn mode(&self) -> &'static str {
        match (self.v2(), self.hierarchies.len()) {
            (None, _) => "v1",
            (Some(_), 1) => "v2",
            (Some(_), _) => "hybrid",
        }
    }

    /// The hierarchy in which every cgroup is made, whatever is limited: v2, because it can kill, or else
    /// the freezer's, because it can freeze, or else any. Runs under one name meet in it.
    pub(crate) fn anchor(&self) -> &Hierarchy {
        let freezer = || self.hierarchies.iter().find(|hierarchy| hierarchy.has("freezer"));
        self.v2().or_else(freezer).unwrap_or(&self.hierarchies[0])
    }

    /// All hierarchies, the anchor before the others.
    pub(crate) fn anchor_first(&self) -> impl Iterator<Item = &Hierarchy> {
        let anchor = self.anchor();
        [anchor]
            .into_iter()
            .chain(self.hierarchies.iter().filter(move |hierarchy| *hierarchy != anchor))
    }

    /// The hierarchy that has `controller`.
    pub(crate) fn of(&self, controller: &str) -> Result<&Hierarchy, Error> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.has(controller)).ok_or_else(|| {
            let mut offered: Vec<_> =
                self.hierarchies.iter().flat_map(|each| each.controllers.clone()).collect();
            offered.sort();
            let offered = if offered.is_empty() { "none".into() } else { offered.join(", ") };
            Error::new(format!(
                "cannot limit {controller}: '{}' offers no controller '{controller}'",
                self.top().display()
            ))
            .hint(format!(
                "it offers {offered}; '{controller}' may be disabled at boot (cgroup_disable=)"
            ))
        })
    }

    /// The directory that all hierarchies are mounted in or below.
    fn top(&self) -> PathBuf {
        let mut top = self.anchor().base.clone();
        while !self
            .hierarchies
            .iter()
            .all(|hierarchy| hierarchy.mount.starts_with(&top) || hierarchy.base == top)
        {
            top.pop();
        }
        top
    }
}

impl Hierarchy {
    /// Whether `controller` is one of its.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|each| each == controller)
    }
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).attempt(|| format!("cannot read '{}'", path.display()))
}

/// A line of /proc/self/mountinfo about a cgroup file system.
struct Mount {
    /// Which directory of the hierarchy is mounted.
    root: PathBuf,
    point: PathBuf,
    v2: bool,
    super_options: Vec<String>,
}

impl Mount {
    /// proc(5): ID PARENT DEV ROOT POINT OPTIONS [FIELD...] - TYPE SOURCE SUPER-OPTIONS
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        let v2 = match after.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        Some(Self {
            root: unescape(before.next()?),
            point: unescape(before.next()?),
            v2,
            super_options: after.nth(1)?.split(',').map(str::to_owned).collect(),
        })
    }

    /// Whether this is the hierarchy of `controllers`, written as in /proc/self/cgroup. One without a
    /// controller (`name=systemd`) is none that limits anything: it is left to its owner.
    fn is_of(&self, controllers: &str) -> bool {
        if controllers.is_empty() {
            return self.v2;
        }
        let has = |controller| self.super_options.iter().any(|option| option == controller);
        !self.v2 && !controllers.contains('=') && controllers.split(',').all(has)
    }

    /// Where the cgroup `own` of /proc/self/cgroup is to be found, if it is below what is mounted.
    fn locate(&self, at: &Path, own: &str) -> PathBuf {
        let below = Path::new(own).strip_prefix(&self.root).unwrap_or(Path::new(""));
        let inside = below.components().all(|part| matches!(part, Component::Normal(_)));
        if inside && below != Path::new("") { at.join(below) } else { at.to_path_buf() }
    }
}

/// Blanks and the like are written as `\040` in /proc/self/mountinfo.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, after @ ..] = rest {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    std::ffi::OsString::from_vec(bytes).into()
}
