//! A TCP listener whose connections are limited in lifetime, bytes and number.
//!
//! It is independent of HTTP; any protocol on top inherits the limits.
//!
//! Invariant: at most [`MAX_CONNECTIONS`] are served, at most [`MAX_PER_PEER`] of one address; each ends at its
//! deadline even in mid-write, and none reads more than [`MAX_REQUEST_BYTES`]. A new connection never waits for
//! the end of another.
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

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A kubelet, a Prometheus or two, and a person: more than this at once is a mistake or an attack. So many that a
/// burst of others does not displace a probe between its connection and its request.
pub(super) const MAX_CONNECTIONS: usize = 256;
/// Connections of one address: a quarter, so that one peer alone cannot displace the others.
pub(super) const MAX_PER_PEER: usize = 64;
/// One request per connection; that of a probe has a few hundred bytes.
pub(super) const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// Time to a complete request: a probe times out after 1 s, and sends its request as soon as it is connected.
pub(super) const MAX_REQUEST_TIME: Duration = Duration::from_secs(2);
/// Prometheus times out after 10 s by default; a probe after 1 s.
pub(super) const MAX_CONNECTION_LIFETIME: Duration = Duration::from_secs(10);
/// Delay after a failed accept: usually the process has no free descriptors, and some will be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimits {
    /// From its beginning to the first byte of its response.
    pub(super) request: Duration,
    /// From its beginning to its end.
    pub(super) life: Duration,
}

impl TimeLimits {
    /// Those of the health pages.
    pub(super) const DEFAULT: Self = Self { request: MAX_REQUEST_TIME, life: MAX_CONNECTION_LIFETIME };
}

/// The listening socket with its limits.
#[derive(Debug)]
pub(super) struct BoundedListener {
    tcp: TcpListener,
    open: OpenConnections,
    limits: TimeLimits,
}

impl BoundedListener {
    pub(super) fn new(tcp: TcpListener, limits: TimeLimits) -> Self {
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
                    let place = self.open.admit(peer.ip());
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

/// The connections that are served, oldest first; at most [`MAX_CONNECTIONS`].
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
    fn admit(&self, peer: IpAddr) -> Place {
        let mut open = self.0.lock();
        if open.iter().filter(|connection| connection.peer == peer).count() >= MAX_PER_PEER {
            close_oldest(&mut open, |connection| connection.peer == peer);
        }
        if open.len() >= MAX_CONNECTIONS {
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
    fn new(tcp: TcpStream, place: Place, limits: TimeLimits) -> Self {
        let closed = Box::pin(CancellationToken::clone(&place.closed).cancelled_owned());
        Self {
            tcp,
            deadline: Box::pin(sleep(limits.request.min(limits.life))),
            ends: Instant::now() + limits.life,
            answered: false,
            closed,
            remaining_bytes: MAX_REQUEST_BYTES,
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

    fn is_open(place: &Place) -> bool {
        !place.closed.is_cancelled()
    }

    #[test]
    fn of_one_peer_the_oldest_without_a_request_makes_way_and_no_other_peers() {
        let open = OpenConnections::default();
        let (ours, theirs) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let probe = open.admit(ours);
        let places: Vec<Place> = (0..MAX_PER_PEER).map(|_| open.admit(theirs)).collect();
        places[0].is_answered();
        let more = [open.admit(theirs), open.admit(theirs)];
        let closed: Vec<usize> = (0..MAX_PER_PEER).filter(|n| !is_open(&places[*n])).collect();
        assert_eq!(closed, [1, 2]);
        assert!(is_open(&probe) && more.iter().all(is_open));
        drop((places, more));
        assert_eq!(open.0.lock().len(), 1);
    }

    #[test]
    fn of_many_peers_together_no_more_than_the_limit_are_served_whoever_is_answered() {
        let open = OpenConnections::default();
        let places: Vec<Place> = (0..MAX_CONNECTIONS * 2)
            .map(|n| {
                let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
                let place = open.admit(IpAddr::from([10, 0, high, low]));
                place.is_answered();
                place
            })
            .collect();
        assert_eq!(open.0.lock().len(), MAX_CONNECTIONS);
        assert_eq!(places.iter().filter(|place| is_open(place)).count(), MAX_CONNECTIONS);
        assert!(is_open(&places[MAX_CONNECTIONS * 2 - 1]) && !is_open(&places[0]));
    }
}
