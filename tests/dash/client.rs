//! A raw HTTP client without the headers that browsers add by themselves: those are the subject of these tests.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::form_urlencoded::Serializer;

use crate::harness::TIMEOUT;
use crate::world::Dashboard;

/// What a dashboard answered.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) status: u16,
    /// Its header lines.
    head: String,
    pub(crate) body: String,
}

impl Received {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self { status: status.unwrap(), head: head.to_owned(), body: body.to_owned() }
    }

    /// The one header of this name, in lower case.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let found: Vec<&str> =
            lines.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect();
        assert!(found.len() <= 1, "{name}: {found:?}");
        found.first().copied()
    }

    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.body.contains(text), "{text:?} is not in {self:#?}");
        self
    }
}

impl Dashboard {
    pub(crate) fn address(&self) -> SocketAddr {
        let host = self.url.host_str().unwrap().parse().unwrap();
        SocketAddr::new(host, self.url.port().unwrap())
    }

    /// Sends these bytes and reads all that is answered.
    pub(crate) async fn send_raw(&self, request: &[u8]) -> Received {
        let mut tcp = TcpStream::connect(self.address()).await.unwrap();
        // Who refuses a request that is too long does not read it to its end.
        let _ = tcp.write_all(request).await;
        let mut answer = Vec::new();
        let read = timeout(TIMEOUT, tcp.read_to_end(&mut answer)).await.expect("it answers");
        assert!(read.is_ok() || !answer.is_empty(), "{read:?}");
        Received::parse(&String::from_utf8(answer).unwrap())
    }

    /// Sends a request with these headers and no other but its length.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Received {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\n{lines}Content-Length: {length}\r\n\r\n{body}");
        self.send_raw(request.as_bytes()).await
    }

    /// A page, as a browser asks for it.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Received {
        let host = self.address().to_string();
        let own = [("Host", host.as_str()), ("Accept", "text/html")];
        self.send("GET", path, &[&own, headers].concat(), "").await
    }

    /// A form of one of its pages, as a browser sends it.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], form: &[(&str, &str)]) -> Received {
        let host = self.address().to_string();
        let origin = format!("http://{host}");
        let own = [
            ("Host", host.as_str()),
            ("Origin", &origin),
            ("Sec-Fetch-Site", "same-origin"),
            ("Content-Type", "application/x-www-form-urlencoded"),
        ];
        self.send("POST", path, &[&own, headers].concat(), &encoded(form)).await
    }
}

/// A form as it is sent.
pub(crate) fn encoded(form: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(form).finish()
}
