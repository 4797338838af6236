//! The build script of the tools that are linked statically: has the linker put side by side what a start calls.

use std::{env, error::Error};

/// Linkers that read no scripts.
const WITHOUT_SCRIPTS: [&str; 2] = ["mold", "wild"];

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let linker =
        ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_LINKER"].map(|name| env::var(name).unwrap_or_default());
    if !WITHOUT_SCRIPTS.iter().any(|name| linker.iter().any(|words| words.contains(name))) {
        println!("cargo::rustc-link-arg-bins=-T");
        println!("cargo::rustc-link-arg-bins={}/start.ld", env::var("CARGO_MANIFEST_DIR")?);
    }
    println!("cargo::rerun-if-changed=start.ld");
    Ok(())
}
