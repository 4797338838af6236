//! Which functions a start calls: for the linker, which puts them side by side.
//!
//! A program's text is read in by pieces of 64 KiB, and each costs a page fault in every process that runs it. What a start
//! calls is a quarter of the text and, as it comes from the compiler, lies in all pieces.

use crate::{
    error::{Attempt as _, Error},
    host::{Host, NETNS, results, tool},
    measure::{Argv, words},
    peers::Container,
};
use std::{collections::HashSet, fmt::Write as _, fs, path::Path};

/// Write `target/bench/TOOL.ld` for each tool that is linked statically, from the map that the linker has left there.
pub(crate) fn write(host: &Host) -> Result<(), Error> {
    let rootfs = host.rootfs(&["true"])?.display().to_string();
    let trace = host.compile("trace")?;
    let starts = starts(host, &rootfs)?;
    for (name, starts) in starts {
        let dir = results()?;
        let map = Map::read(&dir.join(format!("{name}.map")))?;
        let mut called = Called::default();
        for start in starts {
            let addresses = host.scratch().join("addresses");
            let mut argv = vec![trace.display().to_string(), addresses.display().to_string()];
            argv.extend(start);
            host.runner.must_succeed(&argv)?;
            called.add(&map, &addresses)?;
        }
        let script = dir.join(format!("{name}.ld"));
        fs::write(&script, called.script())
            .attempt(|| format!("cannot write '{}'", script.display()))?;
    }
    Ok(())
}

/// What each tool is started for most often.
fn starts(host: &Host, rootfs: &str) -> Result<[(&'static str, Vec<Argv>); 3], Error> {
    let netns_setup = tool("netns-setup")?;
    let verb = |verb: &str| words(&format!("{netns_setup} {verb} {NETNS}"));
    // The last one leaves the network that ns-spawn joins.
    let networks = vec![verb("up"), verb("down"), verb("up")];
    let container = Container { host, rootfs, netns: NETNS, command: "/bin/true", workdir: "/" };
    let (cgroup_apply, cgroup) = (tool("cgroup-apply")?, host.cgroup());
    let limited = |options: &str| {
        let limits = "--pids-max 64 --memory-max 512M --cpu-max 1";
        words(&format!("{cgroup_apply} run {options} {limits} {cgroup}-order -- /bin/true"))
    };
    let deleted = words(&format!("{cgroup_apply} delete {cgroup}-order"));
    Ok([
        ("netns-setup", networks),
        ("cgroup-apply", vec![limited(""), limited("--exec"), deleted]),
        ("ns-spawn", vec![container.ns_spawn("")?]),
    ])
}

/// The sections of text that a program was linked from.
struct Map(Vec<Section>);

struct Section {
    start: u64,
    end: u64,
    /// Where it comes from: an object, or an archive and its member.
    source: String,
    name: String,
}

impl Map {
    /// Read what lld writes with `-Map`: lines of address, load address, size, alignment, and SOURCE:(SECTION).
    fn read(path: &Path) -> Result<Self, Error> {
        let text =
            fs::read_to_string(path).attempt(|| format!("cannot read '{}'", path.display()))?;
        let mut sections: Vec<_> = text.lines().filter_map(Section::parse).collect();
        sections.sort_by_key(|section| section.start);
        if sections.is_empty() {
            return Err(Error::new(format!("'{}' is no map of lld's", path.display())));
        }
        Ok(Self(sections))
    }

    fn at(&self, address: u64) -> Option<&Section> {
        let next = self.0.partition_point(|section| section.start <= address);
        self.0.get(next.checked_sub(1)?).filter(|section| address < section.end)
    }
}

impl Section {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let mut hex = || u64::from_str_radix(words.next()?, 16).ok();
        let (start, _, size) = (hex()?, hex()?, hex()?);
        let (source, name) = words.nth(1)?.strip_suffix(')')?.rsplit_once(":(")?;
        name.starts_with(".text").then(|| Self {
            start,
            end: start + size,
            source: source.into(),
            name: name.into(),
        })
    }

    /// What names it in a linker script, on other machines and with other compilers too.
    fn pattern(&self) -> Option<String> {
        let Self { source, name, .. } = self;
        // What LTO has made public has this and a number at the end of its name.
        let name = name.split_once(".llvm.").map_or(name.as_str(), |(name, _)| name);
        if name.contains("_ZN") {
            // The end of a Rust function's name is a hash of much that differs.
            let (name, _) = name.rsplit_once("17h")?;
            return Some(format!("*({name}17h*E {name}17h*E.llvm.*)"));
        }
        if name.contains("._R") {
            let name = without_hashes(name);
            return Some(format!("*({name} {name}.llvm.*)"));
        }
        let (archive, member) = source.strip_suffix(')')?.rsplit_once('(')?;
        let archive = Path::new(archive).file_name()?.to_str()?;
        Some(format!("*{archive}:{member}({name})"))
    }
}

/// A Rust function's name in the newer form, with `*` for the hashes of crates: they follow `Cs` and end with `_`.
fn without_hashes(name: &str) -> String {
    let mut parts = name.split("Cs");
    let mut pattern = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('_') {
            Some((hash, rest)) if hash.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                pattern.extend(["Cs*_", rest]);
            }
            _ => pattern.extend(["Cs", part]),
        }
    }
    pattern
}

/// Patterns of sections, in the order in which a start comes to them.
#[derive(Default)]
struct Called {
    patterns: Vec<String>,
    known: HashSet<String>,
}

impl Called {
    fn add(&mut self, map: &Map, addresses: &Path) -> Result<(), Error> {
        let text = fs::read_to_string(addresses)
            .attempt(|| format!("cannot read '{}'", addresses.display()))?;
        let addresses = text.lines().filter_map(|line| u64::from_str_radix(line, 16).ok());
        for pattern in addresses.filter_map(|address| map.at(address)?.pattern()) {
            if self.known.insert(pattern.clone()) {
                self.patterns.push(pattern);
            }
        }
        Ok(())
    }

    fn script(&self) -> String {
        let mut script = "/* Written by 'make start-order': the functions that a start calls, side by side. See .cargo/build.rs. */\n\
             SECTIONS {\n    .text.start : {\n"
            .to_owned();
        for pattern in &self.patterns {
            writeln!(script, "        {pattern}").expect("a string takes all");
        }
        script + "    }\n}\nINSERT BEFORE .text;\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_other_builds() {
        let line = |name: &str| format!("  2f1c00  2f1c00  192  16  /lib/libc.a(read.o):({name})");
        let cases = [
            (
                ".text._ZN3std4env4args17h987908372e27e7e6E.llvm.71",
                "*(.text._ZN3std4env4args17h*E .text._ZN3std4env4args17h*E.llvm.*)",
            ),
            (
                ".text._RNvNtCslNYArtu3iFV_5alloc3fmt6format",
                "*(.text._RNvNtCs*_5alloc3fmt6format .text._RNvNtCs*_5alloc3fmt6format.llvm.*)",
            ),
            (".text.evex", "*libc.a:read.o(.text.evex)"),
        ];
        for (name, pattern) in cases {
            let section = Section::parse(&line(name)).unwrap();
            assert_eq!(section.pattern().as_deref(), Some(pattern));
        }
    }
}
