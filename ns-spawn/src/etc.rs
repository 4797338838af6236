//! /etc/hosts and /etc/hostname, so that programs inside find the container's own name.

use crate::{
    error::{Attempt as _, Error},
    plan::quote,
    rootfs::{attach, detached_copy, find_within, leave_open},
};
use rustix::{
    fd::BorrowedFd,
    fs::{AtFlags, Mode, OFlags, openat, unlinkat},
};
use std::{fs::File, io::Write as _, path::Path};

/// What a file is called until it is bound.
const NAME: &str = "etc";

/// The files and what is in them.
fn files(hostname: &str) -> [(&'static str, String); 2] {
    let hosts = format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    );
    [("/etc/hosts", hosts), ("/etc/hostname", format!("{hostname}\n"))]
}

/// Bind files of our own over those two, where the rootfs has them.
///
/// They are made in `dev`, the container's fresh /dev, as a file can be bound only from a mount that is attached and
/// under a name, which it loses afterwards.
pub(crate) fn name_host(
    hostname: &str,
    dev: BorrowedFd<'_>,
    tree: BorrowedFd<'_>,
) -> Result<(), Error> {
    for (path, content) in files(hostname) {
        let Some(target) = find_within(tree, Path::new(path))?.map(leave_open) else { continue };
        let attempt = || format!("cannot bind on '{path}'");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(dev, NAME, flags, Mode::from_raw_mode(0o644)).attempt(attempt)?;
        let mut file = File::from(file);
        file.write_all(content.as_bytes()).attempt(attempt)?;
        let copy =
            detached_copy(leave_open(file.into()), false).map(leave_open).attempt(attempt)?;
        attach(copy, target).attempt(attempt)?;
        unlinkat(dev, NAME, AtFlags::empty()).attempt(attempt)?;
    }
    Ok(())
}

/// The commands that would do the same.
pub(crate) fn shell(hostname: &str, root: &str) -> Vec<String> {
    let bind = |(path, content): (&str, String)| {
        let content = quote(&content.replace('\n', "\\n").replace('\t', "\\t"));
        let file = format!("{root}/dev{}", path.trim_start_matches("/etc"));
        format!(
            "if [ -e {root}{path} ]; then printf {content} >{file}; mount --bind {file} {root}{path}; \
             rm {file}; fi"
        )
    };
    files(hostname).map(bind).into()
}
