//! Interface files, the kernel's text files, read and written in as few calls as there can be: they are most of
//! what a run costs.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::Path,
};

/// More than most of them hold. They have no size that could be asked for.
const USUAL: usize = 4096;

/// The text of `file`.
pub(crate) fn read(file: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(USUAL);
    // A `File` by itself would ask for the size first.
    File::open(file)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Write `value` in one call, as the kernel wants it.
pub(crate) fn put(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_any_length_is_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for length in [0, 1, USUAL - 1, USUAL, USUAL + 1, 10 * USUAL] {
            let text = "x".repeat(length);
            std::fs::write(file.path(), &text).unwrap();
            assert_eq!(read(file.path()).unwrap(), text);
        }
        assert_eq!(read("/nosuch").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids.max");
        assert_eq!(put(&file, "9").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!file.exists());
    }
}
