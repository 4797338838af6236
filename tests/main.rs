//! The four tools from outside: the built binaries, whole outputs, real kernels.
//!
//! One test binary, so that fixtures are made once. `BIN_DIR` says where the tools are (else: where cargo
//! built them); `MUST_RUN=1`, as in CI, turns a skipped test into a failed one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[macro_use]
mod support;

mod cgroup_apply;
mod cgroup_delegation;
mod cgroup_faults;
mod cgroup_limits;
mod cgroup_runs;
mod cgroup_stats;
mod cgroup_verbs;
mod container;
mod contract;
mod documents;
mod fixture;
mod http_server;
mod install;
mod lab;
mod manual;
mod netns_bridge;
mod netns_faults;
mod netns_nat;
mod netns_refused;
mod netns_setup;
mod netns_verbs;
mod ns_spawn;
mod ns_spawn_hostile;
mod ns_spawn_mounts;
mod ns_spawn_signals;
mod ns_spawn_terminal;
mod ns_spawn_users;
mod pty;
mod rootfs_apt;
mod rootfs_archives;
mod rootfs_archives_members;
mod rootfs_archives_paths;
mod rootfs_exact;
mod rootfs_fetch;
mod rootfs_images;
mod rootfs_killed;
mod rootfs_layout;
mod rootfs_server;
mod rootfs_signatures;
mod rootfs_sources;
mod rootfs_unpack;
mod rootfs_user;
mod schemas;
mod seccomp;
