//! Architectures, and the numbers of their system calls.

use std::collections::HashMap;

/// An architecture that a system call can be made for: the machine's own, or the 32-bit one beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    X86,
    Aarch64,
    Arm,
}

impl Arch {
    /// The 32-bit one whose programs the same kernel runs.
    pub(crate) fn compat(self) -> Self {
        match self {
            Self::X86_64 | Self::X86 => Self::X86,
            Self::Aarch64 | Self::Arm => Self::Arm,
        }
    }

    /// How many bits of an argument the kernel looks at. Above them there may be anything: a 64-bit program can make
    /// a 32-bit call, and a filter sees the whole register.
    pub(crate) fn argument_bits(self) -> u64 {
        match self {
            Self::X86_64 | Self::Aarch64 => u64::MAX,
            Self::X86 | Self::Arm => u32::MAX.into(),
        }
    }

    /// What a filter sees it as: `AUDIT_ARCH_*` in linux/audit.h.
    pub(crate) fn token(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The first number that is no ordinary call: x32's on `x86_64` (`__X32_SYSCALL_BIT`), and on Arm its
    /// private ones (`__ARM_NR_BASE`).
    pub(crate) fn end_of_ordinary(self) -> u32 {
        match self {
            Self::X86_64 => 0x4000_0000,
            Self::Arm => 0xf_0000,
            Self::X86 | Self::Aarch64 => u32::MAX,
        }
    }
}

/// The calls of all architectures.
pub(crate) struct Table(HashMap<&'static str, [Option<u32>; 4]>);

impl Table {
    pub(crate) fn new() -> Self {
        let lines = include_str!("../../seccomp/syscalls.txt").lines();
        Self(lines.filter(|line| !line.starts_with('#')).filter_map(entry).collect())
    }

    /// The number of the call `name`, where `arch` has it.
    pub(crate) fn number(&self, arch: Arch, name: &str) -> Option<u32> {
        self.0.get(name)?[arch as usize]
    }
}

/// A line of the table: the name, and a column for each architecture, in the order of [`Arch`].
fn entry(line: &'static str) -> Option<(&'static str, [Option<u32>; 4])> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    Some((name, [(); 4].map(|()| words.next()?.parse().ok())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::built::NATIVE;
    use nix::libc;
    use std::collections::HashSet;

    #[test]
    fn the_numbers_are_those_of_the_c_library() {
        let table = Table::new();
        for (name, number) in [
            ("read", libc::SYS_read),
            ("ioctl", libc::SYS_ioctl),
            ("clone", libc::SYS_clone),
            ("execve", libc::SYS_execve),
            ("openat", libc::SYS_openat),
            ("socket", libc::SYS_socket),
            ("personality", libc::SYS_personality),
            ("keyctl", libc::SYS_keyctl),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("clone3", libc::SYS_clone3),
            ("mount_setattr", libc::SYS_mount_setattr),
        ] {
            assert_eq!(table.number(NATIVE, name).map(i64::from), Some(number), "{name}");
        }
        assert_eq!(table.number(NATIVE, "nosuch"), None);
    }

    #[test]
    fn every_line_is_whole_and_no_number_stands_twice() {
        let table = Table::new();
        let lines = include_str!("../../seccomp/syscalls.txt").lines();
        assert_eq!(table.0.len(), lines.filter(|line| !line.starts_with('#')).count());
        for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm] {
            let mut seen = HashSet::new();
            for (name, numbers) in &table.0 {
                let twice = numbers[arch as usize].is_some_and(|number| !seen.insert(number));
                // One call under two names, of which each is in use.
                assert!(!twice || ["sync_file_range2", "arm_sync_file_range"].contains(name));
            }
            assert!(seen.len() > 300, "{arch:?}");
        }
    }
}
