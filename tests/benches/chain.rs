//! `make run CMD=true` when everything is in place, and what each part of it takes.

use crate::{
    error::{Attempt as _, Error},
    host::{Host, NETNS, tarball, tool, top},
    measure::{Candidates, Series, words},
    peers::Container,
    report::{Report, digits},
};

const TEXT: &str = "\
`make run CMD=true` with the tools built, the tree and the network made. Each of the four finds that there is nothing to do, or does \
it. Below it, what make calls one after the other; the rest is make and its shells.";

pub(crate) fn measure(host: &Host, rounds: usize) -> Result<Report, Error> {
    let tree = host.scratch().join("tree").display().to_string();
    let fetch =
        format!("{} --no-install --from {} {tree}", tool("rootfs-fetch")?, tarball()?.display());
    host.runner.must_succeed(&words(&fetch))?;
    let mut list = Candidates::default();
    let directory = top().canonicalize().attempt(|| "cannot find the Makefile".into())?;
    let run = format!(
        "make --directory={} --no-print-directory run CMD=true ROOTFS={tree} NETNS={NETNS} CGROUP={}-{{n}}",
        directory.display(),
        host.cgroup()
    );
    list.add("make run CMD=true", [words(&run)]);
    let build = format!("make --directory={} --no-print-directory build", directory.display());
    list.add("make build", [words(&build)]);
    list.add("rootfs-fetch", [words(&format!("{} --or-bootstrap {tree}", tool("rootfs-fetch")?))]);
    let network = format!(
        "{} up {} {NETNS}",
        tool("netns-setup")?,
        if Host::find("nft").is_some() { "--nat --forward-accept" } else { "" }
    );
    list.add("netns-setup up", [words(&network)]);
    let container =
        Container { host, rootfs: &tree, netns: NETNS, command: "/bin/sh -c true", workdir: "/" };
    list.add("cgroup-apply run … ns-spawn", [container.limited("512M", "")?]);
    host.runner.must_succeed(&words(&network))?;
    let measured = host.runner.rounds(list, rounds, |_| Ok(()))?;
    let mut report = Report::new("chain", "The whole chain", rounds);
    report.say(TEXT);
    let row = |series: &Series| {
        let summary = series.summary(0);
        vec![
            series.candidate.name.clone(),
            digits(summary.median),
            format!("{}–{}", digits(summary.p25), digits(summary.p75)),
            digits(summary.p99),
        ]
    };
    report.table(
        &["", "median ms", "quartiles", "p99"],
        &measured.series.iter().map(row).collect::<Vec<_>>(),
    );
    report.missing(&measured.missing);
    report.samples("chain", "ms", &measured.series);
    Ok(report)
}
