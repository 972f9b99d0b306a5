//! https: trusted by the machine's roots alone, and `tls` for everything that goes wrong with it.
//!
//! The certificate in `fixtures/tls` is for `archive.test` and 127.0.0.1, signed by a root that no machine trusts
//! and whose key was thrown away; both are valid until 2118. Trust is given by `SSL_CERT_FILE`, which a process
//! reads once: such tests run themselves again with another environment.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use url::Url;
use wm_analyzer::fetch::Fetcher;
use wm_analyzer::job::failure::FailureKind;

use crate::http_server::{http_response, serve_bytes};
use crate::{FakeResolver, config, fetcher};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");

/// An https server that says `secure` to everybody, on a thread that ends with the process.
fn https() -> SocketAddr {
    let certificate = CertificateDer::from_pem_file(format!("{FIXTURES}/site.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(format!("{FIXTURES}/site.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), socket);
            let mut request = [0; 4096];
            if tls.read(&mut request).is_ok_and(|read| read > 0) {
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecure");
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        }
    });
    address
}

#[tokio::test]
async fn an_unknown_certificate_is_tls() {
    let failure = fetcher().body(&Url::parse(&format!("https://{}/", https())).unwrap()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Tls, "{failure}");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_or_hangs_up_on_it_is_tls() {
    for said in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("https://{}/", listener.local_addr().unwrap())).unwrap();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            // Read the greeting first: closing on unread bytes would be a reset, which is no answer at all.
            stream.readable().await.unwrap();
            let _ = stream.try_read(&mut [0; 4096]);
            let _ = stream.try_write(said);
        };
        let fetcher = fetcher();
        let (ended, ()) = tokio::join!(fetcher.body(&url), server);
        let failure = ended.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Tls, "{said:?}: {failure}");
    }
}

/// Runs one ignored test of this binary with other variables.
fn again(test: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env_remove("SSL_CERT_DIR");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{:?}", output.stderr);
}

#[test]
fn a_certificate_of_a_trusted_root_is_good_for_its_names_only_and_no_proxy_is_asked() {
    let proxy = "http://127.0.0.1:1";
    let proxies = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let root = format!("{FIXTURES}/root.pem");
    let mut variables: Vec<_> = proxies.iter().map(|name| (*name, proxy)).collect();
    variables.push(("SSL_CERT_FILE", &root));
    again("tls::with_the_root_trusted", &variables);
}

#[tokio::test]
#[ignore = "run by the test above, with the root trusted"]
async fn with_the_root_trusted() {
    let address = https();
    let local: &[std::net::IpAddr] = &[address.ip()];
    let names = FakeResolver::default().with("archive.test", &[local]).with("other.test", &[local]);
    let fetcher = Fetcher::with_resolver(&config(&["127.0.0.0/8"]), names.shared()).unwrap();
    assert!(fetcher.has_roots());
    for host in ["archive.test", "127.0.0.1"] {
        let url = Url::parse(&format!("https://{host}:{}/", address.port())).unwrap();
        assert_eq!(fetcher.body(&url).await.unwrap().bytes, b"secure", "{host}");
    }
    let other = Url::parse(&format!("https://other.test:{}/", address.port())).unwrap();
    assert_eq!(fetcher.body(&other).await.unwrap_err().kind, FailureKind::Tls);
    let plain = serve_bytes(&http_response("200 OK", "", b"plain")).await;
    assert_eq!(fetcher.body(&plain.url("/")).await.unwrap().bytes, b"plain");
}

#[test]
fn a_machine_without_roots_still_fetches_over_http() {
    again("tls::without_roots", &[("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")]);
}

#[tokio::test]
#[ignore = "run by the test above, without roots"]
async fn without_roots() {
    let fetcher = Fetcher::new(&config(&["127.0.0.0/8"])).unwrap();
    assert!(!fetcher.has_roots());
    let plain = serve_bytes(&http_response("200 OK", "", b"plain")).await;
    assert_eq!(fetcher.body(&plain.url("/")).await.unwrap().bytes, b"plain");
    let failure = fetcher.body(&Url::parse(&format!("https://{}/", https())).unwrap()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Tls);
    assert!(failure.detail.contains("ca-certificates"), "{failure}");
}
