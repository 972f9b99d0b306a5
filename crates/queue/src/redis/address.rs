//! Where Redis is: one server, or sentinels that know which server it is today.
//!
//! An address is checked when it is read; nothing here connects. Invariant: no message, also about a
//! malformed address, holds a password or a part of one.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use deadpool_redis::RedisConnectionInfo as Login;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;
use wm_job::redact::{self, Secret};

/// The forms that an address may have.
const FORMS: &str = "write redis://[user:password@]host:port[/db], rediss:// for TLS, redis+unix:///path, or \
                     redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]";
/// What stands for the characters that end a part of an address.
const ENCODE: &str =
    "percent-encode it (%40 for @, %2F for /, %23 for #, %3F for ?, %25 for %, %3A for :, %2B for +)";
/// Where sentinels listen unless the address says otherwise.
const SENTINEL_PORT: u16 = 26379;
/// Words that the query of each kind of address may have.
const SERVER_WORDS: [&str; 1] = ["protocol"];
const SOCKET_WORDS: [&str; 4] = ["db", "user", "pass", "protocol"];
const SENTINEL_WORDS: [&str; 2] = ["sentinel_user", "sentinel_pass"];
/// Versions of Redis's protocol, as the client names them.
const PROTOCOLS: [&str; 4] = ["2", "3", "resp2", "resp3"];
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// `queue.url`: an address of Redis that has been checked. Shown without its credentials.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct RedisAddress {
    text: Secret,
    address: Address,
}

/// A Redis that can be connected to.
#[derive(Clone)]
pub(crate) enum Address {
    /// One server.
    Server(ConnectionInfo),
    /// The server that the sentinels call the master of `service`.
    Sentinels {
        /// Each is asked; the first one that knows wins.
        sentinels: Vec<ConnectionInfo>,
        /// The name under which they watch it.
        service: String,
        /// The credentials for the master, and the database.
        login: Login,
    },
}

impl FromStr for RedisAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err(format!("the address is empty; {FORMS}"));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("not an address; {FORMS}"))?;
        let address = match scheme.to_ascii_lowercase().as_str() {
            "redis" | "rediss" | "valkey" | "valkeys" => server(text, rest)?,
            "redis+unix" | "unix" | "valkey+unix" => socket(text, rest)?,
            "redis+sentinel" => sentinels(rest)?,
            _ => return Err(format!("not an address of Redis; {FORMS}")),
        };
        Ok(Self { text: text.into(), address })
    }
}

impl TryFrom<String> for RedisAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact::url(self.text.expose()))
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAddress({self})")
    }
}

impl Serialize for RedisAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl RedisAddress {
    /// True where the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls_port().is_some()
    }

    /// The address with the certificates of `queue.tls_ca`, which is read here; an empty path is none.
    ///
    /// # Errors
    /// A sentence about `queue.tls_ca`.
    pub(crate) fn trusting(&self, ca: &Path) -> Result<Address, String> {
        if ca.as_os_str().is_empty() {
            return Ok(self.address.clone());
        }
        let info = match &self.address {
            Address::Server(info) if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) => info.clone(),
            Address::Server(_) => return Err("is for rediss://, and queue.url is not; unset one".to_owned()),
            Address::Sentinels { .. } => {
                return Err("is for rediss://, and sentinels are reached without TLS; unset it".to_owned());
            }
        };
        let failed = |e: &dyn fmt::Display| format!("{e}; name a file of PEM certificates");
        let pem = std::fs::read(ca).map_err(|e| failed(&e))?;
        if !pem.windows(BEGIN.len()).any(|bytes| bytes == BEGIN) {
            return Err(failed(&"the file holds no certificate"));
        }
        let trusted = TlsCertificates { client_tls: None, root_cert: Some(pem) };
        let client = Client::build_with_tls(info, trusted).map_err(|e| failed(&e))?;
        Ok(Address::Server(client.get_connection_info().clone()))
    }

    /// Host and port, where the address says that they speak TLS.
    pub(crate) fn tls_port(&self) -> Option<(&str, u16)> {
        match &self.address {
            Address::Server(info) => match info.addr() {
                ConnectionAddr::TcpTls { host, port, .. } => Some((host, *port)),
                _ => None,
            },
            Address::Sentinels { .. } => None,
        }
    }
}

impl Address {
    /// The same server at the node to which a cluster moved the queue's slot.
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

/// A node that does not know its own name leaves it out: it is the one that was asked.
fn or(host: &str, known: &str) -> String {
    if host.is_empty() { known } else { host }.to_owned()
}

/// `[user:password@]host[:port][/db][?protocol=..]`
fn server(text: &str, rest: &str) -> Result<Address, String> {
    let (_, place) = split_login(rest)?;
    let (place, query) = split_query(place)?;
    words(query, &SERVER_WORDS)?;
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    let (host, _) = host_and_port(authority)?;
    if host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified()) {
        return Err(format!("{host} is every address of a machine, not one to connect to"));
    }
    database(path.trim_matches('/'))?;
    client_info(text)
}

/// `/path[?db=..&user=..&pass=..&protocol=..]`
fn socket(text: &str, rest: &str) -> Result<Address, String> {
    let (path, query) = split_query(rest)?;
    if !path.starts_with('/') || path == "/" {
        return Err("the path of the socket is missing; write redis+unix:///path".to_owned());
    }
    for (name, value) in words(query, &SOCKET_WORDS)? {
        if name == "db" {
            database(&value)?;
        }
    }
    client_info(text)
}

/// As the client itself reads what has been checked.
fn client_info(text: &str) -> Result<Address, String> {
    // The client's own message may quote a part of the address.
    let info = text.into_connection_info().map_err(|_| format!("not an address of Redis; {FORMS}"))?;
    // A command fewer per connection, and one fewer that an ACL must allow.
    let login = info.redis_settings().clone().set_skip_set_lib_name();
    Ok(Address::Server(info.set_redis_settings(login)))
}

/// `[user:password@]host[:port],.../service[/db][?sentinel_user=..&sentinel_pass=..]`
fn sentinels(rest: &str) -> Result<Address, String> {
    let ((user, password), place) = split_login(rest)?;
    let (place, query) = split_query(place)?;
    let missing = || format!("the service is missing; {FORMS}");
    let (hosts, path) = place.split_once('/').ok_or_else(missing)?;
    let (service, db) = path.split_once('/').unwrap_or((path, ""));
    if service.is_empty() {
        return Err(missing());
    }
    if password.is_empty() && !user.is_empty() {
        return Err("a user without a password; write user:password@, or :password@".to_owned());
    }
    // Sentinels have an access control of their own.
    let mut guard = redis::RedisConnectionInfo::default().set_skip_set_lib_name();
    for (name, value) in words(query, &SENTINEL_WORDS)? {
        guard = match name.as_str() {
            "sentinel_user" => guard.set_username(value),
            _ => guard.set_password(value),
        };
    }
    let sentinels = hosts.split(',').map(|host| {
        let (name, port) = host_and_port(host)?;
        let at = ConnectionAddr::Tcp(name, port.unwrap_or(SENTINEL_PORT));
        let info = at.into_connection_info().map_err(|_| format!("not a sentinel; {FORMS}"))?;
        Ok(info.set_redis_settings(guard.clone()))
    });
    Ok(Address::Sentinels {
        sentinels: sentinels.collect::<Result<_, String>>()?,
        service: decoded(service),
        login: Login {
            db: database(db)?,
            username: Some(decoded(user)).filter(|user| !user.is_empty()),
            password: Some(decoded(password)).filter(|password| !password.is_empty()),
            ..Login::default()
        },
    })
}

/// User and password, and what follows the last `@`: before it, people paste passwords as they are.
fn split_login(rest: &str) -> Result<((&str, &str), &str), String> {
    let Some((login, place)) = rest.rsplit_once('@') else { return Ok((("", ""), rest)) };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    if is_encoded(user) && is_encoded(password) {
        return Ok(((user, password), place));
    }
    Err(format!("the user or the password has a character that ends it: {ENCODE}"))
}

/// No character that ends a part of an address, and every `%` is one of `%40` and so on, in UTF-8.
fn is_encoded(part: &str) -> bool {
    let bare = |c: char| "@/?#:[]\\".contains(c) || c.is_whitespace() || c.is_control();
    !part.contains(bare) && has_whole_escapes(part)
}

fn has_whole_escapes(part: &str) -> bool {
    let two_digits = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    part.split('%').skip(1).all(two_digits) && !decoded(part).contains('\u{fffd}')
}

fn split_query(place: &str) -> Result<(&str, &str), String> {
    match place.split_once('#') {
        Some((_, "insecure")) => {
            return Err("#insecure is not allowed: a certificate is always checked; queue.tls_ca names the \
                        certificates to trust"
                .to_owned());
        }
        Some(_) => return Err(format!("a # ends an address; where it belongs to a password, {ENCODE}")),
        None => {}
    }
    Ok(place.split_once('?').unwrap_or((place, "")))
}

/// The words of a query, decoded.
fn words(query: &str, allowed: &[&str]) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    for word in query.split('&').filter(|word| !word.is_empty()) {
        let Some((name, value)) = word.split_once('=') else {
            return Err(format!(
                "a word of the query has no =; where it belongs to a password, {ENCODE}, %26 for &"
            ));
        };
        if !allowed.contains(&name) {
            // Anything but a plain word may be a piece of a password.
            let plain = name.len() <= 32 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            let named = if plain && !name.is_empty() { format!("{name}=") } else { "a word".to_owned() };
            let known = allowed.iter().map(|word| format!("{word}=")).collect::<Vec<_>>().join(", ");
            return Err(format!("{named} of the query is unknown; this kind of address knows {known}"));
        }
        if value.contains(['+', '?', '=']) || !has_whole_escapes(value) {
            return Err(format!("{name}= has a character that an address cannot hold: {ENCODE}"));
        }
        if name == "protocol" && !PROTOCOLS.contains(&value) {
            return Err(format!("protocol= is not one of {}", PROTOCOLS.join(", ")));
        }
        found.push((name.to_owned(), decoded(value)));
    }
    Ok(found)
}

fn host_and_port(authority: &str) -> Result<(String, Option<u16>), String> {
    if authority.is_empty() || authority.starts_with(':') {
        return Err(format!("the host is missing; {FORMS}"));
    }
    let malformed = "the host or the port is malformed: a port is a number from 1 to 65535, and an @ stands \
                     between a password and the host";
    // The parser of addresses knows what a host is, in brackets or not.
    let one = Url::parse(&format!("redis://{authority}")).map_err(|_| malformed.to_owned())?;
    let name = match one.host().ok_or_else(|| malformed.to_owned())? {
        url::Host::Ipv6(address) => address.to_string(),
        other => other.to_string(),
    };
    if one.port() == Some(0) || !one.path().is_empty() {
        return Err(malformed.to_owned());
    }
    Ok((name, one.port()))
}

fn database(text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let number = text.parse::<u16>().map_err(|_| "the database is not a number; write e.g. /0".to_owned())?;
    Ok(i64::from(number))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str, ca: &str) -> Result<Address, String> {
        url.parse::<RedisAddress>().and_then(|address| address.trusting(Path::new(ca)))
    }

    fn refusal(url: &str, ca: &str) -> String {
        read(url, ca).err().unwrap_or_else(|| panic!("{url} must be refused"))
    }

    fn server_of(url: &str) -> ConnectionInfo {
        match read(url, "") {
            Ok(Address::Server(info)) => info,
            Ok(Address::Sentinels { .. }) => panic!("{url}: sentinels"),
            Err(what) => panic!("{url}: {what}"),
        }
    }

    fn sentinels_of(url: &str) -> (Vec<String>, String, Login) {
        match read(url, "") {
            Ok(Address::Sentinels { sentinels, service, login }) => {
                (sentinels.iter().map(|info| info.addr().to_string()).collect(), service, login)
            }
            Ok(Address::Server(_)) => panic!("{url}: a server"),
            Err(what) => panic!("{url}: {what}"),
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
    fn an_encoded_password_reaches_the_client_as_it_was_meant() {
        let info = server_of("redis://:p%40ss%2Fw%23rd%25%3A@host:7/2?protocol=resp3");
        assert_eq!(info.redis_settings().password(), Some("p@ss/w#rd%:"));
        assert_eq!((info.addr().to_string().as_str(), info.redis_settings().db()), ("host:7", 2));
        let info = server_of("redis+unix:///run/a@b.sock?db=3&user=u&pass=a%26b%2Bc");
        assert_eq!(info.redis_settings().password(), Some("a&b+c"));
        assert_eq!(info.redis_settings().db(), 3);
    }

    #[test]
    fn a_password_that_is_not_encoded_is_answered_by_how_to_encode_it_and_never_shown() {
        for password in [
            "xy@zq/vk#jj",
            "geh@eim",
            "geh/eim",
            "geh#eim",
            "geh%eim",
            "geh:eim",
            "geh?eim",
            "geh%zz",
            "g%",
            "%ff",
        ] {
            for url in [
                format!("redis://:{password}@host"),
                format!("rediss://user:{password}@host:6380/0"),
                format!("redis+sentinel://user:{password}@a:1,b:2/m"),
            ] {
                let refused = refusal(&url, "");
                assert!(refused.contains("percent-encode it"), "{url}: {refused}");
                let shown = format!("{refused} {}", redact::url(&url));
                for part in password.split(['@', '/', '#', '%', ':', '?']).filter(|part| part.len() > 1) {
                    assert!(!shown.contains(part), "{part} is in {shown}");
                }
                assert!(!refused.contains("certificate"), "{refused}");
            }
        }
    }

    #[test]
    fn a_malformed_address_is_answered_by_the_way_out_and_without_its_password() {
        for (url, ca, why) in [
            ("", "", "is empty"),
            (" \n", "", "is empty"),
            ("redis+sentinel://:geheim@h:1", "", "the service is missing"),
            ("redis+sentinel://:geheim@h:1/", "", "the service is missing"),
            ("redis+sentinel://:geheim@h:1/m/x", "", "the database is not a number"),
            ("redis+sentinel://:geheim@h:port/m", "", "port"),
            ("redis+sentinel://geheim@h/m", "", "a user without a password"),
            ("redis+sentinel://h/m?password=geheim", "", "password= of the query is unknown"),
            ("redis+sentinel://h/m", "/ca.pem", "sentinels are reached without TLS"),
            ("rediss://:geheim@h:1/#insecure", "", "always checked"),
            ("redis://:geheim@h:1/#geheim", "", "percent-encode"),
            ("rediss://:geheim@h:1/", "/nowhere/ca.pem", "No such file"),
            ("rediss://:geheim@h:1/", "/dev/null", "holds no certificate"),
            ("redis://:geheim@h:1/", "/ca.pem", "is for rediss://"),
            ("redis://:geheim@h:1/x", "", "the database is not a number"),
            ("redis://:geheim@h:1/-1", "", "the database is not a number"),
            ("redis://:geheim@", "", "the host is missing"),
            ("redis:///0", "", "the host is missing"),
            ("redis://h:99999", "", "65535"),
            ("redis://h:0", "", "65535"),
            ("redis://user:geheim", "", "an @ stands between"),
            ("redis://0.0.0.0", "", "not one to connect to"),
            ("redis://h?password=geheim", "", "password= of the query is unknown"),
            ("redis://h?ssl_cert_reqs=geheim", "", "ssl_cert_reqs= of the query is unknown"),
            ("redis://h?db=1", "", "db= of the query is unknown"),
            ("redis://h?geheim", "", "has no ="),
            ("redis://h?protocol=geheim", "", "resp3"),
            (
                "redis+unix:///s?password=geheim",
                "",
                "password= of the query is unknown; this kind of address knows db=, user=",
            ),
            ("redis+unix:///s?username=geheim", "", "username= of the query"),
            ("redis+unix:///s?timeout=geheim", "", "timeout= of the query"),
            ("redis+unix:///s?sentinel_pass=geheim", "", "sentinel_pass= of the query"),
            ("redis+unix:///s?GEHEIM=1", "", "a word of the query"),
            ("redis+unix:///s?pass=a&geheim", "", "has no ="),
            ("redis+unix:///s?pass=geheim+x", "", "percent-encode"),
            ("redis+unix:///s?pass=geheim%", "", "percent-encode"),
            ("redis+unix:///s?pass=x#geheim", "", "percent-encode"),
            ("redis+unix:///s?db=geheim", "", "the database is not a number"),
            ("redis+unix://run/r.sock", "", "redis+unix:///path"),
            ("http://u:geheim@h/", "", "redis+sentinel://"),
            ("not a url", "", "write redis://"),
            ("geheim", "", "write redis://"),
        ] {
            let refused = refusal(url, ca);
            assert!(refused.contains(why), "{url}: {refused}");
            let shown = format!("{refused} {}", redact::url(url)).to_lowercase();
            assert!(!shown.contains("geheim"), "{shown}");
        }
    }

    #[test]
    fn an_address_is_shown_and_written_without_its_password() {
        let address: RedisAddress = "redis://u:geheim@h:1/0".parse().unwrap();
        assert_eq!(address.to_string(), "redis://***@h:1/0");
        assert_eq!(format!("{address:?}"), "RedisAddress(redis://***@h:1/0)");
        assert_eq!(serde_json::to_string(&address).unwrap(), "\"redis://***@h:1/0\"");
        assert_eq!(address.tls_port(), None);
        let address: RedisAddress = "rediss://:geheim@h:1".parse().unwrap();
        assert_eq!(address.tls_port(), Some(("h", 1)));
    }

    #[test]
    fn a_slot_that_moved_is_followed_with_the_same_login() {
        let home = Address::Server(server_of("redis://u:p@h:1/0"));
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
