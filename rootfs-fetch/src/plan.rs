//! What is to be done: it looks, refuses, and changes nothing.

use crate::{
    bootstrap::{Bootstrap, require_own_arch},
    cli::{Cli, Output},
    dest::{Dest, Found, packed_in, stream_partial, tree_beside_output},
    docker_archive::DockerArchive,
    download::Cache,
    error::{Attempt as _, Error},
    http::Limits,
    install::{PLACED, is_placed},
    layout::{Image, Layer},
    packed,
    source::{Base, Local, Remote, Wanted, machine_arch},
    sources::Sources,
    steps::Step,
    tree::Tree,
    userns::{self, GET_RANGES, Ranges, Rights},
    verify::Sum,
};
use nix::unistd::geteuid;
use std::{
    env,
    fs::File,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// The checked request.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) goal: Goal,
    pub(crate) packages: Vec<String>,
    pub(crate) sources: Sources,
    pub(crate) hooks: Vec<String>,
    /// The latest time that a tree may hold, in seconds since 1970.
    pub(crate) epoch: Option<i64>,
    pub(crate) max_size: u64,
    pub(crate) output: Output,
    /// Of the tree, in Debian's words.
    pub(crate) arch: String,
    rights: Rights,
    pub(crate) dry_run: bool,
    pub(crate) verbose: bool,
    pub(crate) json: bool,
}

/// What is to be there in the end.
#[derive(Debug)]
pub(crate) enum Goal {
    /// A verified file in the cache.
    File(Box<Source>),
    /// A tree at DEST, or what is made of it.
    Tree(Dest, Work),
    /// An archive of a tree on standard output. The tree is made in this directory.
    Stream(Box<Source>, PathBuf),
}

/// What there is to do for a tree.
#[derive(Debug)]
pub(crate) enum Work {
    /// DEST is complete.
    Nothing,
    /// DEST is complete but for these packages.
    Install(Vec<String>),
    /// There is no DEST, or it is to be replaced.
    Make(Box<Source>),
}

/// Where the tree comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// From servers; with `or_bootstrap`, built here where none has it.
    Remote { wanted: Wanted, cache: Cache, or_bootstrap: Option<String> },
    /// From the user.
    Local { local: Local, sum: Option<Sum> },
    /// Layers of an image.
    Image(Image),
    /// Layers of an image in an archive.
    DockerArchive(DockerArchive),
    /// Built from packages.
    Bootstrap(Bootstrap),
}

impl Plan {
    /// Look at DEST and at what the options name.
    pub(crate) fn new(cli: &Cli) -> Result<Self, Error> {
        let packages = if cli.no_install { Vec::new() } else { cli.install.clone() };
        packages.iter().try_for_each(|package| require_package_name(package))?;
        let arch = arch(cli)?;
        let source = Source::new(cli, arch)?;
        let (mirror, snapshot) = (cli.apt_mirror.as_deref(), cli.snapshot.as_deref());
        let sources = Sources::new(mirror, snapshot, &cli.components)?;
        let Cli { dry_run, verbose, json, output, .. } = *cli;
        let goal = Goal::new(cli, source, &packages)?;
        let (hooks, max_size, arch) = (cli.hook.clone(), cli.max_size.0, arch.to_owned());
        let epoch = source_date_epoch()?;
        let rights = Rights::look();
        let plan = Self {
            goal,
            packages,
            sources,
            hooks,
            epoch,
            max_size,
            output,
            arch,
            rights,
            dry_run,
            verbose,
            json,
        };
        if !dry_run {
            plan.require_rights()?;
        }
        Ok(plan)
    }

    /// Refuse what takes others' files where only the caller's can be made.
    fn require_rights(&self) -> Result<(), Error> {
        let (Rights::Alone(why), Some(dest)) = (&self.rights, self.changes()) else {
            return Ok(());
        };
        let built = |source: &Source| match source {
            Source::Bootstrap(_) => true,
            Source::Remote { or_bootstrap, .. } => or_bootstrap.is_some(),
            _ => false,
        };
        let what = match &self.goal {
            Goal::Tree(_, Work::Make(source)) | Goal::Stream(source, _) if built(source) => "build",
            _ if !self.packages.is_empty() => "install packages in",
            _ if !self.hooks.is_empty() => "run a hook on",
            _ => return Ok(()),
        };
        let user = geteuid();
        let why = format!("cannot {what} '{}' as user {user}: {why}", dest.display());
        Err(Error::new(why).hint(GET_RANGES))
    }

    /// What is to be made or changed, if anything is.
    fn changes(&self) -> Option<&Path> {
        match &self.goal {
            Goal::File(_) | Goal::Tree(_, Work::Nothing) => None,
            Goal::Tree(dest, _) => Some(&dest.shown),
            Goal::Stream(..) => Some(Path::new("-")),
        }
    }

    /// The ids with which the plan is for a user namespace, if it is.
    pub(crate) fn ranges(&self) -> Option<&Ranges> {
        match &self.rights {
            Rights::Ranges(ranges) if self.changes().is_some() => Some(ranges),
            _ => None,
        }
    }

    /// The steps, in order.
    pub(crate) fn steps(&self) -> Vec<Step> {
        match &self.goal {
            Goal::File(source) => source.obtain_steps(),
            Goal::Tree(_, Work::Nothing) => Vec::new(),
            Goal::Tree(dest, Work::Install(packages)) => {
                vec![self.install_step(packages, &dest.shown)]
            }
            Goal::Tree(dest, Work::Make(source)) => {
                let partial = dest.partial();
                let mut steps = self.make_steps(source, &dest.tree_in(&partial));
                steps.extend(self.pack_step(dest, &partial));
                steps.extend(dest.publish_steps());
                steps
            }
            Goal::Stream(source, dir) => {
                let partial = stream_partial(dir);
                let dir = tree_beside_output(&partial);
                let mut steps = self.make_steps(source, &dir);
                steps.push(Step::PackTar { dir, file: "-".into() });
                steps.push(Step::Remove { dir: partial });
                steps
            }
        }
    }

    fn make_steps(&self, source: &Source, dir: &Path) -> Vec<Step> {
        let mut steps = source.steps(dir);
        if !self.packages.is_empty() {
            steps.push(self.install_step(&self.packages, dir));
        }
        let hook = |command: &String| Step::Hook { command: command.clone(), dir: dir.to_owned() };
        steps.extend(self.hooks.iter().map(hook));
        steps.extend(self.epoch.map(|epoch| Step::Settle { epoch, dir: dir.to_owned() }));
        steps
    }
}

impl Plan {
    /// Making what DEST is to be of the tree in `partial`, if that is more than the tree.
    pub(crate) fn pack_step(&self, dest: &Dest, partial: &Path) -> Option<Step> {
        let (dir, made) = (dest.tree_in(partial), packed_in(partial));
        match self.output {
            Output::Dir => None,
            Output::Tar => Some(Step::PackTar { dir, file: made }),
            Output::Oci => Some(Step::PackOci { dir, layout: made, arch: self.arch.clone() }),
        }
    }
}

impl Plan {
    /// Installing `packages` in the tree at `dir`.
    pub(crate) fn install_step(&self, packages: &[String], dir: &Path) -> Step {
        let (packages, sources) = (packages.to_vec(), self.sources.clone());
        Step::Install { packages, sources, dir: dir.to_owned() }
    }
}

impl Goal {
    fn new(cli: &Cli, source: Source, packages: &[String]) -> Result<Self, Error> {
        let Some(given) = &cli.dest else { return Ok(Self::File(Box::new(source))) };
        if given == Path::new("-") {
            return Self::stream(cli, source);
        }
        let dest = Dest::look(given, cli.output)?;
        let work = match &dest.found {
            Found::Nothing => Work::Make(Box::new(source)),
            _ if cli.force => Work::Make(Box::new(source)),
            Found::Tree(tree) => missing(tree, packages)?,
            Found::Packed => {
                packed::require_packages(&dest, cli.output, packages)?;
                Work::Nothing
            }
        };
        Ok(Self::Tree(dest, work))
    }

    fn stream(cli: &Cli, source: Source) -> Result<Self, Error> {
        if cli.output != Output::Tar || cli.json {
            let why = "'-' is standard output: it takes --output tar, and no --json beside that";
            return Err(Error::usage(why));
        }
        if io::stdout().is_terminal() && !cli.dry_run {
            return Err(Error::usage("standard output is a terminal, which takes no archive"));
        }
        let dir = cli.cache_dir.clone().map_or_else(default_cache, Ok)?;
        Ok(Self::Stream(Box::new(source), dir))
    }
}

/// The architecture of the tree.
fn arch(cli: &Cli) -> Result<&str, Error> {
    let arch = cli.arch.as_deref().unwrap_or(machine_arch());
    if !arch.is_empty()
        && arch.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    {
        return Ok(arch);
    }
    Err(Error::usage(format!("'{arch}' is no architecture: amd64 is, or arm64")))
}

impl Source {
    fn new(cli: &Cli, arch: &str) -> Result<Self, Error> {
        if let Some(suite) = &cli.bootstrap {
            require_own_arch(arch)?;
            return Bootstrap::new(suite, arch, &cli.mirror).map(Self::Bootstrap);
        }
        if let Some(image) = cli.from.as_deref().and_then(image) {
            if cli.sha256.is_some() {
                return Err(Error::usage("an image names the sums of its parts itself"));
            }
            return match image {
                ("oci", given) => Image::open(&given, arch).map(Self::Image),
                (_, given) => DockerArchive::open(&given, arch).map(Self::DockerArchive),
            };
        }
        let wanted = match &cli.from {
            None => Wanted::ubuntu_base(Base {
                release: &cli.release,
                arch,
                mirrors: &cli.mirror,
                sum: cli.sha256,
                insecure: cli.insecure,
                keyring: cli.keyring.clone(),
            })?,
            Some(path) if path == Path::new("-") => {
                return Ok(Self::Local { local: Local::Stdin, sum: cli.sha256 });
            }
            Some(from) => {
                let Some(url) = from.to_str().filter(|url| url.contains("://")) else {
                    File::open(from).attempt(|| format!("cannot open '{}'", from.display()))?;
                    return Ok(Self::Local { local: Local::File(from.clone()), sum: cli.sha256 });
                };
                Wanted::File(Remote::at(url, cli.sha256, cli.insecure)?)
            }
        };
        let dir = cli.cache_dir.clone().map_or_else(default_cache, Ok)?;
        let timeout = Duration::from_secs(cli.timeout.into());
        let limits =
            Limits { answer: timeout, timeout, retries: cli.retries, max_size: cli.max_size.0 };
        let cache = Cache { dir, offline: cli.offline, limits };
        let or_bootstrap = cli.or_bootstrap.then(|| arch.to_owned());
        Ok(Self::Remote { wanted, cache, or_bootstrap })
    }

    /// How a verified tarball is had.
    fn obtain_steps(&self) -> Vec<Step> {
        match self {
            Self::Remote { wanted, cache, .. } => Step::obtain(wanted, &cache.dir),
            Self::Local { local: Local::File(file), sum: Some(sum) } => {
                vec![Step::Verify { file: file.clone(), sum: *sum }]
            }
            Self::Image(image) => {
                let verify =
                    |layer: &Layer| Step::Verify { file: layer.path.clone(), sum: layer.sum };
                image.layers.iter().map(verify).collect()
            }
            Self::Local { .. } | Self::DockerArchive(_) | Self::Bootstrap(_) => Vec::new(),
        }
    }

    fn steps(&self, dir: &Path) -> Vec<Step> {
        let dir = dir.to_owned();
        let mut steps = self.obtain_steps();
        steps.push(match self {
            Self::Remote { wanted, cache, .. } => {
                Step::Unpack { file: wanted.cached_path(&cache.dir), dir }
            }
            Self::Local { local: Local::Stdin, sum } => Step::UnpackStdin { sum: *sum, dir },
            Self::Local { local: Local::File(file), .. } => {
                Step::Unpack { file: file.clone(), dir }
            }
            Self::Image(image) => {
                let files = image.layers.iter().map(|layer| layer.path.clone()).collect();
                Step::UnpackLayers { files, dir }
            }
            Self::DockerArchive(archive) => {
                Step::UnpackImage { archive: archive.path.clone(), dir }
            }
            Self::Bootstrap(bootstrap) => Step::Build { bootstrap: bootstrap.clone(), dir },
        });
        steps
    }
}

/// Which kind of image `from` names, if it is one, and which image.
fn image(from: &Path) -> Option<(&'static str, String)> {
    let given = from.to_string_lossy();
    let of = |kind: &'static str| Some((kind, given.strip_prefix(kind)?.strip_prefix(':')?.into()));
    of("oci").or_else(|| of("docker-archive"))
}

/// What a complete tree lacks of `packages`, or has from a run that was killed.
fn missing(tree: &Tree, packages: &[String]) -> Result<Work, Error> {
    let read = |path: &str| tree.read(path).attempt(|| format!("cannot read '{path}' of the tree"));
    let status = read(STATUS)?.unwrap_or_default();
    let missing = not_installed(&status, packages);
    let mut left = false;
    for path in PLACED {
        left |= read(path)?.is_some_and(|content| is_placed(&content));
    }
    Ok(if missing.is_empty() && !left { Work::Nothing } else { Work::Install(missing) })
}

/// Where dpkg keeps what is installed in a tree.
pub(crate) const STATUS: &str = "var/lib/dpkg/status";

/// Those of `packages` that dpkg's `status` does not have.
pub(crate) fn not_installed(status: &str, packages: &[String]) -> Vec<String> {
    packages.iter().filter(|package| !is_installed(status, package)).cloned().collect()
}

/// Whether dpkg's `status` has `package` installed: `name[:arch][=version|/suite]`.
fn is_installed(status: &str, package: &str) -> bool {
    let (name, version) =
        package.split_once('=').map_or((package, None), |(name, it)| (name, Some(it)));
    let name = name.split('/').next().unwrap_or(name);
    let (name, arch) = name.split_once(':').map_or((name, None), |(name, arch)| (name, Some(arch)));
    status.split("\n\n").any(|paragraph| {
        let field = |name: &str| {
            let value =
                |line: &'_ str| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned());
            paragraph.lines().find_map(value)
        };
        field("Package").as_deref() == Some(name)
            && field("Status").is_some_and(|status| status.ends_with(" ok installed"))
            && arch.is_none_or(|arch| field("Architecture").as_deref() == Some(arch))
            && version.is_none_or(|version| field("Version").as_deref() == Some(version))
    })
}

/// apt takes more than names: options, and names with a '-' at the end, which it removes.
fn require_package_name(package: &str) -> Result<(), Error> {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.:~=/_".contains(&byte);
    let starts = package.starts_with(|first: char| first.is_ascii_alphanumeric());
    if starts && !package.ends_with('-') && package.bytes().all(name) {
        return Ok(());
    }
    Err(Error::usage(format!("'{package}' is no package name")))
}

/// The time of `SOURCE_DATE_EPOCH`, which makes what is built the same each time
/// (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn source_date_epoch() -> Result<Option<i64>, Error> {
    let Some(text) = env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds >= 0);
    let wrong = || {
        let text = text.display();
        Error::usage(format!("SOURCE_DATE_EPOCH is '{text}': seconds since 1970 are wanted"))
    };
    seconds.map(Some).ok_or_else(wrong)
}

fn default_cache() -> Result<PathBuf, Error> {
    if geteuid().is_root() && !userns::is_inside() {
        return Ok("/var/cache/rootfs-fetch".into());
    }
    let absolute =
        |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|base| base.join("rootfs-fetch"))
        .ok_or_else(|| {
            Error::new("cannot tell where to keep downloads: HOME is not set")
                .hint("name a directory with --cache-dir")
        })
}

#[cfg(test)]
mod tests {
    use super::{is_installed, require_package_name};

    const STATUS: &str = "\
Package: sysbench
Status: install ok installed
Architecture: amd64
Version: 1.0.20

Package: nano
Status: deinstall ok config-files
Architecture: amd64
Version: 7.2
";

    #[test]
    fn dpkgs_status_tells_what_is_installed() {
        for package in ["sysbench", "sysbench:amd64", "sysbench=1.0.20", "sysbench/stable"] {
            assert!(is_installed(STATUS, package), "{package}");
        }
        for package in ["nano", "sys", "sysbench:arm64", "sysbench=2", "bash"] {
            assert!(!is_installed(STATUS, package), "{package}");
        }
    }

    #[test]
    fn what_apt_would_take_for_something_else_is_no_package_name() {
        for package in ["g++", "libc6:amd64", "sysbench=1.0.20+ds-5~x", "a/stable"] {
            assert!(require_package_name(package).is_ok(), "{package}");
        }
        for package in ["", "-o", "sysbench-", "a b", "a;b", "./x.deb"] {
            assert!(require_package_name(package).is_err(), "{package}");
        }
    }
}
