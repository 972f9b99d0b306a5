//! A TCP listener whose connections are limited in lifetime, bytes and number.
//!
//! It is independent of HTTP; any protocol on top inherits the limits.
//!
//! Invariant: at most [`MAX_CONNECTIONS`] are open, each ends at its deadline even in mid-write, and none
//! reads more than [`MAX_REQUEST_BYTES`].
//!
//! # Why
//! A header timeout alone does not stop a peer that reads its response byte by byte. One deadline for the
//! whole lifetime of a connection covers every kind of slowness, with a single permit.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// A kubelet, a Prometheus or two, and a person: more than this at once is a mistake or an attack.
pub(super) const MAX_CONNECTIONS: usize = 32;
/// One request per connection; that of a probe has a few hundred bytes.
pub(super) const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// Prometheus times out after 10 s by default; a probe after 1 s.
pub(super) const MAX_CONNECTION_LIFETIME: Duration = Duration::from_secs(10);
/// Delay after a failed accept: usually the process has no free descriptors, and some will be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The listening socket with its limits.
#[derive(Debug)]
pub(super) struct BoundedListener {
    tcp: TcpListener,
    permits: Arc<Semaphore>,
    life: Duration,
}

impl BoundedListener {
    pub(super) fn new(tcp: TcpListener, life: Duration) -> Self {
        Self { tcp, permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)), life }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedConnection;
    type Addr = SocketAddr;

    /// Acquires a permit first: further connections wait in the kernel's short queue.
    async fn accept(&mut self) -> (BoundedConnection, SocketAddr) {
        loop {
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
            match self.tcp.accept().await {
                Ok((tcp, peer)) => {
                    let deadline = Box::pin(sleep(self.life));
                    return (
                        BoundedConnection {
                            tcp,
                            deadline,
                            remaining_bytes: MAX_REQUEST_BYTES,
                            _permit: permit,
                        },
                        peer,
                    );
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// One connection with its limits.
#[derive(Debug)]
pub(super) struct BoundedConnection {
    tcp: TcpStream,
    deadline: Pin<Box<Sleep>>,
    remaining_bytes: usize,
    /// Always `Some`: the semaphore is never closed.
    _permit: Option<OwnedSemaphorePermit>,
}

impl BoundedConnection {
    /// An error after the connection's deadline; otherwise registers to be woken at the deadline.
    fn check_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Err(io::Error::new(ErrorKind::TimedOut, "the connection exceeded its deadline"))
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BoundedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_deadline(cx)?;
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
        self.check_deadline(cx)?;
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_deadline(cx)?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_deadline(cx)?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
