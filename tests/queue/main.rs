//! The queue against a real redis-server: every arrow of the state diagram, and what happens when somebody dies.
//!
//! Each test has a server of its own and ends by taking stock: every job is in exactly one place.

#![expect(unreachable_pub, reason = "modules of one test binary: nothing here is reachable")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests: what they expect is what is tested")]

mod acl;
mod admission;
mod adopting;
mod breaker;
mod bulk;
mod ceilings;
mod clients;
mod concurrent;
mod crashes;
mod dead;
mod faults;
mod fetching;
mod follow_up;
mod host_queue;
mod hosts;
mod inbox;
mod invariants;
mod listing;
mod memory;
mod model;
mod operations;
mod orphans;
mod outage_reports;
mod pool;
mod quarantine;
mod redis_failures;
mod start;
mod states;
mod transfer;
mod upgrade;
mod world;
