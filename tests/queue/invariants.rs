//! Taking stock: the whole key space as it is at one moment, and what must hold of it at any.

use std::collections::BTreeMap;

use crate::world::{World, key};

/// Every key with what it holds, as a flat list.
const LOOK: &str = "
    local how = { string = { 'GET' }, hash = { 'HGETALL' }, set = { 'SMEMBERS' }, list = { 'LRANGE', 0, -1 },
      zset = { 'ZRANGE', 0, -1, 'WITHSCORES' } }
    local keys = {}
    for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
      local read = how[redis.call('TYPE', key).ok]
      local held = read and redis.call(read[1], key, unpack(read, 2)) or {}
      keys[#keys + 1] = { key, type(held) == 'table' and held or { held } }
    end
    return keys";

/// All keys of the queue, by what follows its prefix.
pub struct Stock {
    keys: BTreeMap<String, Vec<String>>,
}

impl Stock {
    pub async fn of(world: &World) -> Self {
        let found: Vec<(String, Vec<Vec<u8>>)> = world.ask("EVAL", &[LOOK, "0", &key("*")]).await;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let short = |(name, held): (String, Vec<Vec<u8>>)| {
            (name[key("").len()..].to_owned(), held.into_iter().map(text).collect())
        };
        Self { keys: found.into_iter().map(short).collect() }
    }

    /// What follows `prefix` in the names of the keys that begin with it.
    pub fn names<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = &'s str> {
        self.keys.keys().filter_map(move |name| name.strip_prefix(prefix))
    }

    /// The text, or the members in their order, or fields and values.
    pub fn held(&self, name: &str) -> &[String] {
        self.keys.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.held(name).first().map(String::as_str)
    }

    /// Fields and values of a HASH, or members and scores of a ZSET in their order.
    pub fn pairs(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        self.held(name).chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str()))
    }

    pub fn fields(&self, name: &str) -> BTreeMap<&str, &str> {
        self.pairs(name).collect()
    }

    /// Every job is in exactly one place, the one its state says; every lock names a live job; who has a permit is in
    /// someone's hands, who stands in a line is scheduled and knows it; the dead are counted. Answers all states.
    pub fn check(&self) -> BTreeMap<String, String> {
        let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for place in ["ready", "scheduled", "lease", "exclusive", "dead", "trash"] {
            let state = if place == "lease" { "in_flight" } else { place };
            for (id, _) in self.pairs(place) {
                places.entry(id).or_default().push(state);
            }
        }
        let (mut states, mut lined, mut dead_bytes, mut trash_bytes) = (BTreeMap::new(), 0, 0, 0);
        for id in self.names("job:") {
            let job = self.fields(&format!("job:{id}"));
            let state = *job.get("state").expect("a state");
            assert_eq!(places.remove(id), Some(vec![state]), "{id}");
            assert_eq!(job.contains_key("token"), state == "in_flight", "{id}: {state}");
            if state == "dead" {
                dead_bytes += job["size"].parse::<u64>().unwrap();
                let letters = self.fields(&format!("dead:kind:{}", job["kind"]));
                assert!(letters.contains_key(id), "{id}: {}", job["kind"]);
            } else if state == "trash" {
                trash_bytes += job["size"].parse::<u64>().unwrap();
            } else {
                assert_eq!(self.text(&format!("unique:{}", job["unique"])), Some(id), "its lock");
            }
            lined += usize::from(job.contains_key("waits_for_host"));
            states.insert(id.to_owned(), state.to_owned());
        }
        assert!(places.is_empty(), "places without a job: {places:?}");
        let live = states.values().filter(|state| !["dead", "trash"].contains(&state.as_str())).count();
        self.check_counted(&states, live);
        assert_eq!(self.names("unique:").count(), live, "locks");
        for (field, bytes) in [("dead_bytes", dead_bytes), ("trash_bytes", trash_bytes)] {
            let counted = self.fields("meta").get(field).map_or(0, |text| text.parse().unwrap());
            assert_eq!(counted, bytes, "{field}");
        }
        // A letter of a build that counted no groups is in none.
        let grouped = |id: &str| self.fields(&format!("job:{id}")).contains_key("group");
        let letters = states.iter().filter(|(id, state)| *state == "dead" && grouped(id)).count();
        let counted = self.names("dead_group:").map(|name| {
            let group = self.fields(&format!("dead_group:{name}"));
            group.get("dead").map_or(0, |text| text.parse::<usize>().unwrap())
        });
        assert_eq!(counted.sum::<usize>(), letters, "letters in groups");
        self.check_hosts(&states, lined);
        states
    }

    /// What is counted is there: live jobs and their bytes, and each job that waits, by its age.
    fn check_counted(&self, states: &BTreeMap<String, String>, live: usize) {
        let meta = self.fields("meta");
        let number = |field: &str| meta.get(field).map_or(0, |text| text.parse::<i64>().unwrap());
        assert_eq!(number("jobs_count"), i64::try_from(live).unwrap(), "live jobs");
        let (mut bytes, mut waiting) = (0, Vec::new());
        for (id, state) in states {
            let job = self.fields(&format!("job:{id}"));
            bytes += job.get("bytes").map_or(0, |text| text.parse::<i64>().unwrap());
            if ["ready", "exclusive"].contains(&state.as_str()) || job.contains_key("waits_for_host") {
                waiting.push(id.as_str());
            }
        }
        assert_eq!(number("jobs_bytes"), bytes, "bytes of live jobs");
        let mut indexed: Vec<_> = self.pairs("waiting").map(|(id, _)| id).collect();
        indexed.sort_unstable();
        assert_eq!(indexed, waiting, "jobs that wait");
    }

    fn check_hosts(&self, states: &BTreeMap<String, String>, mut lined: usize) {
        let state = |id: &str| states.get(id).map(String::as_str);
        for host in self.names("host:") {
            for id in self.held(&format!("host:{host}")) {
                assert_eq!(state(id), Some("in_flight"), "inside {host}: {id}");
            }
        }
        let mut lengths = BTreeMap::new();
        for host in self.names("host_waiters:") {
            lengths.insert(host, self.pairs(&format!("host_waiters:{host}")).count().to_string());
            for (id, _) in self.pairs(&format!("host_waiters:{host}")) {
                assert_eq!(state(id), Some("scheduled"), "in the line of {host}: {id}");
                assert_eq!(self.fields(&format!("job:{id}")).get("waits_for_host"), Some(&host), "{id}");
                lined -= 1;
            }
        }
        assert_eq!(lined, 0, "all who wait for a host stand in its line");
        let noted: BTreeMap<_, _> =
            self.pairs("waiting_hosts").map(|(host, length)| (host, length.to_owned())).collect();
        assert_eq!(noted, lengths, "how long the lines are");
    }
}
