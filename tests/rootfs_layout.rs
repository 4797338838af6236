//! OCI image layouts as a source.

use crate::{
    fixture::sha256,
    rootfs_fetch::Place,
    support::{Outcome, root, sh},
};
use serde_json::{Value, json};
use std::fs;

/// Three layers as tar makes them, the second with whiteouts, the third with a file where a directory was.
const LAYERS: &str = "set -e
mkdir -p one/etc one/bin one/dir/sub one/opaque/kept two/etc two/opaque/kept three/etc
echo 1 | tee one/etc/kept one/etc/gone one/dir/sub/x one/opaque/old one/opaque/kept/old >/dev/null
echo 2 | tee two/etc/new two/opaque/new two/opaque/kept/new >/dev/null
touch two/etc/.wh.gone two/etc/.wh.never-there two/opaque/.wh..wh..opq
echo 3 | tee three/dir three/etc/kept >/dev/null
for layer in one three; do tar -C $layer -czf $layer.tar $(ls $layer); done
# Whiteouts last: they are about the layers below all the same.
tar -C two -cf two.tar etc/new opaque/kept/new opaque/new etc/.wh.gone etc/.wh.never-there opaque/.wh..wh..opq";

/// Put `content` among the blobs of the layout, and describe it.
fn blob(place: &Place, content: &[u8]) -> Value {
    let sum = sha256(content);
    fs::create_dir_all(place.path("layout/blobs/sha256")).unwrap();
    fs::write(place.path("layout/blobs/sha256").join(&sum), content).unwrap();
    json!({ "digest": format!("sha256:{sum}"), "size": content.len() })
}

/// A layout with two images: `all` for two architectures, of three layers and of one, and `small`.
fn layout(place: &Place) {
    sh(&format!("cd '{}' && {LAYERS}", place.dir.display())).success();
    let layers = ["one.tar", "two.tar", "three.tar"];
    let layers = layers.map(|name| blob(place, &fs::read(place.path(name)).unwrap()));
    let manifest = |layers: &[Value]| {
        let manifest = json!({ "schemaVersion": 2, "config": {}, "layers": layers });
        blob(place, manifest.to_string().as_bytes())
    };
    let (mut all, mut small) = (manifest(&layers), manifest(&layers[..1]));
    let mut other = small.clone();
    all["platform"] = json!({ "os": "linux", "architecture": "arm64" });
    other["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let index = json!({ "schemaVersion": 2, "manifests": [other, all] });
    let mut index = blob(place, index.to_string().as_bytes());
    let name = |name: &str| json!({ "org.opencontainers.image.ref.name": name });
    index["annotations"] = name("all");
    small["annotations"] = name("small");
    let index = json!({ "schemaVersion": 2, "manifests": [index, small] });
    fs::write(place.path("layout/index.json"), index.to_string()).unwrap();
}

#[test]
fn the_layers_of_an_image_are_unpacked_one_over_the_other_with_their_whiteouts() {
    need!(root());
    let place = Place::new();
    layout(&place);
    place
        .fetch(&["--from", "oci:layout:all", "--arch", "arm64", "--no-install", "rootfs"])
        .success();
    let found = sh(&format!(
        "cd '{}' && find . -type f -printf '%P ' -exec cat {{}} \\; | sort",
        place.path("rootfs").display()
    ));
    let expected = "dir 3\netc/kept 3\netc/new 2\nopaque/kept/new 2\nopaque/new 2\n";
    assert_eq!(found.stdout, expected);
    place.fetch(&["--from", "oci:layout:small", "--no-install", "small"]).success();
    assert!(place.path("small/opaque/old").exists());
}

#[test]
fn an_image_that_is_not_named_or_not_whole_is_refused() {
    need!(root());
    let place = Place::new();
    layout(&place);
    let refused = place.fetch(&["--from", "oci:layout", "--no-install", "rootfs"]);
    let stderr = "\
rootfs-fetch: cannot tell which image of 'oci:layout' is meant: 2 match
  hint: name one: all, small
";
    assert_eq!(refused, Outcome { code: 1, stdout: String::new(), stderr: stderr.into() });
    let wrong = sha256(&fs::read(place.path("one.tar")).unwrap());
    let blob = place.path("layout/blobs/sha256").join(&wrong);
    fs::write(&blob, "damaged").unwrap();
    let refused = place.fetch(&["--from", "oci:layout:small", "--no-install", "rootfs"]);
    let stderr = format!(
        "rootfs-fetch: refusing 'layout/blobs/sha256/{wrong}': its SHA-256 sum is not the expected one\n  \
         expected: {wrong}\n  received: {}\n",
        sha256(b"damaged")
    );
    assert_eq!(refused, Outcome { code: 1, stdout: String::new(), stderr });
    let refused =
        place.fetch(&["--from", "oci:layout:all", "--arch", "s390x", "--no-install", "rootfs"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("cannot find an image for 's390x'"), "{refused:?}");
    assert!(!place.path("rootfs").exists());
}
