//! What a filter shall do: rules about system calls by name.

use super::syscalls::Arch;

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    KillProcess,
    KillThread,
    Trap,
    /// Fail with this errno.
    Errno(u16),
    /// Ask a tracer, which is given this number.
    Trace(u16),
    Log,
    Allow,
}

impl Action {
    /// What a filter returns for it: `SECCOMP_RET_*` in linux/seccomp.h.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0,
            Self::Trap => 0x0003_0000,
            Self::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Self::Trace(number) => 0x7ff0_0000 | u32::from(number),
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }

    /// Whether the call may be made.
    pub(crate) fn permits(self) -> bool {
        matches!(self, Self::Allow | Self::Log | Self::Trace(_))
    }
}

/// How an argument is compared. All bits count that the architecture has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal in the bits of this mask.
    MaskedEqual(u64),
}

/// What must hold of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Which argument: 0 to 5.
    pub(crate) index: u8,
    pub(crate) comparison: Comparison,
    pub(crate) value: u64,
}

/// What becomes of the calls `names`, if all `conditions` hold. Names that an architecture does not have say
/// nothing about it.
#[derive(Debug, Clone)]
pub(crate) struct Rule<'a> {
    pub(crate) names: Vec<&'a str>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) action: Action,
}

/// A filter, in words.
///
/// As in libseccomp, a rule without conditions decides for its calls, whatever others there are; of rules with
/// conditions the first that fits does.
#[derive(Debug, Clone)]
pub(crate) struct Profile<'a> {
    /// For calls that no rule fits.
    pub(crate) default: Action,
    /// Programs that make calls for another architecture are killed.
    pub(crate) arches: Vec<Arch>,
    pub(crate) rules: Vec<Rule<'a>>,
}
