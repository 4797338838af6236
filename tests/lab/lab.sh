# The lab's script, in parts: each is what one of the tools replaces. Sourced by tests/lab.rs, which picks for each part
# the lab's own form or the tool's. ROOT: the tree; BASE: the tarball; PROGRAM: the C program.

rootfs_lab() {
    mkdir "$ROOT"
    tar -xzf "$BASE" -C "$ROOT"
}

rootfs_tool() {
    rootfs-fetch --from "$BASE" --no-install "$ROOT" >/dev/null
}

network_lab() {
    ip netns add container_network_ns
    ip link add veth_host type veth peer name veth_container
    ip link set veth_container netns container_network_ns
    ip addr add 192.168.10.1/24 dev veth_host
    ip link set veth_host up
    ip netns exec container_network_ns ip addr add 192.168.10.2/24 dev veth_container
    ip netns exec container_network_ns ip link set veth_container up
    ip netns exec container_network_ns ip route add default via 192.168.10.1
    sysctl -q -w net.ipv4.ip_forward=1
}

network_tool() {
    netns-setup up >/dev/null
}

cgroup_lab() {
    mkdir -p /sys/fs/cgroup/pids/container
    echo 15 >/sys/fs/cgroup/pids/container/pids.max
    sh -c 'echo $$ >/sys/fs/cgroup/pids/container/cgroup.procs && exec "$@"' sh "$@"
}

cgroup_tool() {
    cgroup-apply run --pids-max 15 container -- "$@"
}

cgroup_program() { # the C program does it itself
    "$@"
}

# What starts the command: the lab's program, which joins the network (and the cgroup, unless that is done), or ours.
spawn_lab() {
    ROOT=$ROOT SKIP=$SKIP "cgroup_$CGROUP" "$PROGRAM" "$1"
}

spawn_tool() {
    "cgroup_$CGROUP" ns-spawn --netns container_network_ns --root "$ROOT" -- /bin/bash -c "$1"
}
