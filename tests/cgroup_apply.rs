//! cgroup-apply from outside.
