//! Clocks that really jump: the server's or the worker's, each told its time by libfaketime, while jobs are in flight.
//!
//! Only the time of day jumps. How long something took, no process may take from that.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use wm_analyzer::job::Job;
use wm_testbed::db_app::{DbState, FakeDb};
use wm_testbed::peers::skip_without;
use wm_testbed::redis::RedisOptions;

use crate::harness::{GatedSite, Worker, World, job, key, until};

/// A time of day that is everybody's plus so much, for processes with its environment.
struct FakeClock {
    variables: [(&'static str, String); 4],
    file: PathBuf,
    _home: tempfile::TempDir,
}

impl FakeClock {
    /// A clock that is right; `None`, which is said, where there is no libfaketime.
    fn accurate() -> Option<Self> {
        let Some(library) = library() else {
            skip_without("libfaketime");
            return None;
        };
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("offset");
        let variables = [
            // With libc's own malloc: a server's jemalloc asks for the time before libfaketime can tell it.
            ("LD_PRELOAD", format!("{} libc.so.6", library.display())),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap().to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        let clock = Self { variables, file, _home: home };
        clock.set_offset("+0s");
        Some(clock)
    }

    /// Sets it, for all its processes at once.
    fn set_offset(&self, offset: &str) {
        let next = self.file.with_extension("next");
        fs::write(&next, offset).unwrap();
        fs::rename(next, &self.file).unwrap();
    }

    /// The environment of its processes.
    fn variables(&self) -> [(&str, &str); 4] {
        self.variables.each_ref().map(|(name, value)| (*name, value.as_str()))
    }
}

fn library() -> Option<PathBuf> {
    let mut places = fs::read_dir("/usr/lib").ok()?.flatten();
    places
        .find_map(|place| Some(place.path().join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists()))
}

/// A process that is killed leaves behind two files in which libfaketime keeps it and its children in step: they are
/// removed while it runs, when it has opened them.
fn remove_faketime_files(pid: u32) {
    for file in [format!("/dev/shm/faketime_shm_{pid}"), format!("/dev/shm/sem.faketime_sem_{pid}")] {
        let _ = fs::remove_file(file);
    }
}

async fn server_time(world: &World) -> OffsetDateTime {
    let (seconds, _micros): (i64, i64) = world.redis_cmd("TIME", &[""; 0]).await;
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

/// A time in the queue's own notes.
async fn meta_time(world: &World, field: &str) -> OffsetDateTime {
    let ms: Option<i64> = world.redis_cmd("HGET", &[&key("meta"), field]).await;
    OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(ms.unwrap_or_default())
}

/// A live worker with its hands full, two jobs whose workers died, some that wait and one whose time is to come.
struct ClockScenario {
    world: World,
    db: FakeDb,
    gate: GatedSite,
    worker: Worker,
    /// Taken over before the clock jumps: it waits for its turn alone.
    suspect: Job,
    /// Nobody has missed its worker yet.
    orphan: Job,
    in_flight: Vec<Job>,
    waits: Vec<Job>,
    later: Job,
}

impl ClockScenario {
    async fn start(options: RedisOptions, worker_variables: &[(&str, &str)]) -> Self {
        let db = FakeDb::with(DbState::default()).await;
        let world = World::with_redis_options(options)
            .await
            .with("queue.lease", "2s")
            .with("api.url", format!("http://{}", db.address()))
            .with("api.email", "analyst@db.test")
            .with("api.password", "hunter2")
            .with("api.post", "post")
            // What it holds is at the gate, and all else waits.
            .with("fetch.in_flight_max", "2");
        let gate = GatedSite::closed().await;
        let page = Some(Uuid::new_v4());
        let held = |name: &str| Job { page, ..job(name, gate.url(&format!("/{name}")), world.page()) };
        let (suspect, orphan) = (held("suspect"), held("orphan"));
        let in_flight = vec![held("held-0"), held("held-1")];
        let waits =
            (0..4).map(|n| Job { page, ..world.pair(&format!("waits-{n}"), 4_000) }).collect::<Vec<_>>();
        let in_half_an_hour = server_time(&world).await + Duration::minutes(30);
        let later = Job { page, run_at: Some(in_half_an_hour), ..world.pair("later", 4_000) };

        let mut doomed = Vec::new();
        for (n, job) in [&suspect, &orphan].into_iter().enumerate() {
            world.send(std::slice::from_ref(job)).await;
            doomed.push(world.worker_with(&[("fetch.in_flight_max", "1")]));
            gate.until_requested(n as u64 + 1).await;
        }
        world.send(&in_flight).await;
        let worker = world.worker_with_env(worker_variables);
        gate.until_requested(4).await;
        world.send(&waits).await;
        world.send(std::slice::from_ref(&later)).await;
        until("all wait", async || {
            let status = world.queue.status().await.unwrap();
            (status.ready, status.scheduled) == (4, 1)
        })
        .await;
        doomed[0].signal(Signal::KILL);
        world.until_event(&suspect.id, "reclaimed").await;
        doomed[1].signal(Signal::KILL);
        // It may have looked after the queue: where the clock falls back its turn would last as much longer.
        world.redis_cmd::<()>("DEL", &[key("looker")]).await;
        Self { world, db, gate, worker, suspect, orphan, in_flight, waits, later }
    }

    /// Waits until the grace period that a jump begins is over, and whoever is to blame has been found.
    async fn until_grace_period_over(&self, jumped: OffsetDateTime) {
        let soon = jumped..jumped + Duration::minutes(10);
        until("the jump was noticed", async || {
            soon.contains(&meta_time(&self.world, "tick_ms").await)
                && soon.contains(&meta_time(&self.world, "grace_until_ms").await)
        })
        .await;
        let end = meta_time(&self.world, "grace_until_ms").await;
        until("the grace period is over", async || meta_time(&self.world, "tick_ms").await > end).await;
    }

    /// What is in flight is still in the same hands, and nobody was blamed for it.
    async fn assert_no_crash_charged(&self) {
        for job in &self.in_flight {
            assert_eq!(self.world.job_events(&job.id).await, [""; 0], "{}", job.id);
            assert_eq!(self.world.field(&job.id, "crashes").await, None, "{}", job.id);
            assert_eq!(self.world.field(&job.id, "deliveries").await.as_deref(), Some("1"), "{}", job.id);
        }
    }

    /// The gate opens: all but the one whose time is to come are done.
    async fn finish_jobs(&self) {
        self.gate.open();
        let now = self.in_flight.iter().chain(&self.waits).chain([&self.suspect, &self.orphan]);
        for job in now {
            self.world.until_event(&job.id, "done").await;
        }
    }

    /// How far the worker's clock was off when it said that a job is done.
    async fn clock_skew_when_done(&self, job: &Job) -> Duration {
        let line = || self.worker.log_lines("done").into_iter().find(|line| line["job"] == job.id.as_str());
        until("it is said to be done", async || line().is_some()).await;
        let said = line().unwrap()["time"].as_str().unwrap().to_owned();
        OffsetDateTime::parse(&said, &Rfc3339).unwrap() - OffsetDateTime::now_utc()
    }

    /// Each was done once, posted once, and fetched once for each worker that had it; the books are closed.
    async fn assert_settled(self) {
        self.world.until_event(&self.later.id, "done").await;
        for job in self.in_flight.iter().chain(&self.waits).chain([&self.later]) {
            assert_eq!(self.world.job_events(&job.id).await, ["done"], "{}", job.id);
        }
        for job in [&self.suspect, &self.orphan] {
            assert_eq!(self.world.job_events(&job.id).await, ["reclaimed", "done"], "{}", job.id);
        }
        let all = self.in_flight.iter().chain(&self.waits).chain([&self.later, &self.suspect, &self.orphan]);
        let mut posts = self.db.posts();
        for job in all {
            let change = format!("{}..{}/", job.from.given().unwrap().uuid(), job.to.uuid());
            let before = posts.len();
            posts.retain(|line| !line.contains(&change));
            assert_eq!(before - posts.len(), 1, "{}: told once", job.id);
        }
        assert_eq!(posts, [""; 0], "and nothing else");
        assert_eq!(self.gate.requests(), 6, "twice only what a worker vanished with");
        let status = self.world.queue.status().await.unwrap();
        assert_eq!(status.inbox + status.backlog() + status.in_flight + status.dead, 0, "{status:?}");
        assert_eq!(self.world.keys("unique:*").await, [""; 0]);
        assert_eq!(self.world.sentry.alerts(), 0, "{:?}", self.world.sentry.fingerprints());
        self.worker.stop().await;
    }
}

async fn jumps_ahead(offset: &str, by: Duration) {
    let Some(clock) = FakeClock::accurate() else { return };
    let scenario = ClockScenario::start(redis_options_under(&clock), &[]).await;
    remove_faketime_files(scenario.world.redis.pid().unwrap());
    let before = server_time(&scenario.world).await;
    clock.set_offset(offset);
    let jumped = server_time(&scenario.world).await;
    assert!(jumped - before >= by, "it jumped: {before} to {jumped}");
    scenario.until_grace_period_over(jumped).await;
    scenario.assert_no_crash_charged().await;
    scenario.finish_jobs().await;
    scenario.assert_settled().await;
}

/// A server whose time is that clock's.
fn redis_options_under(clock: &FakeClock) -> RedisOptions {
    clock
        .variables()
        .into_iter()
        .fold(RedisOptions::default(), |options, (name, value)| options.env(name, value))
}

#[tokio::test]
async fn when_the_servers_clock_leaps_an_hour_ahead_nobody_alive_is_blamed_and_each_job_is_done_once() {
    jumps_ahead("+1h", Duration::hours(1)).await;
}

#[tokio::test]
async fn when_the_servers_clock_leaps_a_day_ahead_nobody_alive_is_blamed_and_each_job_is_done_once() {
    jumps_ahead("+1d", Duration::days(1)).await;
}

#[tokio::test]
async fn when_the_servers_clock_falls_back_an_hour_only_what_has_a_time_of_its_own_waits_for_it() {
    let Some(clock) = FakeClock::accurate() else { return };
    let scenario = ClockScenario::start(redis_options_under(&clock), &[]).await;
    remove_faketime_files(scenario.world.redis.pid().unwrap());
    let before = server_time(&scenario.world).await;
    clock.set_offset("-1h");
    let jumped = server_time(&scenario.world).await;
    assert!(before - jumped >= Duration::minutes(59), "it jumped: {before} to {jumped}");
    scenario.until_grace_period_over(jumped).await;
    scenario.assert_no_crash_charged().await;
    scenario.finish_jobs().await;
    let status = scenario.world.queue.status().await.unwrap();
    assert_eq!(
        (status.scheduled, status.backlog()),
        (1, 1),
        "it was to run at a time that is now further away"
    );
    clock.set_offset("+31m");
    scenario.assert_settled().await;
}

#[tokio::test]
async fn what_time_a_worker_thinks_it_is_makes_no_difference_to_its_jobs() {
    let Some(clock) = FakeClock::accurate() else { return };
    let scenario = ClockScenario::start(RedisOptions::default(), &clock.variables()).await;
    remove_faketime_files(scenario.worker.pid());
    for offset in ["+1d", "-1h"] {
        clock.set_offset(offset);
        let jumped = meta_time(&scenario.world, "tick_ms").await;
        until("it was kept time for longer than a lease", async || {
            meta_time(&scenario.world, "tick_ms").await > jumped + Duration::milliseconds(2_500)
        })
        .await;
        scenario.assert_no_crash_charged().await;
    }
    scenario.finish_jobs().await;
    assert!(
        scenario.clock_skew_when_done(&scenario.in_flight[0]).await < Duration::minutes(-59),
        "it jumped"
    );
    clock.set_offset("+1d");
    // By the server's clock its time has come.
    scenario.world.redis_cmd::<()>("ZADD", &[&key("scheduled"), "XX", "1", scenario.later.id.as_str()]).await;
    assert!(scenario.clock_skew_when_done(&scenario.later).await > Duration::hours(23), "it jumped");
    scenario.assert_settled().await;
}
