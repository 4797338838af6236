//! Archives of images as a source, as `docker save` writes them: a tar, perhaps packed, with a list of images,
//! their configurations and their layers
//! (<https://github.com/moby/docker-image-spec/blob/main/spec.md#combined-image-json--filesystem-changeset-format>).
//!
//! A first reading finds what is where and computes its sum. So layers may come in any order, and nothing of
//! the archive is unpacked before all of them are as their configuration says.

use crate::{
    archive::Members,
    decode::Decoder,
    error::{Attempt as _, Error},
    layout::{MAX_DOCUMENT, Verified, ambiguous, image_arch, parse_digest, parse_document},
    unpack::{explain, printable, unknown},
    verify::{Hashing, Sum},
};
use serde::Deserialize;
use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write as _},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
};
use tar::EntryType;

/// How many links may lead from the name of a layer to its content.
const MAX_LINKS: u32 = 8;

/// An archive, and which of its images is meant.
#[derive(Debug)]
pub(crate) struct DockerArchive {
    pub(crate) path: PathBuf,
    file: Arc<File>,
    image: Option<String>,
    arch: String,
}

/// What is where in it.
struct Index(BTreeMap<Vec<u8>, Part>);

/// A member of it.
enum Part {
    File(Extent),
    /// The name of another member.
    Link(Vec<u8>),
}

/// Where a file is in the archive, unpacked, and its sum.
#[derive(Clone, Copy)]
struct Extent {
    offset: u64,
    size: u64,
    sum: Sum,
}

/// An image in the list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What is known of an image.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    architecture: String,
    rootfs: Rootfs,
}

/// The sums of its layers, unpacked.
#[derive(Debug, Deserialize)]
struct Rootfs {
    diff_ids: Vec<String>,
}

impl DockerArchive {
    /// The archive that `given`, `FILE` or `FILE:IMAGE`, means, and the image in it for `arch`, an architecture
    /// in Debian's words.
    pub(crate) fn open(given: &str, arch: &str) -> Result<Self, Error> {
        let (path, image) = given.split_once(':').unwrap_or((given, ""));
        let file = File::open(path).attempt(|| format!("cannot open '{path}'"))?;
        let image = Some(image.to_owned()).filter(|image| !image.is_empty());
        Ok(Self { path: path.into(), file: Arc::new(file), image, arch: arch.into() })
    }

    /// The layers of the image, the lowest first, all of them as they should be.
    pub(crate) fn verify(&self, max_size: u64) -> Result<Vec<Verified>, Error> {
        let index = self.index(max_size)?;
        let list: Vec<Listed> = match index.find("manifest.json") {
            Err(_) if index.find("oci-layout").is_ok() => {
                let missing = self.missing("manifest.json");
                return Err(missing.hint(
                    "it has an OCI layout: unpacked to a directory, that is taken as oci:DIR",
                ));
            }
            part => self.document(part.map_err(|why| self.refuse(&why))?, "manifest.json", None)?,
        };
        let (listed, config) = self.choose(&index, &list)?;
        let sums = &config.rootfs.diff_ids;
        if sums.len() != listed.layers.len() {
            let (named, layers) = (sums.len(), listed.layers.len());
            return Err(self.refuse(&format!("it has {layers} layers, and sums of {named}")));
        }
        let layers = listed.layers.iter().zip(sums);
        layers.map(|(layer, sum)| self.layer(&index, layer, sum)).collect()
    }

    /// Find what is where.
    fn index(&self, max_size: u64) -> Result<Index, Error> {
        let what = self.path.display().to_string();
        let decoder = Decoder::new(self.content(0)).attempt(|| format!("cannot read '{what}'"))?;
        let at = Cell::new(0);
        let input =
            Counted { inner: BufReader::new(decoder.ok_or_else(|| unknown(&what))?), read: &at };
        let mut members = Members::new(input, max_size);
        let (mut index, mut names) = (BTreeMap::new(), 0);
        while let Some(member) = members.next().map_err(|flaw| explain(flaw, &what))? {
            let name = resolve(b"", &member.path);
            let name = name.ok_or_else(|| self.refuse(&leads_out(&member.path)))?;
            let part = match member.kind {
                EntryType::Regular if member.extents.iter().all(|it| it.length == member.size) => {
                    let (offset, mut hash) = (at.get(), Hashing::new(io::sink()));
                    loop {
                        let there = members.content(u64::MAX);
                        let there = there.map_err(|flaw| explain(flaw, &what))?;
                        let length = there.len();
                        if length == 0 {
                            break;
                        }
                        hash.write_all(there).attempt(|| "cannot hash".into())?;
                        members.consume(length);
                    }
                    Part::File(Extent { offset, size: member.size, sum: hash.sum() })
                }
                EntryType::Symlink | EntryType::Link => {
                    let dir = if member.kind == EntryType::Link { b"" } else { parent(&name) };
                    let target = resolve(dir, &member.link);
                    Part::Link(target.ok_or_else(|| self.refuse(&leads_out(&member.link)))?)
                }
                _ => continue,
            };
            names += name.len() as u64;
            if names > MAX_DOCUMENT {
                return Err(self.refuse("the names in it have more than 4 MiB"));
            }
            index.insert(name, part);
        }
        members.finish().map_err(|flaw| explain(flaw, &what))?;
        Ok(Index(index))
    }

    /// The image that is meant, with its configuration.
    fn choose<'a>(&self, index: &Index, list: &'a [Listed]) -> Result<(&'a Listed, Config), Error> {
        let named = |listed: &&Listed| {
            self.image.as_ref().is_none_or(|image| listed.tags().any(|tag| is_named(tag, image)))
        };
        let mut found = Vec::new();
        for listed in list.iter().filter(named) {
            let part = index.find(&listed.config).map_err(|why| self.refuse(&why))?;
            // Its own name is its sum.
            let name = listed.config.rsplit('/').next().unwrap_or_default();
            let sum = name.strip_suffix(".json").unwrap_or(name).parse().ok();
            found.push((listed, self.document::<Config>(part, &listed.config, sum)?));
        }
        if found.len() > 1 {
            found.retain(|(_, config)| config.architecture == image_arch(&self.arch).0);
        }
        let matching = found.len();
        <[_; 1]>::try_from(found).map(|[found]| found).map_err(|_| {
            let tags: Vec<&str> = list.iter().flat_map(Listed::tags).collect();
            ambiguous(&format!("docker-archive:{}", self.path.display()), matching, &tags)
        })
    }

    /// A layer, with the sum that it has to have when it is unpacked.
    fn layer(&self, index: &Index, layer: &str, digest: &str) -> Result<Verified, Error> {
        let extent = index.find(layer).map_err(|why| self.refuse(&why))?;
        let name = format!("{}' of '{}", layer.escape_debug(), self.path.display());
        let expected = parse_digest(digest, &name)?;
        let read = || self.part(extent).attempt(|| format!("cannot read '{name}'"));
        let mut received = extent.sum;
        if received != expected {
            let unpacked = unpacked_sum(read()?).attempt(|| format!("cannot read '{name}'"))?;
            received = unpacked.unwrap_or(received);
        }
        expected.require(received, &name)?;
        Ok(Verified { content: read()?, name })
    }

    fn document<T: for<'de> Deserialize<'de>>(
        &self,
        part: Extent,
        name: &str,
        sum: Option<Sum>,
    ) -> Result<T, Error> {
        let name = format!("{}' of '{}", name.escape_debug(), self.path.display());
        let content = self.part(part).attempt(|| format!("cannot read '{name}'"))?;
        parse_document(content, part.size, &name, sum)
    }

    /// A part of the archive. Where it is packed, all before that is unpacked once more.
    fn part(&self, Extent { offset, size, .. }: Extent) -> io::Result<Box<dyn Read + Send>> {
        match Decoder::new(self.content(0))? {
            Some(mut decoder) if decoder.is_packed() => {
                io::copy(&mut decoder.by_ref().take(offset), &mut io::sink())?;
                Ok(Box::new(decoder.take(size)))
            }
            _ => Ok(Box::new(self.content(offset).take(size))),
        }
    }

    fn content(&self, offset: u64) -> From {
        From { file: Arc::clone(&self.file), offset }
    }

    fn missing(&self, name: &str) -> Error {
        self.refuse(&format!("'{name}' is missing in it"))
    }

    fn refuse(&self, why: &str) -> Error {
        Error::new(format!("refusing '{}': {why}", self.path.display()))
    }
}

impl Listed {
    fn tags(&self) -> impl Iterator<Item = &str> {
        self.repo_tags.iter().flatten().map(String::as_str)
    }
}

impl Index {
    /// Where `name` is, through links inside the archive, or why it cannot be had.
    fn find(&self, name: &str) -> Result<Extent, String> {
        let mut at = resolve(b"", name.as_bytes()).ok_or_else(|| leads_out(name.as_bytes()))?;
        for _ in 0..=MAX_LINKS {
            match self.0.get(&at) {
                Some(Part::File(extent)) => return Ok(*extent),
                Some(Part::Link(target)) => at.clone_from(target),
                None => return Err(format!("'{}' is missing in it", name.escape_debug())),
            }
        }
        Err(format!("'{}' in it is a link to itself", name.escape_debug()))
    }
}

/// Whether `tag`, which names a registry or not, is `image`, which has a tag or not.
fn is_named(tag: &str, image: &str) -> bool {
    let is =
        |name: &str| name == image || name.strip_suffix(image).is_some_and(|it| it.ends_with('/'));
    is(tag) || tag.strip_suffix(":latest").is_some_and(is)
}

/// The sum of a layer that is packed, unpacked; `None` where it is not packed.
fn unpacked_sum(layer: impl Read) -> io::Result<Option<Sum>> {
    match Decoder::new(layer)? {
        Some(decoder) if decoder.is_packed() => Hashing::new(decoder).finish().map(Some),
        _ => Ok(None),
    }
}

/// Where `name`, seen from `dir`, is in the archive, unless it leads out of it.
fn resolve(dir: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in dir.split(|byte| *byte == b'/').chain(name.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/')).filter(|_| !name.starts_with(b"/"))
}

fn parent(name: &[u8]) -> &[u8] {
    name.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &name[..slash])
}

fn leads_out(name: &[u8]) -> String {
    format!("'{}' leads out of it", printable(name))
}

/// A file from a place on, whoever reads it besides.
struct From {
    file: Arc<File>,
    offset: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// A reader that counts what is read.
struct Counted<'a, R> {
    inner: R,
    read: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.read.set(self.read.get() + amount as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::{is_named, resolve};

    #[test]
    fn names_are_those_of_the_archive_and_of_nothing_outside() {
        let cases: [(&str, &str, Option<&str>); 6] = [
            ("", "./a//b", Some("a/b")),
            ("x/y", "../z.tar", Some("x/z.tar")),
            ("x", "../../etc/passwd", None),
            ("", "../a", None),
            ("x", "/etc/passwd", None),
            ("", "a/../b", Some("b")),
        ];
        for (dir, name, found) in cases {
            let resolved = resolve(dir.as_bytes(), name.as_bytes());
            assert_eq!(resolved.as_deref(), found.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn an_image_is_named_with_or_without_registry_and_tag() {
        let tag = "docker.io/library/debian:latest";
        for image in [tag, "debian", "debian:latest", "library/debian"] {
            assert!(is_named(tag, image), "{image}");
        }
        for image in ["ebian", "debian:12", "latest", ""] {
            assert!(!is_named(tag, image), "{image}");
        }
    }
}
