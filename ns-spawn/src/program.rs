//! The file that this process runs, where the container can look at it: a sealed copy in memory.

use crate::error::{Attempt as _, Error};
use nix::unistd::fexecve;
use rustix::{
    fd::OwnedFd,
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create},
    io::{Errno, Result as SysResult},
    thread::set_name,
};
use std::{
    env,
    ffi::{CString, NulError, OsString},
    fs::File,
    io,
    os::unix::ffi::OsStringExt as _,
};

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Go on as a copy of this program that nobody can write to: CVE-2019-5736.
///
/// Init is not dumpable, but who has `CAP_SYS_PTRACE` can open /proc/1/exe all the same, keep it, and write to the
/// host's program once nobody runs it any more. A read-only mount would not do: its root could remount it. The
/// program is linked statically, so that this is all of it.
pub(crate) fn seal() -> Result<(), Error> {
    let attempt = || "cannot make a sealed copy of this program".to_owned();
    let mut program = File::open("/proc/self/exe").attempt(attempt)?;
    if fcntl_get_seals(&program).is_ok_and(|seals| seals.contains(SEALS)) {
        // This is the copy. Run from a descriptor, it has got that one's number as its name.
        return set_name(c"ns-spawn").attempt(attempt);
    }
    let mut copy = File::from(memory_file().attempt(attempt).map_err(|err| {
        err.hint_on(
            nix::errno::Errno::EACCES,
            "sysctl vm.memfd_noexec=1 lets copies in memory be run",
        )
    })?);
    io::copy(&mut program, &mut copy).attempt(attempt)?;
    fcntl_add_seals(&copy, SEALS).attempt(attempt)?;
    let variables = env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let (arguments, variables) = (c_strings(env::args_os()), c_strings(variables));
    let Err(errno) = fexecve(&copy, &arguments.attempt(attempt)?, &variables.attempt(attempt)?);
    Err(errno).attempt(attempt)
}

fn memory_file() -> SysResult<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(c"ns-spawn", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(c"ns-spawn", flags), // before Linux 6.3 all of them can be run
        made => made,
    }
}

fn c_strings(texts: impl Iterator<Item = OsString>) -> Result<Vec<CString>, NulError> {
    texts.map(|text| CString::new(text.into_vec())).collect()
}
