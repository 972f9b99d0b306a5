//! How a private Redis is to be: redis.conf directives over defaults that suit a demo and a test.
//!
//! It starts nothing. Invariant: the defaults keep nothing on disk and evict nothing.

use std::ffi::OsString;

/// Where a server listens besides its unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listen {
    Socket,
    Tcp,
    Tls,
    /// Two ports: one for clients, one for the other nodes.
    Cluster,
    /// It is no server of data: it watches over others.
    Sentinel,
}

/// How the server is to be: by default in memory only, 256 MB, never evicting, on a unix socket.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    pub(super) listen: Listen,
    config: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

impl Default for RedisOptions {
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
        Self { listen: Listen::Socket, config, environment: Vec::new() }
    }
}

impl RedisOptions {
    /// Also listens on a free port of 127.0.0.1, which [`url`](super::PrivateRedis::url) then names.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.listen = Listen::Tcp;
        self
    }

    /// Listens with TLS on a free port of 127.0.0.1, with this certificate and key (files of PEM).
    #[must_use]
    pub fn tls(mut self, certificate: &str, key: &str) -> Self {
        self.listen = Listen::Tls;
        // It must be given an authority to check clients against, even where it asks none for a certificate.
        self.set("tls-cert-file", certificate)
            .set("tls-key-file", key)
            .set("tls-ca-cert-file", certificate)
            .set("tls-auth-clients", "no")
    }

    /// Is a node of a cluster, on a free port of 127.0.0.1; which slots are its own is for the caller to say.
    #[must_use]
    pub fn cluster(mut self) -> Self {
        self.listen = Listen::Cluster;
        self.set("cluster-enabled", "yes")
    }

    /// Is a sentinel on a free port of 127.0.0.1, and knows of no master yet.
    #[must_use]
    pub fn sentinel() -> Self {
        let config = [("unixsocketperm", "700"), ("loglevel", "warning")];
        let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        Self { listen: Listen::Sentinel, config, environment: Vec::new() }
    }

    /// Keeps an append-only file, so that [`restart`](super::PrivateRedis::restart) finds again what was
    /// there.
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

    /// Sets a variable of the server's environment; the rest of that is ours.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// How the command line begins that sets those variables, for the server and for no shell before it.
    pub(super) fn command_line(&self) -> Vec<OsString> {
        let variables = self.environment.iter().map(|(name, value)| format!("{name}={value}").into());
        let env = (!self.environment.is_empty()).then(|| OsString::from("env"));
        env.into_iter().chain(variables).collect()
    }

    /// Directives and values, in the order in which they hold.
    pub(super) fn config(&self) -> &[(String, String)] {
        &self.config
    }
}
