//! Garbage collection beside the loop: what is wanted is known here, so what goes is decided between two passes, and that
//! takes a few renames; it is deleted while the loop goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use model::desired::Held;
use model::units::format_duration;
use storage::{Garbage, GcPolicy, Round, StoreError, Why};
use tracing::warn;

use super::taken::Owner;
use super::{Engine, Wake};
use crate::execute::chain;

/// How often layers that are no image's are looked for where nothing else is to be collected.
const THOROUGH: Duration = Duration::from_secs(3600);

/// What there is to know between two rounds.
#[derive(Default)]
pub(super) struct Collector {
    /// Everything was looked at anew.
    pub due: bool,
    /// What was taken out is being deleted.
    deleting: Arc<AtomicBool>,
    /// When layers that are no image's were last looked for.
    thorough: Option<Instant>,
}

impl Engine {
    /// A round, if one is due. Not while it cannot be known what is wanted: a table in a file that cannot be read may keep
    /// an image.
    pub(super) async fn collect_garbage(&mut self) {
        let known = self.desired.held == Held::default() && self.settings_errors.is_empty();
        if !std::mem::take(&mut self.collector.due)
            || self.collector.deleting.load(Ordering::Acquire)
            || !known
        {
            return;
        }
        let settings = &self.desired.settings;
        let policy = GcPolicy {
            max_age: Some(settings.gc_max_age).filter(|age| !age.is_zero()),
            keep_free: settings.gc_keep_free,
        };
        let thorough = self
            .collector
            .thorough
            .is_none_or(|last| last.elapsed() >= THOROUGH);
        if thorough {
            self.collector.thorough = Some(Instant::now());
        }
        let (host, in_use) = (Arc::clone(&self.host), self.in_use());
        let round = move || -> Result<Garbage, StoreError> {
            let free = match policy.keep_free {
                0 => 100,
                _ => host.store.free_percent()?,
            };
            let now = Timestamp::now();
            let round = Round { now, free, thorough };
            host.store.collect(&in_use, &policy, &round)
        };
        match tokio::task::spawn_blocking(round).await {
            Ok(Ok(garbage)) if garbage.is_empty() => {}
            Ok(Ok(garbage)) => self.discard(garbage, &policy),
            Ok(Err(e)) => warn!("unused images cannot be removed: {}", chain(e)),
            Err(e) => warn!("the removal of unused images broke off: {e}"),
        }
    }

    /// Tells of what was taken out, and has it deleted; then there may be more.
    fn discard(&mut self, garbage: Garbage, policy: &GcPolicy) {
        for (key, why) in &garbage.images {
            self.events.emit("image", key, "remove", sentence(*why, policy));
        }
        if let Some((count, why)) = garbage.layers {
            let reason = format!("{count} layers of no image: {}", sentence(why, policy));
            self.events.emit("image", "layers", "remove", reason);
        }
        self.dirty.images = true;
        self.collector.deleting.store(true, Ordering::Release);
        let (host, wakes) = (Arc::clone(&self.host), self.wakes.clone());
        let deleting = Arc::clone(&self.collector.deleting);
        tokio::task::spawn_blocking(move || {
            if let Err(e) = host.store.discard(garbage) {
                warn!(
                    "what was removed of images is deleted with the next start: {}",
                    chain(e)
                );
            }
            deleting.store(false, Ordering::Release);
            // The loop outlives its helpers but at its own end.
            drop(wakes.send(Wake::Collected));
        });
        // The look of this pass was before.
        drop(self.wakes.send(Wake::Taken(Owner::Layers)));
    }
}

fn sentence(why: Why, policy: &GcPolicy) -> String {
    match why {
        Why::Unused(age) => {
            let most = policy.max_age.map(format_duration).unwrap_or_default();
            format!("unused for {} (gc.max_age = {most:?})", format_duration(age))
        }
        Why::Full(free) => format!(
            "{free}% of the disk is free (gc.keep_free = \"{}%\"), and of what nothing uses it was unused longest",
            policy.keep_free
        ),
    }
}
