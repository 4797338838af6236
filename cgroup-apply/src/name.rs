//! The names of cgroups, which lead nowhere else.

use std::{fmt, path::Path, str::FromStr};

/// A cgroup's path below the base of each hierarchy. It cannot lead out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

impl Name {
    /// The name and, before it, those it is below of: `a/b` gives `a`, `a/b`.
    pub(crate) fn lineage(&self) -> Vec<&Path> {
        let mut lineage: Vec<_> =
            self.path().ancestors().filter(|path| *path != Path::new("")).collect();
        lineage.reverse();
        lineage
    }

    /// As a relative path.
    pub(crate) fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        for part in text.split('/') {
            if part.is_empty() {
                return Err(
                    "a cgroup's name has no empty part, and no '/' before or behind it".into()
                );
            }
            if part.starts_with('.') {
                return Err(format!("'{part}' begins with a dot"));
            }
            if part.chars().any(char::is_control) {
                return Err("a control character is in it".into());
            }
            if part.len() > 255 {
                return Err(format!("'{part}' has {} bytes; the kernel allows 255", part.len()));
            }
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_name_never_leads_out(text in "[./a]{0,12}") {
            if let Ok(name) = text.parse::<Name>() {
                let parts: Vec<_> = name.path().components().collect();
                prop_assert!(!parts.is_empty());
                prop_assert!(parts.iter().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert_eq!(name.lineage().len(), parts.len());
            }
        }
    }

    #[test]
    fn names_stay_below_the_tree() {
        for good in ["container", "a/b", "a.b", "user@1000", "ü"] {
            assert_eq!(good.parse::<Name>().unwrap().to_string(), good);
        }
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "a/.b", "a\n"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        let name: Name = "a/b".parse().unwrap();
        assert_eq!(name.lineage(), [Path::new("a"), Path::new("a/b")]);
    }
}
