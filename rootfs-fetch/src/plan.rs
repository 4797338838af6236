//! What is to be done: it looks, refuses, and changes nothing.

use crate::{
    bootstrap::{Bootstrap, require_own_arch},
    cli::Cli,
    dest::Dest,
    error::{Attempt as _, Error},
    install::{PLACED, is_placed},
    source::{Local, Remote, machine_arch},
    steps::{Step, cached_file},
    tree::Tree,
    verify::Sum,
};
use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
};

/// The checked request.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) dest: Dest,
    pub(crate) work: Work,
    pub(crate) packages: Vec<String>,
    pub(crate) dry_run: bool,
    pub(crate) verbose: bool,
    pub(crate) json: bool,
}

/// What there is to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// DEST is complete.
    Nothing,
    /// DEST is complete but for these packages.
    Install(Vec<String>),
    /// There is no DEST, or it is to be replaced.
    Make(Source),
}

/// Where the tree comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// From servers; with `or_bootstrap`, built here where none has it.
    Remote { remote: Remote, cache: PathBuf, or_bootstrap: Option<String> },
    /// From the user.
    Local { local: Local, sum: Option<Sum> },
    /// Built from packages.
    Bootstrap(Bootstrap),
}

impl Plan {
    /// Look at DEST and at what the options name.
    pub(crate) fn new(cli: &Cli) -> Result<Self, Error> {
        let packages = if cli.no_install { Vec::new() } else { cli.install.clone() };
        packages.iter().try_for_each(|package| require_package_name(package))?;
        let source = Source::new(cli)?;
        let dest = Dest::look(&cli.dest)?;
        let work = match &dest.tree {
            Some(tree) if !cli.force => missing(tree, &packages)?,
            _ => Work::Make(source),
        };
        if !matches!(work, Work::Nothing) && !cli.dry_run {
            dest.require_root()?;
        }
        let Cli { dry_run, verbose, json, .. } = *cli;
        Ok(Self { dest, work, packages, dry_run, verbose, json })
    }

    /// The steps, in order.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let dir = self.dest.partial();
        let mut steps = Vec::new();
        match &self.work {
            Work::Nothing => return steps,
            Work::Install(packages) => {
                return vec![Step::Install {
                    packages: packages.clone(),
                    dir: self.dest.shown.clone(),
                }];
            }
            Work::Make(source) => steps.extend(source.steps(&dir)),
        }
        if !self.packages.is_empty() {
            steps.push(Step::Install { packages: self.packages.clone(), dir: dir.clone() });
        }
        steps.push(self.dest.publish_step());
        steps
    }
}

impl Source {
    fn new(cli: &Cli) -> Result<Self, Error> {
        let arch = cli.arch.as_deref().unwrap_or(machine_arch());
        if arch.is_empty()
            || !arch.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        {
            return Err(Error::usage(format!("'{arch}' is no architecture: amd64 is, or arm64")));
        }
        if let Some(suite) = &cli.bootstrap {
            require_own_arch(arch)?;
            return Bootstrap::new(suite, arch, &cli.mirror).map(Self::Bootstrap);
        }
        let remote = match &cli.from {
            None => Remote::ubuntu_base(&cli.release, arch, &cli.mirror, cli.sha256, cli.insecure)?,
            Some(path) if path == Path::new("-") => {
                return Ok(Self::Local { local: Local::Stdin, sum: cli.sha256 });
            }
            Some(from) => {
                let Some(url) = from.to_str().filter(|url| url.contains("://")) else {
                    File::open(from).attempt(|| format!("cannot open '{}'", from.display()))?;
                    return Ok(Self::Local { local: Local::File(from.clone()), sum: cli.sha256 });
                };
                Remote::at(url, cli.sha256, cli.insecure)?
            }
        };
        let cache = cli.cache_dir.clone().map_or_else(default_cache, Ok)?;
        let or_bootstrap = cli.or_bootstrap.then(|| arch.to_owned());
        Ok(Self::Remote { remote, cache, or_bootstrap })
    }

    fn steps(&self, dir: &Path) -> Vec<Step> {
        let dir = dir.to_owned();
        match self {
            Self::Remote { remote, cache, .. } => {
                let file = cached_file(remote, cache);
                vec![Step::download(remote, cache), Step::Unpack { file, dir }]
            }
            Self::Local { local: Local::Stdin, sum } => vec![Step::UnpackStdin { sum: *sum, dir }],
            Self::Local { local: Local::File(file), sum } => {
                let verify = sum.map(|sum| Step::Verify { file: file.clone(), sum });
                verify.into_iter().chain([Step::Unpack { file: file.clone(), dir }]).collect()
            }
            Self::Bootstrap(bootstrap) => vec![Step::Build { bootstrap: bootstrap.clone(), dir }],
        }
    }
}

/// What a complete tree lacks of `packages`, or has from a run that was killed.
fn missing(tree: &Tree, packages: &[String]) -> Result<Work, Error> {
    let read = |path: &str| tree.read(path).attempt(|| format!("cannot read '{path}' of the tree"));
    let status = read("var/lib/dpkg/status")?.unwrap_or_default();
    let missing: Vec<String> =
        packages.iter().filter(|package| !is_installed(&status, package)).cloned().collect();
    let mut left = false;
    for path in PLACED {
        left |= read(path)?.is_some_and(|content| is_placed(&content));
    }
    Ok(if missing.is_empty() && !left { Work::Nothing } else { Work::Install(missing) })
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

fn default_cache() -> Result<PathBuf, Error> {
    if nix::unistd::geteuid().is_root() {
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
