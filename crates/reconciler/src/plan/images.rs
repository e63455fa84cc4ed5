//! Images that somebody needs and the store does not have.

use std::collections::{BTreeMap, BTreeSet};

use model::action::{Action, Noun};
use model::image::{Image, ImageSource};
use model::ledger::{asks_registry, follows_registry};
use model::name::Name;
use model::observed::Look;
use model::plan::{Op, Reason};
use model::shared::Shared;
use model::spec::PullPolicy;

use super::presence::Wish;
use super::{Blocked, Pass};

/// Who needs an image.
#[derive(Default)]
struct Need<'a> {
    source: Option<&'a ImageSource>,
    by: BTreeSet<&'a Name>,
    reason: Option<Reason>,
    /// Somebody lets it be pulled.
    pull: bool,
    /// Somebody wants the registry asked.
    refresh: bool,
}

impl<'a> Pass<'a, '_> {
    /// The image in the store, by key.
    pub(super) fn image(&self, key: &str) -> Option<&'a Shared<Image>> {
        self.input.observed.images.known()?.get(key)
    }

    /// Loads what is needed and not there, each once.
    pub(super) fn load_images(&mut self) {
        let needs = self.image_needs();
        let here = match &self.input.observed.images {
            Look::Known(here) => here,
            Look::Unknown(why) => {
                for key in needs.into_keys() {
                    self.wait(
                        Noun::Image(key),
                        format!("the image store cannot be looked at: {why}"),
                        None,
                    );
                }
                return;
            }
        };
        for (key, need) in needs {
            if let Some(source) = need.source.filter(|_| !here.contains_key(&key)) {
                self.load(key, source.clone(), need);
            }
        }
    }

    fn image_needs(&self) -> BTreeMap<String, Need<'a>> {
        let desired = self.input.desired;
        let mut needs: BTreeMap<String, Need<'a>> = BTreeMap::new();
        for (name, container) in &desired.containers {
            let need = needs.entry(container.spec.image.key()).or_default();
            need.source = Some(&container.spec.image);
            need.by.insert(name);
            let registry = matches!(container.spec.image, ImageSource::Registry { .. });
            need.pull |= !registry || container.spec.pull != PullPolicy::Never;
            need.refresh |= asks_registry(&container.spec) || follows_registry(&container.spec);
            need.reason.get_or_insert_with(|| {
                let at = container.origin.key("image");
                Reason {
                    field: format!("container {name} uses it"),
                    from: None,
                    to: None,
                    file: Some(at.file).filter(|f| !f.is_empty()),
                    line: at.line,
                }
            });
        }
        for (key, image) in &desired.images {
            let need = needs.entry(key.clone()).or_default();
            need.source = Some(&image.spec);
            need.pull = true;
            let at = image.origin.key("pull");
            need.reason.get_or_insert_with(|| Reason {
                file: Some(at.file).filter(|f| !f.is_empty()),
                line: at.line,
                ..Reason::because("kept here ahead of use")
            });
        }
        needs
    }

    fn load(&mut self, key: String, source: ImageSource, need: Need<'a>) {
        let noun = Noun::Image(key);
        if self.busy(&noun) {
            self.wait(noun, "is being loaded", None);
        } else if !need.pull {
            let by: Vec<&str> = need.by.into_iter().map(Name::as_str).collect();
            let why = format!(
                "is not here, and pull = \"never\" of {} keeps it from being pulled; `wharf image pull` it by hand",
                by.join(", ")
            );
            self.error(noun, why, None);
        } else if let Some(blocked) = self.resting(&noun, None, &source, &Default::default()) {
            self.hold_up(noun, blocked);
        } else {
            self.act(
                Op::Create,
                Action::LoadImage {
                    source,
                    refresh: need.refresh,
                },
                Vec::new(),
                need.reason.into_iter().collect(),
            );
        }
    }

    /// Asks registries once more for containers that are to be made and say `pull = "always"`.
    pub(super) fn refresh_images(&mut self) {
        let mut asking: BTreeMap<String, (ImageSource, Reason)> = BTreeMap::new();
        for (name, accepted) in self.ledger.accepted() {
            let wanted = !matches!(self.wish(name), Wish::Gone) && !self.ledger.holds.contains_key(name);
            if wanted && accepted.image.is_none() && accepted.asks_registry() {
                let source = &accepted.spec.image;
                asking.entry(source.key()).or_insert_with(|| {
                    let at = accepted.origin.key("pull");
                    let reason = Reason {
                        file: Some(at.file).filter(|f| !f.is_empty()),
                        line: at.line,
                        ..Reason::because(format!("container {name} is made from what its registry has"))
                    };
                    (source.clone(), reason)
                });
            }
        }
        for (key, (source, reason)) in asking {
            self.refresh_image(key, source, reason);
        }
    }

    fn refresh_image(&mut self, key: String, source: ImageSource, reason: Reason) {
        let noun = Noun::Image(key);
        if self.said.contains(&noun) || self.input.observed.images.known().is_none() {
            return;
        }
        let loading = self.actions.iter_mut().find(|p| p.action.noun() == noun);
        if let Some(Action::LoadImage { refresh, .. }) = loading.map(|p| &mut p.action) {
            *refresh = true;
        } else if self.busy(&noun) {
            self.wait(noun, "is being loaded", None);
        } else if let Some(blocked) = self.resting(&noun, None, &source, &Default::default()) {
            self.hold_up(noun, blocked);
        } else {
            let action = Action::LoadImage {
                source,
                refresh: true,
            };
            self.act(Op::Update, action, Vec::new(), vec![reason]);
        }
    }

    /// Why an image is not there yet.
    pub(super) fn waits_for_image(&self, key: &str) -> Blocked {
        let text = format!("waits for image {key}");
        match self.input.failures.get(&Noun::Image(key.to_owned())) {
            Some(failure) => Blocked::error(format!("{text}: {}", failure.message)),
            None if self.said.contains(&Noun::Image(key.to_owned())) => {
                let wait = self
                    .waits
                    .iter()
                    .find(|w| w.noun.kind() == "image" && w.noun.name() == key);
                let error = wait.is_some_and(|w| w.error);
                let why = wait
                    .and_then(|w| w.reasons.first())
                    .map_or("", |r| r.field.as_str());
                Blocked {
                    why: format!("{text}, which {why}"),
                    until: None,
                    error,
                }
            }
            None => Blocked::wait(text),
        }
    }
}
