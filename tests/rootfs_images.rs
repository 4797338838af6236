//! Archives and images as what is made, and images in archives as a source.

use crate::{
    fixture::sha256,
    rootfs_fetch::{Place, gzip},
    support::{Outcome, installed, outcome, root, sh, tool},
};
use rustix::fs::{XattrFlags, setxattr};
use serde_json::{Value, json};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Command,
};

/// A line of shell in `place`.
#[track_caller]
fn here(place: &Place, line: &str) -> Outcome {
    sh(&format!("cd '{}' && {{ {line}\n}}", place.dir.display())).success()
}

fn failed(code: i32, stderr: impl Into<String>) -> Outcome {
    Outcome { code, stdout: String::new(), stderr: stderr.into() }
}

/// The options with which GNU tar packs one tree into the same bytes each time, all that is in it.
const PACK: &str = "tar --create --format=pax --sort=name --numeric-owner --xattrs --xattrs-include='*' \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime";

/// Make `tree` here with one of each kind of file, and `tree.tar` of it.
fn tree(place: &Place) {
    let line = "set -e; mkdir -p tree/etc tree/bin tree/dev tree/tmp tree/etc/$(printf 'long-%.0s' $(seq 30))
        echo hello >tree/etc/motd; (cd tree/etc/long*; touch $(printf 'name-%.0s' $(seq 30))); ln tree/etc/motd tree/bin/hard
        printf su >tree/bin/su; chown 3000000:70000 tree/bin/su; chmod 6755 tree/bin/su; chmod 1777 tree/tmp
        ln -s ../etc/motd tree/bin/soft; ln -s $(printf 'far/%.0s' $(seq 40)) tree/bin/far
        mknod tree/dev/null c 1 3; chmod 666 tree/dev/null; mkfifo tree/tmp/fifo; chown 7:8 -h tree/bin/soft
        touch -d '1969-12-31 23:59:58.5 UTC' tree/etc; touch -d '2020-01-01 00:00:00.123456789 UTC' tree/etc/motd tree/tmp";
    here(place, line);
    let set = |path: &str, name: &str, value: &[u8]| {
        setxattr(place.path(path), name, value, XattrFlags::empty()).unwrap();
    };
    set("tree/bin/hard", "user.x", b"a=b\nc");
    set("tree/tmp", "user.directory", b"y");
    // cap_net_raw=ep, as setcap writes it.
    set(
        "tree/bin/su",
        "security.capability",
        &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    here(place, &format!("{PACK} --file=tree.tar --directory=tree ."));
}

/// All that is in the tree `dir`, in one sum by GNU tar.
fn sum(place: &Place, dir: &str) -> String {
    here(place, &format!("{PACK} --directory='{dir}' . | sha256sum")).stdout
}

#[test]
fn a_tree_goes_through_images_and_archives_and_comes_out_the_same() {
    need!(root() && installed("skopeo") && installed("umoci"));
    let place = Place::new();
    tree(&place);
    let make = |args: &[&str]| {
        let mut command = tool("rootfs-fetch");
        command.current_dir(&place.dir).env("SOURCE_DATE_EPOCH", "1600000000");
        outcome(command.args(["--no-install"]).args(args)).success()
    };
    make(&["--from", "tree.tar", "one"]);
    let expected = sum(&place, "one");
    // What is older than the epoch has its time.
    assert_eq!(fs::metadata(place.path("one/etc/motd")).unwrap().mtime_nsec(), 123_456_789);
    let packed = make(&["--from", "tree.tar", "--output", "oci", "oci"]);
    assert_eq!(packed.stdout, format!("{}\n", place.path("oci").display()));
    assert_eq!(packed.stderr, "rootfs-fetch: unpacking 'tree.tar'\nrootfs-fetch: packing 'oci'\n");
    let seen: Value = serde_json::from_str(&here(&place, "skopeo inspect oci:oci").stdout).unwrap();
    assert_eq!((&seen["Os"], &seen["Created"]), (&json!("linux"), &json!("2020-09-13T12:26:40Z")));
    assert_eq!(seen["Layers"].as_array().unwrap().len(), 1);
    here(&place, "umoci unpack --image oci:latest bundle");
    assert_eq!(sum(&place, "bundle/rootfs"), expected);
    // Through skopeo into an archive as 'docker save' writes it, and back, packed or not.
    here(
        &place,
        "skopeo copy --quiet oci:oci:latest docker-archive:saved.tar:image:tag && gzip --keep saved.tar",
    );
    for (number, from) in
        ["oci:oci", "docker-archive:saved.tar", "docker-archive:saved.tar.gz:image:tag"]
            .iter()
            .enumerate()
    {
        let dir = format!("from-{number}");
        make(&["--from", from, &dir]);
        assert_eq!(sum(&place, &dir), expected, "{from}");
    }
    make(&["--from", "tree.tar", "--output", "tar", "made.tar"]);
    here(
        &place,
        "mkdir theirs && tar --xattrs --xattrs-include='*' --numeric-owner -xpf made.tar -C theirs",
    );
    assert_eq!(sum(&place, "theirs"), expected);
    // The same bytes each time, and on standard output.
    make(&["--from", "oci:oci", "--output", "oci", "oci.2"]);
    here(&place, "diff --recursive oci oci.2");
    let stream = "SOURCE_DATE_EPOCH=1600000000 \"$0\" --cache-dir cache --from docker-archive:saved.tar --no-install --output tar - | cmp - made.tar";
    let mut shell = Command::new("bash");
    shell
        .current_dir(&place.dir)
        .args(["-c", stream])
        .arg(crate::support::tool_path("rootfs-fetch"));
    outcome(&mut shell).success();
    assert_eq!(fs::read_dir(place.path("cache")).unwrap().count(), 0);
}

#[test]
fn an_archive_or_image_that_is_there_is_left_alone_unless_it_is_forced() {
    need!(root());
    let place = Place::new();
    here(
        &place,
        "mkdir -p tree/etc tree/bin tree/var/lib/dpkg && tar -C tree -cf a.tar . && mkdir empty && touch nothing && \
        printf 'Package: x\nStatus: install ok installed\n' >tree/var/lib/dpkg/status && tar -C tree -cf x.tar .",
    );
    for (output, dest, empty) in [("tar", "made.tar", "nothing"), ("oci", "image", "empty")] {
        let make = |args: &[&str]| place.fetch(&[&["--output", output, "--from"], args].concat());
        make(&["a.tar", "--no-install", dest]).success();
        make(&["a.tar", "--no-install", empty]).success();
        let before = fs::metadata(place.path(dest)).unwrap().ino();
        let again = make(&["a.tar", "--no-install", "--verbose", dest]);
        let stdout = format!("{}\n", place.path(dest).display());
        let stderr = format!("rootfs-fetch: '{dest}' is complete: nothing to do\n");
        assert_eq!(again, Outcome { code: 0, stdout: stdout.clone(), stderr });
        let refused = make(&["a.tar", "--install", "x", dest]);
        let stderr = format!(
            "rootfs-fetch: cannot install x in '{dest}': it is no directory\n  hint: --force makes it anew\n"
        );
        assert_eq!(refused, failed(1, stderr));
        assert_eq!(make(&["no.tar", "--no-install", "--force", dest]).code, 1);
        assert_eq!(fs::metadata(place.path(dest)).unwrap().ino(), before);
        make(&["x.tar", "--no-install", "--force", dest]).success();
        assert_ne!(fs::metadata(place.path(dest)).unwrap().ino(), before);
        // It holds the package now.
        assert_eq!(make(&["x.tar", "--install", "x", dest]).success().stdout, stdout);
    }
    assert_eq!(place.names(), ["a.tar", "empty", "image", "made.tar", "nothing", "tree", "x.tar"]);
}

#[test]
fn what_is_no_place_for_an_archive_or_image_is_refused() {
    need!(root());
    let place = Place::new();
    here(&place, "mkdir -p tree/etc tree/bin && tar -C tree -cf a.tar . && echo mine >mine");
    let cases = [
        ("tar", "tree", 1, "cannot make 'tree': it is no file"),
        ("tar", "mine", 1, "cannot make 'mine': it is not empty, and no tar archive"),
        ("oci", "tree", 1, "cannot make 'tree': it is not empty, and no OCI layout"),
        ("oci", "mine", 1, "cannot make 'mine': Not a directory (ENOTDIR)"),
        ("oci", "-", 2, "'-' is standard output: it takes --output tar, and no --json beside that"),
    ];
    for (output, dest, code, why) in cases {
        let refused =
            place.fetch(&["--from", "a.tar", "--no-install", "--output", output, "--force", dest]);
        assert_eq!(refused, failed(code, format!("rootfs-fetch: {why}\n")));
    }
    assert_eq!(place.names(), ["a.tar", "mine", "tree"]);
    let mut command = tool("rootfs-fetch");
    command.current_dir(&place.dir).args([
        "--from",
        "a.tar",
        "--no-install",
        "--cache-dir",
        "cache",
    ]);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let refused: Outcome =
        command.args(["--output", "tar", "-"]).stdout(full).output().unwrap().into();
    let stderr = "\
rootfs-fetch: unpacking 'a.tar'
rootfs-fetch: cannot write to standard output: No space left on device (ENOSPC)
  undone: 'cache/.stdout-0.partial' is removed
";
    assert_eq!(refused, failed(1, stderr));
}

#[test]
fn the_plan_for_an_image_is_shell_commands() {
    let place = Place::new();
    fs::write(place.path("saved.tar"), "").unwrap();
    let plan = place.fetch(&[
        "--from",
        "docker-archive:saved.tar",
        "--no-install",
        "--arch",
        "arm64",
        "--output",
        "oci",
        "--dry-run",
        "image",
    ]);
    let unpack =
        "tar --extract --preserve-permissions --numeric-owner --xattrs --xattrs-include='*'";
    let stdout = format!(
        "\
mkdir --parents .image.partial/rootfs
tar --extract --to-stdout --file=saved.tar manifest.json | jq --raw-output '.[0].Layers[]' |
while read -r layer; do tar --extract --to-stdout --file=saved.tar \"$layer\" | {unpack} --directory=.image.partial/rootfs --file=-; done
# and what '.wh.NAME' in a layer names is removed before
umoci init --layout .image.partial/output
umoci new --image .image.partial/output:latest
umoci insert --image .image.partial/output:latest .image.partial/rootfs /
umoci config --image .image.partial/output:latest --architecture arm64 \
--config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --config.cmd /bin/bash
mv --no-target-directory .image.partial/output image
rm --recursive --force --one-file-system .image.partial
"
    );
    assert_eq!(plan, Outcome { code: 0, stdout, stderr: String::new() });
    assert_eq!(place.names(), ["saved.tar"]);
    let plan =
        place.fetch(&["--from", "saved.tar", "--no-install", "--output", "tar", "--dry-run", "-"]);
    let partial = "cache/.stdout-0.partial";
    let stdout = format!(
        "mkdir --parents {partial}/rootfs\n{unpack} --directory={partial}/rootfs --file=saved.tar\n\
         {PACK} --directory={partial}/rootfs --file=- .\nrm --recursive --force --one-file-system {partial}\n"
    );
    assert_eq!(plan, Outcome { code: 0, stdout, stderr: String::new() });
}

// Archives as 'docker save' writes them

/// Write `saved.tar` of an image for each of `images`: its name, its architecture, its layers, and the sums that its
/// configuration has of them. Then `line` may change what is in it, before it is packed.
fn save(place: &Place, images: &[(&str, &str, &[&str], &[String])], line: &str) {
    drop(fs::remove_dir_all(place.path("saved")));
    fs::create_dir(place.path("saved")).unwrap();
    let mut list = Vec::new();
    for (name, arch, layers, sums) in images {
        let sums: Vec<String> = sums.iter().map(|sum| format!("sha256:{sum}")).collect();
        let config = json!({ "architecture": arch, "os": "linux", "rootfs": { "type": "layers", "diff_ids": sums } });
        let config_name = format!("{}.json", sha256(config.to_string().as_bytes()));
        fs::write(place.path("saved").join(&config_name), config.to_string()).unwrap();
        list.push(json!({ "Config": config_name, "RepoTags": [name], "Layers": layers }));
    }
    fs::write(place.path("saved/manifest.json"), json!(list).to_string()).unwrap();
    here(
        place,
        &format!("cp one.tar two.tar saved && cd saved && {line} && tar -cf ../saved.tar *"),
    );
}

/// Make two layers, `one.tar` and `two.tar`, and give their sums.
fn layers(place: &Place) -> [String; 2] {
    here(
        place,
        "mkdir -p one/etc one/bin one/opaque two/etc two/opaque && echo 1 | tee one/etc/gone one/opaque/old >one/etc/kept && \
        echo 2 | tee two/opaque/new >two/etc/new && touch two/etc/.wh.gone two/opaque/.wh..wh..opq && \
        tar -C one -cf one.tar . && tar -C two -cf two.tar .",
    );
    ["one.tar", "two.tar"].map(|name| sha256(&fs::read(place.path(name)).unwrap()))
}

fn files(dir: &Path) -> String {
    sh(&format!("cd '{}' && find . -type f -printf '%P ' -exec cat {{}} \\; | sort", dir.display()))
        .success()
        .stdout
}

#[test]
fn the_layers_of_a_saved_image_are_unpacked_in_their_order_with_whiteouts() {
    need!(root());
    let place = Place::new();
    let sums = layers(&place);
    let both = "etc/kept 1\netc/new 2\nopaque/new 2\n";
    // Older ones have a directory for each layer, and a link where two are the same.
    let old = "mkdir a b && mv two.tar b/layer.tar && mv one.tar b/one.tar && ln -s ../b/one.tar a/layer.tar";
    // Newer ones may have layers that are packed: the sum is that of what is in them.
    let cases = [
        ("x/all:latest", &["one.tar", "two.tar"][..], "true"),
        ("x/all:latest", &["a/layer.tar", "./b/layer.tar"], old),
        ("x/all:latest", &["one.tar", "two.tar.gz"], "gzip two.tar"),
    ];
    for (name, layers, line) in cases {
        save(&place, &[(name, "amd64", layers, &sums)], line);
        place
            .fetch(&["--from", "docker-archive:saved.tar:all", "--force", "--no-install", "rootfs"])
            .success();
        assert_eq!(files(&place.path("rootfs")), both, "{line}");
        fs::write(place.path("saved.tar.gz"), gzip(&fs::read(place.path("saved.tar")).unwrap()))
            .unwrap();
        place
            .fetch(&["--from", "docker-archive:saved.tar.gz", "--force", "--no-install", "rootfs"])
            .success();
        assert_eq!(files(&place.path("rootfs")), both, "{line}, packed");
    }
    // Of several images the one that is named, or else the one for the architecture.
    let images: [(&str, &str, &[&str], &[String]); 3] = [
        ("one:1", "amd64", &["one.tar"], &sums[..1]),
        ("all:1", "arm64", &["one.tar", "two.tar"], &sums),
        ("all:2", "amd64", &["one.tar"], &sums[..1]),
    ];
    save(&place, &images, "true");
    for (from, arch) in [("saved.tar", "arm64"), ("saved.tar:all:1", "amd64")] {
        let from = format!("docker-archive:{from}");
        place
            .fetch(&["--from", &from, "--arch", arch, "--force", "--no-install", "rootfs"])
            .success();
        assert_eq!(files(&place.path("rootfs")), both, "{from}");
    }
    let refused = place.fetch(&[
        "--from",
        "docker-archive:saved.tar",
        "--arch",
        "amd64",
        "--force",
        "--no-install",
        "rootfs",
    ]);
    let stderr = "\
rootfs-fetch: cannot tell which image of 'docker-archive:saved.tar' is meant: 2 match
  hint: name one: one:1, all:1, all:2
";
    assert_eq!(refused, failed(1, stderr));
}

/// What is wrong, the layers, the sums that are said, a change of what is saved, and what is told.
type Lie<'a> = (&'a str, &'a [&'a str], &'a [String], &'a str, String);

#[test]
fn a_saved_image_that_lies_is_refused_before_anything_is_made() {
    need!(root());
    let place = Place::new();
    let sums = layers(&place);
    let [one, two] = &sums;
    let missing = "'three.tar' is missing in it";
    let sum = format!(
        "rootfs-fetch: refusing 'two.tar' of 'saved.tar': its SHA-256 sum is not the expected one\n  expected: {one}\n  received: {two}\n"
    );
    let wrong = [one.clone(), one.clone()];
    let why = |why: &str| format!("rootfs-fetch: refusing 'saved.tar': {why}\n");
    let plain: &[&str] = &["one.tar", "two.tar"];
    let none = "echo '[{\"Config\":\"x.json\",\"RepoTags\":null,\"Layers\":[]}]' >manifest.json";
    let cases: [Lie; 10] = [
        (
            "a path out",
            &["../one.tar", "two.tar"],
            &sums,
            "true",
            why("'../one.tar' leads out of it"),
        ),
        (
            "an absolute path",
            &["/etc/passwd", "two.tar"],
            &sums,
            "true",
            why("'/etc/passwd' leads out of it"),
        ),
        ("a layer that is not there", &["one.tar", "three.tar"], &sums, "true", why(missing)),
        ("a sum of another", plain, &wrong, "true", sum),
        ("too few sums", plain, &sums[..1], "true", why("it has 2 layers, and sums of 1")),
        (
            "a link out",
            plain,
            &sums,
            "ln -sf ../../two.tar two.tar",
            why("'../../two.tar' leads out of it"),
        ),
        (
            "an absolute link",
            plain,
            &sums,
            "ln -sf /etc/passwd two.tar",
            why("'/etc/passwd' leads out of it"),
        ),
        (
            "a ring",
            plain,
            &sums,
            "rm two.tar && ln -s two.tar two.tar",
            why("'two.tar' in it is a link to itself"),
        ),
        ("no list", plain, &sums, "rm manifest.json", why("'manifest.json' is missing in it")),
        ("no configuration", plain, &sums, none, why("'x.json' is missing in it")),
    ];
    for (what, layers, sums, line, stderr) in cases {
        save(&place, &[("x:1", "amd64", layers, sums)], line);
        let refused =
            place.fetch(&["--from", "docker-archive:saved.tar", "--no-install", "rootfs"]);
        assert_eq!(refused, failed(1, stderr), "{what}");
    }
    assert!(!place.names().iter().any(|name| name.contains("rootfs")));
}

#[test]
fn a_saved_image_whose_configuration_was_changed_or_that_is_too_large_is_refused() {
    need!(root());
    let place = Place::new();
    let sums = layers(&place);
    let plain: &[&str] = &["one.tar", "two.tar"];
    // The configuration's own sum is its name.
    save(&place, &[("x:1", "amd64", plain, &sums)], "sed -i s/amd64/arm64/ [0-9a-f]*.json");
    let refused = place.fetch(&["--from", "docker-archive:saved.tar", "--no-install", "rootfs"]);
    assert!(
        refused.stderr.contains(".json' of 'saved.tar': its SHA-256 sum is not the expected one\n"),
        "{refused:?}"
    );
    let refused = place.fetch(&[
        "--from",
        "docker-archive:saved.tar",
        "--max-size",
        "1K",
        "--no-install",
        "rootfs",
    ]);
    let stderr = "\
rootfs-fetch: refusing 'saved.tar': unpacked it takes more than 1024 bytes
  hint: --max-size takes more
";
    assert_eq!(refused, failed(1, stderr));
    assert!(!place.names().iter().any(|name| name.contains("rootfs")));
}
