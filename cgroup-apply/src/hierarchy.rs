//! Where the controllers live: the cgroup hierarchies of this host, v1, v2 or both.
//!
//! cgroups(7); Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.

use crate::{
    error::{Attempt as _, Error},
    interface,
};
use std::{
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
    /// Which of its cgroups is to be seen there.
    root: PathBuf,
    /// The directory below which cgroups are made: the mount, or without root the caller's own cgroup.
    pub(crate) base: PathBuf,
    /// The caller's own cgroup.
    pub(crate) own: PathBuf,
    /// The controllers that it has to offer there.
    pub(crate) controllers: Vec<String>,
}

/// Where the processes of a delegated cgroup are moved when it has to hand controllers on: on v2 only a
/// cgroup without processes does that. NAME cannot begin with a dot, so it is nobody's.
pub(crate) const LEAF: &str = ".leaf";

/// All mounted hierarchies that have a controller, and the v2 one even without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) hierarchies: Vec<Hierarchy>,
    /// Whether systemd is the first process.
    pub(crate) systemd: bool,
}

impl Tree {
    /// Look at the host whose root directory is `root`: another one than `/` in tests.
    pub(crate) fn read(root: &Path, privileged: bool) -> Result<Self, Error> {
        let mounts = read(&root.join("proc/self/mountinfo"))?;
        let memberships = read(&root.join("proc/self/cgroup"))?;
        let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
        let hierarchies = memberships.lines().filter_map(|line| {
            let (controllers, own) = line.split_once(':')?.1.split_once(':')?;
            // The first one, since containers have theirs mounted elsewhere; but of several at one place
            // the last, which lies over the others.
            let mut these = mounts.iter().filter(|mount| mount.is_of(controllers));
            let first = these.next()?;
            let mount = these.rfind(|mount| mount.point == first.point).unwrap_or(first);
            let at = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
            let own = locate(&mount.root, &at, own);
            let base = match own.parent() {
                _ if privileged => at.clone(),
                Some(above) if own.ends_with(LEAF) => above.to_path_buf(),
                _ => own.clone(),
            };
            let (version, controllers) = if controllers.is_empty() {
                (Version::V2, interface::read(base.join("cgroup.controllers")).unwrap_or_default())
            } else {
                (Version::V1, controllers.replace(',', " "))
            };
            let controllers = controllers.split_whitespace().map(str::to_owned).collect();
            let root = mount.root.clone();
            Some(Hierarchy { version, mount: at, root, base, own, controllers })
        });
        // sd_booted(3)
        let systemd = root.join("run/systemd/system").is_dir();
        let tree = Self { hierarchies: hierarchies.collect(), systemd };
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

    /// Whether there is a freezer of v1.
    pub(crate) fn freezes_on_v1(&self) -> bool {
        self.hierarchies
            .iter()
            .any(|hierarchy| hierarchy.version == Version::V1 && hierarchy.has("freezer"))
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

    /// The directory that `line` of /proc/PID/cgroup names, if it is about this hierarchy.
    pub(crate) fn membership(&self, line: &str) -> Option<PathBuf> {
        let (controllers, own) = line.split_once(':')?.1.split_once(':')?;
        let is_this = match self.version {
            Version::V1 => controllers.split(',').eq(self.controllers.iter().map(String::as_str)),
            Version::V2 => controllers.is_empty(),
        };
        is_this.then(|| locate(&self.root, &self.mount, own))
    }
}

fn read(path: &Path) -> Result<String, Error> {
    interface::read(path).attempt(|| format!("cannot read '{}'", path.display()))
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
}

/// Where the cgroup `own` of /proc/PID/cgroup is to be found, if it is below `root`, which is mounted `at`.
fn locate(root: &Path, at: &Path, own: &str) -> PathBuf {
    let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
    let inside = below.components().all(|part| matches!(part, Component::Normal(_)));
    if inside && below != Path::new("") { at.join(below) } else { at.to_path_buf() }
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use tempfile::TempDir;

    /// A host with these files.
    pub(crate) fn host(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    pub(crate) fn v2() -> TempDir {
        host(&[
            (
                "proc/self/mountinfo",
                "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
            ),
            ("proc/self/cgroup", "0::/user.slice/session.scope\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
            ("sys/fs/cgroup/user.slice/session.scope/cgroup.controllers", "memory pids\n"),
        ])
    }

    pub(crate) fn v1() -> TempDir {
        host(&[
            (
                "proc/self/mountinfo",
                "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                 32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                 33 31 0:30 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
                 34 31 0:31 / /sys/fs/cgroup/a\\040b rw shared:9 - cgroup cgroup rw,pids\n\
                 35 31 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n",
            ),
            ("proc/self/cgroup", "4:name=systemd:/\n3:pids:/mine\n2:freezer:/\n1:cpu,cpuacct:/\n"),
        ])
    }

    pub(crate) fn hybrid() -> TempDir {
        host(&[
            (
                "proc/self/mountinfo",
                "39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
            ("proc/self/cgroup", "8:pids:/\n0::/\n"),
            ("sys/fs/cgroup/unified/cgroup.controllers", "hugetlb\n"),
        ])
    }

    proptest! {
        #[test]
        fn no_mountinfo_and_no_membership_is_too_strange(line in "\\PC*", own in "[./a-z:]*") {
            drop(Mount::parse(&line));
            drop(Mount::parse(&format!("1 2 0:3 / /x rw - cgroup2 c {line}")));
            drop(unescape(&line));
            // Whatever the kernel or a namespace makes of our own cgroup, nothing above the mount is meant.
            let place = locate(Path::new("/"), Path::new("/mnt"), &own);
            prop_assert!(place.starts_with("/mnt"));
            prop_assert!(place.components().all(|part| part != Component::ParentDir));
        }

        #[test]
        fn what_the_kernel_escapes_is_read_back(path in "[ -~\\t\\n]{1,40}") {
            // seq_path() of the kernel escapes these.
            let escape = |byte: u8| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}"),
                _ => char::from(byte).to_string(),
            };
            let escaped: String = path.bytes().map(escape).collect();
            prop_assert_eq!(unescape(&escaped), PathBuf::from(path));
        }
    }

    #[test]
    fn v2_has_all_controllers_at_one_mount() {
        let root = v2();
        let tree = Tree::read(root.path(), true).unwrap();
        assert_eq!(tree.mode(), "v2");
        assert_eq!(tree.of("memory").unwrap(), tree.anchor());
        assert_eq!(tree.anchor().base, root.path().join("sys/fs/cgroup"));
        assert!(tree.anchor().has("cpuset"));
    }

    #[test]
    fn without_root_cgroups_are_made_below_the_callers_own() {
        let root = v2();
        let tree = Tree::read(root.path(), false).unwrap();
        assert_eq!(tree.anchor().base, root.path().join("sys/fs/cgroup/user.slice/session.scope"));
        assert_eq!(tree.anchor().controllers, ["memory", "pids"]);
    }

    #[test]
    fn v1_controllers_live_apart_or_together_and_runs_meet_in_the_freezer() {
        let root = v1();
        let tree = Tree::read(root.path(), true).unwrap();
        assert_eq!(tree.mode(), "v1");
        assert_eq!(tree.of("cpu").unwrap(), tree.of("cpuacct").unwrap());
        assert_eq!(tree.of("cpu").unwrap().mount, root.path().join("sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(tree.of("pids").unwrap().mount, root.path().join("sys/fs/cgroup/a b"));
        assert_eq!(tree.anchor(), tree.of("freezer").unwrap());
        assert_eq!(tree.hierarchies.len(), 3, "systemd's own is not touched");
    }

    #[test]
    fn hybrid_uses_each_controller_where_it_lives_and_runs_meet_on_v2() {
        let root = hybrid();
        let tree = Tree::read(root.path(), true).unwrap();
        assert_eq!(tree.mode(), "hybrid");
        assert_eq!(tree.of("pids").unwrap().version, Version::V1);
        assert_eq!(tree.of("hugetlb").unwrap().version, Version::V2);
        assert_eq!(Some(tree.anchor()), tree.v2());
    }

    #[test]
    fn a_mount_of_a_part_shows_the_callers_cgroup_below_it() {
        // A container without a cgroup namespace: its mount begins at its own cgroup.
        let root = host(&[
            (
                "proc/self/mountinfo",
                "50 49 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
            ),
            ("proc/self/cgroup", "0::/docker/abc/inner\n"),
        ]);
        let tree = Tree::read(root.path(), false).unwrap();
        assert_eq!(tree.anchor().base, root.path().join("sys/fs/cgroup/inner"));
    }

    #[test]
    fn a_cgroup_that_was_moved_into_its_leaf_is_still_the_callers() {
        let root = host(&[
            ("proc/self/mountinfo", "50 49 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"),
            ("proc/self/cgroup", "0::/user.slice/run-1.scope/.leaf\n"),
        ]);
        let tree = Tree::read(root.path(), false).unwrap();
        let scope = root.path().join("sys/fs/cgroup/user.slice/run-1.scope");
        assert_eq!(tree.anchor().base, scope);
        assert_eq!(tree.anchor().base.to_str(), scope.to_str(), "no '/' behind it");
    }

    #[test]
    fn on_a_host_of_systemd_its_own_hierarchy_is_left_alone() {
        // systemd.unified_cgroup_hierarchy=0, as up to Debian 10: v2 without a controller beside v1.
        let root = host(&[
            (
                "proc/self/mountinfo",
                "27 21 0:23 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
                 28 27 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                 29 27 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                 33 27 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                 34 27 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
            ),
            (
                "proc/self/cgroup",
                "5:pids:/user.slice\n4:cpu,cpuacct:/user.slice\n\
                 1:name=systemd:/user.slice/session-1.scope\n0::/user.slice/session-1.scope\n",
            ),
            ("sys/fs/cgroup/unified/cgroup.controllers", "\n"),
            ("run/systemd/system/x", ""),
        ]);
        let tree = Tree::read(root.path(), true).unwrap();
        assert_eq!((tree.mode(), tree.systemd), ("hybrid", true));
        assert_eq!(tree.hierarchies.len(), 3);
        assert_eq!(tree.anchor().controllers, [] as [&str; 0]);
        let pids = tree.of("pids").unwrap();
        let membership = pids.membership("5:pids:/user.slice");
        assert_eq!(membership, Some(root.path().join("sys/fs/cgroup/pids/user.slice")));
        assert_eq!(pids.membership("0::/user.slice"), None);
    }

    #[test]
    fn a_container_inside_a_container_uses_what_is_mounted_for_it() {
        // Docker in Docker: the outer mount is of the whole tree, the inner one of its own part only, and
        // lies over it.
        let root = host(&[
            (
                "proc/self/mountinfo",
                "40 39 0:26 /../../.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n\
                 50 49 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
            ),
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
            ("sys/fs/cgroup/cgroup.type", "domain\n"),
        ]);
        let tree = Tree::read(root.path(), true).unwrap();
        assert_eq!(tree.mode(), "v2");
        assert_eq!(tree.anchor().base, root.path().join("sys/fs/cgroup"));
        assert_eq!(tree.hierarchies.len(), 1);
    }

    #[test]
    fn a_cgroup_outside_of_the_namespace_leads_nowhere_else() {
        let root = host(&[
            ("proc/self/mountinfo", "50 49 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n"),
            ("proc/self/cgroup", "0::/../other\n"),
        ]);
        let tree = Tree::read(root.path(), false).unwrap();
        assert_eq!(tree.anchor().base, root.path().join("sys/fs/cgroup"));
    }

    #[test]
    fn an_unknown_controller_is_named_with_those_there_are() {
        let root = hybrid();
        let tree = Tree::read(root.path(), true).unwrap();
        let said = tree.of("memory").unwrap_err().to_string();
        let top = root.path().join("sys/fs/cgroup");
        assert_eq!(
            said,
            format!(
                "cannot limit memory: '{}' offers no controller 'memory'\n  \
                 hint: it offers hugetlb, pids; 'memory' may be disabled at boot (cgroup_disable=)",
                top.display()
            )
        );
    }

    #[test]
    fn without_any_hierarchy_the_way_to_one_is_told() {
        let root = host(&[("proc/self/mountinfo", ""), ("proc/self/cgroup", "0::/\n")]);
        assert_eq!(
            Tree::read(root.path(), true).unwrap_err().to_string(),
            "no cgroup hierarchy is mounted\n  \
             hint: 'mount -t cgroup2 cgroup2 /sys/fs/cgroup' mounts the one of version 2"
        );
    }
}
