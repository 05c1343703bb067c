//! Work that lasts as long as somebody holds on to it.

use tokio::task::JoinHandle;

/// A running actor or worker. Whoever holds this owns it: dropping it stops the work at the point
/// where it waits next.
#[derive(Debug)]
#[must_use = "dropping it stops the work"]
pub struct Kept(JoinHandle<()>);

impl Kept {
    /// Takes over a task that runs.
    pub fn of(task: JoinHandle<()>) -> Self {
        Self(task)
    }

    /// Whether the work has ended by itself.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.abort();
    }
}
