//! Who is logged in. Sessions are kept in memory only: after a restart people log in again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use super::gate::Visitor;

/// A working day.
pub(super) const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// More than people look at a queue; beyond it the oldest session ends.
const SESSIONS_MAX: usize = 500;
/// Logins in a minute, of all together: no person needs more, and none guesses a token at this rate.
const LOGINS_PER_MINUTE: usize = 30;

#[derive(Debug)]
struct Session {
    visitor: Visitor,
    begun: Instant,
}

/// The sessions, by what the browser sends.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: Mutex<HashMap<String, Session>>,
    logins: Mutex<Vec<Instant>>,
}

impl Sessions {
    /// False where too many tried lately.
    pub(super) fn may_try(&self) -> bool {
        let mut logins = self.logins.lock();
        logins.retain(|at| at.elapsed() < Duration::from_secs(60));
        let may = logins.len() < LOGINS_PER_MINUTE;
        if may {
            logins.push(Instant::now());
        }
        may
    }

    /// Begins a session, and tells its id: 244 random bits.
    pub(super) fn begin(&self, visitor: Visitor) -> String {
        let id = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let mut open = self.open.lock();
        open.retain(|_, session| session.begun.elapsed() < LIFETIME);
        if open.len() >= SESSIONS_MAX {
            let oldest = open.iter().min_by_key(|(_, session)| session.begun).map(|(id, _)| id.clone());
            oldest.map(|id| open.remove(&id));
        }
        open.insert(id.clone(), Session { visitor, begun: Instant::now() });
        id
    }

    /// Who has this session.
    pub(super) fn find(&self, id: &str) -> Option<Visitor> {
        let open = self.open.lock();
        open.get(id)
            .filter(|session| session.begun.elapsed() < LIFETIME)
            .map(|session| session.visitor.clone())
    }

    /// Ends it.
    pub(super) fn end(&self, id: &str) {
        self.open.lock().remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::Role;
    use super::*;

    #[test]
    fn a_session_is_found_until_it_ends_and_the_oldest_makes_way() {
        let sessions = Sessions::default();
        let visitor = Visitor::named(Role::View, "op", true);
        let first = sessions.begin(visitor.clone());
        assert_eq!(sessions.find(&first), Some(visitor.clone()));
        let last = (0..SESSIONS_MAX).map(|_| sessions.begin(visitor.clone())).last().unwrap();
        assert_eq!(sessions.find(&first), None);
        sessions.end(&last);
        assert_eq!(sessions.find(&last), None);
        assert_eq!(sessions.open.lock().len(), SESSIONS_MAX - 1);
    }

    #[test]
    fn logins_have_a_rate() {
        let sessions = Sessions::default();
        let tried = (0..100).filter(|_| sessions.may_try()).count();
        assert_eq!(tried, LOGINS_PER_MINUTE);
    }
}
