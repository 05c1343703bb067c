//! Faults that a test plants, to see that the simulation finds them.

/// Whether the fault of this name is planted. Never in a shipped build: the answer is a constant
/// there, and what hangs on it is not compiled in.
#[cfg(not(feature = "planted-faults"))]
#[inline(always)]
#[must_use]
pub fn planted(_name: &str) -> bool {
    false
}

/// Whether the fault of this name is planted.
#[cfg(feature = "planted-faults")]
#[must_use]
pub fn planted(name: &str) -> bool {
    crate::world::present().is_some_and(|world| world.planted(name))
}
