//! A redis-server of one test's own: on a unix socket in a directory of its own, gone with its guard.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The running server.
pub struct PrivateRedis {
    child: Child,
    home: tempfile::TempDir,
}

impl PrivateRedis {
    /// Starts one, or says that there is none to start.
    pub async fn start() -> Option<Self> {
        let home = tempfile::tempdir().expect("a directory");
        match spawn(&home) {
            Ok(child) => {
                let redis = Self { child, home };
                redis.answers().await;
                Some(redis)
            }
            Err(_) => {
                println!("SKIPPED: no redis-server");
                None
            }
        }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// The socket it listens on.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("redis.sock")
    }

    /// `kill -9`, and a new one on what the old one had written.
    pub async fn crash_and_restart(&mut self) {
        self.stop();
        self.child = spawn(&self.home).expect("it started before");
        self.answers().await;
    }

    /// `kill -9`.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    async fn answers(&self) {
        let client = redis::Client::open(self.url()).expect("a url");
        for _ in 0..400 {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await
                && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("redis-server does not answer");
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(home: &tempfile::TempDir) -> std::io::Result<Child> {
    let _ = std::fs::remove_file(home.path().join("redis.sock"));
    Command::new("redis-server")
        .args(["--port", "0", "--unixsocket"])
        .arg(home.path().join("redis.sock"))
        .arg("--dir")
        .arg(home.path())
        .args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
