//! The isolation that is in force, as a set of names, and what each mode of the configuration asks for.
//!
//! Invariant: a feature is in the set only because it was tried and worked, or because the kernel answered for it;
//! never because an interface said "ok".

use super::Isolation;

/// A set of features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Features(u32);

impl Features {
    /// A job that opened a socket was killed for it.
    pub(super) const SECCOMP: Self = Self(1);
    /// A probe could not open `/`.
    pub(super) const LANDLOCK: Self = Self(1 << 1);
    /// A probe could not signal its parent: each job has a domain of its own.
    pub(super) const LANDLOCK_SCOPE: Self = Self(1 << 2);
    /// The kernel confirmed the fences: address space, data, stack, processes, files.
    pub(super) const RLIMITS: Self = Self(1 << 3);
    /// The counting allocator is this binary's.
    pub(super) const HEAP_BUDGET: Self = Self(1 << 4);
    /// No program may gain privileges any more.
    pub(super) const NO_NEW_PRIVS: Self = Self(1 << 5);
    /// The child is not root.
    pub(super) const UNPRIVILEGED: Self = Self(1 << 6);
    /// A job dies with its zygote.
    pub(super) const PDEATHSIG: Self = Self(1 << 7);
    /// The end of a job is an event; without it the zygote looks every millisecond.
    pub(super) const PIDFD: Self = Self(1 << 8);
    /// The kernel's OOM killer takes the child before the worker.
    pub(super) const OOM_FIRST: Self = Self(1 << 9);

    const NAMES: [(Self, &'static str); 10] = [
        (Self::SECCOMP, "seccomp"),
        (Self::LANDLOCK, "landlock"),
        (Self::LANDLOCK_SCOPE, "landlock_scope"),
        (Self::RLIMITS, "rlimits"),
        (Self::HEAP_BUDGET, "heap_budget"),
        (Self::NO_NEW_PRIVS, "no_new_privs"),
        (Self::UNPRIVILEGED, "unprivileged"),
        (Self::PDEATHSIG, "pdeathsig"),
        (Self::PIDFD, "pidfd"),
        (Self::OOM_FIRST, "oom_first"),
    ];

    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: Self = Self((1 << 10) - 1);

    /// The set as a number, for the wire.
    pub(super) const fn bits(self) -> u32 {
        self.0
    }

    /// The set from a number.
    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Both together.
    #[must_use]
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set, and the other if `so`.
    #[must_use]
    pub(super) const fn and_if(self, so: bool, other: Self) -> Self {
        if so { self.and(other) } else { self }
    }

    /// True when all of the other are in this one.
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Every feature there is, and whether it is in the set.
    pub(super) fn each(self) -> impl Iterator<Item = (&'static str, bool)> {
        Self::NAMES.into_iter().map(move |(feature, name)| (name, self.has(feature)))
    }

    /// Their names.
    pub(super) fn names(self) -> Vec<String> {
        let named = |(feature, name): &(Self, &str)| self.has(*feature).then(|| (*name).to_owned());
        Self::NAMES.iter().filter_map(named).collect()
    }

    /// The names of what a mode asks for and this set has not.
    pub(super) fn missing(self, mode: Isolation) -> Vec<String> {
        let needed = match mode {
            Isolation::Strict => Self::CONTAINED.and(Self::LANDLOCK),
            Isolation::BestEffort => Self::CONTAINED,
            Isolation::Reduced => Self::BOUNDED,
        };
        Self(needed.0 & !self.0).names()
    }

    /// What bounds a job.
    const BOUNDED: Self = Self::RLIMITS.and(Self::HEAP_BUDGET);
    /// What bounds a job and keeps it in.
    const CONTAINED: Self = Self::BOUNDED.and(Self::SECCOMP).and(Self::NO_NEW_PRIVS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_names_what_it_misses() {
        assert_eq!(Features::ALL.names().len(), Features::NAMES.len());
        for mode in [Isolation::Strict, Isolation::BestEffort, Isolation::Reduced] {
            assert!(Features::ALL.missing(mode).is_empty(), "{mode:?}");
        }
        let none = Features::default();
        assert_eq!(none.missing(Isolation::Reduced), ["rlimits", "heap_budget"]);
        assert_eq!(
            none.missing(Isolation::BestEffort),
            ["seccomp", "rlimits", "heap_budget", "no_new_privs"]
        );
        let plain = Features::CONTAINED;
        assert_eq!(plain.missing(Isolation::Strict), ["landlock"]);
    }
}
