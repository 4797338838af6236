//! Requests: how long a server is waited for, and what its answers mean.

use crate::error::Error;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{
    StatusCode,
    blocking::{Client, Response},
    header::{ACCEPT_ENCODING, DATE, HeaderMap, IF_RANGE, RANGE, RETRY_AFTER},
    redirect::{Attempt, Policy},
};
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io::{self, Read},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

/// How slow a server may be on average, in bytes a second.
const SLOWEST: u64 = 1024;

/// How long a server's wish to be left alone is heeded; one that wants longer is given up.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// What a download may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long to wait for an answer.
    pub(crate) answer: Duration,
    /// How long to wait for each next piece of it.
    pub(crate) timeout: Duration,
    /// How often to try again.
    pub(crate) retries: u32,
    /// How many bytes to take.
    pub(crate) max_size: u64,
}

impl Limits {
    /// The same, with half of the time that is left until `deadline` for an answer: a slow first server gets
    /// the most.
    pub(crate) fn within(self, deadline: Option<Instant>) -> Self {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()) / 2);
        Self { answer: left.map_or(self.answer, |left| left.min(self.answer)), ..self }
    }
}

/// What one server did.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Nothing, or not now: it may do better when asked again, after that time if it named one.
    Later(Error, Option<Duration>),
    /// It has no such file.
    Never(Error),
    /// It sent another file.
    Wrong(Error),
}

impl Answer {
    pub(crate) fn later(error: Error) -> Self {
        Self::Later(error, None)
    }

    /// A reason that is told about something: see [`Self::about`].
    pub(crate) fn later_because(why: &(dyn std::error::Error + 'static)) -> Self {
        Self::later(because("", why))
    }

    /// The same, said of an attempt.
    pub(crate) fn about(self, cannot: &str) -> Self {
        let about = |error: Error| error.about(cannot);
        match self {
            Self::Later(error, after) => Self::Later(about(error), after),
            Self::Never(error) => Self::Never(about(error)),
            Self::Wrong(error) => Self::Wrong(about(error)),
        }
    }

    /// Whether asking again is of no use.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self, Self::Later(..))
    }

    /// How long to wait before attempt number `attempt` after it.
    pub(crate) fn pause(&self, attempt: u32) -> Option<Duration> {
        let Self::Later(_, after) = self else { return None };
        let backoff = Duration::from_secs(1 << attempt.saturating_sub(1).min(5));
        // Between half and whole, so that many that were cut off at once do not come back at once.
        let share = RandomState::new().build_hasher().finish() % 512;
        let share = u32::try_from(512 + share).unwrap_or(1024);
        Some(after.unwrap_or(backoff * share / 1024))
    }

    pub(crate) fn error(&self) -> &Error {
        let (Self::Later(error, _) | Self::Never(error) | Self::Wrong(error)) = self;
        error
    }

    pub(crate) fn into_error(self) -> Error {
        let (Self::Later(error, _) | Self::Never(error) | Self::Wrong(error)) = self;
        error
    }
}

/// The error for `why` not; what the kernel said is at the end of the chain, if it said anything.
pub(crate) fn because(cannot: &str, why: &(dyn std::error::Error + 'static)) -> Error {
    let mut root = why;
    loop {
        // An io::Error that wraps another error gives that error's source, and not the error.
        let inner = root.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let Some(next) = inner.map_or_else(|| root.source(), |inner| Some(inner)) else { break };
        root = next;
    }
    match root.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
        Some(errno) => Error::from_errno(cannot.to_owned(), errno),
        None if cannot.is_empty() => Error::new(root.to_string()),
        None => Error::new(format!("{cannot}: {root}")),
    }
}

/// The answer to a request for `url`, or for the rest of it: its start, and what tells its version. A thread
/// waits for it, as looking a name up cannot be broken off and may take longer than that.
pub(crate) fn request(
    url: &str,
    rest: Option<(u64, String)>,
    limits: Limits,
) -> Result<Response, Answer> {
    let cannot = format!("cannot download '{url}'");
    let client = client(limits.timeout).map_err(Answer::Never)?;
    let mut request = client.get(url).header(ACCEPT_ENCODING, "identity");
    if let Some((from, validator)) = rest {
        request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, validator);
    }
    let (answer, answered) = mpsc::channel();
    thread::spawn(move || drop(answer.send(request.send())));
    match answered.recv_timeout(limits.answer) {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(err)) if err.is_redirect() => {
            Err(Answer::Never(because(&cannot, &err.without_url())))
        }
        Ok(Err(err)) => Err(Answer::later(because(&cannot, &err.without_url()))),
        Err(_) => Err(Answer::later(Error::new(format!("{cannot}: no answer in time")))),
    }
}

/// The whole answer to a request for `url`, of `max` bytes at most.
pub(crate) fn get(url: &str, max: u64, limits: Limits) -> Result<Vec<u8>, Answer> {
    let response = request(url, None, limits)?;
    if response.status() != StatusCode::OK {
        return Err(refusal(url, &response));
    }
    let length = response.content_length();
    let mut content = Vec::new();
    let mut body = Paced::new(response, limits.timeout).take(max + 1);
    let cannot = || format!("cannot download '{url}'");
    body.read_to_end(&mut content).map_err(|err| Answer::later(because(&cannot(), &err)))?;
    if content.len() as u64 > max {
        return Err(Answer::Never(Error::new(format!(
            "{}: it has more than {max} bytes",
            cannot()
        ))));
    }
    if length.is_some_and(|length| length != content.len() as u64) {
        return Err(Answer::later(Error::new(format!("{}: the connection was cut", cannot()))));
    }
    Ok(content)
}

/// Whether `url` is there to be had, as far as can be told within `patience`.
pub(crate) fn exists(url: &str, patience: Duration) -> bool {
    let limits = Limits { answer: patience, timeout: patience, retries: 0, max_size: u64::MAX };
    request(url, None, limits).is_ok_and(|response| response.status().is_success())
}

/// Whether the server of `url` says, within `patience`, that it has no such file.
pub(crate) fn is_gone(url: &str, patience: Duration) -> bool {
    let limits = Limits { answer: patience, timeout: patience, retries: 0, max_size: u64::MAX };
    let gone = [StatusCode::NOT_FOUND, StatusCode::GONE];
    request(url, None, limits).is_ok_and(|response| gone.contains(&response.status()))
}

/// What an answer other than the file means.
pub(crate) fn refusal(url: &str, response: &Response) -> Answer {
    let status = response.status();
    let error = Error::new(format!("cannot download '{url}': server answered {status}"));
    let later = status.is_server_error()
        || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
    match retry_after(response.headers()) {
        Some(after) if later && after > LONGEST_PAUSE => {
            let asks = format!("it asks to be left alone for {} s", after.as_secs());
            Answer::Never(error.detail("server", asks))
        }
        after if later => Answer::Later(error, after),
        _ => Answer::Never(error),
    }
}

/// How long the server wants to be left alone: seconds, or the time when that ends by its own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let after = text(RETRY_AFTER)?.trim();
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    let now = now.unwrap_or_else(std::time::SystemTime::now);
    let until = httpdate::parse_http_date(after).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// The one client. It is never dropped: that would wait for names that are still being looked up.
fn client(timeout: Duration) -> Result<&'static Client, Error> {
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
        .redirect(Policy::custom(redirect))
        .timeout(timeout) // of a blocking client: until the answer, and for each read after it
        .build()
        .map_err(|err| because("cannot set up HTTP", &err))?;
    Ok(CLIENT.get_or_init(|| client))
}

fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let last = attempt.previous().last().map(|url| url.scheme().to_owned());
    if is_downgrade(last.as_deref(), attempt.url().scheme()) {
        return attempt.error("server redirects from https to http");
    }
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("server redirects in a ring");
    }
    attempt.follow()
}

/// Whether a redirect leaves encryption behind.
fn is_downgrade(from: Option<&str>, to: &str) -> bool {
    from == Some("https") && to != "https"
}

/// A reader that gives up on a server which sends next to nothing for so long.
pub(crate) struct Paced<R> {
    inner: R,
    window: Duration,
    since: Instant,
    read: u64,
}

impl<R> Paced<R> {
    pub(crate) fn new(inner: R, window: Duration) -> Self {
        Self { inner, window, since: Instant::now(), read: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.read += length as u64;
        let passed = self.since.elapsed();
        if length > 0 && passed >= self.window {
            if self.read < SLOWEST.saturating_mul(passed.as_secs()) {
                let slow = format!("server sends fewer than {SLOWEST} bytes a second");
                return Err(io::Error::new(io::ErrorKind::TimedOut, slow));
            }
            (self.since, self.read) = (Instant::now(), 0);
        }
        Ok(length)
    }
}

/// A bar on a terminal, and nothing elsewhere.
pub(crate) fn progress(length: Option<u64>, from: u64) -> ProgressBar {
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new).with_position(from);
    let template = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Paced, is_downgrade, retry_after};
    use crate::error::Error;
    use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
    use std::{io::Read as _, time::Duration};

    #[test]
    fn encryption_is_not_left_behind() {
        assert!(is_downgrade(Some("https"), "http"));
        for (from, to) in [("https", "https"), ("http", "https"), ("http", "http")] {
            assert!(!is_downgrade(Some(from), to));
        }
    }

    #[test]
    fn a_servers_wish_is_seconds_or_a_date_by_its_own_clock() {
        let after = |after: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, "Fri, 31 Dec 1999 23:59:50 GMT".parse().unwrap());
            headers.insert(RETRY_AFTER, after.parse().unwrap());
            retry_after(&headers).map(|after| after.as_secs())
        };
        assert_eq!(after("7"), Some(7));
        assert_eq!(after("Fri, 31 Dec 1999 23:59:59 GMT"), Some(9));
        assert_eq!(after("Fri, 31 Dec 1999 23:59:40 GMT"), Some(0));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn pauses_grow_and_differ() {
        let answer = Answer::later(Error::new("x"));
        for (attempt, most) in [(1, 1), (2, 2), (3, 4), (9, 32)] {
            let pause = answer.pause(attempt).unwrap();
            assert!(pause <= Duration::from_secs(most) && pause >= Duration::from_secs(most) / 2);
        }
        let wish = Answer::Later(Error::new("x"), Some(Duration::from_secs(3)));
        assert_eq!(wish.pause(1), Some(Duration::from_secs(3)));
        assert_eq!(Answer::Never(Error::new("x")).pause(1), None);
    }

    #[test]
    fn what_comes_fast_enough_is_not_given_up() {
        let mut read = Vec::new();
        Paced::new(&[7; 9999][..], Duration::ZERO).read_to_end(&mut read).unwrap();
        assert_eq!(read.len(), 9999);
    }
}
