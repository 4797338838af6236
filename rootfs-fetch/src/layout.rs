//! OCI image layouts as a source: a directory with an index, manifests and layers, each named by its sum
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).

use crate::{
    error::{Attempt as _, Error},
    verify::{Hashing, Sum},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Seek as _},
    path::{Path, PathBuf},
};

/// The most that an index or a manifest can take, as registries have it.
const MAX_DOCUMENT: u64 = 4 << 20;

/// How deep indexes lie in indexes.
const MAX_DEPTH: u32 = 4;

/// The annotation with which an image of a layout is named.
const NAME: &str = "org.opencontainers.image.ref.name";

/// The layers of one image of a layout.
#[derive(Debug)]
pub(crate) struct Image {
    /// The layers, the lowest first.
    pub(crate) layers: Vec<Layer>,
}

/// One layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) path: PathBuf,
    pub(crate) sum: Sum,
}

/// What points to a document or a layer.
#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An index or a manifest.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

impl Image {
    /// The image that `given`, `DIR` or `DIR:TAG`, means for `arch`, an architecture in Debian's words.
    pub(crate) fn open(given: &str, arch: &str) -> Result<Self, Error> {
        let (dir, tag) = match given.rsplit_once(':') {
            Some((dir, tag)) if !tag.contains('/') => (Path::new(dir), Some(tag)),
            _ => (Path::new(given), None),
        };
        let index = read(&dir.join("index.json"), None)?;
        let named =
            |it: &&Descriptor| tag.is_none() || it.annotations.get(NAME).map(String::as_str) == tag;
        let mut found: Vec<&Descriptor> = index.manifests.iter().filter(named).collect();
        if found.len() > 1 {
            found.retain(|it| it.is_for(arch));
        }
        let [descriptor] = &*found else {
            let tags: Vec<&str> = index
                .manifests
                .iter()
                .filter_map(|it| it.annotations.get(NAME))
                .map(|tag| &**tag)
                .collect();
            let cannot = format!("cannot tell which image of 'oci:{given}' is meant");
            let error = Error::new(format!("{cannot}: {} match", found.len()));
            return Err(match &*tags {
                [] => error,
                tags => error.hint(format!("name one: {}", tags.join(", "))),
            });
        };
        let manifest = manifest(dir, descriptor, arch, MAX_DEPTH)?;
        let layer = |layer: &Descriptor| {
            let (path, sum) = layer.blob(dir)?;
            Ok(Layer { path, sum })
        };
        Ok(Self { layers: manifest.layers.iter().map(layer).collect::<Result<_, _>>()? })
    }
}

impl Layer {
    /// The layer, open at its start, once it has its sum.
    pub(crate) fn open(&self) -> Result<File, Error> {
        let shown = self.path.display();
        let mut file = File::open(&self.path).attempt(|| format!("cannot open '{shown}'"))?;
        let unreadable = || format!("cannot read '{shown}'");
        let received = Hashing::new(&file).finish().attempt(unreadable)?;
        self.sum.require(received, &shown.to_string())?;
        file.rewind().attempt(unreadable)?;
        Ok(file)
    }
}

impl Descriptor {
    fn is_for(&self, arch: &str) -> bool {
        let ours = match arch {
            "armhf" => "arm",
            "ppc64el" => "ppc64le",
            "i386" => "386",
            same => same,
        };
        self.platform.as_ref().is_none_or(|it| it.os == "linux" && it.architecture == ours)
    }

    /// Where in the layout `dir` it points to, and with which sum.
    fn blob(&self, dir: &Path) -> Result<(PathBuf, Sum), Error> {
        let sum = self.digest.strip_prefix("sha256:").and_then(|hex| hex.parse::<Sum>().ok());
        let sum = sum.ok_or_else(|| {
            let digest = self.digest.escape_debug();
            Error::new(format!("refusing '{}': '{digest}' is no SHA-256 digest", dir.display()))
        })?;
        Ok((dir.join("blobs/sha256").join(sum.to_string()), sum))
    }
}

/// The manifest that `descriptor` points to, through indexes of several architectures.
fn manifest(
    dir: &Path,
    descriptor: &Descriptor,
    arch: &str,
    depth: u32,
) -> Result<Document, Error> {
    let (path, sum) = descriptor.blob(dir)?;
    let document = read(&path, Some(sum))?;
    if document.manifests.is_empty() {
        return Ok(document);
    }
    let next = document.manifests.iter().find(|it| it.is_for(arch)).filter(|_| depth > 0);
    let next = next.ok_or_else(|| {
        let kind = descriptor.media_type.escape_debug();
        Error::new(format!("cannot find an image for '{arch}' in '{}'", path.display()))
            .detail("it is", kind)
    })?;
    manifest(dir, next, arch, depth - 1)
}

fn read(path: &Path, sum: Option<Sum>) -> Result<Document, Error> {
    let cannot = || format!("cannot read '{}'", path.display());
    let length = fs::metadata(path).attempt(cannot)?.len();
    if length > MAX_DOCUMENT {
        return Err(Error::new(format!("{}: it has more than {MAX_DOCUMENT} bytes", cannot())));
    }
    let content = fs::read(path).attempt(cannot)?;
    if let Some(sum) = sum {
        let received = Hashing::new(&content[..]).finish().attempt(cannot)?;
        sum.require(received, &path.display().to_string())?;
    }
    serde_json::from_slice(&content).map_err(io::Error::from).attempt(cannot)
}
