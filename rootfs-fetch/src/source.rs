//! Where the tree comes from: which file, on which servers, with which sum.

use crate::{error::Error, verify::Sum};
use std::path::PathBuf;

/// What 20.04 means: the newest point release of Ubuntu Base (there is no 20.04.6 of it).
const NEWEST: (&str, &str) = ("20.04", "20.04.5");

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
const MIRRORS: [&str; 7] = [
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

impl Remote {
    /// The Ubuntu base `release` for `arch`.
    pub(crate) fn ubuntu_base(
        release: &str,
        arch: &str,
        mirrors: &[String],
        given: Option<Sum>,
        insecure: bool,
    ) -> Result<Self, Error> {
        let point = if release == NEWEST.0 { NEWEST.1 } else { release };
        let series = series(point).ok_or_else(|| {
            Error::usage(format!(
                "'{release}' is no release: 20.04 is, or a point release such as 20.04.5"
            ))
        })?;
        let name = format!("ubuntu-base-{point}-base-{arch}.tar.gz");
        let built_in =
            SUMS.iter().find(|(file, _)| *file == name).and_then(|(_, sum)| sum.parse().ok());
        let sum = given.or(built_in).filter(|_| !insecure);
        if sum.is_none() && !insecure {
            return Err(Error::new(format!(
                "cannot verify '{name}': its SHA-256 sum is not built in"
            ))
            .hint("give its sum with --sha256"));
        }
        for mirror in mirrors {
            require_http(mirror)?;
        }
        let known = MIRRORS.map(str::to_owned);
        let urls = if mirrors.is_empty() { &known } else { mirrors }
            .iter()
            .map(|mirror| {
                format!("{}/releases/{series}/release/{name}", mirror.trim_end_matches('/'))
            })
            .collect();
        Ok(Self { name, urls, sum })
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
    use super::{Remote, SUMS};

    #[test]
    fn twenty_oh_four_is_its_newest_point_release_with_the_sum_built_in() {
        for release in ["20.04", "20.04.5"] {
            let base = Remote::ubuntu_base(release, "amd64", &[], None, false).unwrap();
            assert_eq!(base.name, "ubuntu-base-20.04.5-base-amd64.tar.gz");
            assert_eq!(
                base.urls[0],
                "https://cdimage.ubuntu.com/ubuntu-base/releases/20.04/release/ubuntu-base-20.04.5-base-amd64.tar.gz"
            );
            assert_eq!(base.sum.unwrap().to_string(), SUMS[0].1);
        }
    }

    #[test]
    fn what_nothing_verifies_needs_a_sum_or_the_users_word() {
        let refused = Remote::ubuntu_base("22.04.1", "amd64", &[], None, false).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "cannot verify 'ubuntu-base-22.04.1-base-amd64.tar.gz': its SHA-256 sum is not built in\n  \
             hint: give its sum with --sha256"
        );
        assert!(
            Remote::ubuntu_base("22.04.1", "amd64", &[], SUMS[0].1.parse().ok(), false).is_ok()
        );
        assert_eq!(Remote::ubuntu_base("20.04", "amd64", &[], None, true).unwrap().sum, None);
        assert!(Remote::at("http://x/y", None, false).is_err());
    }

    #[test]
    fn mirrors_are_tried_in_the_order_given() {
        let mirrors = ["http://a/ubuntu-base/".to_owned(), "http://b".to_owned()];
        let base = Remote::ubuntu_base("20.04.5", "arm64", &mirrors, None, false).unwrap();
        let file = "releases/20.04/release/ubuntu-base-20.04.5-base-arm64.tar.gz";
        assert_eq!(base.urls, [format!("http://a/ubuntu-base/{file}"), format!("http://b/{file}")]);
    }

    #[test]
    fn what_is_no_release_or_address_is_refused() {
        for release in ["", "focal", "20", "20.04.5.1", "../x.y", "20.", "20.04/.."] {
            assert!(Remote::ubuntu_base(release, "amd64", &[], None, true).is_err(), "{release}");
        }
        for url in ["ftp://x/y", "file:///etc/passwd", "x"] {
            assert!(Remote::at(url, None, true).is_err(), "{url}");
        }
    }
}
