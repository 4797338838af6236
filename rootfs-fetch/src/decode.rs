//! From a packed tarball to its tar stream: the format is told by content, members follow each other, and what
//! comes after them is noticed.

use flate2::bufread::GzDecoder;
use liblzma::{bufread::XzDecoder, stream::Stream};
use std::{
    io::{self, BufRead, BufReader, Read},
    mem,
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
};

/// The most memory that the header of an .xz may ask for; 'xz -9' asks for 65 MiB.
const MAX_XZ_MEMORY: u64 = 128 << 20;

/// How much is inflated before it is handed over.
const CHUNK: usize = 1 << 18;

/// How many chunks may lie between the thread that inflates and the one that takes them.
const CHUNKS: usize = 8;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Tar,
    Gzip,
    Xz,
    Zstd,
}

impl Format {
    /// The format of what begins with `head`, some 512 bytes.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        let ustar = head.get(257..262).is_some_and(|magic| magic == b"ustar");
        Self::of_packed(head).or(ustar.then_some(Self::Tar))
    }

    fn of_packed(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // A frame, or one to be skipped: zstd(1) --adapt and pzstd write those.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// A reader that can look at what comes next.
pub(crate) struct Peek<R> {
    inner: BufReader<R>,
    ahead: Vec<u8>,
}

impl<R: Read> Peek<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner: BufReader::with_capacity(1 << 16, inner), ahead: Vec::new() }
    }

    /// The next bytes, up to 512, without taking them; fewer only at the end.
    pub(crate) fn peek(&mut self) -> io::Result<&[u8]> {
        let missing = 512_usize.saturating_sub(self.ahead.len());
        self.inner.by_ref().take(missing as u64).read_to_end(&mut self.ahead)?;
        Ok(&self.ahead)
    }
}

impl<R: Read> Read for Peek<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl<R: Read> BufRead for Peek<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.ahead.is_empty() { self.inner.fill_buf() } else { Ok(&self.ahead) }
    }

    fn consume(&mut self, amount: usize) {
        if self.ahead.is_empty() {
            self.inner.consume(amount);
        } else {
            self.ahead.drain(..amount);
        }
    }
}

/// The tar stream in a tarball.
pub(crate) struct Decoder<R: Read> {
    member: Option<Member<R>>,
    garbage: bool,
}

/// One member of a packed file.
enum Member<R: Read> {
    Tar(Peek<R>),
    Gzip(GzDecoder<Peek<R>>),
    Xz(XzDecoder<Peek<R>>),
    Zstd(zstd::stream::read::Decoder<'static, Peek<R>>),
}

impl<R: Read> Member<R> {
    fn new(format: Format, input: Peek<R>) -> io::Result<Self> {
        Ok(match format {
            Format::Tar => Self::Tar(input),
            Format::Gzip => Self::Gzip(GzDecoder::new(input)),
            Format::Xz => {
                let stream = Stream::new_stream_decoder(MAX_XZ_MEMORY, 0)?;
                Self::Xz(XzDecoder::new_stream(input, stream))
            }
            // zstd itself takes no more than 128 MiB for its window.
            Format::Zstd => {
                Self::Zstd(zstd::stream::read::Decoder::with_buffer(input)?.single_frame())
            }
        })
    }

    fn into_rest(self) -> Peek<R> {
        match self {
            Self::Tar(rest) => rest,
            Self::Gzip(member) => member.into_inner(),
            Self::Xz(member) => member.into_inner(),
            Self::Zstd(member) => member.finish(),
        }
    }
}

impl<R: Read> Read for Member<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tar(member) => member.read(buffer),
            Self::Gzip(member) => member.read(buffer),
            Self::Xz(member) => member.read(buffer),
            Self::Zstd(member) => member.read(buffer),
        }
    }
}

impl<R: Read> Decoder<R> {
    /// Decode `input`, or give `None` where it is in no format that is known.
    pub(crate) fn new(input: R) -> io::Result<Option<Self>> {
        let mut input = Peek::new(input);
        let format = Format::of(input.peek()?);
        let member = format.map(|format| Member::new(format, input)).transpose()?;
        Ok(member.map(|member| Self { member: Some(member), garbage: false }))
    }

    /// Whether it is packed in a format with a checksum or mark at its own end.
    pub(crate) fn is_packed(&self) -> bool {
        !matches!(self.member, Some(Member::Tar(_)))
    }

    /// Whether something came after the last member that is none.
    pub(crate) fn garbage(&self) -> bool {
        self.garbage
    }

    /// The member after the one that has ended. Zeros between members are padding.
    fn next_member(&mut self) -> io::Result<()> {
        let Some(ended) = self.member.take() else { return Ok(()) };
        if matches!(ended, Member::Tar(_)) {
            return Ok(());
        }
        let mut rest = ended.into_rest();
        loop {
            let next = rest.fill_buf()?;
            let zeros = next.iter().take_while(|byte| **byte == 0).count();
            if next.is_empty() {
                return Ok(());
            }
            rest.consume(zeros);
            if zeros == 0 {
                break;
            }
        }
        if let Some(format) = Format::of_packed(rest.peek()?) {
            self.member = Some(Member::new(format, rest)?);
        } else {
            self.garbage = true;
            io::copy(&mut rest, &mut io::sink())?;
        }
        Ok(())
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let length = member.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            self.next_member()?;
        }
        Ok(0)
    }
}

/// What one thread inflates for another: so many bytes of a buffer.
type Chunk = io::Result<(Vec<u8>, usize)>;

/// The end of a pipe at which one thread inflates.
pub(crate) struct Pump {
    full: SyncSender<Chunk>,
    empty: Receiver<Vec<u8>>,
}

/// The other end, at which another thread takes what there is.
pub(crate) struct Pumped {
    full: Receiver<Chunk>,
    empty: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    taken: usize,
    length: usize,
}

/// A pipe with buffers that go round.
pub(crate) fn pipe() -> (Pump, Pumped) {
    let (full, filled) = sync_channel(CHUNKS);
    let (emptied, empty) = channel();
    let pumped = Pumped { full: filled, empty: emptied, chunk: Vec::new(), taken: 0, length: 0 };
    (Pump { full, empty }, pumped)
}

impl Pump {
    /// Inflate all of `input`, a chunk after the other, until it ends or nobody takes them. Nothing that is
    /// there is held back: a pipe may bring no more for a while.
    pub(crate) fn pump(self, mut input: impl Read) {
        loop {
            let mut chunk = self.empty.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
            let read = match input.read(&mut chunk) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                read => read,
            };
            let end = !matches!(read, Ok(1..));
            if self.full.send(read.map(|length| (chunk, length))).is_err() || end {
                return;
            }
        }
    }
}

impl BufRead for Pumped {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.length
            && let Ok(next) = self.full.recv()
        {
            let (chunk, length) = next?;
            let emptied = mem::replace(&mut self.chunk, chunk);
            (self.taken, self.length) = (0, length);
            if !emptied.is_empty() {
                drop(self.empty.send(emptied)); // nobody fills it when all is inflated
            }
        }
        Ok(&self.chunk[self.taken..self.length])
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount;
    }
}

impl Read for Pumped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Format};
    use std::io::{Read as _, Write as _};

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(content: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        liblzma::read::XzEncoder::new(content, 1).read_to_end(&mut packed).unwrap();
        packed
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(content, 1).unwrap()
    }

    fn decode(packed: &[u8]) -> std::io::Result<(Vec<u8>, bool)> {
        let mut decoder = Decoder::new(packed)?.expect("a known format");
        let mut content = Vec::new();
        decoder.read_to_end(&mut content)?;
        Ok((content, decoder.garbage()))
    }

    #[test]
    fn the_format_is_told_by_content() {
        let mut ustar = vec![0; 512];
        ustar[257..262].copy_from_slice(b"ustar");
        assert_eq!(Format::of(&ustar), Some(Format::Tar));
        assert_eq!(Format::of(&gzip(b"")), Some(Format::Gzip));
        assert_eq!(Format::of(&xz(b"")), Some(Format::Xz));
        assert_eq!(Format::of(&zstd(b"")), Some(Format::Zstd));
        assert_eq!(Format::of(b"<!DOCTYPE html>"), None);
        assert_eq!(Format::of(b""), None);
    }

    #[test]
    fn members_of_any_format_follow_each_other() {
        let (half, rest) = ("a".repeat(100_000), "b".repeat(100_000));
        for pack in [gzip, xz, zstd] {
            let (one, two) = (pack(half.as_bytes()), pack(rest.as_bytes()));
            let both = decode(&[&one[..], &two].concat()).unwrap();
            assert_eq!(both, (format!("{half}{rest}").into_bytes(), false));
            let padded = [&one[..], &[0; 700], &two, &[0; 1024]].concat();
            assert_eq!(decode(&padded).unwrap(), both);
        }
    }

    #[test]
    fn what_is_no_member_is_noticed() {
        for pack in [gzip, xz, zstd] {
            let packed = [pack(b"x"), b"garbage".to_vec()].concat();
            assert_eq!(decode(&packed).unwrap(), (b"x".to_vec(), true));
        }
    }

    #[test]
    fn each_byte_that_is_missing_or_wrong_is_an_error() {
        let content: Vec<u8> = (0..2000_u32).flat_map(u32::to_le_bytes).collect();
        for pack in [gzip, xz] {
            let packed = pack(&content);
            for length in [7, packed.len() / 2, packed.len() - 5, packed.len() - 1] {
                assert!(decode(&packed[..length]).is_err(), "{length} bytes");
            }
            for place in [packed.len() / 2, packed.len() - 6] {
                let mut wrong = packed.clone();
                wrong[place] ^= 4;
                assert!(decode(&wrong).is_err(), "byte {place}");
            }
        }
        let packed = zstd(&content);
        assert!(decode(&packed[..packed.len() - 1]).is_err());
    }
}
