//! Run a command in new namespaces, on its own root directory.

fn main() {}
