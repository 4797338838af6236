//! Signatures, as `OpenPGP` has them, of what is on a server: which keys are trusted, and which signatures count.

use crate::error::{Attempt as _, Error};
use pgp::{
    composed::{Deserializable as _, DetachedSignature, SignedPublicKey, SignedPublicSubKey},
    crypto::{
        hash::HashAlgorithm::{Sha3_256, Sha3_512, Sha256, Sha384, Sha512},
        public_key::PublicKeyAlgorithm,
    },
    packet::{Signature, SignatureType},
    types::{Duration, KeyDetails, Timestamp, VerifyingKey},
};
use std::{fs, path::Path};

/// Ubuntu CD Image Automatic Signing Key (2012), 8439 38DF 228D 22F7 B374 2BC0 D94A A3F0 EFE2 1092. The one of
/// 2004, which signed beside it for some years, is of DSA with 1024 bits, and not trusted.
const UBUNTU_CDIMAGE_2012: &[u8] = include_bytes!("../keys/ubuntu-cdimage-2012.gpg");

/// Keys that are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keyring(Vec<SignedPublicKey>);

impl Keyring {
    /// The keys in `file`, or else Ubuntu's key that is built in.
    pub(crate) fn new(file: Option<&Path>) -> Result<Self, Error> {
        let Some(file) = file else {
            return Self::parse(UBUNTU_CDIMAGE_2012, "the key that is built in");
        };
        let shown = format!("'{}'", file.display());
        Self::parse(&fs::read(file).attempt(|| format!("cannot read the keyring {shown}"))?, &shown)
    }

    /// All keys of a keyring, in armour or not.
    fn parse(content: &[u8], shown: &str) -> Result<Self, Error> {
        let cannot = |why: &dyn std::fmt::Display| {
            Error::new(format!("cannot use the keyring {shown}: {why}"))
        };
        let keys = SignedPublicKey::from_reader_many(content)
            .map_err(|why| cannot(&why))?
            .0
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| cannot(&why))?;
        let usable: Vec<_> = keys.into_iter().filter(is_usable).collect();
        if usable.is_empty() {
            return Err(cannot(&"no key in it can be used: expired, revoked, weak or not its own"));
        }
        Ok(Self(usable))
    }

    /// Refuse `content` unless one of `signatures`, a block in armour, is good and by a key of this ring. The
    /// others do not count: Ubuntu's lists have carried one of a key that is not trusted beside it.
    pub(crate) fn require_signed(&self, content: &[u8], signatures: &[u8]) -> Result<(), String> {
        let (found, _) = DetachedSignature::from_armor_many(signatures)
            .map_err(|why| format!("its signature cannot be read: {why}"))?;
        let mut refused = Vec::new();
        for signature in found {
            match signature {
                Ok(signature) => match self.check(&signature.signature, content) {
                    Ok(()) => return Ok(()),
                    Err(why) => refused.push(why),
                },
                Err(why) => refused.push(format!("a signature cannot be read: {why}")),
            }
        }
        Err(if refused.is_empty() { "it has no signature".into() } else { refused.join("; ") })
    }

    fn check(&self, signature: &Signature, content: &[u8]) -> Result<(), String> {
        for key in &self.0 {
            if is_by(signature, &key.primary_key) {
                return check_by(signature, &key.primary_key, content);
            }
            let bound = |sub: &&SignedPublicSubKey| {
                let signs = |binding: &Signature| binding.key_flags().sign();
                sub.signatures.iter().any(signs) && sub.verify_bindings(&key.primary_key).is_ok()
            };
            let mut subkeys = key.public_subkeys.iter().filter(bound);
            if let Some(sub) = subkeys.find(|sub| is_by(signature, &sub.key)) {
                return check_by(signature, &sub.key, content);
            }
        }
        Err(format!("it is signed by the key {}, which is not trusted", issuer(signature)))
    }
}

/// Whether `key` can be trusted with a signature now.
fn is_usable(key: &SignedPublicKey) -> bool {
    let users = key.details.users.iter().flat_map(|user| &user.signatures);
    let own = users.chain(&key.details.direct_signatures).filter(|by| is_by(by, &key.primary_key));
    let lasts = own.max_by_key(|own| own.created().map(Timestamp::as_secs));
    let lasts = lasts.and_then(Signature::key_expiration_time);
    key.primary_key.algorithm() != PublicKeyAlgorithm::DSA
        && key.verify_bindings().is_ok()
        && !key
            .details
            .revocation_signatures
            .iter()
            .any(|it| it.verify_key(&key.primary_key).is_ok())
        && !has_expired(Some(key.primary_key.created_at()), lasts)
}

fn is_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    signature.issuer_fingerprint().contains(&&key.fingerprint())
        || signature.issuer_key_id().contains(&&key.legacy_key_id())
}

fn issuer(signature: &Signature) -> String {
    let fingerprint = signature.issuer_fingerprint().first().map(|it| format!("{it:X}"));
    let id = || signature.issuer_key_id().first().map(|it| it.to_string().to_uppercase());
    fingerprint.or_else(id).unwrap_or_else(|| "that it does not name".into())
}

fn check_by(signature: &Signature, key: &impl VerifyingKey, content: &[u8]) -> Result<(), String> {
    let by = issuer(signature);
    // The collisions of older ones can be computed.
    let strong = [Sha256, Sha384, Sha512, Sha3_256, Sha3_512];
    match signature.hash_alg() {
        Some(hash) if strong.contains(&hash) => {}
        Some(hash) => return Err(format!("its signature by {by} is of {hash}, which is too weak")),
        None => return Err(format!("its signature by {by} is of a version that is not known")),
    }
    if !matches!(signature.typ(), Some(SignatureType::Binary | SignatureType::Text)) {
        return Err(format!("the signature by {by} is not one of a file"));
    }
    if has_expired(signature.created(), signature.signature_expiration_time()) {
        return Err(format!("its signature by {by} has expired"));
    }
    signature.verify(key, content).map_err(|_| format!("its signature by {by} is bad"))
}

/// Whether what was made then and lasts so long is over; what lasts 0 seconds, or has no end, is not.
fn has_expired(made: Option<Timestamp>, lasts: Option<Duration>) -> bool {
    let age = made.map(|made| Timestamp::now().as_secs().saturating_sub(made.as_secs()));
    lasts
        .map(Duration::as_secs)
        .is_some_and(|lasts| lasts > 0 && age.is_none_or(|age| age >= lasts))
}

#[cfg(test)]
mod tests {
    use super::{Keyring, UBUNTU_CDIMAGE_2012};
    use crate::verify::Hashing;
    use pgp::types::KeyDetails as _;

    #[test]
    fn the_built_in_key_is_ubuntus_of_2012() {
        let sum = Hashing::new(UBUNTU_CDIMAGE_2012).finish().unwrap().to_string();
        assert_eq!(sum, "192b3782ba2e00e05b6521371fbe67847efad3fdd1cfb87621882d833c8703fa");
        let ring = Keyring::new(None).unwrap();
        let [key] = &*ring.0 else { panic!("one key") };
        let fingerprint = format!("{:X}", key.primary_key.fingerprint());
        assert_eq!(fingerprint, "843938DF228D22F7B3742BC0D94AA3F0EFE21092");
    }

    #[test]
    fn what_is_no_keyring_is_refused() {
        for content in [&b""[..], b"x", b"\x99\x02", &UBUNTU_CDIMAGE_2012[..600]] {
            assert!(Keyring::parse(content, "'k'").is_err());
        }
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let ring = Keyring::new(None).unwrap();
        for text in ["", "x", "-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n"] {
            assert!(ring.require_signed(b"", text.as_bytes()).is_err(), "{text}");
        }
    }
}
