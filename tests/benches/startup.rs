//! Starting and ending a container around /bin/true.

use crate::{
    error::Error,
    host::{Host, NETNS},
    measure::{Argv, Candidate, Candidates, Series, words},
    peers::{Container, Docker},
    report::{Report, digits, shown},
};

const TEXT: &str = "\
Each starts `/bin/true` of one and the same tree and waits for its end. *floor* is a C program that makes the fewest \
system calls for what ns-spawn does by default (`tests/benches/floors/spawn.c`), *host* is `/bin/true` without a container. \
Ratios are medians of the rounds' own ratios. Memory is the peak of the largest process; system calls are those of all \
processes, without those of `/bin/true` once it is executed; of podman and docker, those of the client. bwrap joins no network namespace and loads no \
seccomp filter; unshare and the script mount no /dev and no /sys; crun and runc make a cgroup in every hierarchy unless it is said \
that they make none.";

pub(crate) fn measure(host: &Host, rounds: usize) -> Result<Report, Error> {
    let rootfs = host.rootfs(&["true"])?.display().to_string();
    host.make_network()?;
    Host::without_hybrid_cgroups()?;
    let docker = Docker::new(host, &rootfs)?;
    let candidates = candidates(host, &rootfs, &docker)?;
    let mut report = Report::new("startup", "Start-up", rounds);
    report.say(TEXT);
    let measured = host.runner.rounds(candidates, rounds, |_| Ok(()))?;
    let (floor, bare) = (measured.named("floor")?, measured.named("host")?);
    let ours = measured.named("ns-spawn")?;
    let row = |series: &Series| -> Result<Vec<String>, Error> {
        let summary = series.summary(0);
        Ok(vec![
            series.candidate.name.clone(),
            digits(summary.median),
            format!("{}–{}", digits(summary.p25), digits(summary.p75)),
            digits(summary.p99),
            digits(series.over(bare, 0)),
            digits(series.over(floor, 0)),
            digits(1.0 / series.over(ours, 0)),
            shown(host.runner.peak(host, &series.candidate))?,
            shown(host.runner.system_calls(host, &series.candidate, Some("/bin/true")))?,
        ])
    };
    let head = [
        "",
        "median ms",
        "quartiles",
        "p99",
        "÷ host",
        "÷ floor",
        "ns-spawn ÷ it",
        "peak KiB",
        "system calls",
    ];
    report.table(&head, &measured.series.iter().map(row).collect::<Result<Vec<_>, _>>()?);
    report.missing(&measured.missing);
    report.samples("startup", "ms", &measured.series);
    report.plot(
        "startup",
        "Start and end of a container around /bin/true, ms",
        &measured.series,
        0,
    )?;
    Ok(report)
}

fn candidates(
    host: &Host,
    rootfs: &str,
    docker: &Result<Docker<'_>, String>,
) -> Result<Candidates, Error> {
    let container = Container { host, rootfs, netns: NETNS, command: "/bin/true", workdir: "/" };
    let mut list = Candidates::default();
    list.add("host", [words("/bin/true")]);
    list.add("floor", [container.floor()?]);
    list.add("ns-spawn", [container.ns_spawn("")?]);
    list.add("ns-spawn --seccomp none", [container.ns_spawn("--seccomp none")?]);
    list.add("cgroup-apply run … ns-spawn", [container.limited("512M", "")?]);
    let mut add = |name: &str, program: &str, argv: &dyn Fn() -> Result<Argv, Error>| {
        list.add_if(program, || Ok(Candidate::new(name, [argv()?])), name)
    };
    add("nsenter + unshare --root", "unshare", &|| Ok(container.unshare()))?;
    add("ip netns exec + unshare + chroot", "unshare", &|| Ok(container.script()))?;
    add("bwrap", "bwrap", &|| Ok(container.bwrap()))?;
    add("nsenter + bwrap", "bwrap", &|| Ok(container.joined(container.bwrap())))?;
    add("crun", "crun", &|| container.oci("crun", ""))?;
    add("crun without a cgroup", "crun", &|| container.oci("crun", "--cgroup-manager=disabled"))?;
    add("runc", "runc", &|| container.oci("runc", ""))?;
    let mut add_slow = |name: &str, program: &str, argv: Argv| {
        list.add_if(program, || Ok(Candidate::new(name, [argv]).slow()), name)
    };
    add_slow("systemd-nspawn", "systemd-nspawn", container.nspawn())?;
    add_slow("podman run", "podman", container.podman())?;
    match docker {
        Ok(docker) => list.push(Candidate::new("docker run", [docker.run("", "/bin/true")]).slow()),
        Err(reason) => list.lacks("docker run", reason.clone()),
    }
    Ok(list)
}
