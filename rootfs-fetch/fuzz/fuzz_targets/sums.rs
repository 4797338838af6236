//! Any text as SHA256SUMS: what is taken of it is a file of Ubuntu Base in the directory that was asked.
#![no_main]
#![expect(dead_code, reason = "of these modules only what reads lists is used")]

#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/source.rs"]
mod source;
#[path = "../../src/verify.rs"]
mod verify;

/// No list here is signed, and OpenPGP need not be compiled.
mod signature {
    use std::path::Path;

    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Keyring {}

    impl Keyring {
        pub(crate) fn new(_: Option<&Path>) -> Result<Self, crate::error::Error> {
            Err(crate::error::Error::new("no keyring"))
        }
    }
}

use libfuzzer_sys::fuzz_target;
use source::List;

fuzz_target!(|input: (u8, &str)| {
    let (release, text) = input;
    let release = ["20.04", "20.04.5", "focal", "24.04"][usize::from(release % 4)].to_owned();
    let dirs = vec!["http://a".to_owned(), "http://b".to_owned()];
    let (arch, keyring, keyring_file) = ("amd64".to_owned(), None, None);
    let list = List { release, arch, dirs, keyring, keyring_file };
    if let Ok(newest) = list.newest(text) {
        assert!(
            newest.name.starts_with("ubuntu-base-") && newest.name.ends_with("-base-amd64.tar.gz")
        );
        assert!(!newest.name.contains('/'));
        assert_eq!(
            newest.urls,
            ["http://a/", "http://b/"].map(|dir| dir.to_owned() + &newest.name)
        );
        assert!(text.contains(&newest.name) && newest.sum.is_some());
    }
});
