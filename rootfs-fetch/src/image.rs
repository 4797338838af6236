//! Writing an image: an OCI layout with one image of one layer
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).

use crate::{
    layout::{NAME, image_arch},
    pack::{Purpose, pack},
    tree::Tree,
    verify::{Hashing, Sum},
};
use flate2::{Compression, write::GzEncoder};
use httpdate::fmt_http_date;
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

/// The name of the image in the layout.
pub(crate) const TAG: &str = "latest";

/// Where a program of the image is looked for.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Write `tree`, of the architecture `arch` in Debian's words and made at `time`, in seconds since 1970, as a layout
/// to the directory `dir`, which is not there yet. Gives the number of sockets, which no layer holds.
pub(crate) fn write_layout(tree: &Tree, arch: &str, time: u64, dir: &Path) -> io::Result<u64> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let unnamed = blobs.join("layer");
    // Neither name nor time in the header of gzip: the same layer is the same bytes.
    let file = Hashing::new(BufWriter::with_capacity(1 << 17, File::create(&unnamed)?));
    let mut layer = Hashing::new(GzEncoder::new(file, Compression::default()));
    let sockets = pack(tree, Purpose::Layer, &mut layer)?;
    let diff_id = layer.sum();
    let mut file = layer.into_inner().finish()?;
    file.flush()?;
    fs::rename(&unnamed, blobs.join(file.sum().to_string()))?;
    let size = fs::metadata(blobs.join(file.sum().to_string()))?.len();
    let layer = descriptor("layer.v1.tar+gzip", file.sum(), size);
    let config = blob(&blobs, "config.v1+json", &config(tree, arch, time, diff_id))?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let mut manifest = blob(&blobs, "manifest.v1+json", &manifest)?;
    manifest["platform"] = platform(arch);
    manifest["annotations"] = json!({ NAME: TAG });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    fs::write(dir.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    fs::write(dir.join("index.json"), index.to_string())?;
    Ok(sockets)
}

/// The shell that the image starts.
pub(crate) fn shell(tree: &Tree) -> &'static str {
    if tree.has("bin/bash") { "/bin/bash" } else { "/bin/sh" }
}

fn config(tree: &Tree, arch: &str, time: u64, diff_id: Sum) -> Value {
    let created = rfc3339(time);
    let mut config = platform(arch);
    config["created"] = json!(created);
    config["config"] = json!({ "Env": [format!("PATH={PATH}")], "Cmd": [shell(tree)] });
    config["rootfs"] = json!({ "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] });
    config["history"] = json!([{ "created": created, "created_by": "rootfs-fetch" }]);
    config
}

fn platform(arch: &str) -> Value {
    let (architecture, variant) = image_arch(arch);
    let mut platform = json!({ "architecture": architecture, "os": "linux" });
    if let Some(variant) = variant {
        platform["variant"] = json!(variant);
    }
    platform
}

/// Write a document among the blobs, and describe it.
fn blob(blobs: &Path, kind: &str, document: &Value) -> io::Result<Value> {
    let content = document.to_string();
    let sum = Hashing::new(content.as_bytes()).finish()?;
    fs::write(blobs.join(sum.to_string()), &content)?;
    Ok(descriptor(kind, sum, content.len() as u64))
}

fn descriptor(kind: &str, sum: Sum, size: u64) -> Value {
    json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": format!("sha256:{sum}"),
        "size": size,
    })
}

/// A time, in seconds since 1970, as RFC 3339 has it: the date of HTTP in another order.
fn rfc3339(time: u64) -> String {
    const LAST: u64 = 253_402_300_799; // of the year 9999
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let date = fmt_http_date(UNIX_EPOCH + Duration::from_secs(time.min(LAST)));
    let words: Vec<&str> = date.split(' ').collect();
    let [_, day, month, year, time, _] = &*words else { return date };
    let month = MONTHS.find(month).unwrap_or_default() / 3 + 1;
    format!("{year}-{month:02}-{day}T{time}Z")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_those_of_date() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ];
        for (time, text) in cases {
            assert_eq!(rfc3339(time), text);
        }
    }
}
