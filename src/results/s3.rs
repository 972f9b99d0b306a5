//! The client of a server that speaks S3: our own HTTP client under `object_store`.
//!
//! Invariant: a request goes to the configured endpoint, or to the metadata service where its credentials are
//! asked for, and nowhere else; redirects and proxies of the environment are not followed.
//!
//! # Why
//! `object_store` would build a client of its own that reads the environment for a proxy, and keeps what a server
//! answered for itself: the status can only be read in the text of its errors, and a body of any size becomes part
//! of it. Here an unsuccessful response becomes an [`S3Error`] before it gets there.

use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Limited};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use reqwest::{Client, redirect, retry};
use url::{Origin, Url};

use super::{Config, StoreEndpoint, TOTAL_TIMEOUT};
use crate::job::text::{clip, innermost_cause};

/// The service that gives the machines of AWS, and of those who imitate it, the credentials of their role. A
/// well-known link-local address, asked only where `results.instance_credentials` is set.
const METADATA: &str = "http://169.254.169.254";
/// A second connection attempt after the first packet was lost, which is repeated after 1 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// An unsuccessful response explains itself in some 500 bytes of XML; the rest is not read.
const MAX_ERROR_BODY_BYTES: usize = 16 * 1024;
/// Of that explanation, in a message.
const MAX_MESSAGE_CHARS: usize = 300;

/// A client for this bucket.
pub(super) fn client(bucket: &str, endpoint: &StoreEndpoint, config: &Config) -> Result<AmazonS3, String> {
    let metadata = Url::parse(METADATA).map_err(|e| e.to_string())?;
    client_with(bucket, endpoint, config, &metadata)
}

fn client_with(
    bucket: &str,
    endpoint: &StoreEndpoint,
    config: &Config,
    metadata: &Url,
) -> Result<AmazonS3, String> {
    let connector = Connector {
        client: http_client(endpoint).map_err(|e| innermost_cause(&e))?,
        endpoint: endpoint.url().origin(),
        metadata: config.instance_credentials.then(|| metadata.origin()),
    };
    let builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&config.region)
        .with_endpoint(endpoint.url().as_str().trim_end_matches('/'))
        .with_http_connector(connector)
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_millis(500),
                base: 2.0,
            },
            max_retries: 1,
            retry_timeout: TOTAL_TIMEOUT,
        });
    let builder = match config.instance_credentials {
        true => builder.with_metadata_endpoint(metadata.as_str().trim_end_matches('/')),
        false => builder
            .with_access_key_id(&config.access_key_id)
            .with_secret_access_key(config.secret_access_key.expose()),
    };
    builder.build().map_err(|e| innermost_cause(&e))
}

fn http_client(endpoint: &StoreEndpoint) -> reqwest::Result<Client> {
    // The crypto provider is process-wide; if one is already installed, it is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TOTAL_TIMEOUT)
        .no_proxy()
        .http1_only();
    if endpoint.url().scheme() == "http" {
        // TLS is not used here, so a machine without root certificates must not be refused.
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

/// Whom a request was made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// The server that holds the bucket.
    Store,
    /// The service that was asked for credentials.
    Metadata,
}

/// Why a request to a peer failed.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.summary())]
pub(super) struct S3Error {
    pub(super) peer: Peer,
    pub(super) cause: S3Cause,
}

/// What happened to a request that failed.
#[derive(Debug)]
pub(super) enum S3Cause {
    /// There was no answer: the connection failed or was too slow.
    Unanswered(HttpError),
    /// The answer was no success.
    Answered {
        /// The status.
        status: u16,
        /// The server's code for it, e.g. `NoSuchBucket`; empty without one.
        code: String,
        /// What it says about it, shortened; may be empty.
        message: String,
    },
}

impl S3Error {
    /// `answered 503 (SlowDown: Please reduce your request rate)`, or why there was no answer.
    pub(super) fn summary(&self) -> String {
        match &self.cause {
            S3Cause::Unanswered(error) => format!("cannot be reached ({})", innermost_cause(error)),
            S3Cause::Answered { status, code, message } => {
                let said = [code.as_str(), message].into_iter().filter(|text| !text.is_empty());
                let said = said.collect::<Vec<_>>().join(": ");
                match said.is_empty() {
                    true => format!("answered {status}"),
                    false => format!("answered {status} ({said})"),
                }
            }
        }
    }

    /// Whether `object_store` tries the request once more.
    fn retry_kind(&self) -> HttpErrorKind {
        match &self.cause {
            S3Cause::Unanswered(error) => error.kind(),
            // A kind that is tried again; writing the same object twice is harmless.
            S3Cause::Answered { status: 408 | 429 | 500..=599, .. } => HttpErrorKind::Request,
            S3Cause::Answered { .. } => HttpErrorKind::Unknown,
        }
    }
}

impl From<S3Error> for HttpError {
    fn from(error: S3Error) -> Self {
        Self::new(error.retry_kind(), error)
    }
}

/// A request that would leave the configured addresses: a defect here, or in `object_store`.
#[derive(Debug, thiserror::Error)]
#[error("a request to {0} was not sent: only results.endpoint is reached")]
struct ForeignRequest(String);

/// One client for the endpoint and, where it is asked for credentials, the metadata service.
#[derive(Debug, Clone)]
struct Connector {
    client: Client,
    endpoint: Origin,
    metadata: Option<Origin>,
}

impl Connector {
    fn peer(&self, request: &HttpRequest) -> Result<Peer, HttpError> {
        let to = request.uri().to_string();
        match Url::parse(&to).map(|url| url.origin()) {
            Ok(origin) if origin == self.endpoint => Ok(Peer::Store),
            Ok(origin) if Some(&origin) == self.metadata.as_ref() => Ok(Peer::Metadata),
            Ok(_) | Err(_) => Err(HttpError::new(HttpErrorKind::Unknown, ForeignRequest(to))),
        }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let peer = self.peer(&request)?;
        let response = self.client.call(request).await;
        let response = response.map_err(|e| S3Error { peer, cause: S3Cause::Unanswered(e) })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        // What is longer, or does not come, explains nothing.
        let body = Limited::new(response.into_body(), MAX_ERROR_BODY_BYTES).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let field = |name| clip(element(&text, name), MAX_MESSAGE_CHARS);
        let cause = S3Cause::Answered { status, code: field("Code"), message: field("Message") };
        Err(S3Error { peer, cause }.into())
    }
}

/// The text of the first element of this name, which is in no other; empty without one.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let inside = xml.split_once(&format!("<{name}>")).map(|(_, rest)| rest);
    inside.and_then(|rest| rest.split_once(&format!("</{name}>"))).map_or("", |(inside, _)| inside.trim())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::{ObjectStoreExt as _, path::Path};
    use wm_testbed::http::{HttpServer, Request, Response};

    use super::*;
    use crate::results::StorePlace;

    fn config(instance_credentials: bool) -> Config {
        Config {
            store: StorePlace::Bucket { bucket: "results".to_owned(), prefix: String::new() },
            endpoint: None,
            region: "us-east-1".to_owned(),
            access_key_id: "static".to_owned(),
            secret_access_key: "geheim".into(),
            instance_credentials,
            max_bytes: "16 MiB".parse().unwrap(),
        }
    }

    /// What the metadata service of a machine with a role answers.
    fn metadata(request: &Request) -> Response {
        let body = match (request.method.as_str(), request.path().rsplit('/').next().unwrap_or_default()) {
            ("PUT", "token") => "token",
            ("GET", "") => "role",
            ("GET", "role") => {
                r#"{"AccessKeyId":"temporary","SecretAccessKey":"s","Token":"t","Expiration":"2999-01-01T00:00:00Z"}"#
            }
            _ => return Response::new(404, &[], []),
        };
        Response::new(200, &[], body.as_bytes())
    }

    async fn store() -> HttpServer {
        let takes = |_: &Request| Response::new(200, &[("etag", "\"1\"")], []);
        HttpServer::start(Arc::new(takes)).await.unwrap()
    }

    #[tokio::test]
    async fn the_metadata_service_is_asked_where_that_is_configured_and_only_there() {
        let metadata = HttpServer::start(Arc::new(metadata)).await.unwrap();
        for (instance_credentials, key, asked) in [(false, "static", 0), (true, "temporary", 3)] {
            let store = store().await;
            let endpoint = store.url("/").as_str().parse().unwrap();
            let config = config(instance_credentials);
            let client = client_with("results", &endpoint, &config, &metadata.url("/")).unwrap();
            for _ in 0..2 {
                client.put(&Path::from("a"), "b".into()).await.unwrap();
            }
            let requests = store.requests();
            let signed = |request: &String| request.contains(&format!("Credential={key}/"));
            assert!(requests.len() == 2 && requests.iter().all(signed), "{requests:?}");
            assert_eq!(metadata.requests().len(), asked, "{:?}", metadata.requests());
        }
    }

    #[tokio::test]
    async fn a_machine_without_a_role_is_named_as_the_reason() {
        let metadata = HttpServer::start(Arc::new(|_: &Request| Response::new(404, &[], []))).await.unwrap();
        let store = store().await;
        let endpoint = store.url("/").as_str().parse().unwrap();
        let client = client_with("results", &endpoint, &config(true), &metadata.url("/")).unwrap();
        let error = client.put(&Path::from("a"), "b".into()).await.unwrap_err();
        let (kind, what) = super::super::failure::explain(&error, &config(true).store);
        assert_eq!(kind, crate::job::failure::FailureKind::StoreRefused);
        assert!(
            what.contains("the instance metadata service answered 404; give the machine a role"),
            "{what}"
        );
        assert_eq!(store.connections(), 0);
    }

    #[tokio::test]
    async fn a_request_to_any_other_address_is_not_sent() {
        let (store, other) = (store().await, store().await);
        let endpoint: StoreEndpoint = store.url("/").as_str().parse().unwrap();
        let client = http_client(&endpoint).unwrap();
        let connector = Connector { client, endpoint: endpoint.url().origin(), metadata: None };
        for (address, sent) in [(other.url("/latest"), false), (store.url("/"), true)] {
            let mut request = HttpRequest::new("".to_owned().into());
            *request.uri_mut() = address.as_str().parse().unwrap();
            assert_eq!(connector.call(request).await.is_ok(), sent, "{address}");
        }
        assert_eq!((store.connections(), other.connections()), (1, 0));
    }

    #[test]
    fn what_s3_says_is_read_from_its_xml_and_from_nothing_else() {
        let xml = "<Error><Code>SlowDown</Code><Message> Please wait. </Message></Error>";
        assert_eq!((element(xml, "Code"), element(xml, "Message")), ("SlowDown", "Please wait."));
        assert_eq!(element("<html>busy</html>", "Code"), "");
        assert_eq!(element("<Code>never closed", "Code"), "");
    }
}
