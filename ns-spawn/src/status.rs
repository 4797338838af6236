//! What programs are told of a container: JSON lines on a descriptor, its PID in a file.

use crate::{
    cli::Cli,
    error::{Attempt as _, Error},
    supervise::Ended,
    sys,
};
use nix::{
    errno::Errno,
    sys::resource::{UsageWho, getrusage},
    sys::time::TimeValLike as _,
};
use serde_json::{Map, Value, json};
use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
};

/// Where to tell it.
#[derive(Debug)]
pub(crate) struct Status {
    lines: Option<File>,
    pid_file: Option<PathBuf>,
}

impl Status {
    pub(crate) fn open(cli: &Cli) -> Result<Self, Error> {
        let lines = cli.status_fd.map(|number| {
            sys::duplicate(number)
                .attempt(|| format!("cannot use descriptor {number} for --status-fd"))
                .map_err(|err| err.hint_on(Errno::EBADF, "the caller has to open it"))
        });
        Ok(Self { lines: lines.transpose()?.map(File::from), pid_file: cli.pid_file.clone() })
    }

    /// Whether anybody wants to know.
    pub(crate) fn is_wanted(&self) -> bool {
        self.lines.is_some() || self.pid_file.is_some()
    }

    /// COMMAND has started; `first` is the container's first process.
    pub(crate) fn started(&self, first: i32) -> Result<(), Error> {
        if let Some(path) = &self.pid_file {
            fs::write(path, format!("{first}\n"))
                .attempt(|| format!("cannot write '{}'", path.display()))?;
        }
        let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
        let namespaces: Map<_, _> = kinds
            .iter()
            .filter_map(|kind| {
                let link = fs::read_link(format!("/proc/{first}/ns/{kind}")).ok()?;
                let inode: u64 =
                    link.to_str()?.split_once('[')?.1.strip_suffix(']')?.parse().ok()?;
                Some(((*kind).to_owned(), Value::from(inode)))
            })
            .collect();
        self.tell(&json!({"event": "started", "pid": first, "namespaces": namespaces}))
    }

    /// COMMAND has ended.
    pub(crate) fn ended(&self, ended: Ended) -> Result<(), Error> {
        if self.lines.is_none() {
            return Ok(());
        }
        let (code, signal) = match ended {
            Ended::Exited(code) => (Some(code), None),
            Ended::Killed(signal) => (None, Some(signal)),
        };
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)
            .attempt(|| "cannot read the resource usage".into())?;
        self.tell(&json!({
            "event": "exited",
            "code": code,
            "signal": signal,
            "user_us": usage.user_time().num_microseconds(),
            "system_us": usage.system_time().num_microseconds(),
            "max_rss_kib": usage.max_rss(),
        }))
    }

    /// COMMAND could not be started. Gives the error back, to be reported as any other.
    pub(crate) fn failed(&self, error: Error) -> Error {
        if self.lines.is_none() {
            return error;
        }
        let errno = error.errno().map(|errno| errno as i32);
        let line = json!({"event": "error", "message": error.to_string(), "errno": errno});
        drop(self.tell(&line)); // the first error is the one to tell
        error
    }

    fn tell(&self, value: &Value) -> Result<(), Error> {
        let Some(mut lines) = self.lines.as_ref() else { return Ok(()) };
        lines
            .write_all(format!("{value}\n").as_bytes())
            .attempt(|| "cannot write to --status-fd".into())
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if let Some(path) = &self.pid_file {
            drop(fs::remove_file(path)); // it may never have been made
        }
    }
}
