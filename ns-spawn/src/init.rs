//! Process 1 of the container: sets it up, starts COMMAND, reaps, ends.

use crate::{
    attributes::restrict,
    cli::Kernel,
    error::{Attempt as _, Error},
    etc,
    mounts::{
        self, BELOW_DEV, DEV, DEVICES, LINKS, MASKED_PROC, MASKED_SYS, PROC, PTS_WITHOUT_GROUP,
        READ_ONLY_PROC, SYS,
    },
    netns, overlay,
    plan::{Plan, quote},
    rootfs::{attach_root, mount_point, old_kernel, switch_root},
    security,
    sys::{self, Page},
    terminal::{Attached, Pty, Terminal},
};
use nix::{libc, mount::MsFlags, sys::signal::SigSet};
use rustix::{
    fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    fs::CWD,
    process::{
        DumpableBehavior, Signal, WaitOptions, fchdir, set_dumpable_behavior,
        set_parent_process_death_signal, setpgid, wait,
    },
    thread::{CapabilitySet, set_name},
};
use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// What was opened for the container, attached nowhere yet.
pub(crate) struct Opened {
    /// The rootfs's mount.
    tree: OwnedFd,
    /// The files of /etc/netns/NAME.
    etc_files: Vec<OwnedFd>,
    /// What the user wants bound, in the order of the plan's volumes.
    volumes: Vec<Option<OwnedFd>>,
    /// What takes an overlay's changes.
    changes: Option<OwnedFd>,
}

impl Opened {
    /// Open it: by the supervisor before the clone, or, where only a new user namespace allows it, `inside`.
    pub(crate) fn new(plan: &Plan, inside: bool) -> Result<Self, Error> {
        let etc_files = plan.netns.as_ref().map(|netns| netns.detach_files(inside));
        Ok(Self {
            tree: plan.rootfs.detach(inside)?,
            etc_files: etc_files.transpose()?.unwrap_or_default(),
            volumes: plan
                .volumes
                .iter()
                .map(|volume| volume.detach(inside))
                .collect::<Result<_, _>>()?,
            changes: plan.overlay.as_ref().map(|overlay| overlay.detach(inside)).transpose()?,
        })
    }
}

/// What init has of the supervisor.
pub(crate) struct Given {
    /// None: init has to open it.
    pub(crate) opened: Option<Opened>,
    /// Takes the pty's master to the supervisor; from there it says that the users are mapped.
    pub(crate) channel: Option<UnixStream>,
    /// Tells the supervisor that COMMAND has stopped, where it has the foreground of the supervisor's terminal.
    pub(crate) stops: Option<UnixStream>,
    /// The signal mask that ns-spawn was started with.
    pub(crate) mask: SigSet,
}

/// One step from the fresh namespaces to a container. Plans hold them in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    JoinNetns,
    RaiseLoopback,
    MakePrivate,
    AttachRoot,
    LayOverlay,
    BindEtcFiles,
    MakeReadOnly,
    MountProc,
    MountSys,
    MountDev,
    NameHost,
    MountVolumes,
    MaskPaths,
    SetHostname,
    SwitchRoot,
}

/// The places found on the way.
struct Places {
    opened: Opened,
    channel: Option<UnixStream>,
    proc: Option<OwnedFd>,
    sys: Option<OwnedFd>,
    /// The current directory, until paths are masked.
    dev: Option<BorrowedFd<'static>>,
    pty: Option<Pty>,
}

/// Be init. The supervisor learns how it ended from `page`.
pub(crate) fn run(plan: &Plan, mut given: Given, page: &Page) -> ! {
    let stops = given.stops.take();
    let status = match start(plan, given, stops.as_ref(), page) {
        Ok(command) => reap(command, stops.as_ref(), page),
        Err(error) => {
            error.leave_on(page);
            1
        }
    };
    sys::exit_now(status)
}

/// Set the container up and start COMMAND in it. The result is its PID.
fn start(plan: &Plan, given: Given, stops: Option<&UnixStream>, page: &Page) -> Result<i32, Error> {
    die_with_supervisor(page)?;
    let Given { opened, channel, mask, .. } = given;
    let opened = if let Some(opened) = opened {
        opened
    } else {
        wait_for_users(channel.as_ref())?;
        Opened::new(plan, true)?
    };
    let mut places = Places { opened, channel, proc: None, sys: None, dev: None, pty: None };
    for step in &plan.steps {
        let began = plan.verbose.then(Instant::now);
        let taken = step.take(plan, &mut places);
        if let Some(began) = began {
            tell(&step.shell(plan), Some(began.elapsed()));
        }
        taken?;
    }
    if plan.verbose {
        tell(&plan.command_lines(), None);
    }
    let terminal = attach_terminal(plan, &mut places)?;
    hide()?;
    if plan.as_pid_1 {
        let channel = places.channel.as_ref();
        return Err(plan.command.run(&terminal, &mask, Some(page), channel));
    }
    let command = sys::run_in_own_memory(|| {
        plan.command.run(&terminal, &mask, None, places.channel.as_ref()).leave_on(page);
        1
    });
    let command = command.attempt(|| "cannot fork".into())?;
    forget((places, terminal), stops)?;
    Ok(command)
}

/// Wait until the supervisor has mapped the users of the new user namespace.
fn wait_for_users(channel: Option<&UnixStream>) -> Result<(), Error> {
    let attempt = || "cannot wait for the users of the container".to_owned();
    let Some(mut channel) = channel else { return Err(Error::new(attempt())) };
    match channel.read(&mut [0]).attempt(attempt)? {
        0 => sys::exit_now(1), // the supervisor tells why
        _ => Ok(()),
    }
}

/// Die with the supervisor, whatever kills it and whenever: before this call too.
pub(crate) fn die_with_supervisor(page: &Page) -> Result<(), Error> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .attempt(|| "cannot arrange to die with the supervisor".into())?;
    // Had it died before, the signal would never come; getppid(2) is 0 either way.
    if page.is_orphaned() {
        sys::exit_now(1); // nobody is left to tell
    }
    Ok(())
}

/// Hide from COMMAND what this process has of the host: CVE-2016-9962, CVE-2019-5736.
pub(crate) fn hide() -> Result<(), Error> {
    let attempt = || "cannot hide init".to_owned();
    set_dumpable_behavior(DumpableBehavior::NotDumpable).attempt(attempt)?;
    set_name(c"ns-spawn: init").attempt(attempt)?;
    sys::wipe_arguments();
    Ok(())
}

/// Keep nothing but what reaping and passing signals on needs: of all descriptors at most `stops`.
fn forget<T>(owners: T, stops: Option<&UnixStream>) -> Result<(), Error> {
    // Out of the caller's process group, or a signal to that one, a hang-up of the terminal for example, would still be
    // pending when the supervisor passes the same on, and the two become one that is not for COMMAND.
    setpgid(None, None).attempt(|| "cannot leave the caller's process group".into())?;
    // Everything goes at once, the standard streams too: COMMAND alone decides how long they stay open. What
    // the values own must not be closed a second time.
    std::mem::forget(owners);
    let kept = stops.map(|stops| stops.as_raw_fd().unsigned_abs());
    sys::close_from(0, kept.as_slice()).attempt(|| "cannot close init's descriptors".into())?;
    security::limit_capabilities(CapabilitySet::KILL)?;
    sys::give_up_heap(); // neither reaping nor passing on takes any
    Ok(())
}

/// Reap, and pass on to COMMAND what the supervisor sends, until COMMAND ends. The kernel then kills the rest.
fn reap(command: i32, stops: Option<&UnixStream>, page: &Page) -> i32 {
    let mut options = WaitOptions::NOHANG;
    options.set(WaitOptions::UNTRACED, stops.is_some());
    loop {
        let Ok(signal) = sys::wait_for_signal(None) else { continue }; // EINTR: stopped and continued
        if signal.number == libc::SIGCHLD {
            while let Ok(Some((pid, status))) = wait(options) {
                match (pid.as_raw_nonzero().get() == command, status.stopped(), stops) {
                    (true, false, _) => {
                        page.ended(status.as_raw());
                        return 0;
                    }
                    // The supervisor stops, too, and its shell sees that. It is gone only when init goes.
                    (true, true, Some(mut stops)) => drop(stops.write_all(&[1])),
                    _ => {}
                }
            }
        } else if signal.sent && signal.sender == 0 {
            // A sender of 0 is outside: the supervisor. What the container's own processes, or a terminal,
            // send to process 1 is not for COMMAND. To go on is for the whole job that was stopped.
            let job = signal.number == libc::SIGCONT && stops.is_some();
            // ESRCH: it ends just now.
            sys::kill(if job { -command } else { command }, signal.number).ok();
        }
    }
}

fn attach_terminal(plan: &Plan, places: &mut Places) -> Result<Attached, Error> {
    match &plan.terminal {
        Terminal::Own { stderr, .. } => {
            let (Some(pty), Some(channel)) = (places.pty.take(), &places.channel) else {
                return Err(Error::new("no pseudo-terminal was made"));
            };
            Ok(Attached::Own { slave: pty.hand_over(channel)?, stderr: *stderr })
        }
        Terminal::Inherited { handed_over, .. } => {
            Ok(Attached::Inherited { handed_over: *handed_over })
        }
        Terminal::None => Ok(Attached::None),
    }
}

/// Print steps on standard error, as `bash -x` does, and how long they took.
pub(crate) fn tell(lines: &[String], took: Option<Duration>) {
    for (at, line) in lines.iter().enumerate() {
        let took = took.filter(|_| at + 1 == lines.len());
        let took = took.map(|took| format!("  # {} us", took.as_micros())).unwrap_or_default();
        drop(writeln!(io::stderr(), "+ {line}{took}")); // nobody left to tell
    }
}

impl Step {
    fn take(self, plan: &Plan, places: &mut Places) -> Result<(), Error> {
        let tree = places.opened.tree.as_fd();
        match self {
            Self::JoinNetns => plan.netns.iter().try_for_each(netns::Netns::join),
            Self::RaiseLoopback => netns::raise_loopback(),
            Self::MakePrivate => make_private(),
            Self::AttachRoot => attach_root(tree, plan.privileged),
            Self::LayOverlay => lay_overlay(plan, places),
            Self::NameHost => match places.dev {
                Some(dev) => etc::name_host(&plan.hostname, dev, tree),
                None => Err(Error::new("there is no /dev to make files in")),
            },
            Self::BindEtcFiles => plan
                .netns
                .iter()
                .try_for_each(|netns| netns.attach_files(&places.opened.etc_files, tree)),
            Self::MakeReadOnly => make_read_only(plan, places),
            Self::MountProc => {
                // Where its paths are masked, it is written only from then on.
                let mode =
                    if plan.steps.contains(&Self::MaskPaths) { Kernel::Ro } else { plan.proc };
                places.proc = Some(PROC.with_mode(mode).mount_in(tree)?);
                Ok(())
            }
            Self::MountSys => {
                places.sys = Some(SYS.with_mode(plan.sys).mount_in(tree)?);
                Ok(())
            }
            Self::MountDev => mount_dev(plan, places),
            Self::MountVolumes => mount_volumes(plan, places),
            Self::MaskPaths => mask_paths(plan, places),
            Self::SetHostname => nix::unistd::sethostname(&plan.hostname)
                .attempt(|| format!("cannot set the hostname '{}'", plan.hostname)),
            Self::SwitchRoot => switch_root(tree),
        }
    }

    /// The commands that would do the same.
    pub(crate) fn shell(self, plan: &Plan) -> Vec<String> {
        let root = quote(&plan.rootfs.shown().to_string());
        match self {
            // Parts of the command line that begins it all: plan.rs.
            Self::JoinNetns | Self::MakePrivate => vec![],
            Self::RaiseLoopback => vec!["ip link set lo up".into()],
            Self::AttachRoot => vec![
                format!("mount --rbind {root} {root}"),
                format!(
                    "mount -o remount,bind,{} {root}",
                    if plan.privileged { "dev" } else { "nodev" }
                ),
            ],
            Self::LayOverlay => {
                plan.overlay.iter().flat_map(|overlay| overlay.shell(&root)).collect()
            }
            Self::NameHost => etc::shell(&plan.hostname, &root),
            Self::BindEtcFiles => plan
                .netns
                .iter()
                .flat_map(netns::Netns::files)
                .map(|(source, target)| {
                    let source = quote(&source.to_string_lossy());
                    format!(
                        "mount --bind -o ro {source} {root}{}",
                        quote(&target.to_string_lossy())
                    )
                })
                .collect(),
            Self::MakeReadOnly => vec![format!("mount -o remount,bind,nodev,ro {root}")],
            Self::MountProc => vec![PROC.with_mode(plan.proc).shell(&format!("{root}/proc"))],
            Self::MountSys => vec![SYS.with_mode(plan.sys).shell(&format!("{root}/sys"))],
            Self::MountDev => dev_lines(&root),
            Self::MountVolumes => {
                plan.volumes.iter().flat_map(|volume| volume.shell(&root)).collect()
            }
            Self::MaskPaths => mask_lines(&root),
            Self::SetHostname => vec![format!("hostname {}", quote(&plan.hostname))],
            Self::SwitchRoot => {
                vec![format!("cd {root}"), "pivot_root . .".into(), "umount --lazy .".into()]
            }
        }
    }
}

fn lay_overlay(plan: &Plan, places: &mut Places) -> Result<(), Error> {
    let Some(changes) = &places.opened.changes else {
        return Err(Error::new("nothing was opened to take the overlay's changes"));
    };
    let overlay = overlay::lay(places.opened.tree.as_fd(), changes, plan.userns)?;
    attach_root(overlay.as_fd(), plan.privileged)?;
    places.opened.tree = overlay;
    Ok(())
}

fn mount_volumes(plan: &Plan, places: &Places) -> Result<(), Error> {
    plan.volumes.iter().zip(&places.opened.volumes).try_for_each(|(volume, copy)| {
        volume.mount(copy.as_ref(), places.opened.tree.as_fd(), places.dev)
    })
}

/// Without this the mounts below would also appear on the host: systemd makes "/" shared.
fn make_private() -> Result<(), Error> {
    nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        None::<&str>,
    )
    .attempt(|| "cannot make '/' private".into())
}

fn make_read_only(plan: &Plan, places: &Places) -> Result<(), Error> {
    // The mount points first: they cannot be made any more afterwards.
    for name in [PROC.target, SYS.target, DEV.target] {
        mount_point(places.opened.tree.as_fd(), name)?;
    }
    for volume in &plan.volumes {
        volume.make_target(&plan.volumes, places.opened.tree.as_fd())?;
    }
    restrict(&places.opened.tree, libc::MOUNT_ATTR_RDONLY)
        .attempt(|| "cannot make the root directory read-only".into())
        .map_err(old_kernel)
}

fn mount_dev(plan: &Plan, places: &mut Places) -> Result<(), Error> {
    let dev = CWD;
    DEV.mount_and_enter(places.opened.tree.as_fd())?;
    mounts::populate()?;
    let [pts, below @ ..] = &BELOW_DEV;
    if plan.one_id { &PTS_WITHOUT_GROUP } else { pts }.mount_here()?;
    below.iter().try_for_each(mounts::Filesystem::mount_here)?;
    if let Terminal::Own { outer, .. } = &plan.terminal {
        let pty = Pty::open(dev, "pts/ptmx", outer.as_ref())?;
        mounts::bind_console(dev, &pty.slave)?;
        places.pty = Some(pty);
    }
    places.dev = Some(dev);
    Ok(())
}

fn mask_paths(plan: &Plan, places: &mut Places) -> Result<(), Error> {
    places.dev = None;
    let cover = places.sys.as_ref().map(|sys| mounts::mask_sys(sys.as_fd())).transpose()?;
    let Some(proc) = &places.proc else { return Ok(()) };
    fchdir(proc).attempt(|| "cannot enter '/proc'".into())?;
    mounts::mask_proc(cover.flatten())?;
    if plan.proc == Kernel::Ro { Ok(()) } else { mounts::keep_read_only(proc.as_fd()) }
}

fn dev_lines(root: &str) -> Vec<String> {
    let mut lines = vec![DEV.shell(&format!("{root}/dev"))];
    for (name, _) in DEVICES {
        lines.push(format!("touch {root}/dev/{name}"));
        lines.push(format!("mount --bind /dev/{name} {root}/dev/{name}"));
    }
    lines.extend(LINKS.map(|(name, target)| format!("ln -s {target} {root}/dev/{name}")));
    for filesystem in &BELOW_DEV {
        lines.push(format!("mkdir {root}/dev/{}", filesystem.target));
        lines.push(filesystem.shell(&format!("{root}/dev/{}", filesystem.target)));
    }
    lines
}

fn mask_lines(root: &str) -> Vec<String> {
    let proc = MASKED_PROC.paths().map(|path| format!("{root}/proc/{path}"));
    let sys = MASKED_SYS.paths().map(|path| format!("{root}/sys/{path}"));
    let masked: Vec<_> = proc.chain(sys).collect();
    let read_only: Vec<_> =
        READ_ONLY_PROC.iter().map(|path| format!("{root}/proc/{path}")).collect();
    vec![
        format!(
            "for p in {} {root}/sys/devices/system/cpu/cpu*/thermal_throttle; do \
             if [ -d $p ]; then mount -t tmpfs -o ro tmpfs $p; \
             elif [ -e $p ]; then mount --bind /dev/null $p; fi; done",
            masked.join(" ")
        ),
        format!(
            "for p in {}; do if [ -e $p ]; then mount --bind $p $p; \
             mount -o remount,bind,ro,nosuid,nodev,noexec $p; fi; done",
            read_only.join(" ")
        ),
    ]
}
