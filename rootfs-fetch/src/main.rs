//! Make a root file system: fetch the Ubuntu base, verify it, unpack it, install packages.

fn main() {}
