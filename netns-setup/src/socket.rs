//! A netlink socket for rtnetlink that needs no async runtime.
//!
//! The kernel answers a request before sendto(2) returns, so there is nothing to wait for meanwhile: a
//! runtime would only add an epoll and an eventfd to each socket, and ways to fail half-way.

use bytes::BufMut;
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr};
use std::{
    cell::Cell,
    io,
    task::{Context, Poll},
};

/// A blocking socket that reads once for each time that it is told that an answer is due.
pub(crate) struct Blocking {
    socket: Socket,
    due: Cell<bool>,
    failure: Cell<Option<i32>>,
}

impl Blocking {
    /// Expect a datagram: the next read waits for it.
    pub(crate) fn expect(&self) {
        self.due.set(true);
    }

    /// Whether the socket failed: then nobody knows what the kernel made of the last request.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Why the socket failed. rtnetlink would only log it.
    pub(crate) fn failure(&self) -> io::Error {
        self.failure.get().map_or_else(
            || io::Error::other("the answer is no netlink message"),
            io::Error::from_raw_os_error,
        )
    }

    fn keep_failure<T>(&self, result: io::Result<T>) -> Poll<io::Result<T>> {
        if let Err(err) = &result {
            self.failure.set(err.raw_os_error());
        }
        Poll::Ready(result)
    }
}

impl AsyncSocket for Blocking {
    fn socket_ref(&self) -> &Socket {
        &self.socket
    }

    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn new(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        Ok(Self { socket, due: Cell::new(false), failure: Cell::new(None) })
    }

    fn poll_send(&self, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.keep_failure(self.socket.send(buf, 0))
    }

    fn poll_send_to(
        &self,
        _: &mut Context<'_>,
        buf: &[u8],
        to: &SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.keep_failure(self.socket.send_to(buf, to, 0))
    }

    fn poll_recv<B: BufMut>(&self, _: &mut Context<'_>, buf: &mut B) -> Poll<io::Result<()>> {
        if !self.due.replace(false) {
            return Poll::Pending;
        }
        self.keep_failure(self.socket.recv(buf, 0).map(drop))
    }

    fn poll_recv_from<B: BufMut>(
        &self,
        _: &mut Context<'_>,
        buf: &mut B,
    ) -> Poll<io::Result<SocketAddr>> {
        if !self.due.replace(false) {
            return Poll::Pending;
        }
        self.keep_failure(self.socket.recv_from(buf, 0).map(|(_, from)| from))
    }

    fn poll_recv_from_full(&self, _: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        if !self.due.replace(false) {
            return Poll::Pending;
        }
        self.keep_failure(self.socket.recv_from_full())
    }
}
