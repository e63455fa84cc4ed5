//! Images and volumes removed by hand: decided in the loop, which knows what is wanted; done beside it.

use std::sync::Arc;

use model::action::Noun;
use model::image::ImageSource;
use model::name::Name;
use storage::{InUse, Pruned};

use super::request::{Answer, Refusal, reply};
use super::{Done, Engine, Wake};
use crate::execute::chain;

type Result<T> = std::result::Result<T, Refusal>;

impl Engine {
    /// Removes an image nothing wants; gives its full name.
    pub(super) fn remove_image(&mut self, name: &str, answer: Answer<Result<String>>) {
        let key = match self.unwanted_image(name) {
            Ok(key) => key,
            Err(refusal) => return reply(answer, Err(refusal)),
        };
        let (host, in_use) = (Arc::clone(&self.host), self.in_use());
        self.beside(Noun::Image(key.clone()), answer, move || {
            let removed = host.store.remove(&key, &in_use);
            removed.map(|_| key).map_err(|e| Refusal::Failed(chain(e)))
        });
    }

    /// Removes all images nothing wants; or only what no image has any more, where it is to be `dangling`.
    pub(super) fn prune_images(&mut self, dry_run: bool, dangling: bool, answer: Answer<Result<Pruned>>) {
        let (host, mut in_use) = (Arc::clone(&self.host), self.in_use());
        self.beside(Noun::Image(String::new()), answer, move || {
            let named = match dangling {
                true => host.store.images().map(|all| in_use.keys.extend(all.into_keys())),
                false => Ok(()),
            };
            let pruned = named.and_then(|()| host.store.prune(&in_use, dry_run));
            pruned.map_err(|e| Refusal::Failed(chain(e)))
        });
    }

    /// Puts away a volume that nothing uses and no file declares.
    pub(super) fn remove_volume(&mut self, name: &str, answer: Answer<Result<()>>) {
        let name = match self.unwanted_volume(name) {
            Ok(name) => name,
            Err(refusal) => return reply(answer, Err(refusal)),
        };
        let host = Arc::clone(&self.host);
        self.beside(Noun::Volume(name.clone()), answer, move || {
            let removed = host.volumes.remove(&name);
            removed.map(drop).map_err(|e| Refusal::Failed(chain(e)))
        });
    }

    /// Work that keeps the planner's hands off a noun. The answer comes after the loop was told of the end: whoever asks
    /// for a look then gets one at what has become of it.
    fn beside<T: Send + 'static>(
        &mut self,
        noun: Noun,
        answer: Answer<T>,
        work: impl FnOnce() -> T + Send + 'static,
    ) {
        self.in_flight.insert(noun.clone());
        let wakes = self.wakes.clone();
        tokio::task::spawn_blocking(move || {
            let value = work();
            // The loop outlives every action but at its own end.
            drop(wakes.send(Wake::Done(Box::new(Done {
                action: None,
                noun,
                why: String::new(),
                result: Ok(()),
            }))));
            reply(answer, value);
        });
    }

    fn unwanted_image(&self, name: &str) -> Result<String> {
        let images = self.observed.images.known();
        let full = model::file::image(name, &self.desired.settings.search)
            .ok()
            .map(|source| source.key());
        let is = |key: &&String| {
            let id = images.and_then(|all| all.get(*key)).and_then(|image| image.id);
            let by_id = |text: &str| id.is_some_and(|id| text.len() >= 4 && id.hex().starts_with(text));
            key.as_str() == name || full.as_ref() == Some(key) || by_id(name.trim_start_matches("sha256:"))
        };
        let key = images
            .and_then(|all| all.keys().find(is))
            .cloned()
            .ok_or_else(|| Refusal::NotFound(format!("no image {name:?}; `wharf image ls` lists them")))?;
        if let Some(user) = self.user_of_image(&key) {
            return Err(Refusal::InUse(format!("image {key} is used by {user}")));
        }
        if self.in_flight.contains(&Noun::Image(key.clone())) {
            return Err(Refusal::Busy(format!("image {key}")));
        }
        Ok(key)
    }

    fn user_of_image(&self, key: &str) -> Option<String> {
        let of = |source: &ImageSource| source.key() == key;
        let declared = self.desired.containers.iter().find(|(_, c)| of(&c.spec.image));
        let accepted = || self.ledger.accepted().find(|(_, a)| of(&a.spec.image));
        let container = declared
            .map(|(name, _)| name)
            .or_else(|| accepted().map(|(name, _)| name));
        match container {
            Some(name) => Some(format!("container {name}")),
            None if self.desired.images.contains_key(key) => Some("an [image] table".to_owned()),
            None => None,
        }
    }

    /// What tables want, and what containers stand on, whatever their image's name means by now.
    pub(super) fn in_use(&self) -> InUse {
        let declared = self.desired.containers.values().map(|c| c.spec.image.key());
        let mut in_use: InUse = declared.chain(self.desired.images.keys().cloned()).collect();
        for (_, accepted) in self.ledger.accepted() {
            in_use.keys.insert(accepted.spec.image.key());
            if let Some(image) = &accepted.image {
                in_use.add(image);
            }
        }
        in_use
    }

    fn unwanted_volume(&self, name: &str) -> Result<Name> {
        let unknown = || Refusal::NotFound(format!("no volume {name:?}; `wharf volume ls` lists them"));
        let name: Name = name.parse().map_err(|_| unknown())?;
        let there = self
            .observed
            .volumes
            .known()
            .is_some_and(|all| all.contains_key(&name));
        if !there {
            return Err(unknown());
        }
        if self.desired.volumes.contains_key(&name) {
            return Err(Refusal::InUse(format!(
                "volume {name} is declared; take its table away first"
            )));
        }
        let uses = |spec: &model::spec::ContainerSpec| {
            spec.volumes
                .iter()
                .any(|v| matches!(&v.source, model::spec::VolumeSource::Named(n) if *n == name))
        };
        let declared = self
            .desired
            .containers
            .iter()
            .find(|(_, c)| uses(&c.spec))
            .map(|(n, _)| n);
        let accepted = self.ledger.accepted().find(|(_, a)| uses(&a.spec));
        match declared.or(accepted.map(|(n, _)| n)) {
            Some(user) => Err(Refusal::InUse(format!(
                "volume {name} is used by container {user}"
            ))),
            None if self.in_flight.contains(&Noun::Volume(name.clone())) => {
                Err(Refusal::Busy(format!("volume {name}")))
            }
            None => Ok(name),
        }
    }
}
