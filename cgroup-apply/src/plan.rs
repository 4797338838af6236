//! What is to be made and written: looked at, refused or planned, never changed here.

use crate::{
    cli,
    error::{Attempt as _, Error},
    hierarchy::{Hierarchy, LEAF, Tree, Version},
    interface,
    limits::{self, IoMax, Limit, Value, Write},
    name::Name,
    processes::{below, processes},
    resources,
};
use std::{
    ffi::{OsStr, OsString},
    fmt, fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// The checked request.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: Name,
    /// Whether the last run in the cgroup removes it.
    pub(crate) temporary: bool,
    /// The cgroup's directories: the anchor's first, then those that a limit needs or that exist already.
    places: Vec<Place>,
    /// What makes the anchor's directory, and what makes the others.
    pub(crate) anchor_steps: Vec<Step>,
    pub(crate) steps: Vec<Step>,
    pub(crate) limits: Vec<Planned>,
    /// Limits that are refused, but only told under `--best-effort`.
    pub(crate) refused: Vec<Error>,
    pub(crate) warnings: Vec<String>,
    pub(crate) best_effort: bool,
    /// Whether COMMAND joins in the v2 hierarchy, too.
    joins_v2: bool,
}

/// The cgroup in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) version: Version,
    pub(crate) dir: PathBuf,
}

impl Place {
    /// `name` in `hierarchy`.
    pub(crate) fn new(hierarchy: &Hierarchy, name: &Name) -> Self {
        Self { version: hierarchy.version, dir: hierarchy.base.join(name.path()) }
    }

    /// Where `name` exists, in the anchor hierarchy first.
    pub(crate) fn existing(tree: &Tree, name: &Name) -> Vec<Self> {
        tree.anchor_first()
            .map(|hierarchy| Self::new(hierarchy, name))
            .filter(|place| place.dir.is_dir())
            .collect()
    }

    /// The file through which a process joins by writing `0`.
    ///
    /// On v1 `tasks` and not `cgroup.procs`: for the one thread that writes it need not wait until no thread
    /// of any process is between fork and exec, which costs 7 to 15 ms when the kernel has been idle.
    pub(crate) fn join_file(&self) -> PathBuf {
        self.dir.join(match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.procs",
        })
    }
}

/// A limit and where it goes.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) file: String,
    pub(crate) dir: PathBuf,
    pub(crate) writes: Vec<Write>,
}

impl Planned {
    /// Whether the last value for each file is in effect already.
    pub(crate) fn in_effect(&self) -> bool {
        let mut seen = vec![];
        self.writes.iter().rev().all(|write| {
            if seen.contains(&&write.file) {
                return true;
            }
            seen.push(&write.file);
            let read = interface::read(self.dir.join(&write.file));
            read.is_ok_and(|read| write.holds(&read))
        })
    }
}

/// One change besides the limits. It prints as the shell command that does the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make a directory; a temporary one is marked as /tmp is, with the sticky bit.
    Make { dir: PathBuf, temporary: bool },
    /// v2: hand controllers on to the cgroups below `dir`.
    Enable { dir: PathBuf, controllers: Vec<String> },
    /// v2: move the processes of a delegated cgroup below it, so that it can hand controllers on.
    Vacate { dir: PathBuf },
    /// v1: a new cpuset is empty, and an empty one lets no process in (ENOSPC).
    Fill { dir: PathBuf, file: &'static str },
    /// v1 before Linux 5.11: limits of memory hold for the cgroups below only if that is asked for.
    Include { dir: PathBuf },
}

/// The file of an `Include`; newer kernels have it, too, and it reads 1.
pub(crate) const USE_HIERARCHY: &str = "memory.use_hierarchy";

impl Step {
    /// Whether there is anything to do.
    pub(crate) fn is_needed(&self) -> bool {
        match self {
            Self::Make { dir, .. } => !dir.exists(),
            Self::Enable { .. } => !self.missing_controllers().is_empty(),
            Self::Vacate { dir } => !processes([dir.clone()].iter(), false).is_empty(),
            Self::Fill { dir, file } => {
                interface::read(dir.join(file)).map_or(true, |list| list.trim().is_empty())
            }
            // A new one has the setting of the one above, and one with others below it cannot change it.
            Self::Include { dir } => {
                let above = || interface::read(dir.parent()?.join(USE_HIERARCHY)).ok();
                let setting = interface::read(dir.join(USE_HIERARCHY)).ok().or_else(above);
                setting.is_some_and(|setting| setting.trim() == "0") && below(dir).len() == 1
            }
        }
    }

    /// Refuse what the kernel would refuse, or worse: for `pids` and `cpu` it would make a cgroup with
    /// processes "threaded", and no process could join those below it, old or new.
    fn refuse(&self) -> Result<(), Error> {
        let Self::Enable { dir, .. } = self else { return Ok(()) };
        let inside = processes([dir.clone()].iter(), false).len();
        if inside == 0 || !self.is_needed() || is_root(dir) {
            return Ok(());
        }
        let (controllers, shown) = (self.missing_controllers().join(", "), dir.display());
        let noun = if inside == 1 { "process" } else { "processes" };
        Err(Error::new(format!("cannot enable {controllers} below '{shown}': it has {inside} {noun} of its own"))
            .hint("on cgroup v2 only a cgroup without processes hands controllers on: move them to one below it"))
    }

    /// Those of an `Enable` that are not handed on yet.
    pub(crate) fn missing_controllers(&self) -> Vec<&str> {
        let Self::Enable { dir, controllers } = self else { return vec![] };
        let enabled = interface::read(dir.join("cgroup.subtree_control")).unwrap_or_default();
        let is_enabled =
            |controller: &&String| enabled.split_whitespace().any(|each| each == *controller);
        controllers
            .iter()
            .filter(|controller| !is_enabled(controller))
            .map(String::as_str)
            .collect()
    }

    /// The value that an `Enable` writes.
    pub(crate) fn enabling(&self) -> String {
        self.missing_controllers()
            .iter()
            .map(|controller| format!("+{controller}"))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make { dir, temporary: true } => write!(f, "mkdir --mode=1755 {}", quote(dir)),
            Self::Make { dir, temporary: false } => write!(f, "mkdir {}", quote(dir)),
            Self::Enable { dir, .. } => {
                f.write_str(&echo(&self.enabling(), &dir.join("cgroup.subtree_control")))
            }
            Self::Vacate { dir } => {
                let (from, leaf) = (dir.join("cgroup.procs"), dir.join(LEAF));
                let (from, to) = (quote(from), quote(leaf.join("cgroup.procs")));
                let each = format!("for pid in $(cat {from}); do echo $pid > {to}; done");
                write!(f, "mkdir --parents {}; {each}", quote(leaf))
            }
            Self::Fill { dir, file } => {
                let above = dir.parent().unwrap_or(dir).join(file);
                write!(f, "cat {} > {}", quote(&above), quote(dir.join(file)))
            }
            Self::Include { dir } => f.write_str(&echo("1", &dir.join(USE_HIERARCHY))),
        }
    }
}

impl Plan {
    /// Look where everything goes; refuse what cannot go anywhere. The cgroup is also made for the
    /// controllers in `also` that there are: to count, or to freeze.
    pub(crate) fn new(
        tree: &Tree,
        name: &Name,
        options: &cli::Limits,
        temporary: bool,
        also: &[&str],
    ) -> Result<Self, Error> {
        let mut plan = Self {
            name: name.clone(),
            temporary,
            places: vec![],
            anchor_steps: vec![],
            steps: vec![],
            limits: vec![],
            refused: vec![],
            warnings: vec![],
            best_effort: options.best_effort,
            joins_v2: true,
        };
        let mut hierarchies = vec![tree.anchor()];
        let mut on_v2 = vec![];
        for controller in also {
            let Ok(hierarchy) = tree.of(controller) else { continue };
            if hierarchy.version == Version::V2 {
                on_v2.push((*controller).to_owned());
            }
            if !hierarchies.contains(&hierarchy) {
                hierarchies.push(hierarchy);
            }
        }
        for limit in asked(options)? {
            match place(tree, &limit) {
                Ok((hierarchy, writes)) => {
                    if hierarchy.version == Version::V2 && limit.controller() != "cgroup" {
                        on_v2.push(limit.controller().to_owned());
                    }
                    if !hierarchies.contains(&hierarchy) {
                        hierarchies.push(hierarchy);
                    }
                    let dir = hierarchy.base.join(name.path());
                    plan.limits.push(Planned { file: limit.file, dir, writes });
                }
                Err(err) if options.best_effort => plan.refused.push(err),
                Err(err) => return Err(err),
            }
        }
        on_v2.sort();
        on_v2.dedup();
        plan.places = hierarchies.iter().map(|hierarchy| Place::new(hierarchy, name)).collect();
        let mut steps =
            hierarchies.iter().map(|hierarchy| make(hierarchy, name, temporary, &on_v2));
        plan.anchor_steps = steps.next().unwrap_or_default();
        plan.steps = steps.flatten().collect();
        let steps = || plan.anchor_steps.iter().chain(&plan.steps);
        let is_vacated =
            |dir: &PathBuf| steps().any(|step| *step == Step::Vacate { dir: dir.clone() });
        steps()
            .filter(|step| !matches!(step, Step::Enable { dir, .. } if is_vacated(dir)))
            .try_for_each(Step::refuse)?;
        plan.warnings.extend(owned_by_systemd(tree, name));
        for place in Place::existing(tree, name) {
            if !plan.places.contains(&place) {
                plan.places.push(place);
            }
        }
        Ok(plan)
    }

    /// Do not join on v2 where it limits nothing and v1 can freeze and so kill as well: a process that is
    /// there already, and has to write to `cgroup.procs`, may wait for that as long as [`Place::join_file`] says.
    pub(crate) fn join_v1_alone(&mut self, tree: &Tree) {
        let limits = interface::read(self.anchor().join("cgroup.controllers")).unwrap_or_default();
        let is_planned = self.anchor_steps.iter().any(|step| matches!(step, Step::Enable { .. }));
        self.joins_v2 = is_planned || !limits.trim().is_empty() || !tree.freezes_on_v1();
    }

    /// Whether COMMAND joins at `place`.
    pub(crate) fn joins(&self, place: &Place) -> bool {
        self.joins_v2 || place.version == Version::V1
    }

    /// The cgroup's directory in the anchor hierarchy.
    pub(crate) fn anchor(&self) -> &Path {
        &self.places[0].dir
    }

    /// The directories above it there, the highest first.
    pub(crate) fn above(&self) -> Vec<&Path> {
        let mut above: Vec<_> =
            self.anchor().ancestors().skip(1).take(self.name.lineage().len() - 1).collect();
        above.reverse();
        above
    }

    /// The plan as shell commands, with `command` in the middle if there is one.
    pub(crate) fn script(&self, command: Option<&[OsString]>) -> Vec<String> {
        let steps = self.anchor_steps.iter().chain(&self.steps).filter(|step| step.is_needed());
        let mut lines: Vec<String> = steps.map(Step::to_string).collect();
        for limit in self.limits.iter().filter(|limit| !limit.in_effect()) {
            lines.extend(
                limit.writes.iter().map(|write| echo(&write.value, &limit.dir.join(&write.file))),
            );
        }
        if let Some(command) = command {
            let places: Vec<_> =
                self.places.iter().filter(|place| self.joins(place)).cloned().collect();
            lines.push(shown_command(&places, command));
            if self.temporary {
                let made = self.steps.iter().rev().chain(self.anchor_steps.iter().rev());
                lines.extend(made.filter(|step| step.is_needed()).filter_map(|step| match step {
                    Step::Make { dir, .. } => Some(format!("rmdir {}", quote(dir))),
                    _ => None,
                }));
            }
        }
        lines
    }
}

/// A shell that joins and becomes COMMAND.
pub(crate) fn shown_command(places: &[Place], command: &[OsString]) -> String {
    let joins: Vec<_> = places.iter().map(|place| echo("0", &place.join_file())).collect();
    let words: Vec<_> = command.iter().map(quote).collect();
    let script = format!("{} && exec \"$@\"", joins.join(" && "));
    format!("sh -c {} sh {}", quote(script), words.join(" "))
}

/// The hierarchy of a limit and what is written there.
fn place<'tree>(tree: &'tree Tree, limit: &Limit) -> Result<(&'tree Hierarchy, Vec<Write>), Error> {
    // `cgroup.max.depth` and the like belong to no controller, and v2 has more of them.
    let hierarchy = match limit.controller() {
        "cgroup" => tree.anchor(),
        _ if limit.value == Value::Unsupported => tree.anchor(), // refused whatever there is
        "io" => tree.of("io").or_else(|err| tree.of("blkio").map_err(|_| err))?, // its name on v1
        controller => tree.of(controller)?,
    };
    Ok((hierarchy, limit.writes(hierarchy.version)?))
}

/// The steps that make `name` in `hierarchy`. On v2 a controller has to be handed down the whole path.
fn make(hierarchy: &Hierarchy, name: &Name, temporary: bool, on_v2: &[String]) -> Vec<Step> {
    let mut steps = vec![];
    for path in name.lineage() {
        let dir = hierarchy.base.join(path);
        if hierarchy.version == Version::V2 && !on_v2.is_empty() {
            let above = dir.parent().unwrap_or(&dir).to_path_buf();
            let enable = Step::Enable { dir: above.clone(), controllers: on_v2.to_vec() };
            // Our own cgroup, or that of a container that we are in: its processes may be moved.
            if above == hierarchy.base && !is_root(&above) && enable.is_needed() {
                steps.push(Step::Vacate { dir: above });
            }
            steps.push(enable);
        }
        steps.push(Step::Make { dir: dir.clone(), temporary });
        if hierarchy.version == Version::V1 && hierarchy.has("cpuset") {
            steps.push(Step::Fill { dir: dir.clone(), file: "cpuset.cpus" });
            steps.push(Step::Fill { dir: dir.clone(), file: "cpuset.mems" });
        }
        if hierarchy.version == Version::V1 && hierarchy.has("memory") {
            steps.push(Step::Include { dir });
        }
    }
    steps
}

/// Whether `dir` is the root of a v2 tree, which hands controllers on whatever it has, and is the only
/// cgroup without a type.
fn is_root(dir: &Path) -> bool {
    !dir.join("cgroup.type").exists()
}

/// What is to be said if `name` lies in a unit of systemd that is not delegated: there systemd alone changes
/// things, and takes away what others have set (<https://systemd.io/CGROUP_DELEGATION/>).
fn owned_by_systemd(tree: &Tree, name: &Name) -> Option<String> {
    let lineage = name.lineage();
    let above = lineage.iter().rev().skip(1).filter(|_| tree.systemd);
    let is_unit = |path: &&&Path| {
        let kind = path.extension().and_then(OsStr::to_str);
        kind.is_some_and(|kind| ["slice", "service", "scope"].contains(&kind))
    };
    let unit = tree.anchor().base.join(above.clone().find(is_unit)?);
    let is_delegated = ["trusted.delegate", "user.delegate"].iter().any(|attribute| {
        let mut value = [0; 1];
        rustix::fs::getxattr(&unit, *attribute, &mut value).is_ok() && value == *b"1"
    });
    (!is_delegated).then(|| {
        format!(
            "'{}' is a unit of systemd and not delegated: systemd may take controllers away again",
            unit.display()
        )
    })
}

/// All limits that are asked for. An option wins over the same limit in a file.
fn asked(options: &cli::Limits) -> Result<Vec<Limit>, Error> {
    let mut named = limits::asked(options, ram(options)?);
    for IoMax { path, limits } in &options.io_max {
        let value = Value::Io { device: device(path)?, limits: limits.clone() };
        named.push(Limit { file: "io.max".into(), value });
    }
    let mut asked = options.resources.as_deref().map_or(Ok(vec![]), resources::read)?;
    asked.retain(|limit| !named.iter().any(|option| option.overrules(limit)));
    asked.append(&mut named);
    Ok(asked)
}

/// The block device at `path` or under the file there, as `MAJOR:MINOR`. Limits are of whole disks: the
/// kernel refuses a partition (ENODEV).
fn device(path: &Path) -> Result<String, Error> {
    let shown = path.display();
    let file = fs::metadata(path).attempt(|| format!("cannot limit io of '{shown}'"))?;
    let number = if file.file_type().is_block_device() { file.rdev() } else { file.dev() };
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let device = format!("{major}:{minor}");
    let sysfs = PathBuf::from(format!("/sys/dev/block/{device}"));
    if !sysfs.exists() {
        return Err(Error::new(format!("cannot limit io of '{shown}': it is on no block device"))
            .hint("'lsblk' shows the block devices, 'findmnt --target' what a file is on"));
    }
    if !sysfs.join("partition").exists() {
        return Ok(device);
    }
    let disk = fs::canonicalize(&sysfs).map(|partition| partition.join("../dev"));
    let number = disk.and_then(interface::read);
    let number =
        number.attempt(|| format!("cannot limit io of '{shown}': cannot find its disk"))?;
    Ok(number.trim().to_owned())
}

/// The machine's memory in bytes, looked up only if a share of it is asked for.
fn ram(options: &cli::Limits) -> Result<u64, Error> {
    let sizes = [options.memory_max, options.memory_high, options.memory_swap_max];
    if !sizes.iter().any(|size| matches!(size, Some(limits::Size::Percent(_)))) {
        return Ok(0);
    }
    let text = interface::read("/proc/meminfo").attempt(|| "cannot read '/proc/meminfo'".into())?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let kib = line.and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| Error::new("cannot find MemTotal in '/proc/meminfo'"))
}

/// A shell command that writes `value` to `file`.
pub(crate) fn echo(value: &str, file: &Path) -> String {
    format!("echo {} > {}", quote(value), quote(file))
}

/// `word` as a shell takes it.
pub(crate) fn quote(word: impl AsRef<OsStr>) -> String {
    let text = word.as_ref().to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:,%@".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{Cli, Verb},
        hierarchy::tests::{host, hybrid, v1, v2},
    };
    use clap::Parser as _;
    use tempfile::TempDir;

    /// What `create` with these words would do on this host, whose root directory is left out.
    fn planned(root: &TempDir, words: &[&str]) -> String {
        let words = ["cgroup-apply", "create"].iter().chain(words);
        let Some(Verb::Create(args)) = Cli::try_parse_from(words).unwrap().verb else { panic!() };
        let tree = Tree::read(root.path(), true).unwrap();
        let said = match Plan::new(&tree, &args.name, &args.limits, false, &[]) {
            Ok(plan) => plan.script(None).join("\n"),
            Err(err) => err.to_string(),
        };
        said.replace(root.path().to_str().unwrap(), "")
    }

    #[test]
    fn on_v2_controllers_are_handed_down_the_path() {
        let words = ["--pids-max", "9", "--memory-max", "1G", "--cpu-max", "1.5", "a/b"];
        assert_eq!(
            planned(&v2(), &words),
            "echo '+cpu +memory +pids' > /sys/fs/cgroup/cgroup.subtree_control\n\
             mkdir /sys/fs/cgroup/a\n\
             echo '+cpu +memory +pids' > /sys/fs/cgroup/a/cgroup.subtree_control\n\
             mkdir /sys/fs/cgroup/a/b\n\
             echo 9 > /sys/fs/cgroup/a/b/pids.max\n\
             echo 1073741824 > /sys/fs/cgroup/a/b/memory.max\n\
             echo '150000 100000' > /sys/fs/cgroup/a/b/cpu.max"
        );
    }

    #[test]
    fn on_v1_each_limit_goes_to_its_own_hierarchy() {
        assert_eq!(
            planned(&v1(), &["--pids-max", "9", "--cpu-max", "50%", "x"]),
            "mkdir /sys/fs/cgroup/freezer/x\n\
             mkdir '/sys/fs/cgroup/a b/x'\n\
             mkdir /sys/fs/cgroup/cpu,cpuacct/x\n\
             echo 9 > '/sys/fs/cgroup/a b/x/pids.max'\n\
             echo -1 > /sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us\n\
             echo 100000 > /sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us\n\
             echo 50000 > /sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us"
        );
    }

    #[test]
    fn before_linux_5_11_a_limit_of_memory_is_made_to_hold_below() {
        let files = |setting| {
            host(&[
                ("proc/self/mountinfo", "33 31 0:30 / /cg rw - cgroup cgroup rw,memory\n"),
                ("proc/self/cgroup", "2:memory:/\n"),
                ("cg/memory.use_hierarchy", setting),
            ])
        };
        let words = ["--memory-max", "4K", "x"];
        let limit = "echo 4096 > /cg/x/memory.limit_in_bytes";
        let include = "echo 1 > /cg/x/memory.use_hierarchy";
        assert_eq!(planned(&files("0\n"), &words), format!("mkdir /cg/x\n{include}\n{limit}"));
        assert_eq!(planned(&files("1\n"), &words), format!("mkdir /cg/x\n{limit}"));
    }

    #[test]
    fn a_hybrid_host_has_both() {
        assert_eq!(
            planned(&hybrid(), &["--pids-max", "9", "--hugetlb-max", "2M=4M", "x"]),
            "echo +hugetlb > /sys/fs/cgroup/unified/cgroup.subtree_control\n\
             mkdir /sys/fs/cgroup/unified/x\n\
             mkdir /sys/fs/cgroup/pids/x\n\
             echo 9 > /sys/fs/cgroup/pids/x/pids.max\n\
             echo 4194304 > /sys/fs/cgroup/unified/x/hugetlb.2MB.max"
        );
    }

    #[test]
    fn executed_in_place_command_joins_on_v2_only_where_that_limits_or_freezes() {
        let root = host(&[
            (
                "proc/self/mountinfo",
                "39 31 0:36 / /cg/pids rw - cgroup cgroup rw,pids\n\
                 40 31 0:37 / /cg/freezer rw - cgroup cgroup rw,freezer\n\
                 41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n",
            ),
            ("proc/self/cgroup", "8:pids:/\n7:freezer:/\n0::/\n"),
            ("cg/unified/cgroup.controllers", "hugetlb\n"),
            ("cg/unified/there/cgroup.controllers", "hugetlb\n"),
        ]);
        let tree = Tree::read(root.path(), true).unwrap();
        let joins = |words: &[&str]| {
            let words =
                ["cgroup-apply", "run", "--exec"].iter().chain(words).chain(&["--", "true"]);
            let Some(Verb::Run(args)) = Cli::try_parse_from(words).unwrap().verb else { panic!() };
            let mut plan = Plan::new(&tree, &args.name, &args.limits, false, &["freezer"]).unwrap();
            plan.join_v1_alone(&tree);
            let script = plan.script(Some(&args.command)).pop().unwrap();
            script.replace(root.path().to_str().unwrap(), "")
        };
        let v1 = "echo 0 > /cg/freezer/x/tasks && exec";
        assert_eq!(joins(&["x"]), format!("sh -c '{v1} \"$@\"' sh true"));
        let pids = "echo 0 > /cg/freezer/x/tasks && echo 0 > /cg/pids/x/tasks && exec";
        assert_eq!(joins(&["--pids-max", "9", "x"]), format!("sh -c '{pids} \"$@\"' sh true"));
        let v2 = "sh -c 'echo 0 > /cg/unified/x/cgroup.procs && ";
        assert!(joins(&["--hugetlb-max", "2M=0", "x"]).starts_with(v2));
        assert!(joins(&["there"]).starts_with(&v2.replace('x', "there")));
    }

    #[test]
    fn below_a_unit_of_systemd_its_owner_is_named() {
        let root = v2();
        fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        let tree = Tree::read(root.path(), true).unwrap();
        let warnings = |name: &str| {
            let options = ["cgroup-apply", "create", name];
            let Some(Verb::Create(args)) = Cli::try_parse_from(options).unwrap().verb else {
                panic!()
            };
            let plan = Plan::new(&tree, &args.name, &args.limits, false, &[]).unwrap();
            plan.warnings.join("\n").replace(root.path().to_str().unwrap(), "")
        };
        assert_eq!(
            warnings("user.slice/x/y"),
            "'/sys/fs/cgroup/user.slice' is a unit of systemd and not delegated: systemd may take controllers away again"
        );
        assert_eq!(warnings("x.slice"), "", "it is not below itself");
        assert_eq!(warnings("a/b"), "");
    }

    #[test]
    fn in_a_container_its_own_processes_make_room() {
        let root = host(&[
            ("proc/self/mountinfo", "50 49 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"),
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cgroup.controllers", "pids\n"),
            ("sys/fs/cgroup/cgroup.type", "domain\n"),
            ("sys/fs/cgroup/cgroup.procs", "1\n12\n"),
        ]);
        let leaf = "/sys/fs/cgroup/.leaf";
        assert_eq!(
            planned(&root, &["--pids-max", "9", "x"]),
            format!(
                "mkdir --parents {leaf}; for pid in $(cat /sys/fs/cgroup/cgroup.procs); do echo $pid > {leaf}/cgroup.procs; done\n\
                 echo +pids > /sys/fs/cgroup/cgroup.subtree_control\n\
                 mkdir /sys/fs/cgroup/x\n\
                 echo 9 > /sys/fs/cgroup/x/pids.max"
            )
        );
    }

    #[test]
    fn a_cgroup_in_between_with_processes_does_not() {
        let root = v2();
        let between = root.path().join("sys/fs/cgroup/a");
        fs::create_dir(&between).unwrap();
        for (file, text) in [("cgroup.type", "domain\n"), ("cgroup.procs", "12\n")] {
            fs::write(between.join(file), text).unwrap();
        }
        assert_eq!(
            planned(&root, &["--pids-max", "9", "a/b"]),
            "cannot enable pids below '/sys/fs/cgroup/a': it has 1 process of its own\n  \
             hint: on cgroup v2 only a cgroup without processes hands controllers on: move them to one below it"
        );
    }

    #[test]
    fn what_is_in_effect_is_not_done_again() {
        let root = v2();
        let dir = root.path().join("sys/fs/cgroup");
        fs::create_dir(dir.join("x")).unwrap();
        fs::write(dir.join("cgroup.subtree_control"), "cpu pids\n").unwrap();
        fs::write(dir.join("x/pids.max"), "9\n").unwrap();
        fs::write(dir.join("x/cpu.max"), "max 100000\n").unwrap();
        assert_eq!(
            planned(&root, &["--pids-max", "9", "--cpu-max", "2", "x"]),
            "echo '200000 100000' > /sys/fs/cgroup/x/cpu.max"
        );
    }

    #[test]
    fn words_are_quoted_as_a_shell_takes_them() {
        assert_eq!(quote("a/b.c-1=2"), "a/b.c-1=2");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }
}
