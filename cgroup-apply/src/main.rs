//! Make a cgroup, set its limits, run a command inside it.

fn main() {}
