//! What the tests of the queue share: a server, queues on it, jobs and verdicts, and taking stock.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, ToRedisArgs};
use url::Url;
use uuid::Uuid;
use wm_analyzer::job::counts::DeliveryCounts;
use wm_analyzer::job::failure::{Failure, FailureKind};
use wm_analyzer::job::page::{PagePair, Version};
use wm_analyzer::job::report::{Annotation, Report};
use wm_analyzer::job::verdict::{DeadLetterReason, Verdict};
use wm_analyzer::job::{Job, JobId, VersionRef};
use wm_analyzer::queue::{Claim, Config, Delivery, LeaseRef, Presence, ReportsWhenFull, WorkerId};
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;
use wm_testbed::tcp_proxy::{TcpProxy, Upstream};

pub use wm_testbed::wait::until;

use crate::invariants::Stock;

/// A server and an eye on it.
pub struct World {
    pub redis: PrivateRedis,
    pub config: Config,
    eye: MultiplexedConnection,
}

/// Limits as in production, except where a test wants to see one bite.
pub fn config(url: &str) -> Config {
    Config {
        url: url.parse().unwrap(),
        tls_ca: std::path::PathBuf::new(),
        name: "analysis".parse().unwrap(),
        adopt: Vec::new(),
        adopt_beside_others: false,
        connections: 4,
        connect_timeout: Duration::from_secs(5),
        response_timeout: Duration::from_secs(10),
        lease: Duration::from_secs(90),
        worker_ttl: Duration::from_secs(60),
        report_ttl: Duration::from_secs(3600),
        reports_max_bytes: bytesize::ByteSize::mib(512),
        reports_when_full: ReportsWhenFull::Evict,
        done_ttl: Duration::from_secs(3600),
        done_max_count: 1_000_000,
        suspects_max_count: 10_000,
        backlog_max: 100_000,
        in_flight_max: 0,
        host_in_flight_max: 64,
        new_host_in_flight_max: 0,
        host_failures_max: 0,
        host_rest: Duration::from_secs(10),
        host_rest_max: Duration::from_secs(300),
        crashes_max: 2,
        releases_exclusive: 20,
        dead_max_count: 100_000,
        dead_max_age: Duration::from_secs(90 * 86_400),
        dead_max_bytes: bytesize::ByteSize::mib(256),
        events_max: 10_000,
        command_flags: String::new(),
    }
}

impl World {
    pub async fn new() -> Self {
        let durable = RedisOptions::default().persistent().set("appendfsync", "always");
        let redis = PrivateRedis::start(durable).unwrap();
        let url = redis.url();
        Self::at(redis, &url).await
    }

    /// A world on this server, whose queues find it by `url`.
    pub async fn at(redis: PrivateRedis, url: &str) -> Self {
        let eye = eye(&redis).await;
        Self { config: config(url), redis, eye }
    }

    /// A queue handle: one worker's pair of hands.
    pub async fn queue(&self) -> Roles {
        Roles::connect(&self.config).await.unwrap()
    }

    /// A queue handle over a proxy that can lose an answer.
    pub async fn queue_over_a_proxy(&self) -> (Roles, TcpProxy) {
        let proxy = TcpProxy::to(Upstream::Unix(self.redis.socket())).await;
        let config = Config { url: proxy.url().parse().unwrap(), ..self.config.clone() };
        (Roles::connect(&config).await.unwrap(), proxy)
    }

    /// Asks the server directly.
    pub async fn ask<T: FromRedisValue>(&self, command: &str, args: impl ToRedisArgs) -> T {
        let mut eye = self.eye.clone();
        redis::cmd(command).arg(args).query_async(&mut eye).await.unwrap()
    }

    pub async fn look_again(&mut self) {
        self.eye = eye(&self.redis).await;
    }

    pub async fn now_ms(&self) -> u64 {
        let (seconds, micros): (u64, u64) = self.ask("TIME", &[""; 0]).await;
        seconds * 1000 + micros / 1000
    }

    pub async fn push(&self, payload: impl AsRef<[u8]>) {
        let _: u64 = self.ask("RPUSH", &[key("inbox").as_bytes(), payload.as_ref()]).await;
    }

    /// Lets the lease of a job run out, as if its worker had been silent for so long.
    pub async fn expire(&self, id: &JobId) {
        let _: u64 = self.ask("ZADD", &[&key("lease"), "XX", "1", id.as_str()]).await;
    }

    pub async fn field(&self, id: &JobId, field: &str) -> Option<String> {
        self.ask("HGET", &[&key(&format!("job:{id}")), field]).await
    }

    pub async fn state(&self, id: &JobId) -> Option<String> {
        self.field(id, "state").await
    }

    pub async fn counter(&self, name: &str) -> u64 {
        let days: Vec<String> = self.ask("KEYS", key("stats:*")).await;
        let mut sum = 0;
        for day in days {
            sum += self.ask::<Option<u64>>("HGET", &[&day, name]).await.unwrap_or(0);
        }
        sum
    }

    /// Types and ids of all events.
    pub async fn events(&self) -> Vec<(String, String)> {
        let events: Vec<(String, HashMap<String, String>)> =
            self.ask("XRANGE", &[&key("events"), "-", "+"]).await;
        events.into_iter().map(|(_, fields)| (fields["type"].clone(), fields["id"].clone())).collect()
    }

    /// The state of every job, seen to be in exactly one place; see [`Stock::check`].
    pub async fn check_invariants(&self) -> BTreeMap<String, String> {
        Stock::of(self).await.check()
    }
}

async fn eye(redis: &PrivateRedis) -> MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
    let client = redis::Client::open(format!("redis+unix://{}", redis.socket().display())).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

pub fn key(rest: &str) -> String {
    format!("wm:{{analysis}}:{rest}")
}

pub fn worker(name: &str) -> WorkerId {
    WorkerId::parse(name).unwrap()
}

pub fn info(name: &str) -> Presence {
    Presence {
        id: worker(name),
        host: "h".into(),
        pid: 7,
        version: "0".into(),
        phase: "running".into(),
        slots: 2,
        slots_limit: 2,
        slots_limited_by: None,
        busy: 1,
        heartbeat_every_ms: 5_000,
        breakers: Default::default(),
        breaker_reasons: Default::default(),
        db_app: String::new(),
        in_flight: Vec::new(),
    }
}

/// A job for a pair that no other job has.
pub fn job() -> Job {
    Job::new(VersionRef::Uuid(Uuid::new_v4()), VersionRef::Uuid(Uuid::new_v4()))
}

/// Another job for the same pair.
pub fn twin(job: &Job) -> Job {
    Job { id: JobId::generate(), ..job.clone() }
}

/// Two versions at these addresses; their uuids are new each time.
pub fn at(from: &str, to: &str) -> PagePair {
    let version = |url: &str| Version::at(Uuid::new_v4(), Url::parse(url).unwrap());
    PagePair { page: None, from: version(from), to: version(to), from_is_earliest: false }
}

/// A pair that no other job has, at one host.
pub fn somewhere(host: &str) -> PagePair {
    let address = || format!("http://{host}/{}", Uuid::new_v4());
    at(&address(), &address())
}

pub async fn enqueued(queue: &Roles) -> Job {
    let job = job();
    let admitted = queue.producer.enqueue(std::slice::from_ref(&job)).await.unwrap();
    assert_eq!(admitted, [wm_analyzer::queue::Admission::Admitted { id: job.id.clone() }]);
    job
}

pub async fn claimed(queue: &Roles, name: &str) -> Delivery {
    match queue.worker.claim(&worker(name)).await.unwrap() {
        Claim::Delivery(delivery) => *delivery,
        other => panic!("a delivery, not {other:?}"),
    }
}

/// A claimed job that has entered a child.
pub async fn claimed_into_child(queue: &Roles, name: &str) -> Delivery {
    let delivery = claimed(queue, name).await;
    assert!(queue.worker.enter_child(&delivery.lease()).await.unwrap());
    delivery
}

/// A worker that dies with this delivery in hand: nobody settles it, only its lease is known.
pub fn dies_with(delivery: Delivery) -> LeaseRef {
    delivery.lease()
}

pub fn failure() -> Failure {
    Failure::new(FailureKind::Timeout, "no answer in 30 s").at_host("slow.test")
}

pub fn retry(after: Duration) -> Verdict {
    Verdict::Retry { after, failure: failure() }
}

pub fn death(kind: FailureKind, host: &str) -> Verdict {
    Verdict::DeadLetter(Box::new(DeadLetterReason {
        kind,
        stage: kind.stage(),
        failure: Failure::new(kind, "it would happen again").at_host(host),
        counts: DeliveryCounts::default(),
        bodies: Vec::new(),
        worker: "w".into(),
        build: "0".into(),
    }))
}

pub fn report(job: &Job) -> Report {
    let from = job.from.given().map(VersionRef::uuid).unwrap_or_default();
    Report {
        annotation: Annotation { priority: 0.5, ..Annotation::default() },
        ..Report::of_pair(from, job.to.uuid())
    }
}

pub fn done(job: &Job) -> Verdict {
    Verdict::Done(Box::new(report(job)))
}
