//! The dashboard without a browser: what its pages hold, and what Redis lets them do.

use std::collections::{BTreeMap, BTreeSet};

use redis::Value;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::form_urlencoded::Serializer;
use wm_analyzer::job::{Job, JobId};
use wm_analyzer::queue::PauseName;
use wm_testbed::body::Body;
use wm_testbed::site::Resource;

use crate::harness::{Worker, World, env_var_name, key, until};

const RIGHTS: &str = include_str!("../../docs/deployers.md");
const PASSWORD: &str = "change-me";
/// What stands on a page in place of what Redis did not let it read.
const UNREAD: [&str; 6] =
    ["NOPERM", "may not do this", "Redis refuses", "cannot read", "did not answer", "not read in time"];

/// A running `wm-analyzer dash`; dropped, it is killed.
struct Dashboard {
    _process: Worker,
    address: String,
}

/// What it answered.
struct Reply {
    status: u16,
    location: String,
    text: String,
}

impl Dashboard {
    /// One on this queue that is set otherwise, once it listens.
    async fn start(world: &World, settings: &[(&str, &str)]) -> Self {
        let mut environment = world.settings.clone();
        environment.extend(settings.iter().map(|(key, value)| (env_var_name(key), (*value).to_owned())));
        let mut process = Worker::start_command(&["dash", "--bind", "127.0.0.1:0"], &environment);
        let mut address = None;
        until("the dashboard listens", async || {
            let printed = process.log_text();
            assert!(process.is_running(), "the dashboard ended: {printed}");
            let line = printed.lines().find_map(|line| line.strip_prefix("dashboard  http://"));
            address = line.map(|line| line.trim().trim_end_matches('/').to_owned());
            address.is_some()
        })
        .await;
        Self { _process: process, address: address.unwrap() }
    }

    /// One whose Redis user is one of those that the docs describe.
    async fn start_as(world: &World, user: &str) -> Self {
        let line = RIGHTS.lines().find(|line| line.starts_with(&format!("user {user} "))).unwrap();
        let words: Vec<_> = ["SETUSER"].into_iter().chain(line.split(' ').skip(1)).collect();
        world.redis_cmd::<()>("ACL", words).await;
        let url = format!("{}?user={user}&pass={PASSWORD}", world.redis.url());
        Self::start(world, &[("queue.url", &url)]).await
    }

    async fn ask(&self, request: String) -> Reply {
        let mut tcp = TcpStream::connect(&self.address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        let location = head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap_or_default();
        Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            location: location.to_owned(),
            text: text.to_owned(),
        }
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask(format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address)).await
    }

    /// A page that opens.
    async fn page(&self, path: &str) -> String {
        let Reply { status, text, .. } = self.get(path).await;
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    /// What one of its own pages would send.
    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let (form, host) = (query(fields), &self.address);
        let head = format!("POST {path} HTTP/1.0\r\nHost: {host}\r\nOrigin: http://{host}");
        let length = form.len();
        self.ask(format!(
            "{head}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{form}"
        ))
        .await
    }
}

fn query(fields: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// A worker that is stopped where it stands, and a job of each sort: done, dead of two kinds, waiting; and a pause.
async fn world_of_all_sorts() -> (World, Worker, Job) {
    let world = World::new().await;
    let worker = world.worker();
    let done = world.pair("done", 4_000);
    let page = || Body::html(&b"<!DOCTYPE html><p>A page."[..]);
    let gone: Vec<_> =
        ["gone-0", "gone-1", "gone-2"].map(|id| world.bodies(id, Resource::Status(404), page())).into();
    world.send(&[std::slice::from_ref(&done), &gone].concat()).await;
    world.push(&[b"no job"]).await;
    world.until_dead_letters(4).await;
    world.until_event(&done.id, "done").await;
    world.queue.operator.pause(&PauseName::default(), None, "me", "a look").await.unwrap();
    let waiting = [world.pair("waiting", 4_000)];
    let _ = world.queue.producer.enqueue(&waiting).await.unwrap();
    worker.signal(Signal::STOP);
    (world, worker, done)
}

/// `bad.test` as ten kills leave it.
async fn rest_as_held(world: &World) {
    world.redis_cmd::<()>("ZADD", &[&key("resting_hosts"), "9999999999999", "bad.test"]).await;
    let breaker = r#"{"failures":12,"kind":"quarantine"}"#;
    world.redis_cmd::<()>("HSET", &[&key("host_breakers"), "bad.test", breaker]).await;
}

/// All that the queue keeps, as Redis would move it elsewhere.
async fn all_keys(world: &World) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for name in world.keys("*").await {
        let dump: Option<Vec<u8>> = world.redis_cmd("DUMP", &name).await;
        all.extend(dump.map(|dump| (name, dump)));
    }
    all
}

/// The acts, each with the form that its page sends.
async fn acts(world: &World) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
    let (workers, _) = world.queue.operator.fleet().await.unwrap();
    let id = workers[0].info.id.to_string();
    let own = |text: &str| text.to_owned();
    vec![
        ("/acts/replay", vec![("q", own("gone-0")), ("reason", own("mended"))]),
        ("/acts/edit", vec![("id", own("gone-1")), ("edits", own("to.media_type=text/html"))]),
        ("/acts/discard", vec![("q", own("gone-2"))]),
        ("/acts/restore", vec![("q", own("state:trash"))]),
        ("/acts/cancel", vec![("q", own("waiting"))]),
        ("/switch/resume", vec![("name", own("default"))]),
        ("/switch/pause", vec![("name", own("mine")), ("time", own("5m"))]),
        ("/switch/rest-host", vec![("host", own("web.example.gov"))]),
        ("/switch/resume-host", vec![("host", own("web.example.gov"))]),
        ("/switch/set", vec![("name", own("backlog_max")), ("value", own("777"))]),
        ("/switch/quiet-worker", vec![("id", id.clone())]),
        ("/switch/stop-worker", vec![("id", id)]),
    ]
}

#[tokio::test]
async fn under_the_rights_of_dash_view_every_page_opens_and_no_act_changes_anything() {
    let (world, _worker, done) = world_of_all_sorts().await;
    rest_as_held(&world).await;
    let operation = world.run(&["dead", "discard", "kind:decode", "--yes"]).await.exited_with(0).stderr;
    let operation =
        operation.split_whitespace().find(|word| word.starts_with("discard-")).unwrap().to_owned();
    let dash = Dashboard::start_as(&world, "dash-view").await;
    world.redis_cmd::<()>("ACL", &["LOG", "RESET"]).await;
    let (from, to) = (done.from.given().unwrap().uuid(), done.to.uuid());
    let mut pages: Vec<_> = [
        "/",
        "/groups",
        "/hosts",
        "/workers",
        "/audit",
        "/settings",
        "/jobs",
        "/job?id=done",
        "/job?id=gone-0",
    ]
    .map(str::to_owned)
    .into();
    pages.push(format!("/change?from={from}&to={to}"));
    pages.push(format!("/operation?id={operation}"));
    for words in ["state:dead kind:gone", "state:ready", "state:trash", "state:in_flight,scheduled,exclusive"]
    {
        pages.push(format!("/jobs?{}", query(&[("q", words)])));
    }
    for sought in ["done", "nothing", &to.to_string()] {
        pages.push(format!("/find?{}", query(&[("q", sought)])));
    }
    let acts = acts(&world).await;
    for (path, fields) in &acts {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        pages.push(format!("{path}?{}", query(&fields)));
    }
    for path in &pages {
        let text = if path.starts_with("/find") { dash.get(path).await.text } else { dash.page(path).await };
        for word in UNREAD {
            assert!(!text.contains(word), "{path} says {word:?}: {text}");
        }
    }
    // A look tries a write that changes nothing, to hear whether Redis takes any.
    assert_eq!(denied_commands(&world).await, BTreeSet::from(["setrange".to_owned()]));

    let before = all_keys(&world).await;
    for (path, fields) in &acts {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = dash.post(path, &fields).await;
        assert_eq!(answer.status, 200, "{path} {}", answer.location);
        assert!(answer.text.contains("may not do this"), "{path}: {}", answer.text);
    }
    assert_eq!(all_keys(&world).await, before);
}

/// The commands that Redis denied, by its own log.
async fn denied_commands(world: &World) -> BTreeSet<String> {
    let log: Vec<BTreeMap<String, Value>> = world.redis_cmd("ACL", &["LOG", "100"]).await;
    log.iter().map(|entry| redis::from_redis_value(entry["object"].clone()).unwrap()).collect()
}

#[tokio::test]
async fn under_the_rights_of_dash_operate_every_act_is_done() {
    let (world, _worker, _) = world_of_all_sorts().await;
    let dash = Dashboard::start_as(&world, "dash-operate").await;
    for (path, fields) in acts(&world).await {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = dash.post(path, &fields).await;
        assert_eq!(answer.status, 303, "{path}: {}", answer.text);
        if answer.location.starts_with("/operation") {
            until(&format!("{path} is through"), async || {
                dash.page(&answer.location).await.contains("It is through")
            })
            .await;
        }
        assert!(dash.page("/").await.contains("wm-analyzer"));
    }
    assert_eq!(denied_commands(&world).await, BTreeSet::new());
    let dead: BTreeSet<_> = world.dead().await.into_iter().map(|letter| letter.id).collect();
    let gone_2 = JobId::parse("gone-2").unwrap();
    assert!(
        dead.len() == 2 && dead.contains(&gone_2),
        "the letter that is no job, and the restored one: {dead:?}"
    );
    let stored: String = world.redis_cmd("HGET", &[&key("meta"), "backlog_max"]).await;
    assert_eq!(stored, "777");
    let audit = world.run(&["audit", "ls"]).await.exited_with(0).stdout;
    for what in ["replay-", "discard-", "restore", "cancel", "resume", "pause mine", "set", "quiet", "stop"] {
        assert!(audit.contains(what), "{what}: {audit}");
    }
}

#[tokio::test]
async fn the_whole_diff_is_on_the_page_where_the_results_store_has_it_and_a_sentence_where_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = format!("file://{}", directory.path().display());
    let world = World::new().await.with("results.store", &store);
    let worker = world.worker();
    // 600 changes far apart, each with its number: more than a report has room for.
    let text = |word: &str| -> String {
        (0..600).map(|n| format!("<p>{} {word}{n} {}", "before ".repeat(20), "behind ".repeat(20))).collect()
    };
    let page = |word| Body::html(format!("<!DOCTYPE html>{}", text(word)).into_bytes());
    let many = world.bodies("many", page("old"), page("new"));
    let large = world.pair("large", 3_000_000);
    world.send(&[many.clone(), large.clone()]).await;
    for job in [&many, &large] {
        world.until_event(&job.id, "done").await;
    }
    worker.stop().await;
    let path = |job: &Job, rest: &str| {
        format!("/change?from={}&to={}{rest}", job.from.given().unwrap().uuid(), job.to.uuid())
    };

    let dash = Dashboard::start(&world, &[]).await;
    let short = dash.page(&path(&many, "")).await;
    assert!(short.contains("more that a report has no room for") && !short.contains("new599"), "{short}");
    assert!(short.contains("&amp;whole=1"), "{short}");
    for view in ["unified", "side"] {
        let whole = dash.page(&path(&many, &format!("&whole=1&view={view}"))).await;
        assert!(whole.contains("Text · all 1,200 changes"), "{whole}");
        assert!(whole.contains("old599") && whole.contains("new599"), "{whole}");
        assert!(!whole.contains("changes are shown"), "{whole}");
    }
    let too_large = dash.page(&path(&large, "&whole=1")).await;
    assert!(too_large.contains("too much for a page") && too_large.contains("--whole"), "{too_large}");
    assert!(too_large.contains(&store), "its address is shown");

    let elsewhere = Dashboard::start(&world, &[("results.store", "none")]).await;
    let said = elsewhere.page(&path(&many, "&whole=1")).await;
    assert!(said.contains("results.store is not set here"), "{said}");
    let report = world.report(&many).await.unwrap();
    let file = report["result"]["url"].as_str().unwrap().strip_prefix("file://").unwrap().to_owned();
    std::fs::write(&file, b"another").unwrap();
    assert!(dash.page(&path(&many, "&whole=1")).await.contains("the pair was analysed again"));
    std::fs::remove_file(&file).unwrap();
    assert!(dash.page(&path(&many, "&whole=1")).await.contains("the results store has no"));
}

#[tokio::test]
async fn a_results_store_that_does_not_answer_costs_the_page_a_second_and_no_more_than_the_whole_diff() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new().await.with("results.store", format!("file://{}", directory.path().display()));
    let worker = world.worker();
    let pair = world.pair("pair", 4_000);
    world.send(std::slice::from_ref(&pair)).await;
    world.until_event(&pair.id, "done").await;
    worker.stop().await;
    // Connections come in, and nobody takes them.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hangs.local_addr().unwrap());
    let bucket = [
        ("results.store", "s3://results/wm"),
        ("results.endpoint", &endpoint),
        ("results.access_key_id", "dash"),
        ("results.secret_access_key", "hunter2"),
    ];
    let dash = Dashboard::start(&world, &bucket).await;
    let (from, to) = (pair.from.given().unwrap().uuid(), pair.to.uuid());
    let text = dash.page(&format!("/change?from={from}&to={to}&whole=1")).await;
    assert!(text.contains("The results store did not answer in time"), "{text}");
    assert!(text.contains("Priority") && text.contains("The two versions"), "the rest is there: {text}");
    assert!(!text.contains("hunter2"));
}

#[tokio::test]
async fn a_diff_that_is_larger_than_a_page_is_cut_with_its_count() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new().await.with("results.store", format!("file://{}", directory.path().display()));
    let worker = world.worker();
    let text = |word: &str| -> String {
        (0..1500).map(|n| format!("<p>{word}{n} {}", "same ".repeat(40))).collect()
    };
    let page = |word| Body::html(format!("<!DOCTYPE html>{}", text(word)).into_bytes());
    let many = world.bodies("many", page("old"), page("new"));
    world.send(std::slice::from_ref(&many)).await;
    world.until_event(&many.id, "done").await;
    worker.stop().await;
    let dash = Dashboard::start(&world, &[]).await;
    let (from, to) = (many.from.given().unwrap().uuid(), many.to.uuid());
    let whole = dash.page(&format!("/change?from={from}&to={to}&whole=1")).await;
    assert!(whole.contains("Text · all 3,000 changes"), "{whole}");
    assert!(whole.contains("2,000 of 3,000 changes are shown; the command below has all"), "{whole}");
    assert!(whole.contains("new0") && !whole.contains("new1499"));
}

#[tokio::test]
async fn what_the_overview_calls_wrong_is_what_status_says() {
    let world = World::new().await.with("queue.dead_max_count", "4");
    let worker = world.worker();
    let page = || Body::html(&b"<!DOCTYPE html><p>A page."[..]);
    let gone: Vec<_> =
        (0..4).map(|n| world.bodies(&format!("gone-{n}"), Resource::Status(404), page())).collect();
    world.send(&gone).await;
    world.until_dead_letters(4).await;
    worker.stop().await;
    world.redis_cmd::<()>("CONFIG", &["SET", "maxmemory-policy", "allkeys-lru"]).await;
    let dash = Dashboard::start(&world, &[]).await;
    let overview = dash.page("/").await;
    let status = world.run_with_env(&[("COLUMNS", "400")], &["status"]).await;
    let printed = format!("{}{}", status.stdout, status.stderr);
    let banners = overview.split(r#"role="alert">"#).skip(1);
    let sentences: Vec<_> = banners.filter_map(|rest| rest.split('<').next()).collect();
    assert!(
        sentences.iter().any(|sentence| sentence.contains("dead letters at 100 % of their cap")),
        "{overview}"
    );
    assert!(sentences.len() > 1, "{sentences:?}");
    for sentence in sentences {
        assert!(printed.contains(sentence.trim_end_matches(": ")), "{sentence:?} is not in {printed}");
    }
}

#[tokio::test]
async fn a_held_host_is_lifted_from_its_page_and_a_setting_is_changed_from_its_row() {
    let (world, _worker, _) = world_of_all_sorts().await;
    rest_as_held(&world).await;
    let dash = Dashboard::start(&world, &[]).await;
    for page in ["/", "/hosts"] {
        let text = dash.page(page).await;
        assert!(text.contains("/switch/lift-quarantine?host=bad.test"), "{page}: {text}");
    }
    let settings = dash.page("/settings").await;
    assert!(settings.contains("/switch/set?name=backlog_max&amp;value=100000"), "{settings}");
    let lifted = dash.post("/switch/lift-quarantine", &[("host", "bad.test")]).await;
    assert_eq!((lifted.status, lifted.location.as_str()), (303, "/hosts"), "{}", lifted.text);
    assert!(dash.page("/hosts").await.contains("No host is held"));
    let again = dash.post("/switch/lift-quarantine", &[("host", "bad.test")]).await;
    assert!(again.text.contains("bad.test is not held; nothing changed"), "{}", again.text);

    let looks = Dashboard::start(&world, &[("dash.role", "view")]).await;
    assert!(!looks.page("/settings").await.contains("/switch/"));
    assert!(!looks.page("/hosts").await.contains("/switch/"));
}

#[tokio::test]
async fn the_page_of_a_job_leads_to_its_alert_in_sentry_which_has_its_id_as_a_tag() {
    let world = World::new().await;
    let worker = world.worker();
    let page = || Body::html(&b"<!DOCTYPE html><p>A page."[..]);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let gone = Job {
        traceparent: Some(trace.to_owned()),
        ..world.bodies("import:7", Resource::Status(404), page())
    };
    world.send(std::slice::from_ref(&gone)).await;
    world.until_dead_letters(1).await;
    worker.stop().await;
    let events = world.sentry.events();
    assert!(events.iter().any(|event| event["tags"]["job"] == "import:7"), "{events:#?}");

    let search = "https://sentry.example.org/organizations/acme/issues/?query=job:{job}";
    let dash = Dashboard::start(&world, &[("dash.sentry", search)]).await;
    let text = dash.page("/job?id=import%3A7").await;
    let link = r#"href="https://sentry.example.org/organizations/acme/issues/?query=job:import%3A7""#;
    assert!(text.contains(link), "{text}");
    assert!(text.contains(trace), "{text}");
    let without = Dashboard::start(&world, &[]).await;
    assert!(!without.page("/job?id=import%3A7").await.contains("Sentry"));
    let refused = world.run_with(&[("dash.sentry", "javascript:{job}")], &["config", "check"]).await;
    refused.exited_with(78).stderr_contains(&["dash.sentry", "write https://"]);
}

#[tokio::test]
async fn another_site_may_link_to_pages_and_embed_or_fetch_none() {
    let world = World::new().await;
    let dash = Dashboard::start(&world, &[]).await;
    for (mode, dest, status) in [
        ("no-cors", "image", 403),
        ("cors", "empty", 403),
        ("navigate", "iframe", 403),
        ("navigate", "document", 200),
    ] {
        for path in ["/", "/events", "/acts/replay?q=state%3Adead", "/favicon.ico"] {
            if (path, status) == ("/events", 200) {
                continue;
            }
            let head = format!("GET {path} HTTP/1.0\r\nHost: {}\r\nSec-Fetch-Site: cross-site", dash.address);
            let fetch = format!("Sec-Fetch-Mode: {mode}\r\nSec-Fetch-Dest: {dest}");
            let answer = dash.ask(format!("{head}\r\n{fetch}\r\n\r\n")).await;
            assert_eq!(answer.status, status, "{path} {mode} {dest}: {}", answer.text);
        }
    }
}

/// The name of the plan that this page shows.
async fn plan_of(dash: &Dashboard, path: &str, fields: &[(&str, &str)]) -> String {
    let asked = format!("{path}?{}", query(fields));
    let mut plan = None;
    until("the plan is shown", async || {
        let text = dash.page(&asked).await;
        plan = text
            .split(r#"name="plan" value=""#)
            .nth(1)
            .and_then(|rest| rest.split('"').next().map(str::to_owned));
        plan.is_some()
    })
    .await;
    plan.unwrap()
}

#[tokio::test]
async fn the_page_of_one_act_does_not_carry_out_the_plan_of_another() {
    let (world, _worker, _) = world_of_all_sorts().await;
    let dash = Dashboard::start(&world, &[]).await;
    let plan = plan_of(&dash, "/acts/discard", &[("q", "gone-0")]).await;
    let restored = dash.post("/acts/restore", &[("q", "gone-0"), ("plan", &plan)]).await;
    assert_eq!(restored.status, 200, "{}", restored.location);
    assert!(restored.text.contains("nothing changed"), "{}", restored.text);
    assert!(world.dead().await.iter().any(|letter| letter.id.as_str() == "gone-0"));
    let discarded = dash.post("/acts/discard", &[("q", "gone-0"), ("plan", &plan)]).await;
    assert!(discarded.location.starts_with("/operation?id=discard-"), "{}", discarded.text);
}

#[tokio::test]
async fn commands_to_copy_hold_what_was_typed_as_words_and_no_page_of_a_list_is_behind_its_end() {
    let (world, _worker, _) = world_of_all_sorts().await;
    let dash = Dashboard::start(&world, &[]).await;
    let typed = "state:dead;reboot\nreboot";
    for (path, command) in [
        (format!("/jobs?{}", query(&[("q", typed)])), "job ls &#39;state:dead;reboot&#39; reboot"),
        (format!("/operation?{}", query(&[("id", "x;reboot")])), "audit show &#39;x;reboot&#39;"),
    ] {
        let text = dash.page(&path).await.replace('\'', "&#39;");
        assert!(text.contains(command), "{command}: {text}");
    }
    for skip in ["4", "18446744073709551615"] {
        let text = dash.page(&format!("/jobs?q=state%3Adead&skip={skip}")).await;
        assert!(text.contains("4 match, and none was found behind the first"), "{text}");
    }
    let edits = "to.media_type=text/html\n".repeat(21);
    let refused = dash.post("/acts/edit", &[("id", "gone-1"), ("edits", &edits)]).await;
    assert!(refused.text.contains("21 fields: at most 20"), "{}", refused.text);
}
