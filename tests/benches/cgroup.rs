//! A cgroup with three limits: made, entered, removed.

use crate::{
    error::Error,
    host::{Host, NETNS, tool},
    machine,
    measure::{Argv, Candidate, Candidates, Series, words},
    peers::Container,
    report::{Report, digits},
    stats::Summary,
};
use std::time::Duration;

/// Longer than the kernel keeps what an attach has prepared for the next.
const REST: Duration = Duration::from_millis(200);

const OURS: &str = "cgroup-apply run --exec, delete";

const TEXT: &str = "\
Made with limits of pids, memory and CPU, entered, `/bin/true` executed in it; then removed. *floor* is a C program that makes the \
fewest system calls (`tests/benches/floors/cgroup.c`). *Hot*: the same candidate has just run. *Cold*: nothing has run for 200 ms, \
so that a write to `cgroup.procs` waits for a grace period of RCU. `cgroup-apply run` also waits for the command and \
removes the cgroup itself.";

const CHAIN: &str = "\
The whole chain, cold: `cgroup-apply run --pids-max --memory-max -- ns-spawn … -- /bin/true` beside ns-spawn alone.";

pub(crate) fn measure(host: &Host, rounds: usize) -> Result<Report, Error> {
    let mut report = Report::new("cgroup", "Cgroups", rounds);
    report.say(TEXT);
    for (key, title) in [("hot", "Hot"), ("cold", "Cold")] {
        let before = |candidate: &Candidate| match key {
            "hot" => host.runner.phases(candidate).map(drop),
            _ => host.runner.rest(REST),
        };
        let measured = host.runner.rounds(candidates(host)?, rounds, before)?;
        let (floor, ours) = (measured.named("floor")?, measured.named(OURS)?);
        let row = |series: &Series| {
            let summary = series.summary(0);
            let removed = series.phases.get(1).map(|phase| digits(Summary::of(phase).median));
            vec![
                series.candidate.name.clone(),
                digits(summary.median),
                format!("{}–{}", digits(summary.p25), digits(summary.p75)),
                digits(summary.p99),
                digits(series.over(floor, 0)),
                digits(1.0 / series.over(ours, 0)),
                removed.unwrap_or_else(|| "included".into()),
            ]
        };
        report.say(&format!("{title}:"));
        let head = [
            "",
            "median ms",
            "quartiles",
            "p99",
            "÷ floor",
            "run --exec ÷ it",
            "removed: median ms",
        ];
        report.table(&head, &measured.series.iter().map(row).collect::<Vec<_>>());
        report.missing(&measured.missing);
        report.samples(key, "ms", &measured.series);
        let caption = format!("{title}: a cgroup with three limits made, entered, executed in, ms");
        report.plot(&format!("cgroup-{key}"), &caption, &measured.series, 0)?;
    }
    chain(host, rounds, &mut report)?;
    Ok(report)
}

/// What the limits add to ns-spawn when nothing is warm.
fn chain(host: &Host, rounds: usize, report: &mut Report) -> Result<(), Error> {
    let rootfs = host.rootfs(&["true"])?.display().to_string();
    host.make_network()?;
    let container =
        Container { host, rootfs: &rootfs, netns: NETNS, command: "/bin/true", workdir: "/" };
    let mut list = Candidates::default();
    list.add("ns-spawn", [container.ns_spawn("")?]);
    list.add("cgroup-apply run … ns-spawn", [container.limited("512M", "")?]);
    let measured = host.runner.rounds(list, rounds, |_| host.runner.rest(REST))?;
    let alone = &measured.named("ns-spawn")?.phases[0];
    let limited = &measured.named("cgroup-apply run … ns-spawn")?.phases[0];
    let added: Vec<f64> = limited.iter().zip(alone).map(|(with, without)| with - without).collect();
    let row = |name: &str, samples: &[f64]| {
        let summary = Summary::of(samples);
        vec![
            name.to_owned(),
            digits(summary.median),
            format!("{}–{}", digits(summary.p25), digits(summary.p75)),
            digits(summary.p99),
        ]
    };
    let rows =
        [row("ns-spawn", alone), row("cgroup-apply run … ns-spawn", limited), row("added", &added)];
    report.say(CHAIN);
    report.table(&["", "median ms", "quartiles", "p99"], &rows);
    report.samples("chain", "ms", &measured.series);
    Ok(())
}

fn candidates(host: &Host) -> Result<Candidates, Error> {
    let floor = host.compile("cgroup")?.display().to_string();
    let cgroup_apply = tool("cgroup-apply")?;
    let name = format!("{}-{{n}}", host.cgroup());
    let v1 = machine::cgroups() != "v2";
    let limits = "--pids-max 15 --memory-max 256M --cpu-max 50%";
    let (make, remove) = if v1 { lines_v1(&name) } else { lines_v2(&name) };
    let tools = tools(&name, v1);
    let shell =
        |shell: &str, script: &str| -> Argv { vec![shell.into(), "-c".into(), script.into()] };
    let mut list = Candidates::default();
    let run = format!("{floor} run {name} /bin/true");
    list.add("floor", [words(&run), words(&format!("{floor} delete {name}"))]);
    let run = format!("{cgroup_apply} run --exec {limits} {name} -- /bin/true");
    list.add(OURS, [words(&run), words(&format!("{cgroup_apply} delete {name}"))]);
    let run = format!("{cgroup_apply} run {limits} {name} -- /bin/true");
    list.add("cgroup-apply run", [words(&run)]);
    for interpreter in ["dash", "bash"] {
        let title = format!("mkdir and echo in {interpreter}");
        let phases = [shell(interpreter, &make), shell(interpreter, &remove)];
        list.add_if(interpreter, || Ok(Candidate::new(&title, phases)), &title)?;
    }
    let title = "cgcreate, cgset, cgexec";
    let remove = words(&format!("cgdelete pids,memory,cpu:{name}"));
    list.add_if("cgcreate", || Ok(Candidate::new(title, [shell("sh", &tools), remove])), title)?;
    Ok(list)
}

fn lines_v1(name: &str) -> (String, String) {
    let root = "/sys/fs/cgroup";
    let dirs = format!("{root}/pids/{name} {root}/memory/{name} {root}/cpu/{name}");
    let make = format!(
        "set -e; mkdir {dirs}; echo 15 >{root}/pids/{name}/pids.max; \
         echo 268435456 >{root}/memory/{name}/memory.limit_in_bytes; \
         echo 50000 >{root}/cpu/{name}/cpu.cfs_quota_us; \
         for controller in pids memory cpu; do echo $$ >{root}/$controller/{name}/cgroup.procs; done; exec /bin/true"
    );
    (make, format!("rmdir {dirs}"))
}

fn lines_v2(name: &str) -> (String, String) {
    let dir = format!("/sys/fs/cgroup/{name}");
    let make = format!(
        "set -e; mkdir {dir}; echo 15 >{dir}/pids.max; echo 268435456 >{dir}/memory.max; \
         echo '50000 100000' >{dir}/cpu.max; echo $$ >{dir}/cgroup.procs; exec /bin/true"
    );
    (make, format!("rmdir {dir}"))
}

fn tools(name: &str, v1: bool) -> String {
    let (memory, cpu) = if v1 {
        ("memory.limit_in_bytes", "cpu.cfs_quota_us=50000")
    } else {
        ("memory.max", "cpu.max='50000 100000'")
    };
    format!(
        "set -e; cgcreate -g pids,memory,cpu:{name}; cgset -r pids.max=15 -r {memory}=268435456 -r {cpu} {name}; \
         exec cgexec -g pids,memory,cpu:{name} /bin/true"
    )
}
