//! Where an image's name leads: mirrors in order, then the registry itself.

use super::conf::{Conf, Place};
use super::error::RegistryError;
use super::{Reference, RegistryConfig};

/// One repository to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `HOST[:PORT]`: what settings, logins and certificates are for.
    pub registry: String,
    pub repository: String,
    /// What registries.conf says; the settings have the say.
    pub insecure: Option<bool>,
}

impl Route {
    fn new(registry: &str, repository: String) -> Self {
        Self {
            registry: registry.to_owned(),
            repository,
            insecure: None,
        }
    }

    fn of(place: Place) -> Result<Self, RegistryError> {
        let Some((registry, repository)) = place.name.split_once('/') else {
            let why = "registries.conf leads there, and it names no repository";
            return Err(RegistryError::refused(place.name, why));
        };
        // What is written there goes into a URL.
        Reference::parse(&format!("{}:latest", place.name))?;
        Ok(Self {
            registry: registry.to_ascii_lowercase(),
            repository: repository.to_owned(),
            insecure: Some(place.insecure).filter(|insecure| *insecure),
        })
    }
}

/// Where to ask for `reference` if it is of `registry`, in this order: mirrors from the settings, mirrors from
/// registries.conf, and where the registry itself is. Never empty.
pub fn routes(
    config: &RegistryConfig,
    conf: &Conf,
    reference: &Reference,
    registry: &str,
) -> Result<Vec<Route>, RegistryError> {
    let repository = reference.repository(registry);
    let leads = conf.leads(&format!("{registry}/{repository}"), reference.digest.is_some())?;
    let mirrors = config
        .registries
        .iter()
        .filter(|(_, table)| table.mirror_of.as_deref() == Some(registry));
    let mut routes: Vec<Route> = mirrors
        .map(|(mirror, _)| Route::new(mirror, repository.clone()))
        .collect();
    for place in leads.mirrors {
        routes.push(Route::of(place)?);
    }
    routes.push(match leads.own {
        Some(place) => Route::of(place)?,
        None => Route::new(registry, repository),
    });
    Ok(routes)
}

/// Where `reference` is pushed: to the registry itself. Mirrors and rewrites are for pulling; what is blocked is blocked
/// for both.
pub fn push_route(config: &RegistryConfig, reference: &Reference) -> Result<Route, RegistryError> {
    let Some(registry) = &reference.registry else {
        let why = "it names no registry to push to: give it a name with one by `wharf image tag`";
        return Err(RegistryError::refused(reference.path.clone(), why));
    };
    let repository = reference.repository(registry);
    let name = format!("{registry}/{repository}");
    let own = config.conf()?.leads(&name, false)?.own;
    let insecure = own.filter(|place| place.name == name && place.insecure);
    Ok(Route {
        insecure: insecure.map(|_| true),
        ..Route::new(registry, repository)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use model::spec::{RegistrySettings, Settings};

    use super::super::RegistryFiles;
    use super::*;

    #[test]
    fn mirrors_of_the_settings_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registries.conf");
        let text = "[[registry]]\nlocation='docker.io'\n[[registry.mirror]]\nlocation='near.example/hub'\ninsecure=true\n\
            [[registry]]\nprefix='odd.example'\nlocation='no host'\n";
        std::fs::write(&file, text).unwrap();
        let mirror = RegistrySettings {
            mirror_of: Some("docker.io".to_owned()),
            ..Default::default()
        };
        let settings = Settings {
            registries: [("cache.example:5000".to_owned(), mirror)].into(),
            ..Settings::default()
        };
        let config = RegistryConfig::new(&settings, RegistryFiles::default());
        let conf = Conf::read(&file).unwrap();
        let to = |text: &str| {
            let reference = Reference::parse(text).unwrap();
            let registry = reference.registry.clone().unwrap();
            routes(&config, &conf, &reference, &registry)
        };
        let told: Vec<String> = to("docker.io/library/nginx:1")
            .unwrap()
            .into_iter()
            .map(|route| format!("{} {} {:?}", route.registry, route.repository, route.insecure))
            .collect();
        assert_eq!(
            told,
            [
                "cache.example:5000 library/nginx None",
                "near.example hub/library/nginx Some(true)",
                "docker.io library/nginx None",
            ]
        );
        assert_eq!(
            to("other.example/x:1").unwrap(),
            [Route::new("other.example", "x".to_owned())]
        );
        assert!(to("odd.example/x:1").unwrap_err().to_string().contains("no host"));
    }
}
