//! OCI image layouts as a source: a directory with an index, manifests and layers, each named by its sum
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).

use crate::{
    error::{Attempt as _, Error},
    verify::{Hashing, Sum},
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Seek as _},
    path::{Path, PathBuf},
};

/// The most that an index or a manifest can take, as registries have it.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;

/// How deep indexes lie in indexes.
const MAX_DEPTH: u32 = 4;

/// The annotation with which an image of a layout is named.
pub(crate) const NAME: &str = "org.opencontainers.image.ref.name";

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

/// A layer that has its sum.
pub(crate) struct Verified {
    /// What it is called in messages.
    pub(crate) name: String,
    pub(crate) content: Box<dyn Read + Send>,
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
    variant: Option<String>,
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
            let tags = index.manifests.iter().filter_map(|it| it.annotations.get(NAME));
            let tags: Vec<&str> = tags.map(String::as_str).collect();
            return Err(ambiguous(&format!("oci:{given}"), found.len(), &tags));
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
    pub(crate) fn verify(&self) -> Result<Verified, Error> {
        let name = self.path.display().to_string();
        let mut file = File::open(&self.path).attempt(|| format!("cannot open '{name}'"))?;
        let unreadable = || format!("cannot read '{name}'");
        let received = Hashing::new(&file).finish().attempt(unreadable)?;
        self.sum.require(received, &name)?;
        file.rewind().attempt(unreadable)?;
        Ok(Verified { name, content: Box::new(file) })
    }
}

/// The error for an image that is not told from others, of those with these `tags`.
pub(crate) fn ambiguous(given: &str, matching: usize, tags: &[&str]) -> Error {
    let error =
        Error::new(format!("cannot tell which image of '{given}' is meant: {matching} match"));
    match tags {
        [] => error,
        tags => error.hint(format!("name one: {}", tags.join(", "))),
    }
}

/// An architecture, and its variant where it has some, in the words of images: those of Go's compiler.
pub(crate) fn image_arch(arch: &str) -> (&str, Option<&str>) {
    match arch {
        "armhf" => ("arm", Some("v7")),
        "armel" => ("arm", Some("v5")),
        "ppc64el" => ("ppc64le", None),
        "mips64el" => ("mips64le", None),
        "i386" => ("386", None),
        same => (same, None),
    }
}

impl Descriptor {
    fn is_for(&self, arch: &str) -> bool {
        let (ours, variant) = image_arch(arch);
        self.platform.as_ref().is_none_or(|it| {
            // Where the image does not say which, any does.
            let same =
                variant.is_none() || it.variant.is_none() || it.variant.as_deref() == variant;
            it.os == "linux" && it.architecture == ours && same
        })
    }

    /// Where in the layout `dir` it points to, and with which sum.
    fn blob(&self, dir: &Path) -> Result<(PathBuf, Sum), Error> {
        let sum = parse_digest(&self.digest, &dir.display().to_string())?;
        Ok((dir.join("blobs/sha256").join(sum.to_string()), sum))
    }
}

/// The sum that a digest in `what` is.
pub(crate) fn parse_digest(digest: &str, what: &str) -> Result<Sum, Error> {
    let sum = digest.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
    sum.ok_or_else(|| {
        let digest = digest.escape_debug();
        Error::new(format!("refusing '{what}': '{digest}' is no SHA-256 digest"))
    })
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
    let name = path.display().to_string();
    let cannot = || format!("cannot read '{name}'");
    let length = fs::metadata(path).attempt(cannot)?.len();
    let file = File::open(path).attempt(cannot)?;
    parse_document(file, length, &name, sum)
}

/// The document `name`, of `length` bytes, once it has its sum.
pub(crate) fn parse_document<T: DeserializeOwned>(
    input: impl Read,
    length: u64,
    name: &str,
    sum: Option<Sum>,
) -> Result<T, Error> {
    let cannot = || format!("cannot read '{name}'");
    if length > MAX_DOCUMENT {
        return Err(Error::new(format!("{}: it has more than {MAX_DOCUMENT} bytes", cannot())));
    }
    let mut content = Vec::new();
    input.take(MAX_DOCUMENT).read_to_end(&mut content).attempt(cannot)?;
    if let Some(sum) = sum {
        let received = Hashing::new(&content[..]).finish().attempt(cannot)?;
        sum.require(received, name)?;
    }
    serde_json::from_slice(&content).map_err(io::Error::from).attempt(cannot)
}
