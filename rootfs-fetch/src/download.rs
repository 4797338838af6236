//! Downloading to the cache: a file gets its name there, its sum, only when it has that sum.
//!
//! What a broken download has brought stays as `SUM.part`, and the next attempt asks for the rest of it, if it
//! is still the same file that the server has (If-Range). Whatever came together so has to have the sum.

use crate::{
    decode::Format,
    error::{Attempt as _, Error, say},
    http::{self, Answer, Limits},
    source::{List, Remote, Wanted},
    verify::{Hashing, Sum},
};
use reqwest::{
    StatusCode,
    blocking::Response,
    header::{CONTENT_RANGE, ETAG, HeaderMap, LAST_MODIFIED},
};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How much an attempt must bring not to count as one that failed: then the next goes on from there.
const PROGRESS: u64 = 1 << 20;

/// The most that a list of sums, or its signature, can take.
const MAX_LIST: u64 = 1 << 20;

/// How long a list is waited for where there is something to fall back on.
const LIST_REACH: Duration = Duration::from_secs(10);

/// Why there is no file.
#[derive(Debug)]
pub(crate) struct Failed {
    /// To be told.
    pub(crate) error: Error,
    /// No server gave the file. A server that gave a wrong one did.
    pub(crate) not_found: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, not_found: false }
    }
}

/// Where downloads are kept, and how they are made.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    pub(crate) dir: PathBuf,
    /// Only what is here already.
    pub(crate) offline: bool,
    pub(crate) limits: Limits,
}

/// A file that was had, open at its start.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) name: String,
}

impl Cache {
    /// Have what is wanted: from the cache, or else downloaded. Within `reach`, if given, one server must have
    /// answered, and each is asked once.
    pub(crate) fn fetch(
        &self,
        wanted: &Wanted,
        reach: Option<Duration>,
    ) -> Result<Fetched, Failed> {
        let dir = &self.dir;
        fs::create_dir_all(dir).attempt(|| format!("cannot make the cache '{}'", dir.display()))?;
        let deadline = reach.map(|reach| Instant::now() + reach);
        match wanted {
            Wanted::File(remote) => self.fetch_file(remote, deadline),
            Wanted::Listed { list, otherwise } => {
                let reach = match (reach, otherwise) {
                    (None, None) => None,
                    (reach, _) => Some(reach.map_or(LIST_REACH, |reach| reach / 2)),
                };
                match (self.look_up(list, reach), otherwise) {
                    (Ok(remote), _) => self.fetch_file(&remote, deadline),
                    (Err(failed), Some(known)) => {
                        let why = failed.error.to_string().replace("\n ", "\n   ");
                        let sum = if known.sum.is_some() { ", whose sum is built in" } else { "" };
                        say(&format!(
                            "no list of releases, so taking '{}'{sum}\n  {why}",
                            known.name
                        ));
                        self.fetch_file(known, deadline)
                    }
                    (Err(failed), None) => Err(failed),
                }
            }
        }
    }

    /// The file that `list`, once it is verified, names.
    fn look_up(&self, list: &List, reach: Option<Duration>) -> Result<Remote, Failed> {
        let path = self.dir.join(list.cached_name());
        let signature = path.with_extension("SHA256SUMS.gpg");
        let name = format!("SHA256SUMS of {}", list.release);
        if !path.exists() {
            self.require_online(&name)?;
        }
        if self.offline {
            let read = |path| fs::read(path).attempt(|| format!("cannot read '{}'", shown(path)));
            return Ok(verified(list, &read(&path)?, &read(&signature)?, &shown(&path))?);
        }
        let deadline = reach.map(|reach| Instant::now() + reach);
        let mut failures = Vec::new();
        for dir in &list.dirs {
            let limits = self.limits.within(deadline);
            let get = |name: &str| http::get(&format!("{dir}/{name}"), MAX_LIST, limits);
            let answer = get("SHA256SUMS").and_then(|text| {
                let signed = list.keyring.as_ref().map(|_| get("SHA256SUMS.gpg"));
                let signature = signed.transpose()?.unwrap_or_default();
                let remote = verified(list, &text, &signature, &format!("{dir}/SHA256SUMS"));
                Ok((remote.map_err(Answer::Wrong)?, text, signature))
            });
            match answer {
                Ok((remote, text, signed)) => {
                    keep(&path, &text)?;
                    keep(&signature, &signed)?;
                    return Ok(remote);
                }
                Err(answer) => failures.push(Some(answer)),
            }
        }
        Err(explain(&name, failures))
    }

    fn fetch_file(&self, remote: &Remote, deadline: Option<Instant>) -> Result<Fetched, Failed> {
        let name = remote.name.clone();
        let Some(sum) = remote.sum else {
            let path = self.dir.join(format!("unverified-{}.part", std::process::id()));
            self.require_online(&name)?;
            let mut part = Part::create(&path)?;
            fs::remove_file(&path).attempt(|| format!("cannot remove '{}'", shown(&path)))?;
            self.try_servers(remote, &mut part, deadline)?;
            let file = part.file;
            return Ok(Fetched { file, path: self.dir.join("unverified"), name });
        };
        let path = self.dir.join(sum.to_string());
        if let Some(file) = cached(&path, sum)? {
            return Ok(Fetched { file, path, name });
        }
        self.require_online(&name)?;
        let mut part = Part::lock(&path.with_extension("part"))?;
        // Another run may have been at it while this one waited for the lock.
        if let Some(file) = cached(&path, sum)? {
            part.remove(); // made anew when it is needed
            return Ok(Fetched { file, path, name });
        }
        if path.exists() {
            say(&format!("'{}' is damaged; downloading it again", shown(&path)));
        }
        self.try_servers(remote, &mut part, deadline)?;
        fs::rename(&part.path, &path)
            .attempt(|| format!("cannot rename '{}'", shown(&part.path)))?;
        part.forget_origin();
        Ok(Fetched { file: part.file, path, name })
    }

    fn require_online(&self, name: &str) -> Result<(), Failed> {
        if !self.offline {
            return Ok(());
        }
        let missing =
            format!("cannot take '{name}' from the cache '{}': it is not there", shown(&self.dir));
        Err(Error::new(missing).hint("without --offline it is downloaded").into())
    }

    /// Fill `part` from the servers of `remote`, and leave it open at its start.
    fn try_servers(
        &self,
        remote: &Remote,
        part: &mut Part,
        deadline: Option<Instant>,
    ) -> Result<(), Failed> {
        let mut failures: Vec<Option<Answer>> = remote.urls.iter().map(|_| None).collect();
        let mut attempt = 0;
        loop {
            let before = part.length()?;
            for (url, failure) in remote.urls.iter().zip(&mut failures) {
                if failure.as_ref().is_some_and(Answer::is_final) {
                    continue;
                }
                match from_server(url, part, remote.sum, self.limits.within(deadline)) {
                    Ok(()) => {
                        part.file.rewind().attempt(|| "cannot read the download".into())?;
                        return Ok(());
                    }
                    Err(answer) => *failure = Some(answer),
                }
            }
            // A server that goes on where it broke off gets there in the end.
            attempt = if part.length()? >= before + PROGRESS { 0 } else { attempt + 1 };
            let waits = failures.iter().flatten().filter_map(|answer| answer.pause(attempt));
            let Some(pause) = waits.min() else { break };
            if deadline.is_some() || attempt > self.limits.retries {
                break;
            }
            for answer in failures.iter().flatten().filter(|answer| !answer.is_final()) {
                say(&format!("{}; trying again in {} s", answer.error(), pause.as_secs().max(1)));
            }
            thread::sleep(pause);
        }
        if part.length()? == 0 || failures.iter().flatten().all(Answer::is_final) {
            part.remove();
        }
        Err(explain(&remote.name, failures))
    }
}

/// What `list` means by `text`, which must be signed where it has a keyring.
fn verified(list: &List, text: &[u8], signature: &[u8], shown: &str) -> Result<Remote, Error> {
    if let Some(keyring) = &list.keyring {
        keyring
            .require_signed(text, signature)
            .map_err(|why| Error::new(format!("refusing '{shown}': {why}")))?;
    }
    list.newest(&String::from_utf8_lossy(text))
}

/// Write a whole file under another name first: a run that is killed leaves the old one.
fn keep(path: &Path, content: &[u8]) -> Result<(), Error> {
    let fresh = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
    fs::write(&fresh, content)
        .and_then(|()| fs::rename(&fresh, path))
        .attempt(|| format!("cannot write '{}'", shown(path)))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The file in the cache, open at its start, if it is there and has its sum.
fn cached(path: &Path, sum: Sum) -> Result<Option<File>, Error> {
    let mut file = match File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.attempt(|| format!("cannot open '{}'", shown(path)))?,
    };
    let unreadable = || format!("cannot read '{}'", shown(path));
    if Hashing::new(&file).finish().attempt(unreadable)? != sum {
        return Ok(None);
    }
    file.rewind().attempt(unreadable)?;
    Ok(Some(file))
}

/// A download that is not complete.
struct Part {
    file: File,
    path: PathBuf,
    /// Where its beginning is from, and what tells that version of the file.
    origin: Option<Origin>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    url: String,
    validator: String,
}

impl Part {
    fn create(path: &Path) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.attempt(|| format!("cannot write '{}'", shown(path)))?;
        Ok(Self { file, path: path.to_owned(), origin: None })
    }

    /// The file of this name, held by no other run, with what is in it already.
    fn lock(path: &Path) -> Result<Self, Error> {
        loop {
            let mut part = Self::create(path)?;
            let same = flock(&part.file, FlockOperation::LockExclusive)
                .map_err(io::Error::from)
                .and_then(|()| {
                    // The run that held it has renamed or removed it.
                    let (locked, named) = (part.file.metadata()?, fs::symlink_metadata(path));
                    Ok(named.is_ok_and(|it| (it.dev(), it.ino()) == (locked.dev(), locked.ino())))
                });
            if same.attempt(|| format!("cannot lock '{}'", shown(path)))? {
                let origin = fs::read_to_string(part.origin_path()).unwrap_or_default();
                part.origin = origin.trim_end().split_once(' ').map(|(url, validator)| Origin {
                    url: url.into(),
                    validator: validator.into(),
                });
                return Ok(part);
            }
        }
    }

    fn origin_path(&self) -> PathBuf {
        self.path.with_extension("origin")
    }

    fn length(&self) -> Result<u64, Error> {
        let metadata = self.file.metadata();
        Ok(metadata.attempt(|| format!("cannot look at '{}'", shown(&self.path)))?.len())
    }

    /// Where to go on with what is at `url`, and what must still tell it.
    fn rest_of(&self, url: &str) -> Result<Option<(u64, String)>, Error> {
        let length = self.length()?;
        let origin = self.origin.as_ref().filter(|origin| length > 0 && origin.url == url);
        Ok(origin.map(|origin| (length, origin.validator.clone())))
    }

    /// Begin anew with what is at `url`.
    fn begin(&mut self, url: &str, headers: &HeaderMap) -> io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        let origin = validator(headers).map(|validator| Origin { url: url.into(), validator });
        self.origin = origin;
        // Without it the next run begins anew, and that is all.
        drop(fs::remove_file(self.origin_path()));
        if let (Some(Origin { url, validator }), true) = (&self.origin, self.path.exists()) {
            drop(fs::write(self.origin_path(), format!("{url} {validator}\n")));
        }
        Ok(())
    }

    /// Of no use: the next attempt begins anew.
    fn clear(&mut self) {
        self.origin = None;
        drop(self.file.set_len(0));
    }

    /// Of no use to the next run either.
    fn remove(&self) {
        drop(fs::remove_file(&self.path));
        self.forget_origin();
    }

    fn forget_origin(&self) {
        drop(fs::remove_file(self.origin_path()));
    }
}

/// What tells one version of a file from another, byte for byte: a weak tag does not.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let tag = text(ETAG).filter(|tag| tag.starts_with('"'));
    tag.or_else(|| text(LAST_MODIFIED)).map(str::to_owned)
}

/// One server: its own failure. Several: each one's.
fn explain(name: &str, failures: Vec<Option<Answer>>) -> Failed {
    let not_found = !failures.iter().flatten().any(|answer| matches!(answer, Answer::Wrong(_)));
    let mut errors: Vec<Error> = failures.into_iter().flatten().map(Answer::into_error).collect();
    let error = match errors.pop() {
        Some(only) if errors.is_empty() => only,
        last => errors.into_iter().chain(last).fold(
            Error::new(format!("cannot download '{name}' from any server")),
            |error, tried| error.detail("tried", tried.to_string().replace("\n ", ";")),
        ),
    };
    Failed { error, not_found }
}

fn from_server(url: &str, part: &mut Part, sum: Option<Sum>, limits: Limits) -> Result<(), Answer> {
    let cannot = || format!("cannot download '{url}'");
    let rest = part.rest_of(url).map_err(Answer::Never)?;
    match &rest {
        Some((from, _)) => say(&format!("downloading '{url}' from byte {from} on")),
        None => say(&format!("downloading '{url}'")),
    }
    let response = http::request(url, rest.clone(), limits)?;
    let status = response.status();
    let from = match (status, &rest) {
        (StatusCode::PARTIAL_CONTENT, Some((from, _))) if range(&response) == Some(*from) => *from,
        (StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT, _) => {
            part.clear();
            let wrong = format!("{}: server sent another range than was asked for", cannot());
            return Err(Answer::later(Error::new(wrong)));
        }
        (StatusCode::OK, _) => {
            part.begin(url, response.headers()).attempt(cannot).map_err(Answer::Never)?;
            0
        }
        _ => return Err(http::refusal(url, &response)),
    };
    let read = |part: &mut Part| -> io::Result<Hashing<io::Sink>> {
        let mut hash = Hashing::new(io::sink());
        part.file.rewind()?;
        io::copy(&mut (&part.file).take(from), &mut hash)?;
        part.file.seek(SeekFrom::Start(from))?;
        Ok(hash)
    };
    let mut hash = read(part).attempt(cannot).map_err(Answer::Never)?;
    receive(response, from, part, &mut hash, limits).map_err(|answer| answer.about(&cannot()))?;
    let Some(sum) = sum else { return Ok(()) };
    sum.require(hash.sum(), url).map_err(|wrong| {
        part.clear();
        // What was joined may be of two files; the whole from this server is still to be seen.
        if from > 0 { Answer::later(wrong) } else { Answer::Wrong(wrong) }
    })
}

/// Where the range that the server sends begins.
fn range(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// Write what the server sends after the first `from` bytes of `part`, and hash it.
fn receive(
    response: Response,
    from: u64,
    part: &mut Part,
    hash: &mut Hashing<io::Sink>,
    limits: Limits,
) -> Result<(), Answer> {
    let whole = response.content_length().map(|length| from.saturating_add(length));
    let too_large =
        || Answer::Never(Error::new(format!("it has more than {} bytes", limits.max_size)));
    if whole.is_some_and(|whole| whole > limits.max_size) {
        return Err(too_large());
    }
    let bar = http::progress(whole, from);
    let mut body = http::Paced::new(bar.wrap_read(response), limits.timeout);
    let (mut buffer, mut filled, mut written) = (vec![0; 1 << 16], 0, from);
    loop {
        let read = body.read(&mut buffer[filled..]).map_err(|err| Answer::later_because(&err))?;
        filled += read;
        // What an archive is told by is in its first bytes; a page that says sorry is no archive.
        if written == 0 && filled < 512 && read > 0 {
            continue;
        }
        if written == 0 && filled > 0 && Format::of(&buffer[..filled]).is_none() {
            part.clear();
            return Err(Answer::Wrong(Error::new("server sent what is no tarball")));
        }
        let wrote =
            part.file.write_all(&buffer[..filled]).and_then(|()| hash.write_all(&buffer[..filled]));
        wrote.attempt(|| format!("cannot write '{}'", shown(&part.path))).map_err(Answer::Never)?;
        written += filled as u64;
        if written > limits.max_size {
            return Err(too_large());
        }
        if read == 0 {
            break;
        }
        filled = 0;
    }
    bar.finish_and_clear();
    if whole.is_some_and(|whole| whole != written) {
        return Err(Answer::later(Error::new("the connection was cut")));
    }
    Ok(())
}
