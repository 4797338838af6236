//! The members of a tar stream, one after the other, whatever is in it.
//!
//! The fields of a header are the tar crate's to read. Its iterator is not used: it ends PAX records at
//! newlines, which their values may hold (so that what follows, the size above all, is lost), reads names of
//! any length into memory, and knows no sparse files in PAX form.

use std::{
    io::{self, BufRead},
    str::FromStr,
};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

const BLOCK: u64 = 512;

/// The most that the names and PAX records of one member can take.
const MAX_EXTENSION: u64 = 1 << 20;

/// What a member costs on a file system besides its content: an inode, a name.
const MEMBER: u64 = 4096;

/// Why an archive is not unpacked.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// It cannot be read.
    Unreadable(io::Error),
    /// A member of this name is refused.
    Refused { name: Vec<u8>, why: String },
    /// It takes more than this.
    TooLarge(u64),
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// One member.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryType,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: Time,
    /// With its holes.
    pub(crate) size: u64,
    /// What of it is in the archive: the rest are holes.
    pub(crate) extents: Vec<Extent>,
    pub(crate) device: (u32, u32),
    /// PAX records but for those above.
    pub(crate) records: Vec<Record>,
}

/// A key and a value.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

/// A part of a file that is no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A time: seconds since 1970, and nanoseconds after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// A tar stream.
pub(crate) struct Members<R> {
    input: R,
    /// What may still be taken, and what that was at first.
    budget: u64,
    max_size: u64,
    /// What is left of the content of the current member, and of its last block.
    content: u64,
    padding: u64,
    /// Records for all members that follow.
    globals: Vec<Record>,
    marked: bool,
}

/// What came before a member and is about it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Option<Vec<Record>>,
}

impl<R: BufRead> Members<R> {
    /// The members of `input`, as far as they take no more than `max_size`.
    pub(crate) fn new(input: R, max_size: u64) -> Self {
        Self {
            input,
            budget: max_size,
            max_size,
            content: 0,
            padding: 0,
            globals: Vec::new(),
            marked: false,
        }
    }

    /// The next member; what is left of the content of the one before is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Flaw> {
        self.skip()?;
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header()? else {
                let open = extensions.path.or(extensions.link);
                if open.is_some() || extensions.records.is_some() {
                    return Err(refuse(&open.unwrap_or_default(), "the archive ends before it"));
                }
                return Ok(None);
            };
            match header.entry_type() {
                EntryType::GNULongName => {
                    let name = self.name(&header)?;
                    set_once(&mut extensions.path, name, &header)?;
                }
                EntryType::GNULongLink => {
                    let name = self.name(&header)?;
                    set_once(&mut extensions.link, name, &header)?;
                }
                EntryType::XHeader => {
                    let records = self.records(&header)?;
                    set_once(&mut extensions.records, records, &header)?;
                }
                EntryType::XGlobalHeader => {
                    let records = self.records(&header)?;
                    self.set_globals(records, &header)?;
                }
                kind if kind.as_byte() == b'V' => self.extension(&header).map(drop)?, // tar --label
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    /// Some of what is left of the content of the current member, up to `most` bytes.
    pub(crate) fn content(&mut self, most: u64) -> Result<&[u8], Flaw> {
        let most = usize::try_from(self.content.min(most)).unwrap_or(usize::MAX);
        let there = self.input.fill_buf()?;
        let there = &there[..there.len().min(most)];
        match there.len() as u64 {
            0 if most > 0 => Err(cut_off()),
            length if length > self.budget => Err(Flaw::TooLarge(self.max_size)),
            _ => Ok(there),
        }
    }

    /// Take so much of it.
    pub(crate) fn consume(&mut self, amount: usize) {
        self.input.consume(amount);
        self.content -= amount as u64;
        self.budget -= amount as u64;
    }

    /// Read to the end of the stream: the checksum of what it is packed in is there. Give what may still be
    /// taken, and whether the archive had a mark at its end.
    pub(crate) fn finish(mut self) -> Result<(u64, bool), Flaw> {
        loop {
            let length = self.input.fill_buf()?.len();
            if length == 0 {
                return Ok((self.budget, self.marked));
            }
            self.charge(length as u64)?;
            self.input.consume(length);
        }
    }

    fn charge(&mut self, cost: u64) -> Result<(), Flaw> {
        self.budget = self.budget.checked_sub(cost).ok_or(Flaw::TooLarge(self.max_size))?;
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Flaw> {
        self.charge(buffer.len() as u64)?;
        self.input.read_exact(buffer).map_err(|err| match err.kind() {
            io::ErrorKind::UnexpectedEof => cut_off(),
            _ => err.into(),
        })
    }

    /// Pass over what is left of the content and of its last block.
    fn skip(&mut self) -> Result<(), Flaw> {
        let mut left =
            std::mem::take(&mut self.content).saturating_add(std::mem::take(&mut self.padding));
        self.charge(left)?;
        while left > 0 {
            let there = self.input.fill_buf()?.len();
            if there == 0 {
                return Err(cut_off());
            }
            let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(there);
            self.input.consume(skipped);
            left -= skipped as u64;
        }
        Ok(())
    }

    /// The next header, unless the archive ends here.
    fn header(&mut self) -> Result<Option<Header>, Flaw> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let first = loop {
            match self.input.read(&mut block[..1]) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        self.fill(&mut block[1..])?;
        if block.iter().all(|byte| *byte == 0) {
            self.marked = true;
            return Ok(None);
        }
        if !has_checksum(&header) {
            return Err(Flaw::Unreadable(invalid("a header has not the checksum that it names")));
        }
        Ok(Some(header))
    }

    /// The content of a header that is about the next member.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, Flaw> {
        let size = header.entry_size()?;
        if size > MAX_EXTENSION {
            return Err(refuse(
                &header.path_bytes(),
                "its names and PAX records have more than 1 MiB",
            ));
        }
        let mut content = vec![0; usize::try_from(size).unwrap_or_default()];
        self.fill(&mut content)?;
        self.padding = padding(size);
        self.skip()?;
        Ok(content)
    }

    /// A long name: it ends at its first NUL.
    fn name(&mut self, header: &Header) -> Result<Vec<u8>, Flaw> {
        let mut name = self.extension(header)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn records(&mut self, header: &Header) -> Result<Vec<Record>, Flaw> {
        let content = self.extension(header)?;
        parse_records(&content)
            .ok_or_else(|| refuse(&header.path_bytes(), "its PAX records are malformed"))
    }

    /// Records for all that follow; what is of one member only has no place in them.
    fn set_globals(&mut self, records: Vec<Record>, header: &Header) -> Result<(), Flaw> {
        let ones_own = |key: &[u8]| {
            [&b"path"[..], b"linkpath", b"size"].contains(&key) || key.starts_with(b"GNU.sparse.")
        };
        if records.iter().any(|(key, _)| ones_own(key)) {
            return Err(refuse(&header.path_bytes(), "it gives all that follow one name or size"));
        }
        self.globals.extend(records);
        let size: usize = self.globals.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size as u64 > MAX_EXTENSION {
            return Err(refuse(&header.path_bytes(), "its PAX records have more than 1 MiB"));
        }
        Ok(())
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member, Flaw> {
        self.charge(MEMBER)?;
        let mut records = self.globals.clone();
        records.extend(extensions.records.unwrap_or_default());
        let mut pax = Pax(records);
        let path = pax.take(b"path").or(extensions.path);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let path = pax.take(b"GNU.sparse.name").unwrap_or(path);
        let link = pax.take(b"linkpath").or(extensions.link);
        let link = link.or_else(|| header.link_name_bytes().map(Into::into)).unwrap_or_default();
        let malformed = |what: &str| refuse(&path, &format!("its {what} is malformed"));
        let number = |pax: &mut Pax, key: &str, otherwise: io::Result<u64>| {
            let value = pax.take(key.as_bytes());
            value.map_or(otherwise.ok(), decimal).ok_or_else(|| malformed(key))
        };
        let uid = number(&mut pax, "uid", header.uid())?;
        let gid = number(&mut pax, "gid", header.gid())?;
        let stored = number(&mut pax, "size", header.entry_size())?;
        let mode = header.mode().map_err(|_| malformed("mode"))?;
        // A time before 1970 is a negative number in base 256, which the crate reads as unsigned.
        let seconds = header.mtime().ok().map(u64::cast_signed);
        let mtime = seconds.map(|seconds| Time { seconds, nanoseconds: 0 });
        let mtime = pax.take(b"mtime").map_or(mtime, |value| Time::parse(&value));
        let mtime = mtime.ok_or_else(|| malformed("mtime"))?;
        let device = match (header.device_major(), header.device_minor()) {
            (Ok(major), Ok(minor)) => (major.unwrap_or_default(), minor.unwrap_or_default()),
            _ if is_device(header) => return Err(malformed("device")),
            _ => (0, 0),
        };
        let kind = kind_of(header, &path);
        if !matches!(kind, EntryType::Regular | EntryType::GNUSparse) && stored > 0 {
            return Err(refuse(&path, "it has content and is no file"));
        }
        (self.content, self.padding) = (stored, padding(stored));
        let (size, extents) = self.layout(header, &mut pax, stored, &path)?;
        self.charge(size.saturating_sub(stored))?;
        let records = pax.0;
        Ok(Member { path, link, kind, mode, uid, gid, mtime, size, extents, device, records })
    }

    /// The size of a file, and where in it what is in the archive belongs.
    fn layout(
        &mut self,
        header: &Header,
        pax: &mut Pax,
        stored: u64,
        path: &[u8],
    ) -> Result<(u64, Vec<Extent>), Flaw> {
        let malformed = || refuse(path, "the map of its holes is malformed");
        let (size, extents) = if header.entry_type() == EntryType::GNUSparse {
            let gnu = header.as_gnu().ok_or_else(malformed)?;
            (gnu.real_size().map_err(|_| malformed())?, self.gnu_extents(header, path)?)
        } else if let Some(size) =
            pax.take(b"GNU.sparse.realsize").or_else(|| pax.take(b"GNU.sparse.size"))
        {
            let extents = if let Some(map) = pax.take(b"GNU.sparse.map") {
                pairs(map.split(|byte| *byte == b',').map(decimal))
            } else if pax.take(b"GNU.sparse.major").is_some_and(|major| major == b"1") {
                self.map_in_content(path)?
            } else {
                pairs(
                    pax.take_all(&[b"GNU.sparse.offset", b"GNU.sparse.numbytes"])
                        .iter()
                        .map(decimal),
                )
            };
            (decimal(&size).ok_or_else(malformed)?, extents.ok_or_else(malformed)?)
        } else if pax.0.iter().any(|(key, _)| key.starts_with(b"GNU.sparse.")) {
            return Err(malformed());
        } else {
            (stored, vec![Extent { offset: 0, length: stored }])
        };
        pax.0.retain(|(key, _)| !key.starts_with(b"GNU.sparse."));
        if size > i64::MAX.unsigned_abs() || !are_sound(&extents, size, self.content) {
            return Err(malformed());
        }
        Ok((size, extents))
    }

    /// The extents in a GNU sparse header, and in the blocks that follow it.
    fn gnu_extents(&mut self, header: &Header, path: &[u8]) -> Result<Vec<Extent>, Flaw> {
        let malformed = || refuse(path, "the map of its holes is malformed");
        let extent = |entry: &GnuSparseHeader| match (entry.offset(), entry.length()) {
            _ if entry.is_empty() => Ok(None),
            (Ok(offset), Ok(length)) => Ok(Some(Extent { offset, length })),
            _ => Err(malformed()),
        };
        let gnu = header.as_gnu().ok_or_else(malformed)?;
        let mut extents = Vec::new();
        for entry in &gnu.sparse {
            extents.extend(extent(entry)?);
        }
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.fill(block.as_mut_bytes())?;
            for entry in block.sparse() {
                extents.extend(extent(entry)?);
            }
            if extents.len() as u64 * 24 > MAX_EXTENSION {
                return Err(refuse(path, "the map of its holes has more than 1 MiB"));
            }
            more = block.is_extended();
        }
        Ok(extents)
    }

    /// The extents in the first blocks of the content: how many, and then their numbers, each on a line.
    fn map_in_content(&mut self, path: &[u8]) -> Result<Option<Vec<Extent>>, Flaw> {
        let (mut map, mut wanted) = (Vec::new(), None);
        loop {
            let mut block = [0; 512];
            if self.content < BLOCK {
                return Ok(None);
            }
            self.fill(&mut block)?;
            self.content -= BLOCK;
            map.extend(block);
            if map.len() as u64 > MAX_EXTENSION {
                return Err(refuse(path, "the map of its holes has more than 1 MiB"));
            }
            let lines: Vec<&[u8]> = map.split(|byte| *byte == b'\n').collect();
            let [count, numbers @ .., _] = &*lines else { continue };
            if wanted.is_none() {
                let Some(count) = decimal(count).and_then(|count| count.checked_mul(2)) else {
                    return Ok(None);
                };
                wanted = usize::try_from(count).ok();
            }
            if let Some(numbers) = wanted.and_then(|wanted| numbers.get(..wanted)) {
                return Ok(pairs(numbers.iter().map(decimal)));
            }
        }
    }
}

/// The records of a member: the last of a key counts, and an empty one takes it back.
struct Pax(Vec<Record>);

impl Pax {
    fn take(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let value = self.0.iter().rfind(|(found, _)| found == key)?.1.clone();
        self.0.retain(|(found, _)| found != key);
        Some(value).filter(|value| !value.is_empty())
    }

    /// All values of these keys, in order.
    fn take_all(&mut self, keys: &[&[u8]]) -> Vec<Vec<u8>> {
        let taken = self.0.extract_if(.., |(key, _)| keys.contains(&&**key));
        taken.map(|(_, value)| value).collect()
    }
}

impl Time {
    /// A PAX time: seconds, perhaps negative, perhaps with a fraction.
    fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = whole.parse().ok()?;
        if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let nanoseconds: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
        Some(if whole.starts_with('-') && nanoseconds > 0 {
            Self { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds }
        } else {
            Self { seconds, nanoseconds }
        })
    }
}

/// Records: their length in decimal, with itself and the newline at the end; a key; a value, of any bytes.
fn parse_records(mut content: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !content.is_empty() {
        let space = content.iter().position(|byte| *byte == b' ')?;
        let length = usize::try_from(decimal(&content[..space])?).ok()?;
        let record = content.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=').filter(|place| *place > 0)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        content = &content[length..];
    }
    Some(records)
}

/// A number of digits and nothing else.
fn decimal(digits: impl AsRef<[u8]>) -> Option<u64> {
    let digits = digits.as_ref();
    let text = std::str::from_utf8(digits).ok()?;
    u64::from_str(text).ok().filter(|_| digits.iter().all(u8::is_ascii_digit))
}

/// Offsets and lengths by turns.
fn pairs(numbers: impl Iterator<Item = Option<u64>>) -> Option<Vec<Extent>> {
    let numbers: Vec<u64> = numbers.collect::<Option<_>>()?;
    let pair = |pair: &[u64]| match *pair {
        [offset, length] => Some(Extent { offset, length }),
        _ => None,
    };
    numbers.chunks(2).map(pair).collect()
}

/// Whether extents follow each other, end in a file of this size, and take all that is stored.
fn are_sound(extents: &[Extent], size: u64, stored: u64) -> bool {
    let (mut end, mut length) = (0, Some(0_u64));
    for extent in extents {
        let Some(next) = extent.offset.checked_add(extent.length) else { return false };
        if extent.offset < end || next > size {
            return false;
        }
        end = next;
        length = length.and_then(|length| length.checked_add(extent.length));
    }
    length == Some(stored)
}

/// A name that ends with a slash is one of a directory, in archives that had no type for those.
fn kind_of(header: &Header, path: &[u8]) -> EntryType {
    match header.entry_type() {
        EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => EntryType::Directory,
        EntryType::Continuous => EntryType::Regular,
        kind => kind,
    }
}

fn is_device(header: &Header) -> bool {
    matches!(header.entry_type(), EntryType::Char | EntryType::Block)
}

/// Whether the sum of the bytes is the one named, its own field taken as spaces. Some have summed them as signed.
fn has_checksum(header: &Header) -> bool {
    let block = header.as_bytes();
    let bytes = || block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]);
    let unsigned: u32 = bytes().map(|byte| u32::from(*byte)).sum();
    let signed: i32 = bytes().map(|byte| i32::from(byte.cast_signed())).sum();
    header.cksum().is_ok_and(|sum| sum == unsigned || i64::from(sum) == i64::from(signed))
}

/// How far it is from the end of a content to that of its last block.
fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

fn set_once<T>(slot: &mut Option<T>, value: T, header: &Header) -> Result<(), Flaw> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(refuse(&header.path_bytes(), "it is described twice")),
    }
}

fn refuse(name: &[u8], why: &str) -> Flaw {
    Flaw::Refused { name: name.into(), why: why.into() }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn cut_off() -> Flaw {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off").into()
}

#[cfg(test)]
mod tests {
    use super::{Extent, Members, Time, are_sound, decimal, parse_records};
    use proptest::prelude::*;

    fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3; // space, equals, newline
        let digits = (1..9).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
        let mut record = format!("{} ", rest + digits).into_bytes();
        record.extend([key, b"=", value, b"\n"].concat());
        record
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let read =
            |text: &str| Time::parse(text.as_bytes()).map(|time| (time.seconds, time.nanoseconds));
        assert_eq!(read("12"), Some((12, 0)));
        assert_eq!(read("12.000000001"), Some((12, 1)));
        assert_eq!(read("12.5"), Some((12, 500_000_000)));
        assert_eq!(read("12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(read("-1.25"), Some((-2, 750_000_000)));
        for text in ["", ".5", "x", "1.x", "1.-5"] {
            assert_eq!(read(text), None);
        }
    }

    #[test]
    fn values_may_hold_newlines_and_nothing_is_passed_over() {
        let content = [record(b"a", b"1\n\n2=\0"), record(b"size", b"5")].concat();
        let records = parse_records(&content).unwrap();
        assert_eq!(records[0], (b"a".to_vec(), b"1\n\n2=\0".to_vec()));
        assert_eq!(records[1], (b"size".to_vec(), b"5".to_vec()));
        for content in ["6 a=b", "5 a=b\n", "7 a=b\n", "6 =ab\n", "6 a b\n", "\n", "+6 a=b\n", "0 "]
        {
            assert_eq!(parse_records(content.as_bytes()), None, "{content:?}");
        }
        let huge = b"99999999999999999999 a=b\n";
        assert_eq!(parse_records(huge), None);
    }

    #[test]
    fn extents_follow_each_other_inside_the_file() {
        let extent = |offset, length| Extent { offset, length };
        assert!(are_sound(&[extent(0, 5), extent(9, 1), extent(20, 0)], 20, 6));
        assert!(are_sound(&[], 20, 0));
        for wrong in [
            [extent(5, 5), extent(9, 1)],
            [extent(0, 5), extent(19, 2)],
            [extent(0, 5), extent(9, 2)],
            [extent(0, 5), extent(u64::MAX, 1)],
        ] {
            assert!(!are_sound(&wrong, 20, 6), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in(
            records in prop::collection::vec(("[a-zA-Z.]{1,20}", prop::collection::vec(any::<u8>(), 0..200)), 0..5)
        ) {
            let content: Vec<u8> =
                records.iter().flat_map(|(key, value)| record(key.as_bytes(), value)).collect();
            let read = parse_records(&content).unwrap();
            let expected: Vec<_> =
                records.into_iter().map(|(key, value)| (key.into_bytes(), value)).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn any_bytes_are_records_or_none(content in prop::collection::vec(any::<u8>(), 0..300)) {
            let records = parse_records(&content).unwrap_or_default();
            let length: usize = records.iter().map(|(key, value)| key.len() + value.len() + 5).sum();
            prop_assert!(length <= content.len());
            prop_assert!(decimal(&content).is_none_or(|_| content.iter().all(u8::is_ascii_digit)));
            prop_assert!(Time::parse(&content).is_none_or(|time| time.nanoseconds < 1_000_000_000));
        }

        /// A sound archive with some bytes changed and its checksums made good again.
        #[test]
        fn any_archive_ends(
            changes in prop::collection::vec((0..3072_usize, any::<u8>()), 0..12),
            kinds in prop::collection::vec(prop::sample::select(&b"01234567xgLKSV\0"[..]), 3),
        ) {
            let mut archive = vec![0; 3072];
            for (index, kind) in kinds.iter().enumerate() {
                let mut header = tar::Header::new_gnu();
                header.set_path("a/b").unwrap();
                header.set_size(12);
                header.as_mut_bytes()[156] = *kind;
                archive[index * 1024..][..512].copy_from_slice(header.as_bytes());
                archive[index * 1024 + 512..][..12].copy_from_slice(b"12 size=600\n");
            }
            for (place, byte) in changes {
                archive[place] = byte;
            }
            for index in 0..3 {
                let mut header = tar::Header::from_byte_slice(&archive[index * 1024..][..512]).clone();
                header.set_cksum();
                archive[index * 1024..][..512].copy_from_slice(header.as_bytes());
            }
            let mut members = Members::new(&archive[..], 1 << 20);
            let mut read = 0;
            while let Ok(Some(member)) = members.next() {
                let ends = |extent: &Extent| extent.offset + extent.length;
                prop_assert!(member.extents.iter().all(|extent| ends(extent) <= member.size));
                read += 1;
            }
            prop_assert!(read <= 6);
        }
    }
}
