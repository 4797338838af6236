//! The steps, as the shell commands that would do the same.

use crate::{
    bootstrap::Bootstrap,
    image::{PATH, TAG},
    install::apt_get,
    layout::image_arch,
    manifest::RECORDS,
    source::{List, Remote, Wanted},
    sources::{LIST, Sources, System},
    verify::Sum,
};
use std::{
    env,
    fmt::{self, Display},
    path::{Path, PathBuf},
};

/// One step of making a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Have the list of the files of a release in the cache, verified.
    List { list: List, cache: PathBuf },
    /// Have the newest file that the list has in the cache.
    Newest { list: List, cache: PathBuf },
    /// Have the file in the cache; `cached` says that it is there now.
    Download { remote: Remote, cache: PathBuf, cached: bool },
    /// Compare a file with its sum.
    Verify { file: PathBuf, sum: Sum },
    /// Unpack a file.
    Unpack { file: PathBuf, dir: PathBuf },
    /// Unpack layers, one over the other.
    UnpackLayers { files: Vec<PathBuf>, dir: PathBuf },
    /// Unpack the layers in an archive, one over the other.
    UnpackImage { archive: PathBuf, dir: PathBuf },
    /// Unpack standard input, and then compare it with its sum.
    UnpackStdin { sum: Option<Sum>, dir: PathBuf },
    /// Build from packages.
    Build { bootstrap: Bootstrap, dir: PathBuf },
    /// Install packages.
    Install { packages: Vec<String>, sources: Sources, dir: PathBuf },
    /// Run a command of the user's on the tree.
    Hook { command: String, dir: PathBuf },
    /// Take away what tells one run from another.
    Settle { epoch: i64, dir: PathBuf },
    /// Pack the tree at `dir` into the archive `file`, or to standard output.
    PackTar { dir: PathBuf, file: PathBuf },
    /// Make an image of the tree at `dir`, in an OCI layout.
    PackOci { dir: PathBuf, layout: PathBuf, arch: String },
    /// Give what is made its name, perhaps in exchange with what has it.
    Publish { made: PathBuf, dest: PathBuf, exchange: bool },
    /// Remove what is not needed any more.
    Remove { dir: PathBuf },
}

impl Step {
    /// Have what is wanted in `cache`.
    pub(crate) fn obtain(wanted: &Wanted, cache: &Path) -> Vec<Self> {
        let listed = |list: &List| Self::List { list: list.clone(), cache: cache.to_owned() };
        match wanted {
            Wanted::File(file) => vec![Self::download(file, cache)],
            Wanted::Listed { list, otherwise: Some(file) } => {
                vec![listed(list), Self::download(file, cache)]
            }
            Wanted::Listed { list, otherwise: None } => {
                vec![listed(list), Self::Newest { list: list.clone(), cache: cache.to_owned() }]
            }
        }
    }

    /// Have `remote` in `cache`, where it may be already.
    fn download(remote: &Remote, cache: &Path) -> Self {
        let cached = remote.sum.is_some() && cached_file(remote, cache).exists();
        Self::Download { remote: remote.clone(), cache: cache.to_owned(), cached }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List { list, cache } => look_up(list, cache, f),
            Self::Newest { list, cache } => newest(list, cache, f),
            Self::Download { remote, cache, cached } => download(remote, cache, *cached, f),
            Self::Verify { file, sum } => check(*sum, &shown(file), f),
            Self::Unpack { file, dir } => {
                let (file, dir) = (shown(file), shown(dir));
                writeln!(f, "mkdir --parents {dir}")?;
                writeln!(f, "{TAR} --directory={dir} --file={file}")
            }
            Self::UnpackLayers { files, dir } => unpack_layers(files, dir, f),
            Self::UnpackImage { archive, dir } => unpack_image(archive, dir, f),
            Self::UnpackStdin { sum, dir } => {
                let dir = shown(dir);
                writeln!(f, "mkdir --parents {dir}")?;
                if let Some(sum) = sum {
                    write!(f, "tee >(sha256sum --check <(echo '{sum}  -') >&2) | ")?;
                }
                writeln!(f, "{TAR} --gzip --directory={dir} --file=-")
            }
            Self::Build { bootstrap, dir } => bootstrap.write_commands(dir, f),
            Self::Install { packages, sources, dir } => install(packages, sources, dir, f),
            Self::Hook { command, dir } => {
                let words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--"];
                let (inside, command) = (words.join(" "), quote(command));
                writeln!(f, "{inside} sh -c {command} sh {}", shown(dir))
            }
            Self::Settle { epoch, dir } => {
                let dir = shown(dir);
                let records: Vec<String> =
                    RECORDS.iter().map(|record| format!("{dir}/{record}")).collect();
                writeln!(f, "rm --force {}", records.join(" "))?;
                let touch = format!("touch --no-dereference --date=@{epoch}");
                writeln!(f, "find {dir} -newermt @{epoch} -exec {touch} {{}} +")
            }
            Self::PackTar { dir, file } => {
                let (dir, file) = (shown(dir), shown(file));
                writeln!(f, "{PACK} --directory={dir} --file={file} .")
            }
            Self::PackOci { dir, layout, arch } => {
                let (dir, image) = (shown(dir), format!("{}:{TAG}", layout.display()));
                let (image, arch) = (quote(&image), image_arch(arch).0);
                writeln!(f, "umoci init --layout {}", shown(layout))?;
                writeln!(f, "umoci new --image {image}")?;
                writeln!(f, "umoci insert --image {image} {dir} /")?;
                let config = format!("--config.env PATH={PATH} --config.cmd /bin/bash");
                writeln!(f, "umoci config --image {image} --architecture {arch} {config}")
            }
            Self::Publish { made, dest, exchange } => {
                let exchange = if *exchange { "--exchange " } else { "" };
                writeln!(f, "mv {exchange}--no-target-directory {} {}", shown(made), shown(dest))
            }
            Self::Remove { dir } => {
                writeln!(f, "rm --recursive --force --one-file-system {}", shown(dir))
            }
        }
    }
}

/// What a shell has no short way to do: whiteouts of a layer are no different from those of the layers below to it.
const WHITEOUTS: &str = "# and what '.wh.NAME' in a layer names is removed before";

const TAR: &str =
    "tar --extract --preserve-permissions --numeric-owner --xattrs --xattrs-include='*'";

const PACK: &str = "tar --create --format=pax --sort=name --numeric-owner --xattrs --xattrs-include='*' \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime";

fn unpack_layers(files: &[PathBuf], dir: &Path, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let dir = shown(dir);
    writeln!(f, "mkdir --parents {dir}")?;
    for file in files {
        writeln!(f, "{TAR} --directory={dir} --file={}", shown(file))?;
    }
    writeln!(f, "{WHITEOUTS}")
}

fn unpack_image(archive: &Path, dir: &Path, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (archive, dir) = (shown(archive), shown(dir));
    let member = format!("tar --extract --to-stdout --file={archive}");
    writeln!(f, "mkdir --parents {dir}")?;
    writeln!(f, "{member} manifest.json | jq --raw-output '.[0].Layers[]' |")?;
    let unpack = format!("{member} \"$layer\" | {TAR} --directory={dir} --file=-");
    writeln!(f, "while read -r layer; do {unpack}; done")?;
    writeln!(f, "{WHITEOUTS}")
}

fn download(
    remote: &Remote,
    cache: &Path,
    cached: bool,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let file = cached_file(remote, cache);
    if let (true, Some(sum)) = (cached, remote.sum) {
        return check(sum, &shown(&file), f);
    }
    let part = shown(&file.with_extension("part"));
    writeln!(f, "mkdir --parents {}", shown(cache))?;
    for (index, url) in remote.urls.iter().enumerate() {
        let or = if index + 1 < remote.urls.len() { " ||" } else { "" };
        writeln!(f, "wget --output-document={part} {}{or}", quote(url))?;
    }
    if let Some(sum) = remote.sum {
        check(sum, &part, f)?;
    }
    writeln!(f, "mv {part} {}", shown(&file))
}

/// Each directory in turn gives both files.
fn look_up(list: &List, cache: &Path, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let path = cache.join(list.cached_name());
    writeln!(f, "mkdir --parents {}", shown(cache))?;
    for (index, dir) in list.dirs.iter().enumerate() {
        let or = if index + 1 < list.dirs.len() { " ||" } else { "" };
        write!(
            f,
            "wget --output-document={} {}",
            shown(&path),
            quote(&format!("{dir}/SHA256SUMS"))
        )?;
        if list.keyring.is_some() {
            let (path, url) = (format!("{}.gpg", path.display()), format!("{dir}/SHA256SUMS.gpg"));
            write!(f, " && wget --output-document={} {}", quote(&path), quote(&url))?;
        }
        writeln!(f, "{or}")?;
    }
    if list.keyring.is_some() {
        let built_in = Path::new("/etc/apt/trusted.gpg.d/ubuntu-keyring-2012-cdimage.gpg");
        let keyring = shown(list.keyring_file.as_deref().unwrap_or(built_in));
        let signature = quote(&format!("{}.gpg", path.display()));
        writeln!(f, "gpgv --keyring {keyring} {signature} {}", shown(&path))?;
    }
    Ok(())
}

fn newest(list: &List, cache: &Path, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (sums, file) = (shown(&cache.join(list.cached_name())), shown(&list.cached_path(cache)));
    let name = format!(r"ubuntu-base-[0-9.]*-base-{}\.tar\.gz", list.arch);
    writeln!(
        f,
        "name=$(grep --only-matching '{name}$' {sums} | sort --version-sort | tail --lines=1)"
    )?;
    let dir = list.dirs.first().map_or("", |dir| dir);
    writeln!(f, "wget --output-document={file} {}/\"$name\"", quote(dir))?;
    writeln!(f, "echo \"$(grep \"$name\" {sums} | cut -d ' ' -f 1)  \"{file} | sha256sum --check")
}

/// The name of the file in the cache: its sum, so that one name is one content.
pub(crate) fn cached_file(remote: &Remote, cache: &Path) -> PathBuf {
    cache.join(remote.sum.map_or_else(|| "unverified".to_owned(), |sum| sum.to_string()))
}

impl List {
    fn cached_path(&self, cache: &Path) -> PathBuf {
        cache.join(format!("ubuntu-base-{}-base-{}.tar.gz", self.release, self.arch))
    }
}

impl Wanted {
    /// Where it is in the cache, as far as that is known before it is looked up.
    pub(crate) fn cached_path(&self, cache: &Path) -> PathBuf {
        match self {
            Self::File(file) | Self::Listed { otherwise: Some(file), .. } => {
                cached_file(file, cache)
            }
            Self::Listed { list, otherwise: None } => list.cached_path(cache),
        }
    }
}

fn check(sum: Sum, file: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "echo {} | sha256sum --check",
        quote(&format!("{sum}  {}", file.trim_matches('\'')))
    )
}

fn install(
    packages: &[String],
    sources: &Sources,
    dir: &Path,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let dir = shown(dir);
    if sources.are_given() {
        let list = sources.list(&System::placeholder());
        writeln!(f, ". {dir}/etc/os-release")?;
        writeln!(f, "cat > {dir}{LIST} <<LIST\n{list}LIST")?;
    }
    let inside = "unshare --mount --pid --fork --kill-child";
    let mut apt = |verb, packages: &[String]| {
        let words = apt_get(verb, sources, packages).join(" ");
        writeln!(f, "{inside} --mount-proc={dir}/proc -- chroot {dir} {words}")
    };
    if !packages.is_empty() {
        apt("update", &[])?;
        apt("install", packages)?;
    }
    apt("clean", &[])?;
    writeln!(f, "find {dir}/var/lib/apt/lists -maxdepth 1 -type f -not -name lock -delete")
}

fn shown(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// `word` as a shell would have to read it.
pub(crate) fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/:=,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The proxies that the environment names.
pub(crate) fn proxies() -> impl Iterator<Item = (String, String)> {
    let names = ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"];
    let both = names.into_iter().flat_map(|name| [name.to_owned(), name.to_uppercase()]);
    both.filter_map(|name| env::var(&name).ok().map(|value| (name, value)))
}

#[cfg(test)]
mod tests {
    use super::{Step, quote};

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        let cases = [
            ("a/b.c", "a/b.c"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$x", "'$x'"),
        ];
        for (word, quoted) in cases {
            assert_eq!(quote(word), quoted);
        }
    }

    #[test]
    fn an_exchange_is_told_from_a_rename() {
        let publish = |exchange| {
            let step = Step::Publish { made: ".r.partial".into(), dest: "r".into(), exchange };
            step.to_string()
        };
        assert_eq!(publish(false), "mv --no-target-directory .r.partial r\n");
        assert_eq!(publish(true), "mv --exchange --no-target-directory .r.partial r\n");
    }
}
