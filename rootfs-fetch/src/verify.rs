//! SHA-256 sums: reading them, computing them, comparing them.

use crate::error::Error;
use sha2::{Digest as _, Sha256};
use std::{
    fmt,
    io::{self, Read, Write},
    str::FromStr,
};

/// The SHA-256 sum of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum([u8; 32]);

impl Sum {
    /// Refuse `what` unless `received` is this sum.
    pub(crate) fn require(self, received: Self, what: &str) -> Result<(), Error> {
        if self == received {
            return Ok(());
        }
        Err(Error::new(format!("refusing '{what}': its SHA-256 sum is not the expected one"))
            .detail("expected", self)
            .detail("received", received))
    }
}

impl FromStr for Sum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a SHA-256 sum: 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut sum = [0; 32];
        for (index, byte) in sum.iter_mut().enumerate() {
            let digits = &text[2 * index..2 * index + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(sum))
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A reader or writer that computes the sum of what passes through it.
pub(crate) struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T> Hashing<T> {
    /// Begin with nothing.
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    /// What it reads or writes.
    pub(crate) fn into_inner(self) -> T {
        self.inner
    }

    /// The sum of what has passed through so far.
    pub(crate) fn sum(&self) -> Sum {
        Sum(self.hash.clone().finalize().into())
    }
}

impl<R: Read> Hashing<R> {
    /// Read what is left, and give the sum of everything.
    pub(crate) fn finish(mut self) -> io::Result<Sum> {
        let mut buffer = vec![0; 1 << 16];
        while self.read(&mut buffer)? > 0 {}
        Ok(self.sum())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::{Hashing, Sum};

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_sum_is_that_of_all_bytes_whether_they_were_read_or_not() {
        let mut reader = Hashing::new(&b"abc"[..]);
        std::io::Read::read_exact(&mut reader, &mut [0]).unwrap();
        assert_eq!(reader.finish().unwrap().to_string(), ABC);
    }

    #[test]
    fn capital_digits_are_the_same_sum() {
        assert_eq!(ABC.to_uppercase().parse::<Sum>(), ABC.parse::<Sum>());
    }

    #[test]
    fn what_is_no_sum_is_refused() {
        for text in
            ["", &ABC[1..], &ABC.replace('b', "g"), &ABC.replace("ba", "+a"), &"é".repeat(32)]
        {
            let message = format!("'{text}' is not a SHA-256 sum: 64 hexadecimal digits");
            assert_eq!(text.parse::<Sum>(), Err(message));
        }
    }

    #[test]
    fn a_differing_sum_is_told_with_both() {
        let (one, other) = (ABC.parse::<Sum>().unwrap(), "0".repeat(64).parse::<Sum>().unwrap());
        assert!(one.require(one, "x").is_ok());
        let text = format!(
            "refusing 'x': its SHA-256 sum is not the expected one\n  expected: {ABC}\n  received: {other}"
        );
        assert_eq!(one.require(other, "x").unwrap_err().to_string(), text);
    }
}
