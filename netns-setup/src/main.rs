//! Make a named network namespace and the veth pair that leads to it.

fn main() {}
