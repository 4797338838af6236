//! Profiles in files: JSON as Docker and the OCI runtime specification (config-linux.md, Seccomp) have it.

use super::{
    profile::{Action, Comparison, Condition, Profile, Rule},
    syscalls::Arch,
};
use serde::{Deserialize, de::IgnoredAny};

/// What a profile may ask about.
pub(crate) struct Machine<'a> {
    pub(crate) native: Arch,
    /// The kernel's version: 6.18.
    pub(crate) kernel: (u32, u32),
    /// Whether COMMAND may have this capability.
    pub(crate) has: &'a dyn Fn(&str) -> bool,
}

/// A file's content. Lists may be null, as Go writes empty ones.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Document {
    default_action: ActionName,
    default_errno_ret: Option<u16>,
    /// The same by name, in Podman's profiles.
    default_errno: Option<IgnoredAny>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<Flag>>,
    syscalls: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    /// The older form.
    name: Option<String>,
    action: ActionName,
    errno_ret: Option<u16>,
    errno: Option<IgnoredAny>,
    args: Option<Vec<Argument>>,
    #[serde(rename = "comment")]
    _comment: Option<IgnoredAny>,
    includes: Option<When>,
    excludes: Option<When>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Operator,
}

/// When an entry counts, or does not.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct When {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
enum ActionName {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_KILL_THREAD", alias = "SCMP_ACT_KILL")]
    KillThread,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
}

#[derive(Clone, Copy, Deserialize)]
enum Operator {
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

#[derive(Clone, Copy, Deserialize)]
enum Flag {
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    ThreadSync,
}

impl Flag {
    /// linux/seccomp.h.
    fn bit(self) -> u32 {
        match self {
            Self::ThreadSync => 1,
            Self::Log => 2,
            Self::SpecAllow => 4,
        }
    }
}

impl Document {
    /// Read one. The error says what is wrong, and where.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|err| err.to_string())
    }

    /// The flags to load it with; without any in the file those that runc takes.
    pub(crate) fn flags(&self) -> u32 {
        match &self.flags {
            Some(flags) => flags.iter().fold(0, |bits, flag| bits | flag.bit()),
            None => Flag::SpecAllow.bit(),
        }
    }

    /// What it says on this machine.
    pub(crate) fn profile(&self, machine: &Machine<'_>) -> Result<Profile<'_>, String> {
        if self.default_errno.is_some() && self.default_errno_ret.is_none() {
            return Err("'defaultErrno' needs 'defaultErrnoRet' beside it".into());
        }
        let mut rules = Vec::new();
        for entry in self.syscalls.iter().flatten() {
            if entry.counts(machine)? {
                entry.add_to(&mut rules)?;
            }
        }
        let default = self.default_action.with(self.default_errno_ret)?;
        Ok(Profile { default, arches: self.arches(machine.native)?, rules })
    }

    /// The machine's own architecture, and the one beside it where it is asked for.
    fn arches(&self, native: Arch) -> Result<Vec<Arch>, String> {
        let mut listed: Vec<&String> = self.architectures.iter().flatten().collect();
        if let Some(map) = &self.arch_map {
            if !listed.is_empty() {
                return Err("'architectures' and 'archMap' exclude each other".into());
            }
            for entry in map {
                if arch(&entry.architecture)? == Some(native) {
                    listed.extend(entry.sub_architectures.iter().flatten());
                }
            }
        }
        let mut arches = vec![native];
        for name in listed {
            if arch(name)? == Some(native.compat()) && !arches.contains(&native.compat()) {
                arches.push(native.compat());
            }
        }
        Ok(arches)
    }
}

impl Entry {
    fn counts(&self, machine: &Machine<'_>) -> Result<bool, String> {
        let Machine { native, kernel, has } = machine;
        if let Some(when) = &self.excludes {
            let version = when.min_kernel.as_deref().map(version).transpose()?;
            if when.arches.iter().flatten().any(|arch| arch == docker_name(*native))
                || when.caps.iter().flatten().any(|capability| has(capability))
                || version.is_some_and(|version| *kernel >= version)
            {
                return Ok(false);
            }
        }
        let Some(when) = &self.includes else { return Ok(true) };
        let version = when.min_kernel.as_deref().map(version).transpose()?;
        let arches = when.arches.as_deref().unwrap_or_default();
        Ok((arches.is_empty() || arches.iter().any(|arch| arch == docker_name(*native)))
            && when.caps.iter().flatten().all(|capability| has(capability))
            && version.is_none_or(|version| *kernel >= version))
    }

    fn add_to<'a>(&'a self, rules: &mut Vec<Rule<'a>>) -> Result<(), String> {
        let names: Vec<&str> = match &self.name {
            Some(name) if self.names.is_empty() => vec![name],
            Some(name) => return Err(format!("both 'name' ('{name}') and 'names' are given")),
            None => self.names.iter().map(String::as_str).collect(),
        };
        if self.errno.is_some() && self.errno_ret.is_none() {
            return Err("'errno' needs 'errnoRet' beside it".into());
        }
        let action = self.action.with(self.errno_ret)?;
        let arguments = self.args.as_deref().unwrap_or_default();
        let conditions =
            arguments.iter().map(Argument::condition).collect::<Result<Vec<_>, _>>()?;
        let repeated = |at: usize| conditions[..at].iter().any(|c| c.index == conditions[at].index);
        if (0..conditions.len()).any(repeated) {
            // As runc does: several conditions on one argument are alternatives.
            rules.extend(conditions.into_iter().map(|condition| Rule {
                names: names.clone(),
                conditions: vec![condition],
                action,
            }));
        } else {
            rules.push(Rule { names, conditions, action });
        }
        Ok(())
    }
}

impl Argument {
    fn condition(&self) -> Result<Condition, String> {
        let Self { index, value, value_two, op } = *self;
        if index > 5 {
            return Err(format!("argument index {index} is too large; a system call has 0 to 5"));
        }
        let (comparison, value) = match op {
            Operator::Equal => (Comparison::Equal, value),
            Operator::NotEqual => (Comparison::NotEqual, value),
            Operator::Less => (Comparison::Less, value),
            Operator::LessOrEqual => (Comparison::LessOrEqual, value),
            Operator::Greater => (Comparison::Greater, value),
            Operator::GreaterOrEqual => (Comparison::GreaterOrEqual, value),
            Operator::MaskedEqual => (Comparison::MaskedEqual(value), value_two),
        };
        Ok(Condition { index, comparison, value })
    }
}

impl ActionName {
    /// `number` is the errno of those that take one; EPERM if it is not given.
    fn with(self, number: Option<u16>) -> Result<Action, String> {
        /// The largest errno: `MAX_ERRNO` in linux/err.h.
        const MAX: u16 = 4095;
        const EPERM: u16 = 1;
        match (self, number) {
            (Self::Errno, Some(number)) if number > MAX => {
                Err(format!("errno {number} is too large; the largest is {MAX}"))
            }
            (Self::Errno, number) => Ok(Action::Errno(number.unwrap_or(EPERM))),
            (Self::Trace, number) => Ok(Action::Trace(number.unwrap_or(EPERM))),
            (_, Some(number)) => {
                Err(format!("errno {number} is given for an action that takes none"))
            }
            (Self::Allow, None) => Ok(Action::Allow),
            (Self::KillProcess, None) => Ok(Action::KillProcess),
            (Self::KillThread, None) => Ok(Action::KillThread),
            (Self::Log, None) => Ok(Action::Log),
            (Self::Trap, None) => Ok(Action::Trap),
        }
    }
}

/// libseccomp's names. `None`: one that is not the machine's, or x32, whose calls are refused in any case.
fn arch(name: &str) -> Result<Option<Arch>, String> {
    match name.strip_prefix("SCMP_ARCH_") {
        Some("X86_64") => Ok(Some(Arch::X86_64)),
        Some("X86") => Ok(Some(Arch::X86)),
        Some("AARCH64") => Ok(Some(Arch::Aarch64)),
        Some("ARM") => Ok(Some(Arch::Arm)),
        Some(
            "X32" | "LOONGARCH64" | "M68K" | "MIPS" | "MIPS64" | "MIPS64N32" | "MIPSEL"
            | "MIPSEL64" | "MIPSEL64N32" | "PARISC" | "PARISC64" | "PPC" | "PPC64" | "PPC64LE"
            | "RISCV64" | "S390" | "S390X" | "SH" | "SHEB",
        ) => Ok(None),
        _ => Err(format!("unknown architecture '{name}'")),
    }
}

/// Docker's name, which is Go's.
fn docker_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "amd64",
        Arch::X86 => "x86",
        Arch::Aarch64 => "arm64",
        Arch::Arm => "arm",
    }
}

/// A kernel's version: "4.8", or a release, "6.1.0-13-amd64".
pub(crate) fn version(text: &str) -> Result<(u32, u32), String> {
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    text.split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, digits(minor)?)))
        .ok_or_else(|| format!("'{text}' is no kernel version"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{
        compile::{
            compile,
            tests::{Call, run},
        },
        syscalls::Table,
    };
    use proptest::prelude::*;

    const EXAMPLE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "defaultErrno": "ENOSYS",
        "archMap": [
            { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] },
            { "architecture": "SCMP_ARCH_RISCV64", "subArchitectures": null }
        ],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            { "names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "all" },
            { "name": "write", "action": "SCMP_ACT_ALLOW", "args": [
                { "index": 0, "value": 1, "op": "SCMP_CMP_EQ" },
                { "index": 0, "value": 2, "valueTwo": 0, "op": "SCMP_CMP_EQ" }] },
            { "names": ["mmap"], "action": "SCMP_ACT_TRAP", "args": [
                { "index": 2, "value": 6, "valueTwo": 6, "op": "SCMP_CMP_MASKED_EQ" },
                { "index": 1, "value": 4096, "op": "SCMP_CMP_GE" }] },
            { "names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
            { "names": ["umount2"], "action": "SCMP_ACT_ALLOW", "excludes": { "caps": ["CAP_CHOWN"] } },
            { "names": ["arch_prctl"], "action": "SCMP_ACT_LOG", "includes": { "arches": ["amd64"] } },
            { "names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "6.19" } },
            { "names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "errno": "EIO",
              "includes": {}, "excludes": { "arches": ["arm64"], "minKernel": "7.0" } }
        ]
    }"#;

    const MACHINE: Machine<'_> =
        Machine { native: Arch::X86_64, kernel: (6, 18), has: &|name| name == "CAP_CHOWN" };

    /// The error that there is in `text`.
    fn refusal(text: &str) -> String {
        Document::parse(text).and_then(|it| it.profile(&MACHINE).map(drop)).unwrap_err()
    }

    #[test]
    fn a_profile_says_what_docker_reads_in_it() {
        let table = Table::new();
        let document = Document::parse(EXAMPLE).unwrap();
        let program = compile(&document.profile(&MACHINE).unwrap(), &table);
        let returned = |name, arguments: [u64; 3]| {
            let [a, b, c] = arguments;
            let number = table.number(Arch::X86_64, name).unwrap();
            run(&program, &Call::new(Arch::X86_64, number, [a, b, c, 0, 0, 0])).0
        };
        let absent = Action::Errno(38);
        for (name, arguments, action) in [
            ("read", [0, 0, 0], Action::Allow),
            ("write", [0, 0, 0], absent),
            ("write", [1, 0, 0], Action::Allow),
            ("write", [2, 0, 0], Action::Allow),
            ("mmap", [0, 4096, 7], Action::Trap),
            ("mmap", [0, 4096, 3], absent),
            ("mmap", [0, 4095, 7], absent),
            ("mount", [0, 0, 0], absent),
            ("umount2", [0, 0, 0], absent),
            ("arch_prctl", [0, 0, 0], Action::Log),
            ("ptrace", [0, 0, 0], absent),
            ("personality", [0, 0, 0], Action::Errno(5)),
            ("open", [0, 0, 0], absent),
        ] {
            assert_eq!(returned(name, arguments), action.code(), "{name} {arguments:?}");
        }
        let read_32 = Call::new(Arch::X86, 3, [0; 6]);
        assert_eq!(run(&program, &read_32).0, Action::Allow.code());
        assert_eq!(document.flags(), 2);
    }

    #[test]
    fn what_stands_without_meaning_is_refused() {
        let with =
            |more: &str| refusal(&format!(r#"{{ "defaultAction": "SCMP_ACT_ALLOW", {more} }}"#));
        let entry = |more: &str| with(&format!(r#""syscalls": [{{ {more} }}]"#));
        assert!(with(r#""sycalls": []"#).starts_with("unknown field `sycalls`, expected one of"));
        assert!(entry(r#""names": ["read"]"#).starts_with("missing field `action`"));
        assert_eq!(
            entry(r#""name": "a", "names": ["b"], "action": "SCMP_ACT_KILL""#),
            "both 'name' ('a') and 'names' are given"
        );
        assert_eq!(
            entry(
                r#""names": ["a"], "action": "SCMP_ACT_KILL",
                   "args": [{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }]"#
            ),
            "argument index 6 is too large; a system call has 0 to 5"
        );
        assert_eq!(
            entry(r#""names": ["a"], "action": "SCMP_ACT_ERRNO", "errno": "EIO""#),
            "'errno' needs 'errnoRet' beside it"
        );
        assert_eq!(
            entry(
                r#""names": ["a"], "action": "SCMP_ACT_LOG", "includes": { "minKernel": "six" }"#
            ),
            "'six' is no kernel version"
        );
        assert_eq!(
            with(r#""architectures": ["SCMP_ARCH_X86"], "archMap": []"#),
            "'architectures' and 'archMap' exclude each other"
        );
    }

    #[test]
    fn programs_of_an_architecture_that_is_not_listed_are_killed() {
        let killed = |listed: &str| {
            let text =
                format!(r#"{{ "defaultAction": "SCMP_ACT_ALLOW", "architectures": [{listed}] }}"#);
            let document = Document::parse(&text).unwrap();
            let program = compile(&document.profile(&MACHINE).unwrap(), &Table::new());
            run(&program, &Call::new(Arch::X86, 1, [0; 6])).0 == Action::KillProcess.code()
        };
        assert!(killed(""));
        assert!(killed(r#""SCMP_ARCH_X86_64", "SCMP_ARCH_ARM""#));
        assert!(!killed(r#""SCMP_ARCH_X86", "SCMP_ARCH_X86""#));
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused() {
        for end in 0..EXAMPLE.len() {
            assert!(Document::parse(&EXAMPLE[..end]).is_err());
        }
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_refused_or_read_but_never_fatal(
            damages in proptest::collection::vec((0..EXAMPLE.len(), b' '..=b'~'), 1..4),
        ) {
            let mut text = EXAMPLE.as_bytes().to_vec();
            for (at, byte) in damages {
                text[at] = byte;
            }
            let text = String::from_utf8(text).unwrap();
            if let Ok(document) = Document::parse(&text) {
                match document.profile(&MACHINE) {
                    Ok(profile) => prop_assert!(compile(&profile, &Table::new()).len() > 4),
                    Err(reason) => prop_assert!(!reason.is_empty()),
                }
            }
        }
    }

    #[test]
    fn versions_are_read_from_releases_too() {
        assert_eq!(version("4.8"), Ok((4, 8)));
        assert_eq!(version("6.1.0-13-amd64"), Ok((6, 1)));
        assert_eq!(version("6.18-rc1"), Ok((6, 18)));
        assert!(version("6").is_err());
        assert!(version("x.1").is_err());
        assert!(version("6.x").is_err());
    }
}
