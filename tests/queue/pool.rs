//! The ways to Redis: TLS, sentinels that name the master, a cluster that moves our slot; each with the real servers.

use std::path::Path;
use std::time::Duration;

use wm_analyzer::job::Job;
use wm_analyzer::queue::{Claim, Config, Delivery, Error, Settled};
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;
use wm_testbed::sentinel::{command, start_with_sentinel};

use crate::operations::{all_that_a_worker_does, all_that_an_operator_does};
use crate::world::*;

const TLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");
/// Between two tries of somebody who has all the time in the world.
const AGAIN: Duration = Duration::from_millis(50);

async fn works(queue: &Roles) {
    let job = enqueued(queue).await;
    let delivery = claimed(queue, "w").await;
    assert_eq!(queue.worker.settle(delivery, done(&job)).await.unwrap(), Settled::Settled);
    assert!(matches!(queue.worker.claim(&worker("w")).await.unwrap(), Claim::Empty));
}

/// Settles as a worker does: what comes back is held and tried again. Answers what was said on the way.
async fn settled_at_last(queue: &Roles, delivery: Delivery) -> Vec<String> {
    let mut verdict = done(&delivery.job);
    let (mut held, mut said) = (delivery, Vec::new());
    let end = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        match queue.worker.settle(held, verdict).await {
            Ok(settled) => {
                assert_eq!(settled, Settled::Settled, "{said:?}");
                return said;
            }
            Err(unsettled) => {
                assert!(unsettled.source.is_transient(), "{}", unsettled.source);
                assert!(std::time::Instant::now() < end, "{said:?}");
                said.push(unsettled.source.to_string());
                (held, verdict) = (unsettled.delivery, unsettled.verdict);
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

#[tokio::test]
async fn tls_is_trusted_by_the_authority_that_is_named_and_by_no_other() {
    let options = RedisOptions::default().tls(&format!("{TLS}/site.pem"), &format!("{TLS}/site.key"));
    let redis = match PrivateRedis::start(options) {
        Ok(redis) => redis,
        Err(e) if e.to_string().to_lowercase().contains("tls support") => {
            return println!("SKIPPED: this server has no TLS");
        }
        Err(e) => panic!("{e}"),
    };
    let trusting = Config { tls_ca: Path::new(TLS).join("root.pem"), ..config(&redis.url()) };
    let queue = Roles::connect(&trusting).await.unwrap();
    works(&queue).await;
    queue.worker.wait(Duration::from_millis(50)).await;
    let clients: String = command(&redis, "CLIENT LIST").await;
    assert!(clients.contains("cmd=blpop"), "whoever waits, waits over TLS too: {clients}");

    let stranger = Roles::connect(&config(&redis.url())).await.unwrap();
    let refused = stranger.status().await.unwrap_err();
    let said = refused.to_string();
    assert!(said.contains("certificate") && said.contains("queue.tls_ca"), "{said}");
    let url = redis.url().replace("127.0.0.1", "localhost");
    let other_name = Roles::connect(&Config { url: url.parse().unwrap(), ..trusting }).await.unwrap();
    assert!(other_name.status().await.unwrap_err().to_string().contains("certificate"), "the name counts");
}

#[tokio::test]
async fn after_a_failover_what_was_in_hand_is_settled_once_by_the_new_master() {
    let (mut master, replica, sentinel) = start_with_sentinel().await;
    let url = format!("redis+sentinel://127.0.0.1:{}/m", sentinel.port());
    let mut world = World::at(replica, &url).await;
    let queue = world.queue().await;
    let jobs = [enqueued(&queue).await, enqueued(&queue).await];
    let (held, idle) = (claimed(&queue, "w").await, claimed(&queue, "w").await);
    let waits = tokio::spawn({
        let queue = queue.clone();
        async move {
            while !matches!(queue.worker.claim(&worker("waits")).await, Ok(Claim::Delivery(_))) {
                queue.worker.wait(Duration::from_secs(2)).await;
            }
        }
    });
    until("somebody waits", async || {
        command::<String>(&master, "INFO clients").await.contains("blocked_clients:1")
    })
    .await;
    let last = idle.lease().id;
    until("the replica is in step", async || world.state(&last).await.as_deref() == Some("in_flight")).await;

    master.kill();
    let said = settled_at_last(&queue, held).await;
    assert!(!said.is_empty(), "there was an outage");
    assert!(!said.iter().any(|said| said.contains("geheim")), "{said:?}");
    assert_eq!(
        queue.worker.heartbeat(&info("w"), &[idle.lease()]).await.unwrap().lost,
        [],
        "what is in hand is still ours"
    );
    assert!(settled_at_last(&queue, idle).await.is_empty(), "and the outage is over");
    // A replica that becomes the master drops whoever was connected.
    world.look_again().await;
    assert_eq!(world.counter("done").await, 2, "each once");
    let events = world.events().await;
    for job in &jobs {
        assert_eq!(
            events.iter().filter(|event| **event == ("done".to_owned(), job.id.to_string())).count(),
            1
        );
    }
    let late = enqueued(&queue).await;
    until("whoever waited found the new master", async || {
        world.state(&late.id).await.as_deref() == Some("in_flight")
    })
    .await;
    waits.abort();
    world.check_invariants().await;
}

#[tokio::test]
async fn a_replica_that_was_master_is_left_for_the_one_that_is() {
    let (master, replica, sentinel) = start_with_sentinel().await;
    let url = format!("redis+sentinel://127.0.0.1:{}/m", sentinel.port());
    let mut world = World::at(replica, &url).await;
    let queue = world.queue().await;
    let job = enqueued(&queue).await;
    let held = claimed(&queue, "w").await;
    until("the replica is in step", async || world.state(&job.id).await.as_deref() == Some("in_flight"))
        .await;
    // Half a second is nothing: that is when the client itself would give up.
    command::<()>(&master, "CLIENT PAUSE 1200 ALL").await;
    queue.status().await.unwrap();
    // No connection is cut, and no sentinel helps: only the answers tell.
    command::<()>(&sentinel, "SENTINEL REMOVE m").await;
    command::<()>(&world.redis, "REPLICAOF NO ONE").await;
    command::<()>(&master, &format!("REPLICAOF 127.0.0.1 {}", world.redis.port())).await;
    command::<()>(&sentinel, &format!("SENTINEL MONITOR m 127.0.0.1 {} 1", world.redis.port())).await;
    let said = settled_at_last(&queue, held).await;
    assert!(said.iter().any(|said| said.to_lowercase().contains("read")), "{said:?}");
    world.look_again().await;
    assert_eq!(world.counter("done").await, 1);
    world.check_invariants().await;
}

#[tokio::test]
async fn sentinels_that_are_away_or_know_no_such_service_are_an_outage_and_say_whose() {
    let sentinel = PrivateRedis::start(RedisOptions::sentinel()).unwrap();
    let url = format!("redis+sentinel://:geheim@127.0.0.1:{}/nobody", sentinel.port());
    let queue = Roles::connect(&config(&url)).await.unwrap();
    let error = queue.status().await.unwrap_err();
    let said = error.to_string();
    assert!(
        matches!(error, Error::Unavailable(_)) && said.contains("/nobody") && !said.contains("geheim"),
        "{said}"
    );
    drop(sentinel);
    let said = queue.status().await.unwrap_err();
    assert!(said.is_transient() && said.to_string().contains("refused"), "{said}");
}

pub async fn cluster(nodes: usize) -> Vec<PrivateRedis> {
    let nodes: Vec<_> =
        (0..nodes).map(|_| PrivateRedis::start(RedisOptions::default().cluster()).unwrap()).collect();
    command::<()>(&nodes[0], "CLUSTER ADDSLOTSRANGE 0 16383").await;
    for other in &nodes[1..] {
        let bus: Vec<String> = command(other, "CONFIG GET cluster-port").await;
        command::<()>(&nodes[0], &format!("CLUSTER MEET 127.0.0.1 {} {}", other.port(), bus[1])).await;
    }
    for node in &nodes {
        until("the cluster is whole", async || {
            let info: String = command(node, "CLUSTER INFO").await;
            let known = format!("cluster_known_nodes:{}", nodes.len());
            info.contains("cluster_state:ok") && info.contains(&known)
        })
        .await;
    }
    nodes
}

#[tokio::test]
async fn every_script_works_in_a_cluster() {
    let node = cluster(1).await.remove(0);
    let url = node.url();
    let world = World::at(node, &url).await;
    let queue = world.queue().await;
    all_that_a_worker_does(&world, &queue).await;
    all_that_an_operator_does(&world, &queue).await;

    // Without `common.lua`, which is no script, and `adopt.lua`, which is not for a cluster; with the one of `stock.rs`.
    let ours =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/crates/queue/src/lua")).unwrap().count();
    let scripts = ours - 2 + 1;
    let info: String = world.ask("INFO", "memory").await;
    assert!(
        info.contains(&format!("number_of_cached_scripts:{scripts}\r\n")),
        "one is missing above: {scripts} of\n{info}"
    );
}

#[tokio::test]
async fn a_slot_that_moves_to_another_node_takes_its_queue_along_and_nothing_is_lost() {
    let mut nodes = cluster(2).await;
    let (there, here) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    let world = World::at(there, &here.url()).await;
    let queue = world.queue().await;
    let jobs: Vec<Job> = (0..12).map(|_| job()).collect();
    let _ = queue.producer.enqueue(&jobs).await.unwrap();
    let (held, idle) = (claimed(&queue, "w").await, claimed(&queue, "w").await);

    let slot: u64 = command(&here, &format!("CLUSTER KEYSLOT {}", key("ready"))).await;
    let (from, to): (String, String) =
        (command(&here, "CLUSTER MYID").await, world.ask("CLUSTER", "MYID").await);
    command::<()>(&world.redis, &format!("CLUSTER SETSLOT {slot} IMPORTING {from}")).await;
    command::<()>(&here, &format!("CLUSTER SETSLOT {slot} MIGRATING {to}")).await;
    let mut hands = vec![held, idle];
    let mut waited = 0;
    loop {
        let next: Vec<String> = command(&here, &format!("CLUSTER GETKEYSINSLOT {slot} 1")).await;
        // With a part of the keys here and a part there, all that a worker does is either done whole or not at all.
        match queue.worker.claim(&worker("w")).await {
            Ok(Claim::Delivery(delivery)) => hands.push(*delivery),
            Ok(_) => {}
            Err(e) => {
                assert!(e.is_transient(), "{e}");
                waited += 1;
            }
        }
        let leases: Vec<_> = hands.iter().map(Delivery::lease).collect();
        for outcome in [
            queue.worker.heartbeat(&info("w"), &leases).await.map(drop),
            queue.worker.upkeep().await.map(drop),
        ] {
            assert!(outcome.as_ref().err().is_none_or(Error::is_transient), "{outcome:?}");
        }
        if let Some(held) = hands.pop() {
            let verdict = done(&held.job);
            match queue.worker.settle(held, verdict).await {
                Ok(settled) => assert_eq!(settled, Settled::Settled),
                Err(unsettled) => {
                    assert!(unsettled.source.is_transient(), "{}", unsettled.source);
                    hands.push(unsettled.delivery);
                }
            }
        }
        let Some(name) = next.first() else { break };
        command::<()>(&here, &format!("MIGRATE 127.0.0.1 {} {name} 0 1000", world.redis.port())).await;
    }
    assert!(waited > 0, "it was in the way");
    for node in [&world.redis, &here] {
        command::<()>(node, &format!("CLUSTER SETSLOT {slot} NODE {to}")).await;
    }
    for held in hands {
        settled_at_last(&queue, held).await;
    }
    until("all are done, by the node that has them now", async || {
        match queue.worker.claim(&worker("w")).await {
            Ok(Claim::Delivery(delivery)) => drop(settled_at_last(&queue, *delivery).await),
            Ok(_) => {}
            Err(e) => assert!(e.is_transient(), "{e}"),
        }
        world.counter("done").await == 12
    })
    .await;
    queue.worker.wait(Duration::from_millis(20)).await;
    assert!(world.check_invariants().await.is_empty());
    // Home again, when that node is gone.
    let said = {
        drop(world);
        queue.status().await.unwrap_err()
    };
    assert!(said.is_transient(), "{said}");
    let moved = queue.status().await.unwrap_err();
    assert!(moved.is_transient() && moved.to_string().contains("has moved to"), "{moved}");
}

#[tokio::test]
async fn a_busy_connection_is_not_asked_before_every_call_and_one_that_was_cut_costs_one_call() {
    let redis = PrivateRedis::start(RedisOptions::default()).unwrap();
    let queue = Roles::connect(&config(&redis.url())).await.unwrap();
    let pings = async || {
        let stats: String = command(&redis, "INFO commandstats").await;
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
        line.map_or(0, |line| line.split(',').next().unwrap().parse::<usize>().unwrap())
    };
    let before = pings().await;
    for _ in 0..50 {
        drop(queue.status().await.unwrap());
    }
    let asked = pings().await - before;
    assert!(asked < 50, "{asked} times in 50 calls");

    let _: u64 = command(&redis, "CLIENT KILL TYPE normal").await;
    let mut failed = 0;
    while let Err(e) = queue.status().await {
        assert!(e.is_transient(), "{e}");
        failed += 1;
    }
    assert!(failed <= 1, "{failed} calls failed");
}
