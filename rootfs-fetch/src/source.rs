//! Where the tree comes from: which file, on which servers, with which sum.

use crate::{error::Error, signature::Keyring, verify::Sum};
use std::path::PathBuf;

/// The series whose newest point release is known here, by its number and by its name.
const KNOWN: [&str; 2] = ["20.04", "focal"];

/// That point release: there is no 20.04.6 of Ubuntu Base.
const NEWEST: &str = "20.04.5";

/// Sums of files on cdimage.ubuntu.com, each found alike in three or more independent projects.
const SUMS: [(&str, &str); 3] = [
    (
        "ubuntu-base-20.04.5-base-amd64.tar.gz",
        "60e216b60947653dc8989be3821380268315b99b2959c29882781541bfe5a426",
    ),
    (
        "ubuntu-base-20.04.5-base-arm64.tar.gz",
        "f9b999afb4c4b10193087ea8c11be36d688f19e609b05179b571f29357954b52",
    ),
    (
        "ubuntu-base-20.04.5-base-armhf.tar.gz",
        "6bcbfa7f603d79d368d40e138dad98938907d2fb0d6416521417cf8702c2f5de",
    ),
];

/// Servers with the tree that cdimage.ubuntu.com has below 'ubuntu-base'. What they send is verified.
pub(crate) const MIRRORS: [&str; 7] = [
    "https://cdimage.ubuntu.com/ubuntu-base",
    "https://ftp.kaist.ac.kr/ubuntu-cdimage/ubuntu-base",
    "https://mirror.us.leaseweb.net/ubuntu-cdimage/ubuntu-base",
    "https://mirrors.tuna.tsinghua.edu.cn/ubuntu-cdimage/ubuntu-base",
    "https://mirrors.ustc.edu.cn/ubuntu-cdimage/ubuntu-base",
    "https://mirrors.bfsu.edu.cn/ubuntu-cdimage/ubuntu-base",
    "https://ftp.jaist.ac.jp/pub/Linux/ubuntu-cdimage/ubuntu-base",
];

/// A file on one or more servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    /// What it is called in messages.
    pub(crate) name: String,
    /// Its addresses, the first to try first.
    pub(crate) urls: Vec<String>,
    /// The sum that it must have; none only where the user takes it without.
    pub(crate) sum: Option<Sum>,
}

/// A file of servers, known or still to be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// This one.
    File(Remote),
    /// The newest that a list has; without the list, what is known here, if anything.
    Listed { list: List, otherwise: Option<Remote> },
}

/// The list of the files of a release with their sums, `SHA256SUMS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List {
    /// The release, by its number or its name: 20.04, 22.04.1, jammy.
    pub(crate) release: String,
    /// The architecture.
    pub(crate) arch: String,
    /// The directories that have it and what it lists, the first to try first.
    pub(crate) dirs: Vec<String>,
    /// The keys one of which must have signed it; none only where the user takes it without.
    pub(crate) keyring: Option<Keyring>,
    /// The file with those keys, if they are not built in.
    pub(crate) keyring_file: Option<PathBuf>,
}

/// What the options say of the Ubuntu base.
#[derive(Debug)]
pub(crate) struct Base<'a> {
    pub(crate) release: &'a str,
    pub(crate) arch: &'a str,
    pub(crate) mirrors: &'a [String],
    pub(crate) sum: Option<Sum>,
    pub(crate) insecure: bool,
    pub(crate) keyring: Option<PathBuf>,
}

impl Wanted {
    /// The Ubuntu base.
    pub(crate) fn ubuntu_base(base: Base<'_>) -> Result<Self, Error> {
        let Base { release, arch, mirrors, sum, insecure, keyring: keyring_file } = base;
        let point = if KNOWN.contains(&release) { NEWEST } else { release };
        let named = !point.is_empty() && point.bytes().all(|byte| byte.is_ascii_lowercase());
        let (dir, point) = match series(point) {
            Some(series) => (series, Some(point)),
            None if named => (release.to_owned(), None),
            None => {
                return Err(Error::usage(format!(
                    "'{release}' is no release: 20.04 is, or 20.04.5, or focal"
                )));
            }
        };
        for mirror in mirrors {
            require_http(mirror)?;
        }
        let known = MIRRORS.map(str::to_owned);
        let dirs: Vec<String> = if mirrors.is_empty() { &known } else { mirrors }
            .iter()
            .map(|mirror| format!("{}/releases/{dir}/release", mirror.trim_end_matches('/')))
            .collect();
        let name = point.map(|point| format!("ubuntu-base-{point}-base-{arch}.tar.gz"));
        let built_in = SUMS.iter().find(|(file, _)| Some(*file) == name.as_deref());
        let known = sum.or(built_in.and_then(|(_, sum)| sum.parse().ok())).filter(|_| !insecure);
        let otherwise = name
            .filter(|_| known.is_some() || insecure)
            .map(|name| Remote::in_dirs(&dirs, &name, known));
        match otherwise {
            // Nothing is left to look up; a series has a newest one, whatever is known of it here.
            Some(file) if sum.is_some() || !KNOWN.contains(&release) => Ok(Self::File(file)),
            None if sum.is_some() => {
                Err(Error::usage("--sha256 is that of a file: give --release as a number with it"))
            }
            otherwise => {
                let keyring = (!insecure).then(|| Keyring::new(keyring_file.as_deref()));
                let (release, arch) = (release.to_owned(), arch.to_owned());
                let keyring = keyring.transpose()?;
                let list = List { release, arch, dirs, keyring, keyring_file };
                Ok(Self::Listed { list, otherwise })
            }
        }
    }

    /// What it is called in messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(file) | Self::Listed { otherwise: Some(file), .. } => file.name.clone(),
            Self::Listed { list, .. } => format!("Ubuntu Base {} for {}", list.release, list.arch),
        }
    }
}

impl Remote {
    fn in_dirs(dirs: &[String], name: &str, sum: Option<Sum>) -> Self {
        let urls = dirs.iter().map(|dir| format!("{dir}/{name}")).collect();
        Self { name: name.to_owned(), urls, sum }
    }

    /// The file at `url`.
    pub(crate) fn at(url: &str, sum: Option<Sum>, insecure: bool) -> Result<Self, Error> {
        require_http(url)?;
        if sum.is_none() && !insecure {
            return Err(Error::new(format!("cannot verify '{url}': no SHA-256 sum is given"))
                .hint("give its sum with --sha256, or take it as it comes with --insecure"));
        }
        Ok(Self { name: url.into(), urls: vec![url.into()], sum })
    }
}

impl List {
    /// What it is called in the cache, beside its signature.
    pub(crate) fn cached_name(&self) -> String {
        format!("{}.SHA256SUMS", self.series())
    }

    fn series(&self) -> String {
        series(&self.release).unwrap_or_else(|| self.release.clone())
    }

    /// The newest file for this release and architecture in the list's text.
    pub(crate) fn newest(&self, text: &str) -> Result<Remote, Error> {
        let listed = parse_sums(text);
        let bases: Vec<Listed<'_>> = listed.iter().filter_map(Listed::of).collect();
        // A series means each of its point releases, a point release itself.
        let exact = self.release.matches('.').count() == 2;
        let newest = bases
            .iter()
            .filter(|base| base.arch == self.arch && (!exact || base.version == self.release))
            .max_by_key(|base| base.numbers());
        let Some(newest) = newest else {
            let mut versions: Vec<&Listed<'_>> = bases.iter().collect();
            versions.sort_by_key(|base| (base.numbers(), base.arch));
            let there: Vec<String> =
                versions.iter().map(|base| format!("{} for {}", base.version, base.arch)).collect();
            let missing = format!(
                "cannot find Ubuntu Base {} for {}: SHA256SUMS does not list it",
                self.release, self.arch
            );
            let error = Error::new(missing);
            return Err(if there.is_empty() {
                error
            } else {
                error.hint(format!("it lists {}", there.join(", ")))
            });
        };
        Ok(Remote::in_dirs(&self.dirs, newest.name, Some(newest.sum)))
    }
}

/// A file of Ubuntu Base in a list.
struct Listed<'a> {
    name: &'a str,
    version: &'a str,
    arch: &'a str,
    sum: Sum,
}

impl<'a> Listed<'a> {
    fn of((sum, name): &(Sum, &'a str)) -> Option<Self> {
        let rest = name.strip_prefix("ubuntu-base-")?.strip_suffix(".tar.gz")?;
        let (version, arch) = rest.split_once("-base-")?;
        series(version)?;
        let sound = !arch.is_empty() && arch.bytes().all(|byte| byte.is_ascii_alphanumeric());
        sound.then_some(Self { name, version, arch, sum: *sum })
    }

    fn numbers(&self) -> Vec<u64> {
        self.version.split('.').map(|number| number.parse().unwrap_or(u64::MAX)).collect()
    }
}

/// The lines `HEX *NAME` of a list; others are none of its files.
fn parse_sums(text: &str) -> Vec<(Sum, &str)> {
    text.lines()
        .filter_map(|line| {
            let (sum, name) = line.split_once(' ')?;
            Some((sum.parse().ok()?, name.strip_prefix(['*', ' '])?))
        })
        .collect()
}

/// A tarball of the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Local {
    File(PathBuf),
    Stdin,
}

/// The series of a point release: its first two numbers.
fn series(release: &str) -> Option<String> {
    let numbers: Vec<&str> = release.split('.').collect();
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let sound = (2..=3).contains(&numbers.len()) && numbers.iter().all(digits);
    sound.then(|| numbers[..2].join("."))
}

/// Refuse an address that is not of HTTP.
pub(crate) fn require_http(url: &str) -> Result<(), Error> {
    if ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(());
    }
    Err(Error::usage(format!("'{url}' is no address that is taken: http:// and https:// are")))
}

/// The machine's architecture in Debian's words.
pub(crate) fn machine_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "i386",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "powerpc64" => "ppc64el",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{Base, Remote, SUMS, Wanted, parse_sums};
    use crate::{error::Error, verify::Sum};
    use proptest::prelude::*;

    const MIRROR: &str = "http://m/ubuntu-base/";

    fn wanted(release: &str, sum: Option<Sum>, insecure: bool) -> Result<Wanted, Error> {
        let mirrors = &[MIRROR.to_owned()];
        Wanted::ubuntu_base(Base { release, arch: "amd64", mirrors, sum, insecure, keyring: None })
    }

    fn newest(release: &str, lines: &[&str]) -> Result<String, String> {
        let Wanted::Listed { list, .. } = wanted(release, None, false).unwrap() else {
            panic!("{release} is looked up")
        };
        let lines: Vec<String> =
            lines.iter().map(|name| format!("{} *{name}", SUMS[0].1)).collect();
        list.newest(&lines.join("\n"))
            .map(|file| file.urls[0].clone())
            .map_err(|err| err.to_string())
    }

    #[test]
    fn a_series_is_looked_up_with_what_is_built_in_to_fall_back_on() {
        for release in ["20.04", "focal"] {
            let Wanted::Listed { list, otherwise } = wanted(release, None, false).unwrap() else {
                panic!("{release}")
            };
            assert_eq!(list.dirs, ["http://m/ubuntu-base/releases/20.04/release"]);
            let file = otherwise.unwrap();
            assert_eq!(file.name, "ubuntu-base-20.04.5-base-amd64.tar.gz");
            assert_eq!(file.sum.unwrap().to_string(), SUMS[0].1);
        }
        let Wanted::Listed { list, otherwise: None } = wanted("jammy", None, false).unwrap() else {
            panic!("jammy")
        };
        assert_eq!(list.dirs, ["http://m/ubuntu-base/releases/jammy/release"]);
    }

    #[test]
    fn a_known_file_is_not_looked_up() {
        let sum = SUMS[1].1.parse().ok();
        for (release, given) in [("20.04.5", None), ("20.04", sum), ("22.04.1", sum)] {
            let Wanted::File(file) = wanted(release, given, false).unwrap() else {
                panic!("{release}")
            };
            assert_eq!(file.sum, given.or(SUMS[0].1.parse().ok()), "{release}");
        }
        assert!(wanted("jammy", sum, false).is_err());
        assert!(matches!(wanted("22.04.1", None, false), Ok(Wanted::Listed { .. })));
        assert!(Remote::at("http://x/y", None, false).is_err());
    }

    #[test]
    fn the_newest_in_the_list_is_taken() {
        let list = [
            "ubuntu-base-20.04.4-base-amd64.tar.gz",
            "ubuntu-base-20.04.10-base-amd64.tar.gz",
            "ubuntu-base-20.04.11-base-arm64.tar.gz",
            "ubuntu-base-20.04-base-amd64.tar.gz",
            "ubuntu-base-20.04.12-base-amd64.tar.gz.zsync",
            "ubuntu-base-20.04.x-base-amd64.tar.gz",
        ];
        let dir = "http://m/ubuntu-base/releases/20.04/release";
        let found = newest("20.04", &list).unwrap();
        assert_eq!(found, format!("{dir}/ubuntu-base-20.04.10-base-amd64.tar.gz"));
        let found = newest("20.04.4", &list).unwrap();
        assert_eq!(found, format!("{dir}/ubuntu-base-20.04.4-base-amd64.tar.gz"));
    }

    #[test]
    fn what_is_not_in_the_list_is_refused_with_what_is() {
        let list =
            ["ubuntu-base-20.04.1-base-arm64.tar.gz", "ubuntu-base-20.04.4-base-amd64.tar.gz"];
        assert_eq!(
            newest("20.04.3", &list).unwrap_err(),
            "cannot find Ubuntu Base 20.04.3 for amd64: SHA256SUMS does not list it\n  \
             hint: it lists 20.04.1 for arm64, 20.04.4 for amd64"
        );
    }

    #[test]
    fn what_is_no_release_or_address_is_refused() {
        for release in ["", "Focal", "20", "20.04.5.1", "../x.y", "20.", "20.04/..", "focal fossa"]
        {
            assert!(wanted(release, None, true).is_err(), "{release}");
        }
        for url in ["ftp://x/y", "file:///etc/passwd", "x"] {
            assert!(Remote::at(url, None, true).is_err(), "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_list_or_none(text in ".{0,200}", lines in "([0-9a-f]{64} [* ]ubuntu-base-.{0,30}\n){0,4}") {
            for text in [text, lines] {
                for (_, name) in parse_sums(&text) {
                    prop_assert!(text.contains(name));
                }
                drop(newest("20.04", &text.lines().collect::<Vec<_>>()));
            }
        }
    }
}
