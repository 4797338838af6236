//! Servers that break off, stall, lie and lead astray, and what rootfs-fetch makes of each: the right file or a
//! clear refusal, and never a wrong file.

use crate::{
    fixture::sha256,
    rootfs_fetch::{Place, gzip},
};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// A part of an answer.
enum Part {
    Bytes(Vec<u8>),
    Pause(u64),
}

use Part::{Bytes, Pause};

/// What was asked for: the path, and from which byte on, if what is there is still of this tag.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    from: Option<usize>,
    if_range: Option<String>,
}

/// What is answered to the n-th request, n from 0.
type Answer = Box<dyn Fn(usize, &Request) -> Vec<Part> + Send + Sync>;

/// What is to come of it.
#[derive(Clone, Copy)]
enum Expected {
    Right,
    Refused(&'static str),
}

use Expected::{Refused, Right};

struct Fault {
    name: String,
    answer: Answer,
    expected: Expected,
    args: &'static [&'static str],
}

fn fault(
    name: impl Into<String>,
    expected: Expected,
    answer: impl Fn(usize, &Request) -> Vec<Part> + Send + Sync + 'static,
) -> Fault {
    Fault { name: name.into(), answer: Box::new(answer), expected, args: &[] }
}

/// The file: of bytes that do not pack.
fn content() -> Vec<u8> {
    let noise: Vec<u8> = (0..20_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 32).to_le_bytes())
        .collect();
    gzip(&noise)
}

fn head(status: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").into_bytes()
}

fn with_length(length: usize) -> String {
    format!("Content-Length: {length}\r\nETag: \"one\"\r\n")
}

fn whole() -> Vec<Part> {
    vec![Bytes(head("200 OK", &with_length(content().len()))), Bytes(content())]
}

fn status(status: &str, headers: &str) -> Vec<Part> {
    vec![Bytes(head(status, &format!("Content-Length: 0\r\n{headers}")))]
}

/// The range that was asked for, or all.
fn sound(request: &Request) -> Vec<Part> {
    match request.from {
        Some(from) if request.if_range.as_deref() == Some("\"one\"") => part(from, from),
        _ => whole(),
    }
}

/// A range that is said to begin at `said` and begins at `from`.
fn part(said: usize, from: usize) -> Vec<Part> {
    let content = content();
    let range = format!("Content-Range: bytes {said}-{}/{0}\r\n", content.len());
    let head = head("206 Partial Content", &(range + &with_length(content.len() - from)));
    vec![Bytes(head), Bytes(content[from..].to_vec())]
}

/// The first `parts` of 8, of all that the length speaks of.
fn cut(parts: usize) -> Vec<Part> {
    let content = content();
    let head = head("200 OK", &with_length(content.len()));
    vec![Bytes(head), Bytes(content[..content.len() * parts / 8].to_vec())]
}

/// At first this, and then what is right.
fn once(
    first: impl Fn() -> Vec<Part> + Send + Sync,
) -> impl Fn(usize, &Request) -> Vec<Part> + Send + Sync {
    move |n, request| if n == 0 { first() } else { sound(request) }
}

fn chunked(ends: bool) -> Vec<Part> {
    let mut body = Vec::new();
    for chunk in content().chunks(1000) {
        body.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        body.extend(chunk);
        body.extend(b"\r\n");
    }
    if ends {
        body.extend(b"0\r\n\r\n");
    }
    vec![Bytes(head("200 OK", "Transfer-Encoding: chunked\r\n")), Bytes(body)]
}

fn other(content: Vec<u8>) -> Vec<Part> {
    vec![Bytes(head("200 OK", &with_length(content.len()))), Bytes(content)]
}

fn interruptions() -> Vec<Fault> {
    let mut faults = vec![fault("sound", Right, |_, request| sound(request))];
    for parts in 0..8 {
        faults.push(fault(
            format!("cut at {parts}/8, then sound"),
            Right,
            once(move || cut(parts)),
        ));
    }
    faults.push(fault(
        "cut each time",
        Refused("end of file before message length reached"),
        |_, _| cut(4),
    ));
    faults.push(fault("a little more each time", Right, |n, request| match request.from {
        Some(from) if n < 3 => {
            let mut answer = part(from, from);
            if let Some(Bytes(bytes)) = answer.last_mut() {
                bytes.truncate(100);
            }
            answer
        }
        _ if n < 3 => cut(4),
        _ => sound(request),
    }));
    faults.push(fault("closed at once, then sound", Right, once(Vec::new)));
    faults.push(fault("closed at once each time", Refused("cannot download"), |_, _| Vec::new()));
    faults.push(fault("stalls before it answers, then sound", Right, once(|| vec![Pause(1500)])));
    faults.push(fault("stalls before it answers each time", Refused("cannot download"), |_, _| {
        vec![Pause(1500)]
    }));
    let stalled = || {
        let mut answer = cut(4);
        answer.extend([Pause(1500), Bytes(vec![0])]);
        answer
    };
    faults.push(fault("stalls in the middle, then sound", Right, once(stalled)));
    faults.push(fault(
        "stalls in the middle each time",
        Refused("cannot download"),
        move |_, _| stalled(),
    ));
    let dripping = || {
        let mut answer = cut(1);
        answer.extend((0..40).flat_map(|_| [Pause(100), Bytes(vec![0])]));
        answer
    };
    faults.push(fault("drips, then sound", Right, once(dripping)));
    faults.push(fault(
        "drips each time",
        Refused("fewer than 1024 bytes a second"),
        move |_, _| dripping(),
    ));
    faults.push(fault("slow and steady", Right, |_, _| {
        let head = Bytes(head("200 OK", &with_length(content().len())));
        let chunks = content()
            .chunks(8000)
            .flat_map(|chunk| [Pause(150), Bytes(chunk.to_vec())])
            .collect::<Vec<_>>();
        [head].into_iter().chain(chunks).collect()
    }));
    faults.push(fault("chunked", Right, |_, _| chunked(true)));
    faults.push(fault("chunked and cut, then sound", Right, once(|| chunked(false))));
    faults.push(fault("chunked and cut each time", Refused("cannot download"), |_, _| {
        chunked(false)
    }));
    faults.push(fault("chunk of no size", Refused("cannot download"), |_, _| {
        vec![Bytes(head("200 OK", "Transfer-Encoding: chunked\r\n")), Bytes(b"zz\r\nxx".to_vec())]
    }));
    faults
}

fn lies() -> Vec<Fault> {
    let sum = Refused("its SHA-256 sum is not the expected one");
    let mut faults = vec![
        fault("a bit is wrong", sum, |_, _| {
            let mut wrong = content();
            wrong[5000] ^= 1;
            other(wrong)
        }),
        fault("shorter than the file", sum, |_, _| other(content()[..9000].to_vec())),
        fault("longer than the file", sum, |_, _| other([content(), b"x".to_vec()].concat())),
        fault("packed twice", sum, |_, _| other(gzip(&content()))),
        fault("said to be packed", Right, |_, _| {
            let headers = with_length(content().len()) + "Content-Encoding: gzip\r\n";
            vec![Bytes(head("200 OK", &headers)), Bytes(content())]
        }),
        fault(
            "a length too great, then sound",
            Right,
            once(|| {
                vec![Bytes(head("200 OK", &with_length(content().len() + 9))), Bytes(content())]
            }),
        ),
        fault("a length too great each time", Refused("cannot download"), |_, _| {
            vec![Bytes(head("200 OK", &with_length(content().len() + 9))), Bytes(content())]
        }),
        fault("a length too small", sum, |_, _| {
            vec![Bytes(head("200 OK", &with_length(9000))), Bytes(content())]
        }),
        fault("two lengths", Refused(""), |_, _| {
            vec![
                Bytes(head("200 OK", "Content-Length: 5\r\nContent-Length: 6\r\n")),
                Bytes(content()),
            ]
        }),
        fault("a page", Refused("server sent what is no tarball"), |_, _| {
            other(b"<!DOCTYPE html><title>Sorry</title>".to_vec())
        }),
        fault("nothing", sum, |_, _| other(Vec::new())),
        fault("no HTTP", Refused("cannot download"), |_, _| {
            vec![Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())]
        }),
        fault("headers without end", Refused("cannot download"), |_, _| {
            vec![Bytes(head("200 OK", &"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(40_000)))]
        }),
        fault("continue first", Right, |_, _| {
            let mut answer = vec![Bytes(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())];
            answer.extend(whole());
            answer
        }),
        fault("no length", Right, |_, _| vec![Bytes(head("200 OK", "")), Bytes(content())]),
        fault("no length and cut", sum, |_, _| {
            vec![Bytes(head("200 OK", "")), Bytes(content()[..9000].to_vec())]
        }),
        fault("of HTTP/1.0", Right, |_, _| {
            vec![Bytes(b"HTTP/1.0 200 OK\r\n\r\n".to_vec()), Bytes(content())]
        }),
    ];
    let mut large =
        fault("more than is wanted, and said", Refused("more than 1048576 bytes"), |_, _| {
            vec![Bytes(head("200 OK", "Content-Length: 9000000000\r\n")), Bytes(content())]
        });
    large.args = &["--max-size", "1M"];
    let mut endless =
        fault("more than is wanted, and not said", Refused("more than 1048576 bytes"), |_, _| {
            vec![Bytes(head("200 OK", "")), Bytes(content()), Bytes(vec![7; 4 << 20])]
        });
    endless.args = &["--max-size", "1M"];
    faults.extend([large, endless]);
    faults
}

fn ranges() -> Vec<Fault> {
    /// Cut at first; then `ranged` for a range, and the whole for none.
    fn resumed(name: &str, expected: Expected, ranged: fn(usize) -> Vec<Part>) -> Fault {
        fault(name, expected, move |n, request| match (n, request.from) {
            (0, _) => cut(4),
            (_, Some(from)) => ranged(from),
            (_, None) => whole(),
        })
    }
    vec![
        resumed("the range", Right, |from| part(from, from)),
        resumed("the whole for a range", Right, |_| whole()),
        resumed("a range from the start", Right, |_| part(0, 0)),
        resumed("a range that begins later", Right, |from| part(from + 1, from + 1)),
        resumed("a range that begins earlier", Right, |from| part(from - 1, from - 1)),
        resumed("a range that is another", Right, |from| part(from, from + 1)),
        resumed("a range of another file", Right, |from| {
            let mut answer = part(from, from);
            if let Some(Bytes(bytes)) = answer.last_mut() {
                bytes.fill(7);
            }
            answer
        }),
        resumed("a range that does not say which", Right, |from| {
            let rest = content()[from..].to_vec();
            vec![Bytes(head("206 Partial Content", &with_length(rest.len()))), Bytes(rest)]
        }),
        resumed("a range in words", Right, |_| {
            vec![
                Bytes(head("206 Partial Content", "Content-Range: bytes some-more/all\r\n")),
                Bytes(content()),
            ]
        }),
        resumed("ranges in parts", Right, |_| {
            let headers = "Content-Type: multipart/byteranges; boundary=x\r\nContent-Length: 3\r\n";
            vec![Bytes(head("206 Partial Content", headers)), Bytes(b"--x".to_vec())]
        }),
        resumed("no such range", Right, |_| status("416 Range Not Satisfiable", "")),
        resumed("not found for a range", Refused("404 Not Found"), |_| status("404 Not Found", "")),
        fault("no such range each time", Refused("another range"), |_, _| {
            status("416 Range Not Satisfiable", "")
        }),
        fault("a range where none was asked for", Refused("another range"), |_, _| part(0, 0)),
        fault("changed in between", Right, |n, _| {
            if n == 0 {
                let mut wrong = content();
                wrong.truncate(9000);
                wrong[100] ^= 1;
                vec![
                    Bytes(head("200 OK", "Content-Length: 20000\r\nETag: \"old\"\r\n")),
                    Bytes(wrong),
                ]
            } else {
                whole()
            }
        }),
        fault("cut with a weak tag", Right, |n, request| match (n, request.from) {
            (0, _) => {
                let headers =
                    format!("Content-Length: {}\r\nETag: W/\"weak\"\r\n", content().len());
                vec![Bytes(head("200 OK", &headers)), Bytes(content()[..9000].to_vec())]
            }
            (_, None) => whole(),
            // A range by a weak tag may be of another file: it must not be asked for.
            (_, Some(_)) => status("400 Bad Request", ""),
        }),
    ]
}

fn statuses() -> Vec<Fault> {
    let mut faults = Vec::new();
    for line in [
        "400 Bad Request",
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "410 Gone",
        "451 Unavailable For Legal Reasons",
    ] {
        faults.push(fault(line, Refused("server answered 4"), |n, _| {
            assert_eq!(n, 0, "asked again");
            status(line, "")
        }));
    }
    faults.push(fault("204", Refused("server answered 204"), |_, _| {
        vec![Bytes(head("204 No Content", ""))]
    }));
    for line in [
        "408 Request Timeout",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
    ] {
        faults.push(fault(format!("{line}, then sound"), Right, once(|| status(line, ""))));
        faults.push(fault(format!("{line} each time"), Refused("server answered"), |_, _| {
            status(line, "")
        }));
    }
    for (after, expected) in [
        ("1", Right),
        ("0", Right),
        ("soon", Right),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Right),
        ("3600", Refused("left alone for 3600 s")),
        ("Fri, 31 Dec 2100 23:59:59 GMT", Refused("left alone for")),
    ] {
        for line in ["429 Too Many Requests", "503 Service Unavailable"] {
            let header = format!("Retry-After: {after}\r\n");
            faults.push(fault(
                format!("{line} for {after}"),
                expected,
                once(move || status(line, &header)),
            ));
        }
    }
    faults
}

fn redirects() -> Vec<Fault> {
    let to = |line: &str, place: &str| status(line, &format!("Location: {place}\r\n"));
    let mut faults = Vec::new();
    for line in [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        faults.push(fault(line, Right, move |_, request| match &*request.path {
            "/base" => to(line, "/real"),
            _ => sound(request),
        }));
    }
    faults.push(fault("redirect to itself", Refused("redirects in a ring"), move |_, _| {
        to("302 Found", "/base")
    }));
    faults.push(fault("redirects in a ring", Refused("redirects in a ring"), move |n, _| {
        to("302 Found", &format!("/{}", n % 3))
    }));
    faults.push(fault("5 redirects", Right, move |n, request| {
        if n < 5 { to("302 Found", &format!("/{n}")) } else { sound(request) }
    }));
    faults.push(fault("redirect without a place", Refused("302 Found"), |_, _| {
        status("302 Found", "")
    }));
    faults.push(fault("redirect to FTP", Refused("cannot download"), move |_, _| {
        to("302 Found", "ftp://127.0.0.1/x")
    }));
    faults.push(fault("redirect to a file", Refused("cannot download"), move |_, _| {
        to("302 Found", "file:///etc/passwd")
    }));
    faults.push(fault("redirect to a closed port", Refused("ECONNREFUSED"), move |_, _| {
        to("302 Found", "http://127.0.0.1:1/x")
    }));
    faults.push(fault("redirect to noise", Refused("cannot download"), move |_, _| {
        to("302 Found", "http://[")
    }));
    faults.push(fault("cut behind a redirect, then sound", Right, move |n, request| {
        match (&*request.path, n) {
            ("/base", _) => to("302 Found", "/real"),
            (_, 1) => cut(4),
            _ => sound(request),
        }
    }));
    faults
}

/// Serve `answer`; the address, and what was asked for. Its threads end with the test process.
fn serve(answer: Answer) -> (String, Arc<Mutex<Vec<Request>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            thread::spawn(move || {
                let Some(request) = read(&stream) else { return };
                let n = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(request.clone());
                    seen.len() - 1
                };
                send(&stream, answer(n, &request));
            });
        }
    });
    (url, requests)
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, from: None, if_range: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(": ") else { continue };
        match &*name.to_ascii_lowercase() {
            "range" => {
                request.from = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok();
            }
            "if-range" => request.if_range = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}

/// Until the client has gone.
fn send(mut stream: &TcpStream, parts: Vec<Part>) {
    for part in parts {
        match part {
            Bytes(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    return;
                }
            }
            Pause(milliseconds) => thread::sleep(Duration::from_millis(milliseconds)),
        }
    }
}

/// Download from one server, and give what is wrong.
fn wrong(fault: Fault, sum: &str, content: &[u8]) -> Option<String> {
    let Fault { name, answer, expected, args } = fault;
    let (place, (url, requests)) = (Place::new(), serve(answer));
    let common =
        ["--download-only", "--timeout", "1", "--retries", "3", "--from", &url, "--sha256", sum];
    let outcome = place.fetch(&[&common[..], args].concat());
    let said =
        |what: &str| Some(format!("{name}: {what}: {outcome:?}\n{:?}", requests.lock().unwrap()));
    let cached = place.path("cache").join(sum);
    match expected {
        Right if outcome.code != 0 => return said("no file"),
        Right if fs::read(outcome.stdout.trim_end()).unwrap() != content => {
            return said("a wrong file");
        }
        Refused(_) if outcome.code != 1 || cached.exists() => return said("not refused"),
        Refused(why) if !outcome.stderr.contains(why) => return said(&format!("not for '{why}'")),
        Right | Refused(_) => {}
    }
    // What asks for a range must say of which version.
    let blind =
        requests.lock().unwrap().iter().any(|it| it.from.is_some() != it.if_range.is_some());
    if blind { said("a range of any version") } else { None }
}

#[test]
fn whatever_a_server_does_the_file_is_right_or_refused() {
    let content = content();
    let sum = sha256(&content);
    let faults = [interruptions(), lies(), ranges(), statuses(), redirects()];
    let faults: Vec<Fault> = faults.into_iter().flatten().collect();
    let count = faults.len();
    assert!(count >= 90, "{count}");
    let faults: Vec<Mutex<Option<Fault>>> = faults.into_iter().map(Some).map(Mutex::new).collect();
    let next = AtomicUsize::new(0);
    let wrong: Vec<String> = thread::scope(|scope| {
        let run = || {
            let mut wrong = Vec::new();
            while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                let fault = fault.lock().unwrap().take().unwrap();
                wrong.extend(self::wrong(fault, &sum, &content));
            }
            wrong
        };
        let workers: Vec<_> = (0..16).map(|_| scope.spawn(run)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} of {count} went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_a_killed_run_has_left_is_gone_on_with_if_the_server_still_has_it() {
    let (place, content) = (Place::new(), content());
    let sum = sha256(&content);
    let (url, requests) = serve(Box::new(|n, request| match n {
        0 => cut(4),
        _ => sound(request),
    }));
    let args = ["--download-only", "--retries", "0", "--from", &url, "--sha256", &sum];
    assert_eq!(place.fetch(&args).code, 1);
    let left = fs::read(place.path("cache").join(format!("{sum}.part"))).unwrap();
    assert_eq!(left, content[..content.len() / 2]);
    place.fetch(&args).success();
    let asked = requests.lock().unwrap()[1].clone();
    assert_eq!((asked.from, asked.if_range), (Some(left.len()), Some("\"one\"".to_owned())));
    assert_eq!(fs::read_dir(place.path("cache")).unwrap().count(), 1);
    // Bytes that are wrong are made good: the whole is asked for once more.
    let (url, requests) = serve(Box::new(|_, request| sound(request)));
    let (part, origin) = (format!("{sum}.part"), format!("{sum}.origin"));
    fs::remove_file(place.path("cache").join(&sum)).unwrap();
    fs::write(place.path("cache").join(part), "wrong").unwrap();
    fs::write(place.path("cache").join(origin), format!("{url} \"one\"\n")).unwrap();
    let args = ["--download-only", "--from", &url, "--sha256", &sum];
    place.fetch(&args).success();
    let asked: Vec<Option<usize>> = requests.lock().unwrap().iter().map(|it| it.from).collect();
    assert_eq!(asked, [Some(5), None]);
    // What is there is taken without a server, and nothing else is.
    place.fetch(&[&args[..], &["--offline"]].concat()).success();
    fs::remove_dir_all(place.path("cache")).unwrap();
    let refused = place.fetch(&[&args[..], &["--offline"]].concat());
    let stderr = format!(
        "rootfs-fetch: cannot take '{url}' from the cache 'cache': it is not there\n  \
         hint: without --offline it is downloaded\n"
    );
    assert_eq!((refused.code, refused.stderr), (1, stderr));
    assert_eq!(requests.lock().unwrap().len(), 2);
}
