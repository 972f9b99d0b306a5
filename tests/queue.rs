//! The queue against a real redis-server: every arrow of the state diagram, and what happens when somebody dies.
//!
//! Each test has a server of its own and ends by taking stock: every job is in exactly one place.

#![expect(unreachable_pub, reason = "modules of one test binary: nothing here is reachable")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests: what they expect is what is tested")]

#[path = "queue/acl.rs"]
mod acl;
#[path = "queue/admission.rs"]
mod admission;
#[path = "queue/adopting.rs"]
mod adopting;
#[path = "queue/breaker.rs"]
mod breaker;
#[path = "queue/ceilings.rs"]
mod ceilings;
#[path = "queue/clients.rs"]
mod clients;
#[path = "queue/concurrent.rs"]
mod concurrent;
#[path = "queue/crashes.rs"]
mod crashes;
#[path = "queue/dead.rs"]
mod dead;
#[path = "queue/faults.rs"]
mod faults;
#[path = "queue/follow_up.rs"]
mod follow_up;
#[path = "queue/host_queue.rs"]
mod host_queue;
#[path = "queue/inbox.rs"]
mod inbox;
#[path = "queue/invariants.rs"]
mod invariants;
#[path = "queue/link.rs"]
mod link;
#[path = "queue/model.rs"]
mod model;
#[path = "queue/operations.rs"]
mod operations;
#[path = "queue/outage.rs"]
mod outage;
#[path = "support/peers.rs"]
mod peers;
#[path = "support/sentinel.rs"]
mod sentinel;
#[path = "queue/start.rs"]
mod start;
#[path = "queue/states.rs"]
mod states;
#[path = "queue/trouble.rs"]
mod trouble;
#[path = "queue/wire.rs"]
mod wire;
#[path = "queue/world.rs"]
mod world;

use self::world::until;
