//! A wire between clients and a server that can be cut and mended, and counts how often somebody connects.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The wire; what runs over it ends with it.
pub(crate) struct TcpProxy {
    port: u16,
    cut: watch::Sender<bool>,
    connection_attempts: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl TcpProxy {
    /// A wire from a port of 127.0.0.1 to the server at this socket.
    pub(crate) async fn to(server: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, connection_attempts) = (watch::Sender::new(false), Arc::new(AtomicU64::new(0)));
        let (state, count) = (cut.clone(), Arc::clone(&connection_attempts));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(forward(client, server.clone(), state.subscribe()));
            }
        });
        Self { port, cut, connection_attempts, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Cuts every connection, and every new one as soon as it is made.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub(crate) fn restore(&self) {
        self.cut.send_replace(false);
    }

    /// How many connections were begun so far.
    pub(crate) fn connection_attempts(&self) -> u64 {
        self.connection_attempts.load(Ordering::SeqCst)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn forward(mut client: TcpStream, server: PathBuf, mut cut: watch::Receiver<bool>) {
    if *cut.borrow() {
        return;
    }
    let Ok(mut server_stream) = UnixStream::connect(server).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server_stream) => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
}
