//! The set of isolation layers in force, and the layers that each configured mode requires.
//!
//! Invariant: a layer is in the set only because it was tried and worked, or because the kernel confirmed it;
//! never because a call returned success.

use bitflags::bitflags;

use super::Isolation;

bitflags! {
    /// A set of isolation layers; reports list their names in lower case.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub(super) struct IsolationLayers: u32 {
        /// A probe that opened a socket was killed by the filter.
        const SECCOMP = 1;
        /// A probe was refused access to `/`.
        const LANDLOCK = 1 << 1;
        /// A probe could not signal its parent: each job has its own Landlock domain.
        const LANDLOCK_SCOPE = 1 << 2;
        /// The kernel confirmed the limits on address space, data, stack, processes and files.
        const RLIMITS = 1 << 3;
        /// This binary uses the counting allocator.
        const HEAP_BUDGET = 1 << 4;
        /// `no_new_privs` is set, so exec cannot gain privileges.
        const NO_NEW_PRIVS = 1 << 5;
        /// The effective user is not root.
        const UNPRIVILEGED = 1 << 6;
        /// The kernel kills a job when its fork server exits.
        const PDEATHSIG = 1 << 7;
        /// Job exits are signalled by a pidfd; without it the fork server polls every millisecond.
        const PIDFD = 1 << 8;
        /// The kernel's OOM killer selects the child before the worker.
        const OOM_FIRST = 1 << 9;

        /// The layers that bound the resources of a job.
        const LIMITS_ONLY = Self::RLIMITS.bits() | Self::HEAP_BUDGET.bits();
        /// The layers that bound a job's resources and restrict its system calls.
        const LIMITS_AND_SECCOMP = Self::LIMITS_ONLY.bits() | Self::SECCOMP.bits() | Self::NO_NEW_PRIVS.bits();
    }
}

impl IsolationLayers {
    /// Adds `other` to the set if `holds` is true.
    #[must_use]
    pub(super) fn union_if(self, holds: bool, other: Self) -> Self {
        if holds { self | other } else { self }
    }

    /// Every layer by name, and whether it is in the set.
    pub(super) fn iter_all(self) -> impl Iterator<Item = (String, bool)> {
        let single = Self::all().iter_names().filter(|(_, layer)| layer.bits().is_power_of_two());
        single.map(move |(name, layer)| (name.to_ascii_lowercase(), self.contains(layer)))
    }

    /// Lower-case names of the layers in the set.
    pub(super) fn names(self) -> Vec<String> {
        self.iter_all().filter_map(|(name, has)| has.then_some(name)).collect()
    }

    /// Names of the layers that a mode requires and this set lacks.
    pub(super) fn missing_for(self, mode: Isolation) -> Vec<String> {
        let required = match mode {
            Isolation::Strict => Self::LIMITS_AND_SECCOMP | Self::LANDLOCK,
            Isolation::BestEffort => Self::LIMITS_AND_SECCOMP,
            Isolation::Reduced => Self::LIMITS_ONLY,
        };
        (required - self).names()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_names_what_it_misses() {
        assert_eq!(IsolationLayers::all().names().len(), 10);
        for mode in [Isolation::Strict, Isolation::BestEffort, Isolation::Reduced] {
            assert!(IsolationLayers::all().missing_for(mode).is_empty(), "{mode:?}");
        }
        let none = IsolationLayers::default();
        assert_eq!(none.missing_for(Isolation::Reduced), ["rlimits", "heap_budget"]);
        assert_eq!(
            none.missing_for(Isolation::BestEffort),
            ["seccomp", "rlimits", "heap_budget", "no_new_privs"]
        );
        let plain = IsolationLayers::LIMITS_AND_SECCOMP;
        assert_eq!(plain.missing_for(Isolation::Strict), ["landlock"]);
    }
}
