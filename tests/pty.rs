//! A terminal with bash in it, and somebody who types.

use rustix::{
    fd::AsFd,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

/// How long something may take to appear: not a measure of speed, but the end of a test that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pseudo-terminal with a program in it. It ends with the value.
pub(crate) struct Pty {
    master: File,
    child: Child,
    output: Receiver<Vec<u8>>,
    screen: String,
}

impl Pty {
    /// Start `command`, as the leader of a session of its own, in a terminal of this size.
    pub(crate) fn start(command: &Command, rows: u16, columns: u16) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        set_size(&master, rows, columns);
        // O_NOCTTY, or it would become the tests' own terminal.
        let no_terminal_of_ours = nix::libc::O_NOCTTY;
        let slave = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(no_terminal_of_ours).open(&name).unwrap()
        };
        let mut in_session = Command::new("setsid");
        in_session.args(["--ctty", "--wait", "--"]).arg(command.get_program());
        in_session.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => in_session.env(name, value),
                None => in_session.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            in_session.current_dir(dir);
        }
        let child = in_session
            .stdin(Stdio::from(slave()))
            .stdout(Stdio::from(slave()))
            .stderr(Stdio::from(slave()))
            .spawn()
            .unwrap();
        let master = File::from(master);
        let output = read_in_background(master.try_clone().unwrap());
        Self { master, child, output, screen: String::new() }
    }

    /// Type `text`.
    pub(crate) fn enter(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Wait until `text` appears behind what was seen before, and see all that is before it.
    #[track_caller]
    pub(crate) fn see(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.screen.find(text) {
                let rest = self.screen.split_off(at + text.len());
                return std::mem::replace(&mut self.screen, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.screen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("'{text}' does not appear; there is only:\n{}", self.screen)
                }
            }
        }
    }

    /// Give the terminal another size.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        set_size(&self.master, rows, columns);
    }
}

fn set_size(master: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master.as_fd(), size).unwrap();
}

fn read_in_background(mut from: File) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Drop for Pty {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
