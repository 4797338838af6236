//! Doing what the plan says.

use crate::{
    bootstrap::{Bootstrap, require_own_arch},
    cli::Output,
    dest::{Dest, packed_in},
    download::Fetched,
    error::{Attempt as _, Error, say, trace},
    image::write_layout,
    install::{Job, run},
    layout::{Layer, Verified},
    manifest,
    pack::{Purpose, pack},
    plan::{Goal, Plan, Source, Work},
    source::Local,
    steps::Step,
    tree::Tree,
    unpack::{Skipped, Whiteouts, unpack},
    verify::{Hashing, Sum},
};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufWriter, Seek as _, Write as _},
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long servers of the tarball are asked before the tree is built here instead.
const REACH: Duration = Duration::from_secs(15);

/// What a step before the tree has brought.
enum Ready {
    /// A tarball, where it is, and what it is called.
    Tarball(Fetched),
    /// Standard input, not verified yet.
    Stdin(Option<Sum>),
    /// The layers of an image, the lowest first, and where they are.
    Layers(Layers, Vec<Verified>),
    /// What to build.
    Bootstrap(Bootstrap),
}

/// Where layers are.
enum Layers {
    Files(Vec<PathBuf>),
    Archive(PathBuf),
}

/// What there is in the end.
pub(crate) struct Made {
    /// Where it is; not on standard output.
    path: Option<PathBuf>,
    /// The sum of all that is in the tree, if that is asked for.
    manifest: Option<Sum>,
}

impl Plan {
    /// Print the steps as shell commands.
    pub(crate) fn print(&self) -> Result<(), Error> {
        let mut text: String = self.steps().iter().map(Step::to_string).collect();
        if self.ranges().is_some() {
            let inside = "unshare --map-auto --map-root-user sh /dev/fd/3 3<<'INSIDE'";
            text = format!("{inside}\n{text}INSIDE\n");
        }
        io::stdout().write_all(text.as_bytes()).attempt(|| "cannot write to standard output".into())
    }

    /// Take the steps, and tell what there is in the end.
    pub(crate) fn act(&self) -> Result<Made, Error> {
        let (dest, work) = match &self.goal {
            Goal::File(source) => {
                return Ok(Made { path: Some(self.download(source)?), manifest: None });
            }
            Goal::Stream(source, dir) => {
                let manifest = self.make(&Dest::stream(dir)?, source)?;
                return Ok(Made { path: None, manifest });
            }
            Goal::Tree(dest, work) => (dest, work),
        };
        let manifest = match work {
            Work::Nothing => {
                if self.verbose {
                    say(&format!("'{}' is complete: nothing to do", dest.shown.display()));
                }
                self.manifest_of(&dest.absolute)?
            }
            Work::Install(packages) => {
                self.install(&dest.absolute, &dest.shown, packages)?;
                self.manifest_of(&dest.absolute)?
            }
            Work::Make(source) => self.make(dest, source)?,
        };
        Ok(Made { path: Some(dest.absolute.clone()), manifest })
    }

    fn make(&self, dest: &Dest, source: &Source) -> Result<Option<Sum>, Error> {
        let ready = self.obtain(source)?;
        let (partial, mut manifest) = (dest.partial(), None);
        let shown = dest.tree_in(&partial);
        dest.make(
            |dir, tree| self.fill(ready, dir, &shown, tree),
            |dir, tree| {
                manifest = self.manifest(tree, &shown)?;
                self.pack(dest, tree, dir)?;
                dest.publish_steps().iter().for_each(|step| self.trace(step));
                Ok(())
            },
        )?;
        Ok(manifest)
    }

    /// Make what DEST is to be of the tree in the directory `partial`.
    fn pack(&self, dest: &Dest, tree: &Tree, partial: &Path) -> Result<(), Error> {
        if matches!(self.goal, Goal::Stream(..)) {
            self.trace(&Step::PackTar { dir: dest.tree_in(&dest.partial()), file: "-".into() });
            return write_stream(tree);
        }
        if let Some(step) = self.pack_step(dest, &dest.partial()) {
            self.trace(&step);
            say(&format!("packing '{}'", dest.shown.display()));
        }
        let file = packed_in(partial);
        let cannot = || format!("cannot pack '{}'", dest.shown.display());
        let sockets = match self.output {
            Output::Dir => return Ok(()),
            Output::Tar => File::create(&file).and_then(|file| {
                let mut out = BufWriter::with_capacity(1 << 17, file);
                let sockets = pack(tree, Purpose::Archive, &mut out)?;
                out.flush().map(|()| sockets)
            }),
            Output::Oci => write_layout(tree, &self.arch, self.time(), &file),
        };
        tell_sockets(sockets.attempt(cannot)?);
        Ok(())
    }

    /// When what is made was made, in seconds since 1970.
    fn time(&self) -> u64 {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.epoch.and_then(|epoch| u64::try_from(epoch).ok()).unwrap_or_else(now)
    }

    /// Print where it is.
    pub(crate) fn report(&self, made: &Made) -> Result<(), Error> {
        let Some(path) = &made.path else { return Ok(()) };
        let cannot = || "cannot write to standard output".to_owned();
        let mut stdout = io::stdout();
        if self.json {
            let result = serde_json::json!({
                "path": path.to_string_lossy(),
                "changed": !matches!(self.goal, Goal::Tree(_, Work::Nothing)),
                "packages": self.packages,
                "manifest": made.manifest.map(|sum| sum.to_string()),
            });
            return writeln!(stdout, "{result}").attempt(cannot);
        }
        stdout.write_all(path.as_os_str().as_bytes()).attempt(cannot)?;
        stdout.write_all(b"\n").attempt(cannot)
    }

    /// The sum of all that is in the tree at `path`, where that is asked for, and a tree is there.
    fn manifest_of(&self, path: &Path) -> Result<Option<Sum>, Error> {
        if self.output != Output::Dir || !self.json {
            return Ok(None);
        }
        let cannot = || format!("cannot read '{}'", path.display());
        self.manifest(&Tree::new(File::open(path).attempt(cannot)?.into()), path)
    }

    fn manifest(&self, tree: &Tree, shown: &Path) -> Result<Option<Sum>, Error> {
        let sum = || manifest::sum(tree).attempt(|| format!("cannot read '{}'", shown.display()));
        self.json.then(sum).transpose()
    }

    /// Have a file in the cache, and give its path.
    fn download(&self, source: &Source) -> Result<PathBuf, Error> {
        let path = match self.obtain(source)? {
            Ready::Tarball(fetched) => fetched.path,
            Ready::Stdin(_) | Ready::Layers(..) | Ready::Bootstrap(_) => {
                return Err(Error::usage("--download-only is for a file of a server"));
            }
        };
        path.canonicalize().attempt(|| format!("cannot find '{}'", path.display()))
    }

    /// Have what the tree is made of, verified, before anything is made.
    fn obtain(&self, source: &Source) -> Result<Ready, Error> {
        match source {
            Source::Bootstrap(bootstrap) => Ok(Ready::Bootstrap(bootstrap.clone())),
            Source::Local { local: Local::Stdin, sum } => Ok(Ready::Stdin(*sum)),
            Source::Local { local: Local::File(path), sum } => {
                let shown = path.display().to_string();
                let mut file = File::open(path).attempt(|| format!("cannot open '{shown}'"))?;
                if let Some(sum) = *sum {
                    self.trace(&Step::Verify { file: path.clone(), sum });
                    let unreadable = || format!("cannot read '{shown}'");
                    let received = Hashing::new(&file).finish().attempt(unreadable)?;
                    sum.require(received, &shown)?;
                    file.rewind().attempt(unreadable)?;
                }
                Ok(Ready::Tarball(Fetched { file, path: path.clone(), name: shown }))
            }
            Source::Image(image) => {
                let verify = |layer: &Layer| {
                    self.trace(&Step::Verify { file: layer.path.clone(), sum: layer.sum });
                    layer.verify()
                };
                let files = image.layers.iter().map(|layer| layer.path.clone()).collect();
                let layers = image.layers.iter().map(verify).collect::<Result<_, _>>()?;
                Ok(Ready::Layers(Layers::Files(files), layers))
            }
            Source::DockerArchive(archive) => {
                let layers = archive.verify(self.max_size)?;
                Ok(Ready::Layers(Layers::Archive(archive.path.clone()), layers))
            }
            Source::Remote { wanted, cache, or_bootstrap } => {
                for step in Step::obtain(wanted, &cache.dir) {
                    self.trace(&step);
                }
                let reach = or_bootstrap.as_ref().map(|_| REACH);
                match (cache.fetch(wanted, reach), or_bootstrap) {
                    (Ok(fetched), _) => Ok(Ready::Tarball(fetched)),
                    (Err(failed), Some(arch)) if failed.not_found => {
                        build_instead(&wanted.name(), arch, &failed.error).map(Ready::Bootstrap)
                    }
                    (Err(failed), _) => Err(failed.error),
                }
            }
        }
    }

    /// Make the tree in the empty directory `dir`.
    fn fill(&self, ready: Ready, dir: &Path, shown: &Path, tree: &Tree) -> Result<(), Error> {
        let mut budget = self.max_size;
        match ready {
            Ready::Layers(place, layers) => {
                let dir = shown.to_owned();
                self.trace(&match place {
                    Layers::Files(files) => Step::UnpackLayers { files, dir },
                    Layers::Archive(archive) => Step::UnpackImage { archive, dir },
                });
                for Verified { name, content } in layers {
                    say(&format!("unpacking '{name}'"));
                    tell(&unpack(content, &name, tree, &mut budget, Whiteouts::Applied)?);
                }
            }
            Ready::Tarball(Fetched { file, path, name }) => {
                self.trace(&Step::Unpack { file: path, dir: shown.to_owned() });
                say(&format!("unpacking '{name}'"));
                tell(&unpack(file, &name, tree, &mut budget, Whiteouts::None)?);
            }
            Ready::Stdin(sum) => {
                self.trace(&Step::UnpackStdin { sum, dir: shown.to_owned() });
                let name = "standard input";
                let mut stdin = Hashing::new(io::stdin());
                tell(&unpack(&mut stdin, name, tree, &mut budget, Whiteouts::None)?);
                let received = stdin.finish().attempt(|| format!("cannot read '{name}'"))?;
                if let Some(sum) = sum {
                    sum.require(received, name)?;
                }
            }
            Ready::Bootstrap(bootstrap) => {
                self.trace(&Step::Build { bootstrap: bootstrap.clone(), dir: shown.to_owned() });
                bootstrap.build(dir, tree)?;
            }
        }
        if !self.packages.is_empty() {
            self.install(dir, shown, &self.packages)?;
        }
        for command in &self.hooks {
            self.trace(&Step::Hook { command: command.clone(), dir: shown.to_owned() });
            let words = ["sh", "-c", command, "sh"].map(OsString::from);
            let argv = words.into_iter().chain([dir.into()]).collect();
            run(&Job::Program { argv })?;
        }
        if let Some(epoch) = self.epoch {
            self.trace(&Step::Settle { epoch, dir: shown.to_owned() });
            let cannot = || format!("cannot set the times in '{}'", shown.display());
            manifest::settle(tree, epoch).attempt(cannot)?;
        }
        Ok(())
    }

    fn install(&self, dir: &Path, shown: &Path, packages: &[String]) -> Result<(), Error> {
        self.trace(&self.install_step(packages, shown));
        if !packages.is_empty() {
            say(&format!("installing {}", packages.join(" ")));
        }
        let (packages, sources) = (packages.to_vec(), self.sources.clone());
        run(&Job::Packages { root: dir.into(), packages, sources })
    }

    fn trace(&self, step: &Step) {
        if self.verbose {
            trace(step);
        }
    }
}

fn build_instead(name: &str, arch: &str, why: &Error) -> Result<Bootstrap, Error> {
    let why = why.to_string().replace("\n ", "\n   ");
    let explain = |error: Error| error.detail("before that", &why);
    require_own_arch(arch).map_err(explain)?;
    let bootstrap = Bootstrap::instead(arch).map_err(explain)?;
    say(&format!(
        "warning: no server gives '{name}', so this tree is {} from '{}', and not Ubuntu 20.04's base\n  {why}",
        bootstrap.suite, bootstrap.mirror,
    ));
    Ok(bootstrap)
}

fn tell(skipped: &Skipped) {
    let Skipped { device_nodes, refused_nodes, owners, attributes, garbage } = *skipped;
    if device_nodes > 0 {
        say(&format!("left out {device_nodes} device nodes that are not standard ones"));
    }
    if refused_nodes > 0 {
        say(&format!("left out {refused_nodes} device nodes, which only the host's root can make"));
    }
    if owners > 0 {
        say(&format!(
            "{owners} files are yours: their owners in the archive are not yours to give"
        ));
    }
    if attributes > 0 {
        let why = "the file system does not hold them, or they are not yours to set";
        say(&format!("left out {attributes} extended attributes: {why}"));
    }
    if garbage {
        say("warning: after the archive's end there is something that is no part of it");
    }
}

fn write_stream(tree: &Tree) -> Result<(), Error> {
    let cannot = || "cannot write to standard output".to_owned();
    // Not the standard library's, which looks for the ends of lines.
    let stdout = io::stdout().as_fd().try_clone_to_owned().attempt(cannot)?;
    let mut out = BufWriter::with_capacity(1 << 17, File::from(stdout));
    let sockets = pack(tree, Purpose::Archive, &mut out).attempt(cannot)?;
    out.flush().attempt(cannot)?;
    tell_sockets(sockets);
    Ok(())
}

fn tell_sockets(sockets: u64) {
    if sockets > 0 {
        say(&format!("left out {sockets} sockets, which no archive holds"));
    }
}
