//! Raw responses for the fetcher: exactly the bytes that a test writes, however wrong they are.

use std::sync::Arc;

use tokio::net::ToSocketAddrs;
use wm_testbed::http::{HttpServer, Request, Response};

/// Serves on this address; `reply_to` gets each request's target.
pub(crate) async fn serve_at(
    address: impl ToSocketAddrs,
    reply_to: impl Fn(&str) -> Response + Send + Sync + 'static,
) -> HttpServer {
    HttpServer::bind(address, Arc::new(move |request: &Request| reply_to(&request.target))).await.unwrap()
}

/// Serves on 127.0.0.1.
pub(crate) async fn serve(reply_to: impl Fn(&str) -> Response + Send + Sync + 'static) -> HttpServer {
    serve_at("127.0.0.1:0", reply_to).await
}

/// Answers every request with these bytes and closes.
pub(crate) async fn serve_bytes(answer: &[u8]) -> HttpServer {
    let answer = answer.to_vec();
    serve(move |_| close(answer.clone())).await
}

/// These bytes, then the connection is closed.
pub(crate) fn close(bytes: Vec<u8>) -> Response {
    Response::raw(bytes).then_close()
}

/// These bytes, then nothing more.
pub(crate) fn hang(bytes: impl Into<Vec<u8>>) -> Response {
    Response::raw(bytes).then_hang()
}

/// A whole response with its length.
pub(crate) fn http_response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A redirect to `location`.
pub(crate) fn redirect(location: &str) -> Vec<u8> {
    http_response("302 Found", &format!("Location: {location}\r\nConnection: close\r\n"), b"")
}
