//! Who COMMAND runs as: names looked up in the rootfs, never on the host.

use crate::{
    error::{Attempt as _, Error},
    rootfs::Rootfs,
};
use std::{ffi::OsString, io::Read as _, mem::ManuallyDrop, os::unix::ffi::OsStringExt as _};

/// A user as COMMAND will have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) name: OsString,
    pub(crate) home: OsString,
}

/// The largest file read: the rootfs need not be friendly.
const LIMIT: usize = 4 << 20;

impl Identity {
    /// Look `user` (`NAME`, `UID` or `UID:GID`) up in the rootfs.
    ///
    /// Numbers need no entry. Anything else does, and a name is never taken for a number by its first digits
    /// (CVE-2026-30892 was that).
    pub(crate) fn look_up(user: &str, rootfs: &Rootfs) -> Result<Self, Error> {
        let passwd = read_passwd(rootfs)?;
        let (first, gid) = match user.split_once(':') {
            Some((first, gid)) => (first, Some(number(gid, user)?)),
            None => (user, None),
        };
        let entry = if first.bytes().all(|byte| byte.is_ascii_digit()) {
            let uid = number(first, user)?;
            entries(&passwd).find(|entry| entry.uid == uid).unwrap_or_else(|| Self::unnamed(uid))
        } else {
            let found =
                entries(&passwd).find(|entry| entry.name.as_encoded_bytes() == first.as_bytes());
            match found {
                Some(entry) => entry,
                None if first == "root" => Self { name: "root".into(), ..Self::unnamed(0) },
                None => return Err(unknown(first, &passwd, rootfs)),
            }
        };
        Ok(Self { gid: gid.unwrap_or(entry.gid), ..entry })
    }

    fn unnamed(uid: u32) -> Self {
        let home = if uid == 0 { "/root" } else { "/" };
        let name = if uid == 0 { "root".into() } else { uid.to_string() };
        Self { uid, gid: uid, name: name.into(), home: home.into() }
    }
}

fn unknown(name: &str, passwd: &[u8], rootfs: &Rootfs) -> Error {
    let error = Error::new(format!("no user '{name}' in '{}/etc/passwd'", rootfs.shown()));
    let names: Vec<_> =
        entries(passwd).take(12).map(|entry| entry.name.to_string_lossy().into_owned()).collect();
    if names.is_empty() { error } else { error.hint(format!("it has {}", names.join(", "))) }
}

fn number(text: &str, user: &str) -> Result<u32, Error> {
    // 4294967295 is "no user" to the kernel: setresuid(2).
    match text.parse::<u32>() {
        Ok(id) if id != u32::MAX && !text.starts_with('+') => Ok(id),
        _ => Err(Error::new(format!(
            "'{user}' is no user: '{text}' is not a number from 0 to 4294967294"
        ))),
    }
}

fn read_passwd(rootfs: &Rootfs) -> Result<Vec<u8>, Error> {
    let Some((file, size)) = rootfs.open_file("etc/passwd")? else {
        return Ok(Vec::new());
    };
    let (file, size) = (ManuallyDrop::new(file), size.min(LIMIT)); // it is closed with all the others
    let mut text = Vec::with_capacity(size);
    // As large as it was found: no call is needed to find its end.
    (&*file)
        .take(size as u64)
        .read_to_end(&mut text)
        .attempt(|| format!("cannot read '{}/etc/passwd'", rootfs.shown()))?;
    Ok(text)
}

/// The well-formed lines of a passwd(5) file.
fn entries(passwd: &[u8]) -> impl Iterator<Item = Identity> {
    passwd.split(|byte| *byte == b'\n').filter_map(|line| {
        let fields: Vec<_> = line.split(|byte| *byte == b':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        let id = |field: &[u8]| str::from_utf8(field).ok()?.parse().ok();
        Some(Identity {
            uid: id(uid)?,
            gid: id(gid)?,
            name: OsString::from_vec(name.to_vec()),
            home: OsString::from_vec(home.to_vec()),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/bash\nbroken\n:::\nuser:x:1000:100::/home/user:/bin/sh\n";

    fn look_up(user: &str) -> Result<Identity, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), PASSWD).unwrap();
        let rootfs = Rootfs::open(dir.path()).unwrap();
        let shown = dir.path().display().to_string();
        Identity::look_up(user, &rootfs).map_err(|err| err.to_string().replace(&shown, "R"))
    }

    #[test]
    fn a_name_gives_the_ids_of_its_line() {
        let user = Identity { uid: 1000, gid: 100, name: "user".into(), home: "/home/user".into() };
        assert_eq!(look_up("user"), Ok(user.clone()));
        assert_eq!(look_up("1000"), Ok(user.clone()));
        assert_eq!(look_up("1000:7"), Ok(Identity { gid: 7, ..user }));
    }

    #[test]
    fn a_number_needs_no_line() {
        let unnamed = Identity { uid: 5, gid: 5, name: "5".into(), home: "/".into() };
        assert_eq!(look_up("5"), Ok(unnamed));
    }

    #[test]
    fn what_is_no_user_is_refused() {
        let absent = "no user '0x' in 'R/etc/passwd'\n  hint: it has root, user".to_owned();
        assert_eq!(look_up("0x"), Err(absent));
        for user in ["-1", "4294967295", "4294967296", "0:", "0:root", "", "+1", "1000:-1"] {
            assert!(look_up(user).is_err(), "{user}");
        }
    }
}
