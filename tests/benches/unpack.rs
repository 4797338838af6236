//! A tarball unpacked on a fresh file system.

use crate::{
    error::{Attempt as _, Error},
    host::{Host, tarball, tool},
    measure::{Argv, Candidate, Candidates, Series, words},
    report::{Report, digits, shown},
};
use nix::mount::{MntFlags, umount2};
use std::{fs, path::PathBuf};

const TEXT: &str = "\
Each unpacks the same tarball, Debian's smallest tree with sysbench, on an ext4 of its own that was made for this run, in memory: one that has \
just lost as many files as it gets is slower, whoever writes. The page cache is warm; nobody syncs. *write alone* is tar with a \
tarball that is not compressed, *inflate alone* writes no file. Memory is the peak of the largest process.";

const OURS: &str = "rootfs-fetch";
const BASE: &str = "tar -xzf";

pub(crate) fn measure(host: &Host, rounds: usize) -> Result<Report, Error> {
    let volume = Volume::new(host)?;
    let candidates = candidates(host, &volume)?;
    let measured = host.runner.rounds(candidates, rounds, |_| volume.renew())?;
    let (base, ours) = (measured.named(BASE)?, measured.named(OURS)?);
    let mut report = Report::new("unpack", "Unpacking", rounds);
    report.say(TEXT);
    report.say(&sizes(host)?);
    let row = |series: &Series| -> Result<Vec<String>, Error> {
        let summary = series.summary(0);
        let peak = volume.renew().and_then(|()| host.runner.peak(host, &series.candidate));
        Ok(vec![
            series.candidate.name.clone(),
            digits(summary.median),
            format!("{}–{}", digits(summary.min), digits(summary.max)),
            digits(series.over(base, 0)),
            digits(1.0 / series.over(ours, 0)),
            shown(peak)?,
        ])
    };
    let head = ["", "median ms", "min–max", "÷ tar -xzf", "rootfs-fetch ÷ it", "peak KiB"];
    report.table(&head, &measured.series.iter().map(row).collect::<Result<Vec<_>, _>>()?);
    report.missing(&measured.missing);
    report.samples("unpack", "ms", &measured.series);
    report.plot("unpack", "Unpacking a root file system, ms", &measured.series, 0)?;
    Ok(report)
}

fn candidates(host: &Host, volume: &Volume<'_>) -> Result<Candidates, Error> {
    let tarball = tarball()?.display().to_string();
    let plain = host.scratch().join("rootfs.tar").display().to_string();
    host.runner.must_succeed(&shell(&format!("gzip -dc {tarball} >{plain}")))?;
    let tree = format!("{}/tree", volume.mount_point());
    let into = |line: &str| shell(&format!("mkdir {tree} && {line}"));
    let mut list = Candidates::default();
    let fetch = format!("{} --no-install --from {tarball} {tree}", tool("rootfs-fetch")?);
    list.add(OURS, [words(&fetch)]);
    list.add(BASE, [into(&format!("exec tar -xzf {tarball} -C {tree}"))]);
    list.add("write alone: tar -xf", [into(&format!("exec tar -xf {plain} -C {tree}"))]);
    let mut add = |program: &str, name: &str, line: String| {
        list.add_if(program, || Ok(Candidate::new(name, [into(&line)])), name)
    };
    add("bsdtar", "bsdtar -xzf", format!("exec bsdtar -xzf {tarball} -C {tree}"))?;
    for inflate in ["pigz", "igzip"] {
        let pipe = format!("{inflate} -dc {tarball} | tar -xf - -C {tree}");
        add(inflate, &format!("{inflate} | tar -x"), pipe)?;
        let alone = format!("exec {inflate} -dc {tarball} >/dev/null");
        add(inflate, &format!("inflate alone: {inflate}"), alone)?;
    }
    Ok(list)
}

fn shell(line: &str) -> Argv {
    vec!["sh".into(), "-c".into(), line.into()]
}

fn sizes(host: &Host) -> Result<String, Error> {
    let (packed, plain) = (tarball()?, host.scratch().join("rootfs.tar"));
    let bytes = |path: &PathBuf| {
        fs::metadata(path)
            .map(|found| found.len())
            .attempt(|| format!("cannot look at '{}'", path.display()))
    };
    Ok(format!(
        "The tarball has {} MB, {} MB uncompressed.",
        bytes(&packed)? / 1_000_000,
        bytes(&plain)? / 1_000_000
    ))
}

/// A file system in an image that is made anew each time. The image is in memory: the disk has no say.
struct Volume<'a> {
    host: &'a Host,
    image: PathBuf,
    mount_point: PathBuf,
}

impl<'a> Volume<'a> {
    fn new(host: &'a Host) -> Result<Self, Error> {
        let (image, mount_point) = (PathBuf::from("/run/image"), host.scratch().join("volume"));
        fs::create_dir(&mount_point)
            .attempt(|| format!("cannot make '{}'", mount_point.display()))?;
        Ok(Self { host, image, mount_point })
    }

    fn mount_point(&self) -> String {
        self.mount_point.display().to_string()
    }

    /// Nothing of what was written before is written back later.
    fn renew(&self) -> Result<(), Error> {
        self.unmount();
        let (image, mount_point) = (self.image.display(), self.mount_point.display());
        let line = format!(
            "rm -f {image} && truncate -s 2G {image} && mkfs.ext4 -q {image} && mount -o loop {image} {mount_point}"
        );
        self.host.runner.must_succeed(&shell(&line)).map(drop)
    }

    fn unmount(&self) {
        umount2(&self.mount_point, MntFlags::empty()).ok(); // it is not mounted the first time
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        self.unmount();
    }
}
