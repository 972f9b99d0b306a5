//! Keeps the answers of a resolver for a short time, and asks once for all who want the same name.
//!
//! It decides nothing about addresses: what it keeps are the answers of the [`GuardedResolver`], so every
//! address was checked, and a refusal is kept like any other failure.
//!
//! Invariant: at most [`MAX_NAMES`] names are kept, no answer longer than [`KEPT`] and no failure longer than
//! [`FAILURE_KEPT`].
//!
//! # Why
//! - Hundreds of fetches at a few hosts would ask for the same names hundreds of times a second, and each lookup
//!   occupies a thread.
//! - A lookup is a task of its own: were it that of the first who asked, the others would start again each time
//!   one of them gave up.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::watch;
use tokio::time::Instant;

use super::guard::GuardedResolver;

/// How long an answer is kept. The system's resolver tells no lifetime; archives that move announce it with
/// 60 s and more.
const KEPT: Duration = Duration::from_secs(30);

/// How long a failure is kept: long enough for the many who ask at once, and less than the first retry.
const FAILURE_KEPT: Duration = Duration::from_secs(1);

/// Names that are kept, lookups in progress included: as many as there are connections at once by default.
/// About 1 KiB each at most.
const MAX_NAMES: usize = 1024;

type LookupResult = Result<Arc<[SocketAddr]>, LookupError>;

/// A resolver that remembers.
pub(super) struct CachingResolver {
    inner: Arc<GuardedResolver>,
    lookups: Mutex<HashMap<String, Lookup>>,
}

/// A lookup that is in progress, or its answer.
struct Lookup {
    answer: watch::Receiver<Option<Answered>>,
}

#[derive(Clone)]
struct Answered {
    answer: LookupResult,
    expires: Instant,
}

impl Lookup {
    /// When its answer expires; `None` while there is none.
    fn expires(&self) -> Option<Instant> {
        self.answer.borrow().as_ref().map(|answered| answered.expires)
    }

    /// True if nobody will answer it, and nobody has: its task is gone.
    fn is_abandoned(&self) -> bool {
        self.answer.has_changed().is_err() && self.expires().is_none()
    }

    fn is_current(&self, now: Instant) -> bool {
        !self.is_abandoned() && self.expires().is_none_or(|expires| now < expires)
    }
}

impl CachingResolver {
    /// Remembers the answers of this resolver.
    pub(super) fn new(inner: GuardedResolver) -> Self {
        Self { inner: Arc::new(inner), lookups: Mutex::new(HashMap::new()) }
    }

    /// The lookup of this name: the one that there is, or a new one.
    ///
    /// # Errors
    /// If all names that are kept are still being looked up.
    fn lookup(&self, name: Name) -> Result<watch::Receiver<Option<Answered>>, LookupError> {
        let now = Instant::now();
        let mut lookups = self.lookups.lock();
        if let Some(lookup) = lookups.get(name.as_str()).filter(|lookup| lookup.is_current(now)) {
            return Ok(lookup.answer.clone());
        }
        if lookups.len() >= MAX_NAMES {
            make_room(&mut lookups, now);
        }
        if lookups.len() >= MAX_NAMES {
            return Err(LookupError(Arc::from(Box::from("too many names are being looked up"))));
        }
        let (sender, answer) = watch::channel(None);
        lookups.insert(name.as_str().to_owned(), Lookup { answer: answer.clone() });
        let resolving = self.inner.resolve(name);
        tokio::spawn(async move {
            let answer: LookupResult = match resolving.await {
                Ok(addresses) => Ok(addresses.collect()),
                Err(e) => Err(LookupError(Arc::from(e))),
            };
            let kept = if answer.is_ok() { KEPT } else { FAILURE_KEPT };
            sender.send_replace(Some(Answered { answer, expires: Instant::now() + kept }));
        });
        Ok(answer)
    }
}

/// Removes what has expired, or else the answer that expires next.
fn make_room(lookups: &mut HashMap<String, Lookup>, now: Instant) {
    lookups.retain(|_, lookup| lookup.is_current(now));
    if lookups.len() < MAX_NAMES {
        return;
    }
    let answered = lookups.iter().filter_map(|(name, lookup)| Some((lookup.expires()?, name)));
    if let Some(name) = answered.min().map(|(_, name)| name.clone()) {
        lookups.remove(&name);
    }
}

impl Resolve for CachingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let lookup = self.lookup(name);
        Box::pin(async move {
            let mut lookup = lookup?;
            let answered = lookup.wait_for(Option::is_some).await;
            let answered = answered.map_err(|_| "the lookup broke off")?.clone();
            let addresses = answered.ok_or("the lookup broke off")?.answer?;
            let addresses = addresses.to_vec();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A failure that several lookups share.
#[derive(Debug, Clone)]
struct LookupError(Arc<dyn Error + Send + Sync>);

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for LookupError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::fetch::guard::AddressGuard;

    /// Answers after the next tick; names that begin with `no` fail.
    #[derive(Default)]
    struct CountingResolver(AtomicUsize);

    impl Resolve for CountingResolver {
        fn resolve(&self, name: Name) -> Resolving {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                tokio::task::yield_now().await;
                if name.as_str().starts_with("no") {
                    return Err("no such name".into());
                }
                let addresses: Addrs = Box::new(std::iter::once(SocketAddr::from(([8, 8, 8, 8], 0))));
                Ok(addresses)
            })
        }
    }

    fn caching() -> (CachingResolver, Arc<CountingResolver>) {
        let counting = Arc::new(CountingResolver::default());
        let inner = GuardedResolver { inner: counting.clone(), guard: AddressGuard::new(&[]) };
        (CachingResolver::new(inner), counting)
    }

    async fn ask(resolver: &CachingResolver, name: &str) -> Result<usize, String> {
        let addresses = resolver.resolve(name.parse().unwrap()).await;
        addresses.map(Iterator::count).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn lookups_of_one_name_at_the_same_time_share_one_and_so_do_those_after() {
        let (resolver, counting) = caching();
        for (name, expected) in [("a.test", Ok(1)), ("no.test", Err("no such name".to_owned()))] {
            counting.0.store(0, Ordering::SeqCst);
            let asked = futures_util::future::join_all((0..100).map(|_| ask(&resolver, name))).await;
            assert!(asked.iter().all(|answer| *answer == expected), "{asked:?}");
            assert_eq!(ask(&resolver, name).await, expected);
            assert_eq!(counting.0.load(Ordering::SeqCst), 1, "{name}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_asked_for_again_once_it_has_expired() {
        let (resolver, counting) = caching();
        ask(&resolver, "a.test").await.unwrap();
        let now = Instant::now();
        for (later, current) in [(KEPT / 2, true), (KEPT, false)] {
            assert_eq!(resolver.lookups.lock()["a.test"].is_current(now + later), current);
        }
        ask(&resolver, "no.test").await.unwrap_err();
        assert!(!resolver.lookups.lock()["no.test"].is_current(Instant::now() + FAILURE_KEPT));
        assert_eq!(counting.0.load(Ordering::SeqCst), 2);
    }

    /// The first answer is public, those after it are not.
    #[derive(Default)]
    struct RebindingResolver(AtomicUsize);

    impl Resolve for RebindingResolver {
        fn resolve(&self, _: Name) -> Resolving {
            let address = match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => [8, 8, 8, 8],
                _ => [169, 254, 169, 254],
            };
            let addresses: Addrs = Box::new(std::iter::once(SocketAddr::from((address, 0))));
            Box::pin(std::future::ready(Ok(addresses)))
        }
    }

    #[tokio::test]
    async fn a_name_that_changes_to_a_forbidden_address_is_refused_when_it_is_asked_for_again() {
        let inner =
            GuardedResolver { inner: Arc::new(RebindingResolver::default()), guard: AddressGuard::new(&[]) };
        let resolver = CachingResolver::new(inner);
        assert_eq!(ask(&resolver, "a.test").await, Ok(1));
        assert_eq!(ask(&resolver, "a.test").await, Ok(1), "the address that was checked");
        resolver.lookups.lock().clear();
        let refusal = ask(&resolver, "a.test").await.unwrap_err();
        assert!(refusal.contains("169.254.169.254"), "{refusal}");
    }

    #[tokio::test]
    async fn one_who_gives_up_does_not_take_the_lookup_from_the_others() {
        let (resolver, counting) = caching();
        drop(resolver.resolve("a.test".parse().unwrap()));
        assert_eq!(ask(&resolver, "a.test").await, Ok(1));
        assert_eq!(counting.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn names_without_end_are_forgotten_and_not_hoarded() {
        let (resolver, _) = caching();
        for n in 0..MAX_NAMES + 50 {
            assert_eq!(ask(&resolver, &format!("n{n}.test")).await, Ok(1));
            assert!(resolver.lookups.lock().len() <= MAX_NAMES);
        }
        let pending: Vec<_> =
            (0..MAX_NAMES).map(|n| resolver.resolve(format!("p{n}.test").parse().unwrap())).collect();
        assert!(resolver.lookups.lock().len() <= MAX_NAMES);
        assert_eq!(ask(&resolver, "more.test").await, Err("too many names are being looked up".to_owned()));
        drop(pending);
    }
}
