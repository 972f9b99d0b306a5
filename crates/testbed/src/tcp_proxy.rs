//! A TCP proxy before a server that can cut its connections, refuse new ones and lose an answer, and counts
//! attempts.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How much is forwarded at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// The server behind a proxy.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// At a TCP address.
    Tcp(SocketAddr),
    /// At a Unix socket.
    Unix(PathBuf),
}

/// A running proxy; dropping it closes its port and every connection.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    state: Arc<ProxyState>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct ProxyState {
    /// How often the connections were cut; a connection ends when this changes.
    cuts: watch::Sender<u64>,
    blocked: AtomicBool,
    connection_attempts: AtomicU64,
    loses_next_answer: AtomicBool,
}

impl TcpProxy {
    /// Starts a proxy on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// Where the machine gives no socket.
    pub async fn to(upstream: Upstream) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a socket on loopback");
        let address = listener.local_addr().expect("its address");
        let state = Arc::<ProxyState>::default();
        let accepting = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    state.connection_attempts.fetch_add(1, Ordering::SeqCst);
                    let cuts = state.cuts.subscribe();
                    if !state.blocked.load(Ordering::SeqCst) {
                        tokio::spawn(serve(client, upstream.clone(), Arc::clone(&state), cuts));
                    }
                }
            }
        });
        Self { address, state, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as the address of a Redis.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Cuts every connection, whatever is under way on it; new ones are served.
    pub fn cut_connections(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts every connection, and every new one as soon as it is made.
    pub fn block(&self) {
        self.state.blocked.store(true, Ordering::SeqCst);
        self.cut_connections();
    }

    /// Serves new connections again after [`block`](Self::block).
    pub fn restore(&self) {
        self.state.blocked.store(false, Ordering::SeqCst);
    }

    /// How many connections were begun so far, served or not.
    pub fn connection_attempts(&self) -> u64 {
        self.state.connection_attempts.load(Ordering::SeqCst)
    }

    /// The server runs the next Redis script (`EVALSHA`), but its answer is lost, and the connection with it.
    /// For connections that one caller uses at a time.
    pub fn lose_next_answer(&self) {
        self.state.loses_next_answer.store(true, Ordering::SeqCst);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut_connections();
    }
}

/// Serves a connection; where no server listens behind, the client's end is closed.
async fn serve(
    client: TcpStream,
    upstream: Upstream,
    state: Arc<ProxyState>,
    mut cuts: watch::Receiver<u64>,
) {
    let forwarded = async {
        match upstream {
            Upstream::Tcp(address) => forward(client, TcpStream::connect(address).await?, &state).await,
            Upstream::Unix(socket) => forward(client, UnixStream::connect(socket).await?, &state).await,
        }
    };
    tokio::select! {
        _ = forwarded => {}
        _ = cuts.changed() => {}
    }
}

/// Carries bytes both ways until either end closes or an answer is lost.
async fn forward(
    client: TcpStream,
    server: impl AsyncRead + AsyncWrite,
    state: &ProxyState,
) -> io::Result<()> {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (tokio::io::split(client), tokio::io::split(server));
    let loses_answer = AtomicBool::new(false);
    let requests = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            let runs_script = buffer[..read].windows(7).any(|bytes| bytes == b"EVALSHA");
            if runs_script && state.loses_next_answer.swap(false, Ordering::SeqCst) {
                loses_answer.store(true, Ordering::SeqCst);
            }
            to_server.write_all(&buffer[..read]).await?;
        }
    };
    let answers = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 || loses_answer.load(Ordering::SeqCst) {
                return Ok(());
            }
            to_client.write_all(&buffer[..read]).await?;
        }
    };
    tokio::select! {
        ended = requests => ended,
        ended = answers => ended,
    }
}
