//! Links need a network that both are on.

use model::name::Name;
use model::spec::{ContainerSpec, LinkSpec, NetworkMode, Parsed};

use super::{Findings, Party, Tables, uses};

/// Finds links that lead to where they begin, or cannot lead anywhere.
pub(super) fn check(tables: &Tables<'_>, found: &mut Findings) {
    for container in tables.containers() {
        for link in &container.spec.links {
            if link.container == container.name {
                let message = format!("container {} is linked to itself", container.name);
                found.refuse(container, "links", message, "it reaches itself as localhost");
            } else if link.alias == container.name {
                let message = format!(
                    "container {} has its own name as the alias of a link",
                    container.name
                );
                found.refuse(container, "links", message, "write another one: \"NAME:ALIAS\"");
            } else if let Some(target) = tables.container(&link.container) {
                reachable(container, link, target, found);
            }
        }
    }
}

fn reachable(
    container: &Parsed<ContainerSpec>,
    link: &LinkSpec,
    target: &Parsed<ContainerSpec>,
    found: &mut Findings,
) {
    let mode = match &target.spec.network_mode {
        NetworkMode::Bridge => None,
        NetworkMode::Host => Some(("host".to_owned(), "use the host's address".to_owned())),
        NetworkMode::None => Some(("none".to_owned(), "give it a network".to_owned())),
        NetworkMode::Container(owner) => Some((format!("container:{owner}"), format!("link to {owner}"))),
    };
    let wish = format!("container {} is linked to {}", container.name, link.container);
    if let Some((mode, hint)) = mode {
        let message = format!("{wish}, which has no network of its own: network_mode = \"{mode}\"");
        let parties = [
            Party::of("container", container, "links"),
            Party::of("container", target, "network_mode"),
        ];
        return found.contradiction(message, &hint, &parties);
    }
    let networks =
        |spec: &ContainerSpec| -> Vec<Name> { uses(spec).into_iter().map(|n| n.network).collect() };
    let (own, theirs) = (networks(&container.spec), networks(&target.spec));
    if !own.is_empty() && !own.iter().any(|network| theirs.contains(network)) {
        let message = format!("{wish}, but they share no network");
        let parties = [
            Party::of("container", container, "links"),
            Party::of("container", target, "networks"),
        ];
        found.contradiction(message, "put both into one", &parties);
    }
}
