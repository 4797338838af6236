//! What is in an archive or an image that is there already.

use crate::{
    archive::Members,
    cli::Output,
    decode::Decoder,
    dest::Dest,
    error::{Attempt as _, Error},
    layout::Image,
    plan::{STATUS, not_installed},
    source::machine_arch,
    unpack::{explain, unknown},
};
use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

/// The most that dpkg's list of what is installed can take.
const MAX_STATUS: u64 = 64 << 20;

/// Refuse what lacks one of `packages`: nothing can be installed in it.
pub(crate) fn require_packages(
    dest: &Dest,
    output: Output,
    packages: &[String],
) -> Result<(), Error> {
    if packages.is_empty() {
        return Ok(());
    }
    let archives: Vec<PathBuf> = match output {
        Output::Oci => {
            let image = Image::open(&dest.absolute.to_string_lossy(), machine_arch())?;
            image.layers.into_iter().map(|layer| layer.path).collect()
        }
        Output::Dir | Output::Tar => vec![dest.absolute.clone()],
    };
    let mut status = String::new();
    for archive in archives {
        status = find_status(&archive)?.unwrap_or(status);
    }
    let missing = not_installed(&status, packages);
    if missing.is_empty() {
        return Ok(());
    }
    let (missing, shown) = (missing.join(" "), dest.shown.display());
    Err(Error::new(format!("cannot install {missing} in '{shown}': it is no directory"))
        .hint("--force makes it anew"))
}

/// What dpkg says in the tree in `archive`.
fn find_status(archive: &Path) -> Result<Option<String>, Error> {
    let shown = archive.display().to_string();
    let cannot = || format!("cannot read '{shown}'");
    let decoder = Decoder::new(File::open(archive).attempt(cannot)?).attempt(cannot)?;
    let mut members =
        Members::new(BufReader::new(decoder.ok_or_else(|| unknown(&shown))?), u64::MAX);
    while let Some(member) = members.next().map_err(|flaw| explain(flaw, &shown))? {
        if member.path.strip_prefix(b"./").unwrap_or(&member.path) != STATUS.as_bytes() {
            continue;
        }
        let (mut content, most) = (Vec::new(), member.size.min(MAX_STATUS));
        while (content.len() as u64) < most {
            let there = members.content(most - content.len() as u64);
            let there = there.map_err(|flaw| explain(flaw, &shown))?;
            content.extend(there);
            let length = there.len();
            members.consume(length);
        }
        return Ok(Some(String::from_utf8_lossy(&content).into_owned()));
    }
    Ok(None)
}
