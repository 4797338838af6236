//! Doing what the plan says.

use crate::{
    bootstrap::{Bootstrap, require_own_arch},
    download::Fetched,
    error::{Attempt as _, Error, say, trace},
    install::{Job, run},
    layout::Layer,
    manifest,
    plan::{Goal, Plan, Source, Work},
    source::Local,
    steps::Step,
    tree::Tree,
    unpack::{Skipped, Whiteouts, unpack},
    verify::Hashing,
};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Seek as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long servers of the tarball are asked before the tree is built here instead.
const REACH: Duration = Duration::from_secs(15);

/// What a step before the tree has brought.
enum Ready {
    /// A tarball, where it is, and what it is called.
    Tarball(Fetched),
    /// Standard input, not verified yet.
    Stdin(Option<crate::verify::Sum>),
    /// The layers of an image, the lowest first.
    Layers(Vec<Fetched>),
    /// What to build.
    Bootstrap(Bootstrap),
}

impl Plan {
    /// Print the steps as shell commands.
    pub(crate) fn print(&self) -> Result<(), Error> {
        let text: String = self.steps().iter().map(Step::to_string).collect();
        io::stdout().write_all(text.as_bytes()).attempt(|| "cannot write to standard output".into())
    }

    /// Take the steps, and give the path of what there is in the end.
    pub(crate) fn act(&self) -> Result<PathBuf, Error> {
        let (dest, work) = match &self.goal {
            Goal::File(source) => return self.download(source),
            Goal::Tree(dest, work) => (dest, work),
        };
        match work {
            Work::Nothing => {
                if self.verbose {
                    say(&format!("'{}' is complete: nothing to do", dest.shown.display()));
                }
            }
            Work::Install(packages) => self.install(&dest.absolute, &dest.shown, packages)?,
            Work::Make(source) => {
                let ready = self.obtain(source)?;
                dest.make(|dir, tree| self.fill(ready, dir, &dest.partial(), tree))?;
            }
        }
        Ok(dest.absolute.clone())
    }

    /// Print where it is.
    pub(crate) fn report(&self, path: &Path) -> Result<(), Error> {
        let cannot = || "cannot write to standard output".to_owned();
        let mut stdout = io::stdout();
        if self.json {
            let manifest = self.manifest(path)?;
            let result = serde_json::json!({
                "path": path.to_string_lossy(),
                "changed": !matches!(self.goal, Goal::Tree(_, Work::Nothing)),
                "packages": self.packages,
                "manifest": manifest,
            });
            return writeln!(stdout, "{result}").attempt(cannot);
        }
        stdout.write_all(path.as_os_str().as_bytes()).attempt(cannot)?;
        stdout.write_all(b"\n").attempt(cannot)
    }

    /// The sum of all that is in the tree that was made.
    fn manifest(&self, path: &Path) -> Result<Option<String>, Error> {
        if matches!(self.goal, Goal::File(_)) {
            return Ok(None);
        }
        let cannot = || format!("cannot read '{}'", path.display());
        let tree = Tree::new(File::open(path).attempt(cannot)?.into());
        Ok(Some(manifest::sum(&tree).attempt(cannot)?.to_string()))
    }

    /// Have a file in the cache, and give its path.
    fn download(&self, source: &Source) -> Result<PathBuf, Error> {
        let path = match self.obtain(source)? {
            Ready::Tarball(fetched) => fetched.path,
            Ready::Stdin(_) | Ready::Layers(_) | Ready::Bootstrap(_) => {
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
                let open = |layer: &Layer| {
                    self.trace(&Step::Verify { file: layer.path.clone(), sum: layer.sum });
                    let (path, name) = (layer.path.clone(), layer.path.display().to_string());
                    Ok(Fetched { file: layer.open()?, path, name })
                };
                Ok(Ready::Layers(image.layers.iter().map(open).collect::<Result<_, _>>()?))
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
            Ready::Layers(layers) => {
                let files = layers.iter().map(|layer| layer.path.clone()).collect();
                self.trace(&Step::UnpackLayers { files, dir: shown.to_owned() });
                for Fetched { file, name, .. } in layers {
                    say(&format!("unpacking '{name}'"));
                    tell(&unpack(file, &name, tree, &mut budget, Whiteouts::Applied)?);
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
    let explain = |error: Error| error.detail("before that", why.to_string().replace("\n ", ";"));
    require_own_arch(arch).map_err(explain)?;
    let bootstrap = Bootstrap::instead(arch).map_err(explain)?;
    say(&format!(
        "warning: no server gives '{name}', so this tree is {} from '{}', and not Ubuntu 20.04's base\n  {}",
        bootstrap.suite,
        bootstrap.mirror,
        why.to_string().replace("\n ", "\n   "),
    ));
    Ok(bootstrap)
}

fn tell(skipped: &Skipped) {
    let Skipped { device_nodes, attributes, garbage } = *skipped;
    if device_nodes > 0 {
        say(&format!("left out {device_nodes} device nodes that are not standard ones"));
    }
    if attributes > 0 {
        say(&format!(
            "left out {attributes} extended attributes: the file system does not hold them"
        ));
    }
    if garbage {
        say("warning: after the archive's end there is something that is no part of it");
    }
}
