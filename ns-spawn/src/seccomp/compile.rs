//! From a profile to a program that the kernel runs before each system call: seccomp(2), classic BPF.
//!
//! A call is found by a binary search over ranges of numbers that fare alike, not by one comparison after
//! another: when a filter is loaded, the kernel runs it for every number to learn which are always allowed.

use super::{
    profile::{Action, Comparison, Condition, Profile},
    syscalls::{Arch, Table},
};
use std::collections::{BTreeMap, HashMap};

/// One instruction: `struct sock_filter` in linux/filter.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    /// How many instructions to skip if the comparison holds, and if it does not.
    pub(crate) skip: [u8; 2],
    pub(crate) operand: u32,
}

// linux/bpf_common.h
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// Where things are in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// What types for the user at a terminal: asm-generic/ioctls.h, `ioctl_console(2)`.
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;
const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// The kernel sees only these bits of an ioctl(2)'s request: CVE-2019-10063.
const REQUEST: u64 = 0xffff_ffff;

/// Turn `profile` into a program. Whatever it says, nothing can be typed at a terminal.
pub(crate) fn compile(profile: &Profile, table: &Table) -> Vec<Instruction> {
    let mut program = Program::default();
    let mut unknown = program.end(Action::KillProcess);
    // The machine's own comes first and is compiled last: everything is put before what is there already.
    for arch in profile.arches.iter().rev() {
        program.argument_bits = arch.argument_bits();
        let search = program.search(&ranges(profile, *arch, table));
        let found = program.load(NUMBER, search);
        unknown = program.jump_if(JUMP_IF_EQUAL, arch.token(), found, unknown);
    }
    program.load(ARCH, unknown);
    program.backwards.reverse();
    program.backwards
}

/// What becomes of one call: the first alternative that fits, or else the last word.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    alternatives: Vec<(Vec<Condition>, Action)>,
    otherwise: Action,
}

impl From<Action> for Verdict {
    fn from(otherwise: Action) -> Self {
        Self { alternatives: vec![], otherwise }
    }
}

/// The calls of `arch` from number 0 on, by the first number of each range that fares alike.
fn ranges(profile: &Profile, arch: Arch, table: &Table) -> Vec<(u32, Verdict)> {
    let named = verdicts(profile, arch, table);
    let ordinary = arch.end_of_ordinary();
    // As runc does: calls that are newer than all that the profile speaks of are not there, so that programs
    // fall back to older ones.
    let newer = named.range(..ordinary).next_back().map_or(0, |(last, _)| last + 1);
    let absent = Action::Errno(ENOSYS);
    let verdict = |number: u32| match named.get(&number) {
        Some(verdict) => verdict.clone(),
        // x32's calls, at which most kernels answer the same.
        None if arch == Arch::X86_64 && number >= ordinary => absent.into(),
        None if number >= newer && !profile.default.permits() => absent.into(),
        None => profile.default.into(),
    };
    let mut starts: Vec<u32> = named.keys().flat_map(|number| [*number, number + 1]).collect();
    starts.extend([0, newer, ordinary]);
    starts.sort_unstable();
    let mut ranges: Vec<_> = starts.into_iter().map(|start| (start, verdict(start))).collect();
    ranges.dedup_by(|next, range| next.1 == range.1);
    ranges
}

/// The calls of `arch` that the profile speaks of.
fn verdicts(profile: &Profile, arch: Arch, table: &Table) -> BTreeMap<u32, Verdict> {
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    let mut decided = HashMap::new();
    for rule in profile.rules.iter().filter(|rule| rule.action != profile.default) {
        for number in rule.names.iter().filter_map(|name| table.number(arch, name)) {
            let verdict = verdicts.entry(number).or_insert(profile.default.into());
            if rule.conditions.is_empty() {
                verdict.otherwise = *decided.entry(number).or_insert(rule.action);
            } else {
                verdict.alternatives.push((rule.conditions.clone(), rule.action));
            }
        }
    }
    for number in decided.keys() {
        verdicts.entry(*number).and_modify(|verdict| verdict.alternatives.clear());
    }
    if let Some(ioctl) = table.number(arch, "ioctl") {
        let verdict = verdicts.entry(ioctl).or_insert(profile.default.into());
        let typing = [TIOCSTI, TIOCLINUX].map(|value| {
            let comparison = Comparison::MaskedEqual(REQUEST);
            (vec![Condition { index: 1, comparison, value }], Action::Errno(EPERM))
        });
        verdict.alternatives.splice(0..0, typing);
    }
    verdicts
}

/// A program in the making. It grows from its end, because jumps lead only forward.
#[derive(Default)]
struct Program {
    backwards: Vec<Instruction>,
    /// Where it returns what.
    ends: HashMap<u32, Label>,
    /// The bits of an argument that count.
    argument_bits: u64,
}

/// An instruction: how many there are from it to the end.
type Label = usize;

impl Program {
    fn put(&mut self, code: u16, skip: [u8; 2], operand: u32) -> Label {
        self.backwards.push(Instruction { code, skip, operand });
        self.backwards.len()
    }

    /// End with `action`.
    fn end(&mut self, action: Action) -> Label {
        let code = action.code();
        match self.ends.get(&code) {
            Some(label) => *label,
            None => self.put_end(code),
        }
    }

    fn put_end(&mut self, code: u32) -> Label {
        let label = self.put(RETURN, [0, 0], code);
        self.ends.insert(code, label);
        label
    }

    /// Load the word at `offset` of the data, and go on at `then`.
    fn load(&mut self, offset: u32, then: Label) -> Label {
        if then != self.backwards.len() {
            self.jump(then);
        }
        self.put(LOAD, [0, 0], offset)
    }

    fn jump(&mut self, to: Label) -> Label {
        let distance = self.backwards.len() - to;
        self.put(JUMP, [0, 0], u32::try_from(distance).unwrap_or(u32::MAX))
    }

    /// Compare what was loaded with `operand`, and go on at `yes` or at `no`.
    fn jump_if(&mut self, code: u16, operand: u32, yes: Label, no: Label) -> Label {
        let labels = [self.near(yes), self.near(no)];
        let end = self.backwards.len();
        let skip = labels.map(|label| u8::try_from(end - label).unwrap_or(u8::MAX));
        self.put(code, skip, operand)
    }

    /// `label`, or one in reach of a conditional jump that comes to the same.
    fn near(&mut self, label: Label) -> Label {
        // A conditional jump skips up to 255 instructions; one is kept for what its other side may put between.
        const REACH: usize = 254;
        let target = self.backwards[label - 1];
        if self.backwards.len() - label <= REACH {
            label
        } else if target.code == RETURN {
            self.put_end(target.operand)
        } else {
            self.jump(label)
        }
    }

    /// Find the range that the loaded number is in.
    fn search(&mut self, ranges: &[(u32, Verdict)]) -> Label {
        match ranges {
            [] => self.end(Action::KillProcess),
            [(_, verdict)] => self.decide(verdict),
            _ => {
                let (lower, upper) = ranges.split_at(ranges.len() / 2);
                let yes = self.search(upper);
                let no = self.search(lower);
                self.jump_if(JUMP_IF_GREATER_OR_EQUAL, upper[0].0, yes, no)
            }
        }
    }

    fn decide(&mut self, verdict: &Verdict) -> Label {
        let mut next = self.end(verdict.otherwise);
        for (conditions, action) in verdict.alternatives.iter().rev() {
            let action = self.end(*action);
            next = conditions
                .iter()
                .rev()
                .fold(action, |holds, condition| self.test(*condition, holds, next));
        }
        next
    }

    fn test(&mut self, condition: Condition, yes: Label, no: Label) -> Label {
        let Condition { index, comparison, value } = condition;
        let (greater, greater_or_equal) = (JUMP_IF_GREATER, JUMP_IF_GREATER_OR_EQUAL);
        match comparison {
            Comparison::Equal => self.test_bits(index, self.argument_bits, value, yes, no),
            Comparison::NotEqual => self.test_bits(index, self.argument_bits, value, no, yes),
            Comparison::MaskedEqual(mask) => {
                self.test_bits(index, mask & self.argument_bits, value, yes, no)
            }
            Comparison::Greater => self.test_order(index, greater, value, yes, no),
            Comparison::LessOrEqual => self.test_order(index, greater, value, no, yes),
            Comparison::GreaterOrEqual => self.test_order(index, greater_or_equal, value, yes, no),
            Comparison::Less => self.test_order(index, greater_or_equal, value, no, yes),
        }
    }

    /// Compare the bits `mask` of an argument.
    fn test_bits(&mut self, index: u8, mask: u64, value: u64, yes: Label, no: Label) -> Label {
        let [mask_high, mask_low] = halves(mask);
        let [high, low] = halves(value & mask);
        let [at_high, at_low] = places(index);
        let low = self.test_word(at_low, mask_low, low, yes, no);
        if mask_high == 0 { low } else { self.test_word(at_high, mask_high, high, low, no) }
    }

    fn test_word(&mut self, at: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
        self.jump_if(JUMP_IF_EQUAL, value, yes, no);
        if mask != u32::MAX {
            self.put(AND, [0, 0], mask);
        }
        self.put(LOAD, [0, 0], at)
    }

    /// Compare an argument by `code`: its high half decides unless it is equal.
    fn test_order(&mut self, index: u8, code: u16, value: u64, yes: Label, no: Label) -> Label {
        let [high, low] = halves(value);
        let [at_high, at_low] = places(index);
        self.jump_if(code, low, yes, no);
        let low = self.put(LOAD, [0, 0], at_low);
        if halves(self.argument_bits)[0] == 0 {
            return low;
        }
        let not_greater = self.jump_if(JUMP_IF_EQUAL, high, low, no);
        self.jump_if(JUMP_IF_GREATER, high, yes, not_greater);
        self.put(LOAD, [0, 0], at_high)
    }
}

/// The high and the low half of `value`.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
fn halves(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

/// Where the high and the low half of an argument are, on little-endian machines.
fn places(index: u8) -> [u32; 2] {
    let low = ARGUMENTS + 8 * u32::from(index);
    [low + 4, low]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::seccomp::{built::NATIVE, default, profile::Rule};
    use proptest::{collection::vec, prelude::*, sample::select};

    /// A system call as a filter sees it.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Call {
        pub(crate) arch: Arch,
        pub(crate) number: u32,
        pub(crate) arguments: [u64; 6],
    }

    impl Call {
        pub(crate) fn new(arch: Arch, number: u32, arguments: [u64; 6]) -> Self {
            Self { arch, number, arguments }
        }

        fn word(&self, at: u32) -> u32 {
            match at {
                NUMBER => self.number,
                ARCH => self.arch.token(),
                _ => {
                    let [high, low] =
                        halves(self.arguments[usize::try_from((at - ARGUMENTS) / 8).unwrap()]);
                    if at.is_multiple_of(8) { low } else { high }
                }
            }
        }
    }

    /// What the kernel does with a program. The result is what it returns, and after how many instructions.
    pub(crate) fn run(program: &[Instruction], call: &Call) -> (u32, usize) {
        const JUMP_IF_SET: u16 = 0x45;
        let (mut at, mut word, mut taken) = (0, 0, 0);
        loop {
            let Instruction { code, skip, operand } = program[at];
            at += 1;
            taken += 1;
            let holds = match code {
                LOAD => {
                    word = call.word(operand);
                    continue;
                }
                AND => {
                    word &= operand;
                    continue;
                }
                JUMP => {
                    at += usize::try_from(operand).unwrap();
                    continue;
                }
                RETURN => return (operand, taken),
                JUMP_IF_EQUAL => word == operand,
                JUMP_IF_GREATER => word > operand,
                JUMP_IF_GREATER_OR_EQUAL => word >= operand,
                JUMP_IF_SET => word & operand != 0,
                _ => panic!("{code:#x} is no instruction"),
            };
            at += usize::from(skip[usize::from(!holds)]);
        }
    }

    fn holds(condition: &Condition, call: &Call) -> bool {
        let bits = call.arch.argument_bits();
        let argument = call.arguments[usize::from(condition.index)] & bits;
        let value = condition.value & bits;
        match condition.comparison {
            Comparison::Equal => argument == value,
            Comparison::NotEqual => argument != value,
            Comparison::Less => argument < value,
            Comparison::LessOrEqual => argument <= value,
            Comparison::Greater => argument > value,
            Comparison::GreaterOrEqual => argument >= value,
            Comparison::MaskedEqual(mask) => argument & mask == value & mask,
        }
    }

    /// The rules about one call.
    fn about<'a>(
        profile: &'a Profile<'_>,
        arch: Arch,
        number: u32,
        table: &Table,
    ) -> Vec<&'a Rule<'a>> {
        let names_it = |name: &&str| table.number(arch, name) == Some(number);
        profile.rules.iter().filter(|rule| rule.names.iter().any(names_it)).collect()
    }

    /// What these rules say about a call of theirs, read in the plainest way. `None`: there are none.
    fn read(rules: &[&Rule], default: Action, call: &Call) -> Option<Action> {
        let fits = |rule: &&&Rule| rule.conditions.iter().all(|condition| holds(condition, call));
        let decides = rules.iter().find(|rule| rule.conditions.is_empty());
        match decides.or(rules.iter().find(fits)) {
            Some(rule) => Some(rule.action),
            None => (!rules.is_empty()).then_some(default),
        }
    }

    fn types_at_a_terminal(call: &Call, ioctl: Option<u32>) -> bool {
        Some(call.number) == ioctl && [TIOCSTI, TIOCLINUX].contains(&(call.arguments[1] & REQUEST))
    }

    /// Arguments that make a difference to the rules of the default profile, and their neighbours.
    fn telling_arguments() -> Vec<u64> {
        let edges = [0, 1, 8, 12, 38, 40, 46, 0x5412, 0x541c, 0x2_0000, 0x2_0008, 0x7e02_0000];
        let mut all: Vec<u64> = edges.into_iter().flat_map(|edge| [edge, edge + 1]).collect();
        all.extend((0..32).map(|bit| 1 << bit));
        all.extend(all.clone().into_iter().map(|value| value | 1 << 32));
        all.extend([u64::from(u32::MAX), u64::MAX]);
        all
    }

    #[test]
    fn every_number_fares_as_the_default_profile_says() {
        let table = Table::new();
        for capabilities in [&["CAP_SYS_CHROOT"][..], &["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"], &[]] {
            for native in [Arch::X86_64, Arch::Aarch64] {
                let profile = default::default(native, |name| capabilities.contains(&name));
                let program = compile(&profile, &table);
                for arch in [native, native.compat()] {
                    let newest = table.number(arch, "removexattrat").unwrap();
                    let ioctl = table.number(arch, "ioctl");
                    for number in (0..600).chain([0xf_0001, 0xf_0002, 0xf_0005, 0x3fff_ffff]) {
                        let rules = about(&profile, arch, number, &table);
                        let beyond = if number > newest { ENOSYS } else { EPERM };
                        for argument in telling_arguments() {
                            let call = Call::new(arch, number, [argument; 6]);
                            let expected = match read(&rules, profile.default, &call) {
                                _ if types_at_a_terminal(&call, ioctl) => Action::Errno(EPERM),
                                Some(action) => action,
                                None => Action::Errno(beyond),
                            };
                            assert_eq!(run(&program, &call).0, expected.code(), "{call:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_call_is_found_in_few_steps() {
        let table = Table::new();
        let program = compile(&default::default(NATIVE, |_| false), &table);
        assert!(program.len() < 400, "{}", program.len());
        for name in ["read", "write", "openat", "close", "futex", "epoll_pwait", "mount", "keyctl"]
        {
            let number = table.number(NATIVE, name).unwrap();
            let (_, steps) = run(&program, &Call::new(NATIVE, number, [0; 6]));
            assert!(steps <= 12, "{name}: {steps}");
        }
    }

    #[test]
    fn calls_of_x32_are_not_there_and_those_of_other_architectures_kill() {
        let program = compile(&default::default(Arch::X86_64, |_| true), &Table::new());
        let returned = |arch, number| run(&program, &Call::new(arch, number, [0; 6])).0;
        assert_eq!(returned(Arch::X86_64, 0x4000_0000), Action::Errno(ENOSYS).code());
        assert_eq!(returned(Arch::X86_64, 0x4000_0202), Action::Errno(ENOSYS).code());
        assert_eq!(returned(Arch::X86_64, u32::MAX), Action::Errno(ENOSYS).code());
        assert_eq!(returned(Arch::Arm, 0), Action::KillProcess.code());
    }

    #[test]
    fn a_long_program_still_jumps_where_it_should() {
        // Three hundred conditions on one call, and thirty calls of them: far beyond a short jump.
        let names = "read write open close stat fstat lstat poll lseek mmap mprotect munmap brk";
        let rules: Vec<_> = (0..300)
            .map(|value| Rule {
                names: names.split(' ').step_by(2).collect(),
                conditions: vec![
                    Condition { index: 2, comparison: Comparison::Equal, value: value << 20 },
                    Condition { index: 0, comparison: Comparison::Greater, value },
                ],
                action: Action::Errno(u16::try_from(value).unwrap()),
            })
            .collect();
        let profile = Profile { default: Action::Log, arches: vec![Arch::X86_64], rules };
        let table = Table::new();
        let program = compile(&profile, &table);
        assert!(program.len() > 4096);
        for number in 0..14 {
            let rules = about(&profile, Arch::X86_64, number, &table);
            for value in 0..302 {
                let argument = value + u64::from(number % 2);
                let call = Call::new(Arch::X86_64, number, [argument, 0, value << 20, 0, 0, 0]);
                let expected = read(&rules, profile.default, &call).unwrap_or(Action::Log);
                assert_eq!(run(&program, &call).0, expected.code(), "{call:?}");
            }
        }
    }

    #[test]
    fn comparisons_hold_on_all_bits_that_the_architecture_has() {
        let values: Vec<u64> = [0, 1, 2, 5, 0xffff_ffff]
            .into_iter()
            .flat_map(|low| [0, 1, 2, 0xffff_ffff].map(|high: u64| high << 32 | low))
            .collect();
        let plain = [
            Comparison::Equal,
            Comparison::NotEqual,
            Comparison::Less,
            Comparison::LessOrEqual,
            Comparison::Greater,
            Comparison::GreaterOrEqual,
        ];
        let table = Table::new();
        for comparison in
            plain.into_iter().chain(values.iter().map(|mask| Comparison::MaskedEqual(*mask)))
        {
            for value in &values {
                let condition = Condition { index: 5, comparison, value: *value };
                let rule =
                    Rule { names: vec!["read"], conditions: vec![condition], action: Action::Trap };
                let arches = vec![Arch::X86_64, Arch::X86];
                let profile = Profile { default: Action::Allow, arches, rules: vec![rule] };
                let program = compile(&profile, &table);
                for (arch, argument) in
                    profile.arches.iter().flat_map(|arch| values.iter().map(move |it| (*arch, *it)))
                {
                    let number = table.number(arch, "read").unwrap();
                    let call = Call::new(arch, number, [0, 0, 0, 0, 0, argument]);
                    let expected =
                        if holds(&condition, &call) { Action::Trap } else { Action::Allow };
                    assert_eq!(run(&program, &call).0, expected.code(), "{condition:?} {call:?}");
                }
            }
        }
    }

    #[test]
    fn a_rule_without_conditions_decides_whatever_others_there_are() {
        let rule = |conditions: &[Condition], action| Rule {
            names: vec!["read", "nosuch"],
            conditions: conditions.into(),
            action,
        };
        let condition = Condition { index: 0, comparison: Comparison::Equal, value: 7 };
        let profile = Profile {
            default: Action::Allow,
            arches: vec![NATIVE],
            rules: vec![
                rule(&[condition], Action::Errno(5)),
                rule(&[], Action::Errno(6)),
                rule(&[], Action::Errno(7)),
            ],
        };
        let table = Table::new();
        let number = table.number(NATIVE, "read").unwrap();
        let call = Call::new(NATIVE, number, [7; 6]);
        assert_eq!(run(&compile(&profile, &table), &call).0, Action::Errno(6).code());
    }

    fn any_action() -> impl Strategy<Value = Action> {
        prop_oneof![
            select(vec![Action::Allow, Action::Log, Action::Trap, Action::KillProcess]),
            (1_u16..200).prop_map(Action::Errno),
        ]
    }

    /// Few values, so that they meet, in both halves.
    fn any_value() -> impl Strategy<Value = u64> {
        let half = || select(vec![0_u64, 1, 2, 38, 0x5412, 0x7fff_ffff, 0xffff_ffff]);
        (half(), half()).prop_map(|(high, low)| high << 32 | low)
    }

    fn any_condition() -> impl Strategy<Value = Condition> {
        let comparison = prop_oneof![
            select(vec![
                Comparison::Equal,
                Comparison::NotEqual,
                Comparison::Less,
                Comparison::LessOrEqual,
                Comparison::Greater,
                Comparison::GreaterOrEqual,
            ]),
            any_value().prop_map(Comparison::MaskedEqual),
        ];
        (0_u8..6, comparison, any_value()).prop_map(|(index, comparison, value)| Condition {
            index,
            comparison,
            value,
        })
    }

    const NAMES: &[&str] =
        &["read", "write", "open", "ioctl", "socketcall", "cacheflush", "openat2", "nosuch"];

    fn any_rule() -> impl Strategy<Value = Rule<'static>> {
        (vec(select(NAMES), 1..5), vec(any_condition(), 0..4), any_action())
            .prop_map(|(names, conditions, action)| Rule { names, conditions, action })
    }

    proptest! {
        #[test]
        fn any_profile_does_what_its_words_say(
            rules in vec(any_rule(), 0..60),
            default in any_action(),
            arguments in vec([(); 6].map(|()| any_value()), 20),
        ) {
            let table = Table::new();
            for native in [Arch::X86_64, Arch::Aarch64] {
                let arches = vec![native, native.compat()];
                let profile = Profile { default, arches, rules: rules.clone() };
                let program = compile(&profile, &table);
                for arch in [native, native.compat()] {
                    for number in NAMES.iter().filter_map(|name| table.number(arch, name)) {
                        let mut about = about(&profile, arch, number, &table);
                        about.retain(|rule| rule.action != default); // they say nothing new
                        for arguments in &arguments {
                            let call = Call::new(arch, number, *arguments);
                            let expected = read(&about, default, &call);
                            let returned = run(&program, &call).0;
                            if types_at_a_terminal(&call, table.number(arch, "ioctl")) {
                                prop_assert_eq!(returned, Action::Errno(EPERM).code());
                            } else if let Some(expected) = expected {
                                prop_assert_eq!(returned, expected.code(), "{:?}", call);
                            } else {
                                let absent = Action::Errno(ENOSYS).code();
                                let newer = !default.permits() && returned == absent;
                                prop_assert!(newer || returned == default.code(), "{:?}", call);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The filter says of every call what one made by seccompiler from the same words says.
    #[test]
    fn seccompiler_comes_to_the_same() {
        use seccompiler::{
            BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
            SeccompFilter, SeccompRule,
        };
        let table = Table::new();
        let profile = default::default(Arch::X86_64, |_| false);
        let ours = compile(&profile, &table);
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for rule in profile.rules.iter().filter(|rule| rule.action == Action::Allow) {
            let conditions: Vec<_> = rule
                .conditions
                .iter()
                .map(|condition| {
                    let operator = match condition.comparison {
                        Comparison::Equal => SeccompCmpOp::Eq,
                        Comparison::LessOrEqual => SeccompCmpOp::Le,
                        Comparison::Greater => SeccompCmpOp::Gt,
                        Comparison::NotEqual => SeccompCmpOp::Ne,
                        Comparison::MaskedEqual(mask) => SeccompCmpOp::MaskedEq(mask),
                        _ => panic!("{condition:?}"),
                    };
                    let (index, value) = (condition.index, condition.value);
                    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value).unwrap()
                })
                .collect();
            for number in rule.names.iter().filter_map(|name| table.number(Arch::X86_64, name)) {
                let alternatives = rules.entry(number.into()).or_default();
                if !conditions.is_empty() {
                    alternatives.push(SeccompRule::new(conditions.clone()).unwrap());
                }
            }
        }
        let (refuse, allow) = (SeccompAction::Errno(1), SeccompAction::Allow);
        let filter =
            SeccompFilter::new(rules, refuse, allow, seccompiler::TargetArch::x86_64).unwrap();
        let theirs: Vec<_> = BpfProgram::try_from(filter)
            .unwrap()
            .into_iter()
            .map(|it| Instruction { code: it.code, skip: [it.jt, it.jf], operand: it.k })
            .collect();
        let allowed = Action::Allow.code();
        for number in 0..500 {
            // The terminal's requests are refused by ours alone.
            for argument in
                telling_arguments().into_iter().filter(|a| !matches!(a & REQUEST, 0x5412 | 0x541c))
            {
                let call = Call::new(Arch::X86_64, number, [argument; 6]);
                let [ours, theirs] =
                    [&ours, &theirs].map(|program| run(program, &call).0 == allowed);
                assert_eq!(ours, theirs, "{call:?}");
            }
        }
    }
}
