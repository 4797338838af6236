//! A web server on the loopback, for tests: it serves what it is told, breaks where it is told to, and
//! remembers what it was asked for.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What is answered for a path.
#[derive(Clone)]
pub(crate) enum Reply {
    /// The content.
    Content(Vec<u8>),
    /// A status line such as `503 Service Unavailable`, and no content.
    Status(&'static str),
    /// The content but for its last half, of which the length speaks, the first time it is asked for.
    CutOnce(Vec<u8>),
}

/// The server. Its threads end with the test process.
pub(crate) struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serve `replies` by path; other paths are not found.
    pub(crate) fn new<const N: usize>(replies: [(&str, Reply); N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let replies = replies.map(|(path, reply)| (path.to_owned(), reply));
        let replies: Arc<HashMap<String, Reply>> = Arc::new(replies.into());
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (replies, seen) = (Arc::clone(&replies), Arc::clone(&seen));
                thread::spawn(move || answer(&stream, &replies, &seen));
            }
        });
        Self { address, requests }
    }

    /// Send those who ask for a path below `prefix` to the same below `to`, an address.
    pub(crate) fn redirecting(prefix: &'static str, to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let request = lines.next().unwrap_or_default();
                while lines.next().is_some_and(|header| !header.is_empty()) {}
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                let rest = path.strip_prefix(prefix).unwrap_or_default();
                let answer = format!(
                    "HTTP/1.1 302 Found\r\nLocation: {to}{rest}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                seen.lock().unwrap().push(path);
                drop(stream.write_all(answer.as_bytes())); // the client may have gone
            }
        });
        Self { address, requests }
    }

    /// The address of `path`, which begins with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The paths asked for so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(stream: &TcpStream, replies: &HashMap<String, Reply>, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        while lines.next().is_some_and(|header| !header.is_empty()) {}
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let first = !seen.lock().unwrap().contains(&path);
        seen.lock().unwrap().push(path.clone());
        let (status, content, length) = match replies.get(&path) {
            None => ("404 Not Found", &[][..], 0),
            Some(Reply::Status(status)) => (*status, &[][..], 0),
            Some(Reply::CutOnce(content)) if first => {
                ("200 OK", &content[..content.len() / 2], content.len())
            }
            Some(Reply::Content(content) | Reply::CutOnce(content)) => {
                ("200 OK", &**content, content.len())
            }
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n");
        let mut stream = stream;
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content));
        if sent.is_err() || content.len() < length {
            return; // the client has gone, or is to be cut off
        }
    }
}
