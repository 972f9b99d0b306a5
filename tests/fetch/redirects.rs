//! Redirects: counted, resolved, and judged like the first address.

use url::Url;
use wm_analyzer::fetch::Fetcher;
use wm_analyzer::job::failure::FailureKind;
use wm_testbed::http::{HttpServer, Response};

use crate::http_server::{close, http_response, redirect, serve, serve_bytes};
use crate::{FakeResolver, config, fetcher};

/// A site whose `/n` redirects to `/n-1`, down to `/0`, which is a page.
async fn redirect_chain() -> HttpServer {
    serve(|path| match path.trim_start_matches('/').parse::<u32>() {
        Ok(0) => Response::raw(http_response("200 OK", "", b"the bottom")),
        Ok(step) => close(redirect(&format!("/{}", step - 1))),
        Err(_) => close(redirect(path)),
    })
    .await
}

#[tokio::test]
async fn five_redirects_are_followed_and_six_are_not() {
    let site = redirect_chain().await;
    assert_eq!(fetcher().body(&site.url("/5")).await.unwrap().bytes, b"the bottom");
    let failure = fetcher().body(&site.url("/6")).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TooManyRedirects, "{failure}");
}

#[tokio::test]
async fn a_loop_costs_no_more_than_the_redirects_that_are_followed() {
    let site = redirect_chain().await;
    let failure = fetcher().body(&site.url("/loop")).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::TooManyRedirects, "{failure}");
    assert_eq!(site.requests().len(), 6);
}

#[tokio::test]
async fn every_redirecting_status_is_followed_even_of_a_memento() {
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let moved = format!("Location: /there\r\nMemento-Datetime: x\r\n{}", "Connection: close\r\n");
        let site = serve(move |path| {
            close(match path {
                "/there" => http_response("200 OK", "", b"there"),
                _ => http_response(status, &moved, b"not this"),
            })
        });
        let site = site.await;
        assert_eq!(fetcher().body(&site.url("/here")).await.unwrap().bytes, b"there", "{status}");
    }
}

#[tokio::test]
async fn a_redirect_to_where_the_first_address_could_not_have_been_is_forbidden() {
    for location in [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "//[::1]/",
        "https://[fd00:ec2::254]/",
        "ftp://archive.test/a",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "data:text/html,x",
        "http://user:password@127.0.0.1/",
        "http://[fe80::1%25lo]/",
        "http:///",
        "http://a b/",
    ] {
        let site = serve_bytes(&redirect(location)).await;
        let failure = fetcher().body(&site.url("/")).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::ForbiddenAddress, "{location}: {failure}");
        assert!(!failure.detail.contains("password"), "{failure}");
        assert_eq!(site.requests().len(), 1, "{location}");
    }
}

#[tokio::test]
async fn a_failure_behind_a_redirect_names_the_host_that_failed() {
    let names = FakeResolver::default().with("old.test", &[&[[127, 0, 0, 1].into()]]);
    let site = serve_bytes(&redirect("http://new.test/")).await;
    let fetcher = Fetcher::with_resolver(&config(&["127.0.0.0/8"]), names.shared()).unwrap();
    let url = Url::parse(&format!("http://old.test:{}/", site.address().port())).unwrap();
    let failure = fetcher.body(&url).await.unwrap_err();
    assert_eq!((failure.kind, failure.host.as_deref()), (FailureKind::Dns, Some("new.test")), "{failure}");
}
