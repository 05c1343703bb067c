//! A relay's place among those that serve its database: taken before it serves, looked at again and
//! again, taken anew when the database was away, given up at the end.

use crate::database;
use crate::store::StoreError;
use crate::store::relays::{Card, Other, Seat};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// How often a relay looks whether it still has its place: whoever came meanwhile is told of soon.
const EVERY: Duration = Duration::from_secs(2);

/// One that is about to end, or was just killed, is gone within this.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a place that another has is tried meanwhile.
const AGAIN: Duration = Duration::from_millis(100);

/// Giving the place up takes no longer; the server takes it when the connection ends.
const LEAVING: Duration = Duration::from_secs(6);

/// A relay's place, kept by a task that ends with this.
#[derive(Debug)]
pub(crate) struct Presence {
    leave: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Presence {
    /// Takes a place; one that is in the way is handed back.
    pub(crate) async fn take(
        at: &database::Postgres,
        card: Card,
    ) -> Result<Result<Self, Other>, StoreError> {
        let until = Instant::now() + PATIENCE;
        let seat = loop {
            match Seat::take(at, &card).await? {
                Ok(seat) => break seat,
                Err(_) if Instant::now() < until => sleep(AGAIN).await,
                Err(other) => return Ok(Err(other)),
            }
        };
        let (leave, leaving) = watch::channel(false);
        let task = tokio::spawn(keep(at.clone(), card, seat, leaving));
        Ok(Ok(Self { leave, task }))
    }

    /// Gives it up.
    pub(crate) async fn leave(mut self) {
        self.leave.send_replace(true);
        // what was not said in time, the server notices
        drop(timeout(LEAVING, &mut self.task).await);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(at: database::Postgres, card: Card, seat: Seat, mut leaving: watch::Receiver<bool>) {
    let mut seat = Some(seat);
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            _ = leaving.wait_for(|leave| *leave) => break,
            () = sleep(EVERY) => {}
        }
        if let Some(held) = &mut seat
            && held.is_held().await
        {
            continue;
        }
        if seat.take().is_some() {
            tracing::warn!("the database was lost, and with it this relay's place");
        }
        match Seat::take(&at, &card).await {
            Ok(Ok(new)) => {
                tracing::info!("this relay has its place again");
                (seat, told) = (Some(new), false);
            }
            Ok(Err(other)) if !told => {
                told = true;
                tracing::error!(
                    "{other} serves this database now, and they do not reach each other: stop one"
                );
            }
            Ok(Err(_)) => {}
            Err(e) => {
                let error = &e as &dyn std::error::Error;
                tracing::debug!(error, "no place yet");
            }
        }
    }
    if let Some(seat) = seat
        && let Err(e) = seat.leave().await
    {
        tracing::debug!(error = &e as &dyn std::error::Error, "the server takes the place back");
    }
}
