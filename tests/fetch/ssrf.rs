//! The open door to the inside network, tried from every side: no forbidden address ever gets a connection.
//!
//! A counter listens on every address of this machine, so whatever spelling of "here" is believed, it would see it;
//! addresses that are not here must be refused as forbidden, which is decided before a socket exists. That the
//! counter can see at all is shown by letting everything through once.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::Resolve;
use tokio::net::TcpStream;
use url::{Host, Url};
use wm_analyzer::fetch::Fetcher;
use wm_analyzer::job::failure::{Failure, FailureKind};
use wm_testbed::http::HttpServer;

use crate::http_server::{close, http_response, redirect, serve_at};
use crate::{FakeResolver, TEST_TIMEOUT, config};

/// The one address that is let through: an archive that has turned hostile.
const ARCHIVE: &str = "127.77.77.77";

/// Forbidden hosts as they may be spelled in a URL.
const HOSTS: [&str; 98] = [
    // This machine, plainly and not.
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "127.127.127.127",
    "127.255.255.254",
    "0x7f.0.0.1",
    "0x7f.1",
    "0x7f000001",
    "0X7F000001",
    "0177.0.0.1",
    "0177.1",
    "00000177.0x0.0.1",
    "017700000001",
    "2130706433",
    "127.0x1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "%31%32%37.0.0.1",
    "0",
    "0.0",
    "0.0.0.0",
    "0x0",
    "0.0.0.1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0::ffff:7f00:0001]",
    "[::ffff:0.0.0.0]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2002:7f00:1::1]",
    "[2001:0:808:808:0:0:80ff:fffe]",
    "[fe80::5efe:127.0.0.1]",
    "[2001:db8::5efe:127.0.0.1]",
    // Private networks.
    "10.0.0.1",
    "10.255.255.255",
    "10.1",
    "0xa000001",
    "012.0.0.1",
    "167772161",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "0xc0a80001",
    "3232235521",
    "100.64.0.1",
    "100.127.255.254",
    "[::ffff:10.0.0.1]",
    "[::10.0.0.1]",
    "[64:ff9b::10.0.0.1]",
    "[2002:a00:1::]",
    "[fc00::1]",
    "[fd12:3456:789a::1]",
    "[fec0::1]",
    "[fe80::1]",
    "[febf::1]",
    // Metadata services.
    "169.254.169.254",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "2852039166",
    "169.254.170.2",
    "169.254.42.42",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[fe80::a9fe:a9fe]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    // Nobody's, or everybody's.
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[2001:db8::1]",
    "[3fff::1]",
    "[100::1]",
    "[ff02::1]",
    "[ff0e::1]",
    "[5f00::1]",
    "[4000::1]",
];

/// DeliveryCounts connections to any address of this machine.
struct ConnectionCounter(HttpServer);

impl ConnectionCounter {
    async fn everywhere() -> Self {
        let everybody = |_: &str| close(http_response("200 OK", "", b"inside"));
        // Both families where the machine has both.
        match TcpStream::connect("[::1]:1").await.map_err(|e| e.kind()) {
            Err(std::io::ErrorKind::AddrNotAvailable | std::io::ErrorKind::Unsupported) => {
                Self(serve_at("0.0.0.0:0", everybody).await)
            }
            Ok(_) | Err(_) => Self(serve_at("[::]:0", everybody).await),
        }
    }

    fn port(&self) -> u16 {
        self.0.address().port()
    }

    /// Connections seen up to this moment: they are accepted in order, so when one of ours is seen, all before it are.
    async fn seen(&self) -> usize {
        let before = self.0.connections();
        let _ours = TcpStream::connect(("127.0.0.1", self.port())).await.unwrap();
        let counted = async {
            while self.0.connections() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, counted).await.unwrap();
        self.0.connections() - 1
    }
}

/// The address a spelling stands for, if a URL takes it at all.
fn parse_host_address(host: &str) -> Option<IpAddr> {
    match Url::parse(&format!("http://{host}/")).ok()?.host()?.to_owned() {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(name) => panic!("{host} is taken for the name {name}: it proves nothing here"),
    }
}

fn fetcher(allowed: &[&str], names: Arc<dyn Resolve>) -> Fetcher {
    Fetcher::with_resolver(&config(allowed), names).unwrap()
}

/// The literal address itself. `None` where no URL can hold it.
async fn fetch_literal_address(host: &str, port: u16, allowed: &[&str]) -> Option<Result<(), Failure>> {
    let url = Url::parse(&format!("http://{host}:{port}/")).ok()?;
    Some(fetcher(allowed, FakeResolver::default().shared()).body(&url).await.map(drop))
}

/// A name that resolves to it.
async fn fetch_by_name(address: IpAddr, port: u16, allowed: &[&str]) -> Result<(), Failure> {
    let names = FakeResolver::default().with("archive.test", &[&[address]]);
    let url = Url::parse(&format!("http://archive.test:{port}/")).unwrap();
    fetcher(allowed, names.shared()).body(&url).await.map(drop)
}

/// A redirect to it.
async fn by_redirect(host: &str, port: u16, allowed: &[&str]) -> Result<(), Failure> {
    let location = format!("http://{host}:{port}/");
    let archive = serve_at((ARCHIVE, 0), move |_| close(redirect(&location))).await;
    let ended = fetcher(allowed, FakeResolver::default().shared()).body(&archive.url("/")).await.map(drop);
    assert_eq!(archive.requests().len(), 1, "the redirect was asked for");
    ended
}

#[tokio::test]
async fn no_forbidden_address_gets_a_connection_by_any_way() {
    let counter = ConnectionCounter::everywhere().await;
    let port = counter.port();
    let allowed = [&format!("{ARCHIVE}/32")[..]];
    let mut tried = 0;
    for host in HOSTS {
        let mut endings = vec![("redirect", by_redirect(host, port, &allowed).await)];
        endings.extend(fetch_literal_address(host, port, &allowed).await.map(|ended| ("literal", ended)));
        if let Some(address) = parse_host_address(host) {
            endings.push(("name", fetch_by_name(address, port, &allowed).await));
        }
        for (way, ended) in endings {
            let failure = ended.expect_err("must be refused");
            assert_eq!(failure.kind, FailureKind::ForbiddenAddress, "{host} by {way}: {failure}");
            tried += 1;
        }
    }
    assert_eq!(counter.seen().await, 0, "somebody was connected to");
    assert_eq!(tried, HOSTS.len() * 3, "every spelling is one that a URL can hold");
}

#[tokio::test]
async fn the_witness_sees_every_way_once_everything_is_let_through() {
    let counter = ConnectionCounter::everywhere().await;
    let (port, everything) = (counter.port(), ["0.0.0.0/0", "::/0"]);
    let mut expected = 0;
    for host in ["127.0.0.1", "0x7f.1", "2130706433", "127.127.127.127", "0.0.0.0", "①②⑦.⓪.⓪.①"] {
        let address = parse_host_address(host).unwrap();
        fetch_literal_address(host, port, &everything).await.unwrap().unwrap();
        fetch_by_name(address, port, &everything).await.unwrap();
        by_redirect(host, port, &everything).await.unwrap();
        expected += 3;
    }
    assert_eq!(counter.seen().await, expected);
}

#[tokio::test]
async fn of_a_mixed_answer_only_the_permitted_addresses_are_tried() {
    let counter = ConnectionCounter::everywhere().await;
    let forbidden: [IpAddr; 3] =
        ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap(), [169, 254, 169, 254].into()];
    // Nobody listens on the permitted address's port, so everything that may be tried will be.
    let silent = serve_at((ARCHIVE, 0), |_| close(Vec::new())).await.address();
    let answer = [&forbidden[..], &[silent.ip()], &forbidden].concat();
    let names = FakeResolver::default().with("archive.test", &[&answer]).shared();
    let url = Url::parse(&format!("http://archive.test:{}/", counter.port())).unwrap();
    let failure = fetcher(&["127.77.77.78/32"], Arc::clone(&names)).body(&url).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ForbiddenAddress, "{failure}");
    assert_eq!(counter.seen().await, 0);
    fetcher(&[&format!("{ARCHIVE}/32")], names).body(&url).await.unwrap();
    assert_eq!(counter.seen().await, 2, "only the permitted address, and our own count");
}

#[tokio::test]
async fn the_systems_names_for_this_machine_are_forbidden_too() {
    let counter = ConnectionCounter::everywhere().await;
    for host in ["localhost", "LOCALHOST", "localhost."] {
        let url = Url::parse(&format!("http://{host}:{}/", counter.port())).unwrap();
        let failure = Fetcher::new(&config(&[])).unwrap().body(&url).await.unwrap_err();
        // A system that does not know the name at all is as good.
        assert!(
            matches!(failure.kind, FailureKind::ForbiddenAddress | FailureKind::Dns),
            "{host}: {failure}"
        );
    }
    assert_eq!(counter.seen().await, 0);
    let local = SocketAddr::from(([127, 0, 0, 1], counter.port()));
    Fetcher::new(&config(&["127.0.0.0/8"]))
        .unwrap()
        .body(&Url::parse(&format!("http://{local}/")).unwrap())
        .await
        .unwrap();
}
