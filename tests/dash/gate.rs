//! Who comes in, from where, with which right: over HTTP, without a browser.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use wm_testbed::redis::RedisOptions;

use crate::client::encoded;
use crate::harness::{TIMEOUT, World, until};
use crate::world::Dashboard;

const VIEW: &str = "a-token-for-looking";
const OPERATE: &str = "a-token-for-acting-too";

/// Every page, with what it needs to be one.
pub(crate) const PAGES: [&str; 28] = [
    "/",
    "/groups",
    "/jobs",
    "/jobs?q=state%3Adead",
    "/job?id=a-job",
    "/change?from=00000000-0000-4000-8000-000000000000&to=00000000-0000-4000-8000-000000000001",
    "/results?state=skipped&why=content",
    "/find?q=something",
    "/settings",
    "/hosts",
    "/workers",
    "/audit",
    "/operation?id=op-0000",
    "/acts/replay?q=state%3Adead",
    "/acts/edit?id=a-job",
    "/acts/discard?q=kind%3Agone",
    "/acts/restore?q=a-job",
    "/acts/cancel?q=a-job",
    "/acts/resume?id=op-0000",
    "/acts/undo?id=op-0000",
    "/acts/restore-all?id=op-0000",
    "/switch/pause",
    "/switch/resume",
    "/switch/rest-host",
    "/switch/resume-host",
    "/switch/quiet-worker",
    "/switch/stop-worker",
    "/switch/set",
];

/// Every route that changes something, with a form that would.
const ACTS: [(&str, &[(&str, &str)]); 16] = [
    ("/acts/replay", &[("q", "state:dead"), ("reason", "x")]),
    ("/acts/edit", &[("id", "a-job"), ("edits", "to.media_type=text/html")]),
    ("/acts/discard", &[("q", "state:dead")]),
    ("/acts/restore", &[("q", "state:trash")]),
    ("/acts/cancel", &[("q", "state:waiting")]),
    ("/acts/resume", &[("id", "op-0000")]),
    ("/acts/undo", &[("id", "op-0000")]),
    ("/acts/restore-all", &[("id", "op-0000")]),
    ("/switch/pause", &[("reason", "x")]),
    ("/switch/resume", &[("name", "default")]),
    ("/switch/rest-host", &[("host", "web.example.gov"), ("reason", "x")]),
    ("/switch/resume-host", &[("host", "web.example.gov")]),
    ("/switch/quiet-worker", &[("id", "w1")]),
    ("/switch/stop-worker", &[("id", "w1")]),
    ("/switch/set", &[("name", "queue.backlog_max"), ("value", "10")]),
    ("/operation/stop", &[("id", "op-0000")]),
];

/// A dashboard on an empty queue, with these settings.
async fn dashboard(settings: &[(&str, &str)]) -> (World, Dashboard) {
    let mut world = World::new().await;
    for (key, value) in settings {
        world = world.with(key, *value);
    }
    let dashboard = Dashboard::start(&world, &[]).await;
    (world, dashboard)
}

const TOKENS: [(&str, &str); 2] = [("dash.view_token", VIEW), ("dash.operate_token", OPERATE)];

/// Fails where anything was changed, or tried and recorded.
async fn assert_untouched(world: &World) {
    let status = world.run(&["status", "-o", "json"]).await.json();
    assert_eq!(status["pauses"], serde_json::json!([]), "{status:#}");
    let audit = world.run(&["audit", "ls", "-o", "json"]).await.json();
    assert_eq!(audit["total"], 0, "{audit:#}");
}

#[tokio::test]
async fn only_configured_host_names_are_answered_on_any_port() {
    let (_world, dashboard) = dashboard(&[("dash.hosts", "dash.example.org")]).await;
    let own = dashboard.address().to_string();
    let table: [(&[&str], u16); 19] = [
        (&[&own], 200),
        (&["127.0.0.1"], 200),
        (&["localhost"], 200),
        (&["localhost:1"], 200),
        (&["LOCALHOST:8090"], 200),
        (&["[::1]:8090"], 200),
        (&["dash.example.org"], 200),
        (&["Dash.Example.org:443"], 200),
        (&[], 421),
        (&[""], 421),
        (&["evil.test"], 421),
        (&["localhost."], 421),
        (&["localhost.evil.test"], 421),
        (&["dash.example.org.evil.test"], 421),
        (&["evil.test:127.0.0.1"], 421),
        (&["127.0.0.2"], 421),
        (&["0.0.0.0"], 421),
        (&["localhost", "localhost"], 421),
        (&["evil.test", "localhost"], 421),
    ];
    for (hosts, status) in table {
        let headers: Vec<(&str, &str)> = hosts.iter().map(|host| ("Host", *host)).collect();
        for path in ["/", "/login", "/audit", "/favicon.ico", "/no-such-page"] {
            let expected = if path == "/no-such-page" && status == 200 { 404 } else { status };
            let answer = dashboard.send("GET", path, &headers, "").await;
            assert_eq!(answer.status, expected, "{path} of {hosts:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn no_act_is_done_for_a_page_of_another_site() {
    let (world, dashboard) = dashboard(&[]).await;
    let host = dashboard.address().to_string();
    let other_port = format!("http://{}:1", dashboard.address().ip());
    let own = format!("http://{host}");
    let refused: [&[(&str, &str)]; 9] = [
        &[],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site"), ("Origin", &own)],
        &[("Sec-Fetch-Site", "none")],
        &[("Origin", "http://evil.test")],
        &[("Origin", "null")],
        &[("Origin", &other_port)],
        &[("Origin", "http://evil.test"), ("Sec-Fetch-Site", "same-origin")],
        &[("Origin", "https://evil.test"), ("Authorization", "Bearer x")],
    ];
    let acts = ACTS.iter().copied().chain([("/login", &[("token", "x")][..]), ("/logout", &[])]);
    for (path, form) in acts {
        for headers in refused {
            let typed = [("Host", host.as_str()), ("Content-Type", "application/x-www-form-urlencoded")];
            let headers = [&typed, headers].concat();
            for method in ["POST", "PUT", "DELETE"] {
                let answer = dashboard.send(method, path, &headers, &encoded(form)).await;
                assert_eq!(answer.status, 403, "{method} {path} {headers:?}: {answer:?}");
                assert!(answer.body.contains("does not come from a page of this dashboard"), "{answer:?}");
            }
        }
    }
    assert_untouched(&world).await;
    dashboard.post("/switch/pause", &[], &[("reason", "its own page")]).await.is(303);
    let status = world.run(&["status", "-o", "json"]).await.json();
    assert_eq!(status["pauses"][0]["reason"], "its own page", "{status:#}");
}

#[tokio::test]
async fn no_get_changes_anything() {
    let (world, dashboard) = dashboard(&[]).await;
    for (path, form) in ACTS {
        let answer = dashboard.get(&format!("{path}?{}", encoded(form)), &[]).await;
        assert!([200, 405].contains(&answer.status), "{path}: {answer:?}");
    }
    assert_untouched(&world).await;
}

#[tokio::test]
async fn every_page_and_every_act_asks_for_a_token_and_a_token_for_looking_does_nothing() {
    let (world, dashboard) = dashboard(&TOKENS).await;
    let bearer = |token: &str| format!("Bearer {token}");
    let (view, wrong) = (bearer(VIEW), bearer("a-token-of-somebody"));
    for page in PAGES.iter().copied().chain(["/events"]) {
        let host = dashboard.address().to_string();
        for anonymous in [&[][..], &[("Authorization", wrong.as_str())], &[("Authorization", "Bearer ")]] {
            let headers = [&[("Host", host.as_str())], anonymous].concat();
            dashboard.send("GET", page, &headers, "").await.is(401);
            let to_login = dashboard.get(page, anonymous).await.is(303);
            assert!(to_login.header("location").unwrap().starts_with("/login?next=%2F"), "{to_login:?}");
        }
        if page != "/events" {
            let seen = dashboard.get(page, &[("Authorization", &view)]).await.is(200);
            for act in [">Pause…<", ">Try 5…<", "method=\"post\" action=\"/acts"] {
                assert!(!seen.body.contains(act), "{act} on {page}: {seen:?}");
            }
        }
    }
    for (path, form) in ACTS {
        dashboard.post(path, &[], form).await.is(401);
        dashboard.post(path, &[("Authorization", &view)], form).await.is(403).says("your role is view");
    }
    assert_untouched(&world).await;
    for (path, form) in ACTS {
        let answer = dashboard.post(path, &[("Authorization", &bearer(OPERATE))], form).await;
        assert!([200, 303].contains(&answer.status), "{path}: {answer:?}");
    }
    let audit = world.run(&["audit", "ls"]).await.exited_with(0).stdout;
    assert!(audit.contains("bearer of a token"), "{audit}");
}

#[tokio::test]
async fn a_login_is_a_cookie_that_scripts_and_other_sites_cannot_use_and_ends_with_the_logout() {
    let (world, dashboard) = dashboard(&TOKENS).await;
    let wrong = dashboard.post("/login", &[], &[("token", "a-token-of-somebody"), ("name", "mallory")]).await;
    assert_eq!(wrong.is(403).header("set-cookie"), None);
    let typed = [("token", OPERATE), ("name", "ada"), ("next", "/jobs?q=state%3Adead")];
    let answer = dashboard.post("/login", &[], &typed).await.is(303);
    assert_eq!(answer.header("location"), Some("/jobs?q=state%3Adead"));
    let cookie = answer.header("set-cookie").unwrap();
    for attribute in ["; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=43200"] {
        assert!(cookie.contains(attribute), "{attribute} is not in {cookie}");
    }
    let cookie = cookie.split(';').next().unwrap();
    dashboard.get("/", &[("Cookie", cookie)]).await.is(200).says("ada · operate").says("Log out");
    dashboard.post("/switch/pause", &[("Cookie", cookie)], &[("reason", "an upgrade")]).await.is(303);
    let audit = world.run(&["audit", "ls"]).await.exited_with(0).stdout;
    assert!(audit.contains("ada") && audit.contains("an upgrade"), "{audit}");
    let ended = dashboard.post("/logout", &[("Cookie", cookie)], &[]).await.is(303);
    assert!(ended.header("set-cookie").unwrap().contains("Max-Age=0"), "{ended:?}");
    dashboard.get("/", &[("Cookie", cookie)]).await.is(303);
    for (next, leads_to) in
        [("//evil.test", "/"), ("/\\evil.test", "/"), ("https://evil.test/", "/"), ("/audit", "/audit")]
    {
        let answer = dashboard.post("/login", &[], &[("token", VIEW), ("next", next)]).await.is(303);
        assert_eq!(answer.header("location"), Some(leads_to), "{next}");
    }
}

#[tokio::test]
async fn tokens_are_not_tried_at_the_rate_of_a_machine() {
    let (_world, dashboard) = dashboard(&TOKENS).await;
    let mut statuses = Vec::new();
    for _ in 0..31 {
        statuses.push(dashboard.post("/login", &[], &[("token", "a-token-of-somebody")]).await.status);
    }
    assert_eq!(statuses[..30], [403; 30]);
    assert_eq!(statuses[30], 429);
    let right = dashboard.post("/login", &[], &[("token", VIEW)]).await.is(429);
    assert_eq!(right.header("set-cookie"), None);
    // Who is in stays in.
    dashboard.get("/", &[("Authorization", &format!("Bearer {VIEW}"))]).await.is(200);
}

#[tokio::test]
async fn other_machines_are_let_in_only_where_they_are_asked_who_they_are() {
    let world = World::new().await;
    for bind in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = world.run(&["dash", "--bind", bind]).await.exited_with(78);
        refused.stderr_contains(&["dash.bind", "dash.view_token"]);
    }
    let short = world.run_with(&[("dash.view_token", "short")], &["dash"]).await.exited_with(78);
    let said = short.stderr_contains(&["dash.view_token"]).stderr;
    assert!(!said.contains("short\""), "{said}");
}

#[tokio::test]
async fn the_name_of_a_user_is_believed_from_the_configured_proxy_alone() {
    let header = ("X-Forwarded-User", "ada@example.org");
    let behind = |proxies| [("dash.user_header", "X-Forwarded-User"), ("dash.proxies", proxies)];
    let (_world, dashboard_elsewhere) = dashboard(&behind("192.0.2.0/24")).await;
    dashboard_elsewhere.get("/", &[header]).await.is(303);
    dashboard_elsewhere.post("/switch/pause", &[header], &[]).await.is(401);

    let (world, dashboard) = dashboard(&behind("127.0.0.0/8")).await;
    dashboard.get("/", &[]).await.is(303);
    dashboard.get("/", &[("X-Forwarded-User", " ")]).await.is(303);
    dashboard.get("/", &[header]).await.is(200).says("ada@example.org · operate");
    dashboard.post("/switch/pause", &[header], &[("reason", "an upgrade")]).await.is(303);
    let audit = world.run(&["audit", "ls"]).await.exited_with(0).stdout;
    assert!(audit.contains("ada@example.org"), "{audit}");
}

#[tokio::test]
async fn every_response_tells_the_browser_to_run_frame_keep_and_send_nothing() {
    let (_world, dashboard) = dashboard(&TOKENS).await;
    let token = format!("Bearer {VIEW}");
    let known = [("Authorization", token.as_str())];
    let host = dashboard.address().to_string();
    let mut answers = vec![
        dashboard.get("/", &[]).await.is(303),
        dashboard.get("/login", &[]).await.is(200),
        dashboard.get("/no-such-page", &known).await.is(404),
        dashboard.get("/job", &known).await.is(400),
        dashboard.get("/acts/no-such-act", &known).await.is(400),
        dashboard.send("GET", "/", &[("Host", "evil.test")], "").await.is(421),
        dashboard.send("GET", "/", &[("Host", &host)], "").await.is(401),
        dashboard.send("POST", "/login", &[("Host", &host)], "").await.is(403),
        dashboard.send("TRACE", "/", &[("Host", &host)], "").await.is(403),
    ];
    for page in PAGES {
        answers.push(dashboard.get(page, &known).await.is(200));
    }
    for answer in &answers {
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("base-uri 'none'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("data:"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}: {answer:?}");
        }
        for page in [VIEW, OPERATE] {
            assert!(!answer.body.contains(page), "{answer:?}");
        }
    }
    let icon = dashboard.get("/favicon.ico", &[]).await.is(200);
    assert_eq!(icon.header("content-type"), Some("image/svg+xml"));
    assert!(icon.header("content-security-policy").is_some());
}

#[tokio::test]
async fn no_secret_of_the_configuration_is_on_any_page() {
    let world = World::with_redis_options(RedisOptions::default().tcp()).await;
    let _: () = world.redis_cmd("CONFIG", &["SET", "requirepass", "geheim-redis"]).await;
    let url = format!("redis://:geheim-redis@127.0.0.1:{}/", world.redis.port());
    let world = world.with("queue.url", url).with("dash.operate_token", "geheim-operate-token");
    let world = world.with("api.token", "geheim-api").with("sentry.dsn", "https://geheim-dsn@127.0.0.1/1");
    let dashboard = Dashboard::start(&world, &[]).await;
    for page in PAGES {
        let answer = dashboard.get(page, &[("Authorization", "Bearer geheim-operate-token")]).await.is(200);
        assert!(!answer.body.contains("geheim"), "{page}: {answer:?}");
    }
    let said = dashboard.process.log_text();
    assert!(!said.contains("geheim"), "{said}");
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_and_the_pages_go_on() {
    let (world, dashboard) = dashboard(&[]).await;
    let host = dashboard.address();
    let head = format!(
        "POST /switch/pause HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n"
    );
    let form = format!("reason={}", "x".repeat(128 * 1024 - 6));
    let length = form.len();
    dashboard.send_raw(format!("{head}Content-Length: {length}\r\n\r\n{form}").as_bytes()).await.is(413);
    // A client that goes on sending headers gets no answer.
    let mut tcp = TcpStream::connect(host).await.unwrap();
    let _ = tcp.write_all(format!("{head}X-Long: {}", "x".repeat(600 * 1024)).as_bytes()).await;
    let closed = timeout(TIMEOUT, tcp.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "it is still open");
    assert_untouched(&world).await;
    dashboard.get("/", &[]).await.is(200);
}

#[tokio::test]
async fn idle_clients_are_closed_and_others_are_served() {
    let (_world, dashboard) = dashboard(&[]).await;
    let mut idle = Vec::new();
    // More than one address may have.
    for _ in 0..450 {
        let mut tcp = TcpStream::connect(dashboard.address()).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: local").await.unwrap();
        idle.push(tcp);
    }
    let begun = Instant::now();
    dashboard.get("/login", &[]).await.is(200);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let mut last = idle.pop().unwrap();
    let mut answer = Vec::new();
    let _ = timeout(TIMEOUT, last.read_to_end(&mut answer)).await.expect("it is closed");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    until("all of them are closed", async || {
        let descriptors = format!("/proc/{}/fd", dashboard.process.pid());
        std::fs::read_dir(descriptors).unwrap().count() < 50
    })
    .await;
}
