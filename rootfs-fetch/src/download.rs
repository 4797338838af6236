//! Downloading to the cache: a file gets its name there, its sum, only when it has that sum.

use crate::{
    error::{Attempt as _, Error, say},
    source::Remote,
    verify::{Hashing, Sum},
};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{
    StatusCode,
    blocking::{Client, Response},
};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

/// How often all servers are tried in turn when they do not answer or break off, with a pause between.
const ROUNDS: u32 = 3;

/// How long to wait for a server's answer, and for its next bytes after that.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// What one server did.
enum Answer {
    /// Nothing, or not now: it may do better when asked again.
    Later(Error),
    /// It has no such file.
    Never(Error),
    /// It sent another file.
    Wrong(Error),
}

/// The file, open at its start: from the cache, or else downloaded. Within `reach`, if given, one server
/// must have answered, and each is asked once.
pub(crate) fn fetch(
    remote: &Remote,
    cache: &Path,
    reach: Option<Duration>,
) -> Result<File, Failed> {
    fs::create_dir_all(cache).attempt(|| format!("cannot make the cache '{}'", cache.display()))?;
    let Some(sum) = remote.sum else {
        let path = cache.join(format!("unverified-{}.part", std::process::id()));
        let file = create(&path)?;
        fs::remove_file(&path).attempt(|| format!("cannot remove '{}'", path.display()))?;
        return from_servers(remote, file, reach);
    };
    let path = cache.join(sum.to_string());
    if let Some(file) = cached(&path, sum)? {
        return Ok(file);
    }
    let part = path.with_extension("part");
    let file = create_locked(&part)?;
    // Another run may have been at it while this one waited for the lock.
    if let Some(file) = cached(&path, sum)? {
        drop(fs::remove_file(&part)); // empty, and made anew when it is needed
        return Ok(file);
    }
    if path.exists() {
        say(&format!("'{}' is damaged; downloading it again", path.display()));
    }
    let downloaded = from_servers(remote, file, reach);
    match &downloaded {
        Ok(_) => {
            fs::rename(&part, &path).attempt(|| format!("cannot rename '{}'", part.display()))?;
        }
        Err(_) => drop(fs::remove_file(&part)), // of no use; the next run begins it anew
    }
    downloaded
}

fn create(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .attempt(|| format!("cannot write '{}'", path.display()))
}

/// The file of this name, held by no other run.
fn create_locked(path: &Path) -> Result<File, Error> {
    loop {
        let file = create(path)?;
        let same =
            flock(&file, FlockOperation::LockExclusive).map_err(io::Error::from).and_then(|()| {
                // The run that held it has renamed or removed it.
                let (locked, named) = (file.metadata()?, fs::symlink_metadata(path));
                Ok(named
                    .is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())))
            });
        if same.attempt(|| format!("cannot lock '{}'", path.display()))? {
            return Ok(file);
        }
    }
}

/// The file of the cache, if it is there and still has its sum.
fn cached(path: &Path, sum: Sum) -> Result<Option<File>, Error> {
    let shown = path.display();
    let file = match File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.attempt(|| format!("cannot open '{shown}'"))?,
    };
    let found = Hashing::new(&file).finish().attempt(|| format!("cannot read '{shown}'"))?;
    if found == sum { rewind(file).map(Some) } else { Ok(None) }
}

fn rewind(mut file: File) -> Result<File, Error> {
    file.rewind().attempt(|| "cannot go back to the start of the download".into())?;
    Ok(file)
}

fn from_servers(remote: &Remote, mut file: File, reach: Option<Duration>) -> Result<File, Failed> {
    let client = client()?;
    let deadline = reach.map(|reach| Instant::now() + reach);
    let mut failures: Vec<Option<Answer>> = remote.urls.iter().map(|_| None).collect();
    for round in 0..if deadline.is_some() { 1 } else { ROUNDS } {
        if round > 0 {
            thread::sleep(Duration::from_secs(1 << (round - 1)));
        }
        for (url, failure) in remote.urls.iter().zip(&mut failures) {
            if matches!(failure, Some(Answer::Never(_) | Answer::Wrong(_))) {
                continue;
            }
            // Half of what is left to each: a slow first server gets the most.
            let patience = deadline.map_or(PATIENCE, |end| (end - Instant::now().min(end)) / 2);
            match from_server(client, url, &mut file, remote.sum, patience) {
                Ok(()) => return Ok(rewind(file)?),
                Err(answer) => *failure = Some(answer),
            }
        }
        if failures.iter().all(|failure| !matches!(failure, Some(Answer::Later(_)))) {
            break;
        }
    }
    Err(explain(remote, failures))
}

/// One server: its own failure. Several: each one's.
fn explain(remote: &Remote, failures: Vec<Option<Answer>>) -> Failed {
    let not_found = !failures.iter().any(|failure| matches!(failure, Some(Answer::Wrong(_))));
    let mut errors: Vec<Error> = failures
        .into_iter()
        .flatten()
        .map(|answer| match answer {
            Answer::Later(error) | Answer::Never(error) | Answer::Wrong(error) => error,
        })
        .collect();
    let error = match errors.pop() {
        Some(only) if errors.is_empty() => only,
        last => errors.into_iter().chain(last).fold(
            Error::new(format!("cannot download '{}' from any server", remote.name)),
            |error, tried| error.detail("tried", tried.to_string().replace("\n ", ";")),
        ),
    };
    Failed { error, not_found }
}

fn from_server(
    client: &'static Client,
    url: &str,
    file: &mut File,
    sum: Option<Sum>,
    patience: Duration,
) -> Result<(), Answer> {
    let cannot = || format!("cannot download '{url}'");
    say(&format!("downloading '{url}'"));
    let response =
        request(client, url, patience).map_err(|why| Answer::Later(because(&cannot(), &*why)))?;
    let status = response.status();
    if !status.is_success() {
        let error = Error::new(format!("{}: server answered {status}", cannot()));
        let later = status.is_server_error()
            || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
        return Err(if later { Answer::Later(error) } else { Answer::Never(error) });
    }
    let start_over = file.rewind().and_then(|()| file.set_len(0));
    start_over.attempt(cannot).map_err(Answer::Never)?;
    let length = response.content_length();
    let bar = progress(length);
    let mut body = Hashing::new(bar.wrap_read(response));
    let copied = io::copy(&mut body, file);
    bar.finish_and_clear();
    let copied = copied.map_err(|err| Answer::Later(because(&cannot(), &err)))?;
    if length.is_some_and(|length| length != copied) {
        return Err(Answer::Later(Error::new(format!("{}: the connection was cut", cannot()))));
    }
    let Some(sum) = sum else { return Ok(()) };
    let received = body.finish().map_err(|err| Answer::Later(because(&cannot(), &err)))?;
    sum.require(received, url).map_err(Answer::Wrong)
}

/// The error for `why` not; what the kernel said is at the end of the chain, if it said anything.
fn because(cannot: &str, why: &(dyn std::error::Error + 'static)) -> Error {
    let mut root = why;
    loop {
        // An io::Error that wraps another error gives that error's source, and not the error.
        let inner = root.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let Some(next) = inner.map_or_else(|| root.source(), |inner| Some(inner)) else { break };
        root = next;
    }
    match root.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
        Some(errno) => Error::from_errno(cannot.to_owned(), errno),
        None => Error::new(format!("{cannot}: {root}")),
    }
}

/// The answer to a request, waited for so long. A thread waits for it: looking a name up cannot be broken
/// off, and may take longer than that.
fn request(
    client: &'static Client,
    url: &str,
    patience: Duration,
) -> Result<Response, Box<dyn std::error::Error>> {
    let (answer, answered) = mpsc::channel();
    let url = url.to_owned();
    thread::spawn(move || drop(answer.send(client.get(url).send())));
    let answer = answered.recv_timeout(patience).map_err(|_| "no answer in time")?;
    Ok(answer.map_err(reqwest::Error::without_url)?)
}

/// Whether `url` is there to be had, as far as can be told within `patience`.
pub(crate) fn exists(url: &str, patience: Duration) -> bool {
    client().is_ok_and(|client| {
        request(client, url, patience).is_ok_and(|response| response.status().is_success())
    })
}

/// The one client. It is never dropped: that would wait for names that are still being looked up.
fn client() -> Result<&'static Client, Error> {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    // Fails only where a provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    // The system's roots, so that a company's own count, and Mozilla's, for a host that has none.
    let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS
        .iter()
        .filter_map(|der| reqwest::Certificate::from_der(der).ok());
    let client = Client::builder()
        .user_agent(concat!("rootfs-fetch/", env!("CARGO_PKG_VERSION")))
        .tls_certs_merge(roots)
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE) // of a blocking client: until the answer, and for each read after it
        .build()
        .map_err(|err| because("cannot set up HTTP", &err))?;
    Ok(CLIENT.get_or_init(|| client))
}

/// A bar on a terminal, and nothing elsewhere.
fn progress(length: Option<u64>) -> ProgressBar {
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let template = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
