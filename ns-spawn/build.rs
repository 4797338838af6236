//! Compiles the built-in seccomp filters, so that they cost nothing when a container starts, and has the linker put side by
//! side what a start calls.

#[path = "src/seccomp/compile.rs"]
mod compile;
#[path = "src/seccomp/default.rs"]
mod default;
#[path = "../.cargo/build.rs"]
mod order;
#[expect(dead_code, reason = "the other actions are for profiles in files")]
#[path = "src/seccomp/profile.rs"]
mod profile;
#[path = "src/seccomp/syscalls.rs"]
mod syscalls;

use compile::compile;
use profile::{Action, Profile};
use std::{env, error::Error, fs, path::Path};
use syscalls::{Arch, Table};

/// Those of Docker's default capabilities that its profile asks about; a unit test compares the outcome.
const CAPABILITIES: [&str; 1] = ["CAP_SYS_CHROOT"];

fn main() -> Result<(), Box<dyn Error>> {
    // The target's, where a script's own cfg would be the host's.
    let target = env::var("CARGO_CFG_TARGET_ARCH")?;
    let native = match target.as_str() {
        "x86_64" => Arch::X86_64,
        "aarch64" => Arch::Aarch64,
        _ => return Err(format!("seccomp/syscalls.txt has no numbers for {target}").into()),
    };
    let default = default::default(native, |name| CAPABILITIES.contains(&name));
    // Every filter keeps COMMAND from typing at a terminal; this one does nothing else.
    let terminal_only = Profile { default: Action::Allow, rules: vec![], ..default.clone() };
    let table = Table::new();
    let text = format!(
        "pub(super) const NATIVE: Arch = Arch::{native:?};\n\
         pub(super) const DEFAULT: &[Instruction] = &{:?};\n\
         pub(super) const TERMINAL_ONLY: &[Instruction] = &{:?};\n",
        compile(&default, &table),
        compile(&terminal_only, &table)
    );
    fs::write(Path::new(&env::var("OUT_DIR")?).join("built.rs"), text)?;
    println!("cargo::rerun-if-changed=build.rs"); // what it includes counts as well
    order::main()
}
