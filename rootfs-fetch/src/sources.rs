//! Where apt installs from when it is not what the tree itself names: a list that is there only meanwhile.

use crate::{error::Error, source::require_http};
use serde::{Deserialize, Serialize};

/// Where the list is: on a file system in memory that is mounted while packages are installed.
pub(crate) const LIST: &str = "/run/rootfs-fetch.list";

/// Where the releases of Ubuntu go in the end.
const OLD_RELEASES: &str = "http://old-releases.ubuntu.com/ubuntu";

/// A mirror, at a time, and what of it. None of them: what the tree names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sources {
    mirror: Option<String>,
    snapshot: Option<String>,
    components: Vec<String>,
}

/// What a tree is, by its `/etc/os-release`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct System {
    ubuntu: bool,
    codename: String,
}

impl Sources {
    /// What the options say, refused where it is no address, time or name.
    pub(crate) fn new(
        mirror: Option<&str>,
        snapshot: Option<&str>,
        components: &[String],
    ) -> Result<Self, Error> {
        mirror.map_or(Ok(()), require_http)?;
        if mirror.is_some_and(|url| url.contains(char::is_whitespace)) {
            return Err(Error::usage("an address has no spaces"));
        }
        if let Some(time) = snapshot.filter(|time| !is_time(time)) {
            return Err(Error::usage(format!("'{time}' is no time: 20240301T030400Z is")));
        }
        let named = |name: &String| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if let Some(name) = components.iter().find(|name| !named(name)) {
            return Err(Error::usage(format!("'{name}' is no component: main is, or universe")));
        }
        if !components.is_empty() && mirror.or(snapshot).is_none() {
            return Err(Error::usage("--components is for --apt-mirror or --snapshot"));
        }
        let (mirror, snapshot) = (mirror.map(str::to_owned), snapshot.map(str::to_owned));
        Ok(Self { mirror, snapshot, components: components.to_vec() })
    }

    /// Those of Ubuntu's releases that have left its mirrors.
    pub(crate) fn old_releases() -> Self {
        Self { mirror: Some(OLD_RELEASES.into()), ..Self::default() }
    }

    /// Whether they are other than what the tree names.
    pub(crate) fn are_given(&self) -> bool {
        self.mirror.is_some() || self.snapshot.is_some()
    }

    /// The options with which apt takes [`LIST`].
    pub(crate) fn apt_options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if self.are_given() {
            options.push(format!("-o=Dir::Etc::SourceList={LIST}"));
            options.push("-o=Dir::Etc::SourceParts=-".to_owned());
        }
        if self.snapshot.is_some() {
            options.push("-o=Acquire::Check-Valid-Until=false".to_owned()); // it was valid then
        }
        options
    }

    /// The list for a tree of that system.
    pub(crate) fn list(&self, system: &System) -> String {
        let snapshots = if system.ubuntu {
            "http://snapshot.ubuntu.com/ubuntu"
        } else {
            "http://snapshot.debian.org/archive/debian"
        };
        let mut url = self.mirror.as_deref().unwrap_or(snapshots).trim_end_matches('/').to_owned();
        if let Some(time) = &self.snapshot {
            url = format!("{url}/{time}");
        }
        let usual = if system.ubuntu { "main universe" } else { "main" };
        let given = self.components.join(" ");
        let components = if given.is_empty() { usual } else { &given };
        let parts: &[&str] = if system.ubuntu { &["", "-updates", "-security"] } else { &[""] };
        let line = |part: &&str| format!("deb {url} {}{part} {components}\n", system.codename);
        parts.iter().map(line).collect()
    }
}

impl System {
    /// What the text of `/etc/os-release` says, if it names a release.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let value = |line: &'_ str| Some(line.strip_prefix(name)?.trim_matches('"').to_owned());
            text.lines().find_map(value)
        };
        let codename = value("VERSION_CODENAME=").filter(|name| !name.is_empty())?;
        Some(Self { ubuntu: value("ID=").as_deref() == Some("ubuntu"), codename })
    }

    /// The one that a shell has read from `/etc/os-release`. Of Ubuntu, as the default tree is.
    pub(crate) fn placeholder() -> Self {
        Self { ubuntu: true, codename: "$VERSION_CODENAME".into() }
    }

    /// The address of the index of this release of Ubuntu at the first mirror that `sources_list` names.
    pub(crate) fn index(&self, sources_list: &str) -> Option<String> {
        let deb = sources_list.lines().find_map(|line| line.trim_start().strip_prefix("deb "))?;
        let mirror = deb.split_whitespace().find(|word| word.starts_with("http"))?;
        let index = format!("{}/dists/{}/InRelease", mirror.trim_end_matches('/'), self.codename);
        self.ubuntu.then_some(index)
    }
}

/// A time as snapshot servers write it.
fn is_time(time: &str) -> bool {
    let shape = |(place, byte): (usize, u8)| match place {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    time.len() == 16 && time.bytes().enumerate().all(shape)
}

#[cfg(test)]
mod tests {
    use super::{Sources, System};

    const FOCAL: &str = "NAME=\"Ubuntu\"\nID=ubuntu\nVERSION_CODENAME=focal\n";
    const BOOKWORM: &str = "ID=debian\nVERSION_CODENAME=\"bookworm\"\n";

    fn list(mirror: Option<&str>, snapshot: Option<&str>, system: &str) -> String {
        let sources = Sources::new(mirror, snapshot, &[]).unwrap();
        sources.list(&System::parse(system).unwrap())
    }

    #[test]
    fn ubuntu_has_updates_and_universe() {
        let expected = "\
deb http://m/ubuntu focal main universe
deb http://m/ubuntu focal-updates main universe
deb http://m/ubuntu focal-security main universe
";
        assert_eq!(list(Some("http://m/ubuntu/"), None, FOCAL), expected);
    }

    #[test]
    fn a_snapshot_is_of_the_distributions_server_or_of_the_one_given() {
        let time = Some("20240301T030400Z");
        let debian =
            "deb http://snapshot.debian.org/archive/debian/20240301T030400Z bookworm main\n";
        assert_eq!(list(None, time, BOOKWORM), debian);
        assert_eq!(
            list(Some("http://m"), time, BOOKWORM),
            "deb http://m/20240301T030400Z bookworm main\n"
        );
        let focal = list(None, time, FOCAL);
        assert!(focal.starts_with("deb http://snapshot.ubuntu.com/ubuntu/20240301T030400Z focal "));
    }

    #[test]
    fn the_index_of_a_release_is_at_the_first_mirror() {
        let text = "# deb http://no\ndeb [arch=amd64] http://m/ubuntu/ focal main\n";
        let focal = System::parse(FOCAL).unwrap();
        assert_eq!(focal.index(text).unwrap(), "http://m/ubuntu/dists/focal/InRelease");
        assert_eq!(System::parse(BOOKWORM).unwrap().index(text), None);
    }

    #[test]
    fn what_is_no_mirror_time_or_component_is_refused() {
        assert!(Sources::new(Some("file:///x"), None, &[]).is_err());
        assert!(Sources::new(Some("http://m x"), None, &[]).is_err());
        for time in ["2024", "20240301T030400", "2024-03-01T03:04Z", "20240301X030400Z"] {
            assert!(Sources::new(None, Some(time), &[]).is_err(), "{time}");
        }
        assert!(Sources::new(Some("http://m"), None, &["a b".into()]).is_err());
        assert!(Sources::new(None, None, &["main".into()]).is_err());
    }
}
