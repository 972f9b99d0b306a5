//! The section `dash` of the configuration.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderName;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Url;
use url::form_urlencoded::byte_serialize;

use super::gate::without_port;
use crate::job::JobId;
use crate::job::redact::Secret;

/// The shortest token: 16 characters of 64 kinds are 96 bits, out of reach at any rate of guesses.
const MIN_TOKEN_CHARS: usize = 16;

/// What somebody may do.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::IntoStaticStr,
    strum::Display,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Role {
    /// Look.
    View,
    /// Look, and act.
    Operate,
}

/// Address and access rules of the dashboard.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address to listen on.
    pub bind: SocketAddr,
    /// What those may do who need no token: everybody on this machine, or those whom a proxy names.
    pub role: Role,
    /// Token of those who look; empty for none.
    pub view_token: Secret,
    /// Token of those who act; empty for none.
    pub operate_token: Secret,
    /// Names under which browsers reach it, beside `localhost` and its address.
    pub hosts: Vec<String>,
    /// Header in which an authenticating proxy names the user; empty for none.
    #[serde(with = "crate::job::blank")]
    pub user_header: Option<UserHeader>,
    /// Addresses of that proxy.
    pub proxies: Vec<IpNet>,
    /// Where Sentry looks for the events of a job; empty for nowhere.
    #[serde(with = "crate::job::blank")]
    pub sentry: Option<SentrySearch>,
}

/// The address of Sentry's search, with `{job}` where the id of a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentrySearch(String);

/// What stands for the id of a job.
const JOB: &str = "{job}";

impl std::str::FromStr for SentrySearch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write https://sentry.example.org/organizations/acme/issues/?query=job:{job}";
        let url = Url::parse(text.trim()).map_err(|e| format!("not an address ({e}): {example}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("neither http nor https: {example}"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("a link has no credentials: {example}"));
        }
        // In the name of a host it would lead elsewhere.
        let parts = text.trim().split_once("://").and_then(|(_, rest)| rest.split_once(['/', '?']));
        match parts.is_some_and(|(host, rest)| rest.contains(JOB) && !host.contains(JOB)) {
            true => Ok(Self(text.trim().to_owned())),
            false => Err(format!("has no {JOB} in its path or query: {example}")),
        }
    }
}

impl std::fmt::Display for SentrySearch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl SentrySearch {
    /// Where the events of this job are.
    pub(super) fn of(&self, job: &JobId) -> String {
        let id: String = byte_serialize(job.as_str().as_bytes()).collect();
        self.0.replace(JOB, &id)
    }
}

/// The name of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserHeader(pub HeaderName);

impl std::str::FromStr for UserHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name =
            text.parse().map_err(|_| format!("{text:?} is no name of a header: write X-Forwarded-User"))?;
        Ok(Self(name))
    }
}

impl std::fmt::Display for UserHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_str().fmt(f)
    }
}

impl Config {
    /// True where a token or the header of a proxy is required.
    pub(super) fn requires_login(&self) -> bool {
        let has = |token: &Secret| !token.expose().is_empty();
        has(&self.view_token) || has(&self.operate_token) || self.user_header.is_some()
    }

    /// True where a request from this address may name its user in the header.
    pub(super) fn is_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.proxies.iter().any(|network| network.contains(&peer))
    }

    /// Checks values that parsed but are invalid; returns each key with a sentence.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for (key, token) in [("view_token", &self.view_token), ("operate_token", &self.operate_token)] {
            let token = token.expose();
            let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
            if !token.is_empty() && (token.len() < MIN_TOKEN_CHARS || !is_visible) {
                let what = format!(
                    "is no token: write {MIN_TOKEN_CHARS} or more visible ASCII characters, e.g. from `openssl rand -base64 24`"
                );
                problems.push((key, what));
            }
        }
        let (view, operate) = (self.view_token.expose(), self.operate_token.expose());
        if !view.is_empty() && view == operate {
            problems.push((
                "view_token",
                "is the same as dash.operate_token: write two different ones".to_owned(),
            ));
        }
        if !self.bind.ip().is_loopback() && !self.requires_login() {
            let what = "can be reached from other machines, and needs no login: set dash.view_token or \
                        dash.operate_token, or dash.user_header behind a proxy, or write 127.0.0.1:8090";
            problems.push(("bind", what.to_owned()));
        }
        if self.user_header.is_some() && self.proxies.is_empty() {
            let what = "is empty, so dash.user_header is never believed: write the proxy's address";
            problems.push(("proxies", what.to_owned()));
        }
        for host in &self.hosts {
            let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte));
            if host.is_empty() || !is_name || without_port(host) != host {
                let what =
                    "has what is no name of a host: write [\"dash.example.org\"], without http:// and port";
                problems.push(("hosts", what.to_owned()));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(bind: &str, view: &str, operate: &str, header: Option<&str>) -> Config {
        Config {
            bind: bind.parse().unwrap(),
            role: Role::Operate,
            view_token: view.into(),
            operate_token: operate.into(),
            hosts: Vec::new(),
            user_header: header.map(|name| name.parse().unwrap()),
            proxies: vec!["127.0.0.1/32".parse().unwrap()],
            sentry: None,
        }
    }

    fn wrong_keys(bind: &str, view: &str, operate: &str, header: Option<&str>) -> Vec<&'static str> {
        let config = config(bind, view, operate, header);
        config.problems().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_user_header_without_proxies_is_refused() {
        let alone =
            Config { proxies: Vec::new(), ..config("127.0.0.1:8090", "", "", Some("X-Forwarded-User")) };
        assert_eq!(alone.problems()[0].0, "proxies");
    }

    #[test]
    fn other_machines_come_in_with_a_token_or_a_proxy_only() {
        let token = "0123456789abcdef";
        for (bind, view, operate, header, expected) in [
            ("127.0.0.1:8090", "", "", None, None),
            ("[::1]:8090", "", "", None, None),
            ("0.0.0.0:8090", "", "", None, Some("bind")),
            ("[::]:8090", "", "", None, Some("bind")),
            ("192.0.2.1:8090", "", "", None, Some("bind")),
            ("0.0.0.0:8090", token, "", None, None),
            ("0.0.0.0:8090", "", token, None, None),
            ("0.0.0.0:8090", "", "", Some("X-Forwarded-User"), None),
            ("127.0.0.1:8090", "short", "", None, Some("view_token")),
            ("127.0.0.1:8090", "", "with blanks in its midst", None, Some("operate_token")),
            ("127.0.0.1:8090", token, token, None, Some("view_token")),
        ] {
            assert_eq!(
                wrong_keys(bind, view, operate, header),
                Vec::from_iter(expected),
                "{bind} {view:?} {operate:?}"
            );
        }
    }

    #[test]
    fn a_name_of_ours_has_no_port() {
        for (host, is_name) in [
            ("dash.example.org", true),
            ("[2001:db8::1]", true),
            ("dash.example.org:443", false),
            ("[2001:db8::1]:443", false),
            ("https://dash.example.org", false),
            ("", false),
        ] {
            let config = Config { hosts: vec![host.to_owned()], ..config("127.0.0.1:8090", "", "", None) };
            assert_eq!(config.problems().is_empty(), is_name, "{host:?}");
        }
    }

    #[test]
    fn a_search_in_sentry_is_a_web_address_and_names_the_job() {
        let search: SentrySearch = "https://sentry.example.org/issues/?query=job:{job}&x=1".parse().unwrap();
        let job = JobId::parse("import:7").unwrap();
        assert_eq!(search.of(&job), "https://sentry.example.org/issues/?query=job:import%3A7&x=1");
        for wrong in [
            "sentry",
            "javascript:alert({job})",
            "https://sentry.example.org/issues/",
            "https://{job}.example.org/issues/",
            "https://u:geheim@sentry.example.org/?query={job}",
        ] {
            let refused = wrong.parse::<SentrySearch>().expect_err(wrong);
            assert!(refused.contains("write https://") && !refused.contains("geheim"), "{refused}");
        }
    }
}
