//! Signed lists of files: which are believed, and which file they lead to.

use crate::{
    fixture::sha256,
    http_server::{Reply, Server},
    rootfs_fetch::{Place, gzip},
    support::Outcome,
};
use pgp::{
    composed::{
        ArmorOptions, DetachedSignature, KeyType, SecretKeyParamsBuilder, SignedSecretKey,
        SubpacketConfig,
    },
    crypto::hash::HashAlgorithm,
    packet::{Subpacket, SubpacketData},
    ser::Serialize,
    types::{Duration, KeyDetails as _, Password, Timestamp},
};
use rand::thread_rng;
use std::fs;

/// Where the list is, and the files that it lists.
const DIR: &str = "/ubuntu-base/releases/20.04/release";

/// A key made for a test.
fn key() -> SignedSecretKey {
    let mut params = SecretKeyParamsBuilder::default();
    params.key_type(KeyType::Ed25519).can_certify(true).can_sign(true);
    params.primary_user_id("test <test@example.com>".into());
    params.build().unwrap().generate(thread_rng()).unwrap()
}

fn sign(key: &SignedSecretKey, list: &str, hash: HashAlgorithm) -> DetachedSignature {
    let password = Password::empty();
    DetachedSignature::sign_binary_data(
        thread_rng(),
        &key.primary_key,
        &password,
        hash,
        list.as_bytes(),
    )
    .unwrap()
}

/// A signature of long ago that was to last for a day.
fn sign_expired(key: &SignedSecretKey, list: &str) -> DetachedSignature {
    let subpackets = [
        SubpacketData::SignatureCreationTime(Timestamp::from_secs(1_000_000_000)),
        SubpacketData::SignatureExpirationTime(Duration::from_secs(86_400)),
        SubpacketData::IssuerFingerprint(key.fingerprint()),
    ];
    let hashed = subpackets.map(|data| Subpacket::regular(data).unwrap()).to_vec();
    let subpackets = SubpacketConfig::UserDefined { hashed, unhashed: Vec::new() };
    DetachedSignature::sign_binary_data_with_subpackets(
        thread_rng(),
        &key.primary_key,
        &Password::empty(),
        HashAlgorithm::Sha256,
        list.as_bytes(),
        subpackets,
    )
    .unwrap()
}

/// Several signatures in one block, as Ubuntu's lists have carried them.
fn armour(signatures: &[DetachedSignature]) -> Vec<u8> {
    armour_packets(signatures.iter().flat_map(|signature| signature.to_bytes().unwrap()).collect())
}

fn armour_packets(packets: Vec<u8>) -> Vec<u8> {
    struct Packets(Vec<u8>);
    impl Serialize for Packets {
        fn to_writer<W: std::io::Write>(&self, writer: &mut W) -> pgp::errors::Result<()> {
            Ok(writer.write_all(&self.0)?)
        }

        fn write_len(&self) -> usize {
            self.0.len()
        }
    }
    let mut armour = Vec::new();
    let kind = pgp::armor::BlockType::Signature;
    pgp::armor::write(&Packets(packets), kind, &mut armour, None, true).unwrap();
    armour
}

/// A signature that says it is of SHA-1. It is of a version 4, whose hash is named after tag, length, version,
/// type and key algorithm.
fn sign_weakly(key: &SignedSecretKey, list: &str) -> Vec<u8> {
    let mut packet = sign(key, list, HashAlgorithm::Sha256).to_bytes().unwrap();
    assert_eq!((packet[2], packet[5]), (4, 8));
    packet[5] = 2;
    packet
}

/// The tarball of every release on the server.
fn tarball() -> Vec<u8> {
    gzip(b"what it holds does not matter here")
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| sha256(&tarball()) + " *" + name + "\n").collect()
}

const LISTED: [&str; 4] = [
    "ubuntu-base-20.04.1-base-amd64.tar.gz",
    "ubuntu-base-20.04.9-base-amd64.tar.gz",
    "ubuntu-base-20.04.10-base-amd64.tar.gz",
    "ubuntu-base-20.04.11-base-arm64.tar.gz",
];

/// A server with a list, its signatures, and what `LISTED` names.
fn server(list: &str, signatures: &[u8]) -> Server {
    let file = |name: &str| (format!("{DIR}/{name}"), Reply::Content(tarball()));
    let (sums, signed) = (format!("{DIR}/SHA256SUMS"), format!("{DIR}/SHA256SUMS.gpg"));
    let [one, two, three, four] = LISTED.map(file);
    Server::new([
        (&*sums, Reply::Content(list.into())),
        (&*signed, Reply::Content(signatures.into())),
        (&*one.0, one.1),
        (&*two.0, two.1),
        (&*three.0, three.1),
        (&*four.0, four.1),
    ])
}

/// Ask `server` for `release`, with `key` as the only one that is trusted.
fn fetch(
    place: &Place,
    server: &Server,
    key: &SignedSecretKey,
    release: &str,
    more: &[&str],
) -> Outcome {
    let keyring = key.to_public_key().to_armored_bytes(ArmorOptions::default()).unwrap();
    fs::write(place.path("keyring"), keyring).unwrap();
    let mirror = server.url("/ubuntu-base");
    let args = ["--download-only", "--arch", "amd64", "--keyring", "keyring", "--mirror", &mirror];
    place.fetch(&[&args[..], &["--release", release], more].concat())
}

#[test]
fn the_newest_point_release_of_a_signed_list_is_taken_and_kept() {
    let (place, key, list) = (Place::new(), key(), list(&LISTED));
    let signed = armour(&[sign(&key, &list, HashAlgorithm::Sha512)]);
    let server = server(&list, &signed);
    let fetched = fetch(&place, &server, &key, "20.04", &[]).success();
    assert_eq!(fs::read(fetched.stdout.trim_end()).unwrap(), tarball());
    let asked = ["SHA256SUMS", "SHA256SUMS.gpg", "ubuntu-base-20.04.10-base-amd64.tar.gz"];
    let asked = asked.map(|name| format!("{DIR}/{name}"));
    assert_eq!(server.requests(), asked);
    fetch(&place, &server, &key, "20.04", &["--offline"]).success();
    assert_eq!(server.requests(), asked);
    // An older one by its own name.
    fetch(&place, &server, &key, "20.04.9", &[]).success();
    let refused = fetch(&place, &server, &key, "20.04.3", &[]);
    let stderr = "\
rootfs-fetch: cannot find Ubuntu Base 20.04.3 for amd64: SHA256SUMS does not list it
  hint: it lists 20.04.1 for amd64, 20.04.9 for amd64, 20.04.10 for amd64, 20.04.11 for arm64
";
    assert_eq!(refused, Outcome { code: 1, stdout: String::new(), stderr: stderr.into() });
}

#[test]
fn one_good_signature_is_enough_whatever_stands_beside_it() {
    let (key, other, list) = (key(), self::key(), list(&LISTED));
    let good = sign(&key, &list, HashAlgorithm::Sha256);
    let by_other = sign(&other, &list, HashAlgorithm::Sha256);
    let bad = sign(&key, "another list", HashAlgorithm::Sha256);
    for signatures in [
        vec![good.clone()],
        vec![by_other.clone(), good.clone()],
        vec![bad, by_other, sign_expired(&key, &list), good],
    ] {
        let server = server(&list, &armour(&signatures));
        fetch(&Place::new(), &server, &key, "20.04.9", &[]).success();
    }
}

#[test]
fn a_list_that_is_not_signed_as_it_should_be_is_refused_with_the_reason() {
    let (key, other, list) = (key(), self::key(), list(&LISTED));
    let changed = list.replace("20.04.1-", "20.04.2-");
    let by = |key: &SignedSecretKey| format!("{:X}", key.fingerprint());
    let good = sign(&key, &list, HashAlgorithm::Sha256);
    let unknown = sign(&other, &list, HashAlgorithm::Sha256);
    let ours = by(&key);
    let cases = [
        (&changed, armour(&[good]), format!("its signature by {ours} is bad")),
        (
            &list,
            armour(&[unknown]),
            format!("it is signed by the key {}, which is not trusted", by(&other)),
        ),
        (
            &list,
            armour(&[sign_expired(&key, &list)]),
            format!("its signature by {ours} has expired"),
        ),
        (
            &list,
            armour_packets(sign_weakly(&key, &list)),
            format!("its signature by {ours} is of SHA1, which is too weak"),
        ),
    ];
    for (list, signatures, why) in cases {
        let (place, server) = (Place::new(), server(list, &signatures));
        let refused = fetch(&place, &server, &key, "20.04.9", &[]);
        let stderr = format!("rootfs-fetch: refusing '{}/SHA256SUMS': {why}\n", server.url(DIR));
        assert_eq!(refused, Outcome { code: 1, stdout: String::new(), stderr });
        assert_eq!(fs::read_dir(place.path("cache")).unwrap().count(), 0);
    }
    for noise in
        ["", "noise", "-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n"]
    {
        let server = server(&list, noise.as_bytes());
        let refused = fetch(&Place::new(), &server, &key, "20.04.9", &[]);
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains("rootfs-fetch: refusing '"), "{refused:?}");
    }
}

#[test]
fn without_a_list_a_release_that_is_not_built_in_is_refused() {
    let (place, key) = (Place::new(), key());
    let server = Server::new([]);
    let refused = fetch(&place, &server, &key, "22.04", &[]);
    let list = server.url("/ubuntu-base/releases/22.04/release/SHA256SUMS");
    let stderr = format!("rootfs-fetch: cannot download '{list}': server answered 404 Not Found\n");
    assert_eq!(refused, Outcome { code: 1, stdout: String::new(), stderr });
}

#[test]
fn the_next_mirror_is_asked_where_the_list_of_one_is_not_signed() {
    let (place, key, list) = (Place::new(), key(), list(&LISTED));
    let bad = server(&list, b"noise");
    let good = server(&list, &armour(&[sign(&key, &list, HashAlgorithm::Sha256)]));
    let mirror = bad.url("/ubuntu-base");
    fetch(&place, &good, &key, "20.04.9", &["--mirror", &mirror]).success();
    let place = Place::new();
    fetch(&place, &bad, &key, "20.04.9", &["--mirror", &good.url("/ubuntu-base")]).success();
}
