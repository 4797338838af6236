//! The other tools: how each starts a container that is as near to ours as it can.

use crate::{
    error::{Attempt as _, Error},
    host::{Host, tool},
    measure::{Argv, words},
};
use serde_json::{Value, json};
use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
};

/// Docker's capabilities, as bwrap names them.
const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW \
                            SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP";

/// A container to be: the tree, the network namespace to join, the command.
pub(crate) struct Container<'a> {
    pub(crate) host: &'a Host,
    pub(crate) rootfs: &'a str,
    /// A name under /run/netns.
    pub(crate) netns: &'a str,
    pub(crate) command: &'a str,
    /// Where in the tree it starts.
    pub(crate) workdir: &'a str,
}

impl Container<'_> {
    fn path(&self) -> String {
        format!("/run/netns/{}", self.netns)
    }

    /// The line's words, with the command after them.
    fn line(&self, line: &str) -> Argv {
        words(&format!("{line} {}", self.command))
    }

    /// ns-spawn, with further options.
    pub(crate) fn ns_spawn(&self, options: &str) -> Result<Argv, Error> {
        let Self { rootfs, netns, workdir, .. } = self;
        let ns_spawn = tool("ns-spawn")?;
        let elsewhere =
            if *workdir == "/" { String::new() } else { format!("--workdir {workdir}") };
        Ok(self
            .line(&format!("{ns_spawn} --netns {netns} --root {rootfs} {elsewhere} {options} --")))
    }

    /// The same with limits, as `make run` does it.
    pub(crate) fn limited(&self, memory: &str, options: &str) -> Result<Argv, Error> {
        let cgroup_apply = tool("cgroup-apply")?;
        let name = self.host.cgroup();
        let mut argv = words(&format!(
            "{cgroup_apply} run --pids-max 64 --memory-max {memory} {name}-{{n}} --"
        ));
        argv.extend(self.ns_spawn(options)?);
        Ok(argv)
    }

    /// The program that makes the fewest system calls for what ns-spawn does.
    pub(crate) fn floor(&self) -> Result<Argv, Error> {
        let resolver = format!("/etc/netns/{}/resolv.conf", self.netns);
        let filter = self.seccomp_filter()?;
        let header = self.host.scratch().join("seccomp-filter.h");
        fs::write(&header, filter).attempt(|| format!("cannot write '{}'", header.display()))?;
        let floor = self.host.compile("spawn")?;
        Ok(self.line(&format!("{} {} {} {resolver}", floor.display(), self.rootfs, self.path())))
    }

    /// The seccomp filter that ns-spawn loads, as strace shows it: macros of C's.
    fn seccomp_filter(&self) -> Result<String, Error> {
        let trace = self.host.scratch().join("seccomp");
        let strace = format!(
            "strace --follow-forks --no-abbrev --trace=seccomp --output {} --",
            trace.display()
        );
        let mut argv = words(&strace);
        argv.extend(Container { command: "/bin/true", ..*self }.ns_spawn("")?);
        self.host.runner.must_succeed(&argv)?;
        let text = fs::read_to_string(&trace).attempt(|| "cannot read what strace wrote".into())?;
        let filter = text.split_once("filter=[").and_then(|(_, rest)| rest.split_once("]}"));
        let (filter, _) = filter
            .ok_or_else(|| Error::new("ns-spawn loads no seccomp filter that strace shows"))?;
        Ok(filter.to_owned())
    }

    /// bubblewrap, which joins no network namespace itself.
    pub(crate) fn bwrap(&self) -> Argv {
        let capabilities =
            CAPABILITIES.split_whitespace().map(|name| format!("--cap-add CAP_{name}"));
        let capabilities = capabilities.collect::<Vec<_>>().join(" ");
        self.line(&format!(
            "bwrap --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup --hostname container --die-with-parent \
             --bind {} / --proc /proc --dev /dev --mqueue /dev/mqueue --ro-bind /sys /sys --clearenv --setenv PATH \
             /usr/bin:/bin --cap-drop ALL {capabilities} --chdir {} --",
            self.rootfs, self.workdir
        ))
    }

    /// What joins the network namespace for a tool that does not.
    pub(crate) fn joined(&self, inner: Argv) -> Argv {
        let mut argv = words(&format!("nsenter --net={} --", self.path()));
        argv.extend(inner);
        argv
    }

    /// util-linux alone: no /dev, no /sys, no hostname.
    pub(crate) fn unshare(&self) -> Argv {
        let root = self.rootfs;
        let unshare = format!(
            "unshare --pid --uts --mount --ipc --cgroup --fork --mount-proc --root {root} --"
        );
        self.joined(self.line(&unshare))
    }

    /// What a script does with ip, unshare and chroot: no /dev, no /sys, no hostname.
    pub(crate) fn script(&self) -> Argv {
        let Self { rootfs, netns, .. } = self;
        self.line(&format!(
            "ip netns exec {netns} unshare --pid --uts --mount --ipc --cgroup --fork chroot {rootfs}"
        ))
    }

    /// An OCI runtime with the specification that 'runc spec' writes, joined to the network namespace.
    pub(crate) fn oci(&self, runtime: &str, options: &str) -> Result<Argv, Error> {
        let bundle = self.bundle(runtime)?;
        let state = self.host.scratch().join(runtime);
        let name = self.host.cgroup();
        Ok(words(&format!(
            "{runtime} --root {} {options} run --bundle {} {name}-{{n}}",
            state.display(),
            bundle.display()
        )))
    }

    /// A directory with the specification of this container.
    fn bundle(&self, runtime: &str) -> Result<PathBuf, Error> {
        let mut name = DefaultHasher::new();
        (runtime, self.command, self.workdir).hash(&mut name);
        let bundle = self.host.scratch().join(format!("bundle-{:x}", name.finish()));
        let attempt = || format!("cannot write '{}'", bundle.display());
        if bundle.exists() {
            return Ok(bundle);
        }
        fs::create_dir(&bundle).attempt(attempt)?;
        let line = format!("cd {} && exec {runtime} spec", bundle.display());
        self.host.runner.must_succeed(&["sh".into(), "-c".into(), line])?;
        let config = bundle.join("config.json");
        let text = fs::read_to_string(&config).attempt(attempt)?;
        let mut spec: Value = serde_json::from_str(&text).map_err(|_| Error::new(attempt()))?;
        spec["root"] = json!({ "path": self.rootfs });
        spec["process"]["terminal"] = json!(false);
        spec["process"]["cwd"] = json!(self.workdir);
        spec["process"]["args"] = json!(words(self.command));
        for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
            if namespace["type"] == "network" {
                namespace["path"] = json!(self.path());
            }
        }
        fs::write(&config, spec.to_string()).attempt(attempt)?;
        Ok(bundle)
    }

    /// systemd's, without its registration with machined.
    pub(crate) fn nspawn(&self) -> Argv {
        self.line(&format!(
            "systemd-nspawn --quiet --register=no --keep-unit --console=pipe --directory={} \
             --network-namespace-path={} --",
            self.rootfs,
            self.path()
        ))
    }

    /// Podman, with its storage and state where they are gone at the end.
    pub(crate) fn podman(&self) -> Argv {
        let storage = self.host.scratch().join("podman");
        self.line(&format!(
            "podman --root {} --runroot /run/podman --tmpdir /run/podman-tmp --cgroup-manager=cgroupfs run --rm --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --cgroup-parent=/{} --network=ns:{} --rootfs {}",
            storage.display(),
            self.host.cgroup(),
            self.path(),
            self.rootfs
        ))
    }
}

/// Docker's engine, with an image of the tree that is removed at the end.
pub(crate) struct Docker<'a> {
    host: &'a Host,
    image: String,
}

impl<'a> Docker<'a> {
    /// Give the tree to the engine, or say why there is none.
    pub(crate) fn new(host: &'a Host, rootfs: &str) -> Result<Result<Self, String>, Error> {
        if Host::find("docker").is_none() {
            return Ok(Err("missing: no 'docker' on this machine".into()));
        }
        let answer = host.runner.run(&words("docker version --format {{.Server.Version}}"))?;
        if answer.status != 0 {
            let complaint = host.runner.complaint(answer.status)?;
            return Ok(Err(format!(
                "missing: Docker's engine does not run on this machine: {complaint}"
            )));
        }
        let image = format!("{}:tree", host.cgroup());
        let import = format!("tar --create --directory {rootfs} . | docker import - {image}");
        host.runner.must_succeed(&["sh".into(), "-c".into(), import])?;
        Ok(Ok(Self { host, image }))
    }

    /// `docker run` without a network, as a container that joins somebody's is none of Docker's own.
    pub(crate) fn run(&self, options: &str, command: &str) -> Argv {
        words(&format!("docker run --rm --network none {options} {} {command}", self.image))
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        drop(self.host.runner.run(&words(&format!("docker rmi --force {}", self.image))));
    }
}
