//! The processes of a cgroup: counted, added, frozen, killed.

use crate::{
    cgroup::{directories, explain},
    cli,
    error::{self, Attempt as _, Error},
    hierarchy::{Hierarchy, Tree, Version},
    interface::{self, put},
    name::Name,
    plan::{Place, echo, quote},
};
use nix::{
    errno::Errno,
    sys::signal::{self, Signal},
    unistd::Pid,
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long killed processes may take to vanish, and frozen ones to stand still.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// `add`.
pub(crate) fn add(tree: &Tree, args: &cli::Add, dry_run: bool) -> Result<u8, Error> {
    let cli::Add { name, pid, .. } = args;
    let there: Vec<_> = tree
        .anchor_first()
        .map(|hierarchy| (hierarchy, Place::new(hierarchy, name)))
        .filter(|(_, place)| place.dir.is_dir())
        .map(|(hierarchy, place)| (place, cgroup_of(*pid, hierarchy)))
        .collect();
    if there.is_empty() {
        return Err(no_such("add a process to", name)
            .hint(format!("'cgroup-apply create {name}' makes it")));
    }
    let needed: Vec<_> =
        there.iter().filter(|(place, from)| from.as_ref() != Some(&place.dir)).collect();
    let shown = |dir: &Path| echo(&pid.to_string(), &dir.join("cgroup.procs"));
    if dry_run {
        return error::result(
            &needed.iter().map(|(place, _)| shown(&place.dir)).collect::<Vec<_>>(),
        );
    }
    for (done, (place, _)) in needed.iter().enumerate() {
        error::trace(&shown(&place.dir));
        let result = put(&place.dir.join("cgroup.procs"), &pid.to_string())
            .attempt(|| format!("cannot add process {pid} to '{}'", place.dir.display()))
            .map_err(|err| explain_join(err, place));
        if let Err(err) = result {
            let back = needed[..done].iter().rev().filter_map(|(_, from)| from.as_ref());
            let left =
                back.filter(|from| put(&from.join("cgroup.procs"), &pid.to_string()).is_err());
            let left: Vec<_> = left
                .map(|from| format!("process {pid}, not moved back to '{}'", from.display()))
                .collect();
            return Err(match (done, left.is_empty()) {
                (0, _) => err,
                (_, true) => err.undone("the process is where it was"),
                (_, false) => err.left_behind(left),
            });
        }
    }
    Ok(0)
}

/// Where a process is in `hierarchy`, if it can be seen.
fn cgroup_of(pid: i32, hierarchy: &Hierarchy) -> Option<PathBuf> {
    let memberships = interface::read(format!("/proc/{pid}/cgroup")).ok()?;
    memberships.lines().find_map(|line| hierarchy.membership(line))
}

/// The rule that was broken when a process was refused.
pub(crate) fn explain_join(err: Error, place: &Place) -> Error {
    let shown = place.dir.display();
    let kind = interface::read(place.dir.join("cgroup.type")).unwrap_or_default();
    let err = err
        .hint_on(Errno::EAGAIN, "a pids limit of the cgroup or of one above it is reached")
        .hint_on(
            Errno::EACCES,
            "moving a process takes write access to the cgroup above both places, too: run as root",
        );
    let realtime = interface::read(place.dir.join("cpu.rt_runtime_us")).unwrap_or_default();
    match place.version {
        Version::V1 if realtime.trim() == "0" => err.hint_on(
            Errno::EINVAL,
            format!("a process of realtime priority needs more than 0 in '{shown}/cpu.rt_runtime_us'"),
        ),
        Version::V1 => err.hint_on(
            Errno::ENOSPC,
            format!("'{shown}/cpuset.cpus' and 'cpuset.mems' must not be empty"),
        ),
        Version::V2 => err
            .hint_on(
                Errno::EOPNOTSUPP,
                format!("'{shown}/cgroup.type' is '{}', and only a domain takes processes", kind.trim()),
            )
            .hint_on(
                Errno::EBUSY,
                format!("'{shown}' hands controllers on (cgroup.subtree_control), so on cgroup v2 processes go below it"),
            ),
    }
}

/// Something that can stop the processes of a cgroup: an interface file, and what it reads and is written.
struct Freezer {
    dir: PathBuf,
    version: Version,
}

impl Freezer {
    /// Those of the cgroup at `dirs`: of v2, of v1, or both on a hybrid host.
    fn all(dirs: &[PathBuf]) -> Vec<Self> {
        let of = |dir: &PathBuf, version| Self { dir: dir.clone(), version };
        dirs.iter()
            .flat_map(|dir| [of(dir, Version::V2), of(dir, Version::V1)])
            .filter(|freezer| freezer.file().exists())
            .collect()
    }

    fn file(&self) -> PathBuf {
        self.dir.join(match self.version {
            Version::V1 => "freezer.state",
            Version::V2 => "cgroup.freeze",
        })
    }

    fn word(&self, frozen: bool) -> &'static str {
        match (self.version, frozen) {
            (Version::V1, true) => "FROZEN",
            (Version::V1, false) => "THAWED",
            (Version::V2, true) => "1",
            (Version::V2, false) => "0",
        }
    }

    /// Whether all stand still, or all go on: asking for it is not enough, it takes its time.
    fn is(&self, frozen: bool) -> bool {
        let (file, line) = match self.version {
            Version::V1 => ("freezer.state", self.word(frozen).to_owned()),
            Version::V2 => ("cgroup.events", format!("frozen {}", self.word(frozen))),
        };
        let text = interface::read(self.dir.join(file)).unwrap_or_default();
        text.lines().any(|each| each == line)
    }

    fn set(&self, frozen: bool) -> std::io::Result<()> {
        put(&self.file(), self.word(frozen))
    }

    /// The cgroup above whose freezing holds this one, too.
    fn held_by(&self) -> Option<&Path> {
        let above = self.dir.ancestors().skip(1);
        let mut above = above.take_while(|dir| dir.join("cgroup.procs").exists());
        above.find(|dir| {
            match self.version {
                Version::V1 => interface::read(dir.join("freezer.self_freezing")),
                Version::V2 => interface::read(dir.join("cgroup.freeze")),
            }
            .is_ok_and(|text| text.trim() == "1")
        })
    }
}

/// Whether the cgroup at `dirs` stands still.
pub(crate) fn is_frozen(dirs: &[PathBuf]) -> bool {
    Freezer::all(dirs).iter().any(|freezer| freezer.is(true))
}

/// `freeze`.
pub(crate) fn freeze(tree: &Tree, name: &Name, dry_run: bool) -> Result<u8, Error> {
    let dirs = existing("freeze", tree, name)?;
    let freezers = Freezer::all(&dirs);
    let reached: Vec<_> = freezers.iter().map(|freezer| freezer.dir.clone()).collect();
    let out_of_reach = &processes(dirs.iter(), true) - &processes(reached.iter(), true);
    if freezers.is_empty() {
        return Err(Error::new(format!(
            "cannot freeze '{name}': it is in no hierarchy that can freeze"
        ))
        .hint("cgroup v2 can, and on v1 the controller 'freezer'"));
    }
    if !out_of_reach.is_empty() {
        let reached: Vec<_> = reached.iter().map(|dir| format!("'{}'", dir.display())).collect();
        return Err(Error::new(format!(
            "cannot freeze '{name}': {} in it, but not in {}",
            list(&out_of_reach),
            reached.join(" or ")
        ))
        .hint("'cgroup-apply add' puts a process into all parts of the cgroup"));
    }
    let err = match settle(&freezers, true, dry_run, name)? {
        Settled::Yes(status) => return Ok(status),
        Settled::No => Error::new(format!(
            "cannot freeze '{name}': not all of it stands still after {} s",
            PATIENCE.as_secs()
        )),
    };
    let left = freezers.iter().filter(|freezer| freezer.set(false).is_err());
    let left: Vec<_> =
        left.map(|freezer| format!("the value in '{}'", freezer.file().display())).collect();
    Err(if left.is_empty() { err.undone("it goes on") } else { err.left_behind(left) })
}

/// `thaw`.
pub(crate) fn thaw(tree: &Tree, name: &Name, dry_run: bool) -> Result<u8, Error> {
    let freezers = Freezer::all(&existing("thaw", tree, name)?);
    if let Some(above) = freezers.iter().find_map(Freezer::held_by) {
        return Err(Error::new(format!(
            "cannot thaw '{name}': '{}' above it is frozen",
            above.display()
        ))
        .hint("thaw that one first"));
    }
    match settle(&freezers, false, dry_run, name)? {
        Settled::Yes(status) => Ok(status),
        Settled::No => Err(Error::new(format!(
            "cannot thaw '{name}': it does not go on after {} s",
            PATIENCE.as_secs()
        ))),
    }
}

/// Whether the freezers came to what was asked of them.
enum Settled {
    Yes(u8),
    No,
}

/// Ask all `freezers` and wait until it is so.
fn settle(
    freezers: &[Freezer],
    frozen: bool,
    dry_run: bool,
    name: &Name,
) -> Result<Settled, Error> {
    let needed: Vec<_> = freezers.iter().filter(|freezer| !freezer.is(frozen)).collect();
    let shown = |freezer: &&Freezer| echo(freezer.word(frozen), &freezer.file());
    if dry_run {
        return error::result(&needed.iter().map(shown).collect::<Vec<_>>()).map(Settled::Yes);
    }
    let verb = if frozen { "freeze" } else { "thaw" };
    for freezer in &needed {
        error::trace(&shown(freezer));
        freezer
            .set(frozen)
            .attempt(|| {
                format!("cannot {verb} '{name}': cannot write to '{}'", freezer.file().display())
            })
            .map_err(explain)?;
    }
    let is_gone = || needed.iter().any(|freezer| !freezer.file().exists());
    let is_so = within(PATIENCE, || needed.iter().all(|freezer| freezer.is(frozen)) || is_gone());
    if is_gone() {
        return Err(Error::new(format!("cannot {verb} '{name}': it was removed meanwhile")));
    }
    Ok(if is_so { Settled::Yes(0) } else { Settled::No })
}

/// Wait until `condition` holds; whether it came to that.
fn within(patience: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(100);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    true
}

/// `kill`.
pub(crate) fn kill(tree: &Tree, name: &Name, dry_run: bool) -> Result<u8, Error> {
    let dirs = existing("kill what is in", tree, name)?;
    if dry_run {
        let needed = dirs.first().filter(|_| !processes(dirs.iter(), true).is_empty());
        return error::result(&needed.map(|dir| shown_kill(dir)).into_iter().collect::<Vec<_>>());
    }
    kill_all(&dirs, Instant::now() + PATIENCE);
    let left = processes(dirs.iter(), true);
    if left.is_empty() {
        return Ok(0);
    }
    let err =
        Error::new(format!("cannot kill what is in '{name}' within {} s", PATIENCE.as_secs()));
    Err(err.left_behind([list(&left)]))
}

/// The directories of a cgroup that must be there.
fn existing(verb: &str, tree: &Tree, name: &Name) -> Result<Vec<PathBuf>, Error> {
    let dirs = directories(tree, name);
    if dirs.is_empty() { Err(no_such(verb, name)) } else { Ok(dirs) }
}

/// The refusal of what can only be done to a cgroup that exists.
pub(crate) fn no_such(verb: &str, name: &Name) -> Error {
    Error::new(format!("cannot {verb} '{name}': there is no such cgroup in any hierarchy"))
}

/// Kill all processes in `dirs` and below, until there are none.
pub(crate) fn kill_all(dirs: &[PathBuf], deadline: Instant) {
    let mut pause = Duration::from_micros(100);
    while !processes(dirs.iter(), true).is_empty() && Instant::now() < deadline {
        for dir in dirs {
            let file = dir.join("cgroup.kill");
            if file.exists() {
                error::trace(&echo("1", &file));
                put(&file, "1").unwrap_or_default(); // seen by the loop
            }
        }
        let rest = processes(dirs.iter(), true);
        if !rest.is_empty() {
            kill_frozen(dirs, &rest);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Kill one by one, frozen if that is possible so that nothing forks away meanwhile.
fn kill_frozen(dirs: &[PathBuf], pids: &BTreeSet<i32>) {
    let freezers = Freezer::all(dirs);
    for freezer in &freezers {
        freezer.set(true).unwrap_or_default(); // without it the next turn of the loop gets the rest
    }
    for pid in pids {
        match signal::kill(Pid::from_raw(*pid), Signal::SIGKILL) {
            Ok(()) | Err(_) => {} // gone already, or seen by the loop
        }
    }
    for freezer in &freezers {
        freezer.set(false).unwrap_or_default(); // a frozen process of v1 does not die
    }
}

/// The shell command for killing what is in `dir`.
pub(crate) fn shown_kill(dir: &Path) -> String {
    let file = dir.join("cgroup.kill");
    if file.exists() {
        echo("1", &file)
    } else {
        format!("kill -KILL $(cat {})", quote(dir.join("cgroup.procs")))
    }
}

/// `dir` and all cgroups in it, deepest first.
pub(crate) fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let inside = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut dirs: Vec<_> = inside.flat_map(|entry| below(&entry.path())).collect();
    dirs.push(dir.to_path_buf());
    dirs
}

/// The processes in `dirs`, and if `deep` in the cgroups below. Those that this PID namespace cannot see
/// are listed as 0 by the kernel, and 0 is nothing to send a signal to: it would be our own process group.
pub(crate) fn processes<'dir>(
    dirs: impl Iterator<Item = &'dir PathBuf>,
    deep: bool,
) -> BTreeSet<i32> {
    let all = dirs.flat_map(|dir| if deep { below(dir) } else { vec![dir.clone()] });
    let lists = all.map(|dir| interface::read(dir.join("cgroup.procs")).unwrap_or_default());
    lists
        .flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .filter(|pid| *pid != 0)
        .collect()
}

/// "2 processes (12, 13)".
pub(crate) fn list(pids: &BTreeSet<i32>) -> String {
    let numbers: Vec<_> = pids.iter().map(i32::to_string).collect();
    let noun = if pids.len() == 1 { "process" } else { "processes" };
    format!("{} {noun} ({})", pids.len(), numbers.join(", "))
}
