//! Whether a server that was asked for TLS speaks without it.
//!
//! # Why
//! Redis takes the start of a TLS handshake for a command and waits for its end, so that the client only sees
//! its own timeout, or a reply that is no TLS. Asking without TLS tells the two apart from a server that is
//! slow or gone.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::redis::address::RedisAddress;

/// Longest wait for the answer: it comes at once, or the server is not one.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks a `rediss://` address without TLS; false for every other address. Sends no credentials.
pub(crate) async fn answers_without_tls(address: &RedisAddress, at_most: Duration) -> bool {
    let Some(at) = address.tls_port() else { return false };
    let asked = async {
        let mut tcp = TcpStream::connect(at).await?;
        tcp.write_all(b"PING\r\n").await?;
        tcp.read_u8().await
    };
    // A status, or an error that asks for a password. TLS begins its answers with 21 or 22.
    matches!(timeout(at_most.min(PATIENCE), asked).await, Ok(Ok(b'+' | b'-')))
}
