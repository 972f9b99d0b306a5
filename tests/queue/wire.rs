//! A wire between a queue and its server that can lose exactly one answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// The wire; what runs over it ends with it.
pub struct Wire {
    home: tempfile::TempDir,
    lossy: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl Wire {
    /// A wire to the server at this socket.
    pub fn to(server: std::path::PathBuf) -> Self {
        let home = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(home.path().join("wire.sock")).unwrap();
        let lossy = Arc::new(AtomicBool::new(false));
        let armed = Arc::clone(&lossy);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(carry(near, far, Arc::clone(&armed)));
            }
        });
        Self { home, lossy, accepting }
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.home.path().join("wire.sock").display())
    }

    /// The answer to the next script is lost, and the connection with it.
    pub fn lose_the_next_answer(&self) {
        self.lossy.store(true, Ordering::SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One request, one answer, in turn: enough for connections that are used by one caller at a time.
async fn carry(mut near: UnixStream, mut far: UnixStream, lossy: Arc<AtomicBool>) {
    let (mut up, mut down) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        tokio::select! {
            Ok(n) = near.read(&mut up) => {
                if n == 0 || far.write_all(&up[..n]).await.is_err() {
                    return;
                }
                let script = up[..n].windows(7).any(|bytes| bytes == b"EVALSHA");
                if script && lossy.swap(false, Ordering::SeqCst) {
                    let _ = far.read(&mut down).await;
                    return;
                }
            }
            Ok(n) = far.read(&mut down) => {
                if n == 0 || near.write_all(&down[..n]).await.is_err() {
                    return;
                }
            }
            else => return,
        }
    }
}
