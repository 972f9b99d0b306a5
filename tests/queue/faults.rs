//! What a script leaves behind that fails in its midst: nothing lost, nothing half done.
//!
//! A script that touches a key which it did not declare may fail there, as in a slot on the move. So here each script
//! fails in turn at every such key that it touches, on a real server: a wire puts a page in front of the script that
//! raises the error a cluster would.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use wm_analyzer::job::failure::FailureKind;
use wm_analyzer::job::verdict::{PostponeReason, Verdict};
use wm_analyzer::job::{Job, Priority};
use wm_analyzer::queue::{Claim, Config, Delivery, Settled, StartPermit, script_texts};
use wm_testbed::roles::Roles;

use crate::world::*;

/// Stands before a script: the Nth key that was not declared is not there.
const PAGE: &str = r"
local whole, seen, left = redis, {}, NTH
for _, k in ipairs(KEYS) do seen[k] = true end
local function look(args)
  for i = 2, #args do
    local k = args[i]
    if type(k) == 'string' and string.sub(k, 1, #ARGV[1]) == ARGV[1] and not seen[k] then
      seen[k] = true
      left = left - 1
      if left == 0 then error('TRYAGAIN away: ' .. args[1] .. ' ' .. k, 0) end
    end
  end
end
local redis = setmetatable({
  call = function(...) look({ ... }) return whole.call(...) end, -- what is in a pcall fails nothing
}, { __index = whole })
";

/// The wire; what runs over it ends with it.
struct Faulty {
    home: tempfile::TempDir,
    nth: Arc<Mutex<Option<u32>>>,
    accepting: JoinHandle<()>,
}

impl Faulty {
    async fn to(world: &World) -> Self {
        let mut scripts = HashMap::new();
        for text in script_texts() {
            let sha: String = world.ask("SCRIPT", &["LOAD", &text]).await;
            scripts.insert(sha, text);
        }
        let home = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(home.path().join("w")).unwrap();
        let (nth, scripts, server) = (Arc::new(Mutex::new(None)), Arc::new(scripts), world.redis.socket());
        let armed = Arc::clone(&nth);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(carry(near, far, Arc::clone(&armed), Arc::clone(&scripts)));
            }
        });
        Self { home, nth, accepting }
    }

    async fn queue(&self, config: &Config) -> Roles {
        let url = format!("redis+unix://{}", self.home.path().join("w").display());
        Roles::connect(&Config { url: url.parse().unwrap(), ..config.clone() }).await.unwrap()
    }

    /// From now on every script fails at its Nth undeclared key.
    fn fail_at(&self, nth: Option<u32>) {
        *self.nth.lock().unwrap() = nth;
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(
    near: UnixStream,
    far: UnixStream,
    nth: Arc<Mutex<Option<u32>>>,
    scripts: Arc<HashMap<String, String>>,
) {
    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.into_split(), far.into_split());
    let answers = tokio::io::copy(&mut from_far, &mut to_near);
    let requests = async {
        let mut bytes = Vec::new();
        while from_near.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
            while let Some((words, length)) = request(&bytes) {
                let now = *nth.lock().unwrap();
                let sent = match (now, words[0].as_slice()) {
                    (Some(nth), b"EVALSHA") => broken(words, nth, &scripts),
                    _ => bytes[..length].to_vec(),
                };
                bytes.drain(..length);
                if to_far.write_all(&sent).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! { _ = answers => {}, () = requests => {} }
}

/// The first request in these bytes, once it is there whole, and its length.
fn request(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let line = |at: usize| {
        let end = at + bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        Some((std::str::from_utf8(&bytes[at + 1..end]).unwrap().parse::<usize>().unwrap(), end + 2))
    };
    let (count, mut at) = line(0)?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, start) = line(at)?;
        at = start + length + 2;
        words.push(bytes.get(start..start + length)?.to_vec());
    }
    (at <= bytes.len()).then_some((words, at))
}

/// The same call of the same script, with the page before it.
fn broken(mut words: Vec<Vec<u8>>, nth: u32, scripts: &HashMap<String, String>) -> Vec<u8> {
    let script = &scripts[std::str::from_utf8(&words[1]).unwrap()];
    words[0] = b"EVAL".to_vec();
    words[1] = (PAGE.replace("NTH", &nth.to_string()) + script).into_bytes();
    let mut sent = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        sent.extend(format!("${}\r\n", word.len()).bytes());
        sent.extend(word);
        sent.extend(b"\r\n");
    }
    sent
}

/// A job that is inside at its host.
async fn inside(queue: &Roles) -> Delivery {
    let held = claimed(queue, "w").await;
    assert_eq!(queue.worker.start(&held.lease(), &somewhere("a.test")).await.unwrap(), StartPermit::Granted);
    held
}

/// A job that is not let in to the same.
async fn turned_away(queue: &Roles) -> Delivery {
    let held = claimed(queue, "w").await;
    let entry = queue.worker.start(&held.lease(), &somewhere("a.test")).await.unwrap();
    assert_eq!(entry, StartPermit::HostFull { host: "a.test".into() });
    held
}

fn in_line() -> Verdict {
    Verdict::Postpone { after: Duration::ZERO, because: PostponeReason::HostFull { host: "a.test".into() } }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Admit,
    Claim,
    ClaimAlone,
    Heartbeat,
    Finish,
    Schedule,
    Bury,
    Promote,
    Reclaim,
    ReclaimForGood,
    Trim,
    Replay,
    Enter,
    WaitInLine,
    FinishAndCall,
    ReclaimAndCall,
    LookAtTheLine,
}

const DEEDS: [Deed; 17] = [
    Deed::Admit,
    Deed::Claim,
    Deed::ClaimAlone,
    Deed::Heartbeat,
    Deed::Finish,
    Deed::Schedule,
    Deed::Bury,
    Deed::Promote,
    Deed::Reclaim,
    Deed::ReclaimForGood,
    Deed::Trim,
    Deed::Replay,
    Deed::Enter,
    Deed::WaitInLine,
    Deed::FinishAndCall,
    Deed::ReclaimAndCall,
    Deed::LookAtTheLine,
];

impl Deed {
    /// Makes a queue on which the deed can be done, and does it over the wire at last; false where it was refused.
    async fn is_done(self, world: &World, wire: &Faulty, nth: u32) -> bool {
        let queue = world.queue().await;
        let over = wire.queue(&world.config).await;
        queue.worker.upkeep().await.unwrap();
        let mut jobs: Vec<Job> = (0..3).map(|_| job()).collect();
        if matches!(self, Deed::Finish | Deed::Bury) {
            // It is followed by another.
            jobs[0].compare_earliest = true;
            jobs[0].priority = Priority::High;
        }
        let _ = queue.producer.enqueue(&jobs).await.unwrap();
        let crash = async || {
            let lost = [dies_with(claimed_into_child(&queue, "d").await)];
            world.expire(&lost[0].id).await;
        };
        let bury = async || {
            let held = claimed(&queue, "w").await;
            let _ = queue.worker.settle(held, death(FailureKind::Gone, "a.test")).await.unwrap();
        };
        let nth_key = Some(nth);
        let outcome = match self {
            Self::Admit => {
                wire.fail_at(nth_key);
                over.producer.enqueue(&[twin(&jobs[0]), job()]).await.map(drop)
            }
            Self::Claim => {
                wire.fail_at(nth_key);
                over.worker.claim_many(&worker("w"), 3).await.map(drop)
            }
            Self::ClaimAlone => {
                crash().await;
                queue.worker.upkeep().await.unwrap();
                wire.fail_at(nth_key);
                over.worker.claim(&worker("w")).await.map(drop)
            }
            Self::Heartbeat => {
                let held = [claimed(&queue, "w").await, claimed(&queue, "w").await];
                wire.fail_at(nth_key);
                over.worker.heartbeat(&info("w"), &held.map(|held| held.lease())).await.map(drop)
            }
            Self::Finish | Self::Schedule | Self::Bury => {
                let held = claimed(&over, "w").await;
                let verdict = match self {
                    Self::Finish => done(&held.job),
                    Self::Schedule => retry(Duration::from_secs(60)),
                    _ => death(FailureKind::Gone, "a.test"),
                };
                wire.fail_at(nth_key);
                over.worker.settle(held, verdict).await.map(drop).map_err(|unsettled| unsettled.source)
            }
            Self::Promote => {
                for _ in 0..2 {
                    let held = claimed(&queue, "w").await;
                    let _ = queue.worker.settle(held, retry(Duration::ZERO)).await.unwrap();
                }
                wire.fail_at(nth_key);
                over.worker.upkeep().await.map(drop)
            }
            Self::Reclaim => {
                crash().await;
                crash().await;
                wire.fail_at(nth_key);
                over.worker.upkeep().await.map(drop)
            }
            Self::ReclaimForGood => {
                crash().await;
                crash().await;
                queue.worker.upkeep().await.unwrap();
                crash().await;
                wire.fail_at(nth_key);
                over.worker.upkeep().await.map(drop)
            }
            Self::Trim => {
                bury().await;
                bury().await;
                let few = wire.queue(&Config { dead_max_count: 0, ..world.config.clone() }).await;
                wire.fail_at(nth_key);
                few.worker.upkeep().await.map(drop)
            }
            Self::Replay => {
                bury().await;
                wire.fail_at(nth_key);
                over.operator.replay(&[jobs[0].id.clone()]).await.map(drop)
            }
            Self::Enter => {
                let held = claimed(&queue, "w").await;
                wire.fail_at(nth_key);
                over.worker.start(&held.lease(), &at("http://a.test/", "http://b.test/")).await.map(drop)
            }
            Self::WaitInLine => {
                let _inside = inside(&queue).await;
                let held = turned_away(&over).await;
                wire.fail_at(nth_key);
                over.worker.settle(held, in_line()).await.map(drop).map_err(|unsettled| unsettled.source)
            }
            Self::FinishAndCall | Self::ReclaimAndCall | Self::LookAtTheLine => {
                let held = inside(&over).await;
                let waits = turned_away(&queue).await;
                let id = waits.job.id.clone();
                let _ = queue.worker.settle(waits, in_line()).await.unwrap();
                if self == Self::ReclaimAndCall {
                    world.expire(&held.job.id).await;
                } else if self == Self::LookAtTheLine {
                    let _: u64 = world.ask("ZADD", &[&key("scheduled"), "XX", "1", id.as_str()]).await;
                }
                let verdict = done(&held.job);
                wire.fail_at(nth_key);
                if self == Self::FinishAndCall {
                    over.worker.settle(held, verdict).await.map(drop).map_err(|unsettled| unsettled.source)
                } else {
                    over.worker.upkeep().await.map(drop)
                }
            }
        };
        wire.fail_at(None);
        match &outcome {
            Ok(()) => true,
            Err(e) if e.to_string().contains("away: ") => {
                let stock = world.check_invariants().await;
                let lost = jobs.iter().find(|job| self != Deed::Trim && !stock.contains_key(job.id.as_str()));
                assert!(lost.is_none(), "{self:?} lost {lost:?} when it failed: {e}");
                let known = if self == Deed::Admit { 4 } else { 3 };
                assert!(stock.len() <= known, "{self:?} made jobs when it failed: {e}");
                false
            }
            Err(e) => panic!("{self:?} at key {nth}: {e}"),
        }
    }
}

#[tokio::test]
async fn a_script_that_fails_at_any_key_it_did_not_declare_loses_nothing_and_is_done_whole_later() {
    let mut world = World::new().await;
    world.config.host_in_flight_max = 1;
    let wire = Faulty::to(&world).await;
    let mut failures = HashMap::new();
    for deed in DEEDS {
        for nth in 1..100 {
            println!("{deed:?} fails at undeclared key {nth}");
            world.ask::<()>("FLUSHALL", &[""; 0]).await;
            if deed.is_done(&world, &wire, nth).await {
                failures.insert(format!("{deed:?}"), nth - 1);
                break;
            }
            // Whatever is left is worked off as if nothing had been.
            let queue = world.queue().await;
            for held in world.ask::<Vec<String>>("ZRANGE", &[&key("lease"), "0", "-1"]).await {
                let _: u64 = world.ask("ZADD", &[&key("lease"), "XX", "1", &held]).await;
            }
            until("all is worked off", async || {
                queue.worker.upkeep().await.unwrap();
                if let Claim::Delivery(held) = queue.worker.claim(&worker("w")).await.unwrap() {
                    let verdict = done(&held.job);
                    assert_eq!(queue.worker.settle(*held, verdict).await.unwrap(), Settled::Settled);
                }
                let status = queue.status().await.unwrap();
                let later = if deed == Deed::Schedule { 0 } else { status.scheduled };
                status.in_flight + status.ready + status.exclusive + later == 0
            })
            .await;
        }
    }
    println!("undeclared keys at which each failed: {failures:?}");
    let operations = ["Claim", "ClaimAlone", "Heartbeat", "Promote", "Reclaim", "ReclaimForGood", "Trim"];
    for deed in
        operations.into_iter().chain(["WaitInLine", "FinishAndCall", "ReclaimAndCall", "LookAtTheLine"])
    {
        assert!(failures[deed] > 0, "{deed} never failed: {failures:?}");
    }
}
