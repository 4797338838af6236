//! Access control lists: from the text that archives hold to what the kernel takes.

/// The kernel's version of the form, `POSIX_ACL_XATTR_VERSION`, and the id of an entry that needs none.
const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

/// The extended attribute that the PAX record `key` is about, if it holds such a list.
pub(crate) fn attribute(key: &[u8]) -> Option<&'static str> {
    match key {
        b"SCHILY.acl.access" => Some("system.posix_acl_access"),
        b"SCHILY.acl.default" => Some("system.posix_acl_default"),
        _ => None,
    }
}

/// The list in `text`: entries `user:NAME:rwx[:ID]` and so on, between commas or newlines. Names of users and
/// groups count only where no number stands: they would be looked up on this machine.
pub(crate) fn parse(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let entries = text.split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty());
    let mut entries: Vec<(u16, u32, u16)> = entries.map(entry).collect::<Option<_>>()?;
    entries.sort_unstable(); // as the kernel wants them: by tag, and by id
    let mut list = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    Some(list)
}

/// The tag of an entry, whom it is about, and what they may do (`acl(5)`).
fn entry(entry: &str) -> Option<(u16, u32, u16)> {
    let mut fields = entry.split('#').next()?.trim_end().split(':');
    let (kind, name, permissions) = (fields.next()?, fields.next()?, fields.next()?);
    let mut id = || fields.next().unwrap_or(name).parse().ok();
    let (tag, id) = match (kind, name) {
        ("user" | "u", "") => (0x01, NO_ID),
        ("user" | "u", _) => (0x02, id()?),
        ("group" | "g", "") => (0x04, NO_ID),
        ("group" | "g", _) => (0x08, id()?),
        ("mask" | "m", "") => (0x10, NO_ID),
        ("other" | "o", "") => (0x20, NO_ID),
        _ => return None,
    };
    let bit = |letter| match letter {
        'r' => Some(4),
        'w' => Some(2),
        'x' => Some(1),
        '-' => Some(0),
        _ => None,
    };
    let bits = permissions.chars().map(bit).try_fold(0, |bits, bit| Some(bits | bit?))?;
    Some((tag, id, bits))
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;

    #[test]
    fn a_list_is_what_the_kernel_takes() {
        let entries: [(u16, u16, u32); 5] =
            [(1, 6, !0), (2, 4, 1000), (4, 4, !0), (16, 4, !0), (32, 0, !0)];
        let expected: Vec<u8> = [2, 0, 0, 0]
            .into_iter()
            .chain(entries.into_iter().flat_map(|(tag, permissions, id)| {
                [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
            }))
            .collect();
        for text in [
            "user::rw-,user:lisa:r--:1000,group::r--,mask::r--,other::---",
            "user::rw-\ngroup::r--\nmask::r--\nother::---\nuser:1000:r--\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Some(expected.clone()), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["user", "user::rwz", "user:lisa:rwx", "x::rwx", "mask:1:r--"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_none(text in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(parse(&text).is_none_or(|list| list.len() % 8 == 4));
        }
    }
}
