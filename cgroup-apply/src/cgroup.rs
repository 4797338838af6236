//! The cgroup itself: made, limited, shared between runs, emptied and removed.
//!
//! Runs under one name share a lock on the cgroup in the anchor hierarchy; who can have it alone may remove
//! the cgroup. That a cgroup is temporary, and so may be
//! removed with all that is in it, is written on its directories: they have the sticky bit, as /tmp has.
//! The kernel drops the lock with the process and keeps the bit, so after a kill -9 the next run finds a
//! temporary cgroup that nobody holds, and clears it away.

use crate::{
    cli,
    error::{self, Attempt as _, Error},
    hierarchy::{LEAF, Tree},
    interface::{self, put},
    limits::{Verdict, Write},
    lock::Lock,
    name::Name,
    plan::{Place, Plan, Planned, Step, USE_HIERARCHY, echo, quote},
    processes::{PATIENCE, below, kill_all, list, processes, shown_kill},
};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkdir},
};
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// `S_ISVTX`, the mark of a temporary cgroup.
const STICKY: u32 = 0o1000;
/// How often the directory may be removed by others while it is being made.
const ATTEMPTS: usize = 1000;

/// A cgroup that this process holds.
#[derive(Debug)]
pub(crate) struct Group<'plan> {
    plan: &'plan Plan,
    tree: &'plan Tree,
    lock: Lock,
    /// The same for the cgroups above it, the highest first.
    above: Vec<Lock>,
    taken: Vec<Change>,
}

/// Something that was done and can be taken back.
#[derive(Debug)]
enum Change {
    Made(PathBuf),
    Wrote { file: PathBuf, before: String },
}

/// `create`.
pub(crate) fn create(tree: &Tree, args: &cli::Create, dry_run: bool) -> Result<u8, Error> {
    let plan = Plan::new(tree, &args.name, &args.limits, false, &[])?;
    if dry_run {
        return error::result(&plan.script(None));
    }
    let group = Group::make(tree, &plan)?;
    let dirs = directories(tree, &args.name);
    error::result(&dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>())
        .map_err(|err| group.undo(err))
}

impl<'plan> Group<'plan> {
    /// Make the cgroup and set its limits, or leave everything as it was.
    pub(crate) fn make(tree: &'plan Tree, plan: &'plan Plan) -> Result<Self, Error> {
        let mut group = Self::enter(tree, plan)?;
        plan.refused.iter().for_each(error::tell);
        plan.warnings.iter().for_each(error::tell);
        match group.fit() {
            Ok(()) => Ok(group),
            Err(err) => Err(group.undo(err)),
        }
    }

    /// Make the anchor's directory and take hold of it and of those above it.
    fn enter(tree: &'plan Tree, plan: &'plan Plan) -> Result<Self, Error> {
        for _ in 0..ATTEMPTS {
            let mut taken = vec![];
            match plan.anchor_steps.iter().try_for_each(|step| take(step, &mut taken)) {
                // The directory above was removed by the last run in it, or is just being removed (ENODEV).
                Err(err)
                    if err.errno() == Some(Errno::ENODEV)
                        || err.errno() == Some(Errno::ENOENT)
                            && plan.above().iter().any(|dir| !dir.exists()) =>
                {
                    continue;
                }
                Err(err) => return Err(undone(err, &taken)),
                Ok(()) => {}
            }
            let is_new = made(&taken, plan.anchor());
            match Self::hold(tree, plan, is_new) {
                Ok(Some((lock, above))) => return Ok(Self { plan, tree, lock, above, taken }),
                Ok(None) => {}
                Err(err) => return Err(undone(err, &taken)),
            }
        }
        let shown = plan.anchor().display();
        Err(Error::new(format!("cannot create '{shown}': it is removed again and again")))
    }

    /// Take hold of the anchor's directory and of those above it; `None` if they have to be made anew.
    fn hold(tree: &Tree, plan: &Plan, is_new: bool) -> Result<Option<(Lock, Vec<Lock>)>, Error> {
        let above = plan.above();
        let above: Option<Vec<_>> = above.into_iter().map(Lock::share).collect::<Result<_, _>>()?;
        let Some(above) = above else { return Ok(None) };
        if !is_new && is_temporary(plan.anchor()) && clear_if_idle(tree, plan)? {
            return Ok(None);
        }
        Ok(Lock::share(plan.anchor())?.map(|lock| (lock, above)))
    }

    /// Make the other directories, set the limits.
    fn fit(&mut self) -> Result<(), Error> {
        self.plan.steps.iter().try_for_each(|step| take(step, &mut self.taken))?;
        if !self.plan.temporary {
            directories(self.tree, &self.plan.name).iter().try_for_each(|dir| keep(dir))?;
        }
        for limit in &self.plan.limits {
            match self.apply(limit) {
                Err(err) if self.plan.best_effort => error::tell(&err),
                other => other?,
            }
        }
        Ok(())
    }

    /// Write a limit and read it back.
    fn apply(&mut self, limit: &Planned) -> Result<(), Error> {
        let is_new = made(&self.taken, &limit.dir);
        if !is_new && limit.in_effect() {
            return Ok(());
        }
        for (at, write) in limit.writes.iter().enumerate() {
            let file = limit.dir.join(&write.file);
            let before =
                if is_new { None } else { Some(interface::read(&file).unwrap_or_default()) };
            error::trace(&echo(&write.value, &file));
            put(&file, &write.value)
                .map_err(|err| explain_limit(err, &limit.file, write, &limit.dir))?;
            if let Some(before) = before {
                self.taken.push(Change::Wrote { file: file.clone(), before });
            }
            if limit.writes[at + 1..].iter().any(|later| later.file == write.file) {
                continue; // only a step on the way
            }
            // Some files of v1 can only be written (`devices.deny`).
            let Ok(read) = read_back(&limit.dir, &write.file) else { continue };
            match write.verdict(&read) {
                Verdict::InEffect => {}
                Verdict::Remark(remark) => error::tell(&remark),
                Verdict::NotApplied => {
                    let (asked, read) = (&write.value, read.trim());
                    return Err(Error::new(format!(
                        "cannot limit {}: '{asked}' was written to '{}', which reads '{read}'",
                        limit.file,
                        file.display()
                    )));
                }
            }
        }
        Ok(())
    }

    /// Whether no more than what was just made is there: nothing has run in it yet.
    pub(crate) fn is_new(&self, places: &[Place]) -> bool {
        places.iter().all(|place| made(&self.taken, &place.dir))
    }

    /// End COMMAND, and if the cgroup is for this run alone, with all that it started.
    pub(crate) fn end(&self, command: Pid) {
        if is_temporary(self.plan.anchor()) && self.lock.become_alone() {
            kill_all(&directories(self.tree, &self.plan.name), Instant::now() + PATIENCE);
        } else {
            match kill(command, Signal::SIGKILL) {
                Ok(()) | Err(_) => {} // it has just ended by itself
            }
        }
    }

    /// Take back what was done, because of `err`.
    pub(crate) fn undo(self, err: Error) -> Error {
        // Not while another run is in what was made here: then the last one removes it.
        let alone = self.lock.become_alone();
        let ours =
            self.taken.iter().filter(|change| alone || matches!(change, Change::Wrote { .. }));
        undone(err, ours)
    }

    /// Let go of the cgroup: if it is temporary and nobody else is in it, with all that it holds.
    /// What could not be removed is named.
    pub(crate) fn leave(self) -> Result<(), Error> {
        let alone = self.lock.become_alone();
        if !alone || !is_temporary(self.plan.anchor()) {
            return Ok(());
        }
        clear(self.tree, &self.plan.name)?;
        for (path, lock) in self.plan.name.lineage().iter().zip(&self.above).rev() {
            if !lock.become_alone() {
                break; // the last run in it will
            }
            let dirs = self.tree.anchor_first().map(|hierarchy| hierarchy.base.join(path));
            let dirs: Vec<_> = dirs.filter(|dir| is_temporary(dir)).collect();
            for dir in dirs.iter().rev() {
                error::trace(&format!("rmdir {}", quote(dir)));
                match fs::remove_dir(dir) {
                    // Another run has just made its cgroup in it, and will remove both.
                    Err(err) if err.kind() == io::ErrorKind::ResourceBusy => {}
                    removed => {
                        removed.attempt(|| format!("cannot remove cgroup '{}'", dir.display()))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether `dir` is among what was made.
fn made(taken: &[Change], dir: &Path) -> bool {
    taken.iter().any(|change| matches!(change, Change::Made(made) if made == dir))
}

/// Remove what a run that was killed has left, unless somebody is in it; whether there is a new start to make.
fn clear_if_idle(tree: &Tree, plan: &Plan) -> Result<bool, Error> {
    match Lock::alone(plan.anchor())? {
        Some(_alone) => clear(tree, &plan.name).map(|()| true),
        None => Ok(false),
    }
}

/// Take a step unless there is nothing to do, and note it.
fn take(step: &Step, taken: &mut Vec<Change>) -> Result<(), Error> {
    if !step.is_needed() {
        return Ok(());
    }
    error::trace(step);
    match step {
        Step::Make { dir, temporary } => {
            let mode = if *temporary { 0o755 | STICKY } else { 0o755 };
            match mkdir(dir, Mode::from_bits_truncate(mode)) {
                Err(Errno::EEXIST) if dir.is_dir() => {} // another run was faster
                result => {
                    result
                        .attempt(|| format!("cannot create cgroup '{}'", dir.display()))
                        .map_err(explain)?;
                    taken.push(Change::Made(dir.clone()));
                }
            }
            Ok(())
        }
        Step::Vacate { dir } => vacate(dir),
        // It stays enabled: other cgroups may have come to need it, and it limits nothing by itself.
        Step::Enable { dir, .. } => enable(step, dir),
        Step::Fill { dir, file } => {
            let above = dir.parent().unwrap_or(dir).join(file);
            let shown =
                || format!("cannot fill '{}' from the cgroup above", dir.join(file).display());
            let list = interface::read(above).attempt(shown)?;
            put(&dir.join(file), list.trim()).attempt(shown).map_err(explain)
        }
        Step::Include { dir } => put(&dir.join(USE_HIERARCHY), "1")
            .attempt(|| format!("cannot make the limits of '{}' hold below it", dir.display()))
            .map_err(explain),
    }
}

/// Move the processes of `dir` below it. They stay there: they have what they had.
fn vacate(dir: &Path) -> Result<(), Error> {
    let (leaf, shown) = (dir.join(LEAF), dir.display());
    let refused = || format!("cannot move the processes of '{shown}' to '{}'", leaf.display());
    match mkdir(&leaf, Mode::from_bits_truncate(0o755)) {
        Err(Errno::EEXIST) => {}
        made => made.attempt(refused).map_err(explain)?,
    }
    // Again and again: they may fork meanwhile.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let inside = processes([dir.to_path_buf()].iter(), false);
        if inside.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::new(format!("{}: there are ever new ones", refused())));
        }
        for pid in inside {
            match put(&leaf.join("cgroup.procs"), &pid.to_string()) {
                Err(err) if err.raw_os_error() == Some(Errno::ESRCH as i32) => {} // it has ended
                moved => moved.attempt(refused).map_err(explain)?,
            }
        }
    }
}

/// Hand controllers on to the cgroups below `dir`.
fn enable(step: &Step, dir: &Path) -> Result<(), Error> {
    let (controllers, shown) = (step.missing_controllers().join(", "), dir.display());
    let busy = || {
        let inside = interface::read(dir.join("cgroup.procs")).unwrap_or_default();
        if inside.lines().any(|pid| pid == "0") {
            format!(
                "0 in '{shown}/cgroup.procs' is a process outside of this container, such as its supervisor; \
                 move it from outside: 'cgroup-apply add NAME PID'"
            )
        } else {
            format!("'{shown}/cgroup.procs' must be empty: move its processes below it")
        }
    };
    put(&dir.join("cgroup.subtree_control"), &step.enabling())
        .attempt(|| format!("cannot enable {controllers} below '{shown}'"))
        .map_err(|err| {
            explain(err)
                .hint_on(
                    Errno::ENOENT,
                    format!("'{shown}/cgroup.controllers' says which ones it has itself"),
                )
                .hint_on(Errno::EBUSY, busy())
        })
}

/// What came of a value. A cpuset of v2 keeps what was asked for, and another file has what holds.
fn read_back(dir: &Path, file: &str) -> io::Result<String> {
    let effective = || interface::read(dir.join(format!("{file}.effective"))).ok();
    let held = if file.starts_with("cpuset.") { effective() } else { None };
    held.map_or_else(|| interface::read(dir.join(file)), Ok)
}

/// The rule behind an errno that any change of a cgroup may give.
pub(crate) fn explain(err: Error) -> Error {
    let needs_root = if Path::new("/run/systemd/system").is_dir() {
        "run as root, or below 'systemd-run --user --scope --property=Delegate=yes', which gives you a cgroup"
    } else {
        "run as root, or in a cgroup that is delegated to you"
    };
    err.hint_on(Errno::EACCES, needs_root)
        .hint_on(Errno::EPERM, needs_root)
        .hint_on(Errno::EROFS, "cgroups are mounted read-only here, as inside most containers")
        .hint_on(
            Errno::EAGAIN,
            "cgroup.max.descendants or cgroup.max.depth of a cgroup above is reached",
        )
}

/// The same for a limit.
fn explain_limit(err: io::Error, limit: &str, write: &Write, dir: &Path) -> Error {
    let Write { file, value, .. } = write;
    let shown = dir.join(file);
    let err = Err::<(), _>(err).attempt(|| {
        format!("cannot limit {limit}: cannot write '{value}' to '{}'", shown.display())
    });
    let Err(err) = err else { unreachable!("it was made from an error") };
    let no_file = if file.contains("memsw") || file.contains("swap") {
        "this kernel does not account for swap (swapaccount=1 at boot)".into()
    } else if file.starts_with("hugetlb.") {
        format!("the huge pages here are of {}", huge_pages(dir))
    } else {
        format!("this kernel has no such file in '{}'", dir.display())
    };
    let err = match (file.as_str(), err.errno()) {
        ("cpuset.cpus" | "cpuset.mems", Some(_)) => {
            let above = dir.parent().unwrap_or(dir);
            let list = read_back(above, file).unwrap_or_default();
            err.hint(format!("the cgroup above has {}", list.trim()))
        }
        ("cpu.cfs_quota_us", Some(Errno::EINVAL)) => {
            err.hint("on cgroup v1 a cgroup has no larger share of the CPU than the one above it")
        }
        (_, Some(Errno::EINVAL | Errno::ERANGE)) => {
            let read = interface::read(&shown).unwrap_or_default();
            err.hint(format!(
                "the kernel does not take this value; the file reads '{}' now",
                read.trim()
            ))
        }
        _ => explain(err),
    };
    err.hint_on(Errno::ENOENT, no_file)
        .hint_on(Errno::EBUSY, "the cgroup uses more than that already")
}

/// The sizes of huge pages that can be limited in `dir`.
fn huge_pages(dir: &Path) -> String {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let size = |name: String| Some(name.strip_prefix("hugetlb.")?.split_once('.')?.0.to_owned());
    let mut sizes: Vec<_> = names.filter_map(size).collect();
    sizes.sort();
    sizes.dedup();
    sizes.join(", ")
}

/// Take `changes` back, last first, and say so with `err`.
fn undone<'changes>(
    err: Error,
    changes: impl IntoIterator<Item = &'changes Change, IntoIter: DoubleEndedIterator>,
) -> Error {
    let (mut count, mut left) = (0, vec![]);
    for change in changes.into_iter().rev() {
        let result = match change {
            Change::Made(dir) => remove(dir, Instant::now() + PATIENCE),
            Change::Wrote { file, before } => put(file, before.trim()),
        };
        match (result, change) {
            (Ok(()), _) => count += 1,
            (Err(_), Change::Made(dir)) => left.push(format!("'{}'", dir.display())),
            (Err(_), Change::Wrote { file, .. }) => {
                left.push(format!("the value in '{}'", file.display()));
            }
        }
    }
    let changes = if count == 1 { "change" } else { "changes" };
    let err = match (count, left.is_empty()) {
        (0, _) => err,
        (_, true) => err.undone(format!("{count} {changes}; the cgroups are as they were")),
        (_, false) => err.undone(format!("{count} {changes}")),
    };
    err.left_behind(left)
}

/// `delete`.
pub(crate) fn delete(tree: &Tree, args: &cli::Delete, dry_run: bool) -> Result<u8, Error> {
    let name = &args.name;
    let dirs = directories(tree, name);
    let inside = processes(dirs.iter(), true);
    if !args.kill && !inside.is_empty() {
        return Err(Error::new(format!("cannot delete '{name}': {} in it", list(&inside)))
            .hint("--kill kills what is in it first"));
    }
    if dry_run {
        let kill = dirs.iter().take(1).filter(|_| !inside.is_empty()).map(|dir| shown_kill(dir));
        let rmdirs =
            dirs.iter().rev().flat_map(|dir| below(dir)).map(|dir| format!("rmdir {}", quote(dir)));
        return error::result(&kill.chain(rmdirs).collect::<Vec<_>>());
    }
    let lock = take_over(&tree.anchor().base.join(name.path()), &dirs, args)?;
    let left = remove_all(&dirs, args.kill);
    drop(lock);
    if left.is_empty() {
        return Ok(0);
    }
    Err(Error::new(format!("cannot delete '{name}'")).left_behind(left))
}

/// Become the only holder of the cgroup, whose runs must end for that. `None` if there is none to hold.
fn take_over(anchor: &Path, dirs: &[PathBuf], args: &cli::Delete) -> Result<Option<Lock>, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let lock = Lock::alone(anchor)?;
        if lock.is_some() || !anchor.exists() {
            return Ok(lock);
        }
        if !args.kill || Instant::now() > deadline {
            return Err(Error::new(format!("cannot delete '{}': a run is using it", args.name))
                .hint("--kill ends it first"));
        }
        kill_all(dirs, deadline);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Kill what is in a temporary cgroup and remove it everywhere.
fn clear(tree: &Tree, name: &Name) -> Result<(), Error> {
    let dirs = tree.anchor_first().map(|hierarchy| Place::new(hierarchy, name).dir);
    let dirs: Vec<_> = dirs.filter(|dir| is_temporary(dir)).collect();
    let left = remove_all(&dirs, true);
    if !left.is_empty() {
        return Err(Error::new(format!("cannot remove cgroup '{name}'")).left_behind(left));
    }
    Ok(())
}

/// Remove `dirs` with all below them, the first one last, because runs meet in it. Names what is left.
fn remove_all(dirs: &[PathBuf], kill: bool) -> Vec<String> {
    // Mostly nothing is in them, and an attempt is the cheapest look: the kernel refuses where something is.
    let removed = |dir: &&PathBuf| {
        let removed = fs::remove_dir(dir).is_ok();
        if removed {
            error::trace(&format!("rmdir {}", quote(dir)));
        }
        removed
    };
    let mut dirs: Vec<_> = dirs.iter().rev().skip_while(removed).cloned().collect();
    dirs.reverse();
    let deadline = Instant::now() + PATIENCE;
    if kill {
        kill_all(&dirs, deadline);
    }
    let mut left = vec![];
    for dir in dirs.iter().rev() {
        for dir in below(dir) {
            error::trace(&format!("rmdir {}", quote(&dir)));
            if remove(&dir, deadline).is_err() {
                let inside = processes([dir.clone()].iter(), false);
                let who = if inside.is_empty() {
                    String::new()
                } else {
                    format!(" with {}", list(&inside))
                };
                left.push(format!("'{}'{who}", dir.display()));
            }
        }
    }
    left
}

/// Remove one directory; a killed process may keep it busy for a moment longer.
fn remove(dir: &Path, deadline: Instant) -> io::Result<()> {
    loop {
        match fs::remove_dir(dir) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) if err.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                let in_use =
                    !processes([dir.to_path_buf()].iter(), false).is_empty() && !is_temporary(dir);
                if in_use || below(dir).len() > 1 {
                    return Err(err); // nothing that time would cure
                }
                thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// The directories of `name` that exist, the anchor's first.
pub(crate) fn directories(tree: &Tree, name: &Name) -> Vec<PathBuf> {
    Place::existing(tree, name).into_iter().map(|place| place.dir).collect()
}

/// Whether `dir` was made by a run and may go with it.
fn is_temporary(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|dir| dir.mode() & STICKY != 0)
}

/// Take the mark away: the cgroup stays.
fn keep(dir: &Path) -> Result<(), Error> {
    if !is_temporary(dir) {
        return Ok(());
    }
    error::trace(&format!("chmod -t {}", quote(dir)));
    fs::set_permissions(dir, Permissions::from_mode(0o755))
        .attempt(|| format!("cannot keep '{}'", dir.display()))
}
