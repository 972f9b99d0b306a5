//! How a private Redis is to be: redis.conf directives over defaults that suit a demo and a test.
//!
//! It starts nothing. Invariant: the defaults keep nothing on disk and evict nothing.

/// How the server is to be: by default in memory only, 256 MB, never evicting, on a unix socket.
#[derive(Debug, Clone)]
pub struct Options {
    tcp: bool,
    config: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        let config = [
            ("save", ""),
            ("appendonly", "no"),
            // A hundred times what 10,000 jobs need, and small enough that a mistake is seen.
            ("maxmemory", "256mb"),
            ("maxmemory-policy", "noeviction"),
            ("unixsocketperm", "700"),
            ("loglevel", "warning"),
        ];
        let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        Self { tcp: false, config }
    }
}

impl Options {
    /// Also listens on a free port of 127.0.0.1, which [`url`](super::PrivateRedis::url) then names.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Keeps an append-only file, so that [`restart`](super::PrivateRedis::restart) finds again what was there.
    #[must_use]
    pub fn persistent(self) -> Self {
        self.set("appendonly", "yes")
    }

    /// Sets one directive of redis.conf, over what was set before.
    #[must_use]
    pub fn set(mut self, directive: &str, value: &str) -> Self {
        self.config.push((directive.to_owned(), value.to_owned()));
        self
    }

    /// Whether a port was asked for.
    pub(super) fn on_tcp(&self) -> bool {
        self.tcp
    }

    /// Directives and values, in the order in which they hold.
    pub(super) fn config(&self) -> &[(String, String)] {
        &self.config
    }
}
