//! A TCP listener whose connections are limited in lifetime, bytes and number.
//!
//! It is independent of HTTP; any protocol on top inherits the limits.
//!
//! Invariant: no more connections than [`ConnectionLimits`] allows are served, of all addresses and of one; each ends at
//! its deadline even in mid-write, and none reads more bytes than its limit. A new connection never waits for the end of
//! another.
//!
//! # Why
//! - A header timeout alone does not stop a peer that reads its response byte by byte. One deadline for the
//!   whole lifetime of a connection covers every kind of slowness.
//! - Where a limit is reached it is the oldest connection that has not sent its request that is closed, not the
//!   new one that is refused: a probe sends its request at once, and is answered before it is the oldest.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Delay after a failed accept: usually the process has no free descriptors, and some will be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Limits of connections, of all together and of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// Connections that are served.
    pub(super) connections: usize,
    /// Those of one address.
    pub(super) per_peer: usize,
    /// Bytes that one may send.
    pub(super) request_bytes: usize,
    /// From its beginning to the first byte of its response.
    pub(super) request: Duration,
    /// From its beginning to its end.
    pub(super) life: Duration,
}

/// The listening socket with its limits.
#[derive(Debug)]
pub(super) struct BoundedListener {
    tcp: TcpListener,
    open: OpenConnections,
    limits: ConnectionLimits,
}

impl BoundedListener {
    pub(super) fn new(tcp: TcpListener, limits: ConnectionLimits) -> Self {
        Self { tcp, open: OpenConnections::default(), limits }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedConnection;
    type Addr = SocketAddr;

    /// Accepts the next connection at once, and closes another one where that is one too many.
    async fn accept(&mut self) -> (BoundedConnection, SocketAddr) {
        loop {
            // Connections that were accepted before have their requests read before they may be displaced.
            tokio::task::yield_now().await;
            match self.tcp.accept().await {
                Ok((tcp, peer)) => {
                    let place = self.open.admit(peer.ip(), self.limits);
                    return (BoundedConnection::new(tcp, place, self.limits), peer);
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// The address that a request came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerAddress(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, BoundedListener>> for PeerAddress {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// The connections that are served, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenConnections(Arc<Mutex<Vec<OpenConnection>>>);

#[derive(Debug)]
struct OpenConnection {
    peer: IpAddr,
    /// True once its response has begun.
    answered: bool,
    /// Cancelled to close it; also identifies it.
    closed: Arc<CancellationToken>,
}

impl OpenConnections {
    /// Admits a connection, closing others for it where a limit is reached.
    fn admit(&self, peer: IpAddr, limits: ConnectionLimits) -> Place {
        let mut open = self.0.lock();
        if open.iter().filter(|connection| connection.peer == peer).count() >= limits.per_peer {
            close_oldest(&mut open, |connection| connection.peer == peer);
        }
        if open.len() >= limits.connections {
            close_oldest(&mut open, |_| true);
        }
        let closed = Arc::new(CancellationToken::new());
        open.push(OpenConnection { peer, answered: false, closed: Arc::clone(&closed) });
        Place { open: self.clone(), closed }
    }
}

/// Closes the oldest of these that is not being answered, or else the oldest.
fn close_oldest(open: &mut Vec<OpenConnection>, among: impl Fn(&OpenConnection) -> bool) {
    let idle = open.iter().position(|connection| among(connection) && !connection.answered);
    if let Some(oldest) = idle.or_else(|| open.iter().position(among)) {
        open.remove(oldest).closed.cancel();
    }
}

/// A connection's place among those that are served.
#[derive(Debug)]
struct Place {
    open: OpenConnections,
    closed: Arc<CancellationToken>,
}

impl Place {
    fn is_answered(&self) {
        let mut open = self.open.0.lock();
        if let Some(own) = open.iter_mut().find(|other| Arc::ptr_eq(&other.closed, &self.closed)) {
            own.answered = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.0.lock().retain(|other| !Arc::ptr_eq(&other.closed, &self.closed));
    }
}

/// One connection with its limits.
#[derive(Debug)]
pub(super) struct BoundedConnection {
    tcp: TcpStream,
    /// When the request must be complete; moved to the end of life once the response begins.
    deadline: Pin<Box<Sleep>>,
    ends: Instant,
    answered: bool,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    remaining_bytes: usize,
    place: Place,
}

impl BoundedConnection {
    fn new(tcp: TcpStream, place: Place, limits: ConnectionLimits) -> Self {
        let closed = Box::pin(CancellationToken::clone(&place.closed).cancelled_owned());
        Self {
            tcp,
            deadline: Box::pin(sleep(limits.request.min(limits.life))),
            ends: Instant::now() + limits.life,
            answered: false,
            closed,
            remaining_bytes: limits.request_bytes,
            place,
        }
    }

    /// An error after the connection's deadline or once it was closed for another one; otherwise registers to
    /// be woken then.
    fn check_limits(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(ErrorKind::ConnectionAborted, "closed for a newer connection"));
        }
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Err(io::Error::new(ErrorKind::TimedOut, "the connection exceeded its deadline"))
            }
            Poll::Pending => Ok(()),
        }
    }

    /// The response begins, so the request is complete.
    fn begin_response(&mut self) {
        if !self.answered {
            self.answered = true;
            self.deadline.as_mut().reset(self.ends);
            self.place.is_answered();
        }
    }
}

impl AsyncRead for BoundedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_limits(cx)?;
        if self.remaining_bytes == 0 {
            return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, "the request is too large")));
        }
        let most = self.remaining_bytes.min(buf.remaining());
        let mut few = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut few))?;
        let read = few.filled().len();
        self.remaining_bytes -= read;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BoundedConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.begin_response();
        self.check_limits(cx)?;
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_limits(cx)?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_limits(cx)?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        connections: 256,
        per_peer: 64,
        request_bytes: 1024,
        request: Duration::from_secs(1),
        life: Duration::from_secs(1),
    };

    fn is_open(place: &Place) -> bool {
        !place.closed.is_cancelled()
    }

    #[test]
    fn of_one_peer_the_oldest_without_a_request_makes_way_and_no_other_peers() {
        let open = OpenConnections::default();
        let (ours, theirs) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let probe = open.admit(ours, LIMITS);
        let places: Vec<Place> = (0..LIMITS.per_peer).map(|_| open.admit(theirs, LIMITS)).collect();
        places[0].is_answered();
        let more = [open.admit(theirs, LIMITS), open.admit(theirs, LIMITS)];
        let closed: Vec<usize> = (0..LIMITS.per_peer).filter(|n| !is_open(&places[*n])).collect();
        assert_eq!(closed, [1, 2]);
        assert!(is_open(&probe) && more.iter().all(is_open));
        drop((places, more));
        assert_eq!(open.0.lock().len(), 1);
    }

    #[test]
    fn of_many_peers_together_no_more_than_the_limit_are_served_whoever_is_answered() {
        let open = OpenConnections::default();
        let places: Vec<Place> = (0..LIMITS.connections * 2)
            .map(|n| {
                let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
                let place = open.admit(IpAddr::from([10, 0, high, low]), LIMITS);
                place.is_answered();
                place
            })
            .collect();
        assert_eq!(open.0.lock().len(), LIMITS.connections);
        assert_eq!(places.iter().filter(|place| is_open(place)).count(), LIMITS.connections);
        assert!(is_open(&places[LIMITS.connections * 2 - 1]) && !is_open(&places[0]));
    }
}
