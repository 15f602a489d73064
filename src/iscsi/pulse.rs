//! A clock for short waits that nearly always end before their time. It runs only while somebody waits, and is one
//! timer for all of them: each timer that is nearer than any other makes the runtime wake itself by a system call.

use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Beats while it is wanted.
#[derive(Debug)]
pub(super) struct Pulse {
    period: Duration,
    beats: watch::Sender<()>,
    wanted: Notify,
}

impl Pulse {
    pub(super) fn new(period: Duration) -> Self {
        Self {
            period,
            beats: watch::Sender::new(()),
            wanted: Notify::new(),
        }
    }

    /// Keeps it beating; for ever.
    pub(super) async fn keep(&self) {
        loop {
            self.wanted.notified().await;
            tokio::time::sleep(self.period).await;
            self.beats.send_replace(());
        }
    }

    /// Waits one period at least, and two at most.
    pub(super) async fn wait(&self) {
        let mut beats = self.beats.subscribe();
        for _ in 0..2 {
            self.wanted.notify_one();
            // The sender lives as long as `self` does.
            let _ = beats.changed().await;
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn whoever_waits_waits_a_whole_period() {
        let period = Duration::from_millis(3);
        let pulse = Pulse::new(period);
        let waits = async {
            for _ in 0..3 {
                let begun = Instant::now();
                tokio::join!(pulse.wait(), pulse.wait());
                assert!(begun.elapsed() >= period);
            }
        };
        tokio::select! {
            () = waits => {}
            () = pulse.keep() => unreachable!("it beats for ever"),
        }
    }

    #[tokio::test]
    async fn it_rests_when_nobody_waits() {
        let pulse = Pulse::new(Duration::from_millis(1));
        let mut beats = pulse.beats.subscribe();
        tokio::select! {
            biased;
            () = pulse.keep() => unreachable!("it beats for ever"),
            () = pulse.wait() => {}
        }
        beats.mark_unchanged();
        let quiet = tokio::time::timeout(Duration::from_millis(20), async {
            tokio::select! {
                () = pulse.keep() => {}
                _ = beats.changed() => {}
            }
        });
        assert!(quiet.await.is_err());
    }
}
