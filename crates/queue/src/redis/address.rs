//! Where Redis is: one server, or sentinels that know which server it is today; and how an address may be shown.
//!
//! Nothing here connects. Invariant: no message, not even about an address that is none, holds a password.

use std::path::Path;

use deadpool_redis::RedisConnectionInfo as Login;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError, TlsCertificates};
use secrecy::ExposeSecret;
use url::Url;

use crate::Config;
use crate::error::Error;

/// The forms that an address may have.
const FORMS: &str = "write redis://[user:password@]host:port[/db], rediss:// for TLS, redis+unix:///path, or \
                     redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]";
const SENTINEL: &str = "redis+sentinel://";
/// Where sentinels listen unless told otherwise.
const SENTINEL_PORT: u16 = 26379;

/// A Redis that can be looked for.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    /// One server.
    Server(ConnectionInfo),
    /// Whichever server the sentinels call the master of `service`.
    Sentinels {
        /// Each is asked, the first one that knows wins.
        sentinels: Vec<ConnectionInfo>,
        /// The name under which they watch it.
        service: String,
        /// Who we are to the master.
        login: Login,
    },
}

impl Address {
    /// Reads `queue.url` and `queue.tls_ca`.
    ///
    /// # Errors
    /// [`Error::Config`], which names the key, its value without secrets, and the way out.
    pub(crate) fn of(config: &Config) -> Result<Self, Error> {
        let url = config.url.expose_secret();
        let refused = |what: String| Error::Config(format!("queue.url {:?}: {what}", redacted(url)));
        let ca = Some(config.tls_ca.as_path()).filter(|path| !path.as_os_str().is_empty());
        if let Some(rest) = url.strip_prefix(SENTINEL) {
            if ca.is_some() {
                return Err(refused(
                    "queue.tls_ca is for rediss://; sentinels are reached without TLS".to_owned(),
                ));
            }
            return sentinels(rest).map_err(|what| refused(format!("{what}; {FORMS}")));
        }
        server(url, ca).map(Self::Server).map_err(refused)
    }

    /// The same server at the place that a cluster moved our slot to.
    pub(crate) fn moved_to(&self, node: &str) -> Option<Self> {
        let Self::Server(info) = self else { return None };
        let (host, port) = node.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let at = match info.addr() {
            ConnectionAddr::Tcp(known, _) => ConnectionAddr::Tcp(or(host, known), port),
            ConnectionAddr::TcpTls { host: known, insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: or(host, known),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(or(host, "127.0.0.1"), port),
        };
        Some(Self::Server(info.clone().set_addr(at)))
    }
}

/// A node that does not know its own name leaves it out: it is the one we asked.
fn or(host: &str, known: &str) -> String {
    if host.is_empty() { known } else { host }.to_owned()
}

fn server(url: &str, ca: Option<&Path>) -> Result<ConnectionInfo, String> {
    let wrong = |e: RedisError| format!("{e}; {FORMS}");
    if Url::parse(url).is_ok_and(|parsed| parsed.fragment().is_some()) {
        return Err(
            "nothing may follow a #: a certificate is always checked, against queue.tls_ca if need be"
                .to_owned(),
        );
    }
    let mut info = url.into_connection_info().map_err(wrong)?;
    match (info.addr(), ca) {
        (ConnectionAddr::TcpTls { .. }, Some(path)) => {
            let named = |e: &dyn std::fmt::Display| {
                format!("queue.tls_ca {}: {e}; name a file of PEM certificates", path.display())
            };
            let pem = std::fs::read(path).map_err(|e| named(&e))?;
            if !pem.windows(BEGIN.len()).any(|bytes| bytes == BEGIN) {
                return Err(named(&"holds no certificate"));
            }
            let trusted = TlsCertificates { client_tls: None, root_cert: Some(pem) };
            let client = Client::build_with_tls(info, trusted).map_err(|e| named(&e))?;
            info = client.get_connection_info().clone();
        }
        (_, Some(_)) => return Err("queue.tls_ca is set, and this is not rediss://".to_owned()),
        (_, None) => {}
    }
    // A command fewer per connection, and one fewer that an ACL must allow.
    let login = info.redis_settings().clone().set_skip_set_lib_name();
    Ok(info.set_redis_settings(login))
}

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// `[user:password@]host[:port],.../service[/db][?sentinel_user=..&sentinel_pass=..]`
fn sentinels(rest: &str) -> Result<Address, String> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = place.split_once('/').ok_or("the service is missing")?;
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (service, db) = path.split_once('/').unwrap_or((path, "0"));
    if service.is_empty() {
        return Err("the service is missing".to_owned());
    }
    let db = db.parse().map_err(|_| "the part after the service is not the number of a database")?;
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    if password.is_empty() && !user.is_empty() {
        return Err("a user without a password".to_owned());
    }

    // Sentinels have an access control of their own.
    let mut guard = redis::RedisConnectionInfo::default().set_skip_set_lib_name();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        guard = match name.as_ref() {
            "sentinel_user" => guard.set_username(value),
            "sentinel_pass" => guard.set_password(value),
            other => {
                return Err(format!("{other:?} is no parameter; there are sentinel_user and sentinel_pass"));
            }
        };
    }
    let sentinels = hosts.split(',').map(|host| {
        // The parser of addresses knows what a host is, in brackets or not.
        let one = Url::parse(&format!("redis://{host}")).map_err(|e| format!("{host:?}: {e}"))?;
        let name = one.host().ok_or("a host is missing")?;
        let name = match name {
            url::Host::Ipv6(address) => address.to_string(),
            other => other.to_string(),
        };
        let at = ConnectionAddr::Tcp(name, one.port().unwrap_or(SENTINEL_PORT));
        let info = at.into_connection_info().map_err(|e| e.to_string())?;
        Ok(info.set_redis_settings(guard.clone()))
    });
    Ok(Address::Sentinels {
        sentinels: sentinels.collect::<Result<_, String>>()?,
        service: decoded(service),
        login: Login {
            db,
            username: Some(decoded(user)).filter(|user| !user.is_empty()),
            password: Some(decoded(password)).filter(|password| !password.is_empty()),
            ..Login::default()
        },
    })
}

/// What a part of an address says, with `%40` for `@` and so on.
fn decoded(part: &str) -> String {
    // A `+` stands for itself outside of a query.
    let pair = format!("_={}", part.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(pair.as_bytes())
        .map(|(_, value)| value.into_owned())
        .next()
        .unwrap_or_default()
}

/// The address with its secrets replaced by `***`, also where it is not a URL at all.
pub fn redacted(url: &str) -> String {
    if let Some(rest) = url.strip_prefix(SENTINEL) {
        let (place, query) = rest.split_once('?').map_or((rest, ""), |(place, _)| (place, "?***"));
        let (login, hosts) = place.rsplit_once('@').map_or(("", place), |(login, hosts)| (login, hosts));
        let login = match login.split_once(':') {
            Some((user, _)) => format!("{user}:***@"),
            None if login.is_empty() => String::new(),
            None => "***@".to_owned(),
        };
        return format!("{SENTINEL}{login}{hosts}{query}");
    }
    let Ok(mut parsed) = Url::parse(url) else { return "***".to_owned() };
    if parsed.password().is_some() {
        let _ = parsed.set_password(Some("***"));
    }
    if parsed.query_pairs().any(|(name, _)| name == "pass") {
        parsed.set_query(Some("***"));
    }
    parsed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str, ca: &str) -> Result<Address, String> {
        let config =
            Config { url: url.to_owned().into(), tls_ca: ca.into(), ..crate::config::tests::config() };
        Address::of(&config).map_err(|e| e.to_string())
    }

    fn sentinels_of(url: &str) -> (Vec<String>, String, Login) {
        match read(url, "") {
            Ok(Address::Sentinels { sentinels, service, login }) => {
                (sentinels.iter().map(|info| info.addr().to_string()).collect(), service, login)
            }
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn sentinels_are_a_list_of_hosts_a_service_and_a_database() {
        let (hosts, service, login) =
            sentinels_of("redis+sentinel://worker:p%40ss+%2Fword@a.test:5000,10.0.0.1,[::1]:7/mymaster/3");
        assert_eq!(hosts, ["a.test:5000", "10.0.0.1:26379", "::1:7"]);
        assert_eq!((service.as_str(), login.db), ("mymaster", 3));
        assert_eq!(
            (login.username.as_deref(), login.password.as_deref()),
            (Some("worker"), Some("p@ss+/word"))
        );
        let (hosts, _, login) = sentinels_of("redis+sentinel://:pw@h/m?sentinel_user=s&sentinel_pass=t");
        assert_eq!(
            (hosts.len(), login.db, login.username, login.password.as_deref()),
            (1, 0, None, Some("pw"))
        );
    }

    #[test]
    fn what_is_no_address_is_named_with_the_way_out_and_without_its_password() {
        for (url, ca, why) in [
            ("redis+sentinel://:geheim@h:1", "", "the service is missing"),
            ("redis+sentinel://:geheim@h:1/", "", "the service is missing"),
            ("redis+sentinel://:geheim@h:1/m/x", "", "not the number of a database"),
            ("redis+sentinel://:geheim@h:port/m", "", "port"),
            ("redis+sentinel://geheim@h/m", "", "a user without a password"),
            ("redis+sentinel://h/m?geheim=1&x=2", "", "no parameter"),
            ("redis+sentinel://h/m", "/ca.pem", "queue.tls_ca"),
            ("rediss://:geheim@h:1/#insecure", "", "always checked"),
            ("rediss://:geheim@h:1/", "/nowhere/ca.pem", "queue.tls_ca /nowhere/ca.pem: No such file"),
            ("rediss://:geheim@h:1/", "/dev/null", "holds no certificate"),
            ("redis://:geheim@h:1/", "/ca.pem", "is not rediss://"),
            ("redis://:geheim@h:1/x", "", "Invalid database number"),
            ("http://u:geheim@h/", "", "redis+sentinel://"),
            ("geheim", "", "write redis://"),
        ] {
            let refused = read(url, ca).unwrap_err();
            assert!(refused.starts_with("queue.url") && refused.contains(why), "{url}: {refused}");
            assert!(!refused.contains("geheim") || url.contains("?geheim"), "{refused}");
        }
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
            ("redis://u:geheim@h:1/0", "redis://u:***@h:1/0"),
            ("redis+unix:///run/r.sock?pass=geheim", "redis+unix:///run/r.sock?***"),
            ("redis+sentinel://u:ge@heim@h:1,i:2/m", "redis+sentinel://u:***@h:1,i:2/m"),
            ("redis+sentinel://geheim@h:1/m?sentinel_pass=geheim", "redis+sentinel://***@h:1/m?***"),
            ("geheim", "***"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }

    #[test]
    fn a_slot_that_moved_is_followed_with_the_same_login() {
        let home = read("redis://u:p@h:1/0", "").unwrap();
        let Some(Address::Server(there)) = home.moved_to("10.0.0.2:7001") else { panic!("an address") };
        assert_eq!(
            (there.addr().to_string().as_str(), there.redis_settings().username()),
            ("10.0.0.2:7001", Some("u"))
        );
        let Some(Address::Server(there)) = home.moved_to(":7001") else { panic!("an address") };
        assert_eq!(there.addr().to_string(), "h:7001", "a node that does not know its name");
        assert!(home.moved_to("nonsense").is_none());
    }
}
