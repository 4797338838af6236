//! Building the tree from an apt mirror, by mmdebstrap or debootstrap.

use crate::{
    error::{Attempt as _, Error, say},
    http,
    install::{Job, run},
    source::{machine_arch, require_http},
    steps::quote,
    tree::Tree,
};
use rustix::fs::{Mode, OFlags, fchmod, openat};
use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// The suites of Ubuntu that keep their archive up to 2032; others are told by their mirror's address.
const UBUNTU: [&str; 6] = ["trusty", "xenial", "bionic", "focal", "jammy", "noble"];

/// A tree that is built from packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    /// Its suite: bookworm, focal.
    pub(crate) suite: String,
    /// The first mirror that it comes from.
    pub(crate) mirror: String,
    arch: String,
    keyring: &'static str,
    components: Vec<String>,
    /// Its sources.list.
    sources: Vec<String>,
    builder: Builder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Builder {
    Mmdebstrap,
    Debootstrap,
}

/// A package list that the host's apt uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Index {
    release: String,
    uri: String,
    component: String,
}

impl Bootstrap {
    /// `suite` from `mirrors`, or from the mirror that the host's own apt uses.
    pub(crate) fn new(suite: &str, arch: &str, mirrors: &[String]) -> Result<Self, Error> {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if suite.is_empty() || suite.starts_with(['-', '.']) || !suite.bytes().all(named) {
            return Err(Error::usage(format!("'{suite}' is no suite: bookworm is, or focal")));
        }
        for mirror in mirrors {
            require_http(mirror)?;
        }
        let hosts = if mirrors.is_empty() { host_indexes()? } else { Vec::new() };
        let own: Vec<&Index> = hosts.iter().filter(|index| index.is_of(suite)).collect();
        let mirror =
            match (mirrors.first(), own.first().or(hosts.iter().collect::<Vec<_>>().first())) {
                (Some(mirror), _) => mirror.clone(),
                (None, Some(index)) => index.uri.clone(),
                (None, None) => {
                    return Err(Error::new(
                        "cannot find the apt mirror of this host: its apt names none",
                    )
                    .hint("name one with --mirror"));
                }
            };
        let ubuntu = UBUNTU.contains(&suite) || mirror.contains("ubuntu");
        let keyring = keyring(suite, ubuntu)?;
        let (components, sources) = if own.is_empty() {
            let mirrors = if mirrors.is_empty() { std::slice::from_ref(&mirror) } else { mirrors };
            usual_sources(suite, ubuntu, mirrors, keyring)
        } else {
            same_sources(&own, keyring)
        };
        let builder = Builder::installed()?;
        Ok(Self {
            suite: suite.into(),
            mirror,
            arch: arch.into(),
            keyring,
            components,
            sources,
            builder,
        })
    }

    /// What to build where no tarball can be had: focal where the host's mirror has it, else the host's own
    /// suite.
    pub(crate) fn instead(arch: &str) -> Result<Self, Error> {
        let hosts = host_indexes()?;
        let focal = hosts.iter().find(|index| index.uri.contains("ubuntu")).is_some_and(|index| {
            let release = format!("{}/dists/focal/InRelease", index.uri.trim_end_matches('/'));
            keyring("focal", true).is_ok() && http::exists(&release, Duration::from_secs(5))
        });
        if focal {
            return Self::new("focal", arch, &[]);
        }
        let release = fs::read_to_string("/etc/os-release")
            .attempt(|| "cannot read '/etc/os-release'".into())?;
        let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let suite = suite.map(|name| name.trim_matches('"')).ok_or_else(|| {
            Error::new("cannot tell this host's suite: '/etc/os-release' has no VERSION_CODENAME")
                .hint("name a suite with --bootstrap")
        })?;
        Self::new(suite, arch, &[])
    }

    /// Build it in the empty directory `dir`, which is `tree`.
    pub(crate) fn build(&self, dir: &Path, tree: &Tree) -> Result<(), Error> {
        say(&format!("building {} from '{}'", self.suite, self.mirror));
        // apt's own user must get in, and debootstrap leaves the mode as it is.
        fchmod(tree.root(), Mode::from_raw_mode(0o755))
            .attempt(|| format!("cannot open '{}' to all", dir.display()))?;
        run(&Job::Program { argv: self.command(dir) })?;
        self.write_sources(tree)
    }

    /// Both programs write a list of their own; this one has what the host's has.
    fn write_sources(&self, tree: &Tree) -> Result<(), Error> {
        let cannot = || "cannot write 'etc/apt/sources.list'".to_owned();
        let apt = tree.make_dir_all("etc/apt".as_ref()).attempt(cannot)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let file =
            openat(apt, "sources.list", flags, Mode::from_raw_mode(0o644)).attempt(cannot)?;
        let text = self.sources.join("\n") + "\n";
        File::from(file).write_all(text.as_bytes()).attempt(cannot)
    }

    fn command(&self, dir: &Path) -> Vec<OsString> {
        let (suite, dir) = (OsString::from(&self.suite), dir.into());
        let words =
            |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
        match self.builder {
            Builder::Mmdebstrap => {
                let mut argv =
                    words(&["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"]);
                argv.extend([format!("--architectures={}", self.arch).into(), suite, dir]);
                argv.extend(self.sources.iter().map(OsString::from));
                argv
            }
            Builder::Debootstrap => {
                let mut argv = words(&["debootstrap", "--variant=minbase"]);
                argv.push(format!("--arch={}", self.arch).into());
                argv.push(format!("--keyring={}", self.keyring).into());
                argv.push(format!("--components={}", self.components.join(",")).into());
                argv.extend([suite, dir, OsString::from(&self.mirror)]);
                argv
            }
        }
    }

    /// The shell commands that do the same.
    pub(crate) fn write_commands(&self, dir: &Path, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> =
            self.command(dir).iter().map(|word| quote(&word.to_string_lossy())).collect();
        writeln!(f, "{}", words.join(" "))?;
        let lines: Vec<String> = self.sources.iter().map(|line| quote(line)).collect();
        let list = dir.join("etc/apt/sources.list");
        writeln!(f, "printf '%s\\n' {} > {}", lines.join(" "), quote(&list.to_string_lossy()))
    }
}

impl Builder {
    fn installed() -> Result<Self, Error> {
        let path = env::var_os("PATH").unwrap_or_default();
        let has = |program| {
            let dirs = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
            dirs.map(|dir: PathBuf| dir.join(program)).any(|file| file.is_file())
        };
        if has("mmdebstrap") {
            Ok(Self::Mmdebstrap)
        } else if has("debootstrap") {
            Ok(Self::Debootstrap)
        } else {
            Err(Error::new(
                "cannot build from an apt mirror: neither mmdebstrap nor debootstrap is installed",
            )
            .hint("'apt-get install mmdebstrap' brings one"))
        }
    }
}

impl Index {
    /// Whether this is `suite`, or updates or security fixes to it.
    fn is_of(&self, suite: &str) -> bool {
        let rest = self.release.strip_prefix(suite);
        rest.is_some_and(|rest| ["", "-updates", "-security", "/updates"].contains(&rest))
    }
}

/// The keyring that `suite` is verified with.
fn keyring(suite: &str, ubuntu: bool) -> Result<&'static str, Error> {
    let (keyring, package) = if ubuntu {
        (
            "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
            "ubuntu-archive-keyring (on Ubuntu: ubuntu-keyring)",
        )
    } else {
        ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring")
    };
    if Path::new(keyring).exists() {
        return Ok(keyring);
    }
    Err(Error::new(format!("cannot verify the suite '{suite}': there is no keyring '{keyring}'"))
        .hint(format!("the package {package} has it")))
}

/// The lists that the host's own apt reads, its main suite first.
fn host_indexes() -> Result<Vec<Index>, Error> {
    let output = Command::new("apt-get")
        // Without what the release files say: on a fresh machine there are none yet.
        .args([
            "indextargets",
            "--no-release-info",
            "--format",
            "$(RELEASE) $(REPO_URI) $(COMPONENT)",
        ])
        .arg("Created-By: Packages")
        .stdin(Stdio::null())
        .output()
        .attempt(|| "cannot ask this host's apt for its mirror".into())?;
    if !output.status.success() {
        return Err(Error::new("cannot ask this host's apt for its mirror")
            .detail("apt-get", String::from_utf8_lossy(&output.stderr).trim_end()));
    }
    Ok(parse_indexes(&String::from_utf8_lossy(&output.stdout)))
}

/// One index a line: release, address, component. Only those of a web server can be used from a chroot.
fn parse_indexes(text: &str) -> Vec<Index> {
    let mut seen = BTreeSet::new();
    let line = |line: &str| {
        let [release, uri, component] =
            line.split_whitespace().collect::<Vec<_>>().try_into().ok()?;
        let index = Index { release: release.into(), uri: uri.into(), component: component.into() };
        (require_http(uri).is_ok() && seen.insert(index.clone())).then_some(index)
    };
    text.lines().filter_map(line).collect()
}

/// What the host has for the suite.
fn same_sources(indexes: &[&Index], keyring: &str) -> (Vec<String>, Vec<String>) {
    let mut lines: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for index in indexes {
        match lines
            .iter_mut()
            .find(|(release, uri, _)| (*release, *uri) == (&*index.release, &*index.uri))
        {
            Some((_, _, components)) => components.push(&index.component),
            None => lines.push((&index.release, &index.uri, vec![&index.component])),
        }
    }
    let components =
        lines.first().map(|(_, _, components)| components.iter().map(|&name| name.into()));
    let sources = lines.iter().map(|(release, uri, components)| {
        format!("deb [signed-by={keyring}] {uri} {release} {}", components.join(" "))
    });
    (components.into_iter().flatten().collect(), sources.collect())
}

/// What a mirror is known to have. Debian's security fixes are on another server than the suite.
fn usual_sources(
    suite: &str,
    ubuntu: bool,
    mirrors: &[String],
    keyring: &str,
) -> (Vec<String>, Vec<String>) {
    let components: &[&str] = if ubuntu { &["main", "universe"] } else { &["main"] };
    let releases: &[&str] = if ubuntu { &["", "-updates", "-security"] } else { &[""] };
    let sources = mirrors.iter().flat_map(|mirror| {
        let components = components.join(" ");
        releases.iter().map(move |part| {
            format!("deb [signed-by={keyring}] {mirror} {suite}{part} {components}")
        })
    });
    (components.iter().map(|&name| name.into()).collect(), sources.collect())
}

/// Refuse to build a tree that this machine cannot run.
pub(crate) fn require_own_arch(arch: &str) -> Result<(), Error> {
    if arch == machine_arch() {
        return Ok(());
    }
    Err(Error::new(format!(
        "cannot build for '{arch}' from an apt mirror: this machine is '{}'",
        machine_arch()
    )))
}

#[cfg(test)]
mod tests {
    use super::{Bootstrap, Index, parse_indexes, same_sources, usual_sources};

    const HOST: &str = "\
noble http://archive.example/ubuntu/ main
noble http://archive.example/ubuntu/ main
noble http://archive.example/ubuntu/ universe
noble-security http://security.example/ubuntu/ main
local file:/srv/repo main
";

    #[test]
    fn the_hosts_lists_are_taken_once_and_only_from_web_servers() {
        let indexes = parse_indexes(HOST);
        let shown: Vec<&str> = indexes.iter().map(|index| &*index.component).collect();
        assert_eq!(shown, ["main", "universe", "main"]);
        assert!(indexes.iter().all(|index| index.is_of("noble")));
        assert!(!indexes[0].is_of("nob"));
    }

    #[test]
    fn the_hosts_own_suite_keeps_its_lines() {
        let indexes = parse_indexes(HOST);
        let (components, sources) = same_sources(&indexes.iter().collect::<Vec<&Index>>(), "/k");
        assert_eq!(components, ["main", "universe"]);
        let lines = [
            "deb [signed-by=/k] http://archive.example/ubuntu/ noble main universe",
            "deb [signed-by=/k] http://security.example/ubuntu/ noble-security main",
        ];
        assert_eq!(sources, lines);
    }

    #[test]
    fn ubuntu_needs_universe_where_sysbench_is() {
        let (components, sources) = usual_sources("focal", true, &["http://m".into()], "/k");
        assert_eq!(components, ["main", "universe"]);
        assert_eq!(sources[1], "deb [signed-by=/k] http://m focal-updates main universe");
        let (_, sources) = usual_sources("bookworm", false, &["http://m".into()], "/k");
        assert_eq!(sources, ["deb [signed-by=/k] http://m bookworm main"]);
    }

    #[test]
    fn what_is_no_suite_is_refused() {
        for suite in ["", "-x", "a b", "../x", "a/b"] {
            let message = format!("'{suite}' is no suite: bookworm is, or focal");
            let refused = Bootstrap::new(suite, "amd64", &["http://m".into()]).unwrap_err();
            assert_eq!(refused.to_string(), message);
        }
    }
}
