//! Whatever happens in whatever order, every job stays in exactly one place, and in the end each is accounted for.

use std::collections::BTreeSet;
use std::time::Duration;

use url::Url;
use uuid::Uuid;
use wm_analyzer::job::failure::Kind;
use wm_analyzer::job::outcome::{Skip, SkipReason};
use wm_analyzer::job::page::{PagePair, Version};
use wm_analyzer::job::verdict::{Holdup, Verdict};
use wm_analyzer::job::{Job, JobId};
use wm_analyzer::queue::{Admission, Claim, DeadFilter, Delivery, Entry, Queue};

use crate::world::*;

/// Chance that can be repeated (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn holdup(dice: &mut Dice) -> Holdup {
    match dice.below(2) {
        0 => Holdup::Ours(failure()),
        _ => Holdup::BreakerOpen(failure()),
    }
}

struct Player {
    name: &'static str,
    queue: Queue,
    hands: Vec<Delivery>,
}

struct Game {
    world: World,
    dice: Dice,
    players: Vec<Player>,
    admitted: BTreeSet<JobId>,
    discarded: u64,
    last: Vec<Job>,
}

#[tokio::test]
async fn any_order_of_anything_keeps_every_job_in_exactly_one_place() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos().into()
    });
    println!("SEED={seed}");
    let mut world = World::new().await;
    world.config.host_in_flight_max = 2;
    let mut players = Vec::new();
    for name in ["ada", "bob", "eve"] {
        players.push(Player { name, queue: world.queue().await, hands: Vec::new() });
    }
    let dice = Dice(seed | 1);
    let mut game = Game { world, dice, players, admitted: BTreeSet::new(), discarded: 0, last: Vec::new() };
    for step in 0..600 {
        game.step().await;
        if step % 5 == 0 {
            game.world.take_stock().await;
        }
    }
    game.end().await;
}

impl Game {
    async fn step(&mut self) {
        let who = self.dice.below(self.players.len() as u64) as usize;
        match self.dice.below(14) {
            0..=2 => self.enqueue(who).await,
            3..=6 => self.claim(who).await,
            7..=9 => self.settle(who).await,
            10 => self.crash(who).await,
            11 => drop(self.players[who].queue.upkeep().await.unwrap()),
            12 => self.operate(who).await,
            _ => self.beat(who).await,
        }
    }

    async fn enqueue(&mut self, who: usize) {
        let job = match (self.dice.below(4), self.last.pop()) {
            (0, Some(job)) => twin(&job),
            _ => job(),
        };
        match self.players[who].queue.enqueue(std::slice::from_ref(&job)).await.unwrap().pop().unwrap() {
            Admission::Admitted { id } => assert!(self.admitted.insert(id)),
            Admission::Duplicate { holder } => assert!(self.admitted.contains(&holder)),
            Admission::AlreadyDone | Admission::SameId => {}
            Admission::Full => panic!("full"),
        }
        self.last.push(job);
    }

    async fn claim(&mut self, who: usize) {
        let player = &mut self.players[who];
        match player.queue.claim(&worker(player.name)).await.unwrap() {
            Claim::Delivery(delivery) => {
                let others = player.hands.len();
                assert!(others == 0 || !player.hands[0].is_solo(), "something beside a suspect");
                assert!(!delivery.is_solo() || others == 0, "a suspect beside something");
                let suspect = self.world.field(&delivery.job.id, "suspect").await.is_some();
                let crashed = delivery.counts.crashes > 0;
                assert_eq!(delivery.is_solo(), crashed || suspect, "suspects run alone, and nobody else");
                self.enter(who, *delivery).await;
            }
            Claim::Foregone(delivery, skip) => {
                let _ = player.queue.settle(*delivery, Verdict::Skip(skip)).await.unwrap();
            }
            Claim::Empty | Claim::Paused | Claim::Full | Claim::Solo => {}
            Claim::Buried(buried) => panic!("{buried:?}"),
        }
    }

    /// One of few contents at one of few hosts, so that they come again and are full.
    fn pair(&mut self) -> PagePair {
        let hosts = ["a.test", "b.test", "c.test"];
        let mut version = || {
            let (host, path) = (hosts[self.dice.below(3) as usize], self.dice.below(2));
            Version::at(Uuid::new_v4(), Url::parse(&format!("http://{host}/{path}")).unwrap())
        };
        PagePair { page: None, from: version(), to: version() }
    }

    async fn enter(&mut self, who: usize, delivery: Delivery) {
        let pair = self.pair();
        let player = &mut self.players[who];
        let because = match player.queue.enter(&delivery.lease(), &pair).await.unwrap() {
            Entry::Entered => return player.hands.push(delivery),
            Entry::Lost => panic!("lost at once"),
            Entry::Suspect => Holdup::Suspect,
            Entry::HostFull { host } => Holdup::HostFull { host },
        };
        assert!(!delivery.is_solo() || because != Holdup::Suspect, "alone it may");
        let verdict = Verdict::Postpone { after: Duration::ZERO, because };
        let _ = player.queue.settle(delivery, verdict).await.unwrap();
    }

    async fn settle(&mut self, who: usize) {
        let Some(delivery) = self.players[who].hands.pop() else { return };
        let queue = &self.players[who].queue;
        let verdict = match self.dice.below(6) {
            0 => Verdict::Skip(Skip::new(SkipReason::Content, "a PDF")),
            1 => retry(Duration::from_millis(self.dice.below(50))),
            2 => Verdict::Postpone { after: Duration::ZERO, because: holdup(&mut self.dice) },
            3 => death(Kind::Gone, "a.test"),
            4 => {
                let _ = queue.release(delivery).await.unwrap();
                return;
            }
            _ => done(&delivery.job),
        };
        let _ = queue.settle(delivery, verdict).await.unwrap();
    }

    /// The leases of one worker run out, and it knows nothing of it, or is dead.
    async fn crash(&mut self, who: usize) {
        for delivery in &self.players[who].hands {
            self.world.expire(&delivery.job.id).await;
        }
        let turn: Option<String> = self.world.ask("GET", key("solo_turn")).await;
        if turn.is_some_and(|turn| turn.starts_with(self.players[who].name)) {
            let _: u64 = self.world.ask("DEL", key("solo_turn")).await;
        }
        self.players[who].queue.upkeep().await.unwrap();
        if self.dice.below(2) == 0 {
            self.players[who].hands.clear();
        } else {
            // It lives, and learns that it lost them before it claims again.
            let player = &mut self.players[who];
            let leases: Vec<_> = player.hands.iter().map(Delivery::lease).collect();
            let lost = player.queue.beat(&info(player.name), &leases).await.unwrap().lost;
            player.hands.retain(|delivery| !lost.contains(&delivery.job.id));
        }
    }

    async fn operate(&mut self, who: usize) {
        let queue = &self.players[who].queue;
        match self.dice.below(6) {
            0 => queue.pause("ada", "to see").await.unwrap(),
            1 | 2 => drop(queue.resume("ada").await.unwrap()),
            3 => self.world.ask::<()>("SCRIPT", "FLUSH").await,
            4 => {
                let dead: Vec<_> = queue.dead(&DeadFilter::default(), 3).await.unwrap();
                let ids: Vec<_> = dead.into_iter().map(|letter| letter.id).collect();
                let _ = queue.replay(&ids).await.unwrap();
            }
            _ => {
                let dead = queue.dead(&DeadFilter::default(), 1).await.unwrap();
                let ids: Vec<_> = dead.into_iter().map(|letter| letter.id).collect();
                self.discarded += queue.discard(&ids).await.unwrap();
                if let Some(delivery) = self.players[who].hands.first() {
                    queue.cancel(&delivery.job.id).await.unwrap();
                }
            }
        }
    }

    async fn beat(&mut self, who: usize) {
        let player = &self.players[who];
        let leases: Vec<_> = player.hands.iter().map(Delivery::lease).collect();
        let beat = player.queue.beat(&info(player.name), &leases).await.unwrap();
        assert_eq!(beat.lost, [], "nobody else has what is in hand");
    }

    /// Everything that is left is done; then what went in is what came out.
    async fn end(mut self) {
        for who in 0..self.players.len() {
            while let Some(delivery) = self.players[who].hands.pop() {
                let _ = self.players[who].queue.release(delivery).await.unwrap();
            }
        }
        let player = self.players.swap_remove(0);
        let _ = player.queue.resume("ada").await.unwrap();
        // The others are gone, and with their leases their turn.
        let _: u64 = self.world.ask("DEL", key("solo_turn")).await;
        until("nothing is live", async || {
            let _: u64 = self.world.ask("HDEL", &[&key("meta"), "solo_rest_ms"]).await;
            player.queue.upkeep().await.unwrap();
            while let Claim::Delivery(delivery) | Claim::Foregone(delivery, _) =
                player.queue.claim(&worker(player.name)).await.unwrap()
            {
                let verdict = done(&delivery.job);
                let _ = player.queue.settle(*delivery, verdict).await.unwrap();
                let _: u64 = self.world.ask("HDEL", &[&key("meta"), "solo_rest_ms"]).await;
            }
            let status = player.queue.status().await.unwrap();
            status.backlog() + status.leased == 0
        })
        .await;
        let dead = self.world.take_stock().await;
        assert!(dead.values().all(|state| state == "dead"));
        let gone = self.world.counter("done").await + self.world.counter("skipped").await;
        assert_eq!(gone + dead.len() as u64 + self.discarded, self.admitted.len() as u64);
        assert_eq!(self.world.ask::<u64>("EXISTS", key("solo_turn")).await, 0);
    }
}
