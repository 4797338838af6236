//! Any bytes as the PAX records of a file: it stays within its size, and what is behind it is found again.
#![no_main]
#![expect(dead_code, reason = "of these modules only what reads archives is used")]

#[path = "../../src/acl.rs"]
mod acl;
#[path = "../../src/archive.rs"]
mod archive;

use archive::{Flaw, Members};
use libfuzzer_sys::fuzz_target;
use tar::{EntryType, Header};

/// More than any archive below takes.
const BUDGET: u64 = 1 << 20;

fn member(kind: EntryType, name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut member = [header.as_bytes(), content].concat();
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

fn read(archive: &[u8]) -> Result<(), Flaw> {
    let mut members = Members::new(archive, BUDGET);
    while let Some(member) = members.next()? {
        let ends = member.extents.iter().map(|extent| extent.offset + extent.length);
        assert!(ends.max().unwrap_or(0) <= member.size);
        assert!(member.size <= BUDGET && member.mtime.nanoseconds < 1_000_000_000);
        let stored: u64 = member.extents.iter().map(|extent| extent.length).sum();
        for (key, value) in &member.records {
            if acl::attribute(key).is_some() {
                assert!(acl::parse(value).is_none_or(|list| list.len() % 8 == 4));
            }
        }
        let mut left = stored;
        while left > 0 {
            let there = members.content(left)?.len();
            members.consume(there);
            left -= there as u64;
        }
    }
    members.finish().map(drop)
}

fuzz_target!(|records: &[u8]| {
    let archive = [
        member(EntryType::XHeader, "x", records),
        member(EntryType::Regular, "etc/file", &[b'1'; 700]),
        member(EntryType::XGlobalHeader, "g", records),
        member(EntryType::Regular, "etc/last", b"2"),
        vec![0; 1024],
    ];
    drop(read(&archive.concat()));
});
