//! What was typed and not answered, and who was given it. Pure.

/// Who takes what is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Whoever is at the other end of the connection.
    Daemon,
    /// The keeper.
    Keeper,
}

/// What waits for its answer, oldest first. As much as whoever types lets wait.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<(u64, By)>);

impl Waiting {
    /// Something was given to `by` under this number.
    pub(super) fn given(&mut self, seq: u64, by: By) {
        self.0.push((seq, by));
    }

    /// What has this number was answered.
    pub(super) fn answered(&mut self, seq: u64) {
        self.0.retain(|(waiting, _)| *waiting != seq);
    }

    /// One of the two is gone: what it will not answer, which waits no more.
    pub(super) fn lost(&mut self, gone: By) -> Vec<u64> {
        let all = std::mem::take(&mut self.0).into_iter();
        let (lost, kept): (Vec<_>, Vec<_>) = all.partition(|(_, by)| *by == gone);
        self.0 = kept;
        lost.into_iter().map(|(seq, _)| seq).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f07_who_is_gone_answers_no_more_and_the_other_still_does() {
        let mut waiting = Waiting::default();
        for (seq, by) in [(1, By::Daemon), (2, By::Daemon), (3, By::Keeper), (4, By::Daemon)] {
            waiting.given(seq, by);
        }
        waiting.answered(2);
        assert_eq!(waiting.lost(By::Daemon), [1, 4]);
        assert!(waiting.lost(By::Daemon).is_empty());
        assert_eq!(waiting.lost(By::Keeper), [3]);
    }
}
