//! The byte budget of bodies that have arrived, or are arriving, and wait for a slot.
//!
//! It counts bytes and owns none. [`BodyBudget`] is shared by all fetches of a worker; a [`BudgetPermit`] is what one
//! pair holds of it, and gives it back when it is dropped.
//!
//! Invariant: the bytes of all permits together never exceed the budget, and a pair that waits for bytes gets
//! them as soon as pairs whose bodies are complete let go of theirs, whatever the pairs that are still
//! arriving do.
//!
//! # Why
//! - Bytes are taken while a body grows, not when it is announced: most pages are far below the limit, and a
//!   server that announces much and sends nothing would hold what others need.
//! - Two pairs that each hold half and want the rest would wait for each other for ever. So the worst of one
//!   pair is kept aside, the *reserve*, and lent to one pair at a time, the oldest in want. A borrower never
//!   waits again, because no pair needs more than the reserve: it completes, or fails. Bytes that come back
//!   repay the loan first, so that the reserve is there for the next pair.
//! - Pairs are served in the order of their age: a small want does not pass a large one, or a large pair would
//!   starve beside many small ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A budget in bytes. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct BodyBudget {
    state: Arc<Mutex<State>>,
}

/// Identifies a pair; the older of two has the smaller number.
type PairNumber = u64;

#[derive(Debug)]
struct State {
    total: u64,
    /// Bytes that nobody holds, without the reserve.
    free: u64,
    /// Bytes kept aside for one pair.
    reserve: u64,
    loan: Option<Loan>,
    /// Bytes held by each open pair, loans included.
    held: BTreeMap<PairNumber, u64>,
    /// Requests that wait, the oldest pair's first; at most two for each open pair, one for each body.
    waiting: BTreeMap<(PairNumber, u64), Waiter>,
    /// The next number, of a pair or of a request.
    next_number: u64,
}

/// What a pair holds of the reserve: above zero, and at most the reserve.
#[derive(Debug, Clone, Copy)]
struct Loan {
    pair: PairNumber,
    bytes: u64,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    granted: oneshot::Sender<()>,
}

impl BodyBudget {
    /// A budget of `total` bytes, of which `pair_worst` are kept aside: the most that one pair can take.
    pub(super) fn new(total: u64, pair_worst: u64) -> Self {
        let reserve = pair_worst.min(total);
        let state = State {
            total,
            free: total - reserve,
            reserve,
            loan: None,
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_number: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Bytes held by all pairs together.
    pub fn held_bytes(&self) -> u64 {
        self.state.lock().held.values().sum()
    }

    /// The size of the budget.
    pub fn total_bytes(&self) -> u64 {
        self.state.lock().total
    }

    /// Number of pairs that wait for bytes, and so do not read from their servers.
    pub fn waiting_pairs(&self) -> usize {
        let state = self.state.lock();
        let mut pairs: Vec<PairNumber> = state.waiting.keys().map(|(pair, _)| *pair).collect();
        pairs.dedup();
        pairs.len()
    }

    /// A permit that holds nothing yet. From now on its pair is older than those that come after it.
    pub(super) fn open(&self) -> BudgetPermit {
        let mut state = self.state.lock();
        let pair = state.number();
        state.held.insert(pair, 0);
        BudgetPermit { state: Arc::clone(&self.state), pair }
    }
}

/// What one pair holds of the budget; dropping it gives the bytes back.
#[derive(Debug)]
#[must_use]
pub struct BudgetPermit {
    state: Arc<Mutex<State>>,
    pair: PairNumber,
}

impl BudgetPermit {
    /// Bytes that this pair holds.
    pub fn bytes(&self) -> u64 {
        self.state.lock().held.get(&self.pair).copied().unwrap_or_default()
    }

    /// Takes `bytes` more, waiting for them if need be. Cancelling it takes nothing, or leaves the bytes with
    /// the permit.
    pub(super) async fn take(&self, bytes: u64) {
        let waiting = {
            let mut state = self.state.lock();
            let request = (self.pair, state.number());
            let (granted, wait) = oneshot::channel();
            state.waiting.insert(request, Waiter { bytes, granted });
            state.grant();
            Waiting { state: &self.state, request, granted: wait }
        };
        waiting.granted().await;
    }

    /// Gives `bytes` of those taken back.
    pub(super) fn give_back(&self, bytes: u64) {
        self.state.lock().release(self.pair, bytes);
    }
}

impl Drop for BudgetPermit {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.release(self.pair, u64::MAX);
        state.held.remove(&self.pair);
    }
}

/// A request in the list of those that wait; leaves the list when it is dropped.
struct Waiting<'a> {
    state: &'a Mutex<State>,
    request: (PairNumber, u64),
    granted: oneshot::Receiver<()>,
}

impl Waiting<'_> {
    async fn granted(mut self) {
        // The sender is dropped only with its entry, which this request itself removes.
        let _ = (&mut self.granted).await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.waiting.remove(&self.request).is_some() {
            state.grant();
        }
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Takes bytes back from a pair, at most those that it holds.
    fn release(&mut self, pair: PairNumber, bytes: u64) {
        let Some(held) = self.held.get_mut(&pair) else { return };
        let bytes = bytes.min(*held);
        *held -= bytes;
        let repaid = self.loan.map_or(0, |loan| loan.bytes.min(bytes));
        self.loan = self.loan.and_then(|loan| {
            let left = loan.bytes - repaid;
            (left > 0).then_some(Loan { bytes: left, ..loan })
        });
        self.free += bytes - repaid;
        self.grant();
    }

    /// Grants what can be granted: first to the borrower, whose loan nobody else can get, then by age.
    fn grant(&mut self) {
        while let Some(request) = self.next_request() {
            let Some(waiter) = self.waiting.get(&request) else { return };
            let (pair, bytes) = (request.0, waiter.bytes);
            let from_free = bytes.min(self.free);
            let borrowed = bytes - from_free;
            if borrowed > 0 && !self.may_borrow(pair, borrowed) {
                return;
            }
            self.free -= from_free;
            if borrowed > 0 {
                let before = self.loan.map_or(0, |loan| loan.bytes);
                self.loan = Some(Loan { pair, bytes: before + borrowed });
            }
            *self.held.entry(pair).or_default() += bytes;
            if let Some(waiter) = self.waiting.remove(&request) {
                // A request that is being cancelled leaves its bytes with the permit.
                let _ = waiter.granted.send(());
            }
        }
    }

    fn next_request(&self) -> Option<(PairNumber, u64)> {
        let of_borrower =
            self.loan.and_then(|loan| self.waiting.range((loan.pair, 0)..=(loan.pair, u64::MAX)).next());
        of_borrower.or_else(|| self.waiting.iter().next()).map(|(request, _)| *request)
    }

    fn may_borrow(&self, pair: PairNumber, bytes: u64) -> bool {
        match self.loan {
            None => bytes <= self.reserve,
            Some(loan) => loan.pair == pair && bytes <= self.reserve - loan.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll(future: Pin<&mut (impl Future<Output = ()> + ?Sized)>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    fn takes(permit: &BudgetPermit, bytes: u64) -> bool {
        poll(pin!(permit.take(bytes)))
    }

    #[test]
    fn what_is_taken_comes_back_when_the_permit_is_dropped() {
        let budget = BodyBudget::new(100, 20);
        let (one, two) = (budget.open(), budget.open());
        assert!(takes(&one, 30) && takes(&two, 40));
        assert_eq!((one.bytes(), two.bytes(), budget.held_bytes()), (30, 40, 70));
        one.give_back(10);
        drop(two);
        assert_eq!((budget.held_bytes(), budget.total_bytes()), (20, 100));
        drop(one);
        assert_eq!(budget.held_bytes(), 0);
        assert_eq!(budget.state.lock().free, 80);
    }

    #[test]
    fn two_pairs_that_each_hold_half_do_not_wait_for_each_other() {
        let budget = BodyBudget::new(60, 20);
        let (one, two) = (budget.open(), budget.open());
        assert!(takes(&one, 19) && takes(&two, 19));
        let mut younger = pin!(two.take(1));
        assert!(takes(&one, 1) && poll(younger.as_mut()), "two bytes are free");
        let (three, four) = (budget.open(), budget.open());
        // Nothing is free: the oldest in want gets all it needs from the reserve, the other one waits.
        assert!(takes(&three, 15));
        let mut waits = pin!(four.take(20));
        assert!(!poll(waits.as_mut()));
        assert_eq!(budget.waiting_pairs(), 1);
        assert!(takes(&three, 5), "a borrower never waits");
        drop(one);
        assert!(poll(waits.as_mut()), "what came back has repaid the loan, and the reserve is lent anew");
        assert_eq!(budget.held_bytes(), 60);
    }

    #[test]
    fn the_oldest_pair_in_want_is_first_and_a_small_want_does_not_pass_it() {
        let budget = BodyBudget::new(40, 20);
        let (old, young, full) = (budget.open(), budget.open(), budget.open());
        let lent = budget.open();
        assert!(takes(&full, 20) && takes(&lent, 20));
        let (mut small, mut large) = (pin!(young.take(1)), pin!(old.take(20)));
        assert!(!poll(small.as_mut()) && !poll(large.as_mut()));
        lent.give_back(10);
        assert!(!poll(large.as_mut()), "the loan is repaid first, and the rest is not enough");
        assert!(!poll(small.as_mut()), "it would starve the older one");
        drop(lent);
        assert!(poll(large.as_mut()) && !poll(small.as_mut()));
        drop(full);
        assert!(poll(small.as_mut()));
    }

    #[test]
    fn a_request_that_is_cancelled_makes_way_for_the_next() {
        let budget = BodyBudget::new(40, 20);
        let (full, lent) = (budget.open(), budget.open());
        let (old, young) = (budget.open(), budget.open());
        assert!(takes(&full, 20) && takes(&lent, 15));
        let mut small = pin!(young.take(5));
        {
            let mut large = pin!(old.take(20));
            assert!(!poll(large.as_mut()) && !poll(small.as_mut()));
        }
        assert!(!poll(small.as_mut()));
        drop(lent);
        assert!(poll(small.as_mut()), "the older request is gone");
        assert_eq!(old.bytes(), 0);
    }

    #[test]
    fn whatever_order_they_come_in_every_pair_completes_and_nothing_is_lost() {
        const WORST: u64 = 20;
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let budget = BodyBudget::new(50, WORST);
            let mut open: Vec<_> = (0..12).map(|_| Some(Arc::new(budget.open()))).collect();
            let mut wanted: Vec<u64> = open.iter().map(|_| random.u64(1..=WORST)).collect();
            let mut takes: Vec<Option<Pin<Box<dyn Future<Output = ()>>>>> = (0..12).map(|_| None).collect();
            let mut rounds = 0;
            while open.iter().any(Option::is_some) {
                rounds += 1;
                assert!(rounds < 10_000, "seed {seed}: they wait for each other");
                let n = random.usize(0..12);
                let Some(permit) = &open[n] else { continue };
                if let Some(take) = &mut takes[n] {
                    if !poll(take.as_mut()) {
                        continue;
                    }
                    takes[n] = None;
                }
                if wanted[n] == 0 {
                    open[n] = None;
                } else {
                    let step = random.u64(1..=wanted[n].min(4));
                    wanted[n] -= step;
                    let permit = Arc::clone(permit);
                    takes[n] = Some(Box::pin(async move { permit.take(step).await }));
                }
                assert!(budget.held_bytes() <= 50);
            }
            let state = budget.state.lock();
            assert!(state.free == 50 - WORST && state.loan.is_none() && state.held.is_empty(), "{state:?}");
        }
    }
}
